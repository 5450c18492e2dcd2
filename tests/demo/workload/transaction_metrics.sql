\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT COUNT(*), SUM(amount) FROM transactions WHERE user_id = :uid AND created_at >= NOW() - INTERVAL '1 hour';

\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT id, type, amount, currency, status, created_at FROM transactions
WHERE user_id = :uid ORDER BY created_at DESC LIMIT 20;

\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT id, provider, direction, amount, status, created_at FROM payments
WHERE user_id = :uid ORDER BY created_at DESC LIMIT 20;

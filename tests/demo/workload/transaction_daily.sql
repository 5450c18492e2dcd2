\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT date_trunc('day', created_at) AS day, type, count(*), sum(amount) FROM transactions
WHERE user_id = :uid AND created_at >= now() - interval '30 days' GROUP BY 1, 2 ORDER BY 1, 2;

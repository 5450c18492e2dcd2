\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT flag_type, severity, status, score, created_at FROM fraud_flags
WHERE user_id = :uid AND created_at >= now() - interval '90 days' ORDER BY created_at DESC;

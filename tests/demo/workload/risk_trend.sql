\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT date_trunc('week', calculated_at) AS week, avg(score), max(score) FROM risk_scores_history
WHERE user_id = :uid AND calculated_at >= now() - interval '90 days' GROUP BY 1 ORDER BY 1;

\set first random(1, :users - 50)
INSERT INTO risk_scores_history (user_id, score, risk_level, model_version)
SELECT u.id, least(69, 10 * f.flags + t.transactions), CASE WHEN 10 * f.flags + t.transactions < 40 THEN 'low' ELSE 'medium' END, 'v5.0-bulk'
FROM users AS u
LEFT JOIN LATERAL (SELECT count(*) AS flags FROM fraud_flags
                   WHERE user_id = u.id AND created_at >= now() - interval '30 days') AS f ON true
LEFT JOIN LATERAL (SELECT count(*) AS transactions FROM transactions
                   WHERE user_id = u.id AND created_at >= now() - interval '1 day') AS t ON true
WHERE u.id BETWEEN :first AND :first + 9;

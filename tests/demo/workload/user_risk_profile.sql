\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT u.id, u.segment, u.kyc_level,
       (SELECT count(*) FROM fraud_flags AS f WHERE f.user_id = u.id AND f.created_at >= now() - interval '30 days') AS flags,
       (SELECT max(r.score) FROM risk_scores_history AS r WHERE r.user_id = u.id AND r.calculated_at >= now() - interval '30 days') AS worst_score
FROM users AS u WHERE u.id = :uid;

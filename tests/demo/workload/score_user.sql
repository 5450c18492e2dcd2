\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
\set score random(1, 69)
INSERT INTO risk_scores_history (user_id, score, risk_level, model_version)
VALUES (:uid, :score, CASE WHEN :score < 40 THEN 'low' ELSE 'medium' END, 'v5.0');

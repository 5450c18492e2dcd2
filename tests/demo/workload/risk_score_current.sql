\set rank random_zipfian(1, :users, 1.05)
\set uid 1 + ((:rank - 1) * 48271 + 122) % :users
SELECT score, risk_level, calculated_at FROM risk_scores_history
WHERE user_id = :uid ORDER BY calculated_at DESC LIMIT 1;

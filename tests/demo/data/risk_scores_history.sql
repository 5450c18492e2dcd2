INSERT INTO risk_scores_history (id, user_id, score, risk_level, model_version, factors, calculated_at)
SELECT i,
       pg_temp.player(i, 500, :n),
       round(score::numeric, 1),
       CASE WHEN score < 40 THEN 'low' WHEN score < 70 THEN 'medium' WHEN score < 90 THEN 'high' ELSE 'critical' END,
       'v' || 1 + i * 4 / :n || '.' || i % 3,
       jsonb_build_object('velocity', pg_temp.pick(i, 501, 100), 'geo', pg_temp.pick(i, 502, 100), 'age_days', pg_temp.pick(i, 503, 900)),
       pg_temp.at(i, :n)
FROM (SELECT i, 100 * power(pg_temp.u(i, 504), 1.8) AS score FROM generate_series(1, :n::bigint) AS i) AS g;

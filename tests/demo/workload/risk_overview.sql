SELECT risk_level, count(*), avg(score) FROM risk_scores_history
WHERE calculated_at >= now() - interval '24 hours' GROUP BY risk_level ORDER BY count(*) DESC;

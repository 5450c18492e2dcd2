SELECT u.segment, c.band, count(*), avg(c.probability) FROM churn_predictions AS c JOIN users AS u ON u.id = c.user_id
WHERE u.last_login >= now() - interval '7 days' GROUP BY u.segment, c.band ORDER BY u.segment, c.band;

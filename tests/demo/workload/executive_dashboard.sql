SELECT date_trunc('day', created_at) AS day, type, count(*), sum(amount), count(DISTINCT user_id) AS players
FROM transactions WHERE created_at >= now() - interval '30 days' AND status = 'completed'
GROUP BY 1, 2 ORDER BY 1, 2;

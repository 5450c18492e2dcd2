SELECT date_trunc('day', created_at) AS day, flag_type, count(*), count(*) FILTER (WHERE status = 'confirmed') AS confirmed
FROM fraud_flags WHERE created_at >= now() - interval '30 days' GROUP BY 1, 2 ORDER BY 1, 2;

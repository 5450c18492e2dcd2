SELECT service, level, count(*) FROM error_logs
WHERE created_at >= now() - interval '1 hour' GROUP BY service, level ORDER BY count(*) DESC;

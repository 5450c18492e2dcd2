SELECT status, severity, count(*), avg(resolved_at - triggered_at) AS time_to_resolve FROM alerts
WHERE triggered_at >= now() - interval '7 days' GROUP BY status, severity ORDER BY status, severity;

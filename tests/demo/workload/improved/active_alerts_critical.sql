SELECT id, alert_type, source, message, triggered_at FROM mv_active_alerts
WHERE status = 'triggered' AND severity = 'critical' AND triggered_at >= now() - interval '24 hours'
ORDER BY triggered_at DESC LIMIT 100;

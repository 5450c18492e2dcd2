SELECT * FROM mv_active_alerts WHERE status IN ('triggered','acknowledged') ORDER BY triggered_at DESC;

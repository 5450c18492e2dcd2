SELECT * FROM alerts WHERE status IN ('triggered','acknowledged') ORDER BY triggered_at DESC;

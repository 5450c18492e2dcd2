UPDATE alerts SET status = 'resolved', resolved_at = now()
WHERE id = (SELECT id FROM alerts WHERE status = 'acknowledged' ORDER BY triggered_at LIMIT 1 FOR UPDATE SKIP LOCKED);

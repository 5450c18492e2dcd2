\set admin random(1, 40)
UPDATE alerts SET status = 'acknowledged', acknowledged_at = now(), acknowledged_by = :admin
WHERE id = (SELECT id FROM alerts WHERE status = 'triggered' ORDER BY triggered_at LIMIT 1 FOR UPDATE SKIP LOCKED);

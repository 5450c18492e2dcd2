SELECT id, user_id, event_type, jurisdiction, due_at FROM compliance_events
WHERE status = 'open' ORDER BY due_at LIMIT 100;

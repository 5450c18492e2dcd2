\set uid random(1, :users)
INSERT INTO compliance_events (user_id, event_type, jurisdiction, due_at) VALUES (:uid, 'limit_breach', 'MT', now() + interval '30 days');

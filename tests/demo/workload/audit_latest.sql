SELECT id, admin_id, action, target_type, target_id, created_at FROM audit_events ORDER BY created_at DESC LIMIT 50;

\set admin random_zipfian(1, 40, 1.2)
SELECT id, action, target_type, target_id, client_ip, created_at FROM audit_events
WHERE created_at >= now() - interval '24 hours' AND admin_id = :admin ORDER BY created_at DESC;

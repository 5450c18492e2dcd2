\set admin random_zipfian(1, 40, 1.2)
\set uid random(1, :users)
INSERT INTO audit_events (admin_id, action, target_type, target_id, client_ip) VALUES (:admin, 'view_user', 'user', :uid, '10.20.1.1');

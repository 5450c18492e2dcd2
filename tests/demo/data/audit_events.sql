INSERT INTO audit_events (id, admin_id, action, target_type, target_id, client_ip, details, created_at)
SELECT i,
       1 + floor(40 * power(pg_temp.u(i, 830), 1.6))::bigint,
       (ARRAY['view_user','update_limits','resolve_alert','refund','suspend_user','export_report','change_role','login'])[1 + floor(8 * power(pg_temp.u(i, 831), 1.4))::integer],
       (ARRAY['user','payment','alert','report'])[1 + pg_temp.pick(i, 832, 4)],
       1 + pg_temp.pick(i, 833, :users),
       ('10.20.' || i % 32 || '.' || i % 250)::inet,
       jsonb_build_object('ticket', 'T-' || i / 3, 'reason', 'case work', 'console', 'backoffice-' || i % 4),
       pg_temp.at(i, :n)
FROM generate_series(1, :n::bigint) AS i;

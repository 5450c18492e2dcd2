INSERT INTO compliance_events (id, user_id, event_type, jurisdiction, status, details, due_at, created_at)
SELECT i,
       pg_temp.player(i, 700, :n),
       (ARRAY['kyc_review','aml_alert','limit_breach','self_exclusion','data_request'])[1 + floor(5 * power(pg_temp.u(i, 701), 1.6))::integer],
       (ARRAY['DE','GB','SE','MT','ES'])[1 + pg_temp.pick(i, 702, 5)],
       CASE WHEN i > :n * 0.96 AND u < 0.4 THEN 'open' WHEN u < 0.2 THEN 'reported' ELSE 'closed' END,
       jsonb_build_object('case', 'C-' || i, 'officer', pg_temp.pick(i, 703, 40) + 1),
       at + interval '30 days', at
FROM (SELECT i, pg_temp.u(i, 704) AS u, pg_temp.at(i, :n) AS at FROM generate_series(1, :n::bigint) AS i) AS g;

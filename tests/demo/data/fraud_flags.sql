INSERT INTO fraud_flags (id, user_id, flag_type, severity, status, score, reason, evidence, created_at)
SELECT i,
       pg_temp.player(i, 400, :n),
       type,
       CASE WHEN u < 0.55 THEN 'low' WHEN u < 0.85 THEN 'medium' WHEN u < 0.97 THEN 'high' ELSE 'critical' END,
       -- What is older than about a month has been looked at.
       CASE WHEN i > :n * 0.90 AND v < 0.30 THEN 'open' WHEN v < 0.25 THEN 'confirmed' ELSE 'dismissed' END,
       round((100 * power(u, 1.5))::numeric, 1),
       'Rule ' || type || ' matched ' || 1 + pg_temp.pick(i, 401, 9) || ' times within one hour of play',
       jsonb_build_object('rule', type || '_v' || i % 5, 'window_s', 3600, 'device', to_hex(hashint8extended(i, 7)),
                          'ip', '10.' || i % 256 || '.' || i % 199 || '.' || i % 251),
       pg_temp.at(i, :n)
FROM (SELECT i, pg_temp.u(i, 402) AS u, pg_temp.u(i, 403) AS v,
             (ARRAY['velocity','device','geo','chargeback','collusion','identity'])[1 + floor(6 * power(pg_temp.u(i, 404), 1.5))::integer] AS type
      FROM generate_series(1, :n::bigint) AS i) AS g;

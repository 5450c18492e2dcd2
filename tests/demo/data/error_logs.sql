INSERT INTO error_logs (id, service, level, error_code, message, context, created_at)
SELECT i, service,
       CASE WHEN u < 0.60 THEN 'warning' WHEN u < 0.98 THEN 'error' ELSE 'fatal' END,
       'E' || 1000 + pg_temp.pick(i, 840, 60),
       'Request to ' || service || ' failed after ' || pg_temp.pick(i, 841, 3000) || ' ms: upstream answered ' || 500 + pg_temp.pick(i, 842, 5),
       jsonb_build_object('request', to_hex(hashint8extended(i, 9)), 'node', i % 24, 'retries', i % 4),
       pg_temp.at(i, :n)
FROM (SELECT i, pg_temp.u(i, 843) AS u,
             (ARRAY['gateway','payments','games','wallet','kyc','notifications'])[1 + floor(6 * power(pg_temp.u(i, 844), 1.5))::integer] AS service
      FROM generate_series(1, :n::bigint) AS i) AS g;

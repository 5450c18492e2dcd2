-- About 0.5 % are open: a third of the last days' and a few that everybody forgot.
INSERT INTO alerts (id, alert_type, severity, status, source, user_id, message, payload, triggered_at, acknowledged_at, acknowledged_by, resolved_at)
SELECT i, type,
       CASE WHEN s < 0.50 THEN 'info' WHEN s < 0.80 THEN 'warning' WHEN s < 0.95 THEN 'high' ELSE 'critical' END,
       status,
       (ARRAY['payments','games','gateway','fraud-engine','kyc','ledger'])[1 + pg_temp.pick(i, 801, 6)],
       CASE WHEN i % 3 = 0 THEN pg_temp.player(i, 802, :n) END,
       'Alert ' || type || ': threshold ' || 50 + pg_temp.pick(i, 803, 50) || ' exceeded by ' || pg_temp.pick(i, 804, 400) || ' percent on node ' || i % 24,
       jsonb_build_object('node', i % 24, 'rule', type || '-' || i % 11, 'runbook', 'https://runbooks.example/' || type,
                          'samples', jsonb_build_array(pg_temp.pick(i, 805, 1000), pg_temp.pick(i, 806, 1000), pg_temp.pick(i, 807, 1000))),
       at,
       CASE WHEN status IN ('acknowledged', 'resolved') THEN least(at + interval '90 seconds', timestamptz :'anchor') END,
       CASE WHEN status IN ('acknowledged', 'resolved') THEN 1 + pg_temp.pick(i, 808, 40) END,
       CASE WHEN status = 'resolved' THEN least(at + interval '1 second' * (120 + 20000 * power(pg_temp.u(i, 809), 3)), timestamptz :'anchor') END
FROM (SELECT i, pg_temp.at(i, :n) AS at, pg_temp.u(i, 810) AS s,
             (ARRAY['latency','error_rate','payment_failures','login_storm','fraud_score','queue_depth','disk_space'])[1 + pg_temp.pick(i, 811, 7)] AS type,
             CASE WHEN (i > :n * 0.99 AND u < 0.35) OR u < 0.0012 THEN CASE WHEN u < 0.20 THEN 'triggered' ELSE 'acknowledged' END
                  WHEN u < 0.97 THEN 'resolved' WHEN u < 0.98 THEN 'escalated' ELSE 'suppressed' END AS status
      FROM (SELECT i, pg_temp.u(i, 812) AS u FROM generate_series(1, :n::bigint) AS i) AS g1) AS g;

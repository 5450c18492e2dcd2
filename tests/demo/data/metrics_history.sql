-- Sixteen metrics in turn: 47 % of the rows over the year but its last week, the rest over that week.
INSERT INTO metrics_history (id, metric_type, source, value, tags, timestamp)
SELECT i, type,
       'node-' || pg_temp.pick(i, 820, 12),
       round((50 + 40 * sin(age_s / 43200.0) + 30 * power(pg_temp.u(i, 821), 6))::numeric, 3),
       CASE WHEN i % 2 = 0 THEN '{"region": "eu-west", "env": "prod"}' ELSE '{"region": "us-east", "env": "prod"}' END::jsonb,
       timestamptz :'anchor' - interval '1 second' * age_s
FROM (SELECT i,
             (ARRAY['api_latency_ms','api_requests','error_rate','active_sessions','cpu_pct','memory_pct','disk_pct','db_connections',
                    'bets_per_min','deposits_per_min','withdrawals_per_min','fraud_score_avg','queue_depth','cache_hit_pct','login_rate','payout_ratio'
                   ])[1 + i % 16] AS type,
             CASE WHEN i <= :n * 0.47 THEN 604800 + 30931200 * (1 - (i - 1 + u) / (:n * 0.47))
                  ELSE 604800 * (:n - i + 1 - u) / (:n * 0.53) END AS age_s
      FROM (SELECT i, pg_temp.u(i, 822) AS u FROM generate_series(1, :n::bigint) AS i) AS g1) AS g;

\set kind random(1, 4)
\if :kind = 1
SELECT date_trunc('minute', timestamp) AS minute, avg(value), max(value) FROM metrics_history
WHERE metric_type = 'api_latency_ms' AND timestamp >= now() - interval '60 minutes' GROUP BY 1 ORDER BY 1;
\elif :kind = 2
SELECT date_trunc('minute', timestamp) AS minute, avg(value), max(value) FROM metrics_history
WHERE metric_type = 'bets_per_min' AND timestamp >= now() - interval '60 minutes' GROUP BY 1 ORDER BY 1;
\elif :kind = 3
SELECT date_trunc('minute', timestamp) AS minute, avg(value), max(value) FROM metrics_history
WHERE metric_type = 'active_sessions' AND timestamp >= now() - interval '60 minutes' GROUP BY 1 ORDER BY 1;
\else
SELECT date_trunc('minute', timestamp) AS minute, avg(value), max(value) FROM metrics_history
WHERE metric_type = 'error_rate' AND timestamp >= now() - interval '60 minutes' GROUP BY 1 ORDER BY 1;
\endif

SELECT date_trunc('hour', timestamp) AS hour, avg(value), percentile_cont(0.95) WITHIN GROUP (ORDER BY value) AS p95
FROM metrics_history WHERE metric_type = 'api_latency_ms' AND timestamp >= now() - interval '2 days' GROUP BY 1 ORDER BY 1;

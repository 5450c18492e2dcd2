SELECT metric_type, avg(value) AS value, max(timestamp) AS seen_at FROM metrics_history
WHERE metric_type IN ('api_latency_ms', 'error_rate', 'cpu_pct', 'db_connections')
  AND timestamp >= now() - interval '15 minutes' GROUP BY metric_type;

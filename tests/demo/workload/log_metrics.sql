\set v random(1, 100)
INSERT INTO metrics_history (metric_type, source, value)
VALUES ('api_latency_ms', 'node-1', :v), ('error_rate', 'node-1', :v), ('active_sessions', 'node-1', :v), ('bets_per_min', 'node-1', :v);

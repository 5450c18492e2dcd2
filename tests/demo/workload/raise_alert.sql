\set node random(1, 24)
INSERT INTO alerts (alert_type, severity, source, message)
VALUES ('latency', 'critical', 'gateway', 'Alert latency: threshold exceeded on node ' || :node::bigint);

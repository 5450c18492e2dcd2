-- Alerts: thresholds joined with metrics. What the collector keeps is tested end to end; here every threshold is made in
-- the transaction that looks, so that there is no state of it and one look judges.
BEGIN;
DELETE FROM perf.alert_threshold;
SELECT count(*) FROM perf.alerts(true);
INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action) VALUES
    ('a above', 'connections_total', '>', 0, 'connections', 'warning', 'Look.'),
    ('b below', 'connections_total', '<', 1e9, 'connections', 'critical', 'Look.'),
    ('c in order', 'connections_total', '>', 1e9, 'connections', 'critical', 'Look.'),
    ('d endless', 'disk_used_bytes', '>', 'Infinity', 'bytes', 'warning', 'Look.'),
    ('e unknown', 'no_such_metric', '>', 1, 'ms', 'warning', 'Look.'),
    ('f wrong unit', 'latency_p99', '>', 1, 's', 'warning', 'Look.'),
    ('g no value', 'result_cache_hit', '<', 70, '%', 'warning', 'Look.'),
    ('h no replica', 'replication_lag', '>', 5, 's', 'critical', 'Look.'),
    ('i worst volume', 'disk_available_bytes', '>', 0, 'bytes', 'critical', 'Make room.');
SELECT name, severity, status, value > 0 AS has_value, threshold, unit, since_at,
       regexp_replace(action, '(data|wal|tablespace:\S+)\.', 'VOLUME.') AS action
FROM perf.alerts(include_ok => true);
-- Without those in order, which is the default.
SELECT name, status FROM perf.alerts();
SELECT count(*) FROM perf.alerts(false);

-- How patient an alert is has bounds.
SAVEPOINT s;
UPDATE perf.alert_threshold SET fire_after = 0;
ROLLBACK TO s;
UPDATE perf.alert_threshold SET clear_after = NULL;
ROLLBACK TO s;
UPDATE perf.alert_threshold SET clear_margin_ratio = 'NaN';
ROLLBACK TO s;
UPDATE perf.alert_threshold SET threshold = 'NaN';
ROLLBACK TO s;
SELECT * FROM perf.alerts(NULL);
ROLLBACK;
SELECT alert_name, fire_after, clear_after, clear_margin_ratio FROM perf.alert_threshold ORDER BY 1;

-- The collector's state: since when, and what it says; a stale one, of another threshold, or of another database does not count.
BEGIN;
DELETE FROM perf.alert_threshold;
DELETE FROM perf.alert_state;
INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action)
SELECT name, 'connections_total', '>', 1e9, 'connections', 'warning', 'Act.'
FROM unnest('{a,b,c,d,e}'::text[]) AS name;
INSERT INTO perf.alert_state (alert_name, datid, metric, comparison, threshold, status, since_at, value, value_at, in_a_row,
                              scope, object, note, evaluated_at)
SELECT s.name, CASE s.name WHEN 'd' THEN 1 ELSE (SELECT oid FROM pg_database WHERE datname = current_database()) END,
       'connections_total', '>', CASE s.name WHEN 'c' THEN 5 ELSE 1e9 END, CASE s.name WHEN 'e' THEN 'no_data' ELSE 'firing' END,
       '2026-01-01 00:00:00+00', 2e9, now(), CASE s.name WHEN 'a' THEN 2 ELSE 0 END, 'application', 'shop',
       CASE s.name WHEN 'e' THEN 'Not measured: why.' ELSE '' END,
       now() - CASE s.name WHEN 'b' THEN interval '10 min' ELSE '0' END
FROM unnest('{a,b,c,d,e}'::text[]) AS s (name);
SELECT name, status, value >= 2e9 AS stored, since_at = '2026-01-01 00:00:00+00' AS since, action FROM perf.alerts(true);

-- Which application it is, is not for everybody.
CREATE ROLE regress_alerts_reader;
SET LOCAL ROLE regress_alerts_reader;
SELECT name, action FROM perf.alerts() WHERE name = 'a';
SELECT object FROM perf.alert_state_visible WHERE alert_name = 'a';
SAVEPOINT s;
SELECT * FROM perf.alert_state;
ROLLBACK;

-- A read-only transaction may ask.
BEGIN READ ONLY;
SELECT count(*) = (SELECT count(*) FROM perf.alert_threshold) AS all_of_them FROM perf.alerts(true);
ROLLBACK;

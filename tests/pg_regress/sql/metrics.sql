-- Metrics: names, units and scopes; what is measured, and what is not and says why. (Rates and times are the machine's.)
SELECT name, unit, scope, bool_and(object IS NULL) AS whole_server
FROM perf.metrics() WHERE scope NOT IN ('relation', 'replica') GROUP BY 1, 2, 3 ORDER BY 1, 3;

-- Every value is sound, every missing one has its reason, and nothing is measured in the future.
SELECT count(*) FROM perf.metrics()
WHERE NOT coalesce(value > '-Infinity' AND value < 'Infinity', note IS NOT NULL) OR measured_at > clock_timestamp()
   OR span <= interval '0' OR (unit = '%' AND value NOT BETWEEN 0 AND 100);

-- Statements of this database count at once, without waiting for the collector.
SELECT 1 / 0;
SELECT name, value > 0 AS counted, object = current_database() AS here, span > interval '0' AS of_some_time
FROM perf.metrics() WHERE name IN ('latency_mean', 'latency_p95', 'latency_p99', 'error_rate', 'qps') ORDER BY 1;
SELECT p95.value <= p99.value AS ordered
FROM perf.metrics() AS p95, perf.metrics() AS p99 WHERE p95.name = 'latency_p95' AND p99.name = 'latency_p99';

-- Connections are of the server and of the database; this one is active.
SELECT scope, value > 0 AS active FROM perf.metrics() WHERE name = 'connections_active' ORDER BY 1;
SELECT t.value = a.value + i.value + x.value AS adds_up
FROM perf.metrics() AS t JOIN perf.metrics() AS a ON a.scope = t.scope JOIN perf.metrics() AS i ON i.scope = t.scope
JOIN perf.metrics() AS x ON x.scope = t.scope
WHERE t.name = 'connections_total' AND t.scope = 'database' AND a.name = 'connections_active'
  AND i.name = 'connections_idle' AND x.name = 'connections_idle_in_transaction';

-- Volumes, sizes, and what there is none of.
SELECT name, object, value > 0 AS measured FROM perf.metrics() WHERE name LIKE 'disk_%' AND object IN ('data', 'wal') ORDER BY 1, 2;
SELECT abs(m.value - pg_database_size(current_database())) < 1e7 AS same FROM perf.metrics() AS m WHERE name = 'database_size_bytes';
SELECT count(*) FROM perf.metrics() WHERE name LIKE 'replication%';
SELECT count(value) AS known, bool_and(note ~ 'no result cache|less than 50 values') AS says_why FROM perf.metrics() WHERE name = 'result_cache_hit';

-- A slot keeps WAL from being removed.
SELECT 1 FROM pg_create_physical_replication_slot('regress_metrics', true);
SELECT scope, object, value >= 0 AS measured, unit FROM perf.metrics() WHERE name = 'slot_retained_bytes';
SELECT pg_drop_replication_slot('regress_metrics');

-- The table that uses its index least, and how much an index is used here.
CREATE TABLE regress_scanned AS SELECT n AS id, repeat('x', 200) AS filler FROM generate_series(1, 10000) AS n;
ALTER TABLE regress_scanned ADD PRIMARY KEY (id);
ANALYZE regress_scanned;
DO $$ BEGIN
    FOR n IN 1..30 LOOP PERFORM count(*) FROM regress_scanned; END LOOP;
    SET LOCAL enable_seqscan = off;
    FOR n IN 1..10 LOOP PERFORM FROM regress_scanned WHERE id = n; END LOOP;
END $$;
SELECT pg_stat_force_next_flush();
SELECT object, value < 50 AS mostly_scanned, scope FROM perf.metrics()
WHERE name = 'relation_index_utilisation' AND object = 'public.regress_scanned';
DROP TABLE regress_scanned;

-- Everybody may ask; others' sizes are not for everybody, and metrics can be asked for in a read-only transaction.
CREATE ROLE regress_metrics_reader;
CREATE DATABASE regress_metrics_private;
REVOKE CONNECT ON DATABASE regress_metrics_private FROM PUBLIC;
SET ROLE regress_metrics_reader;
SELECT value, note FROM perf.metrics() WHERE name = 'databases_size_bytes';
SELECT count(*) > 20 AS others_are_there FROM perf.metrics();
RESET ROLE;
BEGIN READ ONLY;
SELECT count(*) > 20 AS others_are_there FROM perf.metrics();
ROLLBACK;
DROP DATABASE regress_metrics_private;
DROP ROLE regress_metrics_reader;

-- A search_path that hides the server's own names changes nothing.
CREATE SCHEMA regress_hostile;
CREATE FUNCTION regress_hostile.current_database() RETURNS name LANGUAGE sql AS $$ SELECT 'nowhere'::name $$;
SET search_path = regress_hostile, pg_catalog;
SELECT object = pg_catalog.current_database() AS here FROM perf.metrics() WHERE name = 'qps';
RESET search_path;
DROP SCHEMA regress_hostile CASCADE;

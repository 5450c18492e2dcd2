-- Nodes of the fleet: what is refused, who may, and what becomes of the job. Standbys themselves are in tests/e2e.
SET TimeZone = 'UTC';
DROP EXTENSION IF EXISTS dblink CASCADE;
\set SHOW_CONTEXT never
\set ON_ERROR_ROLLBACK on
BEGIN;
-- Everything is undone at the end, so that no job ever runs.
SELECT perf.fleet_node_add('r1', 'host=replica1 user=monitor');
CREATE SCHEMA "Odd schema";
CREATE EXTENSION dblink SCHEMA "Odd schema";
SELECT perf.fleet_node_add(NULL, 'host=replica1');
SELECT perf.fleet_node_add('r1', NULL);
SELECT perf.fleet_node_add(' ', 'host=replica1');
SELECT perf.fleet_node_add('r1', '');
SELECT perf.fleet_node_add('r1', 'host');
SELECT perf.fleet_node_add('r1', 'host=replica1 user=''monitor');
-- A password is not repeated.
SELECT perf.fleet_node_add('r1', 'host=replica1 password=hunter2');
SELECT perf.fleet_node_add('r1', 'postgresql://monitor:hunter2@replica1/db');
SELECT perf.fleet_node_add('r1', 'host=replica1 replication=true');
SELECT perf.fleet_node_add('r1', 'host=replica1,replica2');
SELECT perf.fleet_node_add('r1', 'hostaddr=10.0.0.1,10.0.0.2');
SELECT perf.fleet_node_add('r1', 'no_such_server');

SELECT perf.fleet_node_add('r1', 'host=replica1 user=monitor connect_timeout=900') > 0 AS added;
SELECT name, status, last_seen_at, lag_bytes, lag_s, message, qps FROM perf.fleet_nodes;
SELECT name, kind, schedule, overlap, catch_up, timeout, max_retries,
       replace(options->>'conninfo', current_database(), 'DATABASE') AS conninfo FROM perf.jobs WHERE kind = 'fleet';
SELECT status, detail, value FROM perf.health() WHERE component = 'fleet';
-- The same name again changes it.
SELECT perf.fleet_node_add('r1', 'host=replica2 dbname=other') = (SELECT job_id FROM perf.jobs WHERE kind = 'fleet') AS same;
SELECT options->>'conninfo' FROM perf.jobs WHERE kind = 'fleet';

-- Whoever is no superuser needs a foreign server of his own, with a limit and a mapping.
CREATE ROLE regress_fleet_owner;
CREATE ROLE regress_fleet_other;
CREATE SERVER regress_fleet FOREIGN DATA WRAPPER "dblink_fdw" OPTIONS (host 'replica3');
ALTER SERVER regress_fleet OWNER TO regress_fleet_owner;
ALTER SERVER regress_fleet OWNER TO regress_fleet_other;
GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO regress_fleet_owner;
ALTER SERVER regress_fleet OWNER TO regress_fleet_owner;
SET LOCAL ROLE regress_fleet_owner;
SELECT perf.fleet_node_add('r3', 'host=replica3');
SELECT perf.fleet_node_add('r3', 'regress_fleet');
ALTER SERVER regress_fleet OPTIONS (ADD connect_timeout '11');
SELECT perf.fleet_node_add('r3', 'regress_fleet');
ALTER SERVER regress_fleet OPTIONS (SET connect_timeout '4', SET host 'replica3,replica4');
SELECT perf.fleet_node_add('r3', 'regress_fleet');
ALTER SERVER regress_fleet OPTIONS (SET host 'replica3');
SELECT perf.fleet_node_add('r3', 'regress_fleet');
CREATE USER MAPPING FOR regress_fleet_owner SERVER regress_fleet OPTIONS (user 'monitor', password 'hunter2');
SELECT perf.fleet_node_add('r1', 'regress_fleet');
SELECT perf.fleet_node_add('r3', 'regress_fleet') > 0 AS added;
SELECT options FROM perf.jobs WHERE kind = 'fleet';
SELECT perf.fleet_node_remove('r1');
SET LOCAL ROLE regress_fleet_other;
SELECT perf.fleet_node_add('r4', 'regress_fleet');
SELECT name, status FROM perf.fleet_nodes ORDER BY name;
SELECT count(*) FROM perf.fleet_index_use;
SELECT count(*) FROM perf.fleet_node;
SELECT perf.fleet_node_remove('r3');
RESET ROLE;
-- A superuser would go wherever its owner has it lead.
SELECT perf.fleet_node_add('r5', 'regress_fleet');

-- No more than 16.
SELECT count(perf.fleet_node_add('n' || n, 'host=replica')) FROM generate_series(1, 14) AS n;
SELECT perf.fleet_node_add('n15', 'host=replica');

SELECT perf.fleet_node_remove('r3'), perf.fleet_node_remove('r1');
SELECT perf.fleet_node_remove('r1');
SELECT perf.fleet_node_remove(NULL);
SELECT count(*), min(name) FROM perf.fleet_nodes;
ROLLBACK;

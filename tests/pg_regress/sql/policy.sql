-- The policy tables: what ships, how edits are kept, loading and clearing. Everything is undone at the end.
BEGIN;

-- What ships.
CREATE VIEW pg_temp.policy_rows AS
SELECT 'index_policy' AS policy, count(*), count(*) FILTER (WHERE origin = 'shipped') AS shipped FROM perf.index_policy
UNION ALL SELECT 'cache_policy', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.cache_policy
UNION ALL SELECT 'matview_policy', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.matview_policy
UNION ALL SELECT 'partition_policy', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.partition_policy
UNION ALL SELECT 'roadmap_task', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.roadmap_task
UNION ALL SELECT 'sql_example', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.sql_example
UNION ALL SELECT 'alert_threshold', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.alert_threshold
UNION ALL SELECT 'scaling_trigger', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.scaling_trigger
UNION ALL SELECT 'capacity_policy', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.capacity_policy
UNION ALL SELECT 'price', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.price
UNION ALL SELECT 'checklist_item', count(*), count(*) FILTER (WHERE origin = 'shipped') FROM perf.checklist_item;
TABLE pg_temp.policy_rows;
SELECT policy_no, table_name, columns, priority, used_by, expected_gain, expected_size_bytes FROM perf.index_policy ORDER BY 1;
SELECT policy_no, cache_name, key_template, ttl, size_low_bytes, size_high_bytes, size_per, invalidated_by
FROM perf.cache_policy ORDER BY 1;
SELECT view_name, schedule, refresh_every, expected_gain FROM perf.matview_policy ORDER BY 3;
SELECT table_name, control_column, every, retention, on_expire FROM perf.partition_policy ORDER BY 1;
SELECT phase, phase_name, weeks, priority, task_no, kind, objects, phase_gain_low_pct, phase_gain_high_pct,
       phase_effort_low_hours, phase_effort_high_hours FROM perf.roadmap_task ORDER BY phase, task_no;
SELECT example_no, title, changes_result, expected_gain, supporting_ddl, owner_ddl FROM perf.sql_example ORDER BY 1;
SELECT alert_name, comparison, threshold, unit, severity FROM perf.alert_threshold ORDER BY 1;
SELECT trigger_name, kind, metric, threshold, unit, settings FROM perf.scaling_trigger ORDER BY kind, metric, threshold, 1;
SELECT item, kind, resource_unit, quantity, unit_price_low, unit_price_high, currency, memory_bytes FROM perf.price ORDER BY 1;
SELECT sum(quantity * unit_price_low) AS additions_a_month FROM perf.price WHERE kind = 'addition';
SELECT phase, count(*), count(check_name) AS checked_by_the_server FROM perf.checklist_item GROUP BY 1 ORDER BY 1;

-- A dump takes what differs from what ships, and marks of what was deleted.
SELECT x.conf::regclass, x.condition
FROM pg_extension AS e, unnest(e.extconfig, e.extcondition) AS x (conf, condition)
WHERE e.extname = 'perf_opt' AND x.conf::regclass::text ~ '(policy|task|example|threshold|trigger|price|item)' ORDER BY 1::text;

-- Edits, additions, deletions, new keys.
UPDATE perf.index_policy SET note = note;
UPDATE perf.index_policy SET priority = 'low' WHERE policy_no = 1;
UPDATE perf.index_policy SET origin = 'added' WHERE policy_no = 5;
DELETE FROM perf.index_policy WHERE policy_no IN (2, 3);
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (3, 'own', '{a,b}', 'high');
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority, origin) VALUES (9, 'own', '{c}', 'low', 'shipped');
UPDATE perf.index_policy SET policy_no = 40 WHERE policy_no = 4;
TRUNCATE perf.matview_policy;
SELECT policy_no, table_name, priority, origin FROM perf.index_policy ORDER BY 1;
TABLE perf.policy_deletion ORDER BY 1, 2;

-- A key that exists is an error, never replaced.
SAVEPOINT s;
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (6, 'again', '{a}', 'high');
ROLLBACK TO s;
-- A row out of a dump replaces the shipped one, a mark deletes it.
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority, origin) VALUES (6, 'restored', '{a}', 'high', 'edited');
INSERT INTO perf.policy_deletion VALUES ('index_policy', '[7]'), ('index_policy', '[6]'), ('no_such_table', '[1]');
SELECT policy_no, table_name, origin FROM perf.index_policy WHERE policy_no IN (6, 7);
DELETE FROM perf.policy_deletion WHERE table_name = 'no_such_table';

-- Loading again: shipped rows as shipped, own rows with other keys stay.
SELECT perf.load_policy();
SELECT policy_no, table_name, priority, origin FROM perf.index_policy ORDER BY 1;
SELECT count(*) FROM perf.policy_deletion;
SELECT perf.load_policy(name => 'gaming_platform') = (SELECT sum(shipped) FROM pg_temp.policy_rows) AS loads_what_ships;

-- Clearing.
SELECT perf.clear_policy() = 103 AS removed_all;
SELECT sum(count) FROM pg_temp.policy_rows;
SELECT perf.clear_policy();

-- Wrong arguments and values.
SAVEPOINT s;
SELECT perf.load_policy('nope');
ROLLBACK TO s;
SELECT perf.load_policy(NULL);
ROLLBACK TO s;
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (1, 't', '{}', 'high');
ROLLBACK TO s;
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (1, 't', '{a}', 'urgent');
ROLLBACK TO s;
INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action)
VALUES ('x', 'x', '>', 'NaN', 'ms', 'warning', 'x');
ROLLBACK TO s;

-- Everybody may look, nobody may write unasked; a role that is granted a table needs nothing else.
CREATE ROLE regress_policy_reader;
SET LOCAL ROLE regress_policy_reader;
SELECT count(*) FROM perf.index_policy;
SAVEPOINT s2;
DELETE FROM perf.index_policy;
ROLLBACK TO s2;
SELECT perf.clear_policy();
ROLLBACK TO s2;
RESET ROLE;
SELECT perf.load_policy() > 0 AS loaded;
GRANT INSERT, UPDATE, DELETE ON perf.price TO regress_policy_reader;
SET LOCAL ROLE regress_policy_reader;
DELETE FROM perf.price WHERE item = 'redis';
UPDATE perf.price SET unit_price_low = 1, unit_price_high = 1 WHERE item = 'index_storage';
RESET ROLE;
SELECT item, origin FROM perf.price WHERE kind = 'addition' ORDER BY 1;
SELECT * FROM perf.policy_deletion;

-- Every policy column is described.
SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.oid IN (SELECT tgrelid FROM pg_trigger WHERE tgname = 'policy_keep_origin') AND col_description(c.oid, a.attnum) IS NULL;

ROLLBACK;

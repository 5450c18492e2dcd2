-- perf.partition_policy_apply: what it manages, what it says of the rest, and that it may be repeated.
CREATE SCHEMA partition_policy_test;
CREATE SCHEMA partition_policy_other;
SET search_path = partition_policy_test, partition_policy_other, public;
SET client_min_messages = warning;
SELECT table_name, control_column, every, retention, on_expire FROM perf.partition_policy ORDER BY table_name;

-- No table at all
SELECT * FROM perf.partition_policy_apply();
SELECT * FROM perf.partition_policy_apply('{}');
SELECT * FROM perf.partition_policy_apply(NULL);
SELECT * FROM perf.partition_policy_apply('{public,NULL}');

-- Plain ones, and such as cannot be
CREATE TABLE metrics_history (id bigserial PRIMARY KEY, value float8, "timestamp" timestamptz NOT NULL);
CREATE TABLE partition_policy_other.error_logs (id bigint, message text, created_at timestamptz, logged_on text);
CREATE VIEW alerts AS SELECT now() AS triggered_at;
CREATE TABLE audit_events (id bigint, at timestamptz);
SELECT * FROM perf.partition_policy_apply();
SELECT * FROM perf.partition_policy_apply('{partition_policy_test}');
DROP VIEW alerts;
CREATE TABLE alerts (triggered_at text);
ALTER TABLE error_logs ADD COLUMN seen_at date;
SELECT table_name, action, reason FROM perf.partition_policy_apply();
ALTER TABLE error_logs DROP COLUMN seen_at, DROP COLUMN created_at;
SELECT table_name, action, reason FROM perf.partition_policy_apply() WHERE table_name = 'error_logs';

-- Partitioned ones
DROP TABLE alerts, audit_events, metrics_history, error_logs;
CREATE TABLE alerts (triggered_at timestamptz) PARTITION BY RANGE (triggered_at);
CREATE TABLE audit_events (created_at date, at date) PARTITION BY RANGE (at);
CREATE TABLE error_logs (created_at timestamptz) PARTITION BY LIST (created_at);
CREATE TABLE metrics_history ("timestamp" timestamptz) PARTITION BY RANGE ("timestamp");
SELECT perf.partition_manage('metrics_history', 'day', 9, time_zone => 'Europe/Berlin', compress_after => '1 month 2 days 00:00:03',
                             max_move_rows => 5) IS NOT NULL AS managed;
SELECT table_name, action, ddl, reason, job_id IS NOT NULL AS has_job FROM perf.partition_policy_apply();
SELECT target, options ->> 'every' AS every, options ->> 'premake' AS premake, options -> 'retention' AS retention,
       options ->> 'on_expire' AS on_expire, options ->> 'time_zone' AS time_zone, options -> 'compress_after' AS compress_after,
       options ->> 'max_move_rows' AS max_move_rows
  FROM perf.jobs WHERE kind = 'partition' ORDER BY target;
SELECT table_name, action, reason FROM perf.partition_policy_apply() WHERE action = 'managed';

-- Another's, and the row that was edited
CREATE ROLE regress_policy_other;
GRANT USAGE ON SCHEMA partition_policy_test TO regress_policy_other;
SET ROLE regress_policy_other;
SELECT table_name, action, reason FROM perf.partition_policy_apply();
RESET ROLE;
BEGIN;
UPDATE perf.partition_policy SET retention = '3 days' WHERE table_name = 'alerts';
SELECT table_name, action, reason FROM perf.partition_policy_apply();
ROLLBACK;
BEGIN;
UPDATE perf.partition_policy SET retention = NULL, on_expire = 'drop' WHERE table_name = 'alerts';
SELECT table_name, action, ddl, reason FROM perf.partition_policy_apply() WHERE table_name = 'alerts';
ROLLBACK;

SELECT perf.partition_unmanage(p) FROM unnest('{alerts,audit_events,metrics_history}'::regclass[]) p;
DROP SCHEMA partition_policy_test, partition_policy_other CASCADE;
DROP ROLE regress_policy_other;

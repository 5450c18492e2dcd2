-- Managing partitions: arguments that are refused, what is stored, and a look within a transaction, which needs no worker.
CREATE SCHEMA partition_test;
SET search_path = partition_test, public;
SET TIME ZONE 'UTC';
SET client_min_messages = warning;
CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE plain (at timestamptz);
CREATE VIEW seen AS SELECT * FROM events;
CREATE SEQUENCE numbers;
CREATE TYPE shape AS (at timestamptz);
CREATE TABLE by_list (at timestamptz) PARTITION BY LIST (at);
CREATE TABLE by_hash (at timestamptz) PARTITION BY HASH (at);
CREATE TABLE by_two (at timestamptz, id bigint) PARTITION BY RANGE (at, id);
CREATE TABLE by_expression (at timestamptz) PARTITION BY RANGE ((at AT TIME ZONE 'UTC'));
CREATE TABLE by_text (at text) PARTITION BY RANGE (at);
CREATE TABLE by_int (at int) PARTITION BY RANGE (at);
CREATE TABLE by_number (at bigint) PARTITION BY RANGE (at);
CREATE TABLE by_date (at date) PARTITION BY RANGE (at);
CREATE TEMPORARY TABLE passing (at timestamptz) PARTITION BY RANGE (at);
CREATE ROLE regress_partition_other;
GRANT USAGE ON SCHEMA partition_test TO regress_partition_other;

-- What is no table by time
SELECT perf.partition_manage('nosuch', 'month');
SELECT perf.partition_manage(0, 'month');
SELECT perf.partition_manage('plain', 'month');
SELECT perf.partition_manage('seen', 'month');
SELECT perf.partition_manage('numbers', 'month');
SELECT perf.partition_manage('shape', 'month');
SELECT perf.partition_manage('events_pkey', 'month');
SELECT perf.partition_manage('by_list', 'month');
SELECT perf.partition_manage('by_hash', 'month');
SELECT perf.partition_manage('by_two', 'month');
SELECT perf.partition_manage('by_expression', 'month');
SELECT perf.partition_manage('by_text', 'month');
SELECT perf.partition_manage('by_int', 'month');
SELECT perf.partition_manage('by_number', 'month');
DO $$ BEGIN
    PERFORM perf.partition_manage('passing', 'month');
EXCEPTION WHEN invalid_parameter_value THEN
    RAISE WARNING '%', regexp_replace(sqlerrm, 'pg_temp_[0-9]+', 'pg_temp');
END $$;

-- Arguments
SELECT perf.partition_manage('events', 'moth');
SELECT perf.partition_manage('events', '');
SELECT perf.partition_manage('events', '0 days');
SELECT perf.partition_manage('events', '-1 day');
SELECT perf.partition_manage('events', '1 month 3 days');
SELECT perf.partition_manage('by_date', '6 hours');
SELECT perf.partition_manage('events', 'month', premake => 0);
SELECT perf.partition_manage('events', 'month', premake => -1);
SELECT perf.partition_manage('events', 'month', premake => 2147483647);
SELECT perf.partition_manage('events', 'month', retention => '29 days');
SELECT perf.partition_manage('events', 'month', retention => '-1 year');
SELECT perf.partition_manage('events', 'month', retention => '0');
SELECT perf.partition_manage('events', 'month', on_expire => 'burn');
SELECT perf.partition_manage('events', 'month', archive_schema => '');
SELECT perf.partition_manage('events', 'month', archive_to => 'tape');
SELECT perf.partition_manage('events', 'month', compress_after => '1 day');
SELECT perf.partition_manage('events', 'month', time_zone => 'Nowhere/Land');
SELECT perf.partition_manage('events', 'month', time_zone => '');
SELECT perf.partition_manage('events', 'month', epoch => 'seconds');
SELECT perf.partition_manage('by_number', 'month', epoch => 'fortnights');
SELECT perf.partition_manage('events', 'month', max_move_rows => -1);
SELECT perf.partition_manage('events', 'month', max_move_rows => 9223372036854775807);
SELECT perf.partition_manage(NULL, 'month');
SELECT perf.partition_manage('events', NULL);
SELECT perf.partition_manage('events', 'month', premake => NULL);
SELECT perf.partition_manage('events', 'month', on_expire => NULL);
SELECT perf.partition_manage('events', 'month', archive_schema => NULL);
SELECT perf.partition_manage('events', 'month', archive_to => NULL);
SELECT perf.partition_manage('events', 'month', time_zone => NULL);
SELECT perf.partition_manage('events', 'month', max_move_rows => NULL);
SELECT perf.partition_unmanage('events');
SELECT perf.partition_unmanage(NULL);
SELECT * FROM perf.partition_tick('events');
SELECT * FROM perf.partition_tick('events', NULL);
SELECT * FROM perf.partition_tick('events', 'infinity');
SELECT * FROM perf.partition_tick('events', '-infinity');
SET ROLE regress_partition_other;
SELECT perf.partition_manage('events', 'month');
SELECT perf.partition_manage('plain', 'month');
RESET ROLE;
SELECT count(*) FROM perf.jobs WHERE kind = 'partition';

-- One job a table, which keeps what it was told
SELECT perf.partition_manage('events', 'month', 2) IS NOT NULL AS managed;
SELECT perf.partition_manage('events', 'month', 2, '1 year 2 days 03:04:05', 'archive', 'old', '3 months', 'Europe/Berlin',
                             'schema', max_move_rows => 7) = max(job_id) AS is_the_same
  FROM perf.jobs WHERE kind = 'partition';
SELECT name, kind, target, schedule, time_zone, enabled, overlap, catch_up, jsonb_pretty(options) AS options
  FROM perf.jobs WHERE kind = 'partition';
SELECT perf.partition_manage('by_number', '15 min', epoch => 'ms') IS NOT NULL AS managed;
SELECT schedule, options ->> 'every' AS every, options ->> 'epoch' AS epoch FROM perf.jobs WHERE name ~ 'by_number';
SET ROLE regress_partition_other;
SELECT perf.partition_unmanage('events');
SELECT * FROM perf.partition_tick('events');
SELECT * FROM perf.partition_tick();
RESET ROLE;

-- In a transaction that has written, steps are done at once
SELECT perf.partition_manage('events', 'month', 2) IS NOT NULL AS managed;
BEGIN;
INSERT INTO plain VALUES (now());
SELECT * FROM perf.partition_tick('events', '2026-03-10');
SELECT * FROM perf.partition_tick('events', '2026-03-10');
SELECT * FROM perf.partition_tick('events', '2026-05-31 23:59:59');
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'events'::regclass ORDER BY 1;
ROLLBACK;
SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass;

-- Gaps, a default partition, names that are taken, bounds by hand
BEGIN;
CREATE TABLE early PARTITION OF events FOR VALUES FROM ('2025-12-01') TO ('2026-01-15');
CREATE TABLE events_p2026_04 ();
CREATE TABLE rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT g, '2026-03-05', 'kept' FROM generate_series(1, 3) g;
INSERT INTO events VALUES (4, '2026-02-03'), (5, '2030-01-01');
SELECT * FROM perf.partition_tick('events', '2026-03-10');
SELECT tableoid::regclass AS partition, count(*), min(note) FROM events GROUP BY tableoid ORDER BY tableoid::regclass::text COLLATE "C";
ROLLBACK;
BEGIN;
CREATE TABLE rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT g, '2026-03-05', 'left' FROM generate_series(1, 3) g;
SELECT perf.partition_manage('events', 'month', 1, max_move_rows => 2) IS NOT NULL AS managed;
SELECT * FROM perf.partition_tick('events', '2026-03-10');
ROLLBACK;
BEGIN;
SELECT perf.partition_manage('by_date', 'quarter', 1) IS NOT NULL AS managed;
SELECT * FROM perf.partition_tick('by_date', '2026-03-31 23:00');
SELECT perf.partition_manage('by_date', 'week', 1, time_zone => 'Asia/Kathmandu') IS NOT NULL AS managed;
SELECT * FROM perf.partition_tick('by_date', '2026-09-27 18:15');
SELECT * FROM perf.partition_tick('by_number', '2026-03-31 23:00') LIMIT 2;
ROLLBACK;

SELECT perf.partition_unmanage('events');
SELECT perf.partition_unmanage('by_number');
SELECT perf.partition_unmanage('by_number');
SELECT count(*) FROM perf.jobs WHERE kind = 'partition';
DROP SCHEMA partition_test CASCADE;
DROP ROLE regress_partition_other;

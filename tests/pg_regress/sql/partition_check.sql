-- What perf.partition_check says, and what mends it; perf.partition_advice in brief.
CREATE SCHEMA partition_check_test;
SET search_path = partition_check_test, public;
SET TIME ZONE 'UTC';
SET client_min_messages = warning;
CREATE ROLE regress_check_reader;
CREATE ROLE regress_check_other;
GRANT USAGE ON SCHEMA partition_check_test TO regress_check_other;

-- Errors
CREATE TABLE plain (at date);
CREATE TABLE by_list (at date) PARTITION BY LIST (at);
CREATE TABLE by_two (at date, id int) PARTITION BY RANGE (at, id);
SELECT * FROM perf.partition_check('nosuch');
SELECT * FROM perf.partition_check(0);
SELECT * FROM perf.partition_check('plain');
SELECT * FROM perf.partition_check('by_list');
SELECT * FROM perf.partition_check('by_two');
SELECT * FROM perf.partition_check(as_of => NULL);
SELECT * FROM perf.partition_check(as_of => 'infinity');
SELECT * FROM perf.partition_check(as_of => '-infinity');
SELECT * FROM perf.partition_advice(-1);
SELECT count(*) FROM perf.partition_advice(1152921504606846976);

-- Nothing is wrong with what is not partitioned by time, nor with another's table
SELECT * FROM perf.partition_check();
CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, tenant int, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
SET ROLE regress_check_other;
SELECT * FROM perf.partition_check();
SELECT * FROM perf.partition_check('partition_check_test.events');
RESET ROLE;

-- Without a job: gaps alone, and by intervals that the partitions tell
CREATE TABLE events_a PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_b PARTITION OF events FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
\x on
SELECT * FROM perf.partition_check('events', '2026-03-10');
SELECT * FROM perf.partition_check('events', '2026-05-10');
\x off

-- Managed
SELECT perf.partition_manage('events', 'month', 2, '2 months') IS NOT NULL AS managed;
CREATE TABLE events_p2026_05 ();
CREATE TABLE odd PARTITION OF events FOR VALUES FROM ('2026-05-10') TO ('2026-06-01');
CREATE TABLE rest PARTITION OF events DEFAULT;
INSERT INTO events SELECT g, '2026-04-05 10:00', 1 FROM generate_series(1, 20) g;
INSERT INTO events VALUES (1, '2026-05-02', 1), (1, '2030-01-01', 1), (1, '-infinity', 1);
GRANT SELECT, UPDATE ON events TO regress_check_reader;
GRANT INSERT (note), SELECT (note) ON events TO regress_check_reader WITH GRANT OPTION;
GRANT DELETE ON events_a TO PUBLIC;
ALTER TABLE events_b OWNER TO regress_check_other;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON events FOR UPDATE TO regress_check_reader USING (tenant = 1) WITH CHECK (tenant > 0);
ALTER TABLE events REPLICA IDENTITY FULL;
ALTER TABLE ONLY events ALTER note SET STATISTICS 9;
ALTER TABLE events ADD CONSTRAINT positive CHECK (tenant > 0) NOT VALID;
CREATE UNIQUE INDEX events_tenant ON ONLY events (tenant, at) WHERE note <> '';
\x on
SELECT * FROM perf.partition_check('events', '2026-04-30 12:00') ORDER BY problem COLLATE "C", detail COLLATE "C";
\x off

-- Jobs that do not run
SELECT perf.partition_manage('events', 'month', 2, '3 years', 'archive', 'Old data', '6 months 3 days', 'Europe/Berlin', max_move_rows => 5)
       AS job_id \gset
SELECT perf.job_pause(:job_id, '2100-01-01 12:00+00');
SELECT problem, regexp_replace(detail, 'job [0-9]+', 'job N') AS detail, regexp_replace(fix_sql, '\([0-9]+\)', '(N)') AS fix_sql
  FROM perf.partition_check('events', '2026-04-30 12:00') WHERE problem ~ '^job|default' AND fix_sql !~ '^BEGIN';
UPDATE perf.job SET enabled = false, paused_until = NULL WHERE job_id = :job_id;
SELECT problem, regexp_replace(detail, 'job [0-9]+', 'job N') AS detail, fix_sql
  FROM perf.partition_check('events', '2026-04-30 12:00') WHERE problem ~ '^job';
UPDATE perf.job SET enabled = true WHERE job_id = :job_id;
ALTER TABLE events OWNER TO regress_check_reader;
UPDATE perf.job SET owner = 'regress_check_other' WHERE job_id = :job_id;
SELECT problem, regexp_replace(detail, 'job [0-9]+', 'job N') AS detail FROM perf.partition_check('events', '2026-04-30 12:00') WHERE problem ~ '^job';
-- Of health there is nothing to say but of managed tables
SELECT status, regexp_replace(detail, '.*: ', '') ~ 'no partition for now' AS says FROM perf.health() WHERE component = 'partitions';
DROP TABLE events;
SELECT parent ~ '^[0-9]+$' AS is_a_number, problem, regexp_replace(detail, 'job [0-9]+', 'job N') AS detail, regexp_replace(fix_sql, '\([0-9]+\)', '(N)') AS fix_sql
  FROM perf.partition_check();
SELECT perf.job_unschedule(:job_id);
SELECT count(*) FROM perf.health() WHERE component = 'partitions';

-- A table of the policy that nobody manages
CREATE TABLE alerts (triggered_at timestamptz) PARTITION BY RANGE (triggered_at);
SELECT * FROM perf.partition_check('alerts', '2026-03-10');

DROP SCHEMA partition_check_test CASCADE;
DROP ROLE regress_check_reader, regress_check_other;

-- index_maintenance and prewarm: their arguments, and what a dry run lists. What runs as a job is tested end to end.
SET client_min_messages = warning;
CREATE SCHEMA maintained;
SET search_path = maintained;

CREATE TABLE bloated (a int, b text, c int, CONSTRAINT excluded EXCLUDE USING btree (c WITH =)) WITH (autovacuum_enabled = off);
INSERT INTO bloated SELECT g, 'text ' || g, g FROM generate_series(1, 200000) g;
CREATE INDEX "Bloated a" ON bloated (a);
CREATE UNIQUE INDEX bloated_partial ON bloated (a) WHERE a > 0;
CREATE INDEX bloated_expression ON bloated (lower(b));
CREATE INDEX bloated_hash ON bloated USING hash (a);
CREATE INDEX bloated_ccnew ON bloated (a);
DELETE FROM bloated WHERE a % 10 <> 0;
CREATE INDEX fresh ON bloated (b);
VACUUM ANALYZE bloated;
-- A failed build that is no leftover.
CREATE TABLE twice (a int);
INSERT INTO twice VALUES (1), (1);
CREATE UNIQUE INDEX CONCURRENTLY twice_ccold ON twice (a);

CREATE VIEW listed AS
    SELECT relation, index, action, ddl, reason, size_bytes = pg_relation_size(index::regclass) AS size,
           estimated_bytes < size_bytes / 4 AS estimate, round(bloat_pct / 10) * 10 AS bloat_pct, run_id
      FROM perf.index_maintenance(min_size_bytes => 1000000, min_free_bytes => 0) WHERE relation LIKE 'maintained.%' ORDER BY index;
SELECT * FROM listed;
-- Nothing has changed, and no job is there.
SELECT count(*) FROM perf.jobs;
-- The worst comes first; by default, smaller ones are left alone.
SELECT bool_and(freed >= next) FROM
    (SELECT size_bytes - estimated_bytes AS freed, lead(size_bytes - estimated_bytes) OVER () AS next
       FROM perf.index_maintenance(min_size_bytes => 1000000, min_free_bytes => 0) WHERE action = 'reindex') rows;
SELECT index, action FROM perf.index_maintenance(min_free_bytes => 0) WHERE relation LIKE 'maintained.%';
SELECT count(*) FROM perf.index_maintenance(max_bloat_pct => 99, min_size_bytes => 0, min_free_bytes => 0) WHERE action = 'reindex';
SELECT action, reason ~ '^\d+ bytes are free where it lies, and 90000000\d+ are needed$' AS reason
  FROM perf.index_maintenance(min_size_bytes => 1000000, min_free_bytes => 9000000000000000) WHERE index = 'maintained."Bloated a"';
-- Whoever may not read a table is not told of it; whoever does not own it cannot rebuild its indexes.
CREATE ROLE regress_perf_maintainer;
GRANT USAGE ON SCHEMA maintained TO regress_perf_maintainer;
SET ROLE regress_perf_maintainer;
SELECT count(*) FROM perf.index_maintenance(min_size_bytes => 1000000) WHERE relation LIKE 'maintained.%';
RESET ROLE;
GRANT SELECT ON bloated TO regress_perf_maintainer;
SET ROLE regress_perf_maintainer;
SELECT DISTINCT action, reason FROM perf.index_maintenance(min_size_bytes => 1000000) WHERE relation LIKE 'maintained.%';
RESET ROLE;

-- Arguments.
SELECT * FROM perf.index_maintenance(NULL);
SELECT * FROM perf.index_maintenance(-1);
SELECT * FROM perf.index_maintenance(100.5);
SELECT * FROM perf.index_maintenance('NaN');
SELECT * FROM perf.index_maintenance(dry_run => NULL);
SELECT * FROM perf.index_maintenance(min_size_bytes => -1);
SELECT * FROM perf.index_maintenance(min_free_bytes => -1);
SELECT * FROM perf.index_maintenance(max_duration => '0');
SELECT * FROM perf.index_maintenance(max_duration => '-1 hour');
SELECT * FROM perf.index_maintenance(max_duration => NULL);
SELECT * FROM perf.index_maintenance(lock_timeout => '-1 s');
SELECT * FROM perf.index_maintenance(lock_timeout => NULL);
SELECT perf.index_maintenance_schedule('now and then');
SELECT perf.index_maintenance_schedule(NULL);
SELECT perf.index_maintenance_schedule(time_zone => 'Mars/Olympus');
SELECT perf.index_maintenance_schedule(max_bloat_pct => 101);
SELECT * FROM perf.prewarm();
SELECT perf.prewarm_schedule(max_bytes => -1);
SELECT perf.prewarm_schedule(min_gain_pct => 200);
SELECT perf.prewarm_schedule(min_gain_pct => NULL);
SELECT perf.prewarm_schedule(time_zone => NULL);
SELECT perf.prewarm_schedule('manual') > 0 AS scheduled;
SELECT * FROM perf.prewarm('infinity');
SELECT * FROM perf.prewarm(max_bytes => -1);
SELECT * FROM perf.prewarm(dry_run => NULL);
SELECT * FROM perf.prewarm();

-- Only a SELECT that changes nothing can be marked.
SELECT perf.prewarm_mark(NULL);
SELECT perf.prewarm_mark('');
SELECT perf.prewarm_mark('SELECT 1; SELECT 2');
SELECT perf.prewarm_mark('INSERT INTO twice VALUES (2)');
SELECT perf.prewarm_mark('WITH w AS (INSERT INTO twice VALUES (2) RETURNING a) SELECT * FROM w');
SELECT perf.prewarm_mark('SELECT a INTO thrice FROM twice');
SELECT perf.prewarm_mark('SELECT a FROM twice FOR UPDATE');
SELECT perf.prewarm_mark('SELECT a FROM twice WHERE a = $1');
SELECT perf.prewarm_mark('SELECT a FROM nowhere');
SELECT perf.prewarm_mark('SELECT FROM WHERE');
SELECT perf.prewarm_mark('VACUUM');
SELECT perf.prewarm_mark('COPY (SELECT 1) TO STDOUT');
SELECT perf.prewarm_mark('SELECT count(*) FROM twice;') > 0 AS marked;
SELECT statement, queryid IS NOT NULL AS queryid, last_run_at, owner = current_user AS own FROM perf.prewarm_statements;
SELECT relation, blocks, action, reason FROM perf.prewarm();
SELECT perf.prewarm_unmark(NULL);
SELECT perf.prewarm_unmark(statement_id), perf.prewarm_unmark(-1) FROM perf.prewarm_statements;

SELECT count(perf.job_unschedule(job_id)) FROM perf.jobs;
DROP OWNED BY regress_perf_maintainer;
DROP ROLE regress_perf_maintainer;
DROP SCHEMA maintained CASCADE;

-- Refreshing materialized views by schedule: arguments, rows of perf.matviews, and the views of the policy.
CREATE SCHEMA matview_test;
SET search_path = matview_test, public;
CREATE TABLE t (a int, b int);
CREATE VIEW plain AS SELECT a FROM t;
CREATE MATERIALIZED VIEW low AS SELECT a, count(*) AS c FROM t GROUP BY a;
CREATE UNIQUE INDEX ON low (a);
CREATE VIEW between AS SELECT c FROM low;
CREATE MATERIALIZED VIEW high AS SELECT c FROM between WITH NO DATA;

-- Errors
\set VERBOSITY terse
SELECT perf.matview_schedule('nosuch', '5 min');
SELECT perf.matview_schedule('t', '5 min');
SELECT perf.matview_schedule('plain', '5 min');
SELECT perf.matview_schedule('low', 'now and then');
SELECT perf.matview_schedule('low', '0 25 * * *');
SELECT perf.matview_schedule('low', '5 min', 'Nowhere/Land');
SELECT perf.matview_schedule('low', '5 min', mode => 'quick');
SELECT perf.matview_schedule('low', '5 min', timeout => '0 s');
SELECT perf.matview_schedule('low', '5 min', max_retries => 1000);
SELECT perf.matview_schedule(NULL, '5 min');
SELECT perf.matview_schedule('low', '5 min', skip_unchanged => NULL);
SELECT perf.matview_unschedule('low');
CREATE ROLE regress_matview_other;
GRANT USAGE ON SCHEMA matview_test TO regress_matview_other;
SET ROLE regress_matview_other;
SELECT perf.matview_schedule('low', '5 min');
SELECT * FROM perf.matview_state;
RESET ROLE;
\set VERBOSITY default

-- One job a view; those that read others come later.
SELECT perf.matview_schedule('low', '0 3 1 1 *') IS NOT NULL AS scheduled;
SELECT perf.matview_schedule('high', '0 3 1 1 *', 'Europe/Stockholm', 'plain', skip_unchanged => false) IS NOT NULL AS scheduled;
SELECT perf.matview_schedule('low', '0 4 1 1 *', mode => 'concurrent', timeout => NULL) IS NOT NULL AS scheduled;
SELECT name, kind, target, schedule, time_zone, enabled, priority, overlap, timeout, lock_timeout, max_retries, options
  FROM perf.jobs WHERE kind = 'matview' ORDER BY name;
SELECT view_name, populated, last_refresh_at, writes_since, schedule, time_zone, mode, next_run_at > now() AS is_to_come,
       why_not_concurrent, last_status, rows
  FROM perf.matviews WHERE view_name LIKE 'matview_test.%' ORDER BY view_name;
SET ROLE regress_matview_other;
SELECT view_name, schedule, job_id FROM perf.matviews WHERE view_name LIKE 'matview_test.%' ORDER BY view_name;
SELECT perf.matview_unschedule('low');
RESET ROLE;
SELECT perf.matview_unschedule('low');
SELECT perf.matview_unschedule('high');
SELECT count(*) FROM perf.jobs WHERE kind = 'matview';

-- The policy: what it finds, what it makes, and what it leaves.
CREATE TABLE game_results (id int, user_id bigint, stake numeric, payout numeric, created_at timestamptz);
CREATE TABLE metrics_history (metric_type text, source text, value float8, "timestamp" timestamptz);
INSERT INTO game_results SELECT g, g % 3, 1, 0, '2024-01-01' FROM generate_series(1, 10) g;
CREATE TABLE mv_daily_metrics (a int);
UPDATE perf.matview_policy SET schedule = '0 5 1 1 *' WHERE view_name = 'mv_cohort_summary';
SELECT view_name, action, ddl, reason, job_id IS NOT NULL AS has_job FROM perf.matview_policy_apply();
SELECT view_name, action, reason FROM perf.matview_policy_apply() WHERE view_name = 'mv_cohort_summary';
SELECT user_id, session_count FROM mv_cohort_summary ORDER BY user_id;
SELECT view_name, schedule, mode, why_not_concurrent FROM perf.matviews WHERE view_name LIKE 'matview_test.mv%';
SELECT perf.load_policy() > 0 AS loaded;

SELECT perf.matview_unschedule('mv_cohort_summary');
DROP SCHEMA matview_test CASCADE;
DROP ROLE regress_matview_other;

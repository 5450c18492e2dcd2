-- Jobs: definitions, what is refused, who sees what. That they run is tested with servers of their own.
\pset null NULL
CREATE EXTENSION IF NOT EXISTS perf_opt;

-- A definition, and the same again.
SELECT perf.job_schedule('nightly', '30 2 * * mon-fri', 'VACUUM', time_zone => 'Europe/Berlin', timeout => '1 hour',
                         lock_timeout => '2 s', max_retries => 1, priority => 5, catch_up => 'skip', overlap => 'queue') AS job_id \gset
SELECT name, kind, target, schedule, time_zone, owner = current_user AS own, enabled, paused_until,
       next_run_at > now() AS future, last_status, last_run_at, last_duration_ms, consecutive_failures, command, priority,
       catch_up, overlap, timeout, lock_timeout, max_retries, options
FROM perf.jobs \gx
SELECT (next_run_at AT TIME ZONE 'Europe/Berlin')::time AS local_time, extract(isodow FROM next_run_at AT TIME ZONE 'Europe/Berlin') < 6 AS weekday
FROM perf.jobs;
SELECT perf.job_schedule('nightly', '  Every 5 min ', 'SELECT 1');
SELECT perf.job_schedule('nightly', ' 5   MIN ', 'SELECT 1') = :job_id AS same;
SELECT schedule, time_zone, command, timeout, priority FROM perf.jobs;
SELECT next_run_at - now() BETWEEN '4 min' AND '5 min' AS soon FROM perf.jobs;
SELECT perf.job_schedule('on request', 'manual', 'SELECT 1') > :job_id AS another;
SELECT name, schedule, next_run_at IS NULL AS never FROM perf.jobs ORDER BY name;

-- Pauses.
SELECT perf.job_pause(:job_id);
SELECT paused_until FROM perf.jobs WHERE job_id = :job_id;
SELECT perf.job_pause(:job_id, now() - interval '1 s');
SELECT perf.job_pause(:job_id, NULL);
SELECT perf.job_resume(:job_id);
SELECT paused_until FROM perf.jobs WHERE job_id = :job_id;

-- What is refused.
SELECT perf.job_schedule(NULL, '5 min', 'SELECT 1');
SELECT perf.job_schedule('', '5 min', 'SELECT 1');
SELECT perf.job_schedule(repeat('x', 201), '5 min', 'SELECT 1');
SELECT perf.job_schedule('a', NULL, 'SELECT 1');
SELECT perf.job_schedule('a', '', 'SELECT 1');
SELECT perf.job_schedule('a', 'now and then', 'SELECT 1');
SELECT perf.job_schedule('a', '-5 min', 'SELECT 1');
SELECT perf.job_schedule('a', '0 s', 'SELECT 1');
SELECT perf.job_schedule('a', '2 years', 'SELECT 1');
SELECT perf.job_schedule('a', '60 * * * *', 'SELECT 1');
SELECT perf.job_schedule('a', '* 24 * * *', 'SELECT 1');
SELECT perf.job_schedule('a', '* * 0 * *', 'SELECT 1');
SELECT perf.job_schedule('a', '* * * 13 *', 'SELECT 1');
SELECT perf.job_schedule('a', '* * * * frog', 'SELECT 1');
SELECT perf.job_schedule('a', '* * * *', 'SELECT 1');
SELECT perf.job_schedule('a', '* * * * * *', 'SELECT 1');
SELECT perf.job_schedule('a', '0 0 30 2 *', 'SELECT 1');
SELECT perf.job_schedule('a', '5 min', NULL);
SELECT perf.job_schedule('a', '5 min', '');
SELECT perf.job_schedule('a', '5 min', '-- nothing');
SELECT perf.job_schedule('a', '5 min', 'SELEC 1');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', time_zone => 'Mars/Olympus');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', time_zone => '');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', time_zone => NULL);
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', timeout => '0');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', timeout => '-1 s');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', lock_timeout => '0');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', max_retries => -1);
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', max_retries => 101);
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', priority => 101);
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', catch_up => 'maybe');
SELECT perf.job_schedule('a', '5 min', 'SELECT 1', overlap => 'maybe');
SELECT perf.job_pause(0);
SELECT perf.job_pause(NULL);
SELECT perf.job_resume(0);
SELECT perf.job_run_now(0);
SELECT perf.job_run_now(NULL);
SELECT perf.job_unschedule(0);
SELECT perf.job_cancel(0);
SELECT perf.job_wait(0);
SELECT perf.job_wait(0, '0');
SELECT perf.job_wait(0, NULL);
SELECT count(*) FROM perf.jobs;

-- A transaction that is read-only, or rolled back.
BEGIN READ ONLY;
SELECT perf.job_schedule('a', '5 min', 'SELECT 1');
ROLLBACK;
BEGIN;
SELECT perf.job_schedule('a', '5 min', 'SELECT 1') > 0 AS defined;
ROLLBACK;
SELECT count(*) FROM perf.jobs;

-- Others.
CREATE ROLE regress_other;
SET ROLE regress_other;
\set VERBOSITY sqlstate
SELECT count(*) FROM perf.jobs;
SELECT perf.job_unschedule(:job_id);
SELECT perf.job_pause(:job_id);
\set VERBOSITY default
SELECT perf.job_schedule('nightly', '1 hour', 'SELECT 2', priority => 1);
SELECT perf.job_schedule('nightly', '1 hour', 'SELECT 2') <> :job_id AS own;
SELECT name, owner, command FROM perf.jobs;
SELECT * FROM perf.job;
RESET ROLE;
SELECT name, owner = 'regress_other' AS others FROM perf.jobs ORDER BY 1, 2;

SELECT count(perf.job_unschedule(job_id)) FROM perf.jobs;
SELECT count(*) FROM perf.jobs;
DROP ROLE regress_other;

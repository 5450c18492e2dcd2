-- COMMENTs of the job functions and tables. EXECUTE stays with PUBLIC: a job can do what its owner's session could do.
COMMENT ON TABLE perf.job IS
    'Jobs as they are stored; read perf.jobs, and change them with perf.job_schedule and its kin. Dumped by pg_dump';
COMMENT ON TABLE perf.job_run IS
    'Runs of jobs as they are stored: one row a tick, tries included; read perf.job_runs. Kept perf_opt.job_history_days, at most perf_opt.job_history_max rows';
COMMENT ON TABLE perf.job_state IS 'What is counted of jobs: failures in a row; read perf.jobs';
COMMENT ON VIEW perf.jobs IS
    'Your jobs; all of them for a superuser: job_id bigint, name, kind, target, schedule, time_zone, owner text, enabled boolean (false: perf_opt switched it off, its owner or schedule is gone), paused_until, next_run_at timestamptz (NULL: only on request), last_status text, last_run_at timestamptz, last_duration_ms double precision, consecutive_failures int, command text, priority int, catch_up, overlap text, timeout, lock_timeout interval, max_retries int, options jsonb';
COMMENT ON VIEW perf.job_runs IS
    'Runs of your jobs; all of them for a superuser: run_id, job_id bigint, scheduled_at (the tick), started_at, finished_at timestamptz, status text (queued | running | succeeded | failed | skipped | crashed | cancelled), attempt int (from 1), sqlstate, message text, lock_wait_ms double precision, detail jsonb (tries that failed under attempts; ticks skipped together under ticks), job_name, owner text, requested boolean (by job_run_now), not_before timestamptz (of the next try), pid int of its worker while it runs, phase text and phase_done_pct double precision of an index build, VACUUM or CLUSTER under way';
COMMENT ON FUNCTION perf.job_schedule(text, text, text, text, interval, interval, int, int, text, text) IS
'Defines a job of the current role, or changes its job of that name; returns job_id bigint. The command (one or more SQL statements) runs at top level in a process of its own, as a session of the owner: VACUUM, CREATE INDEX CONCURRENTLY and procedures that commit may be run.
schedule: interval (''30 s'', ''5 min'', ''1 day''), hourly, daily, weekly, monthly, cron with five fields (''30 2 * * MON-FRI''), or manual (only on request). time_zone: of the server; wall-clock schedules follow its changes of the clock.
timeout, lock_timeout: NULL for none. max_retries: 0 to 100 further tries after a failure, 1 s, 2 s, 4 s ... 5 min apart. priority: -100 to 100, higher first, above 0 for superusers only; at the same priority the owner with the fewest runs under way comes first. All but superusers leave one place to others.
catch_up: what happens to ticks that were missed: run_once (one run for all) | skip | all (at most 1,000). overlap: a tick while a run has not ended: skip | queue | parallel.
A failure is logged and sent to the channel perf_jobs as JSON (job_id, run_id, status, sqlstate); perf.job_runs has the message.
Errors: 22023 for an argument that is not accepted, 22004 for NULL, 42601 for a command that is not SQL, 55000 when perf_opt is not preloaded, 25006 on a standby';
COMMENT ON FUNCTION perf.job_unschedule(bigint) IS
'Removes a job. Its queued runs are cancelled; one under way comes to its end; its history stays. Errors: 42704 when you have no such job';
COMMENT ON FUNCTION perf.job_pause(bigint, timestamptz) IS
'Lets the ticks of a job pass by until a time (infinity: until perf.job_resume). They are not made up for. Errors: 42704 when you have no such job, 22023 for a time in the past';
COMMENT ON FUNCTION perf.job_resume(bigint) IS
'Ends a pause, or switches a job on again that perf_opt has switched off. Errors: 42704 when you have no such job';
COMMENT ON FUNCTION perf.job_run_now(bigint) IS
'Queues a run of a job, as its owner, whatever its schedule says; returns run_id bigint. It starts when the transaction has committed. Errors: 42704 when you have no such job, 55000 when perf_opt is not preloaded';
COMMENT ON FUNCTION perf.job_cancel(bigint) IS
'Cancels a run that is queued or under way; false when it had ended. Errors: 42704 when you have no such run';
COMMENT ON FUNCTION perf.job_wait(bigint, interval) IS
'Waits until a run has ended, at most timeout, and returns its status: still queued or running when the time is over, or when the run waits for this transaction (a concurrent index build waits for all older snapshots): look at perf.job_runs then. Errors: 42704 when you have no such run, 22023 when timeout is not above zero, 55000 when the run was queued by the same transaction';
COMMENT ON FUNCTION perf._running_jobs() IS 'Internal: runs under way in this database and the processes of their workers';

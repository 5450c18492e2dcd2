"""Jobs: what runs, as whom, when, and what is written down of it."""

from __future__ import annotations

import subprocess
import time

from .cluster import Cluster, SqlError
from .jobs_case import SETTINGS, JobTest

SECONDS = 110


class TopLevel(JobTest):
    """Commands run as a client's would."""

    def test_plain_command_is_recorded_with_its_work(self) -> None:
        self.sql("CREATE TABLE done (at timestamptz DEFAULT clock_timestamp())")
        job = self.schedule("plain", "manual", "INSERT INTO done DEFAULT VALUES")
        run = self.run_now(job)
        self.assertEqual((run["status"], run["attempt"], run["sqlstate"]), ("succeeded", 1, None))
        self.assertEqual(self.value("SELECT count(*) FROM done"), 1)
        self.assertEqual(self.value("""SELECT started_at <= at AND at <= finished_at FROM done, perf.job_runs"""), True)
        # The record and the work are one transaction.
        self.assertEqual(self.value("SELECT r.xmin = d.xmin FROM perf.job_run r, done d"), True)

    def test_commands_that_refuse_transaction_blocks(self) -> None:
        self.sql("CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 1000) g")
        self.sql("CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (-1); COMMIT; "
                 "INSERT INTO t VALUES (-2); COMMIT; END'")
        for command in ("VACUUM (ANALYZE) t", "CREATE INDEX CONCURRENTLY t_a ON t (a)",
                        "REINDEX INDEX CONCURRENTLY t_a", "CALL commits()"):
            with self.subTest(command):
                run = self.run_now(self.schedule(command, "manual", command))
                self.assertEqual((run["status"], run["message"]), ("succeeded", None))
        self.assertEqual(self.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_a'::regclass"), [(True,)])
        self.assertEqual(self.value("SELECT count(*) FROM t WHERE a < 0"), 2)

    def test_several_statements_are_one_transaction(self) -> None:
        self.sql("CREATE TABLE t (a int PRIMARY KEY)")
        run = self.run_now(self.schedule("both", "manual", "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)"))
        self.assertEqual(run["status"], "succeeded")
        run = self.run_now(self.schedule("half", "manual", "INSERT INTO t VALUES (3); INSERT INTO t VALUES (1)",
                                         max_retries=0))
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "23505"))
        self.assertEqual(self.sql("SELECT a FROM t ORDER BY 1"), [(1,), (2,)])

    def test_own_transaction_blocks(self) -> None:
        self.sql("CREATE TABLE t (a int)")
        run = self.run_now(self.schedule("block", "manual", "BEGIN; INSERT INTO t VALUES (1); COMMIT"))
        self.assertEqual(run["status"], "succeeded")
        run = self.run_now(self.schedule("open", "manual", "BEGIN; INSERT INTO t VALUES (2)", max_retries=0))
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "25001"))
        self.assertEqual(self.sql("SELECT a FROM t"), [(1,)])

    def test_failure_at_commit(self) -> None:
        self.sql("CREATE TABLE t (a int, UNIQUE (a) DEFERRABLE INITIALLY DEFERRED)")
        run = self.run_now(self.schedule("late", "manual", "INSERT INTO t VALUES (1), (1)", max_retries=0))
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "23505"))

    def test_read_only_role_can_be_recorded(self) -> None:
        self.sql("CREATE ROLE reader LOGIN; ALTER ROLE reader SET default_transaction_read_only = on")
        self.addCleanup(self.cluster.sql, "DROP ROLE reader")
        self.addCleanup(self.sql, "DROP OWNED BY reader")
        with self.cluster.connect(self.database, user="reader") as session:
            session.query("SET default_transaction_read_only = off")
            job = session.query("SELECT perf.job_schedule('r', 'manual', 'SELECT 1')").scalar()
        self.assertEqual(self.run_now(job)["status"], "succeeded")
        # The command itself stays read-only.
        self.sql("CREATE TABLE t (a int); GRANT INSERT ON t TO reader")
        self.sql("UPDATE perf.job SET command = 'INSERT INTO t VALUES (1)', max_retries = 0")
        self.assertEqual(self.run_now(job)["sqlstate"], "25006")

    def test_characters_beyond_ascii_where_the_database_is_not_in_utf8(self) -> None:
        for encoding in ("LATIN1", "SQL_ASCII"):
            with self.subTest(encoding):
                name = f"jobs_{encoding.lower()}"
                self.cluster.sql(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
                self.addCleanup(self.cluster.sql, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                self.cluster.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (a text)", dbname=name)
                self.database = name
                run = self.run_now(self.schedule("wörk", "manual", "INSERT INTO t VALUES ('ä'), (chr(228))", max_retries=0))
                self.assertEqual((run["status"], run["job_name"]), ("succeeded", "wörk"))
                self.assertEqual(self.value("SELECT min(a) FROM t"), "ä")

    def test_copy_needs_a_client(self) -> None:
        self.sql("CREATE TABLE t (a int)")
        mark = self.cluster.log_mark()
        for command in ("COPY (SELECT 'not a line of the log') TO STDOUT", "COPY t FROM STDIN"):
            with self.subTest(command):
                run = self.run_now(self.schedule(command, "manual", command, max_retries=0))
                self.assertEqual((run["status"], run["sqlstate"]), ("failed", "0A000"))
        self.cluster.wait_for_log("0A000", since=mark)
        self.assertNotRegex(self.cluster.log_text()[mark:], "(?m)^not a line")


class Waiting(JobTest):
    """job_wait."""

    def test_status_at_the_end_or_when_time_is_over(self) -> None:
        job = self.schedule("short", "manual", "SELECT pg_sleep(0.2)")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.assertEqual(self.value("SELECT perf.job_wait($1::bigint)", (run_id,)), "succeeded")
        job = self.schedule("long", "manual", "SELECT pg_sleep(60)")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.assertIn(self.value("SELECT perf.job_wait($1::bigint, '300 ms')", (run_id,)), ("queued", "running"))
        self.assertTrue(self.value("SELECT perf.job_cancel($1::bigint)", (run_id,)))
        self.assertEqual(self.value("SELECT perf.job_wait($1::bigint)", (run_id,)), "cancelled")
        self.assertFalse(self.value("SELECT perf.job_cancel($1::bigint)", (run_id,)))

    def test_in_a_repeatable_read_transaction(self) -> None:
        job = self.schedule("short", "manual", "SELECT 1")
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
            self.assertEqual(session.query(f"SELECT perf.job_wait({run_id})").scalar(), "succeeded")

    def test_of_the_same_transaction_is_refused(self) -> None:
        job = self.schedule("short", "manual", "SELECT 1")
        error = self.assert_sql_error("55000", self.cluster, f"SELECT perf.job_wait(perf.job_run_now({job}))",
                                      dbname=self.database)
        self.assertIn("before it commits", str(error))

    def test_gives_up_when_the_run_waits_for_the_waiter(self) -> None:
        self.sql("CREATE TABLE t (a int)")
        job = self.schedule("build", "manual", "CREATE INDEX CONCURRENTLY t_a ON t (a)")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        # Either the build was faster, or it waits for our snapshot: never for a minute.
        self.assertIn(self.value("SELECT perf.job_wait($1::bigint, '100 s')", (run_id,)), ("running", "succeeded"))
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 10, "the index")

    def test_cancelled_means_cancelled_however_early(self) -> None:
        self.sql("CREATE TABLE t (run int)")
        job = self.schedule("many", "manual", "SELECT pg_sleep(0.3); INSERT INTO t VALUES (1)", overlap="parallel")
        cancelled = []
        with self.cluster.connect(self.database) as session:
            for number in range(100):
                run_id = session.query(f"SELECT perf.job_run_now({job})").scalar()
                time.sleep(0.0007 * (number % 40))  # at different moments of its start
                if session.query(f"SELECT perf.job_cancel({run_id})").scalar():
                    cancelled.append(run_id)
        self.wait_for_runs(job, 100, 60)
        ends = {run["run_id"]: run["status"] for run in self.runs(job)}
        self.assertEqual({ends[run_id] for run_id in cancelled}, {"cancelled"})
        self.assertEqual(self.value("SELECT count(*) FROM t"), 100 - len(cancelled))

    def test_cancel_that_is_taken_back(self) -> None:
        cluster = self.private_cluster({**SETTINGS, "perf_opt.max_running_jobs": 0})
        cluster.sql("CREATE EXTENSION perf_opt")
        # The scheduler has another job to wait for.
        cluster.sql("SELECT perf.job_schedule('other', 'monthly', 'SELECT 1')")
        run_id = cluster.scalar("SELECT perf.job_run_now(perf.job_schedule('work', 'manual', 'SELECT 1'))")
        status = f"SELECT status FROM perf.job_runs WHERE run_id = {run_id}"
        # The server forgets the signal of a reload for a process that it has not quite started yet.
        self.wait_until(lambda: cluster.sql("SELECT FROM pg_stat_activity WHERE backend_type = 'perf_opt scheduler'"), 15, "the scheduler")
        with cluster.connect() as session:
            session.query(f"BEGIN; SELECT perf.job_cancel({run_id})")
            cluster.configure({"perf_opt.max_running_jobs": 8}, reload=True)
            # It has looked when it has started another one.
            other = cluster.scalar("SELECT perf.job_run_now(perf.job_schedule('more', 'manual', 'SELECT 1'))")
            self.assertEqual(cluster.scalar(f"SELECT perf.job_wait({other})"), "succeeded")
            self.assertEqual(cluster.scalar(status), "queued")
            session.query("ROLLBACK")
        self.wait_until(lambda: cluster.scalar(status) == "succeeded", 10, "the run")


class Ticks(JobTest):
    """Schedules."""

    def test_an_interval_runs_again_and_again_on_time(self) -> None:
        job = self.schedule("often", "1 s", "SELECT 1")
        self.wait_for_runs(job, 3)
        self.sql("SELECT perf.job_unschedule($1::bigint)", (job,))
        runs = self.runs(job)
        self.assertEqual({run["status"] for run in runs}, {"succeeded"})
        gaps = self.sql("SELECT DISTINCT scheduled_at - lag(scheduled_at) OVER (ORDER BY scheduled_at) = '1 s' "
                        "FROM perf.job_runs WHERE job_id = $1::bigint", (job,))
        self.assertEqual({gap for gap, in gaps} - {None}, {True})
        self.assertEqual(self.sql("SELECT * FROM perf.jobs"), [])

    def test_next_run_is_the_schedules_own(self) -> None:
        for schedule, expected in (
                ("daily", "date_trunc('day', now() AT TIME ZONE 'Asia/Tokyo') + '1 day'"),
                ("30 2 * * *", "date_trunc('day', now() AT TIME ZONE 'Asia/Tokyo' - '2:30'::interval) + '1 day 2:30'"),
                ("monthly", "date_trunc('month', now() AT TIME ZONE 'Asia/Tokyo') + '1 month'")):
            with self.subTest(schedule):
                job = self.schedule(schedule, schedule, "SELECT 1", time_zone="Asia/Tokyo")
                self.assertTrue(self.value(f"SELECT next_run_at = ({expected}) AT TIME ZONE 'Asia/Tokyo' FROM perf.jobs "
                                           "WHERE job_id = $1::bigint", (job,)))

    def test_same_name_changes_the_job(self) -> None:
        job = self.schedule("name", "1 hour", "SELECT 1")
        self.assertEqual(self.schedule("name", "2 hours", "SELECT 2"), job)
        self.assertEqual(self.sql("SELECT schedule, command FROM perf.jobs"), [("2 hours", "SELECT 2")])

    def test_overlap(self) -> None:
        skip = self.schedule("skips", "1 s", "SELECT pg_sleep(2.5)")
        runs = self.wait_for_runs(skip, 3)
        self.sql("SELECT perf.job_unschedule($1::bigint)", (skip,))
        skipped = [run for run in runs if run["status"] == "skipped"]
        self.assertGreaterEqual(len(skipped), 1)
        self.assertRegex(skipped[0]["message"], r"run \d+ of this job has not ended")
        both = self.schedule("both", "1 s", "SELECT pg_sleep(2.5)", overlap="parallel")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.job_runs WHERE job_id = $1::bigint "
                                           "AND status = 'running'", (both,)) >= 2, 15, "two runs at the same time")
        self.sql("SELECT perf.job_unschedule($1::bigint)", (both,))

    def test_pause_and_resume(self) -> None:
        job = self.schedule("paused", "1 s", "SELECT 1")
        self.wait_for_runs(job, 1)
        self.sql("SELECT perf.job_pause($1::bigint)", (job,))
        self.wait_until(lambda: not [run for run in self.runs(job) if run["status"] in ("queued", "running")], 10, "rest")
        count = len(self.runs(job))
        self.assertEqual(self.value("SELECT paused_until::text FROM perf.jobs"), "infinity")
        other = self.schedule("other", "1 s", "SELECT 1")
        self.wait_for_runs(other, 3)
        self.assertEqual(len(self.runs(job)), count)
        # On request it runs all the same.
        self.assertEqual(self.run_now(job)["status"], "succeeded")
        self.sql("SELECT perf.job_resume($1::bigint)", (job,))
        self.wait_for_runs(job, count + 3)
        self.assertEqual(self.sql("SELECT status FROM perf.job_runs WHERE job_id = $1::bigint AND status = 'skipped'",
                                  (job,)), [])

    def test_pause_until_a_time(self) -> None:
        job = self.schedule("paused", "1 s", "SELECT 1")
        self.sql("SELECT perf.job_pause($1::bigint, now() + '3 s')", (job,))
        self.wait_for_runs(job, 1)
        self.assertTrue(self.value("SELECT min(scheduled_at) >= (SELECT created_at FROM perf.job) + '3 s' FROM perf.job_runs"))
        self.assertIsNone(self.value("SELECT paused_until FROM perf.jobs"))


class Failing(JobTest):
    """Failures, tries, limits."""

    def test_failure_is_tried_again_recorded_and_told(self) -> None:
        self.sql("CREATE SEQUENCE tries")
        with self.cluster.connect(self.database) as listener:
            listener.query("LISTEN perf_jobs")
            mark = self.cluster.log_mark()
            job = self.schedule("fails", "manual", "SELECT 1 / (nextval('tries') * 0)", max_retries=1)
            run = self.run_now(job)
            self.assertEqual((run["status"], run["attempt"], run["sqlstate"]), ("failed", 2, "22012"))
            self.assertEqual(run["message"], "division by zero")
            self.assertEqual(self.value("SELECT detail -> 'attempts' -> 0 ->> 'sqlstate' FROM perf.job_runs"), "22012")
            self.cluster.wait_for_log(r'perf_opt job \d+ "fails", run \d+: failed \(22012\): division by zero', since=mark)
            listener.query("SELECT 1")
            channels = [channel for _, channel, payload in listener.notifications if '"sqlstate":"22012"' in payload]
            self.assertEqual(channels, ["perf_jobs"])
        self.assertEqual(self.value("SELECT consecutive_failures FROM perf.jobs"), 1)
        self.sql("UPDATE perf.job SET command = 'SELECT 1'")
        self.assertEqual(self.run_now(job)["status"], "succeeded")
        self.assertEqual(self.value("SELECT consecutive_failures FROM perf.jobs"), 0)

    def test_succeeds_at_the_second_try(self) -> None:
        self.sql("CREATE SEQUENCE tries")
        run = self.run_now(self.schedule("second", "manual", "SELECT 1 / (nextval('tries') - 1)"))
        self.assertEqual((run["status"], run["attempt"], run["sqlstate"], run["message"]), ("succeeded", 2, None, None))

    def test_timeout(self) -> None:
        run = self.run_now(self.schedule("slow", "manual", "SET statement_timeout = 0; SELECT pg_sleep(60)",
                                         timeout="300 ms", max_retries=0))
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "57014"))
        self.assertIn("timeout of 300 ms", run["message"])

    def test_lock_timeout(self) -> None:
        self.sql("CREATE TABLE t (a int)")
        with self.cluster.connect(self.database) as blocker:
            blocker.query("BEGIN; LOCK TABLE t")
            run = self.run_now(self.schedule("blocked", "manual", "INSERT INTO t VALUES (1)", lock_timeout="100 ms",
                                             max_retries=0))
            self.assertEqual((run["status"], run["sqlstate"]), ("failed", "55P03"))

    def test_cancel_of_a_queued_and_a_running_run(self) -> None:
        job = self.schedule("long", "manual", "SELECT pg_sleep(60)")
        first = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        second = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perf_opt job long' "
                                           "AND wait_event = 'PgSleep'") == 1, 10, "the first run")
        self.assertEqual(self.job_run(second)["status"], "queued")
        self.assertEqual(self.sql("SELECT perf.job_cancel($1::bigint), perf.job_cancel($2::bigint)", (second, first)),
                         [(True, True)])
        self.wait_until(lambda: self.job_run(first)["status"] == "cancelled", 10, "the cancellation")
        self.assertEqual(self.job_run(second)["status"], "cancelled")
        # No try follows, and what pg_cancel_backend does is the same.
        third = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.wait_until(lambda: self.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = "
                                         "'perf_opt job long' AND wait_event = 'PgSleep'") == [(True,)], 10, "the third run")
        self.wait_until(lambda: self.job_run(third)["status"] == "cancelled", 10, "the cancellation")
        self.assertEqual(self.job_run(third)["attempt"], 1)

    def test_terminated_worker_is_a_crash_and_tried_again(self) -> None:
        self.sql("CREATE TABLE t (a int)")
        job = self.schedule("ended", "manual", "INSERT INTO t VALUES (1); SELECT pg_sleep(CASE WHEN (SELECT count(*) FROM "
                            "perf.job_runs WHERE attempt > 1) = 0 THEN 60 ELSE 0 END)")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.wait_until(lambda: self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                                         "'perf_opt job ended' AND wait_event = 'PgSleep'") == [(True,)], 10, "the run")
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 15, "the second try")
        run = self.job_run(run_id)
        self.assertEqual(run["attempt"], 2)
        self.assertIn("crashed", str(run["detail"]))
        self.assertEqual(self.value("SELECT count(*) FROM t"), 1)

    def test_no_worker_slot(self) -> None:
        cluster = self.private_cluster({"max_worker_processes": 5, "perf_opt.max_running_jobs": 8})
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("SELECT perf.job_schedule('j' || g, 'manual', 'SELECT pg_sleep(0.5)') FROM generate_series(1, 4) g")
        cluster.sql("SELECT perf.job_run_now(job_id) FROM perf.jobs")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE status = 'queued' "
                                               "AND message LIKE '%max_worker_processes%'") > 0, 20, "a run that waits")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE status = 'succeeded' "
                                               "AND attempt = 1 AND message IS NULL") == 4, 30, "all runs")

    def test_limit_of_running_jobs(self) -> None:
        self.cluster.configure({"perf_opt.max_running_jobs": 2}, reload=True)
        self.addCleanup(self.cluster.configure, {"perf_opt.max_running_jobs": 8}, True)
        jobs = [self.schedule(f"j{number}", "manual", "SELECT pg_sleep(0.3)", priority=number) for number in range(6)]
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN")
            for job in jobs:
                session.query(f"SELECT perf.job_run_now({job})")
            session.query("COMMIT")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.job_runs WHERE status = 'succeeded'") == 6, 20, "all runs")
        most = self.value("SELECT max(n) FROM (SELECT (SELECT count(*) FROM perf.job_runs b WHERE b.started_at <= a.started_at "
                          "AND b.finished_at > a.started_at) AS n FROM perf.job_runs a) x")
        self.assertLessEqual(most, 2)
        order = self.sql("SELECT job_name FROM perf.job_runs ORDER BY started_at")
        self.assertEqual({name for name, in order[:2]}, {"j5", "j4"})
        self.assertEqual({name for name, in order[-2:]}, {"j1", "j0"})


    def test_health_tells_of_jobs(self) -> None:
        self.assertEqual(self.sql("SELECT component FROM perf.health() WHERE component IN ('scheduler', 'jobs', 'job queue')"), [])
        self.schedule("later", "1 day", "SELECT 1")
        self.wait_until(lambda: self.sql("SELECT status, value FROM perf.health() WHERE component = 'scheduler'")
                        == [("ok", 1.0)], 15, "the scheduler")
        self.assertEqual(self.run_now(self.schedule("bad", "manual", "SELECT 1 / 0", max_retries=0))["status"], "failed")
        self.assertEqual(self.sql("SELECT status, value, detail LIKE '1 jobs whose latest run failed%' FROM perf.health() "
                                  "WHERE component = 'jobs'"), [("warning", 1.0, True)])
        # A run that waits for long, as seen before anybody else could see it.
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN; INSERT INTO perf.job_run (job_id, job_name, owner, scheduled_at, status) "
                          "SELECT job_id, name, owner, now() - '2 min'::interval, 'queued' FROM perf.job WHERE name = 'later'")
            waits = session.query("SELECT status, value >= 120 FROM perf.health() WHERE component = 'job queue'")
            self.assertEqual(waits.rows, [("warning", True)])
            session.query("ROLLBACK")

    def test_removed_while_a_run_fails(self) -> None:
        job = self.schedule("gone", "manual", "SELECT pg_sleep(1.5); SELECT 1 / 0")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.wait_until(lambda: self.job_run(run_id)["status"] == "running", 10, "the run")
        self.sql("SELECT perf.job_unschedule($1::bigint)", (job,))
        self.wait_until(lambda: self.job_run(run_id)["status"] not in ("queued", "running"), 10, "the end")
        run = self.job_run(run_id)
        self.assertEqual((run["status"], run["attempt"], run["sqlstate"]), ("failed", 1, "22012"))

    def test_endless_messages_are_cut(self) -> None:
        command = "DO $$BEGIN RAISE EXCEPTION USING MESSAGE = repeat('x', 10000000), HINT = repeat('y', 10000000); END$$"
        run = self.run_now(self.schedule("loud", "manual", command, max_retries=1))
        self.assertEqual((run["status"], run["attempt"]), ("failed", 2))
        self.assertLess(len(run["message"]) + len(str(run["detail"])), 10_000)


class Neighbours(JobTest):
    """What one role does does not hold up the jobs of others."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("CREATE ROLE rude LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE rude")

    def others_run(self) -> None:
        """Jobs of somebody else start at once."""
        for number in range(2):
            self.assertEqual(self.run_now(self.schedule(f"other {number}", "manual", "SELECT 1"), timeout=5)["status"],
                             "succeeded")

    def test_removal_that_is_not_committed(self) -> None:
        command = "SELECT pg_sleep(2); SELECT pg_terminate_backend(pg_backend_pid())"
        job = self.schedule("rude", "manual", "SELECT 1 / 0", user="rude", max_retries=0)
        self.assertEqual(self.run_now(job, user="rude")["status"], "failed")
        self.assertEqual(self.schedule("rude", "manual", command, user="rude", max_retries=0), job)
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,), user="rude")
        self.wait_until(lambda: self.job_run(run_id)["status"] == "running", 10, "the run")
        with self.cluster.connect(self.database, user="rude") as session:
            session.query(f"BEGIN; SELECT perf.job_unschedule({job})")
            self.wait_until(lambda: self.job_run(run_id)["status"] == "crashed", 10, "the record of the crash")
            self.others_run()
            session.query("ROLLBACK")

    def test_due_job_that_is_locked(self) -> None:
        job = self.schedule("rude", "1 s", "SELECT 1", user="rude")
        self.wait_for_runs(job, 1)
        with self.cluster.connect(self.database, user="rude") as session:
            session.query(f"BEGIN; SELECT perf.job_pause({job})")
            self.others_run()
            transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            before = self.value(transactions)
            time.sleep(3)
            # Once a second it looks whether the job is still locked; without a pause it would be thousands of times.
            self.assertLess(self.value(transactions) - before, 60)
            session.query("ROLLBACK")

    def test_thousands_of_queued_runs(self) -> None:
        job = self.schedule("rude", "manual", "SELECT 1", user="rude", priority=-1)
        # A history for each look to get past, as far as the query makes it.
        self.sql("INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, finished_at, status) SELECT "
                 "$1::bigint, 'rude', 'rude', true, now(), now(), 'succeeded' FROM generate_series(1, 50000)", (job,))
        self.sql("INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, status) SELECT $1::bigint, "
                 "'rude', 'rude', true, now() + g * interval '1 us', 'queued' FROM generate_series(1, 20000) g", (job,))
        self.others_run()
        self.sql("SELECT perf.job_unschedule($1::bigint)", (job,), user="rude")

    def test_listeners_see_no_names_and_messages(self) -> None:
        with self.cluster.connect(self.database) as listener:
            listener.query("LISTEN perf_jobs")
            self.run_now(self.schedule("private", "manual", "SELECT 'secret'::int", user="rude", max_retries=0), user="rude")
            listener.query("SELECT 1")
            payloads = [payload for _, _, payload in listener.notifications]
        self.assertEqual(len(payloads), 1)
        self.assertNotRegex(payloads[0], "private|secret")


class Ownership(JobTest):
    """Whose job it is, and as whom it runs."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("CREATE ROLE alice LOGIN; CREATE ROLE bob LOGIN")
        self.sql("CREATE TABLE secret (a int); CREATE TABLE ran (who text, session text, path text); "
                 "GRANT INSERT, SELECT ON ran TO PUBLIC")
        for role in ("alice", "bob"):
            self.addCleanup(self.cluster.sql, f"DROP ROLE IF EXISTS {role}")
            self.addCleanup(self.sql, f"DO $$ BEGIN IF to_regrole('{role}') IS NOT NULL THEN DROP OWNED BY {role}; END IF; END $$")

    def test_runs_as_its_owner(self) -> None:
        self.sql("ALTER ROLE alice SET search_path = 'pg_catalog, public'")
        job = self.schedule("mine", "manual", "INSERT INTO public.ran VALUES (current_user, session_user, "
                            "current_setting('search_path'))", user="alice")
        self.assertEqual(self.run_now(job)["status"], "succeeded")
        self.assertEqual(self.sql("SELECT who, session FROM ran"), [("alice", "alice")])
        # A superuser who runs it does not lend it rights.
        job = self.schedule("greedy", "manual", "INSERT INTO public.secret VALUES (1)", user="alice", max_retries=0)
        run = self.run_now(job)
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "42501"))
        for trick in ("RESET SESSION AUTHORIZATION; INSERT INTO public.secret VALUES (1)", "SET ROLE postgres",
                      "SET SESSION AUTHORIZATION postgres", "UPDATE perf.job SET owner = 'postgres'"):
            with self.subTest(trick):
                run = self.run_now(self.schedule(trick, "manual", trick, user="alice", max_retries=0))
                self.assertEqual((run["status"], run["sqlstate"]), ("failed", "42501"))
        self.assertEqual(self.sql("SELECT * FROM secret"), [])

    def test_rights_are_those_of_run_time(self) -> None:
        self.sql("GRANT INSERT ON secret TO alice")
        job = self.schedule("fills", "manual", "INSERT INTO secret VALUES (1)", user="alice", max_retries=0)
        self.assertEqual(self.run_now(job)["status"], "succeeded")
        self.sql("REVOKE INSERT ON secret FROM alice")
        self.assertEqual(self.run_now(job)["sqlstate"], "42501")

    def test_nobody_elses_jobs(self) -> None:
        job = self.schedule("mine", "1 hour", "SELECT 1", user="alice")
        run = self.run_now(job)["run_id"]
        self.assertEqual(self.sql("SELECT name, owner FROM perf.jobs", user="alice"), [("mine", "alice")])
        self.assertEqual(self.sql("SELECT name, owner FROM perf.jobs"), [("mine", "alice")])
        for query in ("SELECT * FROM perf.jobs", "SELECT * FROM perf.job_runs"):
            self.assertEqual(self.sql(query, user="bob"), [])
        for call in (f"job_pause({job})", f"job_resume({job})", f"job_run_now({job})", f"job_unschedule({job})",
                     f"job_wait({run})", f"job_cancel({run})"):
            with self.subTest(call):
                error = self.assert_sql_error("42704", self.cluster, f"SELECT perf.{call}", dbname=self.database, user="bob")
                self.assertIn("does not exist", str(error))
        for query in ("SELECT * FROM perf.job", "SELECT * FROM perf.job_run", "INSERT INTO perf.job_run DEFAULT VALUES"):
            self.assert_sql_error("42501", self.cluster, query, dbname=self.database, user="bob")
        # The same name is another job.
        self.assertNotEqual(self.schedule("mine", "1 hour", "SELECT 1", user="bob"), job)

    def test_functions_of_the_owner_cannot_reach_the_records(self) -> None:
        # Everything a role can put in the way of a careless statement: a search path of its own, operators and functions
        # of the same name, temporary tables.
        self.sql("CREATE SCHEMA trap AUTHORIZATION alice; GRANT CREATE ON SCHEMA public TO alice")
        with self.cluster.connect(self.database, user="alice") as session:
            for signature in ("pg_notify(text, text)", "clock_timestamp()", "jsonb_set(jsonb, text[], jsonb, boolean)"):
                returns = {"p": "void", "c": "timestamptz", "j": "jsonb"}[signature[0]]
                session.query(f"CREATE FUNCTION trap.{signature} RETURNS {returns} LANGUAGE plpgsql AS "
                              "'BEGIN INSERT INTO public.ran VALUES (current_user, session_user, ''trapped''); RETURN NULL; END'"
                              .replace("RETURN NULL; ", "" if returns == "void" else "RETURN NULL; "))
            session.query("CREATE FUNCTION trap.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS "
                          "'BEGIN INSERT INTO public.ran VALUES (current_user, session_user, ''trapped''); RETURN true; END'")
            session.query("CREATE OPERATOR trap.= (leftarg = bigint, rightarg = bigint, function = trap.eq)")
            session.query("SET search_path = trap, pg_catalog")
            job = session.query("SELECT perf.job_schedule('trap', 'manual', "
                                "'SET search_path = trap, pg_catalog; CREATE TEMP TABLE job_run (a int); SELECT 1 / 0', "
                                "max_retries => 1)").scalar()
            session.query(f"SELECT perf.job_pause({job}), perf.job_resume({job})")
        self.assertEqual(self.run_now(job)["status"], "failed")
        self.assertEqual(self.sql("SELECT * FROM ran WHERE who <> 'alice'"), [])
        self.assertEqual(self.sql("SELECT * FROM ran"), [])

    def test_owner_dropped(self) -> None:
        job = self.schedule("orphan", "1 s", "SELECT 1", user="alice")
        self.wait_for_runs(job, 1)
        self.sql("DROP OWNED BY alice; DROP ROLE alice")
        self.wait_until(lambda: self.value("SELECT enabled FROM perf.jobs") is False, 10, "the job to be switched off")
        last = self.runs(job)[-1]
        self.assertEqual((last["status"], last["sqlstate"]), ("failed", "42704"))

    def test_owner_who_may_not_connect(self) -> None:
        job = self.schedule("out", "manual", "SELECT 1", user="alice", max_retries=0)
        self.sql(f"REVOKE CONNECT ON DATABASE {self.database} FROM PUBLIC")
        run = self.run_now(job)
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "42501"))
        self.sql(f"GRANT CONNECT ON DATABASE {self.database} TO PUBLIC")
        self.sql("ALTER ROLE alice NOLOGIN")
        run = self.run_now(job)
        if self.cluster.major >= 17:
            self.assertEqual(run["status"], "succeeded")
        else:
            self.assertEqual((run["status"], run["sqlstate"]), ("failed", "28000"))
        self.sql("ALTER ROLE alice LOGIN CONNECTION LIMIT 0")
        self.assertEqual(self.run_now(job)["status"], "failed")


class Sharing(JobTest):
    """Places are shared."""

    def test_nobody_takes_all_places(self) -> None:
        self.cluster.configure({"perf_opt.max_running_jobs": 2}, reload=True)
        self.addCleanup(self.cluster.configure, {"perf_opt.max_running_jobs": 8}, True)
        for role in ("greedy", "modest"):
            self.sql(f"CREATE ROLE {role} LOGIN")
            self.addCleanup(self.cluster.sql, f"DROP ROLE {role}")
        jobs = [self.schedule(f"g{number}", "manual", "SELECT pg_sleep(60)", user="greedy") for number in range(4)]
        for job in jobs:
            self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        running = "SELECT count(*) FROM perf.job_runs WHERE status = 'running' AND owner = 'greedy'"
        self.wait_until(lambda: self.value(running) == 1, 15, "the first run")
        other = self.schedule("m", "manual", "SELECT 1", user="modest", priority=-5)
        self.assertEqual(self.run_now(other, timeout=10)["status"], "succeeded")
        self.assertEqual(self.value(running), 1)
        # The scheduler rests although runs wait and a place is free.
        transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        before = self.value(transactions)
        self.value("SELECT pg_sleep(2)")
        self.assertLess(self.value(transactions) - before, 60)
        self.sql("SELECT perf.job_cancel(run_id) FROM perf.job_runs WHERE finished_at IS NULL")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.job_runs WHERE finished_at IS NULL") == 0, 10, "the end")

    def test_two_phase_commit_is_refused(self) -> None:
        cluster = self.private_cluster({**SETTINGS, "max_prepared_transactions": 2})
        cluster.sql("CREATE EXTENSION perf_opt")
        with cluster.connect() as session:
            session.query("BEGIN; SELECT perf.job_schedule('a', '1 s', 'SELECT 1')")
            with self.assertRaises(SqlError) as caught:
                session.query("PREPARE TRANSACTION 'two'")
            self.assertEqual(caught.exception.sqlstate, "0A000")
        self.assertEqual(cluster.sql("SELECT * FROM perf.jobs"), [])


class Places(JobTest):
    """Databases, standbys, clients."""

    def test_two_databases(self) -> None:
        other = self.fresh_database()
        for database in (self.database, other):
            self.cluster.sql("CREATE TABLE ran AS SELECT 1 WHERE false", dbname=database)
            self.cluster.sql("SELECT perf.job_schedule('here', '1 s', 'INSERT INTO ran VALUES (1)')", dbname=database)
        for database in (self.database, other):
            self.wait_until(lambda: self.cluster.scalar("SELECT count(*) FROM ran", dbname=database) > 1, 20, database)

    def test_extension_dropped_while_a_job_runs(self) -> None:
        self.sql("CREATE TABLE t (a int)")
        self.schedule("long", "manual", "SELECT pg_sleep(1.5); INSERT INTO t VALUES (1)")
        self.sql("SELECT perf.job_run_now(job_id) FROM perf.jobs")
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perf_opt job long' "
                                           "AND wait_event = 'PgSleep'") == 1, 10, "the run")
        self.sql("DROP EXTENSION perf_opt")
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type IN "
                                           "('perf_opt job', 'perf_opt scheduler') AND datname = current_database()") == 0, 10,
                        "the workers to end")
        # The work is the user's, and is done.
        self.assertEqual(self.sql("SELECT a FROM t"), [(1,)])
        self.sql("CREATE EXTENSION perf_opt")
        self.assertEqual(self.run_now(self.schedule("again", "manual", "SELECT 1"))["status"], "succeeded")

    def test_extension_made_again_while_a_job_runs(self) -> None:
        def start(name: str, seconds: int) -> int:
            run_id = self.value("SELECT perf.job_run_now($1::bigint)",
                                (self.schedule(name, "manual", f"SELECT pg_sleep({seconds})", max_retries=0),))
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND "
                                               f"application_name = 'perf_opt job {name}'") == 1, 10, name)
            return run_id
        old = start("old", 4)
        self.sql("DROP EXTENSION perf_opt")
        self.sql("CREATE EXTENSION perf_opt")
        self.assertEqual(start("new", 60), old)  # numbers start again
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perf_opt job old'")
                        == 0, 10, "the old run to end")
        self.assertEqual(self.job_run(old)["status"], "running")
        self.assertTrue(self.value("SELECT perf.job_cancel($1::bigint)", (old,)))

    def test_progress_and_process_of_a_run(self) -> None:
        self.sql("CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 300000) g")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)",
                            (self.schedule("build", "manual", "CREATE INDEX CONCURRENTLY t_a ON t (a)"),))
        with self.cluster.connect(self.database) as blocker:
            # The build waits for our snapshot in its last phase but one: long enough to be seen.
            blocker.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t WHERE a < 0")
            self.wait_until(lambda: self.sql("SELECT r.phase FROM perf.job_runs r JOIN pg_stat_activity a ON a.pid = r.pid "
                                             "WHERE r.run_id = $1::bigint AND a.application_name = 'perf_opt job build' "
                                             "AND r.phase LIKE 'waiting for%'", (run_id,)) != [], 20, "the build to wait")
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 20, "the build")
        self.assertEqual((self.job_run(run_id)["pid"], self.job_run(run_id)["phase"]), (None, None))

    def test_old_history_is_removed(self) -> None:
        # In one transaction: the scheduler tidies up when it starts, which is when it hears of the jobs.
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN")
            job, other = (session.query(f"SELECT perf.job_schedule('{name}', 'manual', 'SELECT 1')").scalar()
                          for name in ("old", "rare"))
            session.query("INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, finished_at, status) "
                          f"SELECT {job}, 'old', 'postgres', true, at, at, 'succeeded' "
                          "FROM generate_series(now() - '30 days'::interval, now() - '20 days'::interval, '1 day') at")
            session.query("INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, finished_at, status) "
                          f"VALUES ({other}, 'rare', 'postgres', true, now() - '1 year'::interval, "
                          "now() - '1 year'::interval, 'failed')")
            session.query("COMMIT")
        self.wait_until(lambda: len(self.runs(job)) == 1, 15, "the old runs to go")
        # The latest run of a job stays, however old it is.
        self.assertEqual([run["status"] for run in self.runs(other)], ["failed"])

    def test_database_renamed_and_dropped(self) -> None:
        job = self.schedule("often", "1 s", "SELECT 1")
        self.wait_for_runs(job, 1)
        renamed = self.database + "_renamed"
        self.wait_until(lambda: self._rename(self.database, renamed), 20, "the renaming")
        self.addCleanup(self.cluster.sql, f"DROP DATABASE IF EXISTS {renamed} WITH (FORCE)")
        self.database = renamed
        self.wait_for_runs(job, len(self.runs(job)) + 2)

    def _rename(self, old: str, new: str) -> bool:
        """Renames a database, unless a run is just under way in it."""
        try:
            self.cluster.sql(f"ALTER DATABASE {old} RENAME TO {new}")
        except SqlError as error:
            self.assertEqual(error.sqlstate, "55006")
            return False
        return True

    def test_standby_runs_nothing_until_promoted(self) -> None:
        primary = self.private_cluster(SETTINGS)
        primary.sql("CREATE EXTENSION perf_opt")
        primary.sql("CREATE TABLE ran (server text)")
        primary.sql("SELECT perf.job_schedule('often', '1 s', 'INSERT INTO ran SELECT current_setting(''cluster_name'')')")
        standby = primary.standby(settings={"cluster_name": "standby"})
        self.addCleanup(standby.destroy)
        self.assert_sql_error("25006", standby, "SELECT perf.job_schedule('no', '1 s', 'SELECT 1')")
        self.assertEqual(standby.sql("SELECT name FROM perf.jobs"), [("often",)])
        self.assertEqual(standby.sql("SELECT 1 FROM pg_stat_activity WHERE backend_type IN ('perf_opt scheduler', "
                                     "'perf_opt job')"), [])
        self.wait_until(lambda: primary.scalar("SELECT count(*) FROM ran") > 0, 15, "a run on the primary")
        primary.wait_for_replay(standby)
        primary.stop("immediate")
        standby.promote()
        self.wait_until(lambda: standby.scalar("SELECT count(*) FROM ran WHERE server = 'standby'") > 0, 5, "a run")

    def test_dump_and_restore_keep_jobs(self) -> None:
        self.schedule("kept", "1 hour", "SELECT 1", time_zone="Europe/Berlin", priority=7)
        dump = subprocess.run([self.cluster.program("pg_dump"), *self.cluster.psql_args(self.database)[1:]],
                              check=True, capture_output=True, text=True).stdout
        target = self.fresh_database(extension=False)
        self.cluster.psql(dbname=target, stdin=dump)
        self.assertEqual(self.cluster.sql("SELECT name, schedule, time_zone, priority, owner FROM perf.jobs", dbname=target),
                         [("kept", "1 hour", "Europe/Berlin", 7, "postgres")])
        self.assertEqual(self.cluster.scalar("SELECT perf.job_schedule('next', 'manual', 'SELECT 1') > max(job_id) "
                                             "FROM perf.jobs WHERE name = 'kept'", dbname=target), True)

    def test_without_preloading(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": ""})
        cluster.sql("CREATE EXTENSION perf_opt")
        for call in ("job_schedule('a', '1 s', 'SELECT 1')", "job_run_now(1)", "job_wait(1)", "job_cancel(1)"):
            error = self.assert_sql_error("55000", cluster, f"SELECT perf.{call}")
            self.assertIn("shared_preload_libraries", str(error))
        self.assertEqual(cluster.sql("SELECT * FROM perf.jobs"), [])


class Surviving(JobTest):
    """Crashes and stops."""

    expects_crash = True
    uses_shared_cluster = False

    def test_crash_in_the_middle_of_a_run(self) -> None:
        cluster = self.private_cluster(SETTINGS)
        cluster.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (a int)")
        job = cluster.scalar("SELECT perf.job_schedule('work', '2 s', 'INSERT INTO t VALUES (1); SELECT pg_sleep(0.7)')")
        for _ in range(3):
            self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = "
                                                   "'perf_opt job work' AND wait_event = 'PgSleep'") == 1, 15, "a run")
            victim = cluster.scalar("SELECT pid FROM pg_stat_activity WHERE application_name = 'perf_opt job work'")
            cluster.crash(victim)
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE status = 'succeeded' "
                                               "AND attempt = 1") > 1, 20, "undisturbed runs")
        cluster.sql(f"SELECT perf.job_pause({job})")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE finished_at IS NULL") == 0, 20, "rest")
        # Each tick has one row, each row one end, each success one row of work.
        self.assertEqual(cluster.scalar("SELECT sum(attempt - 1) FROM perf.job_runs WHERE status = 'succeeded'"), 3)
        self.assertEqual(cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE status = 'succeeded'"),
                         cluster.scalar("SELECT count(*) FROM t"))

    def test_missed_ticks(self) -> None:
        cluster = self.private_cluster(SETTINGS)
        cluster.sql("CREATE EXTENSION perf_opt")
        jobs = {policy: cluster.scalar(f"SELECT perf.job_schedule('{policy}', '1 s', 'SELECT 1', catch_up => '{policy}')")
                for policy in ("run_once", "skip", "all")}
        cluster.stop()
        cluster.configure({"perf_opt.max_running_jobs": 0})
        cluster.start()
        # As after ten minutes of downtime: all but the last ticks of a minute are too old to run where they are skipped.
        cluster.sql("SELECT perf.job_pause(job_id) FROM perf.jobs")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE status = 'running'") == 0, 10, "rest")
        cluster.sql("DELETE FROM perf.job_run")
        cluster.sql("UPDATE perf.job SET next_run_at = date_trunc('second', now()) - '10 min'::interval, "
                    "anchor_at = date_trunc('second', now()) - '1 hour'::interval, paused_until = NULL")
        cluster.stop()
        cluster.configure({"perf_opt.max_running_jobs": 8})
        cluster.start()
        for policy, job in jobs.items():
            self.wait_until(lambda: cluster.scalar(
                "SELECT count(*) FROM perf.job_runs WHERE job_id = $1::bigint AND status IN ('succeeded', 'skipped')", (job,))
                > 1, 20, policy)
        cluster.sql("SELECT perf.job_pause(job_id) FROM perf.jobs")
        count = "SELECT coalesce((detail ->> 'ticks')::int, 1) FROM perf.job_runs WHERE job_id = $1::bigint ORDER BY run_id LIMIT 1"
        self.assertGreaterEqual(cluster.scalar(count, (jobs["run_once"],)), 599)
        self.assertGreaterEqual(cluster.scalar(count, (jobs["skip"],)), 530)
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE job_id = $1::bigint "
                                               "AND status IN ('queued', 'succeeded', 'running')", (jobs["all"],)) >= 600, 10,
                        "a run for each tick")

    def test_fast_stop_during_a_long_command(self) -> None:
        cluster = self.private_cluster(SETTINGS)
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("SELECT perf.job_run_now(perf.job_schedule('long', 'manual', "
                    "'SELECT count(*) FROM generate_series(1, 100000000000)'))")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = "
                                               "'perf_opt job long'") == 1, 15, "the run")
        started = time.monotonic()
        cluster.stop("fast")
        self.assertLess(time.monotonic() - started, 2.0)

"""Jobs: what runs, as whom, when, and what is written down of it."""

from __future__ import annotations

from .jobs_case import JobTest


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

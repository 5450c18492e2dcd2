"""Materialized views: when they are refreshed, when not, and how."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Optional

from .jobs_case import JobTest
from .matview_histories import SETTINGS, run as run_histories

SAMPLE = Path(__file__).resolve().parents[1] / "demo" / "schema.sql"


class MatviewTest(JobTest):
    """A test of jobs that refresh views."""

    settings = {**SETTINGS, "autovacuum": "off"}

    def matview_job(self, view: str, schedule: str = "30 days", user: str = "postgres", **options: Any) -> int:
        """Schedules the refresh of a view; the job's number."""
        named = "".join(f", {key} => ${index + 3}" for index, key in enumerate(options))
        return self.value(f"SELECT perf.matview_schedule($1, $2{named})", (view, schedule, *options.values()), user=user)

    def refresh(self, job: int) -> dict[str, Any]:
        """Runs a job: its run, which must have ended well."""
        run = self.run_now(job)
        self.assertIn(run["status"], ("succeeded", "skipped"), run)
        return run

    def assert_refreshed(self, job: int, because: Optional[str] = None) -> dict[str, Any]:
        """Runs a job, which must refresh."""
        run = self.refresh(job)
        self.assertEqual(run["status"], "succeeded", run)
        if because is not None:
            self.assertRegex(run["detail"]["refreshed_because"], because)
        return run

    def assert_skipped(self, job: int) -> dict[str, Any]:
        """Runs a job, which must find nothing to do."""
        run = self.refresh(job)
        self.assertEqual(run["status"], "skipped", run)
        return run


class Skipping(MatviewTest):
    """A refresh is left out when nothing has changed, and only then."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("""CREATE TABLE t (id int PRIMARY KEY, n int);
                    INSERT INTO t SELECT g, g % 10 FROM generate_series(1, 100) g;
                    CREATE MATERIALIZED VIEW v AS SELECT n, count(*) AS c FROM t GROUP BY n;
                    CREATE UNIQUE INDEX v_n ON v (n)""")

    def test_idle_table_is_skipped_and_a_change_is_not(self) -> None:
        job = self.matview_job("v")
        run = self.assert_refreshed(job, "no refresh by a job")
        self.assertEqual((run["detail"]["mode"], run["detail"]["rows"]), ("concurrent", 10))
        for _ in range(2):
            run = self.assert_skipped(job)
            self.assertEqual(run["message"], "nothing has changed since the last refresh")
        self.sql("INSERT INTO t VALUES (1000, 77)")
        self.assert_refreshed(job, r"changed: public\.t")
        self.assertEqual(self.sql("SELECT c FROM v WHERE n = 77"), [(1,)])
        self.assert_skipped(job)

    def test_plain_mode_is_skipped_too(self) -> None:
        job = self.matview_job("v", mode="plain")
        run = self.assert_refreshed(job)
        self.assertEqual(run["detail"]["mode"], "plain")
        self.assert_skipped(job)
        self.sql("UPDATE t SET n = 5 WHERE id = 1")
        self.assert_refreshed(job)
        self.assert_skipped(job)

    def test_every_way_of_writing_is_seen(self) -> None:
        self.sql("""CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 50);
                    ALTER TABLE t ADD COLUMN p int REFERENCES parent ON DELETE CASCADE;
                    UPDATE t SET p = id WHERE id <= 50""")
        job = self.matview_job("v")
        self.assert_refreshed(job)
        for write in ("INSERT INTO t (id, n) VALUES (2000, 1)", "UPDATE t SET n = 3 WHERE id = 2000",
                      "DELETE FROM t WHERE id = 2000", "DELETE FROM parent WHERE id = 1",
                      "COPY t (id, n) FROM PROGRAM 'echo 2001,9' WITH (FORMAT csv)",
                      "SET track_counts = off; INSERT INTO t (id, n) VALUES (2002, 1)",
                      "SET perf_opt.track = 'none'; INSERT INTO t (id, n) VALUES (2003, 1)",
                      "BEGIN; SAVEPOINT s; INSERT INTO t (id, n) VALUES (2004, 1); RELEASE s; COMMIT",
                      "ALTER TABLE t ADD COLUMN extra float8 DEFAULT random()", "TRUNCATE t"):
            with self.subTest(write):
                self.sql(write)
                self.assert_refreshed(job)
                self.assertEqual(self.value("SELECT count(*) FROM (TABLE v EXCEPT SELECT n, count(*) FROM t GROUP BY n) d"), 0)
                self.assert_skipped(job)

    def test_what_changes_nothing_is_skipped(self) -> None:
        job = self.matview_job("v")
        self.assert_refreshed(job)
        for harmless in ("BEGIN; INSERT INTO t VALUES (3000, 1); ROLLBACK",
                         "BEGIN; SAVEPOINT s; DELETE FROM t; ROLLBACK TO s; COMMIT",
                         "BEGIN; SELECT * FROM t FOR UPDATE; COMMIT", "SELECT pg_stat_reset()", "ANALYZE t", "VACUUM t",
                         "CREATE TABLE other AS SELECT 1 AS a", "INSERT INTO other VALUES (2)"):
            with self.subTest(harmless):
                self.sql(harmless)
                self.assert_skipped(job)

    def test_transaction_open_during_the_refresh(self) -> None:
        job = self.matview_job("v")
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO t VALUES (4000, 88)")
            self.assert_refreshed(job)
            writer.query("COMMIT")
        self.assert_refreshed(job, "changed|was being written")
        self.assertEqual(self.sql("SELECT c FROM v WHERE n = 88"), [(1,)])
        self.assert_refreshed(job) if self.runs(job)[-1]["detail"].get("cannot_be_skipped") else self.assert_skipped(job)

    def test_definitions_and_files(self) -> None:
        self.sql("CREATE VIEW between AS SELECT n FROM t WHERE n > 2; "
                 "CREATE MATERIALIZED VIEW above AS SELECT count(*) AS c FROM between")
        job = self.matview_job("above")
        self.assert_refreshed(job)
        self.assert_skipped(job)
        self.sql("CREATE OR REPLACE VIEW between AS SELECT n FROM t WHERE n > 5")
        self.assert_refreshed(job, "defined anew")
        self.assertEqual(self.value("SELECT c FROM above"), 40)
        self.sql("REFRESH MATERIALIZED VIEW above WITH NO DATA")
        self.assert_refreshed(job, "not populated")
        self.sql("REFRESH MATERIALIZED VIEW above")
        self.assert_refreshed(job, "somebody else")
        self.assert_skipped(job)

    def test_partitions_come_and_go(self) -> None:
        self.sql("""CREATE TABLE p (id int, n int) PARTITION BY RANGE (id);
                    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
                    CREATE TABLE p2 (id int, n int); INSERT INTO p2 VALUES (15, 1);
                    CREATE MATERIALIZED VIEW w AS SELECT count(*) AS c FROM p""")
        job = self.matview_job("w")
        self.assert_refreshed(job)
        for change, count in (("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)", 1),
                              ("INSERT INTO p2 VALUES (16, 1)", 2), ("INSERT INTO p VALUES (3, 1)", 3),
                              ("ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY", 1),
                              ("TRUNCATE p", 0)):
            with self.subTest(change):
                self.sql(change)
                self.assert_refreshed(job)
                self.assertEqual(self.value("SELECT c FROM w"), count)
                self.assert_skipped(job)

    def test_what_cannot_be_known_is_refreshed(self) -> None:
        self.sql("""CREATE FUNCTION plain(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END';
                    CREATE AGGREGATE own_sum(int) (SFUNC = int4pl, STYPE = int)""")
        self.sql("""CREATE FUNCTION rnd(float8, int) RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT random()';
                    CREATE AGGREGATE unsteady(int) (SFUNC = rnd, STYPE = float8);
                    CREATE TABLE secured (a int); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
                    CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw;
                    CREATE FOREIGN TABLE far (a int) SERVER s; CREATE SEQUENCE q;
                    CREATE VIEW today AS SELECT n, current_date AS d FROM t""")
        self.schedule("keeps the scheduler here", "30 days", "SELECT 1")
        for query, why in (("SELECT now() AS a", r"now\(\)"), ("SELECT random() AS a", r"random\(\)"),
                           ("SELECT current_date AS a", "the time"), ("SELECT d AS a FROM today", "the time"),
                           ("SELECT plain(n) AS a FROM t", r"plain\(\)"), ("SELECT unsteady(n) AS a FROM t", r"rnd\(\)"),
                           ("SELECT n AS a FROM t TABLESAMPLE BERNOULLI (50)", "TABLESAMPLE"),
                           ("SELECT relname AS a FROM pg_class", "belongs to the system"),
                           ("SELECT last_value AS a FROM q", "no table"), ("SELECT a FROM secured", "row security"),
                           ("SELECT id::text::timestamptz AS a FROM t WHERE false", "stable"),
                           ("SELECT json_agg(n) AS a FROM t", "stable"),
                           ("SELECT xmax::text AS a FROM t", "system columns|stable"), ("SELECT xmax AS a FROM t", "system columns"),
                           ("SELECT to_tsvector('simple', repeat('a', n)) AS a FROM t", "text search"),
                           ("SELECT (SELECT max(x) FROM (SELECT now() AS x) y) AS a FROM t", r"now\(\)")):
            with self.subTest(query):
                self.sql(f"CREATE MATERIALIZED VIEW unsure AS {query}")
                job = self.matview_job("unsure", mode="plain")
                self.assert_refreshed(job)
                run = self.assert_refreshed(job, "cannot be told")
                self.assertRegex(run["detail"]["cannot_be_skipped"], why)
                self.sql("SELECT perf.matview_unschedule('unsure')")
                self.sql("DROP MATERIALIZED VIEW unsure")
        self.sql("CREATE MATERIALIZED VIEW sure AS SELECT n IN (SELECT id FROM t) AS a, own_sum(id) OVER (ORDER BY id) AS s, "
                 "CASE WHEN n > 1 THEN upper('a' || n::text) END AS u, array_agg(n) OVER () AS g FROM t")
        job = self.matview_job("sure")
        self.assert_refreshed(job)
        self.assert_skipped(job)

    def test_skipping_can_be_switched_off(self) -> None:
        job = self.matview_job("v", skip_unchanged=False)
        self.assert_refreshed(job)
        self.assert_refreshed(job)

    def test_histories(self) -> None:
        tally = run_histories(self.cluster, self.database, 4711, 300)
        self.assertEqual(tally.missed, [])
        self.assertGreater(tally.skipped, 50)
        self.assertGreater(tally.refreshed, 120)

    def test_restart_means_a_refresh(self) -> None:
        cluster = self.private_cluster(SETTINGS)
        cluster.sql("CREATE EXTENSION perf_opt; CREATE TABLE t AS SELECT 1 AS a; "
                    "CREATE MATERIALIZED VIEW v AS SELECT a FROM t; SELECT perf.matview_schedule('v', '1 s')")
        latest = "SELECT status FROM perf.job_runs WHERE finished_at IS NOT NULL ORDER BY run_id DESC LIMIT 1"
        self.wait_until(lambda: cluster.sql(latest) == [("skipped",)], 30, "a skipped refresh")
        cluster.restart()
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE status = 'succeeded' AND "
                                               "detail ->> 'refreshed_because' LIKE '%since the server started%'"),
                        30, "a refresh after the restart")


class Modes(MatviewTest):
    """Concurrent and plain."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("CREATE TABLE t AS SELECT g AS a, g % 3 AS b FROM generate_series(1, 30) g; "
                 "CREATE MATERIALIZED VIEW v AS SELECT a, b FROM t")

    def mode_of(self, job: int) -> tuple:
        """Mode of the next refresh, and why it is not the concurrent one."""
        detail = self.refresh(job)["detail"]
        return detail["mode"], detail.get("why_not_concurrent")

    def test_auto_follows_the_indexes(self) -> None:
        job = self.matview_job("v", skip_unchanged=False)
        self.assertEqual(self.mode_of(job), ("plain", "it has no unique index"))
        self.sql("CREATE UNIQUE INDEX v_a ON v (a) WHERE a > 0")
        self.assertEqual(self.mode_of(job), ("plain", "its unique indexes are partial: they have a WHERE clause"))
        self.sql("CREATE UNIQUE INDEX v_e ON v ((a + 1))")
        self.assertEqual(self.mode_of(job), ("plain", "its unique indexes are on expressions"))
        self.sql("CREATE UNIQUE INDEX v_u ON v (a)")
        self.assertEqual(self.mode_of(job), ("concurrent", None))
        self.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'v_u'::regclass")
        self.assertRegex(self.mode_of(job)[1], "not valid")
        self.sql("UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'v_u'::regclass; "
                 "REFRESH MATERIALIZED VIEW v WITH NO DATA")
        self.assertEqual(self.mode_of(job), ("plain", "it is not populated"))
        self.assertEqual(self.mode_of(job), ("concurrent", None))

    def test_concurrent_that_is_impossible_fails(self) -> None:
        run = self.run_now(self.matview_job("v", mode="concurrent", max_retries=0))
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "55000"))
        self.assertIn("it has no unique index", run["message"])
        self.assertIn("unique index", run["detail"]["hint"])

    def test_readers_are_not_blocked(self) -> None:
        self.sql("CREATE UNIQUE INDEX ON v (a)")
        job = self.matview_job("v", mode="concurrent", skip_unchanged=False)
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN; SELECT * FROM v")
            self.sql("DELETE FROM t WHERE a = 1")
            self.assert_refreshed(job)
            self.assertEqual(reader.query("SELECT count(*) FROM v").scalar(), 29)
        # And while a refresh is under way: its lock lets readers in.
        self.sql("CREATE FUNCTION slow(int) RETURNS int LANGUAGE sql AS 'SELECT $1 FROM pg_sleep(1)'; "
                 "CREATE MATERIALIZED VIEW s AS SELECT slow(1) AS a; CREATE UNIQUE INDEX ON s (a)")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (self.matview_job("s", mode="concurrent"),))
        held = "SELECT count(*) FROM pg_locks WHERE relation = 's'::regclass AND mode = 'ExclusiveLock' AND granted"
        self.wait_until(lambda: self.value(held), 20, "the refresh")
        self.sql("SET lock_timeout = '100ms'; SELECT * FROM s")
        self.assertEqual(self.job_run(run_id)["status"], "running")

    def test_lock_held_by_somebody_else(self) -> None:
        job = self.matview_job("v", mode="plain", lock_timeout="50 ms", max_retries=5)
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN; SELECT * FROM v")
            run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
            self.wait_until(lambda: self.job_run(run_id)["sqlstate"] == "55P03", 20, "a lock timeout")
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 20, "a try that gets the lock")
        run = self.job_run(run_id)
        self.assertEqual(run["detail"]["attempts"][0]["sqlstate"], "55P03")
        self.assertGreaterEqual(run["lock_wait_ms"], 0)


class Order(MatviewTest):
    """Views upon views."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("""CREATE TABLE t AS SELECT 1 AS a;
                    CREATE FUNCTION slow(int) RETURNS int LANGUAGE sql AS 'SELECT $1 FROM pg_sleep(1)';
                    CREATE MATERIALIZED VIEW lower AS SELECT slow(max(a)) AS a FROM t;
                    CREATE VIEW between AS SELECT a FROM lower;
                    CREATE MATERIALIZED VIEW upper AS SELECT a FROM between""")

    def test_view_waits_for_what_it_reads(self) -> None:
        lower, upper = self.matview_job("lower"), self.matview_job("upper")
        self.assertEqual(self.sql("SELECT priority FROM perf.jobs ORDER BY job_id"), [(0,), (-1,)])
        for value in (2, 3):
            self.sql(f"UPDATE t SET a = {value}")
            self.sql("SELECT perf.job_run_now(j) FROM unnest($1::bigint[]) j", (f"{{{lower},{upper}}}",))
            runs = self.wait_for_runs(upper, value - 1)
            self.assertEqual(self.value("SELECT a FROM upper"), value)
            self.assertGreater(runs[-1]["detail"]["upstream_wait_ms"], 200)

    def test_failing_view_does_not_hold_up_another(self) -> None:
        self.sql("CREATE TABLE u AS SELECT 1 AS a; CREATE MATERIALIZED VIEW bad AS SELECT 1 / a AS a FROM u; "
                 "CREATE MATERIALIZED VIEW reads AS SELECT a FROM bad; UPDATE u SET a = 0")
        bad, reads = self.matview_job("bad"), self.matview_job("reads")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (bad,))
        self.wait_until(lambda: self.job_run(run_id)["sqlstate"] == "22012", 20, "the failure")
        started = time.monotonic()
        self.assert_refreshed(reads)
        self.assertLess(time.monotonic() - started, 15)
        self.assertIn(self.job_run(run_id)["status"], ("queued", "running"))


class Scheduling(MatviewTest):
    """matview_schedule, matview_unschedule, perf.matviews, matview_policy_apply."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("CREATE TABLE t AS SELECT 1 AS a; CREATE MATERIALIZED VIEW v AS SELECT a FROM t")

    def test_bad_input(self) -> None:
        self.sql("CREATE VIEW plain AS SELECT 1 AS a")
        for call, sqlstate, text in (("'nosuch', '5 min'", "42P01", "nosuch"), ("'t', '5 min'", "22023", "public.t"),
                                     ("'plain', '5 min'", "22023", "public.plain"), ("0, '5 min'", "42704", "0"),
                                     ("NULL, '5 min'", "22004", "view"), ("'v', NULL", "22004", "schedule"),
                                     ("'v', 'soon'", "22023", "schedule"), ("'v', '0 0 30 2 *'", "22023", "schedule"),
                                     ("'v', '61 * * * *'", "22023", "schedule"),
                                     ("'v', '5 min', time_zone => 'Mars/Base'", "22023", "Mars"),
                                     ("'v', '5 min', mode => 'fast'", "22023", "fast"),
                                     ("'v', '5 min', timeout => '0'", "22023", "timeout"),
                                     ("'v', '5 min', lock_timeout => '-1 s'", "22023", "lock_timeout"),
                                     ("'v', '5 min', max_retries => -1", "22023", "max_retries")):
            with self.subTest(call):
                error = self.assert_sql_error(sqlstate, self.cluster, f"SELECT perf.matview_schedule({call})",
                                              dbname=self.database)
                self.assertIn(text, str(error))
        self.assertEqual(self.sql("SELECT * FROM perf.jobs"), [])
        self.assert_sql_error("42704", self.cluster, "SELECT perf.matview_unschedule('v')", dbname=self.database)

    def test_rights(self) -> None:
        self.sql("CREATE ROLE mv_owner LOGIN; CREATE ROLE mv_other LOGIN; ALTER MATERIALIZED VIEW v OWNER TO mv_owner; "
                 "GRANT SELECT ON t TO mv_owner")
        self.addCleanup(self.cluster.sql, "DROP ROLE mv_other")
        self.addCleanup(self.cluster.sql, "DROP ROLE IF EXISTS mv_owner")
        call = "SELECT perf.matview_schedule('v', '5 min')"
        self.assert_sql_error("42501", self.cluster, call, dbname=self.database, user="mv_other")
        job = self.matview_job("v", user="mv_owner")
        self.assert_refreshed(job)
        # Others see the view and its age, but not the job, and cannot remove it.
        seen = "SELECT view_name, last_refresh_at IS NOT NULL, job_id FROM perf.matviews"
        self.assertEqual(self.sql(seen, user="mv_owner"), [("public.v", True, job)])
        self.assertEqual(self.sql(seen, user="mv_other"), [("public.v", True, None)])
        self.assert_sql_error("42704", self.cluster, "SELECT perf.matview_unschedule('v')", dbname=self.database,
                              user="mv_other")
        # A right that is lost is missed when the job runs.
        self.sql("ALTER MATERIALIZED VIEW v OWNER TO postgres; INSERT INTO t VALUES (2)")
        self.sql("UPDATE perf.job SET max_retries = 0")
        run = self.run_now(job)
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "42501"))
        # The new owner takes the job over; then the old one may go.
        self.assertEqual(self.matview_job("v"), job)
        self.assertEqual(self.sql("SELECT owner, kind, name FROM perf.jobs"), [("postgres", "matview", "refresh public.v")])
        self.assert_refreshed(job)
        self.sql("ALTER MATERIALIZED VIEW v OWNER TO mv_owner")
        self.assertEqual(self.matview_job("v", user="mv_owner"), job)
        self.sql("REASSIGN OWNED BY mv_owner TO postgres; DROP OWNED BY mv_owner; DROP ROLE mv_owner")
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
        self.wait_until(lambda: self.job_run(run_id)["status"] == "failed", 20, "the end")
        self.assertEqual(self.job_run(run_id)["sqlstate"], "42704")

    def test_one_job_a_view(self) -> None:
        job = self.matview_job("v", "5 min")
        self.assertEqual(self.matview_job("v", "hourly", mode="plain"), job)
        self.sql("ALTER MATERIALIZED VIEW v RENAME TO renamed; CREATE MATERIALIZED VIEW v AS SELECT 5 AS a")
        other = self.matview_job("v")
        self.assertNotEqual(other, job)
        self.assertEqual(self.matview_job("renamed"), job)
        self.assertEqual(self.sql("SELECT target, name FROM perf.jobs ORDER BY job_id"),
                         [("public.renamed", "refresh public.renamed"), ("public.v", "refresh public.v")])
        self.sql("SELECT perf.matview_unschedule('v')")
        self.assertEqual(self.sql("SELECT job_id FROM perf.jobs"), [(job,)])

    def test_staleness(self) -> None:
        job = self.matview_job("v")
        self.assert_refreshed(job)
        self.sql("INSERT INTO t SELECT generate_series(1, 7)")
        stale = "SELECT writes_since, age >= '0', rows, last_mode, last_status FROM perf.matviews"
        self.wait_until(lambda: self.sql(stale)[0][0] == 7, 15, "the statistics")
        self.assertEqual(self.sql(stale), [(7, True, 1, "plain", "succeeded")])
        self.assert_refreshed(job)
        self.wait_until(lambda: self.sql(stale)[0][0] == 0, 15, "a fresh view")

    def test_view_dropped(self) -> None:
        job = self.matview_job("v", max_retries=0)
        self.sql("DROP MATERIALIZED VIEW v")
        run = self.run_now(job)
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "42P01"))
        self.assertIn("job_unschedule", run["detail"]["hint"])

    def test_view_dropped_while_its_lock_is_waited_for(self) -> None:
        job = self.matview_job("v", mode="plain", max_retries=0, lock_timeout="30 s", skip_unchanged=False)
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN; DROP MATERIALIZED VIEW v")
            run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_locks WHERE NOT granted"), 20, "the wait")
            session.query("COMMIT")
        self.wait_until(lambda: self.job_run(run_id)["status"] == "failed", 20, "the end")
        self.assertEqual(self.job_run(run_id)["sqlstate"], "42P01")

    def test_extension_dropped_while_running(self) -> None:
        self.sql("CREATE FUNCTION slow(int) RETURNS int LANGUAGE sql AS 'SELECT $1 FROM pg_sleep(1)'; "
                 "CREATE MATERIALIZED VIEW s AS SELECT slow(1) AS a WITH NO DATA")
        self.sql("SELECT perf.job_run_now(perf.matview_schedule('s', '30 days'))")
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND backend_type = 'perf_opt job'"
        self.wait_until(lambda: self.value(running), 20, "the refresh")
        self.sql("DROP EXTENSION perf_opt CASCADE")
        self.wait_until(lambda: not self.value(running), 20, "its end")
        self.assertEqual(self.sql("CREATE EXTENSION perf_opt; SELECT count(*) FROM perf.jobs"), [(0,)])

    def test_fast_shutdown_during_a_refresh(self) -> None:
        cluster = self.private_cluster(SETTINGS)
        cluster.sql("CREATE EXTENSION perf_opt; CREATE MATERIALIZED VIEW s AS SELECT count(*) FROM "
                    "generate_series(1, 100000) a, generate_series(1, 100000) b WITH NO DATA; "
                    "SELECT perf.job_run_now(perf.matview_schedule('s', '30 days'))")
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'REFRESH%' AND backend_type = 'perf_opt job'"
        self.wait_until(lambda: cluster.scalar(running), 20, "the refresh")
        started = time.monotonic()
        cluster.stop("fast")
        self.assertLess(time.monotonic() - started, 2)

    def test_policy_on_the_sample_platform(self) -> None:
        before, after = SAMPLE.read_text().split("-- Foreign keys", 1)
        self.sql("CREATE SCHEMA app")
        with self.cluster.connect(self.database) as session:
            session.query_all("SET search_path = app, public; " + before)
            session.query("INSERT INTO users (username, email, country) SELECT 'user' || g, g || '@x', 'SE' "
                          "FROM generate_series(1, 9) g")
            session.query("INSERT INTO game_results (user_id, game_code, stake, outcome, duration_s) "
                          "SELECT 1 + g % 9, 'slots', 1, 'win', 3 FROM generate_series(1, 90) g")
            rows = session.query("SELECT view_name, action, reason FROM perf.matview_policy_apply()").rows
            names = ("mv_active_alerts", "mv_risk_summary", "mv_cohort_summary", "mv_daily_metrics")
            self.assertEqual(rows, [(name, action, None) for name in names for action in ("created", "scheduled")])
            again = session.query("SELECT view_name, action, reason FROM perf.matview_policy_apply()").rows
            self.assertEqual(again, [(name, action, reason) for name in names
                                     for action, reason in (("exists", None), ("scheduled", "scheduled before"))])
            self.assertEqual(session.query("SELECT user_id, session_count FROM mv_cohort_summary "
                                           "WHERE session_count > 9 ORDER BY session_count DESC, 1 LIMIT 1").rows, [(1, 10)])
        jobs = self.sql("SELECT view_name, schedule, why_not_concurrent, job_id FROM perf.matviews "
                        "WHERE view_name LIKE 'app.%' ORDER BY 1")
        self.assertEqual([row[:3] for row in jobs],
                         [("app.mv_active_alerts", "5 min", None), ("app.mv_cohort_summary", "1 hour", None),
                          ("app.mv_daily_metrics", "daily", None), ("app.mv_risk_summary", "10 min", None)])
        for _, _, _, job in jobs:
            self.assert_refreshed(job)
            self.assert_skipped(job)
        nothing = self.sql("SELECT DISTINCT action, job_id FROM perf.matview_policy_apply()")
        self.assertEqual(nothing, [("not_applicable", None)])

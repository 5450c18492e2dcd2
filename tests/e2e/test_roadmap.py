"""perf.optimization_roadmap() and perf.deployment_checklist(): from what is missing to what is done, on servers of all sorts."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, Optional

from .case import ClusterTest
from .cluster import Cluster, SqlError
from .neighbours import with_pg_cron
from .system import clean_environment

TABLES = """
CREATE TABLE users (id bigint PRIMARY KEY, last_login timestamptz);
CREATE TABLE transactions (id bigint PRIMARY KEY, user_id bigint, created_at timestamptz, amount numeric);
CREATE TABLE alerts (id bigint PRIMARY KEY, alert_type text, severity text, status text, source text, user_id bigint, message text,
                     triggered_at timestamptz NOT NULL, acknowledged_at timestamptz);
INSERT INTO users SELECT g, now() - g * interval '1 min' FROM generate_series(1, 50000) g;
INSERT INTO transactions SELECT g, g % 5000, now() - g * interval '1 s', g FROM generate_series(1, 100000) g;
INSERT INTO alerts SELECT g, 'x', 'low', CASE WHEN g % 100 = 0 THEN 'triggered' ELSE 'resolved' END, 's', g, 'm',
                          now() - g * interval '1 min', NULL FROM generate_series(1, 20000) g;
ANALYZE
"""


class RoadmapTest(ClusterTest):
    """Looks tasks and items up."""

    settings = {"perf_opt.collect_interval": "1s"}

    def setUp(self) -> None:
        super().setUp()
        self.server = self.cluster
        self.db = self.fresh_database()

    def tasks(self, user: str = "postgres", budget_ms: int = 4000) -> dict[tuple[int, int], dict[str, Any]]:
        """All tasks, by phase and number."""
        rows = self.server.result("SELECT * FROM perf.optimization_roadmap($1::int)", (budget_ms,), dbname=self.db,
                                  user=user).dicts()
        return {(row["phase"], row["task_no"]): row for row in rows}

    def task(self, phase: int, task_no: int) -> dict[str, Any]:
        return self.tasks()[phase, task_no]

    def items(self, phase: Optional[str] = None, user: str = "postgres") -> dict[tuple[str, int], dict[str, Any]]:
        """Items of the checklist, by phase and number."""
        rows = self.server.result("SELECT * FROM perf.deployment_checklist($1)", (phase,), dbname=self.db, user=user).dicts()
        return {(row["phase"], row["item_no"]): row for row in rows}

    def sql(self, sql: str, params: tuple = ()) -> list[tuple]:
        return self.server.sql(sql, params, dbname=self.db)

    def run_ddl(self, ddl: str) -> None:
        """Runs what a task says, statement by statement: some must not be in a transaction."""
        with self.server.connect(self.db) as session:
            for statement in ddl.split(";\n"):
                session.query(statement)

    def search(self, times: int = 20) -> None:
        """Reads by what no index helps with."""
        with self.server.connect(self.db) as session:
            for number in range(times):
                session.query(f"SELECT count(*), sum(amount) FROM transactions WHERE user_id = {number} "
                              "AND created_at >= now() - interval '1 hour'")
                session.query(f"SELECT count(*) FROM users WHERE last_login >= now() - interval '{number + 1} minutes'")


class Tasks(RoadmapTest):
    """Tasks on a database with a workload."""

    def test_indexes_from_ready_to_done(self) -> None:
        self.sql(TABLES)
        self.sql("SELECT perf.reset()")
        self.search()
        # What perf_opt itself takes is no part of the workload then.
        self.sql(f"ALTER DATABASE {self.db} SET perf_opt.track = 'none'")
        ready = self.task(1, 1)
        self.assertEqual(ready["status"], "ready", ready)
        self.assertRegex(ready["gain_basis"], r"^what_if; policy, not measured: 30-40 % once phase 1 is done$")
        # Just what the index advisor says of these tables, and nothing of what the owner hopes for.
        self.assertGreater(ready["expected_gain_pct"], 50)
        advised = self.sql("SELECT sum(benefit_pct) FROM perf.index_recommendations() WHERE action = 'create' "
                           "AND status = 'recommended' AND relation IN ('public.users', 'public.transactions', 'public.alerts')")
        self.assertAlmostEqual(ready["expected_gain_pct"], advised[0][0], delta=1)
        self.assertIsNone(ready["measured_gain_pct"])
        first, rest = ready["ddl"].split(";\n", 1)
        self.run_ddl(first)
        half = self.task(1, 1)
        self.assertEqual(half["status"], "in_progress", half)
        self.assertLess(half["expected_gain_pct"], ready["expected_gain_pct"])
        self.run_ddl(rest)
        done = self.task(1, 1)
        self.assertEqual((done["status"], done["expected_gain_pct"], done["ddl"]), ("done", None, None), done)
        self.assertEqual(self.items("phase_1")["phase_1", 5]["status"], "passed")

    def test_a_view_and_who_reads_it(self) -> None:
        self.sql(TABLES)
        self.sql("SELECT perf.reset()")
        self.search(2)
        tasks = self.tasks()
        self.assertEqual((tasks[2, 2]["status"], tasks[2, 4]["status"]), ("ready", "blocked"), tasks)
        # What it would save is not known, whatever the owner hopes for.
        self.assertIsNone(tasks[2, 2]["expected_gain_pct"])
        self.assertTrue(tasks[2, 2]["gain_basis"].startswith("none; policy, not measured: 50-60 %"), tasks[2, 2])
        self.run_ddl(tasks[2, 2]["ddl"])
        tasks = self.tasks()
        self.assertEqual((tasks[2, 2]["status"], tasks[2, 4]["status"]), ("done", "ready"), tasks)
        self.sql("SELECT count(*) FROM mv_active_alerts WHERE severity = 'low'")
        self.assertEqual(self.task(2, 4)["status"], "done")
        self.assertEqual({self.items("phase_2_plus")["phase_2_plus", n]["status"] for n in (1, 2)}, {"passed"})

    def test_monitoring(self) -> None:
        self.wait_until(lambda: self.task(1, 3)["status"] == "done", 30, "the history to begin")
        self.sql("DELETE FROM perf.alert_threshold")
        self.assertEqual(self.task(1, 3)["status"], "blocked")

    def test_pooling_is_as_a_person_says(self) -> None:
        self.assertEqual(self.task(2, 3)["status"], "not_needed")
        self.sql("SELECT perf.roadmap_tick(2, 3, 'PgBouncer since March')")
        task = self.task(2, 3)
        self.assertEqual(task["status"], "done")
        self.assertIn("PgBouncer since March", task["reason"])
        self.assertIsNone(task["ddl"])

    def test_a_locked_table_blocks_its_tasks_alone_and_a_cancel_ends_it(self) -> None:
        with self.server.connect(self.db) as other, self.server.connect(self.db) as session:
            other.query("BEGIN; LOCK TABLE perf.cache_policy IN ACCESS EXCLUSIVE MODE")
            session.query("SET lock_timeout = '200ms'")
            rows = session.query("SELECT phase, task_no, status, reason FROM perf.optimization_roadmap()").rows
            found = {(phase, task_no): (status, reason) for phase, task_no, status, reason in rows}
            self.assertEqual(len(found), 15)
            self.assertEqual(found[1, 2][0], "blocked")
            self.assertIn("the cache advisor could not be asked: canceling statement due to lock timeout", found[1, 2][1].lower())
            self.assertEqual(found[1, 1][0], "not_applicable")
            self.assertEqual(found[3, 3][0], "ready")
            session.query("SET lock_timeout = 0; SET statement_timeout = '300ms'")
            with self.assertRaises(SqlError) as caught:
                session.query("SELECT * FROM perf.optimization_roadmap()")
            self.assertEqual(caught.exception.sqlstate, "57014")
            other.query("ROLLBACK")
            session.query("SET statement_timeout = 0")
            self.assertEqual(len(session.query("SELECT * FROM perf.optimization_roadmap()").rows), 15)

    def test_time_is_bounded(self) -> None:
        self.sql(TABLES)
        with self.server.connect(self.db) as session:
            session.query("CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
                          "$$ BEGIN PERFORM pg_sleep(0.2); RETURN $1; END $$")
            for number in range(20):
                session.query(f"SELECT count(*) + {number} AS c{number} FROM users WHERE id = slow({number})")
        started = time.monotonic()
        self.assertEqual(len(self.tasks(budget_ms=500)), 15)
        # 20 statements take 4 s to plan once.
        self.assertLess(time.monotonic() - started, 3)

    def test_the_report_has_it(self) -> None:
        document = json.loads(self.sql("SELECT perf.report('json')")[0][0])
        self.assertEqual(len(document["roadmap"]), 15)
        self.assertEqual({task["phase"] for task in document["roadmap"]}, {1, 2, 3, 4})
        self.assertIn("Phase 1: immediate, weeks 1-2.", self.sql("SELECT perf.report('text')")[0][0])


class Checklist(RoadmapTest):
    """Checks with something to check."""

    def test_low_traffic(self) -> None:
        self.sql("SELECT perf.capacity_sample_now()")
        self.assertEqual(self.items("before")["before", 4]["status"], "manual")
        self.sql("DELETE FROM perf.capacity_sample WHERE metric = 'qps'")
        sample = ("INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean, value_p95, value_max) "
                  "SELECT 'qps', current_database(), {at}, {resolution}, {value}, {value}, {value} FROM generate_series({series}) g")
        self.sql(sample.format(at="date_trunc('hour', now()) - g * interval '1 hour'", resolution=3600, value="10 * g", series="1, 24"))
        self.sql(sample.format(at="now() - g * interval '1 min'", resolution=60, value=200, series="1, 5"))
        item = self.items("before")["before", 4]
        self.assertEqual(item["status"], "failed", item)
        self.sql("UPDATE perf.capacity_sample SET value_mean = 15 WHERE metric = 'qps' AND resolution_s = 60")
        item = self.items("before")["before", 4]
        self.assertEqual(item["status"], "passed", item)
        self.assertRegex(item["detail"], r"the quietest hour begins at \d\d:00 UTC")

    def test_gains_plans_and_hits(self) -> None:
        self.assertEqual(self.items("after")["after", 1]["status"], "manual")
        self.sql("SELECT perf.cache_put('k', '1'); SELECT perf.cache_get('k')")
        item = self.items("after")["after", 3]
        self.assertEqual(item["status"], "passed", item)
        with self.server.connect(self.db) as session:
            for _ in range(9):
                session.query("SELECT perf.cache_get('nothing')")
        item = self.items("after")["after", 3]
        self.assertEqual(item["status"], "failed", item)
        self.assertEqual(self.items("phase_1")["phase_1", 2]["status"], "passed")

    def test_ticks_survive_a_dump(self) -> None:
        self.sql("SELECT perf.checklist_tick('before', 5, 'it''s told'); SELECT perf.roadmap_tick(4, 4)")
        before = self.sql("SELECT * FROM perf.manual_tick ORDER BY list")
        dump = subprocess.run([self.server.program("pg_dump"), "-h", str(self.server.socket_dir), "-p", str(self.server.port),
                               "-U", "postgres", self.db], capture_output=True, text=True, env=clean_environment())
        self.assertEqual((dump.returncode, dump.stderr), (0, ""))
        target = self.fresh_database(extension=False)
        self.server.psql(dbname=target, stdin=dump.stdout)
        self.assertEqual(self.server.sql("SELECT * FROM perf.manual_tick ORDER BY list", dbname=target), before)
        self.db = target
        self.assertEqual(self.items("before")["before", 5]["status"], "ticked")
        self.assertEqual(self.task(4, 4)["status"], "done")


class Replicas(RoadmapTest):
    """A server with standbys."""

    def setUp(self) -> None:
        ClusterTest.setUp(self)
        self.server = self.private_cluster({"max_wal_senders": 4})
        self.db = "postgres"
        self.sql("CREATE EXTENSION perf_opt")

    def test_a_standby_connects(self) -> None:
        self.assertEqual(self.task(3, 1)["status"], "not_needed")
        self.assertEqual(self.items("phase_2_plus")["phase_2_plus", 4]["status"], "failed")
        primary = self.server
        standby: Cluster = primary.standby()
        primary.wait_for_replay(standby)
        self.wait_until(lambda: self.task(3, 1)["status"] == "in_progress", what="the standby to be seen")
        self.sql("UPDATE perf.scaling_trigger SET settings = '{\"replicas\": 1}' WHERE trigger_name = 'read_replicas'")
        self.assertEqual(self.task(3, 1)["status"], "done")
        self.assertEqual(self.items("phase_2_plus")["phase_2_plus", 4]["status"], "passed")
        # Who may not see what a connection is for is told so.
        self.sql("CREATE ROLE visitor LOGIN")
        self.assertEqual(self.items("phase_2_plus", "visitor")["phase_2_plus", 4]["status"], "manual")
        self.sql("UPDATE perf.scaling_trigger SET settings = '{\"replicas\": \"two\"}' WHERE trigger_name = 'read_replicas'")
        self.assertEqual(self.task(3, 1)["status"], "done")
        # The standby answers too, and keeps no ticks of its own.
        primary.wait_for_replay(standby)
        self.server = standby
        self.assertEqual(len(self.tasks()), 15)
        self.assertEqual(self.items()["phase_2_plus", 4]["status"], "manual")
        self.assert_sql_error("25006", standby, "SELECT perf.checklist_tick('before', 5)")


class WithoutPreload(RoadmapTest):
    """Nothing is captured, and no job runs."""

    def setUp(self) -> None:
        ClusterTest.setUp(self)
        self.server = self.private_cluster({"shared_preload_libraries": "auto_explain"})
        self.db = "postgres"
        self.sql("CREATE EXTENSION perf_opt")

    def test_every_task_says_what_is_missing(self) -> None:
        self.sql(TABLES)
        tasks = self.tasks()
        self.assertEqual(len(tasks), 15)
        statuses = {key: task["status"] for key, task in tasks.items()}
        self.assertEqual(statuses, {
            (1, 1): "ready", (1, 2): "blocked", (1, 3): "ready", (2, 1): "not_applicable", (2, 2): "blocked",
            (2, 3): "not_needed", (2, 4): "blocked", (3, 1): "not_needed", (3, 2): "blocked", (3, 3): "blocked",
            (3, 4): "blocked", (4, 1): "blocked", (4, 2): "blocked", (4, 3): "ready", (4, 4): "ready"}, tasks)
        for task in tasks.values():
            self.assertIsNone(task["expected_gain_pct"], task)
            self.assertTrue(task["gain_basis"].startswith("none"), task)
        self.assertEqual(tasks[1, 3]["ddl"],
                         "ALTER SYSTEM SET shared_preload_libraries = 'auto_explain', 'perf_opt'; -- then restart the server")
        # The policy's indexes can be made without any measurement.
        self.assertIn("nothing is captured", tasks[1, 1]["reason"])
        self.run_ddl(tasks[1, 1]["ddl"])
        self.assertEqual(self.task(1, 1)["status"], "done")
        items = self.items()
        self.assertEqual(items["phase_1", 3]["status"], "failed")
        self.assertEqual(items["phase_1", 5]["status"], "passed")
        self.assertEqual(items["after", 2]["status"], "manual")
        self.sql("SELECT perf.checklist_tick('before', 3)")
        self.assertEqual(self.items("before")["before", 3]["status"], "ticked")
        document = json.loads(self.sql("SELECT perf.report('json')")[0][0])
        self.assertEqual(len(document["roadmap"]), 15)
        # As the task says, and a restart.
        self.sql(tasks[1, 3]["ddl"])
        self.assertEqual(self.sql("SELECT setting FROM pg_file_settings WHERE name = 'shared_preload_libraries' "
                                  "AND sourcefile LIKE '%auto.conf'"), [("auto_explain, perf_opt",)])


class PgCron(ClusterTest):
    """The README's jobs of pg_cron, with the real one."""

    time_limit = 180.0

    def test_the_readme(self) -> None:
        cluster = with_pg_cron(self, {})
        text = Path(__file__).resolve().parents[2].joinpath("README.md").read_text()
        block = text.split("<!-- tests/e2e/test_roadmap.py runs this. -->\n```sql\n", 1)[1].split("```", 1)[0]
        cluster.psql(stdin=block)
        jobs = cluster.scalar("SELECT count(*) FROM cron.job")
        self.assertEqual(jobs, 4)
        # Each of them soon, rather than when it is due.
        cluster.sql("SELECT cron.alter_job(jobid, '* * * * *') FROM cron.job")
        ended = "SELECT jobname, status, return_message FROM cron.job JOIN cron.job_run_details USING (jobid) WHERE status IN ('succeeded', 'failed')"
        self.wait_until(lambda: len({row[0] for row in cluster.sql(ended)}) == jobs, 130, "pg_cron to run them all")
        self.assertEqual([row for row in cluster.sql(ended) if row[1] == "failed"], [])
        self.assertEqual(cluster.scalar("SELECT count(DISTINCT seen_at) >= 2 AND count(*) % 15 = 0 FROM perf_roadmap_history"), True)
        self.assertIn("<html", cluster.scalar("SELECT min(page) FROM perf_report_page"))
        self.assertGreaterEqual(cluster.scalar("SELECT count(*) FROM perf.baselines"), 1)

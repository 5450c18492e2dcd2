"""Launcher, collectors and history: who starts and leaves when, and that every execution is counted exactly once."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from .case import ClusterTest, expects_crash
from .cluster import Cluster, SqlError

SECONDS = 90

FAST = {"perf_opt.collect_interval": "1s", "perf_opt.slow_ms": "50ms", "autovacuum_naptime": "1s"}
WORKERS = "SELECT datname, pid FROM pg_stat_activity WHERE backend_type = 'perf_opt collector' AND datname IS NOT NULL"
# What the functions that join history and memory know of one statement.
EXECUTIONS = """
SELECT coalesce(sum(executions), 0)::bigint FROM perf.slow_query_trend('1 hour', NULL, $1::bigint)
"""


def workers(cluster: Cluster) -> dict[str, int]:
    """The collectors that are connected: database and pid."""
    return dict(cluster.sql(WORKERS))


def queryid_of(cluster: Cluster, dbname: str, pattern: str) -> Any:
    """The queryid of the statement whose text is like `pattern`."""
    return cluster.scalar("SELECT max(queryid) FROM perf.statements() WHERE query LIKE $1 AND query NOT LIKE '%statements%'",
                          (pattern,), dbname=dbname)


def log_since(cluster: Cluster, mark: int) -> str:
    """What the server has logged since a mark."""
    with cluster.log_path.open("rb") as log:
        log.seek(mark)
        return log.read().decode(errors="replace")


class Collecting(ClusterTest):
    """Tests with a server whose collectors write every second."""

    settings = FAST

    def wait_for_worker(self, cluster: Cluster, dbname: str, timeout: float = 5.0, other_than: int = 0) -> int:
        """Waits for the collector of a database; its pid."""
        self.wait_until(lambda: workers(cluster).get(dbname, other_than) != other_than, timeout,
                        f"the collector of {dbname}")
        return workers(cluster)[dbname]

    def wait_for_run(self, cluster: Cluster, dbname: str) -> None:
        """Waits until the collector has written once more, beginning now."""
        now = cluster.scalar("SELECT clock_timestamp()::text")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.collector_position WHERE collected_at > $1::timestamptz",
                                               (now,), dbname=dbname) == 1, 10, f"a run of the collector of {dbname}")


class Lifecycle(Collecting):
    """Workers come and go with the extension and with their database."""

    def test_comes_with_the_extension_and_leaves_with_it(self) -> None:
        database = self.fresh_database(extension=False)
        # A collector may look into a new database, and leaves again when the extension is not there.
        self.wait_until(lambda: database not in workers(self.cluster), 5.0, "no collector to stay")
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname=database)
        self.wait_for_worker(self.cluster, database, 2.0)
        started = time.monotonic()
        self.cluster.sql("DROP EXTENSION perf_opt", dbname=database)
        self.assertLess(time.monotonic() - started, 1.0)
        self.wait_until(lambda: database not in workers(self.cluster), 1.0, "the collector to leave")
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname=database)
        self.wait_for_worker(self.cluster, database, 2.0)

    def test_rolled_back_create_and_drop(self) -> None:
        database = self.fresh_database(extension=False)
        self.cluster.sql("BEGIN; CREATE EXTENSION perf_opt; ROLLBACK", dbname=database)
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname=database)
        pid = self.wait_for_worker(self.cluster, database, 2.0)
        with self.cluster.connect(database) as session:
            session.query("BEGIN")
            session.query("DROP EXTENSION perf_opt")
            self.assertNotIn(database, workers(self.cluster))
            session.query("ROLLBACK")
        self.wait_for_worker(self.cluster, database, 5.0, other_than=pid)

    def test_drop_extension_under_load_with_a_held_tick(self) -> None:
        database = self.fresh_database()
        self.wait_for_worker(self.cluster, database)
        with self.cluster.connect(database) as session:
            session.query("BEGIN")
            session.query("LOCK TABLE perf.statement_written IN ACCESS EXCLUSIVE MODE")
            # The collector now waits for our lock at its next run; dropping must not wait for the collector.
            self.wait_until(lambda: self.cluster.scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'perf_opt collector' AND wait_event_type = 'Lock'"
            ), 10, "the collector to wait for the lock")
            started = time.monotonic()
            session.query("DROP EXTENSION perf_opt")
            session.query("COMMIT")
            self.assertLess(time.monotonic() - started, 1.0)
        self.assertNotIn(database, workers(self.cluster))

    def test_statements_that_want_the_database_alone(self) -> None:
        database = self.fresh_database()
        pid = self.wait_for_worker(self.cluster, database)
        self.wait_for_run(self.cluster, database)
        for number, command in enumerate([
            f"CREATE DATABASE {database}_copy TEMPLATE {database}",
            f"ALTER DATABASE {database} RENAME TO {database}_r",
            f"ALTER DATABASE {database}_r RENAME TO {database}",
        ]):
            with self.subTest(command=command):
                self.cluster.sql(command)
                name = f"{database}_r" if number == 1 else database
                pid = self.wait_for_worker(self.cluster, name, 5.0, other_than=pid)
        # The copy has the extension, so it has a collector, and none of the history it was copied with.
        self.wait_for_worker(self.cluster, f"{database}_copy")
        self.wait_for_run(self.cluster, f"{database}_copy")
        self.assertEqual(self.cluster.scalar(
            "SELECT count(*) FROM perf.statement_history_visible h WHERE h.datid <> "
            "(SELECT oid FROM pg_database WHERE datname = current_database())", dbname=f"{database}_copy"), 0)
        for name in (f"{database}_copy", database):
            started = time.monotonic()
            self.cluster.sql(f"DROP DATABASE {name}")
            self.assertLess(time.monotonic() - started, 1.0, f"DROP DATABASE {name}")
        self.assertEqual(set(workers(self.cluster)) & {database, f"{database}_copy"}, set())

    def test_failed_drop_lets_it_return(self) -> None:
        database = self.fresh_database()
        pid = self.wait_for_worker(self.cluster, database)
        with self.cluster.connect(database):
            self.assert_sql_error("55006", self.cluster, f"DROP DATABASE {database}")
        self.wait_for_worker(self.cluster, database, 5.0, other_than=pid)

    def test_a_stranger_cannot_send_it_away(self) -> None:
        database = self.fresh_database()
        pid = self.wait_for_worker(self.cluster, database)
        self.cluster.sql("DROP ROLE IF EXISTS stranger")
        self.cluster.sql("CREATE ROLE stranger LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE stranger")
        self.assert_sql_error("42501", self.cluster, f"DROP DATABASE {database}", user="stranger")
        self.assert_sql_error("42501", self.cluster, "DROP EXTENSION perf_opt", dbname=database, user="stranger")
        self.assertEqual(workers(self.cluster).get(database), pid)

    def test_terminated_worker_returns(self) -> None:
        database = self.fresh_database()
        pid = self.wait_for_worker(self.cluster, database)
        self.cluster.scalar("SELECT pg_terminate_backend($1::int)", (pid,))
        self.wait_for_worker(self.cluster, database, 5.0, other_than=pid)

    def test_terminated_launcher_returns_and_takes_over(self) -> None:
        database = self.fresh_database()
        worker = self.wait_for_worker(self.cluster, database)
        query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'perf_opt launcher'"
        pid = self.cluster.scalar(query)
        self.cluster.scalar("SELECT pg_terminate_backend($1::int)", (pid,))
        self.wait_until(lambda: self.cluster.sql(query) not in ([], [(pid,)]), 5, "a new launcher")
        self.assertEqual(workers(self.cluster).get(database), worker)
        other = self.fresh_database()
        self.wait_for_worker(self.cluster, other, 3.0)

    def test_health_shows_the_worker(self) -> None:
        database = self.fresh_database()
        self.wait_for_run(self.cluster, database)
        rows = {name: (status, detail) for name, status, detail in self.cluster.sql(
            "SELECT component, status, detail FROM perf.health()", dbname=database)}
        self.assertEqual(rows["launcher"][0], "ok")
        self.assertEqual(rows[f"collector {database}"][0], "ok", rows)
        self.assertEqual(rows["history"][0], "ok")
        self.assertEqual(rows["pending detaches"], ("ok", "none"))

    def test_no_worker_slot(self) -> None:
        cluster = self.private_cluster({**FAST, "max_worker_processes": 2})
        for name in ("one", "two", "three"):
            cluster.sql(f"CREATE DATABASE {name}")
            cluster.sql("CREATE EXTENSION perf_opt", dbname=name)
        # The launcher and the server's own logical replication launcher take both slots.
        self.wait_until(lambda: cluster.sql("SELECT status FROM perf.health() WHERE component = 'launcher'",
                                            dbname="one") == [("error",)], 10, "health to say so")
        mark = cluster.log_mark()
        with self.assertRaises(Exception):
            self.wait_until(lambda: log_since(cluster, mark).count("perf_opt could not start") > 1, 3, "a flood of log lines")


class ExactlyOnce(Collecting):
    """Whatever is restarted, history and memory together hold every execution once."""

    def run_statement(self, cluster: Cluster, dbname: str, times: int) -> None:
        """Executes the statement that the tests count."""
        with cluster.connect(dbname) as session:
            for number in range(times):
                session.query(f"SELECT {number} AS counted_once")

    def executions(self, cluster: Cluster, dbname: str) -> int:
        """How often, says the extension."""
        queryid = queryid_of(cluster, dbname, "SELECT $1 AS counted_once")
        return cluster.scalar(EXECUTIONS, (queryid,), dbname=dbname) if queryid is not None else 0

    def test_at_any_moment(self) -> None:
        database = self.fresh_database()
        total = 0
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            self.run_statement(self.cluster, database, 7)
            total += 7
            self.assertEqual(self.executions(self.cluster, database), total)
        self.wait_for_run(self.cluster, database)
        self.assertGreater(self.cluster.scalar("SELECT count(*) FROM perf.statement_history", dbname=database), 1)
        self.assertEqual(self.executions(self.cluster, database), total)

    def test_in_a_transaction_that_wrote(self) -> None:
        database = self.fresh_database()
        self.run_statement(self.cluster, database, 3)
        queryid = queryid_of(self.cluster, database, "SELECT $1 AS counted_once")
        with self.cluster.connect(database) as session:
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            session.query("CREATE TABLE written ()")
            self.assertEqual(session.execute(EXECUTIONS, (queryid,)).scalar(), 3)
            # What is written and committed meanwhile is not in this snapshot; memory must make up for it.
            self.run_statement(self.cluster, database, 4)
            self.wait_for_run(self.cluster, database)
            self.assertEqual(session.execute(EXECUTIONS, (queryid,)).scalar(), 7)
            session.query("ROLLBACK")
        with self.cluster.connect(database) as session:
            session.query("BEGIN READ ONLY")
            self.assertEqual(session.execute(EXECUTIONS, (queryid,)).scalar(), 7)

    def test_worker_killed_again_and_again(self) -> None:
        database = self.fresh_database()
        total = 0
        for _ in range(3):
            pid = self.wait_for_worker(self.cluster, database, 10)
            self.run_statement(self.cluster, database, 11)
            total += 11
            self.cluster.scalar("SELECT pg_terminate_backend($1::int)", (pid,))
            self.assertEqual(self.executions(self.cluster, database), total)
            self.wait_for_worker(self.cluster, database, 10, other_than=pid)
        self.wait_for_run(self.cluster, database)
        self.assertEqual(self.executions(self.cluster, database), total)
        self.assertEqual(self.cluster.scalar(
            "SELECT sum(h.calls)::bigint FROM perf.statement_history h JOIN perf.statement_text t USING (queryid) "
            "WHERE t.query = 'SELECT $1 AS counted_once'", dbname=database), total)

    def test_evicted_statements(self) -> None:
        cluster = self.private_cluster({**FAST, "perf_opt.max_statements": 100, "perf_opt.track": "top"})
        cluster.sql("CREATE EXTENSION perf_opt")
        self.wait_for_worker(cluster, "postgres")
        total = 0
        with cluster.connect() as session:
            for number in range(1500):
                session.query("SELECT " + ", ".join(["1"] * (number % 300 + 1)))
                total += 1
        self.wait_for_run(cluster, "postgres")
        in_history = cluster.scalar(
            "SELECT sum(calls)::bigint FROM perf.statement_history WHERE userid = 10 AND bucket_at >= '-infinity'")
        in_memory = cluster.scalar("SELECT sum(calls)::bigint FROM perf.statements() WHERE database = 'postgres'")
        shown = cluster.scalar("SELECT sum(executions)::bigint FROM perf.slow_query_trend('1 hour', NULL)")
        self.assertGreaterEqual(in_history, total)
        # Our own look at memory came after the run, and the look at the sum after that: one statement apart each.
        self.assertGreaterEqual(in_memory - in_history, 0)
        self.assertLess(in_memory - in_history, 60)
        self.assertEqual(shown - in_memory, 1)

    def test_slow_statements_once(self) -> None:
        database = self.fresh_database()
        for number in range(8):
            self.cluster.sql("SELECT pg_sleep(0.06), $1::int AS slept", (number,), dbname=database)
            self.assertEqual(self.cluster.scalar(
                "SELECT count(*) FROM perf.slow_queries(max_rows => NULL) WHERE query LIKE '%AS slept%'", dbname=database),
                number + 1)
        self.wait_for_run(self.cluster, database)
        self.assertEqual(self.cluster.scalar(
            "SELECT count(*) FROM perf.slow_queries() WHERE query LIKE '%AS slept%'", dbname=database), 8)
        self.assertEqual(self.cluster.sql(
            "SELECT executions, slow, database FROM perf.slow_query_patterns() WHERE query LIKE '%AS slept%'", dbname=database),
            [(8, 8, database)])

    def test_reset_takes_nothing_from_what_follows(self) -> None:
        database = self.fresh_database()
        self.run_statement(self.cluster, database, 20)
        self.wait_for_run(self.cluster, database)
        self.cluster.sql("SELECT perf.reset(database => current_database())", dbname=database)
        self.run_statement(self.cluster, database, 5)
        self.assertEqual(self.executions(self.cluster, database), 25)
        self.wait_for_run(self.cluster, database)
        self.assertEqual(self.executions(self.cluster, database), 25)

    def test_two_databases_keep_to_themselves(self) -> None:
        one, two = self.fresh_database(), self.fresh_database()
        self.run_statement(self.cluster, one, 3)
        self.run_statement(self.cluster, two, 5)
        self.wait_for_run(self.cluster, one)
        self.wait_for_run(self.cluster, two)
        self.assertEqual((self.executions(self.cluster, one), self.executions(self.cluster, two)), (3, 5))


class Restarts(Collecting):
    """Servers that stop, crash and are promoted."""

    def prepared(self) -> Cluster:
        """A server of our own with the extension and a slow statement."""
        cluster = self.private_cluster(FAST)
        cluster.sql("CREATE EXTENSION perf_opt")
        self.wait_for_worker(cluster, "postgres")
        cluster.sql("SELECT pg_sleep(0.06) AS before_the_end")
        return cluster

    def seen(self, cluster: Cluster) -> int:
        """How often the slow statement is shown."""
        return cluster.scalar("SELECT count(*) FROM perf.slow_queries() WHERE query LIKE '%before_the_end%'")

    def test_fast_restart_loses_nothing(self) -> None:
        cluster = self.prepared()
        cluster.configure({"perf_opt.collect_interval": "1h"}, reload=True)
        self.wait_for_worker(cluster, "postgres")
        cluster.sql("SELECT pg_sleep(0.06) AS before_the_end")
        started = time.monotonic()
        cluster.restart("fast")
        self.assertLess(time.monotonic() - started, 15)
        self.assertEqual(self.seen(cluster), 2)
        self.wait_for_worker(cluster, "postgres")
        self.assertEqual(self.seen(cluster), 2)

    def test_fast_stop_with_a_blocked_worker(self) -> None:
        cluster = self.prepared()
        session = cluster.connect()
        session.query("BEGIN")
        session.query("LOCK TABLE perf.statement_history IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        cluster.stop("fast")
        self.assertLess(time.monotonic() - started, 10)
        cluster.start()

    def test_smart_stop(self) -> None:
        cluster = self.prepared()
        started = time.monotonic()
        cluster.stop("smart")
        self.assertLess(time.monotonic() - started, 10)
        cluster.start()
        self.assertEqual(self.seen(cluster), 1)

    @expects_crash
    def test_immediate_restart_keeps_what_was_written(self) -> None:
        cluster = self.prepared()
        self.wait_for_run(cluster, "postgres")
        cluster.restart("immediate")
        self.wait_for_worker(cluster, "postgres")
        self.wait_for_run(cluster, "postgres")
        self.assertEqual(self.seen(cluster), 1)

    @expects_crash
    def test_killed_backend(self) -> None:
        cluster = self.prepared()
        self.wait_for_run(cluster, "postgres")
        with cluster.connect() as session:
            pid = session.query("SELECT pg_backend_pid()").scalar()
            cluster.crash(pid)
        self.wait_for_worker(cluster, "postgres", 10)
        self.wait_for_run(cluster, "postgres")
        self.assertEqual(self.seen(cluster), 1)

    @expects_crash
    def test_killed_worker(self) -> None:
        cluster = self.prepared()
        self.wait_for_run(cluster, "postgres")
        pid = workers(cluster)["postgres"]
        cluster.kill9(pid)
        self.wait_until(lambda: self.has_another_worker(cluster, pid), 30, "the server to recover")
        self.wait_for_run(cluster, "postgres")
        self.assertEqual(self.seen(cluster), 1)

    @staticmethod
    def has_another_worker(cluster: Cluster, pid: int) -> bool:
        """Whether the server answers and runs a worker other than `pid`; it may crash between two looks."""
        try:
            return workers(cluster).get("postgres", pid) != pid
        except Exception:  # noqa: BLE001  (any failure to connect means: not yet)
            return False

    def test_standby_and_promotion(self) -> None:
        cluster = self.prepared()
        self.wait_for_run(cluster, "postgres")
        standby = cluster.standby()
        cluster.wait_for_replay(standby)
        self.assertEqual(self.seen(standby), 1)
        self.assertEqual(workers(standby), {})
        standby.sql("SELECT pg_sleep(0.06), 1, 2 AS on_the_standby")
        query = "SELECT count(*) FROM perf.slow_queries() WHERE query LIKE '%on_the_standby%'"
        self.assertEqual(standby.scalar(query), 1)
        self.assertEqual(standby.scalar("SELECT status FROM perf.health() WHERE component = 'launcher'"), "ok")
        self.assertGreater(standby.scalar("SELECT count(*) FROM perf.slow_query_patterns()"), 0)
        standby.promote()
        self.wait_for_worker(standby, "postgres", 5)
        self.wait_for_run(standby, "postgres")
        self.assertEqual(standby.scalar(query), 1)
        self.assertEqual(standby.scalar("SELECT count(*) FROM perf.slow_statement WHERE duration_ms > 50 AND queryid = "
                                        "(SELECT queryid FROM perf.statement_text WHERE query LIKE '%on_the_standby%')"), 1)

    def test_dump_and_restore(self) -> None:
        cluster = self.prepared()
        self.wait_for_run(cluster, "postgres")
        dump = subprocess.run(
            [cluster.program("pg_dump"), "-h", str(cluster.socket_dir), "-U", "postgres", "postgres"], check=True,
            capture_output=True, text=True).stdout
        self.assertNotIn("statement_history", dump)
        cluster.sql("CREATE DATABASE restored")
        subprocess.run([*cluster.psql_args("restored"), "-v", "ON_ERROR_STOP=1", "-q"], input=dump, check=True,
                       capture_output=True, text=True)
        self.wait_for_worker(cluster, "restored")
        self.wait_for_run(cluster, "restored")


class Bounds(Collecting):
    """History stays under its cap, and what fails does not spin."""

    def test_cap(self) -> None:
        cluster = self.private_cluster({**FAST, "perf_opt.history_max_mb": 8})
        cluster.sql("CREATE EXTENSION perf_opt")
        self.wait_for_run(cluster, "postgres")
        old, end = cluster.sql("SELECT date_trunc('day', now() - interval '3 days')::text, "
                               "date_trunc('day', now() - interval '2 days')::text")[0]
        cluster.sql(f"CREATE TABLE perf.old PARTITION OF perf.statement_history FOR VALUES FROM ('{old}') TO ('{end}')")
        self.assertGreater(cluster.scalar("SELECT count(*) FROM perf.statement_history"), 0)
        columns = cluster.scalar("SELECT string_agg(CASE attname WHEN 'collected_at' THEN '$1::timestamptz' "
                                 "ELSE quote_ident(attname) END, ', ' ORDER BY attnum) FROM pg_attribute "
                                 "WHERE attrelid = 'perf.statement_history'::regclass AND attnum > 0")
        insert = (f"INSERT INTO perf.statement_history SELECT {columns} FROM "
                  "(SELECT * FROM perf.statement_history LIMIT 1) AS h, generate_series(1, $2::int)")
        now = cluster.scalar("SELECT now()::text")
        cluster.sql(insert, (now, 8_000))
        recent = "SELECT count(*) FROM perf.statement_history WHERE collected_at = $1::timestamptz"
        cluster.sql(insert, (old, 24_000))
        self.wait_until(lambda: cluster.scalar("SELECT to_regclass('perf.old') IS NULL"), 15, "the oldest partition to go")
        self.assertEqual(cluster.scalar(recent, (now,)), 8_000)
        # What is left over the cap in partitions in use goes too.
        cluster.sql(insert, (now, 40_000))
        self.wait_until(lambda: cluster.scalar(recent, (now,)) == 0, 15, "the flood to go")
        self.wait_for_run(cluster, "postgres")
        self.wait_until(lambda: cluster.scalar("SELECT value < 8 * 1048576 FROM perf.health() WHERE component = 'history'"),
                        10, "health to show less than the cap")

    def test_failing_runs_do_not_spin(self) -> None:
        cluster = self.private_cluster(FAST)
        cluster.sql("CREATE EXTENSION perf_opt")
        self.wait_for_run(cluster, "postgres")
        mark = cluster.log_mark()
        cluster.sql("ALTER TABLE perf.statement_history ADD CONSTRAINT broken CHECK (false) NOT VALID")
        failing = "SELECT status FROM perf.health() WHERE component = 'collector postgres'"
        self.wait_until(lambda: cluster.scalar(failing) == "error", 10, "health to show the failure")
        time.sleep(6)  # the time in which log lines are counted
        self.assertLess(log_since(cluster, mark).count("could not write its history"), 6)
        cluster.sql("ALTER TABLE perf.statement_history DROP CONSTRAINT broken")
        self.wait_until(lambda: cluster.scalar(failing) == "ok", 10, "the collector to go on")

    def test_read_only_by_default(self) -> None:
        database = self.fresh_database()
        self.cluster.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        pid = self.wait_for_worker(self.cluster, database)
        self.cluster.scalar("SELECT pg_terminate_backend($1::int)", (pid,))
        self.wait_for_worker(self.cluster, database, 5, other_than=pid)
        self.wait_for_run(self.cluster, database)


class Answers(Collecting):
    """What the functions over history and memory say."""

    def test_lock_wait_is_the_cause(self) -> None:
        database = self.fresh_database()
        self.cluster.sql("CREATE TABLE contended AS SELECT 1 AS id", dbname=database)
        with self.cluster.connect(database) as holder, self.cluster.connect(database) as waiter:
            holder.query("BEGIN")
            holder.query("UPDATE contended SET id = 2")
            waiter.query("SET lock_timeout = '3500ms'")
            # The first execution ever: there is no entry to add the wait to before it ends.
            with self.assertRaises(SqlError):
                waiter.query("DELETE FROM contended")
            holder.query("ROLLBACK")
        self.wait_until(lambda: self.cluster.sql(
            "SELECT cause FROM perf.slow_query_patterns() WHERE query = 'DELETE FROM contended'", dbname=database)
            == [("lock_wait",)], 5, "the wait to be added up")

    def test_others_see_nothing_of_it(self) -> None:
        database = self.fresh_database()
        for role in ("watcher", "reader"):
            self.cluster.sql(f"DROP ROLE IF EXISTS {role}")
            self.cluster.sql(f"CREATE ROLE {role} LOGIN")
            self.addCleanup(self.cluster.sql, f"DROP ROLE {role}")
        self.cluster.sql("GRANT pg_read_all_stats TO reader")
        self.cluster.sql("GRANT USAGE ON SCHEMA perf TO PUBLIC", dbname=database)
        self.cluster.sql("SELECT pg_sleep(0.06) AS of_the_owner", dbname=database)
        self.cluster.sql("SELECT pg_sleep(0.06), 1 AS of_the_watcher", dbname=database, user="watcher")
        texts = "SELECT query FROM perf.slow_queries() WHERE query LIKE '%of_the%' ORDER BY 1"
        hidden = ("SELECT count(*) FROM perf.slow_queries() WHERE query = '<insufficient privilege>' AND queryid IS NULL "
                  "AND plan IS NULL AND relations IS NULL AND application_name IS NULL")
        for moment in ("in memory", "in the history"):
            with self.subTest(moment):
                mine = self.cluster.sql(texts, dbname=database, user="watcher")
                self.assertEqual(mine, [("SELECT pg_sleep($1), $2 AS of_the_watcher",)])
                self.assertGreaterEqual(self.cluster.scalar(hidden, dbname=database, user="watcher"), 1)
                self.assertEqual(len(self.cluster.sql(texts, dbname=database, user="reader")), 2)
                patterns = self.cluster.sql("SELECT query FROM perf.slow_query_patterns() ORDER BY 1", dbname=database,
                                            user="watcher")
                self.assertNotIn("of_the_owner", str(patterns))
                self.assertIn(("<insufficient privilege>",), patterns)
            self.wait_for_run(self.cluster, database)
        for table in ("statement_history", "slow_statement", "statement_text"):
            self.assert_sql_error("42501", self.cluster, f"SELECT * FROM perf.{table}", dbname=database, user="watcher")

    def test_all_databases(self) -> None:
        one, two = self.fresh_database(), self.fresh_database(extension=False)
        self.cluster.sql("SELECT pg_sleep(0.06) AS elsewhere", dbname=two)
        query = "SELECT database, executions FROM perf.slow_query_patterns(all_databases => {}) WHERE query LIKE '%elsewhere'"
        self.assertEqual(self.cluster.sql(query.format("true"), dbname=one), [(two, 1)])
        self.assertEqual(self.cluster.sql(query.format("false"), dbname=one), [])
        query = "SELECT database FROM perf.slow_queries(all_databases => {}) WHERE query LIKE '%elsewhere'"
        self.assertEqual(self.cluster.sql(query.format("true"), dbname=one), [(two,)])
        self.assertEqual(self.cluster.sql(query.format("NULL"), dbname=one), [])


"""Capture: servers that start, crash, replicate, lack the library or the extension, and arguments that make no sense."""

from __future__ import annotations

from .capture_case import CaptureTest, ends_badly
from .case import ClusterTest, expects_crash
from .cluster import Cluster, HarnessError

WARNINGS = {"log_min_messages": "warning"}
SELECTED = "SELECT calls, failures FROM perf.statements() WHERE query = 'SELECT abs($1)'"


class Restarts(ClusterTest):
    """What is in memory lives as long as the server; the server lives on in any case."""

    def server(self) -> Cluster:
        """A server with the extension."""
        cluster = self.private_cluster(WARNINGS)
        cluster.sql("CREATE EXTENSION perf_opt")
        return cluster

    def test_restart_begins_anew(self) -> None:
        cluster = self.server()
        cluster.sql("SELECT abs(1)")
        self.assertEqual(cluster.sql(SELECTED), [(1, 0)])
        cluster.restart()
        self.assertEqual(cluster.sql(SELECTED), [])
        cluster.sql("SELECT abs(1)")
        self.assertEqual(cluster.sql(SELECTED), [(1, 0)])

    @expects_crash
    def test_kill_9_of_a_backend(self) -> None:
        cluster = self.server()
        cluster.sql("SELECT abs(1)")
        for victim in range(2):
            session, other = cluster.connect(), cluster.connect()
            other.query("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 9); FETCH c")
            mark = cluster.log_mark()
            session.send_async("SELECT pg_sleep(60)")
            self.wait_until(lambda: cluster.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 10, "a sleep")
            cluster.kill9(session.pid)
            cluster.wait_for_log("ready to accept connections", 30, mark)
            self.assertEqual(ends_badly(session.wait, 10), "")
            self.assertEqual(cluster.sql("SELECT query FROM perf.statements(true) WHERE query !~ 'perf'"), [])
            with cluster.connect() as again:
                again.query("SELECT abs(1)")
                self.assertRaises(Exception, again.query, "SELECT abs(1 / (SELECT 0 OFFSET 0))")
            self.assertEqual(cluster.sql(SELECTED), [(1, 0)], f"after crash {victim + 1}")
            self.assertEqual(cluster.sql("SELECT calls, failures FROM perf.statements() WHERE last_sqlstate = '22012'"), [(1, 1)])

    def test_immediate_stop(self) -> None:
        cluster = self.server()
        session = cluster.connect()
        session.send_async("SELECT pg_sleep(60)")
        self.wait_until(lambda: cluster.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 10, "a sleep")
        cluster.stop("immediate")
        session.close()
        cluster.start()
        self.assertEqual(cluster.sql(SELECTED), [])

    def test_more_connections_after_a_restart(self) -> None:
        cluster = self.server()
        cluster.configure({"max_connections": 200, "max_worker_processes": 30})
        cluster.restart()
        sessions = [cluster.connect() for _ in range(150)]
        for session in sessions:
            session.query("SELECT abs(1)")
            session.query("SELECT abs(1)")
        self.assertEqual(cluster.sql(SELECTED), [(300, 0)])
        for session in sessions:
            session.close()


class Standby(ClusterTest):
    """A hot standby captures what it runs, and goes on when it is promoted."""

    def test_hot_standby_and_promotion(self) -> None:
        primary = self.private_cluster(WARNINGS)
        primary.sql("CREATE EXTENSION perf_opt")
        primary.sql("CREATE TABLE t AS SELECT 1 AS a")
        primary.sql("CREATE TABLE many AS SELECT a FROM generate_series(1, 20000) a")
        primary.sql("ANALYZE many")
        standby = primary.standby()
        primary.wait_for_replay(standby)
        for _ in range(3):
            standby.sql("SELECT abs(1)")
        self.assertEqual(standby.sql(SELECTED), [(3, 0)])
        self.assertEqual(primary.sql(SELECTED), [])
        self.assert_sql_error("25006", standby, "INSERT INTO t VALUES (2)")
        self.assertEqual(standby.sql("SELECT query, calls, failures FROM perf.statements() WHERE last_sqlstate = '25006'"),
                         [("INSERT INTO t VALUES ($1)", 1, 1)])
        self.assertEqual(standby.scalar("SELECT count(*) > 0 FROM perf.active_statements() a "
                                        "RIGHT JOIN (SELECT 1) one ON true"), True)
        asked = "SELECT columns::text FROM perf.index_recommendations(queries => '{SELECT * FROM many WHERE a = 17}')"
        self.assertEqual(standby.sql(asked), [("{a}",)])
        standby.sql("SELECT count(*) FROM perf.index_recommendations()")
        self.assert_sql_error("55000", standby, "SELECT perf.capacity_sample_now()")
        standby.promote()
        standby.sql("INSERT INTO t VALUES (2)")
        standby.sql("SELECT abs(1)")
        self.assertEqual(standby.sql(SELECTED), [(4, 0)])
        self.assertGreater(standby.scalar("SELECT perf.reset()"), 0)
        self.assertEqual(standby.sql(SELECTED), [])

    def test_conflict_with_recovery(self) -> None:
        primary = self.private_cluster(WARNINGS)
        primary.sql("CREATE EXTENSION perf_opt")
        primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")
        standby = primary.standby(settings={"max_standby_streaming_delay": "100ms"})
        primary.wait_for_replay(standby)
        session = standby.connect()
        session.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t")
        session.send_async("SELECT count(*), pg_sleep(30) FROM t")
        self.wait_until(lambda: standby.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), 10, "a sleep")
        primary.sql("DROP TABLE t")
        self.assertIn(ends_badly(session.wait, 30), ("40001", "40P01"))
        self.assertEqual(standby.sql("SELECT calls, failures FROM perf.statements() WHERE query ~ 'pg_sleep' AND toplevel "
                                     "AND query !~ 'perf|pg_stat'"), [(1, 1)])


class NotPreloaded(ClusterTest):
    """The library is not in shared_preload_libraries."""

    settings = {"shared_preload_libraries": "", "log_min_messages": "warning"}

    def test_functions_say_what_to_do(self) -> None:
        database = self.fresh_database()
        for call in ("perf.statements()", "perf.statements(true)", "perf.latency_histogram(1)", "perf.reset()",
                     "perf.reset(1, 'nowhere')"):
            problem = self.assert_sql_error("55000", self.cluster, f"SELECT * FROM {call}", dbname=database)
            self.assertIn("shared_preload_libraries", problem.message)
            self.assertIn("shared_preload_libraries = 'perf_opt'", problem.hint or "")
        self.assertEqual(self.cluster.sql("SELECT * FROM perf.active_statements() WHERE pid = 0", dbname=database), [])

    def test_nothing_is_hooked(self) -> None:
        database = self.fresh_database()
        with self.cluster.connect(database) as session:
            session.query("SELECT perf._severity(5000), perf._normalize('SELECT 1')")
            self.assertRaises(Exception, session.query, "SELECT 1 / 0")
            session.query("DO $$ BEGIN PERFORM 1; COMMIT; END $$")
            self.assertEqual(session.query("SELECT 1").scalar(), 1)
            self.assertRaises(Exception, session.query, "SET perf_opt.track = 'nonsense'")


class PreloadedWithoutExtension(ClusterTest):
    """Statements are captured although no database has the extension yet."""

    def test_what_came_before_is_there(self) -> None:
        cluster = self.private_cluster(WARNINGS)
        cluster.sql("SELECT abs(1)")
        self.assert_sql_error("22012", cluster, "SELECT abs(1 / 0)")
        cluster.sql("CREATE EXTENSION perf_opt")
        self.assertEqual(cluster.sql(SELECTED), [(1, 0)])
        cluster.sql("DROP EXTENSION perf_opt")
        cluster.sql("SELECT abs(1)")
        cluster.sql("CREATE EXTENSION perf_opt")
        self.assertEqual(cluster.sql(SELECTED), [(2, 0)])


class Settings(ClusterTest):
    """Settings out of range."""

    def test_many_statements_or_a_message(self) -> None:
        cluster = self.private_cluster({"perf_opt.max_statements": 100000, **WARNINGS}, start=False)
        try:
            cluster.start()
        except HarnessError as problem:
            self.assertRegex(str(problem), "could not (map anonymous|create) shared memory")
            return
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("SELECT abs(1)")
        self.assertEqual(cluster.sql(SELECTED), [(1, 0)])

    def test_out_of_range_is_said_and_not_used(self) -> None:
        for name, value, used in (("max_statements", 0, "5000"), ("max_statements", 1000000000, "5000"),
                                  ("max_query_length", 10, "4kB"), ("track", "some", "all")):
            cluster = self.private_cluster({f"perf_opt.{name}": value, **WARNINGS}, start=False)
            cluster.start()
            self.assertIn(f'"perf_opt.{name}"', cluster.log_text())
            self.assertEqual(cluster.scalar(f"SHOW perf_opt.{name}"), used)
            cluster.destroy()

    def test_smallest_table(self) -> None:
        cluster = self.private_cluster({"perf_opt.max_statements": 100, "perf_opt.max_query_length": 256, **WARNINGS})
        cluster.sql("CREATE EXTENSION perf_opt")
        with cluster.connect() as session:
            for number in range(300):
                session.query(f"SELECT {', '.join(['1'] * (number + 1))}")
        rows = cluster.sql("SELECT count(*), max(length(query)), sum(calls) FILTER (WHERE query !~ 'perf.|EXT') FROM perf.statements(true)")
        self.assertLessEqual(rows[0][0], 101)
        self.assertLessEqual(rows[0][1], 256)


class Arguments(CaptureTest):
    """Bad input."""

    def test_reset(self) -> None:
        problem = self.assert_sql_error("42704", self.cluster, "SELECT perf.reset(database => 'nowhere')", dbname=self.db)
        self.assertIn('"nowhere"', problem.message)
        self.assertEqual(self.cluster.scalar("SELECT perf.reset(queryid => 42)", dbname=self.db), 0)
        self.run_sql("SELECT abs(1)", "SELECT abs(1), 2")
        queryid = self.row("SELECT abs($1)")["queryid"]
        self.assertEqual(self.cluster.scalar("SELECT perf.reset($1, 'postgres')", (queryid,), dbname=self.db), 0)
        self.assertEqual(self.cluster.scalar("SELECT perf.reset($1, current_database())", (queryid,), dbname=self.db), 1)
        self.assert_absent("SELECT abs($1)")
        self.assert_row("SELECT abs($1), $2", 1, 1)
        self.assertGreater(self.cluster.scalar("SELECT perf.reset(NULL, NULL)", dbname=self.db), 0)
        self.assert_absent("SELECT abs($1), $2")
        self.assert_sql_error("42883", self.cluster, "SELECT perf.reset('x'::text)", dbname=self.db)
        self.assert_sql_error("22P02", self.cluster, "SELECT perf.reset('x')", dbname=self.db)

    def test_nulls_and_the_unknown(self) -> None:
        for sql in ("SELECT * FROM perf.statements(NULL)", "SELECT * FROM perf.latency_histogram(NULL)",
                    "SELECT * FROM perf.latency_histogram(42)", "SELECT * FROM perf.latency_histogram(0)"):
            self.assertEqual(self.cluster.sql(sql, dbname=self.db), [], sql)
        self.assert_sql_error("42883", self.cluster, "SELECT * FROM perf.latency_histogram('a'::text)", dbname=self.db)

    def test_in_a_read_only_transaction(self) -> None:
        with self.cluster.connect(self.db) as session:
            session.query("BEGIN READ ONLY")
            self.assertGreater(len(session.query("SELECT * FROM perf.statements()").rows), 0)
            session.query("SELECT * FROM perf.active_statements()")
            session.query("SELECT perf.reset()")
            session.query("COMMIT")

    def test_where_a_function_may_stand(self) -> None:
        with self.cluster.connect(self.db) as session:
            self.assertGreater(len(session.query("SELECT perf.statements()").rows), 0)
            self.assertGreater(len(session.query("SELECT (perf.statements()).*").rows), 0)
            self.assertGreater(len(session.query("SELECT * FROM perf.statements() LIMIT 1").rows), 0)
            self.assertGreater(session.query("SELECT count(*) FROM generate_series(1, 3), perf.statements()").scalar(), 0)

    def test_two_databases(self) -> None:
        other = self.fresh_database()
        self.run_sql("SELECT abs(1)")
        for _ in range(2):
            self.cluster.sql("SELECT abs(1)", dbname=other)
        self.assertEqual(self.cluster.sql(SELECTED, dbname=other), [(2, 0)])
        self.assertEqual(self.cluster.sql(SELECTED, dbname=self.db), [(1, 0)])
        both = ("SELECT database, calls FROM perf.statements(true) WHERE query = 'SELECT abs($1)' ORDER BY calls")
        self.assertEqual(self.cluster.sql(both, dbname=self.db), [(self.db, 1), (other, 2)])
        self.cluster.sql("SELECT perf.reset(database => $1)", (other,), dbname=self.db)
        self.assertEqual(self.cluster.sql(both, dbname=self.db), [(self.db, 1)])

    def test_rows_of_what_was_dropped(self) -> None:
        other = self.fresh_database(extension=False)
        self.run_sql("CREATE ROLE short_lived LOGIN")
        self.cluster.sql("SELECT abs(1), 'dropped'", dbname=other, user="short_lived")
        self.cluster.sql(f"DROP DATABASE {other} WITH (FORCE)")
        self.run_sql("DROP ROLE short_lived")
        rows = self.cluster.sql("SELECT database, username, calls FROM perf.statements(true) "
                                "WHERE query = 'SELECT abs($1), $2'", dbname=self.db)
        self.assertEqual(rows, [(None, None, 1)])

    def test_active_statements(self) -> None:
        session = self.session()
        session.send_async("SELECT pg_sleep(30), 'geheim'")
        self.sleeping(session)
        rows = self.cluster.result("SELECT * FROM perf.active_statements() WHERE pid = $1", (session.pid,),
                                   dbname=self.db).dicts()
        self.assertEqual(len(rows), 1)
        self.assertEqual((rows[0]["query"], rows[0]["database"], rows[0]["username"], rows[0]["wait_event"]),
                         ("SELECT pg_sleep($1), $2", self.db, "postgres", "PgSleep"))
        session.cancel()
        self.assertEqual(ends_badly(session.wait), "57014")
        self.assertEqual(self.row("SELECT pg_sleep($1), $2")["queryid"], rows[0]["queryid"])

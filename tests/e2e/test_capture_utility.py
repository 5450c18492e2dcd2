"""Capture: utility statements, parallel queries, and the other extensions that want the same hooks."""

from __future__ import annotations

from .capture_case import CaptureTest


class Utilities(CaptureTest):
    """Statements without a plan."""

    def setUp(self) -> None:
        super().setUp()
        self.run_sql("DROP TABLE IF EXISTS utility_rows CASCADE",
                     "CREATE TABLE utility_rows AS SELECT generate_series(1, 1000) AS a")
        self.reset()

    def test_each_is_one_call(self) -> None:
        statements = ["VACUUM utility_rows", "VACUUM ANALYZE utility_rows", "ANALYZE utility_rows", "CHECKPOINT",
                      "CREATE INDEX CONCURRENTLY utility_index ON utility_rows (a)", "REINDEX INDEX utility_index",
                      "REINDEX INDEX CONCURRENTLY utility_index", "CLUSTER utility_rows USING utility_index",
                      "TRUNCATE utility_rows", "LISTEN channel", "NOTIFY channel", "UNLISTEN channel",
                      "LOCK TABLE pg_class IN ACCESS SHARE MODE" if False else "COMMENT ON TABLE utility_rows IS NULL",
                      "DROP INDEX CONCURRENTLY utility_index", "ALTER TABLE utility_rows ADD COLUMN b text"]
        self.run_sql(*statements)
        for statement in statements:
            self.assert_row(statement, 1, 0)
        self.nothing_evicted()

    def test_rows_of_those_that_have_some(self) -> None:
        self.run_sql("CREATE TABLE utility_copy AS SELECT a FROM utility_rows WHERE a <= 300",
                     "CREATE MATERIALIZED VIEW utility_view AS SELECT a FROM utility_rows WHERE a > 400",
                     "REFRESH MATERIALIZED VIEW utility_view", "SELECT a INTO utility_into FROM utility_rows WHERE a < 8",
                     "DROP MATERIALIZED VIEW utility_view", "DROP TABLE utility_copy, utility_into")
        self.assert_row("CREATE TABLE utility_copy AS SELECT a FROM utility_rows WHERE a <= $1", 1, 300)
        self.assert_row("CREATE MATERIALIZED VIEW utility_view AS SELECT a FROM utility_rows WHERE a > $1", 1, 600)
        self.assert_row("REFRESH MATERIALIZED VIEW utility_view", 1, 600)
        self.assert_row("SELECT a INTO utility_into FROM utility_rows WHERE a < $1", 1, 7)

    def test_failing_ones(self) -> None:
        session = self.session()
        session.query("INSERT INTO utility_rows VALUES (5)")
        self.fails("23505", session.query, "CREATE UNIQUE INDEX CONCURRENTLY utility_unique ON utility_rows (a)")
        self.assert_row("CREATE UNIQUE INDEX CONCURRENTLY utility_unique ON utility_rows (a)", 1, 0, failures=1,
                        sqlstate="23505")
        session.query("BEGIN")
        self.fails("25001", session.query, "VACUUM utility_rows")
        session.query("ROLLBACK")
        self.assert_row("VACUUM utility_rows", 1, 0, failures=1, sqlstate="25001")
        session.query("SELECT abs(1)")
        self.assert_row("SELECT abs($1)", 1, 1)

    def test_explain(self) -> None:
        session = self.session()
        session.query("EXPLAIN SELECT count(*) FROM utility_rows WHERE a > 5")
        session.query("EXPLAIN (ANALYZE, TIMING off) SELECT count(*) FROM utility_rows WHERE a > 5")
        self.assert_row("EXPLAIN SELECT count(*) FROM utility_rows WHERE a > $1", 1, 0)
        self.assert_row("EXPLAIN (ANALYZE, TIMING off) SELECT count(*) FROM utility_rows WHERE a > $1", 1, 0)
        nested = [row for row in self.statements() if "utility_rows" in row["query"] and row["toplevel"] is False]
        self.assertEqual([(row["calls"], row["rows"], row["plans"]) for row in nested], [(1, 1, 2)])

    def test_two_phase_commit(self) -> None:
        session = self.session()
        for ending in ("COMMIT", "ROLLBACK"):
            session.query("BEGIN")
            session.query("INSERT INTO utility_rows VALUES (1)")
            session.query(f"PREPARE TRANSACTION '{ending}'")
            session.query(f"{ending} PREPARED '{ending}'")
        self.assert_row("INSERT INTO utility_rows VALUES ($1)", 2, 2)
        prepared = [row for row in self.statements() if row["query"] == "PREPARE TRANSACTION $1"]
        self.assertEqual(sum(row["calls"] for row in prepared), 2)
        self.assert_row("COMMIT PREPARED $1", 1)
        self.assert_row("ROLLBACK PREPARED $1", 1)

    def test_extension_scripts_are_one_statement(self) -> None:
        database = self.fresh_database(extension=False)
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname=database)
        rows = self.cluster.sql("SELECT query, calls FROM perf.statements() WHERE query !~ 'perf.statements'", dbname=database)
        self.assertEqual(rows, [("CREATE EXTENSION perf_opt", 1)])

    def test_wal_and_blocks(self) -> None:
        self.run_sql("INSERT INTO utility_rows SELECT generate_series(1, 5000)")
        row = self.assert_row("INSERT INTO utility_rows SELECT generate_series($1, $2)", 1, 5000)
        self.assertGreaterEqual(row["wal_records"], 5000)
        self.assertGreater(row["wal_bytes"], 5000 * 20)
        self.assertGreaterEqual(row["shared_blks_hit"], 5000)


class Parallel(CaptureTest):
    """A parallel query is its leader's."""

    def test_counted_once_with_the_blocks_of_workers(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS parallel_rows AS SELECT generate_series(1, 100000) AS a")
        session.query("ALTER TABLE parallel_rows SET (parallel_workers = 2)")
        session.query("VACUUM ANALYZE parallel_rows")
        pages = session.query("SELECT pg_relation_size('parallel_rows') / 8192").scalar()
        session.query("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; "
                      "SET parallel_leader_participation = off")
        plan = "\n".join(row[0] for row in session.query("EXPLAIN SELECT count(*), sum(a) FROM parallel_rows").rows)
        self.assertIn("Workers Planned: 2", plan)
        self.reset()
        for _ in range(3):
            session.query("SELECT count(*), sum(a) FROM parallel_rows")
        row = self.assert_row("SELECT count(*), sum(a) FROM parallel_rows", 3, 3)
        self.assertEqual(self.rows_of("SELECT count(*), sum(a) FROM parallel_rows", False), [])
        blocks = row["shared_blks_hit"] + row["shared_blks_read"]
        self.assertTrue(3 * pages <= blocks <= 3 * pages + 300, (blocks, pages))


class OtherExtensions(CaptureTest):
    """pg_stat_statements and auto_explain, loaded before and after."""

    def check(self, libraries: str) -> None:
        """Runs a workload and compares with pg_stat_statements."""
        cluster = self.private_cluster({"shared_preload_libraries": libraries, "log_min_messages": "warning",
                                        "auto_explain.log_min_duration": 0, "auto_explain.log_nested_statements": "on",
                                        "auto_explain.log_analyze": "on", "pg_stat_statements.track": "all"})
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("CREATE EXTENSION pg_stat_statements")
        cluster.sql("CREATE FUNCTION f(n int) RETURNS bigint LANGUAGE plpgsql AS "
                    "$$ BEGIN RETURN (SELECT count(*) FROM pg_class WHERE oid > n); END $$")
        cluster.sql("SELECT pg_stat_statements_reset()")
        cluster.sql("SELECT perf.reset()")
        with cluster.connect() as session:
            session.query("CREATE TABLE t (a int PRIMARY KEY)")
            for number in range(40):
                session.query(f"INSERT INTO t VALUES ({number})")
                session.execute("SELECT f($1), a FROM t WHERE a = $1", (number,))
            session.query("BEGIN; DECLARE c CURSOR FOR SELECT a FROM t; FETCH 5 FROM c; CLOSE c; COMMIT")
            self.fails("23505", session.query, "INSERT INTO t VALUES (1)")
            self.fails("57014", session.query, "SET statement_timeout = 40; SELECT pg_sleep(9)")
            session.query("RESET statement_timeout")
        different = cluster.sql(
            "SELECT p.query, s.calls, s.failures, s.rows, p.calls, p.rows FROM pg_stat_statements p "
            "JOIN perf.statements() s ON s.queryid = p.queryid AND s.toplevel = p.toplevel "
            "WHERE p.query !~ 'perf|pg_stat_statements' AND (s.calls - s.failures, s.rows) <> (p.calls, p.rows)")
        self.assertEqual(different, [])
        compared = cluster.scalar("SELECT count(*) FROM pg_stat_statements p JOIN perf.statements() s "
                                  "ON s.queryid = p.queryid AND s.toplevel = p.toplevel")
        self.assertGreaterEqual(compared, 8)
        self.assertEqual(cluster.sql("SELECT calls, failures, last_sqlstate FROM perf.statements() "
                                     "WHERE query = 'INSERT INTO t VALUES ($1)'"), [(41, 1, "23505")])
        self.assertEqual(cluster.sql("SELECT calls, failures, last_sqlstate FROM perf.statements() "
                                     "WHERE query = 'SELECT pg_sleep($1)'"), [(1, 1, "57014")])

    def test_perf_opt_first(self) -> None:
        self.check("perf_opt,pg_stat_statements,auto_explain")

    def test_perf_opt_last(self) -> None:
        self.check("auto_explain,pg_stat_statements,perf_opt")


class NoQueryIds(CaptureTest):
    """compute_query_id = off."""

    def test_nothing_is_captured_and_nothing_breaks(self) -> None:
        session = self.session()
        session.query("SET compute_query_id = off")
        self.reset()
        session.query("SELECT abs(1)")
        self.fails("22012", session.query, "SELECT 1 / 0")
        session.query("DO $$ BEGIN PERFORM 1; COMMIT; END $$")
        session.query("BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; ROLLBACK")
        session.query("SET compute_query_id = on")
        session.query("SELECT abs(1)")
        self.assert_row("SELECT abs($1)", 1, 1)
        self.assert_absent("SELECT $1 / $2")
        self.assert_absent("BEGIN")

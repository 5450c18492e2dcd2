"""The index advisor: where it is called from, with which arguments, and what a call leaves behind."""

from __future__ import annotations

from pathlib import Path

from .advisor_case import CATALOGS, TRACES, AdvisorTest
from .cluster import SqlError

ONE = "SELECT relation, columns FROM perf.index_recommendations(queries => '{SELECT * FROM t WHERE a = 4}') WHERE source <> 'policy'"
FOUND = [("public.t", ["a"])]
MEMORY = "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts"


class Arguments(AdvisorTest):
    """Wrong arguments are refused with the SQLSTATE that says why, and the session goes on."""

    CASES = {
        "22004": ["time_budget_ms => NULL", "include_inapplicable => NULL", "workload => NULL", "queries => ARRAY[NULL]",
                  "queries => ARRAY['SELECT 1', NULL]", "queries => '{SELECT 1}', weights => ARRAY[NULL::float8]"],
        "22023": ["time_budget_ms => 0", "time_budget_ms => -1", "time_budget_ms => -2147483648", "storage_budget_bytes => 0",
                  "storage_budget_bytes => -9223372036854775808", "workload => ''", "workload => 'nowhere'",
                  "weights => '{1}'", "queries => '{SELECT 1}', weights => '{1,2}'", "queries => '{SELECT 1}', weights => '{}'",
                  "queries => '{SELECT 1}', weights => '{-1}'", "queries => '{SELECT 1}', weights => '{NaN}'",
                  "queries => '{SELECT 1}', weights => '{Infinity}'", "queries => ARRAY['']", "queries => ARRAY[';']",
                  "queries => ARRAY['SELECT 1; SELECT 2']", "queries => ARRAY['VACUUM t']", "queries => ARRAY['CREATE TABLE x ()']",
                  "queries => ARRAY['COPY t TO STDOUT']", "queries => ARRAY['EXPLAIN SELECT 1']", "queries => ARRAY['BEGIN']",
                  "queries => ARRAY['SELEC 1']", "queries => ARRAY['SELECT * FROM nowhere']", "queries => ARRAY['SELECT nothing FROM t']",
                  "queries => ARRAY['SELECT 1/0']", "queries => ARRAY['SELECT ''x''::int']", "queries => ARRAY['SELECT $1 + $2']",
                  "queries => ARRAY['SELECT * FROM t WHERE a = (']", "queries => ARRAY[repeat('(', 100000)]"],
    }
    WHAT_IF = {
        "22004": ["NULL", "'SELECT 1', NULL", "'SELECT 1', ARRAY[NULL]", "'SELECT 1', '{}', NULL", "'SELECT 1', '{}', ARRAY[NULL]"],
        "22023": ["''", "'SELECT 1; SELECT 2'", "'VACUUM t'", "'SELECT 1', ARRAY['']", "'SELECT 1', ARRAY['SELECT 1']",
                  "'SELECT 1', ARRAY['CREATE INDEX ON t (a); CREATE INDEX ON t (b)']"],
        "42601": ["'SELEC 1'", "'SELECT 1', ARRAY['CREATE INDEX ON']"],
        "42P01": ["'SELECT * FROM nowhere'", "'SELECT 1', ARRAY['CREATE INDEX ON nowhere (a)']"],
        "42703": ["'SELECT nothing FROM t'", "'SELECT 1', ARRAY['CREATE INDEX ON t (nothing)']"],
        "42704": ["'SELECT 1', '{}', '{nowhere}'", "'SELECT 1', '{}', '{t}'", "'SELECT 1', '{}', ARRAY['']",
                  "'SELECT 1', '{}', ARRAY['\"t']", "'SELECT 1', '{}', ARRAY['a b']", "'SELECT 1', '{}', ARRAY['.t']",
                  "'SELECT 1', '{}', ARRAY['t.']", "'SELECT 1', '{}', ARRAY['a.b.c']", "'SELECT 1', '{}', ARRAY['\"\"']",
                  "'SELECT 1', '{}', ARRAY[' ']", "'SELECT 1', '{}', ARRAY['\"a\"b']", "'SELECT 1', '{}', ARRAY[repeat('x', 1000)]"],
        "22012": ["'SELECT 1/0'"],
    }

    def test_wrong_arguments(self) -> None:
        name = self.database()
        with self.cluster.connect(name) as session:
            traces = session.query(TRACES).rows
            calls = [("index_recommendations", self.CASES), ("what_if", self.WHAT_IF)]
            for function, cases in calls:
                for sqlstate, wrong in cases.items():
                    for arguments in wrong:
                        with self.subTest(function=function, arguments=arguments[:60]):
                            with self.assertRaises(SqlError) as caught:
                                session.query(f"SELECT * FROM perf.{function}({arguments})")
                            self.assertEqual(caught.exception.sqlstate, sqlstate, str(caught.exception))
            self.assertEqual(session.query(TRACES).rows, traces)
            self.assertEqual(session.query(ONE).rows, FOUND)

    def test_names_that_are_none(self) -> None:
        """A policy may name anything; `without` takes every way to write a name."""
        name = self.database()
        with self.cluster.connect(name) as session:
            for number, table in enumerate(("\"t", "a b", ".t", "t.", "a.b.c", "\"\"", "\"a\"b", "\" t\" . \"u\"", "x" * 200), 101):
                session.execute("INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES ($1, $2, '{a}', 'low')",
                                (number, table))
            self.assertEqual(session.query(ONE).rows, FOUND)
            session.query('CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."c ""d" AS SELECT * FROM t; CREATE INDEX "i ""x" ON "a.b"."c ""d" (a)')
            for written in ('"a.b"."i ""x"', ' "a.b" . "i ""x" '):
                self.assertEqual(session.execute("SELECT indexes_used FROM perf.what_if('SELECT * FROM \"a.b\".\"c \"\"d\" WHERE a = 4', "
                                                 "without => ARRAY[$1])", (written,)).rows, [(['i "x'],), ([],)])

    def test_right_arguments_at_the_edge(self) -> None:
        with self.cluster.connect(self.database()) as session:
            for arguments in ("queries => '{}'", "queries => '{}', weights => '{}'", "time_budget_ms => 2147483647, queries => '{SELECT 1}'",
                              "storage_budget_bytes => 1, queries => '{SELECT * FROM t WHERE a = 4}'",
                              "storage_budget_bytes => 9223372036854775807, queries => '{SELECT 1}'",
                              "queries => '{SELECT * FROM t WHERE a = 4}', weights => '{0}'",
                              "queries => ARRAY['SELECT * FROM t WHERE a = 4;', ' /* c */ SELECT 1 -- end']",
                              "queries => '{{SELECT 1,SELECT 2}}'"):
                session.query(f"SELECT * FROM perf.index_recommendations({arguments})")
            heavy = "queries => ARRAY['SELECT * FROM t WHERE a = 4', 'SELECT * FROM u WHERE b = 5'], weights => '{1e300, 1e300}'"
            self.assertEqual(session.query(f"SELECT count(*) FROM perf.index_recommendations({heavy}) WHERE source <> 'policy'").rows, [(2,)])


class Places(AdvisorTest):
    """Any session, any transaction, any caller."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.database()
        self.session = self.cluster.connect(self.name)
        self.addCleanup(self.session.close)

    def test_protocol(self) -> None:
        self.assertEqual(self.session.execute(ONE).rows, FOUND)
        self.session.prepare("advice", ONE.replace("'{SELECT * FROM t WHERE a = 4}'", "$1::text[]"))
        for _ in range(8):  # past the switch to a generic plan
            self.assertEqual(self.session.execute_prepared("advice", (["SELECT * FROM t WHERE a = 4"],)).rows, FOUND)
        self.session.query("PREPARE w (text) AS SELECT indexes_used FROM perf.what_if($1, '{CREATE INDEX ta ON t (a)}')")
        self.assertEqual(self.session.query("EXECUTE w ('SELECT * FROM t WHERE a = 4')").rows, [([],), (["ta"],)])
        self.session.query("BEGIN; DECLARE c CURSOR FOR SELECT variant FROM perf.what_if('SELECT * FROM t WHERE a = 4')")
        self.assertEqual(self.session.query("FETCH 1 FROM c").rows, [("current",)])
        self.session.query("SAVEPOINT s; ROLLBACK TO s")
        self.assertEqual(self.session.query("FETCH 1 FROM c").rows, [("hypothetical",)])
        self.session.query("COMMIT")

    def test_transactions(self) -> None:
        for mode in ("READ ONLY", "ISOLATION LEVEL SERIALIZABLE", "ISOLATION LEVEL REPEATABLE READ",
                     "ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE"):
            self.session.query(f"BEGIN {mode}; SAVEPOINT s")
            self.assertEqual(self.session.query(ONE).rows, FOUND, mode)
            self.assertEqual(self.session.query("SELECT count(*) FROM perf.what_if('DELETE FROM t WHERE a = 4', '{CREATE INDEX ON t (a)}')").rows,
                             [(2,)], mode)
            with self.assertRaises(SqlError):
                self.session.query("SELECT perf.what_if('SELECT 1/0')")
            self.session.query("ROLLBACK TO s")
            self.assertEqual(self.session.query(ONE).rows, FOUND, mode)
            self.assertEqual(self.session.query("SELECT pg_current_xact_id_if_assigned() IS NULL").rows, [(True,)], mode)
            self.session.query("COMMIT")

    def test_uncommitted_tables(self) -> None:
        self.session.query("BEGIN; CREATE TABLE fresh AS SELECT g AS a, g AS b FROM generate_series(1, 20000) g; ANALYZE fresh")
        self.assertEqual(self.advice(self.session, "SELECT * FROM fresh WHERE a = 4"), [("public.fresh", ["a"])])
        self.session.query("ALTER TABLE fresh RENAME a TO z")
        self.assertEqual(self.advice(self.session, "SELECT * FROM fresh WHERE z = 4"), [("public.fresh", ["z"])])
        self.session.query("ROLLBACK")

    def test_functions(self) -> None:
        self.session.query("""
            CREATE FUNCTION asks() RETURNS text[] LANGUAGE plpgsql AS $$
            DECLARE found text[]; message text;
            BEGIN
                BEGIN
                    PERFORM perf.what_if('SELECT * FROM nowhere');
                EXCEPTION WHEN undefined_table THEN GET STACKED DIAGNOSTICS message = MESSAGE_TEXT;
                END;
                FOR n IN 1..3 LOOP
                    SELECT columns INTO found FROM perf.index_recommendations(queries => '{SELECT * FROM public.t WHERE a = 4}') WHERE source <> 'policy';
                END LOOP;
                RETURN found || message;
            END $$;
            CREATE ROLE hard_caller;
            CREATE FUNCTION definer() RETURNS text[] LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS
                'SELECT columns FROM perf.index_recommendations(queries => ''{SELECT * FROM public.t WHERE a = 4}'') WHERE source <> ''policy''';
            GRANT USAGE ON SCHEMA perf TO hard_caller""")
        self.addCleanup(self.cluster.sql, "DROP ROLE hard_caller")
        self.addCleanup(self.cluster.sql, "DROP OWNED BY hard_caller", (), self.name)
        self.assertEqual(self.session.query("SELECT asks()").rows, [(["a", 'relation "nowhere" does not exist'],)])
        self.session.query("SET search_path = ''")
        self.assertEqual(self.session.query("SELECT public.asks()").rows, [(["a", 'relation "nowhere" does not exist'],)])
        self.session.query("SET ROLE hard_caller")
        self.assertEqual(self.session.query("SELECT public.definer()").rows, [(["a"],)])
        with self.assertRaises(SqlError) as caught:
            self.session.query("SELECT * FROM perf.index_recommendations(queries => '{SELECT * FROM public.t WHERE a = 4}')")
        self.assertIn("permission denied for table t", caught.exception.message)
        self.assertEqual(self.session.query("SELECT current_user, current_setting('search_path')").rows, [("hard_caller", '""')])

    def test_settings_of_the_session(self) -> None:
        """Whatever the session has set, the answer is one and the settings stay."""
        for setting in ("search_path = 'nowhere'", "search_path = 'u, pg_temp, pg_catalog'", "enable_seqscan = off", "geqo_threshold = 2",
                        "plan_cache_mode = force_generic_plan", "default_transaction_read_only = on", "quote_all_identifiers = on",
                        "standard_conforming_strings = off", "extra_float_digits = -15", "DateStyle = 'German'", "lock_timeout = 1",
                        "row_security = off", "constraint_exclusion = on", "jit_above_cost = 0", "client_min_messages = error",
                        "bytea_output = escape", "lc_messages = 'C'", "max_parallel_workers_per_gather = 4", "perf_opt.track = 'all'"):
            self.session.query(f"SET {setting}")
            before = self.session.query(TRACES).rows
            rows = self.session.query("SELECT columns FROM perf.index_recommendations(queries => '{SELECT * FROM public.t WHERE a = 4}') "
                                      "WHERE source <> 'policy'").rows
            self.assertEqual(rows, [] if setting.startswith("enable_seqscan") and rows == [] else [(["a"],)], setting)
            self.assertEqual(self.session.query(TRACES).rows, before, setting)
            self.session.query("RESET ALL")


class Traces(AdvisorTest):
    """Catalogs, locks, transaction ids, WAL, memory: as before."""

    def test_nothing_is_left(self) -> None:
        name = self.database()
        with self.cluster.connect(name) as session:
            session.query("CREATE TABLE p (a int, b int) PARTITION BY LIST (b); CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1); "
                          "CREATE INDEX u_c ON u (c)")
            calls = ["SELECT count(*) FROM perf.index_recommendations(queries => ARRAY['SELECT * FROM t WHERE a = 4', "
                     "'SELECT * FROM u WHERE b = 4', 'SELECT * FROM p WHERE a = 4', 'UPDATE t SET b = 0 WHERE a = 4'])",
                     "SELECT count(*) FROM perf.what_if('SELECT * FROM t WHERE a = 4 AND c = 5', "
                     "ARRAY['CREATE INDEX ON t (a)', 'CREATE UNIQUE INDEX ON t (lower(a::text)) WHERE c = 5'])",
                     "SELECT count(*) FROM perf.what_if('SELECT * FROM u WHERE c = 4', '{}', '{u_c}')",
                     "SELECT count(*) FROM perf.index_recommendations()"]
            for call in calls:
                session.query(call)
            before = session.query(CATALOGS).rows
            session.query("BEGIN")
            for call in calls:
                plan = session.query(f"EXPLAIN (ANALYZE, WAL, COSTS OFF, FORMAT JSON) {call}").scalar()
                self.assertEqual(plan[0]["Plan"].get("WAL Records", 0), 0, call)
            self.assertEqual(session.query("SELECT pg_current_xact_id_if_assigned() IS NULL").rows, [(True,)])
            # What the call itself reads through SQL stays locked to the end of the transaction, as with any function.
            self.assertEqual(session.query("SELECT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid() AND "
                                           "relation IN ('t'::regclass, 'u'::regclass, 'p'::regclass, 'p_1'::regclass, 'u_c'::regclass)").rows, [])
            session.query("COMMIT")
            self.assertEqual(session.query(CATALOGS).rows, before)
            self.assertEqual(session.query("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation >= 16384").rows, [(0,)])

    def test_memory(self) -> None:
        name = self.database()
        with self.cluster.connect(name) as session:
            def calls(times: int) -> None:
                for n in range(times):
                    session.query(ONE)
                    session.query(f"SELECT * FROM perf.what_if('SELECT * FROM t WHERE a = {n}', "
                                  "ARRAY['CREATE INDEX ON t (a)', 'CREATE INDEX ON t ((a + 1)) WHERE b = 5'])")
                    for wrong in ("SELECT perf.what_if('SELECT 1/0')", "SELECT perf.what_if('SELECT 1', '{CREATE INDEX ON t (x)}')",
                                  "SELECT perf.index_recommendations(queries => '{SELECT * FROM nowhere}')"):
                        self.assertRaises(SqlError, session.query, wrong)

            def resident() -> int:
                lines = Path(f"/proc/{session.pid}/status").read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "VmSwap")))

            calls(100)
            contexts, kilobytes = session.query(MEMORY).scalar(), resident()
            calls(1000)
            self.assertLess(session.query(MEMORY).scalar() - contexts, 64 * 1024)
            self.assertLess(resident() - kilobytes, 1024)

    time_limit = 300.0


class Servers(AdvisorTest):
    """Standby, not preloaded, beside other extensions."""

    def test_standby(self) -> None:
        primary = self.private_cluster(self.settings)
        name = self.database(primary)
        primary.sql("CREATE UNLOGGED TABLE gone (a int, b int)", dbname=name)
        primary.sql("INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (99, 'gone', '{a}', 'low'), (98, 't', '{b}', 'low')",
                    dbname=name)
        standby = primary.standby()
        primary.wait_for_replay(standby)
        with standby.connect(name) as session:
            self.assertEqual(session.query(ONE).rows, FOUND)
            self.assertEqual(session.query("SELECT indexes_used FROM perf.what_if('SELECT * FROM t WHERE a = 4', '{CREATE INDEX ta ON t (a)}')").rows,
                             [([],), (["ta"],)])
            self.assertEqual(session.query("SELECT count(*) FROM perf.what_if('DELETE FROM t WHERE a = 4', '{CREATE INDEX ta ON t (a)}')").rows, [(2,)])
            for _ in range(20):
                session.query("SELECT * FROM u WHERE b = 4")
            self.assertEqual(session.query("SELECT columns FROM perf.index_recommendations() WHERE relation = 'public.u'").rows, [(["b"],)])
            rows = session.query("SELECT relation, status, reason FROM perf.index_recommendations(include_inapplicable => true, queries => '{SELECT 1}') "
                                 "WHERE relation ~ 'gone'").rows
            self.assertEqual([row[1] for row in rows], ["not_applicable"])
            with self.assertRaises(SqlError) as caught:
                session.query("SELECT * FROM perf.index_recommendations(queries => '{SELECT * FROM gone WHERE a = 4}')")
            self.assertEqual(caught.exception.sqlstate, "22023")
            with self.assertRaises(SqlError) as caught:
                session.query("SELECT * FROM perf.what_if('SELECT 1', '{CREATE INDEX ON gone (a)}')")
            self.assertEqual(caught.exception.sqlstate, "0A000")

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({**self.settings, "shared_preload_libraries": "", "perf_opt.collector": None})
        name = self.database(cluster)
        self.assertEqual(cluster.sql(ONE, dbname=name), FOUND)
        self.assertEqual(cluster.sql("SELECT indexes_used FROM perf.what_if('SELECT * FROM t WHERE a = 4', '{CREATE INDEX ta ON t (a)}')", dbname=name),
                         [([],), (["ta"],)])
        problem = self.assert_sql_error("55000", cluster, "SELECT * FROM perf.index_recommendations()", dbname=name)
        self.assertIn("shared_preload_libraries", problem.message)
        problem = self.assert_sql_error("55000", cluster, "SELECT * FROM perf.index_recommendations(workload => 'pg_stat_statements')", dbname=name)
        self.assertIn("pg_stat_statements", problem.message)

    def test_other_libraries(self) -> None:
        """First and last of several; pg_stat_statements as the source, installed in a schema of its own or not at all."""
        for libraries in ("perf_opt, pg_stat_statements, auto_explain", "auto_explain, pg_stat_statements, perf_opt"):
            cluster = self.private_cluster({**self.settings, "shared_preload_libraries": libraries})
            name = self.database(cluster)
            with cluster.connect(name) as session:
                self.assertEqual(session.query(ONE).rows, FOUND, libraries)
                with self.assertRaises(SqlError) as caught:
                    session.query("SELECT * FROM perf.index_recommendations(workload => 'pg_stat_statements')")
                self.assertEqual(caught.exception.sqlstate, "55000")
                session.query('CREATE SCHEMA "Stat s"; CREATE EXTENSION pg_stat_statements SCHEMA "Stat s"')
                session.query('SELECT "Stat s".pg_stat_statements_reset()')
                for n in range(50):
                    session.query(f"SELECT * FROM u WHERE b = {n}")
                rows = session.query("SELECT relation, columns, confidence FROM perf.index_recommendations(workload => 'pg_stat_statements') "
                                     "WHERE source <> 'policy'").rows
                self.assertEqual(rows, [("public.u", ["b"], "medium")], libraries)
            cluster.destroy()

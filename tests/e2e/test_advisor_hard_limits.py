"""The index advisor under limits: time budget, cancel, timeouts, functions that sleep or raise while a statement is planned."""

from __future__ import annotations

import time

from .advisor_case import CATALOGS, TRACES, AdvisorTest
from .cluster import Connection, SqlError

SLEEPY = ("CREATE FUNCTION {name}(seconds float8) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
          "$$ BEGIN PERFORM pg_sleep(seconds); RETURN 4; END $$")
# Joins that take the planner some time, each a little different.
BIG = ["SELECT count(*) FROM t t0" + "".join(f" JOIN t t{n} ON t{n}.{'abc'[n % 3]} = t{n - 1}.{'bca'[(n + k) % 3]}"
                                             for n in range(1, 11)) + f" WHERE t0.a = {k}" for k in range(40)]


class Limits(AdvisorTest):
    """Whatever ends a call early, the session goes on as if it had not been made."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.database()
        self.session = self.cluster.connect(self.name)
        self.addCleanup(self.session.close)
        self.session.query("SET jit = off; SET max_parallel_workers_per_gather = 0")
        self.session.query("SET geqo = off; SET join_collapse_limit = 10; SET from_collapse_limit = 10")

    def ends(self, message: str) -> None:
        """What was sent last fails as a cancelled statement, for this reason."""
        with self.assertRaises(SqlError) as caught:
            self.session.wait(30)
        self.assertEqual(caught.exception.sqlstate, "57014", str(caught.exception))
        self.assertIn(message, caught.exception.message)

    def assert_timeout(self, error: SqlError) -> None:
        self.assertEqual((error.sqlstate, error.message), ("57014", "canceling statement due to statement timeout"))

    def wait_for_sleep(self) -> None:
        """Waits until the session sleeps in a function."""
        self.wait_until(lambda: self.cluster.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'",
                                                 (self.session.pid,)), 10, "the function to be called")

    def unharmed(self) -> None:
        """The session works, nothing comes late, and the next call gives its answer."""
        self.session.query("SELECT pg_sleep(0.15)")
        self.assertEqual(self.advice(self.session, "SELECT * FROM t WHERE a = 4"), [("public.t", ["a"])])
        self.assertEqual(self.said(self.session), "")

    def test_sleeping_function(self) -> None:
        self.session.query(SLEEPY.format(name="sleepy"))
        traces = self.session.query(TRACES).rows
        began = time.monotonic()
        found = self.advice(self.session, "SELECT * FROM t WHERE a = sleepy(60)", "SELECT * FROM u WHERE b = 5",
                            time_budget_ms=2000)
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(found, [("public.u", ["b"])])
        self.assertIn("1 statements were left out: planning one took too long for the time budget", self.said(self.session))
        self.assertEqual(self.session.query(TRACES).rows, traces)
        self.unharmed()

    def test_sleep_shorter_than_the_budget(self) -> None:
        self.session.query(SLEEPY.format(name="sleepy"))
        found = self.advice(self.session, "SELECT * FROM t WHERE a = sleepy(0.02)", time_budget_ms=20000)
        self.assertEqual(found, [("public.t", ["a"])])

    def test_function_that_swallows_the_end(self) -> None:
        """It ends itself, late; nothing is left over for the user's next statement."""
        self.session.query("CREATE FUNCTION stubborn() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); "
                           "RETURN 4; EXCEPTION WHEN query_canceled THEN RETURN 5; END $$")
        self.advice(self.session, "SELECT * FROM t WHERE a = stubborn()", time_budget_ms=200)
        self.unharmed()

    def test_one_millisecond(self) -> None:
        self.session.query(SLEEPY.format(name="sleepy"))
        for queries in (BIG, ["SELECT * FROM t WHERE a = sleepy(60)"], ["SELECT * FROM t WHERE a = 4"]):
            began = time.monotonic()
            self.advice(self.session, *queries, time_budget_ms=1)
            self.assertLess(time.monotonic() - began, 5)
            self.assertIn("time budget", self.said(self.session))
        self.unharmed()

    def test_time_budget(self) -> None:
        began = time.monotonic()
        self.advice(self.session, *BIG, time_budget_ms=500)
        self.assertLess(time.monotonic() - began, 5)
        self.assertIn("the time budget ran out: this is the best found so far", self.said(self.session))
        self.unharmed()

    def test_statement_timeout(self) -> None:
        self.session.query(SLEEPY.format(name="sleepy"))
        calls = ("SELECT perf.index_recommendations(60000, queries => '{SELECT * FROM t WHERE a = sleepy(60)}')",
                 "SELECT perf.what_if('SELECT * FROM t WHERE a = sleepy(60)', '{CREATE INDEX ON t (a)}')")
        for call in calls:
            self.session.query("SET statement_timeout = '300ms'")
            traces = self.session.query(TRACES).rows
            self.session.send_async(call)
            self.ends("statement timeout")
            self.assertEqual(self.session.query(TRACES).rows, traces)
            self.session.query("RESET statement_timeout")
            self.unharmed()

    def test_statement_timeout_in_a_long_search(self) -> None:
        self.session.query("SET statement_timeout = '300ms'")
        traces = self.session.query(TRACES).rows
        self.session.send_execute("SELECT perf.index_recommendations(300000, queries => $1::text[])", (BIG,))
        self.ends("statement timeout")
        self.assertEqual(self.session.query(TRACES).rows, traces)
        self.session.query("RESET statement_timeout")
        self.unharmed()

    def test_statement_timeout_and_budget_together(self) -> None:
        """Whichever comes first; both at once is an answer or the user's own timeout, never anything else."""
        self.session.query(SLEEPY.format(name="sleepy"))
        for timeout in (95, 98, 100, 102, 105, 110):
            self.session.query(f"SET statement_timeout = '{timeout}ms'")
            self.session.send_async("SELECT perf.index_recommendations(500, queries => '{SELECT * FROM t WHERE a = sleepy(60)}')")
            try:
                self.session.wait(30)
            except SqlError as error:
                self.assert_timeout(error)
            try:
                self.session.query("RESET statement_timeout")
            except SqlError as error:
                # The server raises a timeout that comes while the answer goes out after it, in place of or before the next.
                self.assert_timeout(error)
                self.session.close()
                self.session = self.cluster.connect(self.name)
            self.unharmed()

    def test_cancel_while_a_function_sleeps(self) -> None:
        self.session.query(SLEEPY.format(name="sleepy"))
        traces = self.session.query(TRACES).rows
        for call in ("SELECT perf.index_recommendations(60000, queries => '{SELECT * FROM t WHERE a = sleepy(60)}')",
                     "SELECT perf.what_if('SELECT * FROM t WHERE a = sleepy(60)')"):
            self.session.send_async(call)
            self.wait_for_sleep()
            self.session.cancel()
            self.ends("user request")
            self.assertEqual(self.session.query(TRACES).rows, traces)
            self.unharmed()

    def test_cancel_a_long_search(self) -> None:
        traces = self.session.query(TRACES).rows
        catalogs = self.session.query(CATALOGS).rows
        self.session.query("SET join_collapse_limit = 11")
        self.session.send_execute("SELECT perf.index_recommendations(300000, queries => $1::text[])", (BIG,))
        self.wait_until(lambda: self.cluster.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active' AND "
                                                 "clock_timestamp() - query_start > '500 ms'", (self.session.pid,)), 10, "half a second of search")
        self.assertTrue(self.cluster.scalar("SELECT pg_cancel_backend($1)", (self.session.pid,)))
        self.ends("user request")
        self.assertEqual(self.session.query(TRACES).rows, traces)
        self.assertEqual(self.session.query(CATALOGS).rows, catalogs)
        self.session.query("RESET join_collapse_limit")
        self.unharmed()

    def test_cancel_in_a_transaction(self) -> None:
        self.session.query(SLEEPY.format(name="sleepy"))
        self.session.query("BEGIN; SAVEPOINT s; SET LOCAL statement_timeout = '200ms'")
        self.session.send_async("SELECT perf.what_if('SELECT * FROM t WHERE a = sleepy(60)')")
        self.ends("statement timeout")
        self.session.query("ROLLBACK TO s")
        self.assertEqual(self.advice(self.session, "SELECT * FROM t WHERE a = 4"), [("public.t", ["a"])])
        self.session.query("COMMIT")

    def test_termination(self) -> None:
        other = self.cluster.connect(self.name)
        other.query(SLEEPY.format(name="sleepy"))
        other.send_async("SELECT perf.index_recommendations(60000, queries => '{SELECT * FROM t WHERE a = sleepy(60)}')")
        self.wait_until(lambda: self.cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 "
                                                 "AND wait_event = 'PgSleep'", (other.pid,)), 10, "the function to be called")
        with self.assertRaises(SqlError) as caught:
            other.wait(10)
        self.assertEqual(caught.exception.sqlstate, "57P01")

    def test_nested_call(self) -> None:
        """A function that asks the advisor itself, while its statement is planned, under an outer budget."""
        self.session.query(SLEEPY.format(name="sleepy"))
        self.session.query("CREATE FUNCTION asks() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
                           "PERFORM perf.index_recommendations(60000, queries => '{SELECT * FROM t WHERE b = sleepy(60)}'); "
                           "PERFORM pg_sleep(60); RETURN 4; END $$")
        began = time.monotonic()
        found = self.advice(self.session, "SELECT * FROM t WHERE a = asks()", "SELECT * FROM u WHERE b = 5", time_budget_ms=2000)
        self.assertLess(time.monotonic() - began, 10)
        self.assertEqual(found, [("public.u", ["b"])])
        self.unharmed()

    def test_raising_function(self) -> None:
        self.session.query("CREATE FUNCTION broken() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'planned to fail'; END $$")
        traces = self.session.query(TRACES).rows
        with self.assertRaises(SqlError) as caught:
            self.advice(self.session, "SELECT * FROM t WHERE a = broken()")
        self.assertEqual(caught.exception.sqlstate, "22023")
        self.assertIn("planned to fail", caught.exception.message)
        self.assertEqual(self.session.query(TRACES).rows, traces)
        self.unharmed()

    def test_function_that_changes_the_session(self) -> None:
        """Security-restricted: no SET ROLE, no temporary table; a setting ends with the planning."""
        bodies = {"roles": "SET ROLE pg_monitor", "temps": "CREATE TEMP TABLE x (a int)", "sets": "SET work_mem = 64"}
        for name, body in bodies.items():
            self.session.query(f"CREATE FUNCTION {name}() RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
                               f"$$ BEGIN EXECUTE '{body}'; RETURN 4; END $$")
        traces = self.session.query(TRACES).rows
        memory = self.session.query("SHOW work_mem").rows
        for name in bodies:
            try:
                self.advice(self.session, f"SELECT * FROM t WHERE a = {name}()")
            except SqlError as error:
                self.assertIn(error.sqlstate, ("22023", "0A000"))
            self.assertEqual(self.session.query(TRACES).rows, traces, name)
            self.assertEqual(self.session.query("SHOW work_mem").rows, memory)
        self.unharmed()

    def test_function_that_writes(self) -> None:
        """What it wrote is undone with the planning."""
        self.session.query("CREATE TABLE written (a int); CREATE FUNCTION writer() RETURNS int VOLATILE LANGUAGE sql AS "
                           "'INSERT INTO written VALUES (1) RETURNING 4'")
        self.session.query("CREATE FUNCTION hides() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN writer(); END $$")
        self.advice(self.session, "SELECT * FROM t WHERE a = hides()")
        self.session.query("SELECT perf.what_if('SELECT * FROM t WHERE a = hides()')")
        self.assertEqual(self.session.query("SELECT count(*) FROM written").rows, [(0,)])
        self.unharmed()


class Roles(AdvisorTest):
    """A captured statement's functions run as the role that ran the statement."""

    def connection(self, name: str, user: str) -> Connection:
        """A session that is closed after the test."""
        session = self.cluster.connect(name, user)
        self.addCleanup(session.close)
        return session

    def test_functions_run_as_the_statements_role(self) -> None:
        name = self.database()
        admin = self.connection(name, "postgres")
        admin.query("CREATE ROLE hard_alice LOGIN; GRANT SELECT ON t TO hard_alice; SELECT perf.reset()")
        self.addCleanup(self.cluster.sql, "DROP ROLE hard_alice")
        self.addCleanup(self.cluster.sql, "DROP OWNED BY hard_alice", (), name)
        admin.query("CREATE FUNCTION whoami() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
                    "RAISE NOTICE 'planned as % in %', current_user, current_setting('search_path'); RETURN 4; END $$")
        alice = self.connection(name, "hard_alice")
        alice.query("SET search_path = public, pg_temp")
        for _ in range(20):
            alice.query("SELECT * FROM t WHERE a = whoami()")
        admin.notices.clear()
        self.wait_until(lambda: admin.query("SELECT relation, columns FROM perf.index_recommendations(60000) WHERE source <> 'policy'").rows
                        == [("public.t", ["a"])], 20, "the captured statement to be advised on")
        said = {notice["message"] for notice in admin.notices}
        self.assertIn("planned as hard_alice in public, pg_temp", said)
        self.assertFalse([line for line in said if "planned as postgres" in line])
        self.assertEqual(admin.query("SELECT current_user, current_setting('search_path')").rows, [("postgres", '"$user", public')])

    def test_captured_statements_that_fail_today(self) -> None:
        """Table dropped, function raising, function sleeping: left out and counted."""
        name = self.database()
        session = self.connection(name, "postgres")
        session.query("SELECT perf.reset()")
        session.query("CREATE TABLE doomed AS SELECT 1 AS a")
        session.query("CREATE FUNCTION moody() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 4'")
        session.query("SELECT * FROM doomed, pg_sleep(0.1) WHERE a = 17")
        session.query("SELECT b FROM t, pg_sleep(0.1) WHERE a = moody()")
        for _ in range(50):
            session.query("SELECT * FROM u WHERE b = 4")
        session.query("DROP TABLE doomed")
        session.query("CREATE OR REPLACE FUNCTION moody() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$")
        session.notices.clear()
        found = session.query("SELECT relation, columns FROM perf.index_recommendations() WHERE source <> 'policy'").rows
        self.assertEqual(found, [("public.u", ["b"])])
        said = self.said(session)
        self.assertRegex(said, r"^2 statements were left out because they cannot be planned; the first: queryid -?\d+, SQLSTATE (42P01|P0001)$")

    def test_everybody_is_told_of_their_own(self) -> None:
        name = self.database()
        admin = self.connection(name, "postgres")
        admin.query("CREATE ROLE hard_bob LOGIN; GRANT SELECT ON t TO hard_bob; GRANT USAGE ON SCHEMA perf TO hard_bob; SELECT perf.reset()")
        self.addCleanup(self.cluster.sql, "DROP ROLE hard_bob")
        self.addCleanup(self.cluster.sql, "DROP OWNED BY hard_bob", (), name)
        bob = self.connection(name, "hard_bob")
        for _ in range(30):
            bob.query("SELECT * FROM t WHERE b = 4")
            admin.query("SELECT * FROM u WHERE b = 4")
        question = "SELECT relation, columns FROM perf.index_recommendations() WHERE source <> 'policy' ORDER BY relation"
        bob.notices.clear()
        self.assertEqual(bob.query(question).rows, [("public.t", ["b"])])
        self.assertRegex(self.said(bob), r"^\d+ statements were left out: they run as roles that you are not a member of$")
        self.assertEqual(admin.query(question).rows, [("public.t", ["b"]), ("public.u", ["b"])])
        # A role that is gone since.
        admin.query("CREATE ROLE hard_eve LOGIN; GRANT SELECT ON t TO hard_eve; SELECT perf.reset()")
        eve = self.connection(name, "hard_eve")
        for _ in range(30):
            eve.query("SELECT * FROM t WHERE a = 4")
        eve.close()
        admin.query("DROP OWNED BY hard_eve; DROP ROLE hard_eve")
        self.assertEqual(admin.query(question).rows, [])

    def test_captured_names_and_parameters(self) -> None:
        """As the application sent it: its search path, its parameters, names that need quotes."""
        name = self.database()
        session = self.connection(name, "postgres")
        session.query('CREATE SCHEMA "Ünï ""s"; CREATE TABLE "Ünï ""s"."T x" AS SELECT g AS "Cöl ""umn", g AS b FROM generate_series(1, 20000) g')
        session.query('ANALYZE "Ünï ""s"."T x"; SELECT perf.reset()')
        application = self.connection(name, "postgres")
        application.query('SET search_path = "Ünï ""s"')
        for number in range(30):
            application.execute('SELECT * FROM "T x" WHERE "Cöl ""umn" = $1', (number,))
        rows = session.query("SELECT relation, columns, ddl FROM perf.index_recommendations() WHERE source <> 'policy'").rows
        self.assertEqual([row[:2] for row in rows], [('"Ünï ""s"."T x"', ['Cöl "umn'])])
        session.query(rows[0][2])
        self.assertEqual(self.used(session, 'SELECT * FROM "Ünï ""s"."T x" WHERE "Cöl ""umn" = 5'), ['T x_Cöl "umn_idx'])
        self.assertEqual(session.query("SELECT relation FROM perf.index_recommendations() WHERE source <> 'policy'").rows, [])

"""Transactions: what each application did is counted once and never lost; some transactions are kept as they were."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Callable, Optional

from .capture_case import CaptureTest, in_threads
from .case import ClusterTest, expects_crash
from .cluster import Cluster, Connection, SqlError

# What a test's own looking adds to.
LOOKING = "looking"


class TransactionsTest(CaptureTest):
    """Looks applications up, without counting what looks."""

    def setUp(self) -> None:
        super().setUp()
        self.looking = self.session()
        self.looking.query(f"SET application_name = '{LOOKING}'")
        self.looking.query("SELECT perf.reset()")

    def applications(self, **wanted: Any) -> list[dict[str, Any]]:
        """The rows of applications in the test's database with these values."""
        found = self.looking.query("SELECT * FROM perf._applications() WHERE database = current_database()").dicts()
        return [row for row in found if row["application_name"] != LOOKING
                and all(row[name] == value for name, value in wanted.items())]

    def application(self, name: str, user: str = "postgres") -> dict[str, Any]:
        """The one row of an application."""
        found = self.applications(application_name=name, username=user)
        self.assertEqual(len(found), 1, self.applications())
        return found[0]

    def assert_counts(self, name: str, statements: int, transactions: int, *, failures: int = 0, rolled_back: int = 0,
                      writing: int = 0, user: str = "postgres") -> dict[str, Any]:
        """Checks what an application did, exactly."""
        row = self.application(name, user)
        got = {key: row[key] for key in ("statements", "transactions", "failures", "rolled_back", "writing")}
        self.assertEqual(got, {"statements": statements, "transactions": transactions, "failures": failures,
                               "rolled_back": rolled_back, "writing": writing}, name)
        return row

    def named(self, name: str, user: str = "postgres") -> Connection:
        """A session of an application, which has not done anything yet."""
        return self.session(user, application_name=name)

    def totals(self) -> tuple[int, ...]:
        """Statements, transactions and failures of all applications of the database but the one that looks."""
        rows = self.applications()
        return tuple(sum(row[key] for row in rows) for key in ("statements", "transactions", "failures"))


class Applications(TransactionsTest):
    """Counts by database, role and application_name."""

    def test_statements_and_transactions(self) -> None:
        session = self.named("shop")
        session.query("SELECT 1")
        session.query("BEGIN; SELECT 1; SELECT 2; COMMIT")
        session.execute("SELECT $1::int", (1,))
        row = self.assert_counts("shop", 6, 3)
        self.assertGreater(row["statement_ms"], 0)
        self.assertGreater(row["p50_ms"], 0)
        self.assertGreaterEqual(row["p99_ms"], row["p50_ms"])
        self.assertEqual(row["writing_ms"], 0)

    def test_writing_and_reading(self) -> None:
        session = self.named("shop")
        session.query("CREATE TABLE written (a int)")
        self.addCleanup(self.run_sql, "DROP TABLE written")
        session.query("INSERT INTO written VALUES (1)")
        session.query("SELECT * FROM written")
        session.query("SELECT * FROM written FOR UPDATE")
        session.query("BEGIN")
        session.query("SELECT pg_sleep(0.05)")
        session.query("UPDATE written SET a = 2")
        session.query("COMMIT")
        row = self.assert_counts("shop", 8, 5, writing=4)
        self.assertGreater(row["writing_ms"], 50)
        self.assertLess(row["writing_ms"], row["statement_ms"])

    def test_rolled_back_and_failed(self) -> None:
        session = self.named("shop")
        session.query("BEGIN; SELECT 1; ROLLBACK")
        self.fails("22012", session.query, "SELECT 1 / 0")
        self.fails("42601", session.query, "SELEC 1")
        self.fails("42P01", session.query, "SELECT * FROM no_such_table")
        self.assert_counts("shop", 6, 4, failures=3, rolled_back=4)
        session.query("BEGIN")
        self.fails("22012", session.query, "SELECT 1 / 0")
        self.fails("25P02", session.query, "SELECT 1")
        session.query("ROLLBACK")
        session.query("SELECT 1")
        self.assert_counts("shop", 11, 6, failures=5, rolled_back=5)

    def test_failures_in_a_row(self) -> None:
        session = self.named("shop")
        session.query("CREATE TEMP TABLE once (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        for _ in range(3):
            self.fails("22012", session.query, "SELECT 1 / 0")
            self.fails("22012", session.execute, "SELECT 1 / $1::int", (0,))
            self.fails("23505", session.query, "INSERT INTO once VALUES (1), (1)")
        # The last one fails when it commits: it was answered already, and counts as a statement once.
        self.assert_counts("shop", 10, 10, failures=9, rolled_back=9, writing=4)

    def test_savepoints_are_no_transactions(self) -> None:
        session = self.named("shop")
        session.query("BEGIN")
        session.query("SAVEPOINT a")
        self.fails("22012", session.query, "SELECT 1 / 0")
        session.query("ROLLBACK TO a")
        session.query("CREATE TEMP TABLE in_savepoint (a int)")
        session.query("ROLLBACK TO a")
        session.query("COMMIT")
        self.assert_counts("shop", 7, 1, failures=1, writing=1)

    def test_preparing_alone_is_no_transaction(self) -> None:
        session = self.named("shop")
        session.prepare("p", "SELECT 1")
        session.query("")
        self.assertEqual(self.applications(application_name="shop"), [])
        session.execute_prepared("p")
        self.assert_counts("shop", 1, 1)

    def test_procedures_that_commit(self) -> None:
        session = self.named("shop")
        session.query("CREATE TABLE committed (a int)")
        self.addCleanup(self.run_sql, "DROP TABLE committed")
        session.query("CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO committed VALUES (1); COMMIT; "
                      "PERFORM pg_sleep(0.05); ROLLBACK; INSERT INTO committed VALUES (2); END $$")
        self.addCleanup(self.run_sql, "DROP PROCEDURE commits()")
        self.looking.query("SELECT perf.reset()")
        session.query("CALL commits()")
        row = self.assert_counts("shop", 1, 3, rolled_back=1, writing=2)
        self.assertGreater(row["statement_ms"], 50)
        self.assertLess(row["writing_ms"], row["statement_ms"] - 50)
        # As the first statement of a session, whose transactions end before any statement was counted.
        self.named("caller").query("CALL commits()")
        self.assert_counts("caller", 1, 3, rolled_back=1, writing=2)

    def test_as_many_as_statements_has(self) -> None:
        session = self.named("shop")
        session.query("CREATE TEMP TABLE sums (a int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        session.query("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 9); FETCH 2 FROM c; SAVEPOINT s")
        self.fails("22012", session.query, "DO $$ BEGIN PERFORM 1 / 0; END $$")
        session.query("ROLLBACK TO s; RELEASE s; MOVE ALL FROM c; COMMIT")
        session.query("PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE p")
        self.fails("23505", session.query, "INSERT INTO sums VALUES (1), (1)")
        session.prepare("q", "SELECT 10 / generate_series(-1, $1::int)")
        session.query("BEGIN")
        session.bind("portal", "q", (5,))
        session.fetch("portal", 1)
        self.fails("22012", session.fetch, "portal", 5)
        session.query("ROLLBACK")
        session.copy_in("COPY sums FROM STDIN", b"1\n2\n")
        session.query("EXPLAIN ANALYZE SELECT 1")
        session.close()
        self.gone(session)
        both = self.looking.query(
            "SELECT (SELECT sum(calls) || ' ' || sum(failures) FROM perf.statements() WHERE toplevel), "
            "(SELECT sum(statements) || ' ' || sum(failures) FROM perf._applications() "
            "WHERE database = current_database())").rows[0]
        self.assertEqual(both[0], both[1])
        self.assertEqual(self.application("shop")["failures"], 3)

    def test_prepared_transactions(self) -> None:
        session = self.named("shop")
        session.query("CREATE TABLE prepared (a int)")
        self.addCleanup(self.run_sql, "DROP TABLE prepared")
        self.looking.query("SELECT perf.reset()")
        session.query("BEGIN; INSERT INTO prepared VALUES (1); PREPARE TRANSACTION 'one'")
        session.query("COMMIT PREPARED 'one'")
        session.query("BEGIN; INSERT INTO prepared VALUES (1); PREPARE TRANSACTION 'two'")
        session.query("ROLLBACK PREPARED 'two'")
        self.assert_counts("shop", 8, 4, writing=2)

    def test_roles_and_names_that_change(self) -> None:
        session = self.named("shop")
        for role in ("mallory", "trent"):
            self.run_sql(f"CREATE ROLE {role}")
            self.addCleanup(self.run_sql, f"DROP ROLE {role}")
        self.looking.query("SELECT perf.reset()")
        # More identities than a backend counts under at the same time.
        for _ in range(5):
            for name in ("a", "b", "c"):
                for role in ("mallory", "trent"):
                    session.query(f"BEGIN; SET LOCAL application_name = '{name}'; SET LOCAL ROLE {role}; SELECT 1; COMMIT")
        for name in ("a", "b", "c"):
            for role in ("mallory", "trent"):
                # SET ROLE, SELECT and COMMIT; the transaction is its last statement's.
                self.assert_counts(name, 15, 5, user=role)
            self.assert_counts(name, 10, 0)
        self.assert_counts("shop", 30, 0)
        self.assertEqual(self.totals(), (150, 30, 0))
        session.close()
        self.gone(session)
        self.assertEqual(self.totals(), (150, 30, 0))

    def test_statements_that_come_again(self) -> None:
        session = self.named("often")
        for number in range(700):
            session.query("SELECT 1")
            if number in (100, 400):
                # Reading takes what a backend has counted so far.
                self.assert_counts("often", number + 1, number + 1)
        for _ in range(5):
            session.query("SELECT pg_sleep(0.012)")
        row = self.assert_counts("often", 705, 705)
        self.assertGreater(row["statement_ms"], 60)
        self.assertLess(row["p50_ms"], 12)
        names = [f"turn {number}" for number in range(6)]
        for number in range(120):
            session.query(f"SET application_name = '{names[number % 6]}'")
            session.query("SELECT 1")
            session.query("SELECT 1; SELECT 2")
        for name in names:
            self.assert_counts(name, 80, 60)
        for number in range(120):
            session.query(f"SET application_name = '{names[number % 2]}'")
            session.query("SELECT 1")
        session.close()
        self.gone(session)
        for number, name in enumerate(names):
            self.assert_counts(name, *((200, 180) if number < 2 else (80, 60)))

    def test_names_of_one_transaction(self) -> None:
        """The server gives the same place to name after name."""
        session = self.named("outside")
        names = [f"inside {number}" for number in range(4)]
        for number in range(80):
            session.query(f"BEGIN; SET LOCAL application_name = '{names[number % 4]}'; SELECT 1; SELECT 2; COMMIT")
        session.query("BEGIN")
        for _ in range(3):
            session.query("SELECT set_config('application_name', 'first', true), set_config('application_name', 'other', true)")
            session.query("SELECT 1")
        session.query("COMMIT")
        for _ in range(10):
            session.query("SELECT 1")
        for name in names:
            self.assertGreaterEqual(self.application(name)["statements"], 40)
        self.assertIn(self.application("other")["statements"], (6, 7))
        self.assertGreaterEqual(self.application("outside")["statements"], 10)

    def test_names_changed_within_a_statement(self) -> None:
        session = self.named("shop")
        for number in range(20):
            session.query(f"SELECT set_config('application_name', 'x' || n, false) FROM generate_series(1, {number}) n")
            session.query("RESET application_name")
        session.query("DISCARD ALL")
        self.assertEqual(sum(row["statements"] for row in self.applications()), 41)
        self.assertEqual(self.application("shop")["statements"], 22)
        self.assertEqual(self.application("x19")["statements"], 1)

    def test_many_short_connections(self) -> None:
        def work(number: int) -> None:
            for round_ in range(40):
                with self.cluster.connect(self.db, application_name=f"short {number} {round_ % 3}") as session:
                    session.query("SELECT 1")
                    session.query("BEGIN; SELECT 2; COMMIT")

        def watch() -> None:
            while not done.is_set():
                sums.append(self.totals())
        done, sums = threading.Event(), []
        watcher = threading.Thread(target=watch)
        watcher.start()
        in_threads(4, work)
        wanted = (4 * 40 * 4, 4 * 40 * 2, 0)
        self.wait_until(lambda: sums and sums[-1] == wanted, 10, "all to be counted")
        done.set()
        watcher.join()
        self.assertEqual(len(self.applications()), 12)
        # What a backend counted is seen in one place or the other while it leaves.
        self.assertEqual(sums, sorted(sums))
        self.assertGreater(len(sums), 10)

    def test_too_many_applications(self) -> None:
        session = self.named("regular")
        for _ in range(10):
            session.query("SELECT 1")
        session.close()
        self.gone(session)
        session = self.named("shop")
        for number in range(700):
            session.query(f"SET application_name = 'pid {number}'")
        row = self.application("(other)", None)  # type: ignore[arg-type]
        self.assertGreater(row["statements"], 150)
        # The applications that did least give way.
        self.assert_counts("regular", 10, 10)
        self.assertEqual(self.totals(), (710, 710, 0))
        warned = self.looking.query("SELECT status FROM perf.health() WHERE component = 'applications_moved'").scalar()
        self.assertEqual(warned, "warning")
        self.assertLessEqual(len(self.applications()), 520)

    def test_reset(self) -> None:
        mine = self.named("shop")
        mine.query("SELECT 1")
        elsewhere = self.fresh_database()
        other = self.cluster.connect(elsewhere, application_name="elsewhere")
        self.addCleanup(other.close)
        other.query("SELECT 1")
        self.looking.query(f"SELECT perf.reset(database => '{elsewhere}')")
        self.assert_counts("shop", 1, 1)
        everywhere = "SELECT count(*) FROM perf._applications() WHERE application_name = 'elsewhere'"
        self.assertEqual(self.looking.query(everywhere).scalar(), 0)
        other.query("SELECT 1")
        self.assertEqual(self.looking.query(everywhere).scalar(), 1)
        self.looking.query("SELECT perf.reset(42)")
        self.assert_counts("shop", 1, 1)
        self.looking.query("SELECT perf.reset()")
        self.assertEqual(self.applications(), [])
        mine.query("SELECT 1")
        self.assert_counts("shop", 1, 1)
        mine.close()
        self.gone(mine)
        self.assert_counts("shop", 1, 1)

    def test_a_session_that_ends_in_a_transaction(self) -> None:
        session = self.named("shop")
        session.query("BEGIN")
        session.query("SELECT 1")
        session.terminate_socket()
        self.wait_until(lambda: self.applications(application_name="shop", rolled_back=1), 10, "the session to end")
        self.assert_counts("shop", 2, 1, rolled_back=1)
        session = self.named("shop")
        session.send_async("SELECT pg_sleep(60)")
        self.sleeping(session)
        self.cluster.sql("SELECT pg_terminate_backend($1)", (session.pid,))
        self.wait_until(lambda: self.applications(application_name="shop", rolled_back=2), 10, "the session to end")
        self.assert_counts("shop", 3, 2, failures=1, rolled_back=2)

    def test_track(self) -> None:
        session = self.named("shop")
        session.query("SET perf_opt.track = 'none'")
        session.query("SELECT 1")
        self.assert_counts("shop", 1, 1)
        session.query("SET perf_opt.track = 'top'")
        session.query("DO $$ BEGIN PERFORM 1; END $$")
        self.assert_counts("shop", 2, 2)

    def test_only_for_those_who_read_statistics(self) -> None:
        self.run_sql("CREATE ROLE eve LOGIN", "CREATE ROLE oscar LOGIN IN ROLE pg_read_all_stats",
                     "GRANT USAGE ON SCHEMA perf TO PUBLIC")
        self.addCleanup(self.run_sql, "DROP ROLE eve", "DROP ROLE oscar")
        self.fails("42501", self.session("eve").query, "SELECT * FROM perf._applications()")
        self.assertTrue(self.session("oscar").query("SELECT * FROM perf._applications()").rows)


class Traces(TransactionsTest):
    """Transactions as they were."""

    def traces(self, name: str = "shop") -> list[dict[str, Any]]:
        """The transactions kept of an application, oldest first."""
        found = self.looking.execute("SELECT *, steps::text AS printed FROM perf._transaction_traces() "
                                     "WHERE application_name = $1", (name,)).dicts()
        return [{**row, "steps": json.loads(row["printed"])} for row in found]

    def trace(self, name: str = "shop") -> dict[str, Any]:
        """The last transaction of an application."""
        found = self.traces(name)
        self.assertTrue(found, "no transaction was kept")
        return found[-1]

    def texts(self, trace: dict[str, Any]) -> list[tuple[str, bool]]:
        """Text and level of a transaction's statements."""
        known = {row["queryid"]: row["query"] for row in self.statements()}
        return [(known.get(step["queryid"], "?"), step["toplevel"]) for step in trace["steps"]]

    def values_of(self, run: Callable[..., Any], *arguments: Any) -> list[Optional[int]]:
        """The values of the only statement of a transaction."""
        run(*arguments)
        steps = self.trace()["steps"]
        self.assertEqual(len(steps), 1, steps)
        return steps[0]["values"]

    def test_statements_in_order(self) -> None:
        session = self.named("shop")
        session.query("CREATE TABLE ordered (id int PRIMARY KEY, other int)")
        self.addCleanup(self.run_sql, "DROP TABLE ordered")
        session.query("BEGIN")
        session.query("SELECT other FROM ordered WHERE id = 5")
        session.query("INSERT INTO ordered VALUES (5, 6)")
        session.query("COMMIT")
        trace = self.trace()
        self.assertEqual(self.texts(trace), [("BEGIN", True), ("SELECT other FROM ordered WHERE id = $1", True),
                                             ("INSERT INTO ordered VALUES ($1, $2)", True), ("COMMIT", True)])
        select, insert = trace["steps"][1]["values"], trace["steps"][2]["values"]
        self.assertEqual(select, insert[:1])
        self.assertNotEqual(insert[0], insert[1])
        flags = {name: trace[name] for name in ("writes", "temporary", "fresh", "rolled_back", "truncated")}
        self.assertEqual(flags, {"writes": True, "temporary": False, "fresh": False, "rolled_back": False,
                                 "truncated": False})
        self.assertEqual(trace["username"], "postgres")
        self.assertGreater(trace["statement_ms"], 0)

    def test_the_same_value_however_it_is_sent(self) -> None:
        session = self.named("shop")
        want = self.values_of(session.query, "SELECT 42 AS v")
        self.assertIsNotNone(want[0])
        for text in ("SELECT '42' AS v", "SELECT int '42' AS v", "SELECT E'42' AS v", "SELECT $$42$$ AS v",
                     "SELECT 4_2 AS v" if self.cluster.major >= 16 else "SELECT 42 AS v"):
            self.assertEqual(self.values_of(session.query, text), want, text)
        self.assertEqual(self.values_of(session.execute, "SELECT $1::bigint AS v", (42,)), want)
        self.assertEqual(self.values_of(session.execute, "SELECT $1::text AS v", ("42",)), want)
        session.prepare("p", "SELECT $1::numeric AS v")
        self.assertEqual(self.values_of(session.execute_prepared, "p", (42,)), want)
        session.query("PREPARE q(int) AS SELECT $1 AS v")
        self.assertEqual(self.values_of(session.query, "EXECUTE q(42)"), want)
        self.assertEqual(self.values_of(session.query, "SELECT (-42) AS v"),
                         self.values_of(session.execute, "SELECT $1::int AS v", (-42,)))
        self.assertEqual(self.values_of(session.query, "SELECT 'it''s' AS v"),
                         self.values_of(session.execute, "SELECT $1::text AS v", ("it's",)))
        self.assertNotEqual(self.values_of(session.query, "SELECT 43 AS v"), want)

    def test_numbers_of_values(self) -> None:
        session = self.named("shop")
        one, two, three = (self.values_of(session.query, f"SELECT {value} AS v")[0] for value in (1, 2, 3))
        self.assertEqual(self.values_of(session.execute, "SELECT 3 AS v, $2::int, 1, $1::int", (1, 2)),
                         [one, two, three, one])
        self.assertEqual(self.values_of(session.execute, "SELECT $2::int, 2 AS v, $1::int", (None, 3)),
                         [None, three, two])
        self.assertEqual(self.values_of(session.query, r"SELECT 1 AS v, E'a\nb', '2', B'01', 3"),
                         [one, None, two, None, three])
        self.assertEqual(self.values_of(session.execute, "SELECT $1::text AS v, 2", ("x" * 600,)), [None, two])
        self.run_sql("CREATE TYPE mood AS ENUM ('ok')")
        self.addCleanup(self.run_sql, "DROP TYPE mood")
        self.assertEqual(self.values_of(session.execute, "SELECT $1::mood AS v, 2", ("ok",)), [None, two])

    def test_statements_of_one_string(self) -> None:
        session = self.named("shop")
        session.query("SELECT 1 AS v; SELECT 2 AS v, 1; SELECT 'x' AS v")
        first, second, third = (step["values"] for step in self.trace()["steps"])
        self.assertEqual((len(first), len(second), len(third)), (1, 2, 1))
        self.assertEqual(first[0], second[1])

    def test_nested_statements(self) -> None:
        session = self.named("shop")
        session.query("""CREATE FUNCTION nests(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE v int; BEGIN
                         SELECT 7 INTO v; EXECUTE 'SELECT $1 + 8' INTO v USING 9; RETURN n; END $$""")
        self.addCleanup(self.run_sql, "DROP FUNCTION nests(int)")
        session.query("SELECT nests(7)")
        trace = self.trace()
        self.assertEqual(self.texts(trace), [("SELECT $1", False), ("SELECT $1 + $2", False), ("SELECT nests($1)", True)])
        seven, dynamic, outer = (step["values"] for step in trace["steps"])
        self.assertEqual(seven, outer)
        nine, eight = (self.values_of(session.query, f"SELECT {value} AS v")[0] for value in (9, 8))
        self.assertEqual(dynamic, [nine, eight])
        session.query("SET perf_opt.track = 'top'")
        session.query("SELECT nests(7)")
        self.assertEqual(self.texts(self.trace()), [("SELECT nests($1)", True)])

    def test_flags(self) -> None:
        session = self.named("shop")
        session.query("BEGIN; SELECT 1; ROLLBACK")
        self.assertTrue(self.trace()["rolled_back"])
        self.fails("22012", session.query, "SELECT 1 / 0")
        self.assertTrue(self.trace()["rolled_back"])
        self.assertEqual(self.texts(self.trace()), [("SELECT $1 / $2", True)])
        session.query("CREATE TEMP TABLE temporary AS SELECT 1 AS a")
        session.query("SELECT * FROM temporary")
        trace = self.trace()
        self.assertTrue(trace["temporary"])
        self.assertFalse(trace["rolled_back"])
        session.query("SELECT 1")
        self.assertFalse(self.trace()["temporary"])

    def test_too_many_values_and_statements(self) -> None:
        session = self.named("shop")
        many = ", ".join(str(number) for number in range(100))
        session.query(f"SELECT 1 IN ({many})")
        trace = self.trace()
        self.assertTrue(trace["truncated"])
        self.assertEqual(len(trace["steps"][0]["values"]), 48)
        session.query("BEGIN")
        for number in range(200):
            session.query(f"SELECT {number} AS v")
        session.query("COMMIT")
        trace = self.trace()
        self.assertTrue(trace["truncated"])
        # Two words for BEGIN and its count, four for each of the others, of 230.
        self.assertEqual(len(trace["steps"]), 1 + (230 - 3) // 4)
        texts = self.texts(trace)
        self.assertEqual(texts[0], ("BEGIN", True))
        self.assertEqual(set(texts[1:]), {("SELECT $1 AS v", True)})
        session.query("SELECT 1 AS v")
        self.assertFalse(self.trace()["truncated"])

    def test_fresh_reads(self) -> None:
        session = self.named("shop")
        self.run_sql("CREATE TABLE fresh (a int)", "CREATE TABLE stale (a int)", "CREATE ROLE other_role LOGIN",
                     "GRANT ALL ON fresh TO other_role")
        self.addCleanup(self.run_sql, "DROP TABLE fresh, stale", "DROP ROLE other_role")
        other = self.named("reporting", "other_role")
        session.query("INSERT INTO fresh VALUES (1)")
        self.assertFalse(self.trace()["fresh"])
        session.query("SELECT * FROM fresh")
        self.assertTrue(self.trace()["fresh"])
        # In another session of the same role as well.
        self.named("pool").query("SELECT * FROM fresh")
        self.assertTrue(self.trace("pool")["fresh"])
        session.query("SELECT * FROM stale")
        self.assertFalse(self.trace()["fresh"])
        other.query("SELECT * FROM fresh")
        self.assertFalse(self.trace("reporting")["fresh"])
        # What was rolled back was not written.
        session.query("BEGIN; INSERT INTO stale VALUES (1); ROLLBACK")
        session.query("SELECT * FROM stale")
        self.assertFalse(self.trace()["fresh"])

        def is_stale() -> bool:
            session.query("SELECT * FROM fresh")
            return not self.trace()["fresh"]
        self.wait_until(is_stale, 10, "the write to be long ago")
        # It counts when the transaction ends, not when it wrote.
        session.query("BEGIN; INSERT INTO fresh VALUES (2)")
        session.query("SELECT pg_sleep(1.2); COMMIT")
        session.query("SELECT * FROM fresh")
        self.assertTrue(self.trace()["fresh"])

    def test_secrets_are_not_even_hashed(self) -> None:
        session = self.named("shop")
        session.query("CREATE ROLE carol PASSWORD 'secret'")
        self.addCleanup(self.run_sql, "DROP ROLE carol")
        self.assertEqual(self.trace()["steps"][0]["values"], [])

    def test_procedures_that_commit(self) -> None:
        session = self.named("shop")
        session.query("CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ DECLARE v int; BEGIN SELECT 1 INTO v; COMMIT; "
                      "SELECT 2, 3 INTO v; END $$")
        self.addCleanup(self.run_sql, "DROP PROCEDURE commits()")
        session.query("CALL commits()")
        first, second = self.traces()[-2:]
        self.assertEqual(self.texts(first), [("SELECT $1", False)])
        self.assertEqual(self.texts(second), [("SELECT $1, $2", False), ("CALL commits()", True)])

    def test_prepared_transactions_and_reset(self) -> None:
        session = self.named("shop")
        session.query("BEGIN; SELECT 1; PREPARE TRANSACTION 'one'")
        self.assertEqual([text for text, _ in self.texts(self.trace())],
                         ["BEGIN", "SELECT $1", "PREPARE TRANSACTION $1"])
        session.query("COMMIT PREPARED 'one'")
        self.assertEqual(self.texts(self.trace()), [("COMMIT PREPARED $1", True)])
        self.looking.query("SELECT perf.reset(database => 'postgres')")
        self.assertEqual(len(self.traces()), 2)
        self.looking.query("SELECT perf.reset(database => current_database())")
        self.assertEqual(self.traces(), [])
        session.query("SELECT 1")
        self.assertEqual(len(self.traces()), 1)

    def test_cursors_and_portals(self) -> None:
        session = self.named("shop")
        session.query("BEGIN; DECLARE c CURSOR FOR SELECT 1 AS of_cursor; FETCH c; COMMIT")
        # From 18 on the server gives the cursor's own statement a queryid; it ends with its transaction.
        self.assertEqual(self.texts(self.trace())[:4],
                         [("BEGIN", True), ("DECLARE c CURSOR FOR SELECT $1 AS of_cursor", True), ("FETCH c", True),
                          ("COMMIT", True)])
        session.query("BEGIN")
        session.prepare("p", "SELECT generate_series(1, $1::int) AS of_portal")
        session.bind("portal", "p", (5,))
        session.fetch("portal", 2)
        session.fetch("portal", 2)
        session.query("COMMIT")
        trace = self.trace()
        self.assertEqual(self.texts(trace), [("BEGIN", True), ("COMMIT", True),
                                             ("SELECT generate_series($2, $1::int) AS of_portal", True)])
        five, one = (self.values_of(session.query, f"SELECT {value} AS v")[0] for value in (5, 1))
        self.assertEqual(trace["steps"][2]["values"], [five, one])

    def test_only_for_those_who_read_statistics(self) -> None:
        self.run_sql("CREATE ROLE eve LOGIN", "GRANT USAGE ON SCHEMA perf TO PUBLIC")
        self.addCleanup(self.run_sql, "DROP ROLE eve")
        self.fails("42501", self.session("eve").query, "SELECT * FROM perf._transaction_traces()")
        self.fails("42501", self.session("eve").query, "SELECT * FROM perf._applications()")
        # Hashes of others' values are not for monitoring: they could be compared with those of guesses.
        self.run_sql("GRANT pg_monitor TO eve")
        self.fails("42501", self.session("eve").query, "SELECT * FROM perf._transaction_traces()")
        self.session("eve").query("SELECT * FROM perf._applications()")


class OwnServers(TransactionsTest):
    """What takes a server of its own."""

    def setUp(self) -> None:
        ClusterTest.setUp(self)

    def start(self, **settings: Any) -> Cluster:
        """A server with the extension in its database postgres."""
        cluster = self.private_cluster({f"perf_opt.{name}": value for name, value in settings.items()})
        cluster.sql("CREATE EXTENSION perf_opt")
        return cluster

    def test_the_ring_keeps_the_newest(self) -> None:
        cluster = self.start(transaction_samples=8)
        with cluster.connect(application_name="shop") as session:
            for number in range(50):
                session.query("SELECT 1" + " + 1" * (number % 10))
        kept = "SELECT array_agg(jsonb_array_length(steps->0->'values')) FROM perf._transaction_traces() WHERE " \
               "application_name = 'shop'"
        self.assertEqual(cluster.scalar(kept), [3, 4, 5, 6, 7, 8, 9, 10])
        used = "SELECT value FROM perf.health() WHERE component = 'transaction_samples'"
        self.assertEqual(cluster.scalar(used), 8)

    def test_a_ring_that_is_written_and_read_at_the_same_time(self) -> None:
        cluster = self.start(transaction_samples=3)

        def work(number: int) -> None:
            with cluster.connect(application_name=f"writer {number}") as session:
                for round_ in range(700):
                    session.query(f"BEGIN; SELECT {number}{round_} AS a; SELECT {number}{round_} AS b; COMMIT")

        def read() -> None:
            with cluster.connect(application_name="reader") as session:
                while not done.is_set():
                    # So that all are kept.
                    session.query("SELECT perf.reset()")
                    for row in session.query("SELECT application_name AS name, steps::text AS printed "
                                             "FROM perf._transaction_traces() ORDER BY ended_at").dicts():
                        if row["name"] != "reader":
                            found.append((row["name"], json.loads(row["printed"])))
        done, found = threading.Event(), []
        reader = threading.Thread(target=read)
        reader.start()
        in_threads(3, work)
        done.set()
        reader.join()
        self.assertGreater(len(found), 20)
        names: dict[int, str] = {}
        for name, steps in found:
            self.assertEqual([len(step["values"]) for step in steps], [0, 1, 1, 0])
            value = steps[1]["values"][0]
            self.assertEqual(steps[2]["values"][0], value)
            # A value is one writer's alone.
            self.assertEqual(names.setdefault(value, name), name)

    def test_busy_servers_keep_a_share(self) -> None:
        cluster = self.start(transaction_samples=10_000)
        began = time.monotonic()
        with cluster.connect(application_name="shop") as session:
            count = 0
            while time.monotonic() - began < 4:
                for _ in range(100):
                    session.query("SELECT 1")
                count += 100
        seconds = time.monotonic() - began
        kept = cluster.scalar("SELECT count(*) FROM perf._transaction_traces() WHERE application_name = 'shop'")
        self.assertGreater(count, 2_000)
        self.assertLessEqual(kept, 512 + 20 * seconds + 20)
        self.assertGreaterEqual(kept, 512)
        self.assertEqual(cluster.scalar("SELECT transactions FROM perf._applications() WHERE application_name = 'shop'"),
                         count)

    def test_none_is_kept(self) -> None:
        cluster = self.start(transaction_samples=0)
        cluster.sql("SELECT 1")
        self.assertEqual(cluster.scalar("SELECT count(*) FROM perf._transaction_traces()"), 0)
        self.assertGreater(cluster.scalar("SELECT sum(transactions)::bigint FROM perf._applications()"), 0)
        cluster.sql("SELECT perf.reset()")
        detail = cluster.scalar("SELECT detail FROM perf.health() WHERE component = 'transaction_samples'")
        self.assertIn("transaction_samples = 0", detail)

    @expects_crash
    def test_after_a_crash(self) -> None:
        cluster = self.start()
        session = cluster.connect(application_name="shop")
        self.addCleanup(session.close)
        session.query("SELECT 1 AS v")
        values = "SELECT steps->0->>'values' FROM perf._transaction_traces() WHERE application_name = 'shop' " \
                 "ORDER BY ended_at DESC LIMIT 1"
        before = cluster.scalar(values)
        started = cluster.scalar("SELECT pg_postmaster_start_time()::text")
        cluster.crash(session.pid)
        self.assertEqual(cluster.scalar("SELECT pg_postmaster_start_time()::text"), started)
        shop = "SELECT count(*) FROM perf._applications() WHERE application_name = 'shop'"
        self.assertEqual(cluster.scalar(shop), 0)
        with cluster.connect(application_name="shop") as again:
            again.query("SELECT 1 AS v")
        self.wait_until(lambda: cluster.scalar(shop) == 1, 10, "the new session to be counted")
        # The secret that hashes are keyed with is another one.
        self.assertNotEqual(cluster.scalar(values), before)

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": ""})
        cluster.sql("CREATE EXTENSION perf_opt")
        for function in ("_applications", "_transaction_traces"):
            self.assert_sql_error("55000", cluster, f"SELECT * FROM perf.{function}()")

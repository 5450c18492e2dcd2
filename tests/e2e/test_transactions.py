"""Transactions: what each application did is counted once and never lost; some transactions are kept as they were."""

from __future__ import annotations

import threading
from typing import Any

from .capture_case import CaptureTest, in_threads
from .cluster import Connection

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

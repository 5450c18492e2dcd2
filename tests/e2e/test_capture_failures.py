"""Capture: a statement that fails is recorded exactly once, with its queryid, SQLSTATE and the time it took."""

from __future__ import annotations

import threading
from typing import Any

from .capture_case import CaptureTest, ends_badly
from .cluster import Connection


class ErrorsInStatements(CaptureTest):
    """Errors that a statement raises itself, at every stage of its life."""

    def test_at_run_time(self) -> None:
        session = self.session()
        for divisor in (1, 0, 2, 0):
            try:
                session.query(f"SELECT 1 / (SELECT {divisor} OFFSET 0)")
            except Exception:  # noqa: B902  (the row says which)
                pass
        self.assert_row("SELECT $1 / (SELECT $2 OFFSET $3)", 4, 2, failures=2, sqlstate="22012")
        self.nothing_evicted()

    def test_only_ever_failed(self) -> None:
        session = self.session()
        self.fails("22012", session.query, "SELECT 1 / (SELECT 0 OFFSET 0)")
        self.assert_row("SELECT $1 / (SELECT $2 OFFSET $3)", 1, 0, failures=1, sqlstate="22012")
        self.nothing_evicted()

    def test_while_planning(self) -> None:
        session = self.session()
        self.fails("22012", session.query, "SELECT 1 / 0")
        self.assert_row("SELECT $1 / $2", 1, 0, failures=1, sqlstate="22012")
        session.query("CREATE FUNCTION raises() RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
                      "$$ BEGIN RAISE EXCEPTION USING ERRCODE = 'PO001', MESSAGE = 'no'; END $$")
        self.addCleanup(self.run_sql, "DROP FUNCTION raises()")
        self.fails("PO001", session.query, "SELECT raises() + 1")
        self.assert_row("SELECT raises() + $1", 1, 0, failures=1, sqlstate="PO001")
        self.nothing_evicted()

    def test_while_parsing(self) -> None:
        session = self.session()
        for _ in range(3):
            self.fails("42601", session.query, "SELEC 'geheim'")
        self.fails("42P01", session.query, "SELECT geheim FROM no_such_table")
        self.fails("42P01", session.execute, "SELECT geheim FROM no_such_table WHERE a = $1", (1,))
        self.fails("22P02", session.query, "SELECT int 'geheim'")
        self.assert_row("(not planned: 42601)", 3, 0, failures=3, sqlstate="42601")
        self.assert_row("(not planned: 42P01)", 2, 0, failures=2, sqlstate="42P01")
        self.assert_row("(not planned: 22P02)", 1, 0, failures=1, sqlstate="22P02")

    def test_in_an_aborted_transaction(self) -> None:
        session = self.session()
        session.query("BEGIN")
        self.fails("22012", session.query, "SELECT 1 / 0")
        self.fails("25P02", session.query, "SELECT abs(1)")
        session.query("ROLLBACK")
        self.assert_row("SELECT $1 / $2", 1, 0, failures=1, sqlstate="22012")
        self.assert_row("(not planned: 25P02)", 1, 0, failures=1, sqlstate="25P02")

    def test_no_permission(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS secret_table (a int)")
        session.query("SET ROLE pg_monitor")
        for _ in range(2):
            self.fails("42501", session.query, "SELECT a + 1 FROM secret_table")
        self.assert_row("SELECT a + $1 FROM secret_table", 2, 0, failures=2, sqlstate="42501")
        self.nothing_evicted()

    def test_in_a_read_only_transaction(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS read_only_table (a int)")
        session.query("BEGIN READ ONLY")
        self.fails("25006", session.query, "INSERT INTO read_only_table VALUES (1)")
        session.query("ROLLBACK")
        self.assert_row("INSERT INTO read_only_table VALUES ($1)", 1, 0, failures=1, sqlstate="25006")

    def test_in_a_utility_statement(self) -> None:
        session = self.session()
        for _ in range(2):
            self.fails("42P07", session.query, "CREATE TEMP TABLE twice (a int); CREATE TEMP TABLE twice (a int)")
        self.assert_row("CREATE TEMP TABLE twice (a int)", 4, 0, failures=2, sqlstate="42P07")
        self.fails("3B001", session.query, "BEGIN; ROLLBACK TO nowhere")
        session.query("ROLLBACK")
        self.assert_row("ROLLBACK TO nowhere", 1, 0, failures=1, sqlstate="3B001")

    def test_in_a_trigger_at_the_end(self) -> None:
        session = self.session()
        session.query("CREATE TABLE trigger_parent (id int PRIMARY KEY); "
                      "CREATE TABLE trigger_child (id int REFERENCES trigger_parent DEFERRABLE)")
        self.addCleanup(self.run_sql, "DROP TABLE trigger_child, trigger_parent")
        self.fails("23503", session.query, "INSERT INTO trigger_child VALUES (1)")
        self.assert_row("INSERT INTO trigger_child VALUES ($1)", 1, 1, failures=1, sqlstate="23503")
        self.nothing_evicted()

    def test_in_a_deferred_trigger(self) -> None:
        session = self.session()
        session.query("CREATE TABLE deferred_parent (id int PRIMARY KEY); CREATE TABLE deferred_child "
                      "(id int REFERENCES deferred_parent DEFERRABLE INITIALLY DEFERRED)")
        self.addCleanup(self.run_sql, "DROP TABLE deferred_child, deferred_parent")
        self.fails("23503", session.query, "INSERT INTO deferred_child VALUES (1)")
        self.assert_row("INSERT INTO deferred_child VALUES ($1)", 1, 1, failures=1, sqlstate="23503")
        session.query("BEGIN")
        session.query("INSERT INTO deferred_child VALUES (1)")
        self.fails("23503", session.query, "COMMIT")
        self.assert_row("INSERT INTO deferred_child VALUES ($1)", 2, 2, failures=1, sqlstate="23503")
        self.assert_row("COMMIT", 1, 0, failures=1, sqlstate="23503")
        self.assertEqual([row for row in self.statements() if row["query"].startswith("(not planned")], [])

    def test_under_the_user_who_ran_it(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("SET LOCAL ROLE pg_monitor")
        self.fails("22012", session.query, "SELECT 1 / (SELECT 0 OFFSET 0)")
        session.query("ROLLBACK")
        row = self.assert_row("SELECT $1 / (SELECT $2 OFFSET $3)", 1, 0, failures=1, sqlstate="22012")
        self.assertEqual(row["username"], "pg_monitor")

    def test_in_a_parallel_worker(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS parallel_failure AS SELECT generate_series(1, 20000) AS a; "
                      "ALTER TABLE parallel_failure SET (parallel_workers = 2)")
        session.query("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; "
                      "SET parallel_leader_participation = off")
        self.fails("22012", session.query, "SELECT sum(1 / (a - 777)) FROM parallel_failure")
        self.assert_row("SELECT sum($1 / (a - $2)) FROM parallel_failure", 1, 0, failures=1, sqlstate="22012")
        self.assertEqual([row for row in self.statements() if row["query"].startswith("(not planned")], [])


class Interrupted(CaptureTest):
    """Statements that somebody or something else ends."""

    time_limit = 60.0

    def interrupted(self, sql: str, sqlstates: tuple[str, ...], interrupt: Any = None, *setup: str) -> Connection:
        """Runs a statement of 60 s that is ended from outside; the session."""
        session = self.session()
        for statement in setup:
            session.query(statement)
        session.send_async(sql)
        if interrupt is not None:
            self.sleeping(session)
            interrupt(session)
        self.assertIn(ends_badly(session.wait, 30), sqlstates)
        return session

    SLEEP = "SELECT pg_sleep(60)"
    SLEPT = "SELECT pg_sleep($1)"

    def assert_slept(self, sqlstate: str, at_least_ms: float = 0.0) -> None:
        """Checks the one row of the statement above."""
        row = self.assert_row(self.SLEPT, 1, 0, failures=1, sqlstate=sqlstate)
        self.assertTrue(at_least_ms <= row["total_ms"] < 30_000, row["total_ms"])
        self.nothing_evicted()

    def test_cancel_request(self) -> None:
        self.interrupted(self.SLEEP, ("57014",), lambda session: threading.Thread(target=session.cancel).start())
        self.assert_slept("57014")

    def test_pg_cancel_backend(self) -> None:
        self.interrupted(self.SLEEP, ("57014",), lambda session: self.cluster.sql("SELECT pg_cancel_backend($1)",
                                                                                  (session.pid,)))
        self.assert_slept("57014")

    def test_statement_timeout(self) -> None:
        self.interrupted(self.SLEEP, ("57014",), None, "SET statement_timeout = 150")
        self.assert_slept("57014", 140)

    def test_pg_terminate_backend(self) -> None:
        session = self.interrupted(self.SLEEP, ("57P01",), lambda session: self.cluster.sql(
            "SELECT pg_terminate_backend($1)", (session.pid,)))
        self.gone(session)
        self.assert_slept("57P01")

    def test_terminated_within_a_transaction_and_a_function(self) -> None:
        session = self.interrupted("DO $$ BEGIN PERFORM abs(1); PERFORM pg_sleep(60); END $$", ("57P01",), lambda session:
                                   self.cluster.sql("SELECT pg_terminate_backend($1)", (session.pid,)), "BEGIN")
        self.gone(session)
        self.assert_row("DO", 1, failures=1, sqlstate="57P01")
        self.assert_row("SELECT pg_sleep($1)", 1, failures=1, sqlstate="57P01", toplevel=False)

    def test_lock_timeout_and_nowait(self) -> None:
        holder = self.session()
        holder.query("CREATE TABLE IF NOT EXISTS lock_target AS SELECT 1 AS a")
        holder.query("BEGIN; UPDATE lock_target SET a = a")
        session = self.session()
        session.query("SET lock_timeout = 120")
        self.fails("55P03", session.query, "UPDATE lock_target SET a = 2")
        row = self.assert_row("UPDATE lock_target SET a = $1", 1, 0, failures=1, sqlstate="55P03")
        self.assertGreaterEqual(row["total_ms"], 110)
        session.query("SET lock_timeout = 0")
        self.fails("55P03", session.query, "SELECT a FROM lock_target FOR UPDATE NOWAIT")
        row = self.assert_row("SELECT a FROM lock_target FOR UPDATE NOWAIT", 1, 0, failures=1, sqlstate="55P03")
        self.assertLess(row["total_ms"], 1000)

    def test_waiting_for_a_table_lock_before_there_is_a_plan(self) -> None:
        holder = self.session()
        holder.query("CREATE TABLE IF NOT EXISTS lock_target AS SELECT 1 AS a")
        holder.query("BEGIN; LOCK TABLE lock_target")
        session = self.session()
        session.query("SET lock_timeout = 150")
        self.fails("55P03", session.query, "SELECT count(*) FROM lock_target")
        row = self.assert_row("(not planned: 55P03)", 1, 0, failures=1, sqlstate="55P03")
        self.assertTrue(140 <= row["total_ms"] < 30_000, row["total_ms"])
        session.query("SET lock_timeout = 0")
        session.send_async("SELECT count(*) FROM lock_target")
        self.sleeping(session)
        self.cluster.sql("SELECT pg_terminate_backend($1)", (session.pid,))
        self.assertEqual(ends_badly(session.wait, 30), "57P01")
        self.gone(session)
        self.assert_row("(not planned: 57P01)", 1, 0, failures=1, sqlstate="57P01")

    def test_deadlock(self) -> None:
        first, second = self.session(), self.session()
        first.query("CREATE TABLE IF NOT EXISTS deadlocked AS SELECT generate_series(1, 2) AS a, 0 AS b")
        for session in (first, second):
            session.query("SET deadlock_timeout = 50")
            session.query("BEGIN")
        first.query("UPDATE deadlocked SET b = 1 WHERE a = 1")
        second.query("UPDATE deadlocked SET b = 1 WHERE a = 2")
        first.send_async("UPDATE deadlocked SET b = 1 WHERE a = 2")
        self.sleeping(first)
        second.send_async("UPDATE deadlocked SET b = 1 WHERE a = 1")
        states = []
        for session in (first, second):
            try:
                session.wait(20)
            except Exception as problem:  # noqa: B902  (looked at below)
                states.append(problem.sqlstate)  # type: ignore[attr-defined]
            session.query("ROLLBACK")
        self.assertEqual(states, ["40P01"])
        self.assert_row("UPDATE deadlocked SET b = $1 WHERE a = $2", 4, failures=1, sqlstate="40P01")

    def test_idle_in_transaction_with_an_open_cursor(self) -> None:
        session = self.session()
        session.query("SET idle_in_transaction_session_timeout = 100")
        session.query("BEGIN")
        session.query("DECLARE c CURSOR FOR SELECT generate_series(1, 10) AS idle_cursor")
        session.query("FETCH 3 FROM c")
        self.gone(session)
        if self.cluster.major >= 18:  # before, the server gives the query of a cursor no queryid
            row = [row for row in self.statements() if "idle_cursor" in row["query"] and not row["toplevel"]]
            self.assertEqual([(each["calls"], each["rows"]) for each in row], [(1, 3)])
        self.nothing_evicted()

    def test_idle_in_transaction_with_an_open_portal(self) -> None:
        session = self.session()
        session.query("SET idle_in_transaction_session_timeout = 100")
        session.prepare("p", "SELECT generate_series(1, $1::int)")
        session.query("BEGIN")
        session.bind("c", "p", (10,))
        session.fetch("c", 3)
        self.gone(session)
        self.assert_row("SELECT generate_series($2, $1::int)", 1, 3)
        self.nothing_evicted()

    def test_client_vanishes(self) -> None:
        session = self.session()
        session.query("SET client_connection_check_interval = 50")
        session.send_async(self.SLEEP)
        self.sleeping(session)
        session.terminate_socket()
        self.wait_until(lambda: self.rows_of(self.SLEPT), 20, "the failure to be recorded")
        row = self.row(self.SLEPT)
        self.assertEqual((row["calls"], row["failures"]), (1, 1))
        self.assertIn(row["last_sqlstate"], ("57P01", "08006"))

    def test_transaction_timeout(self) -> None:
        if self.cluster.major < 17:
            self.skipTest("the setting exists from PostgreSQL 17 on")
        session = self.interrupted(self.SLEEP, ("25P04",), None, "SET transaction_timeout = 150")
        self.gone(session)
        self.assert_slept("25P04", 100)

    def test_smart_client_goes_on_after_each_failure(self) -> None:
        session = self.session()
        session.query("SET statement_timeout = 30")
        for _ in range(5):
            self.fails("57014", session.query, self.SLEEP)
            self.fails("22012", session.query, "SELECT 1 / (SELECT 0 OFFSET 0)")
            self.fails("42601", session.query, "SELEC")
            session.query("SELECT abs(1)")
        self.assert_row(self.SLEPT, 5, 0, failures=5, sqlstate="57014")
        self.assert_row("SELECT $1 / (SELECT $2 OFFSET $3)", 5, 0, failures=5, sqlstate="22012")
        self.assert_row("(not planned: 42601)", 5, 0, failures=5, sqlstate="42601")
        self.assert_row("SELECT abs($1)", 5, 5)

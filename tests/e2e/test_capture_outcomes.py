"""Capture: slow executions are kept one by one, with their outcome; exactly one for each, whatever ended it."""

from __future__ import annotations

import threading
from typing import Any

from .capture_case import CaptureTest, ends_badly
from .cluster import Connection


class Outcomes(CaptureTest):
    """Every way to end, as perf.slow_queries() tells it."""

    settings = {**CaptureTest.settings, "perf_opt.slow_ms": 20, "perf_opt.critical_ms": 60000,
                "perf_opt.emergency_ms": 120000}
    time_limit = 60.0

    def slow(self, query: str) -> list[dict[str, Any]]:
        """The slow executions at top level of a statement, by its text."""
        rows = self.cluster.result("SELECT * FROM perf.slow_queries() WHERE toplevel AND query = $1", (query,), dbname=self.db)
        return rows.dicts()

    def assert_outcome(self, query: str, outcome: str, sqlstate: Any, at_least_ms: float = 20.0) -> dict[str, Any]:
        """Checks the one slow execution of a statement, which no other test uses."""
        found = self.slow(query)
        self.assertEqual([(row["outcome"], row["sqlstate"], row["severity"]) for row in found], [(outcome, sqlstate, "slow")])
        row = found[0]
        self.assertTrue(at_least_ms <= row["duration_ms"] < 30_000, row["duration_ms"])
        self.assertEqual((row["database"], row["username"], row["application_name"]), (self.db, "postgres", "perf_opt tests"))
        return row

    def ended(self, sql: str, interrupt: Any, sqlstate: str, *setup: str) -> Connection:
        """Runs a statement that sleeps and lets `interrupt` end it after a while."""
        session = self.session()
        for statement in setup:
            session.query(statement)
        session.send_async(sql)
        self.sleeping(session)
        started = "SELECT clock_timestamp() - query_start > interval '30 ms' FROM pg_stat_activity WHERE pid = $1"
        self.wait_until(lambda: self.cluster.scalar(started, (session.pid,)), 10, "a slow statement")
        interrupt(session)
        self.assertEqual(ends_badly(session.wait, 20), sqlstate)
        return session

    def test_ok(self) -> None:
        session = self.session()
        session.query("SELECT pg_sleep(0.03), 'ok', generate_series(1, 3)")
        row = self.assert_outcome("SELECT pg_sleep($1), $2, generate_series($3, $4)", "ok", None, 30)
        self.assertEqual(row["rows"], 3)
        self.assertEqual(row["queryid"], self.row("SELECT pg_sleep($1), $2, generate_series($3, $4)")["queryid"])
        self.assertIn("ProjectSet", row["plan"])
        session.query("SELECT abs(1)")
        self.assertEqual(self.slow("SELECT abs($1)"), [])

    def test_error(self) -> None:
        session = self.session()
        self.fails("22012", session.query, "SELECT pg_sleep(0.03), 1 / (random() * 0)::int")
        self.assert_outcome("SELECT pg_sleep($1), $2 / (random() * $3)::int", "error", "22012", 30)

    def test_cancelled(self) -> None:
        self.ended("SELECT pg_sleep(30), 1", lambda session: threading.Thread(target=session.cancel).start(), "57014")
        self.assert_outcome("SELECT pg_sleep($1), $2", "cancelled", "57014")

    def test_cancelled_although_a_timeout_is_set(self) -> None:
        self.ended("SELECT pg_sleep(30), 1, 2, 3", lambda session: self.cluster.sql("SELECT pg_cancel_backend($1)", (session.pid,)),
                   "57014", "SET statement_timeout = 60000")
        self.assert_outcome("SELECT pg_sleep($1), $2, $3, $4", "cancelled", "57014")

    def test_statement_timeout(self) -> None:
        session = self.session()
        session.query("SET statement_timeout = 60")
        self.fails("57014", session.query, "SELECT pg_sleep(30), 1, 2")
        self.assert_outcome("SELECT pg_sleep($1), $2, $3", "timeout", "57014", 50)

    def test_terminated(self) -> None:
        session = self.ended("SELECT pg_sleep(30), 1, 2, 3, 4", lambda session: self.cluster.sql(
            "SELECT pg_terminate_backend($1)", (session.pid,)), "57P01")
        self.gone(session)
        self.assert_outcome("SELECT pg_sleep($1), $2, $3, $4, $5", "terminated", "57P01")

    def test_transaction_timeout(self) -> None:
        if self.cluster.major < 17:
            self.skipTest("the setting exists from PostgreSQL 17 on")
        session = self.session()
        session.query("SET transaction_timeout = 60")
        self.assertEqual(ends_badly(session.query, "SELECT pg_sleep(30), 1, 2, 3, 4, 5"), "25P04")
        self.gone(session)
        self.assert_outcome("SELECT pg_sleep($1), $2, $3, $4, $5, $6", "timeout", "25P04", 40)

    def test_locks(self) -> None:
        holder, session = self.session(), self.session()
        holder.query("CREATE TABLE IF NOT EXISTS outcome_locks AS SELECT generate_series(1, 2) AS a, 0 AS b")
        holder.query("BEGIN; UPDATE outcome_locks SET b = 1 WHERE a = 1")
        session.query("SET lock_timeout = 50")
        self.fails("55P03", session.query, "UPDATE outcome_locks SET b = 2")
        self.assert_outcome("UPDATE outcome_locks SET b = $1", "timeout", "55P03", 45)
        # It lasts longer than lock_timeout, but did not wait for a lock.
        session.query("SET lock_timeout = 20")
        self.fails("55P03", session.query, "WITH s AS MATERIALIZED (SELECT pg_sleep(0.05)) SELECT a FROM s, outcome_locks "
                                           "FOR UPDATE OF outcome_locks NOWAIT")
        self.assert_outcome("WITH s AS MATERIALIZED (SELECT pg_sleep($1)) SELECT a FROM s, outcome_locks "
                            "FOR UPDATE OF outcome_locks NOWAIT", "error", "55P03", 50)
        session.query("SET lock_timeout = 50")
        holder.query("ROLLBACK; BEGIN; LOCK TABLE outcome_locks")
        self.fails("55P03", session.query, "SELECT count(*) FROM outcome_locks")
        row = self.assert_outcome("(not planned: 55P03)", "timeout", "55P03", 45)
        self.assertIsNone(row["plan"])

    def test_deadlock(self) -> None:
        first, second = self.session(), self.session()
        first.query("CREATE TABLE IF NOT EXISTS outcome_deadlocks AS SELECT generate_series(1, 2) AS a, 0 AS b")
        for session, row in ((first, 1), (second, 2)):
            session.query("SET deadlock_timeout = 40; BEGIN")
            session.query(f"UPDATE outcome_deadlocks SET b = 1 WHERE a = {row}")
        first.send_async("UPDATE outcome_deadlocks SET b = 1 WHERE a = 2")
        self.sleeping(first)
        second.send_async("UPDATE outcome_deadlocks SET b = 1 WHERE a = 1")
        states = []
        for session in (first, second):
            try:
                session.wait(20)
            except Exception as problem:  # noqa: B902  (looked at below)
                states.append(problem.sqlstate)  # type: ignore[attr-defined]
            session.query("ROLLBACK")
        self.assertEqual(states, ["40P01"])
        outcomes = sorted((row["outcome"], row["sqlstate"]) for row in self.slow("UPDATE outcome_deadlocks SET b = $1 WHERE a = $2"))
        self.assertIn(("deadlock", "40P01"), outcomes)
        self.assertEqual([outcome for outcome in outcomes if outcome[0] not in ("deadlock", "ok")], [])
        self.assertEqual(len([outcome for outcome in outcomes if outcome[0] == "deadlock"]), 1)

    def test_a_procedure_and_what_it_ran(self) -> None:
        session = self.session()
        session.query("CREATE OR REPLACE PROCEDURE outcome_work() LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.03); COMMIT; "
                      "PERFORM 1 / 0; END $$")
        self.fails("22012", session.query, "CALL outcome_work()")
        self.assert_outcome("CALL outcome_work()", "error", "22012", 30)
        nested = self.cluster.sql("SELECT outcome FROM perf.slow_queries() WHERE NOT toplevel AND query = 'SELECT pg_sleep($1)'",
                                  dbname=self.db)
        self.assertEqual(nested, [("ok",)])

    def test_commit_that_fails_is_not_slow_twice(self) -> None:
        session = self.session()
        session.query("CREATE TABLE outcome_parent (id int PRIMARY KEY); CREATE TABLE outcome_child "
                      "(id int REFERENCES outcome_parent DEFERRABLE INITIALLY DEFERRED)")
        self.addCleanup(self.run_sql, "DROP TABLE outcome_child, outcome_parent")
        self.fails("23503", session.query, "INSERT INTO outcome_child SELECT 1 FROM pg_sleep(0.03)")
        self.assertEqual(len(self.slow("INSERT INTO outcome_child SELECT $1 FROM pg_sleep($2)")), 1)

    def test_no_secret_in_what_is_slow(self) -> None:
        session = self.session()
        session.query("SELECT pg_sleep(0.03), 'Geheim7x' WHERE 'Geheim7x' <> random()::text")
        session.query("DO $$ BEGIN PERFORM pg_sleep(0.03), 'Geheim7x'; END $$")
        self.fails("22P02", session.query, "SELECT pg_sleep(0.03), ('Geheim7x' || random()::text)::int")
        session.execute("SELECT pg_sleep(0.03), $1::text WHERE $1 <> random()::text", ("Geheim7x",))
        found = self.cluster.sql("SELECT s::text FROM perf.slow_queries() s", dbname=self.db)
        self.assertGreaterEqual(len(found), 4)
        self.assertEqual([row for (row,) in found if "Geheim7x" in row], [])

    def test_encodings_of_names(self) -> None:
        with self.cluster.connect(self.db, application_name="Größe €") as session:
            session.query("SELECT pg_sleep(0.03) AS \"Länge\", 1, 2, 3, 4, 5, 6, 7")
        rows = self.slow('SELECT pg_sleep($1) AS "Länge", $2, $3, $4, $5, $6, $7, $8')
        self.assertEqual(len(rows), 1)

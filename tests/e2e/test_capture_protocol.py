"""Capture: every way in which a client can send a statement is counted once, with all its rows."""

from __future__ import annotations

from .capture_case import CaptureTest


class SimpleProtocol(CaptureTest):
    """Query messages."""

    def test_calls_and_rows_of_each_statement_of_a_string(self) -> None:
        session = self.session()
        session.query("CREATE TEMP TABLE t (a int); INSERT INTO t SELECT generate_series(1, 5); "
                      "UPDATE t SET a = a + 1 WHERE a > 2; SELECT a FROM t; DELETE FROM t")
        self.assert_row("CREATE TEMP TABLE t (a int)", 1, 0)
        self.assert_row("INSERT INTO t SELECT generate_series($1, $2)", 1, 5)
        self.assert_row("UPDATE t SET a = a + $1 WHERE a > $2", 1, 3)
        self.assert_row("SELECT a FROM t", 1, 5)
        self.assert_row("DELETE FROM t", 1, 5)
        self.nothing_evicted()

    def test_literals_do_not_tell_statements_apart(self) -> None:
        session = self.session()
        for value in range(50):
            session.query(f"SELECT {value} AS literal, 'text {value}'::text")
        row = self.assert_row("SELECT $1 AS literal, $2::text", 50, 50)
        self.assertEqual(row["plans"], 50)
        self.assertGreater(row["planning_total_ms"], 0)
        self.assertAlmostEqual(row["mean_ms"] * 50, row["total_ms"], places=6)

    def test_comments_stay(self) -> None:
        self.run_sql("/* route='/users' */ SELECT 7 AS commented -- trailing 8")
        self.assert_row("/* route='/users' */ SELECT $1 AS commented -- trailing 8", 1, 1)

    def test_empty_and_blank_strings(self) -> None:
        session = self.session()
        for text in ("", ";", "  -- nothing\n", ";;;"):
            session.query(text)
        self.assertEqual([row["query"] for row in self.statements() if row["toplevel"]
                          and "perf." not in row["query"]], [])

    def test_transactions(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("SELECT 1 AS in_transaction")
        session.query("SAVEPOINT s")
        session.query("SELECT 1 AS in_transaction")
        session.query("ROLLBACK TO s")
        session.query("SELECT 1 AS in_transaction")
        session.query("ROLLBACK")
        for text in ("BEGIN", "SAVEPOINT s", "ROLLBACK TO s", "ROLLBACK"):
            self.assert_row(text, 1, 0)
        self.assert_row("SELECT $1 AS in_transaction", 3, 3)

    def test_long_text_is_cut_at_a_character(self) -> None:
        for pad in range(1, 5):
            cut = f"SELECT $1 AS \"{'x' * pad}\", "
            self.run_sql(f"SELECT 1 AS \"{'x' * pad}\", " + ", ".join(f"'a' AS \"{'€' * 20}{n}\"" for n in range(200 + pad)))
            texts = [row["query"] for row in self.statements() if row["query"].startswith(cut)]
            self.assertEqual(len(texts), 1)
            size = len(texts[0].encode())
            self.assertTrue(4092 <= size <= 4096, size)
            self.assertNotIn("�", texts[0])
            self.assertNotIn("?", texts[0])

    def test_discard_all(self) -> None:
        session = self.session()
        session.query("SELECT 1 AS before_discard")
        session.query("PREPARE p AS SELECT abs(2) AS prepared_and_discarded")
        session.query("EXECUTE p")
        session.query("DISCARD ALL")
        session.query("SELECT 1 AS before_discard")
        self.assert_row("SELECT $1 AS before_discard", 2, 2)
        self.assert_row("DISCARD ALL", 1, 0)

    def test_first_and_last_seen(self) -> None:
        session = self.session()
        session.query("SELECT 1 AS seen")
        session.query("SELECT 2 AS seen")
        good = session.query("SELECT first_seen_at <= last_seen_at AND first_seen_at > now() - interval '1 minute' "
                             "AND last_seen_at <= now() FROM perf.statements() WHERE query = 'SELECT $1 AS seen'")
        self.assertIs(good.scalar(), True)


class ExtendedProtocol(CaptureTest):
    """Parse, Bind, Execute."""

    def test_named_and_unnamed_statements(self) -> None:
        session = self.session()
        session.prepare("p", "SELECT generate_series(1, $1::int) AS numbered")
        for count in range(20):
            session.execute_prepared("p", (count,))
        self.assert_row("SELECT generate_series($2, $1::int) AS numbered", 20, sum(range(20)))
        for count in range(7):
            session.execute("SELECT abs(generate_series(1, $1::int)) AS unnamed", (count,))
        self.assert_row("SELECT abs(generate_series($2, $1::int)) AS unnamed", 7, sum(range(7)))

    def test_generic_plans_are_planned_less_often_than_executed(self) -> None:
        session = self.session()
        session.query("SET plan_cache_mode = force_generic_plan")
        session.prepare("p", "SELECT $1::int + 1 AS generic")
        for count in range(30):
            session.execute_prepared("p", (count,))
        row = self.assert_row("SELECT $1::int + $2 AS generic", 30, 30)
        self.assertEqual(row["plans"], 1)

    def test_a_portal_executed_in_parts_is_one_call(self) -> None:
        session = self.session()
        session.prepare("p", "SELECT generate_series(1, $1::int) AS parts")
        session.query("BEGIN")
        session.bind("c", "p", (10,))
        for _ in range(4):
            session.fetch("c", 3)
        session.close_portal("c")
        session.query("COMMIT")
        self.assert_row("SELECT generate_series($2, $1::int) AS parts", 1, 10)

    def test_a_portal_left_unfinished(self) -> None:
        session = self.session()
        session.prepare("p", "SELECT generate_series(1, $1::int) AS unfinished")
        for ending in ("COMMIT", "ROLLBACK"):
            session.query("BEGIN")
            session.bind("c", "p", (100,))
            session.fetch("c", 3)
            session.fetch("c", 4)
            session.query(ending)
        session.execute("SELECT generate_series(1, 9) AS limited", max_rows=2)
        self.assert_row("SELECT generate_series($2, $1::int) AS unfinished", 2, 14)
        self.assert_row("SELECT generate_series($1, $2) AS limited", 1, 2)
        self.nothing_evicted()

    def test_two_portals_of_one_statement(self) -> None:
        session = self.session()
        session.prepare("p", "SELECT generate_series(1, $1::int) AS twins")
        session.query("BEGIN")
        session.bind("a", "p", (4,))
        session.bind("b", "p", (6,))
        for portal in "abab":
            session.fetch(portal, 3)
        session.query("COMMIT")
        self.assert_row("SELECT generate_series($2, $1::int) AS twins", 2, 10)

    def test_sql_prepare_and_execute(self) -> None:
        session = self.session()
        session.query("PREPARE q (int) AS SELECT generate_series(1, $1) AS by_sql")
        for count in range(5):
            session.query(f"EXECUTE q ({count})")
        session.query("DEALLOCATE q")
        self.assert_row("PREPARE q (int) AS SELECT generate_series($2, $1) AS by_sql", 5, sum(range(5)))
        self.assertEqual([row["query"] for row in self.statements() if "EXECUTE" in row["query"]
                          or "DEALLOCATE" in row["query"]], [])

    def test_returning(self) -> None:
        session = self.session()
        session.query("CREATE TEMP TABLE r (a int)")
        session.execute("INSERT INTO r SELECT generate_series(1, 8) RETURNING a", max_rows=2)
        self.assert_row("INSERT INTO r SELECT generate_series($1, $2) RETURNING a", 1, 8)


class Cursors(CaptureTest):
    """DECLARE, FETCH, MOVE: the query is one call, nested in the commands that run it."""

    def test_fetched_and_closed(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("DECLARE c CURSOR FOR SELECT generate_series(1, 10) AS closed_cursor")
        session.query("FETCH 3 FROM c")
        session.query("MOVE 2 FROM c")
        session.query("FETCH ALL FROM c")
        session.query("CLOSE c")
        session.query("COMMIT")
        self.assert_row("FETCH $1 FROM c", 1, 3)
        self.assert_row("FETCH ALL FROM c", 1, 5)
        if self.cluster.major >= 18:  # before, the moved rows are nobody's
            self.assert_cursor("closed_cursor", 1, 10)

    def assert_cursor(self, name: str, calls: int, rows: int) -> None:
        """Checks calls and rows of the query of a cursor, known by its text (which before 18 is the text around it, too).
        Before 18 the server gives it no queryid: what there is to know is with the FETCH."""
        found = [(row["calls"], row["rows"], row["failures"]) for row in self.statements()
                 if name in row["query"] and row["toplevel"] is False]
        self.assertEqual(found, [(calls, rows, 0)] if self.cluster.major >= 18 else [])
        fetched = [row["rows"] for row in self.statements() if row["query"].startswith("FETCH")]
        if self.cluster.major < 18 and fetched:
            self.assertEqual(sum(fetched), rows)

    def test_left_open_at_the_end_of_the_transaction(self) -> None:
        session = self.session()
        for ending, name in (("COMMIT", "left_commit"), ("ROLLBACK", "left_rollback")):
            session.query("BEGIN")
            session.query(f"DECLARE c CURSOR FOR SELECT generate_series(1, 10) AS {name}")
            session.query("FETCH 3 FROM c")
            session.query("FETCH 3 FROM c")
            session.query(ending)
            self.assert_cursor(name, 1, 6)
            self.reset()
        self.nothing_evicted()

    def test_left_open_at_an_error_and_at_the_end_of_the_session(self) -> None:
        for number, ending in enumerate(("SELECT 1/0", "SELEC", "leave")):
            session = self.session()
            session.query("BEGIN")
            session.query(f"DECLARE c CURSOR FOR SELECT generate_series(1, 10) AS left_{number}")
            session.query("FETCH 4 FROM c")
            if ending == "leave":
                session.close()
                self.gone(session)
            else:
                self.assertRaises(Exception, session.query, ending)
                session.query("ROLLBACK")
            self.assert_cursor(f"left_{number}", 1, 4)
            self.nothing_evicted()
            self.reset()

    def test_left_open_at_rollback_to_savepoint(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("SAVEPOINT s")
        session.query("DECLARE c CURSOR FOR SELECT generate_series(1, 10) AS in_savepoint")
        session.query("FETCH 4 FROM c")
        session.query("ROLLBACK TO s")
        self.assert_cursor("in_savepoint", 1, 4)
        session.query("SELECT 1")
        session.query("COMMIT")
        self.assert_cursor("in_savepoint", 1, 4)
        self.nothing_evicted()

    def test_with_hold(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 10) AS held")
        session.query("COMMIT")
        session.query("FETCH ALL FROM c")
        session.query("CLOSE c")
        if self.cluster.major >= 18:
            total = [(row["calls"], row["rows"]) for row in self.statements() if "held" in row["query"]
                     and row["rows"] == 10]
            self.assertEqual(total, [(1, 10)])
        self.assert_row("FETCH ALL FROM c", 1, 10)

    def test_scrolled_back(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("DECLARE c SCROLL CURSOR FOR SELECT generate_series(1, 10) AS scrolled")
        session.query("FETCH 5 FROM c")
        session.query("FETCH BACKWARD 2 FROM c")
        session.query("COMMIT")
        self.assert_cursor("scrolled", 1, 7)

    def test_more_open_than_are_remembered(self) -> None:
        session = self.session()
        session.query("BEGIN")
        for number in range(80):
            session.query(f"DECLARE c{number} CURSOR FOR SELECT generate_series(1, 10) AS many_cursors")
        for _ in range(2):
            for number in range(80):
                session.query(f"FETCH 3 FROM c{number}")
        session.query("COMMIT")
        found = [row for row in self.statements() if "many_cursors" in row["query"] and not row["toplevel"]]
        if self.cluster.major >= 18:
            self.assertEqual(sum(row["calls"] for row in found), 80)
            self.assertEqual(sum(row["rows"] for row in found), 480)
        fetched = [row for row in self.statements() if row["query"].startswith("FETCH")]
        self.assertEqual((sum(row["calls"] for row in fetched), sum(row["rows"] for row in fetched)), (160, 480))
        self.nothing_evicted()


class Copies(CaptureTest):
    """COPY."""

    def test_in_out_and_query(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS copied (a int); TRUNCATE copied")
        session.copy_in("COPY copied FROM STDIN", b"".join(b"%d\n" % n for n in range(100)))
        self.assertEqual(len(session.copy_out("COPY copied TO STDOUT").splitlines()), 100)
        self.assertEqual(len(session.copy_out("COPY (SELECT a FROM copied WHERE a < 10) TO STDOUT").splitlines()), 10)
        self.assert_row("COPY copied FROM STDIN", 1, 100)
        self.assert_row("COPY copied TO STDOUT", 1, 100)
        self.assert_row("COPY (SELECT a FROM copied WHERE a < $1) TO STDOUT", 1, 10)

    def test_failures(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS copied (a int); TRUNCATE copied")
        self.fails("22P02", session.copy_in, "COPY copied (a) FROM STDIN", b"1\nx\n")
        self.fails("57014", session.copy_in, "COPY copied FROM STDIN (FORMAT csv)", b"1\n", "gave up")
        self.assert_row("COPY copied (a) FROM STDIN", 1, 0, failures=1, sqlstate="22P02")
        self.assert_row("COPY copied FROM STDIN (FORMAT csv)", 1, 0, failures=1, sqlstate="57014")

"""Capture: statements within functions, procedures and triggers, and what errors do to the nesting."""

from __future__ import annotations

from .capture_case import CaptureTest


class Functions(CaptureTest):
    """PL/pgSQL and SQL functions, and what perf_opt.track makes of them."""

    def setUp(self) -> None:
        super().setUp()
        self.run_sql("CREATE OR REPLACE FUNCTION outer_one(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE total int; "
                     "BEGIN SELECT sum(g) INTO total FROM generate_series(1, n) g; PERFORM inner_one(n); RETURN total; END $$",
                     "CREATE OR REPLACE FUNCTION inner_one(n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
                     "PERFORM count(*) FROM generate_series(1, n) h WHERE h > 1; END $$")
        self.reset()

    OUTER = "SELECT outer_one($1)"
    SUM = "SELECT sum(g)            FROM generate_series($1, n) g"

    def nested(self) -> dict[str, tuple[int, int]]:
        """Calls and rows of what ran within functions, by text."""
        return {row["query"]: (row["calls"], row["rows"]) for row in self.statements() if row["toplevel"] is False}

    def test_all(self) -> None:
        session = self.session()
        for _ in range(3):
            session.query("SELECT outer_one(10)")
        outer = self.assert_row(self.OUTER, 3, 3)
        nested = self.nested()
        self.assertEqual(sorted(nested.values()), [(3, 3), (3, 3), (3, 3)], nested)
        inner = [row for row in self.statements() if row["toplevel"] is False]
        self.assertLess(max(row["total_ms"] for row in inner), outer["total_ms"])

    def test_top_and_none(self) -> None:
        session = self.session()
        session.query("SET perf_opt.track = 'top'")
        session.query("SELECT outer_one(10)")
        session.query("SET perf_opt.track = 'none'")
        for _ in range(5):
            session.query("SELECT outer_one(10)")
        self.assertRaises(Exception, session.query, "SELECT 1 / 0")
        self.assertRaises(Exception, session.query, "SELEC")
        session.query("SET perf_opt.track = 'all'")
        self.assert_row(self.OUTER, 1, 1)
        self.assertEqual(self.nested(), {})
        self.assert_absent("SELECT $1 / $2")
        self.assert_absent("(not planned: 42601)")

    def test_set_local_changes_and_comes_back(self) -> None:
        session = self.session()
        session.query("BEGIN")
        session.query("SET LOCAL perf_opt.track = 'none'")
        session.query("SELECT outer_one(10)")
        session.query("COMMIT")
        session.query("SELECT outer_one(10)")
        self.assert_row(self.OUTER, 1, 1)
        self.assert_row("BEGIN", 1)
        self.assert_absent("COMMIT")

    def test_only_superusers_change_what_is_tracked(self) -> None:
        session = self.session()
        session.query("SET ROLE pg_monitor")
        self.fails("42501", session.query, "SET perf_opt.track = 'none'")

    def test_sql_functions(self) -> None:
        session = self.session()
        session.query("CREATE OR REPLACE FUNCTION many(n int) RETURNS SETOF int LANGUAGE sql VOLATILE AS "
                      "$$ SELECT g * 2 FROM generate_series(1, n) g WHERE random() >= 0 $$")
        self.reset()
        session.query("SELECT many(5), abs(1)")
        session.query("SELECT many(5), abs(1) LIMIT 2")
        session.query("SELECT * FROM many(7)")
        self.assert_row("SELECT many($1), abs($2)", 1, 5)
        self.assert_row("SELECT many($1), abs($2) LIMIT $3", 1, 2)
        nested = [row for row in self.statements() if row["toplevel"] is False]
        self.assertEqual([(row["calls"], row["rows"]) for row in nested], [(3, 14)])

    def test_deep_recursion(self) -> None:
        session = self.session()
        session.query("CREATE OR REPLACE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE r int; BEGIN "
                      "IF n <= 0 THEN RETURN 0; END IF; EXECUTE 'SELECT deep($1) + 1' INTO r USING n - 1; RETURN r; END $$")
        for depth in (10, 63, 64, 65, 150):
            self.reset()
            self.assertEqual(session.query(f"SELECT deep({depth})").scalar(), depth)
            self.assert_row("SELECT deep($1)", 1, 1)
            nested = self.row("SELECT deep($1) + $2", False)
            self.assertEqual(nested["failures"], 0)
            self.assertEqual(nested["calls"], min(depth, 63))
        self.nothing_evicted()

    def test_error_in_deep_recursion(self) -> None:
        session = self.session()
        session.query("CREATE OR REPLACE FUNCTION falls(n int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE r int; BEGIN "
                      "IF n <= 0 THEN RETURN 1 / n; END IF; EXECUTE 'SELECT falls($1) + 1' INTO r USING n - 1; RETURN r; END $$")
        for depth in (5, 64, 150):
            self.reset()
            self.fails("22012", session.query, f"SELECT falls({depth})")
            self.assert_row("SELECT falls($1)", 1, 0, failures=1, sqlstate="22012")
            nested = self.row("SELECT falls($1) + $2", False)
            self.assertEqual((nested["calls"], nested["failures"]), (min(depth, 63), min(depth, 63)))
            session.query("SELECT abs(1)")
            self.assert_row("SELECT abs($1)", 1, 1)
        self.nothing_evicted()

    def test_execution_within_planning(self) -> None:
        session = self.session()
        session.query("CREATE OR REPLACE FUNCTION folded() RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
                      "$$ BEGIN RETURN (SELECT count(*) FROM generate_series(1, 9)); END $$")
        session.query("SELECT abs(folded())")
        self.assert_row("SELECT abs(folded())", 1, 1)
        self.assertTrue(all(row["toplevel"] is False for row in self.statements() if "generate_series" in row["query"]
                            and not row["query"].startswith("CREATE")))


class CaughtErrors(CaptureTest):
    """Errors that do not end the statement the client sent."""

    def test_a_thousand_in_a_loop(self) -> None:
        session = self.session()
        session.query("DO $$ DECLARE x int; BEGIN FOR i IN 1..1000 LOOP BEGIN EXECUTE 'SELECT 1 / (SELECT $1 OFFSET 0)' "
                      "INTO x USING i % 2; EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$")
        self.assert_row("DO", 1, 0)
        self.assert_row("SELECT $2 / (SELECT $1 OFFSET $3)", 1000, 500, failures=500, sqlstate="22012", toplevel=False)
        self.nothing_evicted()

    def test_caught_within_a_query(self) -> None:
        session = self.session()
        session.query("CREATE OR REPLACE FUNCTION safe(d int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE x int; BEGIN "
                      "EXECUTE 'SELECT 10 / (SELECT $1 OFFSET 0)' INTO x USING d; RETURN x; "
                      "EXCEPTION WHEN division_by_zero THEN RETURN NULL; END $$")
        self.reset()
        self.assertEqual(len(session.query("SELECT safe(i % 3) FROM generate_series(1, 300) i").rows), 300)
        self.assert_row("SELECT safe(i % $1) FROM generate_series($2, $3) i", 1, 300)
        self.assert_row("SELECT $2 / (SELECT $1 OFFSET $3)", 300, 200, failures=100, sqlstate="22012", toplevel=False)

    def test_savepoints(self) -> None:
        session = self.session()
        session.query("BEGIN")
        for _ in range(20):
            session.query("SAVEPOINT s")
            self.fails("22012", session.query, "SELECT 1 / (SELECT 0 OFFSET 0)")
            session.query("ROLLBACK TO s")
            session.query("SELECT abs(1)")
        session.query("COMMIT")
        self.assert_row("SELECT $1 / (SELECT $2 OFFSET $3)", 20, 0, failures=20, sqlstate="22012")
        self.assert_row("SELECT abs($1)", 20, 20)
        self.assert_row("ROLLBACK TO s", 20)
        self.nothing_evicted()

    def test_a_loop_over_a_query_that_is_left_by_an_error(self) -> None:
        session = self.session()
        session.query("DO $$ DECLARE r record; BEGIN FOR k IN 1..5 LOOP BEGIN FOR r IN SELECT g FROM generate_series(1, 500) g "
                      "LOOP IF r.g = 7 THEN RAISE EXCEPTION 'enough'; END IF; END LOOP; EXCEPTION WHEN raise_exception THEN NULL; "
                      "END; END LOOP; END $$")
        self.assert_row("DO", 1, 0)
        loop = [row for row in self.statements() if "generate_series" in row["query"] and row["toplevel"] is False]
        self.assertEqual([(row["calls"], row["failures"]) for row in loop], [(5, 0)])
        self.nothing_evicted()

    def test_cancelled_while_catching(self) -> None:
        session = self.session()
        session.query("SET statement_timeout = 100")
        self.fails("57014", session.query, "DO $$ BEGIN LOOP BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; "
                                           "END; END LOOP; END $$")
        self.assert_row("DO", 1, 0, failures=1, sqlstate="57014")
        session.query("SET statement_timeout = 0")
        session.query("SELECT abs(1)")
        self.assert_row("SELECT abs($1)", 1, 1)


class Procedures(CaptureTest):
    """CALL and DO, with transactions that end inside."""

    def setUp(self) -> None:
        super().setUp()
        self.run_sql("CREATE TABLE IF NOT EXISTS proc_rows (a int)")
        self.reset()

    def procedure(self, body: str) -> None:
        """Makes the procedure `work` and forgets having done so."""
        self.run_sql(f"CREATE OR REPLACE PROCEDURE work() LANGUAGE plpgsql AS $p$ {body} $p$")
        self.reset()

    def test_commit_and_rollback_inside_are_no_failures(self) -> None:
        self.procedure("BEGIN FOR i IN 1..10 LOOP INSERT INTO proc_rows VALUES (i); "
                       "IF i % 2 = 0 THEN COMMIT; ELSE ROLLBACK; END IF; END LOOP; END")
        session = self.session()
        for _ in range(3):
            session.query("CALL work()")
        self.assert_row("CALL work()", 3, 0)
        self.assert_row("INSERT INTO proc_rows VALUES (i)", 30, 30, toplevel=False)
        self.nothing_evicted()

    def test_rollback_within_a_loop_over_a_query(self) -> None:
        self.procedure("DECLARE r record; BEGIN FOR r IN SELECT g FROM generate_series(1, 100) g LOOP "
                       "IF r.g % 10 = 0 THEN ROLLBACK; END IF; END LOOP; END")
        self.run_sql("CALL work()")
        self.assert_row("CALL work()", 1, 0)
        loop = [row for row in self.statements() if "generate_series" in row["query"]]
        self.assertEqual([(row["calls"], row["failures"], row["rows"]) for row in loop], [(1, 0, 100)])
        self.nothing_evicted()

    def test_failures(self) -> None:
        for before in ("", "COMMIT;", "ROLLBACK;", "INSERT INTO proc_rows VALUES (1); COMMIT;"):
            self.procedure(f"BEGIN {before} PERFORM 1 / 0; END")
            session = self.session()
            for _ in range(2):
                self.fails("22012", session.query, "CALL work()")
            self.assert_row("CALL work()", 2, 0, failures=2, sqlstate="22012")
            self.assertEqual([row for row in self.statements() if "not planned" in row["query"]], [])
            session.query("SELECT abs(1)")
            self.assert_row("SELECT abs($1)", 1, 1)

    def test_commit_that_is_not_allowed(self) -> None:
        self.procedure("BEGIN COMMIT; END")
        session = self.session()
        session.query("BEGIN")
        self.fails("2D000", session.query, "CALL work()")
        session.query("ROLLBACK")
        self.assert_row("CALL work()", 1, 0, failures=1, sqlstate="2D000")

    def test_nested_calls(self) -> None:
        self.procedure("BEGIN INSERT INTO proc_rows VALUES (2); COMMIT; PERFORM 1 / 0; END")
        self.run_sql("CREATE OR REPLACE PROCEDURE around() LANGUAGE plpgsql AS $$ BEGIN CALL work(); "
                     "EXCEPTION WHEN OTHERS THEN RAISE; END $$",
                     "CREATE OR REPLACE PROCEDURE plain_around() LANGUAGE plpgsql AS $$ BEGIN CALL work(); END $$")
        self.reset()
        session = self.session()
        self.fails("22012", session.query, "CALL plain_around()")
        self.assert_row("CALL plain_around()", 1, 0, failures=1, sqlstate="22012")
        self.assert_row("CALL work()", 1, 0, failures=1, sqlstate="22012", toplevel=False)
        self.assert_row("INSERT INTO proc_rows VALUES ($1)", 1, 1, toplevel=False)
        self.fails("2D000", session.query, "CALL around()")
        self.assert_row("CALL around()", 1, 0, failures=1, sqlstate="2D000")

    def test_do_in_all_its_endings(self) -> None:
        session = self.session()
        session.query("DO $$ BEGIN INSERT INTO proc_rows VALUES (3); ROLLBACK; INSERT INTO proc_rows VALUES (3); COMMIT; END $$")
        self.assert_row("DO", 1, 0)
        self.fails("P0001", session.query, "DO $$ BEGIN RAISE EXCEPTION 'geheim'; END $$")
        self.assert_row("DO", 2, 0, failures=1, sqlstate="P0001")
        self.assert_row("INSERT INTO proc_rows VALUES ($1)", 2, 2, toplevel=False)

    def test_an_error_of_the_client_follows_a_failed_call(self) -> None:
        self.procedure("BEGIN PERFORM 1 / 0; END")
        session = self.session()
        for _ in range(3):
            self.fails("22012", session.query, "CALL work()")
            self.fails("42601", session.query, "SELEC")
        self.assert_row("CALL work()", 3, 0, failures=3, sqlstate="22012")
        self.assert_row("(not planned: 42601)", 3, 0, failures=3, sqlstate="42601")


class Triggers(CaptureTest):
    """Triggers and foreign keys."""

    def test_row_triggers_are_nested(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS triggered (a int); CREATE TABLE IF NOT EXISTS trigger_log (a int); "
                      "CREATE OR REPLACE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                      "INSERT INTO trigger_log VALUES (NEW.a); RETURN NEW; END $$; "
                      "CREATE OR REPLACE TRIGGER t AFTER INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION logs()")
        self.reset()
        session.query("INSERT INTO triggered SELECT generate_series(1, 50)")
        self.assert_row("INSERT INTO triggered SELECT generate_series($1, $2)", 1, 50)
        self.assert_row("INSERT INTO trigger_log VALUES (NEW.a)", 50, 50, toplevel=False)

    def test_time_in_triggers_counts(self) -> None:
        session = self.session()
        session.query("CREATE TABLE IF NOT EXISTS slow_triggered (a int); "
                      "CREATE OR REPLACE FUNCTION dawdles() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                      "PERFORM pg_sleep(0.12); RETURN NULL; END $$; "
                      "CREATE OR REPLACE TRIGGER t AFTER INSERT ON slow_triggered FOR EACH STATEMENT EXECUTE FUNCTION dawdles()")
        session.query("INSERT INTO slow_triggered VALUES (1)")
        row = self.assert_row("INSERT INTO slow_triggered VALUES ($1)", 1, 1)
        self.assertGreaterEqual(row["total_ms"], 119)

    def test_foreign_keys(self) -> None:
        session = self.session()
        session.query("CREATE TABLE fk_parent (id int PRIMARY KEY); CREATE TABLE fk_child (id int REFERENCES fk_parent "
                      "ON DELETE CASCADE); INSERT INTO fk_parent SELECT generate_series(1, 30)")
        self.addCleanup(self.run_sql, "DROP TABLE fk_child, fk_parent")
        session.query("INSERT INTO fk_child SELECT generate_series(1, 30)")
        session.query("DELETE FROM fk_parent")
        self.assert_row("INSERT INTO fk_child SELECT generate_series($1, $2)", 1, 30)
        self.assert_row("DELETE FROM fk_parent", 1, 30)
        deletes = [row for row in self.statements() if row["query"].startswith("DELETE FROM ONLY")]
        self.assertEqual([(row["toplevel"], row["calls"], row["rows"]) for row in deletes], [(False, 30, 30)])

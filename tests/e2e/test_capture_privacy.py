"""Capture: no literal and no secret is shown, and nobody sees what is not his to see."""

from __future__ import annotations

from .capture_case import CaptureTest

SECRET = "Geheim7x"


class Secrets(CaptureTest):
    """Planted secrets, in every kind of statement that can hold one. Failed statements count as well."""

    def exposures(self) -> list[str]:
        """Everything that statements() shows and that holds the secret."""
        everything = self.cluster.sql("SELECT s::text FROM perf.statements(true) s", dbname=self.db)
        return [row for (row,) in everything if SECRET.lower() in row.lower()]

    def attempt(self, *statements: str) -> None:
        """Runs statements, each whether it succeeds or not, and looks after each. (Statements that differ in literals
        only share a row, which shows the text of the first.)"""
        session = self.session()
        for statement in statements:
            self.reset()
            try:
                session.query(statement)
            except Exception:  # noqa: B902  (a failed statement must not tell either)
                pass
            if session.transaction_status == "E":
                session.query("ROLLBACK")
            self.assertEqual(self.exposures(), [], statement)

    def test_sample_that_no_longer_plans(self) -> None:
        """The advisor plans samples with their literals; what it says of a failure quotes none."""
        session = self.session()
        session.query("CREATE TABLE changed AS SELECT g::text AS a FROM generate_series(1, 1000) g")
        self.reset()
        session.query(f"SELECT count(*), pg_sleep(0.3) FROM changed WHERE a = '{SECRET}'")
        session.query("ALTER TABLE changed ALTER a TYPE int USING 1")
        session.query("SET client_min_messages = notice")
        session.notices.clear()
        session.query("SELECT count(*) FROM perf.index_recommendations()")
        messages = [notice["message"] for notice in session.notices]
        self.assertTrue(any("cannot be planned" in message for message in messages), messages)
        self.assertFalse([message for message in messages if SECRET in message])

    def test_roles(self) -> None:
        self.addCleanup(self.run_sql, "DROP ROLE IF EXISTS secret_role", "DROP ROLE IF EXISTS secret_user",
                        "DROP ROLE IF EXISTS secret_group")
        self.attempt(f"CREATE ROLE secret_role PASSWORD '{SECRET}'", f"CREATE ROLE secret_role PASSWORD '{SECRET}'",
                     f"CREATE USER secret_user WITH ENCRYPTED PASSWORD E'{SECRET}'",
                     f"CREATE GROUP secret_group PASSWORD $${SECRET}$$", f"create role x password u&'{SECRET}'",
                     f"ALTER ROLE secret_role PASSWORD '{SECRET}' VALID UNTIL 'infinity'",
                     f"ALTER USER secret_role /* c */ WITH PASSWORD $tag${SECRET}$tag$",
                     f"ALTER ROLE no_such_role PASSWORD '{SECRET}'",
                     f"ALTER ROLE secret_role SET application_name TO {SECRET}",
                     f"ALTER ROLE ALL IN DATABASE {self.db} SET search_path = {SECRET}", f"ALTER ROLE ALL IN DATABASE {self.db} RESET ALL",
                     f"DO $$ BEGIN EXECUTE 'ALTER ROLE secret_role PASSWORD ''{SECRET}'''; END $$",
                     f"BEGIN; ALTER ROLE secret_role PASSWORD '{SECRET}'; SELECT 1 / 0")
        self.assert_row("ALTER ROLE", 1)

    def test_settings(self) -> None:
        self.attempt(f"SET application_name = {SECRET}", f"SET my.secret = '{SECRET}'", f"SET LOCAL my.secret TO {SECRET}",
                     f"SELECT set_config('my.secret', '{SECRET}', false)",
                     f"ALTER DATABASE {self.db} SET my.secret = {SECRET}", f"ALTER DATABASE {self.db} RESET ALL",
                     f"ALTER SYSTEM SET application_name = '{SECRET}'", "ALTER SYSTEM RESET application_name",
                     f"SET SESSION AUTHORIZATION '{SECRET}'")

    def test_connections_elsewhere(self) -> None:
        self.addCleanup(self.run_sql, "DROP FOREIGN DATA WRAPPER IF EXISTS secret_fdw CASCADE")
        self.attempt(f"CREATE FOREIGN DATA WRAPPER secret_fdw OPTIONS (a '{SECRET}')",
                     f"CREATE SERVER secret_server FOREIGN DATA WRAPPER secret_fdw OPTIONS (host '{SECRET}')",
                     f"ALTER SERVER secret_server OPTIONS (SET host '{SECRET}')",
                     f"CREATE USER MAPPING FOR postgres SERVER secret_server OPTIONS (password '{SECRET}')",
                     f"ALTER USER MAPPING FOR postgres SERVER secret_server OPTIONS (SET password '{SECRET}')",
                     f"CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere password={SECRET}' PUBLICATION p",
                     f"ALTER SUBSCRIPTION s CONNECTION 'password={SECRET}'",
                     f"CREATE FOREIGN TABLE ft (a int) SERVER secret_server OPTIONS (x '{SECRET}')")

    def test_programs_and_bodies(self) -> None:
        self.addCleanup(self.run_sql, "DROP FUNCTION IF EXISTS secret_body()", "DROP TABLE IF EXISTS secret_copy")
        self.attempt("CREATE TABLE secret_copy (a text)", f"COPY secret_copy FROM PROGRAM 'echo {SECRET}'",
                     f"COPY secret_copy TO '/nowhere/{SECRET}'", f"COPY (SELECT '{SECRET}') TO PROGRAM 'cat > /dev/null'",
                     f"DO $$ BEGIN PERFORM '{SECRET}'; RAISE EXCEPTION '{SECRET}'; END $$",
                     f"DO LANGUAGE plpgsql 'BEGIN PERFORM ''{SECRET}''; END'",
                     f"CREATE OR REPLACE FUNCTION secret_body() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN '{SECRET}'; END $f$",
                     f"CREATE OR REPLACE FUNCTION secret_body() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT '{SECRET}'::text; END",
                     "SELECT secret_body()", f"COMMENT ON TABLE secret_copy IS '{SECRET}'", f"NOTIFY x, '{SECRET}'",
                     f"PREPARE TRANSACTION '{SECRET}'", f"PREPARE secret_p (text) AS SELECT $1, '{SECRET}'",
                     f"EXECUTE secret_p ('{SECRET}')", f"EXPLAIN EXECUTE secret_p ('{SECRET}')",
                     f"EXPLAIN ANALYZE SELECT '{SECRET}'", f"BEGIN; DECLARE c CURSOR FOR SELECT '{SECRET}'; FETCH c; COMMIT",
                     f"CREATE TABLE secret_as AS SELECT '{SECRET}' AS a", "DROP TABLE secret_as",
                     f"CREATE VIEW secret_view AS SELECT '{SECRET}' AS a", "SELECT * FROM secret_view", "DROP VIEW secret_view",
                     f"ALTER TABLE secret_copy ADD COLUMN b text DEFAULT '{SECRET}' CHECK (b <> '{SECRET}')",
                     f"INSERT INTO secret_copy (a) VALUES ('{SECRET}')",
                     f"SELEC '{SECRET}'", f"SELECT {SECRET} FROM nowhere", f"SELECT '{SECRET}'::int",
                     f"SELECT a::int FROM secret_copy WHERE a = '{SECRET}'")

    def test_quotes_of_every_kind(self) -> None:
        self.attempt(f"SELECT E'a\\'{SECRET}'", f"SELECT 'a''{SECRET}'", f"SELECT $a$ $$ {SECRET} $a$",
                     f"SELECT E'a'\n'b\\'{SECRET} '", f"SELECT U&'{SECRET}' UESCAPE '!'", f"SELECT 'a'\n -- c\n '{SECRET}'",
                     f"SELECT N'{SECRET}'",
                     f"SELECT 1 AS \"a\"\"b\", '{SECRET}'", f"/* it's */ SELECT '{SECRET}' -- it's",
                     f"SELECT '\\', '{SECRET}'", f"SELECT 1 WHERE '{SECRET}' LIKE '%\\' ESCAPE '\\'",
                     f"SELECT E'\\\\', '{SECRET}'", f"SELECT 1--'\n, '{SECRET}'", f"SELECT 1/*'*/, '{SECRET}'")

    def test_backslashes_in_plain_strings(self) -> None:
        session = self.session()
        session.query("SET escape_string_warning = off; SET standard_conforming_strings = off")
        session.query(f"SELECT 'a\\' {SECRET}'")
        self.assertEqual(self.exposures(), [])
        self.reset()
        session.query(f"SELECT 'a\\\\', '{SECRET}'")
        self.assertEqual(self.exposures(), [])
        self.reset()
        session.query("SET standard_conforming_strings = on")
        session.query(f"SELECT 'a\\', '{SECRET}'")
        self.assertEqual(self.exposures(), [])

    def test_the_setting_changes_within_a_string(self) -> None:
        session = self.session()
        session.query("SET escape_string_warning = off")
        session.query(f"SET standard_conforming_strings = off; SELECT 'a\\', ' {SECRET} ', '\\'")
        self.assertEqual(self.exposures(), [])


class Visibility(CaptureTest):
    """Who sees what."""

    def setUp(self) -> None:
        super().setUp()
        for role in ("watcher", "stranger"):
            if not self.cluster.sql("SELECT 1 FROM pg_roles WHERE rolname = $1", (role,)):
                self.cluster.sql(f"CREATE ROLE {role} LOGIN")
        self.cluster.sql("GRANT pg_read_all_stats TO watcher")
        self.cluster.sql("GRANT USAGE ON SCHEMA perf TO watcher, stranger", dbname=self.db)
        self.reset()
        with self.cluster.connect(self.db, "stranger") as session:
            session.query("SELECT abs(1) AS of_stranger")
        self.run_sql("SELECT abs(1), abs(2) AS of_postgres")

    SQL = ("SELECT username, queryid IS NULL, query, calls FROM perf.statements() "
           "WHERE query !~ 'perf.statements' ORDER BY username, query")

    def test_a_stranger_sees_only_his_own(self) -> None:
        rows = self.cluster.sql(self.SQL, dbname=self.db, user="stranger")
        self.assertIn(("stranger", False, "SELECT abs($1) AS of_stranger", 1), rows)
        others = [row for row in rows if row[0] != "stranger"]
        self.assertGreater(len(others), 0)
        self.assertTrue(all(row[1] and row[2] == "<insufficient privilege>" for row in others), others)

    def test_a_watcher_sees_all(self) -> None:
        rows = self.cluster.sql(self.SQL, dbname=self.db, user="watcher")
        self.assertIn(("stranger", False, "SELECT abs($1) AS of_stranger", 1), rows)
        self.assertIn(("postgres", False, "SELECT abs($1), abs($2) AS of_postgres", 1), rows)

    def test_histograms_of_others(self) -> None:
        ids = dict(self.cluster.sql("SELECT query, queryid FROM perf.statements() WHERE query ~ ' of_'", dbname=self.db))
        sql = "SELECT coalesce(sum(calls), 0)::int FROM perf.latency_histogram($1)"
        mine, other = ids["SELECT abs($1) AS of_stranger"], ids["SELECT abs($1), abs($2) AS of_postgres"]
        counts = [self.cluster.scalar(sql, (queryid,), dbname=self.db, user=user)
                  for user in ("stranger", "watcher") for queryid in (mine, other)]
        self.assertEqual(counts, [1, 0, 1, 1])

    def test_reset_is_for_superusers(self) -> None:
        for user in ("stranger", "watcher"):
            self.assert_sql_error("42501", self.cluster, "SELECT perf.reset()", dbname=self.db, user=user)
        self.cluster.sql("GRANT EXECUTE ON FUNCTION perf.reset(bigint, text) TO watcher", dbname=self.db)
        self.addCleanup(self.cluster.sql, "REVOKE EXECUTE ON FUNCTION perf.reset(bigint, text) FROM watcher", dbname=self.db)
        self.assertGreater(self.cluster.scalar("SELECT perf.reset()", dbname=self.db, user="watcher"), 0)

    def test_a_definers_statements_are_the_definers(self) -> None:
        self.run_sql("CREATE OR REPLACE FUNCTION as_definer(d int) RETURNS int SECURITY DEFINER LANGUAGE plpgsql AS "
                     "$$ DECLARE r int; BEGIN EXECUTE 'SELECT 100 / (SELECT $1 OFFSET 0)' INTO r USING d; RETURN r; END $$")
        with self.cluster.connect(self.db, "stranger") as session:
            session.query("SELECT as_definer(1)")
            self.fails("22012", session.query, "SELECT as_definer(0)")
            rows = session.query("SELECT username, calls, failures, query FROM perf.statements() WHERE NOT toplevel").rows
        self.assertEqual(rows, [("postgres", 2, 1, "<insufficient privilege>")])

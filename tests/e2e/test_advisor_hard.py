"""The index advisor: what it advises on, beyond what the golden file `index_hard_cases` asks."""

from __future__ import annotations

import time

from .advisor_case import AdvisorTest
from .cluster import Connection, SqlError


class Objects(AdvisorTest):
    """Wide tables, many partitions, columns and tables that other modules bring. Every DDL is executed."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.database()
        self.session = self.cluster.connect(self.name)
        self.addCleanup(self.session.close)

    def install(self, extension: str) -> None:
        """An extension of the server's contrib; the test is skipped where it is not there."""
        if not self.session.execute("SELECT 1 FROM pg_available_extensions WHERE name = $1", (extension,)).rows:
            self.skipTest(f"{extension} is not installed")
        self.session.query(f"CREATE EXTENSION {extension}")

    def serves(self, query: str, *columns: str) -> None:
        """The advice for one query has this index; once it is built the query uses it, and nothing more is advised."""
        self.assertEqual([found for _, found in self.advice(self.session, query)], [list(columns)], self.said(self.session))
        self.build(self.session, query)
        self.assertNotEqual(self.used(self.session, query), [])
        self.assertEqual(self.advice(self.session, query), [])

    def test_1600_columns(self) -> None:
        columns = ", ".join(f"c{n} int" for n in range(1600))
        self.session.query(f"CREATE TABLE wide ({columns})")
        self.session.query("INSERT INTO wide (c0, c1599, c800) SELECT g, g, g % 100 FROM generate_series(1, 5000) g; ANALYZE wide")
        began = time.monotonic()
        self.serves("SELECT * FROM wide WHERE c1599 = 4", "c1599")
        self.serves("SELECT c0 FROM wide WHERE c0 = 4 AND c1 IS NULL", "c0")
        everything = " AND ".join(f"c{n} = {n}" for n in range(1600))
        self.advice(self.session, f"SELECT * FROM wide WHERE {everything}")
        self.assertLess(time.monotonic() - began, 20)

    def test_1000_partitions(self) -> None:
        self.session.query("CREATE TABLE many (id int, part int, at int) PARTITION BY LIST (part)")
        self.session.query("DO $$ BEGIN FOR n IN 0..999 LOOP EXECUTE format('CREATE TABLE many_%s PARTITION OF many FOR VALUES IN (%s)', n, n); "
                           "END LOOP; END $$")
        self.session.query("INSERT INTO many SELECT g, g % 1000, g / 10 FROM generate_series(1, 1000000) g")
        self.session.query("ANALYZE many")
        began = time.monotonic()
        rows = self.session.query("SELECT columns, ddl, size_bytes, undo_ddl FROM perf.index_recommendations("
                                  "queries => '{SELECT * FROM many WHERE id = 17}') "
                                  "WHERE source <> 'policy'").rows
        self.assertLess(time.monotonic() - began, 15)
        self.assertEqual([row[0] for row in rows], [["id"]], self.said(self.session))
        _, ddl, size, undo = rows[0]
        steps = ddl.split(";\n")
        self.assertEqual(len(steps), 2001)
        self.assertEqual(steps[0], "CREATE INDEX many_id_idx ON ONLY public.many USING btree (id)")
        self.assertIn("CREATE INDEX CONCURRENTLY many_7_id_idx ON public.many_7 USING btree (id)", steps)
        self.assertIn("ALTER INDEX public.many_id_idx ATTACH PARTITION public.many_7_id_idx", steps)
        for step in steps:
            self.session.query(step)
        self.assertEqual(self.session.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'many_id_idx'::regclass").rows, [(True,)])
        self.assertEqual(self.used(self.session, "SELECT * FROM many WHERE part = 7 AND id = 7"), ["many_7_id_idx"])
        real = self.session.query("SELECT sum(pg_relation_size(relid)) FROM pg_partition_tree('many_id_idx')").scalar()
        self.assertLess(abs(size / float(real) - 1), 0.15)
        self.session.query(undo)
        self.assertEqual(self.used(self.session, "SELECT * FROM many WHERE part = 7 AND id = 7"), [])

    def test_several_levels_of_partitions(self) -> None:
        self.session.query("""
            CREATE TABLE tree (id int, x int, y int) PARTITION BY LIST (x);
            CREATE TABLE tree_1 PARTITION OF tree FOR VALUES IN (1) PARTITION BY LIST (y);
            CREATE TABLE tree_1_1 PARTITION OF tree_1 FOR VALUES IN (1);
            CREATE TABLE tree_1_2 (gone int, y int, id int, x int);
            ALTER TABLE tree_1_2 DROP COLUMN gone;
            ALTER TABLE tree_1 ATTACH PARTITION tree_1_2 FOR VALUES IN (2);
            CREATE TABLE tree_2 PARTITION OF tree FOR VALUES IN (2);
            INSERT INTO tree SELECT g, 1 + g % 2, 1 + g / 2 % 2 FROM generate_series(1, 60000) g;
            ANALYZE tree""")
        self.serves("SELECT * FROM tree WHERE id = 17", "id")
        self.assertEqual(len(self.used(self.session, "SELECT * FROM tree WHERE id = 17")), 3)

    def test_names_of_parts(self) -> None:
        """Indexes of a partitioned table and of one of its partitions are advised on at once; names do not collide."""
        self.session.query("""
            CREATE TABLE p (a int, b int, c int) PARTITION BY LIST (c);
            CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1);
            CREATE TABLE p_2 PARTITION OF p FOR VALUES IN (2);
            INSERT INTO p SELECT g, -g, 1 + g % 2 FROM generate_series(1, 40000) g;
            ANALYZE p""")
        queries = ("SELECT * FROM p ORDER BY a, b LIMIT 5", "SELECT * FROM p ORDER BY a, b DESC LIMIT 5", "SELECT * FROM p_1 WHERE b = -5",
                   "SELECT * FROM p WHERE b = -6", "SELECT * FROM p_2 WHERE a = 4")
        self.build(self.session, *queries)
        for query in queries:
            self.assertNotEqual(self.used(self.session, query), [], query)

    def test_citext(self) -> None:
        self.install("citext")
        self.session.query("CREATE TABLE people AS SELECT ('Name' || g)::citext AS name FROM generate_series(1, 20000) g; ANALYZE people")
        self.serves("SELECT * FROM people WHERE name = 'nAME7'", "name")

    def test_foreign_tables(self) -> None:
        self.install("postgres_fdw")
        self.session.query("CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname 'nowhere')")
        self.session.query("CREATE USER MAPPING FOR PUBLIC SERVER far")
        self.session.query("CREATE FOREIGN TABLE far_away (a int, b int) SERVER far")
        self.session.query("CREATE TABLE mixed (a int, b int) PARTITION BY LIST (b)")
        self.session.query("CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES IN (1)")
        self.session.query("CREATE FOREIGN TABLE mixed_2 PARTITION OF mixed FOR VALUES IN (2) SERVER far")
        self.session.query("INSERT INTO mixed SELECT g, 1 FROM generate_series(1, 20000) g; ANALYZE mixed_1")
        self.assertEqual(self.advice(self.session, "SELECT * FROM far_away WHERE a = 4"), [])
        self.assert_sql_error("0A000", self.cluster, "SELECT * FROM perf.what_if('SELECT 1', '{CREATE INDEX ON far_away (a)}')",
                              dbname=self.name)
        self.assertEqual(self.advice(self.session, "SELECT * FROM far_away f JOIN t ON t.a = f.a WHERE f.b = 4")[:1] or [("public.t", ["a"])],
                         [("public.t", ["a"])])
        self.build(self.session, "SELECT * FROM mixed_1 WHERE a = 4")
        self.assertEqual(self.used(self.session, "SELECT * FROM mixed_1 WHERE a = 4"), ["mixed_1_a_idx"])

    def test_virtual_columns(self) -> None:
        if self.cluster.major < 18:
            self.skipTest("virtual generated columns came with 18")
        self.session.query("CREATE TABLE computed (a int, twice int GENERATED ALWAYS AS (a * 2) VIRTUAL, b int)")
        self.session.query("INSERT INTO computed (a, b) SELECT g, g FROM generate_series(1, 20000) g; ANALYZE computed")
        self.assertNotIn(["twice"], [columns for _, columns in self.advice(self.session, "SELECT * FROM computed WHERE twice = 8")])
        self.serves("SELECT twice FROM computed WHERE b = 8", "b")
        with self.assertRaises(SqlError) as caught:
            self.session.query("SELECT * FROM perf.what_if('SELECT 1', '{CREATE INDEX ON computed (twice)}')")
        self.assertEqual(caught.exception.sqlstate, "0A000")

    def test_encodings(self) -> None:
        for encoding, python, word in (("LATIN1", "latin-1", "größe"), ("EUC_JP", "euc_jp", "日本語")):
            name = f"hard_{encoding.lower()}"
            self.cluster.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
            self.addCleanup(self._drop_database, self.cluster, name)
            self.cluster.sql("CREATE EXTENSION perf_opt", dbname=name)
            with self.cluster.connect(name, client_encoding=encoding) as session:
                session.query(f'CREATE TABLE "{word}" AS SELECT g AS "{word}", g AS b FROM generate_series(1, 20000) g'.encode(python))
                session.query(f'ANALYZE "{word}"'.encode(python))
                query = f'SELECT * FROM "{word}" WHERE "{word}" = 4'
                self.assertEqual(self.advice(session, query), [(f'public."{word}"', [word])], encoding)
                evidence = session.execute("SELECT evidence::text FROM perf.index_recommendations(queries => $1::text[]) "
                                           "WHERE source <> 'policy'", ([query],)).scalar()
                self.assertIn(f"Seq Scan on {word} -> ", evidence)
                plan = session.execute("SELECT plan FROM perf.what_if($1, $2::text[]) WHERE variant = 'hypothetical'",
                                       (query, [f'CREATE INDEX "{word}2" ON "{word}" ("{word}")'])).scalar()
                self.assertIn(f'"{word}2"' if encoding == "LATIN1" else word, plan)
                session.query(f'SET search_path = "{word}", public'.encode(python))
                session.query("SELECT perf.reset()")
                for number in range(20):
                    session.execute(f'SELECT * FROM "{word}" WHERE "{word}" = $1', (number,))
                captured = "SELECT columns FROM perf.index_recommendations() WHERE source <> 'policy'"
                self.assertEqual(session.query(captured).rows, [([word],)], encoding)
                session.execute("INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (99, $1, $2::text[], 'low')",
                                (f'"{word}"', [word]))
                self.build(session, query)
                self.assertEqual(self.used(session, query), [f"{word}_{word}_idx"], encoding)
                session.query("SELECT count(*) FROM perf.index_recommendations()")
                self.assertEqual(session.query("SELECT status, reason FROM perf.index_recommendations(queries => '{}') WHERE policy_gain IS NULL "
                                               f"AND relation ~ '{word}'".encode(python)).rows,
                                 [("exists", f'Index "{word}_{word}_idx" already serves these columns.')])
                with self.assertRaises(SqlError) as caught:
                    self.advice(session, f'SELECT "{word}3" FROM "{word}"')
                self.assertEqual(caught.exception.sqlstate, "22023")
                session.query(f'BEGIN; LOCK TABLE "{word}" IN ACCESS EXCLUSIVE MODE'.encode(python))
                with self.cluster.connect(name) as other:  # of another encoding
                    self.advice(other, query)
                    self.assertIn("another session has locked", self.said(other))


class Locked(AdvisorTest):
    """A table that somebody holds in ACCESS EXCLUSIVE is left out; the call comes back while the lock is held."""

    def setUp(self) -> None:
        super().setUp()
        self.name = self.database()
        self.session = self.cluster.connect(self.name)
        self.holder = self.cluster.connect(self.name)
        self.addCleanup(self.session.close)
        self.addCleanup(self.holder.close)

    def test_locked_table(self) -> None:
        self.holder.query("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        found = self.advice(self.session, "SELECT * FROM t WHERE a = 4", "SELECT * FROM u WHERE b = 5", "SELECT * FROM t JOIN u USING (a)")
        self.assertEqual(found, [("public.u", ["b"])])
        self.assertIn("2 statements were left out: they read tables that another session has locked", self.said(self.session))
        self.assertEqual(self.holder.query("SELECT 1").rows, [(1,)])
        self.holder.query("COMMIT")
        self.assertEqual(self.advice(self.session, "SELECT * FROM t WHERE a = 4"), [("public.t", ["a"])])

    def test_readers_and_writers_do_not_matter(self) -> None:
        self.holder.query("BEGIN; LOCK TABLE t IN EXCLUSIVE MODE")
        self.assertEqual(self.advice(self.session, "SELECT * FROM t WHERE a = 4"), [("public.t", ["a"])])

    def test_locked_partition_view_and_index(self) -> None:
        self.session.query("CREATE TABLE p (a int, b int) PARTITION BY LIST (b); CREATE TABLE p_1 PARTITION OF p FOR VALUES IN (1); "
                           "CREATE TABLE p_2 PARTITION OF p FOR VALUES IN (2); CREATE VIEW v AS SELECT * FROM t; CREATE INDEX u_c ON u (c)")
        self.session.query("INSERT INTO p SELECT g, 1 + g % 2 FROM generate_series(1, 20000) g; ANALYZE p")
        for lock, query in (("TABLE p_2", "SELECT * FROM p WHERE a = 4"), ("TABLE ONLY p", "SELECT * FROM p WHERE a = 4"),
                            ("TABLE v", "SELECT * FROM v WHERE a = 4")):
            self.holder.query(f"BEGIN; LOCK {lock} IN ACCESS EXCLUSIVE MODE")
            self.assertEqual(self.advice(self.session, query, "SELECT * FROM u WHERE b = 5"), [("public.u", ["b"])], lock)
            self.assertIn("another session has locked", self.said(self.session))
            self.holder.query("ROLLBACK")
        self.holder.query("BEGIN; REINDEX INDEX u_c")
        self.assertEqual(self.advice(self.session, "SELECT * FROM u WHERE b = 5", "SELECT * FROM t WHERE a = 4"), [("public.t", ["a"])])
        self.holder.query("ROLLBACK")

    def test_many_statements_on_a_locked_table(self) -> None:
        self.holder.query("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        self.advice(self.session, *[f"SELECT * FROM t WHERE a = {n}" for n in range(500)])
        self.assertLess(time.monotonic() - began, 8)
        self.assertIn("another session has locked", self.said(self.session))

    def test_what_if_waits_as_long_as_the_session_says(self) -> None:
        self.holder.query("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        self.session.query("SET lock_timeout = '50ms'")
        for call in ("'SELECT * FROM t'", "'SELECT 1', '{CREATE INDEX ON t (a)}'"):
            with self.assertRaises(SqlError) as caught:
                self.session.query(f"SELECT * FROM perf.what_if({call})")
            self.assertEqual(caught.exception.sqlstate, "55P03")
        self.assertEqual(self.session.query("SHOW lock_timeout").rows, [("50ms",)])

    def test_policy_table(self) -> None:
        self.session.query("INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (99, 't', '{a}', 'low')")
        ask = ("SELECT id, status, reason FROM perf.index_recommendations(queries => '{SELECT * FROM u WHERE b = 5}') "
               "WHERE relation = 'public.t'")
        free = self.session.query(ask).rows
        self.assertEqual([row[1] for row in free], ["not_needed"])
        self.holder.query("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        locked = self.session.query(ask).rows
        self.assertEqual([row[1] for row in locked], ["not_applicable"])
        self.assertIn("ublic.t is locked by another session", locked[0][2])
        self.assertEqual(locked[0][0], free[0][0], "a row keeps its id, whoever has locked its table")

    def test_dropped_meanwhile(self) -> None:
        """Tables come and go while the advisor reads: every call gives an answer or an honest error."""
        self.holder.query("CREATE TABLE brief (a int)")
        ends = time.monotonic() + 3
        calls = 0
        while time.monotonic() < ends:
            self.holder.send_async("DROP TABLE brief; CREATE TABLE brief (a int); INSERT INTO brief SELECT generate_series(1, 2000)")
            try:
                self.advice(self.session, "SELECT * FROM brief WHERE a = 4", "SELECT * FROM u WHERE b = 5")
            except SqlError as error:
                self.assertEqual(error.sqlstate, "22023", str(error))
                self.assertIn("does not exist", error.message)
            calls += 1
            self.holder.wait()
        self.assertGreater(calls, 5)

"""`perf.sql_optimization_examples` on captured statements: which rules speak, which do not, and that what they write gives
the same rows."""

from __future__ import annotations

import random
import re
import time
from typing import Any

from .capture_case import CaptureTest
from .cluster import Connection, SqlError

TABLES = (
    "DROP TABLE IF EXISTS person, purchase",
    "CREATE TABLE person (id int PRIMARY KEY, x int, y int, big bigint, small smallint, t timestamp, tz timestamptz, name text, "
    "score numeric)",
    "CREATE TABLE purchase (person_id int, buyer int NOT NULL, x int, amount numeric, price int, t timestamp)",
    "CREATE INDEX ON person (x)",
    "CREATE INDEX ON person (y)",
    "CREATE INDEX ON person (big)",
    "CREATE INDEX ON person (small)",
    "CREATE INDEX ON person (t)",
    "CREATE INDEX ON person (tz)",
    "CREATE INDEX ON person (name)",
    "CREATE INDEX ON purchase (person_id)",
)
FUNCTION = "A function hides an indexed column"
CAST = "An implicit cast hides an indexed column"
WILDCARD = "LIKE with a leading wildcard"
OR = "OR across columns"
NOT_IN = "NOT IN with a subquery"
OFFSET = "Deep OFFSET"
COUNT = "count(*) for existence"
DISTINCT = "DISTINCT over a join"
STAR = "SELECT * from a wide table"
CORRELATED = "Correlated subquery"
TIME = "No bound in time"
REPEATED = "The same statement many times in a transaction (N+1)"
LIST = "Long IN list"
ORDER = "ORDER BY in a subquery"
SPILL = "Sorts or hashes spill to disk"
STALE = "Stale statistics"
PLANNING = "Planned longer than executed"
# Parts of statements for any mixture of them.
TABLES_IN_ANY = ("person p JOIN purchase b ON b.person_id = p.id", "person p LEFT JOIN purchase b ON b.person_id = p.id",
                 "person p, purchase b", "purchase b RIGHT JOIN person p ON b.x = p.x AND b.price = 1 OR b.x = 2")
LISTS_IN_ANY = ("p.id, b.price", "DISTINCT p.x, p.y", "DISTINCT b.price", "count(*) > 0", "count(*) = 0 AS none", "p.x, p.name",
                "p.id, (SELECT count(*) FROM purchase q WHERE q.x = p.x) AS n", "p.id, (SELECT max(q.price) FROM purchase q "
                "WHERE q.person_id = p.y AND q.x > 0)")
CONDITIONS_IN_ANY = (
    "p.t::date = '2024-03-02'", "p.t::date <> '2024-03-02'", "NOT (p.t::date > '2024-03-02')", "'2024-03-03' >= p.t::date",
    "date_trunc('day', p.t) = '2024-03-02'", "date_trunc('week', p.t) = '2024-02-26'", "p.x = 2.0", "p.big = 1.5", "p.x IS NULL",
    "(p.x = 1 OR p.y = 2)", "(p.x = 1 OR b.price = 2)", "(p.t::date = '2024-03-01' OR p.x = 3.0)", "b.price > 1", "p.y > 0",
    "p.id NOT IN (SELECT q.buyer FROM purchase q)", "p.x NOT IN (SELECT q.buyer FROM purchase q WHERE q.price > 1)",
    "b.buyer NOT IN (SELECT q.id FROM person q WHERE q.x = 1)", "p.id NOT IN (SELECT q.buyer FROM purchase q WHERE q.x = p.x)",
    "(SELECT count(*) FROM purchase q WHERE q.x = p.y) > 0", "1 > (SELECT count(*) FROM purchase q WHERE q.t::date = '2024-03-02')",
    "EXISTS (SELECT FROM person q WHERE q.x = b.x AND q.t::date <= '2024-03-02')",
    "p.y IN (SELECT q.x FROM purchase q ORDER BY q.price)")
LONG = ", ".join(str(number) for number in range(-5, 120))

# Statements that are written anew, and give the same rows; the rule that does it.
SAME = (
    (FUNCTION, "SELECT id FROM person WHERE t::date = '2024-03-02'"),
    (FUNCTION, "SELECT id FROM person WHERE date(t) < '2024-03-02'"),
    (FUNCTION, "SELECT id FROM person WHERE t::date <= '2024-03-02'"),
    (FUNCTION, "SELECT id FROM person WHERE '2024-03-02'::date < t::date"),
    (FUNCTION, "SELECT id FROM person WHERE t::date >= date '2024-03-02' AND x > 1"),
    (FUNCTION, "SELECT id FROM person WHERE date_trunc('day', t) = '2024-03-02'"),
    (FUNCTION, "SELECT id FROM person WHERE date_trunc('month', t) = '2024-03-01 00:00'"),
    (FUNCTION, "SELECT id FROM person WHERE date_trunc('day', t) = '2024-03-02 05:00'"),
    (FUNCTION, "SELECT id FROM person p WHERE EXISTS (SELECT 1 FROM person q WHERE q.t::date = '2024-03-02' AND q.x = p.x)"),
    (CAST, "SELECT id FROM person WHERE x = 2.0"),
    (CAST, "SELECT id FROM person WHERE x = 2.5"),
    (CAST, "SELECT id FROM person WHERE 99999999999999999999.0 = x"),
    (CAST, "SELECT id FROM person WHERE big = 3.000"),
    (CAST, "SELECT id FROM person WHERE small = 3.1 - 0.1"),
    (OR, "SELECT id, name FROM person WHERE x = 1 OR y = 2"),
    (OR, "SELECT x FROM person WHERE (x = 1 OR y = 2 OR t IS NULL) AND id > 3"),
    (OR, "SELECT id FROM person WHERE (id = 1 OR id > 4) AND (x = 1 OR y = 2)"),
    (OR, "SELECT p.id, b.price FROM person p JOIN purchase b ON b.person_id = p.id WHERE p.x = 1 OR b.price = 2"),
    (NOT_IN, "SELECT id, name FROM person WHERE id NOT IN (SELECT buyer FROM purchase WHERE price > 2)"),
    (NOT_IN, "SELECT p.x FROM person p WHERE p.x > 0 AND p.id NOT IN (SELECT DISTINCT b.buyer FROM purchase b ORDER BY 1)"),
    (COUNT, "SELECT count(*) > 0 FROM person WHERE x = 2"),
    (COUNT, "SELECT 0 = count(*) AS none FROM person p JOIN purchase b ON b.person_id = p.id"),
    (COUNT, "SELECT id FROM person p WHERE (SELECT count(*) FROM purchase b WHERE b.person_id = p.id) > 0"),
    (COUNT, "SELECT id FROM person p WHERE 1 > (SELECT count(*) FROM purchase b WHERE b.x = p.x AND b.price > 1)"),
    (DISTINCT, "SELECT DISTINCT p.x, p.name FROM person p JOIN purchase b ON b.person_id = p.id WHERE b.price > 1 AND p.y > 0"),
    (DISTINCT, "SELECT DISTINCT x FROM person JOIN purchase USING (x)"),
    (DISTINCT, "SELECT DISTINCT p.x + 1 AS n FROM purchase b, person p WHERE b.person_id = p.id ORDER BY n"),
    (CORRELATED, "SELECT p.id, (SELECT count(*) FROM purchase b WHERE b.person_id = p.id) FROM person p"),
    (CORRELATED, "SELECT p.name, p.name, (SELECT sum(b.price) FROM purchase b WHERE b.x = p.x AND b.price > 1) AS total "
                 "FROM person p WHERE p.y > 0"),
    (CORRELATED, "SELECT (SELECT max(price) FROM purchase WHERE p.big = person_id) FROM person p"),
    (ORDER, "SELECT count(*), sum(s.amount) FROM (SELECT amount FROM purchase ORDER BY price) s"),
    (ORDER, "SELECT s.x FROM (SELECT x, y FROM person WHERE y > 1 ORDER BY t) s ORDER BY s.x"),
    (FUNCTION, "DELETE FROM person WHERE t::date = '2024-03-02' RETURNING id"),
    (FUNCTION, "UPDATE person SET name = 'q' WHERE date_trunc('day', t) = '2024-03-02' RETURNING id, name"),
    (FUNCTION, "INSERT INTO purchase (buyer) SELECT id FROM person WHERE t::date = '2024-03-02' RETURNING buyer"),
    (FUNCTION, "WITH q AS (SELECT id, t FROM person WHERE t::date > '2024-03-02') SELECT q.id FROM q WHERE q.id > 2"),
    (NOT_IN, "DELETE FROM person WHERE id NOT IN (SELECT buyer FROM purchase) RETURNING id"),
    (COUNT, "UPDATE person p SET x = 1 WHERE (SELECT count(*) FROM purchase b WHERE b.person_id = p.id) = 0 RETURNING id"),
)
# Statements that a rule is not to touch, for all that they look like those that it is for.
NEAR_MISSES = (
    (FUNCTION, "SELECT id FROM person WHERE t >= '2024-03-02' AND t < '2024-03-03'"),
    (FUNCTION, "SELECT price FROM purchase WHERE t::date = '2024-03-02'"),
    (FUNCTION, "SELECT id FROM person WHERE (t + interval '1 day')::date = t::date"),
    (FUNCTION, "SELECT t::date FROM person"),
    (CAST, "SELECT id FROM person WHERE x = 2"),
    (CAST, "SELECT id FROM person WHERE score = 2"),
    (CAST, "SELECT id FROM person WHERE x = 2.5::int"),
    (WILDCARD, "SELECT id FROM person WHERE name LIKE 'abc%'"),
    (WILDCARD, "SELECT id FROM person WHERE 'abc' LIKE name"),
    (OR, "SELECT id FROM person WHERE x = 1 OR x = 2"),
    (OR, "SELECT id FROM person WHERE x = 1 AND y = 2"),
    (NOT_IN, "SELECT id FROM person WHERE x NOT IN (1, 2)"),
    (NOT_IN, "SELECT id FROM person WHERE id IN (SELECT buyer FROM purchase)"),
    (OFFSET, "SELECT id FROM person ORDER BY id LIMIT 10 OFFSET 999"),
    (COUNT, "SELECT count(*) > 1 FROM person"),
    (COUNT, "SELECT count(x) > 0 FROM person"),
    (COUNT, "SELECT count(*) FROM person"),
    (COUNT, "SELECT count(*) > 0 FROM person GROUP BY x"),
    (DISTINCT, "SELECT DISTINCT p.x, b.price FROM person p JOIN purchase b ON b.person_id = p.id"),
    (DISTINCT, "SELECT p.x FROM person p JOIN purchase b ON b.person_id = p.id"),
    (STAR, "SELECT * FROM purchase"),
    (CORRELATED, "SELECT id, (SELECT max(price) FROM purchase) FROM person"),
    (TIME, "SELECT count(*) FROM purchase"),
    (LIST, "SELECT id FROM person WHERE x IN (1, 2, 3)"),
    (ORDER, "SELECT count(*) FROM (SELECT x FROM person ORDER BY y LIMIT 3) s"),
    (ORDER, "SELECT array_agg(s.x) FROM (SELECT x FROM person ORDER BY y) s"),
    (ORDER, "SELECT s.x FROM (SELECT x FROM person ORDER BY y) s"),
    (SPILL, "SELECT x FROM person ORDER BY y"),
)
# Statements that are told what to do, without another that would do the same.
TOLD = (
    (FUNCTION, "SELECT id FROM person WHERE lower(name) = 'anna'", "lower(name)"),
    (FUNCTION, "SELECT id FROM person WHERE x + 1 = 5", "(x + 1)"),
    (WILDCARD, "SELECT id FROM person WHERE name LIKE '%abc%'", None),
    (OR, "SELECT count(*) FROM person WHERE x = 1 OR y = 2", None),
    (NOT_IN, "SELECT id FROM person WHERE x NOT IN (SELECT buyer FROM purchase)", None),
    (NOT_IN, "SELECT id FROM person WHERE id NOT IN (SELECT person_id FROM purchase)", None),
    (OFFSET, "SELECT id FROM person ORDER BY id LIMIT 10 OFFSET 1000", None),
    (CORRELATED, "SELECT id, (SELECT b.price FROM purchase b WHERE b.person_id = p.id LIMIT 1) FROM person p", None),
)


class RewritesTest(CaptureTest):
    """Each rule on statements that it is for, and on those that it is not for."""

    settings = {**CaptureTest.settings, "autovacuum": "off", "max_parallel_workers_per_gather": 0, "timezone": "UTC"}

    def setUp(self) -> None:
        super().setUp()
        self.run_sql(*TABLES)
        self.reset()
        self.addCleanup(self.run_sql, "DROP TABLE IF EXISTS person, purchase, wide, log")

    def rows(self, statement: str, *, everything: bool = True, user: str = "postgres") -> dict[str, dict[str, Any]]:
        """What is told of a statement, by title."""
        with self.cluster.connect(self.db, user) as session:
            found = session.execute(
                "SELECT * FROM perf.sql_optimization_examples($1) WHERE source = 'workload' AND before_sql = perf._normalize($2)",
                (everything, statement)).dicts()
        return {row["title"]: row for row in found}

    def told(self, statement: str, **options: Any) -> dict[str, dict[str, Any]]:
        """Runs a statement, and what is told of it then."""
        self.reset()
        # The second execution is sampled, whenever the first became known.
        self.run_sql(*[statement] * 8)
        return self.rows(statement, **options)

    def fill(self, chance: random.Random) -> None:
        """Random rows, with NULLs wherever they may be."""
        def maybe(value: str) -> str:
            return "NULL" if chance.random() < 0.2 else value

        def number() -> str:
            return maybe(str(chance.randint(-1, 5)))

        def moment() -> str:
            day, hour = chance.randint(1, 4), chance.choice(("00:00", "05:00", "23:59:59.999999"))
            return maybe(f"'2024-03-0{day} {hour}'")
        people = [f"({at}, {number()}, {number()}, {number()}, {number()}, {moment()}, {moment()}, "
                  f"{maybe(chance.choice(('$$anna$$', '$$xabcx$$')))}, {number()})" for at in range(chance.randint(0, 30))]
        bought = [f"({number()}, {chance.randint(-1, 20)}, {number()}, {number()}, {number()}, {moment()})"
                  for _ in range(chance.randint(0, 30))]
        self.run_sql("TRUNCATE person, purchase",
                     *(f"INSERT INTO {table} VALUES {', '.join(rows)}"
                       for table, rows in (("person", people), ("purchase", bought)) if rows))

    def filled(self, after: str, statement: str) -> tuple[str, tuple[str, ...]]:
        """A statement that was told, and the literals of the one it takes the place of that it still has, numbered anew:
        a server wants to be told of each number."""
        literals = [literal.strip("'") for literal in re.findall(r"'[^']*'|(?<![\w.])\d+(?:\.\d+)?", statement)]
        used = sorted({int(number) for number in re.findall(r"\$(\d+)", after)})
        numbered = re.sub(r"\$(\d+)", lambda place: f"${used.index(int(place.group(1))) + 1}", after)
        return numbered, tuple(literals[number - 1] for number in used)

    def test_what_is_computed_from_a_column_is_not_taken_for_it(self) -> None:
        for statement in ("SELECT id FROM person WHERE (t - interval '1 day')::date = '2024-03-02'",
                          "SELECT id FROM person WHERE (t AT TIME ZONE 'UTC')::date = '2024-03-02'",
                          "SELECT id FROM person WHERE x + 1 = 5.0", "SELECT id FROM person WHERE abs(x) = 2.0"):
            with self.subTest(statement):
                for row in self.told(statement).values():
                    self.assertIsNone(row["after_sql"], row)

    def test_more_conditions_than_are_looked_at(self) -> None:
        many = " AND ".join(f"p.y <> {number}" for number in range(100, 170))
        statement = f"SELECT DISTINCT p.x FROM person p JOIN purchase b ON b.person_id = p.id WHERE {many} AND b.price > 1"
        for row in self.told(statement).values():
            self.assertIsNone(row["after_sql"], row)

    def test_examples_run_nobodys_code(self) -> None:
        self.run_sql("DROP ROLE IF EXISTS evil", "CREATE ROLE evil", "CREATE SCHEMA evil AUTHORIZATION evil", "CREATE TABLE evil.ran (who text)",
                     "GRANT INSERT ON evil.ran TO PUBLIC", "SET ROLE evil",
                     "CREATE FUNCTION evil.ev() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
                     "$$BEGIN RAISE WARNING 'ev ran as %', current_user; RETURN true; END$$",
                     "CREATE VIEW evil.transactions AS SELECT 1 AS user_id, 1.0 AS amount, now() AS created_at WHERE evil.ev()")
        self.addCleanup(self.run_sql, "DROP SCHEMA evil CASCADE", "DROP ROLE evil")
        with self.cluster.connect(self.db) as session:
            session.query("SET search_path = evil, public")
            before = self.cluster.log_mark()
            session.query("SELECT * FROM perf.sql_optimization_examples(true)")
        self.assertNotIn("ran as postgres", self.cluster.log_text()[before:])

    def test_what_is_written_gives_the_same_rows(self) -> None:
        written = []
        for title, statement in SAME:
            with self.subTest(statement):
                found = self.told(statement)
                self.assertIn(title, found)
                row = found[title]
                self.assertIsNotNone(row["after_sql"], row["note"])
                self.assertFalse(row["changes_result"], row["note"])
                self.assertIn("proven", row["note"])
                self.assertEqual(row["basis"], "what_if")
                written.append((statement, *self.filled(row["after_sql"], statement)))
        chance = random.Random(8)
        for _ in range(25):
            self.fill(chance)
            with self.cluster.connect(self.db) as session:
                for one in written:
                    self.compare(session, *one)

    def compare(self, session: Connection, statement: str, after: str, values: tuple[str, ...]) -> None:
        """Checks that two statements give the same rows, whatever they write."""
        rows = []
        for sql, given in ((statement, ()), (after, values)):
            session.query("BEGIN")
            result = session.execute(sql, given) if given else session.query(sql)
            rows.append(sorted(map(repr, result.rows)))
            session.query("ROLLBACK")
        self.assertEqual(*rows, f"{statement}\nbecame\n{after}")

    def test_any_mixture_gives_the_same_rows(self) -> None:
        chance = random.Random(15)
        statements = {f"SELECT {chance.choice(LISTS_IN_ANY)} FROM {chance.choice(TABLES_IN_ANY)} WHERE "
                      + " AND ".join(chance.sample(CONDITIONS_IN_ANY, chance.randint(1, 3))) for _ in range(150)}
        self.fill(chance)
        self.reset()
        self.run_sql(*[statement for statement in sorted(statements) for _ in range(8)])
        rows = self.cluster.result("SELECT before_sql, after_sql FROM perf.sql_optimization_examples(true) "
                                   "WHERE source = 'workload' AND NOT changes_result", dbname=self.db).rows
        by_text: dict[str, str] = {}
        for statement in sorted(statements):
            text = self.cluster.scalar("SELECT perf._normalize($1)", (statement,), dbname=self.db)
            # What is right for one literal, and says so, is not for another.
            by_text[text] = "" if text in by_text else statement
        written = [(by_text[before], *self.filled(after, by_text[before])) for before, after in rows
                   if by_text.get(before) and after is not None]
        self.assertGreater(len(written), 80)
        for _ in range(6):
            self.fill(chance)
            with self.cluster.connect(self.db) as session:
                for one in written:
                    self.compare(session, *one)

    def test_what_is_written_otherwise_would_be_noticed(self) -> None:
        # The comparison above is able to fail: a rewrite that forgets NULLs differs on such rows.
        chance = random.Random(8)
        differ = 0
        for _ in range(25):
            self.fill(chance)
            differ += self.cluster.scalar("SELECT (SELECT count(*) FROM person WHERE x NOT IN (SELECT person_id FROM purchase)) <> "
                                       "(SELECT count(*) FROM person p WHERE NOT EXISTS "
                                       "(SELECT FROM purchase b WHERE b.person_id = p.x))", dbname=self.db)
        self.assertGreater(differ, 5)

    def test_near_misses_are_left_alone(self) -> None:
        for title, statement in NEAR_MISSES:
            with self.subTest(statement):
                self.assertNotIn(title, self.told(statement))

    def test_what_has_no_equivalent_is_told(self) -> None:
        for title, statement, ddl in TOLD:
            with self.subTest(statement):
                row = self.told(statement)[title]
                self.assertIsNone(row["after_sql"])
                self.assertIsNone(row["changes_result"])
                self.assertEqual(row["supporting_ddl"], ddl and f"CREATE INDEX CONCURRENTLY ON public.person ({ddl})")

    def test_literals_are_never_shown(self) -> None:
        for statement in ("SELECT id FROM person WHERE t::date = '2024-03-02' AND name = 'secret'",
                          "SELECT id FROM person WHERE name = 'secret' AND (x = 1 OR y = 2)",
                          "SELECT id FROM person WHERE replace(name, 'secret', 'b') = 'secret'",
                          "SELECT id FROM person WHERE name LIKE '%secret%'"):
            with self.subTest(statement):
                found = self.told(statement)
                self.assertTrue(found)
                for row in found.values():
                    self.assertNotIn("secret", repr(row))

    def test_literals_of_more_than_one_kind(self) -> None:
        statement = "SELECT id, extract(year FROM t), 'x' FROM person WHERE t::date = '2024-03-02' AND interval '1 hour' > t - tz"
        row = self.told(statement)[FUNCTION]
        self.assertIn("$2", row["after_sql"])
        self.assertIn("$3", row["after_sql"])
        self.assertIn("year", row["after_sql"].lower())

    def test_parameters_keep_their_numbers(self) -> None:
        statement = "SELECT id FROM person WHERE x = $2::numeric AND name <> 'no' AND y > $1"
        with self.cluster.connect(self.db) as session:
            for at in range(8):
                session.execute(statement, (str(at), "2.5"))
        row = self.rows(statement)[CAST]
        self.assertEqual(row["before_sql"], statement.replace("'no'", "$3"))
        for number in ("$1", "$2", "$3"):
            self.assertIn(number, row["after_sql"])

    def test_what_is_right_for_one_literal_only(self) -> None:
        # Long enough that the first two executions are sampled.
        self.run_sql("INSERT INTO person (id) SELECT g FROM generate_series(1, 100000) g")
        statement = "SELECT count(*) > {} FROM person"

        def told(*numbers: int) -> dict[str, dict[str, Any]]:
            self.reset()
            self.run_sql(*[statement.format(number) for number in numbers])
            return self.rows(statement.format(0))
        self.assertIn("no other", told(0, 0)[COUNT]["note"])
        self.assertNotIn(COUNT, told(0, 7))
        self.assertNotIn(COUNT, told(7, 0))

    def test_times_with_a_zone_may_differ(self) -> None:
        row = self.told("SELECT id FROM person WHERE tz::date = '2024-03-02'")[FUNCTION]
        self.assertTrue(row["changes_result"])
        self.assertIn("clock", row["note"])
        self.assertIsNotNone(row["after_sql"])

    def test_a_long_list_becomes_an_array(self) -> None:
        statement = f"SELECT id FROM person WHERE x IN ({LONG})"
        row = self.told(statement)[LIST]
        self.assertRegex(row["after_sql"], r"x = ANY \(\$1::integer\[\]\)|x = ANY \(\(?\$1\)?::integer\[\]\)")
        self.fill(random.Random(1))
        with self.cluster.connect(self.db) as session:
            self.assertEqual(sorted(session.query(statement).rows),
                             sorted(session.execute(row["after_sql"], ("{" + LONG + "}",)).rows))

    def test_cheaper_ones_only_unless_asked(self) -> None:
        self.run_sql("INSERT INTO person SELECT g, g, g, g, g % 100, '2024-03-01'::timestamp + g * interval '1 minute', "
                     "NULL, 'n' || g FROM generate_series(1, 50000) g", "ANALYZE person")
        by_index = self.told("SELECT id FROM person WHERE t::date = '2024-03-02'", everything=False)[FUNCTION]
        self.assertGreater(by_index["cost_before"], 5 * by_index["cost_after"])
        self.assertAlmostEqual(by_index["improvement_pct"], 100 * (1 - by_index["cost_after"] / by_index["cost_before"]))
        by_expression = self.told("SELECT id FROM person WHERE lower(name) = 'anna'", everything=False)[FUNCTION]
        self.assertGreater(by_expression["cost_before"], 5 * by_expression["cost_after"])
        self.run_sql(by_expression["supporting_ddl"])
        # Distinct sorts no less than before when all rows are asked for by EXISTS of themselves.
        statement = "SELECT x FROM person WHERE small = 1 OR x = 2"
        self.assertIn(OR, self.told(statement))
        self.assertNotIn(OR, self.told(statement, everything=False))

    def test_trigram_index(self) -> None:
        self.run_sql("CREATE EXTENSION IF NOT EXISTS pg_trgm",
                     "INSERT INTO person (id, name) SELECT g, md5(g::text) FROM generate_series(1, 50000) g", "ANALYZE person")
        self.addCleanup(self.run_sql, "DROP EXTENSION IF EXISTS pg_trgm CASCADE")
        row = self.told("SELECT id FROM person WHERE name LIKE '%abcdef%'", everything=False)[WILDCARD]
        self.assertIn("gin (name public.gin_trgm_ops)", row["supporting_ddl"])
        self.assertLess(row["cost_after"], row["cost_before"])
        self.assertIsNone(self.told("SELECT id FROM person WHERE name LIKE '%ab%'")[WILDCARD]["supporting_ddl"])

    def test_wide_tables(self) -> None:
        columns = ", ".join(f"c{number} int DEFAULT 1" for number in range(20))
        self.run_sql("DROP TABLE IF EXISTS wide", f"CREATE TABLE wide (id int, {columns})",
                     "INSERT INTO wide SELECT g FROM generate_series(1, 20000) g", "ANALYZE wide")
        self.assertIn(STAR, self.told("SELECT * FROM wide ORDER BY c1", everything=False))
        self.assertIn(STAR, self.told("SELECT w.* FROM wide w ORDER BY c1", everything=False))
        self.assertNotIn(STAR, self.told("SELECT id FROM (SELECT * FROM wide) w ORDER BY c1"))

    def test_tables_that_grow_with_time(self) -> None:
        self.run_sql("DROP TABLE IF EXISTS log", "CREATE TABLE log (id int, at timestamptz DEFAULT now(), said text)",
                     "INSERT INTO log SELECT g FROM generate_series(1, 20000) g", "ANALYZE log")
        row = self.told("SELECT count(said) FROM log", everything=False)[TIME]
        self.assertIn("public.log: ask for a range of at", row["note"])
        self.assertNotIn(TIME, self.told("SELECT count(said) FROM log WHERE at > '2024-01-01'"))
        self.assertNotIn(TIME, self.told("SELECT count(said) FROM log WHERE id = 5"))
        self.assertNotIn(TIME, self.told("SELECT said FROM log LIMIT 1"))
        self.run_sql("DELETE FROM log WHERE id > 5000", "VACUUM ANALYZE log")
        self.assertNotIn(TIME, self.told("SELECT count(said) FROM log"))

    def test_the_same_many_times_in_a_transaction(self) -> None:
        one = "SELECT id, name FROM person WHERE id = $1"
        self.run_sql("INSERT INTO person (id, name) SELECT g, 'n' || g FROM generate_series(1, 2000) g", "ANALYZE person")

        def transaction(values: list[int]) -> dict[str, dict[str, Any]]:
            self.reset()
            with self.cluster.connect(self.db) as session:
                for _ in range(8):
                    session.query("BEGIN")
                    for value in values:
                        session.execute(one, (str(value),))
                    session.query("COMMIT")
            return self.rows(one, everything=False)
        row = transaction(list(range(1, 21)))[REPEATED]
        self.assertTrue(row["changes_result"])
        self.assertIn("up to 20 times", row["note"])
        self.assertGreater(row["cost_before"], row["cost_after"])
        with self.cluster.connect(self.db) as session:
            found = session.execute(row["after_sql"], ("{3,5,3000}",)).rows
            self.assertEqual(sorted(found), [(3, "n3"), (5, "n5")])
        self.assertNotIn(REPEATED, transaction(list(range(1, 10))))
        self.assertNotIn(REPEATED, transaction([7] * 20))

    def test_temporary_files(self) -> None:
        self.run_sql("INSERT INTO person (id, x) SELECT g, g * 7919 % 50000 FROM generate_series(1, 50000) g", "ANALYZE person")
        self.reset()
        statement = "SELECT count(*) FROM (SELECT id FROM person ORDER BY x + 1 OFFSET 3) s"
        self.run_sql(*["SET work_mem = '64kB'", statement, statement, statement])
        row = self.rows(statement, everything=False)[SPILL]
        self.assertRegex(row["supporting_ddl"], r"SET LOCAL work_mem = '\d+MB'")
        self.assertIn("temporary files", row["note"])
        self.run_sql("BEGIN", row["supporting_ddl"], "COMMIT")

    def test_stale_statistics(self) -> None:
        statement = "SELECT count(*) FROM person WHERE y = 1"
        def wait_for_changes() -> None:
            # What a session counted is known some time after it has ended.
            self.wait_until(lambda: self.cluster.scalar("SELECT n_mod_since_analyze FROM pg_stat_all_tables WHERE relid = 'person'::regclass",
                                                        dbname=self.db) >= 5000, 20, "the changes to be counted")

        self.run_sql("INSERT INTO person (id, y) SELECT g, g FROM generate_series(1, 5000) g")
        wait_for_changes()
        self.run_sql("ANALYZE person")
        self.assertNotIn(STALE, self.told(statement))
        self.run_sql("UPDATE person SET x = 1")
        wait_for_changes()
        row = self.told(statement)[STALE]
        self.assertEqual(row["supporting_ddl"], "ANALYZE public.person")
        self.run_sql(row["supporting_ddl"])
        self.assertNotIn(STALE, self.told(statement))

    def test_statistics_are_no_noise_beside_better_advice(self) -> None:
        other, misled = "SELECT id FROM person WHERE x + 0 = 7", "SELECT id FROM person WHERE x + 0 = 7 AND score = 7"
        plain = "SELECT count(*) FROM person WHERE y > 1"
        # Both columns agree, which the planner cannot know; autovacuum is off, so there are no statistics at all but these.
        self.run_sql("INSERT INTO person (id, x, y, score) SELECT g, g % 100, g, g % 100 FROM generate_series(1, 100000) g",
                     "ANALYZE person", "UPDATE person SET small = 1 WHERE id % 3 = 0")
        self.wait_until(lambda: self.cluster.scalar("SELECT n_mod_since_analyze FROM pg_stat_all_tables WHERE relid = 'person'::regclass",
                                                    dbname=self.db) >= 30000, 20, "the changes to be counted")
        self.assertEqual({FUNCTION}, set(self.told(other, everything=False)))
        self.assertEqual({STALE}, set(self.told(plain, everything=False)))
        # It is told of the table once, of the statement that has nothing better, though that one takes less time.
        self.reset()
        self.run_sql(*[other] * 8, *[plain] * 8)
        self.assertEqual(({FUNCTION}, {STALE}), (set(self.rows(other, everything=False)), set(self.rows(plain, everything=False))))
        self.assertEqual({FUNCTION, STALE}, set(self.told(misled, everything=False)))
        self.run_sql("ANALYZE person")
        row = self.told(misled, everything=False)[STALE]
        self.assertRegex(row["note"], "rows were [0-9]+ times more or fewer than expected")

    def test_time_is_up_whatever_takes_it(self) -> None:
        self.run_sql("CREATE FUNCTION takes(s float8) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN "
                     "IF current_setting('test.slow', true) = 'on' THEN PERFORM pg_sleep(s); END IF; RETURN true; END$$",
                     "CREATE DOMAIN endless AS int CHECK (takes(1000))",
                     "INSERT INTO person (id, t) SELECT g, now() FROM generate_series(1, 50000) g", "ANALYZE person")
        self.addCleanup(self.run_sql, "DROP DOMAIN endless", "DROP FUNCTION takes(float8)")
        heaviest = "SELECT count(*), count(DISTINCT name) FROM person WHERE t::date = '2024-03-02'"
        # Reading a literal of such an array checks each element, before anything is planned.
        endless = [f"SELECT {', '.join(['max(id)'] * at)} FROM person WHERE id <> ALL ('{{1}}'::endless[])" for at in range(1, 31)]
        self.reset()
        self.run_sql(*[heaviest] * 60, *[one for one in endless for _ in range(3)])
        with self.cluster.connect(self.db) as session:
            session.query("SET test.slow = 'on'")
            began = time.monotonic()
            found = session.query("SELECT title, before_sql FROM perf.sql_optimization_examples(true) WHERE source = 'workload'").dicts()
            took = time.monotonic() - began
            said = "\n".join(notice["message"] for notice in session.notices)
        self.assertLess(took, 13, "10 s are its budget")
        self.assertIn(FUNCTION, {row["title"] for row in found if "t::date" in row["before_sql"]}, said)
        self.assertRegex(said, r"the time was up: only the \d+ statements with the most time were looked at; there are \d+ more")
        self.assertRegex(said, r"\d+ statements were left out: analysing one takes too long")
        # Without them it is as quick as ever, and whole.
        self.assertIn(FUNCTION, self.rows(heaviest))

    def test_planning_takes_longer(self) -> None:
        # Joins of empty tables: next to nothing to do, and many orders to do it in.
        tables = ", ".join(f"person p{number}" for number in range(6))
        joins = " AND ".join(f"p{number}.x = p{number + 1}.y" for number in range(5))
        statement = f"SELECT p0.id FROM {tables} WHERE {joins} AND p0.id = 1"
        self.run_sql(*[statement] * 40)
        row = self.rows(statement, everything=False)[PLANNING]
        self.assertGreater(row["improvement_pct"], 50)
        self.assertEqual(row["basis"], "measured")
        self.reset()
        with self.cluster.connect(self.db) as session:
            session.query(f"PREPARE p AS {statement}")
            for _ in range(60):
                session.query("EXECUTE p")
        self.assertNotIn(PLANNING, self.rows(f"PREPARE p AS {statement}"))

    def test_who_may_see_what(self) -> None:
        statement = "SELECT count(*) > 0 FROM person WHERE x = 2"
        for role, grants in (("rw_plain", ()), ("rw_reader", ("pg_read_all_stats",)), ("rw_both", ("pg_read_all_stats", "rw_owner")),
                             ("rw_member", ("rw_owner",)), ("rw_owner", ())):
            if not self.cluster.sql("SELECT 1 FROM pg_roles WHERE rolname = $1", (role,)):
                self.cluster.sql(f"CREATE ROLE {role} LOGIN")
        for role, grant in (("rw_reader", "pg_read_all_stats"), ("rw_both", "pg_read_all_stats"), ("rw_both", "rw_owner"),
                            ("rw_member", "rw_owner")):
            self.cluster.sql(f"GRANT {grant} TO {role}")
        self.run_sql("GRANT SELECT ON person TO rw_owner")
        self.reset()
        with self.cluster.connect(self.db, "rw_owner") as session:
            for _ in range(8):
                session.query(statement)
        for role, sees in (("rw_owner", True), ("postgres", True), ("rw_both", True), ("rw_plain", False), ("rw_reader", False),
                           ("rw_member", False)):
            with self.subTest(role):
                self.assertEqual(COUNT in self.rows(statement, user=role), sees)
                with self.cluster.connect(self.db, role) as session:
                    session.query("SELECT count(*) FROM perf.sql_optimization_examples(true)")
                    said = "\n".join(notice["message"] for notice in session.notices)
                    self.assertEqual("of other roles" in said and "1 statements" not in said or sees, True, said)

    def test_not_null_is_only_believed_where_it_holds(self) -> None:
        self.run_sql("DROP TABLE IF EXISTS parent CASCADE", "CREATE TABLE parent (id int NOT NULL)",
                     "CREATE TABLE child () INHERITS (parent)")
        self.addCleanup(self.run_sql, "DROP TABLE IF EXISTS parent CASCADE")
        statement = "SELECT id FROM person WHERE id NOT IN (SELECT p.id FROM parent p)"
        self.assertIsNotNone(self.told(statement)[NOT_IN]["after_sql"])
        if self.cluster.scalar("SELECT current_setting('server_version_num')::int") < 180000:
            self.run_sql("ALTER TABLE child ALTER id DROP NOT NULL")
        else:
            self.run_sql("ALTER TABLE parent ALTER id DROP NOT NULL", "ALTER TABLE parent ADD CONSTRAINT n NOT NULL id NOT VALID")
        row = self.told(statement)[NOT_IN]
        self.assertIsNone(row["after_sql"])
        self.assertIn("neither side can be NULL", row["note"])

    def test_statements_of_every_kind_do_no_harm(self) -> None:
        statements = ("MERGE INTO person p USING purchase b ON p.id = b.buyer AND p.t::date = '2024-03-02' "
                      "WHEN MATCHED THEN UPDATE SET x = 1", "TABLE person", "VALUES (1), (2)",
                      "SELECT 1 FROM generate_series(1, 3) g WHERE g::numeric = 2.0",
                      "SELECT normalize(name, NFC), extract('year' FROM t) FROM person WHERE t::date = '2024-03-02'",
                      "SELECT id FROM person TABLESAMPLE SYSTEM (50) REPEATABLE (3) WHERE t::date = '2024-03-02'",
                      "SELECT id FROM person WHERE t::date = '2024-03-02' FETCH FIRST 3 ROWS WITH TIES",
                      "SELECT id FROM person ORDER BY id FETCH FIRST 3 ROWS WITH TIES",
                      "SELECT x, rank() OVER (PARTITION BY y ORDER BY id ROWS 2 PRECEDING) FROM person WHERE t::date = '2024-03-02'",
                      "SELECT x, y, count(*) FROM person WHERE t::date = '2024-03-02' GROUP BY GROUPING SETS ((x), (y), ())",
                      "(SELECT id FROM person WHERE t::date = '2024-03-02') UNION SELECT buyer FROM purchase",
                      "SELECT id FROM person WHERE t::date = '2024-03-02' FOR UPDATE",
                      "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM r, person "
                      "WHERE t::date = '2024-03-02'", "SELECT 1; SELECT 2", "EXPLAIN SELECT id FROM person WHERE x = 2.0")
        for statement in statements:
            with self.subTest(statement):
                self.reset()
                with self.cluster.connect(self.db) as session:
                    for _ in range(8):
                        try:
                            session.query_all(statement)
                        except SqlError as problem:  # WITH TIES without ORDER BY
                            self.assertEqual(problem.sqlstate, "42601")
                self.cluster.sql("SELECT * FROM perf.sql_optimization_examples(true)", dbname=self.db)
                for row in self.rows(statement).values():
                    if row["after_sql"] is not None and not row["changes_result"]:
                        with self.cluster.connect(self.db) as session:
                            self.compare(session, statement, *self.filled(row["after_sql"], statement))

    def test_a_table_that_is_locked_or_gone(self) -> None:
        statement = "SELECT count(*) > 0 FROM person WHERE x = 2"
        other = "SELECT count(*) > 0 FROM purchase WHERE x = 2"
        self.run_sql(*[statement, other] * 8)
        blocker = self.session()
        blocker.query("BEGIN")
        blocker.query("LOCK TABLE person")
        self.assertEqual(self.rows(statement), {})
        self.assertIn(COUNT, self.rows(other))
        blocker.query("ROLLBACK")
        self.assertIn(COUNT, self.rows(statement))
        self.run_sql("ALTER TABLE person RENAME x TO z")
        self.assertEqual(self.rows(statement), {})
        self.assertIn(COUNT, self.rows(other))
        self.run_sql("ALTER TABLE person RENAME z TO x")

    def test_nothing_is_left_behind(self) -> None:
        self.run_sql(*[statement for _, statement in SAME] * 2)
        with self.cluster.connect(self.db) as session:
            session.query("BEGIN")
            before = session.query("SELECT current_user, current_setting('search_path'), current_setting('lock_timeout'), "
                                   "current_setting('work_mem')").rows
            self.assertGreater(session.query("SELECT count(*) FROM perf.sql_optimization_examples(true)").scalar(), len(SAME) // 2)
            after = session.query("SELECT current_user, current_setting('search_path'), current_setting('lock_timeout'), "
                                  "current_setting('work_mem')").rows
            self.assertEqual(before, after)
            self.assertEqual(session.query("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' "
                                           "AND relation IN ('person'::regclass, 'purchase'::regclass)").scalar(), 0)
            session.query("ROLLBACK")

    def test_other_search_paths(self) -> None:
        self.run_sql("CREATE SCHEMA IF NOT EXISTS apart", "DROP TABLE IF EXISTS apart.person",
                     "CREATE TABLE apart.person (id int, day timestamp)", "CREATE INDEX ON apart.person (day)")
        self.addCleanup(self.run_sql, "DROP SCHEMA apart CASCADE")
        statement = "SELECT id FROM person WHERE day::date = '2024-03-02'"
        self.reset()
        self.run_sql("SET search_path = apart", *[statement] * 8)
        self.assertIn("FROM person", self.rows(statement)[FUNCTION]["after_sql"])


class ServersTest(CaptureTest):
    """Not preloaded, and standby."""

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": ""})
        name = self.fresh_database(cluster)
        with cluster.connect(name) as session:
            self.assertEqual(session.query("SELECT count(*) FROM perf.sql_optimization_examples()").scalar(), 0)
            self.assertIn("shared_preload_libraries", session.notices[-1]["message"])
            session.query("CREATE TABLE alerts (status text, severity text, triggered_at timestamptz)")
            self.assertEqual(session.query("SELECT example_no, basis FROM perf.sql_optimization_examples()").rows, [(2, "what_if")])

    def test_standby(self) -> None:
        primary = self.private_cluster({})
        name = self.fresh_database(primary)
        primary.sql("CREATE TABLE t (a int)", dbname=name)
        standby = primary.standby()
        primary.wait_for_replay(standby)
        with standby.connect(name) as session:
            for _ in range(8):
                session.query("SELECT count(*) > 0 FROM t")
            rows = session.query("SELECT after_sql FROM perf.sql_optimization_examples(true) WHERE queryid IS NOT NULL").rows
            self.assertEqual(len(rows), 1)
            self.assertIn("EXISTS", rows[0][0])

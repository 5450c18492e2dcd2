"""perf.caching_strategies() and shadows: candidates of a real workload, statements that must not be cached, measured hits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import Any

from .case import ClusterTest

SCHEMA = [
    "CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, segment int NOT NULL)",
    "CREATE TABLE orders (id bigserial PRIMARY KEY, user_id int NOT NULL, total int NOT NULL, created_at timestamptz NOT NULL "
    "DEFAULT now())",
    "CREATE TABLE logs (id bigserial PRIMARY KEY, message text NOT NULL)",
    "INSERT INTO users SELECT g, 'user ' || g, g % 7 FROM generate_series(1, 200) g",
    # Without an index on user_id: a look at one user takes milliseconds.
    "INSERT INTO orders (user_id, total) SELECT g % 200 + 1, g % 100 FROM generate_series(1, 60000) g",
    "ANALYZE",
]
BY_USER = "SELECT user_id, count(*), sum(total) FROM orders WHERE user_id = $1 GROUP BY user_id"


class Caching(ClusterTest):
    """What is worth a cache, and what is not."""

    settings = {"perf_opt.collect_interval": "1s", "perf_opt.cache_survey_min_ms": 0.5, "perf_opt.slow_ms": 60000,
                "log_min_messages": "log"}

    def setUp(self) -> None:
        super().setUp()
        self.db = self.fresh_database()
        for statement in SCHEMA:
            self.cluster.sql(statement, dbname=self.db)
        self.cluster.sql("SELECT perf.reset()", dbname=self.db)
        self.watching(self.db)

    def watching(self, database: str) -> None:
        """Waits until the collector of the database has looked for the first time."""
        def looked() -> bool:
            self.cluster.sql("SELECT count(*) FROM orders a WHERE a.total = 5 AND a.user_id = -1 AND pg_sleep(0) IS NULL",
                             dbname=database)
            return bool(self.cluster.sql("SELECT FROM perf.cache_candidate", dbname=database))
        self.wait_until(looked, 20, "the collector to look at reads")

    def strategies(self, all_of_them: bool = False) -> list[dict[str, Any]]:
        return self.cluster.result("SELECT *, extract(epoch FROM ttl)::float8 AS ttl_s, evidence::text AS evidence_text "
                                   "FROM perf.caching_strategies($1)", (all_of_them,), dbname=self.db).dicts()

    def of_text(self, part: str) -> dict[str, Any]:
        """The row of the one statement whose text has a part."""
        queryids = {row[0] for row in self.cluster.sql(
            "SELECT queryid FROM perf.statements() WHERE toplevel AND position($1 IN query) > 0", (part,), dbname=self.db)}
        found = [row for row in self.strategies() if row["queryid"] in queryids]
        self.assertEqual(len(found), 1, f"{part}: {[row['name'] for row in self.strategies()]}")
        return found[0]

    def reads_counted(self, part: str, number: int) -> None:
        def counted() -> bool:
            return bool(self.cluster.sql(
                "SELECT FROM perf.cache_candidate c JOIN perf.statements() s USING (queryid) "
                "WHERE position($1 IN s.query) > 0 AND c.reads >= $2", (part, number), dbname=self.db))
        self.wait_until(counted, 20, f"{number} reads to be counted")

    def test_a_candidate_with_its_numbers(self) -> None:
        with self.cluster.connect(self.db) as session:
            for number in range(200):
                session.execute(BY_USER, (number % 4 + 1,))
            for number in range(5):
                session.query(f"INSERT INTO logs (message) VALUES ('{number}')")
        self.reads_counted("sum(total)", 200)
        row = self.of_text("sum(total)")
        self.assertRegex(row["name"], r"^orders_by_user_id_[0-9a-f]{8}$")
        self.assertEqual(row["key_template"], "app:orders:{user_id}")
        self.assertEqual(row["invalidated_by"], ["orders_changed"])
        self.assertEqual((row["source"], row["basis"], row["writes_per_min"]), ("workload", "expected", 0))
        evidence = json.loads(row["evidence_text"])
        self.assertEqual((evidence["reads"]["reads"], evidence["reads"]["different"]), (200, 4))
        self.assertGreater(row["reads_per_min"], 100)
        # Four of two hundred were asked for the first time.
        self.assertGreater(row["expected_hit_pct"], 50)
        self.assertLessEqual(row["expected_hit_pct"], 98)
        mean = evidence["reads"]["mean_ms"]
        self.assertEqual(row["status"], "recommended" if mean >= 2 else "not_worth_it", row["reason"])
        self.assertIn("pays from 2 ms" if mean < 2 else "saves", row["reason"])
        # The order of rows stays.
        self.assertEqual([one["name"] for one in self.strategies()], [one["name"] for one in self.strategies()])

    def test_hardly_asked_twice_or_written_all_the_time(self) -> None:
        slow = "SELECT count(*) FROM orders a JOIN users u ON u.id = a.user_id JOIN orders b ON b.user_id = u.id WHERE u.id = $1"
        with self.cluster.connect(self.db) as session:
            for number in range(40):
                session.execute(slow, (number + 1,))
            for _ in range(40):
                session.query("SELECT sum(a.total) FROM orders a JOIN users u ON u.id = a.user_id "
                              "CROSS JOIN generate_series(1, 5)")
                for user in range(20):
                    session.query(f"UPDATE users SET segment = 1 WHERE id = {user + 1}")
        self.reads_counted("generate_series($1", 40)
        row = self.of_text("b.user_id = u.id")
        self.assertEqual(row["status"], "not_worth_it", row["reason"])
        self.assertIn("hardly anything is asked twice", row["reason"])
        row = self.of_text("CROSS JOIN generate_series")
        self.assertEqual(row["status"], "not_worth_it", row["reason"])
        self.assertIn("written too often", row["reason"])
        # Twenty for one; the times that both are counted over are not quite the same.
        self.assertGreater(row["writes_per_min"], 4 * row["reads_per_min"])
        self.assertEqual(row["invalidated_by"], ["orders_changed", "users_changed"])

    DENIED = {
        # Not a read that is surveyed: it has to take two milliseconds by itself.
        "locks rows": "SELECT sum(t) FROM (SELECT total AS t FROM orders WHERE total = 1 "
                      "AND (SELECT count(*) FROM generate_series(1, 60000)) > 0 FOR SHARE) x",
        "volatile": "SELECT sum(total + random()) FROM orders WHERE total = 2",
        "functions of users": "SELECT sum(mine(total)) FROM orders WHERE total = 3",
        "session (": "SELECT sum(total) FROM orders WHERE total = 4 AND current_user <> 'x'",
        "session (c": "SELECT sum(total) FROM orders WHERE total = 5 AND current_setting('work_mem') <> 'x'",
        "catalogs": "SELECT sum(o.total) FROM orders o CROSS JOIN pg_database d WHERE o.total = 6 AND d.datname = 'postgres'",
        "temporary": "SELECT sum(o.total) FROM orders o CROSS JOIN mine WHERE o.total = 7",
        "row-level": "SELECT count(*) FROM secrets CROSS JOIN generate_series(1, 30000)",
        "it writes": "WITH x AS (INSERT INTO logs (message) SELECT 'x' RETURNING id) "
                     "SELECT sum(total) FROM orders WHERE total = 8 AND (SELECT count(*) FROM x) = 1",
        "not known on what": "SELECT sum(total) FROM orders WHERE total = 9 AND pg_table_is_visible('orders'::regclass)",
        "foreign table": "SELECT count(*) FROM far CROSS JOIN generate_series(1, 30000)",
    }

    def test_what_must_not_be_cached(self) -> None:
        for statement in ("CREATE FUNCTION mine(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1; END'",
                          "CREATE TABLE secrets AS SELECT 1 AS a", "ALTER TABLE secrets ENABLE ROW LEVEL SECURITY",
                          "CREATE EXTENSION file_fdw", "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
                          "CREATE FOREIGN TABLE far (line text) SERVER files OPTIONS (filename '/etc/hostname')"):
            self.cluster.sql(statement, dbname=self.db)
        plain = "SELECT sum(total) FROM orders WHERE total = 10 AND created_at < now()"
        with self.cluster.connect(self.db) as session:
            session.query("CREATE TEMPORARY TABLE mine AS SELECT 1 AS a")
            for statement in (*self.DENIED.values(), plain):
                for _ in range(35):
                    session.query(statement)
            self.reads_counted("created_at < now()", 35)
            normal = {why: {row[0] for row in self.cluster.sql("SELECT perf._normalize($1)", (statement,), dbname=self.db)}
                      for why, statement in self.DENIED.items()}
            seen: dict[str, dict[str, Any]] = {}

            def all_are_there() -> bool:
                """Each is analysed within a short time, or left out until the next call."""
                rows = self.cluster.result("SELECT status, reason, evidence->'statements'->0->>'query' AS query "
                                           "FROM perf.caching_strategies()", dbname=self.db).dicts()
                seen.update({row["query"]: row for row in rows if row["query"]})
                return all(ids & seen.keys() for why, ids in normal.items() if why not in ("temporary", "it writes"))

            with contextlib.suppress(AssertionError):  # which one is missing is said below
                self.wait_until(all_are_there, 20, "a row for each statement")
            for why, statement in self.DENIED.items():
                with self.subTest(why):
                    start = statement[:38]
                    found = [row for query, row in seen.items() if query in normal[why]]
                    if why in ("temporary", "it writes"):
                        # Of another session, or no read at all: not even a row.
                        self.assertTrue(not found or found[0]["status"] == "not_worth_it", start)
                        continue
                    self.assertEqual([row["status"] for row in found], ["not_worth_it"], start)
                    self.assertIn(why.rstrip("c") if why.startswith("session") else why, found[0]["reason"])
            clock = next(row for query, row in seen.items() if "created_at < now()" in query)
            self.assertNotIn("cannot be cached", clock["reason"])

    def results(self, name: str) -> list[dict[str, Any]]:
        return self.cluster.result("SELECT *, extract(epoch FROM ttl)::float8 AS ttl_s FROM perf.cache_shadow_results($1)",
                                   (name,), dbname=self.db).dicts()

    def shadow_of(self, part: str, *arguments: str) -> str:
        """Switches a shadow on and waits until it looks; its name."""
        name = self.of_text(part)["name"]
        extra = "".join(f", {argument}" for argument in arguments)
        self.cluster.sql(f"SELECT perf.cache_shadow('{name}'{extra})", dbname=self.db)
        self.wait_until(lambda: self.results(name), 10, "the shadow to be there")
        return name

    def test_a_shadow_sees_reads_and_exactly_their_writes(self) -> None:
        with self.cluster.connect(self.db) as session:
            def read(*users: int) -> None:
                for user in users:
                    session.execute(BY_USER, (user,))
            read(*range(1, 11))
            self.reads_counted("sum(total)", 10)
            name = self.shadow_of("sum(total)", "ttls => '{1 h,NULL}'")
            read(1, 2, 3, 1, 2, 3)                                                # 3 of 6 hit
            session.query("UPDATE orders SET total = total + 1 WHERE user_id = 1 AND id < 500")
            read(1, 2, 3)                                                         # 2 hit
            session.query("INSERT INTO orders (user_id, total) VALUES (2, 5), (3, 6)")
            read(1, 2, 3)                                                         # 1 hits
            session.query("UPDATE users SET name = 'x' WHERE id = 1")
            read(1, 2, 3)                                                         # 3 hit
            session.query("BEGIN")
            session.query("DELETE FROM orders WHERE user_id = 1")
            session.query("ROLLBACK")
            read(1, 2, 3)                                                         # 3 hit
            session.query("UPDATE orders SET total = 1 WHERE id = 7")
            read(1, 2, 3)                                                         # none
            session.copy_in("COPY orders (user_id, total) FROM STDIN", b"199\t1\n")
            read(1, 2, 3)                                                         # none
            session.query("UPDATE orders SET user_id = 2 WHERE user_id = 3 AND id < 300")
            read(1, 2, 3)                                                         # none: the new value is not told
            session.query("DELETE FROM orders WHERE user_id = 2")
            read(1, 2, 3)                                                         # 2 hit
        gets, hits = 6 + 8 * 3, 3 + 2 + 1 + 3 + 3 + 2
        self.wait_until(lambda: self.results(name)[-1]["gets"] == gets, 10, f"{gets} gets: {self.results(name)[-1]}")
        self.assertEqual(len(self.results(name)), 12)
        last = self.results(name)[-1]
        self.assertEqual((last["gets"], last["hits"], last["ttl_s"], last["note"]), (gets, hits, None, None))
        self.assertEqual(last["entries"], 3)
        row = self.of_text("sum(total)")
        self.assertAlmostEqual(row["measured_hit_pct"], 100 * hits / gets)
        # A restart keeps the counts.
        self.cluster.restart()
        self.wait_until(lambda: self.results(name)[-1]["entries"] == 0, 20, "the shadow to be there again")
        self.assertEqual((self.results(name)[-1]["gets"], self.results(name)[-1]["hits"]), (gets, hits))
        self.wait_until(lambda: self.results(name)[-1]["note"], 10, "the shadow to say that it knows nothing yet")
        self.assertIn("could not be analysed yet", self.results(name)[-1]["note"])
        # It goes on once the statement is known again, with its writes.
        users = iter(range(20, 200))
        with self.cluster.connect(self.db) as session:
            def is_known() -> bool:
                session.execute(BY_USER, (next(users),))
                return self.results(name)[-1]["note"] is None
            self.wait_until(is_known, 30, "the shadow to know its statement again")
            before = self.results(name)[-1]
            for statement in (BY_USER, BY_USER):
                session.execute(statement, (1,))
            session.query("UPDATE orders SET total = total + 1 WHERE user_id = 1 AND id < 500")
            session.execute(BY_USER, (1,))
        self.wait_until(lambda: self.results(name)[-1]["invalidated"] > before["invalidated"], 10, "the write to be seen")
        self.wait_until(lambda: self.results(name)[-1]["gets"] >= before["gets"] + 3, 10, "gets after the restart")
        last = self.results(name)[-1]
        self.assertEqual((last["hits"], last["invalidated"]), (hits + 1, before["invalidated"] + 1))
        gets = last["gets"]
        # Off: what was counted stays, and nothing is added.
        self.assertEqual(self.cluster.sql("SELECT perf.cache_shadow($1, false)", (name,), dbname=self.db)[0][0], 1)
        with self.cluster.connect(self.db) as session:
            session.execute(BY_USER, (1,))
        self.assertEqual(self.cluster.sql("SELECT perf.cache_shadow($1, false)", (name,), dbname=self.db)[0][0], 0)
        self.assertEqual((self.results(name)[-1]["gets"], self.results(name)[-1]["switched_on"]), (gets, False))

    def test_names_mean_what_they_meant_to_the_writer(self) -> None:
        for statement in ("CREATE SCHEMA shop", "CREATE TABLE shop.items (id int PRIMARY KEY, n int NOT NULL)",
                          "INSERT INTO shop.items SELECT g, g FROM generate_series(1, 10) g",
                          # The default path would find this one.
                          "CREATE TABLE public.items (LIKE shop.items)",
                          "CREATE ROLE caching_writer LOGIN", "GRANT USAGE ON SCHEMA shop TO caching_writer",
                          "GRANT SELECT, UPDATE ON shop.items TO caching_writer",
                          f"ALTER ROLE caching_writer IN DATABASE {self.db} SET search_path = shop",
                          "INSERT INTO perf.cache_policy (cache_name, key_template, ttl, source_tables, query_pattern) VALUES "
                          "('items', 'items:{id}', '1 h', '{shop.items}', 'SELECT n FROM shop.items WHERE id = %')"):
            self.cluster.sql(statement, dbname=self.db)
        self.addCleanup(lambda: self.cluster.sql("DROP OWNED BY caching_writer; DROP ROLE caching_writer", dbname=self.db))
        with self.cluster.connect(self.db, "caching_writer") as session:
            # Long enough to be sampled, with a path in which there is nothing.
            session.query("SET search_path = pg_catalog")
            for _ in range(3):
                session.query("SELECT count(*) FROM generate_series(1, 200000)")
        # What it writes is not.
        self.cluster.sql("ALTER ROLE caching_writer SET perf_opt.sample_literals = off", dbname=self.db)
        read = "SELECT n FROM shop.items WHERE id = {}"
        self.cluster.sql(read.format(0), dbname=self.db)
        self.cluster.sql("SELECT perf.cache_shadow('items', sizes => '{1000000}', ttls => '{NULL}')", dbname=self.db)
        self.wait_until(lambda: self.results("items"), 10, "the shadow to be there")
        with self.cluster.connect(self.db) as reader, self.cluster.connect(self.db, "caching_writer") as writer:
            for number in (1, 2, 3):
                reader.query(read.format(number))
            writer.query("UPDATE items SET n = 0 WHERE id = 1")
            for number in (1, 2, 3):
                reader.query(read.format(number))
        self.wait_until(lambda: self.results("items")[-1]["gets"] == 6, 10, "6 gets")
        last = self.results("items")[-1]
        self.assertEqual((last["hits"], last["invalidated"], last["note"]), (2, 1, None))

    def test_partitions_are_parts_of_their_table(self) -> None:
        for statement in ("CREATE TABLE events (at int NOT NULL, user_id int NOT NULL, n int) PARTITION BY RANGE (at)",
                          "CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10)",
                          "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20)",
                          "INSERT INTO events SELECT g % 20, g % 10, g FROM generate_series(1, 40000) g"):
            self.cluster.sql(statement, dbname=self.db)
        read = "SELECT max(n), min(n) FROM events WHERE user_id = $1"
        with self.cluster.connect(self.db) as session:
            for user in range(5):
                session.execute(read, (user,))
            self.reads_counted("max(n), min(n)", 5)
            name = self.shadow_of("max(n), min(n)", "ttls => '{NULL}'", "sizes => '{1000000}'")
            for user in (1, 2, 1, 2):
                session.execute(read, (user,))
            session.query("UPDATE events SET n = 0 WHERE user_id = 1")
            for user in (1, 2):
                session.execute(read, (user,))
            session.query("INSERT INTO events_2 VALUES (11, 7, 1)")
            for user in (1, 2):
                session.execute(read, (user,))
        self.wait_until(lambda: self.results(name)[-1]["gets"] == 8, 10, "8 gets")
        self.assertEqual(self.results(name)[-1]["hits"], 3)

    def test_policies_are_bound_to_statements(self) -> None:
        self.cluster.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, invalidated_by, source_tables, query_pattern) "
                         "VALUES ('of_user', 'cache:orders:{user_id}', '5 min', '{order_created}', '{orders}', "
                         "'SELECT user_id, count(*), sum(total) FROM orders%')", dbname=self.db)
        with self.cluster.connect(self.db) as session:
            for number in range(100):
                session.execute(BY_USER, (number % 4 + 1,))
        self.reads_counted("sum(total)", 100)
        rows = self.strategies()
        self.assertEqual(rows[0]["name"], "of_user")
        self.assertEqual((rows[0]["source"], rows[0]["key_template"], rows[0]["ttl_s"]),
                         ("both", "cache:orders:{user_id}", 300))
        self.assertIsNotNone(rows[0]["expected_hit_pct"])
        self.assertEqual([row["name"] for row in rows if row["queryid"] == rows[0]["queryid"]], ["of_user"])
        inapplicable = [row for row in self.strategies(True) if row["status"] == "not_applicable"]
        self.assertEqual(len(inapplicable), 10)
        self.cluster.sql("UPDATE perf.cache_policy SET queryid = 5 WHERE cache_name = 'of_user'", dbname=self.db)
        row = self.strategies()[0]
        self.assertEqual((row["status"], row["source"]), ("insufficient_data", "policy"))
        self.assertIn("queryid 5", row["reason"])

    def test_errors_and_rights(self) -> None:
        refused = [("22004", "SELECT perf.cache_shadow(NULL)"), ("22004", "SELECT perf.cache_shadow('x', NULL)"),
                   ("42704", "SELECT perf.cache_shadow('no such')"), ("55000", "SELECT perf.cache_shadow('system_health')"),
                   ("22023", "SELECT perf.cache_shadow('x', sizes => '{}')"),
                   ("22023", "SELECT perf.cache_shadow('x', sizes => '{0}')"),
                   ("22004", "SELECT perf.cache_shadow('x', sizes => '{NULL}')"),
                   ("22023", "SELECT perf.cache_shadow('x', sizes => '{1,2,3,4,5,6,7}')"),
                   ("22023", "SELECT perf.cache_shadow('system_health', ttls => '{-1 s}')"),
                   ("22004", "SELECT perf.caching_strategies(NULL)")]
        for sqlstate, statement in refused:
            with self.subTest(statement):
                self.assert_sql_error(sqlstate, self.cluster, statement, dbname=self.db)
        self.cluster.sql("CREATE ROLE caching_nobody LOGIN", dbname=self.db)
        self.addCleanup(self.cluster.sql, "DROP ROLE caching_nobody")
        self.assert_sql_error("42501", self.cluster, "SELECT perf.cache_shadow('x')", dbname=self.db, user="caching_nobody")
        self.cluster.sql("SELECT sum(total) FROM orders WHERE total = 77", dbname=self.db)
        texts = self.cluster.sql("SELECT evidence::text FROM perf.caching_strategies(true)", dbname=self.db, user="caching_nobody")
        self.assertEqual(len(texts), 10)
        self.assertNotIn("orders", " ".join(row[0] for row in texts))

    def test_keys_beyond_the_bound_are_sampled(self) -> None:
        self.cluster.sql("CREATE TABLE kv AS SELECT g AS k, g AS v FROM generate_series(1, 20000) g", dbname=self.db)
        self.cluster.sql("CREATE UNIQUE INDEX ON kv (k)", dbname=self.db)
        self.cluster.sql("ANALYZE kv", dbname=self.db)
        self.cluster.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, source_tables, query_pattern) "
                         "VALUES ('kv', 'kv:{k}', '1 h', '{kv}', 'SELECT v FROM kv WHERE k = %')", dbname=self.db)
        self.cluster.sql("SELECT v FROM kv WHERE k = 0", dbname=self.db)
        self.cluster.sql("SELECT perf.cache_shadow('kv', ttls => '{NULL}')", dbname=self.db)
        self.wait_until(lambda: self.results("kv"), 10, "the shadow to be there")
        with self.cluster.connect(self.db) as session:
            for start in range(1, 20001, 500):
                session.query_all(";".join(f"SELECT v FROM kv WHERE k = {k}" for k in range(start, start + 500)))
            for start in range(1, 20001, 500):
                session.query_all(";".join(f"SELECT v FROM kv WHERE k = {k}" for k in range(start, start + 500)))
        written: dict[float, set[str]] = {}

        def all_counted() -> bool:
            row = self.results("kv")[-1]
            written.setdefault(row["gets"], set()).add(str(row["measured_at"]))
            return row["gets"] > 36000 and len(written[row["gets"]]) > 2

        self.wait_until(all_counted, 20, "all gets to be counted")
        last = self.results("kv")[-1]
        self.assertIsNone(last["note"])
        self.assertLess(last["sampled_pct"], 100)
        self.assertAlmostEqual(last["hit_pct"], 50, delta=2)
        self.assertAlmostEqual(last["entries"], 20000, delta=2000)


    def test_temporary_tables_and_samples_are_not_taken_for_tables(self) -> None:
        sampled = "SELECT count(*) FROM orders TABLESAMPLE SYSTEM (90) WHERE total > 1"
        with self.cluster.connect(self.db) as session:
            session.query("CREATE TEMP TABLE orders AS SELECT * FROM public.orders")
            for number in range(60):
                session.execute(BY_USER, (number % 4 + 1,))
        with self.cluster.connect(self.db) as session:
            for _ in range(60):
                session.query(sampled)
            for number in range(30):
                session.query(f"SELECT max(total) FROM orders WHERE user_id = {number % 3}")
        self.reads_counted("max(total)", 30)
        self.assertEqual(self.cluster.sql(
            "SELECT count(*) FROM perf.cache_candidate c JOIN perf.statements() s USING (queryid) "
            "WHERE position('sum(total)' IN s.query) > 0", dbname=self.db)[0][0], 0)
        found = {row["status"] for row in self.strategies(True) if "sum(total)" in row["evidence_text"]}
        self.assertNotIn("recommended", found)
        rows = self.cluster.sql("SELECT status, reason FROM perf.caching_strategies(true) WHERE evidence::text LIKE '%TABLESAMPLE%' "
                                "OR reason LIKE '%volatile%'", dbname=self.db)
        self.assertIn("volatile", " ".join(str(row) for row in rows))

    def test_losses_are_shown_and_weighed(self) -> None:
        self.cluster.sql("CREATE TABLE kv AS SELECT g AS k, g AS v FROM generate_series(1, 20000) g", dbname=self.db)
        self.cluster.sql("CREATE UNIQUE INDEX ON kv (k)", dbname=self.db)
        self.cluster.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, source_tables, query_pattern) "
                         "VALUES ('kv', 'kv:{k}', '1 h', '{kv}', 'SELECT v FROM kv WHERE k = %')", dbname=self.db)
        self.cluster.sql("SELECT v FROM kv WHERE k = 0", dbname=self.db)
        self.cluster.sql("SELECT perf.cache_shadow('kv', ttls => '{NULL}')", dbname=self.db)
        self.addCleanup(self.cluster.sql, "SELECT perf.cache_shadow('kv', false)", dbname=self.db)
        self.wait_until(lambda: self.results("kv"), 10, "the shadow to be there")
        pid = self.cluster.scalar("SELECT pid FROM pg_stat_activity WHERE backend_type = 'perf_opt collector' AND datname = $1",
                                  (self.db,))

        def read(session: Any, first: int, last: int) -> None:
            for start in range(first, last, 500):
                session.query_all(";".join(f"SELECT v FROM kv WHERE k = {k}" for k in range(start, start + 500)))

        with self.cluster.connect(self.db) as session:
            read(session, 1, 1001)
            self.wait_until(lambda: self.results("kv")[-1]["gets"] == 1000, 10, "1,000 gets")
            for _ in range(2):
                os.kill(pid, signal.SIGSTOP)
                try:
                    for _ in range(5):
                        read(session, 1, 4001)
                finally:
                    os.kill(pid, signal.SIGCONT)
                self.wait_until(lambda: "too fast" in (self.results("kv")[-1]["note"] or ""), 20, "the loss to be told")
            counted = self.results("kv")[-1]
            while True:
                self.wait_until(lambda: self.results("kv")[-1]["measured_at"] > counted["measured_at"], 10, "all to be counted")
                before, counted = counted, self.results("kv")[-1]
                if counted["gets"] == before["gets"]:
                    break
            # Half of the keys are looked at now, not a quarter: the second time there was room.
            self.assertEqual(counted["sampled_pct"], 50)
            read(session, 18001, 20001)
            self.wait_until(lambda: self.results("kv")[-1]["gets"] > counted["gets"] + 1600, 10, "2,000 more gets")
            last = self.results("kv")[-1]
        self.assertAlmostEqual(last["gets"] - counted["gets"], 2000, delta=250)


class WithoutPreload(ClusterTest):
    """Policies are there; a shadow is refused."""

    settings = {"shared_preload_libraries": ""}

    def test_without_preload(self) -> None:
        database = self.fresh_database()
        rows = self.cluster.sql("SELECT DISTINCT status FROM perf.caching_strategies(true)", dbname=database)
        self.assertEqual([tuple(row) for row in rows], [("not_applicable",)])
        self.cluster.sql("CREATE TABLE metrics_history (); CREATE TABLE alerts ()", dbname=database)
        rows = self.cluster.sql("SELECT name, status, reason FROM perf.caching_strategies()", dbname=database)
        self.assertEqual([row[:2] for row in rows], [("system_health", "insufficient_data"),
                                                     ("alert_statistics", "insufficient_data"),
                                                     ("metrics_timeseries", "insufficient_data")])
        self.assertIn("shared_preload_libraries", rows[0][2])
        self.assert_sql_error("55000", self.cluster, "SELECT perf.cache_shadow('system_health')", dbname=database)
        self.assertEqual(self.cluster.sql("SELECT perf.cache_shadow('system_health', false)", dbname=database)[0][0], 0)

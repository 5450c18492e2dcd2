"""Watched relations: every kind of write is heard of once it is committed, nothing else, by nobody's leave."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import threading

from .cache_case import CacheTest
from .case import expects_crash
from .pgclient import ConnectionLost, SqlError

USER_KEY = "cache:risk:user:{user_id}"


class Writes(CacheTest):
    """What statements do to a watched table."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("CREATE TABLE payments (id int PRIMARY KEY, user_id int, at timestamptz, note text)")

    def watch(self, event: str = "paid", relation: str = "payments", keys: tuple = (USER_KEY,), tags: tuple = (), **more) -> int:
        named = "".join(f", {name} => ${at + 5}" for at, name in enumerate(more))
        return self.value(f"SELECT perf.cache_watch($1, $2::regclass, keys => $3::text[], tags => $4::text[]{named})",
                          (event, relation, list(keys), list(tags), *more.values()))

    def keys_of(self, statement: str, count: int = 1) -> set:
        """Keys that a statement invalidates; with the notice of a last one, so that nothing else is under way."""
        listener = self.listener()
        self.sql(statement)
        return listener.wait_for(count)["keys"]

    def test_each_kind_of_statement(self) -> None:
        self.watch()
        key = "cache:risk:user:{}".format
        self.assertEqual(self.keys_of("INSERT INTO payments VALUES (1, 1), (2, 1), (3, 2)", 2), {key(1), key(2)})
        self.assertEqual(self.keys_of("UPDATE payments SET user_id = 9 WHERE id = 3", 2), {key(2), key(9)})
        self.assertEqual(self.keys_of("DELETE FROM payments WHERE id = 3"), {key(9)})
        self.assertEqual(self.keys_of("INSERT INTO payments VALUES (1, 5), (8, 8) ON CONFLICT (id) DO UPDATE "
                                      "SET user_id = excluded.user_id", 3), {key(1), key(5), key(8)})
        self.assertEqual(self.keys_of("WITH gone AS (DELETE FROM payments WHERE id = 8 RETURNING *) "
                                      "INSERT INTO payments SELECT 11, 12 FROM gone", 2), {key(8), key(12)})
        self.assertEqual(self.keys_of("MERGE INTO payments p USING (VALUES (11, 13), (20, 21)) AS n (id, user_id) ON p.id = n.id "
                                      "WHEN MATCHED THEN UPDATE SET user_id = n.user_id "
                                      "WHEN NOT MATCHED THEN INSERT VALUES (n.id, n.user_id)", 3), {key(12), key(13), key(21)})
        listener = self.listener()
        with self.cluster.connect(dbname=self.database) as session:
            session.copy_in("COPY payments (id, user_id) FROM STDIN", b"30\t31\n32\t33\n")
        self.assertEqual(listener.wait_for(2)["keys"], {key(31), key(33)})
        self.sql("TRUNCATE payments")
        self.assertEqual(listener.wait_for(1)["prefixes"], {"cache:risk:user:"})
        self.assertEqual(self.value("SELECT count(*) FROM perf.cache_outbox"), 0)

    def test_what_changes_nothing_is_not_heard(self) -> None:
        self.watch()
        listener = self.listener()
        self.sql("INSERT INTO payments SELECT 1, 1 WHERE false")
        self.sql("UPDATE payments SET user_id = 2 WHERE false")
        with self.cluster.connect(dbname=self.database) as session:
            session.query("BEGIN")
            session.query("INSERT INTO payments VALUES (1, 101)")
            session.query("ROLLBACK")
            session.query("BEGIN")
            session.query("INSERT INTO payments VALUES (2, 102)")
            session.query("SAVEPOINT s")
            session.query("INSERT INTO payments VALUES (3, 103)")
            session.query("ROLLBACK TO s")
            session.query("COMMIT")
        self.sql("INSERT INTO payments VALUES (4, 104)")
        found = listener.wait_for(2)
        self.assertEqual(found["keys"], {"cache:risk:user:102", "cache:risk:user:104"})
        self.assertEqual(found["prefixes"], set())

    def test_cascade(self) -> None:
        self.sql("CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users VALUES (1), (2)")
        self.sql("CREATE TABLE orders (user_id int REFERENCES users ON DELETE CASCADE ON UPDATE CASCADE)")
        self.sql("INSERT INTO orders VALUES (1), (2)")
        self.watch("ordered", "orders")
        self.assertEqual(self.keys_of("DELETE FROM users WHERE id = 1"), {"cache:risk:user:1"})
        self.assertEqual(self.keys_of("UPDATE users SET id = 3", 2), {"cache:risk:user:2", "cache:risk:user:3"})

    def test_too_many_values(self) -> None:
        self.watch()
        listener = self.listener()
        self.sql("INSERT INTO payments SELECT g, g FROM generate_series(1, 1000) g")
        self.assertEqual(len(listener.wait_for(1000)["keys"]), 1000)
        self.sql("INSERT INTO payments SELECT g, g FROM generate_series(2001, 3001) g")
        found = listener.wait_for(1)
        self.assertEqual((found["keys"], found["prefixes"]), (set(), {"cache:risk:user:"}))
        # Many rows with few values are told one by one.
        self.sql("UPDATE payments SET user_id = 7")
        self.sql("UPDATE payments SET note = 'x'")
        self.assertIn("cache:risk:user:7", listener.wait_for(2)["keys"])

    def test_values_are_the_same_text_in_every_session(self) -> None:
        self.watch(keys=("day:{at}:{user_id}", "note:{note}"))
        listener = self.listener()
        with self.cluster.connect(dbname=self.database) as session:
            session.query("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
            session.query("INSERT INTO payments VALUES (1, 1, '2024-05-06 07:08:09+00', 'ü {x}')")
            self.assertEqual(listener.wait_for(2)["keys"], {"day:2024-05-06 07:08:09+00:1", "note:ü {x}"})
            session.query("INSERT INTO payments VALUES (2, 2, NULL, 'y'), (3, NULL, NULL, NULL)")
        found = listener.wait_for(2)
        # What a beginning includes is not named as well.
        self.assertEqual((found["keys"], found["prefixes"]), (set(), {"day:", "note:"}))

    def test_numbers_are_the_same_text_in_every_session(self) -> None:
        self.sql("CREATE TABLE sums (f float8, i interval, b bytea)")
        self.watch("summed", "sums", keys=("f:{f}", "i:{i}", "b:{b}"))
        listener = self.listener()
        with self.cluster.connect(dbname=self.database) as session:
            session.query("SET extra_float_digits = 0; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape'")
            session.query("INSERT INTO sums VALUES (0.1::float8 + 0.2::float8, '90 min', 'a')")
        self.assertEqual(listener.wait_for(3)["keys"], {"f:0.30000000000000004", "i:01:30:00", "b:\\x61"})

    def test_keys_of_cached_are_as_triggers_print_them(self) -> None:
        self.sql("CREATE TYPE mood AS ENUM ('Well', 'ill'); "
                 "CREATE TABLE things (b bool, u uuid, i int, c char(5), n numeric(10,2), d date, m mood, hits int)")
        self.sql("INSERT INTO things VALUES (true, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 7, 'AB', 1.5, '2026-01-02', 'Well', 0)")
        forms = {"b": ("bool", (True, '"yes"', '"TRUE"')), "u": ("uuid", ('"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"',)),
                 "i": ("int", ('"007"', '" 7"', 7)), "c": ("char(5)", ('"AB"', '"AB   "')), "n": ("numeric(10,2)", (1.5, '"1.5000"')),
                 "d": ("date", ('"20260102"', '"2026-1-2"')), "m": ("mood", ('"Well"',))}
        for column, (type_name, values) in forms.items():
            self.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, invalidated_by, compute_sql) "
                     f"VALUES ('of_{column}', 'of_{column}:{{{column}}}', '1 h', '{{thing}}', "
                     f"'SELECT hits FROM things WHERE {column} = {{{column}}}::{type_name}')")
        self.value("SELECT perf.cache_watch('thing', 'things')")
        expected = 0
        for column, (_, values) in forms.items():
            for value in values:
                ask = f"""SELECT perf.cached('of_{column}', '{{"{column}": {str(value).lower() if value is True else value}}}')"""
                with self.subTest(ask):
                    self.assertEqual(self.value(ask), expected)
                    self.assertEqual(self.value("SELECT count(*) FROM perf.cache_entry"), 1)
                    expected += 1
                    self.sql("UPDATE things SET hits = hits + 1")
                    self.wait_until(lambda: self.value(ask) == expected, 10, "the change to be seen")
                    self.sql("SELECT perf.cache_invalidate('thing')")
                    self.wait_until(lambda: self.value("SELECT count(*) FROM perf.cache_entry") == 0, 10, "the entry to go")
        self.assert_sql_error("22P02", self.cluster, """SELECT perf.cached('of_i', '{"i": "x"}')""", dbname=self.database)

    def test_published_tables(self) -> None:
        """Where a publication has all tables, the server wants to name each row that is removed."""
        self.watch()
        listener = self.listener()
        self.sql("CREATE PUBLICATION everything FOR ALL TABLES")
        self.sql("INSERT INTO payments VALUES (1, 51)")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:51"})

    def test_a_failing_batch_is_reported(self) -> None:
        self.watch()
        listener = self.listener()
        self.sql("ALTER TABLE perf.cache_outbox REPLICA IDENTITY NOTHING; CREATE PUBLICATION everything FOR ALL TABLES")
        # What is asked for goes by the table.
        self.sql("SELECT perf.cache_invalidate(key => 'asked')")
        self.sql("ALTER TABLE payments REPLICA IDENTITY FULL; INSERT INTO payments VALUES (1, 52)")
        status, detail = self.wait_until(lambda: (row := self.health("invalidator")) and row[0] == "error" and row, 20,
                                         "health() to say so")
        self.assertRegex(detail, "nothing has been invalidated for .* s: cannot delete from table")
        self.sql("DROP PUBLICATION everything")
        found = listener.wait_for(2)
        self.assertIn("asked", found["keys"])
        # After so many failures it is tried without the values.
        self.assertTrue("cache:risk:user:52" in found["keys"] or "cache:risk:user:" in found["prefixes"], found)
        self.wait_until(lambda: self.health("invalidator")[0] == "ok", 20, "health() to say so")

    def test_many_values_keep_nobody_waiting(self) -> None:
        self.sql("CREATE TABLE bulk (id int)")
        self.watch("bulk", "bulk", keys=tuple(f"cache:k{n}:{{id}}" for n in range(100)))
        self.watch()
        listener = self.listener()
        self.sql("DO $$BEGIN FOR i IN 0..5 LOOP INSERT INTO bulk SELECT i * 500 + g FROM generate_series(1, 500) g; END LOOP; END$$")
        self.sql("INSERT INTO bulk SELECT g FROM generate_series(100001, 100600) g")
        self.sql("INSERT INTO payments VALUES (1, 71)")
        told: set = set()

        def heard() -> bool:
            for notice in listener.heard():
                told.update(notice["prefixes"], (key for key in notice["keys"] if key.startswith(("cache:k0:", "cache:risk"))))
            return "cache:risk:user:71" in told

        self.wait_until(heard, 60, "the change of another table")
        # One by one as long as there are not too many at once; a statement that alone makes too many keys names none of them.
        self.assertLessEqual({"cache:k0:1", "cache:k0:3000", "cache:k0:", "cache:k99:"}, told)

    def test_policies_are_followed(self) -> None:
        self.sql("SELECT perf.clear_policy()")
        self.sql("SELECT perf.cache_watch('paid', 'payments')")
        listener = self.listener()
        self.sql("INSERT INTO payments VALUES (1, 1)")
        self.assertEqual(listener.wait_for(1)["tags"], {"paid"})
        self.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, invalidated_by, origin) VALUES "
                 "('one', 'one:{user_id}', '1 min', '{paid}', 'added'), ('other', 'other:{minutes}:x', '1 min', '{paid,else}', 'added')")
        numbers = itertools.count(2)

        def is_collected() -> bool:
            """Until the triggers collect rows, which no template needed before, all that begin like the key are told."""
            number = next(numbers)
            self.sql(f"INSERT INTO payments VALUES ({number}, {number})")
            found = listener.wait_for(3)
            self.assertIn((found["keys"], found["prefixes"]), [({f"one:{number}"}, {"other:"}), (set(), {"one:", "other:"})])
            return bool(found["keys"])

        self.wait_until(is_collected, 30, "the triggers to be made anew")
        self.sql("UPDATE perf.cache_policy SET key_template = 'two:{user_id}' WHERE cache_name = 'one'")
        self.sql("INSERT INTO payments VALUES (1000, 1000)")
        self.assertEqual(listener.wait_for(3)["keys"], {"two:1000"})

    def test_columns_that_go_do_not_stop_writers(self) -> None:
        self.watch()
        listener = self.listener()
        self.sql("ALTER TABLE payments RENAME COLUMN user_id TO client_id")
        self.sql("INSERT INTO payments VALUES (1, 1)")
        self.assertEqual(listener.wait_for(1)["prefixes"], {"cache:risk:user:"})
        self.assertEqual(self.sql("SELECT missing_columns, is_active FROM perf.cache_watches"), [(["user_id"], True)])
        self.assertEqual(self.health("cache watches")[0], "warning")
        self.sql("ALTER TABLE payments DROP COLUMN client_id; ALTER TABLE payments ADD COLUMN user_id text")
        self.sql("INSERT INTO payments (id, user_id) VALUES (2, 'two')")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:two"})
        self.assertIsNone(self.health("cache watches"))

    def test_partitions(self) -> None:
        self.sql("CREATE TABLE log (id int, user_id int) PARTITION BY RANGE (id)")
        self.sql("CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id)")
        self.sql("CREATE TABLE log_1_1 PARTITION OF log_1 FOR VALUES FROM (0) TO (50)")
        # With its columns in another order.
        self.sql("CREATE TABLE log_2 (user_id int, gone int, id int); ALTER TABLE log_2 DROP COLUMN gone")
        self.sql("ALTER TABLE log ATTACH PARTITION log_2 FOR VALUES FROM (100) TO (200)")
        self.watch("logged", "log")
        key = "cache:risk:user:{}".format
        self.assertEqual(self.keys_of("INSERT INTO log VALUES (1, 1), (101, 2)", 2), {key(1), key(2)})
        self.assertEqual(self.keys_of("INSERT INTO log_1_1 VALUES (2, 3)"), {key(3)})
        self.assertEqual(self.keys_of("INSERT INTO log_2 (id, user_id) VALUES (102, 4)"), {key(4)})
        self.assertEqual(self.keys_of("UPDATE log SET id = 103, user_id = 5 WHERE id = 1", 2), {key(1), key(5)})
        listener = self.listener()
        self.sql("TRUNCATE log_1")
        self.assertEqual(listener.wait_for(1)["prefixes"], {"cache:risk:user:"})
        # One that comes later: by the parent at once.
        self.sql("CREATE TABLE log_3 PARTITION OF log FOR VALUES FROM (200) TO (300)")
        self.assertEqual(self.keys_of("INSERT INTO log VALUES (201, 6)"), {key(6)})
        self.sql("SELECT perf.cache_unwatch('logged', 'log')")
        self.assertEqual(self.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'perf_cache%'"), 0)

    def test_a_partition_that_comes_later_is_watched(self) -> None:
        self.sql("CREATE TABLE log (id int, user_id int) PARTITION BY RANGE (id)")
        self.watch("logged", "log")
        self.sql("CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM (0) TO (100)")
        # A change of watches makes the invalidator look at once; else it looks once a minute.
        self.watch("other", "payments")
        listener = self.listener()
        self.sql("INSERT INTO payments VALUES (1, 1)")
        listener.wait_for(1)
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'log_1'::regclass") == 4, 70,
                        "triggers of the new partition")
        self.assertEqual(self.keys_of("INSERT INTO log_1 VALUES (1, 77)"), {"cache:risk:user:77"})

    def test_foreign_partitions(self) -> None:
        port = self.cluster.port
        host = self.value("SHOW unix_socket_directories")
        self.sql("CREATE EXTENSION postgres_fdw; CREATE TABLE far (id int, user_id int)")
        self.sql(f"CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{host}', port '{port}', dbname '{self.database}')")
        self.sql("CREATE USER MAPPING FOR public SERVER here OPTIONS (user 'postgres')")
        self.sql("CREATE TABLE log (id int, user_id int) PARTITION BY RANGE (id)")
        foreign = ("CREATE FOREIGN TABLE log_2 PARTITION OF log FOR VALUES FROM (100) TO (200) "
                   "SERVER here OPTIONS (table_name 'far')")
        self.sql(foreign)
        self.assert_sql_error("0A000", self.cluster, "SELECT perf.cache_watch('logged', 'log')", dbname=self.database)
        self.sql("DROP FOREIGN TABLE log_2")
        self.watch("logged", "log")
        # One that comes later is written to once the triggers are others.
        self.sql(foreign)
        self.watch("other", "payments")
        listener = self.listener()
        self.sql("INSERT INTO payments VALUES (1, 1)")
        listener.wait_for(1)
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'log'::regclass "
                                           "AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL)") == 0, 70, "other triggers")
        self.sql("INSERT INTO log VALUES (101, 6)")
        self.assertEqual(listener.wait_for(1)["prefixes"], {"cache:risk:user:"})

    def test_rows_are_collected_only_where_they_are_needed(self) -> None:
        self.sql("INSERT INTO payments SELECT g, g, NULL, repeat('x', 200) FROM generate_series(1, 20000) g")
        self.watch(keys=("dashboard",))
        listener = self.listener()
        bulk = "SET temp_file_limit = '1MB'; SET work_mem = '64kB'; UPDATE payments SET user_id = id"
        with self.cluster.connect(dbname=self.database) as session:
            session.query(bulk)
        self.assertEqual(listener.wait_for(1)["keys"], {"dashboard"})
        self.watch(keys=("dashboard", USER_KEY))
        self.assertEqual(self.keys_of("UPDATE payments SET user_id = 7 WHERE id = 7", 2), {"dashboard", "cache:risk:user:7"})

    def test_replica_sessions_and_unlogged_tables(self) -> None:
        self.sql("CREATE UNLOGGED TABLE quick (user_id int)")
        self.watch("quick", "quick")
        listener = self.listener()
        with self.cluster.connect(dbname=self.database) as session:
            session.query("SET session_replication_role = replica")
            session.query("INSERT INTO quick VALUES (5)")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:5"})

    def test_prepared_transactions(self) -> None:
        self.watch()
        listener = self.listener()
        with self.cluster.connect(dbname=self.database) as session:
            session.query("BEGIN")
            session.query("INSERT INTO payments VALUES (1, 41)")
            session.query("PREPARE TRANSACTION 'watched'")
        self.sql("INSERT INTO payments VALUES (2, 42)")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:42"})
        with self.cluster.connect(dbname=self.database) as session:
            session.query("COMMIT PREPARED 'watched'")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:41"})

    def test_cache_invalidate_cannot_be_prepared(self) -> None:
        with self.cluster.connect(dbname=self.database) as session:
            session.query("BEGIN")
            session.query("SELECT perf.cache_invalidate(key => 'k')")
            with self.assertRaises(SqlError) as refused:
                session.query("PREPARE TRANSACTION 'asked'")
            self.assertEqual(refused.exception.sqlstate, "0A000")

    def test_an_event_names_beginnings_of_tags(self) -> None:
        self.watch("tagged", tags=("t-{user_id}",))
        listener = self.listener()
        self.sql("SELECT perf.cache_invalidate('tagged')")
        found = listener.wait_for(3)
        self.assertEqual((found["prefixes"], found["tags"], found["tag_prefixes"]), ({"cache:risk:user:"}, {"tagged"}, {"t-"}))

    def test_what_everybody_may_have_told(self) -> None:
        """Redis and listeners hear of keys and tags that templates make; of others, from the database's owner only."""
        self.watch()
        self.cluster.sql("DO $$BEGIN CREATE ROLE cache_asker LOGIN; EXCEPTION WHEN duplicate_object THEN END$$")
        self.addCleanup(self.cluster.sql, "DROP ROLE IF EXISTS cache_asker")
        listener = self.listener()
        for asked in ("key => 'session:admin'", "tag => 'vip'", "tag => 'paid'", "key => 'cache:risk:user:5'"):
            self.sql(f"SELECT perf.cache_invalidate({asked})", user="cache_asker")
        found = listener.wait_for(2)
        self.assertEqual((found["keys"], found["tags"]), ({"cache:risk:user:5"}, {"paid"}))
        self.sql("SELECT perf.cache_invalidate(key => 'session:admin')")
        self.assertEqual(listener.wait_for(1)["keys"], {"session:admin"})

    def test_writers_need_no_right(self) -> None:
        self.watch()
        self.cluster.sql("DO $$BEGIN CREATE ROLE cache_writer LOGIN; EXCEPTION WHEN duplicate_object THEN END$$")
        self.addCleanup(self.cluster.sql, "DROP ROLE IF EXISTS cache_writer")
        self.sql("GRANT INSERT ON payments TO cache_writer; REVOKE ALL ON SCHEMA perf FROM PUBLIC")
        self.addCleanup(self.sql, "DROP OWNED BY cache_writer")
        listener = self.listener()
        with self.cluster.connect(dbname=self.database, user="cache_writer") as session:
            session.query("CREATE TEMP TABLE cache_outbox (x int); SET search_path = pg_temp, public")
            session.query("INSERT INTO public.payments VALUES (1, 61)")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:61"})

    def test_two_databases(self) -> None:
        other = self.fresh_database()
        self.watch()
        self.cluster.sql("CREATE TABLE payments (user_id int)", dbname=other)
        self.cluster.sql("SELECT perf.cache_watch('paid', 'payments', keys => ARRAY['other:{user_id}'])", dbname=other)
        here, there = self.listener(), self.listener(other)
        self.sql("INSERT INTO payments VALUES (1, 1)")
        self.cluster.sql("INSERT INTO payments VALUES (2)", dbname=other)
        self.assertEqual(here.wait_for(1)["keys"], {"cache:risk:user:1"})
        self.assertEqual(there.wait_for(2)["keys"], {"other:2"})
        self.assertEqual(here.heard(), [])

    def test_dropped_relation(self) -> None:
        self.watch()
        self.sql("DROP TABLE payments")
        self.assertEqual(self.sql("SELECT * FROM perf.cache_watches"), [])
        self.sql("CREATE TABLE other (user_id int)")
        self.watch("other", "other")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.cache_watch_table") == 1, 10, "the watch to be forgotten")

    def test_restored_without_a_relation_and_a_role(self) -> None:
        self.cluster.sql("CREATE ROLE cache_leaver")
        self.addCleanup(self.cluster.sql, "DROP ROLE IF EXISTS cache_leaver")
        self.sql("CREATE TABLE other (user_id int)")
        self.watch()
        self.watch("other", "other")
        self.sql("ALTER TABLE other RENAME TO another")
        self.sql("CREATE TABLE third (user_id int); ALTER TABLE third OWNER TO cache_leaver; GRANT USAGE ON SCHEMA perf TO cache_leaver; "
                 "SET ROLE cache_leaver; SELECT perf.cache_watch('third', 'third', keys => ARRAY['t:{user_id}'])")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.cache_watch_table WHERE relation_name = 'public.another'"),
                        70, "the new name to be known")
        dump = subprocess.run([self.cluster.program("pg_dump"), "-T", "payments", *self.cluster.psql_args(self.database)[1:]],
                              capture_output=True, text=True, check=True).stdout
        self.sql("DROP OWNED BY cache_leaver; DROP ROLE cache_leaver")
        target = self.database + "_restored"
        self.cluster.sql(f"CREATE DATABASE {target}")
        self.addCleanup(self.cluster.sql, f"DROP DATABASE {target} WITH (FORCE)")
        subprocess.run(self.cluster.psql_args(target), input=dump, capture_output=True, text=True, check=False)
        watches = "SELECT event, relation::text, missing_relation, is_active FROM perf.cache_watches ORDER BY event"
        self.assertEqual([tuple(row) for row in self.cluster.sql(watches, dbname=target)],
                         [("other", "another", None, True), ("paid", "-", "public.payments", False), ("third", "third", None, True)])
        status = "SELECT component, status FROM perf.health() WHERE component LIKE 'cache %' AND status = 'error'"
        self.assertEqual([tuple(row) for row in self.cluster.sql(status, dbname=target)], [("cache watches", "error")])
        listener = self.listener(target)
        self.cluster.sql("INSERT INTO another VALUES (3)", dbname=target)
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:3"})
        # It comes later.
        self.cluster.sql("CREATE TABLE payments (id int, user_id int)", dbname=target)
        self.cluster.sql("SELECT perf.cache_unwatch('third', 'third')", dbname=target)
        self.wait_until(lambda: self.cluster.scalar("SELECT bool_and(is_active) FROM perf.cache_watches", dbname=target), 70,
                        "the watch to begin")
        # Triggers without watches.
        self.cluster.sql("DELETE FROM perf.cache_watch_table", dbname=target)
        self.assertEqual([tuple(row) for row in self.cluster.sql(status, dbname=target)], [("cache triggers", "error")])
        for table in ("another", "payments"):
            self.assertFalse(self.cluster.scalar("SELECT perf.cache_unwatch('x', $1::regclass)", (table,), dbname=target))
        self.assertEqual(self.cluster.sql(status, dbname=target), [])

    def test_drop_extension_removes_triggers(self) -> None:
        self.watch()
        listener = self.listener()
        self.sql("INSERT INTO payments VALUES (1, 1)")
        listener.wait_for(1)
        self.sql("DROP EXTENSION perf_opt")
        self.assertEqual(self.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'perf_cache%'"), 0)
        self.sql("INSERT INTO payments VALUES (2, 2)")
        self.sql("CREATE EXTENSION perf_opt")
        self.watch()
        self.sql("INSERT INTO payments VALUES (3, 3)")
        self.assertEqual(listener.wait_for(1)["keys"], {"cache:risk:user:3"})

    def test_long_transactions_do_not_make_it_slow(self) -> None:
        """Dead rows that nobody may remove are not met again."""
        self.watch()
        listener = self.listener()
        with self.cluster.connect(dbname=self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.query("SELECT count(*) FROM payments")
            with self.cluster.connect(dbname=self.database) as writer:
                for at in range(20):
                    # Too many for a transaction to have them waiting in memory.
                    writer.query(f"DO $$BEGIN FOR i IN 1..1000 LOOP INSERT INTO payments VALUES (i + {at} * 1000, i); END LOOP; END$$")
            self.wait_until(lambda: self.value("SELECT count(*) FROM perf.cache_outbox") == 0, 20, "the outbox to be empty")
            listener.heard()
            before = self.fetched()
            for number in range(20):
                self.sql("SELECT perf.cache_invalidate(key => $1)", (f"asked:{number}",))
            listener.wait_for(20)
            self.wait_until(lambda: self.fetched() - before >= 20, 20, "the statistics to be told")
            self.assertLess(self.fetched() - before, 2_000)

    def fetched(self) -> int:
        """Index entries of the outbox that were read."""
        return self.value("SELECT idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'cache_outbox_xid_idx'")


class Life(CacheTest):
    """The process that works the outbox off."""

    uses_shared_cluster = False

    def invalidator(self, cluster) -> int:
        return cluster.scalar("SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'perf_opt invalidator'")

    def test_standby(self) -> None:
        primary = self.private_cluster(self.settings)
        primary.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (user_id int)")
        primary.sql("SELECT perf.cache_watch('paid', 't', keys => ARRAY['k:{user_id}'])")
        standby = primary.standby()
        primary.wait_for_replay(standby)
        self.assert_sql_error("25006", standby, "SELECT perf.cache_watch('paid', 't')")
        self.assert_sql_error("25006", standby, "SELECT perf.cache_unwatch('paid', 't')")
        self.assertEqual(standby.scalar("SELECT count(*) FROM perf.cache_watches"), 1)
        self.assertIsNone(self.invalidator(standby))
        standby.promote()
        self.wait_until(lambda: self.invalidator(standby), 90, "the invalidator after promotion")
        # What the former primary had in memory, nobody knows.
        standby.wait_for_log("changes of watched relations may have been lost")
        listener = self.listener("postgres", standby)
        standby.sql("INSERT INTO t VALUES (1)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:1"})

    def test_rest_of_the_outbox_after_a_restart(self) -> None:
        server = self.private_cluster(self.settings)
        server.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (user_id int)")
        server.sql("SELECT perf.cache_watch('paid', 't', keys => ARRAY['k:{user_id}'])")
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (1)")
        listener.wait_for(1)
        server.restart()
        self.wait_until(lambda: self.invalidator(server), 30, "the invalidator after the restart")
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (2)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:2"})
        # A terminated one comes back.
        pid = self.invalidator(server)
        server.sql("SELECT pg_terminate_backend($1::int)", (pid,))
        server.sql("INSERT INTO t VALUES (3)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:3"})
        # The terminated one may still have told that, before it ended.
        self.wait_until(lambda: self.invalidator(server) not in (None, pid), 30, "another invalidator")
        # Makes way for a statement that wants the database alone, and comes back.
        listener.session.close()
        server.sql("CREATE DATABASE copy TEMPLATE postgres", dbname="template1")
        self.wait_until(lambda: self.invalidator(server), 30, "the invalidator after the copy")
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (4)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:4"})

    def test_a_full_queue_of_notices_keeps_nothing_valid(self) -> None:
        server = self.private_cluster(self.settings)
        # Before version 17 that takes 8 GB.
        is_filled = server.major >= 17
        if is_filled:
            server.configure({"max_notify_queue_pages": 64})
            server.restart()
        server.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (user_id int)")
        server.sql("SELECT perf.cache_watch('paid', 't', keys => ARRAY['k:{user_id}'])")
        listener = self.listener("postgres", server)
        server.sql("SELECT perf.cache_put('k:' || g, '1') FROM generate_series(1, 3) g")
        listener.session.query("BEGIN; SELECT 1")
        for size in (7900, 1) if is_filled else ():
            with self.assertRaises(SqlError):
                for _ in range(10_000):
                    server.sql("SELECT pg_notify('another', repeat('x', $1::int))", (size,))
        for user in (1, 2):
            server.sql("INSERT INTO t VALUES ($1::int)", (user,))
            self.wait_until(lambda: server.scalar("SELECT perf.cache_get('k:' || $1)", (str(user),)) is None, 20, "the invalidation")
        self.assertEqual(server.scalar("SELECT perf.cache_get('k:3')"), 1)
        listener.session.query("COMMIT")
        self.assertEqual(listener.wait_for(3)["keys"], {"k:1", "k:2"})

    @expects_crash
    def test_kill_9(self) -> None:
        """Killed at any point, with everybody else: what is committed and was not told is told afterwards."""
        server = self.private_cluster({**self.settings, "restart_after_crash": "on"})
        server.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (id int PRIMARY KEY, user_id int)")
        server.sql("SELECT perf.cache_watch('paid', 't', keys => ARRAY['k:{user_id}'])")
        chance = random.Random(7)
        told: set = set()
        number = 0
        for _ in range(5):
            self.wait_until(lambda: self.answers(server) and self.invalidator(server), 90, "the server after the crash")
            try:
                listener = self.listener("postgres", server)
                victim = self.invalidator(server)
                killer = threading.Timer(chance.uniform(0.05, 0.6), server.kill9, (victim,))
                killer.start()
                with server.connect() as session:
                    while True:
                        number += 1
                        session.query(f"INSERT INTO t VALUES ({number}, {number})")
                        if number % 20 == 0:
                            told |= {key for notice in listener.heard() for key in notice["keys"]}
            except (ConnectionLost, SqlError, OSError):
                killer.join()
                told |= {key for _, _, payload in listener.session.notifications for key in json.loads(payload)["keys"]}
        self.wait_until(lambda: self.answers(server), 90, "the server after the last crash")
        listener = self.listener("postgres", server)
        self.wait_until(lambda: self.invalidator(server), 90, "the invalidator after the last crash")
        self.wait_until(lambda: server.scalar("SELECT count(*) FROM perf.cache_outbox") == 0, 30, "the outbox to be empty")
        # Whoever listened when the server crashed was not told; whatever an entry depended on is gone as well.
        self.assertEqual(server.scalar("SELECT status FROM perf.health() WHERE component = 'invalidator'"), "ok")
        number += 1
        server.sql("INSERT INTO t VALUES ($1::int, $1::int)", (number,))
        # What was left in the outbox may be told after it is empty.
        self.wait_until(lambda: any(f"k:{number}" in notice["keys"] for notice in listener.heard()), 30, "the last change")
        self.assertGreater(len(told), 5)

    @staticmethod
    def answers(server) -> bool:
        try:
            return server.scalar("SELECT 1") == 1
        except (ConnectionLost, SqlError, OSError):
            return False

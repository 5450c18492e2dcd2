"""The embedded cache: races between sessions, roles, crashes, and what it costs nobody to wait for."""

from __future__ import annotations

import re
import threading
from typing import Any, Callable

from .case import ClusterTest, expects_crash
from .cluster import Connection, SqlError

FAST = {"perf_opt.collect_interval": "1s", "max_prepared_transactions": 5}


class CacheTest(ClusterTest):
    """Tests with a database of their own and sessions in it."""

    settings = FAST

    def setUp(self) -> None:
        super().setUp()
        self.database = self.fresh_database()

    def session(self, user: str = "postgres", database: str = "") -> Connection:
        """A session that ends with the test."""
        session = self.cluster.connect(database or self.database, user=user)
        self.addCleanup(session.close)
        return session

    def sql(self, sql: str, params: tuple = ()) -> list[tuple]:
        """Runs SQL in the test's database."""
        return self.cluster.sql(sql, params, dbname=self.database)

    def value(self, sql: str, params: tuple = ()) -> Any:
        """The only value of a statement."""
        return self.cluster.scalar(sql, params, dbname=self.database)

    def stats(self, name: str = "(other)") -> dict[str, Any]:
        """A row of perf.cache_stats()."""
        rows = self.cluster.result("SELECT * FROM perf.cache_stats()", dbname=self.database).dicts()
        return next(row for row in rows if row["name"] == name)


def get(session: Connection, key: str = "k") -> Any:
    """What a session finds."""
    return session.execute("SELECT perf.cache_get($1)", (key,)).scalar()


def put(session: Connection, value: str, key: str = "k", **more: str) -> bool:
    """Whether a session could store a value."""
    named = "".join(f", {name} => '{given}'" for name, given in more.items())
    return session.execute(f"SELECT perf.cache_put($1, $2::jsonb{named})", (key, value)).scalar()


class Races(CacheTest):
    """A value computed before an invalidation is never served after it."""

    def test_read_old_put_late(self) -> None:
        reader, writer = self.session(), self.session()
        self.assertIsNone(get(reader))
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertFalse(put(reader, '"old"'))
        self.assertIsNone(get(writer))
        self.assertIsNone(get(reader))
        self.assertTrue(put(reader, '"new"'))
        self.assertEqual(get(writer), "new")

    def test_by_tag_and_by_beginning(self) -> None:
        reader, writer = self.session(), self.session()
        for invalidation in ("tag => 'red'", "event => 'fraud_flag_created'"):
            with self.subTest(invalidation):
                self.assertIsNone(get(reader, "cache:risk:user:1"))
                writer.query(f"SELECT perf.cache_invalidate({invalidation})")
                self.assertFalse(put(reader, '"old"', "cache:risk:user:1", tags="{red}"))
                self.assertIsNone(get(reader, "cache:risk:user:1"))

    def test_put_that_is_committed_after_the_invalidation(self) -> None:
        reader, writer, other = self.session(), self.session(), self.session()
        reader.query("BEGIN")
        self.assertIsNone(get(reader))
        self.assertTrue(put(reader, '"old"'))
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        reader.query("COMMIT")
        self.assertEqual(self.value("SELECT count(*) FROM perf.cache_entry"), 1)
        self.assertIsNone(get(other))
        self.assertTrue(put(other, '"new"'))
        self.assertEqual(get(writer), "new")

    def test_invalidation_that_is_committed_late(self) -> None:
        reader, writer = self.session(), self.session()
        self.assertTrue(put(reader, '"old"'))
        writer.query("BEGIN; SELECT perf.cache_invalidate(key => 'k')")
        self.assertIsNone(get(writer))
        # Its delete of the entry is not committed: the old value is right for everybody else, and a put waits for nobody.
        self.assertEqual(get(reader), "old")
        reader.query("SET statement_timeout = '5s'")
        self.assertFalse(put(reader, '"newer"'))
        writer.query("COMMIT")
        self.assertIsNone(get(reader))

    def test_repeatable_read(self) -> None:
        reader, writer = self.session(), self.session()
        reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 AS a")
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertIsNone(get(reader))
        self.assertFalse(put(reader, '"old"'))
        self.assertTrue(put(writer, '"new"'))
        self.assertEqual(get(reader), "new")
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertIsNone(get(reader))
        reader.query("COMMIT")

    def test_an_old_snapshot(self) -> None:
        reader, writer = self.session(), self.session()
        before = reader.execute("SELECT perf.cache_snapshot()::text").scalar()
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertFalse(put(writer, '"old"', snapshot=before))
        self.assertTrue(put(writer, '"old"', "another", snapshot=before))
        after = reader.execute("SELECT perf.cache_snapshot()::text").scalar()
        self.assertTrue(put(writer, '"new"', snapshot=after))

    def test_many_invalidations_leave_few_marks(self) -> None:
        writer = self.session()
        for _ in range(20):
            writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertLessEqual(self.value("SELECT max(n) FROM (SELECT count(*) AS n FROM perf.cache_mark GROUP BY mark) AS m"), 2)
        self.assertTrue(put(writer, "1"))
        writer.query("BEGIN; SELECT perf.cache_invalidate(key => 'k'); ROLLBACK")
        self.assertEqual(get(writer), 1)
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertIsNone(get(writer))

    def test_own_changes_in_a_snapshot(self) -> None:
        # The transaction has a number below the snapshot's, and is not among those it lists: its changes are its own.
        reader, writer = self.session(), self.session()
        writer.query("CREATE TABLE t (a int)")
        writer.query("BEGIN; INSERT INTO t VALUES (1)")
        reader.query("SELECT pg_current_xact_id()")
        self.assertTrue(put(writer, '"before the change"'))
        writer.query("INSERT INTO t VALUES (2); SELECT perf.cache_invalidate(key => 'k')")
        writer.query("COMMIT")
        self.assertIsNone(get(reader))

    def test_value_of_changes_that_were_rolled_back(self) -> None:
        session = self.session()
        session.query("CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1)")
        self.assertIsNone(get(session))
        session.query("ROLLBACK")
        self.assertFalse(put(session, '"from what is not there"'))
        self.assertTrue(put(session, '"again"'))

    def test_value_of_changes_after_the_miss_that_were_rolled_back(self) -> None:
        session = self.session()
        session.query("CREATE TABLE t (a int)")
        for ends in ("BEGIN; INSERT INTO t VALUES (1); ROLLBACK",
                     "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (1); ROLLBACK TO s; COMMIT",
                     "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'"):
            with self.subTest(ends):
                self.assertIsNone(get(session))
                session.query_all(ends)
                self.assertFalse(put(session, '"from what is not there"'))
        session.query("ROLLBACK PREPARED 'p'")
        self.assertIsNone(get(session))
        session.query_all("BEGIN; SELECT 1; ROLLBACK; BEGIN; INSERT INTO t VALUES (1); COMMIT")
        self.assertTrue(put(session, '"of what is there"'))

    def test_dropped_leases_concern_their_keys_alone(self) -> None:
        session = self.session()
        session.query("BEGIN; SELECT pg_current_xact_id()")
        for number in range(66):
            self.assertIsNone(get(session, f"dropped:{number}"))
        session.query("ROLLBACK")
        self.assertFalse(put(session, "1", "dropped:0"))
        self.assertTrue(put(session, "1", "another"))
        self.assertTrue(put(session, "1", "dropped:0"))

    def test_clients_that_share_a_session(self) -> None:
        shared, writer = self.session(), self.session()
        self.assertIsNone(get(shared))
        writer.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertIsNone(get(shared))
        for client in ("the first", "the second"):
            self.assertFalse(put(shared, '"old"'), client)
        self.assertIsNone(get(shared))
        self.assertIsNone(get(shared))
        self.assertTrue(put(shared, '"new"'))
        self.assertEqual(get(shared), "new")

    def test_many_puts_of_an_open_transaction(self) -> None:
        one, other = self.session(), self.session()
        one.query("BEGIN; SELECT count(*) FILTER (WHERE perf.cache_put('one:' || g, '1')) FROM generate_series(1, 3000) g")
        stored = "SELECT count(*) FILTER (WHERE perf.cache_put('other:' || g, '1')) FROM generate_series(1, 300) g"
        other.query("SET statement_timeout = '20s'")
        self.assertEqual(other.query(stored).scalar(), 300)
        # What is not committed is in its own way only, and nobody waits for it.
        self.assertFalse(put(other, "2", "one:7"))
        one.query("ROLLBACK")
        self.assertTrue(put(other, "2", "one:7"))

    def test_nobody_waits_for_an_open_put(self) -> None:
        one, other = self.session(), self.session()
        self.assertTrue(put(one, "1"))
        one.query("BEGIN")
        self.assertTrue(put(one, "2"))
        other.query("SET statement_timeout = '5s'")
        self.assertFalse(put(other, "3"))
        self.assertEqual(get(other), 1)
        other.query("SELECT perf.cache_invalidate(key => 'k')")
        one.query("COMMIT")
        self.assertIsNone(get(other))
        self.assertGreaterEqual(self.stats()["refused_puts"], 1)

    def test_no_stale_read_with_writers(self) -> None:
        self.sql("CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL); INSERT INTO counter SELECT g, 0 FROM generate_series(1, 3) g")
        committed = {key: 0 for key in (1, 2, 3)}
        errors: list[str] = []
        ends = threading.Event()

        def write(key: int) -> None:
            with self.cluster.connect(self.database) as session:
                while not ends.is_set():
                    session.query(f"BEGIN; UPDATE counter SET n = n + 1 WHERE id = {key}")
                    session.query(f"SELECT perf.cache_invalidate(key => 'n:{key}')")
                    after = session.query(f"SELECT n FROM counter WHERE id = {key}").scalar()
                    session.query("COMMIT")
                    committed[key] = after

        gets = [0, 0]

        def read() -> None:
            with self.cluster.connect(self.database) as session:
                for turn in range(700):
                    key = turn % 3 + 1
                    floor = committed[key]
                    found = get(session, f"n:{key}")
                    gets[0] += 1
                    if found is None:
                        now = session.query(f"SELECT n FROM counter WHERE id = {key}").scalar()
                        put(session, str(now), f"n:{key}")
                    else:
                        gets[1] += 1
                        if found < floor:
                            errors.append(f"{found} was served after {floor} was acknowledged")

        self.together([read] * 4, [lambda key=key: write(key) for key in committed], ends)
        self.assertEqual(errors, [])
        self.assertGreater(gets[1], 100)

    def together(self, readers: list[Callable[[], None]], writers: list[Callable[[], None]], ends: threading.Event) -> None:
        """Runs readers to their end, and writers until then."""
        failures: list[BaseException] = []

        def guarded(body: Callable[[], None]) -> None:
            try:
                body()
            except BaseException as failure:  # noqa: BLE001  (told below)
                failures.append(failure)

        threads = [threading.Thread(target=guarded, args=(body,)) for body in [*readers, *writers]]
        for thread in threads:
            thread.start()
        for thread in threads[:len(readers)]:
            thread.join(100)
        ends.set()
        for thread in threads:
            thread.join(30)
        self.assertEqual(failures, [])


class Places(CacheTest):
    """Databases, roles, crashes, standbys, dumps."""

    def test_two_databases(self) -> None:
        other = self.session(database=self.fresh_database())
        session = self.session()
        self.assertTrue(put(session, "1"))
        self.assertIsNone(get(other))
        other.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertEqual(get(session), 1)

    def test_roles(self) -> None:
        self.sql("CREATE ROLE cache_one LOGIN; CREATE ROLE cache_two LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE cache_one, cache_two")
        one, two = self.session("cache_one"), self.session("cache_two")
        self.assertTrue(put(one, "1"))
        self.assertIsNone(get(two))
        self.assertTrue(put(two, "2"))
        two.query("SELECT perf.cache_invalidate(key => 'k')")
        self.assertEqual(get(one), 1)
        with self.assertRaises(SqlError) as caught:
            two.query("SET perf_opt.cache_role = 'cache_one'; SELECT perf.cache_get('k')")
        self.assertEqual(caught.exception.sqlstate, "42501")
        for table in ("cache_entry", "cache_mark", "cache_entry_0", "cache_usage"):
            with self.assertRaises(SqlError) as caught:
                one.query(f"SELECT * FROM perf.{table}")
            self.assertEqual(caught.exception.sqlstate, "42501")
        # The superuser invalidates everybody's.
        self.sql("SELECT perf.cache_invalidate(key => 'k')")
        self.assertIsNone(get(one))

    @expects_crash
    def test_crash_empties_the_cache(self) -> None:
        cluster = self.private_cluster(FAST)
        cluster.sql("CREATE EXTENSION perf_opt")
        before = cluster.scalar("SELECT perf.cache_snapshot()::text")
        self.assertTrue(cluster.scalar("SELECT perf.cache_put('k', '1')"))
        cluster.kill9()
        cluster.start()
        self.assertIsNone(cluster.scalar("SELECT perf.cache_get('k')"))
        # Nobody knows what was invalidated after it.
        self.assertFalse(cluster.scalar("SELECT perf.cache_put('k', '1', snapshot => $1::text::pg_snapshot)", (before,)))
        self.assertFalse(cluster.scalar("SELECT perf.cache_put('k', '1', snapshot => $1::text::pg_snapshot)", (before,)))
        self.assertTrue(cluster.scalar("SELECT perf.cache_put('k', '2')"))
        self.assertEqual(cluster.scalar("SELECT perf.cache_get('k')"), 2)
        self.assertTrue(cluster.scalar("SELECT perf.cache_put('k', '3', snapshot => perf.cache_snapshot())"))

    def test_standby(self) -> None:
        cluster = self.private_cluster(FAST)
        cluster.sql("CREATE EXTENSION perf_opt")
        self.assertTrue(cluster.scalar("SELECT perf.cache_put('k', '1')"))
        standby = cluster.standby()
        cluster.wait_for_replay(standby)
        self.assertIsNone(standby.scalar("SELECT perf.cache_get('k')"))
        for statement in ("SELECT perf.cache_put('k', '1')", "SELECT perf.cache_invalidate(key => 'k')",
                          "SELECT * FROM perf.cache_stats()"):
            self.assert_sql_error("25006", standby, statement)
        # What runs on the primary is not seen by a snapshot of the standby either.
        cluster.sql("CREATE TABLE t AS SELECT 1 AS n")
        with cluster.connect() as writer:
            writer.query("BEGIN; UPDATE t SET n = 2; SELECT perf.cache_invalidate(key => 'k')")
            cluster.sql("CREATE TABLE later (n int)")
            cluster.wait_for_replay(standby)
            before = standby.scalar("SELECT perf.cache_snapshot()::text")
            writer.query("COMMIT")
        late = "SELECT perf.cache_put('k', '1', snapshot => $1::text::pg_snapshot)"
        self.assertFalse(cluster.scalar(late, (before,)))
        cluster.wait_for_replay(standby)
        self.assertTrue(cluster.scalar(late, (standby.scalar("SELECT perf.cache_snapshot()::text"),)))
        standby.promote()
        self.wait_until(lambda: not standby.scalar("SELECT pg_is_in_recovery()"), 20, "the promotion")
        self.assertIsNone(standby.scalar("SELECT perf.cache_get('k')"))
        self.assertTrue(standby.scalar("SELECT perf.cache_put('k', '2')"))
        self.assertEqual(standby.scalar("SELECT perf.cache_get('k')"), 2)

    def test_without_preload(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": None})
        cluster.sql("CREATE EXTENSION perf_opt")
        self.assertTrue(cluster.scalar("SELECT perf.cache_put('k', '1')"))
        self.assertEqual(cluster.scalar("SELECT perf.cache_get('k')"), 1)
        self.assertEqual(cluster.scalar("SELECT perf.cache_invalidate(key => 'k')"), 1)
        self.assertEqual(cluster.sql("SELECT DISTINCT gets, hits FROM perf.cache_stats()"), [(None, None)])

    def test_dump_leaves_entries_out(self) -> None:
        self.sql("SELECT perf.cache_put('secret key', '\"secret value\"')")
        import subprocess
        dump = subprocess.run([self.cluster.program("pg_dump"), *self.cluster.psql_args(self.database)[1:]],
                              capture_output=True, text=True, check=True).stdout
        self.assertIn("EXTENSION", dump)
        self.assertNotIn("secret", dump)

    def test_texts_that_are_none(self) -> None:
        name = self.database + "_bytes"
        self.cluster.sql(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
        self.addCleanup(self.cluster.sql, f"DROP DATABASE {name} WITH (FORCE)")
        session = self.cluster.connect(name, client_encoding="SQL_ASCII")
        self.addCleanup(session.close)
        session.query("CREATE EXTENSION perf_opt; CREATE TABLE t (name text)")
        for call in ("cache_put(E'a\\xe8', '1')", "cache_get(E'a\\xe9')", "cache_put('k', '1', tags => ARRAY[E'\\xe8'])",
                     "cache_invalidate(key => E'a\\xe8')", "cache_invalidate(tag => E'\\xe8')"):
            with self.subTest(call), self.assertRaises(SqlError) as caught:
                session.query(f"SELECT perf.{call}")
            self.assertEqual(caught.exception.sqlstate, "22023")
        self.assertTrue(session.query("SELECT perf.cache_put(E'k:\\xc3\\xbc', '1')").scalar())
        self.assertEqual(session.query("SELECT perf.cache_get(E'k:\\xc3\\xbc')").scalar(), 1)
        # A change with such a value takes all keys of the template.
        session.query("SELECT perf.cache_watch('named', 't', keys => ARRAY['k:{name}'])")
        session.query("INSERT INTO t VALUES (E'a\\xe8')")
        self.wait_until(lambda: session.query("SELECT perf.cache_get(E'k:\\xc3\\xbc')").scalar() is None, 20, "the invalidation")

    def test_extension_dropped_and_made_again(self) -> None:
        session = self.session()
        self.assertTrue(put(session, "1"))
        self.sql("DROP EXTENSION perf_opt; CREATE EXTENSION perf_opt")
        self.assertIsNone(get(session))
        self.assertTrue(put(session, "2"))
        self.assertEqual(get(session), 2)


class Computed(CacheTest):
    """perf.cached()."""

    def setUp(self) -> None:
        super().setUp()
        self.sql("""CREATE SEQUENCE computations;
                    CREATE FUNCTION slow(n int) RETURNS int STABLE LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM pg_sleep(0.3), nextval('computations'); RETURN n; END $$;
                    ALTER FUNCTION slow(int) VOLATILE;
                    CREATE FUNCTION fixed_slow(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT slow(n)';
                    INSERT INTO perf.cache_policy (cache_name, key_template, ttl, compute_sql)
                    VALUES ('slow', 'slow:{n}', '1 h', 'SELECT fixed_slow({n}::int)')""")

    def computations(self) -> int:
        """How often something was computed."""
        return self.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM computations")

    def stampede(self, count: int) -> list[Any]:
        """What so many sessions get that ask at the same time."""
        sessions = [self.session() for _ in range(count)]
        for session in sessions:
            session.send_async("""SELECT perf.cached('slow', '{"n": 7}')""")
        return [session.wait(60).scalar() for session in sessions]

    def test_stampede(self) -> None:
        self.assertEqual(self.stampede(20), [7] * 20)
        self.assertEqual(self.computations(), 1)

    def test_stale_while_computed(self) -> None:
        self.sql("UPDATE perf.cache_policy SET ttl = '1 ms', max_stale = '1 h' WHERE cache_name = 'slow'")
        self.assertEqual(self.stampede(1), [7])
        self.assertEqual(self.stampede(10), [7] * 10)
        self.assertLess(self.computations(), 8)
        self.sql("UPDATE perf.cache_policy SET max_stale = NULL WHERE cache_name = 'slow'")
        self.assertEqual(self.stampede(2), [7] * 2)

    def test_failure_leaves_nothing(self) -> None:
        self.sql("UPDATE perf.cache_policy SET compute_sql = 'SELECT 1 / ({n}::int - 1)' WHERE cache_name = 'slow'")
        session, other = self.session(), self.session()
        for one in (session, other, session):
            with self.assertRaises(SqlError) as caught:
                one.query("""SELECT perf.cached('slow', '{"n": 1}')""")
            self.assertEqual(caught.exception.sqlstate, "22012")
        self.assertEqual(self.value("SELECT count(*) FROM perf.cache_entry"), 0)
        self.assertEqual(other.query("""SELECT perf.cached('slow', '{"n": 2}')""").scalar(), 1)

    def test_waiting_has_limits(self) -> None:
        one, other = self.session(), self.session()
        one.query("""BEGIN; SELECT perf.cached('slow', '{"n": 1}')""")
        # What waits for a commit only is waited for shortly, however long another would be.
        other.query("SET perf_opt.cache_wait = '1h'; SET statement_timeout = '20s'")
        self.assertEqual(other.query("""SELECT perf.cached('slow', '{"n": 1}')""").scalar(), 1)
        self.assertEqual(self.computations(), 2)
        # Whoever has computed something in this transaction waits for nobody.
        other.query("RESET lock_timeout; SET statement_timeout = '20s'")
        other.query("""BEGIN; SELECT perf.cached('slow', '{"n": 2}')""")
        self.assertEqual(other.query("""SELECT perf.cached('slow', '{"n": 1}')""").scalar(), 1)
        self.assertEqual(one.query("""SELECT perf.cached('slow', '{"n": 2}')""").scalar(), 2)
        one.query("COMMIT")
        other.query("COMMIT")

    def test_a_computation_is_waited_for_so_long(self) -> None:
        one, other = self.session(), self.session()
        self.sql("CREATE TABLE slept AS SELECT 3 AS s; "
                 "CREATE FUNCTION fixed_sleep(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
                 "$$ BEGIN PERFORM pg_sleep((SELECT s FROM slept)), nextval('computations'); RETURN n; END $$; "
                 "UPDATE perf.cache_policy SET compute_sql = 'SELECT fixed_sleep({n}::int)' WHERE cache_name = 'slow'")
        one.send_async("""SELECT perf.cached('slow', '{"n": 1}')""")
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 10, "the computation")
        other.query("SET perf_opt.cache_wait = '100ms'; SET statement_timeout = '20s'")
        self.sql("UPDATE slept SET s = 0")
        self.assertEqual(other.query("""SELECT perf.cached('slow', '{"n": 1}')""").scalar(), 1)
        self.assertEqual(self.value("SELECT state FROM pg_stat_activity WHERE query LIKE '%cached%' AND pid <> pg_backend_pid() "
                                    "AND state = 'active' AND datname = current_database()"), "active")
        self.assertEqual(one.wait(20).scalar(), 1)
        self.assertEqual(self.computations(), 2)

    def test_waiting_makes_no_deadlock(self) -> None:
        self.sql("CREATE TABLE t AS SELECT 1 AS n")
        one, other = self.session(), self.session()
        one.query("""BEGIN; SELECT perf.cached('slow', '{"n": 1}')""")
        other.query("SET deadlock_timeout = '10ms'; SET statement_timeout = '20s'; BEGIN; UPDATE t SET n = 2")
        one.query("SET deadlock_timeout = '10ms'")
        one.send_async("UPDATE t SET n = 3")
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_locks WHERE NOT granted"), 10, "one to wait for the other")
        self.assertEqual(other.query("""SELECT perf.cached('slow', '{"n": 1}')""").scalar(), 1)
        other.query("COMMIT")
        one.wait(20)
        one.query("COMMIT")

    def test_rights_are_the_callers(self) -> None:
        self.sql("CREATE TABLE secret AS SELECT 1 AS a; CREATE ROLE cache_asks LOGIN; "
                 "UPDATE perf.cache_policy SET compute_sql = 'SELECT a + {n}::int FROM secret' WHERE cache_name = 'slow'")
        self.addCleanup(self.cluster.sql, "DROP ROLE cache_asks")
        session = self.session("cache_asks")
        self.assertEqual(self.value("""SELECT perf.cached('slow', '{"n": 1}')"""), 2)
        with self.assertRaises(SqlError) as caught:
            session.query("""SELECT perf.cached('slow', '{"n": 1}')""")
        self.assertEqual(caught.exception.sqlstate, "42501")


class Meanings(CacheTest):
    """perf.cached() keeps nothing of one session's for another that means something else."""

    def policy(self, compute: str, template: str = "answer") -> None:
        """Makes what computes the answer, instead of what did so far."""
        self.sql("DELETE FROM perf.cache_policy WHERE cache_name = 'answer'; DELETE FROM perf.cache_entry")
        self.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, compute_sql) VALUES ('answer', $1, '1 h', $2)",
                 (template, compute))

    def stored(self) -> int:
        """How many entries there are."""
        return self.value("SELECT count(*) FROM perf.cache_entry")

    def test_what_depends_on_the_session_is_not_stored(self) -> None:
        self.sql("""CREATE TABLE orders (owner text, n int); INSERT INTO orders VALUES ('postgres', 1);
                    CREATE VIEW mine AS SELECT n FROM orders WHERE owner = current_user;
                    CREATE FUNCTION setting() RETURNS text STABLE LANGUAGE sql AS $$ SELECT current_setting('app.x', true) $$;
                    CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int)""")
        for compute in ("SELECT current_setting('app.x', true)", "SELECT n FROM mine", "SELECT session_user::text", "SELECT setting()",
                        "SELECT current_schema()::text", "SELECT total(n) FROM orders", "SELECT count(*) FROM pg_class WHERE false",
                        "SELECT inet_client_port() IS NULL", "SELECT n FROM (SELECT n FROM orders WHERE random() >= 0) AS o",
                        "SELECT 1 WHERE has_table_privilege('orders', 'SELECT')", "WITH w AS (SELECT user::text) SELECT * FROM w",
                        "SELECT pg_backend_pid() > 0", "SELECT count(*) FROM information_schema.tables WHERE false"):
            with self.subTest(compute):
                self.policy(compute)
                self.sql("SELECT perf.cached('answer')")
                self.assertEqual(self.stored(), 0)
        for compute in ("SELECT n FROM orders", "SELECT now()", "SELECT current_date", "SELECT jsonb_agg(o) FROM orders AS o",
                        "SELECT count(*) FROM orders WHERE date_trunc('day', now()) - interval '1 day' < now()"):
            with self.subTest(compute):
                self.policy(compute)
                self.sql("SELECT perf.cached('answer')")
                self.assertEqual(self.stored(), 1)

    def test_a_setting_of_a_tenant(self) -> None:
        self.policy("SELECT current_setting('app.tenant')")
        for tenant in ("A", "B"):
            session = self.session()
            session.query(f"SET app.tenant = '{tenant}'")
            self.assertEqual(session.query("SELECT perf.cached('answer')").scalar(), tenant)

    def test_a_role_that_is_shared(self) -> None:
        self.sql("""CREATE ROLE cache_grp; CREATE ROLE cache_alice LOGIN IN ROLE cache_grp; CREATE ROLE cache_bob LOGIN IN ROLE cache_grp;
                    CREATE TABLE orders (owner text, n int); INSERT INTO orders VALUES ('cache_alice', 1), ('cache_bob', 2);
                    CREATE VIEW mine AS SELECT n FROM orders WHERE owner = current_user; GRANT SELECT ON mine TO PUBLIC""")
        self.addCleanup(self.cluster.sql, "DROP ROLE cache_alice, cache_bob, cache_grp")
        self.policy("SELECT n FROM mine")
        for user, expected in (("cache_alice", 1), ("cache_bob", 2)):
            session = self.session(user)
            session.query("SET perf_opt.cache_role = 'cache_grp'")
            self.assertEqual(session.query("SELECT perf.cached('answer')").scalar(), expected)

    def test_another_search_path(self) -> None:
        self.sql("""CREATE SCHEMA t1; CREATE SCHEMA t2;
                    CREATE TABLE t1.orders AS SELECT 1 AS n; CREATE TABLE t2.orders AS SELECT 2 AS n;
                    CREATE FUNCTION t1.f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
                    CREATE FUNCTION t2.f() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2'""")
        session = self.session()
        for compute in ("SELECT n FROM orders", "SELECT f()"):
            self.policy(compute)
            for schema, expected in (("t1", 1), ("t2", 2), ("t1", 1)):
                session.query(f"SET search_path = {schema}")
                self.assertEqual(session.query("SELECT perf.cached('answer')").scalar(), expected)
                self.assertEqual(self.stored(), 1)
                # A key alone finds it only where names are looked for in the same places.
                self.assertEqual(get(session, "answer"), expected)
                session.query("SET search_path = public")
                self.assertIsNone(get(session, "answer"))

    def test_a_temporary_table_of_the_same_name(self) -> None:
        self.sql("CREATE TABLE orders AS SELECT 1 AS n")
        self.policy("SELECT n FROM orders")
        one, other = self.session(), self.session()
        self.assertEqual(one.query("SELECT perf.cached('answer')").scalar(), 1)
        other.query("CREATE TEMP TABLE orders AS SELECT 2 AS n")
        self.assertEqual(other.query("SELECT perf.cached('answer')").scalar(), 2)
        self.assertEqual(one.query("SELECT perf.cached('answer')").scalar(), 1)

    def test_another_zone(self) -> None:
        self.policy("SELECT to_char('2024-01-01 00:00+00'::timestamptz, 'HH24')")
        session = self.session()
        for zone, expected in (("UTC", "00"), ("Asia/Tokyo", "09")):
            session.query(f"SET timezone = '{zone}'")
            self.assertEqual(session.query("SELECT perf.cached('answer')").scalar(), expected)


class Upkeep(CacheTest):
    """What the collector does for the cache, and what it says of it."""

    def test_what_is_dead_is_removed(self) -> None:
        self.sql("SELECT perf.cache_put('k' || g, '1', '1 ms') FROM generate_series(1, 1000) g")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.cache_entry") == 0, 30, "expired entries to be removed")
        self.assertGreaterEqual(self.stats()["expired"], 1000)

    def test_the_cap_holds_and_what_is_read_stays(self) -> None:
        cluster = self.private_cluster({**FAST, "perf_opt.cache_max_mb": 1})
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("SELECT perf.cache_put('read', '\"me\"')")
        cluster.sql("SELECT perf.cache_get('read')")
        cluster.sql("""SELECT perf.cache_put('k' || g, to_jsonb((SELECT string_agg(md5(g::text || h), '') FROM generate_series(1, 20) h)))
                       FROM generate_series(1, 4000) g""")
        entries = "SELECT coalesce(sum(bytes), 0) <= 1 << 20 FROM perf.cache_stats()"
        self.wait_until(lambda: cluster.scalar(entries), 60, "the cache to fit its cap")
        self.assertEqual(cluster.scalar("SELECT perf.cache_get('read')"), "me")

    def test_hit_rate_is_a_metric_and_an_alert(self) -> None:
        self.sql("UPDATE perf.alert_threshold SET fire_after = 1 WHERE alert_name = 'result_cache_hit_rate'")
        self.sql("SELECT perf.cache_put('cache:risk:user:1', '1')")
        self.sql("SELECT count(perf.cache_get('cache:risk:user:' || g % 10)) FROM generate_series(1, 400) g")
        rates = dict(self.sql("SELECT object = current_database(), value FROM perf.metrics() WHERE name = 'result_cache_hit'"))
        self.assertEqual(set(rates), {True, False})
        self.assertTrue(all(8 <= rate <= 12 for rate in rates.values()), rates)
        firing = "SELECT status FROM perf.alerts(true) WHERE name = 'result_cache_hit_rate'"
        self.wait_until(lambda: self.value(firing) == "firing", 30, "the alert")
        self.assertEqual(self.stats("user_risk_score")["gets"], 400)

    def test_old_marks_are_forgotten_however_many(self) -> None:
        cluster = self.private_cluster(FAST)
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("SELECT perf.cache_put('stays', '1')")
        # Entry 800 depends on a mark that it has not seen; the others are not concerned.
        cluster.sql("INSERT INTO perf.cache_entry (id, owner, key, value, tags, depends, seen_below, not_seen, policy, value_bytes, put_at,"
                    " expires_at, keep_for, part, meaning, surroundings)"
                    " SELECT 8 * g, 10, 'k' || g, '1', '{}', ARRAY(SELECT g * 100::bigint + i FROM generate_series(1, 12) i), 1000000, '{}', 'x',"
                    " 10, now(), now() + interval '1 h', '0', 0, 0, 0 FROM generate_series(1, 10000) g")
        cluster.sql("INSERT INTO perf.cache_mark SELECT -g, 77, 10, now() - interval '2 h', 10, now() - interval '1 h'"
                    " FROM generate_series(1, 25000) g")
        cluster.sql("INSERT INTO perf.cache_mark VALUES (10001, 77, 1000001, now() - interval '2 h', 10, now() - interval '1 h')")
        cluster.restart()
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.cache_mark WHERE source = 77") == 0, 60, "the marks to go")
        self.assertEqual(cluster.scalar("SELECT count(*) FROM perf.cache_entry WHERE part = 0 AND key LIKE 'k%'"), 9_999)
        self.assertEqual(cluster.sql("SELECT 1 FROM perf.cache_entry WHERE key = 'k100'"), [])
        self.assertIsNone(re.search("statement timeout", cluster.log_text()))

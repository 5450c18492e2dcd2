"""Conversion of tables that are in use: what is the same afterwards, what others notice, and every way to be interrupted."""

from __future__ import annotations

import threading
import time
from typing import Any, Sequence

from .cluster import SqlError
from .convert_kill import CONVERT, STEPS, SUMS, TABLE, UNDO, UNDO_STEPS, Caller, Interruption
from .convert_schema import RICH, dump, sums
from .jobs_case import JobTest

SECONDS = 170

EVENTS = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), v int);
INSERT INTO events (at, v) SELECT timestamptz '2026-01-01 00:00+00' + g * interval '1 min', g FROM generate_series(1, 20000) g;
CREATE INDEX events_at ON events (at);
"""
STATE = "SELECT state FROM perf.partition_conversions"


class ConvertTest(JobTest):
    """Converts tables in a database of its own."""

    def call(self, sql: str, **options: Any) -> list[str]:
        """Runs a procedure; the messages it showed."""
        with self.cluster.connect(self.database, **options) as session:
            session.query(sql)
            return [notice["message"] for notice in session.notices]

    def convert(self, table: str = "events", control: str = "at", every: str = "month", more: str = "") -> list[str]:
        """Converts a table."""
        return self.call(f"CALL perf.partition_convert('{table}', '{control}', '{every}'{more})")

    def undo(self, table: str = "events") -> list[str]:
        """Makes it plain again."""
        return self.call(f"CALL perf.partition_convert_undo('{table}')")

    def dump(self) -> list[str]:
        """The schema of the database."""
        return dump(self.cluster, self.database)

    def partitions(self, table: str = "events") -> list[str]:
        """Names of a table's partitions."""
        return [row[0] for row in self.sql("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass "
                                           "ORDER BY inhrelid", (table,))]


class Whole(ConvertTest):
    """From one end to the other, and back."""

    def test_table_becomes_partitioned_and_plain_again(self) -> None:
        self.sql(EVENTS)
        before, rows = self.dump(), self.sql("SELECT count(*), sum(v), max(id) FROM events")
        filenode = self.value("SELECT pg_relation_filenode('events')")
        messages = self.convert()
        self.assertTrue(any("events is partitioned by at" in line for line in messages), messages)
        self.assertEqual(self.value("SELECT relkind FROM pg_class WHERE oid = 'events'::regclass"), "p")
        self.assertEqual(self.partitions()[0], "events_legacy")
        self.assertGreaterEqual(len(self.partitions()), 4)
        self.assertEqual(self.value("SELECT pg_relation_filenode('events_legacy')"), filenode)
        self.assertEqual(self.sql("SELECT count(*), sum(v), max(id) FROM events"), rows)
        # New rows have the next numbers, wherever they go.
        self.sql("INSERT INTO events (v) VALUES (1); INSERT INTO events (at, v) SELECT now() + interval '40 days', 2")
        self.assertEqual(self.sql("SELECT id, v FROM events WHERE id > 20000 ORDER BY id"), [(20001, 1), (20002, 2)])
        self.assertEqual(self.sql(STATE), [("converted",)])
        self.assertEqual(self.sql("SELECT * FROM perf.jobs"), [])
        self.assertIn("events is a plain table again; 1 rows were moved", "".join(self.undo()))
        self.assertEqual(self.dump(), before)
        self.assertEqual(self.sql("SELECT count(*), max(id) FROM events"), [(20002, 20002)])
        self.assertEqual(self.value("INSERT INTO events (v) VALUES (3) RETURNING id"), 20003)
        self.assertEqual(self.sql(STATE), [])

    def test_rich_table(self) -> None:
        self.sql(RICH.format(p=self.database))
        before, rows = self.dump(), sums(self.cluster, self.database)
        views = self.sql('SELECT * FROM "Shop".totals ORDER BY 1')
        self.convert('"Shop"."Orders"')
        self.assertEqual(sums(self.cluster, self.database), rows)
        self.assertEqual(self.sql('SELECT * FROM "Shop".totals ORDER BY 1'), views)
        self.undo('"Shop"."Orders"')
        self.assertEqual(self.dump(), before)
        self.assertEqual(sums(self.cluster, self.database), rows)

    def test_rich_table_works_as_before(self) -> None:
        self.sql(RICH.format(p=self.database))
        before = self.dump()
        self.convert('"Shop"."Orders"')
        clerk, reader = f"SET ROLE {self.database}_clerk; ", f"SET ROLE {self.database}_reader; "
        new = """INSERT INTO "Shop"."Orders" (at, customer, amount, code, note) VALUES ({at}, {customer}, 3, {code}, 'n') """
        # Identity and serial go on, the row trigger and the generated column are at work, wherever the row goes.
        last = self.value("""SELECT max(id) FROM "Shop"."Orders" """)
        for at, partition in (("now()", "legacy"), ("now() + interval '70 days'", "p2")):
            self.sql(clerk + new.format(at=at, customer=5, code="'new' || " + at))
            row, = self.sql("""SELECT id, number, note, taxed::float8, tableoid::regclass::text FROM "Shop"."Orders"
                               ORDER BY id DESC LIMIT 1""")
            self.assertGreater(row[0], last)
            last = row[0]
            self.assertEqual((row[2], row[3]), ("n.", 3.57))
            self.assertIn(partition, row[4])
        self.assertEqual(self.value("""SELECT max(number) FROM "Shop"."Orders" """), 2002)
        # Statement triggers fire once, row triggers for each row.
        self.assertEqual(self.sql("""SELECT what FROM "Shop".audit WHERE what LIKE '%INSERT%'"""),
                         [("Told INSERT Orders",)] * 3)
        self.sql("""DELETE FROM "Shop"."Orders" WHERE id >= (SELECT max(id) FROM "Shop"."Orders")""")
        self.assertEqual(self.value("""SELECT count(*) FROM "Shop".audit WHERE what LIKE 'told_late DELETE%'"""), 1)
        self.assertEqual(self.value("""SELECT count(*) FROM "Shop".audit WHERE what LIKE 'told_off%'"""), 0)
        # Privileges and policies.
        for user, sql in ((clerk, new.format(at="now()", customer=6, code="'x1'")), (reader, new.format(at="now()", customer=1, code="'x2'")),
                          (clerk, """DELETE FROM "Shop"."Orders" """), (reader, """SELECT nextval('"Shop"."Orders_id_seq"')"""),
                          (clerk, """UPDATE "Shop"."Orders" SET code = 'y' """)):
            self.assert_sql_error("42501", self.cluster, user + sql, dbname=self.database)
        self.assertEqual(self.sql(reader + """SELECT count(*), max(amount)::int FROM "Shop"."Orders" """)[0][1], 99)
        self.sql(clerk + """SELECT nextval('"Shop"."Orders_number_seq"')""")
        # Constraints.
        for sqlstate, sql in (("23503", new.format(at="now()", customer=77, code="'z'")),
                              ("23514", """UPDATE "Shop"."Orders" SET amount = -1"""),
                              ("23505", """INSERT INTO "Shop"."Orders" (id, at, customer) SELECT id, at, customer FROM "Shop"."Orders" LIMIT 1"""),
                              ("44000", """INSERT INTO "Shop".big (id, at, customer, amount) VALUES (1, now(), 1, 2)""")):
            self.assert_sql_error(sqlstate, self.cluster, sql, dbname=self.database)
        self.sql("""DELETE FROM "Shop".customers WHERE id = 10""")
        self.assertEqual(self.value("""SELECT count(*) FROM "Shop"."Orders" WHERE customer = 10"""), 0)
        # The view reads all of it, and is the caller's to write through.
        self.sql("""INSERT INTO "Shop".big (id, at, customer) VALUES (1, now() + interval '70 days', 1)""")
        self.assertEqual(self.value("""SELECT amount::int FROM "Shop".big WHERE id = 1"""), 60)
        # The server's own versions of columns are not another table's.
        copied = self.value("""SELECT count(*) FROM pg_attribute a JOIN pg_attribute b ON b.attname = a.attname, unnest(a.attoptions) v
            WHERE a.attrelid = '"Shop"."Orders"'::regclass AND v LIKE 'pg\\_%' AND v = ANY (b.attoptions) AND b.attrelid <> a.attrelid
              AND b.attrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = a.attrelid)""")
        self.assertEqual(copied, 0)
        self.assertEqual(self.sql("""SELECT o FROM pg_attribute, unnest(attoptions) o WHERE attname = 'customer'
            AND attrelid = '"Shop"."Orders"'::regclass AND o NOT LIKE 'pg\\_%'"""), [("n_distinct=10",)])
        self.undo('"Shop"."Orders"')
        self.assertEqual(self.dump(), before)

    def test_kinds_of_keys(self) -> None:
        for name, column, value in (("d", "date", "at::date"), ("t", "timestamp", "at"), ("s", "bigint", "extract(epoch FROM at)"),
                                    ("ms", "bigint", "extract(epoch FROM at) * 1000"),
                                    ("u", "uuid", "(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || "
                                                  "substr(md5(at::text), 1, 3) || '8' || substr(md5(at::text), 4, 15))::uuid")):
            with self.subTest(name):
                self.sql(f"CREATE TABLE k_{name} (id int, c {column} PRIMARY KEY)")
                insert = (f"INSERT INTO k_{name} SELECT g, {value} FROM (SELECT g, timestamptz '2026-01-01 00:00+00' + g * "
                          "interval '1 day' AS at FROM generate_series({}, {}) g) x")
                self.sql(insert.format(1, 300))
                before = self.dump()
                self.convert(f"k_{name}", "c", "month")
                days = self.value("SELECT (now()::date - date '2026-01-01') + 60")
                self.sql(insert.format(days, days + 20))
                self.assertGreater(self.value(f"SELECT count(DISTINCT tableoid) FROM k_{name}"), 1)
                self.assertIn("21 rows were moved", "".join(self.undo(f"k_{name}")))
                self.assertEqual(self.dump(), before)
                self.assertEqual(self.value(f"SELECT count(*) FROM k_{name}"), 321)

    def test_member_of_the_owner_converts(self) -> None:
        one, other = f"{self.database}_o", f"{self.database}_m"
        self.sql(f"CREATE ROLE {one}; CREATE ROLE {other} LOGIN IN ROLE {one}; GRANT ALL ON SCHEMA public TO {one}")
        self.sql(EVENTS + f"ALTER TABLE events OWNER TO {one}")
        before = self.dump()
        self.call("CALL perf.partition_convert('events', 'at', 'month')", user=other)
        owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname ~ '^events' AND relkind IN ('r', 'p', 'S')"
        self.assertEqual(self.sql(owners), [(one,)])
        self.call("CALL perf.partition_convert_undo('events')", user=other)
        self.assertEqual(self.dump(), before)
        self.sql(f"DROP OWNED BY {one}; DROP ROLE {other}; DROP OWNED BY {one}; DROP ROLE {one}")

    def test_forced_row_security_hides_nothing_from_the_way_back(self) -> None:
        self.sql(EVENTS)
        self.sql("ALTER TABLE events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON events USING (v < 100)")
        before = self.dump()
        self.convert()
        self.sql("INSERT INTO events (at, v) SELECT now() + interval '50 days', g FROM generate_series(90, 110) g")
        self.undo()
        self.assertEqual(self.dump(), before)
        self.assertEqual(self.value("SELECT count(*) FROM events"), 20021)


class InUse(ConvertTest):
    """While others are at work."""

    time_limit = 240.0

    def test_nothing_is_lost_and_nobody_fails(self) -> None:
        self.sql(EVENTS + "CREATE TABLE written (id bigint PRIMARY KEY, v int); INSERT INTO written SELECT id, v FROM events; "
                          "CREATE VIEW latest AS SELECT id, v FROM events WHERE v < 0")
        stop, errors, done = threading.Event(), [], [0]

        def client(number: int) -> None:
            try:
                with self.cluster.connect(self.database) as session:
                    session.query("PREPARE change AS UPDATE events SET v = $2 WHERE id = $1")
                    while not stop.is_set():
                        session.query(f"WITH e AS (INSERT INTO events (v) VALUES (-{number}) RETURNING id, v) INSERT INTO written "
                                      "SELECT * FROM e")
                        at = 1 + (done[0] * 7919 + number) % 20000
                        session.query(f"BEGIN; SELECT v FROM written WHERE id = {at} FOR UPDATE; EXECUTE change({at}, {done[0]}); "
                                      f"UPDATE written SET v = {done[0]} WHERE id = {at}; COMMIT")
                        session.query(f"SELECT v FROM events WHERE id = {at}")
                        session.query("SELECT count(*) FROM latest WHERE id > 30000")
                        done[0] += 1
            except Exception as problem:  # whatever it is, the client would have seen it
                errors.append(problem)

        clients = [threading.Thread(target=client, args=(number,)) for number in range(1, 5)]
        for thread in clients:
            thread.start()
        try:
            for _ in range(3):
                self.convert()
                self.undo()
            self.convert()
        finally:
            stop.set()
            for thread in clients:
                thread.join()
        self.assertEqual(errors, [])
        self.assertGreater(done[0], 20)
        self.assertEqual(self.value("SELECT count(*) FROM events FULL JOIN written USING (id) WHERE events.v IS DISTINCT FROM written.v"), 0)
        self.assertEqual(self.value("SELECT count(*) - count(DISTINCT id) FROM events"), 0)

    def test_gives_up_in_time_and_says_who_is_in_the_way(self) -> None:
        self.sql(EVENTS)
        before = self.dump()
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN; SELECT count(*) FROM events")
            pid = reader.query("SELECT pg_backend_pid()").scalar()
            started = time.monotonic()
            with self.assertRaises(SqlError) as caught:
                self.convert(more=", give_up_after => '1500 ms', max_lock => '20 ms'")
            self.assertLess(time.monotonic() - started, 20)
            # Others were not held up, but for 20 ms at a time.
            self.sql("SET statement_timeout = '2 s'; SELECT count(*) FROM events; INSERT INTO events (v) VALUES (1)")
            reader.query("COMMIT")
        self.assertEqual(caught.exception.sqlstate, "55P03")
        self.assertIn(str(pid), caught.exception.message)
        self.convert()
        self.undo()
        self.assertEqual(self.dump(), before)

    def test_cancelled_statement_cancels_the_run_and_calling_again_goes_on(self) -> None:
        self.sql(EVENTS)
        before = self.dump()
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO events (v) VALUES (0)")
            caller = Caller(self.cluster, "CALL perf.partition_convert('events', 'at', 'month')", self.database)
            # The index build waits for the writer.
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1, 20, "the index build")
            self.wait_until(lambda: any("under way" in row[0] for row in self.sql(
                "SELECT 'under way' FROM pg_stat_activity WHERE backend_type = 'perf_opt job' AND datname = current_database()")),
                10, "the run")
            self.sql("SELECT pg_cancel_backend($1::int)", (caller.pid,))
            caller.ended()
            self.assertEqual(caller.error.sqlstate, "57014")
            self.wait_until(lambda: self.value("SELECT status FROM perf.job_runs ORDER BY run_id DESC LIMIT 1") == "cancelled", 20,
                            "the run's end")
            writer.query("ROLLBACK")
        self.assertEqual(self.sql(STATE), [("converting",)])
        self.assertEqual(self.sql("SELECT * FROM perf.jobs"), [])
        self.convert()
        self.assertEqual(self.sql(STATE), [("converted",)])
        self.undo()
        self.assertEqual(self.dump(), before)

    def test_undo_of_what_was_begun(self) -> None:
        self.sql(EVENTS)
        before = self.dump()
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN; SELECT FROM events LIMIT 1")
            with self.assertRaises(SqlError):
                self.convert(more=", give_up_after => '300 ms', max_lock => '20 ms'")
            reader.query("COMMIT")
        self.assertEqual(self.sql(STATE), [("converting",)])
        self.undo()
        self.assertEqual(self.dump(), before)
        self.assertEqual(self.sql(STATE), [])

    def test_long_step_is_shown(self) -> None:
        self.sql(EVENTS)
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO events (v) VALUES (0)")
            caller = Caller(self.cluster, "CALL perf.partition_convert('events', 'at', 'month')", self.database)
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1, 20, "the index build")
            step = "under way: CREATE UNIQUE INDEX CONCURRENTLY"
            self.wait_until(lambda: any(line.startswith(step) for line in caller.messages), 20, "word of it")
            writer.query("COMMIT")
        caller.ended()
        self.assertIsNone(caller.error)
        shown = [line for line in caller.messages if line.startswith(step)]
        self.assertTrue(shown and "waiting for writers" in shown[0], caller.messages)

    def test_second_caller_follows_the_same_run(self) -> None:
        self.sql(EVENTS)
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO events (v) VALUES (0)")
            callers = [Caller(self.cluster, "CALL perf.partition_convert('events', 'at', 'month')", self.database)]
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1, 20, "the index build")
            callers.append(Caller(self.cluster, "CALL perf.partition_convert('events', 'at', 'month')", self.database))
            self.assert_sql_error("55000", self.cluster, UNDO, dbname=self.database)
            self.assert_sql_error("55000", self.cluster, "CALL perf.partition_convert('events', 'at', 'day')", dbname=self.database)
            writer.query("COMMIT")
        for caller in callers:
            self.assertIsNone(caller.ended().error)
        self.assertEqual(self.value("SELECT count(*) FROM perf.job_runs"), 1)

    def test_several_statements_at_once_are_a_transaction_block(self) -> None:
        self.sql(EVENTS)
        self.assert_sql_error("25001", self.cluster, "SELECT 1; CALL perf.partition_convert('events', 'at', 'month')",
                              dbname=self.database)
        self.assertEqual(self.sql(STATE), [])

    def test_rows_that_come_for_the_far_future(self) -> None:
        self.sql(EVENTS + "INSERT INTO events (at, v) VALUES (now() + interval '2 years', 1)")
        self.convert()
        self.sql("INSERT INTO events (at, v) VALUES (now() + interval '2 years 1 day', 1)")
        self.sql("INSERT INTO events (at, v) VALUES (now() + interval '2 years 60 days', 1)")

    def test_undo_fails_where_a_key_has_come_twice_and_goes_on_later(self) -> None:
        self.sql(EVENTS)
        before = self.dump()
        self.convert()
        self.sql("INSERT INTO events (id, at) OVERRIDING SYSTEM VALUE VALUES (7, now())")
        self.assert_sql_error("23505", self.cluster, UNDO, dbname=self.database)
        self.assertEqual(self.sql(STATE), [("undoing",)])
        self.sql("DELETE FROM events WHERE id = 7 AND v IS NULL")
        self.undo()
        self.assertEqual(self.dump(), before)

    def test_undo_refuses_what_it_cannot_point_back(self) -> None:
        self.sql(EVENTS)
        self.convert()
        self.sql("CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM events")
        error = self.assert_sql_error("0A000", self.cluster, UNDO, dbname=self.database)
        self.assertIn("kept", str(error))
        self.assertEqual(self.sql(STATE), [("converted",)])


class Guarded(ConvertTest):
    """Rows that could be lost, and what a failure leaves behind."""

    time_limit = 240.0

    def test_undo_refuses_a_pending_detach(self) -> None:
        self.sql(EVENTS)
        before = self.dump()
        self.convert()
        self.sql("INSERT INTO events (at, v) SELECT now() + interval '50 days', g FROM generate_series(1, 10) g")
        partition = self.value("SELECT DISTINCT tableoid::regclass::text FROM events WHERE at > now() + interval '1 day'")
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as detacher:
            reader.query("BEGIN; SELECT FROM events LIMIT 1")
            detacher.query("SET lock_timeout = '500 ms'")
            with self.assertRaises(SqlError):
                detacher.query(f"ALTER TABLE events DETACH PARTITION {partition} CONCURRENTLY")
            reader.query("COMMIT")
        self.assertEqual(self.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending"), 1)
        error = self.assert_sql_error("55000", self.cluster, UNDO, dbname=self.database)
        self.assertIn(partition, str(error))
        self.assertEqual((self.sql(STATE), self.value(f"SELECT count(*) FROM {partition}")), ([("converted",)], 10))
        self.sql(f"ALTER TABLE events DETACH PARTITION {partition} FINALIZE")
        self.undo()
        self.assertEqual(self.value(f"SELECT count(*) FROM {partition}"), 10)
        self.sql(f"DROP TABLE {partition}")
        self.assertEqual(self.dump(), before)

    def test_undo_says_what_it_moves_and_waits_for_older_snapshots(self) -> None:
        self.sql(EVENTS + "CREATE TABLE other (a int)")
        self.convert()
        self.sql("INSERT INTO events (at, v) SELECT now() + interval '50 days', g FROM generate_series(1, 10) g; ANALYZE events")
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM other")
            pid = reader.query("SELECT pg_backend_pid()").scalar()
            with self.assertRaises(SqlError) as caught:
                self.call("CALL perf.partition_convert_undo('events', give_up_after => '2 s')")
            self.assertEqual(caught.exception.sqlstate, "55P03")
            self.assertIn(f"older snapshot is held by process {pid}", caught.exception.message)
            self.assertEqual(reader.query("SELECT count(*) FROM events").scalar(), 20010)
            reader.query("COMMIT")
        self.assertIn("about 10 rows by their statistics) will be moved into public.events_legacy", "".join(self.undo()))
        self.assertEqual(self.value("SELECT count(*) FROM events"), 20010)

    def test_undo_without_rows_to_move_waits_for_no_snapshot(self) -> None:
        self.sql(EVENTS.replace(" PRIMARY KEY", "") + "CREATE TABLE other (a int)")
        self.convert()
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM other")
            self.assertNotIn("will be moved", "".join(self.undo()))
            self.assertEqual(reader.query("SELECT count(*) FROM events").scalar(), 20000)

    def held_swap(self, more: str) -> None:
        """Converts a table that a reader holds as soon as its rows are known to fit."""
        self.sql(EVENTS)
        # Holds the job before the swap, while the reader comes.
        self.sql("CREATE TABLE gate (a int); CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                 "IF NEW.detail ->> 'doing' = 'the swap' THEN PERFORM pg_advisory_xact_lock(4712); END IF; RETURN NEW; END $$; "
                 "CREATE TRIGGER gate BEFORE UPDATE ON perf.job_run FOR EACH ROW EXECUTE FUNCTION public.gate()")
        self.holder = self.cluster.connect(self.database)
        self.addCleanup(self.holder.close)
        self.holder.query("SELECT pg_advisory_lock(4712)")
        self.caller = Caller(self.cluster, f"CALL perf.partition_convert('events', 'at', 'month'{more})", self.database)
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == 1, 60,
                        "the swap")
        self.assertEqual(self.value("SELECT count(*) FROM pg_constraint WHERE conname = 'perf_convert_bound'"), 1)

    FAR = "INSERT INTO events (at, v) VALUES (now() + interval '5 years', 1)"

    def test_failure_leaves_no_check_that_refuses_rows(self) -> None:
        self.held_swap(", give_up_after => '1 s'")
        self.holder.query("BEGIN; SELECT FROM events LIMIT 1; SELECT pg_advisory_unlock(4712)")
        # The reader goes after the swap has given up.
        self.wait_until(lambda: self.value(
            "SELECT count(*) FROM perf.partition_conversions WHERE step = 'bound' AND clock_timestamp() > started_at + interval '3 s'")
            == 1, 30, "the failure")
        self.holder.query("COMMIT")
        self.assertEqual(self.caller.ended().error.sqlstate, "55P03")
        self.sql(self.FAR)
        self.sql("DROP TRIGGER gate ON perf.job_run")
        self.convert()
        self.assertEqual(self.value("SELECT count(*) FROM events_legacy"), 20001)

    def test_check_that_cannot_be_dropped_is_named(self) -> None:
        self.held_swap(", give_up_after => '1 s'")
        self.holder.query("BEGIN; SELECT FROM events LIMIT 1; SELECT pg_advisory_unlock(4712)")
        error = self.caller.ended(120).error
        self.assertEqual(error.sqlstate, "55P03")
        self.assertIn("ALTER TABLE public.events DROP CONSTRAINT perf_convert_bound;", error.hint)
        self.holder.query("COMMIT")

    def test_cancelled_run_leaves_no_check(self) -> None:
        self.held_swap("")
        self.sql("SELECT perf.job_cancel(run_id) FROM perf.job_runs WHERE status = 'running'")
        self.assertIsNotNone(self.caller.ended().error)
        self.assertEqual(self.value("SELECT status FROM perf.job_runs"), "cancelled")
        self.sql(self.FAR)

    def test_rows_without_a_value_that_come_meanwhile(self) -> None:
        self.sql("CREATE TABLE n (id int, at timestamptz); INSERT INTO n SELECT g, now() FROM generate_series(1, 10) g; "
                 "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.detail ->> 'doing' LIKE "
                 "'ALTER TABLE%ADD CONSTRAINT perf_convert_not_null%' THEN INSERT INTO public.n VALUES (0, NULL); END IF; "
                 "RETURN NEW; END $$; "
                 "CREATE TRIGGER late BEFORE UPDATE ON perf.job_run FOR EACH ROW EXECUTE FUNCTION public.late()")
        error = self.assert_sql_error("23514", self.cluster, "CALL perf.partition_convert('n', 'at', 'month')", dbname=self.database)
        self.assertIn("rows of public.n with NULL in at have come meanwhile", str(error))
        self.assertEqual(self.value("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'perf_convert%'"), 0)
        self.sql("DROP TRIGGER late ON perf.job_run; DELETE FROM n WHERE at IS NULL")
        self.convert("n")

    def test_names_where_the_database_is_not_in_utf8(self) -> None:
        self.database = "convert_latin1"
        self.cluster.sql(f"CREATE DATABASE {self.database} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        self.addCleanup(self.cluster.sql, f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
        self.sql('CREATE EXTENSION perf_opt; CREATE TABLE "té" (id int PRIMARY KEY, "àt" timestamptz NOT NULL, v int); '
                 """INSERT INTO "té" SELECT g, now(), g FROM generate_series(1, 100) g""")
        self.convert('"té"', "àt")
        self.sql("""INSERT INTO "té" VALUES (101, now() + interval '50 days', 1)""")
        self.assertEqual(self.sql("SELECT relation, control, first_partition FROM perf.partition_conversions"),
                         [('public."té"', "àt", 'public."té_legacy"')])
        self.assertIn("1 rows were moved", "".join(self.undo('"té"')))
        self.assertEqual(self.value('SELECT count(*) FROM "té"'), 101)
        self.assertEqual(self.sql("SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' AND "
                                  """conrelid = '"té"'::regclass"""), [("té_pkey", "PRIMARY KEY (id)")])


class Crash(ConvertTest):
    """kill -9 before each step, there and back: every other one on each version."""

    uses_shared_cluster = False
    expects_crash = True
    time_limit = 900.0

    def setUp(self) -> None:
        super().setUp()
        self.database = "postgres"
        self.server = self.private_cluster(self.settings)
        self.server.sql("CREATE EXTENSION perf_opt")
        self.killing = Interruption(self.server)

    def fresh(self) -> tuple[list[str], tuple]:
        """A new table; the schema and its checksum."""
        self.server.sql(TABLE)
        return dump(self.server, "postgres"), self.server.sql(SUMS)[0]

    def share(self, steps: Sequence[str]) -> Sequence[str]:
        """Every other step: what one version leaves out the next one does, and a conversion is the same on all."""
        return steps[self.server.major % 2::2]

    def test_killed_conversion_goes_on_by_itself(self) -> None:
        for step in self.share(STEPS):
            with self.subTest(step):
                before, sums_before = self.fresh()
                self.killing.kill_before(CONVERT, step)
                self.assertEqual(self.killing.settle(), "succeeded")
                self.assertEqual(self.server.sql("SELECT state, step FROM perf.partition_conversions"), [("converted", "ahead")])
                self.assertEqual(self.server.sql(SUMS)[0], sums_before)
                self.server.sql(UNDO)
                self.assertEqual(dump(self.server, "postgres"), before)
                self.assertEqual(self.server.sql(SUMS)[0], sums_before)

    def test_killed_conversion_is_undone(self) -> None:
        for step in self.share(STEPS):
            with self.subTest(step):
                before, sums_before = self.fresh()
                self.killing.kill_before(CONVERT, step)
                # Whether or not it has gone on meanwhile.
                self.killing.settle()
                self.server.sql(UNDO)
                self.assertEqual(dump(self.server, "postgres"), before)
                self.assertEqual(self.server.sql(SUMS)[0], sums_before)

    def test_killed_undo_goes_on_by_itself(self) -> None:
        for step in self.share(UNDO_STEPS):
            with self.subTest(step):
                before, sums_before = self.fresh()
                self.server.sql(CONVERT)
                self.killing.kill_before(UNDO, step)
                self.assertEqual(self.killing.settle(), "succeeded")
                self.assertEqual(dump(self.server, "postgres"), before)
                self.assertEqual(self.server.sql(SUMS)[0], sums_before)

    def test_killed_in_the_middle(self) -> None:
        """While an index is built, and in the open transaction of the swap, there and back."""
        more = "('events', 'at', 'month', max_lock => '1 min')"
        before, sums_before = self.fresh()
        for hold, call, what in (("INSERT INTO events (at) VALUES ('2026-01-01 00:00+00')", CONVERT, "building"),
                                 ("SELECT FROM events", f"CALL perf.partition_convert{more}", "waiting"),
                                 ("SELECT FROM events", "CALL perf.partition_convert_undo('events', max_lock => '1 min')", "waiting")):
            with self.subTest(call=call, what=what):
                if what == "building":
                    holder = self.server.connect()
                    holder.query(f"BEGIN; {hold}")
                    caller = Caller(self.server, call)
                    pid = self.wait_until(lambda: self.server.sql(
                        "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'"), 20, "the build")[0][0]
                else:
                    holder = self.server.connect()
                    step = "the swap back" if "undo" in call else "the swap"
                    self.server.sql("INSERT INTO hold VALUES ($1)", (step,))
                    holder.query("SELECT pg_advisory_lock(4711)")
                    caller = Caller(self.server, call)
                    self.wait_until(self.killing.worker, 60, step)
                    self.server.sql("DELETE FROM hold")
                    holder.query(f"BEGIN; {hold}")
                    holder.query("SELECT pg_advisory_unlock(4711)")
                    pid = self.wait_until(lambda: self.server.sql(
                        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'perf_opt job' AND wait_event = 'relation'"), 20,
                        "the wait in the swap")[0][0]
                self.killing.kill(pid)
                caller.ended()
                self.assertEqual(self.killing.settle(), "succeeded")
                self.assertEqual(self.server.sql(SUMS)[0], sums_before)
                if what == "building":
                    self.server.sql(UNDO)
        self.assertEqual(dump(self.server, "postgres"), before)


class Elsewhere(ConvertTest):
    """Where no job can run."""

    uses_shared_cluster = False

    def test_needs_preloading(self) -> None:
        server = self.private_cluster({"shared_preload_libraries": ""})
        server.sql("CREATE EXTENSION perf_opt")
        server.sql(EVENTS)
        self.assertGreater(server.scalar("SELECT count(*) FROM perf.partition_convert_plan('events', 'at', 'month')"), 3)
        self.assert_sql_error("55000", server, CONVERT)
        self.assert_sql_error("55000", server, UNDO)

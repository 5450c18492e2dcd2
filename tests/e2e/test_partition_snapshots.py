"""Rows that move between tables while others have snapshots: nobody is told too little."""

from __future__ import annotations

import threading
from typing import Any

from .cluster import SqlError
from .test_partition_expiry import JANUARY, ExpiryTest
from .test_partitions import PartitionTest

SECONDS = 50

# Rows are checked as slowly as a row of `hold` says, and only where a job moves them.
GATE = """
CREATE TABLE hold (n int); CREATE TABLE other (n int); INSERT INTO other VALUES (1);
CREATE FUNCTION gate(bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') LIKE 'perf_opt job%' THEN
        WHILE EXISTS (SELECT FROM public.hold) LOOP PERFORM pg_sleep(0.01); END LOOP;
    END IF;
    RETURN true;
END $$;
"""
EVENTS = GATE + """
CREATE TABLE ev (id bigint, at timestamptz NOT NULL, CHECK (gate(id))) PARTITION BY RANGE (at);
CREATE TABLE ev_d PARTITION OF ev DEFAULT;
INSERT INTO ev SELECT g, '2026-03-05' FROM generate_series(1, 500) g;
"""
MONTH = "SELECT count(*) FROM ev WHERE at >= '2026-03-02' AND at < '2026-03-20'"
TICK = "SELECT * FROM perf.partition_tick('ev', '2026-03-10')"
UNDO = "CALL perf.partition_convert_undo('p', max_lock => '3 s')"


class SnapshotTest(PartitionTest):
    """What the tests below share."""

    def script(self, text: str) -> None:
        """Several statements."""
        with self.cluster.connect(self.database) as session:
            session.query(text)

    def hold(self) -> None:
        """Has rows wait in the middle of their move."""
        self.sql("INSERT INTO hold VALUES (1)")

    def wait_for_move(self) -> None:
        """Until a job moves rows."""
        self.wait_until(lambda: self.sql("SELECT FROM pg_stat_activity WHERE application_name LIKE 'perf_opt job%' AND wait_event = 'PgSleep'"
                                         " AND datname = current_database()"), 30, "rows to move")

    def wait_for_lock(self, pid: int) -> None:
        """Until a session waits for a lock."""
        self.wait_until(lambda: self.sql(f"SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"), 30, "a wait")


class RotationSnapshots(SnapshotTest):
    """Rows that leave a default partition."""

    time_limit = 120.0

    def setUp(self) -> None:
        super().setUp()
        self.script(EVENTS)
        self.manage("ev", premake=1)

    def test_a_snapshot_taken_while_rows_move_is_given_way_to(self) -> None:
        self.hold()
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as ticker:
            ticker.send_async(TICK)
            self.wait_for_move()
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.assertEqual(reader.query("SELECT count(*) FROM other").scalar(), 1)
            self.sql("DELETE FROM hold")
            self.assertEqual(reader.query(MONTH).scalar(), 500)
            reader.query("COMMIT")
            self.assertEqual({row[2] for row in ticker.wait(60).rows}, {"done"})
        self.assertEqual(self.value(MONTH), 500)

    def test_one_statement_may_read_the_table_late(self) -> None:
        self.script(f"CREATE FUNCTION late() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN PERFORM pg_advisory_lock(4712);"
                    f" RETURN ({MONTH}); END $$")
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as reader:
            holder.query("SELECT pg_advisory_lock(4712)")
            pid = reader.query("SELECT pg_backend_pid()").scalar()
            reader.send_async("SELECT late()")
            self.wait_for_lock(pid)
            steps = self.tick("ev")
            self.assertEqual([(step["step"], step["status"]) for step in steps], [("create", "failed")])
            self.assertIn(f"process {pid}", steps[0]["detail"])
            holder.query("SELECT pg_advisory_unlock(4712)")
            self.assertEqual(reader.wait(30).scalar(), 500)
        self.assertEqual({step["status"] for step in self.tick("ev")}, {"done"})
        self.assertEqual(self.value(MONTH), 500)

    def test_a_statement_that_asks_for_the_move_is_refused_to_read_what_it_misses(self) -> None:
        self.script(f"CREATE FUNCTION seen() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN ({MONTH}); END $$")
        with self.assertRaises(SqlError) as refused:
            self.sql("SELECT t.status, seen() FROM perf.partition_tick('ev', '2026-03-10') t")
        self.assertEqual(refused.exception.sqlstate, "40001")
        self.assertIn("rows of public.ev have been moved", str(refused.exception))
        self.assertIsNotNone(self.value("SELECT to_regclass('ev_p2026_03')"))
        self.assertEqual(self.sql(f"SELECT seen(), ({MONTH})"), [(500, 500)])

    def test_who_only_adds_rows_or_sees_the_move_is_not_refused(self) -> None:
        self.script("CREATE FUNCTION add() RETURNS text LANGUAGE sql AS $$ INSERT INTO ev VALUES (0, '2026-03-06') RETURNING 'added' $$")
        rows = self.sql("SELECT t.status, add(), (SELECT count(*) FROM ev_d WHERE id < 0) FROM perf.partition_tick('ev', '2026-03-10') t LIMIT 1")
        self.assertEqual(rows, [("done", "added", 0)])
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.assertEqual([reader.query(MONTH).scalar() for _ in range(2)], [501, 501])

    def test_a_move_that_is_taken_back_refuses_nobody(self) -> None:
        with self.cluster.connect(self.database) as mover, self.cluster.connect(self.database) as reader:
            mover.query("BEGIN; CREATE TABLE mine (n int)")
            self.assertEqual({row[2] for row in mover.query(TICK).rows}, {"done"})
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other")
            mover.query("ROLLBACK")
            self.assertEqual(reader.query(MONTH).scalar(), 500)

    def test_a_snapshot_taken_before_the_caller_commits_is_refused(self) -> None:
        with self.cluster.connect(self.database) as mover, self.cluster.connect(self.database) as reader:
            mover.query("BEGIN; CREATE TABLE mine (n int)")
            self.assertEqual({row[2] for row in mover.query(TICK).rows}, {"done"})
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other")
            mover.query("COMMIT")
            with self.assertRaises(SqlError) as refused:
                reader.query(MONTH)
            self.assertEqual(refused.exception.sqlstate, "40001")
            reader.query("ROLLBACK")
            self.assertEqual(reader.query(MONTH).scalar(), 500)

    def test_inside_of_a_transaction_each_try_looks_anew(self) -> None:
        with self.cluster.connect(self.database) as mover, self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM other")
            mover.query("BEGIN; CREATE TABLE mine (n int)")
            pid = mover.query("SELECT pg_backend_pid()").scalar()
            mover.send_async(TICK)
            # It rests between tries.
            self.wait_until(lambda: self.sql(f"SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'Extension'"), 30, "a rest")
            reader.query("COMMIT")
            self.assertEqual({row[2] for row in mover.wait(60).rows}, {"done"})
            mover.query("COMMIT")
        self.assertEqual(self.value(MONTH), 500)

    def test_it_gets_on_among_many_short_transactions(self) -> None:
        stop: list[int] = []
        faults: list[Any] = []

        def work(number: int) -> None:
            with self.cluster.connect(self.database) as session:
                while not stop:
                    try:
                        if number % 2:
                            session.query("BEGIN; INSERT INTO other VALUES (2)")
                            session.query("INSERT INTO ev VALUES (0, '2026-03-06')")
                            seen = session.query(MONTH).scalar()
                            session.query("COMMIT")
                        else:
                            seen = session.query(MONTH).scalar()
                        if seen < 500:
                            faults.append(seen)
                    except SqlError as error:
                        faults.append(str(error))
                        return

        workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for worker in workers:
            worker.start()
        try:
            steps = self.tick("ev")
        finally:
            stop.append(1)
            for worker in workers:
                worker.join()
        self.assertEqual(({step["status"] for step in steps}, faults), ({"done"}, []), steps)


class UndoSnapshots(SnapshotTest):
    """Rows that come back into the first partition."""

    time_limit = 120.0

    def setUp(self) -> None:
        super().setUp()
        self.script(GATE + "CREATE TABLE p (id bigint, at timestamptz NOT NULL, CHECK (gate(id)));"
                    "INSERT INTO p SELECT g, now() - interval '1 day' FROM generate_series(1, 10) g")
        self.script("CALL perf.partition_convert('p', 'at', 'day')")
        self.script("INSERT INTO p SELECT g, now() + interval '3 days' FROM generate_series(1, 300) g")

    def test_a_snapshot_of_who_comes_to_wait_is_given_way_to(self) -> None:
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as caller:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.query("SELECT count(*) FROM other")
            caller.send_async(UNDO)
            self.wait_until(lambda: self.sql("SELECT FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
                                             " AND relation = 'p'::regclass"), 30, "the lock")
            self.assertEqual(reader.query("SELECT count(*) FROM p").scalar(), 310)
            reader.query("COMMIT")
            caller.wait(60)
        self.assertEqual(self.value("SELECT count(*) FROM p"), 310)

    def test_a_snapshot_taken_while_rows_move_is_given_way_to(self) -> None:
        self.hold()
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as caller:
            caller.send_async(UNDO)
            self.wait_for_move()
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.assertEqual(reader.query("SELECT count(*) FROM other").scalar(), 1)
            self.sql("DELETE FROM hold")
            self.assertEqual(reader.query("SELECT count(*) FROM p").scalar(), 310)
            reader.query("COMMIT")
            caller.wait(60)
        self.assertEqual(self.value("SELECT count(*) FROM p"), 310)


class Cancels(SnapshotTest):
    """Runs that are cancelled."""

    time_limit = 120.0

    def cancel_when(self, run: int, event: str) -> None:
        """Cancels a run at a moment when its worker waits for something."""
        event = f"CASE WHEN a.{event} THEN perf.job_cancel(r.run_id) END"
        with self.cluster.connect(self.database) as session:
            self.wait_until(lambda: session.query(f"SELECT {event} FROM perf.job_runs r JOIN pg_stat_activity a USING (pid)"
                                                  f" WHERE r.run_id = {run}").rows == [(True,)], 30, "the moment to cancel")

    def test_a_cancel_between_tries_ends_the_run(self) -> None:
        self.sql("CREATE TABLE ev (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at)")
        job = self.manage("ev", premake=1)
        with self.cluster.connect(self.database) as holder:
            holder.query("BEGIN; LOCK TABLE ev IN SHARE UPDATE EXCLUSIVE MODE")
            run = self.value("SELECT perf.job_run_now($1::bigint)", (job,))
            self.cancel_when(run, "wait_event = 'Extension'")
            self.wait_until(lambda: self.job_run(run)["status"] != "running", 30, "the end")
            self.assertEqual((self.job_run(run)["status"], self.job_run(run)["attempt"]), ("cancelled", 1))

    def test_a_cancel_leaves_no_check_that_refuses_rows(self) -> None:
        self.script("""CREATE TABLE ref (id int PRIMARY KEY); INSERT INTO ref VALUES (1);
            CREATE TABLE ev (id int REFERENCES ref, at timestamptz NOT NULL, pad text) PARTITION BY RANGE (at);
            CREATE TABLE ev_d PARTITION OF ev DEFAULT; ALTER TABLE ev_d ALTER pad SET STORAGE PLAIN;
            INSERT INTO ev SELECT 1, '2025-03-05', repeat('x', 7000) FROM generate_series(1, 5000) g; ANALYZE ev""")
        job = self.manage("ev", premake=3)
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as ticker:
            holder.query("BEGIN; LOCK TABLE ref IN ROW EXCLUSIVE MODE")
            ticker.send_async(TICK)
            self.wait_until(lambda: self.sql("SELECT FROM pg_constraint WHERE conname = 'perf_opt_no_row_ahead' AND convalidated"), 30,
                            "the check")
            self.cancel_when(self.runs(job)[0]["run_id"], "wait_event_type = 'Lock'")
            ticker.wait(60)
            holder.query("COMMIT")
        self.assertEqual(self.wait_for_runs(job, 1)[0]["status"], "cancelled")
        self.assertEqual(self.sql("SELECT conname FROM pg_constraint WHERE conrelid = 'ev_d'::regclass AND contype = 'c'"), [])
        self.sql("INSERT INTO ev VALUES (1, '2026-04-05')")


class Swaps(SnapshotTest):
    """What is committed between the thoughts of a swap and its locks."""

    time_limit = 120.0

    def setUp(self) -> None:
        super().setUp()
        self.script("CREATE TABLE p (id bigint GENERATED BY DEFAULT AS IDENTITY, at timestamptz NOT NULL); CREATE ROLE r_" + self.database + ";"
                    "INSERT INTO p (at) SELECT now() - interval '1 day' FROM generate_series(1, 10);"
                    f"GRANT SELECT ON p TO r_{self.database}; CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
                    'CREATE TRIGGER "a ON public.p b" BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION touch()')
        self.addCleanup(lambda: self.sql(f"DROP OWNED BY r_{self.database}; DROP ROLE r_{self.database}"))
        # Holds the job right before the swap.
        self.script("CREATE FUNCTION hold_swap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "IF NEW.detail ->> 'doing' = 'the swap' THEN PERFORM pg_advisory_xact_lock(4712); END IF; RETURN NEW; END $$;"
                    "CREATE TRIGGER hold_swap BEFORE UPDATE ON perf.job_run FOR EACH ROW EXECUTE FUNCTION public.hold_swap()")
        self.holder, self.caller, self.other = (self.cluster.connect(self.database) for _ in range(3))
        for session in (self.holder, self.caller, self.other):
            self.addCleanup(session.close)
        self.holder.query("SELECT pg_advisory_lock(4712)")

    def convert(self, max_lock: str = "20 s") -> None:
        """Converts until right before the swap."""
        self.caller.send_async(f"CALL perf.partition_convert('p', 'at', 'day', max_lock => '{max_lock}')")
        self.wait_until(lambda: self.sql("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 60, "the swap")

    def let_go(self, waits_for: str) -> None:
        """Lets the swap go on until it waits for a lock."""
        self.holder.query("SELECT pg_advisory_unlock(4712)")
        self.wait_until(lambda: self.sql(f"SELECT FROM pg_locks WHERE NOT granted AND relation = '{waits_for}'::regclass"
                                         " AND mode = 'AccessExclusiveLock'"), 30, "the swap to wait")

    def test_a_view_that_appears_while_the_swap_waits_is_taken_along(self) -> None:
        self.convert()
        self.other.query("BEGIN; CREATE VIEW pv AS SELECT * FROM p")
        self.let_go("p")
        self.other.query("COMMIT")
        self.caller.wait(60)
        self.sql("INSERT INTO p (at) SELECT now() + interval '3 days' FROM generate_series(1, 5)")
        self.assertEqual(self.sql("SELECT (SELECT count(*) FROM p), (SELECT count(*) FROM pv)"), [(15, 15)])
        self.assertEqual(self.sql("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'a ON public.p b' AND tgparentid = 0"), [("p",)])

    def test_a_right_that_is_revoked_while_the_swap_waits_stays_revoked(self) -> None:
        # From PostgreSQL 18 on, REVOKE waits behind the swap until that gives way.
        self.convert(max_lock="4 s")
        self.other.query("BEGIN; SELECT FROM p")
        self.let_go("p")
        self.sql(f"REVOKE SELECT ON p FROM r_{self.database}")
        self.other.query("COMMIT")
        self.caller.wait(60)
        self.assertFalse(self.value(f"SELECT has_table_privilege('r_{self.database}', 'p', 'SELECT')"))

    def test_a_function_that_appears_while_the_swap_waits_stops_it(self) -> None:
        self.convert()
        self.other.query("BEGIN; CREATE FUNCTION pf() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM p; END")
        self.let_go("p")
        self.other.query("COMMIT")
        with self.assertRaises(SqlError) as refused:
            self.caller.wait(60)
        self.assertIn("pf", str(refused.exception))
        self.assertEqual(self.value("SELECT relkind FROM pg_class WHERE oid = 'p'::regclass"), "r")

    def test_no_number_is_given_out_twice(self) -> None:
        self.convert()
        self.other.query("BEGIN")
        first = self.other.query("SELECT nextval('p_id_seq')").scalar()
        self.let_go("p_id_seq")
        self.assertEqual(self.other.query("SELECT nextval('p_id_seq')").scalar(), first + 1)
        self.other.query("COMMIT")
        self.caller.wait(60)
        self.assertEqual(self.value("SELECT nextval('p_id_seq')"), first + 2)


class LockedPartitions(SnapshotTest):
    """An old partition that somebody has locked for long."""

    time_limit = 120.0

    def test_new_partitions_are_made_beside_one_that_is_to_be_compressed(self) -> None:
        self.script("CREATE TABLE ev (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at);"
                    "CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');"
                    "CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00')")
        self.manage("ev", premake=1, compress_after="1 month")
        with self.cluster.connect(self.database) as holder:
            holder.query("BEGIN; LOCK TABLE ev_1 IN ACCESS EXCLUSIVE MODE")
            pid = holder.query("SELECT pg_backend_pid()").scalar()
            steps = self.tick("ev")
        self.assertEqual([(step["relation"], step["step"], step["status"]) for step in steps],
                         [("public.ev_p2026_03", "create", "done"), ("public.ev_p2026_04", "create", "done"),
                          ("public.ev_1", "compress", "skipped")], steps)
        self.assertIn(f"process {pid}", steps[2]["detail"])

    def test_new_partitions_are_made_beside_one_whose_uuids_cannot_be_read(self) -> None:
        self.script("CREATE TABLE ev (id uuid NOT NULL) PARTITION BY RANGE (id);"
                    "CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('019b76da-a800-0000-0000-000000000000')"
                    " TO ('019c0000-0000-0000-0000-000000000000');"
                    "CREATE TABLE ev_2 PARTITION OF ev FOR VALUES FROM ('019c0000-0000-0000-0000-000000000000')"
                    " TO ('019c0001-0000-0000-0000-000000000000')")
        self.manage("ev", premake=1, retention="1 month")
        with self.cluster.connect(self.database) as holder:
            holder.query("BEGIN; LOCK TABLE ev_1 IN ACCESS EXCLUSIVE MODE")
            pid = holder.query("SELECT pg_backend_pid()").scalar()
            steps = self.tick("ev", "2026-06-10")
        self.assertIn(("create", "done"), [(step["step"], step["status"]) for step in steps])
        failed, = [step for step in steps if step["status"] == "failed"]
        self.assertEqual((failed["relation"], failed["step"]), ("public.ev_1", "detach"))
        self.assertIn(f"process {pid}", failed["detail"])
        self.assertIn(("public.ev_2", "detach", "done"), [(step["relation"], step["step"], step["status"]) for step in steps])


class ForeignDefault(SnapshotTest):
    """A default partition whose rows are elsewhere."""

    def test_its_rows_are_not_hidden(self) -> None:
        self.script("CREATE TABLE far (id int, at timestamptz); INSERT INTO far VALUES (1, '2026-03-05 00:00+00');"
                    "CREATE EXTENSION postgres_fdw;"
                    "CREATE TABLE ev (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at)")
        self.sql(f"CREATE SERVER far_away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{self.cluster.socket_dir}',"
                 f" port '{self.cluster.port}', dbname '{self.database}')")
        self.script("CREATE USER MAPPING FOR postgres SERVER far_away OPTIONS (user 'postgres');"
                    "CREATE FOREIGN TABLE ev_d PARTITION OF ev DEFAULT SERVER far_away OPTIONS (table_name 'far')")
        self.manage("ev", premake=1)
        steps = self.tick("ev")
        self.assertEqual([(step["relation"], step["step"], step["status"]) for step in steps],
                         [("public.ev_d", "move_rows", "skipped"), ("public.ev_p2026_04", "create", "done")], steps)
        self.assertEqual(self.value(MONTH), 1)


class Notes(ExpiryTest):
    """What is remembered of a detach that may not have begun."""

    def test_what_may_have_been_detached_by_hand_after_a_crash_is_left(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "drop", "failed")])
        # As a crash leaves it that comes between the note and the detach.
        self.sql("DROP VIEW of_january; UPDATE perf.partition_expiry SET detach_begun = false")
        self.assertEqual(self.steps(), [(JANUARY, "drop", "skipped")])
        self.assertEqual((self.steps(), self.exists(JANUARY), self.noted()), ([], True, []))

"""Rows that move between tables while others have snapshots: nobody is told too little."""

from __future__ import annotations

import threading
from typing import Any

from .cluster import SqlError
from .test_partitions import PartitionTest

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

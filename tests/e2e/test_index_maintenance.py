"""Index maintenance: what is rebuilt and dropped, when it is not, and what is left when it is interrupted."""

from __future__ import annotations

from typing import Any, Optional

from .cluster import SqlError
from .jobs_case import ENDED, JobTest

# Indexes of 2 MB of which nine tenths are bloat.
BLOATED = """
CREATE TABLE {name} (a int, b text) WITH (autovacuum_enabled = off);
INSERT INTO {name} SELECT g, 'text' FROM generate_series(1, 100000) g;
CREATE INDEX {name}_a ON {name} (a);
DELETE FROM {name} WHERE a % 10 <> 0;
"""
LEFT = r"SELECT count(*) FROM pg_class WHERE relname ~ '_cc(new|old)\d*$'"
MEGABYTE = 1 << 20


class IndexMaintenanceTest(JobTest):
    """Runs on tables of 2 MB."""

    def bloat(self, name: str) -> None:
        """A table whose index is bloated."""
        self.sql(BLOATED.format(name=name))
        self.sql(f"VACUUM ANALYZE {name}")

    def rows(self, user: str = "postgres", **arguments: Any) -> list[dict[str, Any]]:
        """What index_maintenance says; a dry run unless told otherwise."""
        arguments = {"min_size_bytes": MEGABYTE, "min_free_bytes": 0, **arguments}
        named = ", ".join(f"{name} => '{value}'" for name, value in arguments.items())
        return self.cluster.result(f"SELECT * FROM perf.index_maintenance({named})", dbname=self.database,
                                   user=user).dicts()

    def maintain(self, user: str = "postgres", **arguments: Any) -> dict[str, Any]:
        """Queues a run and waits for its end."""
        return self.ended(self.rows(user, dry_run=False, **arguments)[0]["run_id"])

    def ended(self, run_id: int) -> dict[str, Any]:
        """The record of a run that comes to its end."""
        self.wait_until(lambda: self.job_run(run_id)["status"] in ENDED, 30, f"the end of run {run_id}")
        return self.job_run(run_id)

    def size(self, index: str) -> int:
        """Bytes of an index."""
        return self.value(f"SELECT pg_relation_size('{index}')")

    def became(self, run: dict[str, Any], index: str) -> dict[str, Any]:
        """What became of an index, by the record of a run."""
        found = [row for row in run["detail"]["indexes"] if row["index"] == f"public.{index}"]
        self.assertEqual(len(found), 1, run)
        return found[0]


class Rebuilding(IndexMaintenanceTest):
    """Bloated indexes."""

    def test_dry_run_changes_nothing(self) -> None:
        self.bloat("t")
        before = self.value("SELECT pg_relation_filenode('t_a')")
        row, = self.rows()
        self.assertEqual((row["relation"], row["index"], row["action"], row["run_id"]),
                         ("public.t", "public.t_a", "reindex", None))
        self.assertEqual(row["ddl"], "REINDEX INDEX CONCURRENTLY public.t_a")
        self.assertEqual(row["size_bytes"], self.size("t_a"))
        self.assertTrue(80 < row["bloat_pct"] < 95, row)
        self.assertEqual(self.value("SELECT pg_relation_filenode('t_a')"), before)
        self.assertEqual(self.sql("SELECT * FROM perf.jobs"), [])
        # Not by default: too small, or not bloated enough.
        self.assertEqual(self.rows(min_size_bytes=10 * MEGABYTE), [])
        self.assertEqual(self.rows(max_bloat_pct=99), [])

    def test_bloated_index_is_rebuilt_smaller_and_valid(self) -> None:
        self.bloat("t")
        estimate = self.rows()[0]["estimated_bytes"]
        before = self.size("t_a")
        run = self.maintain()
        self.assertEqual(run["status"], "succeeded", run)
        became = self.became(run, "t_a")
        after = self.size("t_a")
        self.assertEqual((became["action"], became["bytes_before"], became["bytes_after"]), ("reindex", before, after))
        self.assertLess(after, before / 5)
        self.assertLess(abs(after - estimate) / after, 0.05)
        self.assertEqual(self.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_a'::regclass"), [(True,)])
        self.assertEqual((run["detail"]["rebuilt"], run["detail"]["freed_bytes"]), (1, before - after))
        self.assertEqual(self.rows(), [])
        run = self.maintain()
        self.assertEqual((run["status"], run["message"]), ("skipped", "nothing is the matter with any index"))

    def test_index_that_a_rebuild_does_not_shrink_is_left_alone(self) -> None:
        self.bloat("t")
        self.sql("INSERT INTO perf.index_rebuild SELECT oid, now(), 1, pg_relation_size(oid), reltuples FROM pg_class "
                 "WHERE relname = 't_a'")
        self.assertEqual(self.rows(), [])

    def test_worst_first_and_one_that_fails_stops_no_other(self) -> None:
        for name in ("t", "u"):
            self.bloat(name)
        self.sql("INSERT INTO t SELECT g FROM generate_series(100000, 200000) g; DELETE FROM t WHERE a % 10 <> 0")
        self.sql("VACUUM ANALYZE t")
        self.assertEqual([row["index"] for row in self.rows()], ["public.t_a", "public.u_a"])
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO t VALUES (0)")
            run = self.maintain(lock_timeout="300 ms")
            self.assertEqual(run["status"], "succeeded", run)
            self.assertEqual((run["detail"]["rebuilt"], self.became(run, "t_a")["sqlstate"]), (1, "55P03"))
            self.assertIn("bytes_after", self.became(run, "u_a"))
            # What is left cannot be dropped either while the writer is there.
            self.assertEqual(self.value(LEFT), 1)
            run = self.maintain(lock_timeout="300 ms")
            self.assertEqual((run["status"], run["sqlstate"], run["detail"]["failed"]), ("failed", "55P03", 1))
            self.assertEqual(self.became(run, "t_a")["reason"], "another index of its table has just failed")
            self.assertEqual(self.value(LEFT), 1)
            writer.query("ROLLBACK")
        run = self.maintain()
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.value(LEFT), 0)
        self.assertEqual(self.rows(), [])

    def test_schedule(self) -> None:
        job = self.value("SELECT perf.index_maintenance_schedule('30 3 * * SUN', 50, 'Europe/Berlin', 1000000)")
        row = self.cluster.result("SELECT * FROM perf.jobs", dbname=self.database).dicts()[0]
        self.assertEqual((row["job_id"], row["kind"], row["time_zone"], row["options"]["max_bloat_pct"]),
                         (job, "index_maintenance", "Europe/Berlin", 50))
        self.assertIsNotNone(row["next_run_at"])
        self.bloat("t")
        self.sql("SELECT perf.index_maintenance_schedule('weekly', min_size_bytes => 1000000, min_free_bytes => 0)")
        self.assertEqual(self.run_now(job)["detail"]["rebuilt"], 1)

    def test_one_run_at_a_time(self) -> None:
        self.bloat("t")
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO t VALUES (0)")
            first = self.rows(dry_run=False)[0]["run_id"]
            self.wait_until(lambda: self.value(LEFT) == 1, 10, "the rebuild to begin")
            job = self.value("SELECT perf.index_maintenance_schedule(min_size_bytes => 1000000)")
            second = self.run_now(job)
            self.assertEqual(second["status"], "skipped")
            self.assertIn(f"run {first} of index maintenance has not ended", second["message"])
            writer.query("ROLLBACK")
        self.assertEqual(self.ended(first)["status"], "succeeded")


    def test_in_a_tablespace_of_its_own(self) -> None:
        with self.cluster.connect() as session:
            session.query("SET allow_in_place_tablespaces = on")
            session.query("CREATE TABLESPACE apart LOCATION ''")
        self.addCleanup(self.cluster.sql, "DROP TABLESPACE apart")
        self.addCleanup(self.sql, "DROP TABLE t")
        self.bloat("t")
        self.sql("ALTER INDEX t_a SET TABLESPACE apart")
        self.assertEqual(self.maintain()["detail"]["rebuilt"], 1)
        self.assertEqual(self.value("SELECT tablespace FROM pg_indexes WHERE indexname = 't_a'"), "apart")

    def test_names_that_need_quotes(self) -> None:
        self.sql('CREATE SCHEMA "My schema"; SET search_path = "My schema";' + BLOATED.format(name='"Tablé"').replace(
            '"Tablé"_a', '"In""dex; DROP"'))
        self.sql('VACUUM ANALYZE "My schema"."Tablé"')
        run = self.maintain()
        self.assertEqual([(row["index"], row["action"]) for row in run["detail"]["indexes"]],
                         [('"My schema"."In""dex; DROP"', "reindex")])


class NotRebuilding(IndexMaintenanceTest):
    """What is left alone, and why."""

    def skipped(self, reason: str, **arguments: Any) -> None:
        """A run that leaves the bloated index as it is, for a reason that is written down."""
        before = self.value("SELECT pg_relation_filenode('t_a')")
        run = self.maintain(**arguments)
        self.assertEqual((run["status"], run["detail"]["rebuilt"]), ("skipped", 0), run)
        self.assertRegex(self.became(run, "t_a")["reason"], reason)
        self.assertEqual(self.value("SELECT pg_relation_filenode('t_a')"), before)

    def test_window_is_over(self) -> None:
        self.bloat("t")
        self.skipped("the window of 0 s is over|expected to take", max_duration="1 ms")

    def test_disk_has_no_room(self) -> None:
        self.bloat("t")
        reason = r"^\d+ bytes are free where it lies, and 10000000\d+ are needed$"
        row, = self.rows(min_free_bytes=10 ** 17)
        self.assertEqual((row["action"], row["ddl"]), ("skip", None))
        self.assertRegex(row["reason"], reason)
        self.skipped(reason, min_free_bytes=10 ** 17)

    def test_somebody_elses(self) -> None:
        self.sql("CREATE ROLE visitor LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE visitor")
        self.addCleanup(self.sql, "DROP OWNED BY visitor")
        self.bloat("t")
        self.assertEqual(self.rows(user="visitor"), [])
        self.sql("GRANT SELECT ON t TO visitor")
        row, = self.rows(user="visitor")
        self.assertEqual((row["action"], row["reason"]), ("skip", "you may not rebuild it"))
        self.skipped("you may not rebuild it", user="visitor")
        # Rights count when the job runs.
        job = self.value("SELECT job_id FROM perf.jobs")
        self.sql("ALTER TABLE t OWNER TO visitor; GRANT CREATE ON SCHEMA public TO visitor")
        self.assertEqual(self.run_now(job, user="visitor")["detail"]["rebuilt"], 1)

    def test_exclusion_constraint(self) -> None:
        self.sql("CREATE TABLE t (a int, CONSTRAINT t_a EXCLUDE USING btree (a WITH =)) WITH (autovacuum_enabled = off);"
                 "INSERT INTO t SELECT generate_series(1, 100000); DELETE FROM t WHERE a % 10 <> 0")
        self.sql("VACUUM ANALYZE t")
        self.skipped("exclusion constraint")

    def test_partitions_are_rebuilt_one_by_one(self) -> None:
        self.sql("CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE INDEX p_a ON p (a);"
                 "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000000) WITH (autovacuum_enabled = off);"
                 "INSERT INTO p SELECT generate_series(1, 100000); DELETE FROM p WHERE a % 10 <> 0")
        self.sql("VACUUM ANALYZE p1")
        self.assertEqual([row["index"] for row in self.rows()], ["public.p1_a_idx"])
        self.assertEqual(self.maintain()["detail"]["rebuilt"], 1)
        self.assertEqual(self.sql("SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = 'p1_a_idx'::regclass"),
                         [("p_a",)])


class Leftovers(IndexMaintenanceTest):
    """What a rebuild leaves that does not end."""

    def interrupted(self, run_id: Optional[int] = None) -> None:
        """Leaves what an interrupted rebuild of t_a leaves."""
        with self.cluster.connect(self.database) as writer, self.cluster.connect(self.database) as builder:
            writer.query("BEGIN; INSERT INTO t VALUES (0)")
            builder.send_async("REINDEX INDEX CONCURRENTLY t_a")
            self.wait_until(lambda: self.value(LEFT) == 1, 10, "the rebuild to begin")
            # Not while it is under way.
            rows = {row["index"]: row for row in self.rows()}
            self.assertEqual((rows["public.t_a_ccnew"]["action"], rows["public.t_a_ccnew"]["reason"]),
                             ("skip", "somebody may be building or dropping it now"))
            builder.cancel()
            with self.assertRaises(SqlError):
                builder.wait()
            writer.query("ROLLBACK")
        self.assertEqual(self.value(LEFT), 1)

    def test_is_dropped(self) -> None:
        self.bloat("t")
        self.interrupted()
        rows = {row["index"]: row for row in self.rows()}
        self.assertEqual((rows["public.t_a_ccnew"]["action"], rows["public.t_a_ccnew"]["ddl"]),
                         ("drop", "DROP INDEX CONCURRENTLY public.t_a_ccnew"))
        run = self.maintain()
        self.assertEqual((run["status"], run["detail"]["dropped"], run["detail"]["rebuilt"]), ("succeeded", 1, 1), run)
        self.assertEqual(self.value(LEFT), 0)

    def test_looks_like_one_but_is_none(self) -> None:
        self.sql("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 1), (1, 2)")
        self.sql("CREATE INDEX valid_ccnew ON t (a); CREATE INDEX other ON t (b)")
        # Invalid, but nobody's: there is no index "mine", and "other" is on another column.
        for name in ("mine_ccnew", "other_ccnew"):
            with self.assertRaises(SqlError):
                self.sql(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON t (a)")
        rows = {row["index"]: row["action"] for row in self.rows()}
        self.assertEqual(rows, {"public.mine_ccnew": "skip", "public.other_ccnew": "skip"})
        self.maintain()
        self.assertEqual(self.value("SELECT count(*) FROM pg_class WHERE relname ~ '_ccnew$'"), 3)

    def interrupt_run(self, interrupt: str) -> dict[str, Any]:
        """A run that is interrupted in the middle of a rebuild; its record."""
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO t VALUES (0)")
            run_id = self.rows(dry_run=False)[0]["run_id"]
            self.wait_until(lambda: self.value(LEFT) == 1, 10, "the rebuild to begin")
            self.sql(interrupt.format(run_id=run_id))
            run = self.ended(run_id)
            writer.query("ROLLBACK")
        self.assertEqual(self.value(LEFT), 1)
        return run

    def test_cancelled_run_is_cleaned_up_by_the_next(self) -> None:
        self.bloat("t")
        self.assertEqual(self.interrupt_run("SELECT perf.job_cancel({run_id})")["status"], "cancelled")
        run = self.maintain()
        self.assertEqual((run["status"], run["detail"]["dropped"], run["detail"]["rebuilt"]), ("succeeded", 1, 1), run)
        self.assertEqual(self.value(LEFT), 0)

    def test_terminated_run_is_cleaned_up_by_the_next(self) -> None:
        self.bloat("t")
        run = self.interrupt_run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'perf_opt job'"
                                 " AND datname = current_database()")
        self.assertEqual(run["status"], "crashed")
        run = self.maintain()
        self.assertEqual((run["status"], run["detail"]["dropped"], run["detail"]["rebuilt"]), ("succeeded", 1, 1), run)
        self.assertEqual(self.value(LEFT), 0)


class Standby(IndexMaintenanceTest):
    """Where nothing can be written."""

    uses_shared_cluster = False

    def test_dry_run_only(self) -> None:
        primary = self.private_cluster(self.settings)
        primary.sql("CREATE EXTENSION perf_opt")
        primary.sql(BLOATED.format(name="t"))
        primary.sql("VACUUM ANALYZE t")
        standby = primary.standby()
        primary.wait_for_replay(standby)
        question = "SELECT index, action FROM perf.index_maintenance(min_size_bytes => 1000000, min_free_bytes => 0{})"
        self.assertEqual(standby.sql(question.format("")), [("public.t_a", "reindex")])
        self.assert_sql_error("25006", standby, question.format(", dry_run => false"))

"""Policy tables and capacity samples through pg_dump and restore, and the sampler's own housekeeping."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from .case import ClusterTest
from .system import clean_environment

EDITS = """
UPDATE perf.index_policy SET priority = 'low', note = 'mine' WHERE policy_no = 1;
DELETE FROM perf.index_policy WHERE policy_no IN (2, 3);
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority)
VALUES (3, 'again', '{a}', 'high'), (99, 'own', '{x,y}', 'medium');
UPDATE perf.index_policy SET policy_no = 44 WHERE policy_no = 4;
UPDATE perf.cache_policy SET ttl = '7 min' WHERE cache_name = 'system_health';
DELETE FROM perf.cache_policy WHERE cache_name = 'user_segments';
TRUNCATE perf.price;
SET IntervalStyle = 'iso_8601';
DELETE FROM perf.capacity_policy WHERE horizon = '1 year';
DELETE FROM perf.checklist_item WHERE phase = 'before';
INSERT INTO perf.checklist_item (phase, item_no, item) VALUES ('before', 1, 'own item')
"""
TABLES = ("index_policy", "cache_policy", "matview_policy", "partition_policy", "roadmap_task", "sql_example",
          "alert_threshold", "scaling_trigger", "capacity_policy", "price", "checklist_item", "policy_deletion")
RELATIONS = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'perf'"
PARTITIONS = "SELECT relid::text FROM pg_partition_tree('perf.capacity_sample') WHERE isleaf AND level = 2 ORDER BY 1"


class DumpAndRestore(ClusterTest):
    """What a user changed comes back, whatever way the dump is made and restored."""

    settings = {"shared_preload_libraries": ""}

    def rows(self, database: str) -> dict[str, list[tuple]]:
        """All policy rows as text."""
        return {table: self.cluster.sql(f"SELECT t::text FROM perf.{table} AS t ORDER BY 1", dbname=database)
                for table in TABLES}

    def run_tool(self, tool: str, database: str, *arguments: str) -> str:
        """Runs a client program against a database of the shared server; it must succeed without a word on stderr."""
        command = [self.cluster.program(tool), "-h", str(self.cluster.socket_dir), "-p", str(self.cluster.port),
                   "-U", "postgres", "-d", database, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    def test_edits_additions_and_deletions_survive(self) -> None:
        source = self.fresh_database()
        self.cluster.sql(EDITS, dbname=source)
        before = self.rows(source)
        self.assertNotEqual(before["policy_deletion"], [])
        with tempfile.TemporaryDirectory() as folder:
            archive = str(Path(folder, "dump"))
            self.run_tool("pg_dump", source, "-Fc", "-f", archive)
            plain = self.run_tool("pg_dump", source)
            inserts = self.run_tool("pg_dump", source, "--inserts")
            for way in ("parallel", "plain", "inserts"):
                with self.subTest(way):
                    target = self.fresh_database(extension=False)
                    if way == "parallel":
                        self.run_tool("pg_restore", target, "-e", "-j", "3", archive)
                    else:
                        self.cluster.psql(dbname=target, stdin=plain if way == "plain" else inserts)
                    self.assertEqual(self.rows(target), before)
                    # And a dump of the restored database brings the same again.
                    again = self.fresh_database(extension=False)
                    self.cluster.psql(dbname=again, stdin=self.run_tool("pg_dump", target))
                    self.assertEqual(self.rows(again), before)

    def test_cleared_stays_cleared(self) -> None:
        source, target = self.fresh_database(), self.fresh_database(extension=False)
        self.cluster.sql("SELECT perf.clear_policy()", dbname=source)
        self.cluster.psql(dbname=target, stdin=self.run_tool("pg_dump", source))
        rows = self.rows(target)
        self.assertEqual({table for table, found in rows.items() if found}, {"policy_deletion"})
        self.cluster.sql("SELECT perf.load_policy()", dbname=target)
        self.assertEqual(self.rows(target), self.rows(self.fresh_database()))

    def test_samples_stay_out_of_a_dump_and_go_with_the_extension(self) -> None:
        source, target = self.fresh_database(), self.fresh_database(extension=False)
        bare = self.cluster.scalar(RELATIONS, dbname=source)
        self.assertGreater(self.cluster.scalar("SELECT perf.capacity_sample_now()", dbname=source), 0)
        self.assertGreater(self.cluster.scalar(RELATIONS, dbname=source), bare)
        dump = self.run_tool("pg_dump", source)
        self.assertNotIn("capacity_sample", dump)
        self.cluster.psql(dbname=target, stdin=dump)
        self.assertEqual(self.cluster.scalar(RELATIONS, dbname=target), bare)
        self.cluster.sql("DROP EXTENSION perf_opt", dbname=source)
        self.assertEqual(self.cluster.scalar(RELATIONS, dbname=source), 0)
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname=source)
        self.assertGreater(self.cluster.scalar("SELECT perf.capacity_sample_now()", dbname=source), 0)


class Housekeeping(ClusterTest):
    """Summing up, expiry and locks, without the collector worker: the samples are taken by hand."""

    settings = {"shared_preload_libraries": ""}

    def past(self, database: str, table: str, first: str, last: str) -> None:
        """A partition for times before those the sampler makes partitions for."""
        self.cluster.sql(
            f"DO $$ BEGIN EXECUTE format('CREATE TABLE perf.{table}_past PARTITION OF perf.{table} FOR VALUES FROM (%L) "
            f"TO (%L)', {first}, {last}); END $$", dbname=database)

    def test_finer_samples_are_summed_up_once(self) -> None:
        database = self.fresh_database()
        self.past(database, "capacity_sample_1min", "now() - interval '40 hours'", "date_trunc('hour', now())")
        self.cluster.sql(
            "INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean, value_max) "
            "SELECT 'connections_total', '', date_trunc('hour', now()) - interval '2 hours' + i * interval '1 min', 60, i, "
            "i + 100 FROM generate_series(0, 59) AS i", dbname=database)
        for _ in range(2):
            self.cluster.sql("SELECT perf.capacity_sample_now()", dbname=database)
            # As if the next minute had begun.
            self.cluster.sql("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 day'", dbname=database)
        rows = self.cluster.sql(
            "SELECT resolution_s, count(*), min(value_min), avg(value_mean), max(value_max) FROM perf.capacity_sample "
            "WHERE metric = 'connections_total' AND object = '' AND resolution_s IN (300, 3600) "
            "AND sampled_at >= date_trunc('hour', now()) - interval '2 hours' "
            "AND sampled_at < date_trunc('hour', now()) - interval '1 hour' GROUP BY 1 ORDER BY 1", dbname=database)
        self.assertEqual(rows, [(300, 12, 0.0, 29.5, 159.0), (3600, 1, 0.0, 29.5, 159.0)])

    def test_what_had_its_time_goes_unless_it_is_read(self) -> None:
        database = self.fresh_database()
        self.past(database, "capacity_sample_1min", "now() - interval '9 days'", "now() - interval '8 days'")
        old = ("perf.capacity_sample_1min_past",)
        with self.cluster.connect(database) as reader:
            reader.query("BEGIN; SELECT count(*) FROM perf.capacity_sample")
            with self.cluster.connect(database) as sampler:
                # Waiting for the reader would be the failure.
                sampler.query("SET statement_timeout = '30s'")
                sampler.query("SELECT perf.capacity_sample_now()")
            self.assertIn(old, self.cluster.sql(PARTITIONS, dbname=database))
            reader.query("COMMIT")
        self.cluster.sql("SELECT perf.capacity_sample_now()", dbname=database)
        left = self.cluster.sql(PARTITIONS, dbname=database)
        self.assertNotIn(old, left)
        self.assertGreater(len(left), 4)

    def test_above_the_cap_the_oldest_go_before_their_time(self) -> None:
        database = self.fresh_database()
        self.past(database, "capacity_sample_5min", "now() - interval '10 days'", "now() - interval '5 days'")
        # A member of the extension, as those the sampler makes.
        self.cluster.sql("ALTER EXTENSION perf_opt ADD TABLE perf.capacity_sample_5min_past", dbname=database)
        self.cluster.sql("INSERT INTO perf.capacity_sample (metric, sampled_at, resolution_s, value_mean, object) "
                         "SELECT 'load_1min', now() - interval '6 days', 300, 1, repeat('x', 1000) "
                         "FROM generate_series(1, 70000)", dbname=database)
        size = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('perf.capacity_sample')"
        self.assertGreater(self.cluster.scalar(size, dbname=database), 64 << 20)
        self.cluster.sql("SELECT perf.capacity_sample_now()", dbname=database)
        self.assertLess(self.cluster.scalar(size, dbname=database), 64 << 20)
        self.assertNotIn(("perf.capacity_sample_5min_past",), self.cluster.sql(PARTITIONS, dbname=database))

    def test_rates_come_from_differences(self) -> None:
        database = self.fresh_database()
        with self.cluster.connect(database) as session:
            session.query("SELECT perf.capacity_sample_now()")
            for _ in range(20):
                session.query("SELECT 1")
            session.query("SELECT pg_stat_clear_snapshot()")
            session.query("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 min' WHERE resolution_s = 60")
            session.query("SELECT perf.capacity_sample_now()")
        metrics = {name for (name,) in self.cluster.sql(
            "SELECT DISTINCT metric FROM perf.capacity_sample WHERE resolution_s = 60", dbname=database)}
        self.assertIn("wal_bytes_per_s", metrics)
        self.assertNotIn("qps", metrics, "statements are not counted without the collector")
        self.assertEqual(self.cluster.scalar(
            "SELECT count(*) FROM perf.capacity_samples('connections_total') WHERE object = '' AND value_max >= 1",
            dbname=database), 2)

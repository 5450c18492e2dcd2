"""Advice on existing indexes where other sessions and other servers have a say: locks, standbys, builds under way."""

from __future__ import annotations

from typing import Any

from .case import ClusterTest
from .cluster import Cluster, SqlError

ROWS = ("SELECT action, relation, ddl, confidence, reason FROM perf.index_recommendations() "
        "WHERE action IN ('drop', 'reindex') ORDER BY ddl")
SETUP = """
CREATE TABLE twins (a int);
CREATE INDEX twins_1 ON twins (a);
CREATE INDEX twins_2 ON twins (a);
CREATE TABLE idle (a int, b text) WITH (autovacuum_enabled = off);
INSERT INTO idle SELECT g, 'text ' || g FROM generate_series(1, 60000) g;
CREATE INDEX idle_a ON idle (a) WHERE b > 'a';
"""


class IndexUpkeepTest(ClusterTest):
    """What one session alone cannot show."""

    settings = {"autovacuum": "off"}

    def rows(self, cluster: Cluster, database: str = "postgres") -> tuple[list[tuple], list[str]]:
        """Drops and rebuilds that are recommended, and the notices."""
        with cluster.connect(database) as session:
            session.query("SET statement_timeout = '20s'")
            rows = session.query(ROWS).rows
            return rows, [notice["message"] for notice in session.notices]

    def advised(self, cluster: Cluster, database: str = "postgres") -> dict[str, tuple[Any, ...]]:
        """Rows by the name of their index."""
        return {row[2].rpartition(".")[2]: row for row in self.rows(cluster, database)[0]}

    def test_locked_table_is_left_out(self) -> None:
        database = self.fresh_database()
        self.cluster.sql(SETUP, dbname=database)
        self.assertEqual(set(self.advised(self.cluster, database)), {"twins_2", "idle_a"})
        with self.cluster.connect(database) as other:
            other.query("BEGIN")
            other.query("LOCK TABLE idle IN ACCESS EXCLUSIVE MODE")
            rows, notices = self.rows(self.cluster, database)
            self.assertEqual([row[2] for row in rows], ["DROP INDEX CONCURRENTLY public.twins_2"])
            self.assertIn("public.idle was left out: another session has locked it", notices)
            other.query("ROLLBACK")
        with self.cluster.connect(database) as other:
            other.query("BEGIN")
            other.query("REINDEX INDEX idle_a")
            self.assertIn("twins_2", self.advised(self.cluster, database))
            other.query("ROLLBACK")

    def test_build_under_way(self) -> None:
        database = self.fresh_database()
        self.cluster.sql(SETUP, dbname=database)
        with self.cluster.connect(database) as writer, self.cluster.connect(database) as builder:
            # A build waits for the writers that were there before it, and its index is invalid meanwhile.
            writer.query("BEGIN")
            writer.query("INSERT INTO idle VALUES (0, '')")
            builder.send_async("CREATE INDEX CONCURRENTLY idle_b ON idle (b)")
            invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
            self.wait_until(lambda: self.cluster.scalar(invalid, dbname=database) == 1, what="the build to begin")
            self.assertNotIn("idle_b", self.advised(self.cluster, database))
            builder.cancel()
            with self.assertRaises(SqlError):
                builder.wait()
            writer.query("ROLLBACK")
        row = self.advised(self.cluster, database)["idle_b"]
        self.assertEqual((row[0], row[2]), ("reindex", "REINDEX INDEX CONCURRENTLY public.idle_b"))
        self.cluster.sql(row[2], dbname=database)
        self.assertNotEqual(self.advised(self.cluster, database)["idle_b"][0], "reindex")

    def test_recommended_index_that_is_being_built(self) -> None:
        database = self.fresh_database()
        self.cluster.sql("CREATE TABLE orders (id int PRIMARY KEY, customer int, note text); INSERT INTO orders "
                         "SELECT g, g % 5000, repeat('x', 80) FROM generate_series(1, 50000) g; ANALYZE orders", dbname=database)
        advice = ("SELECT status, ddl, reason FROM perf.index_recommendations(queries => "
                  "ARRAY['SELECT note FROM orders WHERE customer = 17']) WHERE action = 'create'")
        (status, ddl, _), = self.cluster.sql(advice, dbname=database)
        self.assertEqual(status, "recommended")
        with self.cluster.connect(database) as writer, self.cluster.connect(database) as builder:
            writer.query("BEGIN; INSERT INTO orders VALUES (0, 0, '')")
            builder.send_async(ddl)
            invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
            self.wait_until(lambda: self.cluster.scalar(invalid, dbname=database) == 1, what="the build to begin")
            (status, no_ddl, reason), = self.cluster.sql(advice, dbname=database)
            self.assertEqual((status, no_ddl), ("building", None))
            self.assertIn("it is being built now", reason)
            writer.query("COMMIT")
            builder.wait()
        self.assertEqual([row for row in self.cluster.sql(advice, dbname=database) if row[0] != "exists"], [])

    def test_standby(self) -> None:
        primary = self.private_cluster(self.settings)
        primary.sql("CREATE EXTENSION perf_opt")
        primary.sql(SETUP)
        alone = self.advised(primary)
        self.assertNotIn("replicas", alone["idle_a"][4])
        standby = primary.standby()
        primary.wait_for_replay(standby)
        # What the base backup brought is replayed before it streams.
        self.wait_until(lambda: primary.scalar("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == 1, 30,
                        "the standby to stream")
        fed = self.advised(primary)
        self.assertIn("scans on replicas are not counted here", fed["idle_a"][4])
        self.assertEqual(fed["idle_a"][3], "low")
        self.assertEqual(fed["twins_2"][3], "high")
        # The standby's own counters say nothing of the primary's use; definitions are the same everywhere.
        rows, notices = self.rows(standby)
        self.assertEqual([row[2] for row in rows], ["DROP INDEX CONCURRENTLY public.twins_2"])
        self.assertIn("run it on the primary", rows[0][4])
        self.assertTrue(any("this is a standby" in notice for notice in notices), notices)

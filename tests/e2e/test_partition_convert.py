"""Conversion of tables that are in use: what is the same afterwards, what others notice, and every way to be interrupted."""

from __future__ import annotations

from typing import Any

from .cluster import Connection, SqlError
from .convert_schema import RICH, dump, sums
from .jobs_case import JobTest

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
        self.convert('"Shop"."Orders"')
        self.assertEqual(sums(self.cluster, self.database), rows)
        self.undo('"Shop"."Orders"')
        self.assertEqual(self.dump(), before)
        self.assertEqual(sums(self.cluster, self.database), rows)

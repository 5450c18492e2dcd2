"""Partitions made ahead, gaps and default partitions, and what a new partition is like."""

from __future__ import annotations

from typing import Any

from .cluster import SqlError
from .jobs_case import JobTest

MONTHS = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, note text,
                     PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
"""


class PartitionTest(JobTest):
    """What tests of partitions share."""

    def manage(self, parent: str, every: str = "month", user: str = "postgres", **options: Any) -> int:
        """Manages a parent; the number of its job."""
        named = "".join(f", {key} => ${index + 3}" for index, key in enumerate(options))
        return self.value(f"SELECT perf.partition_manage($1::regclass, $2{named})", (parent, every, *options.values()), user=user)

    def tick(self, parent: str, as_of: str = "2026-03-10 12:00+00", user: str = "postgres") -> list[dict[str, Any]]:
        """A look at a parent as if it were then."""
        return self.cluster.result("SELECT * FROM perf.partition_tick($1::regclass, $2::timestamptz)", (parent, as_of),
                                   dbname=self.database, user=user).dicts()

    def partitions(self, parent: str) -> dict[str, str]:
        """Names and bounds."""
        return dict(self.sql(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = $1::regclass ORDER BY 1", (parent,)))


class Rotation(PartitionTest):
    """New partitions."""

    def test_months_ahead(self) -> None:
        self.sql(MONTHS)
        self.manage("events", premake=2)
        steps = self.tick("events")
        self.assertEqual([(step["relation"], step["step"], step["status"]) for step in steps],
                         [(f"public.events_p2026_{month}", "create", "done") for month in ("03", "04", "05")])
        self.assertEqual(list(self.partitions("events")), ["events_p2026_03", "events_p2026_04", "events_p2026_05"])
        self.assertEqual(self.tick("events"), [])

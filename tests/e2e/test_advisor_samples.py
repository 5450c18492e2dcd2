"""What the index advisor makes of a captured statement whose samples differ."""

from __future__ import annotations

from .capture_case import CaptureTest

TABLES = (
    "DROP TABLE IF EXISTS jobs",
    "CREATE TABLE jobs (id int, state text, added int, ended int, pad text)",
    "INSERT INTO jobs SELECT i, CASE i % 50 WHEN 0 THEN 'failed' WHEN 1 THEN 'waiting' ELSE 'done' END, (i * 7919) % 100000, "
    "nullif(i, i / 50 * 50), CASE i % 500 WHEN 0 THEN 'yy' ELSE repeat('x', 90) END FROM generate_series(1, 100000) i",
    "ANALYZE jobs",
)
LATEST = "SELECT id, pad FROM jobs WHERE state = '{}' ORDER BY added LIMIT 5"


class SamplesTest(CaptureTest):
    """Literals become part of an index only if every sample has the same."""

    settings = {**CaptureTest.settings, "max_parallel_workers_per_gather": 0}

    def setUp(self) -> None:
        super().setUp()
        self.run_sql(*TABLES)
        self.reset()
        self.addCleanup(self.run_sql, "DROP TABLE IF EXISTS jobs")

    def definitions(self, *queries: str, budget: int = 500_000) -> list[str]:
        """The indexes recommended after these queries ran in turn. None on all rows fits into the usual budget."""
        self.reset()
        self.run_sql(*queries)
        rows = self.cluster.result(f"SELECT ddl FROM perf.index_recommendations(storage_budget_bytes => {budget}) "
                                   "WHERE status = 'recommended' AND source = 'workload' ORDER BY ddl", dbname=self.db).rows
        return [ddl.split(";")[0].split(" USING ")[1] for (ddl,) in rows]

    def test_literal_that_varies_is_no_predicate(self) -> None:
        for state in ("failed", "waiting"):
            self.assertEqual(self.definitions(*[LATEST.format(state)] * 8), [f"btree (added) WHERE (state = '{state}'::text)"])
        for states in (["failed", "waiting"] * 4, ["waiting", "failed"] * 4, ["failed", "waiting", *["failed"] * 6]):
            self.assertEqual(self.definitions(*map(LATEST.format, states)), [])

    def test_one_sample_of_many_calls_is_no_evidence(self) -> None:
        # Too long to be kept as a sample.
        long = LATEST.format("waiting") + "/*" + "x" * 10_000 + "*/"
        self.assertEqual(self.definitions(LATEST.format("failed"), long, long), [])
        self.assertEqual(len(self.definitions(*[LATEST.format("failed")] * 3)), 1)

    def test_null_test_needs_no_evidence(self) -> None:
        query = "SELECT id, pad FROM jobs WHERE ended IS NULL ORDER BY added LIMIT 5"
        self.assertEqual(self.definitions(query, *[query + "/*" + "x" * 10_000 + "*/"] * 2),
                         ["btree (added) WHERE (ended IS NULL)"])

    def test_expression_that_varies_is_no_key(self) -> None:
        query = "SELECT id FROM jobs WHERE substr(pad, {}, 1) = 'y'"
        (same,) = self.definitions(*[query.format(1)] * 8, budget=2_000_000)
        self.assertIn("substr(pad, 1, 1)", same)
        self.assertEqual(self.definitions(*[query.format(at) for at in (1, 2) * 4], budget=2_000_000), [])

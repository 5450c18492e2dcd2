"""Rows that a costly statement's plan really gave: counted for samples only, and told by the index advisor."""

from __future__ import annotations

from typing import Any, Optional

from .capture_case import CaptureTest

# Three columns that always agree: the planner thinks that they do so by chance.
TABLES = (
    "DROP TABLE IF EXISTS fact, dim",
    "CREATE TABLE fact (id int, a int, b int, c int, pad text)",
    "INSERT INTO fact SELECT i, i % 100, i % 100, i % 100, repeat('x', 40) FROM generate_series(1, 100000) i",
    "CREATE TABLE dim (id int PRIMARY KEY, note text)",
    "INSERT INTO dim SELECT i, 'note' FROM generate_series(1, 1000) i",
    "VACUUM ANALYZE fact, dim",
)
PAIR = "SELECT id FROM fact WHERE a = 7 AND b = 7"


class CardinalitiesTest(CaptureTest):
    """What `rows_misestimate` says, and what counting leaves alone."""

    def setUp(self) -> None:
        super().setUp()
        self.run_sql(*TABLES)
        self.reset()
        self.addCleanup(self.run_sql, "DROP TABLE IF EXISTS fact, dim")

    def evidence(self, options: str = "") -> dict[str, Any]:
        """The one statement in the evidence of the recommended indexes."""
        with self.cluster.connect(self.db) as session:
            if options:
                session.query(options)
            rows = session.query(
                "SELECT DISTINCT e ->> 'queryid' AS queryid, e ->> 'rows_misestimate' AS misestimate "
                "FROM perf.index_recommendations() r, jsonb_array_elements(r.evidence) e "
                "WHERE r.status = 'recommended'").dicts()
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def misestimate(self, options: str = "") -> Optional[float]:
        """The factor told for the one statement that ran."""
        told = self.evidence(options)["misestimate"]
        return None if told is None else float(told)

    def assert_misestimate(self, expected: float, options: str = "") -> None:
        """Checks the factor, as near as statistics from a sample of the table let it be."""
        got = self.misestimate(options)
        self.assertIsNotNone(got)
        self.assertGreater(got, expected / 1.5)
        self.assertLess(got, expected * 1.5)

    def test_misestimate_of_columns_that_agree(self) -> None:
        for _ in range(3):
            self.run_sql(PAIR)
        # 1 % of 1 % of 100,000 rows expected, 1 % there.
        self.assert_misestimate(100)

    def test_right_estimate(self) -> None:
        self.run_sql(*["SELECT id FROM fact WHERE a = 7"] * 3)
        self.assert_misestimate(1)

    def test_join_whose_input_is_misestimated(self) -> None:
        self.run_sql(*["SELECT f.id, d.note FROM fact f JOIN dim d ON d.id = f.c WHERE f.a = 7 AND f.b = 7"] * 3)
        self.assert_misestimate(100)

    def test_samples_of_extended_protocol(self) -> None:
        with self.cluster.connect(self.db) as session:
            for value in (7, 8, 9):
                session.execute("SELECT id FROM fact WHERE a = $1::int AND b = $1::int", (value,))
        self.assert_misestimate(100)

    def test_parallel_plan_counts_all_processes(self) -> None:
        options = ("SET min_parallel_table_scan_size = 0", "SET parallel_setup_cost = 0", "SET parallel_tuple_cost = 0",
                   "SET max_parallel_workers_per_gather = 2")
        with self.cluster.connect(self.db) as session:
            for option in options:
                session.query(option)
            plan = "\n".join(row[0] for row in session.query(f"EXPLAIN {PAIR}").rows)
            self.assertIn("Gather", plan)
            self.reset()
            for _ in range(3):
                session.query(PAIR)
        self.assert_misestimate(100)
        self.assert_misestimate(100, "; ".join(options))

    def test_rows_not_asked_for_are_not_counted(self) -> None:
        with self.cluster.connect(self.db) as session:
            for _ in range(3):
                self.assertEqual(len(session.execute(PAIR, max_rows=5).rows), 5)
        self.assertIsNone(self.misestimate())

    def test_rows_below_a_limit_are_not_counted(self) -> None:
        self.run_sql(*[f"{PAIR} AND c >= 0 LIMIT 8"] * 3)
        self.assertIsNone(self.misestimate())

    def test_limit_that_is_not_reached_counts_all(self) -> None:
        self.run_sql(*[f"{PAIR} LIMIT 1001"] * 3)
        self.assert_misestimate(100)

    def test_limit_above_a_sort_counts_what_is_below(self) -> None:
        self.run_sql(*[f"{PAIR} ORDER BY pad LIMIT 3"] * 3)
        self.assert_misestimate(100)

    def test_explain_analyze_keeps_its_instruments(self) -> None:
        with self.cluster.connect(self.db) as session:
            for _ in range(3):
                plan = "\n".join(row[0] for row in session.query(f"EXPLAIN (ANALYZE, BUFFERS) {PAIR}").rows)
                self.assertRegex(plan, r"actual time=[0-9.]+\.\.[0-9.]+ rows=1000")
                self.assertIn("Buffers:", plan)

    def test_failure_leaves_no_trace(self) -> None:
        """An execution that fails while its rows are counted; the next of the same statement is sampled as ever."""
        failing = "SELECT id FROM fact WHERE a = 7 AND b = 7 AND 1 / (id - {}) < 2"
        for divisor in (7, 107, 207):
            self.fails("22012", self.run_sql, failing.format(divisor))
        self.run_sql(*[failing.format(-1)] * 4)
        got = self.misestimate()
        self.assertIsNotNone(got)
        self.assertGreater(got, 50)

    def test_not_counted_without_literals(self) -> None:
        self.run_sql("SET perf_opt.sample_literals = off", *[PAIR] * 3)
        self.assertIsNone(self.misestimate())

"""Tests of what needs no server: tables that keep their width, units, the manifest, and the schema's promises."""

from __future__ import annotations

import re
import unittest
from pathlib import Path

from tests.demo import hopes, loader, printing, runner
from tests.demo.server import DemoError

HERE = Path(__file__).resolve().parent
QUERY = "SELECT id, type, amount FROM transactions WHERE user_id = $1 ORDER BY created_at DESC LIMIT $2 " * 3
# The catalogue's eight: an index on any of these would take the advisor's work away.
POLICY_INDEXES = {"users": ["last_login"], "transactions": ["user_id", "created_at"], "fraud_flags": ["user_id", "created_at"],
                  "alerts": ["status", "severity", "triggered_at"], "game_results": ["user_id", "created_at"],
                  "metrics_history": ["metric_type", "timestamp"], "risk_scores_history": ["user_id", "calculated_at"],
                  "audit_events": ["created_at", "admin_id"]}


class Printing(unittest.TestCase):
    COLUMNS = [printing.Column("calls", "calls", printing.integer), printing.Column("ms", "mean", printing.milliseconds),
               printing.Column("name", "name"), printing.Column("query", "statement", wide=True)]

    def test_no_line_is_wider_than_asked(self) -> None:
        for name in ("x", "y" * 60, "z" * 200):
            rows = [{"calls": 1234567, "ms": 1234.5, "name": name, "query": QUERY}, {"calls": 1, "name": "-", "query": "q" * 300}]
            for width in (80, 100, 120):
                for line in printing.table(self.COLUMNS, rows, width):
                    self.assertLessEqual(len(line), width)

    def test_numbers_are_right_aligned_and_unknown_is_a_dash(self) -> None:
        lines = printing.table(self.COLUMNS[:2], [{"calls": 1234567, "ms": 0.5}, {"calls": 3, "ms": None}], 80)
        self.assertEqual(lines[2:], ["1,234,567  0.50 ms", "        3        -"])

    def test_long_text_ends_in_dots(self) -> None:
        lines = printing.wrapped(QUERY, 40, 2)
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[-1].endswith(" ..."))

    def test_short_text_is_not_touched(self) -> None:
        self.assertEqual(printing.wrapped("SELECT 1", 40, 2), ["SELECT 1"])

    def test_empty_table_says_so(self) -> None:
        self.assertEqual(printing.table(self.COLUMNS, [], 80, empty="none was slow"), ["  (none was slow)"])

    def test_units(self) -> None:
        self.assertEqual([printing.milliseconds(ms) for ms in (0.05, 12.34, 345.6, 1234, 90000)],
                         ["0.05 ms", "12.3 ms", "346 ms", "1.23 s", "1.5 min"])
        self.assertEqual([printing.size(amount) for amount in (0, 512, 8192, 13 * 2**20, 2**41)],
                         ["0 B", "512 B", "8.0 kB", "13 MB", "2.0 TB"])
        self.assertEqual([printing.factor(value) for value in (1.25, 141.7)], ["1.2x", "142x"])


class Workload(unittest.TestCase):
    def test_every_script_is_in_the_manifest_once(self) -> None:
        listed = [script.name for script in runner.manifest()]
        self.assertEqual(sorted(listed), sorted(path.stem for path in runner.WORKLOAD.glob("*.sql")))
        self.assertGreaterEqual(len(listed), 30)

    def test_the_manifest_makes_sense(self) -> None:
        for script in runner.manifest():
            self.assertGreater(script.weight, 0, script.name)
            self.assertIn(script.protocol, runner.PROTOCOLS, script.name)
            self.assertIn(script.indexed_table, [None, *POLICY_INDEXES], script.name)
        self.assertEqual({script.indexed_table for script in runner.manifest()} - {None}, set(POLICY_INDEXES))

    def test_every_area_with_a_hoped_gain_is_played(self) -> None:
        areas = {script.area for script in runner.manifest()}
        self.assertLessEqual({"dashboards", "time_series", "alert_filters", "risk_scores", "risk_trends", "bulk_scoring",
                              "cohorts", "churn", "segments"}, areas)

    def test_what_developers_change_is_of_the_manifest(self) -> None:
        improved = {path.stem for path in (runner.WORKLOAD / hopes.IMPROVED).glob("*.sql")}
        self.assertEqual(improved, {*hopes.CACHED, *hopes.ON_VIEWS})
        self.assertLessEqual(improved, {script.name for script in runner.manifest()})

    def test_achieved_is_weighed_by_what_ran_before(self) -> None:
        one, two, *_ = runner.manifest()

        def run(*means: float) -> runner.Run:
            return runner.Run([runner.Measured(script, count, mean, mean, mean, mean, mean)
                               for script, count, mean in zip((one, two), (10, 30), means)], 1.0, 0)

        self.assertEqual((one.area, two.area), ("dashboards", "dashboards"))
        printed = hopes.lines(run(40.0, 8.0), run(4.0, 8.0), 120)
        self.assertTrue(any(re.match(r"dashboards +50-60 % +16.0 ms +7.0 ms +56.2 % +reached", line) for line in printed), printed)
        self.assertTrue(any(re.match(r"churn +25-35 % +.*not measured", line) for line in printed), printed)

    def test_clients_are_shared_out_completely(self) -> None:
        self.assertEqual(runner.split(8, ["a", "b"]), {"a": 4, "b": 4})
        self.assertEqual(runner.split(5, ["a", "b"]), {"a": 3, "b": 2})

    def test_percentiles_are_nearest_rank(self) -> None:
        measured = runner.summarise(runner.manifest()[0], [float(value) for value in range(1, 101)])
        self.assertEqual((measured.executions, measured.p50_ms, measured.p95_ms, measured.p99_ms, measured.max_ms),
                         (100, 50.0, 95.0, 99.0, 100.0))


class Platform(unittest.TestCase):
    SCHEMA = (HERE / "schema.sql").read_text()

    def test_every_table_has_a_generator(self) -> None:
        tables = set(re.findall(r"CREATE TABLE (\w+)", self.SCHEMA))
        self.assertEqual(tables, set(loader.ROWS))
        self.assertEqual(tables, {path.stem for path in (HERE / "data").glob("*.sql")} - {"helpers"})

    def test_nothing_but_keys_is_indexed(self) -> None:
        self.assertNotIn("CREATE INDEX", self.SCHEMA.upper())
        for table, columns in POLICY_INDEXES.items():
            body = re.search(rf"CREATE TABLE {table} \((.*?)\n\);", self.SCHEMA, re.DOTALL)
            assert body is not None
            for column in columns:
                self.assertRegex(body[1], rf"\n    {column} ")

    def test_nothing_in_the_data_is_random(self) -> None:
        for path in (HERE / "data").glob("*.sql"):
            code = re.sub(r"--.*", "", path.read_text())
            self.assertNotRegex(code, r"(?i)\brandom\(|\bnow\(|clock_timestamp|current_", path.name)

    def test_nothing_refers_to_what_will_be_partitioned(self) -> None:
        for table in ("metrics_history", "audit_events", "error_logs", "alerts"):
            self.assertNotIn(f"REFERENCES {table}", self.SCHEMA)

    def test_scale_one_is_about_two_million_rows(self) -> None:
        self.assertAlmostEqual(sum(loader.rows_at(1).values()) / 2e6, 1, delta=0.1)

    def test_scale_is_checked(self) -> None:
        for scale in (0, -1, float("nan"), float("inf")):
            with self.assertRaises(DemoError):
                loader.rows_at(scale)


if __name__ == "__main__":
    unittest.main()

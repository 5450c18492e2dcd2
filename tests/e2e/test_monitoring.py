"""What monitoring is told: Prometheus' own tool reads it, and the examples in docs/monitoring are run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from .case import ClusterTest
from .neighbours import program

PROMTOOL = "promtool"
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "monitoring"


def promtool() -> str:
    """Prometheus' own checker."""
    found = program(PROMTOOL, "prometheus")
    if found is None:
        raise unittest.SkipTest(f"{PROMTOOL} is not on PATH and cannot be installed")
    return found


def check(test: unittest.TestCase, *arguments: str, **options: str) -> None:
    """Has it checked."""
    done = subprocess.run([promtool(), "check", *arguments], capture_output=True, text=True, **options)
    test.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Text(ClusterTest):
    """perf.prometheus_metrics() and perf.prometheus_rules()."""

    settings = {"shared_preload_libraries": "perf_opt", "perf_opt.collect_interval": 1}

    def setUp(self) -> None:
        super().setUp()
        self.name = self.fresh_database()

    def text(self, **connection: str) -> str:
        return self.cluster.scalar("SELECT perf.prometheus_metrics()", dbname=self.name, **connection)

    def samples(self) -> dict[str, float]:
        lines = [line for line in self.text().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def test_promtool_finds_nothing_wrong(self) -> None:
        self.cluster.sql("CREATE TABLE big AS SELECT n, repeat('x', 500) AS t FROM generate_series(1, 4000) n", dbname=self.name)
        with self.cluster.connect(self.name) as session:
            session.query("SET application_name = 'a \"name\" with \\ and é'")
            session.query("SELECT count(*) FROM big")
            with self.assertRaises(Exception):
                session.query("SELECT 1 / 0")
        text = self.text()
        for family in ("server_disk_used_ratio", "database_latency_p99_seconds", "database_statement_duration_seconds",
                       "application_statements_per_second", "database_alert_firing", "database_health_status"):
            self.assertIn(f"# TYPE perf_opt_{family} ", text)
        check(self, "metrics", input=text)

    def test_counters_count(self) -> None:
        count = f'perf_opt_database_statement_duration_seconds_count{{database="{self.name}"}}'
        failures = f'perf_opt_database_statement_failures_total{{database="{self.name}"}}'
        before = self.samples()
        with self.cluster.connect(self.name) as session:
            for _ in range(20):
                session.query("SELECT 1")
            with self.assertRaises(Exception):
                session.query("SELECT 1 / 0")
        after = self.samples()
        self.assertEqual(after[failures] - before[failures], 1)
        # Those of this test's own connection, too.
        self.assertGreaterEqual(after[count] - before[count], 21)
        buckets = [value for name, value in after.items() if name.startswith("perf_opt_database_statement_duration_seconds_bucket")]
        self.assertEqual(buckets, sorted(buckets))
        self.assertEqual(buckets[-1], after[count])

    def test_every_metric_has_a_name_here(self) -> None:
        """Whoever adds a metric gives it one: as many values as perf.metrics() has are told."""
        def measured() -> list[tuple]:
            return self.cluster.sql("SELECT DISTINCT name, scope FROM perf.metrics() WHERE value IS NOT NULL", dbname=self.name)

        before = measured()
        families = {re.match(r"perf_opt_([a-z]+)_", name)[1] + " " + name.partition("{")[0] for name in self.samples()}
        own = {"alert_firing", "health_status", "statement_duration_seconds_bucket", "statement_duration_seconds_sum",
               "statement_duration_seconds_count", "statement_failures_total"}
        told = {family for family in families if not any(family.endswith(f"_database_{name}") for name in own)}
        # The first sample may come in between.
        after = measured()
        self.assertTrue(len(before) <= len(told) <= len(after), (sorted(told), sorted(before), sorted(after)))

    def test_no_text_of_a_query_and_no_name_of_others(self) -> None:
        self.cluster.sql("CREATE ROLE scraper LOGIN", dbname=self.name)
        self.addCleanup(self.cluster.sql, "DROP ROLE scraper")
        with self.cluster.connect(self.name) as session:
            session.query("SET application_name = 'payroll'")
            session.query("SELECT 'tellmenot'")
        self.assertIn('application="payroll"', self.text())
        seen = self.text(user="scraper")
        self.assertNotIn("payroll", seen)
        self.assertIn('application="(insufficient privilege)"', seen)
        self.assertNotIn("tellmenot", self.text() + seen)

    def test_rules(self) -> None:
        self.cluster.sql("INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action) "
                         "VALUES ('mine: {{ $x }} \"quoted\"', 'error_rate', '>', 5, '%', 'critical', 'Look {{ now }}: \"x\"')",
                         dbname=self.name)
        rules = self.cluster.scalar("SELECT perf.prometheus_rules()", dbname=self.name)
        self.assertIn("perf_opt_database_latency_p99_seconds > 0.5", rules)
        self.assertIn("perf_opt_database_error_ratio > 0.05", rules)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "rules.yml"
            path.write_text(rules)
            check(self, "rules", str(path))

    def test_what_rules_watch_is_told(self) -> None:
        """Expressions name families that exist, wherever their metric has a value."""
        metrics = {name for name, in self.cluster.sql(
            "SELECT metric FROM perf.alert_threshold JOIN perf.metrics() m ON m.name = metric WHERE m.value IS NOT NULL",
            dbname=self.name)}
        rules = self.cluster.scalar("SELECT perf.prometheus_rules()", dbname=self.name)
        watched = set(re.findall(r'"expr": "(perf_opt_\w+) ', rules))
        told = {name.partition("{")[0] for name in self.samples()}
        self.assertGreaterEqual(len(watched & told), len(metrics))
        self.assertTrue(metrics)


class Elsewhere(ClusterTest):
    """Without preloading, and on a standby."""

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": ""})
        cluster.sql("CREATE EXTENSION perf_opt")
        text = cluster.scalar("SELECT perf.prometheus_metrics()")
        self.assertIn("perf_opt_server_connections ", text)
        self.assertNotIn("statement_duration", text)

    def test_standby(self) -> None:
        primary = self.private_cluster({"shared_preload_libraries": "perf_opt"})
        primary.sql("CREATE EXTENSION perf_opt")
        standby = primary.standby()
        self.wait_until(lambda: standby.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'perf_opt'") == 1, 30, "replay")
        self.assertIn('perf_opt_replica_lag_seconds{replica="(this server)"}', standby.scalar("SELECT perf.prometheus_metrics()"))


class Examples(ClusterTest):
    """What docs/monitoring holds works with this version."""

    settings = Text.settings

    def setUp(self) -> None:
        super().setUp()
        self.name = self.fresh_database()

    def test_every_query_of_the_dashboard_runs(self) -> None:
        dashboard = json.loads((EXAMPLES / "grafana.json").read_text())
        panels = [panel for outer in dashboard["panels"] for panel in (outer, *outer.get("panels", []))]
        queries = {panel["title"]: target["rawSql"] for panel in panels for target in panel.get("targets", [])}
        self.assertGreater(len(queries), 10)
        choices = dashboard["templating"]["list"][0]["query"].split(",")
        with self.cluster.connect(self.name) as session:
            for title, sql in queries.items():
                for choice in choices if "${metric}" in sql else choices[:1]:
                    with self.subTest(title=title, choice=choice):
                        result = session.query(expanded(sql, choice))
                        self.assertTrue(result.columns)
        placed = [panel["gridPos"] for panel in panels]
        self.assertTrue(all(0 <= place["x"] and place["x"] + place["w"] <= 24 for place in placed))
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))

    def test_queries_of_exporters_run_as_a_monitoring_role(self) -> None:
        self.cluster.sql("CREATE ROLE exporter LOGIN IN ROLE pg_monitor")
        self.addCleanup(self.cluster.sql, "DROP ROLE exporter")
        queries = re.findall(r"query: \|\n((?:      .*\n)+)", (EXAMPLES / "sql_exporter.collector.yml").read_text())
        queries += re.findall(r'query: "(.*)"', (EXAMPLES / "postgres_exporter.queries.yml").read_text())
        self.assertEqual(len(queries), 5)
        for sql in queries:
            self.assertTrue(self.cluster.sql(sql, dbname=self.name, user="exporter"), sql)

    def test_the_configuration_of_prometheus(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(EXAMPLES / "prometheus.yml", directory)
            (Path(directory) / "perf_opt.rules.yml").write_text(
                self.cluster.scalar("SELECT perf.prometheus_rules()", dbname=self.name))
            check(self, "config", str(Path(directory) / "prometheus.yml"))


def expanded(sql: str, metric: str) -> str:
    """A panel's query as Grafana's PostgreSQL data source would send it."""
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 BETWEEN now() - interval '6 hours' AND now()", sql)
    return sql.replace("$__timeFrom()", "(now() - interval '6 hours')").replace("$__interval_ms", "30000").replace("${metric}", metric)

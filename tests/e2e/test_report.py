"""The report on a real server: hostile names, who sees what, and the page in a browser."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import tempfile
import unittest
from typing import Any
from pathlib import Path

from .case import ClusterTest
from .neighbours import program

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{x}}"
SCREENSHOTS = Path(__file__).resolve().parents[2] / "target" / "report"


class Elements(html.parser.HTMLParser):
    """Counts elements, and finds attributes that would run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.wrong += [f"{tag} {name}={value}" for name, value in attrs
                       if name.startswith("on") or name in ("src", "action") or name == "href" and not value.startswith(("#", "data:,"))]


class Report(ClusterTest):
    """perf.report()."""

    settings = {"shared_preload_libraries": "perf_opt", "perf_opt.collect_interval": 1}

    def setUp(self) -> None:
        super().setUp()
        self.name = self.fresh_database()

    def report(self, format: str = "json", user: str = "postgres", **arguments: str) -> str:
        given = "".join(f", {name} => '{value}'" for name, value in arguments.items())
        return self.cluster.scalar(f"SELECT perf.report('{format}'{given})", dbname=self.name, user=user)

    def work(self) -> None:
        """A workload whose names are hostile, and which an index would help."""
        with self.cluster.connect(self.name) as session:
            quoted = '"' + HOSTILE.replace('"', '""')[:50] + '"'
            session.query(f"CREATE TABLE {quoted} AS SELECT n AS id, n % 1000 AS customer FROM generate_series(1, 50000) n")
            session.query(f"ANALYZE {quoted}")
            session.query("SELECT set_config('application_name', $$" + HOSTILE + "$$, false)")
            for number in range(30):
                session.query(f"SELECT count(*) FROM {quoted} WHERE customer = {number} /* {HOSTILE} */")
            session.query("SELECT perf.job_schedule($$" + HOSTILE + "$$, 'monthly', 'SELECT 1')")

    def test_parts_are_filled(self) -> None:
        self.work()
        self.wait_until(lambda: json.loads(self.report())["load"], 30, "the history")
        document = json.loads(self.report())
        self.assertEqual(document["warnings"], [])
        self.assertTrue(any("customer = $1" in statement["query"] for statement in document["statements"]))
        self.assertFalse(any("perf._statement_activity" in statement["query"] for statement in document["statements"]))
        advice = [one for one in document["recommendations"] if one["kind"] == "index"]
        self.assertTrue(any("(customer)" in one["sql"] for one in advice), document["recommendations"])
        self.assertEqual([job["name"] for job in document["jobs"]], [HOSTILE])
        self.assertEqual({one["metric"] for one in document["capacity"]},
                         {"database_size", "disk_used", "peak_connections", "qps"})
        for part in ("alerts", "health", "cost", "latency"):
            self.assertTrue(document[part], part)

    def patterns(self, since: Any) -> dict[str, dict[str, Any]]:
        """What perf.slow_query_patterns says, by queryid."""
        return {str(row["queryid"]): row for row in self.cluster.result(
            "SELECT queryid, executions, cause, trend FROM perf.slow_query_patterns($1)", (str(since),), dbname=self.name).dicts()}

    def test_activity_is_what_the_functions_say(self) -> None:
        with self.cluster.connect(self.name) as session:
            session.query("SET perf_opt.slow_ms = 5")
            for _ in range(6):
                session.query("SELECT pg_sleep(0.01)")
            session.query("SELECT count(*) FROM generate_series(1, 1000)")
        since = self.cluster.scalar("SELECT now() - interval '1 hour'", dbname=self.name)
        # Some is written and some is in memory, whenever this is; the collector may come between two looks.
        before = self.patterns(since)
        document = json.loads(self.report(since=str(since)))
        patterns = self.patterns(since)
        told = {row["queryid"]: row for row in document["statements"]}
        [slow] = [row for row in told.values() if "pg_sleep" in row["query"]]
        self.assertIn((slow["calls"], slow["cause"], slow["trend"]),
                      [tuple(seen[slow["queryid"]][name] for name in ("executions", "cause", "trend"))
                       for seen in (before, patterns)])
        self.assertEqual([row for row in told.values() if row.get("cause") and row["queryid"] not in patterns], [])
        load = {series["name"]: series["samples"] for series in document["load"]}
        self.assertGreater(sum(sample["value"] for sample in load["slow statements"]), 0)
        self.assertEqual(len(load["statements"]), len(load["slow statements"]))
        [p99] = [series["samples"] for series in document["latency"] if series["name"] == "p99"]
        self.assertGreater(max(sample["value"] or 0 for sample in p99), 9)
        trend = self.cluster.result("SELECT slow_per_min, p99_ms FROM perf.slow_query_trend('1 min', now() - interval '2 min') WHERE slow > 0",
                                    dbname=self.name).dicts()
        # Reports are statements too, and come between the two.
        self.assertGreater(max(row["p99_ms"] for row in trend), 9)

    def test_hostile_names_stay_text(self) -> None:
        self.work()
        page = self.report("html")
        elements = Elements()
        elements.feed(page)
        self.assertEqual(elements.wrong, [])
        self.assertNotIn("img", elements.counts)
        self.assertEqual(elements.counts["h1"], 1)
        self.assertIn("Content-Security-Policy", page)
        self.assertLess(len(page), 2_000_000)

    def test_others_see_what_is_theirs(self) -> None:
        self.cluster.sql("CREATE ROLE reader LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE reader")
        with self.cluster.connect(self.name) as session:
            session.query("CREATE TABLE payroll (id int)")
            session.query("SELECT count(*) FROM payroll")
            session.query("SELECT perf.job_schedule('pay them', 'monthly', 'SELECT 1')")
        seen = self.report(user="reader")
        self.assertNotIn("payroll", seen)
        self.assertNotIn("pay them", seen)
        self.assertIn("payroll", self.report())

    def test_a_part_that_fails_is_a_warning(self) -> None:
        self.cluster.sql("ALTER VIEW perf.job_runs RENAME TO runs_elsewhere", dbname=self.name)
        document = json.loads(self.report())
        self.assertEqual([warning["level"] for warning in document["warnings"]], ["warning"])
        self.assertIn('no part "jobs"', document["warnings"][0]["message"])
        self.assertTrue(document["health"])

    def test_a_cancel_ends_it(self) -> None:
        with self.cluster.connect(self.name) as session:
            session.query("SET statement_timeout = '1ms'")
            with self.assertRaisesRegex(Exception, "statement timeout"):
                session.query("SELECT perf.report()")

    def test_in_a_browser(self) -> None:
        browser = program("chromium", "chromium")
        if browser is None:
            self.skipTest("chromium is not on PATH and cannot be installed")
        self.work()
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            page = Path(directory) / "report.html"
            page.write_text(self.report("html"))
            for width in (360, 1280):
                picture = SCREENSHOTS / f"report-{self.cluster.major}-{width}.png"
                picture.unlink(missing_ok=True)
                done = subprocess.run(
                    [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
                     f"--user-data-dir={directory}/profile", f"--window-size={width},2000", f"--screenshot={picture}", page.as_uri()],
                    capture_output=True, text=True, timeout=90)
                self.assertTrue(picture.exists(), done.stderr)
                self.assertGreater(picture.stat().st_size, 20_000)
                self.assertEqual(re.findall(r".*CONSOLE.*", done.stderr), [])
            done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                                   f"--user-data-dir={directory}/profile", "--dump-dom", page.as_uri()],
                                  capture_output=True, text=True, timeout=90)
            elements = Elements()
            elements.feed(done.stdout)
            self.assertEqual(elements.wrong, [])
            # What charts are made of.
            self.assertGreater(elements.counts.get("polyline", 0) + elements.counts.get("path", 0)
                               + elements.counts.get("rect", 0) + elements.counts.get("circle", 0), 5)


class Elsewhere(ClusterTest):
    """Without preloading, and on a standby."""

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": ""})
        cluster.sql("CREATE EXTENSION perf_opt")
        document = json.loads(cluster.scalar("SELECT perf.report('json')"))
        self.assertEqual([warning["sql"] for warning in document["warnings"]], ["shared_preload_libraries = 'perf_opt'"])
        self.assertIn("shared_preload_libraries", cluster.scalar("SELECT perf.report()"))

    def test_standby(self) -> None:
        primary = self.private_cluster({"shared_preload_libraries": "perf_opt"})
        primary.sql("CREATE EXTENSION perf_opt")
        standby = primary.standby()
        self.wait_until(lambda: standby.scalar("SELECT count(*) FROM pg_extension WHERE extname = 'perf_opt'") == 1, 30, "replay")
        document = json.loads(standby.scalar("SELECT perf.report('json')"))
        self.assertEqual(document["warnings"], [])
        self.assertTrue(document["health"])

"""What is asked of perf_opt itself is nobody's workload: it gets no advice, and takes nothing from the advice on others."""

from __future__ import annotations

from typing import Any

from .capture_case import CaptureTest

TABLES = ("DROP TABLE IF EXISTS item", "CREATE TABLE item (id int, owner int, pad text)",
          "INSERT INTO item SELECT g, g % 5000, repeat('x', 60) FROM generate_series(1, 50000) g", "VACUUM ANALYZE item")
MINE = "SELECT count(*) FROM item WHERE owner = 7"
# Views and functions, as dashboards, collectors and people ask them.
POLLED = ("SELECT * FROM perf.jobs", "SELECT count(*) FROM perf.statement_history_visible WHERE calls > 0", "SELECT * FROM perf.health()",
          "SELECT perf.prometheus_metrics()", "SELECT h.component FROM perf.health() h JOIN perf.statements() s ON s.calls > 0",
          "SELECT a.name, now() FROM perf.alerts(true) a ORDER BY 1", "SELECT * FROM perf.slow_query_patterns()",
          "WITH j AS (SELECT name FROM perf.jobs) SELECT count(*) FROM j, pg_catalog.pg_class c WHERE c.relname = j.name")


class OwnStatementsTest(CaptureTest):
    """The index advisor, rewrites and the roadmap, before and after perf_opt was asked much."""

    def setUp(self) -> None:
        super().setUp()
        self.run_sql(*TABLES)
        self.reset()
        self.addCleanup(self.run_sql, "DROP TABLE IF EXISTS item")

    def advice(self) -> list[dict[str, Any]]:
        """What indexes are advised."""
        return self.cluster.result("SELECT relation, columns, benefit_pct, evidence::text AS evidence FROM perf.index_recommendations() "
                                   "WHERE status = 'recommended' AND action = 'create'", dbname=self.db).dicts()

    def test_a_polled_view_changes_no_advice(self) -> None:
        self.run_sql(*[MINE] * 20)
        before = self.advice()
        self.assertEqual([(row["relation"], row["columns"]) for row in before], [("public.item", ["owner"])])
        self.run_sql(*POLLED * 30)
        counted = self.statements()
        spent = {named: sum(row["total_ms"] for row in counted if ("perf." in row["query"]) is named and row["toplevel"]) for named in (True, False)}
        self.assertGreater(spent[True], spent[False], "it was polled for longer than anything else took")
        after = self.advice()
        self.assertEqual([(row["relation"], row["columns"]) for row in after], [("public.item", ["owner"])])
        self.assertAlmostEqual(after[0]["benefit_pct"], before[0]["benefit_pct"], delta=5)
        self.assertGreater(after[0]["benefit_pct"], 80)
        told = self.cluster.result("SELECT before_sql FROM perf.sql_optimization_examples(true) WHERE source = 'workload'", dbname=self.db)
        self.assertEqual([row[0] for row in told.rows if "perf." in row[0]], [])
        self.assertEqual({row["query"] for row in self.statements() if row["query"] == "SELECT * FROM perf.jobs"}, {"SELECT * FROM perf.jobs"})

    def test_found_by_its_search_path(self) -> None:
        self.run_sql(*[MINE] * 20)
        # Long enough to be sampled, with the path that says what the names mean.
        self.run_sql("SET search_path = perf, public", *["SELECT count(*) FROM jobs CROSS JOIN generate_series(1, 400000)"] * 4)
        self.assertGreater(self.advice()[0]["benefit_pct"], 80)

    def test_what_reads_other_tables_as_well_counts(self) -> None:
        self.run_sql(*["SELECT count(*) FROM item i, perf.jobs j WHERE i.owner = 7"] * 20,
                     *["SELECT count(*), (SELECT count(*) FROM perf.health()) FROM item WHERE owner = 8"] * 20)
        rows = self.advice()
        self.assertEqual([(row["relation"], row["columns"]) for row in rows], [("public.item", ["owner"])])
        self.assertIn("perf.", str(self.cluster.result("SELECT s.query FROM perf.index_recommendations() r CROSS JOIN jsonb_array_elements(r.evidence) e "
                                                       "JOIN perf.statements() s ON s.queryid = (e ->> 'queryid')::bigint", dbname=self.db).rows))

    def test_a_function_of_somebody_elses_counts(self) -> None:
        self.run_sql("CREATE FUNCTION busy() RETURNS int LANGUAGE plpgsql VOLATILE AS $$BEGIN PERFORM pg_sleep(0.2); RETURN 1; END$$")
        self.addCleanup(self.run_sql, "DROP FUNCTION busy()")
        self.run_sql(*[MINE] * 20)
        alone = self.advice()[0]["benefit_pct"]
        self.run_sql(*["SELECT busy() FROM perf.health() LIMIT 1"] * 5)
        self.assertLess(self.advice()[0]["benefit_pct"], alone / 2)

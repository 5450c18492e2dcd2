"""Runs postgres-mcp's advisor: in its own virtual environment, started by `mcp`, never by hand.

Reads {"dsn", "queries", "columns", "budgets_mb", "threshold", "seconds"} from standard input and prints a list of
{"budget_mb", "ddl", "estimated_bytes", "wall_s", "cpu_s", "planner_calls", "error"}. The package wants Python 3.12 for
one decorator only, which is put in where it is missing; its server is left out, for it needs what the advisor does not.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
import time
import types
import typing

import typing_extensions

if not hasattr(typing, "override"):
    setattr(typing, "override", typing_extensions.override)
found = importlib.util.find_spec("postgres_mcp")
assert found is not None and found.submodule_search_locations is not None
package = types.ModuleType("postgres_mcp")
package.__path__ = list(found.submodule_search_locations)
sys.modules["postgres_mcp"] = package

from postgres_mcp.explain import ExplainPlanTool  # noqa: E402
from postgres_mcp.index.dta_calc import DatabaseTuningAdvisor  # noqa: E402
from postgres_mcp.sql import SqlBindParams, SqlDriver  # noqa: E402


def chosen(result: typing.Any) -> list[str]:
    """The statements in the order in which the search took them, which only its trace tells."""
    trace = "\n".join(str(line) for line in result.dta_traces)
    places = {name: number for number, name in enumerate(re.findall(r"Selected index: (\S+\([^)]*\))", trace))}
    return [each.definition for each in
            sorted(result.recommendations, key=lambda each: places.get(f"{each.table}({','.join(each.columns)})", 0))]


async def main() -> None:
    """Advice for each budget. Plans are remembered from one to the next, so the first took the longest."""
    asked = json.load(sys.stdin)
    calls = 0
    original = ExplainPlanTool.generate_explain_plan_with_hypothetical_indexes

    async def counted(*arguments: typing.Any, **named: typing.Any) -> typing.Any:
        nonlocal calls
        calls += 1
        return await original(*arguments, **named)

    ExplainPlanTool.generate_explain_plan_with_hypothetical_indexes = counted
    driver = SqlDriver(engine_url=asked["dsn"])
    # As published it takes a bare column for one of every table of the query, and an outer query's alias for a table;
    # then it fails on most of these queries.
    columns = {tuple(pair) for pair in asked["columns"]}
    extract = SqlBindParams.extract_stmt_columns

    def real(self: typing.Any, statement: typing.Any) -> dict:
        found = extract(self, statement)
        return {table: {name for name in names if (table, name) in columns} for table, names in found.items()
                if any((table, name) in columns for name in names)}

    SqlBindParams.extract_stmt_columns = real
    plans: dict = {}
    costs: dict = {}
    answers = []
    for budget in asked["budgets_mb"]:
        advisor = DatabaseTuningAdvisor(driver, budget_mb=budget, max_runtime_seconds=asked["seconds"],
                                        min_time_improvement=asked["threshold"])
        advisor._explain_plans_cache, advisor.cost_cache = plans, costs
        started, cpu, before = time.monotonic(), time.process_time(), calls
        result = await advisor.analyze_workload(query_list=asked["queries"], max_index_size_mb=budget)
        answers.append({"budget_mb": budget, "ddl": chosen(result),
                        "estimated_bytes": sum(each.estimated_size_bytes for each in result.recommendations),
                        "wall_s": time.monotonic() - started, "cpu_s": time.process_time() - cpu,
                        "planner_calls": calls - before, "error": result.error})
    await driver.conn.close()
    json.dump(answers, sys.stdout)


asyncio.run(main())

"""perf_opt's own advisor, through its SQL functions only."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

from bench.servers import cpu_ns

from ..measure import body_of
from . import Advice

RUNS = 3


def of_queries(server: Any, queries: Mapping[str, str], budgets: Sequence[int]) -> list[Advice]:
    """Advice for these statements at each budget in real bytes."""
    return [_advice(server, "perf_opt", budget, "queries => $2", (list(queries.values()),)) for budget in budgets]


def of_captured(server: Any, queries: Mapping[str, str], budgets: Sequence[int]) -> list[Advice]:
    """Advice for what it has captured of the workload, run a few times first."""
    with server.connect() as session:
        session.query("SELECT perf.reset()")
        for _ in range(RUNS):
            for text in queries.values():
                session.query(text)
    return [_advice(server, "perf_opt captured", budget, "workload => 'captured'", ()) for budget in budgets]


def timed(server: Any, queries: Mapping[str, str], budget: int, time_budget_ms: int) -> Advice:
    """Advice for these statements with another limit of time than the default."""
    call = "queries => $2, time_budget_ms => $3"
    return _advice(server, "perf_opt", budget, call, (list(queries.values()), time_budget_ms))


def _advice(server: Any, name: str, budget: int, call: str, params: tuple) -> Advice:
    with server.connect(timeout=900.0) as session:
        session.query("SELECT count(*) FROM perf.index_recommendations(queries => ARRAY['SELECT 1'])")  # loads it
        started, cpu = time.monotonic(), cpu_ns(session.pid)
        rows = session.execute(f"SELECT * FROM perf.index_recommendations(storage_budget_bytes => $1, {call})",
                               (budget, *params)).dicts()
        wall_s, cpu_s = time.monotonic() - started, (cpu_ns(session.pid) - cpu) / 1e9
        notices = [notice.get("message", "") for notice in session.notices]
    wanted = [row for row in rows if row["status"] == "recommended" and row["action"] == "create"]
    return Advice(name, "", [body_of(row["ddl"]) for row in wanted], wall_s, cpu_s, planner_calls(rows), promised(rows),
                  sum(int(row["size_bytes"] or 0) for row in wanted), budget, notices)


def planner_calls(rows: Sequence[Mapping[str, Any]]) -> Any:
    """How often it planned, where it says so."""
    told = [row["planner_calls"] for row in rows if row.get("planner_calls") is not None]
    return max(told) if told else None


def promised(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The share of the workload's cost that is left when all benefits add up."""
    saved = sum(float(row["benefit_pct"] or 0) for row in rows
                if row["status"] == "recommended" and row["action"] == "create")
    return 1 - saved / 100 if rows else None

"""Part `tpch`: every advisor's indexes at four budgets of real bytes, planned and executed on the same server.

A peer whose own estimate of sizes is wrong gets advice for a series of estimated budgets; what counts for a real budget
is the set with the least promised cost among those whose real build fits. perf_opt is asked once, for the real budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

from bench import report

from .data import TpchServer
from .measure import Bench, Measured, slower, surely_slower
from .peers import MB, Advice, Remembered, hypo, mcp, own, provide, qualstats

BUDGETS_MB = (75, 150, 300, 800)
MUCH_SLOWER = 1.25
LESS_TIME = 0.90
RECOMMEND_S = 2.0
CALLS_PER_STATEMENT = 25
# The order of the table; the first is the one that the targets are about.
OWN, CAPTURED = "perf_opt", "perf_opt captured"
EXTEND, SINGLE = "Extend (HypoPG)", "single-column greedy (HypoPG)"
QUALSTATS, MCP = "pg_qualstats", "postgres-mcp"
ADVISORS = (OWN, CAPTURED, EXTEND, SINGLE, QUALSTATS, MCP)


@dataclass
class Entry:
    """One advisor at one budget."""

    advisor: str
    budget: int
    advice: Advice
    measured: Measured
    slower_5: list[str]
    slower_25: list[str]

    def figures(self, base: Measured) -> dict[str, Any]:
        """What is kept in the JSON."""
        return {"advisor": self.advisor, "budget_bytes": self.budget, "variant": self.advice.variant,
                "indexes": self.measured.indexes, "real_bytes": self.measured.real_bytes,
                "estimated_bytes": self.advice.estimated_bytes, "promised": self.advice.promised,
                "planned": self.measured.cost / base.cost, "cpu": self.measured.cpu_ms / base.cpu_ms,
                "wall": self.measured.wall_ms / base.wall_ms, "slower_5": self.slower_5, "slower_25": self.slower_25,
                "recommend_wall_s": self.advice.wall_s, "recommend_cpu_s": self.advice.cpu_s,
                "planner_calls": self.advice.planner_calls, "notes": self.advice.notes,
                "queries": {name: {"cpu_ms": taken.cpu_ms, "wall_ms": taken.wall_ms,
                                   "cost": self.measured.plans[name].cost}
                            for name, taken in self.measured.times.items()}}


def run(server: TpchServer, options: Any) -> tuple[bool, dict[str, Any]]:
    """The part; whether its targets are met, and its figures."""
    queries = server.queries
    budgets = [budget * MB for budget in BUDGETS_MB]
    report.say(f"advisor: {OWN}, {len(queries)} queries")
    advice: dict[str, list[Advice]] = {OWN: own.of_queries(server, queries, budgets),
                                       CAPTURED: own.of_captured(server, queries, budgets)}
    missing = {} if options.no_peers else ask_peers(server, advice, options.fresh)
    server.start_with("perf_opt")
    with Bench(server, queries, options.passes) as bench:
        base = bench.planned([])
        entries: list[Entry] = []
        for advisor, given in advice.items():
            report.say(f"advisor: building what {advisor} recommends")
            for budget in budgets:
                found = choose(bench, given, budget)
                if found is not None:
                    entries.append(Entry(advisor, budget, *found, [], []))
        report.say("advisor: executing")
        bench.execute([base, *(entry.measured for entry in entries)])
        for entry in entries:
            own_one = entry.advisor in (OWN, CAPTURED)
            entry.slower_5 = (surely_slower(bench, entry.measured, base) if own_one else slower(entry.measured, base))
            entry.slower_25 = slower(entry.measured, base, MUCH_SLOWER)
        report.say(f"advisor: {bench.executions} executions of {len(bench.executed)} plans")
    show(entries, base, missing)
    targets = judge(entries, base, len(queries))
    figures = {"base": {"cost": base.cost, "cpu_ms": base.cpu_ms, "wall_ms": base.wall_ms,
                        "queries": {name: taken.cpu_ms for name, taken in base.times.items()}},
               "entries": [entry.figures(base) for entry in entries], "missing": missing,
               "targets": {name: met for name, (met, _) in targets.items()}}
    report.table("TPC-H: targets", ["target", "figure", "verdict"],
                 [[name, figure, report.verdict(met)] for name, (met, figure) in targets.items()])
    return all(met for met, _ in targets.values()), figures


def ask_peers(server: TpchServer, advice: dict[str, list[Advice]], fresh: bool) -> dict[str, str]:
    """Adds the peers' advice; why some cannot be had, by name."""
    absent = {library: provide(server.pg_root, server.major, library) for library in ("hypopg", "pg_qualstats")}
    missing: dict[str, str] = {}
    if absent["hypopg"]:
        return {name: absent["hypopg"] for name in (EXTEND, SINGLE, QUALSTATS, MCP)}
    server.start_with(",".join(library for library, why in reversed(absent.items()) if why is None))
    queries = server.queries
    remembered = Remembered(server.base_dir / "advice.json", queries, fresh)
    advice[EXTEND] = remembered.get(EXTEND, hypo, lambda: hypo.advise(server, queries, EXTEND, True))
    advice[SINGLE] = remembered.get(SINGLE, hypo, lambda: hypo.advise(server, queries, SINGLE, False))
    if absent["pg_qualstats"]:
        missing[QUALSTATS] = absent["pg_qualstats"]
    else:
        advice[QUALSTATS] = remembered.get(QUALSTATS, qualstats, lambda: qualstats.advise(server, queries))
    python = mcp.environment()
    if python is None:
        missing[MCP] = "its packages cannot be had"
    else:
        advice[MCP] = remembered.get(MCP, mcp, lambda: mcp.advise(server, queries, python))
    return missing


def choose(bench: Bench, given: Sequence[Advice], budget: int) -> Optional[tuple[Advice, Measured]]:
    """What an advisor has for a budget, and its real plans; None when nothing of it fits."""
    asked = [advice for advice in given if advice.budget is not None]
    if asked:
        advice = next(advice for advice in asked if advice.budget == budget)
        return advice, bench.planned(advice.bodies)
    fitting = [advice for advice in given if advice.promised is not None and bench.real_bytes(advice.bodies) <= budget]
    if fitting:
        best = min(fitting, key=lambda advice: advice.promised)
        return best, bench.planned(best.bodies)
    parts = [(advice, bench.planned(part_that_fits(bench, advice, budget))) for advice in given
             if advice.promised is None]
    return min(parts, key=lambda part: part[1].cost, default=None)


def part_that_fits(bench: Bench, advice: Advice, budget: int) -> list[str]:
    """Of an advisor that says no cost: its indexes in the order in which it took them, without those too big."""
    taken: list[str] = []
    for body in advice.bodies:
        if bench.real_bytes([*taken, body]) <= budget:
            taken.append(body)
    return taken


def show(entries: Sequence[Entry], base: Measured, missing: dict[str, str]) -> None:
    """The table of all advisors, budget by budget."""
    rows = []
    for budget in BUDGETS_MB:
        for advisor in ADVISORS:
            if advisor in missing:
                rows.append([advisor, budget, "not available", *[""] * 9])
            for entry in entries:
                if (entry.advisor, entry.budget) == (advisor, budget * MB):
                    rows.append(row_of(entry, budget, base))
    report.table("TPC-H, scale 1: relative to no index", ["advisor", "budget MB", "real MB", "indexes", "promised",
                                                          "real plan", "CPU time", "wall time", "> 5 % slower",
                                                          "> 25 %", "planner calls", "to recommend s"], rows,
                 [f"without indexes: cost {base.cost:,.0f}, CPU time {base.cpu_ms / 1e3:.2f} s, wall time "
                  f"{base.wall_ms / 1e3:.2f} s (least of the passes of each query)",
                  *(f"{name}: not available ({why})" for name, why in missing.items())])


def row_of(entry: Entry, budget: int, base: Measured) -> list[Any]:
    """One line of the table."""
    advice, measured = entry.advice, entry.measured
    return [entry.advisor, budget, f"{measured.real_bytes / MB:.0f}", len(measured.indexes),
            "" if advice.promised is None else f"{advice.promised:.3f}", f"{measured.cost / base.cost:.3f}",
            f"{measured.cpu_ms / base.cpu_ms:.3f}", f"{measured.wall_ms / base.wall_ms:.3f}",
            " ".join(entry.slower_5) or "0", len(entry.slower_25),
            "" if advice.planner_calls is None else f"{advice.planner_calls:,}", f"{advice.wall_s:.2f}"]


def judge(entries: Sequence[Entry], base: Measured, count: int) -> dict[str, tuple[bool, str]]:
    """Each target with whether it is met and the figure."""
    targets: dict[str, tuple[bool, str]] = {}
    for budget in BUDGETS_MB:
        here = [entry for entry in entries if entry.budget == budget * MB]
        mine = next(entry for entry in here if entry.advisor == OWN)
        peers = [entry for entry in here if entry.advisor not in (OWN, CAPTURED)]
        targets[f"{budget} MB: real bytes within the budget"] = (
            mine.measured.real_bytes <= mine.budget, f"{mine.measured.real_bytes / MB:.1f} MB")
        if peers:
            best = min(peers, key=lambda entry: entry.measured.cpu_ms)
            ratio = mine.measured.cpu_ms / best.measured.cpu_ms
            targets[f"{budget} MB: executed at least 10 % less than the best peer"] = (
                ratio <= LESS_TIME, f"{ratio:.3f} of {best.advisor}")
            best = min(peers, key=lambda entry: entry.measured.cost)
            ratio = mine.measured.cost / best.measured.cost
            targets[f"{budget} MB: planned cost no more than the best peer's"] = (
                ratio <= 1.0005, f"{ratio:.3f} of {best.advisor}")
        targets[f"{budget} MB: no query over 5 % slower"] = (not mine.slower_5, " ".join(mine.slower_5) or "none")
    taken = [entry for entry in entries if entry.advisor == OWN]
    longest = max(entry.advice.wall_s for entry in taken)
    targets["time to recommend within 2 s"] = (longest <= RECOMMEND_S, f"{longest:.2f} s")
    calls = [entry.advice.planner_calls for entry in taken if entry.advice.planner_calls is not None]
    if calls:
        each = max(calls) / count
        targets["planner calls a statement at most 25"] = (each <= CALLS_PER_STATEMENT, f"{each:.1f}")
    return targets

"""Part `prices`: what each step of a plan takes on this machine, for `crates/perf_core/src/index/work.rs`.

Plans come from many sets of indexes and planner settings. Each is executed; the advisor counts its steps, with the rows that
capture counted, in a DEBUG2 message. The prices are those, none negative, that explain the times best by relative error, in
a fit that outliers pull little and that stays near a first guess where the plans say nothing. What counts in the end is
how the times of two plans of a query compare: that error is told for queries that had no part in the fit. Not among the parts that run
by default: it is for whoever changes how steps are counted.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Any, Optional

from bench import report
from bench.servers import cpu_ns
from e2e.cluster import SqlError

from .data import TpchServer
from .measure import Bench
from .whatif import SETS

SEED, RANDOM_SETS = 1, 25
# Plans that the settings of the server would never choose say what their steps take as well.
SETTINGS = ["", "", "", "enable_hashjoin", "enable_seqscan", "enable_indexonlyscan", "enable_bitmapscan",
            "enable_nestloop", "enable_indexscan", "enable_sort"]
LONGEST_MS = 15_000
STATEMENT = re.compile(r"perf_opt statement (-?\d+): (.*)")
# A first guess, in nanoseconds, in the order of `Step`.
GUESS = {"nodes": 500, "sequential_tuples": 40, "sequential_pages": 400, "descents": 1000, "ordered_leaves": 500,
         "far_descents": 2000, "index_entries": 30, "near_fetches": 60, "ordered_pages": 500, "far_fetches": 1000,
         "bitmap_tuples": 60, "bitmap_pages": 500, "operations": 10, "numeric_operations": 30, "text_operations": 30,
         "text_functions": 120, "hash_builds": 100, "hash_probes": 50, "hash_misses": 70, "sort_comparisons": 20,
         "grouped_tuples": 60, "groups": 200, "rows": 20, "temporary_pages": 10_000}
STEADINESS = 0.15
HELD_OUT_ROUNDS = 100


@dataclass
class Sample:
    """One plan: its steps, and the least time it took. The first of a query is that without indexes."""

    query: str
    chosen: bool  # by the planner, with its settings as they are
    steps: dict[str, float]
    milliseconds: float


def run(server: TpchServer, _options: Any) -> tuple[bool, dict[str, Any]]:
    """Prints the prices; there is no target to meet."""
    samples = collect(server)
    prices = fit(samples)
    errors = sorted(abs(predicted(prices, one) / one.milliseconds - 1) for one in samples)
    ratios = held_out(samples)
    figures = {"plans": len(samples), "median_error": share_of(errors, 0.5), "ratio_error": share_of(ratios, 0.5),
               "ratio_error_90": share_of(ratios, 0.9)}
    report.table("Prices of the steps of plans", ["step", "ns"],
                 [[name, f"{price:,.0f}"] for name, price in prices.items()],
                 [f"{len(samples)} plans; the median error of a time is {figures['median_error']:.0%}",
                  f"of {len(ratios)} plans that the planner chose, the error of the ratio to the time without indexes, "
                  f"their query left out of the fit: median {figures['ratio_error']:.0%}, "
                  f"nine of ten {figures['ratio_error_90']:.0%}"])
    return True, {"prices_ns": prices, **figures}


def share_of(errors: list[float], share: float) -> float:
    """The error that this share of the errors does not exceed."""
    return errors[min(int(share * len(errors)), len(errors) - 1)] if errors else 0.0


def held_out(samples: list[Sample]) -> list[float]:
    """Errors of the ratios of a query's plans to its plan without indexes, at prices that other queries gave."""
    errors = []
    for query in sorted({one.query for one in samples}):
        own = [one for one in samples if one.query == query and one.chosen]
        prices = fit([one for one in samples if one.query != query], HELD_OUT_ROUNDS)
        base, others = own[0], own[1:]
        for one in others:
            foretold = predicted(prices, one) / max(predicted(prices, base), 1e-9)
            errors.append(abs(math.log(max(foretold, 1e-9) * base.milliseconds / one.milliseconds)))
    return sorted(errors)


def collect(server: TpchServer) -> list[Sample]:
    """Executes every query with every set of indexes and settings, each plan once."""
    chooser = random.Random(SEED)
    single = sorted({body for bodies in SETS for body in bodies})
    sets = [[], *([body] for body in single), *(chooser.sample(single, chooser.randint(2, 12)) for _ in range(RANDOM_SETS))]
    samples: list[Sample] = []
    seen: set[tuple[str, str]] = set()
    with Bench(server, server.queries, 1) as bench:
        session = bench.session
        session.query(f"SET statement_timeout = {LONGEST_MS}")
        for text in bench.queries.values():
            session.query(text)
            session.query(text)
        ids = {identifier(session, text): name for name, text in bench.queries.items()}
        for at, bodies in enumerate(sets):
            bench.use(bodies)
            setting = chooser.choice(SETTINGS) if at > len(single) else ""
            if setting:
                session.query(f"SET {setting} = off")
            steps = counted(session, ids)
            for name, text in bench.queries.items():
                plan = bench.explain(text).text
                if (name, plan) in seen or name not in steps:
                    continue
                seen.add((name, plan))
                taken = executed(session, text)
                if taken is not None:
                    samples.append(Sample(name, not setting, steps[name], taken))
            if setting:
                session.query(f"RESET {setting}")
    return samples


def identifier(session: Any, text: str) -> str:
    """The query id, as EXPLAIN prints it."""
    lines = "\n".join(row[0] for row in session.query(f"EXPLAIN (VERBOSE) {text}").rows)
    match = re.search(r"Query Identifier: (-?\d+)", lines)
    return match[1] if match else ""


def counted(session: Any, ids: dict[str, str]) -> dict[str, dict[str, float]]:
    """The steps of every query's plan of now."""
    session.query("SET client_min_messages = debug2")
    before = len(session.notices)
    session.query("SELECT count(*) FROM perf.index_recommendations(storage_budget_bytes => 8192)")
    session.query("RESET client_min_messages")
    steps: dict[str, dict[str, float]] = {}
    for notice in session.notices[before:]:
        match = STATEMENT.fullmatch(notice.get("message", ""))
        if match and match[1] in ids:
            pairs = (part.rsplit(" ", 1) for part in match[2].split(", "))
            steps[ids[match[1]]] = {name: float(count) for name, count in pairs}
    return steps


def executed(session: Any, text: str) -> Optional[float]:
    """The least CPU time of two executions; None for one that takes too long."""
    least: Optional[float] = None
    for _ in range(2):
        before = cpu_ns(session.pid)
        try:
            session.query(text)
        except SqlError:
            return None
        taken = (cpu_ns(session.pid) - before) / 1e6
        least = taken if least is None else min(least, taken)
    return least


def predicted(prices: dict[str, float], sample: Sample) -> float:
    """Milliseconds at these prices."""
    return sum(count * prices[name] for name, count in sample.steps.items()) * 1e-6


def fit(samples: list[Sample], rounds: int = 400) -> dict[str, float]:
    """Coordinate descent: each price in turn is set to what is best given the others, between a tenth and ten times the
    guess."""
    prices = {name: float(guess) for name, guess in GUESS.items()}
    hold = (STEADINESS / 5) ** 2 * len(samples)
    weights = [1.0 / max(one.milliseconds, 20.0) for one in samples]
    for _ in range(rounds):
        errors = [(predicted(prices, one) - one.milliseconds) * weight for one, weight in zip(samples, weights)]
        # What is off by more than a third counts less.
        trust = [1.0 / max(1.0, abs(error) / 0.3) for error in errors]
        for name, guess in GUESS.items():
            slopes = [one.steps.get(name, 0.0) * 1e-6 * guess * weight for one, weight in zip(samples, weights)]
            curve = hold + sum(t * s * s for t, s in zip(trust, slopes))
            factor = prices[name] / guess
            pull = hold * (factor - 1.0) + sum(t * s * e for t, s, e in zip(trust, slopes, errors))
            new = min(10.0, max(0.1, factor - pull / curve))
            errors = [e + s * (new - factor) for e, s in zip(errors, slopes)]
            prices[name] = new * guess
    return prices

"""pg_qualstats' advisor: indexes for the quals that filter rows away while the workload runs.

It knows no budget and no cost. For a budget its indexes are taken in the order of what each saves by the planner for
a byte, with those already taken, as HypoPG has it: more than it offers by itself.
"""

from __future__ import annotations

import json
import time
from typing import Any, Mapping, Sequence

from bench.servers import cpu_ns

from ..measure import body_of
from . import MB, Advice, total

# Least rows filtered away, and least percentage; the first pair is the default.
THRESHOLDS = ((1000, 30), (1000, 0), (0, 0))


def sample(server: Any, queries: Mapping[str, str]) -> None:
    """Runs the workload once with every qual looked at."""
    with server.connect() as session:
        session.query("SET pg_qualstats.sample_rate = 1")
        session.query("SELECT pg_qualstats_reset()")
        for text in queries.values():
            session.query(text)


def advise(server: Any, queries: Mapping[str, str], budgets_mb: Sequence[int]) -> list[Advice]:
    """All of what it says at each pair of thresholds, and the part of it that fits each estimated budget."""
    found: list[Advice] = []
    with server.connect() as session:
        session.query("CREATE EXTENSION IF NOT EXISTS pg_qualstats")
        session.query("CREATE EXTENSION IF NOT EXISTS hypopg")
        sample(server, queries)
        for rows, percent in THRESHOLDS:
            started, cpu = time.monotonic(), cpu_ns(session.pid)
            answer = json.loads(session.query(f"SELECT pg_qualstats_index_advisor({rows}, {percent}, '{{hash,brin}}')"
                                              "::text").scalar())
            wall_s, cpu_s = time.monotonic() - started, (cpu_ns(session.pid) - cpu) / 1e9
            bodies = list(dict.fromkeys(body_of(ddl) for ddl in answer["indexes"]))
            variant = f"min_filter {rows}, min_selectivity {percent}"
            for budget in (*budgets_mb, None):
                chosen, size, promised = fitting(session, list(queries.values()), bodies, budget)
                found.append(Advice("pg_qualstats", f"{variant}, {budget or 'no'} MB", chosen, wall_s, cpu_s, 0,
                                    promised, size))
        session.query("SELECT hypopg_reset()")
    return found


def fitting(session: Any, queries: Sequence[str], bodies: Sequence[str],
            budget_mb: Any) -> tuple[list[str], int, float]:
    """The indexes that fit a budget, their size and what HypoPG promises of them."""
    def make(body: str) -> tuple[int, int]:
        oid = int(session.query(f"SELECT indexrelid FROM hypopg_create_index('CREATE INDEX ON {body}')").scalar())
        return oid, int(session.query(f"SELECT hypopg_relation_size({oid})").scalar())

    session.query("SELECT hypopg_reset()")
    before = current = total(session, queries)
    chosen: list[str] = []
    used = 0
    left = list(bodies)
    while left:
        tried = []
        for body in left:
            oid, size = make(body)
            if budget_mb is None or used + size <= budget_mb * MB:
                cost = total(session, queries)
                tried.append(((current - cost) / size, body, size, cost))
            session.query(f"SELECT hypopg_drop_index({oid})")
        if not tried:
            break
        _, body, size, current = max(tried)
        make(body)
        chosen.append(body)
        left.remove(body)
        used += size
    return chosen, used, current / before

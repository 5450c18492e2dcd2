"""pg_qualstats' advisor: indexes for the quals that filter rows away while the workload runs.

It knows no budget, no cost and no order. Its indexes are put in the order of what each saves by the planner for a byte,
with those before it, as HypoPG has it: more than it offers by itself.
"""

from __future__ import annotations

import json
import time
from typing import Any, Mapping, Optional, Sequence

from bench.servers import cpu_ns

from ..measure import body_of
from . import Advice, planned

# Least rows filtered away, and least percentage; the first pair is the default.
THRESHOLDS = ((1000, 30), (1000, 0), (0, 0))


def sample(server: Any, queries: Mapping[str, str]) -> None:
    """Runs the workload once with every qual looked at."""
    with server.connect() as session:
        session.query("SET pg_qualstats.sample_rate = 1")
        session.query("SELECT pg_qualstats_reset()")
        for text in queries.values():
            session.query(text)


def advise(server: Any, queries: Mapping[str, str]) -> list[Advice]:
    """All of what it says at each pair of thresholds, the best first."""
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
            found.append(Advice("pg_qualstats", f"min_filter {rows}, min_selectivity {percent}",
                                ordered(session, queries, bodies), wall_s, cpu_s, 0))
    return found


def ordered(session: Any, queries: Mapping[str, str], bodies: Sequence[str]) -> list[str]:
    """The indexes that save something, by what they save for a byte, each beside those before it."""
    def touched(body: str) -> list[str]:
        return [name for name, text in queries.items() if body.split()[0] in text]

    session.query("SELECT hypopg_reset()")
    costs = {name: planned(session, text) for name, text in queries.items()}
    chosen: list[str] = []
    left = list(bodies)
    while left:
        best: Optional[tuple[float, str]] = None
        for body in left:
            oid, size = make(session, body)
            saved = sum(costs[name] - planned(session, queries[name]) for name in touched(body))
            session.query(f"SELECT hypopg_drop_index({oid})")
            if saved > 0 and (best is None or saved / size > best[0]):
                best = (saved / size, body)
        if best is None:
            break
        make(session, best[1])
        chosen.append(best[1])
        left.remove(best[1])
        costs.update({name: planned(session, queries[name]) for name in touched(best[1])})
    session.query("SELECT hypopg_reset()")
    return chosen


def make(session: Any, body: str) -> tuple[int, int]:
    """A hypothetical index: its OID and HypoPG's size of it."""
    oid = int(session.query(f"SELECT indexrelid FROM hypopg_create_index('CREATE INDEX ON {body}')").scalar())
    return oid, int(session.query(f"SELECT hypopg_relation_size({oid})").scalar())

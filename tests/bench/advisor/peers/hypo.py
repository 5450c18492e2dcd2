"""Advisors over HypoPG: the search of Extend, and an exhaustive greedy one of single columns.

Extend (Schlosser, Kossmann, Boissier 2019): in each step either add an index of one attribute or append one attribute
to a chosen index, whichever saves most of the workload's cost for a byte. Costs are the planner's with hypothetical
indexes, sizes are HypoPG's. The cost of a query is asked for once for each set of indexes that share an attribute
with it, as in the authors' framework.
"""

from __future__ import annotations

import re
import time
from typing import Any, Iterable, Mapping, Optional, Sequence

from bench.servers import cpu_ns

from . import MB, Advice, planned

Index = tuple[str, tuple[str, ...]]
MAX_WIDTH = 3
MIN_IMPROVEMENT = 1.003
# By their own sizes, which are up to four times the real ones.
BUDGETS_MB = (75, 110, 150, 200, 250, 300, 400, 500, 600, 800, 1000, 1200, 1600, 2000, 2400, 3200)


class WhatIf:
    """Costs and sizes in a session with HypoPG."""

    def __init__(self, session: Any, queries: Sequence[str], deadline: Optional[float] = None) -> None:
        self.session = session
        self.queries = list(queries)
        self.deadline = deadline
        self.planner_calls = 0
        self.attributes = attributes(session, queries)
        self._costs: dict[tuple[int, frozenset[Index]], float] = {}
        self._sizes: dict[Index, int] = {}
        self._made: dict[Index, int] = {}
        session.query("SELECT hypopg_reset()")

    @property
    def late(self) -> bool:
        """Whether the time given is over."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def all_attributes(self) -> list[tuple[str, str]]:
        """Every attribute that a query mentions, in a fixed order."""
        return sorted(set().union(*self.attributes))

    def cost(self, indexes: Iterable[Index]) -> float:
        """Planned cost of the workload with these indexes."""
        chosen = frozenset(indexes)
        return sum(self._cost(number, frozenset(index for index in chosen if self._concerns(number, index)))
                   for number in range(len(self.queries)))

    def _concerns(self, number: int, index: Index) -> bool:
        return any((index[0], column) in self.attributes[number] for column in index[1])

    def _cost(self, number: int, indexes: frozenset[Index]) -> float:
        key = (number, indexes)
        if key not in self._costs:
            self._make(indexes)
            self.planner_calls += 1
            self._costs[key] = planned(self.session, self.queries[number])
        return self._costs[key]

    def size(self, index: Index) -> int:
        """Bytes of an index by HypoPG."""
        if index not in self._sizes:
            self._make({index, *self._made})
            self._sizes[index] = int(self.session.query(f"SELECT hypopg_relation_size({self._made[index]})").scalar())
        return self._sizes[index]

    def _make(self, indexes: Iterable[Index]) -> None:
        """Exactly these hypothetical indexes exist."""
        wanted = set(indexes)
        for index in [index for index in self._made if index not in wanted]:
            self.session.query(f"SELECT hypopg_drop_index({self._made.pop(index)})")
        for index in wanted - set(self._made):
            made = self.session.query(f"SELECT indexrelid FROM hypopg_create_index('CREATE INDEX ON {body(index)}')")
            self._made[index] = int(made.scalar())


def body(index: Index) -> str:
    """An index as `measure.body_of` writes it."""
    return f"{index[0]} ({', '.join(index[1])})"


def attributes(session: Any, queries: Sequence[str]) -> list[set[tuple[str, str]]]:
    """The attributes that each query mentions by name, of tables that it mentions."""
    columns = session.query("SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
                            " WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attnum > 0"
                            " AND NOT a.attisdropped").rows
    found = []
    for text in queries:
        words = set(re.findall(r"[a-z_0-9]+", text.lower()))
        found.append({(table, column) for table, column in columns if table in words and column in words})
    return found


def search(what_if: WhatIf, budget: int, extend: bool) -> list[Index]:
    """The greedy search; without `extend` only indexes of one attribute."""
    chosen: list[Index] = []
    current = what_if.cost(chosen)
    singles: list[Index] = [(table, (column,)) for table, column in what_if.all_attributes()]
    while not what_if.late:
        best: Optional[tuple[float, float, list[Index]]] = None
        used = sum(what_if.size(index) for index in chosen)
        for step in steps(chosen, singles, extend):
            grown = sum(what_if.size(index) for index in step) - used
            if used + grown > budget or what_if.late:
                continue
            cost = what_if.cost(step)
            if cost * MIN_IMPROVEMENT >= current:
                continue
            ratio = (current - cost) / max(grown, 1)
            if best is None or ratio > best[0]:
                best = (ratio, cost, step)
        if best is None:
            break
        _, current, chosen = best
    return chosen


def steps(chosen: Sequence[Index], singles: Sequence[Index], extend: bool) -> Iterable[list[Index]]:
    """The sets one step away."""
    for single in singles:
        if single not in chosen:
            yield [*chosen, single]
    if extend:
        for place, (table, columns) in enumerate(chosen):
            for other, (column,) in singles:
                if other == table and column not in columns and len(columns) < MAX_WIDTH:
                    yield [*chosen[:place], (table, (*columns, column)), *chosen[place + 1:]]


def advise(server: Any, queries: Mapping[str, str], name: str, extend: bool,
           budgets_mb: Sequence[int] = BUDGETS_MB, time_cap_s: Optional[float] = None) -> list[Advice]:
    """One piece of advice for each estimated budget, each from an empty cache."""
    found: list[Advice] = []
    with server.connect() as session:
        session.query("CREATE EXTENSION IF NOT EXISTS hypopg")
        for budget in budgets_mb:
            started, cpu = time.monotonic(), cpu_ns(session.pid) / 1e9 + time.process_time()
            what_if = WhatIf(session, list(queries.values()), started + time_cap_s if time_cap_s else None)
            before = what_if.cost([])
            chosen = search(what_if, budget * MB, extend)
            advice = Advice(name, f"{budget} MB estimated", [body(index) for index in chosen],
                            time.monotonic() - started, cpu_ns(session.pid) / 1e9 + time.process_time() - cpu,
                            what_if.planner_calls, what_if.cost(chosen) / before,
                            sum(what_if.size(index) for index in chosen))
            if what_if.late:
                advice.notes.append(f"stopped after {time_cap_s:.0f} s")
            found.append(advice)
        session.query("SELECT hypopg_reset()")
    return found

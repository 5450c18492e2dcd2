"""Part `whatif`: what `perf.what_if` promises of an index against the plan with the real one, query by query.

Statistics and queries are the same in both; only the index is hypothetical or built. HypoPG promises of the same pairs
where it is to be had. Pairs in which neither plan uses the index say nothing and are left out of the errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional, Sequence

from bench import report
from e2e.cluster import SqlError

from .data import TpchServer
from .measure import COST, Bench, Plan
from .peers import planned, provide

MEDIAN, WORST, SAME_SHAPE = 0.01, 0.05, 0.98
# Indexes alone and together; every query that names one of the tables is planned with each set.
SETS: Sequence[Sequence[str]] = [
    ["lineitem (l_partkey)"], ["lineitem (l_suppkey)"], ["lineitem (l_shipdate)"], ["lineitem (l_receiptdate)"],
    ["lineitem (l_orderkey)"], ["lineitem (l_shipmode, l_receiptdate)"], ["lineitem (l_partkey, l_suppkey)"],
    ["lineitem (l_quantity)"], ["lineitem (l_shipdate DESC)"], ["lineitem (l_returnflag, l_orderkey)"],
    ["lineitem (l_shipdate) INCLUDE (l_discount, l_quantity, l_extendedprice)"],
    ["lineitem (l_orderkey) INCLUDE (l_quantity)"], ["lineitem (l_partkey, l_quantity, l_extendedprice)"],
    ["lineitem (l_suppkey, l_partkey, l_orderkey, l_shipdate)"],
    ["lineitem (l_orderkey) WHERE l_returnflag = 'R'"], ["lineitem (l_receiptdate) WHERE l_shipmode = 'MAIL'"],
    ["orders (o_custkey)"], ["orders (o_orderdate)"], ["orders (o_orderdate DESC, o_orderkey)"],
    ["orders (o_custkey, o_orderdate, o_orderkey, o_shippriority)"], ["orders (o_orderstatus, o_orderkey)"],
    ["orders (o_orderdate) INCLUDE (o_orderpriority, o_orderkey)"],
    ["orders (o_orderkey) WHERE o_orderstatus = 'F'"], ["orders (o_custkey) INCLUDE (o_comment)"],
    ["customer (c_mktsegment)"], ["customer (c_nationkey, c_custkey)"], ["customer (c_acctbal)"],
    ["customer (substring(c_phone FROM 1 FOR 2))"], ["customer (c_mktsegment) INCLUDE (c_custkey)"],
    ["part (p_size)"], ["part (p_brand, p_container, p_size)"], ["part (p_type)"],
    ["part (p_type text_pattern_ops)"], ["part (p_size, p_type) INCLUDE (p_partkey)"],
    ["partsupp (ps_suppkey)"], ["partsupp (ps_partkey, ps_suppkey, ps_supplycost)"],
    ["partsupp (ps_suppkey) INCLUDE (ps_partkey, ps_supplycost, ps_availqty)"],
    ["supplier (s_nationkey)"], ["nation (n_name)"],
    ["lineitem (l_partkey)", "part (p_brand, p_container, p_size)"],
    ["lineitem (l_suppkey)", "supplier (s_nationkey)", "nation (n_name)"],
    ["orders (o_custkey)", "customer (c_mktsegment)", "lineitem (l_shipdate)"],
    ["lineitem (l_partkey)", "lineitem (l_shipdate)", "lineitem (l_suppkey)", "orders (o_custkey)",
     "orders (o_orderdate)", "partsupp (ps_suppkey)", "part (p_size)", "customer (c_nationkey, c_custkey)"],
]


@dataclass
class Pair:
    """One query with one set of indexes."""

    query: str
    indexes: Sequence[str]
    real: float
    promised: float
    hypopg: Optional[float]
    same_shape: bool
    used: bool

    def error(self, promised: Optional[float]) -> float:
        """How far a promise is off, as a share of the real cost."""
        return abs(promised - self.real) / self.real if promised is not None else 0.0


def run(server: TpchServer, options: Any) -> tuple[bool, dict[str, Any]]:
    """The part; whether its targets are met, and its figures."""
    report.say(f"advisor: what-if costs of {len(SETS)} sets of indexes")
    absent = provide(server.pg_root, server.major, "hypopg")
    server.start_with("perf_opt")
    pairs: list[Pair] = []
    refused: list[str] = []
    with Bench(server, server.queries) as bench, server.connect() as session:
        for number, bodies in enumerate(SETS):
            bench.use([])
            tables = {body.split()[0] for body in bodies}
            queries = {name: text for name, text in bench.queries.items()
                       if any(re.search(rf"\b{table}\b", text) for table in tables)}
            try:
                promises = {name: promise(session, text, bodies, number) for name, text in queries.items()}
            except SqlError as problem:
                refused.append(f"{', '.join(bodies)}: {problem.message}")
                continue
            hypo = hypopg(session, queries, bodies) if absent is None else {}
            names = bench.use(bodies)
            for name, text in queries.items():
                real = bench.explain(text)
                pairs.append(compare(name, bodies, real, promises[name], hypo.get(name), names, number))
    return judge(pairs, refused)


def named(number: int, place: int) -> str:
    """The name of a hypothetical index, to find it in a plan."""
    return f"what_if_{number}_{place}"


def promise(session: Any, text: str, bodies: Sequence[str], number: int) -> Plan:
    """perf_opt's plan with hypothetical indexes."""
    wanted = [f"CREATE INDEX {named(number, place)} ON {body}" for place, body in enumerate(bodies)]
    cost, plan = session.execute("SELECT total_cost, plan FROM perf.what_if($1, $2) WHERE variant = 'hypothetical'",
                                 (text, wanted)).rows[0]
    return Plan(float(cost), COST.sub("", plan))


def hypopg(session: Any, queries: dict[str, str], bodies: Sequence[str]) -> dict[str, float]:
    """HypoPG's costs; nothing where it does not know the kind of index."""
    session.query("CREATE EXTENSION IF NOT EXISTS hypopg")
    session.query("SELECT hypopg_reset()")
    try:
        for body in bodies:
            session.execute("SELECT hypopg_create_index($1)", (f"CREATE INDEX ON {body}",))
        return {name: planned(session, text) for name, text in queries.items()}
    except SqlError:
        return {}
    finally:
        session.query("SELECT hypopg_reset()")


def compare(query: str, bodies: Sequence[str], real: Plan, promised: Plan, hypo: Optional[float],
            names: Sequence[str], number: int) -> Pair:
    """One pair, with names made alike before the plans are compared."""
    shapes = [real.text, promised.text]
    for place, name in enumerate(names):
        shapes = [shape.replace(name, f"<{place}>").replace(named(number, place), f"<{place}>") for shape in shapes]
    return Pair(query, bodies, real.cost, promised.cost, hypo, shape_of(shapes[0]) == shape_of(shapes[1]),
                any(f"<{place}>" in shape for shape in shapes for place in range(len(names))))


def shape_of(plan: str) -> list[str]:
    """The nodes of a plan with their depth; conditions may be in another order."""
    return [line.rstrip() for line in plan.splitlines() if "->" in line or not line.startswith(" ")]


def judge(pairs: Sequence[Pair], refused: Sequence[str]) -> tuple[bool, dict[str, Any]]:
    """Prints the errors and the worst pairs."""
    telling = [pair for pair in pairs if pair.used]
    errors = sorted(pair.error(pair.promised) for pair in telling)
    hypo = sorted(pair.error(pair.hypopg) for pair in telling if pair.hypopg is not None)
    shape = sum(pair.same_shape for pair in telling) / len(telling)
    rows = [["perf_opt", len(errors), f"{report.middle(errors):.2%}", f"{errors[int(len(errors) * .95)]:.2%}",
             f"{errors[-1]:.2%}", f"{shape:.1%}"]]
    if hypo:
        rows.append(["HypoPG", len(hypo), f"{report.middle(hypo):.2%}", f"{hypo[int(len(hypo) * .95)]:.2%}",
                     f"{hypo[-1]:.2%}", ""])
    verdicts = {"median error <= 1 %": report.middle(errors) <= MEDIAN, "worst error <= 5 %": errors[-1] <= WORST,
                "same shape >= 98 %": shape >= SAME_SHAPE, "no kind refused": not refused}
    worst = sorted(telling, key=lambda pair: -pair.error(pair.promised))[:10]
    report.table("What-if cost against the cost with the real index (TPC-H)",
                 ["by", "pairs", "median error", "95 %", "worst", "same plan shape"], rows,
                 [f"of {len(pairs)} pairs, {len(telling)} use the index in one of the plans",
                  *(f"refused: {line}" for line in refused),
                  *(f"{name}: {report.verdict(met)}" for name, met in verdicts.items())])
    report.table("The ten worst", ["query", "real cost", "promised", "HypoPG", "shape", "indexes"],
                 [[pair.query, f"{pair.real:,.0f}", f"{pair.promised:,.0f}",
                   "" if pair.hypopg is None else f"{pair.hypopg:,.0f}", "same" if pair.same_shape else "other",
                   "; ".join(pair.indexes)[:70]] for pair in worst])
    others = [pair for pair in telling if not pair.same_shape]
    if others:
        report.table("Pairs with another plan shape", ["query", "error", "indexes"],
                     [[pair.query, f"{pair.error(pair.promised):.2%}", "; ".join(pair.indexes)[:90]]
                      for pair in others])
    return all(verdicts.values()), {"pairs": [vars(pair) for pair in pairs], "refused": list(refused),
                                    "verdicts": verdicts}

"""Part `wide`: how long advice takes for 100 statements with joins of eight tables, and what it is worth.

The statements differ in tables, conditions and columns; their tables are filled, so that plans differ too. Extend over
HypoPG gets the same statements and a limit of time. What both recommend is built and planned with.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from bench import report
from bench.servers import PERF_OPT, cpu_ns, start

from .peers import Advice, hypo, own, planned, provide

STATEMENTS = 100
JOINED = 8
TABLES = 16
COLUMNS = 6
ROWS = 20_000
SEED = 7
LIMIT_S = 10.0
CALLS_PER_STATEMENT = 25
# Long enough to finish; the default would stop at half the limit whatever there is to do.
TIME_BUDGET_MS = 60_000
EXTEND_CAP_S = 120.0
STORAGE = 60_000_000


def statements() -> dict[str, str]:
    """The workload: a tree of joins from a random table, filters on some, a few columns, order or aggregate."""
    dice = random.Random(SEED)
    made = {}
    for number in range(STATEMENTS):
        tables = dice.sample(range(TABLES), JOINED)
        joins = []
        for place, table in enumerate(tables[1:], 1):
            other = tables[dice.randrange(place)]
            joins.append(f"w{table}_id = w{other}_r{dice.randrange(3)}")
        filters = []
        for table in dice.sample(tables, 3):
            column = f"w{table}_c{dice.randrange(COLUMNS)}"
            filters.append(dice.choice([f"{column} = {dice.randrange(200)}", f"{column} = {dice.randrange(200)}",
                                        f"{column} BETWEEN {(low := dice.randrange(180))} AND {low + 9}"]))
        shown = [f"w{table}_c{dice.randrange(COLUMNS)}" for table in dice.sample(tables, 2)]
        tail = dice.choice([f"ORDER BY {shown[0]} LIMIT 20", ""])
        made[f"s{number}"] = (f"SELECT {', '.join(dict.fromkeys(shown))} FROM "
                              f"{', '.join(f'wide{table}' for table in tables)}"
                              f" WHERE {' AND '.join([*joins, *filters])} {tail}").strip()
    return made


def fill(session: Any) -> None:
    """Tables with a key, three references and columns of different numbers of values."""
    for table in range(TABLES):
        rows = ROWS * (1 + table % 4)
        references = ", ".join(f"1 + (g::bigint * {7919 + 2 * number + table}) % {ROWS} AS w{table}_r{number}"
                               for number in range(3))
        columns = ", ".join(f"((g::bigint * {48271 + 10 * number + table}) % {50 * (number + 1) + 150})::int"
                            f" AS w{table}_c{number}" for number in range(COLUMNS))
        session.query(f"CREATE TABLE wide{table} AS SELECT g AS w{table}_id, {references}, {columns},"
                      f" repeat('x', 60) AS w{table}_pad FROM generate_series(1, {rows}) g")
        session.query(f"ALTER TABLE wide{table} ADD PRIMARY KEY (w{table}_id)")
    session.query("VACUUM (ANALYZE, FREEZE)")


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """The part; whether its targets are met, and its figures."""
    report.say(f"advisor: {STATEMENTS} statements with joins of {JOINED} tables")
    server = start(pg_root, PERF_OPT, {"random_page_cost": 1.1, "shared_buffers": "1GB"}, pgbench=False)
    try:
        absent = provide(pg_root, server.major, "hypopg")
        queries = statements()
        with server.connect(timeout=900.0) as session:
            fill(session)
            session.query("SET statement_timeout = 0")
            before = sum(planned(session, text) for text in queries.values())
            cpu = cpu_ns(session.pid)
            for text in queries.values():
                planned(session, text)
            plan_ms = (cpu_ns(session.pid) - cpu) / 1e6 / len(queries)
            given = [own.timed(server, queries, STORAGE, TIME_BUDGET_MS)]
            if absent is None and not options.no_peers:
                given += hypo.advise(server, queries, "Extend (HypoPG)", True, (STORAGE // 500_000,), EXTEND_CAP_S)
            rows = [row(session, advice, list(queries.values()), before) for advice in given]
    finally:
        server.destroy()
    return judge(given[0], rows, plan_ms, absent)


def row(session: Any, advice: Advice, queries: list[str], before: float) -> dict[str, Any]:
    """What the advice is worth when it is built."""
    for place, body in enumerate(advice.bodies):
        session.query(f"CREATE INDEX wide_{place} ON {body}")
    session.query("ANALYZE")
    size = sum(int(session.query(f"SELECT pg_relation_size('wide_{place}')").scalar())
               for place in range(len(advice.bodies)))
    after = sum(planned(session, text) for text in queries)
    for place in range(len(advice.bodies)):
        session.query(f"DROP INDEX wide_{place}")
    return {"advisor": advice.advisor, "wall_s": advice.wall_s, "cpu_s": advice.cpu_s, "notes": advice.notes,
            "planner_calls": advice.planner_calls, "promised": advice.promised, "planned": after / before,
            "real_bytes": size, "indexes": advice.bodies}


def judge(mine: Advice, rows: list[dict[str, Any]], plan_ms: float, absent: Any) -> tuple[bool, dict[str, Any]]:
    """Prints the table and the verdict."""
    verdicts = {f"within {LIMIT_S:.0f} s": mine.cpu_s <= LIMIT_S}
    if mine.planner_calls is not None:
        verdicts["at most 25 planner calls a statement"] = mine.planner_calls <= CALLS_PER_STATEMENT * STATEMENTS
    report.table(f"{STATEMENTS} statements with joins of {JOINED} tables",
                 ["advisor", "wall s", "CPU s", "planner calls", "indexes", "real MB", "promised", "real plan"],
                 [[row["advisor"], f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}",
                   "" if row["planner_calls"] is None else f"{row['planner_calls']:,}", len(row["indexes"]),
                   f"{row['real_bytes'] / 1e6:.0f}", "" if row["promised"] is None else f"{row['promised']:.3f}",
                   f"{row['planned']:.3f}"] for row in rows],
                 [f"EXPLAIN of one of them takes {plan_ms:.2f} ms of CPU time",
                  *(note for row in rows for note in row["notes"]),
                  *([f"Extend: not available ({absent})"] if absent else []),
                  *(f"{name}: {report.verdict(met)}" for name, met in verdicts.items())])
    return all(verdicts.values()), {"rows": rows, "plan_ms": plan_ms, "verdicts": verdicts}

"""Part `get`: what a hit of perf.cache_get() takes in the server, as the server itself counts it, by size of the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report
from bench.servers import PERF_OPT, start

ENTRIES = 100_000
GETS = 5_000
TARGET_MS = 0.15
# Characters of the values: a score, a small dashboard, a large one.
SIZES = (20, 1_000, 10_000, 50_000)


def run(pg_root: Path, _: Any) -> tuple[bool, dict[str, Any]]:
    """Means of many gets, each a statement of its own; and of many in one statement."""
    server = start(pg_root, PERF_OPT, {"shared_buffers": "1GB", "perf_opt.cache_max_mb": 2048}, pgbench=False)
    try:
        with server.connect() as session:
            session.query(f"SELECT count(*) FROM (SELECT perf.cache_put('cache:entry:' || g, to_jsonb(g), tags => '{{red,blue}}')"
                          f" FROM generate_series(1, {ENTRIES}) AS g) AS puts")
            rows, figures = [], {}
            for size in SIZES:
                session.query(f"SELECT count(*) FROM (SELECT perf.cache_put('cache:size:{size}:' || g, (SELECT to_jsonb(left(string_agg("
                              f"md5(random()::text), ''), {size})) FROM generate_series(1, {size} / 32 + 1))) FROM generate_series(1, 100) AS g) AS puts")
                session.query("SELECT perf.reset()")
                session.prepare(f"get {size}", "SELECT perf.cache_get('cache:size:' || $1::text || ':' || $2::text) IS NULL")
                for turn in range(GETS):
                    if session.execute_prepared(f"get {size}", (str(size), str(turn % 100 + 1))).rows != [(False,)]:
                        return False, {"missing": size}
                mean_ms, p95_ms = session.query("SELECT mean_ms, p95_ms FROM perf.statements() WHERE query ~ 'cache_get' AND query ~ 'IS NULL'"
                                                " ORDER BY calls DESC LIMIT 1").rows[0]
                in_one = session.query(f"SELECT perf.reset(); SELECT count(perf.cache_get('cache:size:{size}:' || g % 100 + 1)) FROM generate_series(1, {GETS}) AS g;"
                                       " SELECT total_ms FROM perf.statements() WHERE query ~ 'generate_series' AND query ~ 'cache_get' ORDER BY total_ms DESC LIMIT 1").scalar()
                figures[size] = {"mean_ms": float(mean_ms), "p95_ms": float(p95_ms), "in_one_statement_ms": float(in_one) / GETS}
                rows.append([f"{size} characters", *(f"{value:.4f}" for value in figures[size].values())])
        met = all(figure["mean_ms"] <= TARGET_MS for figure in figures.values())
        report.table(f"perf.cache_get(), a hit among {ENTRIES} entries", ["value", "mean, ms", "p95, ms", "each of many in one statement, ms"],
                     rows, [f"target, mean at most {TARGET_MS} ms: {report.verdict(met)}"])
        return met, figures
    finally:
        server.destroy()

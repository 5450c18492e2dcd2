"""Suite `view`: CPU time that a backend needs to read all of 10,000 statements.

perf.statements() and pg_stat_statements in a server each, filled with the same statements; the ways of reading go
through the servers in turn. The time is the backend's own (/proc/PID/schedstat), of each reading by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import report
from .servers import PERF_OPT, PGSS, BenchServer, cpu_ns, start
from .workloads import distinct_text

ENTRIES = 10_000
SLOTS = 12_000
READINGS = 31
LIMIT_MS = 10.0
SOURCES = {"perf_opt": "perf.statements()", "pgss": "pg_stat_statements"}
WAYS = {
    "all columns": "COPY (SELECT * FROM {source}) TO '/dev/null'",
    "all columns, kept in the server": "SELECT sum(length(s.query)), sum(s.calls) FROM {source} s",
    "count(*)": "SELECT count(*) FROM {source}",
}
MEASURED = "count(*)"


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether the target is met."""
    servers: dict[str, BenchServer] = {}
    try:
        for variant, setting in ((PERF_OPT, "perf_opt.max_statements"), (PGSS, "pg_stat_statements.max")):
            report.say(f"view: filling {variant.title} with {ENTRIES:,} statements")
            servers[variant.key] = start(pg_root, variant, {setting: SLOTS}, steady_heap=True)
            with servers[variant.key].connect() as session:
                for number in range(ENTRIES):
                    session.query(distinct_text(number))
        taken, entries = measure(servers)
    finally:
        for server in servers.values():
            server.destroy()
    rows = [[way, *(f"{report.middle(values[key]):.2f} ({min(values[key]):.2f} to {max(values[key]):.2f})"
                    for key in ("pgss", "perf_opt"))] for way, values in taken.items()]
    met = report.middle(taken[MEASURED]["perf_opt"]) <= LIMIT_MS
    report.table(f"CPU time of a backend to read all statements: ms, median of {READINGS} (least to most)",
                 ["how", "pg_stat_statements", "perf_opt"], [["entries", *(f"{entries[key]:,}" for key in
                                                                         ("pgss", "perf_opt"))], *rows],
                 [f"target, {MEASURED} of perf.statements() within {LIMIT_MS:.0f} ms: {report.verdict(met)}"])
    report.save("view", {"entries": entries, "ms": taken, "met": met})
    return met


def measure(servers: dict[str, BenchServer]) -> tuple[dict[str, dict[str, list[float]]], dict[str, int]]:
    """Milliseconds of each reading by way and server, and how many entries there are."""
    sessions = {key: server.connect() for key, server in servers.items()}
    entries = {key: int(session.query(f"SELECT count(*) FROM {SOURCES[key]}").scalar())
               for key, session in sessions.items()}
    taken: dict[str, dict[str, list[float]]] = {way: {key: [] for key in servers} for way in WAYS}
    for _ in range(READINGS):
        for way, text in WAYS.items():
            for key, session in sessions.items():
                before = cpu_ns(session.pid)
                session.query(text.format(source=SOURCES[key]))
                taken[way][key].append((cpu_ns(session.pid) - before) / 1e6)
    return taken, entries

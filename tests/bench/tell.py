"""Suite `tell`: the report over 90 days of history, and the metrics for Prometheus, on a server with history and samples as
long as they are kept.

The statements are real ones that the collector has written; their rows are repeated for each hour of 90 days, and so are
the series of a real sample at every resolution.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from . import report
from .pool import storage
from .servers import PERF_OPT, BenchServer, start
from .workloads import distinct_text

STATEMENTS = 120
DAYS = 90
REPORTS = 5
SCRAPES = 40
REPORT_S_MAX = 1.0
REPORT_BYTES_MAX = 2_000_000
SCRAPE_MS_MAX = 20.0
SETTINGS = {"perf_opt.collect_interval": "1s", "autovacuum": "on", "shared_buffers": "512MB"}


def run(pg_root: Path, _: Any) -> bool:
    """The whole suite; whether every target is met."""
    server = start(pg_root, PERF_OPT, SETTINGS)
    try:
        report.say(f"tell: {STATEMENTS} statements, {DAYS} days")
        stored = fill(server)
        with server.connect(timeout=300.0) as session:
            rows, figures = [], {"rows": stored}
            for name, since in (("90 days", "interval '90 days'"), ("24 hours", "interval '24 hours'")):
                taken, size = [], 0
                for _ in range(REPORTS):
                    began = time.perf_counter()
                    page = session.query(f"SELECT perf.report('html', now() - {since})").scalar()
                    taken.append(time.perf_counter() - began)
                    size = len(page.encode())
                figures[f"report, {name}"] = {"s": taken, "bytes": size}
                rows.append([f"perf.report('html'), {name}", f"{report.middle(taken):.2f} s", f"{max(taken):.2f} s", f"{size / 1000:.0f} kB"])
            taken, size = [], 0
            for _ in range(SCRAPES):
                began = time.perf_counter()
                size = len(session.query("SELECT perf.prometheus_metrics()").scalar())
                taken.append(1000 * (time.perf_counter() - began))
            figures["prometheus_metrics"] = {"ms": taken, "bytes": size}
            rows.append(["perf.prometheus_metrics()", f"{report.middle(taken):.1f} ms", f"{max(taken):.1f} ms", f"{size / 1000:.0f} kB"])
    finally:
        server.destroy()
    long = figures["report, 90 days"]
    good = {f"the report within {REPORT_S_MAX:.0f} s": report.middle(long["s"]) <= REPORT_S_MAX,
            f"and {REPORT_BYTES_MAX / 1e6:.0f} MB": long["bytes"] <= REPORT_BYTES_MAX,
            f"metrics within {SCRAPE_MS_MAX:.0f} ms": report.middle(taken) <= SCRAPE_MS_MAX}
    report.table(f"Telling what {stored:,} rows of history hold, in one session", ["what", "median", "longest", "size"], rows,
                 [f"target, {what}: {report.verdict(met)}" for what, met in good.items()])
    report.save("tell", {**figures, "met": all(good.values())})
    return all(good.values())


def fill(server: BenchServer) -> int:
    """Fills history and samples; rows of the history."""
    with server.connect(timeout=600.0) as session:
        for number in range(STATEMENTS):
            session.query(distinct_text(number))
        while session.query("SELECT count(DISTINCT queryid) FROM perf.statement_history").scalar() < STATEMENTS:
            time.sleep(0.2)
        columns = session.query("SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attname NOT IN "
                                "('collected_at', 'bucket_at', 'total_ms') AND attrelid = 'perf.statement_history'::regclass").scalar()
        session.query(f"CREATE TABLE real AS SELECT DISTINCT ON (queryid) * FROM perf.statement_history ORDER BY queryid, calls DESC LIMIT {STATEMENTS}")
        first = session.query("SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('([^']+)'$$))[1]) FROM pg_inherits AS i "
                              "JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'perf.statement_history'::regclass").scalar()
        for day in range(1, DAYS):
            session.query(f"CREATE TABLE perf.statement_history_past{day} PARTITION OF perf.statement_history FOR VALUES "
                          f"FROM (timestamptz '{first}' - interval '{day} day') TO (timestamptz '{first}' - interval '{day - 1} day')")
        session.query(f"INSERT INTO perf.statement_history (collected_at, bucket_at, total_ms, {columns}) "
                      f"SELECT at + interval '1 min', at, total_ms * (1 + random()), {columns} FROM real, generate_series("
                      f"timestamptz '{first}' - interval '{DAYS - 1} days', timestamptz '{first}' - interval '1 hour', interval '1 hour') AS at")
        # One sample knows the series; what the sampler adds meanwhile is at other times.
        session.query("CREATE TABLE series AS SELECT DISTINCT resolution_s, metric, object FROM perf.capacity_sample")
    for step in storage.STEPS:
        storage.fill(server, *step)
    server.sql("VACUUM ANALYZE")
    return int(server.scalar("SELECT count(*) FROM perf.statement_history"))

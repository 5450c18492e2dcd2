"""Part `idle`: what the scheduler does while nothing is due: wake-ups and CPU time over a minute, pg_cron's beside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench import report
from bench.servers import cpu_ns
from e2e.cluster import Cluster
from e2e.system import wait_until

from .servers import perf_opt_server, pg_cron_server, pid_of, switches

JOBS = 1_000
SECONDS = 60
WAKE_UPS = 1
CPU_PCT = 0.1


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Both servers; whether perf_opt's scheduler rests."""
    rows, notes = [], []
    with perf_opt_server(pg_root) as server:
        server.sql(f"SELECT count(perf.job_schedule(g::text, '30 days', 'SELECT 1')) FROM generate_series(1, {JOBS}) g")
        wait_until(lambda: server.sql("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'perf_opt scheduler'"), 10,
                   "the scheduler")
        time.sleep(3)  # its first look, and what pg_stat_activity has made anybody do
        rows.append(rest(server, "perf_opt scheduler"))
        rows.append(rest(server, "perf_opt launcher"))
    peer = "no peers asked for" if options.no_peers else pg_cron_server(pg_root, False)
    if isinstance(peer, str):
        notes.append(f"pg_cron is not measured: {peer}")
    else:
        with peer as server:
            server.sql(f"SELECT count(cron.schedule(g::text, '0 0 31 1 *', 'SELECT 1')) FROM generate_series(1, {JOBS}) g")
            time.sleep(3)
            rows.append(rest(server, "pg_cron launcher"))
    _, wake_ups, cpu_pct = rows[0]
    met = wake_ups <= WAKE_UPS and cpu_pct < CPU_PCT
    report.table(f"{JOBS:,} jobs of which none is due, over {SECONDS} s", ["process", "wake-ups", "CPU %"],
                 [[name, woken, f"{share:.3f}"] for name, woken, share in rows],
                 ["perf_opt's launcher also looks once a second which statements wait for locks, jobs or not",
                  f"target, scheduler: at most {WAKE_UPS} wake-up, < {CPU_PCT} % CPU: {report.verdict(met)}", *notes])
    return met, {"rows": [{"process": name, "wake_ups": woken, "cpu_pct": share} for name, woken, share in rows],
                 "met": met}


def rest(server: Cluster, process: str) -> tuple[str, int, float]:
    """How often a process was woken, and its share of a processor."""
    pid = pid_of(server, process)
    woken, cpu, started = switches(pid), cpu_ns(pid), time.monotonic()
    time.sleep(SECONDS)
    elapsed = time.monotonic() - started
    return process, switches(pid) - woken, (cpu_ns(pid) - cpu) / 1e9 / elapsed * 100

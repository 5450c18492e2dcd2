"""Part `skip`: random histories of tables under materialized views; no change may be missed by a refresh that was skipped.

Reports how long the decision takes, of which 5 ms is the target for all but one in a hundred: the worker is a fresh
process, whose caches are empty.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster
from e2e.matview_histories import SETTINGS, Tally, run as run_histories

DECISION_MS_MAX = 5.0
# A new database now and then: statistics, catalogs and counters start afresh.
HISTORIES_A_DATABASE = 5_000


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Runs the histories; whether none was missed and decisions were quick, and the figures."""
    wanted = options.histories
    total = Tally()
    started = time.monotonic()
    seed = int(time.time()) if options.seed is None else options.seed
    print(f"jobs/skip: {wanted} histories, seed {seed}", flush=True)
    with Cluster(pg_root, SETTINGS, name="bench jobs") as cluster:
        number = 0
        while total.histories < wanted:
            database = f"worlds_{number}"
            cluster.sql(f"CREATE DATABASE {database}")
            cluster.sql("CREATE EXTENSION perf_opt", dbname=database)
            tally = run_histories(cluster, database, seed + number, min(HISTORIES_A_DATABASE, wanted - total.histories))
            add(total, tally)
            show(total, time.monotonic() - started)
            cluster.sql(f"DROP DATABASE {database} WITH (FORCE)")
            number += 1
    figures = {"histories": total.histories, "missed": len(total.missed), "skipped": total.skipped,
               "refreshed": total.refreshed, "failed": total.failed,
               "decision_p50_ms": total.quantile(0.5), "decision_p99_ms": total.quantile(0.99)}
    for missed in total.missed:
        print(f"  MISSED {missed}")
    return not total.missed and total.skipped > 0 and total.quantile(0.99) <= DECISION_MS_MAX, figures


def add(total: Tally, more: Tally) -> None:
    """Adds one tally to another."""
    total.histories += more.histories
    total.missed += more.missed
    total.skipped += more.skipped
    total.refreshed += more.refreshed
    total.failed += more.failed
    total.decision_ms += more.decision_ms


def show(tally: Tally, seconds: float) -> None:
    """One line of figures."""
    print(f"  {tally.histories} histories in {seconds:.0f} s: {len(tally.missed)} missed; {tally.skipped} runs skipped, "
          f"{tally.refreshed} refreshed, {tally.failed} failed; decision p50 {tally.quantile(0.5):.2f} ms, "
          f"p99 {tally.quantile(0.99):.2f} ms", flush=True)

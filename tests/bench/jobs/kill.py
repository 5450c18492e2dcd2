"""Part `kill`: kill -9 of the launcher, the scheduler, a job's worker and the postmaster in turn, at random moments, while jobs
run every second: what is lost or done twice, and how soon the jobs go on.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import report
from e2e.cluster import Cluster
from e2e.jobs_kill import SETTINGS, Killing

CATCH_UP_S = 2.0


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """All kills; whether nothing was lost and every recovery was fast."""
    report.say(f"jobs: {options.kills} kills")
    with Cluster(pg_root, SETTINGS, name="bench kill") as server:
        server.sql("CREATE EXTENSION perf_opt")
        outcome = Killing(server, seed=options.kills).run(options.kills)
    delays = sorted(outcome.catch_up_s)
    met = not outcome.faults and delays[-1] <= CATCH_UP_S
    kills = ", ".join(f"{count} of {victim}" for victim, count in outcome.kills.items())
    report.table(f"{sum(outcome.kills.values())} kills while {outcome.ticks:,} ticks came due",
                 ["what", "figure"],
                 [["kills", kills],
                  *[[f"runs {status}", f"{count:,}"] for status, count in outcome.statuses.items()],
                  ["first run after recovery, median", f"{statistics.median(delays):.2f} s"],
                  ["first run after recovery, longest", f"{delays[-1]:.2f} s"],
                  *[[name, f"{count:,}"] for name, count in outcome.faults.items()]],
                 [f"target: one end for each tick, nothing done twice or lost, no lock left, <= {CATCH_UP_S:.0f} s: "
                  + report.verdict(met)])
    return met, {**asdict(outcome), "met": met}

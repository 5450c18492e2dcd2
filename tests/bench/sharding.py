"""Suite `sharding`: advice on workloads with known answers, generated ones and a few that a server captures and four
databases replay."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from e2e.cluster import HarnessError

from . import report, sharding_replay

RIGHT_MIN_PCT = 95.0
# Between the predicted share of transactions on one shard and that of the replay, in percent.
POINTS_MAX = 2.0
CASES = 54
# What was captured and what is replayed are two samples of the same mixture.
TRANSACTIONS = 20_000


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether the targets are met."""
    generated, met = run_generated()
    replayed, same = sharding_replay.run(pg_root, POINTS_MAX)
    report.save("sharding", {"generated": generated, "replayed": replayed})
    return met and same


def run_generated() -> tuple[dict[str, Any], bool]:
    """The example of perf_core: captured and replayed in memory."""
    report.say(f"sharding: {CASES} generated workloads of {TRANSACTIONS:,} transactions")
    printed = subprocess.run(["cargo", "run", "--quiet", "--release", "--package", "perf_core", "--example",
                              "sharding_quality", str(CASES), str(TRANSACTIONS)], cwd=report.ROOT, capture_output=True,
                             text=True)
    if printed.returncode != 0:
        raise HarnessError(f"the example sharding_quality failed: {printed.stderr.strip()[-500:]}")
    right = re.search(r"right answers: (\d+) of (\d+)", printed.stdout)
    within = re.search(r"within 2 points of the replay: (\d+) of (\d+), worst ([\d.]+)", printed.stdout)
    slowest = re.search(r"slowest advice: ([\d.]+) ms", printed.stdout)
    if not (right and within and slowest):
        raise HarnessError(f"the example sharding_quality printed something else: {printed.stdout[-500:]}")
    wrong = [line.strip() for line in printed.stdout.splitlines() if line.endswith("WRONG")]
    figures = {"right": int(right[1]), "cases": int(right[2]), "within": int(within[1]), "compared": int(within[2]),
               "worst_points": float(within[3]), "slowest_ms": float(slowest[1]), "wrong": wrong}
    verdicts = {f"right answers, {RIGHT_MIN_PCT:g} %": 100 * figures["right"] >= RIGHT_MIN_PCT * figures["cases"],
                f"shares within {POINTS_MAX:g} points": figures["worst_points"] <= POINTS_MAX}
    report.table("Advice on generated workloads", ["right", "of", "within 2 points", "of", "worst, points", "slowest, ms"],
                 [[figures["right"], figures["cases"], figures["within"], figures["compared"], figures["worst_points"],
                   figures["slowest_ms"]]],
                 [*wrong, *(f"target, {what}: {report.verdict(met)}" for what, met in verdicts.items())])
    return figures, all(verdicts.values())

"""Suite `forecast`: forecasts of generated series whose future is known, beside a seven-day delta and least squares."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from e2e.cluster import HarnessError

from . import report

# Of the shares of truths inside the interval, in percent: all families together, and those that bend once.
COVERAGE_PCT = (85.0, 95.0)
CHANGEPOINT_MIN_PCT = 75.0
# Of the error: half of a seven-day delta's; least squares', with half a percent for what noise does to either.
OF_DELTA_MAX, OF_LEAST_SQUARES_MAX = 0.5, 1.005
LONGEST_MS = 50.0
HEAD = ["family", "inside, %", "said, %", "width, %", "error, %", "7 days, %", "OLS, %", "of 7 days", "of OLS"]


def run(_: Path, options: Any) -> bool:
    """The whole suite; whether the targets are met. Needs no server."""
    report.say(f"forecast: {options.series} series of each family")
    printed = subprocess.run(["cargo", "run", "--quiet", "--release", "--package", "perf_core", "--example",
                              "forecast_quality", str(options.series)], cwd=report.ROOT, capture_output=True, text=True)
    if printed.returncode != 0:
        raise HarnessError(f"the example forecast_quality failed: {printed.stderr.strip()[-500:]}")
    lines = printed.stdout.splitlines()
    families = {line[:16].strip(): [float(word) for word in line[16:].split()] for line in lines[2:-1]}
    longest_ms = float(lines[-1].split(":")[1].split()[0])
    verdicts = {
        "coverage of all": COVERAGE_PCT[0] <= families["all"][0] <= COVERAGE_PCT[1],
        "coverage of changepoints": families["changepoint"][0] >= CHANGEPOINT_MIN_PCT,
        "error against 7 days": all(family[6] <= OF_DELTA_MAX for family in families.values()),
        "error against least squares": all(family[7] <= OF_LEAST_SQUARES_MAX for family in families.values()),
        "time": longest_ms <= LONGEST_MS,
    }
    report.table(f"Forecasts: {lines[0]}", HEAD, [[name, *figures] for name, figures in families.items()],
                 [f"three years of daily values: {longest_ms} ms at most",
                  *(f"target, {what}: {report.verdict(met)}" for what, met in verdicts.items())])
    report.save("forecast", {"families": families, "longest_ms": longest_ms, "met": verdicts})
    return all(verdicts.values())

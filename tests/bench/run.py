#!/usr/bin/env python3
"""Runs the benchmarks on one PostgreSQL installation that has a release build of perf_opt (`make bench` prepares one).

Without a suite, all run. SUITE="overhead view" in the environment chooses some, for make. Results are printed, and
kept as JSON in target/bench. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from bench.cache import PARTS as CACHE_PARTS  # noqa: E402  (the path must be set first)
from bench.jobs import PARTS as JOB_PARTS  # noqa: E402  (the path must be set first)
from bench.partitions import PARTS as PARTITION_PARTS  # noqa: E402
from bench.pool import PARTS as POOL_PARTS  # noqa: E402
from e2e.cluster import HarnessError, handle_signals  # noqa: E402

SUITES = {"overhead": "user instructions per transaction", "cputime": "CPU time per transaction",
          "distinct": "millions of distinct statements in 5,000 slots", "view": "cost of reading all statements",
          "failures": "failed statements recorded once each",
          "advisor": "recommended indexes, built and executed, beside other advisors",
          "jobs": "start delay and CPU of jobs beside pg_cron, rest when idle, kill -9, skipped refreshes",
          "forecast": "forecasts of generated series, beside a 7-day delta and least squares",
          "invalidation": "what watched tables cost writers, lag of invalidation, stale reads",
          "pool": "pools of the emitted size beside others, cost and storage of the sampler",
          "sharding": "advice on workloads with known answers, replayed into four databases",
          "cache": "hits, dashboards and a day of churn of the embedded cache",
          "shadow": "hit rates of shadow caches beside real ones that replay the same statements",
          "autopilot": "planted harm found and put back by autopilot's guard, harmless changes left alone",
          "tell": "the report over 90 days of history, metrics for Prometheus",
          "partitions": "rotation under load, many partitions, conversion of a live table, beside pg_partman"}


def main() -> int:
    """The command line."""
    suites = "\n".join(f"  {name:<10} {what}" for name, what in SUITES.items())
    parser = argparse.ArgumentParser(description=f"{__doc__}\nsuites:\n{suites}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="*", metavar="suite", help="what to run (all by default)")
    parser.add_argument("--pg-root", type=Path, required=True, help="the directory whose bin/ holds the server")
    parser.add_argument("--workload", action="append", help="overhead, cputime: only this one (select1, read, simple, "
                                                            "churn, write)")
    parser.add_argument("--rounds", type=int, help="overhead, cputime, pool: rounds through the servers")
    parser.add_argument("--profile", type=Path, help="overhead: keep callgrind's breakdown in this directory")
    parser.add_argument("--count", type=int, default=3_000_000, help="distinct: how many statements")
    parser.add_argument("--part", action="append",
                        choices=("writers", "lag", "stale", "tpch", "whatif", "size", "wide", "demo", "prices", *JOB_PARTS,
                                 *PARTITION_PARTS, *POOL_PARTS, *CACHE_PARTS),
                        help="advisor, invalidation, jobs, partitions, pool, cache: only this part")
    parser.add_argument("--minutes", type=int, default=1_440, help="cache: simulated minutes of part churn, a second each")
    parser.add_argument("--histories", type=int, default=2_000, help="jobs: random histories of part skip")
    parser.add_argument("--seed", type=int, help="jobs: makes part skip do the same again; autopilot: the first of its runs")
    parser.add_argument("--runs", type=int, default=20, help="autopilot: random runs of harmless changes")
    parser.add_argument("--passes", type=int, default=3, help="advisor: executions of each plan")
    parser.add_argument("--kills", type=int, default=300, help="jobs: how often the part kill kills")
    parser.add_argument("--rows", type=int, default=10_000_000, help="partitions: rows of the table of part convert")
    parser.add_argument("--series", type=int, default=100, help="forecast: series of each of the eight families")
    parser.add_argument("--no-peers", action="store_true", help="advisor, jobs, partitions: perf_opt alone")
    parser.add_argument("--fresh", action="store_true", help="advisor: ask peers again whose advice is remembered")
    parser.add_argument("--home", type=Path, help="advisor: the directory of the loaded TPC-H cluster")
    options = parser.parse_args()
    chosen = options.suite or os.environ.get("SUITE", "").split() or list(SUITES)
    unknown = [name for name in chosen if name not in SUITES]
    if unknown:
        parser.error(f"no suite {unknown[0]}: there are {', '.join(SUITES)}")
    os.umask(0o022)
    handle_signals()
    good = True
    for name in chosen:
        try:
            good &= importlib.import_module(f"bench.{name}").run(options.pg_root.resolve(), options)
        except HarnessError as problem:
            print(f"error: {problem}", file=sys.stderr)
            good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

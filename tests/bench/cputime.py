"""Suite `cputime`: CPU time of a backend per transaction, for what counting user instructions cannot see: system calls,
locks, caches.

One server per variant, all up at once; backends and client share one processor, so that they never run side by side.
Each workload goes through the variants in turn, a short slice each, many times, always in the same order: each server
finds the caches as its neighbour left them, and warms them up with transactions that do not count. A slice is compared
with the slices without extension before and after it, so that a machine that gets slower or faster meanwhile does no
harm. The kernel's own accounting (/proc/PID/schedstat) gives the time of the backend, in nanoseconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable

from e2e.cluster import HarnessError

from . import report
from .servers import JUMBLING, NOTHING, PERF_OPT, PGSS, STEADY_HEAP, BenchServer, cpu_ns, pin, start
from .workloads import WORKLOADS, Workload

ROUNDS = 60
WARM_SHARE = 10
SLICES = {"select1": 2_000, "read": 2_000, "simple": 1_000, "churn": 500, "write": 150}
VARIANTS = (NOTHING, JUMBLING, PGSS, PERF_OPT)


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite. It has no target of its own: times vary too much from machine to machine."""
    if not os.path.exists("/proc/self/schedstat"):
        raise HarnessError("the suite cputime reads /proc/PID/schedstat, which this kernel does not have")
    chosen = [workload for workload in WORKLOADS if not options.workload or workload.name in options.workload]
    rounds = max(2, options.rounds or ROUNDS)
    cpu = max(os.sched_getaffinity(0))
    everywhere = os.sched_getaffinity(0)
    servers: dict[str, BenchServer] = {}
    result: dict[str, Any] = {"unit": "microseconds of CPU per transaction", "rounds": rounds, "cpu": cpu,
                              "malloc": STEADY_HEAP, "workloads": {}}
    try:
        for variant in VARIANTS:
            report.say(f"cputime: starting the server with {variant.title}")
            servers[variant.key] = start(pg_root, variant, steady_heap=True)
        pin([0], cpu)
        for workload in chosen:
            report.say(f"cputime: {workload.title}")
            result["workloads"][workload.name] = measure(servers, workload, rounds, cpu)
    finally:
        os.sched_setaffinity(0, everywhere)
        for server in servers.values():
            server.destroy()
    show(chosen, result)
    report.save("cputime", result)
    return True


def measure(servers: dict[str, BenchServer], workload: Workload, rounds: int, cpu: int) -> dict[str, list[float]]:
    """Microseconds per transaction of each variant, one value a round."""
    sessions: dict[str, tuple[int, Callable[[], None]]] = {}
    for key, server in servers.items():
        session = server.connect()
        pin([session.pid], cpu)
        step = workload.connect(session)
        for _ in range(workload.warmup):
            step()
        sessions[key] = (session.pid, step)
    each = SLICES[workload.name]
    taken: dict[str, list[float]] = {key: [] for key in servers}
    for _ in range(rounds):
        for key, (pid, step) in sessions.items():
            for _ in range(each // WARM_SHARE):
                step()
            before = cpu_ns(pid)
            for _ in range(each):
                step()
            taken[key].append((cpu_ns(pid) - before) / each / 1000)
    return taken


def ratios(taken: dict[str, list[float]], key: str) -> list[float]:
    """The time of each slice but the last over the mean of those without extension before and after it."""
    without = taken["none"]
    return [2 * time / (before + after) for time, before, after in zip(taken[key], without, without[1:])]


def quartiles(values: list[float]) -> tuple[float, float]:
    """The middle half."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]


def show(workloads: list[Workload], result: dict[str, Any]) -> None:
    """Prints the table: medians of ratios within a round, with the middle half of them."""
    rows = []
    for workload in workloads:
        taken = result["workloads"][workload.name]
        row = [workload.title, f"{report.middle(taken['none']):.2f}"]
        for key in ("core", "pgss", "perf_opt"):
            percent = [(ratio - 1) * 100 for ratio in ratios(taken, key)]
            low, high = quartiles(percent)
            row.append(f"{report.middle(percent):+.1f} % ({low:+.1f} to {high:+.1f})")
        rows.append(row)
    report.table("CPU time of the backend per transaction: user and system, median (middle half of the rounds)",
                 ["transaction", "none, us", "core jumbling", "pg_stat_statements", "perf_opt"], rows,
                 ["malloc: " + " ".join(f"{name}={value}" for name, value in STEADY_HEAP.items())])

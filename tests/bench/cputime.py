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
from .servers import JUMBLING, NOTHING, PERF_OPT, PGSS, STEADY_HEAP, BenchServer, cpu_ns, file_writes, pin, start
from .workloads import WORKLOADS, Workload

ROUNDS = 60
WARM_SHARE = 10
# How many WAL pages a backend writes itself depends on the WAL writer's timing.
WRITES_TOLERANCE = 0.05
SLICES = {"select1": 2_000, "read": 2_000, "simple": 1_000, "churn": 500, "write": 150}
VARIANTS = (NOTHING, JUMBLING, PGSS, PERF_OPT)


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether perf_opt writes no file. Times have no target: they vary too much between machines."""
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
            times, writes = measure(servers, workload, rounds, cpu)
            result["workloads"][workload.name] = {"times": times, "file_writes": writes}
    finally:
        os.sched_setaffinity(0, everywhere)
        for server in servers.values():
            server.destroy()
    result["met"] = show(chosen, result)
    report.save("cputime", result)
    return bool(result["met"])


def measure(servers: dict[str, BenchServer], workload: Workload, rounds: int,
            cpu: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Microseconds per transaction of each variant, one value a round; and writes to files per transaction."""
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
    writes = {key: -file_writes(pid) for key, (pid, _) in sessions.items()}
    for _ in range(rounds):
        for key, (pid, step) in sessions.items():
            for _ in range(each // WARM_SHARE):
                step()
            before = cpu_ns(pid)
            for _ in range(each):
                step()
            taken[key].append((cpu_ns(pid) - before) / each / 1000)
    for key, (pid, _) in sessions.items():
        writes[key] += file_writes(pid)
    return taken, {key: count / (rounds * (each + each // WARM_SHARE)) for key, count in writes.items()}


def ratios(taken: dict[str, list[float]], key: str) -> list[float]:
    """The time of each slice but the last over the mean of those without extension before and after it."""
    without = taken["none"]
    return [2 * time / (before + after) for time, before, after in zip(taken[key], without, without[1:])]


def quartiles(values: list[float]) -> tuple[float, float]:
    """The middle half."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]


def show(workloads: list[Workload], result: dict[str, Any]) -> bool:
    """Prints the tables; whether perf_opt wrote to no file where the server alone does not."""
    times, writes, silent = [], [], True
    for workload in workloads:
        of_workload = result["workloads"][workload.name]
        taken, written = of_workload["times"], of_workload["file_writes"]
        row = [workload.title, f"{report.middle(taken['none']):.2f}"]
        for key in ("core", "pgss", "perf_opt"):
            percent = [(ratio - 1) * 100 for ratio in ratios(taken, key)]
            low, high = quartiles(percent)
            row.append(f"{report.middle(percent):+.1f} % ({low:+.1f} to {high:+.1f})")
        times.append(row)
        writes.append([workload.title, *(f"{written[variant.key]:.3f}" for variant in VARIANTS)])
        silent = silent and written["perf_opt"] <= written["none"] * (1 + WRITES_TOLERANCE)
    titles = ["core jumbling", "pg_stat_statements", "perf_opt"]
    report.table("CPU time of the backend per transaction: user and system, median (middle half of the rounds)",
                 ["transaction", "none, us", *titles], times,
                 ["malloc: " + " ".join(f"{name}={value}" for name, value in STEADY_HEAP.items())])
    report.table("Writes to files by the backend per transaction", ["transaction", "none", *titles], writes,
                 [f"target, perf_opt adds none: {report.verdict(silent)}"])
    return silent

"""Part `sampler`: CPU time of the collector in a database of 2,000 relations, and what it takes from throughput.

The collector's CPU time is that of its process, history included, over some minutes with a sample of everything in them;
perf.health() says what of it is the sampler's. Where every core is busy, others lose as much as it takes.

What else it costs others is CPU time of backends for each of their transactions: that of one backend, in turns, beside the
collector at work and the collector stopped (SIGSTOP, while it waits outside of any transaction). One server and one session, so that
neither memory layout nor caches tell them apart. The collector samples everything in each of its turns, some twelve times as
often as by default: a bound from above.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable

from e2e.cluster import Cluster, HarnessError, wait_until

from .. import report
from ..servers import QUIET, cpu_ns
from ..workloads import SelectSimple

RELATIONS = 2_000
SECONDS = 150
TURN_S = 5.5
ROUNDS = 20
TARGET_CORE_PCT = 1.0
TARGET_LOSS_PCT = 1.0


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Whether both targets are met, and the figures."""
    settings = {**QUIET, "autovacuum": "off", "max_connections": 60, "max_locks_per_transaction": 256}
    with Cluster(pg_root, settings, name="bench sampler").start() as server:
        load(server)
        cost = measure_cost(server)
        pairs = measure_backends(server, options.rounds or ROUNDS)
    cores = len(os.sched_getaffinity(0))
    taken = cost["core_pct"] / cores
    low, middle, high = around([100 * (running / stopped - 1) for stopped, running in pairs])
    met = cost["core_pct"] < TARGET_CORE_PCT
    if taken + high < TARGET_LOSS_PCT:
        lost = "met"
    else:
        lost = "MISSED" if taken + low >= TARGET_LOSS_PCT else "not told, turns differ by too much"
    report.table(f"The collector with {RELATIONS:,} relations, {SECONDS} s",
                 ["", "measured", "target"],
                 [["collector's process, % of a core", f"{cost['core_pct']:.3f}", f"< {TARGET_CORE_PCT:g}"],
                  [f"of all {cores} cores, %", f"{taken:.3f}", ""],
                  ["CPU time of a backend per transaction, % more", f"{middle:+.2f} ({low:+.2f} to {high:+.2f})", ""],
                  ["throughput lost, %: both", f"{taken + middle:.2f} (to {taken + high:.2f})", f"< {TARGET_LOSS_PCT:g}"]],
                 [f"perf.health(): {cost['health']}", f"share of a core: {report.verdict(met)}", f"throughput: {lost}",
                  f"{len(pairs)} pairs of turns of {TURN_S:g} s; in brackets the median's interval of 95 %"])
    return met and lost != "MISSED", {**cost, "cores": cores, "backend_us": pairs, "backend_pct": [low, middle, high],
                                      "loss_pct": taken + middle, "loss_max_pct": taken + high}


def around(values: list[float]) -> tuple[float, float, float]:
    """The median between the ends of its interval of 95 %, by the order of the values."""
    ordered = sorted(values)
    count = len(ordered)
    reach = math.ceil(0.98 * math.sqrt(count))
    middle = (count - 1) / 2
    return (ordered[max(0, math.floor(middle) - reach)], report.middle(ordered), ordered[min(count - 1, math.ceil(middle) + reach)])


def load(server: Cluster) -> None:
    """Tables, each with an index, and those of pgbench."""
    server.sql("CREATE EXTENSION perf_opt")
    with server.connect() as session:
        for first in range(0, RELATIONS // 2, 100):
            session.query("".join(f"CREATE TABLE t{n} (id int PRIMARY KEY, v text);" for n in range(first, first + 100)))
            session.query("".join(f"INSERT INTO t{n} SELECT g, 'x' FROM generate_series(1, 100) g;" for n in range(first, first + 100)))
        session.query("VACUUM ANALYZE")
    run_pgbench(server, "-i", "-q", "-s", "5")


def run_pgbench(server: Cluster, *arguments: str) -> str:
    """pgbench over the server's socket; what it printed."""
    command = [server.program("pgbench"), "-h", str(server.socket_dir), "-U", "postgres", *arguments, "postgres"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise HarnessError(f"pgbench exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def collector(server: Cluster) -> int:
    """The pid of the database's collector."""
    found = server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'perf_opt collector%' AND datname = 'postgres'")
    if len(found) != 1:
        raise HarnessError(f"expected one collector, found {len(found)}")
    return int(found[0][0])


def measure_cost(server: Cluster) -> dict[str, Any]:
    """CPU time of the collector while clients work, with a sample of every kind in it."""
    wait_until(lambda: server.sql("SELECT 1 FROM perf.capacity_cost"), 30, "a first sample")
    pid = collector(server)
    sample_everything(server)
    before, began = cpu_ns(pid), time.monotonic()
    report.say(f"pool: sampler, {SECONDS} s of pgbench with {RELATIONS:,} relations")
    run_pgbench(server, "-n", "-S", "-c", "4", "-R", "500", "-T", str(SECONDS))
    elapsed = time.monotonic() - began
    core_pct = 100 * (cpu_ns(pid) - before) / 1e9 / elapsed
    health = server.scalar("SELECT detail FROM perf.health() WHERE component = 'sampler'")
    return {"core_pct": core_pct, "health": health, "sampler_core_pct": float(re.search(r"([0-9.]+) % of a core", health)[1])
            if "of a core" in health else None}


def sample_everything(server: Cluster) -> None:
    """Makes everything due at the collector's next run."""
    server.sql("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 day'")


def measure_backends(server: Cluster, rounds: int) -> list[tuple[float, float]]:
    """Microseconds of a backend's CPU time per transaction without and with the collector at work, in turns."""
    server.configure({"perf_opt.collect_interval": "5s"}, reload=True)
    pid = collector(server)
    pairs = []
    with server.connect() as session:
        step = SelectSimple().connect(session)
        turn(session.pid, step)
        for number in range(rounds):
            report.say(f"pool: sampler, turns {number + 1} of {rounds}")
            taken = {}
            for running in ((False, True) if number % 2 == 0 else (True, False)):
                if running:
                    sample_everything(server)
                    before = server.scalar("SELECT max(sampled_at) FROM perf.capacity_clock")
                    taken[running] = turn(session.pid, step)
                    if server.scalar("SELECT max(sampled_at) FROM perf.capacity_clock") == before:
                        raise HarnessError("nothing was sampled while the collector was to be at work")
                else:
                    stop(server, pid)
                    try:
                        taken[running] = turn(session.pid, step)
                    finally:
                        os.kill(pid, signal.SIGCONT)
            pairs.append((taken[False], taken[True]))
    return pairs


def stop(server: Cluster, pid: int) -> None:
    """Stops the collector while it waits for its next look, holding nothing that anybody waits for."""
    waits = f"SELECT wait_event_type = 'Extension' AND xact_start IS NULL FROM pg_stat_activity WHERE pid = {pid}"

    def stopped() -> bool:
        if not server.scalar(waits):
            return False
        os.kill(pid, signal.SIGSTOP)
        if server.scalar(waits):
            return True
        os.kill(pid, signal.SIGCONT)
        return False
    wait_until(stopped, 20, "the collector to wait")


def turn(pid: int, step: Callable[[], None]) -> float:
    """Microseconds of a backend's CPU time per transaction over one turn."""
    until = time.monotonic() + TURN_S
    before, count = cpu_ns(pid), 0
    while time.monotonic() < until:
        for _ in range(100):
            step()
        count += 100
    return (cpu_ns(pid) - before) / count / 1000

"""Part `sampler`: CPU time of the collector in a database of 2,000 relations, and what it takes from throughput.

The collector's CPU time is that of its process, history included, over some minutes with a sample of everything in them;
perf.health() says what of it is the sampler's. Throughput is that of pgbench, with the collector and without, in turns.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, HarnessError, wait_until

from .. import report
from ..servers import QUIET, cpu_ns
from .pools import tps

RELATIONS = 2_000
SECONDS = 150
TURN_S = 10
ROUNDS = 3
TARGET_CORE_PCT = 1.0
TARGET_LOSS_PCT = 1.0


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Whether both targets are met, and the figures."""
    servers = {name: Cluster(pg_root, {**QUIET, "autovacuum": "off", "perf_opt.collector": on, "max_connections": 60,
                                       "max_locks_per_transaction": 256}, name=f"bench sampler {name}").start()
               for name, on in (("with", "on"), ("without", "off"))}
    try:
        for server in servers.values():
            load(server)
        cost = measure_cost(servers["with"])
        throughput = measure_throughput(servers, options.rounds or ROUNDS)
    finally:
        for server in servers.values():
            server.destroy()
    loss = 100 * (1 - report.middle(throughput["with"]) / report.middle(throughput["without"]))
    spread = 100 * report.half_spread(throughput["without"]) / report.middle(throughput["without"])
    met = cost["core_pct"] < TARGET_CORE_PCT
    report.table(f"The collector with {RELATIONS:,} relations, {SECONDS} s",
                 ["", "measured", "target"],
                 [["collector's process, % of a core", f"{cost['core_pct']:.3f}", f"< {TARGET_CORE_PCT:g}"],
                  ["throughput lost, %", f"{loss:.2f} (turns vary by {spread:.2f})", f"< {TARGET_LOSS_PCT:g}"]],
                 [f"perf.health(): {cost['health']}", f"share of a core: {report.verdict(met)}",
                  "throughput: " + (report.verdict(loss < TARGET_LOSS_PCT) if spread < TARGET_LOSS_PCT
                                    else "not told, turns of the same server differ by more than the target")])
    return met and (loss < TARGET_LOSS_PCT or spread >= TARGET_LOSS_PCT), {**cost, "tps": throughput, "loss_pct": loss}


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
    server.sql("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 day'")
    before, began = cpu_ns(pid), time.monotonic()
    report.say(f"pool: sampler, {SECONDS} s of pgbench with {RELATIONS:,} relations")
    run_pgbench(server, "-n", "-S", "-c", "4", "-R", "500", "-T", str(SECONDS))
    elapsed = time.monotonic() - began
    core_pct = 100 * (cpu_ns(pid) - before) / 1e9 / elapsed
    health = server.scalar("SELECT detail FROM perf.health() WHERE component = 'sampler'")
    return {"core_pct": core_pct, "health": health, "sampler_core_pct": float(re.search(r"([0-9.]+) % of a core", health)[1])
            if "of a core" in health else None}


def measure_throughput(servers: dict[str, Cluster], rounds: int) -> dict[str, list[float]]:
    """Transactions a second of read-only pgbench, in turns."""
    seen: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(2 * rounds):
        for name in sorted(servers, reverse=turn % 2 == 1):
            seen[name].append(tps(run_pgbench(servers[name], "-n", "-S", "-c", "2", "-T", str(TURN_S))))
    return seen

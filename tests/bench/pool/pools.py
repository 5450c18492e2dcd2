"""Part `pools`: throughput of pgbench through PgBouncer by the size of the pool, 1 to 64, with 64 clients.

The size that perf_opt emits comes from a minute of the same clients without a pool, looked at every second; it is taken
as the quarter of an hour that a 99th percentile asks for. Sizes take turns, so that other work of the machine meets all.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, HarnessError, wait_until
from e2e.pooler import Pooler, program

from .. import report
from ..servers import QUIET

CLIENTS = 64
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
SECONDS = 8
SAMPLED_S = 60
TARGET = 0.95
WORKLOADS = {"read": ("-S",), "write": ("-N",)}
ROUNDS = 3


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Whether the emitted size reaches the target in each workload, and the figures."""
    if program() is None:
        report.say("pool: pools left out: pgbouncer is not on PATH")
        return True, {}
    figures: dict[str, Any] = {}
    met = True
    rows = []
    for name, how in WORKLOADS.items():
        # Commits wait for the disk where there are any.
        settings = {**QUIET, "fsync": "on", "max_connections": 120, "perf_opt.collect_interval": "5s",
                    "synchronous_commit": "on"}
        with Cluster(pg_root, settings, name=f"bench pool {name}", tcp=True).start() as server:
            figures[name] = measure(server, name, how, options.rounds or ROUNDS)
        found = figures[name]
        met &= found["reached"] >= TARGET
        rows.append([name, found["emitted"], found["best_size"], f"{found['tps'][found['best_size']]:,.0f}",
                     f"{found['tps'][found['emitted']]:,.0f}", f"{100 * found['reached']:.1f} %", f"{found['unpooled']:,.0f}"])
    report.table(f"Pool sizes: transactions a second of {CLIENTS} clients, median of rounds of {SECONDS} s",
                 ["workload", "emitted", "best", "at best", "at emitted", "reached", "no pool"], rows,
                 [f"target, {100 * TARGET:.0f} % of the best: {report.verdict(met)}"])
    for name, found in figures.items():
        report.table(f"{name}: {found['cap_reason']}", ["size", *map(str, found["tps"])],
                     [["tps", *(f"{tps:,.0f}" for tps in found["tps"].values())]])
    return met, figures


def tps(said: str) -> float:
    """Transactions a second, as pgbench says."""
    found = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    if found is None:
        raise HarnessError(f"pgbench printed no tps:\n{said}")
    return float(found[1])


def measure(server: Cluster, name: str, how: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """The emitted size, and the throughput of all sizes."""
    server.sql("CREATE EXTENSION perf_opt; CREATE ROLE web LOGIN; GRANT CREATE ON SCHEMA public TO web")
    load = ("-n", "-c", str(CLIENTS), "-j", "2", *how)
    # Without a pool first: what perf_opt sees is what there is before its advice.
    report.say(f"pool: {name}, {SAMPLED_S} s of {CLIENTS} clients without a pool")
    direct(server, "-i", "-q", "-s", "10")
    unpooled = tps(direct(server, *load, "-T", str(SAMPLED_S)))
    server.sql("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 day'")
    enough = "SELECT coalesce(sum(n), 0) FROM perf.pool_hour, unnest(seconds_busy[2:]) AS n WHERE role = 'web'"
    # While all processors are taken, some looks come late.
    wait_until(lambda: server.scalar(enough) >= SAMPLED_S * 0.5, 70, "the seconds to be stored")
    # One hour, whose seconds are those of the load: as if it had gone on for quarter of an hour.
    server.sql("UPDATE perf.pool_hour SET seconds_busy = (SELECT array_agg(n * 15 ORDER BY o) FROM unnest(seconds_busy) "
               "WITH ORDINALITY AS u (n, o)) WHERE role = 'web'")
    server.sql("UPDATE perf.pool_hour p SET seconds_busy = w.seconds_busy FROM perf.pool_hour w "
               "WHERE p.role = '' AND w.role = 'web' AND w.hour_at = p.hour_at")
    advice = server.result("SELECT size, busy_p99, cap, cap_reason FROM perf._pool_advice() WHERE role = 'web'").dicts()[0]
    emitted = int(advice["size"])
    sizes = sorted({*SIZES, emitted})
    seen: dict[int, list[float]] = {size: [] for size in sizes}
    for turn in range(rounds):
        report.say(f"pool: {name}, round {turn + 1} of {rounds} through {len(sizes)} sizes")
        for size in sizes if turn % 2 == 0 else reversed(sizes):
            seen[size].append(pooled(server, size, load))
    middle = {size: report.middle(values) for size, values in seen.items()}
    best = max(middle, key=lambda size: middle[size])
    return {"emitted": emitted, "busy_p99": int(advice["busy_p99"] or 0), "cap": int(advice["cap"]),
            "cap_reason": advice["cap_reason"], "best_size": best, "reached": middle[emitted] / middle[best],
            "unpooled": unpooled, "tps": middle, "each": seen}


def direct(server: Cluster, *arguments: str) -> str:
    """pgbench on the server itself."""
    command = [server.program("pgbench"), "-h", "127.0.0.1", "-p", str(server.port), "-U", "web", *arguments, "postgres"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise HarnessError(f"pgbench exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def pooled(server: Cluster, size: int, load: tuple[str, ...]) -> float:
    """Throughput through a pooler with the emitted configuration, but for the size."""
    changes = {r"pool_size=\d+ max_db_connections=\d+": f"pool_size={size}  max_db_connections={size}",
               r"(?m)^web = max_user_connections=\d+$": f"web = max_user_connections={size} "}
    with Pooler(server, "postgres", ("web",), changes) as pooler:
        pooler.run("pgbench", "web", "-n", "-c", "4", *load[5:], "-t", "20", "postgres")
        before = time.monotonic()
        said = pooler.run("pgbench", "web", *load, "-T", str(SECONDS), "postgres")
        if time.monotonic() - before > 3 * SECONDS:
            raise HarnessError("the machine is too busy to measure anything")
        return tps(said)

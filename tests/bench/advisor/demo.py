"""Part `demo`: the demo's workload before and after everything that is recommended for it has been built.

Two databases with the same data take turns, one of them with the indexes. Each script of the workload runs alone for
as many transactions in both, and the CPU time of its backend counts, read from the postmaster's account of ended
children (in steps of 10 ms). Then the write scripts run together: what they lose against what was predicted. An index
makes some write dearer by nature, so a single write script only counts in that sum.

The prediction is asked for apart, with the recommended indexes as the policy and nothing but those write scripts as the
workload: in the whole workload the writes that pay are a thousandth of the time, and those that search by an index too
would hide them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from bench import report
from bench.servers import PERF_OPT, BenchServer, start
from demo import loader, runner
from demo.runner import Script
from demo.server import Server
from e2e.cluster import HarnessError, wait_until
from e2e.system import children_of

SETTINGS: Mapping[str, Any] = {"shared_buffers": "1GB", "effective_cache_size": "2GB", "work_mem": "8MB",
                               "maintenance_work_mem": "256MB", "random_page_cost": 1.1}
CAPTURE_S = 30
# CPU time of a script without indexes in one turn: enough for the steps of the account to be 2 %.
PORTION_MS = 500
ROUNDS, CONFIRMING = 2, 4
SLOWER = 1.05
POINTS = 3.0
# Long enough for the steps of the account to be 1 %, and often enough to meet the machine at rest.
WRITES, WRITE_ROUNDS = 15_000, 8
BEFORE, AFTER = "platform", "platform_indexed"
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """The part; whether its targets are met, and its figures."""
    server = start(pg_root, PERF_OPT, SETTINGS, pgbench=False)
    try:
        return compare(server)
    finally:
        server.destroy()


def compare(server: BenchServer) -> tuple[bool, dict[str, Any]]:
    """Loads, captures, builds and measures."""
    report.say("advisor: loading the demo and running its workload")
    server.sql(f"CREATE DATABASE {BEFORE}")
    server.sql("CREATE EXTENSION perf_opt", dbname=BEFORE)
    client = Server.of(server, BEFORE)
    loader.load(client)
    with server.connect(BEFORE, timeout=300.0) as session:
        session.query("VACUUM (ANALYZE)")
        session.query("SELECT perf.reset()")
        runner.run_workload(client, CAPTURE_S, 4, failing=False)
        advice = session.query("SELECT * FROM perf.index_recommendations()").dicts()
    wanted = [row for row in advice if row["status"] == "recommended" and row["action"] == "create"]
    variables = {name: client.scalar(f"SELECT max(id) FROM {name}") for name in ("users", "payments")}
    server.sql(f"CREATE DATABASE {AFTER} TEMPLATE {BEFORE}")
    with server.connect(AFTER, timeout=300.0) as session:
        for row in wanted:
            session.query(re.sub(r"\bCONCURRENTLY\s", "", row["ddl"]))
    for database in (BEFORE, AFTER):
        server.sql("VACUUM (ANALYZE)", dbname=database)
    report.say(f"advisor: {len(wanted)} indexes built; {len(runner.manifest())} scripts take turns")
    ratios = {script.name: ratio_of(server, script, variables) for script in runner.manifest()}
    writes = [script for script in runner.manifest() if script.area == "writes" and script.indexed_table is None]
    before, after = write_times(server, writes, variables)
    cost = predicted_cost(server, wanted, writes, variables)
    return judge(wanted, ratios, 100 * (1 - before / after), 100 * cost / (before + cost))


def children_ms(server: BenchServer) -> float:
    """CPU time of the postmaster's children that have ended."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) * TICK_MS


def play(server: BenchServer, database: str, scripts: Sequence[Script], variables: Mapping[str, Any], protocol: str,
         *extent: str) -> tuple[float, int]:
    """Runs scripts with one client; CPU time of the backend in ms, and how many transactions there were."""
    client = Server.of(server, database)
    command = [client.program("pgbench"), *client.arguments(), "-n", "-M", protocol, "-c", "1", "--random-seed", "42",
               *extent]
    for name, value in variables.items():
        command += ["-D", f"{name}={value}"]
    for script in scripts:
        command += ["-f", f"{script.path}@{script.weight}"]
    others = set(children_of(server.pid))
    before = children_ms(server)
    done = subprocess.run([*command, database], capture_output=True, text=True, env=client.environment())
    counted = re.search(r"transactions actually processed: (\d+)", done.stdout)
    if done.returncode != 0 or counted is None:
        raise HarnessError(f"pgbench {[script.name for script in scripts]}: {done.stderr[-500:]}")
    wait_until(lambda: set(children_of(server.pid)) <= others, 10, "the backend to be gone and accounted for")
    return children_ms(server) - before, int(counted[1])


def ratio_of(server: BenchServer, script: Script, variables: Mapping[str, Any]) -> float:
    """CPU time of a script with the indexes over that without."""
    taken, count = play(server, BEFORE, [script], variables, script.protocol, "-T", "1")
    extent = ("-t", str(max(1, round(count * PORTION_MS / max(taken, TICK_MS)))))
    least: dict[str, Optional[float]] = {BEFORE: None, AFTER: None}
    for number in range(ROUNDS + CONFIRMING):
        for database, before in least.items():
            taken, _ = play(server, database, [script], variables, script.protocol, *extent)
            least[database] = taken if before is None else min(before, taken)
        ratio = max(least[AFTER] or 0, TICK_MS) / max(least[BEFORE] or 0, TICK_MS)
        if number + 1 >= ROUNDS and ratio <= SLOWER:
            break
    return ratio


def write_times(server: BenchServer, scripts: Sequence[Script], variables: Mapping[str, Any]) -> tuple[float, float]:
    """CPU time of the write scripts together, without the indexes and with them, in ms."""
    least: dict[str, float] = {}
    for _ in range(WRITE_ROUNDS):
        for database in (BEFORE, AFTER):
            taken, _ = play(server, database, scripts, variables, "prepared", "-t", str(WRITES))
            least[database] = min(taken, least.get(database, taken))
    return least[BEFORE], least[AFTER]


def predicted_cost(server: BenchServer, wanted: Sequence[Mapping[str, Any]], scripts: Sequence[Script],
                   variables: Mapping[str, Any]) -> float:
    """What the indexes are expected to add to the write scripts, in ms: asked of the database without them."""
    with server.connect(BEFORE, timeout=300.0) as session:
        session.query("SELECT perf.clear_policy()")
        for number, row in enumerate(wanted, 1):
            session.execute("INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) "
                            "VALUES ($1, $2, $3::text[], 'low') ON CONFLICT DO NOTHING",
                            (number, row["relation"], row["columns"]))
        session.query("SELECT perf.reset()")
    play(server, BEFORE, scripts, variables, "prepared", "-t", str(WRITES))
    with server.connect(BEFORE, timeout=300.0) as session:
        total_ms = session.query("SELECT sum(total_ms) FROM perf.statements()").scalar()
        rows = session.query("SELECT relation, columns, write_cost_pct FROM perf.index_recommendations() "
                             "WHERE source IN ('policy', 'both')").dicts()
    told = {(row["relation"], tuple(row["columns"])): row["write_cost_pct"] for row in rows}
    asked = [(row["relation"], tuple(row["columns"])) for row in wanted]
    if not set(asked) <= set(told):
        raise HarnessError(f"write costs of {sorted(asked)} were asked for, and answered: {told}")
    # None where a narrower index has the same keys: the policy cannot ask for INCLUDE columns.
    return sum(float(told[one] or 0) for one in asked) / 100 * float(total_ms)


def judge(wanted: Sequence[Mapping[str, Any]], ratios: Mapping[str, float], measured: float,
          predicted: float) -> tuple[bool, dict[str, Any]]:
    """Prints the indexes, the scripts and the verdicts."""
    report.table("Demo: recommended and built", ["index", "saves %", "costs writes %", "confidence"],
                 [[f"{row['relation']} ({', '.join(row['columns'])})", f"{float(row['benefit_pct'] or 0):.1f}",
                   f"{float(row['write_cost_pct'] or 0):.2f}", row["confidence"]] for row in wanted])
    areas = {script.name: script.area for script in runner.manifest()}
    slow = {name: ratio for name, ratio in ratios.items() if ratio > SLOWER and areas[name] != "writes"}
    verdicts = {"no statement over 5 % slower, writes apart": not slow,
                "loss of write throughput as predicted within 3 points": abs(measured - predicted) <= POINTS}
    report.table("Demo: CPU time with all recommended indexes, relative to none", ["script", "ratio", ""],
                 [[name, f"{ratio:.2f}", "write" if areas[name] == "writes" else ""]
                  for name, ratio in sorted(ratios.items(), key=lambda pair: pair[1])],
                 [f"write throughput: {measured:+.1f} % lost, {predicted:+.1f} % predicted",
                  *(f"{name}: {report.verdict(met)}" for name, met in verdicts.items())])
    return all(verdicts.values()), {"indexes": [row["ddl"] for row in wanted], "ratios": dict(ratios),
                                    "write_loss_pct": measured, "write_loss_predicted_pct": predicted,
                                    "verdicts": verdicts}

"""Suite `overhead`: user instructions per transaction that an extension adds, counted by callgrind on one backend.

One server per variant, all up at once, each under callgrind with one session. The session marks its counter, runs the
transactions, and marks again; what a mark itself costs is counted between two marks with nothing between them, and
taken off. Rounds go through the variants in turn.

What the core does by the clock is kept out as far as it can be: the session waits until the server sleeps before it
sends the next message (whether a message is there already costs the server a system call more or less), and warming
up lasts longer than the second in which the core holds statistics back. The collector is off: callgrind slows it down
fifty times like everything else, so that its transactions keep dead rows from being pruned for minutes, and the
measured backend wades through them. The suite `cputime` has it on.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Sequence

from e2e.cluster import Connection

from . import report
from .servers import JUMBLING, NOTHING, PERF_OPT, PGSS, BenchServer, Counter, Variant, start, valgrind
from .workloads import WORKLOADS, Workload

ROUNDS = 5
SETTLE_S = 1.5
PACE_S = 0.0005
# PostgreSQL 15.20, x86-64: what was measured by the same recipe elsewhere.
REFERENCE = {
    "select1": {"none": 22_010, "core": 0, "pgss": 1_540},
    "read": {"none": 45_032, "core": 0, "pgss": 1_663},
    "simple": {"none": 93_942, "core": 2_765, "pgss": 4_917},
    "churn": {"none": 196_702, "core": 6_015, "pgss": 11_741},
    "write": {"none": 400_805, "core": 0, "pgss": 8_996},
}
REFERENCE_MAJOR = 15
SELECT_ONE_LIMIT = 770
CHURN_BEYOND_JUMBLING_LIMIT = 1_430


class PacedConnection(Connection):
    """A session that sends nothing before the server has gone to sleep after its last answer."""

    def _send(self, data: bytes) -> None:
        time.sleep(PACE_S)
        super()._send(data)


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether all targets are met."""
    valgrind()
    chosen = [workload for workload in WORKLOADS if not options.workload or workload.name in options.workload]
    result: dict[str, Any] = {"unit": "user instructions per transaction", "rounds": options.rounds or ROUNDS,
                              "workloads": {}}
    for workload in chosen:
        variants = [NOTHING, *([JUMBLING] if workload.jumbles else []), PGSS, PERF_OPT]
        report.say(f"overhead: {workload.title}")
        result["workloads"][workload.name], result["major"] = measure(pg_root, workload, variants, options)
    missed = show(chosen, result)
    result["missed"] = missed
    report.save("overhead", result)
    return not missed


def measure(pg_root: Path, workload: Workload, variants: Sequence[Variant],
            options: Any) -> tuple[dict[str, list[float]], int]:
    """Instructions per transaction of each variant, one value a round; and the server's major version."""
    servers: dict[str, BenchServer] = {}
    try:
        for variant in variants:
            # Some 20 transactions a second are kept as they were, which takes 50,000 instructions each: on servers as slow
            # as these that would be most of them.
            settings = {"perf_opt.collector": "off", "perf_opt.transaction_samples": 0} if variant is PERF_OPT else {}
            servers[variant.key] = start(pg_root, variant, settings, callgrind=True)
        return count(servers, workload, options), servers[NOTHING.key].major
    finally:
        for server in servers.values():
            server.destroy()


def count(servers: dict[str, BenchServer], workload: Workload, options: Any) -> dict[str, list[float]]:
    """Warms every session up and counts the rounds in turn."""
    sessions = {}
    for key, server in servers.items():
        session = PacedConnection(str(server.socket_dir), server.port, timeout=600)
        counter = Counter(server, session)
        step = workload.connect(session)
        for _ in range(workload.warmup):
            step()
        for _ in range(2):
            counter.mark()
            time.sleep(SETTLE_S)
            step()
        sessions[key] = (counter, step)
    counted: dict[str, list[float]] = {key: [] for key in servers}
    for number in range(options.rounds or ROUNDS):
        for key, (counter, step) in sessions.items():
            of_the_mark = counter.mark()
            for _ in range(workload.transactions):
                step()
            counted[key].append((counter.mark() - of_the_mark) / workload.transactions)
            if options.profile and number == 0 and counter.last_dump:
                profile(options.profile, workload, key, counter.last_dump)
    return counted


def profile(directory: Path, workload: Workload, key: str, dump: Path) -> None:
    """Keeps callgrind's breakdown by function, inclusive and exclusive."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(dump, directory / f"{workload.name}-{key}.callgrind")
    for kind in ("yes", "no"):
        done = subprocess.run(["callgrind_annotate", f"--inclusive={kind}", "--auto=no", "--threshold=100", str(dump)],
                              capture_output=True, text=True)
        name = f"{workload.name}-{key}-{'inclusive' if kind == 'yes' else 'exclusive'}.txt"
        (directory / name).write_text(f"{workload.transactions} transactions\n{done.stdout}{done.stderr}")


def show(workloads: Sequence[Workload], result: dict[str, Any]) -> list[str]:
    """Prints the table; the targets that were missed."""
    rows, missed = [], []
    for workload in workloads:
        counted = result["workloads"][workload.name]
        base = report.middle(counted["none"])
        added = {key: [with_it - without for with_it, without in zip(values, counted["none"])]
                 for key, values in counted.items() if key != "none"}
        middle = {key: report.middle(values) for key, values in added.items()}
        result["workloads"][workload.name] = {"counted": counted, "added": added, "added_median": middle}
        jumbling = middle.get("core", 0.0)
        own = {key: middle[key] - jumbling for key in ("pgss", "perf_opt")}
        if own["perf_opt"] > own["pgss"] / 2:
            missed.append(f"{workload.title}: more than half of what pg_stat_statements adds")
        if workload.name == "select1" and middle["perf_opt"] > SELECT_ONE_LIMIT:
            missed.append(f"{workload.title}: more than {SELECT_ONE_LIMIT}")
        if workload.name == "churn" and own["perf_opt"] > CHURN_BEYOND_JUMBLING_LIMIT:
            missed.append(f"{workload.title}: more than {CHURN_BEYOND_JUMBLING_LIMIT} beyond core jumbling")
        rows.append([workload.title, f"{base:,.0f}",
                     *(f"{middle[key]:+,.0f} ±{report.half_spread(added[key]):,.0f}" if key in middle else ""
                       for key in ("core", "pgss", "perf_opt")),
                     f"{own['perf_opt']:,.0f}", f"{own['perf_opt'] / own['pgss']:.2f}"])
        reference = REFERENCE[workload.name]
        if result["major"] != REFERENCE_MAJOR:
            continue
        rows.append(["  reference, PostgreSQL 15.20", f"{reference['none']:,}",
                     f"{reference['core']:+,}" if workload.jumbles else "", f"{reference['pgss']:+,}", "", "", ""])
    report.table("User instructions per transaction (callgrind, one backend)",
                 ["transaction", "none", "core jumbling", "pg_stat_statements", "perf_opt", "own", "ratio"], rows,
                 ["own: what perf_opt adds beyond core query jumbling, which both extensions ask for; ratio: own of "
                  "perf_opt over own of pg_stat_statements"] +
                 [f"MISSED {one}" for one in missed] + ([] if missed else ["all targets met"]))
    return missed

"""Suite `distinct`: millions of statements of different structure in 5,000 slots, over several backends.

Two users. `first` runs a third of the statements, and its totals are read; then `second` runs the rest, which evicts
what `first` left behind, and the totals of `first` must still be the same to the last call and the last nanosecond.
The calls of all are compared with the clients' own count. Among them, spread evenly, come 100 heavy statements, which
must end up as the 100 most expensive. The size of shared memory and of each backend is read all along.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any, Iterator

from e2e.cluster import Connection, HarnessError

from . import report
from .servers import PERF_OPT, BenchServer, resident_kb, start

SLOTS = 5_000
BACKENDS = 2
BATCH = 200
HEAVY = 100
HEAVY_EXECUTIONS = 10
HEAVY_S = 0.01
OPERATORS = ("+", "-", "*", "#", "&", "|", "<<", ">>", "%", "/")
# Seven operators of ten: 10 million structures.
OPERANDS = (9, 1, 2, 1, 3, 1, 2, 1)
# What a backend may grow by after it has warmed up, and what rounding of milliseconds in doubles may cost.
GROWTH_LIMIT_KB = 1_024
ROUNDING_MS = 1e-6

TOTALS = ("SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(failures), 0)::bigint, coalesce(sum(rows), 0)::bigint,"
          " coalesce(sum(total_ms), 0)::numeric FROM perf.statements(true) WHERE username = $1")


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether all of it is exact, present and flat."""
    if not HEAVY * 10 <= options.count <= len(OPERATORS) ** (len(OPERANDS) - 1):
        raise HarnessError(f"--count {options.count} is not between {HEAVY * 10} and "
                           f"{len(OPERATORS) ** (len(OPERANDS) - 1)}")
    server = start(pg_root, PERF_OPT, {"perf_opt.max_statements": SLOTS}, pgbench=False)
    try:
        for user in ("first", "second"):
            server.sql(f"CREATE ROLE {user} LOGIN")
        result = flood(server, options.count)
    finally:
        server.destroy()
    checks = show(result)
    result["checks"] = checks
    report.save("distinct", result)
    return all(checks.values())


def flood(server: BenchServer, count: int) -> dict[str, Any]:
    """Runs all statements; everything that was read before, between and after."""
    third = count // 3
    watch = Watch(server)
    shared_before = shared_memory(server)
    began = time.monotonic()
    first = by_user(server, "first", 0, third, watch, heavy=False)
    totals = {"first, before": read_totals(server, "first")}
    second = by_user(server, "second", third, count, watch, heavy=True)
    seconds = time.monotonic() - began
    totals["first, after"] = read_totals(server, "first")
    totals["second"] = read_totals(server, "second")
    # The reader's own statements are none of this.
    top = server.sql("SELECT query, calls, total_ms FROM perf.statements(true) WHERE query <> '(other)'"
                     f" AND username IN ('first', 'second') ORDER BY total_ms DESC LIMIT {HEAVY}")
    health = server.sql("SELECT count(*) FILTER (WHERE query <> '(other)'), count(*) FILTER (WHERE query = '(other)')"
                        " FROM perf.statements(true)")[0]
    return {"count": count, "seconds": round(seconds, 1), "entries": health[0], "other_rows": health[1],
            "sent": {"first": first, "second": second}, "totals": totals,
            "heavy_in_top": sum("pg_sleep" in row[0] for row in top),
            "heavy_with_all_calls": sum(row[1] == HEAVY_EXECUTIONS for row in top if "pg_sleep" in row[0]),
            "shared_memory_of_perf_opt": shared_memory_of_perf_opt(server),
            "shared_memory": [shared_before, shared_memory(server)], "backend_rss_anon_kb": watch.anon,
            "backend_rss_shared_kb": watch.shared}


def read_totals(server: BenchServer, user: str) -> list[Any]:
    """Calls, failures, rows and milliseconds of a user, all his statements together."""
    calls, failures, rows, total_ms = server.sql(TOTALS, (user,))[0]
    return [calls, failures, rows, float(total_ms)]


def shared_memory(server: BenchServer) -> int:
    """Bytes of shared memory that the server has allocated, all parts of it."""
    return int(server.scalar("SELECT sum(allocated_size) FROM pg_shmem_allocations"))


def shared_memory_of_perf_opt(server: BenchServer) -> int:
    """Bytes of it that are perf_opt's."""
    return int(server.scalar("SELECT sum(allocated_size) FROM pg_shmem_allocations WHERE name LIKE 'perf\\_opt%'"))


class Watch:
    """Resident memory of backends: after the first tenth of a backend's work, and at its end."""

    def __init__(self, server: BenchServer) -> None:
        self.server = server
        self.anon: list[list[int]] = []
        self.shared: list[list[int]] = []

    def add(self, early: dict[str, int], late: dict[str, int]) -> None:
        """Keeps the two readings of one backend."""
        self.anon.append([early["RssAnon"], late["RssAnon"]])
        self.shared.append([early["RssShmem"], late["RssShmem"]])


def by_user(server: BenchServer, user: str, begin: int, end: int, watch: Watch, heavy: bool) -> dict[str, Any]:
    """Runs the statements of a range of numbers as one user; what the clients counted and timed."""
    report.say(f"distinct: {end - begin:,} statements as user {user}")
    sent = [{"calls": 0, "seconds": 0.0} for _ in range(BACKENDS)]
    problems: list[BaseException] = []

    def work(which: int) -> None:
        try:
            numbers = range(begin + which, end, BACKENDS)
            planted = range(which, HEAVY, BACKENDS) if heavy else range(0)
            backend(server, user, numbers, planted, watch, sent[which])
        except BaseException as problem:  # shown by the main thread
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(BACKENDS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return {"calls": sum(one["calls"] for one in sent), "seconds": sum(one["seconds"] for one in sent)}


def backend(server: BenchServer, user: str, numbers: range, planted: range, watch: Watch,
            sent: dict[str, Any]) -> None:
    """One session's share: batches of statements one behind the other, the heavy ones spread among them."""
    with server.connect(user=user, timeout=600) as session:
        pipeline = Pipeline(session)
        batches = [numbers[at:at + BATCH] for at in range(0, len(numbers), BATCH)]
        schedule = heavy_schedule(len(batches), planted)
        early = None
        began = time.monotonic()
        for at, batch in enumerate(batches):
            texts = [text_of(number) for number in batch]
            texts += [heavy_text(number) for number in schedule.get(at, ())]
            sent["calls"] += pipeline.run(texts)
            if at == len(batches) // 10:
                early = resident_kb(session.pid)
        sent["seconds"] = time.monotonic() - began
        if early is not None:
            watch.add(early, resident_kb(session.pid))


def heavy_schedule(batches: int, planted: range) -> dict[int, list[int]]:
    """Which heavy statements go with which batch: each some times, as far apart as can be."""
    schedule: dict[int, list[int]] = {}
    total = len(planted) * HEAVY_EXECUTIONS
    for turn in range(total):
        schedule.setdefault(turn * batches // total, []).append(planted[turn % len(planted)])
    return schedule


def text_of(number: int) -> str:
    """A statement of its own structure: operators are part of it, constants are not."""
    parts = ["SELECT 9"]
    for operand in OPERANDS[1:]:
        number, choice = divmod(number, len(OPERATORS))
        parts.append(f"{OPERATORS[choice]} {operand}")
    return " ".join(parts)


def heavy_text(number: int) -> str:
    """A statement that takes its time, of its own structure."""
    return f"SELECT pg_sleep({HEAVY_S}), {text_of(number)[7:]}"


class Pipeline:
    """Sends many simple queries at once and counts the answers: a session that waits for each would be idle mostly."""

    def __init__(self, session: Connection) -> None:
        self.socket: socket.socket = session._socket
        self.rest = b""

    def run(self, texts: list[str]) -> int:
        """Runs statements; how many completed. An error of any of them is an error here."""
        message = bytearray()
        for text in texts:
            body = text.encode() + b"\0"
            message += b"Q" + struct.pack("!i", len(body) + 4) + body
        self.socket.sendall(message)
        completed = ready = 0
        while ready < len(texts):
            for kind, body in self.messages():
                completed += kind == 67  # CommandComplete
                ready += kind == 90  # ReadyForQuery
                if kind == 69:  # ErrorResponse
                    raise HarnessError(f"a statement failed: {body!r}")
        return completed

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """The complete messages among what the socket has now."""
        data = self.rest + self.socket.recv(1 << 17)
        at, end = 0, len(data)
        while at + 5 <= end:
            size = int.from_bytes(data[at + 1:at + 5], "big") + 1
            if at + size > end:
                break
            yield data[at], data[at + 5:at + size]
            at += size
        self.rest = data[at:]


def show(result: dict[str, Any]) -> dict[str, bool]:
    """Prints the table; every check and whether it holds."""
    sent, totals = result["sent"], result["totals"]
    before, after, second = totals["first, before"], totals["first, after"], totals["second"]
    slept_ms = HEAVY * HEAVY_EXECUTIONS * HEAVY_S * 1000
    wall_ms = {user: one["seconds"] * 1000 for user, one in sent.items()}
    growth = max(late - early for early, late in result["backend_rss_anon_kb"])
    checks = {
        "calls are what the clients counted": [before[0], second[0]] == [sent["first"]["calls"],
                                                                         sent["second"]["calls"]],
        "eviction changed no call, failure or row": before[:3] == after[:3],
        "eviction changed no time": abs(before[3] - after[3]) <= ROUNDING_MS * max(1.0, before[3]),
        "time within what clients waited": 0 < after[3] < wall_ms["first"] and slept_ms < second[3] < wall_ms["second"],
        f"the {HEAVY} heavy ones are the top {HEAVY}": result["heavy_in_top"] == HEAVY,
        "each heavy one with all its calls": result["heavy_with_all_calls"] == HEAVY,
        "shared memory is what it was": result["shared_memory"][0] == result["shared_memory"][1],
        "backends do not grow": growth <= GROWTH_LIMIT_KB,
    }
    rows = [
        ["user first: calls sent", f"{sent['first']['calls']:,}"],
        ["user first: calls recorded, before and after its statements were evicted", f"{before[0]:,}  {after[0]:,}"],
        ["user first: ms recorded, before and after", f"{before[3]:,.6f}  {after[3]:,.6f}"],
        ["user second: calls sent", f"{sent['second']['calls']:,}"],
        ["user second: calls recorded", f"{second[0]:,}"],
        ["entries in use, and rows (other)", f"{result['entries']:,}  {result['other_rows']}"],
        [f"heavy statements among the top {HEAVY}", f"{result['heavy_in_top']}"],
        ["heavy statements with all their calls", f"{result['heavy_with_all_calls']}"],
        ["shared memory before and after, MB", "  ".join(f"{size / 1e6:.1f}" for size in result["shared_memory"])],
        ["of it perf_opt's, MB", f"{result['shared_memory_of_perf_opt'] / 1e6:.1f}"],
        ["private memory of backends early and late, kB", "  ".join(f"{early}:{late}" for early, late in
                                                                    result["backend_rss_anon_kb"])],
        ["seconds", f"{result['seconds']}"],
    ]
    report.table(f"{result['count']:,} distinct statements in {SLOTS:,} slots, {BACKENDS} backends at a time",
                 ["what", "value"], rows, [f"{what}: {report.verdict(held)}" for what, held in checks.items()])
    return checks

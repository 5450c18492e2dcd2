"""Suite `failures`: statements that were cancelled, timed out, deadlocked or terminated are each recorded once.

A quarter of `PLANTED` of each kind. Every kind runs a statement of its own structure, and the sessions count the
errors they got; what perf.statements() shows must be that number, no more and no less.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from e2e.cluster import Connection, ConnectionLost, SqlError, wait_until

from . import report
from .servers import PERF_OPT, BenchServer, start

PLANTED = 1_000
# sqlstate, statement, and what to look for in the normalised text.
CANCELLED = ("57014", "SELECT pg_sleep(60) AS cancelled", "% AS cancelled")
TIMED_OUT = ("57014", "SELECT pg_sleep(60), 1 AS timed_out", "% AS timed_out")
TERMINATED = ("57P01", "SELECT pg_sleep(60), 1, 2 AS terminated", "% AS terminated")
DEADLOCKED = ("40P01", "UPDATE contested SET n = n + 1 WHERE id = $1", "UPDATE contested %")


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether every failure was recorded once."""
    each = PLANTED // 4
    server = start(pg_root, PERF_OPT, {"deadlock_timeout": "2ms", "log_min_messages": "panic"}, pgbench=False)
    try:
        server.sql("CREATE TABLE contested(id int PRIMARY KEY, n int); INSERT INTO contested VALUES (1, 0), (2, 0)")
        counted = {}
        for name, plant, pattern in (("cancelled", cancel, CANCELLED), ("timed out", time_out, TIMED_OUT),
                                     ("deadlocked", deadlock, DEADLOCKED), ("terminated", terminate, TERMINATED)):
            report.say(f"failures: {each} {name}")
            counted[name] = (plant(server, each), *recorded(server, pattern))
    finally:
        server.destroy()
    good = all(planted == each and failures == planted and states == pattern[0]
               for (planted, failures, states), pattern in zip(counted.values(),
                                                               (CANCELLED, TIMED_OUT, DEADLOCKED, TERMINATED)))
    total = sum(planted for planted, _, _ in counted.values())
    seen = sum(failures for _, failures, _ in counted.values())
    report.table("Failed statements: errors that sessions got, and failures in perf.statements()",
                 ["kind", "planted", "recorded", "sqlstate"],
                 [*([name, *values] for name, values in counted.items()), ["all", total, seen, ""]],
                 [f"target, each recorded once: {report.verdict(good)}"])
    report.save("failures", {"kinds": counted, "met": good})
    return good


def recorded(server: BenchServer, pattern: tuple[str, str, str]) -> tuple[int, str]:
    """How many failures perf_opt has of a kind, and with which SQLSTATE."""
    rows = server.sql("SELECT coalesce(sum(failures), 0)::bigint, coalesce(string_agg(DISTINCT last_sqlstate, ' '), '')"
                      " FROM perf.statements() WHERE query LIKE $1", (pattern[2],))
    return rows[0]


def fails(session: Connection, pattern: tuple[str, str, str]) -> int:
    """Collects a statement that must fail: 1 when it did, in the way expected."""
    try:
        session.wait()
    except SqlError as error:
        return int(error.sqlstate == pattern[0])
    except ConnectionLost:
        return 0
    return 0


def sleeping(server: BenchServer, watcher: Connection, pid: int) -> None:
    """Waits until a session is within pg_sleep()."""
    wait_until(lambda: watcher.execute("SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = $1",
                                       (pid,)).rows == [(True,)], 20, "the statement to run", interval=0.001)


def cancel(server: BenchServer, count: int) -> int:
    """Statements cancelled by another session while they run."""
    failed = 0
    with server.connect() as session, server.connect() as watcher:
        for _ in range(count):
            session.send_async(CANCELLED[1])
            sleeping(server, watcher, session.pid)
            watcher.execute("SELECT pg_cancel_backend($1)", (session.pid,))
            failed += fails(session, CANCELLED)
    return failed


def time_out(server: BenchServer, count: int) -> int:
    """Statements that statement_timeout ends."""
    failed = 0
    with server.connect() as session:
        session.query("SET statement_timeout = '3ms'")
        for _ in range(count):
            session.send_async(TIMED_OUT[1])
            failed += fails(session, TIMED_OUT)
    return failed


def terminate(server: BenchServer, count: int) -> int:
    """Statements whose backend is terminated."""
    failed = 0
    with server.connect() as watcher:
        for _ in range(count):
            with server.connect() as session:
                session.send_async(TERMINATED[1])
                sleeping(server, watcher, session.pid)
                watcher.execute("SELECT pg_terminate_backend($1)", (session.pid,))
                failed += fails(session, TERMINATED)
                pid = session.pid
            wait_until(lambda: not watcher.execute("SELECT FROM pg_stat_activity WHERE pid = $1", (pid,)).rows, 20,
                       "the backend to go", interval=0.001)
    return failed


def deadlock(server: BenchServer, count: int) -> int:
    """Updates of two rows in opposite order by two sessions, of which the server ends one."""
    failed = [0, 0]
    sessions = [server.connect(), server.connect()]

    def second_update(which: int, row: int) -> None:
        try:
            sessions[which].execute(DEADLOCKED[1], (row,))
        except SqlError as error:
            failed[which] += error.sqlstate == DEADLOCKED[0]
        sessions[which].query("ROLLBACK")

    deadline = time.monotonic() + 300
    while sum(failed) < count and time.monotonic() < deadline:
        for which, session in enumerate(sessions):
            session.query("BEGIN")
            session.execute(DEADLOCKED[1], (which + 1,))
        threads = [threading.Thread(target=second_update, args=(which, 2 - which)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for session in sessions:
        session.close()
    return sum(failed)

"""Part `convert`: a live table becomes partitioned, and plain again, while clients insert, update and read by key: how long
everybody is kept away from it, what the clients notice, and whether all is there afterwards; the same by pg_partman, the
way its documentation converts a table online.

What clients notice is told by three witnesses: pgbench, from the time at which a transaction was due; the server's log of
waits for locks on the table, which knows nothing of a busy machine; and a session that looks at pg_locks all the time, and
so sees how long somebody had the table to himself.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional

from bench import report
from e2e.cluster import Cluster, SqlError
from e2e.convert_schema import dump

from .servers import perf_opt_server, pg_partman_server, version_of

CLIENTS = 8
RATE_PER_S = 200
QUIET_S = 10
LOCK_MS_MAX = 20.0
STALL_MS_MAX = 50.0
# Waits that are longer are logged.
LOGGED_MS = 5
# What is committed under a lock is waited for, so the disk counts here, unlike in most of the harness.
SETTINGS = {"fsync": "on", "log_lock_waits": "on", "deadlock_timeout": f"{LOGGED_MS}ms", "log_min_messages": "log", "log_checkpoints": "off",
            "max_wal_size": "8GB", "maintenance_work_mem": "256MB", "max_parallel_maintenance_workers": 0}
TABLE = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), account int NOT NULL,
                     amount numeric(10, 2), body text);
CREATE TABLE ledger (id bigint);
CREATE VIEW accounts AS SELECT account, count(*) AS events FROM events GROUP BY 1;
"""
# The last year.
ROWS = ("INSERT INTO events (at, account, amount, body) SELECT now() - interval '365 days' * (1 - g / {rows}.0), g % 10000, g % 1000,"
        " repeat('x', 40) FROM generate_series(1, {rows}) g")
# What was committed is told by a table that nobody converts.
SCRIPTS = {"insert@2": "WITH new AS (INSERT INTO events (account, amount, body) VALUES (1, 2, 'new') RETURNING id)"
                       " INSERT INTO ledger SELECT id FROM new;\n",
           "update@1": "\\set id random(1, {rows})\nUPDATE events SET amount = amount + 1 WHERE id = :id;\n",
           "select@2": "\\set id random(1, {rows})\nSELECT amount FROM events WHERE id = :id;\n"}
WAITED = re.compile(r"process \d+ acquired (\w+) on relation (\d+) of database \d+ after ([\d.]+) ms")
PARTMAN_LIMIT_S = 60


@dataclass
class Window:
    """What the clients saw. Milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    lock_wait_ms: float
    lock_seen_ms: float
    transactions: int
    failed: int
    error: str = ""


@dataclass
class Conversion:
    """How it went."""

    seconds: float = 0.0
    lock_ms: float = 0.0
    notes: list[str] = field(default_factory=list)


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """perf_opt and the peer; whether the targets are met."""
    rows = options.rows
    figures: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    with perf_opt_server(pg_root) as server:
        name = "perf_opt " + version_of(server, "perf_opt")
        report.say(f"partitions: conversion of {rows:,} rows, {name}")
        figures[name] = own = measure(server, rows, convert)
        figures[f"{name}, back"] = back = measure_back(server, own)
    if not options.no_peers:
        peer = pg_partman_server(pg_root)
        if isinstance(peer, str):
            notes.append(f"pg_partman is not available: {peer}")
        else:
            with peer:
                name = "pg_partman " + version_of(peer, "pg_partman")
                report.say(f"partitions: conversion of {rows:,} rows, {name}")
                figures[name] = measure(peer, rows, partman)
    met = {
        f"ACCESS EXCLUSIVE at most {LOCK_MS_MAX:.0f} ms": own["lock_ms"] <= LOCK_MS_MAX,
        f"longest wait of a client for a lock at most {STALL_MS_MAX:.0f} ms": own["busy"]["lock_wait_ms"] <= STALL_MS_MAX,
        f"worst transaction of a client meanwhile at most {STALL_MS_MAX:.0f} ms": own["busy"]["max_ms"] <= STALL_MS_MAX,
        "no error, no row lost": own["busy"]["failed"] == 0 and own["lost"] == 0 and back["lost"] == 0,
        "schema after the way back as before": back["same_schema"],
    }
    report.table(f"{rows:,} rows, {CLIENTS} clients, {RATE_PER_S} transactions a second",
                 ["", "s", "locked, ms", "seen locked, ms", "longest lock wait, ms", "p99 quiet", "p99 meanwhile", "worst quiet", "worst meanwhile", "failed",
                  "rows lost"],
                 [[name, f"{one['seconds']:.1f}", f"{one['lock_ms']:.1f}", f"{one['busy']['lock_seen_ms']:.1f}", f"{one['busy']['lock_wait_ms']:.1f}",
                   f"{one['quiet']['p99_ms']:.1f}", f"{one['busy']['p99_ms']:.1f}", f"{one['quiet']['max_ms']:.0f}",
                   f"{one['busy']['max_ms']:.0f}", one["busy"]["failed"], one["lost"]] for name, one in figures.items()],
                 [*(f"target: {what}: {report.verdict(is_met)}" for what, is_met in met.items()),
                  f"lock waits up to {LOGGED_MS} ms are not logged and count as 0; for that, deadlock_timeout is {LOGGED_MS} ms on all sides",
                  *(f"{name}: {note}" for name, one in figures.items() for note in one["notes"]), *notes])
    return all(met.values()), {"rows": rows, "figures": figures, "met": met}


def measure(server: Cluster, rows: int, convert_it: Callable[[Cluster], Conversion]) -> dict[str, Any]:
    """Loads the table, looks at the clients without and with a conversion, and counts what is left."""
    server.configure(SETTINGS)
    server.restart()
    server.sql(TABLE)
    with server.connect(timeout=1800) as session:
        session.query(ROWS.format(rows=rows))
        session.query("CREATE INDEX events_account ON events (account)")
        for text in ("VACUUM ANALYZE events", "CHECKPOINT"):
            session.query(text)
    schema = dump(server, "postgres")
    load = Load(server, rows)
    time.sleep(QUIET_S)
    quiet = load.end()
    done = Conversion()
    load = Load(server, rows)
    try:
        time.sleep(2)
        done = convert_it(server)
        time.sleep(2)
    finally:
        busy = load.end()
    lost = missing(server, rows)
    return {**asdict(done), "quiet": asdict(quiet), "busy": asdict(busy), "lost": lost, "rows": rows, "schema": schema}


def measure_back(server: Cluster, before: dict[str, Any]) -> dict[str, Any]:
    """The way back, under the same load."""
    rows = before["rows"]
    load = Load(server, rows)
    time.sleep(QUIET_S / 2)
    quiet = load.end()
    load = Load(server, rows)
    try:
        time.sleep(2)
        done = called(server, "CALL perf.partition_convert_undo('events')")
        time.sleep(2)
    finally:
        busy = load.end()
    lost = missing(server, rows)
    same = dump(server, "postgres") == before.pop("schema")
    return {**asdict(done), "quiet": asdict(quiet), "busy": asdict(busy), "lost": lost, "same_schema": same}


def missing(server: Cluster, rows: int) -> int:
    """Committed rows that are not there, and keys that are there twice."""
    with server.connect(timeout=900) as session:
        return session.query(f"SELECT {rows} + (SELECT count(*) FROM ledger) - count(DISTINCT id) + count(*) - count(DISTINCT id)"
                             " FROM events").scalar()


def convert(server: Cluster) -> Conversion:
    """By perf_opt."""
    return called(server, "CALL perf.partition_convert('events', 'at', 'month')")


def called(server: Cluster, text: str) -> Conversion:
    """Calls a procedure of perf_opt; what its run says of locks."""
    started = time.monotonic()
    with server.connect(timeout=3600) as session:
        session.query(text)
        seconds = time.monotonic() - started
        detail = session.query("SELECT detail FROM perf.job_runs ORDER BY run_id DESC LIMIT 1").dicts()[0]["detail"]
    return Conversion(seconds, float(detail["exclusive_lock_ms"]),
                      [line for line in detail["lines"] if "locked for" in line] + [f"locks tried again: {detail['lock_retries']}"])


def partman(server: Cluster) -> Conversion:
    """By pg_partman: a new table takes the name, and the old one is its default partition, out of which rows are moved."""
    done = Conversion()
    with server.connect(timeout=3600) as session:
        session.query("""
            CREATE TABLE new_events (LIKE events INCLUDING DEFAULTS INCLUDING GENERATED) PARTITION BY RANGE (at);
            ALTER TABLE new_events ADD PRIMARY KEY (id, at), ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY;
            CREATE INDEX ON new_events (account);
            SELECT partman.create_parent('public.new_events', 'at', 'native', 'monthly', p_premake := 4,
                                         p_start_partition := (date_trunc('month', now()) + interval '1 month')::text);
            DROP TABLE IF EXISTS new_events_default""")
        session.query("CREATE UNIQUE INDEX CONCURRENTLY events_id_at ON events (id, at)")
        begun = time.monotonic()
        session.query("BEGIN")
        session.query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        locked = time.monotonic()
        session.query("""
            ALTER TABLE events ALTER COLUMN id DROP IDENTITY, DROP CONSTRAINT events_pkey;
            ALTER TABLE events ADD PRIMARY KEY USING INDEX events_id_at;
            ALTER TABLE events RENAME TO events_default; ALTER TABLE new_events RENAME TO events;
            ALTER TABLE events ATTACH PARTITION events_default DEFAULT;
            SELECT setval(pg_get_serial_sequence('events', 'id'), (SELECT max(id) FROM events_default));
            UPDATE partman.part_config SET parent_table = 'public.events' WHERE parent_table = 'public.new_events';
            COMMIT""")
        done.lock_ms = (time.monotonic() - locked) * 1000
        swapped = time.monotonic()
        failures: dict[str, int] = {}
        # Whoever runs it calls it again when it fails.
        while (rest_s := PARTMAN_LIMIT_S - (time.monotonic() - swapped)) > 0:
            session.query(f"SET statement_timeout = '{int(rest_s * 1000) + 1}ms'")
            try:
                session.query("CALL partman.partition_data_proc('public.events', p_wait := 0)")
                break
            except SqlError as failure:
                what = failure.message.splitlines()[0]
                failures[what] = failures.get(what, 0) + 1
        session.query("SET statement_timeout = 0")
        done.notes += [f"moving rows failed {count} times: {message}" for message, count in failures.items()]
        left = session.query("SELECT count(*) FROM ONLY events_default").scalar()
        done.notes.append(f"swap {swapped - begun:.1f} s, moving {time.monotonic() - swapped:.1f} s, {left:,} rows left in the default partition after at most {PARTMAN_LIMIT_S} s")
        done.seconds = time.monotonic() - begun
    done.notes.append("grants, triggers, views and comments are the user's to carry over")
    return done


class Load:
    """Clients at work until told to end."""

    def __init__(self, server: Cluster, rows: int) -> None:
        """Starts them."""
        self.server, self.mark = server, server.log_mark()
        self.directory = tempfile.TemporaryDirectory()
        home = Path(self.directory.name)
        home.chmod(0o777)
        files = []
        for name, text in SCRIPTS.items():
            path = home / (name.partition("@")[0] + ".sql")
            path.write_text(text.format(rows=rows))
            path.chmod(0o644)
            files += ["-f", f"{path}@{name.partition('@')[2]}"]
        command = [server.program("pgbench"), "-n", "-c", str(CLIENTS), "-j", "2", "-R", str(RATE_PER_S), "-T", "100000", "-M", "prepared",
                   "-l", "--log-prefix", str(home / "log"), *files, "-h", server.socket_dir, "-p", str(server.port),
                   "-U", "postgres", "postgres"]
        self.output: Optional[str] = None
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.reader = threading.Thread(target=lambda: setattr(self, "output", self.process.stdout.read()), daemon=True)
        self.reader.start()
        self.locks = Locks(server)

    def end(self) -> Window:
        """Ends them; what they saw."""
        early = self.process.poll()
        seen = self.locks.end()
        # As when its time is over: what it has seen is written down.
        self.process.send_signal(signal.SIGALRM)
        self.process.wait(60)
        self.reader.join(5)
        home = Path(self.directory.name)
        lines = [line.split() for log in home.glob("log*") for line in log.read_text().splitlines()]
        lines = [line for line in lines if len(line) >= 6]
        # Counted from when a transaction was due: one that could not begin because others were held up counts as well.
        times = sorted(float(line[2]) / 1000 for line in lines if line[2].isdigit()) or [0.0]
        aborted = re.findall(r"client \d+ .*aborted.*", self.output or "") or ([self.output or ""] if early is not None else [])
        at = lambda share: times[min(len(times) - 1, int(share * len(times)))]  # noqa: E731
        self.directory.cleanup()
        return Window(at(0.5), at(0.99), times[-1], self.lock_wait_ms(), seen, len(times), len(aborted), (self.output or "")[:500])

    def lock_wait_ms(self) -> float:
        """The longest wait of a client for a lock on a relation, by the server's log."""
        with self.server.log_path.open("rb") as log:
            log.seek(self.mark)
            waits = [float(wait) for mode, _, wait in WAITED.findall(log.read().decode(errors="replace"))
                     if mode in ("AccessShareLock", "RowExclusiveLock", "RowShareLock")]
        return max(waits, default=0.0)


class Locks:
    """Looks who has the table in ACCESS EXCLUSIVE, once a millisecond."""

    def __init__(self, server: Cluster) -> None:
        """Begins with the table and the partitions that it has now."""
        self.server, self.longest, self.stop = server, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self.server.connect() as session:
            tables = session.query("SELECT array_agg(oid)::text FROM (SELECT 'events'::regclass::oid AS oid UNION ALL "
                                   "SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass) x").scalar()
            look = (f"SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted "
                    f"AND relation = ANY ('{tables}'::oid[])")
            since = None
            while not self.stop.is_set():
                before = time.monotonic()
                if session.query(look).scalar():
                    since = since or before
                    self.longest = max(self.longest, (time.monotonic() - since) * 1000)
                else:
                    since = None
                time.sleep(0.001)

    def end(self) -> float:
        """The longest time, in milliseconds; 0 when it was never seen."""
        self.stop.set()
        self.thread.join()
        return self.longest

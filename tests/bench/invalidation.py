"""Suite `invalidation`: what keeping caches exact costs writers, how long it takes, and that nothing stale is ever read.

Three parts: writers of one table, bare, watched, and with row triggers that send NOTIFY, in turns; the time from a commit to the
notice of its invalidation, under load; reads of the embedded cache and of Redis beside 8 writers, each checked against the
version of the row whose invalidation had been told before the read began.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import subprocess
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Optional

from e2e.cache_case import Redis, decode, encode, program
from e2e.cluster import Connection, HarnessError
from e2e.system import clean_environment

from . import report
from .servers import PERF_OPT, BenchServer, start

USERS = 1_000
WRITERS = 8
READERS = 4
SECONDS = 10
ROUNDS = 5
LOSS_PCT_MAX = 10.0
LAG_MS_MAX = 50.0
CHECKED = 1_000_000
AT_ONCE = 100
LAG_SAMPLES = 1_500

NOTIFY_ROWS = """
CREATE OR REPLACE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_notify('rows', json_build_object('key', 'user:' || NEW.user_id)::text); RETURN NEW; END$$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE ON balance FOR EACH ROW EXECUTE FUNCTION tell()"""
WATCH = "SELECT perf.cache_watch('balance_changed', 'balance', keys => ARRAY['user:{user_id}'], tags => '{}')"
UNWATCH = "SELECT perf.cache_unwatch('balance_changed', 'balance')"
WRITE = "\\set u random(1, 1000)\nUPDATE balance SET version = version + 1 WHERE user_id = :u;\n"


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether every target is met."""
    redis = Redis() if program() is not None else None
    # The machine's disk takes part: a commit waits for it, as everywhere.
    settings = {"fsync": "on", "max_worker_processes": 16, "perf_opt.redis_url": redis.url if redis else "", "autovacuum": "on"}
    server = start(pg_root, PERF_OPT, settings, pgbench=False)
    try:
        server.sql(f"CREATE TABLE balance (user_id int PRIMARY KEY, version bigint) WITH (fillfactor = 50);"
                   f"INSERT INTO balance SELECT g, 0 FROM generate_series(1, {USERS}) g")
        parts = {"writers": writers, "lag": lag, "stale": stale}
        figures, good = {}, True
        for name, part in parts.items():
            if not options.part or name in options.part:
                met, figures[name] = part(server, redis)
                good &= met
    finally:
        server.destroy()
        if redis is not None:
            redis.destroy()
    report.save("invalidation", {**figures, "met": good})
    return good


# -- what writers lose -----------------------------------------------------------------------------------------


def pgbench(server: BenchServer, seconds: int, clients: int = WRITERS) -> subprocess.Popen:
    """Writers, for so long."""
    script = server.base_dir / "write.sql"
    script.write_text(WRITE)
    return subprocess.Popen([server.program("pgbench"), "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(seconds),
                             "-f", str(script), "-h", str(server.socket_dir), "-p", str(server.port), "-U", "postgres", "postgres"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment())


def tps(bench: subprocess.Popen) -> float:
    """Its transactions a second."""
    out, problem = bench.communicate()
    for line in out.splitlines():
        if line.startswith("tps = "):
            return float(line.split()[2])
    raise HarnessError(f"pgbench: {out}{problem}")


def writers(server: BenchServer, redis: Optional[Redis]) -> tuple[bool, dict[str, Any]]:
    """Bare, watched, watched for Redis as well, and with row triggers, in turns on one server."""
    drop = "DROP TRIGGER tell ON balance"
    ways = {"bare": ("", "", ""), "watched": ("", WATCH, UNWATCH),
            **({"watched, Redis": (redis.url, WATCH, UNWATCH)} if redis else {}), "row triggers": ("", NOTIFY_ROWS, drop)}
    measured: dict[str, list[float]] = {name: [] for name in ways}
    tps(pgbench(server, 3))
    for number in range(ROUNDS):
        report.say(f"invalidation: writers, round {number + 1} of {ROUNDS}, load {os.getloadavg()[0]:.1f}")
        for name, (url, before, after) in ways.items():
            server.configure({"perf_opt.redis_url": url}, reload=True)
            if before:
                server.sql(before)
            with server.connect() as listener:
                listener.query("LISTEN rows; LISTEN perf_cache")
                measured[name].append(tps(pgbench(server, SECONDS)))
            if after:
                server.sql(after)
            server.sql("VACUUM balance")
            server.sql("CHECKPOINT")
    middle = {name: statistics.median(values) for name, values in measured.items()}
    lost = {name: statistics.median(100 - 100 * value / bare for value, bare in zip(measured[name], measured["bare"])) for name in ways}
    good = lost["watched"] <= LOSS_PCT_MAX
    report.table(f"Throughput of {WRITERS} writers of one table, synchronous commits, {SECONDS} s, medians of {ROUNDS} rounds",
                 ["table", "transactions/s", "lost"], [[name, f"{middle[name]:.0f}", f"{lost[name]:.1f} %"] for name in ways],
                 [f"target, watched loses at most {LOSS_PCT_MAX:.0f} %: {report.verdict(good)}"])
    return good, {"tps": measured, "lost_pct": lost}


# -- how long it takes -----------------------------------------------------------------------------------------


def wait_for_key(listener: Connection, key: str) -> None:
    """Returns as soon as a notice names a key."""
    while True:
        while listener.notifications:
            _, _, payload = listener.notifications.pop(0)
            if key in json.loads(payload)["keys"]:
                return
        kind, body = listener._receive()
        listener._handle_async(kind, body)


def lag(server: BenchServer, redis: Optional[Redis]) -> tuple[bool, dict[str, Any]]:
    """From the answer to COMMIT to the notice, with and without Redis, beside writers of other rows."""
    rows, figures, good = [], {}, True
    for name, url in (("embedded", ""), *((("Redis", redis.url),) if redis else ())):
        report.say(f"invalidation: lag, {name}")
        server.configure({"perf_opt.redis_url": url}, reload=True)
        server.sql(WATCH)
        server.sql("UPDATE balance SET version = version + 1 WHERE user_id = 1")
        time.sleep(3)
        load = pgbench(server, 60, 2)
        samples = []
        try:
            with server.connect() as listener, server.connect() as writer:
                listener.query("LISTEN perf_cache")
                for _ in range(LAG_SAMPLES):
                    user = random.randint(10_000, 2_000_000_000)
                    writer.query(f"INSERT INTO balance VALUES ({user}, 0) ON CONFLICT DO NOTHING")
                    began = time.perf_counter()
                    wait_for_key(listener, f"user:{user}")
                    samples.append((time.perf_counter() - began) * 1_000)
        finally:
            load.terminate()
            load.communicate()
        server.sql(UNWATCH)
        server.sql(f"DELETE FROM balance WHERE user_id > {USERS}")
        samples.sort()
        found = {"p50": samples[len(samples) // 2], "p99": samples[len(samples) * 99 // 100], "max": samples[-1]}
        good &= found["p99"] <= LAG_MS_MAX
        figures[name] = found
        rows.append([name, *(f"{value:.1f}" for value in found.values())])
    report.table(f"From the end of COMMIT to the notice, ms ({LAG_SAMPLES} commits beside 2 writers)", ["cache", "p50", "p99", "max"], rows,
                 [f"target, p99 at most {LAG_MS_MAX:.0f} ms: {report.verdict(good)}"])
    return good, figures


# -- nothing stale ---------------------------------------------------------------------------------------------


def write_forever(where: tuple, number: int, told: Any, stop: Synchronized) -> None:
    """One writer with rows of its own: counts a row up, and says so once its invalidation is told."""
    chance = random.Random(number)
    with Connection(*where) as writer, Connection(*where) as listener:
        listener.query("LISTEN perf_cache")
        while not stop.value:
            user = chance.randrange(USERS // WRITERS) * WRITERS + number + 1
            version = writer.query(f"UPDATE balance SET version = version + 1 WHERE user_id = {user} RETURNING version").scalar()
            wait_for_key(listener, f"user:{user}")
            told[user] = version


READ = """
SELECT u, acknowledged, (perf.cache_get('user:' || u))::text::bigint FROM unnest($1::int[], $2::bigint[]) AS t (u, acknowledged)"""
PUT = """SELECT perf.cache_put('user:' || user_id, to_jsonb(version), '1 hour') FROM balance WHERE user_id = ANY ($1::int[])"""


def read_embedded(where: tuple, number: int, told: Any, checked: Synchronized, hits: Synchronized, stale_reads: Synchronized) -> None:
    """Reads through the embedded cache, many keys in a statement, each checked."""
    chance = random.Random(1_000 + number)
    with Connection(*where) as session:
        while checked.value < CHECKED:
            # Before the statement begins: what was told by then counts.
            users = [chance.randint(1, USERS) for _ in range(AT_ONCE)]
            known = [told[user] for user in users]
            rows = session.execute(READ, (users, known)).rows
            missed = [user for user, _, value in rows if value is None]
            bad = sum(1 for _, least, value in rows if value is not None and value < least)
            with checked.get_lock():
                checked.value += len(rows)
                hits.value += len(rows) - len(missed)
                stale_reads.value += bad
            if missed:
                session.execute(PUT, (missed,))


def read_redis(where: tuple, port: int, number: int, told: Any, checked: Synchronized, hits: Synchronized,
               stale_reads: Synchronized) -> None:
    """Reads through Redis by the lease protocol of the README, many keys at once, each checked."""
    import socket
    chance = random.Random(2_000 + number)
    put = ("if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[1], ARGV[2], 'EX', 3600) "
           "return redis.call('DEL', KEYS[2])")
    with Connection(*where) as session, socket.create_connection(("127.0.0.1", port)) as client:
        reader = client.makefile("rb")

        def pipe(commands: list) -> list:
            client.sendall(b"".join(encode(command) for command in commands))
            return [decode(reader) for _ in commands]

        while checked.value < CHECKED:
            users = [chance.randint(1, USERS) for _ in range(AT_ONCE)]
            known = [told[user] for user in users]
            values = pipe([("GET", f"user:{user}") for user in users])
            bad = sum(1 for least, value in zip(known, values) if value is not None and int(value) < least)
            missed = sorted({user for user, value in zip(users, values) if value is None})
            with checked.get_lock():
                checked.value += len(users)
                hits.value += sum(value is not None for value in values)
                stale_reads.value += bad
            if missed:
                pipe([("SET", f"user:{user}:lease", f"{number}", "NX", "PX", 10_000) for user in missed])
                rows = session.execute("SELECT user_id, version FROM balance WHERE user_id = ANY ($1::int[])", (missed,)).rows
                pipe([("EVAL", put, 2, f"user:{user}", f"user:{user}:lease", f"{number}", version) for user, version in rows])


def stale(server: BenchServer, redis: Optional[Redis]) -> tuple[bool, dict[str, Any]]:
    """Both caches, one after the other."""
    rows, figures, good = [], {}, True
    where = (str(server.socket_dir), server.port)
    for name in ("embedded", *(("Redis",) if redis else ())):
        report.say(f"invalidation: {CHECKED} checked reads, {name}")
        server.configure({"perf_opt.redis_url": redis.url if redis and name == "Redis" else ""}, reload=True)
        server.sql(WATCH)
        told = multiprocessing.Array("q", USERS + 1, lock=False)
        for user, version in server.sql(f"SELECT user_id, version FROM balance WHERE user_id <= {USERS}"):
            told[user] = version
        checked, hits, stale_reads = (multiprocessing.Value("q", 0) for _ in range(3))
        stop = multiprocessing.Value("i", 0)
        writing = [multiprocessing.Process(target=write_forever, args=(where, number, told, stop)) for number in range(WRITERS)]
        shared = (told, checked, hits, stale_reads)
        reading = [multiprocessing.Process(target=read_embedded, args=(where, number, *shared)) if name == "embedded" else
                   multiprocessing.Process(target=read_redis, args=(where, redis.port, number, *shared)) for number in range(READERS)]
        before = server.scalar("SELECT sum(version) FROM balance")
        began = time.monotonic()
        for process in (*writing, *reading):
            process.start()
        for process in reading:
            process.join()
        seconds = time.monotonic() - began
        stop.value = 1
        for process in writing:
            process.join(20)
            process.kill()
        writes = server.scalar("SELECT sum(version) FROM balance") - before
        server.sql(UNWATCH)
        met = stale_reads.value == 0 and checked.value >= CHECKED and hits.value > checked.value // 10
        good &= met
        figures[name] = {"checked": checked.value, "hits": hits.value, "stale": stale_reads.value, "writes": int(writes), "s": seconds}
        rows.append([name, checked.value, f"{100 * hits.value / max(checked.value, 1):.0f} %", int(writes), stale_reads.value,
                     f"{seconds:.0f} s"])
    report.table(f"Reads beside {WRITERS} writers, checked against what was told before", ["cache", "reads", "hits", "writes", "stale", "time"],
                 rows, [f"target, none stale: {report.verdict(good)}"])
    return good, figures

"""Suite `autopilot`: wrong indexes and bad settings planted by hand, found and put back by autopilot's guard; and random runs of
harmless changes beside noise, of which none may be put back.

Each run has a server of its own: the shop of `e2e.guard_load` under load, history each second, a verdict after a hundred
executions. What is planted is undone after the second round of executions that says it does harm, or never.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Optional

from e2e.cluster import Cluster, wait_until
from e2e.guard_load import ANALYZE, TABLES, Load

from . import report

SETTINGS = {"autovacuum": "off", "work_mem": "16MB", "max_worker_processes": 24, "perf_opt.max_running_jobs": 8, "perf_opt.collect_interval": "1s",
            "perf_opt.verify_min_calls": 100, "perf_opt.autopilot": "advise", "perf_opt.autopilot_guard": "undo"}
DATABASE = "postgres"
WARM_TURNS = 1_500
FOUND_S = 120.0
RANDOM_S = 40.0
ROUNDS_MAX = 2

# What does harm, and how it is planted: SQL, and names of settings that ALTER SYSTEM changes.
PLANTED: tuple[tuple[str, list[str]], ...] = (
    ("index on a column that is updated in place", ["CREATE INDEX wrong ON accounts (balance)"]),
    ("an index on an expression of it", ["CREATE INDEX wrong ON accounts ((balance % 7), id)"]),
    ("three of them", [f"CREATE INDEX wrong_{at} ON accounts (balance, (id + {at}))" for at in range(3)]),
    ("random_page_cost = 1000", ["ALTER SYSTEM SET random_page_cost = 1000"]),
    ("work_mem = 64kB", ["ALTER SYSTEM SET work_mem = '64kB'"]),
    ("no index scans", ["ALTER SYSTEM SET enable_indexscan = off", "ALTER SYSTEM SET enable_bitmapscan = off",
                        "ALTER SYSTEM SET enable_indexonlyscan = off"]),
    ("nested loops only", ["ALTER SYSTEM SET enable_hashjoin = off", "ALTER SYSTEM SET enable_mergejoin = off"]),
    ("random_page_cost = 1000 of the database", [f"ALTER DATABASE {DATABASE} SET random_page_cost = 1000"]),
)

HARMLESS = (
    "ALTER SYSTEM SET cursor_tuple_fraction = 0.2", "ALTER SYSTEM SET seq_page_cost = 1.05",
    "ALTER SYSTEM SET random_page_cost = 1.1", "ALTER SYSTEM SET work_mem = '32MB'",
    "ALTER SYSTEM SET effective_cache_size = '1GB'", "ALTER SYSTEM SET default_statistics_target = 200",
    "ALTER SYSTEM SET enable_partitionwise_join = on", "ALTER SYSTEM SET jit = off",
    "ALTER SYSTEM SET max_parallel_workers_per_gather = 0", "ALTER SYSTEM SET from_collapse_limit = 12",
    "ALTER SYSTEM SET effective_io_concurrency = 4", f"ALTER DATABASE {DATABASE} SET join_collapse_limit = 10",
    "CREATE INDEX harmless_amount ON orders (amount)", "CREATE INDEX harmless_quantity ON items (quantity)",
    "CREATE INDEX harmless_branch ON accounts (branch)", "CREATE INDEX CONCURRENTLY harmless_note ON orders (note)",
)


class Run:
    """A server under load."""

    def __init__(self, pg_root: Path, stack: ExitStack, seed: int) -> None:
        self.stack, self.seed = stack, seed
        self.server = Cluster(pg_root, SETTINGS, name=f"bench autopilot {seed}")
        stack.callback(self.server.destroy)
        self.server.start()
        self.server.sql("CREATE EXTENSION perf_opt")
        self.server.sql(TABLES)
        self.server.sql(ANALYZE)
        self.load = self.more_load()
        self.warm()

    def more_load(self) -> Load:
        """One more client."""
        load = Load(self.server, DATABASE, seed=self.seed)
        load.start()
        self.stack.callback(load.stop)
        return load

    def warm(self) -> None:
        """Turns that are in the history, and two looks of the guard after them."""
        turns = self.load.turns + WARM_TURNS
        wait_until(lambda: self.load.problem or self.load.turns >= turns, 120, "the load")
        looked = "SELECT max(looked_at) FROM perf.guard_look"
        for _ in range(2):
            before = self.server.scalar(looked)
            wait_until(lambda: self.server.scalar(looked) != before, 60, "a look of the guard")

    def do(self, statements: list[str]) -> None:
        """Runs statements, and has the configuration read."""
        for sql in statements:
            self.server.sql(sql)
        self.server.sql("SELECT pg_reload_conf()")

    def changes(self) -> list[dict[str, Any]]:
        """What the guard has seen."""
        return self.server.result("SELECT recommendation_id, status, achieved_pct, message FROM perf.applied_changes "
                                  "ORDER BY change_id").dicts()

    def rounds(self) -> int:
        """Verdicts on what was undone until it was, of several the most: what is measured together with something else is judged
        anew once that is gone."""
        rows = self.server.sql(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM perf.audit v JOIN perf.audit u USING (change_id) "
            "WHERE v.action = 'verify' AND u.action = 'undo' AND v.audit_id > coalesce((SELECT max(o.audit_id) FROM perf.audit o "
            "WHERE o.action = 'undo' AND o.change_id <> u.change_id AND o.audit_id < u.audit_id), 0) GROUP BY change_id) AS each")
        return rows[0][0] or 0


def planted(pg_root: Path, number: int, name: str, statements: list[str]) -> dict[str, Any]:
    """Plants what does harm, and waits until it is put back."""
    with ExitStack() as stack:
        run = Run(pg_root, stack, number)
        run.do(statements)
        began, found_s, undone_s = time.monotonic(), None, None
        while time.monotonic() - began < FOUND_S and undone_s is None:
            changes = run.changes()
            statuses = {one["status"] for one in changes}
            if found_s is None and statuses & {"regressed", "undoing", "undone"}:
                found_s = time.monotonic() - began
            count = len(statements) if "CREATE INDEX" in statements[0] else 1
            if len(changes) == count and statuses == {"undone"}:
                undone_s = time.monotonic() - began
            time.sleep(0.2)
        return {"name": name, "found_s": found_s, "undone_s": undone_s, "rounds": run.rounds(), "changes": run.changes()}


def noise(run: Run, chance: random.Random) -> list[tuple[str, Callable[[], Any]]]:
    """What happens to a server besides."""
    def empty_the_cache() -> None:
        with run.server.connect() as session:
            session.query("CREATE TABLE IF NOT EXISTS junk AS SELECT g AS id, repeat('x', 400) AS note "
                          "FROM generate_series(1, 90000) g")
            session.query("CREATE UNIQUE INDEX IF NOT EXISTS junk_id ON junk (id)")
            session.query("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
            session.query("SELECT sum(length(note)) FROM (SELECT note FROM junk ORDER BY id) AS by_key")

    def stay_open() -> None:
        with run.server.connect() as session:
            session.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM items")
            time.sleep(chance.uniform(1, 4))
            session.query("COMMIT")

    def grow(table: str, columns: str) -> Callable[[], Any]:
        return lambda: run.server.sql(f"INSERT INTO {table} SELECT (SELECT max(id) FROM {table}) + g, {columns} "
                                      f"FROM generate_series(1, {chance.randint(5_000, 40_000)}) g")

    return [("twice the load", run.more_load), ("a cold cache", empty_the_cache), ("a transaction that stays open", stay_open),
            ("VACUUM", lambda: run.server.sql("VACUUM accounts")), ("ANALYZE", lambda: run.server.sql("ANALYZE")),
            ("orders grow", grow("orders", "g % 5000, g % 97, repeat('y', 80)")),
            ("items grow", grow("items", "g % 40000, g % 13")), ("CHECKPOINT", lambda: run.server.sql("CHECKPOINT"))]


def harmless(pg_root: Path, seed: int) -> dict[str, Any]:
    """A random run: harmless changes beside noise. What was put back of it is wrongful."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        run = Run(pg_root, stack, seed)
        told: list[str] = []
        events: list[tuple[float, str, Optional[Callable[[], Any]]]] = []
        for sql in chance.sample(HARMLESS, chance.randint(1, 4)):
            events.append((chance.uniform(0, 8), sql, None))
        for name, act in chance.sample(noise(run, chance), chance.randint(1, 4)):
            events.append((chance.uniform(0, 16), name, act))
        began = time.monotonic()
        for at, name, act in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, at - (time.monotonic() - began)))
            told.append(name)
            if act is None:
                run.do([name])
            else:
                act()
        # Beyond the last verdict there are looks of autopilot, which would take back.
        time.sleep(max(0.0, RANDOM_S - (time.monotonic() - began)))
        wait_until(lambda: all(one["status"] != "applied" for one in run.changes()) or time.monotonic() - began > 3 * RANDOM_S,
                   4 * RANDOM_S, "the verdicts")
        undone = run.server.scalar("SELECT count(*) FROM perf.audit WHERE action IN ('undo', 'undone')")
        suspected = run.server.scalar("SELECT count(*) FROM perf.audit WHERE action = 'verify' AND outcome = 'regressed'")
        return {"seed": seed, "events": told, "changes": run.changes(), "undone": undone, "suspected": suspected}


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether all that was planted was put back in time, and nothing else."""
    first = options.seed if options.seed is not None else 1
    rows = []
    for number, (name, statements) in enumerate(PLANTED):
        report.say(f"autopilot: {name}")
        rows.append(planted(pg_root, number, name, statements))
    seconds = lambda value: "never" if value is None else f"{value:.0f} s"  # noqa: E731
    found = all(row["undone_s"] is not None and row["rounds"] <= ROUNDS_MAX for row in rows)
    report.table("Planted by hand: until it was found, until it was put back", ["planted", "found", "put back", "rounds"],
                 [[row["name"], seconds(row["found_s"]), seconds(row["undone_s"]), row["rounds"]] for row in rows],
                 [f"target, put back within {ROUNDS_MAX} verification rounds: {report.verdict(found)}"])
    runs = []
    for seed in range(first, first + options.runs):
        report.say(f"autopilot: random run {seed}")
        runs.append(harmless(pg_root, seed))
    changes = [one for row in runs for one in row["changes"]]
    wrongful = sum(row["undone"] for row in runs)
    verdicts = {status: sum(one["status"] == status for one in changes)
                for status in ("verified", "no_gain", "applied", "regressed", "undone")}
    report.table(f"{len(runs)} random runs of harmless changes beside noise",
                 ["runs", "changes", *verdicts, "suspected for a round", "put back wrongly"],
                 [[len(runs), len(changes), *verdicts.values(), sum(row["suspected"] for row in runs), wrongful]],
                 [f"target, nothing put back: {report.verdict(wrongful == 0)}"])
    met = found and wrongful == 0
    report.save("autopilot", {"planted": rows, "random": runs, "met": met})
    return met

"""Workloads run on a server, which captures them and advises; then replayed into four databases split by the key.

The replay does not ask the advice. A statement counts for one shard when it gives there what it gives on the whole data:
the shard of the value that carries the key. A transaction counts when all of its statements are of one value.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import AbstractSet, Any, Optional

from e2e.cluster import Cluster, Connection

from . import report

SHARDS = 4
USERS = 400
ROWS = 4000
TRANSACTIONS = 1500
CARRIERS = ("public.users.id", "public.orders.user_id", "public.payments.user_id")
SCHEMA = [
    "CREATE TABLE countries (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE users (id bigint PRIMARY KEY, country_id int NOT NULL, name text NOT NULL)",
    "CREATE TABLE orders (id bigint NOT NULL, user_id bigint NOT NULL, day int NOT NULL, total int NOT NULL, "
    "PRIMARY KEY (user_id, id))",
    "CREATE TABLE payments (id bigint NOT NULL, user_id bigint NOT NULL, order_id bigint NOT NULL, day int NOT NULL, "
    "PRIMARY KEY (user_id, id))",
]
KEYS = [
    "ALTER TABLE users ADD FOREIGN KEY (country_id) REFERENCES countries",
    "ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users",
    "ALTER TABLE payments ADD FOREIGN KEY (user_id, order_id) REFERENCES orders (user_id, id)",
]


@dataclass(frozen=True)
class Kind:
    """A kind of transaction: statements with the parameters that each gets, by name."""

    weight: float
    steps: tuple[tuple[str, tuple[str, ...]], ...]


OF_USER = (
    Kind(4, (("SELECT * FROM orders WHERE user_id = $1", ("user",)),)),
    Kind(2, (("SELECT u.name, sum(o.total) FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = $1 GROUP BY u.name",
              ("user",)),)),
    Kind(2, (("SELECT * FROM users u JOIN countries c ON c.id = u.country_id WHERE u.id = $1", ("user",)),
             ("SELECT o.id FROM orders o LEFT JOIN payments p USING (user_id, id) WHERE o.user_id = $1 AND p.id IS NULL",
              ("user",)),
             ("UPDATE orders SET total = total + 1 WHERE user_id = $1 AND day = $2", ("user", "day")))),
    Kind(1, (("SELECT * FROM countries WHERE id = $1", ("country",)),)),
    Kind(1, (("WITH mine AS (SELECT * FROM payments WHERE user_id = $1) SELECT count(*) FROM mine JOIN orders o "
              "ON o.user_id = mine.user_id AND o.id = mine.order_id", ("user",)),)),
)
BY_DAY = Kind(1, (("SELECT user_id, count(*) FROM orders WHERE day = $1 GROUP BY user_id ORDER BY 2 DESC, 1", ("day",)),))
OF_TWO = Kind(1, (("UPDATE users SET name = 'x' WHERE id = $1", ("user",)), ("SELECT * FROM orders WHERE user_id = $1",
                                                                             ("other",))))


def mixed(share: float, *kinds: Kind) -> tuple[Kind, ...]:
    """What is of one user, and so much of the rest."""
    whole = sum(kind.weight for kind in OF_USER)
    return OF_USER + tuple(Kind(whole * share / (1 - share) / len(kinds), kind.steps) for kind in kinds)


# By name: kinds, whether there are foreign keys, and whether the key is good enough.
CASES = {
    "of one user": (OF_USER, True, True),
    "no foreign keys": (OF_USER, False, True),
    "a few reports and transfers": (mixed(0.06, BY_DAY, OF_TWO), True, True),
    "don't: reports": (mixed(0.35, BY_DAY), True, False),
    "don't: transfers": (mixed(0.3, OF_TWO), False, False),
}


def home(user: int) -> int:
    """The shard of a user."""
    return zlib.crc32(str(user).encode()) % SHARDS


def drawn(kinds: tuple[Kind, ...], seed: int) -> list[list[tuple[str, tuple[int, ...], Optional[int]]]]:
    """Transactions: of each statement the text, its values, and the user that carries the key."""
    chance = random.Random(seed)
    found = []
    for kind in chance.choices(kinds, [kind.weight for kind in kinds], k=TRANSACTIONS):
        values = {"user": chance.randrange(USERS), "other": chance.randrange(USERS), "day": chance.randrange(30),
                  "country": chance.randrange(20)}
        owner = {"user": values["user"], "other": values["other"]}
        found.append([(text, tuple(values[name] for name in names), next((owner[n] for n in names if n in owner), None))
                      for text, names in kind.steps])
    return found


def load(cluster: Cluster, name: str, shard: Optional[int], keys: bool, split: AbstractSet[str] = frozenset()) -> None:
    """A database with all rows, or with those of one shard of the tables that are split."""
    cluster.sql(f"CREATE DATABASE {name}")
    chance = random.Random(7)
    rows: dict[str, list[tuple[int, ...]]] = {
        "countries": [(n,) for n in range(20)], "users": [(n, n % 20) for n in range(USERS)],
        "orders": [(n, chance.randrange(USERS), n % 30, n % 7) for n in range(ROWS)]}
    rows["payments"] = [(order[0], order[1], order[0], order[2]) for order in rows["orders"][::2]]
    owner = {"users": 0, "orders": 1, "payments": 1}
    with cluster.connect(name) as session:
        for statement in SCHEMA:
            session.query(statement)
        for table, all_rows in rows.items():
            kept = [row for row in all_rows if shard is None or table not in split or home(row[owner[table]]) == shard]
            text = ", 'x'" if table in ("countries", "users") else ""
            for at in range(0, len(kept), 1000):
                values = ", ".join(f"({', '.join(map(str, row))}{text})" for row in kept[at:at + 1000])
                session.query(f"INSERT INTO {table} VALUES {values}")
        for statement in KEYS if keys else []:
            session.query(statement)
        session.query("ANALYZE")


def answer(session: Connection, text: str, values: tuple[int, ...]) -> Any:
    """What a statement gives: its rows in any order, and how many it touched."""
    result = session.execute(text, values)
    return sorted(map(repr, result.rows)), result.tag


def replay(cluster: Cluster, transactions: list[Any], split: AbstractSet[str]) -> float:
    """Share of transactions of one value that its shard answers as the whole does, in percent. What is not split is copied,
    and writing it is the business of all shards."""
    sessions = []
    for number in range(SHARDS):
        load(cluster, f"shard{number}", number, False, split)
        sessions.append(cluster.connect(f"shard{number}"))
    # Not the database that was captured: its rows have changed since.
    load(cluster, "whole", None, False)
    whole = cluster.connect("whole")
    single = 0
    try:
        for steps in transactions:
            for session in (whole, *sessions):
                session.query("BEGIN")
            owners = {owner for text, _, owner in steps if any(table in text for table in split)}
            shards = {home(owner) for owner in owners if owner is not None} or {0}
            same = len(owners) <= 1 and not any(
                text.startswith("UPDATE") and text.split()[1] not in split for text, _, _ in steps)
            for text, values, _ in steps:
                same = same and answer(whole, text, values) == answer(sessions[min(shards)], text, values)
            single += same
            for session in (whole, *sessions):
                session.query("ROLLBACK")
    finally:
        for session in (whole, *sessions):
            session.close()
        for name in ("whole", *(f"shard{number}" for number in range(SHARDS))):
            cluster.sql(f"DROP DATABASE {name} WITH (FORCE)")
    return 100 * single / len(transactions)


def run(pg_root: Path, points_max: float) -> tuple[list[dict[str, Any]], bool]:
    """All cases; what was found, and whether it is right."""
    report.say(f"sharding: {len(CASES)} workloads captured on a server and replayed into {SHARDS} databases")
    found = []
    with Cluster(pg_root, {"perf_opt.collector": "off", "perf_opt.transaction_samples": 10_000}, name="sharding") as cluster:
        for number, (name, (kinds, keys, good)) in enumerate(CASES.items()):
            load(cluster, "app", None, keys)
            cluster.sql("CREATE EXTENSION perf_opt", dbname="app")
            cluster.sql("SELECT perf.reset()", dbname="app")
            with cluster.connect("app") as session:
                for steps in drawn(kinds, 100 + number):
                    session.query("BEGIN")
                    for text, values, _ in steps:
                        session.execute(text, values)
                    session.query("COMMIT")
            rows = cluster.result("SELECT * FROM perf.sharding_advice($1)", (SHARDS,), dbname="app").dicts()
            # The key: that by which orders are split; a small table may be copied instead.
            best = next((row for row in rows if "public.orders" in row["colocated_tables"]
                         and row["candidate_key"] in CARRIERS), rows[0])
            right = (best is rows[0] or not good) and (best["single_shard_pct"] >= 90) == good
            split = frozenset(table.removeprefix("public.") for table in best["colocated_tables"])
            replayed = replay(cluster, drawn(kinds, 200 + number), split)
            predicted = best["single_shard_pct"]
            near = abs(predicted - replayed) <= points_max
            found.append({"case": name, "right": right, "predicted_pct": predicted, "replayed_pct": replayed, "near": near,
                          "key": best["candidate_key"], "verdict": rows[0]["verdict"]})
            cluster.sql("DROP DATABASE app WITH (FORCE)")
    rounded = [[row["case"], row["verdict"], row["key"], f"{row['predicted_pct']:.1f}",
                f"{row['replayed_pct']:.1f}", report.verdict(row["right"] and row["near"])] for row in found]
    report.table("Advice by a server, and the replay into databases", ["case", "verdict", "key", "predicted, %",
                                                                       "replayed, %", "right and within 2 points"], rounded)
    return found, all(row["right"] and row["near"] for row in found)

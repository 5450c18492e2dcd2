"""A small shop under load: tables with readers and writers, and a thread that executes their statements in turn.

Used by the tests and the benchmark of autopilot's guard.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Callable, Optional, Sequence

from .cluster import Cluster

# Accounts are updated in place while no index has their balance; orders are found by an index.
TABLES = """
CREATE TABLE accounts (id int PRIMARY KEY, branch int NOT NULL, balance int NOT NULL, note text) WITH (fillfactor = 70);
INSERT INTO accounts SELECT g, g % 50, 0, repeat('x', 60) FROM generate_series(1, 10000) g;
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, amount int NOT NULL, note text);
INSERT INTO orders SELECT g, (g * 7919) % 5000, g % 97, repeat('x', 80) FROM generate_series(1, 40000) g;
CREATE INDEX orders_customer ON orders (customer);
CREATE TABLE items (id int PRIMARY KEY, order_id int NOT NULL, quantity int NOT NULL);
INSERT INTO items SELECT g, g % 40000, g % 13 FROM generate_series(1, 20000) g;
CREATE INDEX items_order ON items (order_id);
CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, page int NOT NULL, at timestamptz DEFAULT now());
INSERT INTO visits (page) SELECT g % 100 FROM generate_series(1, 2000) g;
"""
ANALYZE = "VACUUM ANALYZE accounts, orders, items, visits"

Values = Callable[[random.Random], tuple]
# A statement, its values, and in how many of a hundred turns it is executed.
STATEMENTS: Sequence[tuple[str, Values, int]] = (
    ("UPDATE accounts SET balance = balance + 1 WHERE id = $1::int", lambda r: (r.randint(1, 10_000),), 100),
    ("SELECT balance FROM accounts WHERE id = $1::int", lambda r: (r.randint(1, 10_000),), 100),
    ("SELECT note FROM orders WHERE customer = $1::int", lambda r: (r.randint(0, 4_999),), 100),
    ("SELECT amount FROM orders WHERE id = $1::int", lambda r: (r.randint(1, 40_000),), 100),
    ("SELECT sum(i.quantity) FROM orders o JOIN items i ON i.order_id = o.id WHERE o.customer = $1::int",
     lambda r: (r.randint(0, 4_999),), 60),
    ("SELECT quantity FROM items WHERE id = $1::int", lambda r: (r.randint(1, 20_000),), 100),
    ("SELECT count(*) FROM (SELECT note FROM orders WHERE id <= 15000 ORDER BY amount, id OFFSET 0) AS sorted", lambda r: (), 5),
    ("SELECT count(*) FROM (SELECT order_id, sum(quantity) FROM items GROUP BY order_id OFFSET 0) AS grouped", lambda r: (), 5),
    ("SELECT count(*) FROM orders o JOIN items i ON i.order_id = o.id WHERE o.amount < $1::int", lambda r: (r.randint(40, 60),), 5),
    ("INSERT INTO visits (page) VALUES ($1::int)", lambda r: (r.randint(0, 99),), 60),
    ("SELECT at FROM visits WHERE id = $1::bigint", lambda r: (r.randint(1, 2_000),), 60),
)


class Load(threading.Thread):
    """Executes statements until it is stopped. Sessions are renewed now and then, as those of a pool are."""

    def __init__(self, cluster: Cluster, database: str, *, user: str = "postgres", seed: int = 1,
                 statements: Sequence[tuple[str, Values, int]] = STATEMENTS, renew_s: float = 2.0,
                 pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.cluster, self.database, self.user = cluster, database, user
        self.random = random.Random(seed)
        self.statements, self.renew_s, self.pause_s = statements, renew_s, pause_s
        self.turns = 0
        self.problem: Optional[BaseException] = None
        self._ends = threading.Event()

    def run(self) -> None:
        try:
            while not self._ends.is_set():
                self._session()
        except BaseException as problem:  # told by stop()
            self.problem = problem

    def _session(self) -> None:
        until = time.monotonic() + self.renew_s
        with self.cluster.connect(self.database, user=self.user) as session:
            while not self._ends.is_set() and time.monotonic() < until:
                for text, values, share in self.statements:
                    if self.random.randrange(100) < share:
                        session.execute(text, values(self.random))
                self.turns += 1
                if self.pause_s:
                    self._ends.wait(self.pause_s)

    def stop(self) -> None:
        """Ends it; raises what has ended it before."""
        self._ends.set()
        self.join(30)
        if self.problem is not None:
            raise self.problem

    def __enter__(self) -> "Load":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

"""The transactions that overhead is measured with. Each is the same sequence in every server: seeds are fixed."""

from __future__ import annotations

import random
from typing import Callable, Iterator

from e2e.cluster import Connection

ACCOUNTS = 100_000
HOT_TEXTS = 1_000
OPERATORS = "+-*"
COLUMNS = ("aid", "bid", "abalance")
TERMS = 7
# Accounts that writes leave alone: their balance is 0, so that no expression of `distinct_text` overflows.
UNTOUCHED = 17


class Workload:
    """A kind of transaction. `connect` is called once in each session, `run` for each transaction.

    `jumbles` says whether statements are parsed each time, so that the core's query jumbling alone is worth measuring;
    `warmup` and `transactions` are how many are run before and between two marks under callgrind.
    """

    name = ""
    title = ""
    jumbles = False
    warmup = 100
    transactions = 1000

    def connect(self, session: Connection) -> Callable[[], None]:
        """Prepares a session; the function that runs its next transaction."""
        raise NotImplementedError

    @staticmethod
    def random() -> random.Random:
        """The same numbers for every server."""
        return random.Random(20_260_301)


class SelectOne(Workload):
    """`SELECT 1`, prepared: the least a statement can be."""

    name, title = "select1", "prepared SELECT 1"
    transactions = 2000

    def connect(self, session: Connection) -> Callable[[], None]:
        session.prepare("one", "SELECT 1")
        return lambda: void(session.execute_prepared("one"))


class SelectPrepared(Workload):
    """What `pgbench -S -M prepared` sends."""

    name, title = "read", "pgbench -S prepared"

    def connect(self, session: Connection) -> Callable[[], None]:
        session.prepare("read", "SELECT abalance FROM pgbench_accounts WHERE aid = $1")
        numbers = self.random()
        return lambda: void(session.execute_prepared("read", [numbers.randint(1, ACCOUNTS)]))


class SelectSimple(Workload):
    """What `pgbench -S` sends."""

    name, title, jumbles = "simple", "simple protocol", True

    def connect(self, session: Connection) -> Callable[[], None]:
        numbers = self.random()
        return lambda: void(session.query(
            f"SELECT abalance FROM pgbench_accounts WHERE aid = {numbers.randint(1, ACCOUNTS)};"))


class Churn(Workload):
    """Four of five statements are among a thousand that keep coming; every fifth has never been seen before.

    The warm-up fills the 5,000 entries that both extensions keep by default, so that each new text evicts another.
    """

    name, title, jumbles = "churn", "churn (80 % of 1,000 hot, 20 % new)", True
    warmup = 8_000
    transactions = 3_000

    def connect(self, session: Connection) -> Callable[[], None]:
        texts = self.texts()
        return lambda: void(session.query(next(texts)))

    def texts(self) -> Iterator[str]:
        """All hot texts and as many new ones as fill the table first, then the mixture without an end."""
        numbers = self.random()
        yield from map(distinct_text, range(self.warmup - HOT_TEXTS))
        yield from map(distinct_text, range(HOT_TEXTS))
        new = self.warmup - HOT_TEXTS
        while True:
            if numbers.random() < 0.8:
                yield distinct_text(numbers.randrange(HOT_TEXTS))
            else:
                yield distinct_text(new)
                new += 1


class Write(Workload):
    """The seven statements of pgbench's default transaction, prepared."""

    name, title = "write", "7-statement write transaction"
    warmup = 300
    transactions = 500
    STATEMENTS = {
        "begin": "BEGIN",
        "account": "UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
        "balance": "SELECT abalance FROM pgbench_accounts WHERE aid = $1",
        "teller": "UPDATE pgbench_tellers SET tbalance = tbalance + $1 WHERE tid = $2",
        "branch": "UPDATE pgbench_branches SET bbalance = bbalance + $1 WHERE bid = $2",
        "history": "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)"
                   " VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
        "end": "END",
    }

    def connect(self, session: Connection) -> Callable[[], None]:
        for name, text in self.STATEMENTS.items():
            session.prepare(name, text)
        numbers = self.random()

        def run() -> None:
            aid, tid, bid = numbers.randint(UNTOUCHED + 1, ACCOUNTS), numbers.randint(1, 10), 1
            delta = numbers.randint(-5000, 5000)
            session.execute_prepared("begin")
            session.execute_prepared("account", [delta, aid])
            session.execute_prepared("balance", [aid])
            session.execute_prepared("teller", [delta, tid])
            session.execute_prepared("branch", [delta, bid])
            session.execute_prepared("history", [tid, bid, aid, delta])
            session.execute_prepared("end")

        return run


WORKLOADS = (SelectOne(), SelectPrepared(), SelectSimple(), Churn(), Write())


def distinct_text(number: int) -> str:
    """A statement whose structure, and so whose queryid, no other number has."""
    expression, digits = "abalance", number
    for _ in range(TERMS):
        digits, choice = divmod(digits, len(OPERATORS) * len(COLUMNS))
        operator, column = divmod(choice, len(COLUMNS))
        expression += f" {OPERATORS[operator]} {COLUMNS[column]}"
    return f"SELECT {expression} FROM pgbench_accounts WHERE aid = {number % UNTOUCHED + 1}"


def void(_: object) -> None:
    """Forgets a result."""

"""`CaptureTest`: what the tests of capture share. A database with the extension, and looking rows of statements() up."""

from __future__ import annotations

import re
import threading
from typing import Any, Callable, Optional

from .case import ClusterTest
from .cluster import Cluster, Connection, ConnectionLost, SqlError

COLUMNS = ("database, username, queryid, toplevel, query, calls, failures, rows, total_ms, mean_ms, min_ms, max_ms, "
           "stddev_ms, p50_ms, p95_ms, p99_ms, plans, planning_total_ms, shared_blks_hit, shared_blks_read, "
           "wal_records, wal_bytes, last_sqlstate")
# What a server says when a lock, a pin, a memory context or a portal was left behind, or when capture panicked.
LEAKS = re.compile(r"^.*(?:leak|not closed|not owned by|still referenced|refcount|panicked|stuck|lock .* is not held|"
                   r"cannot abort transaction|AbortTransaction while).*$", re.MULTILINE)


class CaptureTest(ClusterTest):
    """Each test begins with empty statistics in `self.db`, a database that all tests of a server share."""

    # Below ERROR nothing reaches the hook that sees what parsing refuses.
    settings = {"log_min_messages": "warning", "max_prepared_transactions": 5}

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(self._check_leaks)
        self.db = database_of(self.cluster)
        self.reset()

    def _check_leaks(self) -> None:
        for cluster, mark in self.clusters:
            if not cluster.log_path.exists():
                continue
            with cluster.log_path.open("rb") as log:
                log.seek(mark)
                found = LEAKS.search(log.read().decode(errors="replace"))
            if found:
                self.fail(f"the server {cluster.name} logged: {found.group(0)}")

    def reset(self) -> None:
        """Forgets what all databases have counted."""
        self.cluster.sql("SELECT perf.reset()", dbname=self.db)

    def session(self, user: str = "postgres", **options: Any) -> Connection:
        """A session in the test's database that ends with the test."""
        session = self.cluster.connect(self.db, user, **options)
        self.addCleanup(session.close)
        return session

    def run_sql(self, *statements: str) -> None:
        """Runs statements, each in a message of its own, in one session that is closed afterwards."""
        with self.cluster.connect(self.db) as session:
            for statement in statements:
                session.query(statement)

    def statements(self, cluster: Optional[Cluster] = None, everywhere: bool = False) -> list[dict[str, Any]]:
        """All rows of statements()."""
        server = cluster or self.cluster
        return server.result(f"SELECT {COLUMNS} FROM perf.statements({str(everywhere).lower()})",
                             dbname=database_of(server)).dicts()

    def rows_of(self, query: str, toplevel: Optional[bool] = None, **options: Any) -> list[dict[str, Any]]:
        """The rows of a statement, by its text."""
        return [row for row in self.statements(**options)
                if row["query"] == query and (toplevel is None or row["toplevel"] == toplevel)]

    def row(self, query: str, toplevel: Optional[bool] = None) -> dict[str, Any]:
        """The only row of a statement, by its text; anything else is a failure."""
        found = self.rows_of(query, toplevel)
        if len(found) != 1:
            listing = "\n".join(f"  {row['toplevel']} {row['calls']} {row['query']}" for row in self.statements())
            self.fail(f"{len(found)} rows of {query!r}, wanted one; there are:\n{listing}")
        return found[0]

    def assert_row(self, query: str, calls: int, rows: Optional[int] = None, *, failures: int = 0,
                   sqlstate: Optional[str] = None, toplevel: bool = True) -> dict[str, Any]:
        """Checks the one row of a statement, exactly."""
        row = self.row(query, toplevel)
        got = (row["calls"], row["failures"], row["last_sqlstate"])
        self.assertEqual(got, (calls, failures, sqlstate), f"calls, failures, sqlstate of {query!r}")
        if rows is not None:
            self.assertEqual(row["rows"], rows, f"rows of {query!r}")
        self.assertLessEqual(row["min_ms"], row["max_ms"])
        self.assertLessEqual(row["max_ms"], row["total_ms"] * 1.000001 + 1e-9)
        return row

    def assert_absent(self, query: str, toplevel: Optional[bool] = None) -> None:
        """Checks that a statement has no row."""
        self.assertEqual(self.rows_of(query, toplevel), [])

    def nothing_evicted(self) -> None:
        """Checks that no execution was added to an (other) row. Plannings may be: PL/pgSQL plans expressions that it
        evaluates without an executor."""
        self.assertEqual([row for row in self.rows_of("(other)") if row["calls"] or row["failures"]], [])

    def fails(self, sqlstate: str, run: Callable[..., Any], *arguments: Any) -> SqlError:
        """Runs something that must fail with an SQLSTATE."""
        with self.assertRaises(SqlError) as caught:
            run(*arguments)
        self.assertEqual(caught.exception.sqlstate, sqlstate, str(caught.exception))
        return caught.exception

    def sleeping(self, session: Connection) -> None:
        """Waits until a session executes (or waits in) a statement."""
        self.wait_for_backend(session, "state = 'active' AND wait_event IN ('PgSleep', 'transactionid', 'advisory', "
                                       "'relation', 'tuple')")

    def wait_for_backend(self, session: Connection, condition: str) -> None:
        """Waits until the session's row in pg_stat_activity meets a condition."""
        sql = f"SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND {condition}"
        self.wait_until(lambda: self.cluster.sql(sql, (session.pid,)), 10, f"{condition} of a session")

    def gone(self, session: Connection) -> None:
        """Waits until a session's backend has left."""
        self.wait_until(lambda: not self.cluster.sql("SELECT 1 FROM pg_stat_activity WHERE pid = $1", (session.pid,)),
                        10, "a backend to leave")


def database_of(cluster: Cluster) -> str:
    """The database of a server in which capture is tested, made by the first who asks."""
    name = getattr(cluster, "capture_database", None)
    if name is None:
        name = "capture"
        if not cluster.sql("SELECT 1 FROM pg_database WHERE datname = $1", (name,)):
            cluster.sql(f"CREATE DATABASE {name}")
            cluster.sql("CREATE EXTENSION perf_opt", dbname=name)
        cluster.capture_database = name  # type: ignore[attr-defined]
    return name


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs `work(0)` to `work(count - 1)` at once and raises the first error."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as problem:  # noqa: B902  (handed on below)
            errors.append(problem)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def ends_badly(run: Callable[..., Any], *arguments: Any) -> str:
    """Runs something that ends in an error or a lost connection; the SQLSTATE, or '' when the socket just closed."""
    try:
        run(*arguments)
    except SqlError as problem:
        return problem.sqlstate
    except ConnectionLost:
        return ""
    raise AssertionError("it did not fail")

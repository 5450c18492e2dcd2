"""`ClusterTest`: the base class of e2e tests. A module's tests share one server; a test may ask for one of its own."""

from __future__ import annotations

import re
import unittest
from pathlib import Path
from typing import Any, Mapping, Optional

from .cluster import Cluster, SqlError
from .system import HarnessError, wait_until

# What a server logs when something is badly wrong with it, whatever the test thinks of the result.
CRASH = re.compile(r"^.*(?:was terminated by signal|PANIC: |TRAP: |terminating any other active server).*$", re.MULTILINE)

_pg_root: Optional[Path] = None
_shared: dict[tuple, Cluster] = {}
_databases = 0


def use_installation(pg_root: Path) -> None:
    """Tells all tests of this run which installation they test. Called once, by the runner."""
    global _pg_root
    _pg_root = pg_root


def pg_root() -> Path:
    """The installation under test."""
    if _pg_root is None:
        raise HarnessError("no installation chosen: run the tests with tests/e2e/run.py")
    return _pg_root


def shared_cluster(module: str, settings: Mapping[str, Any]) -> Cluster:
    """The server that all tests of one module with the same settings share."""
    key = (module, repr(sorted(settings.items())))
    if key not in _shared:
        _shared[key] = Cluster(pg_root(), settings, name=module.rpartition(".")[2]).start()
    return _shared[key]


def forget_shared_clusters() -> None:
    """Destroys the shared servers: called by the runner when a module is done."""
    while _shared:
        _shared.popitem()[1].destroy()


class ClusterTest(unittest.TestCase):
    """A test with a server.

    `settings` are those of the shared server (`self.cluster`), started when a test first asks for it. A test that kills
    server processes says `expects_crash = True`, in the class or on itself; in any other test a crash that the server
    logged is a failure. `time_limit` bounds one test, in seconds.
    """

    settings: Mapping[str, Any] = {}
    expects_crash = False
    time_limit = 120.0
    maxDiff = None

    def setUp(self) -> None:
        self.clusters: list[tuple[Cluster, int]] = []
        self.addCleanup(self._check_logs)

    @property
    def cluster(self) -> Cluster:
        """The module's shared server, running."""
        cluster = shared_cluster(type(self).__module__, self.settings)
        if all(cluster is not watched for watched, _ in self.clusters):
            self.clusters.append((cluster, cluster.log_mark()))
        if not cluster.running:
            cluster.start()
        return cluster

    def private_cluster(self, settings: Optional[Mapping[str, Any]] = None, start: bool = True,
                        **options: Any) -> Cluster:
        """A server for this test alone, destroyed after it. `options` as for `Cluster`."""
        cluster = Cluster(pg_root(), settings, **{"name": self.id().rpartition(".")[2], **options})
        self.addCleanup(cluster.destroy)
        self.addCleanup(self._check_logs)  # cleanups run last to first: while the log is still there
        self.clusters.append((cluster, 0))
        return cluster.start() if start else cluster

    def fresh_database(self, cluster: Optional[Cluster] = None, extension: bool = True) -> str:
        """The name of a new database on a server (the shared one by default), with the extension unless told not."""
        global _databases
        _databases += 1
        server = cluster or self.cluster
        name = f"test_{_databases}"
        # Copying files writes no page to the WAL: a third of the work, which the tests do hundreds of times.
        server.sql(f"CREATE DATABASE {name} STRATEGY file_copy")
        self.addCleanup(self._drop_database, server, name)
        if extension:
            server.sql("CREATE EXTENSION perf_opt", dbname=name)
        return name

    @staticmethod
    def _drop_database(server: Cluster, name: str) -> None:
        if server.running:
            server.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def assert_sql_error(self, sqlstate: str, cluster: Cluster, sql: str, params: tuple = (),
                         dbname: str = "postgres", user: str = "postgres") -> SqlError:
        """Runs SQL that must fail with one SQLSTATE (a class when two characters); the error, to look at further."""
        with self.assertRaises(SqlError) as caught:
            cluster.sql(sql, params, dbname=dbname, user=user)
        self.assertTrue(caught.exception.sqlstate.startswith(sqlstate), str(caught.exception))
        return caught.exception

    def wait_until(self, predicate: Any, timeout: float = 10.0, what: str = "the condition") -> Any:
        """Polls with a deadline; see `system.wait_until`."""
        return wait_until(predicate, timeout, what)

    def log_tails(self) -> str:
        """The end of the log of each server this test used."""
        tails = [f"--- end of the log of {cluster.name}:\n{cluster.log_tail(25)}" for cluster, _ in self.clusters
                 if cluster.log_path.exists()]
        return "\n".join(tails)

    def _check_logs(self) -> None:
        expected = self.expects_crash or getattr(getattr(self, self._testMethodName), "expects_crash", False)
        if expected:
            return
        for cluster, mark in self.clusters:
            if not cluster.log_path.exists():
                continue
            with cluster.log_path.open("rb") as log:
                log.seek(mark)
                crash = CRASH.search(log.read().decode(errors="replace"))
            if crash:
                self.fail(f"the server {cluster.name} crashed: {crash.group(0)}")


def expects_crash(test: Any) -> Any:
    """Marks one test that makes the server crash on purpose."""
    test.expects_crash = True
    return test

"""The servers of the suite: perf_opt alone, and pg_partman alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Mapping, Union

from e2e.cluster import Cluster
from e2e.neighbours import provide

SETTINGS: Mapping[str, Any] = {"max_worker_processes": 24, "max_connections": 60, "shared_buffers": "256MB",
                               "autovacuum_naptime": "1min", "log_min_messages": "error", "max_locks_per_transaction": 1024}


def perf_opt_server(pg_root: Path) -> Cluster:
    """A running server with perf_opt alone."""
    return started(Cluster(pg_root, SETTINGS, name="bench perf_opt"), "CREATE EXTENSION perf_opt")


def pg_partman_server(pg_root: Path) -> Union[Cluster, str]:
    """A running server with pg_partman alone; else why there is none."""
    absent = provide(pg_root, major_of(pg_root), "pg_partman")
    if absent:
        return absent
    server = Cluster(pg_root, {**SETTINGS, "shared_preload_libraries": ""}, name="bench pg_partman")
    return started(server, "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman")


def started(server: Cluster, prepare: str) -> Cluster:
    """The server, started and prepared."""
    try:
        server.start()
        server.sql(prepare)
    except BaseException:
        server.destroy()
        raise
    return server


def major_of(pg_root: Path) -> int:
    """The server's major version."""
    text = subprocess.run([pg_root / "bin" / "pg_config", "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.split()[1].partition(".")[0])


def version_of(server: Cluster, extension: str) -> str:
    """For titles."""
    return server.scalar("SELECT extversion FROM pg_extension WHERE extname = $1", (extension,))

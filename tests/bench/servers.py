"""The servers that a benchmark compares: the same data and settings, another library preloaded in each.

Owns their start, under callgrind when asked, and what can be read of a backend from outside: instruction counts from
callgrind's dumps, CPU time and resident memory from /proc. Measures nothing itself.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional

from e2e.cluster import Cluster, Connection, HarnessError

# Nothing but the client's statements may run while something is measured.
QUIET: Mapping[str, Any] = {
    "autovacuum": "off",
    "bgwriter_lru_maxpages": 0,
    "checkpoint_timeout": "1d",
    "max_wal_size": "8GB",
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
    "shared_buffers": "256MB",
    "log_min_messages": "warning",
}
# A heap that neither grows nor shrinks while something is timed. glibc gives memory back at some sizes and not at
# others, so that a few hundred bytes more can cost, or save, a system call for each statement.
STEADY_HEAP = {"MALLOC_TOP_PAD_": str(64 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
               "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
# The function whose execution makes callgrind write a dump and start again from zero.
MARK = "pg_backend_pid"


@dataclass(frozen=True)
class Variant:
    """One of the servers compared."""

    key: str
    title: str
    settings: Mapping[str, Any]
    extension: Optional[str] = None


NOTHING = Variant("none", "no extension", {"shared_preload_libraries": ""})
JUMBLING = Variant("core", "core query jumbling alone", {"shared_preload_libraries": "", "compute_query_id": "on"})
PGSS = Variant("pgss", "pg_stat_statements", {"shared_preload_libraries": "pg_stat_statements"}, "pg_stat_statements")
PERF_OPT = Variant("perf_opt", "perf_opt", {"shared_preload_libraries": "perf_opt"}, "perf_opt")


class BenchServer(Cluster):
    """A cluster of one variant. With `callgrind` its server program is started under valgrind."""

    callgrind = False
    environment: Mapping[str, str] = {}

    def program(self, name: str) -> str:
        """The server itself through a script that sets its environment; everything else as it is."""
        path = super().program(name)
        if name != "postgres":
            return path
        script = self.base_dir / "server"
        tool = ""
        if self.callgrind:
            tool = (f"{valgrind()} -q --tool=callgrind --trace-children=yes --dump-before={MARK} "
                    f"--callgrind-out-file={self.base_dir}/callgrind.%p ")
        exports = "".join(f"export {name}={value}\n" for name, value in self.environment.items())
        script.write_text(f'#!/bin/sh\n{exports}exec {tool}{path} "$@"\n')
        script.chmod(0o755)
        return str(script)

    def load_pgbench(self, scale: int = 1) -> None:
        """pgbench's tables, without a trace of time in them: the same bytes in every server."""
        with self.connect() as session:
            session.query("CREATE TABLE pgbench_branches(bid int PRIMARY KEY, bbalance int, filler char(88))"
                          " WITH (fillfactor = 100)")
            session.query("CREATE TABLE pgbench_tellers(tid int PRIMARY KEY, bid int, tbalance int, filler char(84))"
                          " WITH (fillfactor = 100)")
            session.query("CREATE TABLE pgbench_accounts(aid int PRIMARY KEY, bid int, abalance int, filler char(84))"
                          " WITH (fillfactor = 100)")
            session.query("CREATE TABLE pgbench_history(tid int, bid int, aid int, delta int, mtime timestamp,"
                          " filler char(22))")
            session.query(f"INSERT INTO pgbench_branches SELECT i, 0, '' FROM generate_series(1, {scale}) i")
            session.query("INSERT INTO pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0, ''"
                          f" FROM generate_series(1, {scale * 10}) i")
            session.query("INSERT INTO pgbench_accounts SELECT i, (i - 1) / 100000 + 1, 0, ''"
                          f" FROM generate_series(1, {scale * 100000}) i")
            session.query("VACUUM (ANALYZE, FREEZE)")
            session.query("CHECKPOINT")

    def dumps(self, pid: int) -> list[Path]:
        """callgrind's dumps of one process, oldest first."""
        found = self.base_dir.glob(f"callgrind.{pid}.*")
        return sorted(found, key=lambda path: int(path.suffix[1:]))


def start(pg_root: Path, variant: Variant, settings: Optional[Mapping[str, Any]] = None, *, callgrind: bool = False,
          steady_heap: bool = False, pgbench: bool = True) -> BenchServer:
    """A running server of a variant, with the extension created and pgbench's tables loaded."""
    server = BenchServer(pg_root, {**QUIET, **variant.settings, **(settings or {})}, name=f"bench {variant.key}")
    try:
        server.environment = STEADY_HEAP if steady_heap else {}
        server.start()
        if variant.extension:
            server.sql(f"CREATE EXTENSION {variant.extension}")
        if pgbench:
            server.load_pgbench()
        if callgrind:
            server.stop()
            server.callgrind = True
            server.start(timeout=300)
    except BaseException:
        server.destroy()
        raise
    return server


def valgrind() -> str:
    """The path of valgrind."""
    found = shutil.which("valgrind")
    if found is None:
        raise HarnessError("the suite overhead counts instructions with valgrind, which is not on the PATH: "
                           "install the package valgrind")
    return found


@dataclass
class Counter:
    """Counts the instructions of one session of a server under callgrind."""

    server: BenchServer
    session: Connection
    seen: int = 0
    last_dump: Optional[Path] = field(default=None)

    def mark(self) -> int:
        """User instructions of the backend since the last mark."""
        self.session.query(f"SELECT {MARK}()")
        dumps = self.server.dumps(self.session.pid)
        if len(dumps) != self.seen + 1:
            raise HarnessError(f"callgrind wrote {len(dumps) - self.seen} dumps at a mark, not one: is the symbol "
                               f"{MARK} visible in this server's program?")
        self.seen += 1
        self.last_dump = dumps[-1]
        return total_of(dumps[-1])


def total_of(dump: Path) -> int:
    """The number of instructions in a dump of callgrind."""
    with dump.open("rb") as file:
        file.seek(max(0, dump.stat().st_size - 4096))
        for line in reversed(file.read().splitlines()):
            if line.startswith(b"totals:"):
                return int(line.split()[1])
    raise HarnessError(f"{dump} has no totals")


def cpu_ns(pid: int) -> int:
    """CPU time of a process so far, user and system together, in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def file_writes(pid: int) -> int:
    """System calls so far by which a process wrote to files; what it sends to a socket does not count."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("syscw:"):
            return int(line.split()[1])
    raise HarnessError(f"/proc/{pid}/io has no syscw")


def resident_kb(pid: int) -> dict[str, int]:
    """Resident memory of a process: private (RssAnon) and shared (RssShmem), in kB."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssShmem", "VmHWM"):
            fields[name] = int(value.split()[0])
    return fields


def pin(pids: list[int], cpu: int) -> None:
    """Lets processes run on one processor only."""
    for pid in pids:
        os.sched_setaffinity(pid, {cpu})

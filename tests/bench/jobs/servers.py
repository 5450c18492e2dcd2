"""The servers of the suite, and what their processes have used so far, read from /proc."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Union

from e2e.cluster import Cluster, HarnessError
from e2e.neighbours import provide
from e2e.system import children_of

SETTINGS: Mapping[str, Any] = {"max_worker_processes": 64, "max_connections": 100, "autovacuum_naptime": "15s",
                               "shared_buffers": "128MB", "log_min_messages": "warning"}
RUNNING = 32
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def perf_opt_server(pg_root: Path, settings: Optional[Mapping[str, Any]] = None) -> Cluster:
    """A running server with perf_opt alone."""
    server = Cluster(pg_root, {**SETTINGS, "perf_opt.max_running_jobs": RUNNING, **(settings or {})}, name="bench perf_opt")
    try:
        server.start()
        server.sql("CREATE EXTENSION perf_opt")
    except BaseException:
        server.destroy()
        raise
    return server


def pg_cron_server(pg_root: Path, in_workers: bool) -> Union[Cluster, str]:
    """A running server with pg_cron alone, which starts jobs in clients' backends or in workers; else why there is none."""
    major = _major(pg_root)
    absent = provide(pg_root, major, "pg_cron")
    if absent:
        return absent
    server = Cluster(pg_root, {**SETTINGS, "shared_preload_libraries": "pg_cron", "cron.max_running_jobs": RUNNING,
                               "cron.use_background_workers": in_workers}, name="bench pg_cron")
    try:
        server.configure({"cron.host": server.socket_dir})
        server.start()
        server.sql("CREATE EXTENSION pg_cron")
    except BaseException:
        server.destroy()
        raise
    return server


def _major(pg_root: Path) -> int:
    text = subprocess.run([pg_root / "bin" / "pg_config", "--version"], capture_output=True, text=True, check=True).stdout
    return int(text.split()[1].partition(".")[0])


def pid_of(server: Cluster, backend_type: str) -> int:
    """The one process of a kind."""
    pids = server.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = $1", (backend_type,))
    if len(pids) != 1:
        raise HarnessError(f"{server.name} has {len(pids)} processes of the kind {backend_type!r}, not one")
    return pids[0][0]


@dataclass(frozen=True)
class Used:
    """CPU seconds of a server so far: the process that schedules, the postmaster itself, and all processes together, those
    that have ended included."""

    scheduler: float
    postmaster: float
    everything: float

    def since(self, before: "Used") -> "Used":
        """What was used in between."""
        return Used(self.scheduler - before.scheduler, self.postmaster - before.postmaster,
                    self.everything - before.everything)


def used(server: Cluster, scheduler: int) -> Used:
    """CPU used so far. Sessions that begin and end between two looks are counted: keep yours open."""
    own, ended = _times(server.pid)
    living = sum(_living(child) for child in children_of(server.pid))
    return Used(_living(scheduler), own, own + ended + living)


def _times(pid: int) -> tuple[float, float]:
    """A process's own CPU seconds, and those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, ended_user, ended_system = (int(field) / TICKS_PER_S for field in fields[11:15])
    return user + system, ended_user + ended_system


def _living(pid: int) -> float:
    try:
        return sum(_times(pid)[:1])
    except (FileNotFoundError, ProcessLookupError):  # it has just ended: counted with the ended ones
        return 0.0


def switches(pid: int) -> int:
    """How often a process has gone to sleep so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def load() -> str:
    """How busy the machine is."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())

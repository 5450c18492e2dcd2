"""`Cluster`: a private PostgreSQL server of its own data directory and socket, made for one test or one demo.

A cluster never listens on TCP unless asked, never touches another server, and is gone (process and directory) when
the program that made it ends in whatever way; the exception is `start(detached=True)`, for a server that is meant to
stay. As root the server runs as another user, see `system.server_user`.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from .pgclient import Connection, ConnectionLost, Result, SqlError
from .reaper import Reaper, postmaster_pid, stop_hard
from .system import (HarnessError, PathLike, cache_dir, children_of, clean_environment, exclusive,
                     give_to_server, make_private_dir, popen_as_server, process_alive, remove_dir, run_as_server, wait_until)

__all__ = ["Cluster", "Connection", "ConnectionLost", "HarnessError", "Result", "SqlError", "wait_until"]

SUPERUSER = "postgres"
# fsync only guards against a crash of the machine; kill -9 of every process is survived without it.
DEFAULT_SETTINGS: Mapping[str, Any] = {
    "shared_preload_libraries": "perf_opt",
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": 60,
    "max_wal_senders": 5,
    "wal_level": "replica",
    "hot_standby": "on",
    "log_line_prefix": "%m [%p] %b %a ",
    "log_min_messages": "log",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_reaper = Reaper()
_live: list["Cluster"] = []
_ports: list[socket.socket] = []


class Cluster:
    """One private server. `pg_root` is the directory whose `bin/` holds the programs of the installation."""

    def __init__(self, pg_root: PathLike, settings: Optional[Mapping[str, Any]] = None, name: str = "main", *,
                 base_dir: Optional[PathLike] = None, tcp: bool = False, initdb_args: Sequence[str] = ()) -> None:
        """Makes the data directory but does not start the server.

        `settings` go on top of `DEFAULT_SETTINGS`; a value of None removes a default. `base_dir` is where data and
        log go (a new private directory otherwise). `tcp` also listens on a free port of the loopback interface.
        `initdb_args` come after the harness's own (`--encoding=UTF8 --locale=C`), so they can override them.
        """
        self._prepare(pg_root, name, base_dir)
        self.port = free_port() if tcp else 5432
        self.host = "127.0.0.1" if tcp else None
        self.settings: dict[str, Any] = {**DEFAULT_SETTINGS, **(settings or {})}
        try:
            template = initdb_template(self.pg_root, initdb_args)
            run_as_server(["cp", "-Rp", template, self.data_dir])
            self._write_settings()
        except BaseException:
            self.destroy()
            raise

    def _prepare(self, pg_root: PathLike, name: str, base_dir: Optional[PathLike] = None) -> None:
        self.pg_root = Path(pg_root)
        if not (self.pg_root / "bin" / "postgres").exists():
            raise HarnessError(f"{self.pg_root}/bin has no postgres program")
        self.name = name
        self.detached = False
        self.standbys: list[Cluster] = []
        self._process: Optional[subprocess.Popen] = None
        if base_dir is None:
            self.base_dir = self.socket_dir = make_private_dir()
        else:
            self.base_dir = Path(base_dir)
            self.base_dir.mkdir(parents=True, exist_ok=False)
            give_to_server(self.base_dir)
            # The path of a chosen directory may be too long for a socket.
            self.socket_dir = make_private_dir()
            _reaper.add(self.socket_dir)
        _reaper.add(self.base_dir)
        _live.append(self)

    # -- paths and facts ---------------------------------------------------------------------------------------

    @property
    def data_dir(self) -> Path:
        """The data directory."""
        return self.base_dir / "data"

    @property
    def log_path(self) -> Path:
        """The server's log: everything since the cluster was made."""
        return self.base_dir / "server.log"

    @property
    def major(self) -> int:
        """The major version of the server."""
        return int((self.data_dir / "PG_VERSION").read_text())

    @property
    def pid(self) -> int:
        """The pid of the running postmaster."""
        pid = postmaster_pid(self.data_dir)
        if pid is None:
            raise HarnessError(f"cluster {self.name} is not running")
        return pid

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return postmaster_pid(self.data_dir) is not None

    def program(self, name: str) -> str:
        """The path of a program of this installation (psql, pgbench ...)."""
        return str(self.pg_root / "bin" / name)

    # -- settings ----------------------------------------------------------------------------------------------

    def configure(self, settings: Mapping[str, Any], reload: bool = False) -> None:
        """Changes settings for the next start, or at once for those that a reload reaches. None takes one out."""
        self.settings.update(settings)
        self._write_settings()
        if reload:
            self.reload()

    def reload(self) -> None:
        """Makes the server read its configuration again, and waits until it has."""
        before = self.scalar("SELECT pg_conf_load_time()")
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: self.scalar("SELECT pg_conf_load_time()") != before, 10, "the configuration to be reloaded")

    def _write_settings(self) -> None:
        settings = {**self.settings, "unix_socket_directories": self.socket_dir, "port": self.port,
                    "listen_addresses": self.host or ""}
        lines = [f"{key} = '{quote_setting(value)}'\n" for key, value in settings.items() if value is not None]
        target = self.data_dir / "harness.conf"
        target.write_text("".join(lines))
        give_to_server(target)
        main = self.data_dir / "postgresql.conf"
        include = "include = 'harness.conf'\n"
        if include not in main.read_text():
            with main.open("a") as out:
                out.write(include)

    # -- life --------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 60.0, *, detached: bool = False) -> "Cluster":
        """Starts the server and waits until it accepts connections. A detached one outlives this program."""
        if self.running:
            raise HarnessError(f"cluster {self.name} is running already")
        with self.log_path.open("ab") as log:
            self._process = popen_as_server([self.program("postgres"), "-D", self.data_dir], stdout=log, stderr=log,
                                            start_new_session=True)
        deadline = time.monotonic() + timeout
        while not self._ready():
            if self._process.poll() is not None:
                raise HarnessError(f"cluster {self.name} did not start (exit {self._process.returncode}):\n"
                                   + self.log_tail())
            if time.monotonic() > deadline:
                raise HarnessError(f"cluster {self.name} was not ready in {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(0.02)
        self.detached = detached
        if detached:  # from here on it is not ours to clean up
            _reaper.remove(self.base_dir)
            _reaper.remove(self.socket_dir)
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and int(lines[0]) == self._process.pid and lines[7].strip() in ("ready", "standby")

    def stop(self, mode: str = "fast", timeout: float = 60.0) -> None:
        """Stops the server: `smart`, `fast` or `immediate`. One that does not stop in time is killed: an error."""
        pid = postmaster_pid(self.data_dir)
        if pid is None:
            self._forget_process()
            return
        os.kill(pid, STOP_SIGNALS[mode])
        deadline = time.monotonic() + timeout
        while self._postmaster_alive(pid):
            if time.monotonic() > deadline:
                tail = self.log_tail()
                stop_hard(pid)
                self._forget_process()
                raise HarnessError(f"cluster {self.name} did not stop ({mode}) in {timeout:.0f} s:\n{tail}")
            time.sleep(0.02)
        self._forget_process()

    def restart(self, mode: str = "fast") -> None:
        """Stops and starts again."""
        self.stop(mode)
        self.start(detached=self.detached)

    def kill9(self, pid: Optional[int] = None) -> None:
        """Sends SIGKILL to one process of the server, or to the postmaster and waits until all its children left."""
        postmaster = self.pid
        if pid is not None and pid != postmaster:
            os.kill(pid, signal.SIGKILL)
            return
        children = children_of(postmaster)
        os.kill(postmaster, signal.SIGKILL)
        wait_until(lambda: not self._postmaster_alive(postmaster), 10, "the killed postmaster to go")
        self._forget_process()
        wait_until(lambda: not any(process_alive(child) for child in children), 30, "orphaned server processes to go")

    def crash(self, pid: int, timeout: float = 30.0) -> None:
        """Kills one process of the server, and waits until all of it has recovered from that: it may answer for a moment before
        it notices."""
        mark = self.log_mark()
        self.kill9(pid)
        self.wait_for_log("database system is ready to accept connections", timeout, mark)

    def _postmaster_alive(self, pid: int) -> bool:
        if self._process is not None and self._process.pid == pid:
            return self._process.poll() is None
        return process_alive(pid)

    def _forget_process(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None

    def destroy(self) -> None:
        """Stops the server and removes its directories. Harmless when done already."""
        for standby in self.standbys:
            standby.destroy()
        pid = postmaster_pid(self.data_dir)
        if pid is not None:
            stop_hard(pid)
        self._forget_process()
        for path in {self.base_dir, self.socket_dir}:
            remove_dir(path)
            _reaper.remove(path)
        if self in _live:
            _live.remove(self)

    def __enter__(self) -> "Cluster":
        if not self.running:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.destroy()

    # -- a server that stays -----------------------------------------------------------------------------------

    def save_state(self, path: PathLike) -> None:
        """Writes what `attach` needs to find this server again from another program."""
        state = {"pg_root": str(self.pg_root), "name": self.name, "base_dir": str(self.base_dir),
                 "socket_dir": str(self.socket_dir), "port": self.port, "host": self.host, "settings": self.settings}
        Path(path).write_text(json.dumps(state, indent=2, default=str) + "\n")

    @classmethod
    def attach(cls, path: PathLike) -> "Cluster":
        """The cluster that `save_state` described, running or not. It stays when this program ends."""
        state = json.loads(Path(path).read_text())
        cluster = cls.__new__(cls)
        cluster.pg_root = Path(state["pg_root"])
        cluster.name, cluster.port, cluster.host = state["name"], state["port"], state["host"]
        cluster.base_dir, cluster.socket_dir = Path(state["base_dir"]), Path(state["socket_dir"])
        cluster.settings = state["settings"]
        cluster.standbys = []
        cluster.detached = True
        cluster._process = None
        return cluster

    # -- replication -------------------------------------------------------------------------------------------

    def standby(self, name: str = "standby", settings: Optional[Mapping[str, Any]] = None) -> "Cluster":
        """A streaming standby of this running server, started."""
        other = Cluster.__new__(Cluster)
        other._prepare(self.pg_root, name)
        other.port, other.host = 5432, None
        other.settings = {**self.settings, **(settings or {})}
        try:
            run_as_server([self.program("pg_basebackup"), "-D", other.data_dir, "-R", "-X", "stream", "-c", "fast",
                           "-h", self.socket_dir, "-p", self.port, "-U", SUPERUSER])
            other._write_settings()
            other.start()
        except BaseException:
            other.destroy()
            raise
        self.standbys.append(other)
        return other

    def promote(self) -> None:
        """Promotes a standby and waits until it takes writes."""
        if not self.scalar("SELECT pg_promote(true, 60)"):
            raise HarnessError(f"cluster {self.name} was not promoted:\n{self.log_tail()}")

    def wait_for_replay(self, standby: "Cluster", timeout: float = 30.0) -> None:
        """Waits until `standby` has replayed all that this server has written so far."""
        target = self.scalar("SELECT pg_current_wal_flush_lsn()")
        query = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn"
        wait_until(lambda: standby.scalar(query, (target,)), timeout, f"{standby.name} to replay up to {target}")

    # -- talking to it -----------------------------------------------------------------------------------------

    def connect(self, dbname: str = "postgres", user: str = SUPERUSER, *, over_tcp: bool = False,
                **options: Any) -> Connection:
        """A new session; see `Connection` for the options."""
        host = "127.0.0.1" if over_tcp else str(self.socket_dir)
        return Connection(host, self.port, user, dbname, **options)

    def sql(self, sql: str, params: Sequence[Any] = (), dbname: str = "postgres", user: str = SUPERUSER) -> list[tuple]:
        """Runs SQL in a session of its own and returns the rows of its last statement."""
        return self.result(sql, params, dbname, user).rows

    def scalar(self, sql: str, params: Sequence[Any] = (), dbname: str = "postgres", user: str = SUPERUSER) -> Any:
        """Like `sql`, for a query of exactly one value."""
        return self.result(sql, params, dbname, user).scalar()

    def result(self, sql: str, params: Sequence[Any] = (), dbname: str = "postgres", user: str = SUPERUSER) -> Result:
        """Like `sql`, with column names and the command tag."""
        with self.connect(dbname, user) as session:
            return session.execute(sql, params) if params else session.query(sql)

    def psql_args(self, dbname: str = "postgres", user: str = SUPERUSER) -> list[str]:
        """The argument vector that starts psql on this server."""
        return [self.program("psql"), "-h", str(self.socket_dir), "-p", str(self.port), "-U", user, "-d", dbname]

    def psql_command(self, dbname: str = "postgres", user: str = SUPERUSER) -> str:
        """The line a person types to connect to this server."""
        return shlex.join(self.psql_args(dbname, user))

    def psql(self, *arguments: str, dbname: str = "postgres", stdin: Optional[str] = None) -> str:
        """Runs psql (no psqlrc, stop at the first error) with arguments or a script on stdin; what it printed."""
        command = [*self.psql_args(dbname), "-X", "-v", "ON_ERROR_STOP=1", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=clean_environment())
        if done.returncode != 0:
            raise HarnessError(f"psql exited with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    # -- its log -----------------------------------------------------------------------------------------------

    def log_text(self) -> str:
        """The whole server log."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def log_mark(self) -> int:
        """The end of the log now, for `wait_for_log(since=...)`."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def wait_for_log(self, pattern: str, timeout: float = 10.0, since: int = 0) -> re.Match:
        """Waits until a regular expression matches the log written since a mark."""
        def found() -> Optional[re.Match]:
            with self.log_path.open("rb") as log:
                log.seek(since)
                return re.search(pattern, log.read().decode(errors="replace"), re.MULTILINE)
        match = wait_until(found, timeout, f"{pattern!r} in the log of {self.name}")
        assert match is not None
        return match


def quote_setting(value: Any) -> str:
    """A value for the inside of single quotes in postgresql.conf."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace("'", "''")


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now, and that no other caller gets while this process runs."""
    probe = socket.socket()
    if sys.platform == "linux":
        # Bound so and never listening, the socket lets a server have its port and keeps it from everybody who asks for any.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _ports.append(probe)
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
    with probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def initdb_template(pg_root: Path, initdb_args: Sequence[str] = ()) -> Path:
    """A freshly initialised data directory, made once per installation and arguments, to be copied."""
    arguments = ["--auth=trust", f"--username={SUPERUSER}", "--encoding=UTF8", "--locale=C", "--no-sync", *initdb_args]
    binary = (pg_root / "bin" / "postgres").stat()
    key = hashlib.sha256(repr((str(pg_root), binary.st_size, binary.st_mtime_ns, arguments)).encode()).hexdigest()[:16]
    template = cache_dir() / "initdb" / key
    if template.exists():
        return template
    with exclusive("initdb"):
        if not template.exists():  # another process was faster
            template.parent.mkdir(parents=True, exist_ok=True)
            _initdb(pg_root, arguments, template)
    return template


def _initdb(pg_root: Path, arguments: Sequence[str], template: Path) -> None:
    building = template.with_name(f"{template.name}.{os.getpid()}")
    remove_dir(building)
    building.mkdir(mode=0o700)
    give_to_server(building)
    try:
        run_as_server([pg_root / "bin" / "initdb", "-D", building, *arguments])
        os.rename(building, template)
    except BaseException:
        remove_dir(building)
        raise


def _destroy_all() -> None:
    """At the end of the program: whatever a test left behind goes, but for detached servers."""
    for cluster in list(_live):
        if not cluster.detached:
            cluster.destroy()


def _end_orderly(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def handle_signals() -> None:
    """Makes SIGTERM and SIGHUP end the program in the orderly way, so that clusters are cleaned up at once."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_orderly)


atexit.register(_destroy_all)

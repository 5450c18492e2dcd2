"""`CacheTest`: what tests of invalidation share. `Redis`: a Redis of its own, for one test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Iterable, Optional, Union

from .case import ClusterTest
from .cluster import Connection, free_port
from .system import (HarnessError, cache_dir, clean_environment, give_to_server, make_private_dir, popen_as_server,
                     remove_dir, wait_until)

# With what they need that a machine may not have.
PACKAGES = ("redis-server", "redis-tools", "liblzf1", "libjemalloc2")


class CacheTest(ClusterTest):
    """A test with a database of its own, and a listener of the channel perf_cache in it."""

    settings = {"max_worker_processes": 24, "max_prepared_transactions": 5, "autovacuum_naptime": "60s"}

    def setUp(self) -> None:
        super().setUp()
        if self.uses_shared_cluster:
            self.database = self.fresh_database()

    uses_shared_cluster = True

    def sql(self, sql: str, params: tuple = (), user: str = "postgres") -> list[tuple]:
        """Runs SQL in the test's database."""
        return self.cluster.sql(sql, params, dbname=self.database, user=user)

    def value(self, sql: str, params: tuple = (), user: str = "postgres") -> Any:
        """The one value of a query in the test's database."""
        return self.cluster.scalar(sql, params, dbname=self.database, user=user)

    def listener(self, dbname: Optional[str] = None, cluster: Any = None) -> "Listener":
        """Hears what is invalid, from now on."""
        listener = Listener((cluster or self.cluster).connect(dbname=dbname or self.database))
        self.addCleanup(listener.session.close)
        return listener

    def health(self, component: str) -> Optional[tuple]:
        """Status and detail."""
        rows = self.sql("SELECT status, detail FROM perf.health() WHERE component = $1", (component,))
        return rows[0] if rows else None


class Listener:
    """A session that listens to perf_cache."""

    def __init__(self, session: Connection) -> None:
        self.session = session
        session.query("LISTEN perf_cache")

    def heard(self) -> list[dict[str, Any]]:
        """What has been told since the last call."""
        self.session.query("SELECT 1")
        told = [json.loads(payload) for _, _, payload in self.session.notifications]
        self.session.notifications.clear()
        return told

    def wait_for(self, count: int = 1, timeout: float = 20.0) -> dict[str, set]:
        """Waits for notices with so many keys, beginnings and tags; what they name together."""
        found: dict[str, set] = {"event": set(), "keys": set(), "prefixes": set(), "tags": set(), "tag_prefixes": set()}

        def enough() -> bool:
            for notice in self.heard():
                found["event"].add(notice["event"])
                for kind in ("keys", "prefixes", "tags", "tag_prefixes"):
                    found[kind] |= set(notice.get(kind, ()))
            return sum(len(found[kind]) for kind in ("keys", "prefixes", "tags", "tag_prefixes")) >= count

        wait_until(enough, timeout, f"notices that name {count} things: {found}", 0.01)
        return found


def program() -> Optional[tuple[str, dict[str, str]]]:
    """Redis' path and what its environment needs: the machine's own, or that of its distribution, unpacked once."""
    own = shutil.which("redis-server")
    if own is not None:
        return own, {}
    home = cache_dir() / "redis"
    if not home.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            return None
        home.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="redis.", dir=home.parent))
        try:
            subprocess.run(["apt-get", "download", *PACKAGES], cwd=building, capture_output=True, check=True)
            for package in building.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, building / "root"], check=True)
            (building / "root").chmod(0o755)
            os.rename(building / "root", home)
        except (subprocess.CalledProcessError, OSError):
            if not home.exists():
                return None
        finally:
            remove_dir(building)
    libraries = {str(path.parent) for path in home.glob("usr/lib/**/*.so*")}
    return str(home / "usr/bin/redis-server"), {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}


class Redis:
    """A Redis on a free port of the loopback interface."""

    def __init__(self, *options: str, tls: Optional[Path] = None) -> None:
        """`options` go on its command line; `tls` is a directory with server.crt, server.key and ca.crt."""
        self.port = free_port()
        self.directory = make_private_dir()
        listening = ["--port", str(self.port)]
        if tls is not None:
            listening = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(tls / "server.crt"),
                         "--tls-key-file", str(tls / "server.key"), "--tls-ca-cert-file", str(tls / "ca.crt"),
                         "--tls-auth-clients", "no"]
        self.options = [*listening, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
        self.tls = tls is not None
        self.process: Optional[subprocess.Popen] = None
        self.start()

    def start(self) -> None:
        """Starts it and waits until it accepts connections."""
        found = program()
        if found is None:
            raise HarnessError("there is no redis-server")
        path, environment = found
        with (self.directory / "log").open("ab") as log:
            self.process = popen_as_server([path, *self.options, "--dir", self.directory], stdout=log, stderr=log,
                                           env={**clean_environment(), **environment})
        wait_until(self._accepts, 10, "redis-server to accept connections")

    def _accepts(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise HarnessError(f"redis-server exited: {(self.directory / 'log').read_text()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    def signal(self, number: int) -> None:
        """SIGSTOP, SIGCONT, SIGKILL."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait()

    def destroy(self) -> None:
        """Ends it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        remove_dir(self.directory)

    def call(self, *words: Union[str, int], password: Optional[str] = None) -> Any:
        """One command in a session of its own."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as session:
            reader = session.makefile("rb")
            if password is not None:
                session.sendall(encode(("AUTH", password)))
                decode(reader)
            session.sendall(encode(words))
            return decode(reader)

    def keys(self) -> set[str]:
        """All keys."""
        return set(self.call("KEYS", "*"))


def encode(words: Iterable[Union[str, int]]) -> bytes:
    """A command in Redis' protocol."""
    texts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(texts) + b"".join(b"$%d\r\n%s\r\n" % (len(text), text) for text in texts)


def decode(reader: Any) -> Any:
    """An answer in Redis' protocol."""
    line = reader.readline()
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise HarnessError(f"Redis: {rest}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == "-1" else reader.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [decode(reader) for _ in range(int(rest))]
    return rest


def certificates(directory: Path) -> None:
    """A certificate authority, and a certificate of it for 127.0.0.1, that the server's user can read."""
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=redis",
            "-keyout", "server.key", "-out", "server.csr")
    (directory / "names").write_text("subjectAltName = IP:127.0.0.1\nbasicConstraints = CA:FALSE\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", "names", "-out", "server.crt")
    for file in directory.iterdir():
        give_to_server(file)

"""`Pooler`: a PgBouncer of its own with the configuration that perf_opt makes, for one test or one measurement."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from typing import Mapping, Optional

from .cluster import Cluster, free_port
from .system import (HarnessError, clean_environment, give_to_server, make_private_dir, popen_as_server, remove_dir,
                     wait_until)

PASSWORD = "of the pooler's users"


def program() -> Optional[str]:
    """PgBouncer's path, where there is one."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def follows_prepared(path: str) -> bool:
    """Whether it knows max_prepared_statements: version 1.21 or later."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
    return found is not None and (int(found[1]), int(found[2])) >= (1, 21)


class Pooler:
    """A running PgBouncer before a server that listens on the loopback interface."""

    def __init__(self, server: Cluster, database: str, users: tuple[str, ...], changes: Mapping[str, str] = {}) -> None:
        """`changes` replace texts of the configuration: for measurements of other sizes than the one emitted."""
        path = program()
        if path is None:
            raise HarnessError("pgbouncer is not on PATH")
        self.server, self.database, self.port = server, database, free_port()
        self.directory = make_private_dir()
        auth_file = self.directory / "userlist.txt"
        auth_file.write_text("".join(f'"{user}" "{PASSWORD}"\n' for user in users))
        self.ini = server.scalar("SELECT perf._pgbouncer_ini('127.0.0.1', $1::int, $2::int, $3, $4::bool)",
                                 (server.port, self.port, str(auth_file), follows_prepared(path)), dbname=database)
        for old, new in changes.items():
            changed = re.sub(old, new, self.ini)
            if changed == self.ini:
                raise HarnessError(f"{old!r} does not change the configuration:\n{self.ini}")
            self.ini = changed
        configuration = self.directory / "pgbouncer.ini"
        configuration.write_text(self.ini)
        for file in (auth_file, configuration):
            give_to_server(file)
        self.log_path = self.directory / "log"
        with self.log_path.open("wb") as log:
            self.process = popen_as_server([path, configuration], stdout=log, stderr=log)
        try:
            wait_until(self._accepts, 10, "the pooler to accept connections")
        except BaseException:
            self.stop()
            raise

    def _accepts(self) -> bool:
        if self.process.poll() is not None:
            raise HarnessError(f"pgbouncer exited with {self.process.returncode}:\n{self.log()}\n{self.ini}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        """What it has said."""
        return self.log_path.read_text(errors="replace")

    def run(self, program: str, user: str, *arguments: str, stdin: Optional[str] = None) -> str:
        """Runs a client program through it to its end; what it printed."""
        command = [self.server.program(program), "-h", "127.0.0.1", "-p", str(self.port), "-U", user, *arguments]
        environment = {**clean_environment(), "PGPASSWORD": PASSWORD}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise HarnessError(f"{program} exited with {done.returncode}:\n{done.stdout}{done.stderr}\n{self.log()}")
        return done.stdout

    def stop(self) -> None:
        """Ends it and removes its files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        remove_dir(self.directory)

    def __enter__(self) -> "Pooler":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

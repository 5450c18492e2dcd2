"""`Server`: where the sample platform lives and which client programs reach it. Runs SQL through psql; keeps nothing.

Whatever has a server may use the platform: a private cluster, or any server that psql and pgbench can reach.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

APPLICATION = "perf_opt demo"


class DemoError(Exception):
    """A step failed; the message is what the user is shown."""


@dataclass(frozen=True)
class Server:
    """Connection arguments and the directory of psql, pgbench and the other client programs."""

    bin_dir: Path
    host: str
    port: int = 5432
    user: str = "postgres"
    dbname: str = "postgres"

    @classmethod
    def of(cls, cluster: Any, dbname: str = "postgres") -> "Server":
        """The server of an e2e `Cluster`."""
        return cls(Path(cluster.pg_root) / "bin", str(cluster.host or cluster.socket_dir), cluster.port, dbname=dbname)

    def database(self, dbname: str) -> "Server":
        """The same server, another database."""
        return replace(self, dbname=dbname)

    def program(self, name: str) -> str:
        """The path of a client program."""
        return str(self.bin_dir / name)

    def arguments(self) -> list[str]:
        """The connection options that every client program takes."""
        return ["-h", self.host, "-p", str(self.port), "-U", self.user]

    def psql_command(self) -> str:
        """The line a person types to connect."""
        return shlex.join([self.program("psql"), *self.arguments(), "-d", self.dbname])

    def environment(self, application: str = APPLICATION) -> dict[str, str]:
        """The caller's environment without its PG* variables."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**kept, "PGAPPNAME": application, "PGTZ": "UTC"}

    def psql(self, *, script: str = "", files: Sequence[Path] = (), variables: Optional[Mapping[str, Any]] = None) -> str:
        """Runs files, or else a script, in one session that stops at the first error; unaligned rows as text."""
        command = [self.program("psql"), *self.arguments(), "-d", self.dbname, "-XAtq", "-v", "ON_ERROR_STOP=1"]
        for name, value in (variables or {}).items():
            command += ["-v", f"{name}={value}"]
        for path in files:
            command += ["-f", str(path)]
        done = subprocess.run(command, input=script, capture_output=True, text=True, env=self.environment())
        if done.returncode != 0:
            raise DemoError((done.stderr or done.stdout).strip() or f"psql exited with {done.returncode}")
        return done.stdout.strip()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of one query, typed, columns in order."""
        return json.loads(self.psql(script=f"SELECT coalesce(json_agg(to_json(r)), '[]') FROM ({query}) AS r"))

    def scalar(self, query: str) -> str:
        """The only value of a query, as text."""
        return self.psql(script=query)

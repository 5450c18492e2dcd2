"""`ClientTest`: what tests of client libraries share: the modules' place, a server for examples, and which functions were called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Mapping, Sequence

from .case import ClusterTest
from .cluster import Cluster
from .clients_catalog import functions
from .system import clean_environment

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "docs" / "clients"
APPLICATION = "examples_of_clients"
SETTINGS = {"log_statement": "all", "perf_opt.slow_ms": 100, "perf_opt.collect_interval": 1, "max_worker_processes": 24,
            "autovacuum_naptime": "60s"}


class ClientTest(ClusterTest):
    """A test that runs the examples of a client."""

    def server(self) -> Cluster:
        """A server of its own, which logs every statement."""
        return self.private_cluster(SETTINGS, tcp=True)

    def run_examples(self, server: Cluster, command: Sequence[str], url: str, environment: Mapping[str, str]) -> None:
        """Runs a program whose last line is `all is well`, and checks that it calls every public function."""
        done = subprocess.run([*command], capture_output=True, text=True, timeout=120,
                              env={**clean_environment(), **environment, "PGAPPNAME": APPLICATION,
                                   "DATABASE_URL": f"{url}://postgres@127.0.0.1:{server.port}/postgres"})
        self.assertEqual((done.stdout[-12:], done.returncode), ("all is well\n", 0), done.stdout + done.stderr)
        # A record goes on to the next line that begins with a time.
        records = re.split(r"\n(?=\d{4}-\d\d-\d\d )", server.log_path.read_text())
        told = [record for record in records if re.search(rf" {APPLICATION} LOG:  (?:statement|execute [^:]*): ", record)]
        called = set(re.findall(r"\bperf\.(\w+)\s*\(", "\n".join(told)))
        missing = [function.name for function in functions(server, "postgres") if function.name not in called]
        self.assertEqual(missing, [], "functions that no example calls")


def readme(language: str) -> str:
    """The example of the README in a language."""
    found = re.search(rf"<!-- orm.*?-->\n```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None
    return found[1]


def wheels(*requirements: str) -> list[Path]:
    """The directories of packages from PyPI, fetched when they are not there."""
    if str(ROOT / "tools") not in sys.path:
        sys.path.append(str(ROOT / "tools"))
    from bootstrap.packages import wheel

    return [wheel(re.split("[<>=]", requirement)[0], requirement, "a few MB") for requirement in requirements]


def python_path(*packages: Path) -> dict[str, str]:
    """The environment in which Python finds packages."""
    return {"PYTHONPATH": os.pathsep.join(map(str, packages)), "PYTHONDONTWRITEBYTECODE": "1"}

"""docs/clients/python: the examples call every public function on a real server, with SQLAlchemy and psycopg from PyPI."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from .clients_case import CLIENTS, SETTINGS, ClientTest, python_path, readme, wheels
from .system import clean_environment

SECONDS = 30
PYTHON = CLIENTS / "python"
# As test_cache_recipe has them; greenlet is what SQLAlchemy's asynchronous half stands on.
PACKAGES = ("sqlalchemy>=2,<3", "psycopg>=3.2,<4", "psycopg-binary>=3.2,<4", "typing-extensions", "greenlet>=3")

# A version that needs few others.
CHECKER = ("mypy>=1.15,<1.16", "mypy-extensions", "tomli")


class Examples(ClientTest):
    """The examples as they are."""

    time_limit = 240.0

    def test_examples(self) -> None:
        environment = python_path(PYTHON, *wheels(*PACKAGES))
        self.run_examples(self.server(), [sys.executable, "-W", "error::sqlalchemy.exc.SAWarning", str(PYTHON / "examples.py")],
                          "postgresql+psycopg", environment)

    def test_readme(self) -> None:
        server = self.private_cluster(SETTINGS, tcp=True)
        server.sql("CREATE EXTENSION perf_opt; SET perf_opt.critical_ms = 100; SELECT 'slow', pg_sleep(0.2)")
        before = ("import os\nfrom sqlalchemy import create_engine, select\nfrom sqlalchemy.orm import Session\n"
                  "session = Session(create_engine(os.environ['DATABASE_URL']))\n")
        after = "assert failing == []\nsession.commit()\nassert session.get(perf.Job, job_id).name == 'tidy'\n"
        done = subprocess.run([sys.executable, "-c", before + readme("python") + after], capture_output=True, text=True, timeout=60,
                              env={**clean_environment(), **python_path(PYTHON, *wheels(*PACKAGES)),
                                   "DATABASE_URL": f"postgresql+psycopg://postgres@127.0.0.1:{server.port}/postgres"})
        self.assertRegex(done.stdout, r"^\d+\.\d+ SELECT '?.*pg_sleep", done.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_types(self) -> None:
        """A user's type checker agrees: what the module says of types is neither wrong nor missing."""
        packages = wheels(*PACKAGES)
        with tempfile.TemporaryDirectory() as cache:
            # SQLAlchemy is read as source, and not judged.
            done = subprocess.run(
                [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", cache,
                 str(PYTHON / "examples.py"), str(PYTHON / "perf_opt_models.py")],
                capture_output=True, text=True, timeout=200, cwd=cache,
                env={**clean_environment(), **python_path(*packages, *wheels(*CHECKER)),
                     "MYPYPATH": str(packages[0])})
        self.assertEqual((done.stdout.startswith("Success"), done.returncode), (True, 0), done.stdout[:4000] + done.stderr)

"""docs/clients/python: the examples call every public function on a real server, with SQLAlchemy and psycopg from PyPI."""

from __future__ import annotations

import sys

from .clients_case import CLIENTS, ClientTest, python_path, wheels

SECONDS = 30
PYTHON = CLIENTS / "python"
# As test_cache_recipe has them; greenlet is what SQLAlchemy's asynchronous half stands on.
PACKAGES = ("sqlalchemy>=2,<3", "psycopg>=3.2,<4", "psycopg-binary>=3.2,<4", "typing-extensions", "greenlet>=3")


class Examples(ClientTest):
    """The examples as they are."""

    time_limit = 240.0

    def test_examples(self) -> None:
        environment = python_path(PYTHON, *wheels(*PACKAGES))
        self.run_examples(self.server(), [sys.executable, "-W", "error::sqlalchemy.exc.SAWarning", str(PYTHON / "examples.py")],
                          "postgresql+psycopg", environment)

"""Suite `jobs`: what jobs do, measured on servers of their own. Each part is a module of this package with `run`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

PARTS = ("skip",)


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all; whether every target is met."""
    chosen = [part for part in PARTS if not options.part or part in options.part]
    return all([importlib.import_module(f"bench.jobs.{part}").run(pg_root, options) for part in chosen])

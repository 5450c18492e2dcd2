"""Suite `jobs`: start delay and CPU of the scheduler beside pg_cron, its rest when nothing is due, and what is left after
kill -9, and whether a refresh of a materialized view is ever skipped wrongly. Each part is a module of this package with `run(pg_root, options)`, which gives whether its targets are met, and
its figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report

PARTS = ("delay", "idle", "kill", "skip")


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all; whether every target is met."""
    return report.run_parts("jobs", PARTS, pg_root, options)

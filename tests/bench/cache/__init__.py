"""Suite `cache`: what the embedded cache costs and wins, and what is left of its tables after a day of churn. Each part is a
module of this package with `run(pg_root, options)`, which gives whether its targets are met, and its figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report

PARTS = ("get", "dashboards", "churn")


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all; whether every target is met."""
    return report.run_parts("cache", PARTS, pg_root, options)

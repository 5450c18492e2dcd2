"""Suite `partitions`: making and letting go of partitions under load, many partitions, and converting a live table, beside
pg_partman. Each part is a module of this package with `run(pg_root, options)`, which gives whether its targets are met, and
its figures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report

PARTS = ("rotate", "many", "convert")


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all; whether every target is met."""
    return report.run_parts("partitions", PARTS, pg_root, options)

"""Suite `partitions`: making and letting go of partitions under load, many partitions, and converting a live table, beside
pg_partman. Each part is a module of this package with `run(pg_root, options)`, which gives whether its targets are met, and
its figures.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from bench import report

PARTS = ("rotate", "many", "convert")


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all; whether every target is met."""
    good = True
    for part in (part for part in PARTS if not options.part or part in options.part):
        met, figures = importlib.import_module(f"bench.partitions.{part}").run(pg_root, options)
        good &= met
        path = report.result_path("partitions")
        before = json.loads(path.read_text()) if path.exists() else {}
        report.save("partitions", {**before, part: figures})
    return good

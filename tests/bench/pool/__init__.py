"""Suite `pool`: connection pools of the emitted size beside others, what sampling costs, and what it stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import report

PARTS = ("pools", "sampler", "storage")


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all; whether every target is met."""
    return report.run_parts("pool", PARTS, pg_root, options)

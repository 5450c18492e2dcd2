"""Suite `advisor`: perf_opt's index advisor beside others on the same server, and what its predictions are worth.

`suite` runs the parts; `measure` is also a program that serves the TPC-H cluster and measures a file of indexes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run(pg_root: Path, options: Any) -> bool:
    """The whole suite; whether the targets are met."""
    from . import suite  # the parts need more than the small programs of this package do
    return suite.run(pg_root, options)

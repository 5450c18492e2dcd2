"""Runs the chosen parts of the suite and keeps their figures in one file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from bench import report

from .data import TpchServer, major_of

# Parts on the TPC-H server, and parts with a server of their own.
TPCH_PARTS = ("tpch", "whatif", "prices")
OWN_PARTS = ("size", "wide", "demo")
PARTS = (*TPCH_PARTS, *OWN_PARTS)
# Not for its own sake: see there.
ON_DEMAND = ("prices",)


def run(pg_root: Path, options: Any) -> bool:
    """The chosen parts, by default all but those on demand; whether every target is met."""
    chosen = options.part or [part for part in PARTS if part not in ON_DEMAND]
    figures: dict[str, Any] = {"postgresql": major_of(pg_root)}
    good = True
    if set(chosen) & set(TPCH_PARTS):
        with TpchServer(pg_root, options.home) as server:
            server.open()
            for part in (part for part in TPCH_PARTS if part in chosen):
                met, figures[part] = importlib.import_module(f"bench.advisor.{part}").run(server, options)
                good &= met
                keep(figures)
    for part in (part for part in OWN_PARTS if part in chosen):
        met, figures[part] = importlib.import_module(f"bench.advisor.{part}").run(pg_root, options)
        good &= met
        keep(figures)
    return good


def keep(figures: dict[str, Any]) -> None:
    """Writes the figures; those of parts that did not run now stay as they were."""
    path = report.result_path("advisor")
    before = json.loads(path.read_text()) if path.exists() else {}
    report.save("advisor", {**before, **figures})

"""Prints a suite's result as a table and keeps it as JSON."""

from __future__ import annotations

import importlib
import json
import os
import statistics
from pathlib import Path
from typing import Any, Sequence

ROOT = Path(__file__).resolve().parents[2]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], notes: Sequence[str] = ()) -> None:
    """Prints a table: first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  " + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                           zip(row[1:], widths[1:]))]))
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
    for note in notes:
        print(f"  {note}")
    print(flush=True)


def result_path(suite: str) -> Path:
    """Where the figures of a suite are kept."""
    directory = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute() / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{suite}.json"


def save(suite: str, result: dict[str, Any]) -> None:
    """Writes target/bench/<suite>.json."""
    result_path(suite).write_text(json.dumps(result, indent=2) + "\n")


def run_parts(suite: str, parts: Sequence[str], pg_root: Path, options: Any) -> bool:
    """Runs the chosen parts of a suite, by default all, and keeps the figures of each; whether every target is met."""
    good = True
    for part in (part for part in parts if not options.part or part in options.part):
        met, figures = importlib.import_module(f"bench.{suite}.{part}").run(pg_root, options)
        good &= met
        path = result_path(suite)
        before = json.loads(path.read_text()) if path.exists() else {}
        save(suite, {**before, part: figures})
    return good


def say(text: str) -> None:
    """A line about what is going on."""
    print(f"==> {text}", flush=True)


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def half_spread(values: Sequence[float]) -> float:
    """Half the distance between the smallest and the largest value."""
    return (max(values) - min(values)) / 2


def verdict(met: bool) -> str:
    """How a target is marked."""
    return "met" if met else "MISSED"

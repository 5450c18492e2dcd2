"""The advisors compared. Each gives `Advice`: a set of indexes for a budget by its own estimate, and what it took.

Measures nothing but the making of the advice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from bench import report
from e2e.neighbours import provide

__all__ = ["MB", "Advice", "Remembered", "planned", "provide"]
MB = 1_000_000


@dataclass
class Advice:
    """What one advisor said once. Bytes and costs are its own; None is what it does not tell."""

    advisor: str
    variant: str
    bodies: list[str]
    wall_s: float
    cpu_s: float
    planner_calls: Optional[int] = None
    promised: Optional[float] = None
    estimated_bytes: Optional[int] = None
    budget: Optional[int] = None
    notes: list[str] = field(default_factory=list)


class Remembered:
    """Advice of peers kept beside the data, which stay the same: what was asked in the same way is not asked again."""

    def __init__(self, path: Path, queries: Mapping[str, str], fresh: bool = False) -> None:
        self._path = path
        self._queries = json.dumps(list(queries.items()))
        self._known: dict[str, Any] = json.loads(path.read_text()) if path.exists() and not fresh else {}

    def get(self, name: str, module: Any, call: Callable[[], list[Advice]]) -> list[Advice]:
        """The advice of one advisor, from the file when the program that asks for it has not changed."""
        text = self._queries + "".join(path.read_text() for path in sorted(Path(module.__file__).parent.glob("*.py"))
                                       if path.stem.startswith(Path(module.__file__).stem))
        key = f"{name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
        if key not in self._known:
            report.say(f"advisor: asking {name}")
            self._known[key] = [asdict(advice) for advice in call()]
            self._path.write_text(json.dumps(self._known, indent=1) + "\n")
        return [Advice(**fields) for fields in self._known[key]]


def planned(session: Any, text: str) -> float:
    """The planner's total cost of one query."""
    first = session.query(f"EXPLAIN {text}").rows[0][0]
    return float(first.partition("..")[2].partition(" ")[0])

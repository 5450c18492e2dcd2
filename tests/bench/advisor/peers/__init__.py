"""The advisors compared. Each gives `Advice`: a set of indexes for a budget by its own estimate, and what it took.

Owns how their libraries get into the private installation. Measures nothing but the making of the advice.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from bench import report
from e2e.cluster import HarnessError

PACKAGES = {"hypopg": "postgresql-{}-hypopg", "pg_qualstats": "postgresql-{}-pg-qualstats"}
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


def tools_on_path() -> None:
    """Makes tools/bootstrap importable."""
    tools = str(Path(__file__).resolve().parents[4] / "tools")
    if tools not in sys.path:
        sys.path.append(tools)


def provide(pg_root: Path, major: int, library: str) -> Optional[str]:
    """Puts another extension into the private installation; None when it is there, else why it cannot be."""
    lib_dir, share_dir = (Path(_pg_config(pg_root / "bin" / "pg_config", option))
                          for option in ("--pkglibdir", "--sharedir"))
    if (lib_dir / f"{library}.so").exists() and (share_dir / "extension" / f"{library}.control").exists():
        return None
    home = next((parent for parent in pg_root.parents if (parent / ".copy-of").exists()), None)
    if home is None:
        return f"{pg_root} is not a private copy and has no {library}"
    source = Path((home / ".copy-of").read_text().splitlines()[0]) / "pg_config"
    source_lib, source_share = (Path(_pg_config(source, option)) for option in ("--pkglibdir", "--sharedir"))
    if not (source_lib / f"{library}.so").exists():
        tools_on_path()
        from bootstrap.packages import apt_install, can_use_apt
        package = PACKAGES[library].format(major)
        if not (can_use_apt() and apt_install([package])) or not (source_lib / f"{library}.so").exists():
            return f"the package {package} cannot be had for {source.parent}"
    shutil.copy2(source_lib / f"{library}.so", lib_dir)
    for path in (source_share / "extension").glob(f"{library}*"):
        shutil.copy2(path, share_dir / "extension")
    return None


def _pg_config(program: Path, option: str) -> str:
    try:
        return subprocess.run([program, option], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as problem:
        raise HarnessError(f"{program} {option}: {problem}") from None


def planned(session: Any, text: str) -> float:
    """The planner's total cost of one query."""
    first = session.query(f"EXPLAIN {text}").rows[0][0]
    return float(first.partition("..")[2].partition(" ")[0])

"""postgres-mcp's tuning advisor, in a virtual environment of its own in the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from e2e.cluster import SUPERUSER, HarnessError
from e2e.system import cache_dir, remove_dir

from bench import report
from ..measure import body_of
from . import Advice

REQUIREMENT = "postgres-mcp==0.3.0"
# What its advisor imports; the whole package needs more and a newer Python.
DEPENDENCIES = ("attrs", "humanize>=4.8.0", "pglast>=7.2,<8", "psycopg-pool>=3.2.6", "psycopg[binary]>=3.2.6",
                "typing_extensions")
THRESHOLD = 0.01
# Its estimate is a small part of the real size: -1 is none, the others make it look at smaller sets.
BUDGETS_MB = (-1, 8, 3)
SECONDS = 150


def environment() -> Optional[Path]:
    """The Python that has the package, or None when it cannot be had."""
    home = cache_dir() / "postgres-mcp"
    python = home / "bin" / "python"
    if (home / ".complete").exists():
        return python
    report.say(f"advisor: fetching the PyPI package {REQUIREMENT}")
    remove_dir(home)
    for command in ([sys.executable, "-m", "venv", home], [python, "-m", "pip", "install", "--quiet", *DEPENDENCIES],
                    [python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python", REQUIREMENT]):
        if subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL).returncode != 0:
            return None
    (home / ".complete").touch()
    return python


def advise(server: Any, queries: Mapping[str, str], python: Path, budgets_mb: Sequence[int] = BUDGETS_MB,
           threshold: float = THRESHOLD) -> list[Advice]:
    """One piece of advice for each estimated budget (-1: none), its indexes in the order in which it chose them."""
    with server.connect() as session:
        session.query("CREATE EXTENSION IF NOT EXISTS hypopg")
        columns = session.query("SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attnum > 0 AND"
                                " attrelid IN (SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace ="
                                " 'public'::regnamespace)").rows
    asked = {"dsn": f"postgresql://{SUPERUSER}@/postgres?host={server.socket_dir}&port={server.port}",
             "queries": list(queries.values()), "columns": columns, "budgets_mb": list(budgets_mb),
             "threshold": threshold, "seconds": SECONDS}
    done = subprocess.run([str(python), str(Path(__file__).with_name("mcp_driver.py"))], input=json.dumps(asked),
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise HarnessError(f"postgres-mcp's advisor failed:\n{done.stderr[-2000:]}")
    found = []
    for answer in json.loads(done.stdout):
        if answer["error"]:
            raise HarnessError(f"postgres-mcp's advisor: {answer['error']}")
        variant = f"{answer['budget_mb']} MB estimated" if answer["budget_mb"] > 0 else "no budget"
        found.append(Advice("postgres-mcp", variant,
                            [body_of(ddl) for ddl in answer["ddl"]], answer["wall_s"], answer["cpu_s"],
                            answer["planner_calls"], None, answer["estimated_bytes"] or None))
    return found

"""`load`: makes the sample platform's tables in an empty database and fills them. Everything happens in the server.

Rows are functions of their number and a seed (data/*.sql), so a scale and a seed always give the same rows; only times
move with the clock, because the workload asks for "the last hour". Two sessions load at a time.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping

from .server import DemoError, Server

HERE = Path(__file__).resolve().parent
SECOND_HALF = "-- Foreign keys"
SEED = 42
SESSIONS = 2

# Rows at scale 1, about two million in all, the slowest tables first. Payments follow from transactions.
ROWS: Mapping[str, int] = {
    "transactions": 500_000,
    "game_results": 400_000,
    "metrics_history": 300_000,
    "risk_scores_history": 200_000,
    "alerts": 80_000,
    "audit_events": 150_000,
    "fraud_flags": 100_000,
    "payments": 500_000 // 6,
    "users": 100_000,
    "error_logs": 60_000,
    "compliance_events": 30_000,
    "churn_predictions": 50_000,
}
PLAYERS_MIN = 1_000


@dataclass(frozen=True)
class Loaded:
    """What `load` did."""

    rows: Mapping[str, int]
    seconds: float

    @property
    def total(self) -> int:
        """Rows in all tables."""
        return sum(self.rows.values())


def rows_at(scale: float) -> dict[str, int]:
    """How many rows each table gets."""
    if not 0.001 <= scale <= 1000:
        raise DemoError(f"--scale {scale:g} is out of range: 0.001 to 1000")
    rows = {table: max(1, round(count * scale)) for table, count in ROWS.items()}
    rows["users"] = max(PLAYERS_MIN, rows["users"])
    rows["churn_predictions"] = min(rows["churn_predictions"], rows["users"])
    rows["payments"] = rows["transactions"] // 6
    return rows


def load(server: Server, scale: float = 1.0, *, seed: int = SEED,
         progress: Callable[[str], None] = lambda line: None) -> Loaded:
    """Creates, fills, constrains, vacuums and analyzes the twelve tables. The database must not have them yet."""
    began = time.monotonic()
    rows = rows_at(scale)
    tables, _, constraints = (HERE / "schema.sql").read_text().partition(SECOND_HALF)
    server.psql(script=tables)
    anchor = server.scalar("SELECT date_trunc('minute', now())")
    variables = {"users": rows["users"], "transactions": rows["transactions"], "seed": seed, "anchor": anchor}

    def fill(table: str) -> None:
        start = time.monotonic()
        server.psql(files=[HERE / "data" / "helpers.sql", HERE / "data" / f"{table}.sql"],
                    variables={**variables, "n": rows[table]})
        server.psql(script=f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {max(1, rows[table])})")
        progress(f"{table:<20} {rows[table]:>11,} rows  {time.monotonic() - start:5.1f} s")

    def finish(table: str) -> None:
        server.psql(script=f"VACUUM (ANALYZE) {table}")

    with ThreadPoolExecutor(SESSIONS) as sessions:
        list(sessions.map(fill, rows))
        start = time.monotonic()
        server.psql(script=constraints)
        progress(f"{'foreign keys':<37}  {time.monotonic() - start:5.1f} s")
        start = time.monotonic()
        list(sessions.map(finish, rows))
        server.psql(script="CHECKPOINT")
        progress(f"{'vacuum and analyze':<37}  {time.monotonic() - start:5.1f} s")
    return Loaded(rows, time.monotonic() - began)

"""Part `many`: a table with 1,000 partitions. How long a look takes when nothing is due, and making twelve more; the same by
pg_partman's maintenance.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Callable

from bench import report
from e2e.cluster import Cluster, Connection

from .servers import perf_opt_server, pg_partman_server, version_of

PARTITIONS = 1_000
AHEAD = 4
MORE = 12
LOOKS = 7
LOOK_MS_MAX = 100.0
CREATE_MS_MAX = 1_000.0
TABLE = """
CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, kind int, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE INDEX ON events (at); CREATE INDEX ON events (kind, at);
"""
# Days up to yesterday; today and those ahead are left to the manager.
DAYS = f"""
DO $$ BEGIN FOR n IN 1..{PARTITIONS - AHEAD - 1} LOOP
    EXECUTE format('CREATE TABLE events_p%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                   to_char(current_date - n, 'YYYY_MM_DD'), current_date - n, current_date - n + 1);
    COMMIT;
END LOOP; END $$
"""


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Both; whether the targets are met."""
    report.say(f"partitions: {PARTITIONS} partitions, perf_opt")
    with perf_opt_server(pg_root) as server:
        figures = {"perf_opt " + version_of(server, "perf_opt"): measure(
            server, lambda ahead: f"SELECT perf.partition_manage('events', 'day', premake => {ahead})",
            "SELECT count(*) FROM perf.partition_tick('events') WHERE status <> 'done'")}
    notes = []
    if not options.no_peers:
        report.say(f"partitions: {PARTITIONS} partitions, pg_partman")
        peer = pg_partman_server(pg_root)
        if isinstance(peer, str):
            notes.append(f"pg_partman is not available: {peer}")
        else:
            with peer:
                figures["pg_partman " + version_of(peer, "pg_partman")] = measure(peer, partman, "SELECT partman.run_maintenance('public.events')")
    own = next(iter(figures.values()))
    met = own["look_ms"] <= LOOK_MS_MAX and own["create_ms"] <= CREATE_MS_MAX
    report.table(f"{PARTITIONS} daily partitions, three indexes each",
                 ["", "nothing due, ms", f"{MORE} more ahead, ms"],
                 [[name, f"{one['look_ms']:.0f}", f"{one['create_ms']:.0f}"] for name, one in figures.items()],
                 [f"targets: {LOOK_MS_MAX:.0f} and {CREATE_MS_MAX:.0f} ms: {report.verdict(met)}", *notes])
    return met, {"figures": figures, "met": met}


def partman(ahead: int) -> str:
    """Managed by pg_partman, which is told of the table once."""
    return ("SELECT partman.create_parent('public.events', 'at', 'native', 'daily', p_start_partition := current_date::text, "
            f"p_premake := {AHEAD}) WHERE NOT EXISTS (SELECT FROM partman.part_config); "
            f"UPDATE partman.part_config SET premake = {ahead}, infinite_time_partitions = true")


def measure(server: Cluster, manage: Callable[[int], str], look: str) -> dict[str, float]:
    """Milliseconds as the caller sees them: median of looks with nothing due, and one that makes partitions."""
    with server.connect() as session:
        for text in (TABLE, DAYS, manage(AHEAD), look):
            session.query(text)
        count = session.query("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass").scalar()
        looks = [timed(session, look) for _ in range(LOOKS)]
        session.query(manage(AHEAD + MORE))
        create = timed(session, look)
        made = session.query("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass").scalar() - count
        if made != MORE:
            raise AssertionError(f"{made} partitions were made in place of {MORE}")
    return {"partitions": count, "look_ms": statistics.median(looks), "create_ms": create}


def timed(session: Connection, text: str) -> float:
    """Milliseconds that a query takes."""
    started = time.monotonic()
    session.query(text)
    return (time.monotonic() - started) * 1000

"""Part `delay`: from the time a job is due to the start of its run, and the CPU time that takes.

First perf_opt alone: 10,000 jobs due evenly over a minute, once as the record has it (started_at - scheduled_at), once as
the command sees it, which writes down the clock. Then beside pg_cron on what both can do: jobs that are all due at the same
full minute, which is more than there are places, so that the last ones wait for the first. Here the command's own clock
counts on both sides.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

from bench import report
from e2e.cluster import Cluster, Connection
from e2e.system import wait_until

from .servers import RUNNING, Used, load, perf_opt_server, pg_cron_server, pid_of, used

JOBS = 10_000
SPREAD_S = 60
AT_ONCE = 1_000
LEAD_S = 8
P99_MS = 250.0
SEEN = "CREATE TABLE seen (job text, at timestamptz)"
# Places are free at the time a run is due when fewer runs are due and have not ended than there are places.
FREE = f"""
WITH events AS (
    SELECT scheduled_at AS at, 1 AS change, run_id FROM perf.job_run
    UNION ALL SELECT finished_at, -1, NULL FROM perf.job_run),
counted AS (SELECT run_id, sum(change) OVER (ORDER BY at, change) <= {RUNNING} AS is_free FROM events)"""


@dataclass
class Figures:
    """What one run of the part came to. Milliseconds and CPU seconds."""

    title: str
    runs: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    free: int
    free_p99_ms: float
    wall_s: float
    cpu: Used
    load: str

    def row(self) -> list[str]:
        """For the table."""
        each = self.cpu.everything / max(1, self.runs) * 1000
        return [self.title, f"{self.runs:,}", f"{self.p50_ms:.0f}", f"{self.p99_ms:.0f}", f"{self.max_ms:.0f}",
                f"{self.free:,}", f"{self.free_p99_ms:.0f}", f"{self.wall_s:.1f}", f"{self.cpu.scheduler:.1f}", f"{self.cpu.postmaster:.1f}",
                f"{self.cpu.everything:.1f}", f"{each:.1f}", self.load]


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """All rows; whether the target is met."""
    rows: list[Figures] = []
    notes: list[str] = []
    report.say("jobs: perf_opt, 10,000 jobs over a minute")
    rows.append(spread(pg_root, "perf_opt, spread, as recorded", "'SELECT 1'", RECORDED))
    report.say("jobs: the same, each writing a row")
    rows.append(spread(pg_root, "perf_opt, spread, as seen by the command", WRITES, BY_COMMAND))
    met = all(figures.free > 0 and figures.free_p99_ms <= P99_MS for figures in rows)
    report.say("jobs: perf_opt, 1,000 jobs at the same minute")
    rows.append(at_once_perf_opt(pg_root))
    for in_workers in () if options.no_peers else (False, True):
        report.say(f"jobs: pg_cron on the same jobs, in {'workers' if in_workers else 'connections'}")
        server = pg_cron_server(pg_root, in_workers)
        if isinstance(server, str):
            notes.append(f"pg_cron is not available: {server}")
            break
        with server:
            rows.append(at_once_pg_cron(server, in_workers))
    show(rows, met, notes)
    return met, {"rows": [asdict(figures) for figures in rows], "met": met}


WRITES = "format('INSERT INTO seen VALUES (%L, clock_timestamp())', g)"
RECORDED = (f"{FREE} SELECT extract(epoch FROM started_at - scheduled_at) * 1000, is_free "
            "FROM counted JOIN perf.job_run USING (run_id)")
BY_COMMAND = (f"{FREE} SELECT extract(epoch FROM s.at - r.scheduled_at) * 1000, is_free "
              "FROM counted JOIN perf.job_run r USING (run_id) JOIN seen s ON s.job = r.job_name")
ENDED = "SELECT count(*) FROM perf.job_run WHERE finished_at IS NOT NULL"


def spread(pg_root: Path, title: str, command: str, delays: str) -> Figures:
    """perf_opt with jobs due one after the other, evenly."""
    with perf_opt_server(pg_root) as server, server.connect() as session:
        session.query(SEEN)
        session.query("BEGIN")
        session.query(f"SELECT count(perf.job_schedule(g::text, '1 day', {command})) FROM generate_series(1, {JOBS}) g")
        session.query(f"UPDATE perf.job SET anchor_at = at, next_run_at = at FROM (SELECT job_id AS id, clock_timestamp() "
                      f"+ interval '{LEAD_S} s' + (row_number() OVER (ORDER BY job_id)) * interval '{SPREAD_S / JOBS} s' "
                      "AS at FROM perf.job) x WHERE job_id = id")
        session.query("COMMIT")
        session.query("VACUUM ANALYZE perf.job")
        wait_until(lambda: scheduler_of(session), 10, "the scheduler")
        return measured(server, session, title, scheduler_of(session), JOBS, LEAD_S, ENDED, delays)


def at_once_perf_opt(pg_root: Path) -> Figures:
    """perf_opt with jobs that are all due at the same time."""
    with perf_opt_server(pg_root) as server, server.connect() as session:
        session.query(SEEN)
        lead = lead_to_minute(12)
        session.query(f"SELECT count(perf.job_schedule(g::text, '* * * * *', {WRITES})) "
                      f"FROM generate_series(1, {AT_ONCE}) g")
        session.query("VACUUM ANALYZE perf.job")
        wait_until(lambda: scheduler_of(session), 10, "the scheduler")
        return measured(server, session, f"perf_opt, {AT_ONCE:,} at the minute", scheduler_of(session), AT_ONCE,
                        lead(), "SELECT count(*) FROM seen", SINCE_MINUTE)


SINCE_MINUTE = (f"SELECT extract(epoch FROM at - date_trunc('minute', min(at) OVER ())) * 1000, "
                f"row_number() OVER (ORDER BY at) <= {RUNNING} FROM seen")


def at_once_pg_cron(server: Cluster, in_workers: bool) -> Figures:
    """pg_cron with the same jobs."""
    with server.connect() as session:
        session.query(SEEN)
        lead = lead_to_minute(12)
        session.query(f"SELECT count(cron.schedule(g::text, '* * * * *', {WRITES})) FROM generate_series(1, {AT_ONCE}) g")
        title = f"pg_cron, {AT_ONCE:,} at the minute, {'workers' if in_workers else 'connections'}"
        return measured(server, session, title, pid_of(server, "pg_cron launcher"), AT_ONCE, lead(),
                        "SELECT count(*) FROM seen", SINCE_MINUTE)


def lead_to_minute(least_s: float) -> Callable[[], float]:
    """Waits until the next full minute is at least so far away; then gives the seconds that are left to it."""
    if 60 - time.time() % 60 < least_s:
        time.sleep(60 - time.time() % 60)
    return lambda: 60 - time.time() % 60


def scheduler_of(session: Connection) -> int:
    """The process that schedules, 0 when there is none."""
    found = session.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'perf_opt scheduler'").rows
    return found[0][0] if found else 0


def measured(server: Cluster, session: Connection, title: str, scheduler: int, count: int, lead_s: float, ended: str,
             delays: str) -> Figures:
    """Waits for the first tick, measures until so many runs have ended, and takes the delays."""
    time.sleep(max(0.0, lead_s - 1.0))
    busy = load()
    before, started = used(server, scheduler), time.monotonic()
    time.sleep(1.0)
    while session.query(ended).scalar() < count:
        if time.monotonic() - started > 600:
            break
        time.sleep(0.25)
    wall, cpu = time.monotonic() - started - 1.0, used(server, scheduler).since(before)
    taken = sorted((float(delay), is_free) for delay, is_free in session.query(delays).rows if delay is not None)[:count]
    values, free = [delay for delay, _ in taken], [delay for delay, is_free in taken if is_free]
    return Figures(title, len(values), at(values, 0.5), at(values, 0.99), values[-1], len(free), at(free, 0.99), wall, cpu,
                   busy)


def at(values: Sequence[float], share: float) -> float:
    """A percentile of ordered values."""
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0.0


def show(rows: list[Figures], met: bool, notes: list[str]) -> None:
    """Prints the table."""
    report.table("Start delay of jobs in ms, and CPU seconds of the server meanwhile",
                 ["jobs", "runs", "p50", "p99", "max", "free", "free p99", "wall s", "scheduler", "postmaster", "all", "ms/run", "load"],
                 [figures.row() for figures in rows],
                 [f"free: runs that were due while fewer than {RUNNING} were due and had not ended",
                  f"target, spread over {SPREAD_S} s: p99 <= {P99_MS:.0f} ms while places are free: {report.verdict(met)}",
                  *notes])

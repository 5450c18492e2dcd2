"""What was hoped for and what is achieved: phases 1 and 2 of the roadmap are carried out, and the workload runs again.

Indexes are applied as they are recommended; materialized views are those of the catalogue; results are cached where the
measurement says that it pays. The scripts in workload/improved are what the platform's developers change for it.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Callable, Mapping, NamedTuple, Optional, Sequence

from .printing import Column, milliseconds, paragraph, percent, table
from .runner import Measured, Run, Script, manifest
from .server import Server

IMPROVED = "improved"
WAIT_S = 600.0
# No advice for so small a platform comes to so many indexes.
APPLY_MAX = 40


class Hope(NamedTuple):
    """What a part of the platform hopes to gain: the catalogue, section 11."""

    part: str
    area: str
    low_pct: float
    high_pct: float


HOPES: Sequence[Hope] = (
    Hope("dashboards", "dashboards", 50, 60),
    Hope("time series", "time_series", 40, 50),
    Hope("alert filtering", "alert_filters", 50, 60),
    Hope("risk scores", "risk_scores", 30, 40),
    Hope("risk trends", "risk_trends", 30, 40),
    Hope("bulk scoring", "bulk_scoring", 40, 50),
    Hope("cohorts", "cohorts", 70, 80),
    Hope("churn", "churn", 25, 35),
    Hope("segments", "segments", 60, 70),
)
# Where the events of the catalogue's caches happen on this platform.
EVENTS: Mapping[str, tuple[str, str]] = {
    "transaction_completed": ("transactions", "{insert,update}"), "transaction_created": ("transactions", "{insert}"),
    "user_created": ("users", "{insert}"), "payment_created": ("payments", "{insert}"),
    "fraud_flag_created": ("fraud_flags", "{insert}"), "compliance_event": ("compliance_events", "{insert,update}"),
    "metric_updated": ("metrics_history", "{insert}"), "alert_triggered": ("alerts", "{insert}"),
}
# Scripts that ask perf.cached() once their policy is followed.
CACHED: Mapping[str, str] = {"system_health": "system_health", "executive_dashboard": "executive_dashboard",
                             "operations_dashboard": "operations_dashboard", "security_dashboard": "security_dashboard"}
# Scripts that read a materialized view.
ON_VIEWS: Mapping[str, str] = {"user_cohorts": "mv_cohort_summary", "active_alerts": "mv_active_alerts",
                               "active_alerts_critical": "mv_active_alerts"}


def ended(server: Server, run: str) -> str:
    """How a run ended. perf.job_wait() does not wait for a build that would have to wait for it."""
    give_up = time.monotonic() + WAIT_S
    while True:
        status = server.scalar(f"SELECT perf.job_wait({run}, '10 s')")
        if status not in ("queued", "running") or time.monotonic() > give_up:
            return status
        time.sleep(0.2)


def carry_out(server: Server, say: Callable[[str], None]) -> list[Script]:
    """Phases 1 and 2; the workload as it is afterwards."""
    changed: set[str] = set()
    tried: set[str] = set()
    while True:
        # What is there changes what else is worth it: asked anew each time.
        wanted = server.rows("SELECT id, ddl FROM perf.index_recommendations() WHERE status = 'recommended' AND action = 'create'")
        row = next((row for row in wanted if row["id"] not in tried), None)
        if row is None or len(tried) >= APPLY_MAX:
            break
        tried.add(row["id"])
        say(f"  perf.apply: {row['ddl']}")
        run = server.scalar(f"SELECT perf.apply('{row['id']}')")
        status = ended(server, run)
        if status != "succeeded":
            say(f"    {status}: " + server.scalar(f"SELECT message FROM perf.job_runs WHERE run_id = {run}"))
    for row in server.rows("SELECT * FROM perf.matview_policy_apply()"):
        say(f"  {row['view_name']}: {row['action']}")
        changed.update(script for script, view in ON_VIEWS.items() if view == row["view_name"])
    caches = {row["name"]: row for row in server.rows("SELECT name, status, reason, invalidated_by FROM perf.caching_strategies()")}
    for script, cache in CACHED.items():
        row = caches.get(cache)
        if row is None or row["status"] != "recommended":
            say(f"  {cache} is not cached: {row['reason'] if row else 'nothing is known of it'}")
            continue
        for event in row["invalidated_by"]:
            relation, operations = EVENTS[event]
            server.psql(script=f"SELECT perf.cache_watch('{event}', '{relation}', '{operations}')")
        say(f"  {cache} is cached")
        changed.add(script)
    return [dataclasses.replace(script, variant=IMPROVED if script.name in changed else "") for script in manifest()]


def mean_of(scripts: Sequence[Measured], weights: Mapping[str, int]) -> Optional[float]:
    """Mean latency of some scripts, each as often as it ran before anything was changed; None: none of them ran."""
    known = [one for one in scripts if one.executions and weights[one.script.name]]
    count = sum(weights[one.script.name] for one in known)
    return sum(one.mean_ms * weights[one.script.name] for one in known) / count if count else None


def gain_pct(before: Optional[float], after: Optional[float]) -> Optional[float]:
    """By how much less it takes; None: it was not measured."""
    return 100 * (1 - after / before) if before and after is not None else None


def lines(before: Run, after: Run, width: int) -> list[str]:
    """The table of hoped and achieved."""
    weights = {one.script.name: one.executions for one in before.scripts}
    ran = {one.script.name for one in after.scripts if one.executions}

    def times(area: Optional[str]) -> tuple[Optional[float], Optional[float]]:
        of = [one for one in before.scripts if area in (None, one.script.area) and one.script.name in ran]
        again = [one for one in after.scripts if area in (None, one.script.area)]
        return mean_of(of, weights), mean_of(again, weights)

    rows = []
    for hope in HOPES:
        was, now = times(hope.area)
        achieved = gain_pct(was, now)
        verdict = "not measured" if achieved is None else "reached" if achieved >= hope.low_pct else "missed"
        rows.append({"part": hope.part, "hoped": f"{hope.low_pct:.0f}-{hope.high_pct:.0f} %", "before": was, "after": now,
                     "achieved": achieved, "verdict": verdict})
    was, now = times(None)
    rows.append({"part": "the whole workload", "hoped": "", "before": was, "after": now, "achieved": gain_pct(was, now),
                 "verdict": ""})
    columns = [Column("part", "part of the platform"), Column("hoped", "hoped"), Column("before", "before", milliseconds),
               Column("after", "after", milliseconds), Column("achieved", "achieved", percent), Column("verdict", "")]
    return [*table(columns, rows, width), "",
            *paragraph("Mean latency as clients see it, while the whole workload runs, before and after phases 1 and 2.", width)]

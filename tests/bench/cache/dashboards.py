"""Part `dashboards`: the policies' statements on the sample platform, computed, and through perf.cached()."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from bench import report
from bench.servers import PERF_OPT, start
from demo import loader
from demo.server import Server

TARGET_RATIO = 20.0
# Faster ones are not worth a cache.
SLOW_MS = 5.0
PARAMETERS: dict[str, dict[str, Any]] = {
    "user_risk_score": {"user_id": 7}, "user_behavior_profile": {"user_id": 7},
    "metrics_timeseries": {"metric_type": "cpu_pct", "minutes": 60},
}
COMPUTED, HITS = 5, 500


def run(pg_root: Path, _: Any) -> tuple[bool, dict[str, Any]]:
    """The middle of some computations against that of many hits, seen by a client."""
    server = start(pg_root, PERF_OPT, {"shared_buffers": "1GB"}, pgbench=False)
    try:
        loader.load(Server.of(server))
        rows, figures, met = [], {}, True
        with server.connect() as session:
            policies = [name for (name,) in session.query("SELECT cache_name FROM perf.cache_policy WHERE compute_sql IS NOT NULL ORDER BY policy_no").rows]
            for name in policies:
                given = (name, json.dumps(PARAMETERS.get(name, {})))
                computed = []
                for _ in range(COMPUTED):
                    session.query("SELECT perf.cache_invalidate(key => key) FROM (SELECT DISTINCT key FROM perf.cache_entry) AS k")
                    computed.append(timed(session, given))
                hits = [timed(session, given) for _ in range(HITS)]
                figure = {"computed_ms": report.middle(computed), "hit_ms": report.middle(hits)}
                figure["ratio"] = figure["computed_ms"] / figure["hit_ms"]
                figures[name] = figure
                counts = figure["computed_ms"] < SLOW_MS or figure["ratio"] >= TARGET_RATIO
                met &= counts
                rows.append([name, f"{figure['computed_ms']:.2f}", f"{figure['hit_ms']:.3f}", f"{figure['ratio']:.0f}"])
        report.table("perf.cached() on the sample platform, seen by a client", ["policy", "computed, ms", "hit, ms", "ratio"], rows,
                     [f"target, {TARGET_RATIO:.0f} times as fast where computing takes {SLOW_MS:.0f} ms: {report.verdict(met)}"])
        return met, figures
    finally:
        server.destroy()


def timed(session: Any, given: tuple[str, str]) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    session.execute("SELECT perf.cached($1, $2::jsonb) IS NULL", given)
    return (time.perf_counter() - began) * 1e3

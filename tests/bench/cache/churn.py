"""Part `churn`: a day of puts, expiries and invalidations, and what the tables take beside what is in them.

A simulated minute is a turn: so many puts, of new keys and old ones, small values and large, some with a short life and
some invalidated; the collector runs and autovacuum looks, as each does every minute. A simulated minute is a second: the
entries' lives, the collector's interval and autovacuum's are a sixtieth of what they are.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench import report
from bench.servers import PERF_OPT, start

PUTS = 1_500
TARGET = 1.5
SETTINGS = {"shared_buffers": "512MB", "autovacuum": "on", "autovacuum_naptime": "1s", "perf_opt.collect_interval": "1s",
            "perf_opt.cache_max_mb": 64, "perf_opt.track": "none"}
# Of keys that grow with time and come back; a tenth of the values is beyond what stays in a row.
PUT = """
SELECT count(*) FROM (
    SELECT perf.cache_put('cache:entry:' || ({minute} * 200 + random() * 60000)::int,
                          to_jsonb((SELECT string_agg(md5(random()::text || h || g), '')
                                    FROM generate_series(1, CASE WHEN random() < 0.1 THEN 400 ELSE 1 + (random() * 30)::int END) AS h)),
                          (ARRAY['5 s', '30 s', '2 min', '12 min'])[1 + (random() * 3)::int]::interval, ARRAY['tag' || g % 500])
    FROM generate_series(1, {puts}) AS g) AS puts"""
# Live data: the bytes of the rows as they are stored.
SIZES = """
SELECT (SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class AS c WHERE c.relname ~ '^cache_entry_[0-7]$')::bigint,
       (SELECT sum(pg_column_size(e.value) + pg_column_size(e.key) + pg_column_size(e.tags) + pg_column_size(e.depends)
                   + pg_column_size(e.not_seen) + pg_column_size(e.policy) + 120) FROM perf.cache_entry AS e)::bigint,
       (SELECT count(*) FROM perf.cache_entry)"""


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """The whole day; sizes once a simulated hour."""
    minutes = options.minutes
    server = start(pg_root, PERF_OPT, SETTINGS, pgbench=False)
    try:
        rows, ratios = [], []
        with server.connect() as session:
            for minute in range(minutes):
                began = time.monotonic()
                session.query(PUT.format(minute=minute, puts=PUTS))
                session.query(f"SELECT perf.cache_invalidate(tag => 'tag{minute % 500}')")
                time.sleep(max(0.0, began + 1.0 - time.monotonic()))
                if minute % 60 == 59:
                    total, live, entries = session.query(SIZES).rows[0]
                    ratios.append(total / live)
                    report.say(f"cache: churn, hour {minute // 60 + 1}: {live / 2**20:.1f} MB live, files {total / live:.2f} times that")
                    rows.append([str(minute // 60 + 1), str(entries), f"{live / 2**20:.1f}", f"{total / 2**20:.1f}", f"{total / live:.2f}"])
        worst, last = max(ratios[1:] or ratios), ratios[-1]
        met = worst <= TARGET
        report.table(f"{minutes} minutes of churn, {PUTS} puts each", ["hour", "entries", "live, MB", "files, MB", "ratio"], rows,
                     [f"target, files with indexes and TOAST at most {TARGET} times live data after the first hour: {report.verdict(met)}"])
        return met, {"worst": worst, "last": last, "ratios": ratios}
    finally:
        server.destroy()

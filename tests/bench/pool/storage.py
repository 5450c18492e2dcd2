"""Part `storage`: what samples take after three years, with all series that a busy server has.

What is older than its retention is dropped, so three years later as much is stored as each resolution keeps, and one
partition more. Rows are those of a real sample, repeated for each span.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2e.cluster import Cluster

from .. import report
from ..servers import QUIET

LIMIT_BYTES = 64 << 20
# Resolution, retention and partition in seconds; and the table.
STEPS = ((60, 2 * 86_400, 43_200, "1min"), (300, 14 * 86_400, 86_400, "5min"), (3_600, 90 * 86_400, 864_000, "1h"),
         (86_400, 1_095 * 86_400, 90 * 86_400, "1d"))
# Beside what the server of the measurement has: standbys, slots, volumes, roles.
MORE = (("replication_lag_bytes", 60, 2), ("replication_lag_s", 60, 2), ("slot_retained_bytes", 60, 2), ("connections_busy", 60, 3),
        ("disk_used_bytes", 300, 2), ("disk_available_bytes", 300, 2), ("relation_size_bytes", 3600, 10), ("relation_size_bytes", 86400, 30))
DAYS = 30
# As many as an hour has apart, the others, and the database.
ROLES = 33


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """Whether all of it is below the limit, and the figures."""
    with Cluster(pg_root, {**QUIET, "shared_preload_libraries": "", "max_wal_size": "8GB"}, name="bench storage").start() as server:
        server.sql("CREATE EXTENSION perf_opt")
        with server.connect() as session:
            for _ in range(2):
                session.query("UPDATE perf.capacity_clock SET sampled_at = '-infinity'")
                session.query("SELECT perf.capacity_sample_now()")
        server.sql("CREATE TABLE series AS SELECT DISTINCT resolution_s, metric, object FROM perf.capacity_sample "
                   "WHERE sampled_at = (SELECT max(sampled_at) FROM perf.capacity_sample)")
        for metric, resolution, count in MORE:
            server.sql("INSERT INTO series SELECT $1, $2, 'another_object_' || n FROM generate_series(1, $3::int) AS n", (resolution, metric, count))
        # Counted by a collector only.
        server.sql("INSERT INTO series SELECT 60, m, current_database() FROM unnest('{qps}'::text[]) AS m")
        server.sql("INSERT INTO series SELECT 60, 'waiting_pct', c FROM unnest('{CPU,IO,Lock,LWLock,Client,other}'::text[]) AS c "
                   "WHERE NOT EXISTS (SELECT FROM series s WHERE s.metric = 'waiting_pct' AND s.object = c)")
        rows = [fill(server, *step) for step in STEPS]
        sizes = {name: int(server.scalar(f"SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('perf.capacity_sample_{name}')"))
                 for *_, name in STEPS}
        # Day by day, with what the sampler and autovacuum do meanwhile.
        for day in range(DAYS, 0, -1):
            server.sql("INSERT INTO perf.pool_hour SELECT date_trunc('hour', now()) - make_interval(hours => h), "
                       "CASE r WHEN 0 THEN '' ELSE 'application_role_' || r END, array_fill(100, ARRAY[40]), 40, 90000, 30000 "
                       "FROM generate_series(24 * $1::int - 23, 24 * $1::int) AS h, generate_series(0, $2::int) AS r", (day, ROLES))
            server.sql("SELECT perf.capacity_sample_now()")
            server.sql("VACUUM perf.pool_hour")
        hours = int(server.scalar("SELECT count(*) FROM perf.pool_hour"))
        sizes["pool_hour"] = int(server.scalar("SELECT pg_total_relation_size('perf.pool_hour')"))
    total = sum(sizes.values())
    met = total <= LIMIT_BYTES
    report.table("Samples after three years", ["resolution", "series", "rows", "MB"],
                 [*([name, count, f"{stored:,}", f"{sizes[name] / 2**20:.1f}"] for name, count, stored in rows),
                  ["pool hours", ROLES + 1, f"{hours:,}", f"{sizes['pool_hour'] / 2**20:.1f}"],
                  ["all", "", "", f"{total / 2**20:.1f}"]],
                 [f"target, {LIMIT_BYTES >> 20} MB: {report.verdict(met)}"])
    return met, {"bytes": total, "sizes": sizes}


def fill(server: Cluster, resolution: int, keep: int, step: int, name: str) -> tuple[str, int, int]:
    """Fills a resolution up to its retention; its name, series and rows."""
    table = f"capacity_sample_{name}"
    # What is measured finer is summed up, unless it is measured here as well.
    series = (f"SELECT DISTINCT metric, object FROM series s WHERE resolution_s <= {resolution} AND (resolution_s = {resolution} "
              f"OR NOT EXISTS (SELECT FROM series x WHERE x.metric = s.metric AND x.resolution_s = {resolution}))")
    server.sql(f"""DO $$
        DECLARE first timestamptz := (SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$FROM \\('([^']+)'$re$))[1]::timestamptz)
                                        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'perf.{table}'::regclass);
        BEGIN
            FOR n IN 1..{(keep + step) // step} LOOP
                EXECUTE format('CREATE TABLE perf.{table}_past%s PARTITION OF perf.{table} FOR VALUES FROM (%L) TO (%L)', n,
                               first - n * interval '{step} s', first - (n - 1) * interval '{step} s');
                INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean, value_min, value_p95, value_max)
                SELECT s.metric, s.object, first - n * interval '{step} s' + make_interval(secs => t), {resolution}, t, t, t, t
                  FROM generate_series(0, {step - resolution}, {resolution}) AS t, ({series}) AS s;
            END LOOP;
        END $$""")
    count = int(server.scalar(f"SELECT count(*) FROM ({series}) AS s"))
    return name, count, int(server.scalar("SELECT count(*) FROM perf.capacity_sample WHERE resolution_s = $1::int", (resolution,)))

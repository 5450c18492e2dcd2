"""What the demo prints: one function for each question, asking the server through the public functions of schema perf."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from .printing import Column, factor, integer, milliseconds, paragraph, percent, size, table
from .server import DemoError, Server

Section = Callable[[Server, str, int], list[str]]


def slow_queries(server: Server, since: str, width: int) -> list[str]:
    """The slowest execution of every statement that was slow."""
    kept = f"perf.slow_queries(since => {since}, max_rows => 10000)"
    counts = server.rows(f"SELECT count(*) AS all, count(*) FILTER (WHERE severity = 'critical') AS critical, "
                         f"count(*) FILTER (WHERE severity = 'emergency') AS emergency FROM {kept}")[0]
    rows = server.rows(f"SELECT to_char(captured_at, 'HH24:MI:SS') AS at, severity, duration_ms, rows, outcome, "
                       f"temp_blks_written * 8192 AS spilled, query FROM (SELECT DISTINCT ON (queryid) * FROM {kept} "
                       f"ORDER BY queryid, duration_ms DESC) AS s ORDER BY duration_ms DESC LIMIT 8")
    columns = [Column("at", "at (UTC)"), Column("severity", "severity"), Column("duration_ms", "took", milliseconds),
               Column("rows", "rows", integer), Column("outcome", "outcome"), Column("spilled", "spilled", size),
               Column("query", "the slowest execution of each statement", wide=True)]
    return [f"{counts['all']} executions were slow, {counts['critical']} of them critical, {counts['emergency']} emergency.",
            "", *table(columns, rows, width, empty="none was slow")]


def patterns(server: Server, since: str, width: int) -> list[str]:
    """Slow and failing executions by statement."""
    rows = server.rows(f"SELECT * FROM perf.slow_query_patterns(since => {since}, max_rows => 12)")
    columns = [Column("executions", "runs", integer), Column("slow", "slow", integer), Column("critical", "crit", integer),
               Column("failures", "failed", integer), Column("mean_ms", "mean", milliseconds),
               Column("p95_ms", "p95", milliseconds), Column("share_pct", "of time", percent), Column("cause", "cause"),
               Column("trend", "trend"), Column("query", "statement", wide=True)]
    return table(columns, rows, width)


def statements(server: Server, since: str, width: int) -> list[str]:
    """The statements that took most time."""
    rows = server.rows("SELECT *, 100 * total_ms / nullif(sum(total_ms) OVER (), 0) AS share_pct FROM perf.statements() "
                       "WHERE toplevel ORDER BY total_ms DESC LIMIT 15")
    columns = [Column("calls", "calls", integer), Column("total_ms", "total", milliseconds),
               Column("share_pct", "of time", percent), Column("p50_ms", "p50", milliseconds),
               Column("p95_ms", "p95", milliseconds), Column("p99_ms", "p99", milliseconds),
               Column("max_ms", "max", milliseconds), Column("query", "statement", wide=True)]
    return table(columns, rows, width)


def indexes(server: Server, since: str, width: int) -> list[str]:
    """What to index, what the catalogue wished for, and the commands."""
    rows = server.rows("SELECT *, relation || ' (' || array_to_string(columns, ', ') || ')' AS index FROM perf.index_recommendations()")
    columns = [Column("priority", "priority"), Column("action", "action"), Column("source", "source"),
               Column("status", "status"), Column("size_bytes", "size", size), Column("benefit_pct", "saves", percent),
               Column("best_speedup", "best", factor), Column("policy_gain", "wished", limit=9),
               Column("index", "index", wide=True)]
    lines = table(columns, rows, width, empty="no recommendation")
    lines += ["", *paragraph("saves: share of the measured time, by what-if planning; best: the statement that gains most; "
                             "wished: what the policy hopes for, not measured.", width)]
    todo = [row for row in rows if row["status"] == "recommended"]
    if todo:
        lines += ["", "Why, and the commands:"]
    for row in todo:
        lines += paragraph(str(row["reason"] or ""), width)
        lines += paragraph(str(row["ddl"] or "").rstrip(";") + ";", width, "      ")
    return lines


def partitions(server: Server, since: str, width: int) -> list[str]:
    """What to partition by time: by the workload, by the catalogue's four wishes, and how those that are partitioned do."""
    # The platform is small: its tables are nowhere near the memory for pages that advice is about by default.
    rows = server.rows("SELECT * FROM perf.partition_advice(min_size_bytes => 0)")
    columns = [Column("priority", "priority"), Column("relation", "table"), Column("control_column", "by"), Column("every", "every"),
               Column("expected_benefit_pct", "saves", percent), Column("basis", "basis"), Column("reason", "why", wide=True)]
    lines = table(columns, rows, width, empty="no table would gain")
    wishes = server.rows("SELECT * FROM perf.partition_policy_apply()")
    columns = [Column("table_name", "the catalogue's wish"), Column("action", "action"),
               Column("what", "command, and why", wide=True)]
    written = [{**row, "what": "; ".join(filter(None, (row["ddl"], row["reason"])))} for row in wishes]
    lines += ["", *table(columns, written, width, empty="no wish")]
    # On a server of one's own a person would type these commands, one at a time, while the platform is in use.
    for row in wishes:
        if row["action"] == "convert_first":
            try:
                server.psql(script=row["ddl"])
            except DemoError as problem:
                # A materialized view that reads a table is in the way of its conversion, for one.
                lines += ["", *paragraph(f"{row['table_name']} stays as it is: {problem}", width)]
    conversions = server.rows("SELECT *, extract(epoch FROM converted_at - started_at)::float8 * 1000 AS took_ms"
                              " FROM perf.partition_conversions ORDER BY started_at")
    columns = [Column("relation", "converted"), Column("every", "every"), Column("took_ms", "took", milliseconds),
               Column("exclusive_lock_ms", "locked", milliseconds), Column("first_partition", "what was there", wide=True)]
    lines += ["", *table(columns, conversions, width, empty="nothing was converted")]
    server.rows("SELECT * FROM perf.partition_policy_apply()")
    steps = server.rows("SELECT * FROM perf.partition_tick()")
    columns = [Column("relation", "managed from now on"), Column("step", "step"), Column("status", "status"),
               Column("detail", "detail", wide=True)]
    lines += ["", *table(columns, steps, width, empty="every managed table has the partitions that it needs")]
    problems = server.rows("SELECT * FROM perf.partition_check()")
    columns = [Column("parent", "table"), Column("problem", "problem"), Column("detail", "detail", wide=True)]
    return lines + ["", *table(columns, problems, width, empty="nothing is wrong with partitioned tables")]


def in_unit(unit: str) -> Callable[[Any], str]:
    """How to write a value of a unit."""
    return size if unit == "bytes" else integer


def capacity(server: Server, since: str, width: int) -> list[str]:
    """Where capacity goes, as far as the samples allow to say."""
    rows = server.rows("SELECT *, replace(horizon::text, 'mons', 'months') AS ahead FROM perf.capacity_estimate()")
    written = [{**row, **{key: None if row[key] is None else in_unit(row["unit"])(row[key])
                          for key in ("current_value", "projected", "projected_low", "projected_high", "trigger_value")}}
               for row in rows]
    for row in written:
        row["range"] = None if row["projected_low"] is None else f"{row['projected_low']} - {row['projected_high']}"
    columns = [Column("metric", "metric"), Column("ahead", "ahead"), Column("current_value", "now", str),
               Column("projected", "then", str), Column("range", "range", str), Column("trigger_value", "trigger", str),
               Column("quality", "quality"), Column("action", "what to do", wide=True)]
    return table(columns, written, width)


def amount(value: Any, unit: str) -> str | None:
    """A value in its unit, as a person writes it."""
    if value is None:
        return None
    return size(value) if unit in ("bytes", "bytes/s") else f"{value:,.3g} {unit}".rstrip()


def scaling(server: Server, since: str, width: int) -> list[str]:
    """The six ways to grow: which of them the numbers call for, and the configuration that the server wrote for it."""
    rows = server.rows("SELECT * FROM perf.scaling_recommendations()")
    written = [{**row, "measured": amount(row["measured_value"], row["unit"] or ""),
                "limit": amount(row["threshold"], row["unit"] or ""), "due": "yes" if row["triggered"] else "no"}
               for row in rows]
    columns = [Column("kind", "kind"), Column("due", "due"), Column("metric", "metric"), Column("measured", "measured", str),
               Column("limit", "trigger", str), Column("expected_benefit_pct", "saves", percent), Column("basis", "basis"),
               Column("reason", "why", wide=True)]
    return table(columns, written, width)


def sharding(server: Server, since: str, width: int) -> list[str]:
    """Whether to split the platform over several servers, and by what."""
    rows = server.rows("SELECT * FROM perf.sharding_advice() LIMIT 6")
    columns = [Column("candidate_key", "by"), Column("verdict", "verdict"), Column("single_shard_pct", "one node", percent),
               Column("cross_shard_pct", "several", percent), Column("imbalance", "imbalance", factor),
               Column("predicted_speedup", "speed", factor), Column("reason", "why", wide=True)]
    return table(columns, rows, width)


def caching(server: Server, since: str, width: int) -> list[str]:
    """Which results to keep in a cache: the catalogue's ten wishes, then what the workload itself calls for."""
    rows = server.rows("SELECT *, extract(epoch FROM recommended_ttl)::float8 * 1000 AS life_ms"
                       " FROM perf.caching_strategies(include_inapplicable => true) LIMIT 22")
    columns = [Column("name", "cache"), Column("source", "source"), Column("status", "status"),
               Column("reads_per_min", "reads/min", integer), Column("writes_per_min", "writes/min", integer),
               Column("expected_hit_pct", "expected", percent), Column("life_ms", "live for", milliseconds),
               Column("saved_ms_per_min", "ms/min saved", integer), Column("reason", "why", wide=True)]
    return table(columns, rows, width)


def alerts(server: Server, since: str, width: int) -> list[str]:
    """What the catalogue watches, and how each application does."""
    rows = server.rows("SELECT * FROM perf.alerts(include_ok => true)")
    written = [{**row, "now": amount(row["value"], row["unit"]), "limit": amount(row["threshold"], row["unit"])} for row in rows]
    columns = [Column("name", "alert"), Column("severity", "severity"), Column("status", "status"), Column("now", "now", str),
               Column("limit", "threshold", str), Column("action", "what to do", wide=True)]
    applications = server.rows(
        "SELECT object, max(value) FILTER (WHERE name = 'application_throughput') AS throughput,"
        " max(value) FILTER (WHERE name = 'application_latency_mean') AS mean,"
        " max(value) FILTER (WHERE name = 'application_latency_p95') AS p95,"
        " max(value) FILTER (WHERE name = 'application_latency_p99') AS p99,"
        " max(value) FILTER (WHERE name = 'application_error_rate') AS errors"
        " FROM perf.metrics() WHERE scope = 'application' GROUP BY 1 ORDER BY 2 DESC NULLS LAST, 1 LIMIT 10")
    each = [Column("object", "application"), Column("throughput", "statements/s", integer), Column("mean", "mean", milliseconds),
            Column("p95", "p95", milliseconds), Column("p99", "p99", milliseconds), Column("errors", "errors", percent)]
    return [*table(columns, written, width), "", *table(each, applications, width, empty="no application")]


def cost(server: Server, since: str, width: int) -> list[str]:
    """What it takes a month: resources as measured, money from the price table."""
    rows = server.rows("SELECT * FROM perf.cost_impact()")
    for row in rows:
        low, high = row["monthly_cost_low"], row["monthly_cost_high"]
        row["month"] = None if low is None else f"{low:,.0f} - {high:,.0f} {row['currency']}" if low != high else \
            f"{low:,.0f} {row['currency']}"
        row["amount"] = amount(row["quantity"], row["resource_unit"] or "")
    columns = [Column("item", "item"), Column("amount", "how much", str), Column("month", "a month", str), Column("basis", "basis"),
               Column("note", "note", wide=True)]
    return table(columns, rows, width)


def examples(server: Server, since: str, width: int) -> list[str]:
    """Statements that could be written better: the catalogue's three, and those that were captured."""
    rows = server.rows("SELECT * FROM perf.sql_optimization_examples()")
    written = [{**row, "what": "; ".join(filter(None, (row["problem"], row["after_sql"], row["note"])))} for row in rows]
    columns = [Column("example_no", "no", integer), Column("title", "title"), Column("source", "source"),
               Column("improvement_pct", "saves", percent), Column("policy_gain", "wished", limit=9), Column("what", "what", wide=True)]
    return table(columns, written, width, empty="no statement could be written better")


def roadmap(server: Server, since: str, width: int) -> list[str]:
    """How far each task of the four phases is."""
    rows = server.rows("SELECT *, phase || '.' || task_no AS no FROM perf.optimization_roadmap()")
    columns = [Column("no", "no"), Column("task", "task", limit=44), Column("status", "status"),
               Column("expected_gain_pct", "left", percent), Column("measured_gain_pct", "gained", percent), Column("reason", "why", wide=True)]
    return [*table(columns, rows, width), "",
            *paragraph("left: what is still to be gained, of the measured workload; gained: by changes that were verified.", width)]


def checklist(server: Server, since: str, width: int) -> list[str]:
    """What to look at before, during and after: checked where a server can."""
    rows = server.rows("SELECT *, phase || ' ' || item_no AS no FROM perf.deployment_checklist()")
    columns = [Column("no", "no"), Column("item", "item", limit=40), Column("status", "status"), Column("detail", "detail", wide=True)]
    return table(columns, rows, width)


def health(server: Server, since: str, width: int) -> list[str]:
    """How perf_opt itself is doing."""
    rows = server.rows("SELECT * FROM perf.health()")
    columns = [Column("component", "component"), Column("status", "status"), Column("detail", "detail", wide=True)]
    return table(columns, rows, width)


# What is asked before anything is changed.
FIRST: Sequence[tuple[str, Section]] = (
    ("Slow queries", slow_queries),
    ("Slow and failing patterns", patterns),
    ("Top statements by time", statements),
    ("Index recommendations", indexes),
)
# And after the first two phases of the roadmap.
THEN: Sequence[tuple[str, Section]] = (
    ("Partitions", partitions),
    ("Capacity", capacity),
    ("Scaling", scaling),
    ("Sharding", sharding),
    ("Caches", caching),
    ("Alerts and applications", alerts),
    ("Cost", cost),
    ("Better SQL", examples),
    ("Roadmap", roadmap),
    ("Deployment checklist", checklist),
    ("Health of perf_opt", health),
)

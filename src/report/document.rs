//! Fills the document of a report: each part is one query over the public functions and views, run as whoever asks, and a part
//! that fails is a warning instead of the end of the report. Locks what those queries lock.

use perf_report::document::{Comparison, Document, Level, Period, Server, Warning};
use perf_report::Timestamp;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use serde::de::DeserializeOwned;

use crate::act::executor;
use crate::memory;
use crate::pg::background;
use crate::pg::query::{run_with, select_with, text};
use crate::pg::text::Text;
use crate::workload::history;

const MINUTE_US: i64 = 60_000_000;
/// Points of a chart over the period, about.
const POINTS: i64 = 200;
/// What an open beginning stands for.
const OPEN_US: i64 = 90 * 86_400_000_000;
/// 1970 on the server's clock.
const UNIX_TO_SERVER_US: i64 = 946_684_800_000_000;

/// What a report is asked for.
pub struct Wish {
    /// From when on; None: as far as history reaches.
    pub since: Option<TimestampWithTimeZone>,
    /// A baseline to compare with.
    pub compare_to: Option<String>,
}

/// A part of the document. Its query gives one text, JSON with the names of the document's fields; $1: since, $2: the width
/// of a point in time, $3: when activity begins.
struct Part {
    name: &'static str,
    query: &'static std::ffi::CStr,
    fill: fn(&mut Document, &str) -> Result<(), serde_json::Error>,
    /// Needs shared memory.
    captured: bool,
}

fn parse<T: DeserializeOwned>(json: &str, into: &mut T) -> Result<(), serde_json::Error> {
    *into = serde_json::from_str(json)?;
    Ok(())
}

/// In the document's order.
const PARTS: &[Part] = &[
    Part {
        name: "alerts",
        query: c"SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(s))), '[]')::text FROM perf.alerts(true) AS s",
        fill: |document, json| parse(json, &mut document.alerts),
        captured: false,
    },
    Part {
        name: "activity",
        query: c"SELECT perf._report_activity($1, $2, $3)",
        fill: |document, json| {
            (document.load, document.latency, document.statements) = serde_json::from_str(json)?;
            Ok(())
        },
        captured: true,
    },
    Part {
        name: "recommendations",
        query: c"WITH advice AS (
                     SELECT 1 AS part, id, 'index' AS kind, priority, status,
                            initcap(action) || ' index on ' || relation || ' (' || array_to_string(columns, ', ') || ')' AS title, reason,
                            relation, benefit_pct AS predicted_gain_pct, policy_gain, basis, confidence, size_bytes,
                            write_cost_pct, ddl AS sql, undo_ddl AS undo_sql
                       FROM perf.index_recommendations(time_budget_ms => 500)
                      WHERE action <> 'keep' AND status IN ('recommended', 'building', 'applied', 'verified', 'regressed')
                     UNION ALL
                     SELECT 2, id, kind, priority, 'recommended', recommendation, reason, NULL, expected_benefit_pct, NULL, basis,
                            NULL, NULL, NULL, config, NULL
                       FROM perf.scaling_recommendations() WHERE triggered)
                 SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(a) - 'part')
                                           ORDER BY part, array_position('{high,medium,low}', priority),
                                                    predicted_gain_pct DESC NULLS LAST, id), '[]')::text
                   FROM (SELECT * FROM advice LIMIT 60) AS a",
        fill: |document, json| parse(json, &mut document.recommendations),
        captured: true,
    },
    Part {
        name: "capacity",
        query: c"WITH estimate AS MATERIALIZED (
                     SELECT * FROM perf.capacity_estimate('{1 month,3 months,6 months,1 year}')),
                 source (metric, sampled, object) AS (
                     VALUES ('database_size', 'database_size_bytes', current_database()::text), ('disk_used', 'disk_used_bytes', 'data'),
                            ('peak_connections', 'connections_total', NULL), ('qps', 'qps', NULL)),
                 history AS (
                     SELECT s.metric, jsonb_agg(jsonb_build_object('at', c.sampled_at, 'value', c.value_max)
                                                ORDER BY c.sampled_at) AS samples
                       FROM source AS s
                      CROSS JOIN LATERAL perf.capacity_samples(s.sampled, least($1, now() - interval '90 days')) AS c
                      WHERE s.object IS NULL OR c.object IS NOT DISTINCT FROM s.object GROUP BY s.metric)
                 SELECT coalesce(jsonb_agg(jsonb_strip_nulls(e.body || jsonb_build_object('history', coalesce(h.samples, '[]')))
                                           ORDER BY array_position('{database_size,disk_used,peak_connections,qps}', e.metric)),
                                 '[]')::text
                   FROM (SELECT metric, jsonb_build_object('metric', metric, 'unit', min(unit),
                                'quality', (array_agg(quality ORDER BY horizon_at))[1],
                                'model', min(model), 'history_days', max(history_days),
                                'backtest_error_pct', max(backtest_error_pct),
                                'backtest_coverage_pct', max(backtest_coverage_pct),
                                'forecast', jsonb_agg(DISTINCT jsonb_build_object('label', 'in ' || regexp_replace(horizon::text, '\\mmon(s?)\\M', 'month\\1'), 'at', horizon_at,
                                    'low', projected_low, 'mid', projected, 'high', projected_high)),
                                'triggers', coalesce(jsonb_agg(DISTINCT jsonb_build_object('name', trigger_name,
                                    'value', trigger_value, 'crosses_at', crosses_at, 'crosses_earliest_at', crosses_earliest_at,
                                    'crosses_latest_at', crosses_latest_at, 'action', action))
                                    FILTER (WHERE trigger_name IS NOT NULL), '[]')) AS body
                           FROM estimate GROUP BY metric) AS e
                   LEFT JOIN history AS h USING (metric)",
        fill: |document, json| parse(json, &mut document.capacity),
        captured: false,
    },
    Part {
        name: "jobs",
        query: c"SELECT coalesce(jsonb_agg(jsonb_strip_nulls(
                            to_jsonb(j) || jsonb_build_object('runs', r.runs, 'failed_runs', r.failed_runs, 'message', r.message))
                            ORDER BY j.consecutive_failures DESC, j.name), '[]')::text
                   FROM (SELECT job_id, name, kind, schedule, enabled, last_status, last_run_at, last_duration_ms, next_run_at,
                                consecutive_failures
                           FROM perf.jobs ORDER BY consecutive_failures DESC, name LIMIT 100) AS j
                  CROSS JOIN LATERAL (
                        SELECT count(*) AS runs, count(*) FILTER (WHERE status IN ('failed', 'crashed')) AS failed_runs,
                               (array_agg(message ORDER BY run_id DESC) FILTER (WHERE status IN ('failed', 'crashed')))[1] AS message
                          FROM perf.job_runs AS r WHERE r.job_id = j.job_id AND r.scheduled_at >= coalesce($1, '-infinity')) AS r",
        fill: |document, json| parse(json, &mut document.jobs),
        captured: false,
    },
    Part {
        name: "partitions",
        query: c"WITH problems AS (
                     SELECT parent, string_agg(problem || ': ' || detail, '; ') AS problem, string_agg(fix_sql, E'\\n') AS fix_sql
                       FROM perf.partition_check() GROUP BY parent),
                 parents AS (
                     SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS parent
                       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                      WHERE c.relkind = 'p' AND NOT c.relispartition AND n.nspname <> 'perf'
                      ORDER BY 2 LIMIT 50)
                 SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('parent', p.parent, 'partitions', t.partitions,
                            'size_bytes', t.size_bytes, 'problem', x.problem, 'fix_sql', x.fix_sql)) ORDER BY p.parent), '[]')::text
                   FROM parents AS p
                  CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE isleaf) AS partitions,
                                             sum(pg_total_relation_size(relid)) AS size_bytes
                                        FROM pg_partition_tree(p.oid)) AS t
                   LEFT JOIN problems AS x USING (parent)",
        fill: |document, json| parse(json, &mut document.partitions),
        captured: false,
    },
    Part {
        name: "caches",
        query: c"SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', c.name, 'status', c.status,
                            'entries', s.entries, 'bytes', s.bytes, 'gets', s.gets, 'hit_pct', coalesce(s.hit_pct, c.measured_hit_pct),
                            'expected_hit_pct', c.expected_hit_pct, 'invalidations', s.invalidations,
                            'saved_ms_per_min', c.saved_ms_per_min, 'reason', c.reason))
                            ORDER BY array_position('{active,recommended}', c.status), c.saved_ms_per_min DESC NULLS LAST, c.name),
                            '[]')::text
                   FROM (SELECT * FROM perf.caching_strategies() LIMIT 40) AS c LEFT JOIN perf.cache_stats() AS s USING (name)",
        fill: |document, json| parse(json, &mut document.caches),
        captured: true,
    },
    Part {
        name: "roadmap",
        query: c"SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(s)) ORDER BY phase, task_no), '[]')::text
                   FROM perf.optimization_roadmap(300) AS s",
        fill: |document, json| parse(json, &mut document.roadmap),
        captured: false,
    },
    Part {
        name: "cost",
        query: c"SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(s))), '[]')::text FROM perf.cost_impact() AS s",
        fill: |document, json| parse(json, &mut document.cost),
        captured: false,
    },
    Part {
        name: "health",
        query: c"SELECT coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(s) - 'value' - 'measured_at')), '[]')::text
                   FROM perf.health() AS s",
        fill: |document, json| parse(json, &mut document.health),
        captured: false,
    },
];

const COMPARISON: &std::ffi::CStr = c"
    SELECT jsonb_build_object('before', $1, 'after', '',
               'total_change_pct', 100 * sum(calls_after * (mean_ms_after - mean_ms_before))
                                   / nullif(sum(calls_after * mean_ms_before), 0),
               'statements', coalesce(jsonb_agg(jsonb_strip_nulls(to_jsonb(c) || jsonb_build_object('queryid', c.queryid::text)
                                                                  - 'position') ORDER BY c.position)
                                      FILTER (WHERE c.position <= 50), '[]'))::text
      FROM (SELECT b.*, row_number() OVER () AS position FROM perf.baseline_compare($1) AS b) AS c";

const SERVER: &std::ffi::CStr = c"
    SELECT jsonb_build_object('name', current_setting('cluster_name'), 'version', current_setting('server_version'),
               'database', current_database(), 'extension_version',
               (SELECT extversion FROM pg_extension WHERE extname = 'perf_opt'))::text";

/// Asks the server for everything a report tells.
pub fn fill(wish: &Wish) -> Document {
    let now = background::now();
    let since = wish.since.map(i64::from).filter(|at| *at != i64::MIN);
    let mut document = Document {
        generated_at: Some(Timestamp(now + UNIX_TO_SERVER_US)),
        period: Period {
            from: since.map(|at| Timestamp(at + UNIX_TO_SERVER_US)),
            to: Some(Timestamp(now + UNIX_TO_SERVER_US)),
        },
        ..Document::default()
    };
    if let Some(server) = one_text(SERVER, &[]).ok().and_then(|json| serde_json::from_str::<Server>(&json).ok()) {
        document.server = server;
    }
    if !memory::is_ready() {
        document.warnings.push(Warning {
            level: Level::Error,
            message: "Statements are not captured: perf_opt is not in shared_preload_libraries.".to_owned(),
            action: "Put this line into postgresql.conf and restart the server.".to_owned(),
            sql: "shared_preload_libraries = 'perf_opt'".to_owned(),
        });
    }
    let from = since.unwrap_or(now - OPEN_US);
    // Charts of load are of the time there is something of.
    let first = first_activity(from).unwrap_or(from).max(from);
    let width_us = ((now - first) / POINTS / MINUTE_US).max(1) * MINUTE_US;
    for part in PARTS.iter().filter(|part| memory::is_ready() || !part.captured) {
        let [since, first] = [from, first].map(|at| TimestampWithTimeZone::try_from(at).ok());
        let width = Interval::new(0, 0, width_us).ok();
        let filled = one_text(part.query, &[since.into(), width.into(), first.into()])
            .and_then(|json| (part.fill)(&mut document, &json).map_err(|error| error.to_string()));
        if let Err(message) = filled {
            document.warnings.push(missing(part.name, message));
        }
    }
    if let Some(name) = &wish.compare_to {
        match one_text(COMPARISON, &[text(name)]) {
            Ok(json) => document.comparison = serde_json::from_str::<Comparison>(&json).ok(),
            Err(message) => document.warnings.push(missing("comparison", message)),
        }
    }
    if memory::is_ready() && document.statements.is_empty() {
        document.warnings.push(Warning {
            level: Level::Info,
            message: "No statement has been captured in this time.".to_owned(),
            action: "Let the application run for some minutes, or ask for a longer time: report(since => ...)."
                .to_owned(),
            ..Warning::default()
        });
    }
    document
}

/// When the activity of a time began, of what is written and of what is in memory.
fn first_activity(since: i64) -> Option<i64> {
    let in_memory = || {
        let found = select_with(
            c"SELECT min(bucket_at) FROM perf._pending_statements(false) WHERE last_seen_at >= $1",
            &[background::instant(since).into()],
            |row| row.get::<TimestampWithTimeZone>(1),
        );
        found.into_iter().next().map(i64::from)
    };
    let written = history::first_activity(Some(since));
    let pending = if memory::is_ready() { in_memory() } else { None };
    written.into_iter().chain(pending).min()
}

fn missing(part: &str, message: String) -> Warning {
    Warning {
        level: Level::Warning,
        message: format!("There is no part \"{part}\": {message}"),
        action: "The other parts are complete.".to_owned(),
        ..Warning::default()
    }
}

/// The one text that a query gives.
fn one_text(query: &'static std::ffi::CStr, arguments: &[pgrx::datum::DatumWithOid]) -> Result<String, String> {
    let found = executor::attempt(|| Ok(run_with(query, arguments, |row| row.get::<Text>(1)).1))?;
    found.into_iter().flatten().next().map(|text| text.0).ok_or_else(|| "nothing was found".to_owned())
}

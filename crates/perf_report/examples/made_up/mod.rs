//! Documents that are made up: of a gaming platform on a working day, of one that means harm, of 90 days with
//! everything. Used by the example and by the tests.
#![allow(dead_code, unused_imports)] // Each of its users needs some of it.

use perf_report::document::*;
use perf_report::{Document, Timestamp};

mod odd;

pub use odd::{hostile, large, HOSTILE};

/// 2026-11-23 12:00 UTC.
const NOW: i64 = 1_795_435_200;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// The same numbers every time, between 0 and 1.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_s(seconds)
}

/// How busy a moment of the week is, 0.25 to 1.
fn busy(seconds: i64) -> f64 {
    let hour = (seconds.rem_euclid(DAY) as f64 / HOUR as f64 - 20.0) / 24.0 * std::f64::consts::TAU;
    0.62 + 0.38 * hour.cos()
}

/// Samples from `from` to now, of a function of time, with some noise.
fn samples(from: i64, step: i64, seed: u64, noise: f64, value: impl Fn(i64) -> f64) -> Vec<Sample> {
    let mut dice = Dice(seed);
    (0..=(NOW - from) / step)
        .map(|i| from + i * step)
        .map(|t| Sample { at: at(t), value: Some(value(t) * (1.0 + noise * (dice.roll() - 0.5))) })
        .collect()
}

fn series(name: &str, unit: &str, samples: Vec<Sample>) -> Series {
    Series { name: name.into(), unit: unit.into(), samples }
}

const QUERIES: [(&str, &str, &str, f64, f64, &str, f64); 9] = [
    (
        "SELECT * FROM alerts WHERE status IN ($1, $2) ORDER BY triggered_at DESC",
        "sort_spill",
        "rising",
        31.4,
        184.0,
        "operations-dashboard",
        42.0,
    ),
    (
        "SELECT COUNT(*), SUM(amount) FROM transactions WHERE user_id = $1 AND created_at >= NOW() - INTERVAL $2",
        "seq_scan",
        "steady",
        18.9,
        41.0,
        "payments-api",
        2.0,
    ),
    (
        "SELECT user_id, COUNT(*) AS sessions FROM game_results GROUP BY user_id HAVING \
         COUNT(*) > $1 ORDER BY sessions DESC",
        "many_rows",
        "steady",
        12.2,
        2210.0,
        "analytics",
        -1.0,
    ),
    (
        "SELECT metric_type, date_trunc($1, timestamp) AS bucket, avg(value) AS mean, max(value) AS peak, count(*) \
         FILTER (WHERE value > $2) AS outliers FROM metrics_history WHERE metric_type = ANY ($3) AND timestamp >= $4 \
         GROUP BY metric_type, bucket ORDER BY metric_type, bucket",
        "seq_scan",
        "rising",
        9.6,
        96.0,
        "grafana",
        18.0,
    ),
    ("UPDATE users SET last_login = NOW() WHERE id = $1", "lock_wait", "falling", 4.1, 1.8, "login-service", -23.0),
    (
        "SELECT score FROM risk_scores_history WHERE user_id = $1 ORDER BY calculated_at DESC LIMIT $2",
        "seq_scan",
        "new",
        3.8,
        12.5,
        "risk",
        0.0,
    ),
    (
        "INSERT INTO game_results (user_id, game, stake, result, created_at) VALUES ($1, $2, $3, $4, $5)",
        "io",
        "steady",
        2.9,
        0.42,
        "game-server",
        1.0,
    ),
    ("SELECT id, name FROM users WHERE last_login > $1", "seq_scan", "steady", 2.2, 57.0, "crm", 0.4),
    ("DELETE FROM error_logs WHERE created_at < $1", "many_rows", "falling", 1.1, 9100.0, "cron", -6.0),
];

/// A gaming platform on a working day.
pub fn platform() -> Document {
    let from = NOW - DAY;
    // The sampler was stopped for two hours.
    let awake = |mut samples: Vec<Sample>| {
        samples.retain(|s| s.at < at(NOW - 10 * HOUR) || s.at > at(NOW - 8 * HOUR));
        samples
    };
    let latency = |name: &str, base: f64, seed| {
        series(
            name,
            "ms",
            awake(samples(from, 300, seed, 0.5, |t| {
                base * (0.5 + busy(t)) * if (t - from) / HOUR == 17 { 2.4 } else { 1.0 }
            })),
        )
    };
    let statements = QUERIES
        .iter()
        .enumerate()
        .map(|(i, (query, cause, trend, share, mean, application, pct))| Statement {
            queryid: format!("{}", 4_611_686_018_427_387_000_u64 + i as u64 * 7919),
            query: (*query).into(),
            username: if i == 2 { "analyst" } else { "app" }.into(),
            application_name: (*application).into(),
            calls: Some((share * 9.1e5 / mean).round()),
            failures: Some(if i == 4 { 37.0 } else { 0.0 }),
            total_ms: Some(share * 9.1e5),
            mean_ms: Some(*mean),
            p95_ms: Some(mean * 2.6),
            share_pct: Some(*share),
            cause: (*cause).into(),
            trend: (*trend).into(),
            trend_pct: Some(*pct),
            history: samples(from, 1800, 90 + i as u64, 0.4, |t| {
                mean * (1.0 + pct / 100.0 * (t - from) as f64 / DAY as f64) * (0.7 + 0.4 * busy(t))
            }),
            ..Statement::default()
        })
        .collect();
    Document {
        generated_at: Some(at(NOW)),
        server: Server {
            name: "db1.internal:5432".into(),
            version: "18.6".into(),
            database: "gaming_platform".into(),
            extension_version: "0.1.0".into(),
        },
        period: Period { from: Some(at(from)), to: Some(at(NOW)) },
        warnings: vec![Warning {
            level: Level::Warning,
            message: "Capture paused from 02:00 to 04:00: perf_opt.capture was off, so what ran then is missing below."
                .into(),
            action: "If that was not meant, turn it on again for all databases.".into(),
            sql: "ALTER SYSTEM SET perf_opt.capture = on;\nSELECT pg_reload_conf();".into(),
        }],
        alerts: alerts(),
        load: vec![
            series("Statements a second", "1/s", awake(samples(from, 300, 5, 0.2, |t| 1450.0 * busy(t)))),
            series("Sessions at work", "sessions", awake(samples(from, 300, 6, 0.6, |t| 9.0 * busy(t)))),
            series("Slow statements a minute", "1/min", awake(samples(from, 900, 7, 1.4, |t| 6.0 * busy(t)))),
        ],
        latency: vec![latency("p50", 2.1, 1), latency("p95", 88.0, 2), latency("p99", 310.0, 3)],
        statements,
        recommendations: recommendations(),
        capacity: capacity(120),
        jobs: jobs(),
        partitions: partitions(),
        caches: caches(),
        roadmap: roadmap(),
        comparison: Some(comparison()),
        cost: cost(),
        health: vec![
            Health {
                component: "capture".into(),
                status: "ok".into(),
                detail: "on; 125 million statements, none dropped".into(),
            },
            Health { component: "collector".into(), status: "ok".into(), detail: "last run 4 s ago".into() },
            Health {
                component: "history".into(),
                status: "warning".into(),
                detail: "58 of 64 MB: the oldest days will be dropped".into(),
            },
        ],
        ..Document::default()
    }
}

fn alerts() -> Vec<Alert> {
    let alert = |name: &str, severity: &str, status: &str, value, threshold, unit: &str, action: &str| Alert {
        name: name.into(),
        severity: severity.into(),
        status: status.into(),
        value,
        threshold: Some(threshold),
        unit: unit.into(),
        since_at: Some(at(NOW - 5 * HOUR)),
        action: action.into(),
    };
    vec![
        alert("p99_latency", "critical", "firing", Some(612.0), 500.0, "ms", "Investigate the top statements."),
        alert("slow_queries", "warning", "firing", Some(11.4), 10.0, "1/min", "Do phase 1 of the roadmap."),
        alert("disk_used", "warning", "ok", Some(61.0), 80.0, "%", "Partition, or add storage."),
        alert("replication_lag", "warning", "no_data", None, 5.0, "s", "Check network and replica."),
        alert("buffer_cache_hit", "warning", "ok", Some(99.2), 98.0, "%", "Look at what reads from disk."),
    ]
}

fn recommendations() -> Vec<Recommendation> {
    vec![
        Recommendation {
            id: "index:6f1c9a2b".into(),
            kind: "index".into(),
            priority: "high".into(),
            status: "recommended".into(),
            title: "Index alerts (status, severity, triggered_at)".into(),
            reason: "The heaviest statement reads all of alerts and sorts 48,000 rows to disk for each page of the \
                     dashboard; this index gives them in order."
                .into(),
            relation: "public.alerts".into(),
            predicted_gain_pct: Some(28.6),
            policy_gain: "50-60 %".into(),
            basis: "what_if".into(),
            confidence: "high".into(),
            size_bytes: Some(41_943_040.0),
            write_cost_pct: Some(0.8),
            sql: "CREATE INDEX CONCURRENTLY alerts_status_severity_triggered_at_idx\n    \
                  ON public.alerts (status, severity, triggered_at DESC);"
                .into(),
            undo_sql: "DROP INDEX CONCURRENTLY public.alerts_status_severity_triggered_at_idx;".into(),
            ..Recommendation::default()
        },
        Recommendation {
            id: "index:0b7741de".into(),
            kind: "index".into(),
            priority: "high".into(),
            status: "building".into(),
            title: "Index transactions (user_id, created_at)".into(),
            reason: "Equality first, then the range: 41 ms of sequential scan become 0.2 ms.".into(),
            relation: "public.transactions".into(),
            predicted_gain_pct: Some(17.9),
            basis: "what_if".into(),
            confidence: "high".into(),
            size_bytes: Some(224_395_264.0),
            write_cost_pct: Some(2.1),
            sql: "CREATE INDEX CONCURRENTLY transactions_user_id_created_at_idx \
                  ON public.transactions (user_id, created_at);"
                .into(),
            undo_sql: "DROP INDEX CONCURRENTLY public.transactions_user_id_created_at_idx;".into(),
            ..Recommendation::default()
        },
        Recommendation {
            id: "rewrite:2210".into(),
            kind: "rewrite".into(),
            priority: "medium".into(),
            status: "recommended".into(),
            title: "Read cohorts from mv_cohort_summary".into(),
            reason: "The grouping of all game results takes 2.2 s and changes little within an hour. It changes the \
                     result: counts are up to an hour old."
                .into(),
            relation: "public.game_results".into(),
            predicted_gain_pct: Some(11.8),
            policy_gain: "70-80 %".into(),
            basis: "what_if".into(),
            confidence: "medium".into(),
            sql: "SELECT user_id, session_count\nFROM mv_cohort_summary\nWHERE session_count > $1\n\
                  ORDER BY session_count DESC;"
                .into(),
            ..Recommendation::default()
        },
        Recommendation {
            id: "index:ac02".into(),
            kind: "index".into(),
            priority: "low".into(),
            status: "recommended".into(),
            title: "Drop users_email_lower_idx".into(),
            reason: "Nothing has read it for 41 days, on this server or its replicas; users_email_key \
                     answers the same."
                .into(),
            relation: "public.users".into(),
            basis: "measured".into(),
            confidence: "medium".into(),
            size_bytes: Some(18_874_368.0),
            sql: "DROP INDEX CONCURRENTLY public.users_email_lower_idx;".into(),
            undo_sql: "CREATE INDEX CONCURRENTLY users_email_lower_idx ON public.users (lower(email));".into(),
            ..Recommendation::default()
        },
        Recommendation {
            id: "index:55e0".into(),
            kind: "index".into(),
            priority: "high".into(),
            status: "verified".into(),
            title: "Index users (last_login)".into(),
            reason: "Active users are found without reading the others.".into(),
            relation: "public.users".into(),
            predicted_gain_pct: Some(2.1),
            achieved_gain_pct: Some(1.9),
            policy_gain: "40-50 %".into(),
            basis: "measured".into(),
            confidence: "high".into(),
            size_bytes: Some(3_145_728.0),
            sql: "CREATE INDEX CONCURRENTLY users_last_login_idx ON public.users (last_login);".into(),
            undo_sql: "DROP INDEX CONCURRENTLY public.users_last_login_idx;".into(),
            ..Recommendation::default()
        },
    ]
}

fn capacity(days: i64) -> Vec<Capacity> {
    let one = |metric: &str, unit: &str, base: f64, slope: f64, noise: f64, triggers: Vec<Trigger>| {
        let value = |t: i64| base + slope * (t - (NOW - days * DAY)) as f64 / DAY as f64;
        let history = samples(NOW - days * DAY, DAY, base as u64, noise, value);
        let forecast = (1..=24)
            .map(|i| NOW + i * 365 * DAY / 24)
            .map(|t| {
                let spread = slope * 0.35 * (t - NOW) as f64 / DAY as f64 + base * noise * 0.4;
                let label = match (t - NOW) / DAY {
                    182 => "in 6 months",
                    365 => "in 1 year",
                    _ => "",
                };
                Forecast {
                    label: label.into(),
                    at: at(t),
                    low: Some(value(t) - spread),
                    mid: Some(value(t)),
                    high: Some(value(t) + spread),
                }
            })
            .collect();
        Capacity {
            metric: metric.into(),
            unit: unit.into(),
            quality: "low".into(),
            model: "theil_sen".into(),
            history_days: Some(days as f64),
            backtest_error_pct: Some(4.2),
            backtest_coverage_pct: Some(91.0),
            history,
            forecast,
            triggers,
        }
    };
    let trigger = |name: &str, value: f64, days: Option<i64>, action: &str| Trigger {
        name: name.into(),
        value: Some(value),
        crosses_at: days.map(|d| at(NOW + d * DAY)),
        crosses_earliest_at: days.map(|d| at(NOW + d * DAY * 3 / 4)),
        crosses_latest_at: days.map(|d| at(NOW + d * DAY * 8 / 5)),
        action: action.into(),
    };
    let gb = 1_073_741_824.0;
    vec![
        one("database_size", "bytes", 2.6 * gb, 0.019 * gb, 0.015, vec![]),
        one(
            "disk_used",
            "bytes",
            21.0 * gb,
            0.05 * gb,
            0.02,
            vec![
                trigger("disk 70 %", 35.0 * gb, Some(161), "Add storage, or partition."),
                trigger("disk 80 %", 40.0 * gb, Some(260), "Emergency: add storage now."),
            ],
        ),
        one(
            "peak_connections",
            "connections",
            48.0,
            0.11,
            0.25,
            vec![
                trigger("pool", 80.0, Some(170), "Pool connections."),
                trigger("scale up", 120.0, None, "Scale up, or add replicas."),
            ],
        ),
        one("qps", "1/s", 1210.0, 4.1, 0.2, vec![trigger("replicas", 5000.0, None, "Add read replicas.")]),
    ]
}

fn jobs() -> Vec<Job> {
    let job = |name: &str, kind: &str, schedule: &str, status: &str, took: f64, failures: f64, message: &str| Job {
        name: name.into(),
        kind: kind.into(),
        schedule: schedule.into(),
        enabled: status != "paused",
        last_status: status.into(),
        message: message.into(),
        last_run_at: Some(at(NOW - 240)),
        last_duration_ms: Some(took),
        next_run_at: Some(at(NOW + 60)),
        consecutive_failures: Some(failures),
        runs: Some(288.0),
        failed_runs: Some(failures),
    };
    vec![
        job("refresh mv_active_alerts", "matview", "5 min", "succeeded", 412.0, 0.0, "16,204 rows"),
        job("refresh mv_risk_summary", "matview", "10 min", "failed", 2000.0, 3.0, "could not get the lock within 2 s"),
        job("refresh mv_cohort_summary", "matview", "1 hour", "succeeded", 2210.0, 0.0, "skipped: nothing had changed"),
        job("partitions of public.metrics_history", "partition", "daily", "succeeded", 38.0, 0.0, ""),
    ]
}

fn partitions() -> Vec<Partitioned> {
    let table = |parent: &str, every: &str, count: f64, bytes: f64, problem: &str, fix: &str| Partitioned {
        parent: parent.into(),
        every: every.into(),
        partitions: Some(count),
        size_bytes: Some(bytes),
        oldest_at: Some(at(NOW - 365 * DAY)),
        covered_until_at: Some(at(NOW + 100 * DAY)),
        retention: if every == "month" { "1 year" } else { "" }.into(),
        problem: problem.into(),
        fix_sql: fix.into(),
    };
    vec![
        table("public.metrics_history", "month", 16.0, 2.1e9, "", ""),
        table("public.alerts", "quarter", 8.0, 3.4e8, "", ""),
        table(
            "public.error_logs",
            "month",
            12.0,
            7.7e8,
            "312 rows are in the default partition",
            "CALL perf.partition_tick('public.error_logs');",
        ),
    ]
}

fn caches() -> Vec<Cache> {
    let cache = |name: &str, status: &str, hit: Option<f64>, saved: Option<f64>, reason: &str| Cache {
        name: name.into(),
        status: status.into(),
        entries: hit.map(|_| 812.0),
        bytes: hit.map(|_| 912_384.0),
        gets: hit.map(|_| 48_210.0),
        hit_pct: hit,
        expected_hit_pct: Some(93.0),
        invalidations: hit.map(|_| 1204.0),
        saved_ms_per_min: saved,
        reason: reason.into(),
    };
    vec![
        cache("operations_dashboard", "active", Some(91.4), Some(8200.0), "Read 40 times between two writes."),
        cache("user_risk_score", "active", Some(74.0), Some(310.0), "A key for each user."),
        cache("system_health", "not_worth_it", None, None, "The statement takes 0.4 ms, a cached read 0.1 ms."),
    ]
}

fn roadmap() -> Vec<RoadmapTask> {
    let task = |phase, no, task: &str, status: &str, expected, measured, basis: &str, ddl: &str| RoadmapTask {
        phase,
        phase_name: if phase == 1 { "immediate" } else { "high impact" }.into(),
        weeks: if phase == 1 { "1-2" } else { "3-4" }.into(),
        priority: "high".into(),
        task_no: no,
        task: task.into(),
        status: status.into(),
        expected_gain_pct: Some(expected),
        gain_basis: basis.into(),
        measured_gain_pct: measured,
        effort_hours_low: Some(4.0),
        effort_hours_high: Some(6.0),
        ddl: ddl.into(),
        reason: "From the workload of the last 24 hours.".into(),
    };
    vec![
        task(
            1,
            1,
            "create high-priority indexes",
            "in_progress",
            46.5,
            Some(1.9),
            "what_if",
            "SELECT perf.apply('index:6f1c9a2b');",
        ),
        task(1, 2, "cache dashboards and risk scores", "done", 12.0, Some(14.2), "measured", ""),
        task(1, 3, "query monitoring", "done", 0.0, None, "policy", ""),
        task(
            2,
            1,
            "materialized views",
            "ready",
            11.8,
            None,
            "what_if",
            "SELECT perf.matview_schedule('mv_cohort_summary', '1 hour');",
        ),
        task(2, 2, "connection pooling", "not_needed", 0.0, None, "measured", ""),
        task(2, 3, "active-alerts statement onto its view", "blocked", 9.0, None, "what_if", ""),
    ]
}

fn comparison() -> Comparison {
    let statements = QUERIES
        .iter()
        .zip([0.62, 1.0, 0.31, 1.34, 0.97, 1.0, 1.02, 0.04, 1.0])
        .map(|((query, _, _, share, mean, ..), factor)| Compared {
            query: (*query).into(),
            calls_before: Some((share * 8.8e5 / mean).round()),
            calls_after: Some((share * 9.1e5 / mean).round()),
            mean_ms_before: Some(*mean),
            mean_ms_after: Some(mean * factor),
            p95_ms_before: Some(mean * 2.6),
            p95_ms_after: Some(mean * factor * 2.4),
            change_pct: Some((factor - 1.0) * 100.0),
            verdict: if factor < 0.95 {
                "faster"
            } else if factor > 1.05 {
                "slower"
            } else {
                "same"
            }
            .into(),
            ..Compared::default()
        })
        .collect();
    Comparison { before: "before phase 1".into(), after: String::new(), total_change_pct: Some(-21.4), statements }
}

fn cost() -> Vec<CostItem> {
    let item = |item: &str, quantity: f64, unit: &str, low: f64, high: f64, basis: &str, note: &str| CostItem {
        item: item.into(),
        quantity: Some(quantity),
        resource_unit: unit.into(),
        monthly_cost_low: Some(low),
        monthly_cost_high: Some(high),
        currency: "USD".into(),
        basis: basis.into(),
        note: note.into(),
    };
    vec![
        item("instance today", 1.0, "r6i.2xlarge", 2500.0, 3500.0, "policy", "as the owner states it"),
        item("read replicas", 2.0, "r6i.xlarge", 1000.0, 1000.0, "policy", "none is needed yet"),
        item("index storage", 0.26, "GiB", 0.0, 1.0, "measured", "of the indexes recommended above"),
    ]
}

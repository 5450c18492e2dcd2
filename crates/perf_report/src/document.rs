//! What a report holds: plain data, filled by whoever asks the server, told by the renderers. Every field may be
//! missing or empty; a measure that was not taken is `None`, never zero. Names and meanings are those of the SQL
//! functions.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// What stands on top; empty: the name of the database does.
    pub title: String,
    /// When it was made.
    pub generated_at: Option<Timestamp>,
    /// Of which server and database.
    pub server: Server,
    /// What time it covers.
    pub period: Period,
    /// What the reader has to know or do before anything else.
    pub warnings: Vec<Warning>,
    /// Alerts that fire, and those that could.
    pub alerts: Vec<Alert>,
    /// Load over time, a chart for each series: statements a second, sessions at work, slow statements a minute.
    pub load: Vec<Series>,
    /// Percentiles of latency over time, all in one chart, in milliseconds.
    pub latency: Vec<Series>,
    /// The statements that took most of the time.
    pub statements: Vec<Statement>,
    /// What to change.
    pub recommendations: Vec<Recommendation>,
    /// What grows, how far, and when it meets a limit.
    pub capacity: Vec<Capacity>,
    /// The jobs of the scheduler.
    pub jobs: Vec<Job>,
    /// The partitioned tables under management.
    pub partitions: Vec<Partitioned>,
    /// The caches.
    pub caches: Vec<Cache>,
    /// The phases of optimisation, task by task.
    pub roadmap: Vec<RoadmapTask>,
    /// Two periods side by side.
    pub comparison: Option<Comparison>,
    /// What it costs in a month.
    pub cost: Vec<CostItem>,
    /// How perf_opt itself does.
    pub health: Vec<Health>,
}

/// The server a report is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Its name, as its users know it.
    pub name: String,
    /// The version of PostgreSQL.
    pub version: String,
    /// The database; empty: all of them.
    pub database: String,
    /// The version of perf_opt.
    pub extension_version: String,
}

/// A span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Period {
    /// Its beginning; None: as long as history reaches.
    pub from: Option<Timestamp>,
    /// Its end.
    pub to: Option<Timestamp>,
}

/// How much attention something wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For information.
    #[default]
    Info,
    /// Soon.
    Warning,
    /// Now.
    Error,
}

/// Something to know or do first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// How urgent it is.
    pub level: Level,
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub action: String,
    /// The SQL, or the line of configuration, that does it.
    pub sql: String,
}

/// A value at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// How much; None: nothing was measured then, which a chart shows as a gap.
    pub value: Option<f64>,
}

/// A measure over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Series {
    /// What is measured.
    pub name: String,
    /// `ms`, `bytes`, `%`, `1/s`, `1/min`, `count`, or the things that are counted.
    pub unit: String,
    /// In any order, of any number.
    pub samples: Vec<Sample>,
}

/// A statement, as `slow_query_patterns()` and `statements()` tell it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Statement {
    /// Its digits as text: programs that read JSON lose some of a number as long as this.
    pub queryid: String,
    /// Its normalised text.
    pub query: String,
    /// Who runs it.
    pub username: String,
    /// The application that runs it most.
    pub application_name: String,
    /// The relations it touches.
    pub relations: Vec<String>,
    /// How often it ran.
    pub calls: Option<f64>,
    /// How often it failed.
    pub failures: Option<f64>,
    /// Rows in all.
    pub rows: Option<f64>,
    /// Time in all, in milliseconds.
    pub total_ms: Option<f64>,
    /// Mean time.
    pub mean_ms: Option<f64>,
    /// The time that 95 % of its runs stayed below.
    pub p95_ms: Option<f64>,
    /// Its share of all database time, 0 to 100.
    pub share_pct: Option<f64>,
    /// `seq_scan`, `sort_spill`, `lock_wait`, ...
    pub cause: String,
    /// `new`, `rising`, `steady` or `falling`.
    pub trend: String,
    /// By how much.
    pub trend_pct: Option<f64>,
    /// Its mean time over time, in milliseconds.
    pub history: Vec<Sample>,
}

/// A change that is recommended: an index, a setting, a view, a cache, a rewrite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recommendation {
    /// What `perf.apply()` takes.
    pub id: String,
    /// What it is about: `index`, `rewrite`, `scaling`, ...
    pub kind: String,
    /// `high`, `medium` or `low`.
    pub priority: String,
    /// `recommended`, `building`, `applied`, `verified`, `no_gain`, `regressed`, ...
    pub status: String,
    /// What to do, in a few words.
    pub title: String,
    /// Why, in a sentence.
    pub reason: String,
    /// What it changes.
    pub relation: String,
    /// The share of the workload's time that it is predicted to save, 0 to 100.
    pub predicted_gain_pct: Option<f64>,
    /// The share that it did save, once verified.
    pub achieved_gain_pct: Option<f64>,
    /// What the owner of the policy hopes for, in the owner's words.
    pub policy_gain: String,
    /// How the gain is known: `what_if`, `measured` or `policy`.
    pub basis: String,
    /// `high`, `medium` or `low`.
    pub confidence: String,
    /// The space it takes.
    pub size_bytes: Option<f64>,
    /// What it costs writes, 0 to 100.
    pub write_cost_pct: Option<f64>,
    /// The SQL that does it.
    pub sql: String,
    /// The SQL that undoes it.
    pub undo_sql: String,
}

/// Something that grows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// `database_size`, `disk_used`, `peak_connections`, `qps`.
    pub metric: String,
    /// Its unit, as in [`Series::unit`].
    pub unit: String,
    /// How good the forecast is: `insufficient_data`, `reconstructed`, `supported`, `low`, `extrapolated`.
    pub quality: String,
    /// How the forecast was made.
    pub model: String,
    /// How many days of history it rests on.
    pub history_days: Option<f64>,
    /// How far off past forecasts of the same kind were.
    pub backtest_error_pct: Option<f64>,
    /// How much of what came lay inside their ranges.
    pub backtest_coverage_pct: Option<f64>,
    /// What was measured.
    pub history: Vec<Sample>,
    /// What is expected.
    pub forecast: Vec<Forecast>,
    /// The limits it may meet.
    pub triggers: Vec<Trigger>,
}

/// What is expected at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Forecast {
    /// What people call that time: `in 6 months`. Those with a name are told in the table as well.
    pub label: String,
    /// When.
    pub at: Timestamp,
    /// The lower end of the range.
    pub low: Option<f64>,
    /// What is most likely.
    pub mid: Option<f64>,
    /// The upper end of the range.
    pub high: Option<f64>,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// Where it is, in the unit of the metric.
    pub value: Option<f64>,
    /// When the forecast meets it; None: not within what can be foreseen.
    pub crosses_at: Option<Timestamp>,
    /// When at the earliest.
    pub crosses_earliest_at: Option<Timestamp>,
    /// When at the latest.
    pub crosses_latest_at: Option<Timestamp>,
    /// What to do when it is met.
    pub action: String,
}

/// An alert, as `alerts()` tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// `warning`, `critical`, ...
    pub severity: String,
    /// `firing`, `ok` or `no_data`.
    pub status: String,
    /// What was measured.
    pub value: Option<f64>,
    /// From where on it fires.
    pub threshold: Option<f64>,
    /// The unit of both.
    pub unit: String,
    /// Since when it has this status.
    pub since_at: Option<Timestamp>,
    /// What to do.
    pub action: String,
}

/// A job of the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What kind of job it is.
    pub kind: String,
    /// When it runs.
    pub schedule: String,
    /// Whether it runs at all.
    pub enabled: bool,
    /// How its last run ended.
    pub last_status: String,
    /// What its last run said.
    pub message: String,
    /// When it last ran.
    pub last_run_at: Option<Timestamp>,
    /// How long it took.
    pub last_duration_ms: Option<f64>,
    /// When it runs next.
    pub next_run_at: Option<Timestamp>,
    /// How often it failed in a row.
    pub consecutive_failures: Option<f64>,
    /// How often it ran in the period of the report.
    pub runs: Option<f64>,
    /// How many of those failed.
    pub failed_runs: Option<f64>,
}

/// A partitioned table under management.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partitioned {
    /// The table.
    pub parent: String,
    /// How much time a partition covers.
    pub every: String,
    /// How many partitions there are.
    pub partitions: Option<f64>,
    /// Their size in all.
    pub size_bytes: Option<f64>,
    /// Where the oldest begins.
    pub oldest_at: Option<Timestamp>,
    /// Up to when rows have a partition to go to.
    pub covered_until_at: Option<Timestamp>,
    /// How long rows are kept; empty: for ever.
    pub retention: String,
    /// What is wrong; empty: nothing.
    pub problem: String,
    /// The SQL that puts it right.
    pub fix_sql: String,
}

/// A cache.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// Its name.
    pub name: String,
    /// `active`, `recommended`, `not_worth_it`, ...
    pub status: String,
    /// How many values it holds.
    pub entries: Option<f64>,
    /// How large they are.
    pub bytes: Option<f64>,
    /// How often it was asked.
    pub gets: Option<f64>,
    /// How often it could answer, 0 to 100.
    pub hit_pct: Option<f64>,
    /// What it could answer at best, 0 to 100.
    pub expected_hit_pct: Option<f64>,
    /// How often what it held was made invalid.
    pub invalidations: Option<f64>,
    /// Database time saved a minute.
    pub saved_ms_per_min: Option<f64>,
    /// Why it has this status.
    pub reason: String,
}

/// A task of the roadmap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoadmapTask {
    /// The number of its phase.
    pub phase: i32,
    /// The name of its phase.
    pub phase_name: String,
    /// The weeks of its phase.
    pub weeks: String,
    /// `critical`, `high`, `medium` or `low`.
    pub priority: String,
    /// Its number.
    pub task_no: i32,
    /// What is to be done.
    pub task: String,
    /// `done`, `in_progress`, `ready`, `blocked`, `not_needed`, `not_applicable`.
    pub status: String,
    /// What it is expected to gain, 0 to 100.
    pub expected_gain_pct: Option<f64>,
    /// How that is known.
    pub gain_basis: String,
    /// What it gained, 0 to 100.
    pub measured_gain_pct: Option<f64>,
    /// Hours of work at least.
    pub effort_hours_low: Option<f64>,
    /// Hours of work at most.
    pub effort_hours_high: Option<f64>,
    /// The SQL that does it.
    pub ddl: String,
    /// Why it has this status.
    pub reason: String,
}

/// Two periods side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Comparison {
    /// The name of the first, or of its baseline.
    pub before: String,
    /// The name of the second; empty: now.
    pub after: String,
    /// How the time of the whole workload changed, in percent of before: less is negative.
    pub total_change_pct: Option<f64>,
    /// Statement by statement.
    pub statements: Vec<Compared>,
}

/// A statement in two periods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compared {
    /// Its digits as text.
    pub queryid: String,
    /// Its normalised text.
    pub query: String,
    /// How often it ran before.
    pub calls_before: Option<f64>,
    /// How often it ran after.
    pub calls_after: Option<f64>,
    /// Mean time before.
    pub mean_ms_before: Option<f64>,
    /// Mean time after.
    pub mean_ms_after: Option<f64>,
    /// What 95 % stayed below before.
    pub p95_ms_before: Option<f64>,
    /// What 95 % stayed below after.
    pub p95_ms_after: Option<f64>,
    /// The change of the mean, in percent: faster is negative.
    pub change_pct: Option<f64>,
    /// `faster`, `same`, `slower`, `new` or `gone`.
    pub verdict: String,
}

/// An item of the monthly cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CostItem {
    /// What is paid for.
    pub item: String,
    /// How much of it.
    pub quantity: Option<f64>,
    /// The unit of that.
    pub resource_unit: String,
    /// At least so much money a month.
    pub monthly_cost_low: Option<f64>,
    /// At most so much money a month.
    pub monthly_cost_high: Option<f64>,
    /// Of which currency.
    pub currency: String,
    /// How it is known: `measured` or `policy`.
    pub basis: String,
    /// What else there is to say.
    pub note: String,
}

/// A part of perf_opt, as `health()` tells it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Which part.
    pub component: String,
    /// `ok`, `warning` or `error`.
    pub status: String,
    /// What there is to say of it.
    pub detail: String,
}

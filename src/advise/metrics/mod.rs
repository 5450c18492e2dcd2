//! What can be measured of this server now, metric by metric: for `perf.metrics()`, and for the alerts that watch them.
//!
//! Called with the rights of whoever asks, and by the collector for its alerts; reads statistics, the history, samples of
//! capacity and shared memory, and locks what those reads lock. Metrics are in groups that are measured together, so that
//! asking for a few costs little. What cannot be measured is a row without a value that says why.

mod applications;
pub mod readings;
mod replication;
mod server;
mod statements;

pub use replication::NODE_PREFIX;
pub use server::{database_name, kept_us, places};

use std::cell::OnceCell;

use readings::Baseline;
use server::Activity;

use crate::cache::statistics;
use crate::collect::registry;
use crate::pg::{background, names};

/// What recent rates and latencies are of, where there is history.
pub const WINDOW_US: i64 = 300_000_000;
/// For the whole server.
pub const CLUSTER: &str = "cluster";
/// Of the current database.
pub const DATABASE: &str = "database";
/// Of a relation.
pub const RELATION: &str = "relation";
/// Of a standby, or of a replication slot.
pub const REPLICA: &str = "replica";
/// Of what an application does in the current database.
pub const APPLICATION: &str = "application";

/// Why a metric of captured statements has no value.
const NOT_PRELOADED: &str = "perf_opt is not in shared_preload_libraries";
/// Why there is no hit rate.
const NOT_COUNTED: &str = "the cache is counted on a primary, with perf_opt in shared_preload_libraries";
/// Gets that a hit rate is made of.
const CACHE_GETS_MIN: u64 = 50;
/// Why a figure of statements has none.
const NOTHING_RAN: &str = "no statement ran in this time";
/// Instead of names that are not everybody's to know.
pub const HIDDEN: &str = "(insufficient privilege)";

/// A metric and its unit.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its unit, as in perf.alert_threshold.
    pub unit: &'static str,
}

struct Group {
    measure: fn(&mut Sheet),
    metrics: &'static [Metric],
}

const fn metric(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit }
}

/// Every metric there is.
const GROUPS: &[Group] = &[
    Group {
        measure: statements::measure,
        metrics: &[
            metric("latency_mean", "ms"),
            metric("latency_p95", "ms"),
            metric("latency_p99", "ms"),
            metric("slow_queries_per_min", "1/min"),
            metric("error_rate", "%"),
            metric("qps", "1/s"),
        ],
    },
    Group {
        measure: server::activity,
        metrics: &[
            metric("transactions_per_s", "1/s"),
            metric("buffer_cache_hit", "%"),
            metric("index_utilisation", "%"),
            metric("wal_bytes_per_s", "bytes/s"),
        ],
    },
    Group { measure: result_caches, metrics: &[metric("result_cache_hit", "%")] },
    Group {
        measure: server::connections,
        metrics: &[
            metric("connections_total", "connections"),
            metric("connections_active", "connections"),
            metric("connections_idle", "connections"),
            metric("connections_idle_in_transaction", "connections"),
            metric("connections_used", "%"),
        ],
    },
    Group {
        measure: server::disks,
        metrics: &[
            metric("disk_used", "%"),
            metric("disk_used_bytes", "bytes"),
            metric("disk_available_bytes", "bytes"),
        ],
    },
    Group {
        measure: server::sizes,
        metrics: &[metric("database_size_bytes", "bytes"), metric("databases_size_bytes", "bytes")],
    },
    Group {
        measure: server::machine,
        metrics: &[
            metric("cpu_used", "%"),
            metric("memory_available_bytes", "bytes"),
            metric("wal_size_bytes", "bytes"),
        ],
    },
    Group { measure: server::relation_scans, metrics: &[metric("relation_index_utilisation", "%")] },
    Group { measure: server::relation_sizes, metrics: &[metric("relation_size_bytes", "bytes")] },
    Group {
        measure: replication::measure,
        metrics: &[
            metric("replication_lag", "s"),
            metric("replication_lag_bytes", "bytes"),
            metric("replica_qps", "1/s"),
            metric("replica_unwell", "s"),
            metric("slot_retained_bytes", "bytes"),
        ],
    },
    Group {
        measure: applications::measure,
        metrics: &[
            metric("application_latency_mean", "ms"),
            metric("application_latency_p95", "ms"),
            metric("application_latency_p99", "ms"),
            metric("application_throughput", "1/s"),
            metric("application_error_rate", "%"),
            metric("application_cache_hit", "%"),
        ],
    },
];

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The metric.
    pub name: &'static str,
    /// None: it could not be measured.
    pub value: Option<f64>,
    /// Of the value.
    pub unit: &'static str,
    /// cluster, database, relation, replica or application.
    pub scope: &'static str,
    /// Which one; empty for the whole server.
    pub object: String,
    /// When, in microseconds of the server's epoch.
    pub measured_at: i64,
    /// The time the value is of, which ended then. None: that moment.
    pub span_us: Option<i64>,
    /// Why there is no value, or what to know of it.
    pub note: Option<String>,
}

/// Rows being put together.
pub struct Sheet {
    now: i64,
    with_pending: bool,
    activity: OnceCell<Activity>,
    baseline: OnceCell<Option<Baseline>>,
    rows: Vec<Measured>,
}

impl Sheet {
    fn put(&mut self, name: &str, scope: &'static str, object: &str, value: Result<f64, &str>) -> &mut Measured {
        self.put_over(name, scope, object, None, value)
    }

    /// A value of some time, or why there is none.
    fn put_over(
        &mut self,
        name: &str,
        scope: &'static str,
        object: &str,
        span_us: Option<i64>,
        value: Result<f64, &str>,
    ) -> &mut Measured {
        let known = find(name);
        let value = value.and_then(|v| if v.is_finite() { Ok(v) } else { Err("not a number") });
        self.rows.push(Measured {
            name: known.map_or("", |m| m.name),
            value: value.ok(),
            unit: known.map_or("", |m| m.unit),
            scope,
            object: object.to_owned(),
            measured_at: self.now,
            span_us,
            note: value.err().map(str::to_owned),
        });
        let last = self.rows.len() - 1;
        &mut self.rows[last]
    }

    /// Counters as they are.
    fn activity(&self) -> Activity {
        *self.activity.get_or_init(server::read_activity)
    }

    /// Counters as they were some minutes ago; None where nobody read them.
    fn baseline(&self) -> Option<&Baseline> {
        self.baseline.get_or_init(|| readings::baseline(self.now)).as_ref()
    }
}

/// The metric of a name.
pub fn find(name: &str) -> Option<&'static Metric> {
    GROUPS.iter().flat_map(|group| group.metrics).find(|metric| metric.name == name)
}

/// Measures the metrics that are wanted. `with_pending`: also counts what shared memory has of statements beyond the
/// history; the collector, which has just written it, can do without.
pub fn measure(is_wanted: impl Fn(&str) -> bool, with_pending: bool) -> Vec<Measured> {
    let mut sheet = Sheet {
        now: background::now(),
        with_pending,
        activity: OnceCell::new(),
        baseline: OnceCell::new(),
        rows: Vec::new(),
    };
    for group in GROUPS.iter().filter(|group| group.metrics.iter().any(|metric| is_wanted(metric.name))) {
        (group.measure)(&mut sheet);
    }
    sheet.rows.retain(|row| is_wanted(row.name));
    sheet.rows
}

/// Hit rate of the Redis that perf_opt.redis_url names, as it counts itself, whoever asked it: between the two latest looks, a minute
/// apart.
fn redis(sheet: &mut Sheet) {
    let slot = registry::slots().into_iter().find(|slot| slot.dbid == names::current_database());
    let Some(invalidation) = slot.map(|slot| slot.invalidation).filter(|known| known.has_redis) else { return };
    let [now, before] = invalidation.counts;
    let gets = (now.0 + now.1).saturating_sub(before.0 + before.1);
    let rate = match gets {
        _ if invalidation.down_since != 0 => Err("Redis cannot be reached"),
        0..CACHE_GETS_MIN => Err("it was asked for less than 50 values in the last minute"),
        _ => Ok(100.0 * now.0.saturating_sub(before.0) as f64 / gets as f64),
    };
    sheet.put("result_cache_hit", DATABASE, "redis", rate);
}

/// Hit rate of the embedded cache in the last minutes: all of it, and by policy.
fn result_caches(sheet: &mut Sheet) {
    redis(sheet);
    let database = server::database_name();
    let counted = if background::in_recovery() { None } else { statistics::recent().ok() };
    let Some(asked) = counted else {
        sheet.put("result_cache_hit", DATABASE, &database, Err(NOT_COUNTED));
        return;
    };
    let [gets, hits] = asked.iter().fold([0, 0], |sum, one| [sum[0] + one.counts[0], sum[1] + one.counts[1]]);
    let rate = |[gets, hits]: [u64; 2]| match gets {
        0 => Err("no result cache is kept in this database"),
        1..CACHE_GETS_MIN => Err("it was asked for less than 50 values in the last minutes"),
        _ => Ok(100.0 * hits as f64 / gets as f64),
    };
    sheet.put("result_cache_hit", DATABASE, &database, rate([gets, hits]));
    for one in asked {
        sheet.put("result_cache_hit", DATABASE, &one.name, rate(one.counts));
    }
}

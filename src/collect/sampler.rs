//! Takes samples of capacity and keeps them: what is due is decided here, by the clock in `perf.capacity_clock`.
//!
//! The collector worker calls `observe_backends` about once a second, `sample` once an interval and `rotate` now and then,
//! the latter two inside a transaction, as a superuser. State in memory is private to the process: the last reading of each
//! counter and the observations of the running minute; losing them costs one difference. What is due is claimed by
//! updating the clock's row, which locks it until the end of the transaction: two samplers of one database wait for each
//! other there, and an aborted sample is due again.

use super::connections::{self, Seen};
use super::cost;
use super::measure;
use super::partitions::{self, spi_failed, Changes, Ladder};
use super::registry;
use crate::act::executor::{self, QUERY_CANCELED};
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{backends, background, catalog, names};
use perf_core::series::{CounterBook, Summary};
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::spi::{Spi, SpiClient};
use std::cell::RefCell;
use std::time::Instant;

const US_PER_S: i64 = 1_000_000;
const DAY_S: i64 = 86_400;

/// All samples of a database together, indexes included.
pub const STORAGE_MAX_BYTES: i64 = 64 << 20;
/// Of these, what the hours of pools may take: beyond it roles of old hours are summed up.
const HOURS_BYTES: i64 = 4 << 20;
/// What the collector gives each group of measurements, so that a slow one does not cost all others.
const GROUP_LIMIT_MS: i32 = 20_000;
/// One step of the ladder of resolutions: where its samples are and for how long.
pub struct Step {
    /// Seconds a sample stands for.
    pub resolution_s: i64,
    /// Its partitioned table in schema perf.
    pub table: &'static str,
    /// How that is cut.
    pub ladder: Ladder,
}

/// Finest first.
pub const STEPS: [Step; 4] = [
    Step {
        resolution_s: 60,
        table: "capacity_sample_1min",
        ladder: Ladder { step_s: DAY_S / 2, premake: 2, keep_s: 2 * DAY_S },
    },
    Step {
        resolution_s: 300,
        table: "capacity_sample_5min",
        ladder: Ladder { step_s: DAY_S, premake: 1, keep_s: 14 * DAY_S },
    },
    Step {
        resolution_s: 3600,
        table: "capacity_sample_1h",
        ladder: Ladder { step_s: 10 * DAY_S, premake: 1, keep_s: 90 * DAY_S },
    },
    Step {
        resolution_s: DAY_S,
        table: "capacity_sample_1d",
        ladder: Ladder { step_s: 90 * DAY_S, premake: 1, keep_s: 3 * 365 * DAY_S },
    },
];

/// In which order steps give way above the cap: the largest first, the days that forecasts live on last.
const SPARED_FIRST: [usize; 4] = [1, 2, 0, 3];

/// What is sampled: its name ends in its unit.
pub struct Metric {
    /// As stored and as asked for.
    pub name: &'static str,
    /// Seconds between measurements, finest first; every coarser resolution that is not named is summed up from the finest.
    pub measured_every_s: &'static [i64],
}

const fn metric(name: &'static str, measured_every_s: &'static [i64]) -> Metric {
    Metric { name, measured_every_s }
}

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    metric("connections_total", &[60]),
    metric("connections_active", &[60]),
    metric("connections_idle_in_transaction", &[60]),
    metric("connections_busy", &[60]),
    metric("waiting_pct", &[60]),
    metric("qps", &[60]),
    metric("xacts_per_s", &[60]),
    metric("active_sessions", &[60]),
    metric("buffer_hit_pct", &[60]),
    metric("temp_bytes_per_s", &[60]),
    metric("wal_bytes_per_s", &[60]),
    metric("replication_lag_bytes", &[60]),
    metric("replication_lag_s", &[60]),
    metric("slot_retained_bytes", &[60]),
    metric("fleet_lag_s", &[60]),
    metric("fleet_qps", &[60]),
    metric("slots_inactive", &[300]),
    metric("disk_used_bytes", &[300]),
    metric("disk_available_bytes", &[300]),
    metric("wal_dir_bytes", &[300]),
    metric("cpu_used_pct", &[300]),
    metric("load_1min", &[300]),
    metric("memory_total_bytes", &[300]),
    metric("memory_available_bytes", &[300]),
    metric("pressure_cpu_pct", &[300]),
    metric("pressure_memory_pct", &[300]),
    metric("pressure_io_pct", &[300]),
    metric("cgroup_cpu_cores", &[300]),
    metric("cgroup_cpu_limit_cores", &[300]),
    metric("cgroup_throttled_pct", &[300]),
    metric("cgroup_memory_bytes", &[300]),
    metric("cgroup_memory_limit_bytes", &[300]),
    metric("database_size_bytes", &[3600]),
    metric("databases_size_bytes", &[3600]),
    metric("relation_size_bytes", &[3600, DAY_S]),
];

/// What is measured together, in the order it runs.
struct Group {
    every_s: i64,
    /// For messages.
    what: &'static str,
    collect: fn(&mut SpiClient, &mut Take) -> Result<(), Error>,
}

const fn group(every_s: i64, what: &'static str, collect: fn(&mut SpiClient, &mut Take) -> Result<(), Error>) -> Group {
    Group { every_s, what, collect }
}

const GROUPS: &[Group] = &[
    group(60, "connections", measure::connections),
    group(60, "hours of connections", measure::pool_hours),
    group(60, "throughput", measure::throughput),
    group(60, "WAL and replication", measure::wal_and_replication),
    group(300, "storage", measure::storage),
    group(300, "the machine", measure::machine),
    group(3600, "database sizes", measure::database_sizes),
    group(3600, "relation sizes", measure::relations_hourly),
    group(DAY_S, "relation sizes", measure::relations_daily),
];

/// What a call to `sample` has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SampleReport {
    /// Rows measured and stored.
    pub stored: u64,
    /// Rows summed up from finer ones.
    pub rolled_up: u64,
    /// Partitions made on the way.
    pub partitions: Changes,
}

#[derive(Default)]
struct State {
    counters: CounterBook,
    seen: Seen,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

struct Row {
    metric: &'static str,
    object: String,
    mean: f64,
    spread: Option<Summary>,
    resolution_s: i64,
}

/// A sample being taken.
pub struct Take {
    now_us: i64,
    resolution_s: i64,
    pub(super) statements_total: Option<u64>,
    pub(super) database: String,
    pub(super) seen: Seen,
    counters: CounterBook,
    rows: Vec<Row>,
}

impl Take {
    /// One measured value.
    pub fn value(&mut self, metric: &'static str, object: &str, value: f64) {
        if value.is_finite() {
            self.push(metric, object, value, None);
        }
    }

    /// One value, where it could be measured.
    pub fn measured(&mut self, metric: &'static str, object: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.value(metric, object, value);
        }
    }

    /// Growth of a counter and seconds since its last reading.
    pub fn grown(&mut self, counter: &'static str, object: &str, value: f64, epoch: i64) -> Option<(f64, f64)> {
        self.counters.grown(counter, object, value, epoch, self.now_us)
    }

    /// Growth of a counter a second.
    pub fn rate(&mut self, counter: &'static str, object: &str, value: f64, epoch: i64) -> Option<f64> {
        self.counters.rate(counter, object, value, epoch, self.now_us)
    }

    /// The summary of values seen since the last sample.
    pub(super) fn spread(&mut self, metric: &'static str, object: &str, values: impl Iterator<Item = u32>) {
        if let Some(summary) = Summary::of(values.map(f64::from)) {
            self.push(metric, object, summary.mean, Some(summary));
        }
    }

    fn push(&mut self, metric: &'static str, object: &str, mean: f64, spread: Option<Summary>) {
        let resolution_s = self.resolution_s;
        self.rows.push(Row { metric, object: object.to_owned(), mean, spread, resolution_s });
    }
}

/// Looks at all connections, for the peaks of the next sample. Cheap: no query, no transaction needed.
pub fn observe_backends() {
    cost::metered(|| {
        let look = backends::look();
        let now_us = background::now();
        STATE.with_borrow_mut(|state| state.seen.note(look, now_us));
    });
}

/// Measures what is due at `now`, sums up what is complete, and stores both.
///
/// `statements_total` is the number of statements perf_opt has counted in this database since the server started; None
/// where capture is not running: there is no QPS then. Call inside a transaction, as a superuser, not on a replica.
pub fn sample(now: TimestampWithTimeZone, statements_total: Option<u64>) -> Result<SampleReport, Error> {
    cost::metered(|| sample_due(now, statements_total))
}

fn sample_due(now: TimestampWithTimeZone, statements_total: Option<u64>) -> Result<SampleReport, Error> {
    let started = Instant::now();
    let mut report = SampleReport::default();
    for step in &STEPS {
        report.partitions += partitions::ensure(step.table, &step.ladder, now)?;
    }
    let now_us = i64::from(now);
    Spi::connect_mut(|client| {
        let due = claim(client, now)?;
        if !due.is_empty() {
            // Taken out, so that nothing is borrowed while queries run; an ERROR on the way costs the readings only.
            let state = STATE.take();
            let mut take = Take {
                now_us,
                resolution_s: 60,
                statements_total,
                database: text(client, "SELECT pg_catalog.current_database()::text")?.unwrap_or_default(),
                seen: state.seen,
                counters: state.counters,
                rows: Vec::new(),
            };
            let mut problem = None;
            for group in GROUPS.iter().filter(|g| due.contains(&g.every_s)) {
                take.resolution_s = group.every_s;
                background::limit_from_here(GROUP_LIMIT_MS);
                if let Err(message) = measure_one(group, client, &mut take)? {
                    problem = Some(message);
                }
            }
            background::limit_from_here(GROUP_LIMIT_MS);
            report.stored = store(client, now, &take.rows)?;
            STATE.set(State { counters: take.counters, seen: take.seen });
            cost::sampled(started.elapsed(), problem);
        }
        for (finer, coarser) in STEPS.iter().zip(&STEPS[1..]) {
            report.rolled_up += roll_up(client, finer, coarser, now, &mut report.partitions)?;
        }
        Ok(report)
    })
}

/// Measures one group. What fails is left out, and said: a tablespace that is gone does not keep everything else from being
/// sampled. So is what takes longer than the collector gives it, which is due again with its next span only: a group that
/// is always too slow would else end every sample from then on. Other cancels end the whole sample.
fn measure_one(group: &Group, client: &mut SpiClient, take: &mut Take) -> Result<Result<(), String>, Error> {
    let measured = take.rows.len();
    match executor::subtransaction(|| Ok((group.collect)(client, take)?)) {
        Ok(()) => Ok(Ok(())),
        Err(failure) if failure.sqlstate == QUERY_CANCELED && !goes_on() => {
            Err(Error::WrongState { message: failure.message, hint: "Sample again.".to_owned() })
        }
        Err(failure) => {
            take.rows.truncate(measured);
            Ok(Err(format!("{}: {}", group.what, failure.message)))
        }
    }
}

/// Whether a cancel was the limit of one group: the collector is neither to end nor to leave its database.
fn goes_on() -> bool {
    background::limit_from_here(GROUP_LIMIT_MS) && !registry::is_held(names::current_database())
}

/// Refuses where nothing can be stored: on a standby, in a read-only transaction.
pub fn check_writable() -> Result<(), Error> {
    match catalog::value::<bool>("SELECT pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool", &[])
        .map_err(spi_failed)?
    {
        Some(true) => Err(Error::WrongState {
            message: "samples of capacity cannot be stored in a read-only transaction".to_owned(),
            hint: "Sample on the primary, in a transaction that may write.".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Makes the partitions that will be needed and drops those whose time is over, or, where all samples together are above
/// the cap, the oldest ones, of the resolution that can be spared most first. Call inside a transaction, as a superuser, not on a replica.
pub fn rotate(now: TimestampWithTimeZone) -> Result<Changes, Error> {
    let changes = cost::metered(|| rotate_all(now))?;
    cost::store(now, stored_bytes()?)?;
    Ok(changes)
}

/// Bytes of all samples of this database.
fn stored_bytes() -> Result<i64, Error> {
    Ok(partitions::total_bytes("capacity_sample")? + connections::hours_bytes()?)
}

fn rotate_all(now: TimestampWithTimeZone) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    for step in &STEPS {
        changes += partitions::ensure(step.table, &step.ladder, now)?;
        changes += partitions::expire(step.table, &step.ladder, now)?;
    }
    Spi::connect_mut(|client| {
        connections::expire_hours(client, now)?;
        if connections::hours_bytes()? > HOURS_BYTES {
            // The index, and room of rows that are gone, are part of that as well.
            connections::sum_up_hours(client, HOURS_BYTES / 4)?;
        }
        forget_future(client, now)
    })?;
    // Dropping samples gives back no byte of the hours.
    let most = STORAGE_MAX_BYTES - connections::hours_bytes()?.min(2 * HOURS_BYTES);
    for step in SPARED_FIRST.iter().filter_map(|&n| STEPS.get(n)) {
        while partitions::total_bytes("capacity_sample")? > most {
            let dropped = partitions::drop_oldest(step.table, now)?;
            changes += dropped;
            if dropped.dropped == 0 {
                break;
            }
        }
    }
    Ok(changes)
}

/// Takes back what a clock that was ahead has left: samples of days to come, and sums of spans that have not been.
fn forget_future(client: &mut SpiClient, now: TimestampWithTimeZone) -> Result<(), Error> {
    for statement in [
        "DELETE FROM perf.capacity_sample WHERE sampled_at > $1 + interval '1 day'",
        "UPDATE perf.capacity_clock SET rolled_until = pg_catalog.date_bin(pg_catalog.make_interval(secs => resolution_s), $1, 'epoch')
          WHERE rolled_until > $1 + interval '1 day'",
    ] {
        client.update(statement, None, &[now.into()]).map_err(spi_failed)?;
    }
    Ok(())
}

/// The resolutions whose span has begun since they were sampled last; marks them as sampled.
fn claim(client: &mut SpiClient, now: TimestampWithTimeZone) -> Result<Vec<i64>, Error> {
    let rows = client
        .update(
            "UPDATE perf.capacity_clock SET sampled_at = $1
              WHERE pg_catalog.isfinite(sampled_at) IS FALSE
                 OR pg_catalog.floor(extract(epoch FROM sampled_at) / resolution_s)
                    <> pg_catalog.floor(extract(epoch FROM $1) / resolution_s)
             RETURNING resolution_s::bigint",
            None,
            &[now.into()],
        )
        .map_err(spi_failed)?;
    rows.into_iter().filter_map(|row| row.get::<i64>(1).map_err(spi_failed).transpose()).collect()
}

fn store(client: &mut SpiClient, now: TimestampWithTimeZone, rows: &[Row]) -> Result<u64, Error> {
    let column =
        |f: fn(&Summary) -> f64| -> Vec<Option<f64>> { rows.iter().map(|r| r.spread.as_ref().map(f)).collect() };
    let arguments: [DatumWithOid; 8] = [
        rows.iter().map(|r| r.metric).collect::<Vec<_>>().into(),
        rows.iter().map(|r| Text(r.object.clone())).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.resolution_s).collect::<Vec<_>>().into(),
        rows.iter().map(|r| r.mean).collect::<Vec<_>>().into(),
        column(|s| s.min).into(),
        column(|s| s.p95).into(),
        column(|s| s.max).into(),
        now.into(),
    ];
    client
        .update(
            "INSERT INTO perf.capacity_sample
                    (metric, object, resolution_s, value_mean, value_min, value_p95, value_max, sampled_at)
             SELECT u.*, $8 FROM unnest($1, $2, $3, $4, $5, $6, $7) AS u",
            None,
            &arguments,
        )
        .map(|done| done.len() as u64)
        .map_err(spi_failed)
}

/// Sums the spans of `coarser` that are complete at `now` up from `finer`, where they have not been yet.
fn roll_up(
    client: &mut SpiClient,
    finer: &Step,
    coarser: &Step,
    now: TimestampWithTimeZone,
    changes: &mut Changes,
) -> Result<u64, Error> {
    let span_us = coarser.resolution_s * US_PER_S;
    let end = i64::from(now).div_euclid(span_us) * span_us;
    let oldest = end - finer.ladder.keep_s.min(coarser.ladder.keep_s) * US_PER_S;
    let rows = client
        .select(
            "SELECT rolled_until FROM perf.capacity_clock WHERE resolution_s = $1",
            Some(1),
            &[coarser.resolution_s.into()],
        )
        .map_err(spi_failed)?;
    let rolled_until = rows.first().get_one::<TimestampWithTimeZone>().map_err(spi_failed)?.map_or(i64::MIN, i64::from);
    let start = rolled_until.max(oldest.div_euclid(span_us) * span_us);
    if start >= end {
        return Ok(0);
    }
    let instant = |us: i64| TimestampWithTimeZone::try_from(us).unwrap_or(now);
    let (start, end) = (instant(start), instant(end));
    // After a pause the first span to sum up may lie before every partition there is now.
    let first = client
        .select(
            "SELECT min(sampled_at) FROM perf.capacity_sample
              WHERE resolution_s = $1 AND sampled_at >= $2 AND sampled_at < $3",
            Some(1),
            &[finer.resolution_s.into(), start.into(), end.into()],
        )
        .and_then(|rows| rows.first().get_one::<TimestampWithTimeZone>())
        .map_err(spi_failed)?;
    let mut rolled = 0;
    if let Some(first) = first {
        let aligned = instant(i64::from(first).div_euclid(span_us) * span_us);
        *changes += partitions::ensure(coarser.table, &Ladder { premake: 0, ..coarser.ladder }, aligned)?;
        let names: Vec<&str> = METRICS
            .iter()
            .filter(|m| {
                !m.measured_every_s.contains(&coarser.resolution_s) && m.measured_every_s[0] <= finer.resolution_s
            })
            .map(|m| m.name)
            .collect();
        rolled = client
            .update(
                "INSERT INTO perf.capacity_sample
                        (metric, object, sampled_at, resolution_s, value_mean, value_min, value_p95, value_max)
                 SELECT metric, object, pg_catalog.date_bin(pg_catalog.make_interval(secs => $5), sampled_at, 'epoch'), $5,
                        avg(value_mean), min(coalesce(value_min, value_mean)),
                        percentile_cont(0.95) WITHIN GROUP (ORDER BY coalesce(value_p95, value_mean)),
                        max(coalesce(value_max, value_mean))
                   FROM perf.capacity_sample
                  WHERE resolution_s = $1 AND sampled_at >= $2 AND sampled_at < $3 AND metric = ANY ($4)
                  GROUP BY 1, 2, 3",
                None,
                &[
                    finer.resolution_s.into(),
                    start.into(),
                    end.into(),
                    names.into(),
                    coarser.resolution_s.into(),
                ],
            )
            .map_err(spi_failed)?
            .len() as u64;
    }
    client
        .update(
            "UPDATE perf.capacity_clock SET rolled_until = $2 WHERE resolution_s = $1",
            None,
            &[coarser.resolution_s.into(), end.into()],
        )
        .map_err(spi_failed)?;
    Ok(rolled)
}

fn text(client: &SpiClient, query: &str) -> Result<Option<String>, Error> {
    let value = client.select(query, Some(1), &[]).and_then(|rows| rows.first().get_one::<Text>());
    Ok(value.map_err(spi_failed)?.map(|text| text.0))
}

//! Rust behind the SQL of `sql/observe.sql`: argument checks, what is pending in memory as rows, histogram arithmetic and
//! the rules for cause and trend. Functions with a leading underscore serve that SQL only.

use perf_core::delta::Delta;
use perf_core::histogram::{self, Histogram};
use perf_core::outcome::{unpack_sqlstate, Outcome, Severity};
use perf_core::patterns::{self, Evidence, Half};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use crate::collect::pending::{self, Position};
use crate::error::Error;
use crate::memory::slow_ring::{self, SlowSample};
use crate::memory::survey::{self, Snapshot};
use crate::pg::background::instant;
use crate::pg::names::Visibility;
use crate::pg::text::DbText;
use crate::pg::{background, names};
use crate::workload::history;

const NS_TO_MS: f64 = 1e-6;
const HIDDEN: &str = "<insufficient privilege>";
const OTHER: &str = "(other)";
/// More buckets than this nobody reads, and a slip of the keyboard should not fill the memory.
const BUCKETS_MAX: i64 = 100_000;
/// A hundred years: the end of a bucket stays within what a timestamp can hold.
const BUCKET_MAX_DAYS: i64 = 36_525;
const BUCKET_MAX_MONTHS: i64 = 1_200;

fn invalid(argument: &'static str, value: impl Into<String>, accepted: impl Into<String>) -> Error {
    Error::InvalidArgument { argument, value: value.into(), accepted: accepted.into() }
}

/// The number of a severity; raises for a word that is none. NULL means the mildest.
#[pg_extern(immutable, parallel_safe)]
fn _severity_number(min_severity: Option<&str>) -> i16 {
    let Some(word) = min_severity else { return 0 };
    match Severity::from_name(word) {
        Some(severity) => severity as i16,
        None => invalid("min_severity", format!("\"{word}\""), "Accepted are slow, critical and emergency.").raise(),
    }
}

/// The word of a severity's number.
#[pg_extern(immutable, parallel_safe, strict)]
fn _severity_name(severity: i16) -> &'static str {
    let index = usize::try_from(severity).unwrap_or(0);
    Severity::ALL.get(index).copied().unwrap_or(Severity::Emergency).name()
}

/// `max_rows` as a LIMIT, which is always evaluated; raises unless it is positive. NULL means no limit. Takes
/// `min_severity` along so that a wrong one raises even where no row is looked at.
#[pg_extern(stable, parallel_restricted)]
fn _checked_limit(max_rows: Option<i32>, min_severity: Option<&str>) -> Option<i64> {
    if let Err(error) = crate::memory::require() {
        error.raise();
    }
    _severity_number(min_severity);
    match max_rows {
        Some(rows) if rows <= 0 => {
            invalid("max_rows", rows.to_string(), "Give a positive number, or NULL for all rows.").raise()
        }
        rows => rows.map(i64::from),
    }
}

/// The time from which a trend is shown: `since`, or the oldest time known when `since` is NULL or -infinity. Raises
/// unless `bucket` is a positive interval and the buckets are not too many. NULL: there is nothing to show.
#[pg_extern(stable, parallel_restricted)]
fn _trend_start(
    bucket: Option<Interval>,
    since: Option<TimestampWithTimeZone>,
    oldest: Option<TimestampWithTimeZone>,
) -> Option<TimestampWithTimeZone> {
    if let Err(error) = crate::memory::require() {
        error.raise();
    }
    const DAY_US: i64 = 86_400_000_000;
    const ACCEPTED: &str =
        "Give a positive interval of at most 100 years, such as '5 minutes', '1 hour', '1 day' or '1 month'.";
    let Some(bucket) = bucket else { invalid("bucket", "NULL", ACCEPTED).raise() };
    let (months, days, micros) = (i64::from(bucket.months()), i64::from(bucket.days()), bucket.micros());
    let shown = || format!("{months} months {days} days {} seconds", micros as f64 * 1e-6);
    let length = (months * 30 + days).saturating_mul(DAY_US).saturating_add(micros);
    // Infinite intervals are the largest and smallest of all.
    let negative = months < 0 || days < 0 || micros < 0;
    if negative || length == 0 || months > BUCKET_MAX_MONTHS || length > BUCKET_MAX_DAYS * DAY_US {
        invalid("bucket", shown(), ACCEPTED).raise();
    }
    let start = match since {
        Some(since) if !since.is_neg_infinity() => since,
        _ => oldest?,
    };
    if start.is_infinity() {
        return None;
    }
    let now = background::now();
    let buckets = now.saturating_sub(i64::from(start)) / length;
    if buckets > BUCKETS_MAX {
        invalid(
            "bucket",
            shown(),
            format!("That makes {buckets} buckets since the start; at most {BUCKETS_MAX} are shown. Take a longer bucket or a later \"since\"."),
        )
        .raise();
    }
    Some(start)
}

/// When what the history of this database has from `since` on began; NULL for both: all of it, and that there is none.
#[pg_extern(stable, parallel_restricted)]
fn _history_start(since: Option<TimestampWithTimeZone>) -> Option<TimestampWithTimeZone> {
    let since = since.map(i64::from).filter(|at| *at != i64::MIN);
    history::first_activity(since).map(instant)
}

/// Adds up encoded histograms: the transition and the combine function of `_histogram_merge(bytea)`.
#[pg_extern(immutable, parallel_safe)]
fn _histogram_add(total: Option<&[u8]>, added: Option<&[u8]>) -> Option<Vec<u8>> {
    let (total, added) = match (total, added) {
        (Some(total), Some(added)) => (total, added),
        (total, added) => return total.or(added).map(<[u8]>::to_vec),
    };
    Some(histogram::merge_encoded(total, added).unwrap_or_else(|| no_histogram(total.len().max(added.len()))))
}

fn no_histogram(bytes: usize) -> ! {
    invalid("histogram", format!("{bytes} bytes"), "Give what perf_opt itself has stored.").raise()
}

/// Latency in ms at a quantile (0 to 1) of an encoded histogram; NULL when it is empty.
#[pg_extern(immutable, parallel_safe, strict)]
fn _histogram_quantile(histogram: &[u8], quantile: f64) -> Option<f64> {
    if !(0.0..=1.0).contains(&quantile) {
        invalid("quantile", quantile.to_string(), "Give a number from 0 to 1.").raise();
    }
    let known = Histogram::decode(histogram).unwrap_or_else(|| no_histogram(histogram.len()));
    known.quantile_ns(quantile).map(|ns| ns * NS_TO_MS)
}

/// Why a statement is slow; the rules are those of `perf_core::patterns`.
#[pg_extern(immutable, parallel_safe)]
#[allow(clippy::too_many_arguments)]
fn _slow_cause(
    plan: Option<&str>,
    calls: Option<f64>,
    total_ms: Option<f64>,
    planning_ms: Option<f64>,
    block_io_ms: Option<f64>,
    lock_wait_ms: Option<f64>,
    temp_blks_written: Option<f64>,
    shared_blks_hit: Option<f64>,
    shared_blks_read: Option<f64>,
    rows: Option<f64>,
    estimated_rows: Option<f64>,
    actual_rows: Option<f64>,
) -> &'static str {
    let or_zero = |value: Option<f64>| value.unwrap_or(0.0);
    patterns::cause(&Evidence {
        plan,
        calls: or_zero(calls),
        total_ms: or_zero(total_ms),
        planning_ms: or_zero(planning_ms),
        block_io_ms: or_zero(block_io_ms),
        lock_wait_ms: or_zero(lock_wait_ms),
        temp_blks_written: or_zero(temp_blks_written),
        shared_blks_hit: or_zero(shared_blks_hit),
        shared_blks_read: or_zero(shared_blks_read),
        rows: or_zero(rows),
        estimated_rows: or_zero(estimated_rows),
        actual_rows: or_zero(actual_rows),
    })
}

/// Whether the load of a statement grows, in a word and in percent; see `perf_core::patterns::trend`.
#[pg_extern(immutable, parallel_safe)]
fn _slow_trend(
    earlier_ms: Option<f64>,
    recent_ms: Option<f64>,
    half_minutes: Option<f64>,
    seen_before: Option<bool>,
) -> TableIterator<'static, (name!(trend, &'static str), name!(trend_pct, Option<f64>))> {
    let minutes = half_minutes.unwrap_or(0.0);
    let half = |total_ms: Option<f64>| Half { total_ms: total_ms.unwrap_or(0.0), minutes };
    TableIterator::once(patterns::trend(half(earlier_ms), half(recent_ms), seen_before.unwrap_or(false)))
}

type PendingRow = (
    name!(datid, pg_sys::Oid),
    name!(bucket_at, TimestampWithTimeZone),
    name!(collected_at, TimestampWithTimeZone),
    name!(userid, pg_sys::Oid),
    name!(queryid, Option<i64>),
    name!(query, Option<DbText>),
    name!(toplevel, bool),
    name!(calls, i64),
    name!(failures, i64),
    name!(slow, i64),
    name!(critical, i64),
    name!(emergency, i64),
    name!(rows, i64),
    name!(total_ms, f64),
    name!(max_ms, f64),
    name!(planning_ms, f64),
    name!(temp_blks_written, i64),
    name!(shared_blks_hit, i64),
    name!(shared_blks_read, i64),
    name!(block_io_ms, f64),
    name!(lock_wait_ms, f64),
    name!(first_seen_at, TimestampWithTimeZone),
    name!(last_seen_at, TimestampWithTimeZone),
    name!(histogram, Vec<u8>),
);

fn pending_row(item: &Snapshot, delta: &Delta, position: &Position, now: i64, viewer: &Visibility) -> PendingRow {
    let counters = &delta.counters;
    let visible = viewer.covers(item.key.userid);
    let query = if item.is_other {
        Some(DbText::from_ascii(OTHER))
    } else if visible {
        item.text.clone()
    } else {
        Some(DbText::from_ascii(HIDDEN))
    };
    let usage = &counters.usage;
    (
        pg_sys::Oid::from(item.key.dbid),
        instant(pending::began_at(position, counters.first_seen, now)),
        instant(now),
        pg_sys::Oid::from(item.key.userid),
        (visible && !item.is_other && item.key.queryid != 0).then_some(item.key.queryid as i64),
        query,
        item.key.toplevel,
        counters.calls as i64,
        counters.failures as i64,
        counters.slow as i64,
        counters.critical as i64,
        counters.emergency as i64,
        counters.rows as i64,
        counters.total_ns as f64 * NS_TO_MS,
        counters.max_ns as f64 * NS_TO_MS,
        counters.planning_ns as f64 * NS_TO_MS,
        usage.temp_blks_written as i64,
        usage.shared_blks_hit as i64,
        usage.shared_blks_read as i64,
        (usage.blk_read_ns + usage.blk_write_ns) as f64 * NS_TO_MS,
        counters.lock_wait_ms as f64,
        instant(counters.first_seen),
        instant(counters.last_seen),
        delta.histogram.encode(),
    )
}

/// What memory has of statements beyond the history of this database; with `all_databases`, also all that it has of
/// other databases since the server started. Texts and queryids of others only for members of pg_read_all_stats.
#[allow(clippy::type_complexity, reason = "the columns of a table function are its type")]
#[pg_extern(volatile, parallel_restricted)]
fn _pending_statements(
    all_databases: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(datid, pg_sys::Oid),
        name!(bucket_at, TimestampWithTimeZone),
        name!(collected_at, TimestampWithTimeZone),
        name!(userid, pg_sys::Oid),
        name!(queryid, Option<i64>),
        name!(query, Option<DbText>),
        name!(toplevel, bool),
        name!(calls, i64),
        name!(failures, i64),
        name!(slow, i64),
        name!(critical, i64),
        name!(emergency, i64),
        name!(rows, i64),
        name!(total_ms, f64),
        name!(max_ms, f64),
        name!(planning_ms, f64),
        name!(temp_blks_written, i64),
        name!(shared_blks_hit, i64),
        name!(shared_blks_read, i64),
        name!(block_io_ms, f64),
        name!(lock_wait_ms, f64),
        name!(first_seen_at, TimestampWithTimeZone),
        name!(last_seen_at, TimestampWithTimeZone),
        name!(histogram, Vec<u8>),
    ),
> {
    if let Err(error) = crate::memory::require() {
        error.raise();
    }
    let viewer = Visibility::of_current_role();
    let position = pending::read_position();
    let written = pending::read_written();
    let (snapshot, found) = pending::of_current_database(&position, &written, true);
    let now = background::now();
    let mut rows: Vec<PendingRow> = found
        .deltas
        .iter()
        .filter_map(|delta| snapshot.get(delta.entry).map(|item| pending_row(item, delta, &position, now, &viewer)))
        .collect();
    if all_databases.unwrap_or(false) {
        let here = names::current_database();
        let elsewhere = survey::snapshot(None, true);
        rows.extend(elsewhere.iter().filter(|item| item.key.dbid != here).map(|item| {
            let delta = Delta { entry: 0, counters: item.counters, histogram: item.histogram };
            pending_row(item, &delta, &Position::default(), now, &viewer)
        }));
    }
    TableIterator::new(rows)
}

/// Slow statements in the rings beyond those in the history of this database; with `all_databases`, also all that the
/// rings have of other databases. What the caller may not see of others is NULL.
#[allow(clippy::type_complexity, reason = "the columns of a table function are its type")]
#[pg_extern(volatile, parallel_restricted)]
fn _pending_slow(
    all_databases: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(captured_at, TimestampWithTimeZone),
        name!(severity, i16),
        name!(datid, pg_sys::Oid),
        name!(userid, pg_sys::Oid),
        name!(toplevel, bool),
        name!(duration_ms, f64),
        name!(rows, i64),
        name!(estimated_rows, f64),
        name!(outcome, &'static str),
        name!(sqlstate, Option<String>),
        name!(planning_ms, f64),
        name!(shared_blks_hit, i64),
        name!(shared_blks_read, i64),
        name!(temp_blks_written, i64),
        name!(wal_bytes, i64),
        name!(queryid, Option<i64>),
        name!(query, DbText),
        name!(application_name, Option<DbText>),
        name!(client_addr, Option<DbText>),
        name!(relations, Option<Vec<pg_sys::Oid>>),
        name!(plan, Option<DbText>),
    ),
> {
    if let Err(error) = crate::memory::require() {
        error.raise();
    }
    let viewer = Visibility::of_current_role();
    let here = names::current_database();
    let all = all_databases.unwrap_or(false);
    let position = pending::read_position();
    let mut samples: Vec<SlowSample> = Vec::new();
    for (severity, seq) in Severity::ALL.into_iter().zip(position.seqs) {
        let (found, _, _) = slow_ring::read(severity, if all { 0 } else { seq });
        samples.extend(found.into_iter().filter(|sample| if sample.dbid == here { sample.seq > seq } else { all }));
    }
    let known = |text: DbText| (!text.is_empty()).then_some(text);
    TableIterator::new(samples.into_iter().map(move |sample| {
        let visible = viewer.covers(sample.userid);
        (
            instant(sample.captured_at),
            sample.severity as i16,
            pg_sys::Oid::from(sample.dbid),
            pg_sys::Oid::from(sample.userid),
            sample.toplevel,
            sample.duration_ns as f64 * NS_TO_MS,
            sample.rows as i64,
            sample.estimated_rows,
            Outcome::from_u8(sample.outcome).name(),
            (sample.sqlstate != 0).then(|| unpack_sqlstate(sample.sqlstate)),
            sample.planning_ns as f64 * NS_TO_MS,
            sample.shared_blks_hit as i64,
            sample.shared_blks_read as i64,
            sample.temp_blks_written as i64,
            sample.wal_bytes as i64,
            (visible && sample.queryid != 0).then_some(sample.queryid as i64),
            if visible { sample.text } else { DbText::from_ascii(HIDDEN) },
            if visible { known(sample.application_name) } else { None },
            if visible { known(sample.client_addr) } else { None },
            (visible && sample.dbid == here)
                .then(|| sample.relations.iter().map(|&relation| pg_sys::Oid::from(relation)).collect()),
            if visible { sample.plan } else { None },
        )
    }))
}

//! Latency, throughput and errors of the statements of the current database: of the last minutes, from the history and from
//! what shared memory has beyond it.

use perf_core::activity::Totals;
use perf_core::histogram::Histogram;
use pgrx::datum::TimestampWithTimeZone;

use super::{server, Sheet, DATABASE, NOTHING_RAN, NOT_PRELOADED, WINDOW_US};
use crate::collect::{pending, registry};
use crate::memory;
use crate::pg::background;
use crate::pg::query::select_with;

/// A rate is not of less than a second, nor one a minute of less than a minute: a single statement right after the start
/// would be many.
const SPAN_MIN_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60_000_000;

pub(super) fn measure(sheet: &mut Sheet) {
    let database = server::database_name();
    if !memory::is_ready() {
        for name in ["latency_mean", "latency_p95", "latency_p99", "slow_queries_per_min", "error_rate", "qps"] {
            sheet.put(name, DATABASE, &database, Err(NOT_PRELOADED));
        }
        return;
    }
    let (totals, span_us) = recent(sheet);
    let span = Some(span_us);
    for (name, value) in [
        ("latency_mean", totals.mean_ms()),
        ("latency_p95", totals.quantile_ms(0.95)),
        ("latency_p99", totals.quantile_ms(0.99)),
        ("slow_queries_per_min", totals.slow_per_min(span_us.max(MINUTE_US))),
        ("error_rate", totals.error_pct()),
        ("qps", totals.per_s(span_us)),
    ] {
        sheet.put_over(name, DATABASE, &database, span, value.ok_or(NOTHING_RAN));
    }
}

/// What clients' statements did, and in which time: what was written in the last minutes may have begun a little earlier,
/// or, where nobody writes, with the server.
fn recent(sheet: &Sheet) -> (Totals, i64) {
    let mut totals = Totals::default();
    let mut first = (sheet.now - WINDOW_US).max(registry::boot_id()).min(sheet.now);
    // What a standby reads there is its primary's.
    let written = if background::in_recovery() { Vec::new() } else { history(sheet.now - WINDOW_US) };
    for (began_at, part) in written {
        first = first.min(began_at);
        totals.add(&part);
    }
    if sheet.with_pending {
        let position = pending::read_position();
        let (snapshot, found) = pending::of_current_database(&position, &pending::read_written(), false);
        for delta in &found.deltas {
            if !snapshot.get(delta.entry).is_some_and(|item| item.key.toplevel) {
                continue;
            }
            let counters = &delta.counters;
            first = first.min(pending::began_at(&position, counters.first_seen, sheet.now));
            totals.add(&Totals {
                statements: counters.calls as f64,
                failures: counters.failures as f64,
                slow: (counters.slow + counters.critical + counters.emergency) as f64,
                total_ms: counters.total_ns as f64 * 1e-6,
                latency: delta.histogram,
            });
        }
    }
    (totals, (sheet.now - first).max(SPAN_MIN_US))
}

/// Rows of the history since a time: when each began, and what it counts.
fn history(since: i64) -> Vec<(i64, Totals)> {
    let Ok(since) = TimestampWithTimeZone::try_from(since) else { return Vec::new() };
    select_with(
        c"SELECT bucket_at, calls::float8, failures::float8, (slow + critical + emergency)::float8, total_ms, histogram
            FROM perf.statement_history_visible WHERE toplevel AND collected_at > $1",
        &[since.into()],
        |row| {
            let totals = Totals {
                statements: row.get::<f64>(2)?,
                failures: row.get::<f64>(3)?,
                slow: row.get::<f64>(4)?,
                total_ms: row.get::<f64>(5)?,
                latency: Histogram::decode(&row.get::<Vec<u8>>(6)?).unwrap_or_default(),
            };
            Some((row.get::<TimestampWithTimeZone>(1)?.into(), totals))
        },
    )
}

//! What shared memory knows, as SQL: statements, histograms, reset.

use super::or_raise;
use crate::error::Error;
use crate::memory::survey::{self, EntryView};
use crate::memory::table::Key;
use crate::memory::{self, applications, traces, Memory};
use crate::pg::names::{current_database, database_oid, Names, Visibility};
use crate::pg::srf::{Row, RowSink};
use crate::pg::text::DbText;
use perf_core::counters::Counters;
use perf_core::histogram::{lower_ns, Histogram, BUCKETS};
use perf_core::outcome::unpack_sqlstate;
use pgrx::pg_sys;
use pgrx::prelude::*;

const COLUMNS: usize = 32;
const NOT_VISIBLE: &[u8] = b"<insufficient privilege>";

/// What is copied of an entry under its lock.
struct Copied {
    key: Key,
    is_other: bool,
    counters: Counters,
    percentiles_ns: Option<[f64; 3]>,
    text_at: core::ops::Range<usize>,
    encoding: i32,
}

/// All statements in memory; see the COMMENT for the columns.
///
/// # Errors
/// 55000 when perf_opt is not preloaded.
#[pg_extern(sql = r#"
CREATE FUNCTION perf."statements"(all_databases boolean DEFAULT false) RETURNS TABLE (
    database text, username text, queryid bigint, toplevel boolean, query text,
    calls bigint, failures bigint, rows bigint,
    total_ms double precision, mean_ms double precision, min_ms double precision, max_ms double precision,
    stddev_ms double precision, p50_ms double precision, p95_ms double precision, p99_ms double precision,
    plans bigint, planning_total_ms double precision,
    shared_blks_hit bigint, shared_blks_read bigint, shared_blks_dirtied bigint, shared_blks_written bigint,
    temp_blks_read bigint, temp_blks_written bigint, blk_read_ms double precision, blk_write_ms double precision,
    wal_records bigint, wal_bytes bigint, jit_ms double precision, last_sqlstate text,
    first_seen_at timestamptz, last_seen_at timestamptz
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn statements(fcinfo: pg_sys::FunctionCallInfo) {
    let memory = or_raise(memory::require());
    // SAFETY: the server's call information; the function is STRICT, so its one argument is there.
    let (all_databases, sink) = unsafe {
        let argument = (*fcinfo).args.as_slice(1)[0];
        (argument.value.value() != 0, core::cell::RefCell::new(RowSink::start(fcinfo)))
    };
    let only = (!all_databases).then(current_database);
    let mut names = Names::default();
    let visibility = Visibility::of_current_role();
    let texts = core::cell::RefCell::new(Vec::new());
    let copies = core::cell::RefCell::new(Vec::new());
    survey::visit(
        &memory,
        |entry| copy(entry, only, &visibility, &mut copies.borrow_mut(), &mut texts.borrow_mut()),
        || {
            let (mut copies, mut texts, mut sink) = (copies.borrow_mut(), texts.borrow_mut(), sink.borrow_mut());
            copies.iter().for_each(|copied| emit(&mut sink, copied, &texts, &visibility, &mut names));
            copies.clear();
            texts.clear();
        },
    );
}

fn copy(entry: &EntryView, only: Option<u32>, visible: &Visibility, copies: &mut Vec<Copied>, texts: &mut Vec<u8>) {
    let nothing = entry.counters.calls == 0 && (entry.is_other && entry.counters.plans == 0);
    if only.is_some_and(|dbid| dbid != entry.key.dbid) || nothing {
        return;
    }
    let from = texts.len();
    let encoding = if visible.covers(entry.key.userid) { entry.text_into(texts) } else { -1 };
    let (min, max) = (entry.counters.min_ns as f64, entry.counters.max_ns as f64);
    copies.push(Copied {
        key: entry.key,
        is_other: entry.is_other,
        counters: *entry.counters,
        percentiles_ns: entry
            .histogram
            .quantiles_in(entry.octaves, [0.5, 0.95, 0.99])
            .map(|ps| ps.map(|p| p.max(min).min(max))),
        text_at: from..texts.len(),
        encoding,
    });
}

fn emit(sink: &mut RowSink, copied: &Copied, texts: &[u8], visible: &Visibility, names: &mut Names) {
    let ms = |ns: u64| ns as f64 * 1e-6;
    let (key, counters) = (copied.key, &copied.counters);
    let may_see = visible.covers(key.userid);
    sink.row(|row: &mut Row<COLUMNS>| {
        row.text_or_null(names.database(key.dbid));
        row.text_or_null(names.role(key.userid));
        row.put((may_see && !copied.is_other).then(|| pg_sys::Datum::from(key.queryid as i64)));
        row.put((!copied.is_other).then(|| pg_sys::Datum::from(key.toplevel)));
        match (copied.is_other, may_see) {
            (true, _) => row.text(b"(other)"),
            (false, false) => row.text(NOT_VISIBLE),
            (false, true) => {
                let text = &texts[copied.text_at.clone()];
                if text.is_ascii() {
                    row.text(text);
                } else {
                    row.text(DbText::convert(text.to_vec(), copied.encoding).as_bytes());
                }
            }
        }
        row.bigint(counters.calls);
        row.bigint(counters.failures);
        row.bigint(counters.rows);
        row.float(ms(counters.total_ns));
        row.float(counters.mean_ms());
        row.float(ms(counters.min_ns));
        row.float(ms(counters.max_ns));
        row.float(counters.stddev_ms());
        for index in 0..3 {
            row.float_or_null(copied.percentiles_ns.map(|percentiles| percentiles[index] * 1e-6));
        }
        row.bigint(counters.plans);
        row.float(ms(counters.planning_ns));
        let usage = &counters.usage;
        for blocks in [
            usage.shared_blks_hit,
            usage.shared_blks_read,
            usage.shared_blks_dirtied,
            usage.shared_blks_written,
            usage.temp_blks_read,
            usage.temp_blks_written,
        ] {
            row.bigint(blocks);
        }
        row.float(ms(usage.blk_read_ns));
        row.float(ms(usage.blk_write_ns));
        row.bigint(usage.wal_records);
        row.bigint(usage.wal_bytes);
        row.float(ms(counters.jit_ns));
        let sqlstate = (counters.last_sqlstate != 0).then(|| unpack_sqlstate(counters.last_sqlstate));
        row.text_or_null(sqlstate.as_ref().map(String::as_bytes));
        row.timestamp(counters.first_seen);
        row.timestamp(counters.last_seen);
    });
}

/// The latencies of a statement of this database, all its users and levels together: lower_ms, upper_ms, calls.
/// Executions of users whose statements the caller may not see are left out. Unknown queryid: no rows.
///
/// # Errors
/// 55000 when perf_opt is not preloaded.
#[pg_extern(volatile, strict, parallel_restricted)]
fn latency_histogram(
    queryid: i64,
) -> TableIterator<'static, (name!(lower_ms, f64), name!(upper_ms, f64), name!(calls, i64))> {
    let memory = or_raise(memory::require());
    let histogram = histogram_of(&memory, queryid as u64);
    TableIterator::new(
        (0..BUCKETS)
            .filter(move |&bucket| histogram.counts[bucket] > 0)
            .map(move |bucket| {
                let lower = if bucket == 0 { 0.0 } else { lower_ns(bucket) * 1e-6 };
                (lower, lower_ns(bucket + 1) * 1e-6, i64::from(histogram.counts[bucket]))
            })
            .collect::<Vec<_>>(),
    )
}

fn histogram_of(memory: &Memory, queryid: u64) -> Histogram {
    let (dbid, visibility) = (current_database(), Visibility::of_current_role());
    let mut sum = Histogram::default();
    survey::visit(
        memory,
        |entry| {
            let key = entry.key;
            if key.queryid == queryid && key.dbid == dbid && !entry.is_other && visibility.covers(key.userid) {
                sum.merge(entry.histogram);
            }
        },
        || {},
    );
    sum
}

/// Forgets statements: all, or one queryid's, or one database's; without a queryid also what applications did, and the
/// transactions kept. Returns how many entries there were, `(other)` rows
/// included when no queryid is given.
///
/// # Errors
/// 55000 when perf_opt is not preloaded; 42704 when the database does not exist. EXECUTE is granted to nobody.
#[pg_extern(volatile, parallel_unsafe)]
fn reset(queryid: default!(Option<i64>, "NULL"), database: default!(Option<&str>, "NULL")) -> i64 {
    let memory = or_raise(memory::require());
    let only = or_raise(database.map(known_database).transpose());
    let removed = survey::reset(&memory, |key, is_other| {
        let database_matches = only.is_none_or(|dbid| key.dbid == dbid);
        let statement_matches = queryid.is_none_or(|queryid| !is_other && key.queryid == queryid as u64);
        database_matches && statement_matches
    });
    if queryid.is_none() {
        applications::reset(&memory, only);
        traces::reset(&memory, only);
    }
    crate::collect::registry::note_reset();
    i64::try_from(removed).unwrap_or(i64::MAX)
}

fn known_database(name: &str) -> Result<u32, Error> {
    database_oid(name).ok_or_else(|| Error::UndefinedObject {
        message: format!("database \"{name}\" given for argument \"database\" does not exist"),
        hint: "SELECT datname FROM pg_database lists the databases.".to_owned(),
    })
}

/// A query text without its literals, as perf_opt shows it.
#[pg_extern(immutable, strict, parallel_safe)]
fn _normalize(query: DbText) -> DbText {
    DbText::from_bytes(perf_core::normalize::normalize_bytes(query.as_bytes(), false))
}

/// Duration in ms to `slow`, `critical`, `emergency` by the current settings, or NULL.
#[pg_extern(stable, strict, parallel_safe)]
fn _severity(duration_ms: f64) -> Option<&'static str> {
    let ns = (duration_ms.max(0.0) * 1e6) as u64;
    perf_core::outcome::Severity::of_ns(ns, &crate::guc::thresholds_ns()).map(|severity| severity.name())
}

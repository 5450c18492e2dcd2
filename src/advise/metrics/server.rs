//! What the server's own statistics say: transactions, buffers, scans, WAL, connections, disks, sizes, replication. And what
//! the collector's samples say that only it can measure.

use perf_core::activity::share;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use super::{Sheet, CLUSTER, DATABASE, RELATION};
use crate::collect::host;
use crate::pg::backends::{self, BackendCounts};
use crate::pg::query::{select_under_snapshot, select_with};
use crate::pg::{background, catalog, filesystem};

/// Fewer blocks, or scans, than this make no rate: on an idle server a handful would be all.
const BLOCKS_MIN: f64 = 1_000.0;
const SCANS_MIN: f64 = 10.0;
/// A sample of the machine older than this is not of now: they are taken every five minutes.
const MACHINE_SAMPLE_AGE_US: i64 = 900_000_000;
/// Sizes of relations are sampled every hour.
const RELATION_SAMPLE_AGE_US: i64 = 3 * 3_600_000_000;
const TOO_FEW: &str = "too few in this time to make a rate";
const NO_SAMPLE: &str = "the collector has no recent sample of it";
const OF_THE_PRIMARY: &str = "the samples on a standby are its primary's";
const SINCE_BEGAN: &str = "since the statistics of this database began";
const NO_READING: &str = "the collector has read its counter less than twice in the last minutes";

/// Counters of the server and of the current database that only grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activity {
    transactions: f64,
    blocks_hit: f64,
    blocks_read: f64,
    index_scans: f64,
    seq_scans: f64,
    /// Bytes of WAL ever written; NaN on a standby.
    wal_position: f64,
    /// When statistics were reset, in microseconds of the server's epoch; NaN: never.
    reset_at: f64,
}

impl Activity {
    /// For a reading to be kept.
    pub fn counters(&self) -> Vec<f64> {
        vec![
            self.transactions,
            self.blocks_hit,
            self.blocks_read,
            self.index_scans,
            self.seq_scans,
            self.wal_position,
            self.reset_at,
        ]
    }

    /// The reverse of [`counters`](Self::counters).
    pub fn from_counters(counters: &[f64]) -> Option<Activity> {
        let &[transactions, blocks_hit, blocks_read, index_scans, seq_scans, wal_position, reset_at] = counters else {
            return None;
        };
        Some(Activity { transactions, blocks_hit, blocks_read, index_scans, seq_scans, wal_position, reset_at })
    }

    /// What came since; None when a counter went back.
    fn since(&self, earlier: &Activity) -> Option<Activity> {
        let grown = Activity {
            transactions: self.transactions - earlier.transactions,
            blocks_hit: self.blocks_hit - earlier.blocks_hit,
            blocks_read: self.blocks_read - earlier.blocks_read,
            index_scans: self.index_scans - earlier.index_scans,
            seq_scans: self.seq_scans - earlier.seq_scans,
            wal_position: self.wal_position - earlier.wal_position,
            reset_at: self.reset_at,
        };
        let counters = grown.counters();
        let whole =
            self.reset_at.to_bits() == earlier.reset_at.to_bits() && counters[..5].iter().all(|&value| value >= 0.0);
        whole.then_some(grown)
    }
}

/// The name of the current database.
pub fn database_name() -> String {
    select_under_snapshot(c"SELECT pg_catalog.current_database()::pg_catalog.text", |row| Some(row.string(1)))
        .pop()
        .unwrap_or_default()
}

/// Reads the counters.
pub fn read_activity() -> Activity {
    let mut activity = Activity {
        transactions: f64::NAN,
        blocks_hit: f64::NAN,
        blocks_read: f64::NAN,
        index_scans: 0.0,
        seq_scans: 0.0,
        wal_position: f64::NAN,
        reset_at: f64::NAN,
    };
    select_under_snapshot(
        c"SELECT (xact_commit + xact_rollback)::float8, blks_hit::float8, blks_read::float8, stats_reset
            FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()",
        |row| {
            activity.transactions = row.get::<f64>(1)?;
            activity.blocks_hit = row.get::<f64>(2)?;
            activity.blocks_read = row.get::<f64>(3)?;
            activity.reset_at = row.get::<TimestampWithTimeZone>(4).map_or(f64::NAN, |at| i64::from(at) as f64);
            Some(())
        },
    );
    select_under_snapshot(
        c"SELECT coalesce(sum(idx_scan), 0)::float8, coalesce(sum(seq_scan), 0)::float8
            FROM pg_catalog.pg_stat_user_tables WHERE schemaname <> 'perf'",
        |row| {
            activity.index_scans = row.get::<f64>(1)?;
            activity.seq_scans = row.get::<f64>(2)?;
            Some(())
        },
    );
    if !background::in_recovery() {
        let position = select_under_snapshot(
            c"SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0')::float8",
            |row| row.get::<f64>(1),
        );
        activity.wal_position = position.first().copied().unwrap_or(f64::NAN);
    }
    activity
}

/// The time since the statistics of the current database were reset; None where they never were.
fn since_reset(sheet: &Sheet) -> Option<i64> {
    let reset_at = sheet.activity().reset_at;
    reset_at.is_finite().then(|| (sheet.now - reset_at as i64).max(1))
}

/// Rates of the last minutes, where the collector has read the counters, else since statistics were reset.
pub(super) fn activity(sheet: &mut Sheet) {
    let database = database_name();
    let now = sheet.activity();
    let recent = sheet.baseline().and_then(|b| Some((now.since(&b.activity?)?, sheet.now - b.read_at)));
    let (grown, span_us) = match recent {
        Some((grown, span_us)) => (grown, Some(span_us)),
        None => (now, since_reset(sheet)),
    };
    let per_s = |counter: f64| span_us.and_then(|span| share(counter * 1e6, span as f64));
    let rate = |part: f64, all: f64, at_least: f64| {
        if all < at_least {
            return Err(TOO_FEW);
        }
        share(100.0 * part, all).ok_or(TOO_FEW)
    };
    let buffers = rate(grown.blocks_hit, grown.blocks_hit + grown.blocks_read, BLOCKS_MIN);
    let scans = rate(grown.index_scans, grown.index_scans + grown.seq_scans, SCANS_MIN);
    let transactions = per_s(grown.transactions).ok_or(NO_READING);
    // Of WAL only the position is known: how much there was since statistics were reset is not.
    let wal = match (background::in_recovery(), recent.is_some()) {
        (true, _) => Err("a standby writes no WAL"),
        (_, true) => per_s(grown.wal_position).ok_or(NO_READING),
        _ => Err(NO_READING),
    };
    for (name, scope, object, value) in [
        ("transactions_per_s", DATABASE, database.as_str(), transactions),
        ("buffer_cache_hit", DATABASE, &database, buffers),
        ("index_utilisation", DATABASE, &database, scans),
        ("wal_bytes_per_s", CLUSTER, "", wal),
    ] {
        let row = sheet.put_over(name, scope, object, span_us, value);
        if row.value.is_some() && span_us.is_none() {
            row.note = Some(SINCE_BEGAN.to_owned());
        }
    }
}

pub(super) fn connections(sheet: &mut Sheet) {
    let database = database_name();
    let (server, here) = backends::count();
    type Field = fn(&BackendCounts) -> u32;
    let fields: [(&str, Field); 4] = [
        ("connections_total", |c| c.total),
        ("connections_active", |c| c.active),
        ("connections_idle", |c| c.total.saturating_sub(c.active + c.idle_in_transaction)),
        ("connections_idle_in_transaction", |c| c.idle_in_transaction),
    ];
    for (name, field) in fields {
        sheet.put(name, CLUSTER, "", Ok(f64::from(field(&server))));
        sheet.put(name, DATABASE, &database, Ok(f64::from(field(&here))));
    }
    let possible =
        select_under_snapshot(c"SELECT pg_catalog.current_setting('max_connections')::float8", |row| row.get::<f64>(1));
    let used = possible.first().and_then(|&possible| share(100.0 * f64::from(server.total), possible));
    sheet.put("connections_used", CLUSTER, "", used.ok_or("max_connections is not known"));
}

/// Object and path of everything that the server writes to.
pub fn places() -> Vec<(String, String)> {
    host::places(select_under_snapshot(
        c"SELECT spcname::text, oid FROM pg_catalog.pg_tablespace
           WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1",
        |row| Some((row.get::<Oid>(2)?.to_u32(), row.string(1))),
    ))
}

/// Every filesystem that the server writes to.
pub(super) fn disks(sheet: &mut Sheet) {
    for (object, path) in places() {
        let space = filesystem::space(&path);
        let of = |value: fn(f64, f64) -> Option<f64>| {
            space.and_then(|s| value(s.used_bytes, s.available_bytes)).ok_or("its filesystem does not answer")
        };
        sheet.put("disk_used", CLUSTER, &object, of(|used, available| share(100.0 * used, used + available)));
        sheet.put("disk_used_bytes", CLUSTER, &object, of(|used, _| Some(used)));
        sheet.put("disk_available_bytes", CLUSTER, &object, of(|_, available| Some(available)));
    }
}

pub(super) fn sizes(sheet: &mut Sheet) {
    let database = database_name();
    let sizes = select_under_snapshot(
        c"SELECT CASE WHEN bool_and(d.permitted)
                      THEN sum(CASE WHEN d.permitted THEN pg_catalog.pg_database_size(d.oid) END) END::float8
            FROM (SELECT oid, pg_catalog.has_database_privilege(oid, 'CONNECT')
                              OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS permitted
                    FROM pg_catalog.pg_database) AS d",
        |row| row.get::<f64>(1),
    );
    let (own, all) = (catalog::database_bytes().ok().flatten(), sizes.first().copied());
    sheet.put("database_size_bytes", DATABASE, &database, own.ok_or("its size cannot be read"));
    let refused = "there is a database that the current role may not measure";
    sheet.put("databases_size_bytes", CLUSTER, "", all.ok_or(refused));
}

/// How long the collector's last measurement of a metric counts, in microseconds; 0 for those that are measured when asked
/// for.
pub fn kept_us(metric: &str) -> i64 {
    match metric {
        "cpu_used" | "memory_available_bytes" | "wal_size_bytes" => MACHINE_SAMPLE_AGE_US,
        "relation_size_bytes" => RELATION_SAMPLE_AGE_US,
        _ => 0,
    }
}

/// What the collector measures every five minutes.
pub(super) fn machine(sheet: &mut Sheet) {
    let standby = background::in_recovery();
    for (name, sampled) in [
        ("cpu_used", "cpu_used_pct"),
        ("memory_available_bytes", "memory_available_bytes"),
        ("wal_size_bytes", "wal_dir_bytes"),
    ] {
        let found = if standby { Err(OF_THE_PRIMARY) } else { latest(sampled, sheet.now).ok_or(NO_SAMPLE) };
        let row = sheet.put(name, CLUSTER, "", found.map(|(_, value)| value));
        if let Ok((at, _)) = found {
            row.measured_at = at;
        }
    }
}

fn latest(metric: &str, now: i64) -> Option<(i64, f64)> {
    let since = TimestampWithTimeZone::try_from(now - MACHINE_SAMPLE_AGE_US).ok()?;
    select_with(
        c"SELECT sampled_at, value_mean FROM perf.capacity_sample_visible
           WHERE resolution_s = 300 AND metric = $1 AND object = '' AND sampled_at >= $2
           ORDER BY sampled_at DESC LIMIT 1",
        &[crate::pg::query::text(metric), since.into()],
        |row| Some((row.get::<TimestampWithTimeZone>(1)?.into(), row.get::<f64>(2)?)),
    )
    .pop()
}

/// The ten tables of at least a megabyte that use their indexes least, since statistics were reset.
pub(super) fn relation_scans(sheet: &mut Sheet) {
    let found = select_under_snapshot(
        c"SELECT pg_catalog.format('%I.%I', s.schemaname, s.relname),
                 100 * coalesce(s.idx_scan, 0)::float8 / (coalesce(s.idx_scan, 0) + s.seq_scan)
            FROM pg_catalog.pg_stat_user_tables AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.relid
           WHERE s.schemaname <> 'perf' AND s.seq_scan > 0 AND c.relpages >= 128
             AND coalesce(s.idx_scan, 0) + s.seq_scan >= 10
           ORDER BY 2, s.seq_tup_read DESC, 1 LIMIT 10",
        |row| Some((row.string(1), row.get::<f64>(2)?)),
    );
    let span_us = since_reset(sheet);
    for (relation, value) in found {
        let row = sheet.put_over("relation_index_utilisation", RELATION, &relation, span_us, Ok(value));
        if span_us.is_none() {
            row.note = Some(SINCE_BEGAN.to_owned());
        }
    }
}

/// The largest relations, with indexes and TOAST, as the collector has measured them within the hour.
pub(super) fn relation_sizes(sheet: &mut Sheet) {
    let Ok(since) = TimestampWithTimeZone::try_from(sheet.now - RELATION_SAMPLE_AGE_US) else { return };
    let found = select_with(
        c"SELECT s.object, s.value_mean, s.sampled_at FROM perf.capacity_sample_visible AS s
           WHERE s.resolution_s = 3600 AND s.metric = 'relation_size_bytes' AND s.sampled_at =
                 (SELECT max(f.sampled_at) FROM perf.capacity_sample_visible AS f
                   WHERE f.resolution_s = 3600 AND f.metric = 'relation_size_bytes' AND f.sampled_at >= $1)
           ORDER BY 2 DESC, 1 LIMIT 10",
        &[since.into()],
        |row| Some((row.string(1), row.get::<f64>(2)?, i64::from(row.get::<TimestampWithTimeZone>(3)?))),
    );
    for (relation, bytes, at) in found {
        sheet.put("relation_size_bytes", RELATION, &relation, Ok(bytes)).measured_at = at;
    }
}

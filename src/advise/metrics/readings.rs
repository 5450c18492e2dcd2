//! Counters as they were some minutes ago, so that rates are of the last minutes: the collector writes them down once a
//! minute in perf.metric_reading, which holds seven minutes of them and is empty after a crash. Names no application: an
//! entry is a keyed hash. Locks what INSERT, DELETE and SELECT lock.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use perf_core::activity::Totals;
use perf_core::histogram::Histogram;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;

use super::server::{self, Activity};
use super::WINDOW_US;
use crate::collect::registry;
use crate::memory;
use crate::pg::background::instant;
use crate::pg::query::{run_with, select_with};
use crate::pg::{background, lock, names};
use crate::workload::transactions::{self, Application};

/// A run of the collector may be a little early.
const READ_EVERY_US: i64 = 55_000_000;
const KEEP_US: i64 = 420_000_000;
/// How far over the window the reading may be that rates count from.
const SLACK_US: i64 = 30_000_000;
/// A rate of less time than this says little.
const AGE_MIN_US: i64 = 10_000_000;
/// Applications of a reading, those with the most statements.
const APPLICATIONS_MAX: usize = 256;
/// A transaction that stays open keeps dead readings from being removed: above so many bytes all are, for they are minutes'
/// worth.
const BYTES_MAX: i64 = 32 << 20;
/// The entry of the server's and the database's own counters.
const OWN: i64 = 0;

/// A reading from some minutes ago.
pub struct Baseline {
    /// When.
    pub read_at: i64,
    /// Counters of the server and the database.
    pub activity: Option<Activity>,
    /// Those of applications, by [`entry_of`]; those there was no room for by [`entry_of_rest`].
    pub applications: HashMap<i64, Totals>,
}

impl Baseline {
    /// Whether there were more applications than a reading has room for.
    pub fn is_full(&self) -> bool {
        self.applications.len() >= APPLICATIONS_MAX
    }
}

/// Names an application in the readings without telling which it is.
pub fn entry_of(app: &Application) -> i64 {
    let (secret, boot) = (registry::secret(), registry::boot_id());
    let mut hasher = DefaultHasher::new();
    (secret, boot, app.dbid, app.userid, &app.name, secret.rotate_left(32)).hash(&mut hasher);
    // Never that of the server's own.
    (hasher.finish() | 1) as i64
}

/// Names what sums up the applications of this database that are not told apart.
pub fn entry_of_rest() -> i64 {
    entry_of(&rest())
}

fn rest() -> Application {
    Application {
        dbid: names::current_database(),
        userid: transactions::OTHER_ROLE,
        name: transactions::OTHER.to_owned(),
        ..Application::default()
    }
}

fn is_rest(app: &Application) -> bool {
    app.userid == transactions::OTHER_ROLE && app.name == transactions::OTHER
}

/// The counters of an application.
pub fn totals_of(app: &Application) -> Totals {
    Totals {
        statements: app.statements as f64,
        failures: app.failures as f64,
        slow: 0.0,
        total_ms: app.statement_ns as f64 * 1e-6,
        latency: app.latency,
    }
}

/// The oldest reading of the last minutes; None where there is none.
pub fn baseline(now: i64) -> Option<Baseline> {
    // Unlogged tables cannot be read on a standby, whose counters they would not be either.
    if !memory::is_ready() || background::in_recovery() {
        return None;
    }
    let (datid, boot) = (Oid::from(names::current_database()), registry::boot_id());
    let rows = select_with(
        c"SELECT r.read_at, r.entry, r.counters, r.latency FROM perf.metric_reading AS r
           WHERE r.datid = $1 AND r.boot_id = $2 AND r.read_at =
                 (SELECT min(f.read_at) FROM perf.metric_reading AS f
                   WHERE f.datid = $1 AND f.boot_id = $2 AND f.read_at BETWEEN $3 AND $4)",
        &[datid.into(), boot.into(), instant(now - WINDOW_US - SLACK_US).into(), instant(now - AGE_MIN_US).into()],
        |row| {
            let read_at = i64::from(row.get::<TimestampWithTimeZone>(1)?);
            Some((read_at, row.get::<i64>(2)?, row.get::<Vec<f64>>(3)?, row.get::<Vec<u8>>(4)))
        },
    );
    let mut baseline =
        Baseline { read_at: rows.first()?.0, activity: None, applications: HashMap::with_capacity(rows.len()) };
    for (_, entry, counters, latency) in rows {
        if entry == OWN {
            baseline.activity = Activity::from_counters(&counters);
        } else if let [statements, failures, total_ms] = counters[..] {
            let latency = latency.and_then(|bytes| Histogram::decode(&bytes)).unwrap_or_default();
            let totals = Totals { statements, failures, slow: 0.0, total_ms, latency };
            baseline.applications.insert(entry, totals);
        }
    }
    Some(baseline)
}

/// Empties the table where it has grown beyond its readings and nobody uses it.
fn empty_if_large() {
    let size = select_with(
        c"SELECT c.oid, pg_catalog.pg_total_relation_size(c.oid) FROM pg_catalog.pg_class AS c
           WHERE c.oid = pg_catalog.to_regclass('perf.metric_reading') AND c.relkind = 'r'",
        &[],
        |row| Some((row.get::<Oid>(1)?, row.get::<i64>(2)?)),
    );
    if size.first().is_some_and(|&(table, bytes)| bytes > BYTES_MAX && lock::try_lock_exclusive(table)) {
        run_with(c"TRUNCATE perf.metric_reading", &[], |_| ());
    }
}

/// Writes a reading down if it is time, and forgets old ones. Called by the collector in its transaction.
pub fn take(now: i64) {
    let (datid, boot) = (Oid::from(names::current_database()), registry::boot_id());
    let latest = select_with(
        c"SELECT max(read_at) FROM perf.metric_reading WHERE datid = $1 AND boot_id = $2",
        &[datid.into(), boot.into()],
        |row| row.get::<TimestampWithTimeZone>(1),
    );
    let age_us = latest.first().map(|&at| now - i64::from(at));
    // The clock may have been set back.
    if age_us.is_some_and(|age| (0..READ_EVERY_US).contains(&age)) {
        return;
    }
    empty_if_large();
    run_with(
        c"DELETE FROM perf.metric_reading WHERE read_at NOT BETWEEN $1 AND $2 OR datid <> $3 OR boot_id <> $4",
        &[instant(now - KEEP_US).into(), instant(now).into(), datid.into(), boot.into()],
        |_| (),
    );
    run_with(
        c"INSERT INTO perf.metric_reading (read_at, datid, boot_id, entry, counters) VALUES ($1, $2, $3, $4, $5)",
        &[instant(now).into(), datid.into(), boot.into(), OWN.into(), server::read_activity().counters().into()],
        |_| (),
    );
    let mut apps = transactions::applications(Some(names::current_database()));
    // The rest comes last.
    apps.sort_by_key(|app| (is_rest(app), std::cmp::Reverse(app.statements)));
    let mut entries: Vec<(i64, Totals)> = Vec::new();
    let mut others = Totals::default();
    for (n, app) in apps.iter().enumerate() {
        match n < APPLICATIONS_MAX && !is_rest(app) {
            true => entries.push((entry_of(app), totals_of(app))),
            false => others.add(&totals_of(app)),
        }
    }
    if others.statements > 0.0 {
        entries.push((entry_of_rest(), others));
    }
    for (entry, totals) in &entries {
        run_with(
            c"INSERT INTO perf.metric_reading (read_at, datid, boot_id, entry, counters, latency)
              VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                instant(now).into(),
                datid.into(),
                boot.into(),
                (*entry).into(),
                vec![totals.statements, totals.failures, totals.total_ms].into(),
                totals.latency.encode().into(),
            ],
            |_| (),
        );
    }
}

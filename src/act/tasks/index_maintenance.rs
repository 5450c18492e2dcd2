//! Index maintenance: rebuilds bloated indexes and drops what rebuilds left behind. [`list`] says what is to be done, for
//! the function that shows it and for the job that does it; what is bloated is `perf_core::index::maintenance`'s to say.
//!
//! [`run`] works at top level as the job's owner: one index at a time, the worst first, each with its own transactions, so
//! that one that fails stops no other. REINDEX CONCURRENTLY and DROP INDEX CONCURRENTLY let readers and writers pass; they
//! hold SHARE UPDATE EXCLUSIVE on the table, and wait for old transactions as long as the job's lock_timeout allows.

use std::collections::HashMap;

use perf_core::index::maintenance::{
    expected_ms, has_room, has_time, is_named_after, judge, leftover_stem, measured_rate, work_bytes, Action, Facts,
    Limits, State, BYTES_PER_S,
};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::{note, Outcome, Write};
use crate::act::board;
use crate::act::executor::{self, Failure, QUERY_CANCELED};
use crate::act::runs::{self, rows, Order};
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::indexes::{self, Found};
use crate::pg::relation::Relation;
use crate::pg::text::Text;
use crate::pg::{background, buffers, catalog, filesystem, ident, privilege};

/// The kind of job.
pub const KIND: &str = "index_maintenance";
const REBUILDS: &std::ffi::CStr = c"index_rebuild";
const RUNS: &std::ffi::CStr = c"job_run";

/// Limits as a job keeps them.
pub fn to_options(limits: &Limits) -> Value {
    json!({
        "max_bloat_pct": limits.max_bloat_pct, "min_size_bytes": limits.min_size_bytes as i64,
        "min_free_bytes": limits.min_free_bytes as i64, "window_ms": limits.window_ms as i64,
    })
}

fn from_options(options: &Value) -> Result<Limits, Failure> {
    let number = |name: &str| {
        let missing = || Failure::new("22023", format!("the job's options have no number \"{name}\""));
        options.get(name).and_then(Value::as_f64).ok_or_else(missing)
    };
    Ok(Limits {
        max_bloat_pct: number("max_bloat_pct")?,
        min_size_bytes: number("min_size_bytes")?,
        min_free_bytes: number("min_free_bytes")?,
        window_ms: number("window_ms")?,
    })
}

/// An index that something is the matter with.
pub struct Case {
    /// Of the index.
    pub oid: pg_sys::Oid,
    /// Its table, quoted and qualified.
    pub relation: String,
    /// Its name, likewise.
    pub index: String,
    /// What is known of it.
    pub facts: Facts,
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: String,
    table: pg_sys::Oid,
    table_bytes: f64,
    /// Where its files are.
    directory: String,
}

impl Case {
    /// The statement that does it.
    pub fn ddl(&self) -> Option<String> {
        match self.action {
            Action::Reindex => Some(format!("REINDEX INDEX CONCURRENTLY {}", self.index)),
            Action::Drop => Some(format!("DROP INDEX CONCURRENTLY {}", self.index)),
            Action::Skip => None,
        }
    }

    fn free_bytes(&self) -> Option<f64> {
        filesystem::space(&self.directory).map(|space| space.available_bytes)
    }
}

/// What concerns one index beyond what the advisor asks.
struct More {
    may_rebuild: bool,
    may_drop: bool,
    directory: String,
    /// Of its last measured rebuild, for as many rows as it has now.
    rebuilt_bytes: Option<f64>,
}

/// The indexes that something is the matter with, in the order in which to go at them. Inside a transaction.
pub fn list(limits: &Limits) -> Result<Vec<Case>, Error> {
    let mut found = indexes::indexes(0.0)?;
    found.retain(|one| !one.index.partitioned);
    for one in &mut found {
        // The catalog knows sizes as of the last VACUUM only; one that cannot be asked is in somebody's hands.
        one.index.bytes = bytes_of(pg_sys::Oid::from(one.index.oid));
    }
    let concerned: Vec<&Found> =
        found.iter().filter(|one| !one.index.valid || one.index.bytes >= limits.min_size_bytes.max(1.0)).collect();
    let more = more(&concerned)?;
    let mut cases = Vec::new();
    let mut table: Option<Relation> = None;
    for one in concerned {
        background::check_for_interrupts();
        let Some(more) = more.get(&one.index.oid) else { continue };
        if table.as_ref().map(|table| table.oid) != Some(one.relation) {
            table = Relation::read(one.relation).ok();
        }
        let fresh_bytes = table.as_ref().filter(|_| one.is_countable()).and_then(|table| one.fresh_bytes(table));
        let facts = Facts {
            size_bytes: one.index.bytes,
            fresh_bytes,
            rebuilt_bytes: more.rebuilt_bytes,
            state: state(one, &found),
            excludes: one.excludes,
            may_rebuild: more.may_rebuild,
            may_drop: more.may_drop,
            free_bytes: filesystem::space(&more.directory).map(|space| space.available_bytes),
        };
        let Some((action, reason)) = judge(&facts, limits) else { continue };
        let Some(relation) = ident::relation(one.relation) else { continue };
        cases.push(Case {
            oid: pg_sys::Oid::from(one.index.oid),
            relation,
            index: ident::qualified(&one.schema, &one.name),
            facts,
            action,
            reason,
            table: one.relation,
            table_bytes: bytes_of(one.relation),
            directory: more.directory.clone(),
        });
    }
    // Drops make room; then what frees most.
    cases.sort_by(|a, b| {
        let first = (b.action == Action::Drop).cmp(&(a.action == Action::Drop));
        first.then(b.facts.freed_bytes().total_cmp(&a.facts.freed_bytes())).then_with(|| a.index.cmp(&b.index))
    });
    Ok(cases)
}

/// Size of a table or an index; 0 when it cannot be asked.
fn bytes_of(oid: pg_sys::Oid) -> f64 {
    f64::from(buffers::blocks(oid).unwrap_or(0)) * f64::from(pg_sys::BLCKSZ)
}

/// How the last build of an index went. What a rebuild left has the rebuilt index's definition and a name made of its name;
/// an index that was never finished may be missed by somebody, and is nobody's leftover.
fn state(one: &Found, all: &[Found]) -> State {
    if one.index.valid {
        return State::Valid;
    }
    if one.index.building {
        return State::Building;
    }
    let same = |other: &&Found| {
        let (a, b) = (&one.index, &other.index);
        other.relation == one.relation
            && b.valid
            && is_named_after(&one.name, &other.name)
            && (&a.method, &a.keys, &a.include, &a.expressions, &a.predicate)
                == (&b.method, &b.keys, &b.include, &b.expressions, &b.predicate)
    };
    if one.index.bound || leftover_stem(&one.name).is_none() {
        return State::Invalid;
    }
    match all.iter().find(same) {
        Some(other) => State::Leftover(ident::qualified(&other.schema, &other.name)),
        None => State::Invalid,
    }
}

fn more(found: &[&Found]) -> Result<HashMap<u32, More>, Error> {
    let oids: Vec<pg_sys::Oid> = found.iter().map(|one| pg_sys::Oid::from(one.index.oid)).collect();
    let rebuilds = rebuilds()?;
    let known = catalog::rows(
        // The privilege to maintain came with version 17.
        "SELECT c.oid,
                pg_catalog.pg_has_role(t.relowner, 'USAGE')
                OR CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 170000
                        THEN pg_catalog.has_table_privilege(t.oid, 'MAINTAIN') ELSE false END,
                pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role(n.nspowner, 'USAGE'),
                c.reltablespace, d.dattablespace,
                c.reltuples::pg_catalog.float8
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
           JOIN pg_catalog.pg_class t ON t.oid OPERATOR(pg_catalog.=) i.indrelid
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
           JOIN pg_catalog.pg_database d ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
          WHERE c.oid OPERATOR(pg_catalog.=) ANY ($1)",
        &[oids.into()],
        |row| {
            Ok(Some((
                row.get::<pg_sys::Oid>(1)?.map_or(0, pg_sys::Oid::to_u32),
                row.get::<bool>(2)?.unwrap_or(false),
                row.get::<bool>(3)?.unwrap_or(false),
                [row.get::<pg_sys::Oid>(4)?, row.get::<pg_sys::Oid>(5)?],
                row.get::<f64>(6)?.unwrap_or(-1.0),
            )))
        },
    )
    .map_err(spi_failed)?;
    Ok(known
        .into_iter()
        .map(|(oid, may_rebuild, may_drop, tablespaces, tuples)| {
            let rebuilt_bytes = rebuilds.get(&oid).map(|(bytes, then)| {
                // Rows that came since take their room.
                bytes * if *then > 0.0 && tuples > 0.0 { (tuples / then).max(1.0) } else { 1.0 }
            });
            (
                oid,
                More {
                    may_rebuild,
                    may_drop,
                    directory: filesystem::directory_of(
                        tablespaces.into_iter().flatten().find(|oid| *oid != pg_sys::InvalidOid),
                    ),
                    rebuilt_bytes,
                },
            )
        })
        .collect())
}

/// Bytes and rows after the last rebuild, by index.
fn rebuilds() -> Result<HashMap<u32, (f64, f64)>, Error> {
    privilege::as_owner(REBUILDS, || {
        let found =
            catalog::rows("SELECT indexrelid, bytes_after::float8, tuples FROM perf.index_rebuild", &[], |row| {
                let after = (row.get::<f64>(2)?.unwrap_or(0.0), row.get::<f64>(3)?.unwrap_or(0.0));
                Ok(row.get::<pg_sys::Oid>(1)?.map(|oid| (oid.to_u32(), after)))
            });
        Ok(found.map_err(spi_failed)?.into_iter().collect())
    })
}

// ---- the job ----

/// What became of the indexes of a run.
#[derive(Default)]
struct Report {
    indexes: Vec<Value>,
    rebuilt: u32,
    dropped: u32,
    skipped: u32,
    failed: u32,
    freed_bytes: f64,
    /// Measured: what rebuilds got through, and how long that took.
    work_bytes: f64,
    work_ms: f64,
    /// Tables that something failed on: what stood in its way stands in the way of the next one too.
    blocked: Vec<pg_sys::Oid>,
    last_failure: Option<Failure>,
}

impl Report {
    fn detail(&self) -> Value {
        let bytes_per_s = measured_rate(self.work_bytes, self.work_ms).map(|rate| rate as i64);
        json!({
            "rebuilt": self.rebuilt, "dropped": self.dropped, "skipped": self.skipped, "failed": self.failed,
            "freed_bytes": self.freed_bytes as i64, "bytes_per_s": bytes_per_s, "indexes": self.indexes,
        })
    }

    fn skip(&mut self, case: &Case, reason: &str) {
        self.skipped += 1;
        self.indexes.push(json!({
            "index": case.index, "relation": case.relation, "action": "skip", "reason": reason,
            "bytes_before": case.facts.size_bytes as i64,
        }));
    }

    fn failed(&mut self, case: &Case, failure: &Failure) {
        self.failed += 1;
        self.indexes.push(json!({
            "index": case.index, "relation": case.relation, "action": case.action.name(), "sqlstate": failure.sqlstate,
            "message": failure.message,
        }));
        self.blocked.push(case.table);
        self.last_failure = Some(failure.clone());
    }
}

/// Does what [`list`] says. Skipped when nothing is the matter; failed when all that was tried failed.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    let limits = from_options(&order.options)?;
    let started = background::now();
    let earlier = executor::transaction(|| Ok(privilege::as_owner(RUNS, || Ok(runs::earlier_of_kind(order)))?))?;
    if let Some(earlier) = earlier {
        let reason = format!("run {earlier} of index maintenance has not ended: one at a time");
        return executor::transaction(|| write(Outcome::skipped(reason, json!({}))));
    }
    let (cases, mut bytes_per_s) = executor::transaction(|| Ok((list(&limits)?, last_rate(order)?)))?;
    let mut report = Report::default();
    for case in &cases {
        match case.action {
            Action::Skip => report.skip(case, &case.reason),
            _ if report.blocked.contains(&case.table) => {
                report.skip(case, "another index of its table has just failed")
            }
            Action::Drop => drop_leftover(case, &mut report)?,
            Action::Reindex => {
                let elapsed_ms = (background::now() - started) as f64 / 1e3;
                let expected = expected_ms(case.table_bytes, case.facts.expected_bytes().unwrap_or(0.0), bytes_per_s);
                let may = has_time(elapsed_ms, expected, limits.window_ms)
                    .and_then(|()| has_room(case.facts.size_bytes, case.free_bytes(), limits.min_free_bytes));
                match may {
                    Ok(()) => rebuild(case, &limits, &mut report)?,
                    Err(reason) => report.skip(case, &reason),
                }
                bytes_per_s = measured_rate(report.work_bytes, report.work_ms).unwrap_or(bytes_per_s);
            }
        }
        executor::transaction(|| note(order, &report.detail()))?;
    }
    let done = report.rebuilt + report.dropped;
    match report.last_failure.take() {
        Some(failure) if done == 0 => Err(failure),
        _ => executor::transaction(|| {
            let detail = report.detail();
            write(match (done + report.failed, report.skipped) {
                (0, 0) => Outcome::skipped("nothing is the matter with any index".to_owned(), detail),
                (0, skips) => {
                    Outcome::skipped(format!("nothing could be done about {skips} indexes: see detail"), detail)
                }
                _ => Outcome { detail, ..Outcome::plain() },
            })
        }),
    }
}

/// Bytes a second of this job's last run that measured it.
fn last_rate(order: &Order) -> Result<f64, Error> {
    let found = privilege::as_owner(RUNS, || {
        Ok(rows(
            c"SELECT (detail->>'bytes_per_s')::float8 FROM perf.job_run
             WHERE job_id = $1 AND detail->>'bytes_per_s' IS NOT NULL ORDER BY run_id DESC LIMIT 1",
            &[order.job_id.into()],
            |row| row.get::<f64>(1),
        ))
    })?;
    Ok(found.into_iter().flatten().next().filter(|rate| *rate > 0.0).unwrap_or(BYTES_PER_S))
}

/// Whether the run was to end, rather than one statement of it failed.
fn is_end_of_run(failure: &Failure) -> bool {
    failure.sqlstate == QUERY_CANCELED || board::is_cancelled(background::my_pid())
}

/// Drops what a rebuild left, if it is what it was when it was listed: it may have been rebuilt by hand meanwhile.
fn drop_leftover(case: &Case, report: &mut Report) -> Result<(), Failure> {
    let Some(ddl) = case.ddl() else { return Ok(()) };
    let is_left = executor::transaction(|| {
        let invalid = rows(
            c"SELECT i.indexrelid FROM pg_catalog.pg_index i
              WHERE i.indexrelid OPERATOR(pg_catalog.=) $1 AND NOT i.indisvalid",
            &[case.oid.into()],
            |row| row.get::<pg_sys::Oid>(1),
        );
        Ok(!invalid.is_empty() && ident::relation(case.oid).as_deref() == Some(&case.index))
    })?;
    if !is_left {
        report.skip(case, "no longer what a rebuild has left");
        return Ok(());
    }
    match executor::statement(&ddl) {
        Ok(()) => {
            report.dropped += 1;
            report.freed_bytes += case.facts.size_bytes;
            report.indexes.push(json!({
                "index": case.index, "relation": case.relation, "action": "drop", "reason": case.reason,
                "bytes_before": case.facts.size_bytes as i64, "bytes_after": 0,
            }));
            Ok(())
        }
        Err(failure) if is_end_of_run(&failure) => Err(failure),
        Err(failure) => {
            report.failed(case, &failure);
            Ok(())
        }
    }
}

fn rebuild(case: &Case, limits: &Limits, report: &mut Report) -> Result<(), Failure> {
    let Some(ddl) = case.ddl() else { return Ok(()) };
    let started = background::now();
    if let Err(failure) = executor::statement(&ddl) {
        if is_end_of_run(&failure) {
            return Err(failure);
        }
        report.failed(case, &failure);
        // What the attempt has left costs every write until it is dropped.
        let left = executor::transaction(|| Ok(list(limits)?))?;
        for left in left.iter().filter(|left| left.action == Action::Drop && left.table == case.table) {
            drop_leftover(left, report)?;
        }
        return Ok(());
    }
    let ms = (background::now() - started) as f64 / 1e3;
    let after = executor::transaction(|| Ok(remember(case)?))?;
    report.rebuilt += 1;
    report.freed_bytes += after.map_or(0.0, |after| case.facts.size_bytes - after);
    report.work_bytes += work_bytes(case.table_bytes, after.unwrap_or(0.0));
    report.work_ms += ms;
    report.indexes.push(json!({
        "index": case.index, "relation": case.relation, "action": "reindex", "reason": case.reason, "ms": ms.round() as i64,
        "bytes_before": case.facts.size_bytes as i64, "bytes_after": after.map(|bytes| bytes as i64),
        "estimated_bytes": case.facts.expected_bytes().map(|bytes| bytes as i64),
    }));
    Ok(())
}

/// Measures a rebuilt index, which is another relation of the same name, and remembers what it came to. Its size.
fn remember(case: &Case) -> Result<Option<f64>, Error> {
    let found = rows(
        c"SELECT c.oid, c.reltuples::pg_catalog.float8 FROM pg_catalog.pg_class c
          WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)",
        &[Text(case.index.clone()).into()],
        |row| row.get::<pg_sys::Oid>(1).zip(row.get::<f64>(2)),
    );
    let Some((oid, tuples)) = found.into_iter().flatten().next() else { return Ok(None) };
    let Ok(blocks) = buffers::blocks(oid) else { return Ok(None) };
    let bytes = i64::from(blocks) * i64::from(pg_sys::BLCKSZ);
    privilege::as_owner(REBUILDS, || {
        privilege::writable(|| {
            runs::run(
                c"DELETE FROM perf.index_rebuild r WHERE r.indexrelid = $1
                 OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.indexrelid)",
                &[case.oid.into()],
            );
            runs::run(
                c"INSERT INTO perf.index_rebuild (indexrelid, rebuilt_at, bytes_before, bytes_after, tuples)
                 VALUES ($1, now(), $2, $3, $4)
                 ON CONFLICT (indexrelid) DO UPDATE
                 SET rebuilt_at = excluded.rebuilt_at, bytes_before = excluded.bytes_before,
                     bytes_after = excluded.bytes_after, tuples = excluded.tuples",
                &[oid.into(), (case.facts.size_bytes as i64).into(), bytes.into(), tuples.into()],
            );
            Ok(())
        })
    })?;
    Ok(Some(bytes as f64))
}

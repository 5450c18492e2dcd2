//! What was invalidated, and by which transaction: the rows of perf.cache_mark. Read whenever an entry is given or put;
//! written by the worker that works off what has changed, and by cache_invalidate(). Called inside a transaction, with the
//! rights of the tables' owner where it writes.
//!
//! A row of source 0 is the worker's, one for each mark, which it writes over where it is: a mark that counts too soon, or by
//! a transaction that fails, costs an entry too many. A user's transaction has rows of its own, so that it neither waits for
//! another nor makes the worker wait. The rule is `perf_core::cache::snapshot`'s: a mark has to be made by a transaction that
//! had already seen what changed.

use perf_core::cache::snapshot::Snapshot;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;

use crate::error::Error;
use crate::pg::key_lock::{self, Space};
use crate::pg::query::{self, run_with, Row};
use crate::pg::{background, overwrite, snapshot};

/// The mark of all that was forgotten ([`super::tidy`]): a snapshot that is put has to be newer.
pub const FLOOR: i64 = i64::MIN;

const TABLE: &core::ffi::CStr = c"cache_mark";
const INDEX: &core::ffi::CStr = c"cache_mark_pkey";
/// Its columns after the mark.
const SOURCE: usize = 2;
const XID: usize = 3;
const MARKED_AT: usize = 4;
const SETTLED: usize = 5;

/// What the marks say of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It sees every invalidation.
    Valid,
    /// It misses one, made then, in microseconds of the server's epoch.
    Invalid(i64),
}

/// Whether a snapshot sees all that has marked what is depended on: an array of marks. Under the active snapshot, which
/// should be a new one.
pub fn verdict(depends: query::Array, snapshot: &Snapshot) -> Verdict {
    let mut found = Verdict::Valid;
    query::rows_by_keys(TABLE, INDEX, depends, |row| {
        let xid = row.get::<i64>(XID as i32).unwrap_or(i64::MAX);
        if !snapshot.sees(xid as u64) {
            let at = row.get::<i64>(MARKED_AT as i32).unwrap_or(0);
            found = match found {
                Verdict::Invalid(earlier) => Verdict::Invalid(earlier.min(at)),
                Verdict::Valid => Verdict::Invalid(at),
            };
        }
    });
    found
}

/// Makes every entry that depends on one of these marks, each given once, invalid at the latest when this transaction is
/// committed: those computed before it, whenever they are put. Called by the worker, which has already read what was changed;
/// the transactions that changed it are all committed.
pub fn mark_invalid(marks: &[i64]) -> Result<(), Error> {
    let mut missing = marks.to_vec();
    // Else somebody forgets marks, by what they were: those rows are to be locked before they are written.
    if !marks.is_empty() && keep() {
        let values = [(XID, snapshot::assigned() as i64), (MARKED_AT, background::now())];
        // One that is settled is about to be forgotten.
        let may = |row: &Row| row.get::<i64>(SOURCE as i32) == Some(0) && row.get::<i64>(SETTLED as i32).is_none();
        let mut written = query::under_latest_snapshot(|| {
            query::Array::of(missing.clone())
                .map_or_else(Vec::new, |keys| overwrite::by_keys(TABLE, INDEX, keys, &values, may))
        });
        written.sort_unstable();
        missing.retain(|mark| written.binary_search(mark).is_err());
    }
    if !missing.is_empty() {
        run_with(
            c"INSERT INTO perf.cache_mark (mark, source, xid, marked_at)
              SELECT k, 0, pg_catalog.pg_current_xact_id()::text::bigint, pg_catalog.clock_timestamp()
              FROM pg_catalog.unnest($1) AS k ORDER BY k
              ON CONFLICT (mark, source) DO UPDATE
              SET xid = excluded.xid, marked_at = excluded.marked_at, settled = NULL, settled_at = NULL",
            &[missing.into()],
            |_| (),
        );
    }
    Ok(())
}

/// Keeps others from writing over marks and from forgetting them until the end of this transaction. False: somebody else
/// does.
pub fn keep() -> bool {
    key_lock::try_take(Space::Marks, 0)
}

/// The same for a user's transaction, which may last: it holds nothing that others wait for, and its marks count once it is
/// committed. What it has changed itself counts too, for nobody else sees it before.
pub fn mark_invalid_by_user(marks: &[i64]) {
    // A row of an earlier transaction serves as well: a snapshot that sees this one was taken after that one had ended. Else
    // each invalidation would leave a row for every get to look at. A transaction that goes by one snapshot could fail at it.
    let mut missing = marks.to_vec();
    if !query::keeps_one_snapshot() {
        let (_, taken) = run_with(
            c"UPDATE perf.cache_mark AS m
              SET xid = pg_catalog.pg_current_xact_id()::text::bigint, marked_at = pg_catalog.clock_timestamp(),
                  settled = NULL, settled_at = NULL
              FROM pg_catalog.unnest($1) AS k,
                   LATERAL (SELECT f.mark, f.source FROM perf.cache_mark AS f
                            WHERE f.mark OPERATOR(pg_catalog.=) k AND f.source OPERATOR(pg_catalog.<>) 0
                            LIMIT 1 FOR UPDATE SKIP LOCKED) AS free
              WHERE m.mark OPERATOR(pg_catalog.=) free.mark AND m.source OPERATOR(pg_catalog.=) free.source
              RETURNING m.mark",
            &[DatumWithOid::from(marks.to_vec())],
            |row| row.get::<i64>(1),
        );
        missing.retain(|mark| !taken.contains(&Some(*mark)));
    }
    if missing.is_empty() {
        return;
    }
    run_with(
        c"INSERT INTO perf.cache_mark (mark, source, xid, marked_at)
          SELECT DISTINCT k, x.xid, x.xid, pg_catalog.clock_timestamp()
          FROM pg_catalog.unnest($1) AS k, (SELECT pg_catalog.pg_current_xact_id()::text::bigint AS xid) AS x
          ON CONFLICT (mark, source) DO UPDATE
          SET xid = excluded.xid, marked_at = excluded.marked_at, settled = NULL, settled_at = NULL",
        &[DatumWithOid::from(missing)],
        |_| (),
    );
}

/// Whether the floor is there: it is not after a crash.
pub fn has_floor() -> bool {
    query::row_by_key(TABLE, INDEX, FLOOR, |_| ()).is_some()
}

/// From now on snapshots from before the end of this transaction are refused.
pub fn raise_floor() {
    mark_invalid_by_user(&[FLOOR]);
}

/// Whether the tables are there at all.
pub fn exist() -> bool {
    crate::pg::privilege::table(TABLE).is_some_and(|oid| oid != pg_sys::InvalidOid)
}

//! Snapshots that would lose rows which are moved from one table to another: taken before the move commits, and used
//! afterwards, they find such a row in neither place. Who has one is given way to, as to the holder of a lock: before rows
//! move, and again as the last thing before the commit. Who takes one in the moments left, or cannot be told from those who
//! take a new one (a function called by a statement that waits for us), is refused by the executor ([`moves`]) when it reads
//! the table: nobody is told too little.
//!
//! Called by the rotation and by the way back of a conversion, inside the transaction that moves rows. Locks nothing.

use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::act::executor::Failure;
use crate::act::runs::rows;
use crate::memory::moves::{self, Move};
use crate::pg::text::Text;
use crate::pg::{background, privilege};

const RUNS: &std::ffi::CStr = c"job_run";
/// SQLSTATE of what gives way, as to a lock.
const NOT_AVAILABLE: &str = "55P03";
/// How the message begins of a step that gives way to a snapshot rather than to a lock.
const IN_THE_WAY: &str = "rows cannot be moved while an older snapshot is held by";
/// Between looks.
const LOOK_MS: i64 = 5;

/// Whether a failure is about a snapshot, and not about a lock.
pub fn is_in_the_way(failure: &Failure) -> bool {
    failure.sqlstate == NOT_AVAILABLE && failure.message.starts_with(IN_THE_WAY)
}

/// Somebody's snapshot.
struct Snapshot {
    pid: i32,
    /// When the transaction began, in microseconds since 2000.
    began_at: i64,
    /// The oldest transaction that it may see as running.
    xmin: String,
    /// It is kept beyond the statement that runs now.
    is_kept: bool,
    /// Whose, and what that session does.
    who: String,
}

impl Snapshot {
    /// Whether another look has found the same, as far as can be told.
    fn is(&self, other: &Snapshot) -> bool {
        (self.pid, self.began_at, &self.xmin) == (other.pid, other.began_at, &other.xmin)
    }
}

/// Waits up to `limit_ms` until whoever has a snapshot now has let go of it, and fails as if a lock could not be had when
/// one stays. Statements that begin meanwhile are not waited for, those of a transaction that keeps its snapshot are. The
/// snapshot of `caller` is not in the way of what it asked for.
pub fn give_way(caller: Option<i32>, limit_ms: i64) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_millis(limit_ms.unsigned_abs());
    let mut older = look(caller)?;
    while let Some(first) = older.first() {
        if Instant::now() >= until {
            return Err(Failure::new(NOT_AVAILABLE, format!("{IN_THE_WAY} process {}{}", first.pid, first.who)));
        }
        background::pause(LOOK_MS);
        let now = look(caller)?;
        older = now.into_iter().filter(|one| one.is_kept || older.iter().any(|other| other.is(one))).collect();
    }
    Ok(())
}

/// The last thing before a transaction commits that has moved rows: gives way once more, and has the executor refuse to read
/// `relation` under a snapshot from before the commit.
pub fn seal(relation: pg_sys::Oid, caller: Option<i32>, limit_ms: i64) -> Result<(), Failure> {
    give_way(caller, limit_ms)?;
    // SAFETY: inside a transaction; a number is assigned if there is none yet, which has written by now anyway.
    let (database, xid, oldest) = unsafe {
        let next = pg_sys::ReadNextFullTransactionId().value;
        let running = pg_sys::GetOldestTransactionIdConsideredRunning().into_inner();
        let age = u64::from((next as u32).wrapping_sub(running));
        (pg_sys::MyDatabaseId.to_u32(), pg_sys::GetCurrentFullTransactionId().value, next.saturating_sub(age))
    };
    if moves::note(database, Move { relation: relation.to_u32(), xid }, oldest) {
        return Ok(());
    }
    Err(Failure {
        hint: Some("perf_opt must be preloaded. End transactions that have been open for long.".to_owned()),
        ..Failure::new(NOT_AVAILABLE, "too many moves of rows are remembered that somebody's snapshot does not see yet")
    })
}

/// Snapshots of other sessions of this database. Left out are those of statements that wait for this process before they
/// have begun to run, which take a new one then; and of what cannot run in a transaction block and reads no rows of the
/// table for anybody.
fn look(caller: Option<i32>) -> Result<Vec<Snapshot>, Failure> {
    let found = privilege::as_owner(RUNS, || {
        // What was read of the activity before is kept until the end of the transaction.
        rows(c"SELECT pg_stat_clear_snapshot()", &[], |_| ());
        Ok(rows(
            c"WITH RECURSIVE waiting AS MATERIALIZED (
                  SELECT pid, pg_blocking_pids(pid) AS blocked_by, since
                    FROM (SELECT pid, min(waitstart) AS since FROM pg_locks WHERE NOT granted GROUP BY pid) w),
              behind AS (
                  SELECT pg_backend_pid() AS pid, NULL::timestamptz AS since
                  UNION
                  SELECT w.pid, w.since FROM behind b JOIN waiting w ON b.pid = ANY (w.blocked_by))
              SELECT a.pid, (extract(epoch FROM a.xact_start - '2000-01-01 00:00:00+00') * 1000000)::int8,
                     a.backend_xmin::text, a.state LIKE 'idle in transaction%',
                     EXISTS (SELECT FROM behind b WHERE b.pid = a.pid
                              AND COALESCE(b.since - a.query_start < interval '1 s', true)),
                     concat(' of ' || quote_ident(a.usename), ', ' || a.state, ' since ' || to_char(
                         CASE a.state WHEN 'active' THEN a.query_start ELSE a.state_change END, 'YYYY-MM-DD HH24:MI:SSTZH'))
                FROM pg_stat_activity a
               WHERE a.datname = current_database() AND a.backend_xmin IS NOT NULL
                 AND a.pid <> pg_backend_pid() AND a.pid IS DISTINCT FROM $1
                 AND COALESCE(a.backend_type, '') NOT IN ('autovacuum worker', 'walsender')
                 AND COALESCE(a.query, '') !~* '^\\s*(vacuum|create\\s+(unique\\s+)?index\\s+concurrently|call\\s+(perf\\s*\\.\\s*)?partition_convert)'
               ORDER BY a.xact_start, a.pid",
            &[caller.into()],
            |row| {
                let one = Snapshot {
                    pid: row.get::<i32>(1).unwrap_or_default(),
                    began_at: row.get::<i64>(2).unwrap_or_default(),
                    xmin: row.string(3),
                    is_kept: row.get::<bool>(4).unwrap_or(false),
                    who: row.get::<Text>(6).unwrap_or_default().0,
                };
                (one, row.get::<bool>(5).unwrap_or(false))
            },
        ))
    })?;
    let keepers = moves::keepers();
    let seen = found.into_iter().map(|(one, waits)| {
        let keeps = |(pid, began_at): &(u32, i64)| i64::from(*pid) == i64::from(one.pid) && *began_at == one.began_at;
        (Snapshot { is_kept: one.is_kept || keepers.iter().any(keeps), ..one }, waits)
    });
    Ok(seen.filter(|(one, waits)| one.is_kept || !waits).map(|(one, _)| one).collect())
}

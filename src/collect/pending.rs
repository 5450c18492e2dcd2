//! What is in memory but not yet in the history of the current database. Called by the worker, which then writes it,
//! and by readers, which add it to what they read from the tables.
//!
//! Exact for any reader: how far the history goes is read from the tables too, under the reader's own snapshot, so a
//! run of the worker that commits meanwhile is seen as a whole or not at all. Takes no lock of its own.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use perf_core::delta::{self, Entry, Pending, Written};

use super::registry;
use crate::memory::survey::{self, Snapshot};
use crate::memory::table::Key;
use crate::pg::query::select_under_snapshot;
use crate::pg::{background, names};

/// How far the history of this database goes in this life of shared memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// Time of the latest run that wrote; 0 when there was none.
    pub collected_at: i64,
    /// Value of [`registry::resets`] then.
    pub resets: u64,
    /// Last written entry of the rings of slow, critical and emergency statements.
    pub seqs: [u64; 3],
}

/// Reads the position. Zero on a standby: what the primary wrote says nothing of this server's memory.
pub fn read_position() -> Position {
    if background::in_recovery() {
        return Position::default();
    }
    let (boot, dbid) = (registry::boot_id(), names::current_database());
    select_under_snapshot(
        c"SELECT datid, boot_id, collected_at, resets, slow_seq, critical_seq, emergency_seq FROM perf.collector_position",
        |row| {
            let datid = row.get::<pgrx::pg_sys::Oid>(1)?;
            if datid.to_u32() != dbid || row.get::<i64>(2)? != boot {
                return None;
            }
            Some(Position {
                collected_at: row.get::<pgrx::datum::TimestampWithTimeZone>(3)?.into(),
                resets: row.get::<i64>(4)? as u64,
                seqs: [row.get::<i64>(5)? as u64, row.get::<i64>(6)? as u64, row.get::<i64>(7)? as u64],
            })
        },
    )
    .first()
    .copied()
    .unwrap_or_default()
}

/// Reads what of each entry is written.
pub fn read_written() -> HashMap<u64, Written> {
    if background::in_recovery() {
        return HashMap::new();
    }
    let (boot, dbid) = (registry::boot_id(), names::current_database());
    select_under_snapshot(c"SELECT datid, boot_id, state FROM perf.statement_written", |row| {
        let datid = row.get::<pgrx::pg_sys::Oid>(1)?;
        if datid.to_u32() != dbid || row.get::<i64>(2)? != boot {
            return None;
        }
        let written = Written::decode(&row.get::<Vec<u8>>(3)?)?;
        Some((written.id, written))
    })
    .into_iter()
    .collect()
}

/// Names an entry without telling which statement it is: a hash under a key that only shared memory holds.
fn entry_id(secret: u64, boot: i64, key: &Key, is_other: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    (secret, boot, key.dbid, key.userid, key.queryid, key.toplevel, is_other, secret.rotate_left(32)).hash(&mut hasher);
    hasher.finish()
}

/// Prepares a memory snapshot for comparison.
pub fn entries(snapshot: &[Snapshot]) -> Vec<Entry> {
    let (secret, boot) = (registry::secret(), registry::boot_id());
    snapshot
        .iter()
        .map(|item| Entry {
            id: entry_id(secret, boot, &item.key, item.is_other),
            owner: item.key.userid,
            is_other: item.is_other,
            counters: item.counters,
            histogram: item.histogram,
        })
        .collect()
}

/// The statements of this database with what is not yet in its history: memory's snapshot, and the deltas that refer
/// to it by index. Read `position` and `written` before calling this: memory may only be newer than they are.
pub fn of_current_database(
    position: &Position,
    written: &HashMap<u64, Written>,
    with_text: bool,
) -> (Vec<Snapshot>, Pending) {
    let was_reset = position.collected_at != 0 && registry::resets() != position.resets;
    let snapshot = survey::snapshot(Some(names::current_database()), with_text);
    let pending = delta::pending(&entries(&snapshot), written, was_reset);
    (snapshot, pending)
}

/// When the executions of a delta began to be counted: with the previous run, or with the entry itself.
pub fn began_at(position: &Position, first_seen: i64, now: i64) -> i64 {
    position.collected_at.max(first_seen).min(now)
}

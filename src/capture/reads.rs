//! Tells the collectors of reads that a cache could answer, and of writes that would take entries out. Called for
//! executions that `memory::reads` takes an interest in, and at the end of transactions. Process-local; locks nothing.
//!
//! A write is told when its transaction is committed. Whatever wrote a relation without a statement that was seen, COPY,
//! TRUNCATE or a trigger in C, still holds its lock then: all of the relation counts as changed.

use super::frames::MAX_RELATIONS;
use super::record::{relations_of, written_by};
use super::source::StatementText;
use super::values::{self, Value};
use crate::memory::reads::{self, Event, Reads};
use crate::memory::statements::{Execution, Key};
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use pgrx::pg_sys;

/// Writes of one transaction that are told one by one; of more, the rest counts as changes of all rows.
const WRITES: usize = 32;

struct Pending {
    events: [Event; WRITES],
    len: usize,
    /// There were more.
    cut: bool,
}

static PENDING: ProcessLocal<Pending> =
    ProcessLocal::new(Pending { events: [Event::EMPTY; WRITES], len: 0, cut: false });

#[inline(always)]
fn pending() -> &'static mut Pending {
    // SAFETY: process-local; nothing in this module calls back into capture.
    unsafe { &mut *PENDING.as_ptr() }
}

/// A query was executed that may be of interest.
///
/// # Safety
/// `query` is a live descriptor whose executor is open.
#[cold]
pub unsafe fn note(reads: &Reads, key: &Key, execution: &Execution, query: &pg_sys::QueryDesc, text: &StatementText) {
    // SAFETY: a live descriptor has a live plan.
    let plan = unsafe { &*query.plannedstmt };
    if plan.resultRelations.is_null() && plan.rowMarks.is_null() && plan.commandType == pg_sys::CmdType::CMD_SELECT {
        if key.toplevel {
            // SAFETY: as promised.
            unsafe { note_read(reads, key, execution, query, text) };
        }
    } else if reads.is_shadowing() {
        // SAFETY: as promised.
        unsafe { note_write(reads, key, execution, query, text) };
    }
}

unsafe fn note_read(reads: &Reads, key: &Key, execution: &Execution, query: &pg_sys::QueryDesc, text: &StatementText) {
    let mut flags = reads::TOPLEVEL;
    if reads.is_shadowed(key.dbid, key.queryid) {
        flags |= reads::SHADOWED;
    }
    if reads.is_surveyed(execution.elapsed_ns) {
        flags |= reads::SURVEYED;
    }
    // SAFETY: as promised.
    if flags == reads::TOPLEVEL || unsafe { reads_temporary(query) } {
        return;
    }
    // SAFETY: as promised.
    let mut event = unsafe { event_of(reads, key, execution, query, text, flags) };
    let (shadow, survey) = reads.shifts();
    let is_kept = |flag: u16, shift: u32| {
        event.has(flag) && (event.has(reads::UNKNOWN) || perf_core::cache::shadow::is_sampled(event.key, shift))
    };
    let kept = (is_kept(reads::SHADOWED, shadow), is_kept(reads::SURVEYED, survey));
    (event.shadow_shift, event.survey_shift) = (shadow as u8, survey as u8);
    event.flags &= !(reads::SHADOWED | reads::SURVEYED);
    event.flags |= if kept.0 { reads::SHADOWED } else { 0 } | if kept.1 { reads::SURVEYED } else { 0 };
    if kept.0 || kept.1 {
        reads.push(&event);
    }
}

/// Whether a query has opened a temporary table: its statement may be that of a permanent one elsewhere.
unsafe fn reads_temporary(query: &pg_sys::QueryDesc) -> bool {
    // SAFETY: as promised: an open executor has its state, with an array of as many relations as it says, each NULL where it
    // was not opened.
    unsafe {
        let Some(state) = query.estate.as_ref().filter(|state| !state.es_relations.is_null()) else { return false };
        (0..state.es_range_table_size as usize).any(|at| {
            let relation = *state.es_relations.add(at);
            !relation.is_null() && (*(*relation).rd_rel).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP
        })
    }
}

unsafe fn event_of(
    reads: &Reads,
    key: &Key,
    execution: &Execution,
    query: &pg_sys::QueryDesc,
    text: &StatementText,
    flags: u16,
) -> Event {
    let clamped = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut event = Event {
        at: execution.at,
        queryid: key.queryid,
        dbid: key.dbid,
        userid: key.userid,
        elapsed_us: clamped(execution.elapsed_ns / 1_000),
        rows: clamped(execution.rows),
        flags,
        ..Event::EMPTY
    };
    let mut all = 0;
    let mut len = 0;
    let mut relations = [0; MAX_RELATIONS];
    // SAFETY: as promised; a plan has a root.
    unsafe {
        // The first only: how many partitions follow depends on the plan.
        relations_of(&*query.plannedstmt, &mut relations);
        event.width = (*(*query.plannedstmt).planTree).plan_width.max(0) as u32;
        values::each(Some(query), text, |value| {
            let hash = match value {
                Value::Text(text) => reads.hash(text),
                Value::Null => 0,
                Value::Unknown => {
                    event.flags |= reads::UNKNOWN;
                    0
                }
            };
            all = reads.key(all, hash);
            if let Some(place) = event.values.get_mut(len) {
                *place = (hash >> 32) as u32;
                len += 1;
            }
            true
        });
    }
    event.values_len = len as u16;
    // Statements on tables of one name in different schemas may have one queryid.
    event.key = reads.key(key.queryid, reads.key(u64::from(relations[0]), all));
    event
}

unsafe fn note_write(reads: &Reads, key: &Key, execution: &Execution, query: &pg_sys::QueryDesc, text: &StatementText) {
    // SAFETY: a live descriptor has a live plan.
    let plan = unsafe { &*query.plannedstmt };
    // SAFETY: NULL or a live list.
    let Some(list) = (unsafe { plan.resultRelations.as_ref() }) else { return };
    let pending = pending();
    let first = pending.len;
    let mut event: Option<Event> = None;
    // SAFETY: the list is the live plan's.
    for relation in unsafe { written_by(plan, list) } {
        let Some(root) = reads.root_of(key.dbid, relation) else { continue };
        if pending.events[first..pending.len].iter().any(|known| known.relation == root) {
            continue;
        }
        let flags = reads::WRITE | if key.toplevel { reads::TOPLEVEL } else { 0 };
        // SAFETY: as promised.
        let event = event.get_or_insert_with(|| unsafe { event_of(reads, key, execution, query, text, flags) });
        match pending.events.get_mut(pending.len) {
            Some(place) => {
                *place = Event { relation: root, ..*event };
                pending.len += 1;
            }
            None => pending.cut = true,
        }
    }
}

/// A transaction ends.
#[inline]
pub fn on_end(rolled_back: bool) {
    if reads::get().is_some_and(Reads::is_shadowing) {
        tell(rolled_back);
    }
}

#[cold]
fn tell(rolled_back: bool) {
    let Some(reads) = reads::get() else { return };
    let pending = pending();
    // SAFETY: reads this process's transaction state, which still has the id.
    let writes = unsafe { raw::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    if writes && !rolled_back {
        let told = &pending.events[..pending.len];
        told.iter().for_each(|event| reads.push(event));
        // SAFETY: a plain read of a process global.
        let dbid = unsafe { pg_sys::MyDatabaseId }.to_u32();
        for (relation, root) in reads.relations(dbid) {
            let is_told = !pending.cut && told.iter().any(|event| event.relation == root);
            if !is_told && is_locked_for_writing(relation) {
                // SAFETY: never raises.
                let at = unsafe { raw::GetCurrentTimestamp() };
                let flags = reads::WRITE | reads::BY_LOCK;
                reads.push(&Event { at, dbid, relation: root, flags, ..Event::EMPTY });
            }
        }
    }
    pending.len = 0;
    pending.cut = false;
}

/// Whether this transaction holds a lock under which it may have changed the content of a relation.
fn is_locked_for_writing(relation: u32) -> bool {
    let relation = pg_sys::Oid::from(relation);
    // SAFETY: looks into this process's own table of locks.
    unsafe {
        raw::CheckRelationOidLockedByMe(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE, false)
            || raw::CheckRelationOidLockedByMe(relation, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE, false)
    }
}

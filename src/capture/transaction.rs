//! The transaction that this process is in, as far as its statements tell: how long they took, what they wrote, and what it
//! comes to when it ends. A few transactions are kept as they were, see `memory::traces`. Called for every statement that
//! was recorded, and by the transaction callback. Process-local; locks nothing itself (see `memory::applications`).
//!
//! A transaction in which no statement was captured is none: clients' preparations and the server's own work. One that
//! ends inside of a statement (COMMIT in a procedure, VACUUM) has the time of that statement until then.

use super::frames::{Frames, MAX_RELATIONS};
use super::reads;
use super::record::{relations_of, written_by};
use super::source::StatementText;
use super::values::{self, Value};
use crate::memory::statements::{Execution, Key};
use crate::memory::{applications, traces, written, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use pgrx::pg_sys;

/// Relations written in one transaction that are remembered.
const WRITTEN: usize = 16;

/// What is known of the transaction in progress.
struct Current {
    /// It has statements.
    begun: bool,
    /// It is one of those kept.
    kept: bool,
    /// The one before was rolled back: statements that come until the client has noticed belong to none.
    after_abort: bool,
    /// Time in its top-level statements.
    statement_ns: u64,
    /// Of the top-level statement that is running: time given to transactions that ended inside of it.
    given_ns: u64,
    /// Keys of relations that it wrote.
    written: [u64; WRITTEN],
    written_len: usize,
}

static CURRENT: ProcessLocal<Current> = ProcessLocal::new(Current {
    begun: false,
    kept: false,
    after_abort: false,
    statement_ns: 0,
    given_ns: 0,
    written: [0; WRITTEN],
    written_len: 0,
});

/// The transaction that is kept is put together here.
static RECORD: ProcessLocal<traces::Record> = ProcessLocal::new(traces::Record::EMPTY);

#[inline(always)]
fn current() -> &'static mut Current {
    // SAFETY: process-local; nothing in this module calls back into capture.
    unsafe { &mut *CURRENT.as_ptr() }
}

fn record() -> &'static mut traces::Record {
    // SAFETY: as in `current`.
    unsafe { &mut *RECORD.as_ptr() }
}

/// A statement was recorded.
///
/// # Safety
/// `query` is NULL or a live descriptor whose executor is open.
#[inline(always)]
pub unsafe fn on_statement(
    memory: &Memory,
    key: &Key,
    execution: &Execution,
    query: *const pg_sys::QueryDesc,
    text: &StatementText,
) {
    let current = current();
    if current.after_abort && is_after_abort(current) {
        return;
    }
    if !current.begun {
        current.begun = true;
        current.kept = traces::wants(memory, execution.at);
        if current.kept {
            record().begin(key.dbid, key.userid);
        }
    }
    if key.toplevel {
        current.statement_ns += execution.elapsed_ns.saturating_sub(core::mem::take(&mut current.given_ns));
    }
    // SAFETY: the caller vouches for the descriptor, which has a live plan; the rest reads this process's state.
    unsafe {
        if let Some(query) = query.as_ref() {
            let plan = &*query.plannedstmt;
            if let Some(list) = plan.resultRelations.as_ref() {
                remember_written(current, key, plan, list);
            }
        }
        // The late failure of a statement that was noted already is none of its own.
        if current.kept && (execution.calls > 0 || !execution.failed) {
            note(memory, key, execution, query.as_ref(), text);
        }
    }
}

/// Notes a statement of a transaction that is kept.
///
/// # Safety
/// As for [`on_statement`].
#[cold]
unsafe fn note(
    memory: &Memory,
    key: &Key,
    execution: &Execution,
    query: Option<&pg_sys::QueryDesc>,
    text: &StatementText,
) {
    let record = record();
    // SAFETY: the caller vouches for the descriptor; the rest reads this process's state.
    unsafe {
        if !record.is_full() {
            note_values(memory, record, key, query, text);
        }
        // One that has a transaction id is not fresh, see `keep`.
        let writes = raw::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId;
        if !writes && record.flags & traces::FRESH == 0 {
            note_fresh(memory, record, key, execution, query);
        }
    }
}

/// Whether the transaction that was rolled back is still the one that the client is in.
#[cold]
fn is_after_abort(current: &mut Current) -> bool {
    // SAFETY: reads this process's transaction state.
    current.after_abort = !unsafe { raw::IsTransactionState() };
    current.after_abort
}

/// Remembers the first relations that a plan writes.
///
/// # Safety
/// The plan is live, and the list its result relations.
unsafe fn remember_written(current: &mut Current, key: &Key, plan: &pg_sys::PlannedStmt, list: &pg_sys::List) {
    // SAFETY: as promised.
    for relation in unsafe { written_by(plan, list) }.take(WRITTEN) {
        let written = written::key(key.dbid, key.userid, relation);
        let known = current.written[..current.written_len].contains(&written);
        if !known && current.written_len < WRITTEN {
            current.written[current.written_len] = written;
            current.written_len += 1;
        }
    }
}

/// Notes a statement of a transaction that is kept, and its values.
///
/// # Safety
/// As for [`on_statement`].
#[cold]
unsafe fn note_values(
    memory: &Memory,
    record: &mut traces::Record,
    key: &Key,
    query: Option<&pg_sys::QueryDesc>,
    text: &StatementText,
) {
    let mut values_of = Values { hashes: [0; traces::VALUES], len: 0, cut: false };
    // SAFETY: as promised.
    unsafe {
        values::each(query, text, |value| match value {
            Value::Text(text) => values_of.push(memory, Some(text)),
            Value::Null | Value::Unknown => values_of.push(memory, None),
        });
    }
    record.add(key.queryid, key.toplevel, &values_of.hashes[..values_of.len]);
    if values_of.cut {
        record.flags |= traces::TRUNCATED;
    }
}

/// Notes whether a statement of a transaction that is kept read what the same role had just written.
///
/// # Safety
/// As for [`on_statement`].
#[cold]
unsafe fn note_fresh(
    memory: &Memory,
    record: &mut traces::Record,
    key: &Key,
    execution: &Execution,
    query: Option<&pg_sys::QueryDesc>,
) {
    let Some(query) = query else { return };
    let mut relations = [0; MAX_RELATIONS];
    // SAFETY: a live descriptor has a live plan.
    let len = usize::from(unsafe { relations_of(&*query.plannedstmt, &mut relations) });
    let began_ns = raw::clock_ns().saturating_sub(execution.elapsed_ns);
    let is_fresh = |relation: &u32| written::is_fresh(memory, written::key(key.dbid, key.userid, *relation), began_ns);
    if relations[..len].iter().any(is_fresh) {
        record.flags |= traces::FRESH;
    }
}

/// Hashes of a statement's values.
struct Values {
    hashes: [u32; traces::VALUES],
    len: usize,
    cut: bool,
}

impl Values {
    /// False when there is no room for more.
    fn push(&mut self, memory: &Memory, value: Option<&[u8]>) -> bool {
        let Some(place) = self.hashes.get_mut(self.len) else {
            self.cut = true;
            return false;
        };
        *place = value.map_or(0, |value| traces::hash(memory, value));
        self.len += 1;
        true
    }
}

/// A transaction is being rolled back: the statements it did not let end are its own, though it does not count as one in
/// progress any more.
pub fn before_abort(frames: &Frames) {
    if frames.depth > 0 || frames.open_len > 0 {
        current().after_abort = false;
    }
}

/// A transaction ends: committed, prepared or rolled back.
#[inline]
pub fn on_end(memory: &Memory, frames: &Frames, rolled_back: bool) {
    reads::on_end(rolled_back);
    let current = current();
    if frames.depth > 0 {
        end_inside(frames, current);
    }
    if current.begun {
        // SAFETY: reads this process's transaction state, which still has the id.
        let writes = unsafe { raw::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
        applications::count_transaction(memory, current.statement_ns, writes, rolled_back);
        if current.written_len > 0 {
            if writes && !rolled_back {
                let now = raw::clock_ns();
                current.written[..current.written_len].iter().for_each(|&key| written::note(memory, key, now));
            }
            current.written_len = 0;
        }
        if current.kept {
            keep(memory, current, writes, rolled_back);
        }
    }
    current.begun = false;
    current.kept = false;
    current.after_abort = rolled_back;
    current.statement_ns = 0;
}

/// A transaction ends inside of a statement, which takes part in it as far as it has come.
#[cold]
fn end_inside(frames: &Frames, current: &mut Current) {
    current.begun = true;
    let so_far_ns = raw::clock_ns().saturating_sub(frames.stack[0].started_ns);
    current.statement_ns += so_far_ns.saturating_sub(current.given_ns);
    current.given_ns = so_far_ns;
}

#[cold]
fn keep(memory: &Memory, current: &Current, writes: bool, rolled_back: bool) {
    let record = record();
    // SAFETY: never raises; a plain read of this process's transaction state.
    let (now, flags) = unsafe { (raw::GetCurrentTimestamp(), pg_sys::MyXactFlags) };
    record.ended_at = now;
    record.statement_ns = current.statement_ns;
    record.set_application(applications::current_name());
    if writes {
        // What it read had to be read here anyway.
        record.flags = record.flags & !traces::FRESH | traces::WRITES;
    }
    if flags as u32 & pg_sys::XACT_FLAGS_ACCESSEDTEMPNAMESPACE != 0 {
        record.flags |= traces::TEMPORARY;
    }
    if rolled_back {
        record.flags |= traces::ROLLED_BACK;
    }
    traces::push(memory, record);
}

/// The process leaves; what it was doing is rolled back.
pub fn on_exit(memory: &Memory, frames: &Frames) {
    if current().begun {
        on_end(memory, frames, true);
    }
}

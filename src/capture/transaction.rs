//! The transaction that this process is in, as far as its statements tell: how long they took, and what it comes to when it
//! ends. Called for every statement that was recorded, and by the transaction callback. Process-local; locks nothing
//! itself (see `memory::applications`).
//!
//! A transaction in which no statement was captured is none: clients' preparations and the server's own work. One that
//! ends inside of a statement (COMMIT in a procedure, VACUUM) has the time of that statement until then.

use super::frames::Frames;
use crate::memory::statements::{Execution, Key};
use crate::memory::{applications, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use pgrx::pg_sys;

/// What is known of the transaction in progress.
struct Current {
    /// It has statements.
    begun: bool,
    /// The one before was rolled back: statements that come until the client has noticed belong to none.
    after_abort: bool,
    /// Time in its top-level statements.
    statement_ns: u64,
    /// Of the top-level statement that is running: time given to transactions that ended inside of it.
    given_ns: u64,
}

static CURRENT: ProcessLocal<Current> =
    ProcessLocal::new(Current { begun: false, after_abort: false, statement_ns: 0, given_ns: 0 });

#[inline(always)]
fn current() -> &'static mut Current {
    // SAFETY: process-local; nothing in this module calls back into capture.
    unsafe { &mut *CURRENT.as_ptr() }
}

/// A statement was recorded.
#[inline]
pub fn on_statement(memory: &Memory, key: &Key, execution: &Execution) {
    let current = current();
    let elapsed_ns = execution.elapsed_ns;
    if key.toplevel {
        applications::count_statement(memory, key.userid, execution.calls, elapsed_ns, execution.failed);
    }
    if current.after_abort && is_after_abort(current) {
        return;
    }
    current.begun = true;
    if key.toplevel {
        current.statement_ns += elapsed_ns.saturating_sub(core::mem::take(&mut current.given_ns));
    }
}

/// Whether the transaction that was rolled back is still the one that the client is in.
#[cold]
fn is_after_abort(current: &mut Current) -> bool {
    // SAFETY: reads this process's transaction state.
    current.after_abort = !unsafe { raw::IsTransactionState() };
    current.after_abort
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
    let current = current();
    if frames.depth > 0 {
        end_inside(frames, current);
    }
    if current.begun {
        // SAFETY: reads this process's transaction state, which still has the id.
        let writes = unsafe { raw::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
        applications::count_transaction(memory, current.statement_ns, writes, rolled_back);
    }
    current.begun = false;
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

/// The process leaves; what it was doing is rolled back.
pub fn on_exit(memory: &Memory, frames: &Frames) {
    if current().begun {
        on_end(memory, frames, true);
    }
}

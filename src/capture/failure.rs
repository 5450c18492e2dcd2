//! Statements that do not return: errors, cancels, timeouts, deadlocks, and the end of the process.
//!
//! The executor's end is never reached for them. What there is to know is collected at three moments:
//! 1. While the error is being built, an error context callback notes its SQLSTATE and copies what will be gone later
//!    (text, relations): everything is still there.
//! 2. When the (sub)transaction aborts, frames of its level have failed: they are recorded.
//! 3. When the process exits, whatever is still on the stack was terminated.
//!
//! CALL and DO are different: a ROLLBACK inside them ends a transaction without an error. They get a handler of their
//! own (see `guard`) and are left alone by aborts.

use super::fence::{capturing, fenced};
use super::frames::{frames, Frames, Kind};
use super::record::{self, Failed};
use super::source::StatementText;
use super::transaction;
use crate::guc::{self, Track};
use crate::memory::statements::Usage;
use crate::memory::Memory;
use crate::memory::{applications, slab};
use crate::pg::raw;
use core::ffi::{c_char, c_int, c_void};
use perf_core::outcome::{pack_sqlstate, Failure, Outcome};
use pgrx::pg_sys;

const INTERNAL_ERROR: i32 = pack_sqlstate(b"XX000");
const ADMIN_SHUTDOWN: i32 = pack_sqlstate(b"57P01");

/// Classes 00, 01 and 02 are no errors.
fn is_failure(sqlstate: i32) -> bool {
    let class = sqlstate & 0xfff;
    ![b"00000", b"01000", b"02000"].iter().any(|code| pack_sqlstate(code) & 0xfff == class)
}

/// Error context callback of a frame: called for every message raised above it, from notices to errors.
pub unsafe extern "C-unwind" fn on_error(argument: *mut c_void) {
    // SAFETY: an error is being built.
    let sqlstate = unsafe { raw::geterrcode() };
    if !is_failure(sqlstate) {
        return;
    }
    fenced((), || {
        let frames = frames();
        let index = argument as usize;
        if index < frames.depth {
            note_error(frames, index, sqlstate);
        }
    });
}

fn note_error(frames: &mut Frames, index: usize, sqlstate: i32) {
    let frame = &mut frames.stack[index];
    frame.sqlstate = sqlstate;
    // SAFETY: a plain read of the process's state.
    frame.userid = unsafe { raw::GetUserId() }.to_u32();
    let text = StatementText::of(frame.text, frame.location, frame.len);
    let raw = text.raw();
    let copy = &mut frames.failed_text[index];
    let len = raw.len().min(copy.len());
    copy[..len].copy_from_slice(&raw[..len]);
    frame.failed_text_len = len;
    if frame.kind == Kind::Run {
        // SAFETY: while the error is being built, the query's descriptor and plan are still there.
        unsafe {
            let plan = &*(*frame.query).plannedstmt;
            frame.failed_relations_len = record::relations_of(plan, &mut frame.failed_relations);
            frame.estimated_rows = (*plan.planTree).plan_rows;
        }
    }
}

/// Transaction callback.
pub unsafe extern "C-unwind" fn on_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as Event;
    if matches!(event, Event::XACT_EVENT_ABORT | Event::XACT_EVENT_COMMIT | Event::XACT_EVENT_PREPARE) {
        end_transaction(event == Event::XACT_EVENT_ABORT);
    }
}

/// Apart from its caller, which is told of other events, too, and has nothing to do for them.
#[inline(never)]
fn end_transaction(rolled_back: bool) {
    fenced((), || {
        let frames = frames();
        if rolled_back {
            transaction::before_abort(frames);
            on_abort(frames, 1);
        }
        if let (true, Some(memory)) = (frames.attached, capturing(frames)) {
            transaction::on_end(memory, frames, rolled_back);
        }
    });
}

/// Subtransaction callback.
pub unsafe extern "C-unwind" fn on_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    _subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        // SAFETY: reads the transaction state, which is still that of the aborting level.
        let level = unsafe { raw::GetCurrentTransactionNestLevel() };
        fenced((), || on_abort(frames(), level));
    }
}

/// All that began at `level` or deeper is over.
fn on_abort(frames: &mut Frames, level: i32) {
    if frames.depth == 0 && frames.open_len == 0 {
        return;
    }
    let now = raw::clock_ns();
    let survivors = (0..frames.depth)
        .rev()
        .find(|&index| frames.stack[index].guarded || frames.stack[index].level < level)
        .map_or(0, |index| index + 1);
    fail_down_to(frames, survivors, now);
    // Queries that were open but not running (cursors) ended well as far as they went.
    while let Some(index) = (0..frames.open_len).rev().find(|&index| frames.open[index].level >= level) {
        let mut open = frames.open[index];
        frames.close(index);
        open.query = core::ptr::null_mut();
        if let Some(memory) = capturing(frames) {
            let planning = frames.take_planning(open.queryid, open.toplevel);
            // SAFETY: without a descriptor only what was remembered is read.
            unsafe { record::finished_early(memory, planning, &mut open) };
        }
    }
}

/// Records the frames from the top of the stack down to number `depth` as failed and removes them.
pub fn fail_down_to(frames: &mut Frames, depth: usize, now: u64) {
    while frames.depth > depth {
        frames.depth -= 1;
        let index = frames.depth;
        fail(frames, index, now, false);
    }
}

fn fail(frames: &mut Frames, index: usize, now: u64, fatal: bool) {
    let Some(memory) = capturing(frames) else { return };
    let mut frame = frames.stack[index];
    let mut usage = Usage::NONE;
    if frame.kind != Kind::Plan {
        frame.meter.add_since_to(&mut usage);
    }
    let mut elapsed_ns = now.saturating_sub(frame.started_ns);
    let (mut rows, mut calls) = (0, 1);
    if frame.kind == Kind::Run {
        if let Some(open) = frames.find_open(frame.query, frame.queryid) {
            let execution = frames.open[open].execution;
            frames.close(open);
            elapsed_ns += execution.elapsed_ns;
            rows = execution.rows;
            calls = execution.calls;
            usage.add(&execution.usage);
        }
    }
    if frame.sqlstate == 0 {
        frame.sqlstate = if fatal { ADMIN_SHUTDOWN } else { INTERNAL_ERROR };
        // SAFETY: a plain read of the process's state.
        frame.userid = unsafe { raw::GetUserId() }.to_u32();
    }
    let outcome = Outcome::of(failure_of(frame.sqlstate, fatal));
    let (plans, planning_ns) = frames.take_planning(frame.queryid, frame.toplevel);
    let copied = &frames.failed_text[index][..frame.failed_text_len];
    let text = if frame.failed_text_len > 0 {
        StatementText::Copied(copied)
    } else if fatal {
        // The process leaves before its transaction is taken down: the text is still where it was.
        StatementText::of(frame.text, frame.location, frame.len)
    } else {
        StatementText::Missing
    };
    record::failed(memory, &frame, &Failed { outcome, calls, elapsed_ns, rows, plans, planning_ns, usage, text });
}

fn failure_of(sqlstate: i32, fatal: bool) -> Failure {
    // SAFETY: plain reads of settings and of the timeout module's record; the clock.
    unsafe {
        let statement_timeout_reached = pg_sys::StatementTimeout > 0
            && raw::GetCurrentTimestamp() >= raw::get_timeout_finish_time(raw::STATEMENT_TIMEOUT);
        // NOWAIT fails with the same SQLSTATE, but starts no timer.
        let lock_timer_end = raw::get_timeout_finish_time(raw::LOCK_TIMEOUT);
        Failure {
            sqlstate,
            fatal,
            statement_timeout_reached,
            lock_timeout_reached: pg_sys::LockTimeout > 0
                && lock_timer_end >= raw::GetCurrentStatementStartTimestamp()
                && lock_timer_end <= raw::GetCurrentTimestamp(),
        }
    }
}

/// Exit of the process: what still runs was terminated, what was counted goes to the table.
pub unsafe extern "C-unwind" fn on_exit(_code: c_int, _argument: pg_sys::Datum) {
    fenced((), || {
        let frames = frames();
        let now = raw::clock_ns();
        while frames.depth > 0 {
            frames.depth -= 1;
            let index = frames.depth;
            fail(frames, index, now, true);
        }
        on_abort(frames, 0);
        if let Some(memory) = capturing(frames) {
            for index in 0..frames.planned_len {
                record::planned_only(memory, &frames.planned[index]);
            }
            frames.planned_len = 0;
            transaction::on_exit(memory, frames);
            slab::detach(memory);
            applications::detach(memory);
        }
        frames.enabled = false;
    });
}

/// Runs `call` and, when it throws, records the frame and all above it as failed and throws on. For CALL and DO.
///
/// # Safety
/// `call` has nothing with a destructor on its stack while the server runs.
pub unsafe fn guard(index: usize, call: impl FnOnce()) {
    // SAFETY: this is the server's PG_TRY, step by step: the handler and context stacks are saved, ours is put in
    // place, and both are put back before anything else happens.
    unsafe {
        let (handler, context) = (pg_sys::PG_exception_stack, pg_sys::error_context_stack);
        let thrown = cee_scape::call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = (buffer as *const cee_scape::SigJmpBufFields).cast_mut().cast();
            call();
            0
        });
        pg_sys::PG_exception_stack = handler;
        pg_sys::error_context_stack = context;
        if thrown != 0 {
            fenced((), || {
                let frames = frames();
                fail_down_to(frames, index, raw::clock_ns());
                frames.failure_recorded = index == 0;
            });
            #[allow(ffi_unwind_calls, reason = "the error must pass as it is")]
            raw::pg_re_throw();
        }
    }
}

/// An error is being written to the log. When no statement is on the stack, it came before or after the executor's part
/// of one: while it was parsed, analysed or opened, or when its transaction was committed. `attached` gives the memory to
/// record in.
pub fn on_logged(error: &pg_sys::ErrorData, attached: fn(&mut Frames) -> Option<&'static Memory>) {
    let fatal = error.elevel == pgrx::PgLogLevel::FATAL as i32;
    let frames = frames();
    if (!fatal && error.elevel != pgrx::PgLogLevel::ERROR as i32) || guc::track() == Track::None {
        return;
    }
    if frames.depth > 0 || core::mem::take(&mut frames.failure_recorded) {
        return;
    }
    // SAFETY: plain reads of the process's state; NULL, or the NUL-terminated text that the client sent.
    let (text, queryid) = unsafe { (pg_sys::debug_query_string, raw::pgstat_get_my_query_id()) };
    // Without a text no statement is being worked on, but for the commit after an extended query's.
    if text.is_null() && (fatal || queryid == 0) {
        return;
    }
    if let Some(memory) = attached(frames) {
        outside_of_executor(memory, frames, text, queryid, error.sqlerrcode, fatal);
    }
}

fn outside_of_executor(
    memory: &Memory,
    frames: &mut Frames,
    text: *const c_char,
    queryid: u64,
    sqlstate: i32,
    fatal: bool,
) {
    let now = raw::clock_ns();
    // SAFETY: never raise. Background workers need not say when their statement began.
    let age_us = unsafe {
        match raw::GetCurrentStatementStartTimestamp() {
            0 => 0,
            began => raw::GetCurrentTimestamp() - began,
        }
    };
    let message_ns = now.saturating_sub(u64::try_from(age_us).unwrap_or(0) * 1_000);
    // The last statement's frame is gone from the stack but still readable; not so the text it points to: a portal's
    // copy goes with the portal, before the commit can fail. The client's own text is the same one and still there.
    let last = frames.stack[0];
    let in_this_message = frames.idle_since_ns >= message_ns;
    let planned = in_this_message && last.kind == Kind::Plan && last.queryid == queryid;
    if queryid != 0 && in_this_message && last.kind != Kind::Plan {
        let text = match last.queryid == queryid && !text.is_null() {
            true => StatementText::of(text, last.location, last.len),
            false => StatementText::Missing,
        };
        let queryid = if last.redacted { last.queryid } else { queryid };
        record::failed_late(memory, queryid, sqlstate, &text);
        return;
    }
    let elapsed_ns = now - frames.idle_since_ns.max(message_ns).min(now);
    let outcome = Outcome::of(failure_of(sqlstate, fatal));
    let refused = record::Refused { outcome, sqlstate, elapsed_ns };
    // In a string of several statements it is not known where one that was not planned begins.
    let text = match planned {
        true => StatementText::of(text, last.location, last.len),
        false => StatementText::of(text, 0, 0),
    };
    if queryid != 0 && (planned || text.is_one_statement()) {
        let (plans, planning_ns) = frames.take_planning(queryid, true);
        record::not_executed(memory, queryid, &refused, plans, planning_ns, &text);
    } else {
        record::not_planned(memory, &refused);
    }
}

//! How a statement gets on the stack of frames and off it again: the part of every hook before and after the server's.
//! Called by the hooks; locks nothing.

use super::failure;
use super::fence::capturing;
use super::frames::{frames, Frames, Kind, MAX_DEPTH};
use super::source;
use crate::compat::Meter;
use crate::guc::{self, Track};
use crate::memory::statements::Usage;
use crate::memory::{applications, backend_index, slab, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use core::ffi::c_char;
use core::sync::atomic::Ordering;
use pgrx::pg_sys;

/// The hooks that were there before ours.
#[derive(Clone, Copy)]
pub struct Previous {
    pub start: pg_sys::ExecutorStart_hook_type,
    pub run: pg_sys::ExecutorRun_hook_type,
    pub finish: pg_sys::ExecutorFinish_hook_type,
    pub end: pg_sys::ExecutorEnd_hook_type,
    pub utility: pg_sys::ProcessUtility_hook_type,
    pub planner: pg_sys::planner_hook_type,
    pub emit_log: pg_sys::emit_log_hook_type,
}

pub static PREVIOUS: ProcessLocal<Previous> = ProcessLocal::new(Previous {
    start: None,
    run: None,
    finish: None,
    end: None,
    utility: None,
    planner: None,
    emit_log: None,
});

/// Whether a statement that starts now is to be captured.
#[inline(always)]
pub fn wanted(frames: &Frames) -> bool {
    match guc::track() {
        // The thousand statements of an extension's script are CREATE EXTENSION's.
        // SAFETY: a plain read of a process global.
        Track::All => frames.depth == 0 || !unsafe { pg_sys::creating_extension },
        Track::Top => frames.depth == 0,
        Track::None => false,
    }
}

/// Puts a frame on the stack and returns its index; `None` when the statement is not to be captured.
#[inline(always)]
pub fn push(kind: Kind, queryid: u64, text: *const c_char, location: i32, len: i32) -> Option<usize> {
    let frames = frames();
    // Attached first, also when nothing is wanted yet: it remembers how the session began.
    let memory = attached(frames)?;
    if !wanted(frames) {
        return None;
    }
    let depth = frames.depth;
    if depth >= MAX_DEPTH {
        memory.header().too_deep.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    if depth == 0 {
        frames.failure_recorded = false;
    }
    let frame = &mut frames.stack[depth];
    frame.kind = kind;
    frame.toplevel = depth == 0;
    frame.guarded = false;
    frame.redacted = false;
    // SAFETY: reads the transaction state.
    frame.level = unsafe { raw::GetCurrentTransactionNestLevel() };
    frame.queryid = queryid;
    frame.query = core::ptr::null_mut();
    frame.text = text;
    frame.location = location;
    frame.len = len;
    frame.sqlstate = 0;
    frame.tag = core::ptr::null();
    frame.failed_text_len = 0;
    frame.failed_relations_len = 0;
    // What planning reads is not told apart from what runs.
    if kind != Kind::Plan {
        frame.meter = Meter::now();
    }
    frame.started_ns = raw::clock_ns();
    frames.depth = depth + 1;
    Some(depth)
}

/// As `capturing`, after making sure that this process has its slab and exit handler.
#[inline(always)]
pub fn attached(frames: &mut Frames) -> Option<&'static Memory> {
    let memory = capturing(frames)?;
    if !frames.attached {
        attach(memory, frames)?;
    }
    Some(memory)
}

/// The first statement of a process: parallel workers and processes outside of a database capture nothing, their
/// leader does; all others get a slab and an exit handler.
#[cold]
fn attach(memory: &'static Memory, frames: &mut Frames) -> Option<()> {
    // SAFETY: plain reads of process globals.
    unsafe {
        if pg_sys::ParallelWorkerNumber >= 0 || pg_sys::MyProc.is_null() || pg_sys::MyDatabaseId == pg_sys::InvalidOid {
            if pg_sys::ParallelWorkerNumber >= 0 {
                frames.enabled = false;
            }
            return None;
        }
    }
    let index = backend_index()?;
    // SAFETY: only fails, with FATAL, when its 20 places are taken.
    unsafe { pg_sys::before_shmem_exit(Some(failure::on_exit), pg_sys::Datum::from(0)) };
    slab::attach(memory, index);
    applications::attach(memory, index);
    source::note_strings();
    frames.attached = true;
    Some(())
}

/// Takes a frame off the stack: time and usage since it was put there. Frames above it were left by errors that
/// somebody swallowed; they failed. `None` when an abort took the frame and recorded it already.
#[inline(always)]
pub fn pop(frames: &mut Frames, index: usize, usage: Option<&mut Usage>) -> Option<u64> {
    let now = raw::clock_ns();
    if frames.depth != index + 1 {
        if frames.depth <= index {
            return None;
        }
        failure::fail_down_to(frames, index + 1, now);
    }
    frames.depth = index;
    if index == 0 {
        frames.failure_recorded = false;
        frames.idle_since_ns = now;
    }
    let frame = &frames.stack[index];
    if let Some(usage) = usage {
        frame.meter.add_since_to(usage);
    }
    Some(now.saturating_sub(frame.started_ns))
}

/// Runs the server's part with `on_error` told of errors raised meanwhile.
macro_rules! with_error_context {
    ($index:expr, $call:expr) => {{
        // SAFETY: the callback record lives in this stack frame and is unlinked before the frame is left; when an
        // error skips the frame, the server restores the list itself.
        let mut context = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some($crate::capture::failure::on_error),
            arg: $index as *mut c_void,
        };
        pg_sys::error_context_stack = &mut context;
        let result = $call;
        pg_sys::error_context_stack = context.previous;
        result
    }};
}
pub(super) use with_error_context;

//! What this process remembers of the statements it is running: a stack of frames, one for each hook call in progress,
//! and a slot for each query whose executor is open (a cursor may run in many calls). Fixed sizes; nothing is allocated.

use crate::compat::Meter;
use crate::memory::statements::Execution;
use crate::pg::local::ProcessLocal;
use core::ffi::c_char;
use pgrx::pg_sys;

/// Deeper nesting is not kept apart.
pub const MAX_DEPTH: usize = 64;
/// More open cursors are recorded a run at a time.
pub const MAX_OPEN: usize = 32;
/// Relations kept of a failed statement.
pub const MAX_RELATIONS: usize = crate::memory::slow_ring::RELATIONS;
/// Bytes of text kept of a failed statement, before literals are taken out.
const FAILED_TEXT: usize = 8_192;

/// What a frame does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Plan,
    Run,
    Utility,
}

/// One hook call in progress.
#[derive(Clone, Copy)]
pub struct Frame {
    pub kind: Kind,
    pub toplevel: bool,
    /// Has a handler of its own for errors, because transactions may end inside it without one.
    pub guarded: bool,
    /// The text is replaced by the command tag.
    pub redacted: bool,
    /// Transaction nesting level at its start: it dies with that level.
    pub level: i32,
    pub queryid: u64,
    pub started_ns: u64,
    pub meter: Meter,
    pub query: *mut pg_sys::QueryDesc,
    pub text: *const c_char,
    pub location: i32,
    pub len: i32,
    /// Of the latest error raised while it was on the stack.
    pub sqlstate: i32,
    /// Who ran it when that error was raised: an abort takes roles back before it is heard of here.
    pub userid: u32,
    pub tag: *const c_char,
    /// What was copied of it when that error was raised, while it was still there to be copied.
    pub failed_text_len: usize,
    pub failed_relations: [u32; MAX_RELATIONS],
    pub failed_relations_len: u16,
    pub estimated_rows: f64,
}

/// A query whose executor is open.
#[derive(Clone, Copy)]
pub struct Open {
    pub query: *mut pg_sys::QueryDesc,
    pub toplevel: bool,
    pub level: i32,
    pub queryid: u64,
    pub userid: u32,
    /// What is known of it so far; `calls` is 0 when it was counted already.
    pub execution: Execution,
}

/// Planning time waiting for the execution it belongs to.
#[derive(Clone, Copy)]
pub struct Planned {
    pub queryid: u64,
    pub plans: u64,
    pub planning_ns: u64,
    pub toplevel: bool,
}

pub const MAX_PLANNED: usize = 8;

/// All that this process remembers.
pub struct Frames {
    /// Capture is on for this process.
    pub enabled: bool,
    /// Its exit handler is in place and its slab known.
    pub attached: bool,
    /// The error on its way out was recorded by a guarded frame at the bottom of the stack, which is gone.
    pub failure_recorded: bool,
    /// When the last frame left the stack, on the clock of `clock_ns`.
    pub idle_since_ns: u64,
    pub depth: usize,
    pub open_len: usize,
    pub planned_len: usize,
    pub stack: [Frame; MAX_DEPTH],
    /// One place more than there may be open, to put together what is recorded at once.
    pub open: [Open; MAX_OPEN + 1],
    pub planned: [Planned; MAX_PLANNED],
    pub failed_text: [[u8; FAILED_TEXT]; MAX_DEPTH],
}

const NO_FRAME: Frame = Frame {
    kind: Kind::Run,
    toplevel: false,
    guarded: false,
    redacted: false,
    level: 0,
    queryid: 0,
    started_ns: 0,
    meter: Meter::ZERO,
    query: core::ptr::null_mut(),
    text: core::ptr::null(),
    location: 0,
    len: 0,
    sqlstate: 0,
    userid: 0,
    tag: core::ptr::null(),
    failed_text_len: 0,
    failed_relations: [0; MAX_RELATIONS],
    failed_relations_len: 0,
    estimated_rows: 0.0,
};

const NO_OPEN: Open =
    Open { query: core::ptr::null_mut(), toplevel: false, level: 0, queryid: 0, userid: 0, execution: Execution::NONE };

static FRAMES: ProcessLocal<Frames> = ProcessLocal::new(Frames {
    enabled: false,
    attached: false,
    failure_recorded: false,
    idle_since_ns: 0,
    depth: 0,
    open_len: 0,
    planned_len: 0,
    stack: [NO_FRAME; MAX_DEPTH],
    open: [NO_OPEN; MAX_OPEN + 1],
    planned: [Planned { queryid: 0, plans: 0, planning_ns: 0, toplevel: false }; MAX_PLANNED],
    failed_text: [[0; FAILED_TEXT]; MAX_DEPTH],
});

/// The process's frames. Hooks nest, so a reference must not be kept across a call into the server.
#[inline(always)]
pub fn frames() -> &'static mut Frames {
    // SAFETY: process-local; each part of a hook takes its own reference and drops it before the server runs on.
    unsafe { &mut *FRAMES.as_ptr() }
}

impl Frames {
    /// The open query of a descriptor, the latest first. The place of a descriptor whose end was never seen may be used
    /// again; the queryid tells the two apart.
    #[inline]
    pub fn find_open(&self, query: *mut pg_sys::QueryDesc, queryid: u64) -> Option<usize> {
        (0..self.open_len).rev().find(|&index| self.open[index].query == query && self.open[index].queryid == queryid)
    }

    /// Takes an open query off the list.
    #[inline]
    pub fn close(&mut self, index: usize) {
        self.open_len -= 1;
        if index < self.open_len {
            self.open.copy_within(index + 1..=self.open_len, index);
        }
    }

    /// Remembers planning time; what has to make room for it is returned.
    pub fn remember_planning(&mut self, planned: Planned) -> Option<Planned> {
        let known = self.planned[..self.planned_len]
            .iter_mut()
            .find(|known| known.queryid == planned.queryid && known.toplevel == planned.toplevel);
        if let Some(known) = known {
            known.plans += planned.plans;
            known.planning_ns += planned.planning_ns;
            return None;
        }
        if self.planned_len < MAX_PLANNED {
            self.planned[self.planned_len] = planned;
            self.planned_len += 1;
            return None;
        }
        let oldest = self.planned[0];
        self.planned.copy_within(1.., 0);
        self.planned[MAX_PLANNED - 1] = planned;
        Some(oldest)
    }

    /// The planning time remembered for an execution: plannings and nanoseconds.
    #[inline(always)]
    pub fn take_planning(&mut self, queryid: u64, toplevel: bool) -> (u64, u64) {
        if self.planned_len == 0 {
            return (0, 0);
        }
        self.take_planned(queryid, toplevel)
    }

    fn take_planned(&mut self, queryid: u64, toplevel: bool) -> (u64, u64) {
        let found =
            (0..self.planned_len).find(|&i| self.planned[i].queryid == queryid && self.planned[i].toplevel == toplevel);
        let Some(index) = found else { return (0, 0) };
        let planned = self.planned[index];
        self.planned_len -= 1;
        if index < self.planned_len {
            self.planned.copy_within(index + 1..=self.planned_len, index);
        }
        (planned.plans, planned.planning_ns)
    }
}

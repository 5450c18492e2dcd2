//! What the background workers write down: deltas per statement, slow statements, capacity samples, in time partitions
//! that they rotate themselves.

mod connections;
mod cost;
pub mod history;
pub mod host;
mod measure;
pub mod partitions;
pub mod pending;
pub mod registry;
pub mod sampler;
pub mod worker;

use std::sync::atomic::{AtomicBool, Ordering};

static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// Whether this process is one of ours: its statements are not captured.
#[inline]
pub fn is_worker() -> bool {
    IS_WORKER.load(Ordering::Relaxed)
}

/// What the utility hook calls first, before anything of it is on the stack: makes our worker leave the database that a
/// statement needs alone, and notes what the launcher has to look at when the transaction ends. May raise.
///
/// # Safety
/// `node` is the utility statement's node.
#[inline]
pub unsafe fn before_utility(node: *mut pgrx::pg_sys::Node) {
    // SAFETY: see the function's contract.
    unsafe {
        if crate::pg::utility::may_concern(node) {
            before_utility_guarded(node);
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn before_utility_guarded(node: *mut pgrx::pg_sys::Node) {
    // SAFETY: as above.
    if let Some(kind) = unsafe { crate::pg::utility::classify(node) } {
        registry::before_utility(&kind);
    }
}

/// Called by a background process of ours when it starts.
pub fn mark_worker() {
    IS_WORKER.store(true, Ordering::Relaxed);
    crate::capture::hooks::exclude_this_process();
}

//! What the background workers write down: deltas per statement, slow statements, capacity samples, in time partitions
//! that they rotate themselves.

pub mod history;
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

/// Called by a background process of ours when it starts.
pub fn mark_worker() {
    IS_WORKER.store(true, Ordering::Relaxed);
}

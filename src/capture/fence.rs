//! What every part of a hook begins with: whether this process captures, and a fence against panics. Called by all of
//! capture; locks nothing.

use super::frames::{frames, Frames};
use crate::memory::{self, Memory};
use core::sync::atomic::Ordering;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Runs our part of a hook. A panic in it switches capture off and lets the query go on.
#[inline(always)]
pub fn fenced<T>(default: T, part: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(value) => value,
        Err(_) => {
            after_panic();
            default
        }
    }
}

#[cold]
fn after_panic() {
    frames().enabled = false;
    if let Some(memory) = memory::get_ref() {
        memory.header().panics.fetch_add(1, Ordering::Relaxed);
        memory.header().disabled.store(1, Ordering::Relaxed);
    }
}

/// The memory to record in, when this process captures.
#[inline(always)]
pub fn capturing(frames: &Frames) -> Option<&'static Memory> {
    if !frames.enabled {
        return None;
    }
    let memory = memory::get_ref()?;
    (memory.header().disabled.load(Ordering::Relaxed) == 0).then_some(memory)
}

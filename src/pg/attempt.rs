//! Runs a part of the server on the side of a query, whose errors must not become the query's. Called by capture when it
//! prints a plan or a parameter. Locks nothing.

use std::panic::AssertUnwindSafe;

use pgrx::{pg_sys, PgTryBuilder};

/// What `body` gives, or `None` when it raised. What it held when it did (locks of buffers, pins, a read in progress,
/// catalog entries) is given back as an abort would: whoever swallows an error without that leaves it to a commit,
/// which may not find it. Interrupts wait meanwhile, so that no cancel is swallowed with the error.
///
/// # Safety
/// Inside a transaction; the process holds no lightweight lock.
pub unsafe fn attempt<T>(body: impl FnOnce() -> Option<T>) -> Option<T> {
    use pg_sys::ResourceReleasePhase as Phase;
    // SAFETY: the resource owner is a child of the current one and is emptied and deleted whatever happens.
    unsafe {
        let (held, outer) = (pg_sys::InterruptHoldoffCount, pg_sys::CurrentResourceOwner);
        if outer.is_null() {
            return None;
        }
        let own = pg_sys::ResourceOwnerCreate(outer, c"perf_opt".as_ptr());
        pg_sys::CurrentResourceOwner = own;
        pg_sys::InterruptHoldoffCount = held + 1;
        let (result, failed) =
            PgTryBuilder::new(AssertUnwindSafe(|| (body(), false))).catch_others(|_| (None, true)).execute();
        // An error sets it to 0.
        pg_sys::InterruptHoldoffCount = held + 1;
        if failed {
            pg_sys::LWLockReleaseAll();
            #[cfg(feature = "pg15")]
            pg_sys::AbortBufferIO();
            pg_sys::UnlockBuffers();
        }
        pg_sys::CurrentResourceOwner = outer;
        for phase in
            [Phase::RESOURCE_RELEASE_BEFORE_LOCKS, Phase::RESOURCE_RELEASE_LOCKS, Phase::RESOURCE_RELEASE_AFTER_LOCKS]
        {
            pg_sys::ResourceOwnerRelease(own, phase, !failed, false);
        }
        pg_sys::ResourceOwnerDelete(own);
        pg_sys::InterruptHoldoffCount = held;
        result
    }
}

//! A lightweight lock that is released when its guard goes out of scope, also when a Rust panic unwinds. An ERROR of
//! the server releases all of a process's lightweight locks by itself; still, nothing that can raise is done under one.

use super::raw;
use pgrx::pg_sys;

/// Holds a lightweight lock.
pub struct LwLockGuard(*mut pg_sys::LWLock);

impl LwLockGuard {
    /// Takes the lock exclusively.
    ///
    /// # Safety
    /// `lock` must point to an initialised lock in shared memory that this process does not hold.
    #[inline]
    pub unsafe fn exclusive(lock: *mut pg_sys::LWLock) -> LwLockGuard {
        // SAFETY: the caller vouches for the lock. Fewer than 200 locks are held in any hook.
        unsafe { raw::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE) };
        LwLockGuard(lock)
    }

    /// Takes the lock shared.
    ///
    /// # Safety
    /// As for [`exclusive`](Self::exclusive).
    #[inline]
    pub unsafe fn shared(lock: *mut pg_sys::LWLock) -> LwLockGuard {
        // SAFETY: the caller vouches for the lock.
        unsafe { raw::LWLockAcquire(lock, pg_sys::LWLockMode::LW_SHARED) };
        LwLockGuard(lock)
    }
}

impl Drop for LwLockGuard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the guard was made by taking exactly this lock.
        unsafe { raw::LWLockRelease(self.0) };
    }
}

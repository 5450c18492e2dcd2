//! What differs between the supported major versions of PostgreSQL: the only place with `cfg(feature = "pgNN")`.

use pgrx::pg_sys;

/// The `index`-th (from 1) entry of this backend's snapshot of the backend status array.
///
/// # Safety
/// Call `pgstat_fetch_stat_numbackends` first: it takes the snapshot that the returned pointer points into. The pointer is
/// good until the snapshot is cleared.
pub unsafe fn local_backend_entry(index: i32) -> *mut pg_sys::LocalPgBackendStatus {
    #[cfg(feature = "pg15")]
    // SAFETY: passed on to the caller.
    return unsafe { pg_sys::pgstat_fetch_stat_local_beentry(index) };
    #[cfg(not(feature = "pg15"))]
    // SAFETY: passed on to the caller.
    return unsafe { pg_sys::pgstat_get_local_beentry_by_index(index) };
}

//! Heavyweight locks taken only when they are free. Called by the partition manager of the history tables, which must never
//! queue behind a reader: whoever waits for an exclusive lock makes everybody after it wait too.

use pgrx::pg_sys;

/// Takes ACCESS EXCLUSIVE on a relation until the end of the transaction if nobody is in the way. False: somebody is.
/// A relation that was dropped meanwhile is no error here; the next statement that names it says so.
pub fn try_lock_exclusive(relation: pg_sys::Oid) -> bool {
    // SAFETY: needs a running transaction only, which every caller inside SPI has; the lock belongs to the resource owner
    // of that transaction and is released with it. Any oid may be given: locking does not look the relation up.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE) }
}

/// The same for SHARE UPDATE EXCLUSIVE, which two partition managers of one table exclude each other with.
pub fn try_lock_share_update(relation: pg_sys::Oid) -> bool {
    // SAFETY: as in `try_lock_exclusive`.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE) }
}

//! Heavyweight locks taken only when they are free. Called by the partition manager of the history tables, which must never
//! queue behind a reader: whoever waits for an exclusive lock makes everybody after it wait too. And by the index advisor,
//! which must not wait for anybody. The conversion of tables waits, as long as its caller allows ([`take`]).

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

/// Keeps SHARE UPDATE EXCLUSIVE on a relation beyond the end of the transaction: until [`release_share_update`], or until
/// any later transaction of this process is aborted. For statements that begin transactions of their own.
pub fn hold_share_update(relation: pg_sys::Oid) {
    let mut id = session_lock(relation);
    // SAFETY: inside a transaction; the number is copied.
    unsafe { pg_sys::LockRelationIdForSession(&raw mut id, pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE) }
}

/// Gives back what [`hold_share_update`] keeps.
pub fn release_share_update(relation: pg_sys::Oid) {
    let mut id = session_lock(relation);
    // SAFETY: as above; no transaction was aborted since it was taken.
    unsafe { pg_sys::UnlockRelationIdForSession(&raw mut id, pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE) }
}

fn session_lock(relation: pg_sys::Oid) -> pg_sys::LockRelId {
    // SAFETY: reads a process global.
    pg_sys::LockRelId { relId: relation, dbId: unsafe { pg_sys::MyDatabaseId } }
}

/// A lock that is waited for, as long as lock_timeout allows, and held until the end of the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exclusive {
    /// Keeps other DDL and VACUUM away; readers and writers go on.
    ShareUpdate,
    /// Keeps writers away as well: what a foreign key takes on the table it refers to.
    ShareRow,
    /// Keeps everybody away.
    Access,
}

/// Waits for a lock on a relation. Whether that is still there, the caller looks afterwards.
pub fn take(relation: pg_sys::Oid, mode: Exclusive) {
    let mode = match mode {
        Exclusive::ShareUpdate => pg_sys::ShareUpdateExclusiveLock,
        Exclusive::ShareRow => pg_sys::ShareRowExclusiveLock,
        Exclusive::Access => pg_sys::AccessExclusiveLock,
    };
    // SAFETY: as in `try_lock_exclusive`; a raised error leaves what was taken to the abort.
    unsafe { pg_sys::LockRelationOid(relation, mode as pg_sys::LOCKMODE) }
}

/// ACCESS SHARE on a relation for as long as this lives: whoever prints an expression opens its table, and would wait.
pub struct Shared(pg_sys::Oid);

impl Shared {
    /// Takes the lock if nobody is in the way.
    pub fn try_take(relation: pg_sys::Oid) -> Option<Self> {
        // SAFETY: as in `try_lock_exclusive`.
        let taken =
            unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        taken.then_some(Shared(relation))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // On the way out of an error the abort releases it, with the resource owner it belongs to.
        if !std::thread::panicking() {
            // SAFETY: taken by `try_take` under the same resource owner, and released once.
            unsafe { pg_sys::UnlockRelationOid(self.0, pg_sys::AccessShareLock as pg_sys::LOCKMODE) };
        }
    }
}

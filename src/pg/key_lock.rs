//! Locks on numbers, of advisory locks' kind but in a space of perf_opt's own, so that no lock of an application's is in the
//! way. Held until the end of the (sub)transaction,
//! or until it is released. Nobody waits for one.

use pgrx::pg_sys;

/// What a number stands for. The server's own advisory locks use 1 and 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// Somebody puts an entry.
    Put = 0x7065,
    /// Somebody computes a value.
    Compute = 0x7066,
    /// Somebody tidies a part of the cache.
    Tidy = 0x7067,
    /// Somebody writes over marks where they are, or forgets some.
    Marks = 0x7068,
}

fn tag(space: Space, number: u64) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads a process global.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: (number >> 32) as u32,
        locktag_field3: number as u32,
        locktag_field4: space as u16,
        locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

/// Takes the lock if nobody has it.
pub fn try_take(space: Space, number: u64) -> bool {
    let tag = tag(space, number);
    // SAFETY: the tag is read only; inside a transaction.
    let result = unsafe { pg_sys::LockAcquire(&raw const tag, pg_sys::ExclusiveLock as i32, false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Gives back a lock that this transaction has taken; as often as it took it.
pub fn release(space: Space, number: u64) {
    let tag = tag(space, number);
    // SAFETY: the tag is read only; the lock is this transaction's.
    unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock as i32, false) };
}

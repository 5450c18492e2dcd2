//! Which tables have had a change committed: a counter in shared memory for each table that somebody watches. Materialized
//! views watch what they are computed from, to know whether a refresh could change anything.
//!
//! Whoever changes the content of a table holds ROW EXCLUSIVE (rows) or ACCESS EXCLUSIVE (TRUNCATE, rewrites) on it until
//! its transaction has ended. So each transaction that has an id looks, just before it commits or is prepared, which
//! watched tables of its database it holds so, and counts one change for each. That sees every way of writing (COPY,
//! triggers, foreign keys, replication, functions in C) and no rolled-back work, and depends on no setting. A transaction
//! without an id has written nothing and does not look; where nothing is watched, none does.
//!
//! The change is counted *before* it becomes visible, and the lock is held until *after*. Who wants "no change" to mean
//! something therefore reads the counters, then asks [`is_being_written`], then takes its snapshot: a change that the
//! snapshot does not show is either not counted yet when the counters are read, or its lock is seen. A counter that
//! gives way to another table's starts, when its table comes back, from a value no counter ever had.
//!
//! Slots are taken under the one lock; commits read them without it. Nothing here raises.

use core::ffi::{c_void, CStr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use crate::pg::local::ProcessLocal;
use crate::pg::lwlock::LwLockGuard;
use crate::pg::{background, raw};

const NAME: &CStr = c"perf_opt_watch";
/// Tables that can be watched at the same time in the whole server.
pub const SLOTS: usize = 2_048;
/// Room between the starting values of two counters: changes that one can count.
const STEP_BITS: u32 = 40;

/// The counter of one table.
#[repr(C)]
struct Slot {
    /// Database in the high half, relation in the low one; 0: free.
    key: AtomicU64,
    changes: AtomicU64,
    /// When somebody last asked, in asks.
    asked: AtomicU64,
}

#[repr(C)]
struct Watch {
    /// Distinguishes this life of shared memory from all others.
    boot: AtomicU64,
    /// Slots that have ever been taken: none behind them need be looked at.
    taken: AtomicU32,
    /// Counters started so far.
    started: AtomicU64,
    asks: AtomicU64,
    slots: [Slot; SLOTS],
}

static WATCH: ProcessLocal<Option<&'static Watch>> = ProcessLocal::new(None);
static LOCK: ProcessLocal<*mut pg_sys::LWLockPadded> = ProcessLocal::new(core::ptr::null_mut());

/// Asks for the memory and the lock; from shmem_request_hook.
pub fn request() {
    // SAFETY: called from shmem_request_hook, the one place where both are allowed.
    unsafe {
        pg_sys::RequestAddinShmemSpace(size_of::<Watch>());
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), 1);
    }
}

/// Attaches the memory and, the first time, initialises it; from shmem_startup_hook.
pub fn startup() {
    let mut found = false;
    // SAFETY: called from shmem_startup_hook. The area is as large as `Watch`, cache-line aligned, never freed; all-zero
    // bytes are valid atomics, and nobody else sees them before the hook returns.
    unsafe {
        let watch = pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<Watch>(), &mut found).cast::<Watch>();
        if !found {
            core::ptr::write_bytes(watch, 0, 1);
            (*watch).boot.store(background::random_u64(), Ordering::Relaxed);
        }
        WATCH.set(Some(&*watch));
        LOCK.set(pg_sys::GetNamedLWLockTranche(NAME.as_ptr()));
    }
}

/// Has every process look before it commits; from the library's initialisation, once, in the postmaster. Callbacks run
/// last to first, so that what libraries loaded after this one write before a commit is seen.
pub fn register() {
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_transaction_event), core::ptr::null_mut()) }
}

// No pg_guard: nothing called here raises or panics.
unsafe extern "C-unwind" fn at_transaction_event(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    if !matches!(event, pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT | pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE) {
        return;
    }
    let Some(watch) = WATCH.get() else { return };
    let taken = watch.taken.load(Ordering::Acquire) as usize;
    if taken > 0 {
        look(watch, taken);
    }
}

/// Counts a change of each watched table that this transaction may have changed.
#[inline(never)]
fn look(watch: &Watch, taken: usize) {
    // SAFETY: reads this process's transaction state.
    if unsafe { raw::GetTopTransactionIdIfAny() } == pg_sys::InvalidTransactionId {
        return;
    }
    // SAFETY: a plain read of a process global.
    let database = u64::from(unsafe { pg_sys::MyDatabaseId }.to_u32());
    for slot in watch.slots.iter().take(taken) {
        let key = slot.key.load(Ordering::Acquire);
        if key >> 32 == database && key != 0 && may_have_changed(key as u32) {
            slot.changes.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Whether this transaction holds a lock on a relation under which its content is changed.
fn may_have_changed(relation: u32) -> bool {
    let relation = pg_sys::Oid::from(relation);
    // SAFETY: looks into this process's own table of locks.
    unsafe {
        raw::CheckRelationOidLockedByMe(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE, false)
            || raw::CheckRelationOidLockedByMe(relation, pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE, false)
    }
}

fn key_of(database: u32, relation: u32) -> u64 {
    u64::from(database) << 32 | u64::from(relation)
}

/// The number of this life of shared memory; `None` when the library was not preloaded.
pub fn boot() -> Option<u64> {
    WATCH.get().map(|watch| watch.boot.load(Ordering::Relaxed))
}

/// The counters of tables of a database, which are watched from now on if they were not. `None` when there are too many.
pub fn changes(database: u32, relations: &[u32]) -> Option<Vec<u64>> {
    let watch = WATCH.get()?;
    // SAFETY: the tranche has one lock, which this process does not hold.
    let _guard = unsafe { LwLockGuard::exclusive(&raw mut (*LOCK.get()).lock) };
    let ask = watch.asks.fetch_add(1, Ordering::Relaxed) + 1;
    let mut taken = watch.taken.load(Ordering::Relaxed) as usize;
    let mut counted = Vec::with_capacity(relations.len());
    for relation in relations {
        let key = key_of(database, *relation);
        let used = watch.slots.get(..taken)?;
        let slot = match used.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key) {
            Some(slot) => slot,
            None => {
                let free = if taken < SLOTS {
                    taken += 1;
                    watch.slots.get(taken - 1)?
                } else {
                    let oldest = used.iter().min_by_key(|slot| slot.asked.load(Ordering::Relaxed))?;
                    if oldest.asked.load(Ordering::Relaxed) == ask {
                        return None;
                    }
                    oldest
                };
                free.key.store(0, Ordering::Release);
                free.changes.store((watch.started.fetch_add(1, Ordering::Relaxed) + 1) << STEP_BITS, Ordering::Release);
                free.key.store(key, Ordering::Release);
                watch.taken.store(taken as u32, Ordering::Release);
                free
            }
        };
        slot.asked.store(ask, Ordering::Relaxed);
        counted.push(slot.changes.load(Ordering::Acquire));
    }
    Some(counted)
}

/// Whether some other transaction, a prepared one included, holds a lock on a table under which it may write it.
pub fn is_being_written(database: u32, relation: u32) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: database,
        locktag_field2: relation,
        locktag_field3: 0,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    let mut count = 0;
    // SAFETY: a valid tag of a relation. SHARE conflicts with every lock under which content is changed. The list lives in
    // the current memory context.
    unsafe { pg_sys::GetLockConflicts(&raw const tag, pg_sys::ShareLock as pg_sys::LOCKMODE, &raw mut count) };
    count > 0
}

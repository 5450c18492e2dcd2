//! Rows that were moved from one table to another by a transaction: which relation is read to see them, and by which
//! transaction. Who reads that relation under a snapshot that does not see the transaction would find such rows in neither
//! place, and is refused instead of being told too little. Called by the jobs that move rows, and when an executor starts.
//! And which sessions are in a transaction that keeps one snapshot for all its statements, which no other process can tell.
//!
//! Whoever moves rows holds ACCESS EXCLUSIVE on the relation from before its move is written down here until it has ended:
//! nobody comes to read a relation whose move is being written down. A move is forgotten when every snapshot of the server
//! sees it. No lock: a word of a slot says whose it is. Nothing here raises.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::{backend_index, max_backends};
use crate::pg::local::ProcessLocal;

const NAME: &CStr = c"perf_opt_moves";
/// Moves that some snapshot may not see yet.
const SLOTS: usize = 256;
/// A slot that somebody is filling: no database has the number 0.
const CLAIMED: u64 = 1;

/// One move.
#[repr(C)]
struct Slot {
    /// Database in the high half, relation in the low one; 0: free.
    key: AtomicU64,
    /// The transaction, with its epoch.
    xid: AtomicU64,
}

/// A session whose transaction keeps its snapshot.
#[repr(C)]
struct Keeper {
    pid: AtomicU32,
    /// When that transaction began, in microseconds since 2000.
    began_at: AtomicI64,
}

#[repr(C)]
struct Head {
    /// The newest transaction that has moved rows, with its epoch; 0: none has.
    newest: AtomicU64,
    slots: [Slot; SLOTS],
}

/// Where everything is.
#[derive(Clone, Copy)]
struct Moves {
    head: &'static Head,
    keepers: &'static [Keeper],
}

static MOVES: ProcessLocal<Option<Moves>> = ProcessLocal::new(None);

/// A move that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// What is read to see the rows.
    pub relation: u32,
    /// The transaction, with its epoch.
    pub xid: u64,
}

fn bytes() -> usize {
    size_of::<Head>() + max_backends() * size_of::<Keeper>()
}

/// Asks for the memory; from shmem_request_hook.
pub fn request() {
    // SAFETY: called from shmem_request_hook, where it is allowed.
    unsafe { pg_sys::RequestAddinShmemSpace(bytes()) };
}

/// Attaches the memory and, the first time, initialises it; from shmem_startup_hook.
pub fn startup() {
    let mut found = false;
    // SAFETY: called from shmem_startup_hook. The area has the size asked for, is aligned to a cache line and never freed;
    // all-zero bytes are valid atomics, and nobody else sees them before the hook returns.
    unsafe {
        let base: *mut u8 = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes(), &mut found).cast();
        if !found {
            core::ptr::write_bytes(base, 0, bytes());
        }
        MOVES.set(Some(Moves {
            head: &*base.cast::<Head>(),
            keepers: core::slice::from_raw_parts(base.add(size_of::<Head>()).cast::<Keeper>(), max_backends()),
        }));
    }
}

/// The newest transaction that has moved rows, without its epoch; `None` when none has.
#[inline(always)]
pub fn newest() -> Option<u32> {
    // SAFETY: written once, before any process that reads it exists.
    let moves = unsafe { (*MOVES.as_ptr()).as_ref() }?;
    let newest = moves.head.newest.load(Ordering::Acquire);
    (newest != 0).then_some(newest as u32)
}

/// The moves in a database.
pub fn of_database(database: u32) -> impl Iterator<Item = Move> {
    let slots: &[Slot] = MOVES.get().map_or(&[], |moves| &moves.head.slots);
    slots.iter().filter_map(move |slot| {
        let key = slot.key.load(Ordering::Acquire);
        let xid = slot.xid.load(Ordering::Acquire);
        // Another one may have taken the slot in between: then every snapshot sees the former.
        let is_it = key >> 32 == u64::from(database) && slot.key.load(Ordering::Acquire) == key;
        is_it.then_some(Move { relation: key as u32, xid })
    })
}

/// Remembers a move of the current transaction. Every snapshot sees the transactions before `oldest`. False: too many
/// moves are remembered that some snapshot does not see, or the library was not preloaded.
pub fn note(database: u32, one: Move, oldest: u64) -> bool {
    let Some(moves) = MOVES.get() else { return false };
    for slot in &moves.head.slots {
        let key = slot.key.load(Ordering::Acquire);
        let is_over = key == 0 || key != CLAIMED && slot.xid.load(Ordering::Acquire) < oldest;
        if is_over && slot.key.compare_exchange(key, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            slot.xid.store(one.xid, Ordering::Release);
            slot.key.store(u64::from(database) << 32 | u64::from(one.relation), Ordering::Release);
            moves.head.newest.fetch_max(one.xid, Ordering::AcqRel);
            return true;
        }
    }
    false
}

/// This session's transaction, which began at that time, keeps its snapshot.
#[inline]
pub fn keep(pid: u32, began_at: i64) {
    let keeper = MOVES.get().and_then(|moves| moves.keepers.get(backend_index()?));
    if let Some(keeper) = keeper {
        if keeper.began_at.load(Ordering::Relaxed) != began_at || keeper.pid.load(Ordering::Relaxed) != pid {
            keeper.pid.store(pid, Ordering::Relaxed);
            keeper.began_at.store(began_at, Ordering::Release);
        }
    }
}

/// Processes and the beginnings of their last transactions that kept a snapshot.
pub fn keepers() -> Vec<(u32, i64)> {
    let keepers: &[Keeper] = MOVES.get().map_or(&[], |moves| moves.keepers);
    let read = |keeper: &Keeper| (keeper.pid.load(Ordering::Relaxed), keeper.began_at.load(Ordering::Acquire));
    keepers.iter().map(read).filter(|(pid, _)| *pid != 0).collect()
}

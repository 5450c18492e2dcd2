//! Reads that a cache could have answered, and writes that would have taken its entries out: events in a ring, for the
//! collectors, which count them. Values never leave their backend; hashes of them are keyed with a secret of this life of
//! shared memory. Written by capture for reads that take long enough for a cache to pay, and for every execution of
//! statements that are shadowed; what is shadowed is set by the collector of the database. Locks nothing.
//!
//! One word says from which duration on an execution is of interest: never, while no collector runs; any, while something
//! is shadowed. That word is all that most statements look at.

use core::ffi::CStr;
use core::hash::Hasher;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::collections::hash_map::DefaultHasher;

use pgrx::pg_sys;

use super::ring::Ring;
use crate::pg::background::random_u64;
use crate::pg::local::ProcessLocal;

const NAME: &CStr = c"perf_opt_reads";
/// Events that are kept until a collector has read them.
pub const EVENTS: usize = 16_384;
/// Values of one statement whose hashes are kept.
pub const VALUES: usize = 12;
/// Statements that can be shadowed at the same time in the whole server.
pub const STATEMENTS: usize = 64;
/// Relations whose writes are of interest, at most.
pub const RELATIONS: usize = 256;
/// Of more keys than two to this power, one at least is kept.
const SHIFT_MAX: u32 = 16;
/// How long it has to be quiet before more keys are kept again, and how many events a second that is.
const QUIET_US: i64 = 60_000_000;
const QUIET_PER_S: i64 = EVENTS as i64 / 16;
/// A slot that somebody is filling: no database has the number 0.
const CLAIMED: u32 = u32::MAX;
/// No execution takes so long.
const NEVER: u64 = u64::MAX;

/// The event is a write.
pub const WRITE: u16 = 1;
/// The statement is shadowed.
pub const SHADOWED: u16 = 2;
/// The read took long enough for a cache to pay.
pub const SURVEYED: u16 = 4;
/// A value of the statement is not known: its key is not, either.
pub const UNKNOWN: u16 = 8;
/// A write of which only the relation is known.
pub const BY_LOCK: u16 = 16;
/// A client sent the statement, rather than a function.
pub const TOPLEVEL: u16 = 32;

/// One execution.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Event {
    /// When its statement was received, in microseconds of the server's epoch.
    pub at: i64,
    pub queryid: u64,
    /// Hash of the statement and all of its values.
    pub key: u64,
    pub dbid: u32,
    pub userid: u32,
    pub elapsed_us: u32,
    pub rows: u32,
    /// Bytes of a row, as the planner sees it.
    pub width: u32,
    /// Of a write: what was written.
    pub relation: u32,
    pub flags: u16,
    pub values_len: u16,
    /// Of reads like this one, those of one of two to this power keys are kept, where it is shadowed and where it is surveyed.
    pub shadow_shift: u8,
    pub survey_shift: u8,
    /// Hashes of the values, 0 where one is NULL or not known.
    pub values: [u32; VALUES],
}

impl Event {
    pub const EMPTY: Event = Event {
        at: 0,
        queryid: 0,
        key: 0,
        dbid: 0,
        userid: 0,
        elapsed_us: 0,
        rows: 0,
        width: 0,
        relation: 0,
        flags: 0,
        values_len: 0,
        shadow_shift: 0,
        survey_shift: 0,
        values: [0; VALUES],
    };

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

#[repr(C)]
struct StatementSlot {
    /// 0: free.
    dbid: AtomicU32,
    queryid: AtomicU64,
}

#[repr(C)]
struct RelationSlot {
    /// Database in the high half, relation in the low one; 0: free.
    key: AtomicU64,
    /// What the relation is a part of, or itself.
    root: AtomicU32,
}

/// How many keys of one kind of reads are kept. Collectors of all databases see the same loss: one of them reacts.
#[repr(C)]
struct Sampling {
    /// One of two to this power is kept.
    shift: AtomicU32,
    /// Number of the newest event when that last changed, and when it was.
    changed_after: AtomicU64,
    changed_at: AtomicI64,
}

#[repr(C)]
struct Head {
    /// Executions that took longer are of interest, in ns.
    threshold_ns: AtomicU64,
    /// The same, of those that are not shadowed.
    survey_ns: AtomicU64,
    /// Slots in use.
    shadowed: AtomicU32,
    shadow: Sampling,
    survey: Sampling,
    /// Counts changes of what is to be shadowed.
    changes: AtomicU64,
    /// What hashes are keyed with.
    key: [u64; 2],
    statements: [StatementSlot; STATEMENTS],
    relations: [RelationSlot; RELATIONS],
}

const HEAD_BYTES: usize = size_of::<Head>().next_multiple_of(64);

/// Where it all is.
#[derive(Clone, Copy)]
pub struct Reads {
    head: &'static Head,
    ring: Ring<Event>,
}

static READS: ProcessLocal<Option<Reads>> = ProcessLocal::new(None);

/// Asks for the memory; from shmem_request_hook.
pub fn request() {
    // SAFETY: called from shmem_request_hook, where it is allowed.
    unsafe { pg_sys::RequestAddinShmemSpace(HEAD_BYTES + Ring::<Event>::bytes(EVENTS)) };
}

/// Attaches the memory and, the first time, initialises it; from shmem_startup_hook.
pub fn startup() {
    let mut found = false;
    let bytes = HEAD_BYTES + Ring::<Event>::bytes(EVENTS);
    // SAFETY: called from shmem_startup_hook. The area has the size asked for, is aligned to a cache line and never freed;
    // all-zero bytes are valid atomics and numbers, and nobody else sees them before the hook returns.
    unsafe {
        let base: *mut u8 = pg_sys::ShmemInitStruct(NAME.as_ptr(), bytes, &mut found).cast();
        if !found {
            core::ptr::write_bytes(base, 0, bytes);
            let head = base.cast::<Head>();
            (*head).key = [random_u64(), random_u64()];
            (*head).threshold_ns = AtomicU64::new(NEVER);
            (*head).survey_ns = AtomicU64::new(NEVER);
        }
        READS.set(Some(Reads { head: &*base.cast::<Head>(), ring: Ring::at(base.add(HEAD_BYTES), EVENTS) }));
    }
}

/// `None` when the library was not preloaded.
#[inline(always)]
pub fn get() -> Option<&'static Reads> {
    // SAFETY: written once, before any process that reads it exists.
    unsafe { (*READS.as_ptr()).as_ref() }
}

/// Where an execution is of interest that took so long.
#[inline(always)]
pub fn of_interest(elapsed_ns: u64) -> Option<&'static Reads> {
    get().filter(|reads| elapsed_ns >= reads.head.threshold_ns.load(Ordering::Relaxed))
}

impl Reads {
    /// Whether anything is shadowed in the server.
    #[inline(always)]
    pub fn is_shadowing(&self) -> bool {
        self.head.shadowed.load(Ordering::Relaxed) > 0
    }

    /// Whether a read that took so long is to be surveyed.
    pub fn is_surveyed(&self, elapsed_ns: u64) -> bool {
        elapsed_ns >= self.head.survey_ns.load(Ordering::Relaxed)
    }

    pub fn is_shadowed(&self, dbid: u32, queryid: u64) -> bool {
        let is_it = |slot: &StatementSlot| {
            slot.dbid.load(Ordering::Acquire) == dbid && slot.queryid.load(Ordering::Relaxed) == queryid
        };
        self.is_shadowing() && self.head.statements.iter().any(is_it)
    }

    /// Relations of a database whose writes are of interest, with what each is a part of.
    pub fn relations(&self, dbid: u32) -> impl Iterator<Item = (u32, u32)> {
        self.head.relations.iter().filter_map(move |slot| {
            let key = slot.key.load(Ordering::Acquire);
            (key != 0 && key >> 32 == u64::from(dbid)).then(|| (key as u32, slot.root.load(Ordering::Relaxed)))
        })
    }

    /// What a relation is a part of, where its writes are of interest.
    pub fn root_of(&self, dbid: u32, relation: u32) -> Option<u32> {
        self.relations(dbid).find(|(known, _)| *known == relation).map(|(_, root)| root)
    }

    /// Of so many keys, as powers of two, one is kept: of shadowed reads, and of surveyed ones.
    pub fn shifts(&self) -> (u32, u32) {
        (self.head.shadow.shift.load(Ordering::Relaxed), self.head.survey.shift.load(Ordering::Relaxed))
    }

    fn sampling(&self, shadowed: bool) -> &Sampling {
        if shadowed {
            &self.head.shadow
        } else {
            &self.head.survey
        }
    }

    /// Keeps half as many keys as before, of shadowed or of surveyed reads: events up to number `lost` were lost. Not where
    /// that was done since they were.
    pub fn halve(&self, shadowed: bool, lost: u64, now: i64) {
        let sampling = self.sampling(shadowed);
        let before = sampling.changed_after.load(Ordering::Acquire);
        if before < lost && sampling.shift.load(Ordering::Relaxed) < SHIFT_MAX && self.claim(sampling, before, now) {
            sampling.shift.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Keeps twice as many again, of either kind, where few events have come for a while.
    pub fn relax(&self, now: i64) {
        for shadowed in [true, false] {
            let sampling = self.sampling(shadowed);
            let before = sampling.changed_after.load(Ordering::Acquire);
            let elapsed_us = now.saturating_sub(sampling.changed_at.load(Ordering::Relaxed));
            let events = self.newest().saturating_sub(before) as i64;
            let is_quiet = elapsed_us >= QUIET_US && events / (elapsed_us / 1_000_000).max(1) < QUIET_PER_S;
            if sampling.shift.load(Ordering::Relaxed) > 0 && is_quiet && self.claim(sampling, before, now) {
                sampling.shift.fetch_sub(1, Ordering::Relaxed);
            } else if elapsed_us >= QUIET_US && !is_quiet {
                // The next minute may be quiet.
                self.claim(sampling, before, now);
            }
        }
    }

    /// Whether nobody has changed it since `before` was read.
    fn claim(&self, sampling: &Sampling, before: u64, now: i64) -> bool {
        let after = self.newest().max(before + 1);
        let swapped = sampling.changed_after.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed);
        if swapped.is_ok() {
            sampling.changed_at.store(now, Ordering::Relaxed);
        }
        swapped.is_ok()
    }

    /// The hash of a value's text; never 0.
    pub fn hash(&self, value: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        for word in self.head.key {
            hasher.write_u64(word);
        }
        hasher.write(value);
        hasher.finish().max(1)
    }

    /// The hash of a statement and of what `hash` gave for its values.
    pub fn key(&self, queryid: u64, values: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        for word in [self.head.key[0], queryid, values] {
            hasher.write_u64(word);
        }
        hasher.finish()
    }

    pub fn push(&self, event: &Event) {
        self.ring.push(event);
    }

    /// Shows `each` the events after number `after`; the newest number.
    pub fn read(&self, after: u64, mut each: impl FnMut(&Event)) -> u64 {
        self.ring.read(after, |_, event| each(event))
    }

    /// Number of the newest event.
    pub fn newest(&self) -> u64 {
        self.ring.pushed()
    }

    /// Says that what is to be shadowed has changed.
    pub fn note_change(&self) {
        self.head.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes so far.
    pub fn changes(&self) -> u64 {
        self.head.changes.load(Ordering::Acquire)
    }

    /// Sets what is shadowed in a database, and which relations' writes are of interest, with what each is a part of. What
    /// there is no room for is left out; how much that is of each.
    pub fn set(&self, dbid: u32, statements: &[u64], relations: &[(u32, u32)]) -> (usize, usize) {
        for slot in &self.head.statements {
            let is_other = slot.dbid.load(Ordering::Acquire) != dbid;
            if !is_other && !statements.contains(&slot.queryid.load(Ordering::Relaxed)) {
                slot.dbid.store(0, Ordering::Release);
                self.head.shadowed.fetch_sub(1, Ordering::Relaxed);
            }
        }
        for slot in &self.head.relations {
            let key = slot.key.load(Ordering::Acquire);
            if key >> 32 == u64::from(dbid)
                && key != 0
                && !relations.iter().any(|(relation, _)| *relation == key as u32)
            {
                slot.key.store(0, Ordering::Release);
            }
        }
        // Relations first: a read that is put into the ring before the writes of its rows are would be taken for fresh.
        let mut missing = (0, 0);
        for (relation, root) in relations.iter().filter(|(relation, _)| self.root_of(dbid, *relation).is_none()) {
            let claim = |slot: &&RelationSlot| {
                let claimed = u64::from(CLAIMED) << 32;
                slot.key.compare_exchange(0, claimed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            };
            match self.head.relations.iter().find(claim) {
                Some(slot) => {
                    slot.root.store(*root, Ordering::Relaxed);
                    slot.key.store(u64::from(dbid) << 32 | u64::from(*relation), Ordering::Release);
                }
                None => missing.1 += 1,
            }
        }
        for queryid in statements {
            if self.is_shadowed(dbid, *queryid) {
                continue;
            }
            let claim = |slot: &&StatementSlot| {
                slot.dbid.compare_exchange(0, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            };
            match self.head.statements.iter().find(claim) {
                Some(slot) => {
                    slot.queryid.store(*queryid, Ordering::Relaxed);
                    slot.dbid.store(dbid, Ordering::Release);
                    self.head.shadowed.fetch_add(1, Ordering::Relaxed);
                }
                None => missing.0 += 1,
            }
        }
        if !self.is_shadowing() {
            self.head.shadow.shift.store(0, Ordering::Relaxed);
        }
        self.set_threshold(None);
        missing
    }

    /// Sets from when on a read is surveyed, unless that stays as it is, and with it what is of interest.
    pub fn set_threshold(&self, survey_ns: Option<u64>) {
        if let Some(ns) = survey_ns {
            self.head.survey_ns.store(ns, Ordering::Relaxed);
        }
        let threshold = if self.is_shadowing() { 0 } else { self.head.survey_ns.load(Ordering::Relaxed) };
        self.head.threshold_ns.store(threshold, Ordering::Relaxed);
    }
}

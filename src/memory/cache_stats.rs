//! What became of gets and puts of the embedded cache, by database and policy, and which entries were read lately. An area of
//! its own: a table of counters that are claimed once and never given back, and two maps of bits. No lock; nothing here
//! raises. Called by the cache's functions and, to turn the maps and windows over, by the collector.

use core::ffi::CStr;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use perf_core::fnv::fnv1a;
use pgrx::pg_sys;

use crate::pg::local::ProcessLocal;

const NAME: &CStr = c"perf_opt_cache";
/// Policies of all databases that are counted apart; the rest is counted together.
const SLOTS: usize = 512;
/// Bits of a map: with a million entries in use, six of ten have one that no other sets.
const BITS: usize = 1 << 20;
const WORDS: usize = BITS / 64;
/// How long a map is written to, and a window of the hit rate, in microseconds.
const MAP_US: i64 = 600_000_000;
const WINDOW_US: i64 = 300_000_000;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A value was asked for.
    Get,
    /// And there was one.
    Hit,
    /// A value was stored.
    Put,
    /// One was not.
    Refused,
    /// A key, a beginning or a tag was invalidated.
    Invalidation,
    /// An entry had expired.
    Expired,
}

const EVENTS: usize = 6;

/// Counters of a policy in a database.
#[repr(C)]
struct Slot {
    /// Hash of database and name; 0: free.
    key: AtomicU64,
    counters: [AtomicU64; EVENTS],
    /// Gets and hits at the beginnings of the last window and of this one.
    before: [AtomicU64; 2],
    now: [AtomicU64; 2],
}

#[repr(C)]
struct Area {
    slots: [Slot; SLOTS],
    rest: Slot,
    /// Which map is written to: the last bit.
    generation: AtomicU32,
    map_at: AtomicI64,
    window_at: AtomicI64,
    maps: [[AtomicU64; WORDS]; 2],
}

static AREA: ProcessLocal<Option<&'static Area>> = ProcessLocal::new(None);

/// Counts of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`Event`].
    pub counters: [u64; EVENTS],
    /// Gets and hits of the last minutes: of five to ten, where the collector runs.
    pub recent: [u64; 2],
}

impl Counts {
    /// How often something happened.
    pub fn of(&self, event: Event) -> u64 {
        self.counters[event as usize]
    }
}

/// Asks for the memory; from shmem_request_hook.
pub fn request() {
    // SAFETY: called from shmem_request_hook, where it is allowed.
    unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Area>()) };
}

/// Attaches the memory and, the first time, initialises it; from shmem_startup_hook.
pub fn startup() {
    let mut found = false;
    // SAFETY: called from shmem_startup_hook. The area has the size asked for, is aligned to a cache line and never freed;
    // all-zero bytes are valid atomics, and nobody else sees them before the hook returns.
    unsafe {
        let base: *mut Area = pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<Area>(), &mut found).cast();
        if !found {
            core::ptr::write_bytes(base.cast::<u8>(), 0, size_of::<Area>());
        }
        AREA.set(Some(&*base));
    }
}

fn key_of(database: u32, name: &str) -> u64 {
    fnv1a(database.to_le_bytes().into_iter().chain(name.bytes())).max(1)
}

/// The counters of a policy; where none are free, those of the rest.
fn slot(area: &'static Area, key: u64, claims: bool) -> Option<&'static Slot> {
    for n in 0..SLOTS {
        let slot = &area.slots[(key as usize).wrapping_add(n) % SLOTS];
        match slot.key.load(Ordering::Acquire) {
            found if found == key => return Some(slot),
            0 if !claims => return None,
            0 => match slot.key.compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(slot),
                Err(other) if other == key => return Some(slot),
                Err(_) => {}
            },
            _ => {}
        }
    }
    claims.then_some(&area.rest)
}

/// Counts something.
pub fn count(database: u32, name: &str, event: Event, times: u64) {
    if let Some(slot) = AREA.get().and_then(|area| slot(area, key_of(database, name), true)) {
        slot.counters[event as usize].fetch_add(times, Ordering::Relaxed);
    }
}

/// What was counted; `None` where nothing ever was.
pub fn read(database: u32, name: &str) -> Option<Counts> {
    let slot = slot(AREA.get()?, key_of(database, name), false)?;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = core::array::from_fn(|n| load(&slot.counters[n]));
    let recent = core::array::from_fn(|n| load(&slot.counters[n]).saturating_sub(load(&slot.before[n])));
    Some(Counts { counters, recent })
}

/// Whether anything is counted: the library was preloaded.
pub fn is_ready() -> bool {
    AREA.get().is_some()
}

fn bit(database: u32, entry: i64) -> (usize, u64) {
    let hash = (entry as u64 ^ u64::from(database)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    let at = hash as usize % BITS;
    (at / 64, 1 << (at % 64))
}

/// An entry was read.
#[inline]
pub fn mark_used(database: u32, entry: i64) {
    if let Some(area) = AREA.get() {
        let (word, bit) = bit(database, entry);
        let word = &area.maps[area.generation.load(Ordering::Relaxed) as usize % 2][word];
        // Not written again: those who read one entry share its cache line.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }
}

/// Whether an entry was read in this generation of the map, or in the last.
pub fn was_used(database: u32, entry: i64) -> bool {
    let (word, bit) = bit(database, entry);
    AREA.get().is_some_and(|area| area.maps.iter().any(|map| map[word].load(Ordering::Relaxed) & bit != 0))
}

/// Begins a new map and a new window where the last is old enough. Collectors of several databases may call it: one of them
/// does it.
pub fn turn_over(now: i64) {
    let Some(area) = AREA.get() else { return };
    let is_mine = |at: &AtomicI64, every: i64| {
        let last = at.load(Ordering::Relaxed);
        (now - last).abs() >= every && at.compare_exchange(last, now, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    };
    if is_mine(&area.map_at, MAP_US) {
        let next = area.generation.load(Ordering::Relaxed).wrapping_add(1);
        area.maps[next as usize % 2].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        area.generation.store(next, Ordering::Relaxed);
    }
    if is_mine(&area.window_at, WINDOW_US) {
        for slot in area.slots.iter().chain([&area.rest]) {
            for n in 0..2 {
                slot.before[n].store(slot.now[n].load(Ordering::Relaxed), Ordering::Relaxed);
                slot.now[n].store(slot.counters[n].load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}

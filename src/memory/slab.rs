//! A slab for each backend: the statements it runs again and again, counted where no other backend looks. Executions
//! of a statement that is not in the slab go to the table directly; the second in a row brings the statement in.
//! What a slab counts of a top-level statement is also what its application did (see `applications`): a slot counts under
//! one of the backend's identities, and whoever empties the slot adds it up for that one.
//!
//! Locks: the slab's owner word. Its backend takes it for each execution, a reader to empty the slab; neither does
//! more than copy memory while holding it. A backend that finds it taken records in the table instead of waiting.
//! Readers hold the `drain` lock while they empty slabs, so that what one of them carries from a slab to the table is
//! there before the next one reads the table.

use super::statements::{self, bucket_of, Counters, Execution, Key, Recorded, Source};
use super::{applications, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::lwlock::LwLockGuard;
use core::sync::atomic::{AtomicU32, Ordering};
use perf_core::histogram::{Octaves, BUCKETS};
use pgrx::pg_sys;
use std::time::{Duration, Instant};

const ENTRIES: usize = 16;
/// Statements remembered by the backend to see that one comes again: sets of a few, so that the statements of one
/// transaction do not push each other out.
const SEEN_SETS: usize = 32;
const SEEN_WAYS: usize = 4;
/// Execution time that a slot may keep from the table: what is worth keeping there is judged by its time.
const PENDING_NS: u64 = 10_000_000;
/// How long a reader tries to get a slab whose backend was stopped in the middle of an execution's few stores.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

#[repr(C)]
struct Slot {
    counters: Counters,
    /// Where `histogram` has counts.
    octaves: Octaves,
    /// Executions a latency bucket; the slot is handed over when one is full. All zeros in a slot that is not in use.
    histogram: [u8; BUCKETS],
}

#[repr(C, align(64))]
pub struct Slab {
    /// 0 free, 1 taken.
    owner: AtomicU32,
    /// A bit for each slot in use.
    used: AtomicU32,
    dbid: u32,
    clock: u32,
    /// Where a statement was found last, by the low bits of its queryid.
    hints: [u8; ENTRIES],
    /// A byte of each slot's queryid, to search all slots at once.
    tags: [u8; ENTRIES],
    queryids: [u64; ENTRIES],
    /// User, top level and number of the identity counted under, in one word to compare.
    users: [u64; ENTRIES],
    ticks: [u32; ENTRIES],
    slots: [Slot; ENTRIES],
}

/// Where the slabs are: one for each possible backend.
#[derive(Clone, Copy)]
pub struct Slabs {
    base: *mut Slab,
    count: usize,
}

impl Slabs {
    pub fn bytes(backends: usize) -> usize {
        backends * size_of::<Slab>()
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64.
    pub unsafe fn at(base: *mut u8, backends: usize) -> Slabs {
        Slabs { base: base.cast(), count: backends }
    }

    /// # Safety
    /// The index is below `count`.
    unsafe fn slab(&self, index: usize) -> *mut Slab {
        // SAFETY: as the caller vouches.
        unsafe { self.base.add(index) }
    }
}

/// What this process knows of its slab.
struct Mine {
    slab: *mut Slab,
    /// Its place among all slabs.
    index: usize,
    seen: [[u64; SEEN_WAYS]; SEEN_SETS],
}

impl Mine {
    /// Whether this statement was seen lately; from now on it was.
    #[inline]
    fn saw(&mut self, queryid: u64, users: u64) -> bool {
        let tag = (queryid ^ users).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = &mut self.seen[(tag >> 59) as usize % SEEN_SETS];
        if set.contains(&tag) {
            return true;
        }
        set.copy_within(..SEEN_WAYS - 1, 1);
        set[0] = tag;
        false
    }
}

static MINE: ProcessLocal<Mine> =
    ProcessLocal::new(Mine { slab: core::ptr::null_mut(), index: 0, seen: [[0; SEEN_WAYS]; SEEN_SETS] });

/// Owns a slab until dropped.
struct Owned(*mut Slab);

impl Owned {
    #[inline(always)]
    fn try_take(slab: *mut Slab) -> Option<Owned> {
        // SAFETY: slabs live in shared memory for ever; `owner` is only accessed as an atomic.
        let owner = unsafe { &(*slab).owner };
        owner.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| Owned(slab))
    }

    #[inline(always)]
    fn slab(&mut self) -> &mut Slab {
        // SAFETY: the owner word is ours, and nobody touches the rest without it, but for atomics read for a hint.
        unsafe { &mut *self.0 }
    }
}

impl Drop for Owned {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as in `try_take`.
        unsafe { (*self.0).owner.store(0, Ordering::Release) };
    }
}

/// Binds this backend, the `index`-th of the server, to its slab.
pub fn attach(memory: &Memory, index: usize) {
    // SAFETY: a plain read of a process global.
    let dbid = unsafe { pg_sys::MyDatabaseId }.to_u32();
    if index >= memory.slabs.count {
        return;
    }
    // SAFETY: the index was just checked.
    let slab = unsafe { memory.slabs.slab(index) };
    // Whoever had this slab before emptied it when it left; what a process that could not do so left behind goes now.
    drain(memory, index, &mut Buffer::new());
    let Some(mut owned) = Owned::try_take(slab) else { return };
    // What could not be emptied belongs to another database: this backend does without.
    if owned.slab().used.load(Ordering::Relaxed) != 0 {
        return;
    }
    owned.slab().dbid = dbid;
    drop(owned);
    // SAFETY: the pointer is this process's own.
    let mine = unsafe { &mut *MINE.as_ptr() };
    mine.slab = slab;
    mine.index = index;
}

/// Counts one execution of a statement, and of its application.
#[inline(always)]
pub fn record(memory: &Memory, key: &Key, execution: &Execution, source: &impl Source) -> Recorded {
    // SAFETY: process-local, and no hook runs inside this function.
    let mine = unsafe { &mut *MINE.as_ptr() };
    let users =
        user_word(key) | if key.toplevel { applications::number(memory, key.userid) << NUMBER_SHIFT } else { 0 };
    if mine.slab.is_null() {
        return record_in_table(memory, key, execution, source);
    }
    if let Some(mut owned) = Owned::try_take(mine.slab) {
        let slab = owned.slab();
        if let Some(index) = slab.find(key.queryid, users) {
            let bucket = bucket_of(execution);
            if !slab.has_room(index, bucket) {
                drop(owned);
                hand_over(memory, mine.slab, index);
                return record_in_table(memory, key, execution, source);
            }
            let full = slab.add(index, execution, bucket);
            drop(owned);
            if full {
                hand_over(memory, mine.slab, index);
            }
            return Recorded::Kept;
        }
    }
    let recorded = record_in_table(memory, key, execution, source);
    if recorded != Recorded::Folded && mine.saw(key.queryid, users) {
        admit(memory, mine.slab, key, users);
    }
    recorded
}

/// Counts one execution of a statement, and of its application, past the slab.
#[inline(never)]
pub fn record_in_table(memory: &Memory, key: &Key, execution: &Execution, source: &impl Source) -> Recorded {
    if key.toplevel {
        applications::count_statement(memory, key.userid, execution);
    }
    statements::record(memory, key, execution, source)
}

/// Where a user word has the number of the identity.
const NUMBER_SHIFT: u32 = 33;

#[inline(always)]
fn user_word(key: &Key) -> u64 {
    u64::from(key.userid) << 1 | u64::from(key.toplevel)
}

#[inline(always)]
fn tag_of(queryid: u64) -> u8 {
    (queryid >> 56) as u8
}

/// Indexes of the bytes that are `tag`, and perhaps some that are not.
#[inline(always)]
fn candidates(tags: &[u8; ENTRIES], tag: u8) -> impl Iterator<Item = usize> {
    const ONES: u128 = u128::from_le_bytes([1; ENTRIES]);
    let different = u128::from_le_bytes(*tags) ^ (ONES * u128::from(tag));
    // The highest bit of each byte that is zero: a byte that is not has it only behind one that is.
    let mut equal = different.wrapping_sub(ONES) & !different & (ONES << 7);
    core::iter::from_fn(move || {
        let bit = (equal != 0).then(|| equal.trailing_zeros())?;
        equal &= equal - 1;
        Some(bit as usize / 8)
    })
}

impl Slab {
    #[inline(always)]
    fn find(&mut self, queryid: u64, users: u64) -> Option<usize> {
        let used = self.used.load(Ordering::Relaxed);
        let likely = usize::from(self.hints[queryid as usize % ENTRIES]) % ENTRIES;
        if used & (1 << likely) != 0 && self.queryids[likely] == queryid && self.users[likely] == users {
            return Some(likely);
        }
        self.search(used, queryid, users)
    }

    /// Looks at all slots.
    #[inline(never)]
    fn search(&mut self, used: u32, queryid: u64, users: u64) -> Option<usize> {
        let is =
            |index: usize| used & (1 << index) != 0 && self.queryids[index] == queryid && self.users[index] == users;
        let found = candidates(&self.tags, tag_of(queryid)).find(|&index| is(index))?;
        self.hints[queryid as usize % ENTRIES] = found as u8;
        Some(found)
    }

    /// Whether a slot can count one more execution of this latency. One that is full stays so when a reader had the slab
    /// at the moment it was to be handed over.
    #[inline(always)]
    fn has_room(&self, index: usize, bucket: usize) -> bool {
        self.slots[index].histogram[bucket] < u8::MAX
    }

    /// Adds an execution to a slot; true when the slot cannot take another one of this latency, or has so much time that
    /// the table should know of it.
    #[inline(always)]
    fn add(&mut self, index: usize, execution: &Execution, bucket: usize) -> bool {
        self.clock = self.clock.wrapping_add(1);
        self.ticks[index] = self.clock;
        let slot = &mut self.slots[index];
        slot.counters.record(execution);
        if execution.calls == 0 {
            return false;
        }
        slot.octaves.insert(bucket);
        let count = &mut slot.histogram[bucket];
        *count += 1;
        *count == u8::MAX || slot.counters.total_ns > PENDING_NS
    }

    fn key(&self, index: usize) -> Key {
        let users = self.users[index];
        Key { queryid: self.queryids[index], dbid: self.dbid, userid: (users >> 1) as u32, toplevel: users & 1 != 0 }
    }

    /// Copies a slot out and leaves it as `after` says.
    fn take(&mut self, index: usize, buffer: &mut Buffer, after: After) {
        buffer.key = self.key(index);
        let slot = &mut self.slots[index];
        buffer.counters = slot.counters;
        buffer.octaves = core::mem::take(&mut slot.octaves);
        buffer.octaves.move_small(&mut slot.histogram, &mut buffer.histogram);
        slot.counters = Counters::default();
        if after == After::Free {
            self.used.fetch_and(!(1 << index), Ordering::Relaxed);
        }
    }

    /// The identity that a slot counts under; none of a statement that no client sent.
    fn number(&self, index: usize) -> Option<usize> {
        let users = self.users[index];
        (users & 1 != 0).then_some((users >> NUMBER_SHIFT) as usize)
    }

    /// As [`take`](Self::take), for this backend's own slab: what the application did is added to its area on the way, so
    /// that a reader finds it there or here.
    fn take_own(&mut self, index: usize, buffer: &mut Buffer, after: After) {
        self.take(index, buffer, after);
        if let Some(number) = self.number(index) {
            applications::add_own(number, &buffer.counters, &buffer.histogram, buffer.octaves);
        }
    }
}

#[derive(PartialEq, Clone, Copy)]
enum After {
    Keep,
    Free,
}

/// One slot on its way to the table.
struct Buffer {
    key: Key,
    counters: Counters,
    octaves: Octaves,
    histogram: [u8; BUCKETS],
}

impl Buffer {
    fn new() -> Buffer {
        Buffer {
            key: Key::default(),
            counters: Counters::default(),
            octaves: Octaves::default(),
            histogram: [0; BUCKETS],
        }
    }

    /// False when the statement has lost its entry in the table.
    fn merge(&mut self, memory: &Memory) -> bool {
        // Not only calls and plans count: a cursor's later rows and a late failure come without either.
        if self.counters.last_seen == 0 {
            return true;
        }
        let found = statements::merge(memory, &self.key, &self.counters, &self.histogram, self.octaves);
        // The next slot's counts are moved in, not added.
        self.histogram = [0; BUCKETS];
        found
    }
}

/// Moves a slot's counts to the table and keeps the slot; but when the statement has lost its entry, the slot goes too,
/// so that its next execution, which knows its text, makes a new one.
#[cold]
fn hand_over(memory: &Memory, slab: *mut Slab, index: usize) {
    let mut buffer = Buffer::new();
    let Some(mut owned) = Owned::try_take(slab) else { return };
    if owned.slab().used.load(Ordering::Relaxed) & (1 << index) != 0 {
        owned.slab().take_own(index, &mut buffer, After::Keep);
    }
    drop(owned);
    if !buffer.merge(memory) {
        forget(memory, slab, index);
    }
}

/// Takes a slot out of use. Nobody but a reader that empties it can have touched it meanwhile.
fn forget(memory: &Memory, slab: *mut Slab, index: usize) {
    let mut rest = Buffer::new();
    let Some(mut owned) = Owned::try_take(slab) else { return };
    if owned.slab().used.load(Ordering::Relaxed) & (1 << index) != 0 {
        owned.slab().take_own(index, &mut rest, After::Free);
    }
    drop(owned);
    rest.merge(memory);
}

/// Makes room for a statement in the slab.
#[cold]
fn admit(memory: &Memory, slab: *mut Slab, key: &Key, users: u64) {
    let mut buffer = Buffer::new();
    let Some(mut owned) = Owned::try_take(slab) else { return };
    let slab = owned.slab();
    let used = slab.used.load(Ordering::Relaxed);
    let index = match (0..ENTRIES).find(|index| used & (1 << index) == 0) {
        Some(free) => free,
        None => {
            // Ticks wrap around; the distance from now does not.
            let oldest = (0..ENTRIES).max_by_key(|&index| slab.clock.wrapping_sub(slab.ticks[index])).unwrap_or(0);
            slab.take_own(oldest, &mut buffer, After::Free);
            oldest
        }
    };
    slab.queryids[index] = key.queryid;
    slab.tags[index] = tag_of(key.queryid);
    slab.users[index] = users;
    slab.ticks[index] = slab.clock;
    slab.hints[key.queryid as usize % ENTRIES] = index as u8;
    slab.used.fetch_or(1 << index, Ordering::Relaxed);
    drop(owned);
    buffer.merge(memory);
}

/// Runs `change` while this backend owns its slab; false when a reader does not let go of it.
pub fn while_owned(change: impl FnOnce()) -> bool {
    // SAFETY: process-local.
    let slab = unsafe { (*MINE.as_ptr()).slab };
    if slab.is_null() {
        change();
        return true;
    }
    let owned = take_soon(slab);
    if owned.is_some() {
        change();
    }
    owned.is_some()
}

/// Empties this backend's slots that count under an identity; false when a reader does not let go of the slab.
pub fn empty_number(memory: &Memory, number: usize) -> bool {
    // SAFETY: process-local.
    let slab = unsafe { (*MINE.as_ptr()).slab };
    if slab.is_null() {
        return true;
    }
    let mut buffer = Buffer::new();
    for index in 0..ENTRIES {
        let Some(mut owned) = take_soon(slab) else { return false };
        let slab = owned.slab();
        let is_used = slab.used.load(Ordering::Relaxed) & (1 << index) != 0;
        if is_used && slab.number(index) == Some(number) {
            slab.take_own(index, &mut buffer, After::Free);
            drop(owned);
            buffer.merge(memory);
        }
    }
    true
}

/// Moves all that a slab holds to the table.
fn drain(memory: &Memory, backend: usize, buffer: &mut Buffer) {
    // SAFETY: the callers' indexes are below the number of slabs.
    let slab = unsafe { memory.slabs.slab(backend) };
    // SAFETY: slabs live for ever; an atomic read for a hint.
    let mut used = unsafe { (*slab).used.load(Ordering::Acquire) };
    while used != 0 {
        let index = used.trailing_zeros() as usize;
        used &= used - 1;
        let Some(mut owned) = take_patiently(slab) else {
            memory.header().drain_timeouts.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if owned.slab().used.load(Ordering::Relaxed) & (1 << index) == 0 {
            continue;
        }
        // SAFETY: the slab is owned, so its backend does not give the number to another identity.
        let identity =
            owned.slab().number(index).map(|number| unsafe { applications::identity(memory, backend, number) });
        owned.slab().take(index, buffer, After::Free);
        drop(owned);
        if let Some(identity) = identity {
            applications::add(memory, &identity, &buffer.counters, &buffer.histogram, buffer.octaves);
        }
        buffer.merge(memory);
    }
}

/// Waits no longer than a reader that runs takes.
fn take_soon(slab: *mut Slab) -> Option<Owned> {
    for _ in 0..1000 {
        if let Some(owned) = Owned::try_take(slab) {
            return Some(owned);
        }
        core::hint::spin_loop();
    }
    None
}

fn take_patiently(slab: *mut Slab) -> Option<Owned> {
    if let Some(owned) = take_soon(slab) {
        return Some(owned);
    }
    let give_up = Instant::now() + DRAIN_PATIENCE;
    while Instant::now() < give_up {
        if let Some(owned) = Owned::try_take(slab) {
            return Some(owned);
        }
        std::thread::yield_now();
    }
    None
}

/// Moves what all backends hold to the table, so that it is exact for every statement that has finished.
pub fn drain_all(memory: &Memory) {
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.drain_lock()) };
    let mut buffer = Buffer::new();
    (0..memory.slabs.count).for_each(|backend| drain(memory, backend, &mut buffer));
}

/// Moves what this backend holds to the table; when it leaves. Under the drain lock, because its statements have been
/// answered: a reader must not find them in neither place.
pub fn detach(memory: &Memory) {
    // SAFETY: process-local.
    let mine = unsafe { &mut *MINE.as_ptr() };
    if !mine.slab.is_null() {
        // SAFETY: a valid lock that this process does not hold; nothing below raises.
        let _guard = unsafe { LwLockGuard::exclusive(memory.drain_lock()) };
        drain(memory, mine.index, &mut Buffer::new());
        mine.slab = core::ptr::null_mut();
    }
}

//! What each application did, by database, role and `application_name`. A backend counts in an area of its own, where
//! nobody else writes, under the few identities it had last; what it counted under an identity moves to a fixed table
//! when the identity makes way for another or the backend ends. Statements that a slab counts come from there when it is
//! emptied: to the backend's area when it does that itself, to the table when a reader does. Readers empty the slabs first
//! and add up the rest, so nothing is lost or counted twice.
//! Called by capture for every transaction, by slabs, and by whoever answers for applications.
//!
//! Locks: the `applications` lock, exclusively to give a slot another identity and to move counts, shared to read. It is
//! not taken to count: counts are single words that only their backend writes. An identity changes only while its
//! backend owns its slab as well, so that whoever owns the slab may read it. To forget counts, a mark is put on a
//! backend's slot, which readers then skip, and which the backend empties before it counts in it again.

mod table;

pub use table::ENTRIES;

use super::{get_ref, slab, HealthRow, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::lwlock::LwLockGuard;
use crate::pg::raw;
use core::ffi::{c_char, CStr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use perf_core::counters::{Counters, Execution};
use perf_core::histogram::{bucket_of_ns, Histogram, Octaves, BUCKETS};
use pgrx::pg_sys;
use std::collections::BTreeMap;
use table::{Table, OTHERS};

/// Identities that a backend counts under at the same time: what a pooled connection changes between, in one transaction.
const SLOTS: usize = 4;
const NAME: usize = 64;

/// What is counted.
#[derive(Clone, Copy)]
enum Counter {
    Statements,
    Failures,
    StatementNs,
    Transactions,
    RolledBack,
    Writing,
    WritingNs,
}

const COUNTERS: usize = Counter::WritingNs as usize + 1;

/// Counts that lie still: in the table, or on their way to a reader.
#[repr(C)]
#[derive(Clone)]
struct Counts {
    counters: [u64; COUNTERS],
    latency: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Counts { counters: [0; COUNTERS], latency: Histogram::default() }
    }
}

impl Counts {
    /// What a slab counted of a statement.
    fn of_statement(counters: &Counters, histogram: &[u8; BUCKETS], octaves: Octaves) -> Counts {
        let mut counts = Counts::default();
        counts.counters[Counter::Statements as usize] = counters.calls;
        counts.counters[Counter::Failures as usize] = counters.failures;
        counts.counters[Counter::StatementNs as usize] = counters.total_ns;
        counts.latency.merge_small(histogram, octaves);
        counts
    }

    fn merge(&mut self, other: &Counts) {
        for (mine, theirs) in self.counters.iter_mut().zip(other.counters) {
            *mine = mine.saturating_add(theirs);
        }
        self.latency.merge(&other.latency);
    }

    /// What a newcomer must have more of to take another's place.
    fn weight(&self) -> u64 {
        self.counters[Counter::Statements as usize].saturating_add(self.counters[Counter::Transactions as usize])
    }
}

/// Who did it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    dbid: u32,
    userid: u32,
    /// Up to the first zero. The server lets nothing but ASCII into it.
    name: [u8; NAME],
}

impl Identity {
    /// Of a role in this session, with the name it has now.
    fn of_session(userid: u32) -> Identity {
        // SAFETY: a plain read of a process global.
        let dbid = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let mut identity = Identity { dbid, userid, name: [0; NAME] };
        let name = current_name();
        identity.name[..name.len()].copy_from_slice(name);
        identity
    }

    /// Applications there is no room for.
    fn other(dbid: u32) -> Identity {
        let mut identity = Identity { dbid, userid: OTHER_ROLE, name: [0; NAME] };
        identity.name[..OTHER.len()].copy_from_slice(OTHER.as_bytes());
        identity
    }

    fn name(&self) -> String {
        let len = self.name.iter().position(|&byte| byte == 0).unwrap_or(NAME);
        String::from_utf8_lossy(&self.name[..len]).into_owned()
    }
}

/// The name of what sums up applications there is no room for.
pub const OTHER: &str = "(other)";
/// Its role, which is nobody's.
pub const OTHER_ROLE: u32 = 0;

/// What a backend counts under one identity.
#[repr(C, align(64))]
struct Slot {
    /// 1 when it has an identity.
    used: AtomicU32,
    /// 1 when what it has is to be forgotten.
    forget: AtomicU32,
    /// Written by its backend under the lock.
    identity: Identity,
    counters: [AtomicU64; COUNTERS],
    latency: [AtomicU32; BUCKETS],
}

impl Slot {
    /// Only the slot's backend may.
    #[inline(always)]
    fn add(&self, counter: Counter, value: u64) {
        let word = &self.counters[counter as usize];
        word.store(word.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }

    /// Only the slot's backend may.
    #[inline(always)]
    fn add_latency(&self, bucket: usize, count: u32) {
        let word = &self.latency[bucket];
        word.store(word.load(Ordering::Relaxed).saturating_add(count), Ordering::Relaxed);
    }

    /// Only the slot's backend may; or whoever has the place of a backend that is gone.
    fn clear(&self) {
        self.counters.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.latency.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.forget.store(0, Ordering::Release);
    }

    /// Whether what it has counts: it has an identity, and is not to forget.
    fn counts(&self) -> bool {
        self.used.load(Ordering::Acquire) != 0 && self.forget.load(Ordering::Acquire) == 0
    }

    /// `None` when it has nothing that counts.
    fn copy(&self) -> Option<Counts> {
        if !self.counts() {
            return None;
        }
        let mut counts = Counts::default();
        for (to, from) in counts.counters.iter_mut().zip(&self.counters) {
            *to = from.load(Ordering::Relaxed);
        }
        for (to, from) in counts.latency.counts.iter_mut().zip(&self.latency) {
            *to = from.load(Ordering::Relaxed);
        }
        (counts.counters != [0; COUNTERS]).then_some(counts)
    }
}

#[repr(C)]
struct Area {
    slots: [Slot; SLOTS],
}

/// Where it all is.
#[derive(Clone, Copy)]
pub struct Applications {
    table: *mut Table,
    areas: *mut Area,
    count: usize,
}

const TABLE_BYTES: usize = size_of::<Table>().next_multiple_of(64);

impl Applications {
    pub fn bytes(backends: usize) -> usize {
        TABLE_BYTES + backends * size_of::<Area>()
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64.
    pub unsafe fn at(base: *mut u8, backends: usize) -> Applications {
        // SAFETY: the areas follow the table inside of what the caller vouches for.
        Applications { table: base.cast(), areas: unsafe { base.add(TABLE_BYTES) }.cast(), count: backends }
    }

    /// All slots of all backends.
    fn slots(&self) -> impl Iterator<Item = *mut Slot> + '_ {
        // SAFETY: indexes below `count` and SLOTS; only pointers are made.
        (0..self.count * SLOTS).map(|index| unsafe { self.areas.cast::<Slot>().add(index) })
    }
}

/// What this process knows of its area.
struct Mine {
    area: *mut Area,
    current: *mut Slot,
    /// The number of `current`, and of whom it is. The name as the server shows it to others: always at the same place, which
    /// follows the setting at once, however that changes. Behind its end are remains, which only make a name look new.
    number: usize,
    userid: u32,
    name: [u8; NAME],
    /// Changes of identity so far, and when each slot was turned to last.
    clock: u64,
    ticks: [u64; SLOTS],
}

static MINE: ProcessLocal<Mine> = ProcessLocal::new(Mine {
    area: core::ptr::null_mut(),
    current: core::ptr::null_mut(),
    number: 0,
    userid: 0,
    name: [0; NAME],
    clock: 0,
    ticks: [0; SLOTS],
});

#[inline(always)]
fn mine() -> &'static mut Mine {
    // SAFETY: process-local; nothing in this module calls back into capture.
    unsafe { &mut *MINE.as_ptr() }
}

/// Binds this backend, the `index`-th of the server, to its area.
pub fn attach(memory: &Memory, index: usize) {
    if index >= memory.applications.count {
        return;
    }
    // SAFETY: the index was just checked.
    let area = unsafe { memory.applications.areas.add(index) };
    // Whoever had this area before emptied it when it left; what a process that could not do so left behind goes now.
    empty(memory, area);
    mine().area = area;
}

/// Moves what this backend counted to the table; when it leaves.
pub fn detach(memory: &Memory) {
    let mine = mine();
    if !mine.area.is_null() {
        empty(memory, mine.area);
        mine.area = core::ptr::null_mut();
        mine.current = core::ptr::null_mut();
        mine.userid = 0;
    }
}

fn empty(memory: &Memory, area: *mut Area) {
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.applications_lock()) };
    for index in 0..SLOTS {
        // SAFETY: the area belongs to this backend, and the lock keeps readers away.
        move_to_table(memory, unsafe { &raw mut (*area).slots[index] });
    }
}

/// Counts a top-level statement of a role, or the rest of one that was counted already.
pub fn count_statement(memory: &Memory, userid: u32, execution: &Execution) {
    let Some(slot) = current(memory, userid) else { return };
    slot.add(Counter::StatementNs, execution.elapsed_ns);
    if execution.calls > 0 {
        slot.add(Counter::Statements, execution.calls);
        slot.add_latency(bucket_of_ns(execution.elapsed_ns), 1);
    }
    if execution.failed {
        slot.add(Counter::Failures, 1);
    }
}

/// Counts a transaction, for whoever ran the last statement that was counted.
#[inline]
pub fn count_transaction(memory: &Memory, statement_ns: u64, writes: bool, rolled_back: bool) {
    // SAFETY: NULL or this backend's own slot; slots live for ever.
    let known = unsafe { mine().current.as_ref() }.filter(|slot| slot.forget.load(Ordering::Relaxed) == 0);
    let Some(slot) = known.or_else(|| turn_to(memory, None)) else { return };
    slot.add(Counter::Transactions, 1);
    if writes {
        slot.add(Counter::Writing, 1);
        slot.add(Counter::WritingNs, statement_ns);
    }
    if rolled_back {
        slot.add(Counter::RolledBack, 1);
    }
}

/// The number of the identity that a role's statements count under now: a slab's are kept apart by it.
#[inline(always)]
pub fn number(memory: &Memory, userid: u32) -> u64 {
    if !mine().is_still(userid) {
        turn_to(memory, Some(userid));
    }
    mine().number as u64
}

impl Mine {
    /// Whether a role's statements count where the ones before did.
    #[inline(always)]
    fn is_still(&self, userid: u32) -> bool {
        self.userid == userid && shown_name().is_some_and(|name| *name == self.name)
    }
}

/// The slot to count in: the one of before, if role and application are those of before.
fn current(memory: &Memory, userid: u32) -> Option<&'static Slot> {
    let mine = mine();
    if mine.is_still(userid) {
        // SAFETY: NULL or this backend's own slot; slots live for ever.
        if let Some(slot) = unsafe { mine.current.as_ref() }.filter(|slot| slot.forget.load(Ordering::Relaxed) == 0) {
            return Some(slot);
        }
    }
    turn_to(memory, Some(userid))
}

/// Adds what this backend's slab counted of a statement to the identity that it counted it under. The slab is owned.
pub fn add_own(number: usize, counters: &Counters, histogram: &[u8; BUCKETS], octaves: Octaves) {
    // SAFETY: NULL or this backend's own area; areas live for ever.
    let Some(slot) = unsafe { mine().area.as_ref() }.and_then(|area| area.slots.get(number)) else { return };
    if slot.forget.load(Ordering::Acquire) != 0 {
        slot.clear();
    }
    slot.add(Counter::Statements, counters.calls);
    slot.add(Counter::Failures, counters.failures);
    slot.add(Counter::StatementNs, counters.total_ns);
    octaves.each_small(histogram, |bucket, count| slot.add_latency(bucket, count));
}

/// Adds what some backend's slab counted of a statement to the table.
pub fn add(memory: &Memory, identity: &Identity, counters: &Counters, histogram: &[u8; BUCKETS], octaves: Octaves) {
    let counts = Counts::of_statement(counters, histogram, octaves);
    if counts.counters == [0; COUNTERS] {
        return;
    }
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.applications_lock()) };
    // SAFETY: the lock makes this process the only one to touch the table.
    unsafe { &mut *memory.applications.table }.add(identity, &counts);
}

/// The identity that a number stands for in a backend's slab.
///
/// # Safety
/// The caller owns the slab, and one of its slots has the number.
pub unsafe fn identity(memory: &Memory, backend: usize, number: usize) -> Identity {
    // SAFETY: there is an area for each slab; its backend writes identities only while it owns the slab.
    unsafe { (*memory.applications.areas.add(backend)).slots[number % SLOTS].identity }
}

/// What others see as this session's name; None in a process that shows nothing of itself.
#[inline(always)]
fn shown_name() -> Option<&'static [u8; NAME]> {
    const { assert!(NAME == pg_sys::NAMEDATALEN as usize) };
    // SAFETY: NULL or this process's entry, whose name has NAMEDATALEN bytes; only this process writes it.
    unsafe { pg_sys::MyBEEntry.as_ref().and_then(|entry| entry.st_appname.cast::<[u8; NAME]>().as_ref()) }
}

#[inline(always)]
fn application_name() -> *const c_char {
    // SAFETY: a plain read of a setting's variable.
    let name = unsafe { pg_sys::application_name };
    if name.is_null() {
        c"".as_ptr()
    } else {
        name
    }
}

/// The name this session has now, cut to what is kept of names.
pub fn current_name() -> &'static [u8] {
    // SAFETY: NUL-terminated; used by the caller before the setting can change.
    let name = unsafe { CStr::from_ptr(application_name()) }.to_bytes();
    &name[..name.len().min(NAME - 1)]
}

/// Turns to the slot of an identity, giving it the one turned to longest ago if it has none; without a role, to the one
/// turned to last, or that of who runs now.
#[cold]
fn turn_to(memory: &Memory, userid: Option<u32>) -> Option<&'static Slot> {
    let mine = mine();
    if mine.area.is_null() {
        return None;
    }
    // SAFETY: NULL or this backend's own slot.
    let identity = match (userid, unsafe { mine.current.as_ref() }) {
        (None, Some(slot)) => slot.identity,
        // SAFETY: a plain read of the process's state.
        (None, None) => Identity::of_session(unsafe { raw::GetUserId() }.to_u32()),
        (Some(userid), _) => Identity::of_session(userid),
    };
    // SAFETY: this backend's own area, whose identities it alone writes; areas live for ever.
    let index = match find(unsafe { &*mine.area }, &identity, &mine.ticks) {
        Ok(known) => known,
        Err(place) if give(memory, mine.area, place, &identity) => place,
        // A reader was stopped while it held the slab: the one before goes on counting until the next statement.
        // SAFETY: NULL or this backend's own slot.
        Err(_) => return unsafe { mine.current.as_ref() },
    };
    // SAFETY: as above.
    let slot = unsafe { &(*mine.area).slots[index] };
    if slot.forget.load(Ordering::Acquire) != 0 {
        slot.clear();
    }
    mine.clock += 1;
    mine.ticks[index] = mine.clock;
    mine.current = core::ptr::from_ref(slot).cast_mut();
    mine.number = index;
    if userid.is_some() {
        mine.userid = identity.userid;
        if let Some(name) = shown_name() {
            mine.name = *name;
        }
    }
    Some(slot)
}

/// Gives a slot of this backend to another identity, after emptying what its slab counts for the one before; false when a
/// reader does not let go of the slab.
fn give(memory: &Memory, area: *mut Area, place: usize, identity: &Identity) -> bool {
    // SAFETY: the area is this backend's own; areas live for ever.
    let slot = unsafe { &raw mut (*area).slots[place] };
    // SAFETY: as above.
    let was_used = unsafe { (*slot).used.load(Ordering::Relaxed) } != 0;
    if was_used && !slab::empty_number(memory, place) {
        return false;
    }
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.applications_lock()) };
    let change = || {
        move_to_table(memory, slot);
        // SAFETY: the slot is this backend's own, and the lock and the owned slab keep readers away.
        unsafe {
            (*slot).identity = *identity;
            (*slot).used.store(1, Ordering::Release);
        }
    };
    // Nothing in the slab has the number of a slot that was not in use.
    if was_used {
        return slab::while_owned(change);
    }
    change();
    true
}

/// The slot of an identity, or else the one to give it: a free one, or the one turned to longest ago.
fn find(area: &Area, identity: &Identity, ticks: &[u64; SLOTS]) -> Result<usize, usize> {
    let used = |slot: &Slot| slot.used.load(Ordering::Relaxed) != 0;
    let known = area.slots.iter().position(|slot| used(slot) && slot.identity == *identity);
    let free = || area.slots.iter().position(|slot| !used(slot));
    let oldest = || (0..SLOTS).min_by_key(|&index| ticks[index]).unwrap_or(0);
    known.ok_or_else(|| free().unwrap_or_else(oldest))
}

/// Adds what a slot has to the table and takes it out of use. The caller holds the lock exclusively, and the slot is its
/// own.
fn move_to_table(memory: &Memory, slot: *mut Slot) {
    // SAFETY: as the caller vouches; slots live for ever.
    let slot = unsafe { &*slot };
    if let Some(counts) = slot.copy() {
        // SAFETY: the lock makes this process the only one to touch the table.
        unsafe { &mut *memory.applications.table }.add(&slot.identity, &counts);
    }
    slot.used.store(0, Ordering::Release);
    slot.clear();
}

/// What one application did in one database as one role since the server started.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// OID of the database.
    pub dbid: u32,
    /// OID of the role; 0 in the row "(other)", of which there is one for each database at most, and one without a database.
    pub userid: u32,
    /// `application_name`; empty when the client gave none. "(other)" sums up those there was no room for.
    pub name: String,
    /// Top-level statements, failed ones included.
    pub statements: u64,
    /// Top-level statements that failed.
    pub failures: u64,
    /// Time in top-level statements.
    pub statement_ns: u64,
    /// Latencies of top-level statements.
    pub latency: Histogram,
    /// Transactions that ended.
    pub transactions: u64,
    /// Transactions rolled back.
    pub rolled_back: u64,
    /// Transactions that were given a transaction id: they wrote, or locked rows.
    pub writing: u64,
    /// Time in statements of those.
    pub writing_ns: u64,
}

/// Applications of all databases or of one, exact for every statement that has been answered.
pub fn read(dbid: Option<u32>) -> Vec<Application> {
    let Some(memory) = get_ref() else { return Vec::new() };
    slab::drain_all(memory);
    // Whoever begins, ends or turns to another name waits for the lock, uninterruptibly: under it things are only copied,
    // to a place that is there before.
    let slots = memory.applications.slots().count();
    let mut copies: Vec<(Identity, Counts)> = Vec::with_capacity(slots + ENTRIES + OTHERS);
    {
        // SAFETY: a valid lock that this process does not hold; nothing below calls the server.
        let _guard = unsafe { LwLockGuard::shared(memory.applications_lock()) };
        // SAFETY: the lock keeps writers of the table away, and of identities.
        let (table, slots) = unsafe { (&*memory.applications.table, memory.applications.slots().map(|slot| &*slot)) };
        let is_wanted = |identity: &Identity| dbid.is_none_or(|dbid| identity.dbid == dbid);
        let rows = table.rows().filter(|row| is_wanted(&row.identity) && row.counts.counters != [0; COUNTERS]);
        copies.extend(rows.map(|row| (row.identity, row.counts.clone())));
        let slots = slots.filter(|slot| is_wanted(&slot.identity));
        copies.extend(slots.filter_map(|slot| slot.copy().map(|counts| (slot.identity, counts))));
    }
    let mut found: BTreeMap<Identity, Counts> = BTreeMap::new();
    for (identity, counts) in &copies {
        found.entry(*identity).or_default().merge(counts);
    }
    drop(copies);
    let counted = |(identity, counts): (Identity, Counts)| {
        let of = |counter: Counter| counts.counters[counter as usize];
        Application {
            dbid: identity.dbid,
            userid: identity.userid,
            name: identity.name(),
            statements: of(Counter::Statements),
            failures: of(Counter::Failures),
            statement_ns: of(Counter::StatementNs),
            latency: counts.latency,
            transactions: of(Counter::Transactions),
            rolled_back: of(Counter::RolledBack),
            writing: of(Counter::Writing),
            writing_ns: of(Counter::WritingNs),
        }
    };
    found.into_iter().map(counted).collect()
}

/// Top-level statements of a database, failed ones included, but those of applications that there was no room for in any
/// row of the database.
pub fn statements_of(dbid: u32) -> u64 {
    let Some(memory) = get_ref() else { return 0 };
    slab::drain_all(memory);
    // SAFETY: a valid lock that this process does not hold; nothing below calls the server.
    let _guard = unsafe { LwLockGuard::shared(memory.applications_lock()) };
    // SAFETY: the lock keeps writers of the table away, and of identities.
    let (table, slots) = unsafe { (&*memory.applications.table, memory.applications.slots().map(|slot| &*slot)) };
    let is_here = |identity: &Identity| identity.dbid == dbid;
    let rows = table.rows().filter(|row| is_here(&row.identity));
    let kept: u64 = rows.map(|row| row.counts.counters[Counter::Statements as usize]).sum();
    let slots = slots.filter(|slot| is_here(&slot.identity) && slot.counts());
    kept + slots.map(|slot| slot.counters[Counter::Statements as usize].load(Ordering::Relaxed)).sum::<u64>()
}

/// Forgets what was counted, of all databases or of one.
pub fn reset(memory: &Memory, dbid: Option<u32>) {
    slab::drain_all(memory);
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.applications_lock()) };
    // SAFETY: the lock makes this process the only one to touch the table, and keeps writers of identities away.
    let (table, slots) = unsafe { (&mut *memory.applications.table, memory.applications.slots().map(|slot| &*slot)) };
    table.forget(dbid);
    for slot in slots {
        if slot.used.load(Ordering::Acquire) != 0 && dbid.is_none_or(|dbid| slot.identity.dbid == dbid) {
            slot.forget.store(1, Ordering::Release);
        }
    }
}

/// Rows of `perf.health()`.
pub fn health(memory: &Memory) -> Vec<HealthRow> {
    let (used, moved) = {
        // SAFETY: a valid lock that this process does not hold; nothing below raises.
        let _guard = unsafe { LwLockGuard::shared(memory.applications_lock()) };
        // SAFETY: the lock keeps writers of the table away.
        let table = unsafe { &*memory.applications.table };
        (f64::from(table.used), table.moved as f64)
    };
    vec![
        HealthRow {
            component: "applications",
            status: 0,
            detail: format!("{used:.0} of {ENTRIES} entries for applications that have disconnected used"),
            value: used,
        },
        HealthRow {
            component: "applications_moved",
            status: u8::from(moved > 0.0),
            detail: "applications whose totals moved to (other): keep numbers out of application_name".to_owned(),
            value: moved,
        },
    ]
}

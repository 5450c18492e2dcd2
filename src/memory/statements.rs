//! The table of statements: one entry for each (queryid, database, user, top level or nested), in partitions with a
//! lock each. An entry is found through the hash chain of its bucket; buckets belong to partitions, entries to none
//! until they are used, so the table holds exactly as many statements as the setting says.
//!
//! When no entry is free, a new statement takes the entry that is worth least among a few of its partition; what that
//! one had counted is added to the `(other)` row of its database and user, so sums over all rows stay exact.
//!
//! Locks: a partition's lock guards its chains, its entries and their texts. The `other` lock guards the `(other)`
//! rows and may be taken while holding a partition's.

use super::text::{self, Chain};
use super::{get_ref, slab, FreeList, Header, Memory, NONE};
use crate::pg::local::ProcessLocal;
use crate::pg::lwlock::LwLockGuard;
use crate::pg::raw;
use crate::pg::text::DbText;
use core::sync::atomic::{AtomicU32, Ordering};

pub use perf_core::counters::{Counters, Execution, Usage};
use perf_core::histogram::{bucket_of_ns, Histogram, Octaves, BUCKETS};

pub const MAX_PARTITIONS: usize = 128;
/// Entries looked at to find a victim.
const VICTIM_SAMPLE: usize = 8;
/// Rows for what was evicted, one for each database and user; the first is for all that find no row.
const OTHERS: usize = 256;
/// A statement's only execution is sampled when it took longer.
const SAMPLE_NS: u64 = 1_000_000;
/// Samples with literals kept for a statement.
pub const SAMPLES: usize = 3;

/// What makes two executions the same statement.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Key {
    pub queryid: u64,
    pub dbid: u32,
    pub userid: u32,
    pub toplevel: bool,
}

impl Key {
    /// Well-mixed bits, of which the table uses the highest.
    #[inline]
    fn hash(&self) -> u64 {
        let other = (u64::from(self.dbid) << 32 | u64::from(self.userid)) ^ (u64::from(self.toplevel) << 63);
        (self.queryid ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd)
    }
}

#[repr(C)]
pub struct Entry {
    key: Key,
    /// Next in the bucket's chain, or in the free list: number + 1.
    next: AtomicU32,
    encoding: i32,
    text: Chain,
    samples: [Chain; SAMPLES],
    next_sample: u32,
    /// Calls when the latest sample was stored.
    sampled_calls: u64,
    /// Where `histogram` has counts; a free entry's histogram is all zeros.
    octaves: Octaves,
    counters: Counters,
    histogram: Histogram,
}

#[repr(C)]
struct Other {
    dbid: u32,
    userid: u32,
    used: bool,
    counters: Counters,
    histogram: Histogram,
}

/// Where the table is.
#[derive(Clone, Copy)]
pub struct Table {
    others: *mut Other,
    base: *mut Entry,
    heads: *mut AtomicU32,
    pub entries: usize,
    bucket_bits: u32,
    partition_bits: u32,
}

/// Gives the text of a statement when an entry has to be made for it.
pub trait Source {
    /// The normalised text, in the database's encoding.
    fn text(&self) -> &[u8];
}

/// What recording an execution in the table found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It has an entry; a sample of it is wanted.
    SampleWanted,
    /// It has an entry.
    Kept,
    /// It was added to `(other)`.
    Folded,
}

impl Table {
    fn buckets(entries: usize) -> usize {
        entries.next_power_of_two()
    }

    pub fn bytes(entries: usize) -> usize {
        OTHERS * size_of::<Other>() + entries * size_of::<Entry>() + Self::buckets(entries) * size_of::<AtomicU32>()
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64.
    pub unsafe fn at(base: *mut u8, entries: usize) -> Table {
        let bucket_bits = Self::buckets(entries).ilog2();
        // SAFETY: the parts lie one behind the other inside the area; sizes are multiples of 8, and the last has the
        // smallest alignment.
        unsafe {
            let others: *mut Other = base.cast();
            let first: *mut Entry = others.add(OTHERS).cast();
            Table {
                others,
                base: first,
                heads: first.add(entries).cast(),
                entries,
                bucket_bits,
                partition_bits: bucket_bits.min(MAX_PARTITIONS.ilog2()),
            }
        }
    }

    pub fn init(&self, header: &Header) {
        for number in (0..self.entries as u32).rev() {
            self.free_list(header).push(number);
        }
    }

    fn free_list<'a>(&'a self, header: &'a Header) -> FreeList<'a, impl Fn(u32) -> &'a AtomicU32> {
        // SAFETY: the list holds only numbers below `entries`.
        FreeList { head: &header.free_entries, next: move |number| unsafe { &(*self.entry(number)).next } }
    }

    fn entry(&self, number: u32) -> *mut Entry {
        debug_assert!((number as usize) < self.entries);
        // SAFETY: numbers come from the free list or a chain, which hold only numbers below `entries`.
        unsafe { self.base.add(number as usize) }
    }

    fn head(&self, bucket: usize) -> &AtomicU32 {
        // SAFETY: buckets are computed from `bucket_bits` bits.
        unsafe { &*self.heads.add(bucket) }
    }

    #[inline]
    fn bucket(&self, hash: u64) -> usize {
        (hash >> (64 - self.bucket_bits)) as usize
    }

    #[inline]
    fn partition(&self, hash: u64) -> usize {
        (hash >> (64 - self.partition_bits)) as usize
    }

    pub fn partitions(&self) -> usize {
        1 << self.partition_bits
    }

    fn buckets_of(&self, partition: usize) -> core::ops::Range<usize> {
        let each = 1usize << (self.bucket_bits - self.partition_bits);
        partition * each..(partition + 1) * each
    }

    /// The entry of a key. The caller holds the lock of its partition.
    #[inline]
    fn find(&self, key: &Key, hash: u64) -> Option<*mut Entry> {
        let mut link = self.head(self.bucket(hash)).load(Ordering::Relaxed);
        while let Some(number) = link.checked_sub(1) {
            let entry = self.entry(number);
            // SAFETY: linked entries are initialised, and the partition's lock keeps writers away.
            unsafe {
                if (*entry).key == *key {
                    return Some(entry);
                }
                link = (*entry).next.load(Ordering::Relaxed);
            }
        }
        None
    }
}

/// Adds one execution to the table itself, making an entry if there is none.
pub fn record(memory: &Memory, key: &Key, execution: &Execution, source: &impl Source) -> Recorded {
    let hash = key.hash();
    let table = &memory.statements;
    let lock = memory.partition_lock(table.partition(hash));
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(lock) };
    if let Some(entry) = table.find(key, hash) {
        return add(memory, entry, execution);
    }
    // Normalising under the lock costs less than taking the lock twice.
    let text = source.text();
    let entry = if text.is_empty() { None } else { insert(memory, key, hash, execution.at) };
    let Some(entry) = entry else {
        fold_execution(memory, key, execution);
        return Recorded::Folded;
    };
    // SAFETY: the entry is ours as long as the partition's lock is held.
    unsafe {
        (*entry).text = text::store(memory, text);
        (*entry).encoding = raw::GetDatabaseEncoding();
    }
    add(memory, entry, execution)
}

/// The caller holds the entry's partition lock exclusively.
fn add(memory: &Memory, entry: *mut Entry, execution: &Execution) -> Recorded {
    // SAFETY: the lock makes this process the only one to touch the entry.
    let entry = unsafe { &mut *entry };
    entry.counters.record(execution);
    if execution.calls > 0 {
        let bucket = bucket_of(execution);
        entry.octaves.insert(bucket);
        entry.histogram.counts[bucket] = entry.histogram.counts[bucket].saturating_add(1);
    }
    // What runs once, and fast, is not worth a sample.
    let calls = entry.counters.calls;
    let worth_it = calls > 1 || is_worth_sampling(execution);
    // The second execution, the eighth, the 64th and so on.
    let due = calls.is_power_of_two() && (calls <= 2 || calls.trailing_zeros() % 3 == 0);
    if worth_it && due && text::has_room_for_samples(memory) {
        Recorded::SampleWanted
    } else {
        Recorded::Kept
    }
}

/// Whether an execution is worth a sample even if it is the only one.
#[inline]
pub fn is_worth_sampling(execution: &Execution) -> bool {
    execution.elapsed_ns > SAMPLE_NS
}

/// Whether the next execution of a costly statement is to be sampled: the first two, and then one whenever the calls that
/// the table knows of are four times what they were at the last sample. Unlike in [`record`] no number may be waited for
/// here, because the table learns of most calls a few at a time. The answer yes is noted, so that a statement of which no
/// sample can be taken is not tried for ever; of statements without an entry one a second is tried by a process.
pub fn is_sample_due(memory: &Memory, key: &Key) -> bool {
    static LAST_UNKNOWN_NS: ProcessLocal<u64> = ProcessLocal::new(0);
    let hash = key.hash();
    let table = &memory.statements;
    if !text::has_room_for_samples(memory) {
        return false;
    }
    let is_due = |calls: u64, sampled: u64| {
        calls.saturating_add(1) >= if sampled < 2 { sampled + 1 } else { sampled.saturating_mul(4) }
    };
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let guard = unsafe { LwLockGuard::shared(memory.partition_lock(table.partition(hash))) };
    let known = table.find(key, hash).map(|entry| {
        // SAFETY: a linked entry of a partition whose lock is held.
        unsafe { is_due((*entry).counters.calls, (*entry).sampled_calls) }
    });
    drop(guard);
    match known {
        Some(false) => false,
        Some(true) => {
            // SAFETY: as above.
            let _guard = unsafe { LwLockGuard::exclusive(memory.partition_lock(table.partition(hash))) };
            table.find(key, hash).is_some_and(|entry| {
                // SAFETY: the lock makes this process the only one to touch the entry.
                unsafe {
                    let due = is_due((*entry).counters.calls, (*entry).sampled_calls);
                    if due {
                        (*entry).sampled_calls = (*entry).counters.calls.saturating_add(1);
                    }
                    due
                }
            })
        }
        None => {
            let now = raw::clock_ns();
            // SAFETY: process-local; this does not nest.
            let last = unsafe { &mut *LAST_UNKNOWN_NS.as_ptr() };
            let due = now.saturating_sub(*last) >= 1_000_000_000;
            if due {
                *last = now;
            }
            due
        }
    }
}

/// Adds what a backend counted for a statement; to `(other)`, and returns false, when the statement has no entry any
/// more.
pub fn merge(memory: &Memory, key: &Key, counters: &Counters, histogram: &[u8; BUCKETS], octaves: Octaves) -> bool {
    let hash = key.hash();
    let table = &memory.statements;
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.partition_lock(table.partition(hash))) };
    match table.find(key, hash) {
        // SAFETY: the lock makes this process the only one to touch the entry.
        Some(entry) => unsafe {
            (*entry).counters.merge(counters);
            (*entry).octaves.insert_all(octaves);
            (*entry).histogram.merge_small(histogram, octaves);
            true
        },
        None => {
            memory.header().folded.fetch_add(counters.calls, Ordering::Relaxed);
            with_other(memory, key, |other| {
                other.counters.merge(counters);
                other.histogram.merge_small(histogram, octaves);
            });
            false
        }
    }
}

/// Adds time that a statement was seen waiting for a lock. False when it has no entry (yet).
pub fn add_lock_wait(queryid: u64, dbid: u32, userid: u32, ms: u64) -> bool {
    let Some(memory) = get_ref() else { return false };
    let key = Key { queryid, dbid, userid, toplevel: true };
    let hash = key.hash();
    let table = &memory.statements;
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.partition_lock(table.partition(hash))) };
    let Some(entry) = table.find(&key, hash) else { return false };
    // SAFETY: the lock makes this process the only one to touch the entry.
    unsafe { (*entry).counters.lock_wait_ms += ms };
    true
}

/// Stores a sample (see `samples`) with a statement, in place of its oldest when it has all it may have.
pub fn store_sample(memory: &Memory, key: &Key, bytes: &[u8]) {
    let hash = key.hash();
    let table = &memory.statements;
    // SAFETY: a valid lock that this process does not hold; nothing below raises.
    let _guard = unsafe { LwLockGuard::exclusive(memory.partition_lock(table.partition(hash))) };
    let Some(entry) = table.find(key, hash) else { return };
    // SAFETY: the lock makes this process the only one to touch the entry.
    let entry = unsafe { &mut *entry };
    let slot = &mut entry.samples[entry.next_sample as usize % SAMPLES];
    text::free(memory, slot);
    let mut stored = text::store(memory, bytes);
    if stored.len as usize == bytes.len() {
        *slot = stored;
        entry.next_sample = entry.next_sample.wrapping_add(1);
        entry.sampled_calls = entry.counters.calls;
    } else {
        // Half a statement cannot be planned.
        text::free(memory, &mut stored);
    }
}

fn fold_execution(memory: &Memory, key: &Key, execution: &Execution) {
    memory.header().folded.fetch_add(execution.calls, Ordering::Relaxed);
    with_other(memory, key, |other| {
        other.counters.record(execution);
        if execution.calls > 0 {
            other.histogram.record_ns(execution.elapsed_ns);
        }
    });
}

/// Runs `change` on the `(other)` row of a key's database and user.
fn with_other(memory: &Memory, key: &Key, change: impl FnOnce(&mut Other)) {
    // SAFETY: a valid lock; the order partition, other is kept everywhere.
    let _guard = unsafe { LwLockGuard::exclusive(memory.other_lock()) };
    // SAFETY: OTHERS rows exist, all-zero bytes are valid ones, and the lock keeps everybody else away.
    let others = unsafe { core::slice::from_raw_parts_mut(memory.statements.others, OTHERS) };
    let (spare, rows) = match others.split_first_mut() {
        Some(split) => split,
        None => return,
    };
    for row in rows {
        if !row.used {
            row.used = true;
            row.dbid = key.dbid;
            row.userid = key.userid;
        }
        if row.dbid == key.dbid && row.userid == key.userid {
            change(row);
            return;
        }
    }
    spare.used = true;
    change(spare);
}

/// Makes an empty entry, evicting another if need be. The caller holds the partition's lock exclusively.
fn insert(memory: &Memory, key: &Key, hash: u64, now: i64) -> Option<*mut Entry> {
    let table = &memory.statements;
    let header = memory.header();
    let number = match table.free_list(header).pop() {
        Some(number) => {
            header.entries_used.fetch_add(1, Ordering::Relaxed);
            number
        }
        None => evict(memory, table.partition(hash), now)?,
    };
    let entry = table.entry(number);
    let head = table.head(table.bucket(hash));
    // SAFETY: an entry taken from the free list or unlinked belongs to this process, and has no texts and no counts.
    unsafe {
        (*entry).key = *key;
        (*entry).next.store(head.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    head.store(number + 1, Ordering::Relaxed);
    Some(entry)
}

/// Unlinks the entry worth least among the next few of the partition, folds its totals and returns its number; `None`
/// when the partition has no entry. The caller holds the partition's lock exclusively.
fn evict(memory: &Memory, partition: usize, now: i64) -> Option<u32> {
    let table = &memory.statements;
    let header = memory.header();
    let range = table.buckets_of(partition);
    let hand = header.hands[partition].load(Ordering::Relaxed) as usize;
    let (mut seen, mut victim, mut stopped_at) = (0, None::<(u64, usize, u32)>, hand);
    for step in 0..range.len() {
        let offset = (hand + step) % range.len();
        let bucket = range.start + offset;
        let mut link = table.head(bucket).load(Ordering::Relaxed);
        while let Some(number) = link.checked_sub(1) {
            // SAFETY: a linked entry of the partition whose lock is held.
            let entry = unsafe { &*table.entry(number) };
            let score = entry.counters.keep_score(now);
            if victim.is_none_or(|(least, _, _)| score < least) {
                victim = Some((score, bucket, number));
            }
            seen += 1;
            link = entry.next.load(Ordering::Relaxed);
        }
        stopped_at = offset + 1;
        if seen >= VICTIM_SAMPLE {
            break;
        }
    }
    header.hands[partition].store((stopped_at % range.len()) as u32, Ordering::Relaxed);
    let (_, bucket, number) = victim?;
    unlink(table, bucket, number);
    // SAFETY: the entry is unlinked and the lock held: nobody else reaches it.
    let entry = unsafe { &mut *table.entry(number) };
    with_other(memory, &entry.key, |other| {
        other.counters.merge(&entry.counters);
        other.histogram.merge_octaves(&entry.histogram, entry.octaves);
    });
    clear(memory, entry);
    header.evictions.fetch_add(1, Ordering::Relaxed);
    Some(number)
}

/// Makes an entry that was unlinked as good as new.
fn clear(memory: &Memory, entry: &mut Entry) {
    text::free(memory, &mut entry.text);
    entry.samples.iter_mut().for_each(|sample| text::free(memory, sample));
    entry.next_sample = 0;
    entry.sampled_calls = 0;
    entry.histogram.clear_octaves(entry.octaves);
    entry.octaves = Octaves::default();
    entry.counters = Counters::default();
}

/// Takes an entry out of its bucket's chain. The caller holds the partition's lock exclusively.
fn unlink(table: &Table, bucket: usize, number: u32) {
    // SAFETY: a linked entry of a partition whose lock is held.
    let next = unsafe { (*table.entry(number)).next.load(Ordering::Relaxed) };
    let mut word = table.head(bucket);
    loop {
        let link = word.load(Ordering::Relaxed);
        let Some(at) = link.checked_sub(1) else { return };
        if at == number {
            word.store(next, Ordering::Relaxed);
            return;
        }
        // SAFETY: as above.
        word = unsafe { &(*table.entry(at)).next };
    }
}

/// An entry as a reader sees it.
pub struct EntryView<'a> {
    pub key: Key,
    pub is_other: bool,
    pub counters: &'a Counters,
    pub histogram: &'a Histogram,
    /// Where the histogram has counts.
    pub octaves: Octaves,
    encoding: i32,
    text: Chain,
    samples: &'a [Chain],
    memory: &'a Memory,
}

impl EntryView<'_> {
    /// Appends the text to `out`, in the encoding returned.
    pub fn text_into(&self, out: &mut Vec<u8>) -> i32 {
        text::read(self.memory, self.text, out);
        self.encoding
    }

    /// The stored samples' bytes.
    pub fn samples(&self) -> Vec<Vec<u8>> {
        let read = |chain: &Chain| {
            let mut bytes = Vec::with_capacity(chain.len as usize);
            text::read(self.memory, *chain, &mut bytes);
            bytes
        };
        self.samples.iter().filter(|chain| chain.len > 0).map(read).collect()
    }

    pub fn encoding(&self) -> i32 {
        self.encoding
    }
}

/// Shows every entry and every `(other)` row to `visit`, a partition after the other, each under its lock: `visit` must
/// not raise, call the server or take long. `between` runs after each partition, without a lock.
///
/// # Errors
/// None of its own; `between` may raise.
pub fn visit(memory: &Memory, mut visit: impl FnMut(&EntryView), mut between: impl FnMut()) {
    slab::drain_all(memory);
    let table = &memory.statements;
    for partition in 0..table.partitions() {
        // SAFETY: a valid lock that this process does not hold; `visit` does not raise.
        let guard = unsafe { LwLockGuard::shared(memory.partition_lock(partition)) };
        for bucket in table.buckets_of(partition) {
            let mut link = table.head(bucket).load(Ordering::Relaxed);
            while let Some(number) = link.checked_sub(1) {
                // SAFETY: a linked entry of a partition whose lock is held.
                let entry = unsafe { &*table.entry(number) };
                visit(&EntryView {
                    key: entry.key,
                    is_other: false,
                    counters: &entry.counters,
                    histogram: &entry.histogram,
                    octaves: entry.octaves,
                    encoding: entry.encoding,
                    text: entry.text,
                    samples: &entry.samples,
                    memory,
                });
                link = entry.next.load(Ordering::Relaxed);
            }
        }
        drop(guard);
        between();
    }
    // SAFETY: as above.
    let guard = unsafe { LwLockGuard::shared(memory.other_lock()) };
    // SAFETY: OTHERS rows exist, and the lock keeps writers away.
    let others = unsafe { core::slice::from_raw_parts(memory.statements.others, OTHERS) };
    for other in others.iter().filter(|other| other.used) {
        visit(&EntryView {
            key: Key { queryid: 0, dbid: other.dbid, userid: other.userid, toplevel: true },
            is_other: true,
            counters: &other.counters,
            histogram: &other.histogram,
            octaves: Octaves::ALL,
            encoding: -1,
            text: Chain::default(),
            samples: &[],
            memory,
        });
    }
    drop(guard);
    between();
}

/// Removes the entries that `wanted` picks (`None` stands for an `(other)` row) and returns how many there were.
pub fn reset(memory: &Memory, wanted: impl Fn(&Key, bool) -> bool) -> u64 {
    slab::drain_all(memory);
    let table = &memory.statements;
    let header = memory.header();
    let mut removed = 0;
    for partition in 0..table.partitions() {
        // SAFETY: a valid lock that this process does not hold; nothing below raises.
        let _guard = unsafe { LwLockGuard::exclusive(memory.partition_lock(partition)) };
        for bucket in table.buckets_of(partition) {
            let mut link = table.head(bucket).load(Ordering::Relaxed);
            while let Some(number) = link.checked_sub(1) {
                // SAFETY: a linked entry of a partition whose lock is held exclusively.
                let entry = unsafe { &mut *table.entry(number) };
                link = entry.next.load(Ordering::Relaxed);
                if wanted(&entry.key, false) {
                    unlink(table, bucket, number);
                    clear(memory, entry);
                    table.free_list(header).push(number);
                    header.entries_used.fetch_sub(1, Ordering::Relaxed);
                    removed += 1;
                }
            }
        }
    }
    // SAFETY: as above.
    let _guard = unsafe { LwLockGuard::exclusive(memory.other_lock()) };
    // SAFETY: OTHERS rows exist, and the lock keeps everybody else away.
    let others = unsafe { core::slice::from_raw_parts_mut(memory.statements.others, OTHERS) };
    for other in others.iter_mut().filter(|other| other.used) {
        let key = Key { queryid: 0, dbid: other.dbid, userid: other.userid, toplevel: true };
        if wanted(&key, true) {
            // The row stays taken: a search for a row stops at the first free one.
            other.counters = Counters::default();
            other.histogram = Histogram::default();
            removed += 1;
        }
    }
    removed
}

/// A copy of an entry.
pub struct Snapshot {
    pub key: Key,
    /// The `(other)` row of a database and user; its queryid is 0.
    pub is_other: bool,
    pub counters: Counters,
    pub histogram: Histogram,
    /// In the current database's encoding.
    pub text: Option<DbText>,
}

/// Copies of all entries, or of one database's; exact for every statement that finished before the call.
pub fn snapshot(dbid: Option<u32>, with_text: bool) -> Vec<Snapshot> {
    let Some(memory) = get_ref() else { return Vec::new() };
    let mut copies = Vec::new();
    visit(
        memory,
        |entry| {
            if dbid.is_some_and(|dbid| entry.key.dbid != dbid) || (entry.is_other && entry.counters.calls == 0) {
                return;
            }
            let mut bytes = Vec::new();
            let encoding = if with_text { entry.text_into(&mut bytes) } else { -1 };
            copies.push((
                Snapshot {
                    key: entry.key,
                    is_other: entry.is_other,
                    counters: *entry.counters,
                    histogram: *entry.histogram,
                    text: None,
                },
                bytes,
                encoding,
            ));
        },
        || {},
    );
    copies
        .into_iter()
        .map(|(mut copy, bytes, encoding)| {
            if encoding >= 0 {
                copy.text = Some(DbText::convert(bytes, encoding));
            }
            copy
        })
        .collect()
}

/// Top-level executions since the server started, in all databases.
pub fn totals() -> u64 {
    get_ref().map_or(0, slab::executions_recorded)
}

/// The bucket of an execution, for slabs.
#[inline]
pub fn bucket_of(execution: &Execution) -> usize {
    bucket_of_ns(execution.elapsed_ns)
}

const _: () = assert!(NONE == 0, "zeroed memory must mean empty chains");

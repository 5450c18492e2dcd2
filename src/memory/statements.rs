//! The statements of the whole server: one entry for each (queryid, database, user, top level or nested), in partitions with
//! a lock each. An entry is found through the hash chain of its bucket; buckets belong to partitions, entries to none
//! until they are used, so the table holds exactly as many statements as the setting says. Here is what writes it; `table`
//! says how it lies in memory, `survey` reads all of it.
//!
//! When no entry is free, a new statement takes the entry that is worth least among a few of its partition; what that
//! one had counted is added to the `(other)` row of its database and user, so sums over all rows stay exact.
//!
//! Locks: a partition's lock guards its chains, its entries and their texts. The `other` lock guards the `(other)`
//! rows and may be taken while holding a partition's.

use super::table::{clear, unlink, Entry, Other, SAMPLES};
use super::text;
use super::{get_ref, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::lwlock::LwLockGuard;
use crate::pg::raw;
use core::sync::atomic::Ordering;

pub use super::table::Key;
pub use perf_core::counters::{Counters, Execution, Usage};
use perf_core::histogram::{bucket_of_ns, Octaves, BUCKETS};

/// Entries looked at to find a victim.
const VICTIM_SAMPLE: usize = 8;
/// A statement's only execution is sampled when it took longer.
const SAMPLE_NS: u64 = 1_000_000;

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
    let others = unsafe { &mut *memory.statements.others() };
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

/// The bucket of an execution, for slabs.
#[inline]
pub fn bucket_of(execution: &Execution) -> usize {
    bucket_of_ns(execution.elapsed_ns)
}

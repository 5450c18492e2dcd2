//! All statements at once: shown to a reader, copied, forgotten. Called by whoever answers for statistics. Takes the drain
//! lock to empty the slabs, then each partition's lock and the `(other)` rows', one after the other.

use super::table::{clear, unlink, Key};
use super::text::{self, Chain};
use super::{get_ref, slab, Memory};
use crate::pg::lwlock::LwLockGuard;
use crate::pg::text::DbText;
use core::sync::atomic::Ordering;
use perf_core::counters::Counters;
use perf_core::histogram::{Histogram, Octaves};
use pgrx::pg_sys;

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
    let others = unsafe { &*memory.statements.others() };
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
    let others = unsafe { &mut *memory.statements.others() };
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

impl Snapshot {
    /// Time of all executions and of their planning.
    pub fn time_ns(&self) -> u64 {
        self.counters.total_ns + self.counters.planning_ns
    }

    /// Bytes of temporary files that an execution writes, on average.
    pub fn temp_bytes(&self) -> f64 {
        self.counters.usage.temp_blks_written as f64 * f64::from(pg_sys::BLCKSZ) / self.counters.calls.max(1) as f64
    }
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

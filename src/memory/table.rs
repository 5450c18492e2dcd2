//! The table of statements as it lies in shared memory: entries, the hash chains they are found through, and the rows for
//! what was evicted. Used by `statements`, which writes it, and by `survey`, which reads all of it; they hold the locks that
//! each function asks for.

use super::text::{self, Chain};
use super::{FreeList, Header, Memory, NONE};
use core::sync::atomic::{AtomicU32, Ordering};
use perf_core::counters::Counters;
use perf_core::histogram::{Histogram, Octaves};

pub const MAX_PARTITIONS: usize = 128;
/// Rows for what was evicted, one for each database and user; the first is for all that find no row.
const OTHERS: usize = 256;
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
    pub fn hash(&self) -> u64 {
        let other = (u64::from(self.dbid) << 32 | u64::from(self.userid)) ^ (u64::from(self.toplevel) << 63);
        (self.queryid ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd)
    }
}

#[repr(C)]
pub struct Entry {
    pub key: Key,
    /// Next in the bucket's chain, or in the free list: number + 1.
    pub next: AtomicU32,
    pub encoding: i32,
    pub text: Chain,
    pub samples: [Chain; SAMPLES],
    pub next_sample: u32,
    /// Calls when the latest sample was stored.
    pub sampled_calls: u64,
    /// Where `histogram` has counts; a free entry's histogram is all zeros.
    pub octaves: Octaves,
    pub counters: Counters,
    pub histogram: Histogram,
}

#[repr(C)]
pub struct Other {
    pub dbid: u32,
    pub userid: u32,
    pub used: bool,
    pub counters: Counters,
    pub histogram: Histogram,
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

    pub fn free_list<'a>(&'a self, header: &'a Header) -> FreeList<'a, impl Fn(u32) -> &'a AtomicU32> {
        // SAFETY: the list holds only numbers below `entries`.
        FreeList { head: &header.free_entries, next: move |number| unsafe { &(*self.entry(number)).next } }
    }

    pub fn entry(&self, number: u32) -> *mut Entry {
        debug_assert!((number as usize) < self.entries);
        // SAFETY: numbers come from the free list or a chain, which hold only numbers below `entries`.
        unsafe { self.base.add(number as usize) }
    }

    pub fn head(&self, bucket: usize) -> &AtomicU32 {
        // SAFETY: buckets are computed from `bucket_bits` bits.
        unsafe { &*self.heads.add(bucket) }
    }

    #[inline]
    pub fn bucket(&self, hash: u64) -> usize {
        (hash >> (64 - self.bucket_bits)) as usize
    }

    #[inline]
    pub fn partition(&self, hash: u64) -> usize {
        (hash >> (64 - self.partition_bits)) as usize
    }

    pub fn partitions(&self) -> usize {
        1 << self.partition_bits
    }

    pub fn buckets_of(&self, partition: usize) -> core::ops::Range<usize> {
        let each = 1usize << (self.bucket_bits - self.partition_bits);
        partition * each..(partition + 1) * each
    }

    /// The rows for what was evicted. The lock of the `(other)` rows says who may look at them.
    pub fn others(&self) -> *mut [Other] {
        core::ptr::slice_from_raw_parts_mut(self.others, OTHERS)
    }

    /// The entry of a key. The caller holds the lock of its partition.
    #[inline]
    pub fn find(&self, key: &Key, hash: u64) -> Option<*mut Entry> {
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

/// Makes an entry that was unlinked as good as new.
pub fn clear(memory: &Memory, entry: &mut Entry) {
    text::free(memory, &mut entry.text);
    entry.samples.iter_mut().for_each(|sample| text::free(memory, sample));
    entry.next_sample = 0;
    entry.sampled_calls = 0;
    entry.histogram.clear_octaves(entry.octaves);
    entry.octaves = Octaves::default();
    entry.counters = Counters::default();
}

/// Takes an entry out of its bucket's chain. The caller holds the partition's lock exclusively.
pub fn unlink(table: &Table, bucket: usize, number: u32) {
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

const _: () = assert!(NONE == 0, "zeroed memory must mean empty chains");

//! When a role last wrote a relation, roughly: what it reads within a moment after that has to be read where it was
//! written. A table of words without locks, each of a database, role and relation and a time; another one of the same
//! place takes it over. A word is stored only when its time is old, so that those who write a relation all the time
//! share its cache line for reading. Called by capture at the end of transactions that wrote, and of statements of
//! sampled transactions that read.

use super::Memory;
use core::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 4_096;
/// A time that is not older is not stored again.
const STEP_MS: u64 = 100;
/// Reads this long after a write are fresh.
const FRESH_MS: u64 = 1_000;
/// Bits of a word that are a time, in milliseconds: 500 years.
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Where the table is.
#[derive(Clone, Copy)]
pub struct Written(*const AtomicU64);

impl Written {
    pub fn bytes() -> usize {
        WORDS * size_of::<AtomicU64>()
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64.
    pub unsafe fn at(base: *mut u8) -> Written {
        Written(base.cast())
    }

    fn word(&self, key: u64) -> &AtomicU64 {
        // SAFETY: below the number of words; only accessed as atomics.
        unsafe { &*self.0.add(key as usize % WORDS) }
    }
}

/// What a relation is known by, with the role that writes or reads it.
#[inline]
pub fn key(dbid: u32, userid: u32, relation: u32) -> u64 {
    let mix = |hash: u64, word: u32| (hash ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    mix(mix(mix(0, dbid), userid), relation)
}

/// A relation was written by a transaction that ends at `now_ns`.
pub fn note(memory: &Memory, key: u64, now_ns: u64) {
    let now_ms = now_ns / 1_000_000;
    let word = memory.written.word(key);
    let before = word.load(Ordering::Relaxed);
    let is_same = before & !TIME_MASK == key & !TIME_MASK;
    if !is_same || (before & TIME_MASK) + STEP_MS < now_ms {
        word.store(key & !TIME_MASK | now_ms & TIME_MASK, Ordering::Relaxed);
    }
}

/// Whether a statement that began at `began_ns` reads what was written a moment before.
pub fn is_fresh(memory: &Memory, key: u64, began_ns: u64) -> bool {
    let word = memory.written.word(key).load(Ordering::Relaxed);
    word != 0 && word & !TIME_MASK == key & !TIME_MASK && (word & TIME_MASK) + FRESH_MS >= began_ns / 1_000_000
}

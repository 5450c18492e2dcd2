//! Some transactions as they were, in a ring: which statements they had, and hashes of the values in them. Every
//! transaction has the same chance to be kept, whoever runs it; see `perf_core::sampling`. Values themselves never leave
//! their backend; hashes are keyed with a secret of this life of shared memory. Called by capture at the first statement
//! and at the end of a transaction, and by whoever answers for transactions. Locks nothing.

use super::ring::Ring;
use super::{get_ref, HealthRow, Memory};
use crate::guc;
use crate::pg::background::random_u64;
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use core::hash::Hasher;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use perf_core::sampling;
use std::collections::hash_map::DefaultHasher;

const NAME: usize = 64;
/// Words of a transaction's statements: a record and its sequence word are 1 kB.
const WORDS: usize = 230;
/// Values of one statement that are kept.
pub const VALUES: usize = 48;
/// Microseconds after which the sampling rate is looked at.
const WINDOW_US: i64 = sampling::WINDOW_NS as i64 / 1_000;
/// A statement that seems to have begun so long before that was not received then.
const CLOCK_SET_BACK_US: i64 = -3_600_000_000;

pub const WRITES: u32 = 1;
pub const TEMPORARY: u32 = 2;
pub const FRESH: u32 = 4;
pub const ROLLED_BACK: u32 = 8;
pub const TRUNCATED: u32 = 16;

/// One transaction as it lies in shared memory.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    pub ended_at: i64,
    pub statement_ns: u64,
    pub dbid: u32,
    pub userid: u32,
    /// WRITES and so on.
    pub flags: u32,
    words_len: u16,
    is_full: bool,
    /// Up to the first zero.
    application: [u8; NAME],
    /// Of each statement: two of its queryid, the number of its values with [`TOPLEVEL`] in it, its values' hashes.
    words: [u32; WORDS],
}

const TOPLEVEL: u32 = 1 << 31;

impl Record {
    pub const EMPTY: Record = Record {
        ended_at: 0,
        statement_ns: 0,
        dbid: 0,
        userid: 0,
        flags: 0,
        words_len: 0,
        is_full: false,
        application: [0; NAME],
        words: [0; WORDS],
    };

    /// Makes it that of a transaction that begins.
    pub fn begin(&mut self, dbid: u32, userid: u32) {
        (self.dbid, self.userid, self.flags) = (dbid, userid, 0);
        (self.words_len, self.is_full) = (0, false);
    }

    /// Whether it takes no more statements.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    pub fn set_application(&mut self, name: &[u8]) {
        let len = name.len().min(NAME - 1);
        self.application[..len].copy_from_slice(&name[..len]);
        self.application[len..].fill(0);
    }

    /// Adds a statement with its values' hashes, 0 where one is not known.
    pub fn add(&mut self, queryid: u64, toplevel: bool, values: &[u32]) {
        let at = usize::from(self.words_len);
        let room = if self.is_full { None } else { self.words.get_mut(at..at + 3 + values.len()) };
        let Some(room) = room else {
            // Once one statement is missing, all that follow are.
            self.is_full = true;
            self.flags |= TRUNCATED;
            return;
        };
        room[0] = queryid as u32;
        room[1] = (queryid >> 32) as u32;
        room[2] = values.len() as u32 | if toplevel { TOPLEVEL } else { 0 };
        room[3..].copy_from_slice(values);
        self.words_len += room.len() as u16;
    }
}

/// How often transactions are kept.
#[repr(C)]
struct Control {
    /// What hashes are keyed with.
    key: [u64; 2],
    /// Of so many transactions one is drawn.
    stride: AtomicU32,
    /// When that was looked at last, on the clock of `clock_ns`, and on that of statements' starts.
    window_ns: AtomicU64,
    window_us: AtomicI64,
    _apart: [u8; 64],
    /// Transactions drawn since then.
    drawn: AtomicU64,
    paid_until_ns: AtomicU64,
    /// Kept transactions lost to one that was written at the same time.
    dropped: AtomicU64,
}

const CONTROL_BYTES: usize = size_of::<Control>().next_multiple_of(64);

/// Where it all is.
#[derive(Clone, Copy)]
pub struct Traces {
    control: *mut Control,
    ring: Ring<Record>,
    capacity: usize,
}

impl Traces {
    /// What the setting asks for; a ring has two places at least.
    fn capacity() -> usize {
        match guc::transaction_samples() {
            0 => 0,
            samples => samples.max(2),
        }
    }

    pub fn bytes() -> usize {
        CONTROL_BYTES + Ring::<Record>::bytes(Self::capacity())
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64.
    pub unsafe fn at(base: *mut u8) -> Traces {
        let capacity = Self::capacity();
        // SAFETY: the ring follows the head inside the area. One without places is never used.
        unsafe { Traces { control: base.cast(), ring: Ring::at(base.add(CONTROL_BYTES), capacity), capacity } }
    }

    /// Draws the secret; before any other process sees the memory, which is all zeros.
    pub fn init(&self) {
        // SAFETY: nobody else sees the area yet.
        unsafe {
            (*self.control).key = [random_u64(), random_u64()];
            (*self.control).stride = AtomicU32::new(1);
            (*self.control).window_ns = AtomicU64::new(raw::clock_ns());
        }
    }

    #[inline(always)]
    fn control(&self) -> &Control {
        // SAFETY: shared memory lives for ever; what changes in it are atomics.
        unsafe { &*self.control }
    }
}

/// How this process draws transactions.
struct Draw {
    /// What its gap was drawn for; 0 before the first.
    stride: u32,
    /// Transactions to let pass.
    gap: u32,
    /// Random numbers; 0 before the first.
    random: u64,
}

static DRAW: ProcessLocal<Draw> = ProcessLocal::new(Draw { stride: 0, gap: 0, random: 0 });

/// Whether to keep the transaction that begins now. `at` is when its statement was received, in microseconds.
#[inline]
pub fn wants(memory: &Memory, at: i64) -> bool {
    if memory.traces.capacity == 0 {
        return false;
    }
    let control = memory.traces.control();
    let age_us = at.wrapping_sub(control.window_us.load(Ordering::Relaxed));
    if !(CLOCK_SET_BACK_US..WINDOW_US).contains(&age_us) {
        adapt(control, at, false);
    }
    let stride = control.stride.load(Ordering::Relaxed);
    // SAFETY: process-local; nothing called here draws.
    let draw = unsafe { &mut *DRAW.as_ptr() };
    if draw.stride == stride && draw.gap > 0 {
        draw.gap -= 1;
        return false;
    }
    draw.next(stride) && granted(control, at)
}

impl Draw {
    /// Whether the transaction that begins now is drawn, at the end of a gap or of a stride.
    #[cold]
    fn next(&mut self, stride: u32) -> bool {
        if self.stride != stride {
            self.stride = stride;
            self.gap = sampling::first_gap(stride, self.random());
            if self.gap > 0 {
                self.gap -= 1;
                return false;
            }
        }
        self.gap = sampling::next_gap(stride, self.random());
        true
    }

    /// xorshift64.
    fn random(&mut self) -> u32 {
        if self.random == 0 {
            self.random = random_u64() | 1;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

#[cold]
fn granted(control: &Control, at: i64) -> bool {
    control.drawn.fetch_add(1, Ordering::Relaxed);
    let now = raw::clock_ns();
    let take = |paid_until| sampling::grant(paid_until, now);
    let granted = control.paid_until_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
    if !granted {
        adapt(control, at, true);
    }
    granted
}

/// Looks at the rate; whoever is first does. Two at the same time do no harm: the second finds a window that just began.
#[cold]
fn adapt(control: &Control, at: i64, exhausted: bool) {
    let now = raw::clock_ns();
    let began = control.window_ns.load(Ordering::Relaxed);
    let elapsed = now.saturating_sub(began);
    let stride = control.stride.load(Ordering::Relaxed);
    let next = sampling::next_stride(stride, control.drawn.load(Ordering::Relaxed), elapsed, exhausted);
    if elapsed < sampling::WINDOW_NS && next == stride {
        if !exhausted {
            // Only the clocks disagree.
            control.window_us.store(at, Ordering::Relaxed);
        }
        return;
    }
    if control.window_ns.compare_exchange(began, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        control.drawn.store(0, Ordering::Relaxed);
        control.stride.store(next, Ordering::Relaxed);
        control.window_us.store(at, Ordering::Relaxed);
    }
}

/// The hash of a value's text; never 0, which stands for "not known".
pub fn hash(memory: &Memory, value: &[u8]) -> u32 {
    let mut hasher = DefaultHasher::new();
    for word in memory.traces.control().key {
        hasher.write_u64(word);
    }
    hasher.write(value);
    (hasher.finish() as u32).max(1)
}

/// Keeps a transaction.
pub fn push(memory: &Memory, record: &Record) {
    if memory.traces.capacity > 0 && !memory.traces.ring.push(record) {
        memory.traces.control().dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A statement of a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// As in `perf.statements()`.
    pub queryid: u64,
    /// Whether a client sent it, rather than a function.
    pub toplevel: bool,
    /// Hashes of the values of `$1`, `$2`, ... of its normalised text, parameters first, then literals in their order.
    /// Values whose text is the same have the same hash, whatever their type. None: NULL, too long, or not known; the
    /// parameters of failed and utility statements are not. Variables of PL/pgSQL are no parameters of the text.
    pub values: Vec<Option<u64>>,
}

/// The name of a record's application.
pub fn application(record: &Record) -> String {
    let len = record.application.iter().position(|&byte| byte == 0).unwrap_or(NAME);
    String::from_utf8_lossy(&record.application[..len]).into_owned()
}

/// A record's statements.
pub fn steps(record: &Record) -> Vec<Step> {
    let mut words = record.words.get(..usize::from(record.words_len)).unwrap_or(&record.words);
    let mut steps = Vec::new();
    while let [low, high, shape, rest @ ..] = words {
        let len = ((shape & !TOPLEVEL) as usize).min(rest.len());
        let (values, rest) = rest.split_at(len);
        steps.push(Step {
            queryid: u64::from(*low) | u64::from(*high) << 32,
            toplevel: shape & TOPLEVEL != 0,
            values: values.iter().map(|&hash| (hash != 0).then_some(u64::from(hash))).collect(),
        });
        words = rest;
    }
    steps
}

/// Shows `each` the transactions kept of a database, oldest first.
pub fn read(dbid: u32, mut each: impl FnMut(&Record)) {
    let Some(memory) = get_ref().filter(|memory| memory.traces.capacity > 0) else { return };
    memory.traces.ring.read(0, |_, record| {
        if record.dbid == dbid {
            each(record);
        }
    });
}

/// Forgets the transactions that are kept, of all databases or of one. After all, the next ones are kept as the first ones
/// of a server are.
pub fn reset(memory: &Memory, dbid: Option<u32>) {
    if memory.traces.capacity == 0 {
        return;
    }
    memory.traces.ring.forget(|record| dbid.is_none_or(|dbid| record.dbid == dbid));
    if dbid.is_none() {
        let control = memory.traces.control();
        control.window_ns.store(raw::clock_ns(), Ordering::Relaxed);
        control.drawn.store(0, Ordering::Relaxed);
        control.paid_until_ns.store(0, Ordering::Relaxed);
        control.stride.store(1, Ordering::Relaxed);
    }
}

/// A row of `perf.health()`.
pub fn health(memory: &Memory) -> HealthRow {
    let Traces { ring, capacity, .. } = memory.traces;
    if capacity == 0 {
        let detail = "none is kept: perf_opt.transaction_samples = 0".to_owned();
        return HealthRow { component: "transaction_samples", status: 0, detail, value: 0.0 };
    }
    let control = memory.traces.control();
    let kept = ring.pushed().min(capacity as u64);
    let stride = control.stride.load(Ordering::Relaxed);
    let dropped = control.dropped.load(Ordering::Relaxed);
    HealthRow {
        component: "transaction_samples",
        status: 0,
        detail: format!(
            "{kept} of {capacity} places used, one of {stride} transactions is kept, {dropped} were dropped"
        ),
        value: kept as f64,
    }
}

//! Shared memory: what it holds, how large it is, and the one lock array. Its size is fixed at server start.
//!
//! Who locks what:
//! - `statements`: a lock for each partition of the table, one for the `(other)` rows.
//! - `slab`: an owner word for each backend's slab; one lock (`drain`) that readers take around draining all of them.
//! - `slow_ring` and `traces`: rings with a sequence word for each slot, no lock. `written`: single words.
//! - `text`: lock-free lists of free blocks; a chain belongs to its entry and is guarded by the entry's partition.
//! - `watch` and `changes`: an area and a lock of its own each, taken for nothing else. `moves`, `reads` and `cache_stats`: areas of their own, no lock.
//! - `applications`: a lock for identities and what moves between areas; none to count.
//!
//! Order: drain, partition, other, and drain, applications. No slab is owned while a lock is waited for.

pub mod applications;
pub mod cache_stats;
pub mod changes;
pub mod moves;
pub mod reads;
pub mod ring;
pub mod samples;
pub mod slab;
pub mod slow_ring;
pub mod statements;
pub mod survey;
pub mod table;
pub mod text;
pub mod traces;
pub mod watch;
pub mod written;

use crate::error::Error;
use crate::guc;
use crate::pg::local::ProcessLocal;
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use pgrx::pg_sys;

const NAME: &CStr = c"perf_opt";

/// Counters of the whole instance and the heads of the free lists.
#[repr(C)]
pub struct Header {
    /// 1 after a panic in a hook: nothing more is captured until the server restarts.
    pub disabled: AtomicU32,
    pub panics: AtomicU64,
    /// Statements that lost their entry to another.
    pub evictions: AtomicU64,
    /// Executions that were added to (other) because their statement had no entry (any more).
    pub folded: AtomicU64,
    /// Statements nested deeper than frames are kept; their time counts for the statement around them.
    pub too_deep: AtomicU64,
    /// Slow statements not kept because their slot was being written.
    pub slow_dropped: AtomicU64,
    /// Texts cut or left out because the arena was full.
    pub texts_cut: AtomicU64,
    /// Readers that gave up on a backend that did not let go of its slab.
    pub drain_timeouts: AtomicU64,
    pub free_entries: AtomicU64,
    pub entries_used: AtomicU32,
    pub free_blocks: AtomicU64,
    pub blocks_free: AtomicU32,
    /// Plans captured in the current second: second in the high half, count in the low one.
    pub plan_budget: AtomicU64,
    /// Distinguishes this life of shared memory from the ones before and after.
    pub started_at: i64,
    /// Where the next search for a victim starts, for each partition; guarded by its lock.
    pub hands: [AtomicU32; table::MAX_PARTITIONS],
}

/// Where everything is. Filled once in the postmaster, inherited by every process.
#[derive(Clone, Copy)]
pub struct Memory {
    pub header: *mut Header,
    pub locks: *mut pg_sys::LWLockPadded,
    pub statements: table::Table,
    pub text: text::Arena,
    pub slabs: slab::Slabs,
    pub rings: slow_ring::Rings,
    pub applications: applications::Applications,
    pub traces: traces::Traces,
    pub written: written::Written,
}

static MEMORY: ProcessLocal<Option<Memory>> = ProcessLocal::new(None);

/// The attached memory; `None` when the library was not preloaded.
#[inline(always)]
pub fn get() -> Option<Memory> {
    MEMORY.get()
}

/// A reference without copying, for the hot path.
#[inline(always)]
pub fn get_ref() -> Option<&'static Memory> {
    // SAFETY: written once, before any process that reads it exists.
    unsafe { (*MEMORY.as_ptr()).as_ref() }
}

/// Preloaded, and shared memory attached.
pub fn is_ready() -> bool {
    get_ref().is_some()
}

/// As [`is_ready`], as a result.
pub fn require() -> Result<Memory, Error> {
    get().ok_or(Error::NotPreloaded)
}

impl Memory {
    #[inline(always)]
    pub fn header(&self) -> &'static Header {
        // SAFETY: points into shared memory, which outlives every process; all shared fields are atomics, the others
        // are written before any other process starts.
        unsafe { &*self.header }
    }

    fn lock(&self, index: usize) -> *mut pg_sys::LWLock {
        // SAFETY: index is below LOCKS, the number of locks requested.
        unsafe { &raw mut (*self.locks.add(index)).lock }
    }

    #[inline]
    pub fn partition_lock(&self, partition: usize) -> *mut pg_sys::LWLock {
        self.lock(partition)
    }

    pub fn other_lock(&self) -> *mut pg_sys::LWLock {
        self.lock(table::MAX_PARTITIONS)
    }

    pub fn drain_lock(&self) -> *mut pg_sys::LWLock {
        self.lock(table::MAX_PARTITIONS + 1)
    }

    pub fn applications_lock(&self) -> *mut pg_sys::LWLock {
        self.lock(table::MAX_PARTITIONS + 2)
    }
}

const LOCKS: usize = table::MAX_PARTITIONS + 3;

/// Sizes of the parts, each a multiple of a cache line.
struct Sizes {
    header: usize,
    statements: usize,
    text: usize,
    slabs: usize,
    rings: usize,
    applications: usize,
    traces: usize,
    written: usize,
}

impl Sizes {
    fn now() -> Sizes {
        let statements = guc::max_statements();
        Sizes {
            header: line(size_of::<Header>()),
            statements: line(table::Table::bytes(statements)),
            text: line(text::Arena::bytes(statements)),
            slabs: line(slab::Slabs::bytes(max_backends())),
            rings: line(slow_ring::Rings::bytes()),
            applications: line(applications::Applications::bytes(max_backends())),
            traces: line(traces::Traces::bytes()),
            written: line(written::Written::bytes()),
        }
    }

    fn total(&self) -> usize {
        let Sizes { header, statements, text, slabs, rings, applications, traces, written } = self;
        header + statements + text + slabs + rings + applications + traces + written
    }
}

fn line(bytes: usize) -> usize {
    bytes.next_multiple_of(64)
}

/// The place of this backend among all that the server can have; `None` for a process that is none.
pub fn backend_index() -> Option<usize> {
    // SAFETY: plain reads of process globals; the pointer is into the array.
    unsafe {
        let (mine, all) = (pg_sys::MyProc, pg_sys::ProcGlobal.as_ref()?.allProcs);
        (!mine.is_null()).then(|| (mine as usize).wrapping_sub(all as usize) / size_of::<pg_sys::PGPROC>())
    }
}

fn max_backends() -> usize {
    // SAFETY: set before shmem_request_hook runs.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

/// Asks for the memory and the locks; from shmem_request_hook.
pub fn request() {
    let total = Sizes::now().total();
    // SAFETY: called from shmem_request_hook, the one place where both are allowed.
    unsafe {
        pg_sys::RequestAddinShmemSpace(total);
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), LOCKS as i32);
    }
    watch::request();
    moves::request();
    cache_stats::request();
    reads::request();
    changes::request();
}

/// Attaches the memory and, the first time, initialises it; from shmem_startup_hook.
pub fn startup() {
    let sizes = Sizes::now();
    let mut found = false;
    // SAFETY: called from shmem_startup_hook; ShmemInitStruct gives `total` bytes, cache-line aligned, or raises.
    let base: *mut u8 = unsafe { pg_sys::ShmemInitStruct(NAME.as_ptr(), sizes.total(), &mut found) }.cast();
    // SAFETY: each offset stays inside the area; the tranche was requested under this name.
    let memory = unsafe {
        let statements = base.add(sizes.header);
        let text = statements.add(sizes.statements);
        let slabs = text.add(sizes.text);
        let rings = slabs.add(sizes.slabs);
        let applications = rings.add(sizes.rings);
        let traces = applications.add(sizes.applications);
        let written = traces.add(sizes.traces);
        Memory {
            header: base.cast(),
            locks: pg_sys::GetNamedLWLockTranche(NAME.as_ptr()),
            statements: table::Table::at(statements, guc::max_statements()),
            text: text::Arena::at(text, guc::max_statements()),
            slabs: slab::Slabs::at(slabs, max_backends()),
            rings: slow_ring::Rings::at(rings),
            applications: applications::Applications::at(applications, max_backends()),
            traces: traces::Traces::at(traces),
            written: written::Written::at(written),
        }
    };
    if !found {
        // SAFETY: nobody else sees the area yet; all-zero bytes are valid for every part.
        unsafe {
            core::ptr::write_bytes(base, 0, sizes.total());
            (*memory.header).started_at = pg_sys::GetCurrentTimestamp();
        }
        memory.statements.init(memory.header());
        memory.text.init(memory.header());
        memory.traces.init();
        log_size(&sizes);
    }
    MEMORY.set(Some(memory));
    watch::startup();
    moves::startup();
    cache_stats::startup();
    reads::startup();
    changes::startup();
}

fn log_size(sizes: &Sizes) {
    let kib = |bytes: usize| bytes.div_ceil(1024);
    pgrx::log!(
        "perf_opt: shared memory {} kB, fixed: {} statements {} kB, texts and samples {} kB, {} backend slabs {} kB, slow statements {} kB, applications {} kB, transactions {} kB",
        kib(sizes.total()),
        guc::max_statements(),
        kib(sizes.statements),
        kib(sizes.text),
        max_backends(),
        kib(sizes.slabs),
        kib(sizes.rings),
        kib(sizes.applications),
        kib(sizes.traces + sizes.written)
    );
}

/// One row of `perf.health()`.
pub struct HealthRow {
    pub component: &'static str,
    /// 0 ok, 1 warning, 2 error.
    pub status: u8,
    pub detail: String,
    pub value: f64,
}

/// What shared memory knows of its own state.
pub fn health() -> Vec<HealthRow> {
    let Some(memory) = get_ref() else {
        return vec![HealthRow {
            component: "capture",
            status: 2,
            detail: "not preloaded: add shared_preload_libraries = 'perf_opt' to postgresql.conf and restart"
                .to_owned(),
            value: 0.0,
        }];
    };
    let header = memory.header();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let disabled = header.disabled.load(Ordering::Relaxed) != 0;
    let capture = if disabled {
        (2, "stopped after an internal fault; restart the server and report the log".to_owned())
    } else if guc::track() == guc::Track::None {
        (1, "off: perf_opt.track = none".to_owned())
    } else if !query_ids_computed() {
        (1, "off: compute_query_id = off; set it to auto or on".to_owned())
    } else {
        (0, "on".to_owned())
    };
    let row = |component, status, detail: String, value| HealthRow { component, status, detail, value };
    let used = f64::from(header.entries_used.load(Ordering::Relaxed));
    let evictions = load(&header.evictions);
    let free = f64::from(header.blocks_free.load(Ordering::Relaxed));
    let arena = 100.0 * (1.0 - free / memory.text.blocks as f64);
    let warn_if = |value: f64| u8::from(value > 0.0);
    let mut rows = vec![
        row("capture", capture.0, capture.1, f64::from(u8::from(capture.0 == 0))),
        row("statements", 0, format!("{used:.0} of {} entries used", memory.statements.entries), used),
        row("evictions", 0, "statements whose totals moved to (other) since start".to_owned(), evictions),
        row("folded", 0, "executions counted in (other) only".to_owned(), load(&header.folded)),
        row(
            "text_arena",
            u8::from(arena > 95.0),
            "percent of the arena for texts and samples in use".to_owned(),
            arena,
        ),
        row(
            "texts_cut",
            warn_if(load(&header.texts_cut)),
            "texts cut because the arena was full".to_owned(),
            load(&header.texts_cut),
        ),
        row(
            "slow_dropped",
            warn_if(load(&header.slow_dropped)),
            "slow statements not kept".to_owned(),
            load(&header.slow_dropped),
        ),
        row(
            "too_deep",
            warn_if(load(&header.too_deep)),
            "statements nested too deeply to be kept apart".to_owned(),
            load(&header.too_deep),
        ),
        row(
            "drain_timeouts",
            warn_if(load(&header.drain_timeouts)),
            "times a backend's share could not be read".to_owned(),
            load(&header.drain_timeouts),
        ),
        row(
            "capture_faults",
            if load(&header.panics) > 0.0 { 2 } else { 0 },
            "internal faults in capture".to_owned(),
            load(&header.panics),
        ),
    ];
    rows.extend(applications::health(memory));
    rows.push(traces::health(memory));
    rows
}

fn query_ids_computed() -> bool {
    // SAFETY: a plain read of a setting's variable.
    unsafe { pg_sys::compute_query_id != pg_sys::ComputeQueryIdType::COMPUTE_QUERY_ID_OFF as i32 }
}

/// A lock-free list of free cells, numbered from 0; `next` gives the word that links a cell. The head carries a count
/// of changes, so that a cell that went and came back between two reads is noticed.
pub struct FreeList<'a, F: Fn(u32) -> &'a AtomicU32> {
    pub head: &'a AtomicU64,
    pub next: F,
}

/// "No cell", in heads and links alike; a link holds the number + 1.
pub const NONE: u32 = 0;

impl<'a, F: Fn(u32) -> &'a AtomicU32> FreeList<'a, F> {
    /// Takes a cell.
    pub fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let cell = (head as u32).checked_sub(1)?;
            let next = (self.next)(cell).load(Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, tagged(head, next), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(cell),
                Err(now) => head = now,
            }
        }
    }

    /// Gives a cell back.
    pub fn push(&self, cell: u32) {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            (self.next)(cell).store(head as u32, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, tagged(head, cell + 1), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}

fn tagged(head: u64, link: u32) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | u64::from(link)
}

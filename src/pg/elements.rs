//! What a GIN index would find inside the values of a key: reads some blocks of the table, asks the operator class for the
//! keys of each row and extrapolates. Statistics do not say it: they hold no keys of jsonb or trigrams, and of words and array
//! elements only the common ones.
//!
//! Locks the table in ACCESS SHARE for the time of one call and never waits for that lock; reads at most [`BLOCKS_MAX`]
//! blocks. Runs the operator class's own support function and, for an expression, functions of superusers only.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ptr;

use perf_core::index::size::gin::{self, Group};
use pgrx::{pg_sys, PgMemoryContexts};

use super::evaluate::{self, Evaluator};
use super::planner;
use super::relation;

/// Blocks read, at most.
const BLOCKS_MAX: u32 = 400;
/// Rows looked at, at most; a block once begun is finished.
const ROWS_MAX: u32 = 10_000;
/// Keys counted, at most; a block once begun is finished.
const KEYS_MAX: u64 = 400_000;

/// What to look for.
pub struct Search {
    /// The table.
    pub relation: pg_sys::Oid,
    /// The key over range table entry 1, in the table's own column numbers.
    pub key: *mut pg_sys::Node,
    /// The index's predicate in the same way; NULL for none.
    pub predicate: *mut pg_sys::Node,
    /// The key's type.
    pub type_oid: pg_sys::Oid,
    /// GIN operator class.
    pub class: pg_sys::Oid,
    /// Collation.
    pub collation: pg_sys::Oid,
    /// Whether the index has several columns.
    pub several: bool,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Elements {
    /// Keys by how many rows they occur in, of the whole table.
    pub groups: Vec<Group>,
    /// Bytes of an index tuple of one key without its rows.
    pub key_bytes: f64,
}

/// Samples the table; None when it is locked, empty, not a heap, or something raises an ERROR.
pub fn sample(search: &Search) -> Option<Elements> {
    // SAFETY: inside a subtransaction that is rolled back, which releases lock, snapshot and buffers on every path.
    planner::with_catalog_path(|| unsafe {
        evaluate::restrict();
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        if !pg_sys::ConditionalLockRelationOid(search.relation, lock) {
            return None;
        }
        let table = pg_sys::try_relation_open(search.relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        if table.is_null() {
            return None;
        }
        let is_heap = (*table).rd_tableam == pg_sys::GetHeapamTableAmRoutine();
        let trusted = evaluate::is_trusted(search.key) && evaluate::is_trusted(search.predicate);
        let found =
            if is_heap && trusted { Counter::new(table, search).and_then(|counter| counter.run(table)) } else { None };
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    })
    .flatten()
}

/// How a key is stored.
struct Stored {
    length: i16,
    by_value: bool,
}

struct Counter<'a> {
    search: &'a Search,
    key: Evaluator,
    predicate: Option<Evaluator>,
    extract: Box<pg_sys::FmgrInfo>,
    stored: Stored,
    /// Rows that each distinct key occurs in, and the last of them.
    seen: HashMap<u64, (u32, u32)>,
    rows: u32,
    keys: u64,
    key_bytes: f64,
}

impl<'a> Counter<'a> {
    /// # Safety
    /// The table is open.
    unsafe fn new(table: pg_sys::Relation, search: &'a Search) -> Option<Self> {
        let class = relation::opclass(search.class)?;
        let function = relation::support(class.family, class.input, pg_sys::GIN_EXTRACTVALUE_PROC as i16)?;
        let stored_type = match class.stored {
            pg_sys::InvalidOid => class.input,
            // SAFETY: a syscache lookup.
            pg_sys::ANYELEMENTOID => unsafe { pg_sys::get_base_element_type(search.type_oid) },
            other => other,
        };
        // SAFETY: the descriptor is the open table's; out-parameters live through the call.
        unsafe {
            let descriptor = pg_sys::CreateTupleDescCopy((*table).rd_att);
            let (mut length, mut by_value, mut align) = (0, false, 0);
            pg_sys::get_typlenbyvalalign(stored_type, &mut length, &mut by_value, &mut align);
            let mut extract = Box::new(pg_sys::FmgrInfo::default());
            pg_sys::fmgr_info(function, &raw mut *extract);
            Some(Counter {
                search,
                key: Evaluator::new(descriptor, search.key),
                predicate: (!search.predicate.is_null()).then(|| Evaluator::new(descriptor, search.predicate)),
                extract,
                stored: Stored { length, by_value },
                seen: HashMap::new(),
                rows: 0,
                keys: 0,
                key_bytes: 0.0,
            })
        }
    }

    /// # Safety
    /// The table is open.
    unsafe fn run(mut self, table: pg_sys::Relation) -> Option<Elements> {
        // SAFETY: each scan is ended before the next begins; what a row allocates is in a context of its own, reset after it.
        unsafe {
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
            let wanted = blocks.min(BLOCKS_MAX);
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let mut row_context = PgMemoryContexts::new("perf_opt sampled row");
            let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
            let mut read = 0;
            while read < wanted && self.rows < ROWS_MAX && self.keys < KEYS_MAX {
                pgrx::check_for_interrupts!();
                let block = spread(read, blocks);
                let scan = pg_sys::heap_beginscan(
                    table,
                    pg_sys::GetActiveSnapshot(),
                    0,
                    ptr::null_mut(),
                    ptr::null_mut(),
                    flags,
                );
                pg_sys::heap_setscanlimits(scan, block, 1);
                loop {
                    let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                    if tuple.is_null() {
                        break;
                    }
                    let before = row_context.set_as_current();
                    self.add(tuple);
                    pg_sys::MemoryContextSwitchTo(before.value());
                    row_context.reset();
                }
                pg_sys::heap_endscan(scan);
                read += 1;
            }
            pg_sys::PopActiveSnapshot();
            if self.seen.is_empty() || read == 0 {
                return None;
            }
            let counts: Vec<u32> = self.seen.values().map(|(count, _)| *count).collect();
            let groups = gin::extrapolate(&counts, f64::from(blocks) / f64::from(read));
            Some(Elements { groups, key_bytes: self.key_bytes / self.seen.len() as f64 })
        }
    }

    /// # Safety
    /// `tuple` is a row of the table, alive.
    unsafe fn add(&mut self, tuple: pg_sys::HeapTuple) {
        self.rows += 1;
        // SAFETY: as promised; the extracting function takes a value of the key's type and two out-parameters, and returns an
        // array with as many keys as it says, each of the stored type.
        unsafe {
            if let Some(predicate) = &self.predicate {
                predicate.set_row(tuple);
                if predicate.value().is_none_or(|value| value.value() == 0) {
                    return;
                }
            }
            self.key.set_row(tuple);
            let Some(value) = self.key.value() else { return self.count(0, 1.0) };
            let (mut count, mut null_flags) = (0i32, ptr::null_mut::<bool>());
            let keys = pg_sys::FunctionCall3Coll(
                &raw mut *self.extract,
                self.search.collation,
                value,
                pg_sys::Datum::from(&raw mut count as usize),
                pg_sys::Datum::from(&raw mut null_flags as usize),
            )
            .cast_mut_ptr::<pg_sys::Datum>();
            if keys.is_null() || count <= 0 {
                return self.count(1, 1.0);
            }
            for at in 0..count as usize {
                if !null_flags.is_null() && *null_flags.add(at) {
                    self.count(2, 1.0);
                } else {
                    let (hash, width) = self.stored.read(*keys.add(at));
                    self.count(hash, width);
                }
            }
        }
    }

    /// Counts a key once a row.
    fn count(&mut self, hash: u64, width: f64) {
        match self.seen.entry(hash) {
            Entry::Occupied(mut known) => {
                let (count, last) = known.get_mut();
                if *last != self.rows {
                    *last = self.rows;
                    *count += 1;
                    self.keys += 1;
                }
            }
            Entry::Vacant(place) => {
                place.insert((1, self.rows));
                self.keys += 1;
                self.key_bytes += gin::key_bytes(width, self.search.several);
            }
        }
    }
}

impl Stored {
    /// A hash of a key and its width in the index.
    ///
    /// # Safety
    /// `key` is of the stored type.
    unsafe fn read(&self, key: pg_sys::Datum) -> (u64, f64) {
        let mut hasher = DefaultHasher::new();
        if self.by_value {
            key.value().hash(&mut hasher);
            return (hasher.finish(), f64::from(self.length));
        }
        // SAFETY: a varlena, a C string or a fixed number of bytes, as the type says.
        let (bytes, width) = unsafe {
            match self.length {
                -1 => {
                    let value = key.cast_mut_ptr::<pg_sys::varlena>();
                    let length = pgrx::varsize_any_exhdr(value);
                    let header = if length < 126 { 1 } else { 4 };
                    (std::slice::from_raw_parts(pgrx::vardata_any(value).cast::<u8>(), length), length + header)
                }
                -2 => {
                    let bytes = std::ffi::CStr::from_ptr(key.cast_mut_ptr()).to_bytes();
                    (bytes, bytes.len() + 1)
                }
                length => {
                    let length = usize::try_from(length).unwrap_or(0);
                    (std::slice::from_raw_parts(key.cast_mut_ptr::<u8>(), length), length)
                }
            }
        };
        bytes.hash(&mut hasher);
        (hasher.finish(), width as f64)
    }
}

/// The `at`-th block to read of `blocks`: whatever the number read, they lie evenly over the table, each at most once.
fn spread(at: u32, blocks: u32) -> u32 {
    if blocks <= BLOCKS_MAX {
        return at;
    }
    // A step near the golden section that shares no factor with the number of blocks.
    let mut step = (f64::from(blocks) * 0.618_033_988_75) as u64 | 1;
    while gcd(step, u64::from(blocks)) != 1 {
        step += 1;
    }
    (u64::from(at) * step % u64::from(blocks)) as u32
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

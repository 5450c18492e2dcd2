//! What a GIN index would find inside the values of a key: reads some blocks of the table, asks the operator class for the
//! keys of each row and extrapolates. Statistics do not say it: they hold no keys of jsonb or trigrams, and of words and array
//! elements only the common ones.
//!
//! Reads and locks as `super::sample` does. Runs the operator class's own support function and, for an expression, functions
//! of superusers only.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::ptr;

use perf_core::index::size::gin::{self, Group};
use pgrx::pg_sys;

use super::evaluate::{self, Evaluator};
use super::{planner, relation, sample};

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
    /// The most frequent keys of a variable-length type, with the share of rows that have them.
    pub common: Vec<(Vec<u8>, f64)>,
    /// Share of rows without a value.
    pub null_share: f64,
    /// Keys a row.
    pub per_row: f64,
}

/// Common keys kept, at most, and in how many sampled rows they occur at least.
const COMMON_MAX: usize = 1_000;
const COMMON_ROWS_MIN: u32 = 3;
/// Longer keys are counted and not kept.
const KEPT_BYTES_MAX: usize = 256;

/// Samples the table; None when it is locked, empty, not a heap, not to be read, or something raises an ERROR.
pub fn sample(search: &Search) -> Option<Elements> {
    // SAFETY: inside a subtransaction that is rolled back.
    planner::with_catalog_path(|| unsafe {
        evaluate::restrict();
        if !evaluate::is_trusted(search.key) || !evaluate::is_trusted(search.predicate) {
            return None;
        }
        sample::with_table(search.relation, &[search.key, search.predicate], |table| {
            Counter::new(table, search)?.run(table)
        })
    })
    .flatten()
}

/// How values of a type are stored.
pub struct Stored {
    length: i16,
    by_value: bool,
}

/// One distinct key.
struct Seen {
    /// Rows that have it.
    count: u32,
    /// The last of them.
    last: u32,
    /// Itself, when it is of variable length.
    bytes: Option<Vec<u8>>,
}

struct Counter<'a> {
    search: &'a Search,
    key: Evaluator,
    predicate: Option<Evaluator>,
    extract: Box<pg_sys::FmgrInfo>,
    stored: Stored,
    seen: HashMap<u64, Seen>,
    rows: u32,
    nulls: u32,
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
            let descriptor = pg_sys::CreateTupleDescCopyConstr((*table).rd_att);
            let mut extract = Box::new(pg_sys::FmgrInfo::default());
            pg_sys::fmgr_info(function, &raw mut *extract);
            Some(Counter {
                search,
                key: Evaluator::new(descriptor, search.key),
                predicate: (!search.predicate.is_null()).then(|| Evaluator::new(descriptor, search.predicate)),
                extract,
                stored: Stored::of(stored_type)?,
                seen: HashMap::new(),
                rows: 0,
                nulls: 0,
                keys: 0,
                key_bytes: 0.0,
            })
        }
    }

    /// # Safety
    /// The table is open.
    unsafe fn run(mut self, table: pg_sys::Relation) -> Option<Elements> {
        // SAFETY: as promised.
        let read = unsafe {
            sample::rows(table, |tuple| {
                self.add(tuple);
                self.keys < KEYS_MAX
            })
        };
        if self.seen.is_empty() {
            return None;
        }
        let counts: Vec<u32> = self.seen.values().map(|seen| seen.count).collect();
        let groups = gin::extrapolate(&counts, read.scale);
        let key_bytes = self.key_bytes / self.seen.len() as f64;
        let rows = f64::from(self.rows);
        let mut common: Vec<(Vec<u8>, f64)> = self
            .seen
            .into_values()
            .filter(|seen| seen.count >= COMMON_ROWS_MIN)
            .filter_map(|seen| Some((seen.bytes?, f64::from(seen.count) / rows)))
            .collect();
        common.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        common.truncate(COMMON_MAX);
        Some(Elements {
            groups,
            key_bytes,
            common,
            null_share: f64::from(self.nulls) / rows,
            per_row: self.keys as f64 / rows,
        })
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
            let Some(value) = self.key.value() else {
                self.nulls += 1;
                return self.count(0, 1.0, None);
            };
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
                return self.count(1, 1.0, None);
            }
            for at in 0..count as usize {
                if !null_flags.is_null() && *null_flags.add(at) {
                    self.count(2, 1.0, None);
                } else {
                    let (hash, width, bytes) = self.stored.read(*keys.add(at));
                    self.count(hash, width, bytes);
                }
            }
        }
    }

    /// Counts a key once a row.
    fn count(&mut self, hash: u64, width: f64, bytes: Option<&[u8]>) {
        match self.seen.entry(hash) {
            Entry::Occupied(mut known) => {
                let seen = known.get_mut();
                if seen.last != self.rows {
                    seen.last = self.rows;
                    seen.count += 1;
                    self.keys += 1;
                }
            }
            Entry::Vacant(place) => {
                place.insert(Seen {
                    count: 1,
                    last: self.rows,
                    bytes: bytes.filter(|bytes| bytes.len() <= KEPT_BYTES_MAX).map(<[u8]>::to_vec),
                });
                self.keys += 1;
                self.key_bytes += gin::key_bytes(width, self.search.several);
            }
        }
    }
}

impl Stored {
    /// Whether a value has more than `bytes_max` bytes, wherever it is stored.
    ///
    /// # Safety
    /// `value` is a value of this type.
    pub unsafe fn is_longer(&self, value: pg_sys::Datum, bytes_max: usize) -> bool {
        // SAFETY: as promised; only the header is read.
        self.length == -1 && unsafe { pg_sys::toast_raw_datum_size(value) } > bytes_max
    }

    /// Of a type; None for pseudo-types.
    pub fn of(type_oid: pg_sys::Oid) -> Option<Self> {
        let (mut length, mut by_value) = (0, false);
        // SAFETY: a syscache lookup.
        unsafe { pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value) };
        (length >= -2 && length != 0).then_some(Stored { length, by_value })
    }

    /// A hash of a value as it lies in a table.
    ///
    /// # Safety
    /// `value` is of the type; what it takes to read it is allocated in the current context.
    pub unsafe fn hash(&self, value: pg_sys::Datum) -> u64 {
        // SAFETY: as promised.
        unsafe {
            let value = match self.length {
                -1 => pg_sys::Datum::from(pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr()) as usize),
                _ => value,
            };
            self.read(value).0
        }
    }

    /// A hash of a key, its width in the index, and the key itself when it is of variable length.
    ///
    /// # Safety
    /// `key` is of the stored type, and the bytes are used while it is alive.
    unsafe fn read<'k>(&self, key: pg_sys::Datum) -> (u64, f64, Option<&'k [u8]>) {
        let mut hasher = DefaultHasher::new();
        if self.by_value {
            key.value().hash(&mut hasher);
            return (hasher.finish(), f64::from(self.length), None);
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
        (hasher.finish(), width as f64, (self.length == -1).then_some(bytes))
    }
}

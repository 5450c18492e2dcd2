//! A query whose answer must belong to the caller's snapshot. The SPI of pgrx takes a new snapshot once the
//! transaction has written something; a reader that adds history and memory needs the one it already has.
//! And statements of perf_opt's own that keep their plans, in a process that runs the same few all the time. Called inside a
//! transaction. Locks what the statement locks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, FromDatum, IntoDatum};

use super::text::Text;
use super::{privilege, raw};

thread_local! {
    /// Plans of the statements run so far, by the address of their text; `None` in a process that keeps none.
    static PLANS: RefCell<Option<HashMap<usize, pg_sys::SPIPlanPtr>>> = const { RefCell::new(None) };
}

/// From now on this process keeps the plan of each statement: for one that runs the same few ones all the time. The
/// server makes a kept plan anew when what it reads has changed.
pub fn keep_plans() {
    PLANS.with_borrow_mut(|plans| *plans = Some(HashMap::new()));
}

/// The kept plan of a statement, made if there is none yet; null in a process that keeps none.
///
/// # Safety
/// Connected to SPI; `types` are those of the statement's parameters, the same at each call.
unsafe fn kept_plan(query: &'static CStr, types: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    let key = query.as_ptr() as usize;
    let known = PLANS.with_borrow(|plans| plans.as_ref().map(|plans| plans.get(&key).copied()));
    match known {
        None => std::ptr::null_mut(),
        Some(Some(plan)) => plan,
        Some(None) => {
            // SAFETY: see the function's contract. A plan that was made is kept once, and lives as long as the process.
            let plan = unsafe {
                let plan = pg_sys::SPI_prepare(query.as_ptr(), types.len() as i32, types.as_mut_ptr());
                if !plan.is_null() {
                    pg_sys::SPI_keepplan(plan);
                }
                plan
            };
            if !plan.is_null() {
                PLANS.with_borrow_mut(|plans| plans.as_mut().and_then(|plans| plans.insert(key, plan)));
            }
            plan
        }
    }
}

/// Runs a SELECT read-only, under the active snapshot, and converts each row by `convert`, which gets the value of a
/// column (counted from 1), or `None` for NULL.
pub fn select_under_snapshot<T>(query: &'static CStr, convert: impl FnMut(&Row) -> Option<T>) -> Vec<T> {
    select_with(query, &[], convert)
}

/// The same with parameters.
pub fn select_with<T>(
    query: &'static CStr,
    arguments: &[DatumWithOid],
    convert: impl FnMut(&Row) -> Option<T>,
) -> Vec<T> {
    execute(query, arguments, true, convert).1
}

/// Runs any statement with parameters, which sees what the transaction has done so far. How many rows it has read or
/// changed, and those it returns, converted. Unlike the SPI of pgrx it makes nobody a writer who only reads: no
/// transaction id is used up by a look.
pub fn run_with<T>(
    statement: &'static CStr,
    arguments: &[DatumWithOid],
    mut convert: impl FnMut(&Row) -> T,
) -> (u64, Vec<T>) {
    execute(statement, arguments, false, |row| Some(convert(row)))
}

thread_local! {
    /// Plans of the statements that every process keeps, by statement and part.
    static PART_PLANS: RefCell<HashMap<(usize, usize), pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// Runs a statement on one of several tables of the same make, with the latest snapshot whatever the transaction goes by, and
/// keeps its plan. `{part}` in the text is the table's number. How many rows it has read or changed, and those it returns.
pub fn run_on_part<T>(
    statement: &'static str,
    part: usize,
    arguments: &[DatumWithOid],
    mut convert: impl FnMut(&Row) -> T,
) -> (u64, Vec<T>) {
    let mut parameters = Parameters::of(arguments);
    let mut found = Vec::new();
    // SAFETY: as in `execute`; the snapshot is copied before anything else takes one.
    unsafe {
        pg_sys::SPI_connect();
        let key = (statement.as_ptr() as usize, part);
        let known = PART_PLANS.with_borrow(|plans| plans.get(&key).copied());
        let plan = known.unwrap_or_else(|| {
            let text = CString::new(statement.replace("{part}", &part.to_string())).unwrap_or_default();
            let types = &mut parameters.types;
            let plan = pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr());
            if !plan.is_null() {
                pg_sys::SPI_keepplan(plan);
                PART_PLANS.with_borrow_mut(|plans| plans.insert(key, plan));
            }
            plan
        });
        pg_sys::SPI_execute_snapshot(
            plan,
            parameters.values.as_mut_ptr(),
            parameters.nulls.as_ptr(),
            pg_sys::GetLatestSnapshot(),
            std::ptr::null_mut(),
            false,
            false,
            0,
        );
        let processed = pg_sys::SPI_processed;
        convert_rows(|row| found.push(convert(row)));
        pg_sys::SPI_finish();
        (processed, found)
    }
}

/// What a statement is called with.
struct Parameters {
    types: Vec<pg_sys::Oid>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<core::ffi::c_char>,
}

impl Parameters {
    fn of(arguments: &[DatumWithOid]) -> Parameters {
        let types = arguments.iter().map(DatumWithOid::oid).collect();
        let (mut values, mut nulls) = (Vec::with_capacity(arguments.len()), Vec::with_capacity(arguments.len()));
        for argument in arguments {
            let value = argument.datum().map(|datum| datum.sans_lifetime());
            nulls.push(if value.is_some() { b' ' } else { b'n' } as core::ffi::c_char);
            values.push(value.unwrap_or(pg_sys::Datum::from(0)));
        }
        Parameters { types, values, nulls }
    }
}

/// # Safety
/// Connected to SPI, after a statement.
unsafe fn convert_rows(mut each: impl FnMut(&Row)) {
    // SAFETY: the table, where there is one, has as many rows as it says.
    unsafe {
        if !pg_sys::SPI_tuptable.is_null() {
            let table = pg_sys::SPI_tuptable;
            for index in 0..(*table).numvals as usize {
                each(&Row { tuple: *(*table).vals.add(index), descriptor: (*table).tupdesc });
            }
        }
    }
}

fn execute<T>(
    query: &'static CStr,
    arguments: &[DatumWithOid],
    read_only: bool,
    mut convert: impl FnMut(&Row) -> Option<T>,
) -> (u64, Vec<T>) {
    let mut found = Vec::new();
    let mut parameters = Parameters::of(arguments);
    let Parameters { types, values, nulls } = &mut parameters;
    // SAFETY: connect and finish enclose all uses of SPI memory; a raised error leaves SPI to the transaction's abort. The
    // three arrays have an element for each parameter.
    unsafe {
        pg_sys::SPI_connect();
        let plan = kept_plan(query, types);
        if plan.is_null() {
            pg_sys::SPI_execute_with_args(
                query.as_ptr(),
                types.len() as i32,
                types.as_mut_ptr(),
                values.as_mut_ptr(),
                nulls.as_ptr(),
                read_only,
                0,
            );
        } else {
            pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), read_only, 0);
        }
        let processed = pg_sys::SPI_processed;
        convert_rows(|row| found.extend(convert(row)));
        pg_sys::SPI_finish();
        (processed, found)
    }
}

/// The row of a table of schema perf whose bigint key has a value, looked up in the index of that key without a parser or
/// planner: for a process that runs hardly anything else. `None` when there is no such row, or no such table.
pub fn row_by_key<T>(table: &CStr, index: &CStr, key: i64, convert: impl FnOnce(&Row) -> T) -> Option<T> {
    // SAFETY: inside a transaction with a snapshot.
    unsafe { first_by_key(table, index, key, pg_sys::GetActiveSnapshot(), convert) }
}

/// What there is of such a row, whoever has made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    None,
    Committed,
    /// Another transaction that is not over has made it, or changes or removes it.
    Pending,
}

/// Whether there is such a row, of a transaction that is not over as well.
pub fn presence_by_key(table: &CStr, index: &CStr, key: i64) -> Presence {
    let mut dirty = pg_sys::SnapshotData { snapshot_type: pg_sys::SnapshotType::SNAPSHOT_DIRTY, ..Default::default() };
    // SAFETY: the snapshot outlives the scan, which writes to it what it meets.
    let found = unsafe { first_by_key(table, index, key, &raw mut dirty, |_| ()) };
    let is_over = |xid| xid == pg_sys::InvalidTransactionId;
    match found {
        None => Presence::None,
        Some(()) if is_over(dirty.xmin) && is_over(dirty.xmax) => Presence::Committed,
        Some(()) => Presence::Pending,
    }
}

/// # Safety
/// Inside a transaction; the snapshot is valid until the return.
unsafe fn first_by_key<T>(
    table: &CStr,
    index: &CStr,
    key: i64,
    snapshot: pg_sys::Snapshot,
    convert: impl FnOnce(&Row) -> T,
) -> Option<T> {
    // SAFETY: relations and the scan are closed in reverse order; a raised error leaves them to the abort. The key's column
    // is the first of the table, of type bigint, as in every table used here; the tuple is read before the scan ends.
    unsafe {
        let (table, index) = (privilege::table(table)?, privilege::table(index)?);
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let mut scan_key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &raw mut scan_key,
            KEY_COLUMN,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_INT8EQ),
            pg_sys::Datum::from(key),
        );
        let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, &raw mut scan_key);
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| convert(&Row { tuple, descriptor: (*relation).rd_att }));
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        found
    }
}

/// An array of bigint as a row has it, for [`rows_by_keys`]: lives as long as the row, or as long as what it was made of.
#[derive(Clone, Copy)]
pub struct Array(pg_sys::Datum);

impl Array {
    /// Made in the current memory context.
    pub fn of(numbers: Vec<i64>) -> Option<Array> {
        numbers.into_datum().map(Array)
    }
}

/// Like [`row_by_key`], for every row that has one of several keys, in one pass through the index.
pub fn rows_by_keys(table: &CStr, index: &CStr, keys: Array, mut each: impl FnMut(&Row)) {
    // SAFETY: a reader's lock; the row is read before the scan goes on.
    unsafe {
        tuples_by_keys(table, index, keys, pg_sys::AccessShareLock, |relation, tuple| {
            each(&Row { tuple, descriptor: (*relation).rd_att });
        });
    }
}

/// The same with the relation, open under a lock of this mode, and the tuple as the scan has it, for the time of one call.
///
/// # Safety
/// The lock allows what `each` does, which leaves the relation and the scan alone.
pub(super) unsafe fn tuples_by_keys(
    table: &CStr,
    index: &CStr,
    keys: Array,
    lock: u32,
    mut each: impl FnMut(pg_sys::Relation, pg_sys::HeapTuple),
) {
    let (Some(table), Some(index)) = (privilege::table(table), privilege::table(index)) else { return };
    // SAFETY: as in `row_by_key`; the key is an array of the column's type, which the flag says and a B-tree can search for.
    unsafe {
        let relation = pg_sys::table_open(table, lock as pg_sys::LOCKMODE);
        let mut scan_key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyEntryInitialize(
            &raw mut scan_key,
            pg_sys::SK_SEARCHARRAY as i32,
            KEY_COLUMN,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::InvalidOid,
            pg_sys::InvalidOid,
            pg_sys::Oid::from(pg_sys::F_INT8EQ),
            keys.0,
        );
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, &raw mut scan_key);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            each(relation, tuple);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, lock as pg_sys::LOCKMODE);
    }
}

/// The first column is the key of every table that [`row_by_key`] reads.
const KEY_COLUMN: i16 = 1;

/// Runs `body` under a snapshot of this moment, whatever snapshot the transaction goes by.
pub fn under_latest_snapshot<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: inside a transaction; the snapshot popped is the one pushed here.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let value = body();
        pg_sys::PopActiveSnapshot();
        value
    }
}

/// Whether this transaction has changed something.
pub fn has_written() -> bool {
    // SAFETY: a plain look-up.
    unsafe { raw::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Whether all statements of this transaction go by the snapshot of its first one.
pub fn keeps_one_snapshot() -> bool {
    // SAFETY: a plain read of a process global.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// The text of a statement that is put together at compile time; its bytes end with NUL.
pub const fn c_text(bytes: &'static [u8]) -> &'static CStr {
    match CStr::from_bytes_with_nul(bytes) {
        Ok(text) => text,
        Err(_) => c"",
    }
}

/// A row of the answer.
pub struct Row {
    pub(super) tuple: pg_sys::HeapTuple,
    pub(super) descriptor: pg_sys::TupleDesc,
}

impl Row {
    /// The value of a column; `T` must be the Rust type of the column's SQL type. What it gives owns its memory.
    pub fn get<T: FromDatum + 'static>(&self, column: i32) -> Option<T> {
        let mut is_null = true;
        // SAFETY: tuple and descriptor are of the same live SPI result; Rust values are copies.
        unsafe {
            let datum = pg_sys::SPI_getbinval(self.tuple, self.descriptor, column, &mut is_null);
            T::from_datum(datum, is_null)
        }
    }

    /// The same of a column by its name; `None` as well where there is no such column.
    pub fn named<T: FromDatum + 'static>(&self, column: &CStr) -> Option<T> {
        // SAFETY: the descriptor is live; only the name is compared.
        let number = unsafe { pg_sys::SPI_fnumber(self.descriptor, column.as_ptr()) };
        if number > 0 {
            self.get(number)
        } else {
            None
        }
    }

    /// An array of bigint, for as long as the row lives.
    pub fn array(&self, column: i32) -> Option<Array> {
        let mut is_null = true;
        // SAFETY: as in `get`.
        let datum = unsafe { pg_sys::SPI_getbinval(self.tuple, self.descriptor, column, &mut is_null) };
        (!is_null).then_some(Array(datum))
    }

    /// Text of a column; empty for NULL.
    pub fn string(&self, column: i32) -> String {
        self.get::<Text>(column).unwrap_or_default().0
    }
}

/// Text as an argument of a statement.
pub fn text(text: &str) -> DatumWithOid<'static> {
    Text(text.to_owned()).into()
}

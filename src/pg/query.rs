//! A query whose answer must belong to the caller's snapshot. The SPI of pgrx takes a new snapshot once the
//! transaction has written something; a reader that adds history and memory needs the one it already has.
//! And statements of perf_opt's own that keep their plans, in a process that runs the same few all the time. Called inside a
//! transaction. Locks what the statement locks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, FromDatum};

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

fn execute<T>(
    query: &'static CStr,
    arguments: &[DatumWithOid],
    read_only: bool,
    mut convert: impl FnMut(&Row) -> Option<T>,
) -> (u64, Vec<T>) {
    let mut found = Vec::new();
    let mut types: Vec<pg_sys::Oid> = arguments.iter().map(DatumWithOid::oid).collect();
    let mut values: Vec<pg_sys::Datum> = Vec::with_capacity(arguments.len());
    let mut nulls: Vec<core::ffi::c_char> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let value = argument.datum().map(|datum| datum.sans_lifetime());
        nulls.push(if value.is_some() { b' ' } else { b'n' } as core::ffi::c_char);
        values.push(value.unwrap_or(pg_sys::Datum::from(0)));
    }
    // SAFETY: connect and finish enclose all uses of SPI memory; a raised error leaves SPI to the transaction's abort. The
    // three arrays have an element for each parameter.
    unsafe {
        pg_sys::SPI_connect();
        let plan = kept_plan(query, &mut types);
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
        if !pg_sys::SPI_tuptable.is_null() {
            let table = pg_sys::SPI_tuptable;
            for index in 0..(*table).numvals as usize {
                let row = Row { tuple: *(*table).vals.add(index), descriptor: (*table).tupdesc };
                if let Some(value) = convert(&row) {
                    found.push(value);
                }
            }
        }
        pg_sys::SPI_finish();
        (processed, found)
    }
}

/// The row of a table of schema perf whose bigint key has a value, looked up in the index of that key without a parser or
/// planner: for a process that runs hardly anything else. `None` when there is no such row, or no such table.
pub fn row_by_key<T>(table: &CStr, index: &CStr, key: i64, convert: impl FnOnce(&Row) -> T) -> Option<T> {
    // SAFETY: inside a transaction with a snapshot. Relations and the scan are closed in reverse order; a raised error
    // leaves them to the abort. The key's column is the first of the table, of type bigint, as in every table used here;
    // the tuple is read before the scan ends.
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
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 1, &raw mut scan_key);
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| convert(&Row { tuple, descriptor: (*relation).rd_att }));
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        found
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

/// A row of the answer.
pub struct Row {
    tuple: pg_sys::HeapTuple,
    descriptor: pg_sys::TupleDesc,
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

    /// Text of a column; empty for NULL.
    pub fn string(&self, column: i32) -> String {
        self.get::<Text>(column).unwrap_or_default().0
    }
}

/// Text as an argument of a statement.
pub fn text(text: &str) -> DatumWithOid<'static> {
    Text(text.to_owned()).into()
}

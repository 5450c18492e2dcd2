//! A query whose answer must belong to the caller's snapshot. The SPI of pgrx takes a new snapshot once the
//! transaction has written something; a reader that adds history and memory needs the one it already has.
//! Called by readers inside a transaction. Locks what the query locks.

use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, FromDatum};

use super::text::Text;

/// Runs a SELECT read-only, under the active snapshot, and converts each row by `convert`, which gets the value of a
/// column (counted from 1), or `None` for NULL.
pub fn select_under_snapshot<T>(query: &CStr, convert: impl FnMut(&Row) -> Option<T>) -> Vec<T> {
    select_with(query, &[], convert)
}

/// The same with parameters.
pub fn select_with<T>(query: &CStr, arguments: &[DatumWithOid], convert: impl FnMut(&Row) -> Option<T>) -> Vec<T> {
    execute(query, arguments, true, convert).1
}

/// Runs any statement with parameters, which sees what the transaction has done so far. How many rows it has read or
/// changed, and those it returns, converted. Unlike the SPI of pgrx it makes nobody a writer who only reads: no
/// transaction id is used up by a look.
pub fn run_with<T>(statement: &CStr, arguments: &[DatumWithOid], mut convert: impl FnMut(&Row) -> T) -> (u64, Vec<T>) {
    execute(statement, arguments, false, |row| Some(convert(row)))
}

fn execute<T>(
    query: &CStr,
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
        pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            types.len() as i32,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            read_only,
            0,
        );
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

    /// Text of a column; empty for NULL.
    pub fn string(&self, column: i32) -> String {
        self.get::<Text>(column).unwrap_or_default().0
    }
}

/// Text as an argument of a statement.
pub fn text(text: &str) -> DatumWithOid<'static> {
    Text(text.to_owned()).into()
}

//! Runs statements that are put together at run time (DDL takes no parameters), inside a transaction. Called by the jobs that
//! make and change tables. Locks what the statement locks. What the server refuses is raised.

use std::ffi::CString;

use pgrx::{pg_sys, FromDatum};

use super::text::DbText;

/// Runs one or more statements; the number of rows that the last of them has changed.
pub fn run(statements: &str) -> u64 {
    let Ok(text) = CString::new(DbText::from_utf8(statements).as_bytes()) else { return 0 };
    // SAFETY: inside a transaction with a snapshot; connect and finish enclose the statement, and a raised error leaves SPI
    // to the abort of the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        let outcome = pg_sys::SPI_execute(text.as_ptr(), false, 0);
        let processed = pg_sys::SPI_processed;
        pg_sys::SPI_finish();
        if outcome < 0 {
            pgrx::error!("perf_opt: a statement cannot be run inside of a transaction ({outcome}): {statements}");
        }
        processed
    }
}

/// The first value of the first row of a query that is put together at run time.
pub fn value<T: FromDatum + 'static>(query: &str) -> Option<T> {
    let text = CString::new(DbText::from_utf8(query).as_bytes()).ok()?;
    // SAFETY: as in `run`; the value is copied before SPI's memory is given back.
    unsafe {
        pg_sys::SPI_connect();
        pg_sys::SPI_execute(text.as_ptr(), false, 1);
        let mut value = None;
        if pg_sys::SPI_processed > 0 && !pg_sys::SPI_tuptable.is_null() {
            let (table, mut is_null) = (pg_sys::SPI_tuptable, true);
            let datum = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &raw mut is_null);
            value = T::from_datum(datum, is_null);
        }
        pg_sys::SPI_finish();
        value
    }
}

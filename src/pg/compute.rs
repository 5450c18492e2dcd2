//! Runs a SELECT as whoever calls and gives its rows as one jsonb: for values that are computed to be cached. Called inside a
//! transaction. Locks what the statement locks; its errors are its own.

use std::ffi::{CStr, CString};

use perf_core::cache::snapshot::Snapshot;
use pgrx::{pg_sys, FromDatum, IntoDatum, PgList};

use super::jsonb::RawJsonb;
use super::text::{DbText, Text};
use super::{ident, snapshot};
use crate::error::Error;

/// What was computed.
pub struct Computed {
    /// One row of one column: its value; else an array of rows.
    pub value: RawJsonb,
    /// What it was computed with.
    pub snapshot: Snapshot,
    /// Others, or another time, would get the same: no volatile function, no row-level security.
    pub is_repeatable: bool,
}

/// Runs a statement whose parameters are texts. `what` says in errors whose statement it is.
pub fn compute(what: &str, sql: &str, parameters: &[String]) -> Result<Computed, Error> {
    let refused = |why: &str| Error::WrongState {
        message: format!("{what} is {why}"),
        hint: "It has to be one SELECT that changes nothing: no INTO, FOR UPDATE or data-modifying WITH.".to_owned(),
    };
    let text = |sql: &str| CString::new(DbText::from_utf8(sql).as_bytes().to_vec()).unwrap_or_default();
    let mut types = vec![pg_sys::TEXTOID; parameters.len()];
    let mut values: Vec<pg_sys::Datum> =
        parameters.iter().filter_map(|value| Text(value.clone()).into_datum()).collect();
    let nulls = vec![b' ' as core::ffi::c_char; values.len()];
    // SAFETY: connect and finish enclose all uses of SPI memory, but for the result, which is copied to where the caller
    // allocates; a raised error leaves all to the abort. The arrays have an element for each parameter.
    unsafe {
        let outer = pg_sys::CurrentMemoryContext;
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let snapshot = snapshot::active();
        pg_sys::SPI_connect();
        let plain = prepared(&text(sql), &mut types);
        let Some(shape) = shape_of(plain) else {
            pg_sys::SPI_finish();
            pg_sys::PopActiveSnapshot();
            return Err(refused("no statement that can be cached"));
        };
        // Without a semicolon and what follows it; on lines of its own, for it may end in a comment.
        let whole = DbText::from_utf8(sql);
        let cut = shape.extent.and_then(|extent| whole.as_bytes().get(extent));
        let sql = cut.map_or_else(|| sql.to_owned(), |bytes| DbText::from_bytes(bytes.to_vec()).to_utf8());
        let one = match &shape.only_column {
            Some(column) => format!(
                "CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) 1 THEN \
                 pg_catalog.jsonb_agg(perf_opt_row.{}) OPERATOR(pg_catalog.->) 0 ELSE",
                ident::quote(column)
            ),
            None => "CASE WHEN false THEN NULL ELSE".to_owned(),
        };
        let wrapped = format!(
            // OFFSET 0: each row is computed once, not once for each place that it is used in.
            "SELECT {one} coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(perf_opt_row)), '[]'::pg_catalog.jsonb) END \
             FROM (SELECT * FROM (\n{sql}\n) AS perf_opt_rows OFFSET 0) AS perf_opt_row"
        );
        let plan = prepared(&text(&wrapped), &mut types);
        pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr(), true, 0);
        let mut is_null = true;
        let table = pg_sys::SPI_tuptable;
        let value = (!table.is_null() && (*table).numvals == 1).then(|| {
            let datum = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
            let inner = pg_sys::MemoryContextSwitchTo(outer);
            let value = RawJsonb::from_datum(datum, is_null).map(RawJsonb::copied);
            pg_sys::MemoryContextSwitchTo(inner);
            value
        });
        let is_repeatable = shape.is_repeatable;
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        let value = value.flatten().ok_or_else(|| refused("a statement without a result"))?;
        Ok(Computed { value, snapshot, is_repeatable })
    }
}

/// # Safety
/// Connected to SPI.
unsafe fn prepared(text: &CStr, types: &mut [pg_sys::Oid]) -> pg_sys::SPIPlanPtr {
    // SAFETY: a NUL-terminated text and as many types as it says.
    unsafe { pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr()) }
}

struct Shape {
    /// The name of its column, if it has one only.
    only_column: Option<String>,
    is_repeatable: bool,
    /// Where in the text the statement is, in bytes of the server's encoding, if something follows it.
    extent: Option<std::ops::Range<usize>>,
}

/// What a prepared statement is; `None` for anything but one SELECT that changes nothing.
///
/// # Safety
/// Connected to SPI; the plan was made since.
unsafe fn shape_of(plan: pg_sys::SPIPlanPtr) -> Option<Shape> {
    if plan.is_null() {
        return None;
    }
    // SAFETY: lists and trees of the server's own, alive as long as the plan.
    unsafe {
        let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
        let source = sources.head().filter(|_| sources.len() == 1)?;
        let queries = PgList::<pg_sys::Query>::from_pg((*source).query_list);
        let query = queries.head().filter(|_| queries.len() == 1)?;
        let is_select = (*query).commandType == pg_sys::CmdType::CMD_SELECT
            && !(*query).hasModifyingCTE
            && (*query).rowMarks.is_null()
            && !(*source).resultDesc.is_null();
        if !is_select {
            return None;
        }
        let descriptor = (*source).resultDesc;
        let only_column = ((*descriptor).natts == 1).then(|| {
            let name = pg_sys::SPI_fname(descriptor, 1);
            ident::owned(name).unwrap_or_default()
        });
        let is_volatile = pg_sys::contain_volatile_functions(query.cast());
        let raw = (*source).raw_parse_tree;
        let extent = (!raw.is_null() && (*raw).stmt_len > 0).then(|| {
            let at = usize::try_from((*raw).stmt_location).unwrap_or(0);
            at..at + usize::try_from((*raw).stmt_len).unwrap_or(0)
        });
        Some(Shape { only_column, extent, is_repeatable: !is_volatile && !(*source).dependsOnRLS })
    }
}

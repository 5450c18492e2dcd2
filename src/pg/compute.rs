//! Runs a SELECT as whoever calls and gives its rows as one jsonb: for values that are computed to be cached. Called inside a
//! transaction. Locks what the statement locks; its errors are its own.

use std::ffi::{CStr, CString};

use perf_core::cache::snapshot::Snapshot;
use perf_core::fnv::fnv1a;
use pgrx::{pg_sys, FromDatum, IntoDatum, PgList};

use super::jsonb::RawJsonb;
use super::parameter_types::{self, Cast};
use super::text::{DbText, Text};
use super::{ident, snapshot, statement_shape};
use crate::error::Error;

/// What was computed.
pub struct Computed {
    /// One row of one column: its value; else an array of rows.
    pub value: RawJsonb,
    /// What it was computed with.
    pub snapshot: Snapshot,
}

/// What a statement means for this session: what its names stand for, and what its literals were read as. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meaning {
    /// Hash of the statement as analysed and rewritten, with the OIDs of all that it names, and of the surroundings.
    pub statement: i64,
    /// Hash of the session's search_path, and of the settings that values are read and printed by.
    pub surroundings: i64,
}

/// Settings that functions of the server's own go by which are allowed in a statement whose result is kept.
const READ_AND_PRINTED_BY: [&CStr; 16] = [
    c"DateStyle",
    c"IntervalStyle",
    c"TimeZone",
    c"timezone_abbreviations",
    c"extra_float_digits",
    c"bytea_output",
    c"lc_monetary",
    c"lc_numeric",
    c"lc_time",
    c"default_text_search_config",
    c"xmlbinary",
    c"xmloption",
    c"array_nulls",
    c"quote_all_identifiers",
    c"standard_conforming_strings",
    c"backslash_quote",
];
/// Schemas of a search_path that are told apart.
const SCHEMAS_MAX: usize = 64;

/// The session's search_path, and what it reads and prints values by, as a hash.
pub fn surroundings() -> i64 {
    let mut schemas = [pg_sys::InvalidOid; SCHEMAS_MAX];
    // SAFETY: the array has as many elements as it says.
    let count = unsafe { pg_sys::fetch_search_path_array(schemas.as_mut_ptr(), SCHEMAS_MAX as i32) };
    let mut bytes = count.to_le_bytes().to_vec();
    bytes.extend(schemas.iter().flat_map(|schema| schema.to_u32().to_le_bytes()));
    for name in READ_AND_PRINTED_BY {
        // SAFETY: a look-up by a NUL-terminated name that gives NULL or a text, copied at once.
        unsafe {
            let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
            if !value.is_null() {
                bytes.extend_from_slice(CStr::from_ptr(value).to_bytes());
            }
        }
        bytes.push(0);
    }
    hash(&bytes)
}

fn hash(bytes: &[u8]) -> i64 {
    match fnv1a(bytes.iter().copied()) as i64 {
        0 => 1,
        hash => hash,
    }
}

/// What is known of a statement before it runs.
pub struct Analysed {
    /// What it means here, if everybody who means the same would get the same: `None` where its result depends on who asks,
    /// on the session or on chance. A result that depends on the time counts: it only ages.
    pub meaning: Option<Meaning>,
    /// What each parameter is cast to, where it is used as that alone.
    pub casts: Vec<Option<Cast>>,
}

/// Analyses a statement whose parameters are texts.
pub fn analysed(sql: &str, parameters: usize) -> Analysed {
    // SAFETY: connect and finish enclose all uses of SPI memory; a raised error leaves all to the abort.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::SPI_connect();
        let plan = prepared(sql, parameters);
        let casts = only_source(plan).map(|source| parameter_types::of_parameters((*source).query_list, parameters));
        let analysed = Analysed { meaning: meaning_of(plan), casts: casts.unwrap_or_default() };
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        analysed
    }
}

/// # Safety
/// Connected to SPI; the plan was made since.
unsafe fn meaning_of(plan: pg_sys::SPIPlanPtr) -> Option<Meaning> {
    // SAFETY: lists and trees of the server's own, alive as long as the plan; what is printed of them is copied at once.
    unsafe {
        let source = only_source(plan)?;
        let depends = statement_shape::dependence((*source).query_list, (*source).relationOids);
        let is_repeatable = !(*source).dependsOnRLS
            && !depends.row_security
            && !depends.any_volatile
            && !depends.volatile
            && !depends.session
            && !depends.own_changing
            && depends.unknown_stable.is_none()
            && !depends.temporary
            && !depends.catalogs;
        if !is_repeatable {
            return None;
        }
        let surroundings = surroundings();
        let printed = ident::owned(pg_sys::nodeToString((*source).query_list.cast()))?;
        let mut bytes = printed.into_bytes();
        bytes.extend(surroundings.to_le_bytes());
        Some(Meaning { statement: hash(&bytes), surroundings })
    }
}

/// Runs a statement whose parameters are texts. `what` says in errors whose statement it is.
pub fn compute(what: &str, sql: &str, parameters: &[String]) -> Result<Computed, Error> {
    let refused = |why: &str| Error::WrongState {
        message: format!("{what} is {why}"),
        hint: "It has to be one SELECT that changes nothing: no INTO, FOR UPDATE or data-modifying WITH.".to_owned(),
    };
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
        let plain = prepared(sql, parameters.len());
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
        let plan = prepared(&wrapped, parameters.len());
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
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        let value = value.flatten().ok_or_else(|| refused("a statement without a result"))?;
        Ok(Computed { value, snapshot })
    }
}

/// A statement whose parameters are texts, parsed and analysed.
///
/// # Safety
/// Connected to SPI.
unsafe fn prepared(sql: &str, parameters: usize) -> pg_sys::SPIPlanPtr {
    let text = CString::new(DbText::from_utf8(sql).as_bytes().to_vec()).unwrap_or_default();
    let mut types = vec![pg_sys::TEXTOID; parameters];
    // SAFETY: a NUL-terminated text and as many types as it says.
    unsafe { pg_sys::SPI_prepare(text.as_ptr(), types.len() as i32, types.as_mut_ptr()) }
}

/// The statement of a plan; `None` where there is none, or more than one.
///
/// # Safety
/// Connected to SPI; the plan is null or was made since.
unsafe fn only_source(plan: pg_sys::SPIPlanPtr) -> Option<*mut pg_sys::CachedPlanSource> {
    if plan.is_null() {
        return None;
    }
    // SAFETY: a list of the server's own, alive as long as the plan.
    let sources = unsafe { PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan)) };
    sources.head().filter(|_| sources.len() == 1)
}

struct Shape {
    /// The name of its column, if it has one only.
    only_column: Option<String>,
    /// Where in the text the statement is, in bytes of the server's encoding, if something follows it.
    extent: Option<std::ops::Range<usize>>,
}

/// What a prepared statement is; `None` for anything but one SELECT that changes nothing.
///
/// # Safety
/// Connected to SPI; the plan was made since.
unsafe fn shape_of(plan: pg_sys::SPIPlanPtr) -> Option<Shape> {
    // SAFETY: lists and trees of the server's own, alive as long as the plan.
    unsafe {
        let source = only_source(plan)?;
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
        let raw = (*source).raw_parse_tree;
        let extent = (!raw.is_null() && (*raw).stmt_len > 0).then(|| {
            let at = usize::try_from((*raw).stmt_location).unwrap_or(0);
            at..at + usize::try_from((*raw).stmt_len).unwrap_or(0)
        });
        Some(Shape { only_column, extent })
    }
}

//! Whether a text is one SELECT that changes nothing, as far as its text says. Called when a statement is marked for the
//! prewarm job, inside a transaction. Locks what analysing a statement locks.

use std::ffi::CString;
use std::ptr;

use pgrx::{pg_sys, PgList};

use super::background;
use super::text::DbText;
use crate::compat;
use crate::error::Error;

/// The queryid of a text that is one SELECT without parameters, FOR UPDATE, INTO and data-modifying WITH; 0 when the server
/// computes none. Raises what the server says of a text that is not SQL, or that names what does not exist.
pub fn check(argument: &'static str, text: &str) -> Result<u64, Error> {
    let refused = |value: &str| Error::InvalidArgument {
        argument,
        value: value.to_owned(),
        accepted: "One SELECT that changes nothing: no INTO, FOR UPDATE, parameters or data-modifying WITH.".to_owned(),
    };
    let text = CString::new(DbText::from_utf8(text).as_bytes()).map_err(|_| refused("text with a zero byte"))?;
    // SAFETY: parses and analyses in the current memory context, as for a client's statement; a snapshot is active inside
    // a function; the trees are the server's own and valid.
    unsafe {
        let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(text.as_ptr()));
        let raw = match (statements.len(), statements.head()) {
            (1, Some(raw)) => raw,
            (count, _) => return Err(refused(&format!("{count} statements"))),
        };
        if (*(*raw).stmt).type_ != pg_sys::NodeTag::T_SelectStmt {
            return Err(refused("a statement that is no SELECT"));
        }
        background::check_for_interrupts();
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(raw, text.as_ptr(), ptr::null(), 0, ptr::null_mut());
        let queries = PgList::<pg_sys::Query>::from_pg(queries);
        let Some(query) = queries.head().filter(|_| queries.len() == 1) else {
            return Err(refused("a statement that rules rewrite into several"));
        };
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT || (*query).hasModifyingCTE {
            return Err(refused("a SELECT that writes"));
        }
        if !(*query).rowMarks.is_null() {
            return Err(refused("a SELECT that locks rows"));
        }
        Ok(compat::query_id((*query).queryId))
    }
}

//! The one place that turns names into SQL text. Owns nothing, locks nothing; any module may call it.
//!
//! Everything else passes values as parameters. A name that must appear in SQL text (DDL, which takes no parameters)
//! goes through [`quote`] or [`qualified`].

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::text::DbText;

/// Quotes an identifier as the server itself would (`quote_all_identifiers` and keywords included).
///
/// A NUL byte cannot occur in a name that came from the server; one that came from elsewhere ends there. Needs no
/// transaction.
pub fn quote(name: &str) -> String {
    if !name.is_ascii() {
        // What the server would do; but it would look up in its catalogs how to convert the name to its encoding first.
        let end = name.find('\0').unwrap_or(name.len());
        return format!("\"{}\"", name[..end].replace('"', "\"\""));
    }
    let name = until_nul(name);
    // SAFETY: `name` is NUL-terminated and lives through the call; the result is either `name` itself or a palloc'd
    // NUL-terminated copy, and is copied at once.
    unsafe { from_server(CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr()))) }
}

/// `schema.name`, both quoted where needed.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// Quotes a text as a literal, for statements that take no parameters, as the server itself would. Needs no transaction.
pub fn literal(text: &str) -> String {
    let end = text.find('\0').unwrap_or(text.len());
    let quoted = text[..end].replace('\'', "''");
    if quoted.contains('\\') {
        // Means the same whatever standard_conforming_strings is.
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// The quoted, schema-qualified name of a relation; None if it is gone.
pub fn relation(oid: pg_sys::Oid) -> Option<String> {
    let (schema, name) = relation_parts(oid)?;
    Some(qualified(&schema, &name))
}

/// Schema and name of a relation, unquoted; None if it is gone.
pub fn relation_parts(oid: pg_sys::Oid) -> Option<(String, String)> {
    // SAFETY: syscache lookups that return NULL for what does not exist, else palloc'd NUL-terminated strings.
    unsafe {
        let name = owned(pg_sys::get_rel_name(oid))?;
        let schema = owned(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(oid)))?;
        Some((schema, name))
    }
}

/// Copies a palloc'd C string and frees it; None for NULL.
///
/// # Safety
/// `text` is NULL or a palloc'd NUL-terminated string that nobody else uses.
pub unsafe fn owned(text: *mut std::ffi::c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller promises a NUL-terminated palloc'd string.
    unsafe {
        let copy = from_server(CStr::from_ptr(text));
        pg_sys::pfree(text.cast());
        Some(copy)
    }
}

/// Text of the server, which is in the database's encoding.
pub fn from_server(text: &CStr) -> String {
    match text.to_str() {
        Ok(ascii) if ascii.is_ascii() => ascii.to_owned(),
        _ => DbText::from_bytes(text.to_bytes().to_vec()).to_utf8(),
    }
}

/// A C string for the server, in the database's encoding, of `text` up to its first NUL byte, if any.
pub fn until_nul(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(DbText::from_utf8(&text[..end]).as_bytes()).unwrap_or_default()
}

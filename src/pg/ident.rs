//! The one place that turns names into SQL text. Owns nothing, locks nothing; any module may call it.
//!
//! Everything else passes values as parameters. A name that must appear in SQL text (DDL, which takes no parameters)
//! goes through [`quote`] or [`qualified`].

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Quotes an identifier as the server itself would (`quote_all_identifiers` and keywords included).
///
/// A NUL byte cannot occur in a name that came from the server; one that came from elsewhere ends there.
pub fn quote(name: &str) -> String {
    let name = until_nul(name);
    // SAFETY: `name` is NUL-terminated and lives through the call; the result is either `name` itself or a palloc'd
    // NUL-terminated copy, and is copied at once.
    unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())).to_string_lossy().into_owned() }
}

/// `schema.name`, both quoted where needed.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
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
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        Some(copy)
    }
}

/// A C string of `text` up to its first NUL byte, if any.
pub fn until_nul(text: &str) -> CString {
    let bytes = text.as_bytes();
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

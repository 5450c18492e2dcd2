//! Parse analysis of a text that is not going to run: as the role that sent it, with its names, and no other extension looking
//! on. Called inside [`super::in_subtransaction`], which puts settings back; locks what the server's analysis locks.

use std::ffi::CStr;
use std::ptr;

use pgrx::{pg_sys, PgList};

use super::request::{Failure, Parameter};
use crate::pg::ident;

/// How a statement is read.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    /// The `search_path` to resolve it with; None for the current one.
    pub search_path: Option<&'a str>,
    /// The role to read it as; None for the current one.
    pub role: Option<pg_sys::Oid>,
    /// How long to wait for a lock, in ms; None for the session's own `lock_timeout`.
    pub lock_timeout_ms: Option<u32>,
}

/// Runs `body` in the sender's place, unable to change the session: analysis and planning run functions of anybody.
///
/// # Safety
/// Inside a subtransaction that is rolled back.
pub unsafe fn in_place_of<R>(sender: Sender<'_>, body: impl FnOnce() -> R) -> R {
    // SAFETY: settings, role and snapshot end with the subtransaction or are put back; nodes live in the scratch context.
    unsafe {
        if let Some(timeout) = sender.lock_timeout_ms {
            set_locally(c"lock_timeout", &timeout.to_string());
        }
        if let Some(path) = sender.search_path {
            set_locally(c"search_path", path);
        }
        let (mut user, mut security) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        pg_sys::SetUserIdAndSecContext(
            sender.role.unwrap_or(user),
            security | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
        );
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = body();
        pg_sys::PopActiveSnapshot();
        pg_sys::SetUserIdAndSecContext(user, security);
        result
    }
}

/// Sets a setting until the end of the subtransaction.
///
/// # Safety
/// Inside a subtransaction that is rolled back.
pub unsafe fn set_locally(name: &CStr, value: &str) {
    let value = ident::until_nul(value);
    // SAFETY: both strings are NUL-terminated and copied by the callee.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// The one statement of a text, as parsed.
///
/// # Safety
/// The tree belongs to the current memory context.
pub unsafe fn only_statement(text: &CStr) -> Result<*mut pg_sys::RawStmt, Failure> {
    // SAFETY: a NUL-terminated text; the list is the parser's own.
    let parsed = unsafe { PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(text.as_ptr())) };
    match (parsed.len(), parsed.get_ptr(0)) {
        (1, Some(raw)) => Ok(raw),
        (count, _) => Err(Failure::NotOne(count)),
    }
}

/// Replaces a statement that carries a query by that query.
///
/// # Safety
/// `raw` is a live raw parse tree.
pub unsafe fn unwrap_query(raw: *mut pg_sys::RawStmt) {
    // SAFETY: the tag says which struct a node is; each carries its query in a field of its own.
    unsafe {
        loop {
            let node = (*raw).stmt;
            let query = match (*node).type_ {
                pg_sys::NodeTag::T_PrepareStmt => (*node.cast::<pg_sys::PrepareStmt>()).query,
                pg_sys::NodeTag::T_ExplainStmt => (*node.cast::<pg_sys::ExplainStmt>()).query,
                pg_sys::NodeTag::T_DeclareCursorStmt => (*node.cast::<pg_sys::DeclareCursorStmt>()).query,
                pg_sys::NodeTag::T_CreateTableAsStmt => (*node.cast::<pg_sys::CreateTableAsStmt>()).query,
                pg_sys::NodeTag::T_CopyStmt => (*node.cast::<pg_sys::CopyStmt>()).query,
                _ => return,
            };
            if query.is_null() {
                return;
            }
            (*raw).stmt = query;
        }
    }
}

/// Types of parameters, as the server's analysis takes them: palloc'd, because it may enlarge the array.
///
/// # Safety
/// The array belongs to the current memory context.
pub unsafe fn types_of(parameters: &[Parameter]) -> (*mut pg_sys::Oid, i32) {
    if parameters.is_empty() {
        return (ptr::null_mut(), 0);
    }
    // SAFETY: there is room for as many as are written.
    unsafe {
        let types = pg_sys::palloc0(size_of::<pg_sys::Oid>() * parameters.len()).cast::<pg_sys::Oid>();
        for (at, parameter) in parameters.iter().enumerate() {
            *types.add(at) = parameter.type_oid;
        }
        (types, parameters.len() as i32)
    }
}

/// Analyses a statement, without other extensions looking on: the query, and the types of `$1`, `$2`, ...; zero for one that is
/// not used. Types that are not given are found.
///
/// # Safety
/// `raw` was parsed from `text`; inside a subtransaction that is rolled back, with an active snapshot. Analysis scribbles on
/// `raw`.
pub unsafe fn with_types(
    raw: *mut pg_sys::RawStmt,
    text: &CStr,
    parameters: &[Parameter],
) -> (*mut pg_sys::Query, Vec<pg_sys::Oid>) {
    // SAFETY: see the function's contract; the array has as many types as the server says.
    unsafe {
        let (mut types, mut count) = types_of(parameters);
        let query =
            silenced(|| pg_sys::parse_analyze_varparams(raw, text.as_ptr(), &mut types, &mut count, ptr::null_mut()));
        // A statement is not told of parameters without any.
        let types = if types.is_null() { &[] } else { std::slice::from_raw_parts(types, count.max(0) as usize) };
        (query, types.to_vec())
    }
}

/// Runs `body` with no other extension looking on when it analyses a statement.
///
/// # Safety
/// `body` runs the server's own parse analysis, and nothing that a session shows.
pub unsafe fn silenced<R>(body: impl FnOnce() -> R) -> R {
    /// Puts the hook back on every path.
    struct Silenced(pg_sys::post_parse_analyze_hook_type);
    impl Drop for Silenced {
        fn drop(&mut self) {
            // SAFETY: a backend has one thread; the value was the hook's before.
            unsafe { pg_sys::post_parse_analyze_hook = self.0 };
        }
    }
    // SAFETY: a backend has one thread.
    let _silenced = unsafe {
        let before = Silenced(pg_sys::post_parse_analyze_hook);
        pg_sys::post_parse_analyze_hook = None;
        before
    };
    body()
}

//! Runs statements of perf_opt's own as the owner of its tables, inside a transaction of somebody who has no rights on
//! them. Called by the job functions and by job workers. Locks nothing.
//!
//! What runs inside is SQL of this extension with values as parameters, under a search path without any schema that others
//! can write to, so that the owner's rights never meet anybody else's code.

use std::ffi::{CStr, CString};

use pgrx::{pg_sys, PgSqlErrorCode};

use crate::error::Error;

/// The role that calls: what `current_user` says.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: reads a process global inside a transaction.
    unsafe { pg_sys::GetUserId() }
}

/// Whether the current role has the rights of another: is it, a member of it, or a superuser.
pub fn has_rights_of(other: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction; false for a role that is gone.
    unsafe { pg_sys::has_privs_of_role(current_role(), other) }
}

/// Whether a role is a superuser.
pub fn is_superuser(role: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up inside a transaction; false for a role that is gone.
    unsafe { pg_sys::superuser_arg(role) }
}

/// Runs `body` as the owner of `table` of schema perf. `None` when there is no such table: the extension is gone.
///
/// An error raised inside leaves the role to the abort of the (sub)transaction, as everything else.
pub fn as_owner_of<T>(table: &CStr, body: impl FnOnce() -> T) -> Option<T> {
    let owner = find_table(table)?.1;
    // SAFETY: the saved role, security context and settings level are put back in the order in which they were changed.
    unsafe {
        let (mut role, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut context);
        let level = set_for_now(&[
            (c"search_path", c"pg_catalog, pg_temp"),
            (c"row_security", c"off"),
            (c"jit", c"off"),
            (c"max_parallel_workers_per_gather", c"0"),
        ]);
        pg_sys::SetUserIdAndSecContext(owner, context | RESTRICTED);
        let value = body();
        pg_sys::SetUserIdAndSecContext(role, context);
        pg_sys::AtEOXact_GUC(false, level);
        Some(value)
    }
}

/// Runs `body` as whoever runs already, under a search path without any schema that others can write to: names that our
/// statements do not qualify are the server's own, and what the server prints of expressions qualifies all others. A row
/// that a policy hides is an error then, rather than overlooked.
pub fn with_own_path<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: the settings level is put back; an error raised inside leaves it to the abort of the (sub)transaction.
    unsafe {
        // Compiling a query over catalogs takes longer than running it.
        let level =
            set_for_now(&[(c"search_path", c"pg_catalog, pg_temp"), (c"row_security", c"off"), (c"jit", c"off")]);
        let value = body();
        pg_sys::AtEOXact_GUC(false, level);
        value
    }
}

/// Runs `body` as the owner of a relation, as the server's own maintenance commands do: whatever functions its constraints
/// and generated columns call are the owner's to answer for, and may neither leave the role nor leave something behind that
/// runs later. Who is the owner already just runs it; who may not become the owner gets an error.
pub fn as_relation_owner<T>(relation: pg_sys::Oid, body: impl FnOnce() -> T) -> T {
    match owner_to_be(relation) {
        Some(owner) if owner != current_role() => as_role(owner, body),
        _ => body(),
    }
}

/// Who owns a relation, if it is there; raises an error where the current role may not become the owner.
fn owner_to_be(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let owner = relation_owner(relation);
    if owner == pg_sys::InvalidOid {
        return None;
    }
    if !has_rights_of(owner) {
        let name = super::ident::relation(relation).unwrap_or_default();
        pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE, format!("must be owner of table {name}"));
    }
    Some(owner)
}

/// The same for what is to read all rows of the relation: policies that its owner has put on itself hide none.
pub fn as_relation_owner_unforced<T>(relation: pg_sys::Oid, body: impl FnOnce() -> T) -> T {
    const UNFORCED: i32 = pg_sys::SECURITY_NOFORCE_RLS as i32;
    match owner_to_be(relation) {
        None => body(),
        Some(owner) if owner == current_role() => in_context(owner, UNFORCED, body),
        Some(owner) => in_context(owner, UNFORCED | RESTRICTED, body),
    }
}

/// Runs `body` as another role.
pub fn as_role<T>(other: pg_sys::Oid, body: impl FnOnce() -> T) -> T {
    in_context(other, RESTRICTED, body)
}

/// Whether this runs in somebody else's name, as [`as_role`] has it.
pub fn is_restricted() -> bool {
    // SAFETY: reads a process global.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// In somebody else's name, who may neither leave the role nor leave something behind that runs later.
const RESTRICTED: i32 = pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;

/// Runs `body` as another role, with more said of the security context. What that role's code makes of the settings, the
/// `search_path` above all, ends with it: whatever runs next has other rights.
fn in_context<T>(other: pg_sys::Oid, more: i32, body: impl FnOnce() -> T) -> T {
    // SAFETY: the saved role, security context and settings level are put back in the order in which they were changed; an
    // error raised inside leaves them to the abort of the (sub)transaction.
    unsafe {
        let (mut role, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&raw mut role, &raw mut context);
        let level = set_for_now(&[(c"search_path", c"pg_catalog, pg_temp")]);
        pg_sys::SetUserIdAndSecContext(other, context | more);
        let value = body();
        pg_sys::SetUserIdAndSecContext(role, context);
        pg_sys::AtEOXact_GUC(false, level);
        value
    }
}

/// Who owns a relation; `InvalidOid` when it is gone.
pub fn relation_owner(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a catalog look-up inside a transaction; the tuple is read as what its cache holds, and released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::RELOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(relation));
        if tuple.is_null() {
            return pg_sys::InvalidOid;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        owner
    }
}

/// Runs `body` with dates and times as text in one style and zone, whatever the session's are: such text can be read back.
pub fn with_iso_dates<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: as in `with_own_path`.
    unsafe {
        let level = set_for_now(&[(c"DateStyle", c"ISO"), (c"TimeZone", c"UTC")]);
        let value = body();
        pg_sys::AtEOXact_GUC(false, level);
        value
    }
}

/// Runs `body` with values as text that is the same whatever the session's settings are.
pub fn with_plain_text<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: as in `with_own_path`.
    unsafe {
        let level = set_for_now(&[
            (c"DateStyle", c"ISO"),
            (c"TimeZone", c"UTC"),
            (c"IntervalStyle", c"postgres"),
            (c"extra_float_digits", c"1"),
            (c"bytea_output", c"hex"),
            (c"lc_monetary", c"C"),
            (c"xmlbinary", c"base64"),
        ]);
        let value = body();
        pg_sys::AtEOXact_GUC(false, level);
        value
    }
}

/// Runs `body` with a limit to each wait for a lock, whatever the session's is.
pub fn with_lock_timeout<T>(limit_ms: i32, body: impl FnOnce() -> T) -> T {
    let value = CString::new(limit_ms.to_string()).unwrap_or_default();
    // SAFETY: as in `with_own_path`.
    unsafe {
        let level = set_for_now(&[(c"lock_timeout", &value)]);
        let value = body();
        pg_sys::AtEOXact_GUC(false, level);
        value
    }
}

/// Sets settings until the returned level is left.
///
/// # Safety
/// Inside a transaction; whoever calls it ends the level with `AtEOXact_GUC`.
unsafe fn set_for_now(settings: &[(&CStr, &CStr)]) -> core::ffi::c_int {
    // SAFETY: NUL-terminated names and values of settings of the server's own.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in settings {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        level
    }
}

/// Lets `body` write although the transaction is read-only: by the session's default, or since the statements that ran in
/// it said so. For records of perf_opt's own, not for what a user asks for.
pub fn writable<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: a flag of this transaction that the server looks at before it writes; a raised error leaves it to the abort.
    unsafe {
        let read_only = pg_sys::XactReadOnly;
        pg_sys::XactReadOnly = false;
        let value = body();
        pg_sys::XactReadOnly = read_only;
        value
    }
}

/// [`as_owner_of`] for API functions: an error when the table is gone.
pub fn as_owner<T>(table: &CStr, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    as_owner_of(table, body).unwrap_or_else(|| {
        Err(Error::WrongState {
            message: "the tables of perf_opt are missing in this database".to_owned(),
            hint: "CREATE EXTENSION perf_opt makes them.".to_owned(),
        })
    })
}

/// The table, or the index, of schema perf; another one after the extension was dropped and created again.
pub fn table(name: &CStr) -> Option<pg_sys::Oid> {
    find_table(name).map(|(oid, _)| oid)
}

/// Whether the table is there, and who owns it.
fn find_table(table: &CStr) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    // SAFETY: catalog look-ups inside a transaction; the tuple is read as what its cache holds, and released.
    unsafe {
        // What others have committed since this transaction began counts: the statement that follows sees it as well.
        pg_sys::AcceptInvalidationMessages();
        let schema = pg_sys::get_namespace_oid(c"perf".as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        let oid = pg_sys::get_relname_relid(table.as_ptr(), schema);
        if oid == pg_sys::InvalidOid {
            return None;
        }
        let owner = relation_owner(oid);
        if owner == pg_sys::InvalidOid {
            return None;
        }
        Some((oid, owner))
    }
}

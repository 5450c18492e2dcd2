//! Questions about roles. Reads the syscache; locks nothing.

use pgrx::pg_sys;

use super::privilege;

/// Whether the current role may plan as `role`: planning runs functions, so only as somebody it could become anyway.
pub fn may_plan_as(role: pg_sys::Oid) -> bool {
    // SAFETY: syscache lookups; a role that is gone has no name.
    unsafe {
        role == pg_sys::InvalidOid
            || (pg_sys::SearchSysCacheExists(
                pg_sys::SysCacheIdentifier::AUTHOID as i32,
                pg_sys::Datum::from(role),
                pg_sys::Datum::from(0),
                pg_sys::Datum::from(0),
                pg_sys::Datum::from(0),
            ) && pg_sys::has_privs_of_role(pg_sys::GetUserId(), role))
    }
}

/// The name of a role; None when it is gone.
pub fn known_name(role: pg_sys::Oid) -> Option<String> {
    // SAFETY: a syscache lookup that gives NULL or a palloc'd string.
    unsafe { super::ident::owned(pg_sys::GetUserNameFromId(role, true)) }
}

/// The same; its number when it is gone.
pub fn name(role: pg_sys::Oid) -> String {
    known_name(role).unwrap_or_else(|| role.to_u32().to_string())
}

/// Whether the current role has the rights of a role that every server has.
pub fn is_member(of: &std::ffi::CStr) -> bool {
    // SAFETY: a catalog look-up inside a transaction; a name that is not there gives an invalid number.
    privilege::has_rights_of(unsafe { pg_sys::get_role_oid(of.as_ptr(), true) })
}

//! Questions about roles. Reads the syscache; locks nothing.

use pgrx::pg_sys;

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

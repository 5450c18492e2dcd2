//! Where in a statement a relation stands, and small helpers of all who look around there. Locks nothing.

use std::cell::OnceCell;

use pgrx::{pg_sys, PgList};

use crate::pg::expressions::Expressions;

/// Conditions looked at in one place, at most: bounds the work for generated statements.
pub const CONDITIONS_MAX: usize = 64;

/// # Safety
/// `list` is a list of restriction infos.
pub unsafe fn restrictions(list: *mut pg_sys::List) -> Vec<*mut pg_sys::RestrictInfo> {
    // SAFETY: as promised.
    unsafe { PgList::<pg_sys::RestrictInfo>::from_pg(list).iter_ptr().take(CONDITIONS_MAX).collect() }
}

/// One relation in one place of a statement.
pub struct Place<'a> {
    pub root: *mut pg_sys::PlannerInfo,
    pub rel: *mut pg_sys::RelOptInfo,
    pub varno: i32,
    pub relation: pg_sys::Oid,
    /// It stands for its partitions or children too.
    pub inherits: bool,
    /// Pages and the share of them that is all-visible.
    pub extent: OnceCell<(f64, f64)>,
    pub expressions: &'a mut Expressions,
}

/// The members of a set.
///
/// # Safety
/// `set` is NULL or valid.
pub unsafe fn bits(set: *mut pg_sys::Bitmapset) -> Vec<i32> {
    let mut members = Vec::new();
    // SAFETY: as promised.
    unsafe {
        let mut member = pg_sys::bms_next_member(set, -1);
        while member >= 0 {
            members.push(member);
            member = pg_sys::bms_next_member(set, member);
        }
    }
    members
}

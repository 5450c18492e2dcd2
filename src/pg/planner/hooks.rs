//! The planner hooks that make hypothetical indexes visible and hidden ones invisible, and that look on for what a
//! statement asks. Chained, and silent outside of a planner run of ours: the state they read is a thread-local pointer that
//! a guard sets and resets. They lock nothing.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Once;

use perf_core::index::needs::Needs;
use pgrx::{pg_guard, pg_sys, PgList};

use super::request::Configuration;
use super::{harvest, work};

/// What the hooks read while one configuration is being planned.
pub struct Active<'a> {
    /// Tells our planner run from one started by a user function inside it.
    pub parameters: pg_sys::ParamListInfo,
    /// The indexes that it is to see.
    pub configuration: Configuration<'a>,
    /// OIDs of the hypothetical ones among them.
    pub oids: &'a [pg_sys::Oid],
    /// What was harvested.
    pub needs: RefCell<Vec<Needs>>,
    /// Relations seen.
    pub seen: RefCell<work::Seen>,
}

thread_local! {
    static ACTIVE: Cell<*const Active<'static>> = const { Cell::new(ptr::null()) };
}

/// Sets [`ACTIVE`] and resets it when dropped, on the error path too.
pub struct ActiveGuard {
    before: *const Active<'static>,
}

impl ActiveGuard {
    /// From now on the hooks read `active`, which must outlive this.
    pub fn set(active: &Active<'_>) -> Self {
        ActiveGuard { before: ACTIVE.replace(ptr::from_ref(active).cast()) }
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        ACTIVE.set(self.before);
    }
}

static HOOKS: Once = Once::new();
static mut NEXT_RELATION_INFO: pg_sys::get_relation_info_hook_type = None;
static mut NEXT_PATHLIST: pg_sys::set_rel_pathlist_hook_type = None;
static mut NEXT_INDEX_STATISTICS: pg_sys::get_index_stats_hook_type = None;
static mut NEXT_INDEX_NAME: pg_sys::explain_get_index_name_hook_type = None;

/// Puts the hooks in front of those of other extensions; once for a process.
pub fn install_hooks() {
    // SAFETY: hooks are set by the backend's only thread, or by the postmaster before it forks.
    HOOKS.call_once(|| unsafe {
        NEXT_RELATION_INFO = pg_sys::get_relation_info_hook;
        pg_sys::get_relation_info_hook = Some(relation_info);
        NEXT_PATHLIST = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(pathlist);
        NEXT_INDEX_STATISTICS = pg_sys::get_index_stats_hook;
        pg_sys::get_index_stats_hook = Some(index_statistics);
        NEXT_INDEX_NAME = pg_sys::explain_get_index_name_hook;
        pg_sys::explain_get_index_name_hook = Some(index_name);
    });
}

/// The state of the planner run that `root` belongs to, if it is ours.
///
/// # Safety
/// `root` is a planner's; the result must not outlive the hook call.
unsafe fn active<'a>(root: *mut pg_sys::PlannerInfo) -> Option<&'a Active<'static>> {
    let active = ACTIVE.get();
    if active.is_null() {
        return None;
    }
    // SAFETY: the guard that set the pointer lives on the stack below this hook call, and so does what it points to.
    unsafe { ((*(*root).glob).boundParams == (*active).parameters).then(|| &*active) }
}

#[pg_guard]
#[allow(ffi_unwind_calls, reason = "the next hook is C code, which may raise an ERROR through us")]
unsafe extern "C-unwind" fn relation_info(
    root: *mut pg_sys::PlannerInfo,
    relation: pg_sys::Oid,
    is_parent: bool,
    rel: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: arguments are passed on as they came; the list of indexes is the planner's own, and changed as its hook may.
    unsafe {
        if let Some(next) = NEXT_RELATION_INFO {
            pg_sys::ffi::pg_guard_ffi_boundary(|| next(root, relation, is_parent, rel));
        }
        let Some(active) = active(root) else { return };
        if !active.configuration.hidden.is_empty() {
            hide(active.configuration.hidden, rel);
        }
        if !is_parent {
            for (index, oid) in active.configuration.hypothetical.iter().zip(active.oids) {
                index.inject(*oid, relation, rel);
            }
        }
    }
}

/// Takes indexes out of the planner's sight. Unique ones stay, as proof of uniqueness, but can no longer be scanned.
///
/// # Safety
/// `rel` is under construction in the planner.
unsafe fn hide(hidden: &[pg_sys::Oid], rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: a new list of the same nodes; the nodes are the planner's own.
    unsafe {
        let mut kept = PgList::<pg_sys::IndexOptInfo>::new();
        for index in PgList::<pg_sys::IndexOptInfo>::from_pg((*rel).indexlist).iter_ptr() {
            if hidden.contains(&(*index).indexoid) {
                if !(*index).unique {
                    continue;
                }
                (*index).amhasgettuple = false;
                (*index).amhasgetbitmap = false;
            }
            kept.push(index);
        }
        (*rel).indexlist = kept.into_pg();
    }
}

#[pg_guard]
#[allow(ffi_unwind_calls, reason = "the next hook is C code, which may raise an ERROR through us")]
unsafe extern "C-unwind" fn pathlist(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: arguments are passed on as they came, and only read.
    unsafe {
        if let Some(next) = NEXT_PATHLIST {
            pg_sys::ffi::pg_guard_ffi_boundary(|| next(root, rel, rti, rte));
        }
        let Some(active) = active(root) else { return };
        active.seen.borrow_mut().note(root, rel, rte);
        let Some(expressions) = active.configuration.harvest else { return };
        if let Some(needs) = harvest::needs(root, rel, rti, rte, &mut expressions.borrow_mut()) {
            active.needs.borrow_mut().push(needs);
        }
    }
}

#[pg_guard]
#[allow(ffi_unwind_calls, reason = "the next hook is C code, which may raise an ERROR through us")]
unsafe extern "C-unwind" fn index_statistics(
    root: *mut pg_sys::PlannerInfo,
    index: pg_sys::Oid,
    number: pg_sys::AttrNumber,
    data: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: arguments are the planner's own.
    unsafe {
        if let Some(active) = active(root) {
            let known = active.oids.iter().zip(active.configuration.hypothetical).find(|(oid, _)| **oid == index);
            if let Some((_, hypothetical)) = known {
                hypothetical.serve_statistics(root, number, data);
                return true;
            }
        }
        match NEXT_INDEX_STATISTICS {
            Some(next) => pg_sys::ffi::pg_guard_ffi_boundary(|| next(root, index, number, data)),
            None => false,
        }
    }
}

#[pg_guard]
#[allow(ffi_unwind_calls, reason = "the next hook is C code, which may raise an ERROR through us")]
unsafe extern "C-unwind" fn index_name(oid: pg_sys::Oid) -> *const std::ffi::c_char {
    let active = ACTIVE.get();
    // SAFETY: as in `active`; the name lives as long as the configuration, which outlives the printing of the plan.
    unsafe {
        if !active.is_null() {
            let active = &*active;
            let known = active.oids.iter().zip(active.configuration.hypothetical).find(|(known, _)| **known == oid);
            if let Some((_, index)) = known {
                return index.name.as_ptr();
            }
        }
        match NEXT_INDEX_NAME {
            Some(next) => pg_sys::ffi::pg_guard_ffi_boundary(|| next(oid)),
            None => ptr::null(),
        }
    }
}

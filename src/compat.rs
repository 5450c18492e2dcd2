//! The only place that knows which PostgreSQL major it is compiled for.

use pgrx::pg_sys;

/// Whether a path key sorts downwards.
///
/// # Safety
/// `key` points to a valid path key of a plan under construction.
pub unsafe fn pathkey_descends(key: *mut pg_sys::PathKey) -> bool {
    // SAFETY: the caller promises a valid pointer.
    #[cfg(feature = "pg18")]
    unsafe {
        (*key).pk_cmptype == pg_sys::CompareType::COMPARE_GT
    }
    // SAFETY: the caller promises a valid pointer.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        (*key).pk_strategy == pg_sys::BTGreaterStrategyNumber as std::ffi::c_int
    }
}

/// Checks that the current role may run a planned statement; raises an ERROR if not.
///
/// # Safety
/// `planned` points to a valid planned statement.
pub unsafe fn check_permissions(planned: *mut pg_sys::PlannedStmt) {
    // SAFETY: the caller promises a valid pointer; the lists are the planned statement's own.
    #[cfg(feature = "pg15")]
    unsafe {
        pg_sys::ExecCheckRTPerms((*planned).rtable, true);
    }
    // SAFETY: as above.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        pg_sys::ExecCheckPermissions((*planned).rtable, (*planned).permInfos, true);
    }
}

/// Executor flags to print a plan without running it; `generic` when its parameters have no values.
pub fn explain_flags(generic: bool) -> std::ffi::c_int {
    #[cfg(feature = "pg15")]
    let generic_flag = 0;
    #[cfg(not(feature = "pg15"))]
    let generic_flag = pg_sys::EXEC_FLAG_EXPLAIN_GENERIC as std::ffi::c_int;
    pg_sys::EXEC_FLAG_EXPLAIN_ONLY as std::ffi::c_int | if generic { generic_flag } else { 0 }
}

/// The cost function of an access method, as an `IndexOptInfo` holds it.
#[cfg(not(feature = "pg15"))]
type CostFunction = pg_sys::amcostestimate_function;
/// In PostgreSQL 15 it is declared there without its parameters.
#[cfg(feature = "pg15")]
type CostFunction = Option<unsafe extern "C-unwind" fn()>;

/// Converts the cost function of an access method for an `IndexOptInfo`.
pub fn cost_function(of_method: pg_sys::amcostestimate_function) -> CostFunction {
    #[cfg(not(feature = "pg15"))]
    return of_method;
    // SAFETY: only the declared type differs; the planner casts it back before the call.
    #[cfg(feature = "pg15")]
    unsafe {
        std::mem::transmute::<pg_sys::amcostestimate_function, CostFunction>(of_method)
    }
}

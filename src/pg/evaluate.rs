//! Evaluates an expression over rows given by hand, outside of any query: for what statistics and samples say of an index key.
//! Called inside a subtransaction that is rolled back; memory is the current context's. Locks nothing.
//!
//! Whoever asks the advisor may be a superuser, and expressions come from anybody's statements: only functions that belong to
//! a superuser are run, which could do nothing more that way.

use std::ffi::c_void;
use std::ptr;

use pgrx::{is_a, pg_guard, pg_sys};

/// Whether nothing but functions of superusers would run.
///
/// # Safety
/// `node` is NULL or a valid expression.
pub unsafe fn is_trusted(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as promised; the walker keeps no pointer.
    unsafe { !finds_untrusted(node, ptr::null_mut()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn finds_untrusted(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: called with the nodes of a valid expression.
    unsafe {
        // A domain's constraints are expressions of their own.
        is_a(node, pg_sys::NodeTag::T_CoerceToDomain)
            || is_a(node, pg_sys::NodeTag::T_SubLink)
            || is_a(node, pg_sys::NodeTag::T_Param)
            || pg_sys::check_functions_in_node(node, Some(is_untrusted), context)
            || pg_sys::expression_tree_walker(node, Some(finds_untrusted), context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_untrusted(function: pg_sys::Oid, _context: *mut c_void) -> bool {
    // SAFETY: the tuple comes from the syscache, is read as what that cache holds, and released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if tuple.is_null() {
            return true;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).proowner;
        pg_sys::ReleaseSysCache(tuple);
        !pg_sys::superuser_arg(owner)
    }
}

/// Runs the rest of the subtransaction so that functions cannot change the session.
///
/// # Safety
/// Inside a subtransaction that is rolled back, which ends it.
pub unsafe fn restrict() {
    let (mut user, mut security) = (pg_sys::InvalidOid, 0);
    // SAFETY: plain calls; the rollback restores both.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut security);
        pg_sys::SetUserIdAndSecContext(user, security | pg_sys::SECURITY_RESTRICTED_OPERATION as i32);
    }
}

/// One expression, ready to run.
pub struct Evaluator {
    slot: *mut pg_sys::TupleTableSlot,
    context: *mut pg_sys::ExprContext,
    state: *mut pg_sys::ExprState,
}

impl Evaluator {
    /// Prepares `expression`, over columns of range table entry 1 that `descriptor` describes.
    ///
    /// # Safety
    /// Both are valid and outlive the evaluator; the expression is trusted.
    pub unsafe fn new(descriptor: pg_sys::TupleDesc, expression: *mut pg_sys::Node) -> Self {
        // SAFETY: everything is allocated in the current context; the slot starts with all columns NULL.
        unsafe {
            let slot = pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual);
            let columns = (*descriptor).natts.max(0) as usize;
            ptr::write_bytes((*slot).tts_isnull, 1, columns);
            pg_sys::ExecStoreVirtualTuple(slot);
            let executor = pg_sys::CreateExecutorState();
            let context = pg_sys::CreateExprContext(executor);
            (*context).ecxt_scantuple = slot;
            let copy = pg_sys::copyObjectImpl(expression.cast()).cast::<pg_sys::Expr>();
            let state = pg_sys::ExecPrepareExpr(copy, executor);
            Evaluator { slot, context, state }
        }
    }

    /// Sets one column of the row.
    ///
    /// # Safety
    /// `column` is one of the descriptor's, `value` of its type.
    pub unsafe fn set(&self, column: i16, value: Option<pg_sys::Datum>) {
        let at = usize::from(column.unsigned_abs()).saturating_sub(1);
        // SAFETY: as promised.
        unsafe {
            *(*self.slot).tts_isnull.add(at) = value.is_none();
            *(*self.slot).tts_values.add(at) = value.unwrap_or(pg_sys::Datum::from(0));
        }
    }

    /// Sets the whole row.
    ///
    /// # Safety
    /// `tuple` has the descriptor's columns and outlives the next [`Evaluator::value`].
    pub unsafe fn set_row(&self, tuple: pg_sys::HeapTuple) {
        // SAFETY: the slot's arrays have room for every column.
        unsafe {
            let slot = self.slot;
            pg_sys::heap_deform_tuple(tuple, (*slot).tts_tupleDescriptor, (*slot).tts_values, (*slot).tts_isnull);
        }
    }

    /// One column of the row; None for NULL.
    ///
    /// # Safety
    /// `column` is one of the descriptor's.
    pub unsafe fn get(&self, column: i16) -> Option<pg_sys::Datum> {
        let at = usize::from(column.unsigned_abs()).saturating_sub(1);
        // SAFETY: as promised.
        unsafe { (!*(*self.slot).tts_isnull.add(at)).then(|| *(*self.slot).tts_values.add(at)) }
    }

    /// The expression's value for the row; None for NULL. Allocated in the current context.
    ///
    /// # Safety
    /// The row's values are alive.
    #[allow(ffi_unwind_calls, reason = "the executor's own function, which may raise an ERROR through us")]
    pub unsafe fn value(&self) -> Option<pg_sys::Datum> {
        // SAFETY: the state was prepared by the executor, which always sets the function.
        unsafe {
            let run = (*self.state).evalfunc?;
            let mut is_null = true;
            let value = pg_sys::ffi::pg_guard_ffi_boundary(|| run(self.state, self.context, &raw mut is_null));
            (!is_null).then_some(value)
        }
    }
}

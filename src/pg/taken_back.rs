//! Counts what this process has written and taken back: transactions and subtransactions that had a number and were rolled
//! back, or prepared, for others to decide about. For who keeps something that may come from such changes. Locks nothing.

use std::cell::Cell;

use pgrx::{pg_guard, pg_sys};

thread_local! {
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How often that was since the first call. Called inside a transaction.
pub fn count() -> u64 {
    if !IS_REGISTERED.replace(true) {
        // SAFETY: the callbacks are functions of this library, which is never unloaded.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_end_of_part), std::ptr::null_mut());
        }
    }
    COUNT.get()
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    // SAFETY: the transaction's number is still there when it is called.
    let xid = unsafe { pg_sys::GetTopTransactionIdIfAny() };
    let is_over = matches!(event, pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE);
    if is_over && xid != pg_sys::InvalidTransactionId {
        COUNT.set(COUNT.get() + 1);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_part(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    // SAFETY: the subtransaction that ends is still the current one.
    let xid = unsafe { pg_sys::GetCurrentTransactionIdIfAny() };
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB && xid != pg_sys::InvalidTransactionId {
        COUNT.set(COUNT.get() + 1);
    }
}

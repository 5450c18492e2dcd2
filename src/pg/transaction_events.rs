//! What is called in the transactions of this process, for who keeps something until they end. Called inside a transaction.
//! Locks nothing.

use std::cell::{Cell, RefCell};

use pgrx::{pg_guard, pg_sys};

/// What is to be called, where it is.
pub struct TransactionEvents {
    /// Before one is committed, when all its triggers have run; may raise.
    pub before_commit: Option<fn()>,
    /// Before one is prepared for two-phase commit; may raise.
    pub before_prepare: Option<fn()>,
    /// At its end, when its changes are seen and its row locks are gone: whether it is committed.
    pub ended: Option<fn(bool)>,
    /// A subtransaction has failed: its number. Those below it have greater ones, those before it smaller ones.
    pub failed: Option<fn(u32)>,
}

impl TransactionEvents {
    /// Nothing at all.
    pub const NONE: TransactionEvents =
        TransactionEvents { before_commit: None, before_prepare: None, ended: None, failed: None };
}

thread_local! {
    static REGISTERED: RefCell<Vec<*const TransactionEvents>> = const { RefCell::new(Vec::new()) };
    static TAKEN_BACK: Cell<u64> = const { Cell::new(0) };
}

/// Has functions called in every transaction of this process from now on, this one included; once, however often it is asked
/// for.
pub fn register(events: &'static TransactionEvents) {
    let events = std::ptr::from_ref(events);
    if REGISTERED.with_borrow(|registered| registered.contains(&events)) {
        return;
    }
    let argument = events.cast_mut().cast();
    // SAFETY: the callbacks are functions of this library, which is never unloaded; the argument lives for ever.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_event), argument);
        pg_sys::RegisterSubXactCallback(Some(at_inner_event), argument);
    }
    REGISTERED.with_borrow_mut(|registered| registered.push(events));
}

#[pg_guard]
unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, argument: *mut core::ffi::c_void) {
    // SAFETY: registered above, with this argument.
    let events = unsafe { &*argument.cast::<TransactionEvents>() };
    match (event, events.ended) {
        (pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT, _) => events.before_commit.map_or((), |call| call()),
        (pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE, _) => events.before_prepare.map_or((), |call| call()),
        (pg_sys::XactEvent::XACT_EVENT_COMMIT, Some(ended)) => ended(true),
        (pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE, Some(ended)) => ended(false),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_inner_event(
    event: pg_sys::SubXactEvent::Type,
    number: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    argument: *mut core::ffi::c_void,
) {
    // SAFETY: as above.
    let events = unsafe { &*argument.cast::<TransactionEvents>() };
    if let (pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB, Some(failed)) = (event, events.failed) {
        failed(number);
    }
}

/// The number of the subtransaction that is open.
pub fn current_subtransaction() -> u32 {
    // SAFETY: reads this process's transaction state.
    unsafe { pg_sys::GetCurrentSubTransactionId() }
}

/// How often this process has, since the first call, taken back what it had written: transactions and subtransactions that had
/// a number and were rolled back, or prepared, for others to decide about.
pub fn taken_back() -> u64 {
    static EVENTS: TransactionEvents = TransactionEvents {
        ended: Some(|is_committed| {
            // SAFETY: the transaction's number is still there when it is called.
            let xid = unsafe { pg_sys::GetTopTransactionIdIfAny() };
            if !is_committed && xid != pg_sys::InvalidTransactionId {
                TAKEN_BACK.set(TAKEN_BACK.get() + 1);
            }
        }),
        failed: Some(|_| {
            // SAFETY: the subtransaction that ends is still the current one.
            let xid = unsafe { pg_sys::GetCurrentTransactionIdIfAny() };
            if xid != pg_sys::InvalidTransactionId {
                TAKEN_BACK.set(TAKEN_BACK.get() + 1);
            }
        }),
        ..TransactionEvents::NONE
    };
    register(&EVENTS);
    TAKEN_BACK.get()
}

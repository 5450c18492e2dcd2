//! REFRESH MATERIALIZED VIEW as the server does it for a client, inside a transaction that goes on afterwards, and the lock
//! it needs, taken beforehand. Called by the jobs that refresh views, as the role that runs them: the server checks its
//! privileges. Holds the view's lock until the end of the transaction.

use std::ffi::CStr;
use std::ptr;

use pgrx::{pg_sys, PgList};

/// The lock under which a view is refreshed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Readers go on.
    Concurrent,
    /// Readers wait.
    Plain,
}

impl Mode {
    fn lock(self) -> pg_sys::LOCKMODE {
        (match self {
            Mode::Concurrent => pg_sys::ExclusiveLock,
            Mode::Plain => pg_sys::AccessExclusiveLock,
        }) as pg_sys::LOCKMODE
    }
}

/// Waits for the lock as long as lock_timeout allows. The caller has checked that the role may refresh the view, and looks
/// afterwards whether it is still there.
pub fn lock(view: pg_sys::Oid, mode: Mode) {
    // SAFETY: inside a transaction, to which the lock belongs. Any oid may be given.
    unsafe { pg_sys::LockRelationOid(view, mode.lock()) }
}

/// Gives back what [`lock`] took.
pub fn unlock(view: pg_sys::Oid, mode: Mode) {
    // SAFETY: taken by `lock` in the same transaction.
    unsafe { pg_sys::UnlockRelationOid(view, mode.lock()) }
}

/// Runs one REFRESH statement under a snapshot of this moment; the rows that the view then holds.
pub fn run(statement: &'static CStr) -> u64 {
    // SAFETY: inside a transaction. Parse tree and plan live in the current memory context; the snapshot popped is the one
    // pushed here; the completion lives through the call.
    unsafe {
        let mut completion = pg_sys::QueryCompletion::default();
        let parsed = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(statement.as_ptr()));
        for raw in parsed.iter_ptr() {
            let text = statement.as_ptr();
            let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(raw, text, ptr::null(), 0, ptr::null_mut());
            let plans =
                PgList::<pg_sys::PlannedStmt>::from_pg(pg_sys::pg_plan_queries(queries, text, 0, ptr::null_mut()));
            for plan in plans.iter_ptr() {
                pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
                pg_sys::ProcessUtility(
                    plan,
                    text,
                    false,
                    pg_sys::ProcessUtilityContext::PROCESS_UTILITY_QUERY,
                    ptr::null_mut(),
                    ptr::null_mut(),
                    pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone),
                    &raw mut completion,
                );
                pg_sys::PopActiveSnapshot();
                pg_sys::CommandCounterIncrement();
            }
        }
        completion.nprocessed
    }
}

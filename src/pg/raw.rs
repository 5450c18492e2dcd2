//! The server's functions that hooks call on every statement, declared without pgrx's guard. The guard costs a
//! sigsetjmp a call and turns errors into Rust panics; here errors must pass as the server throws them.
//!
//! Rules for callers: no value with a destructor is live across a call that may raise, and no `catch_unwind` frame is
//! between such a call and the server. Functions declared `extern "C"` never raise in the way they are used here, and are
//! exempt.

use pgrx::pg_sys;

unsafe extern "C-unwind" {
    pub fn standard_ExecutorStart(query_desc: *mut pg_sys::QueryDesc, flags: core::ffi::c_int);
    #[cfg(not(feature = "pg18"))]
    pub fn standard_ExecutorRun(
        query_desc: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        execute_once: bool,
    );
    #[cfg(feature = "pg18")]
    pub fn standard_ExecutorRun(query_desc: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
    pub fn standard_ExecutorFinish(query_desc: *mut pg_sys::QueryDesc);
    pub fn standard_ExecutorEnd(query_desc: *mut pg_sys::QueryDesc);
    pub fn standard_ProcessUtility(
        pstmt: *mut pg_sys::PlannedStmt,
        query_string: *const core::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        query_env: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        qc: *mut pg_sys::QueryCompletion,
    );
    pub fn standard_planner(
        parse: *mut pg_sys::Query,
        query_string: *const core::ffi::c_char,
        cursor_options: core::ffi::c_int,
        bound_params: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    /// Throws on the error that was caught.
    pub fn pg_re_throw() -> !;
}

unsafe extern "C" {
    /// Never raises.
    pub fn GetDatabaseEncoding() -> core::ffi::c_int;
    /// Raises only when a process holds 200 locks already.
    pub fn LWLockAcquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    /// Raises only when the lock is not held.
    pub fn LWLockRelease(lock: *mut pg_sys::LWLock);
    /// Never raises.
    pub fn GetCurrentTransactionNestLevel() -> core::ffi::c_int;
    /// Never raises.
    pub fn GetUserId() -> pg_sys::Oid;
    /// Never raises.
    pub fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
    /// Never raises.
    pub fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
    /// Never raises. Signed from 18 on; the bits are the same.
    pub fn pgstat_get_my_query_id() -> u64;
    /// Never raises while an error is being built, which is when context callbacks run.
    pub fn geterrcode() -> core::ffi::c_int;
    /// Never raises: looks a lock up in this process's own table.
    pub fn CheckRelationOidLockedByMe(relation: pg_sys::Oid, mode: pg_sys::LOCKMODE, or_stronger: bool) -> bool;
    /// Never raises.
    pub fn IsTransactionState() -> bool;
    /// Never raises.
    pub fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
    /// Never raises.
    pub fn GetCurrentTransactionStartTimestamp() -> pg_sys::TimestampTz;
    /// Never raises.
    pub fn get_timeout_finish_time(id: core::ffi::c_uint) -> pg_sys::TimestampTz;
}

/// The server's number for lock_timeout among its timeout reasons (utils/timeout.h); the same in 15 to 18.
pub const LOCK_TIMEOUT: core::ffi::c_uint = 2;

/// The server's number for statement_timeout among its timeout reasons (utils/timeout.h); the same in 15 to 18.
pub const STATEMENT_TIMEOUT: core::ffi::c_uint = 3;

/// Nanoseconds of a clock that never goes back.
#[inline(always)]
pub fn clock_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec; CLOCK_MONOTONIC exists on every supported platform.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

//! What a background process needs of the server, made safe: registration, signals, the latch, transactions with a
//! deadline. Called by the launcher, the collectors, the schedulers and the workers of job runs; what a client's backend may
//! call too says so. Locks nothing.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_sys, PgTryBuilder};

use crate::error::Error;

/// SIGTERM came.
static TERMINATE: AtomicBool = AtomicBool::new(false);
/// SIGHUP came.
/// Set at first: the server ignores a SIGHUP that comes while a worker starts, after the settings were copied to it.
static RELOAD: AtomicBool = AtomicBool::new(true);
/// A transaction is open, so SIGTERM has to interrupt it.
static IN_TRANSACTION: AtomicBool = AtomicBool::new(false);

/// STATEMENT_TIMEOUT of the server's `TimeoutId`; the same number from version 15 to 18.
const STATEMENT_TIMEOUT: i32 = 3;

extern "C" {
    // Raise only when the timeout was never registered, which InitPostgres does.
    fn enable_timeout_after(id: core::ffi::c_int, delay_ms: core::ffi::c_int);
    fn disable_timeout(id: core::ffi::c_int, keep_indicator: bool);
    // Sets flags and the latch.
    fn die(signal: core::ffi::c_int);
}

/// Whether this server process only converts a cluster for pg_upgrade, where nothing may run beside it.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a plain global that is written before any library is loaded.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Registers a process that the postmaster starts once the server is consistent and restarts within a second.
pub fn register_static(name: &str, function: &str) {
    builder(name, name, function).set_restart_time(Some(std::time::Duration::from_secs(1))).load();
}

/// Registers a process that the postmaster starts once when the server takes writes: at start, or at a standby's
/// promotion.
pub fn register_at_promotion(name: &str, function: &str) {
    builder(name, name, function).set_start_time(BgWorkerStartTime::RecoveryFinished).set_restart_time(None).load();
}

/// Asks the postmaster for a process that is never restarted by itself. False when no worker slot is free.
pub fn start_dynamic(name: &str, kind: &str, function: &str, argument: i64) -> bool {
    // The handle that nobody needs goes with its own memory context: the current one may be that of the process.
    // SAFETY: the context is made, entered, left and deleted here; nothing in between raises but for want of memory.
    let (context, outer) = unsafe {
        let context = pg_sys::AllocSetContextCreateExtended(
            pg_sys::CurrentMemoryContext,
            c"perf_opt worker".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        (context, pg_sys::MemoryContextSwitchTo(context))
    };
    let started = builder(name, kind, function)
        .set_restart_time(None)
        .set_argument(Some(pg_sys::Datum::from(argument)))
        .set_notify_pid(my_pid())
        .load_dynamic()
        .is_ok();
    // SAFETY: as above; the handle is not used any more.
    unsafe {
        pg_sys::MemoryContextSwitchTo(outer);
        pg_sys::MemoryContextDelete(context);
    }
    started
}

fn builder(name: &str, kind: &str, function: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(name)
        .set_type(kind)
        .set_library("perf_opt")
        .set_function(function)
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
}

/// First thing in a background process: its signal handlers. Signals that came before are delivered on return.
pub fn install_signal_handlers() {
    // SAFETY: called once at the start of the process; the handlers touch atomics, volatile flags and the latch only.
    unsafe {
        set_handler(pg_sys::SIGTERM as i32, on_sigterm);
        set_handler(pg_sys::SIGHUP as i32, on_sighup);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// The same for a process that runs other people's SQL: SIGTERM ends it wherever it is, SIGINT cancels its statement, as in
/// a client's backend.
pub fn install_client_signal_handlers() {
    // SAFETY: called once at the start of the process, before signals are let through; these are the server's own handlers.
    // SIGINT has its handler already: every process with a database connection gets it.
    unsafe {
        set_handler(pg_sys::SIGTERM as i32, on_die);
        set_handler(pg_sys::SIGHUP as i32, on_sighup);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

#[allow(ffi_unwind_calls, reason = "a signal handler of the server that sets flags and raises nothing")]
unsafe extern "C-unwind" fn on_die(signal: i32) {
    // SAFETY: called as a signal handler.
    unsafe { die(signal) }
}

/// # Safety
/// `handler` must be async-signal-safe.
unsafe fn set_handler(signal: i32, handler: unsafe extern "C-unwind" fn(i32)) {
    #[cfg(not(feature = "pg18"))]
    // SAFETY: see the function's contract.
    unsafe {
        pg_sys::pqsignal(signal, Some(handler));
    }
    #[cfg(feature = "pg18")]
    // SAFETY: see the function's contract.
    unsafe {
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

// No pg_guard: the guard saves and restores a jump buffer, which is no business of a signal handler.
unsafe extern "C-unwind" fn on_sigterm(_signal: i32) {
    TERMINATE.store(true, Ordering::SeqCst);
    if IN_TRANSACTION.load(Ordering::SeqCst) {
        // SAFETY: volatile flags made for this, as the server's own cancel handler sets them.
        unsafe {
            (&raw mut pg_sys::QueryCancelPending).write_volatile(1);
            (&raw mut pg_sys::InterruptPending).write_volatile(1);
        }
    }
    // SAFETY: SetLatch is async-signal-safe and MyLatch is set before signals are unblocked.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) }
}

unsafe extern "C-unwind" fn on_sighup(_signal: i32) {
    RELOAD.store(true, Ordering::SeqCst);
    // SAFETY: as above.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) }
}

/// SIGTERM came.
pub fn must_end() -> bool {
    TERMINATE.load(Ordering::SeqCst)
}

/// Connects to the shared catalogs only.
pub fn connect_to_shared_catalogs() {
    // SAFETY: once per process, with database access declared at registration. Null means no database, the
    // bootstrap superuser.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) }
}

/// Connects to a database as the bootstrap superuser, also where `datallowconn` has been switched off since.
pub fn connect_to_database(dbid: u32) {
    // SAFETY: once per process. The invalid role means the bootstrap superuser, whatever its LOGIN attribute.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(dbid),
            pg_sys::InvalidOid,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
    }
}

/// Connects to a database as a role, with what a login of that role would have: its settings, its rights, no more.
/// A role that may not connect ends the process, except one that may not log in where the server can look past that.
pub fn connect_as(dbid: u32, role: u32) {
    let flags = crate::compat::WITHOUT_LOGIN_CHECK;
    // SAFETY: once per process.
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnectionByOid(pg_sys::Oid::from(dbid), pg_sys::Oid::from(role), flags);
    }
}

/// This process.
pub fn my_pid() -> i32 {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyProcPid }
}

/// What tells this database from all others, of other servers too, until it is copied as files: the identifier of the
/// cluster, and the database's number.
pub fn database_identity() -> (u64, u32) {
    // SAFETY: the first reads shared memory that was filled when the server started, the second a plain global.
    unsafe { (pg_sys::GetSystemIdentifier(), pg_sys::MyDatabaseId.to_u32()) }
}

/// The address of this process's latch: it lies in shared memory, at the same place in every process, for as long as
/// the server lives.
pub fn my_latch() -> usize {
    // SAFETY: a plain global of this process.
    unsafe { pg_sys::MyLatch as usize }
}

/// Wakes the owner of a latch published by [`my_latch`]; 0 wakes nobody.
pub fn wake(latch: usize) {
    if latch != 0 {
        // SAFETY: the address came from `my_latch` of a process attached to the same shared memory, where latches of
        // PGPROC entries are never freed; one that has changed hands is woken for nothing, which is allowed.
        unsafe { pg_sys::SetLatch(latch as *mut pg_sys::Latch) }
    }
}

/// Asks a process to end. The caller holds the lock that the process must take before it exits.
pub fn terminate(pid: i32) {
    if pid > 0 {
        // SAFETY: kill(2) of a process of ours that cannot have exited yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Cancels what a process does now. The caller holds the lock that the process must take before it exits.
pub fn interrupt(pid: i32) {
    if pid > 0 {
        // SAFETY: kill(2) of a process of ours that cannot have exited yet.
        unsafe { libc::kill(pid, libc::SIGINT) };
    }
}

/// Whether a backend or worker with this pid is attached to the server.
pub fn is_attached(pid: i32) -> bool {
    // SAFETY: takes and releases ProcArrayLock; the result is only compared with null.
    !unsafe { pg_sys::BackendPidGetProc(pid) }.is_null()
}

/// Sleeps until the latch is set or the time is over, then handles what may be handled at any time: interrupts of
/// other processes, SIGHUP. A cancel has nothing to cancel here. Ends the process when the postmaster is gone.
pub fn wait(timeout_ms: i64) {
    wait_with(None, Some(timeout_ms));
}

/// The same, also until a file descriptor can be read; without a time limit when there is none.
pub fn wait_with(descriptor: Option<i32>, timeout_ms: Option<i64>) {
    // Whoever waited for a lock since may have taken the wake-up of a SIGHUP for its own.
    if reload() {
        return;
    }
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    if timeout_ms.is_some() {
        events |= pg_sys::WL_TIMEOUT;
    }
    if descriptor.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
    let timeout = timeout_ms.unwrap_or(-1).max(-1) as core::ffi::c_long;
    // SAFETY: plain calls on this process's own latch, outside of any transaction of ours or inside; both are allowed.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events as i32,
            descriptor.unwrap_or(pg_sys::PGINVALID_SOCKET),
            timeout,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
    }
    check_for_interrupts();
    reload();
}

/// Sleeps until a file descriptor can be read, or the time is over, whoever sets the latch meanwhile. Ends the process when
/// the postmaster is gone.
pub fn wait_for_input(descriptor: i32, timeout_ms: i64) {
    let events = (pg_sys::WL_SOCKET_READABLE | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: a plain call that waits for no latch.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            std::ptr::null_mut(),
            events,
            descriptor,
            timeout_ms as core::ffi::c_long,
            pg_sys::PG_WAIT_EXTENSION,
        );
    }
}

/// Reads the settings again if a SIGHUP asked for it; whether one did. For whoever may not wait for long.
pub fn reload() -> bool {
    let is_asked = RELOAD.swap(false, Ordering::SeqCst);
    if is_asked {
        // SAFETY: in the main loop of a background process, as the server's own workers do.
        unsafe {
            (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
    is_asked
}

/// Sleeps a little inside a client's backend; cancels and terminations of that client are obeyed.
pub fn pause(timeout_ms: i64) {
    let events = (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32;
    // SAFETY: plain calls on this process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events, timeout_ms as core::ffi::c_long, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    check_for_interrupts();
}

/// Clients connected to a database.
pub fn client_connections(dbid: u32) -> i32 {
    // SAFETY: takes and releases ProcArrayLock.
    unsafe { pg_sys::CountDBConnections(pg_sys::Oid::from(dbid)) }
}

/// Whether this server is a standby, or is still recovering.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state; allowed anywhere.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether the client has begun a transaction that it will end by itself.
pub fn in_transaction_block() -> bool {
    // SAFETY: reads the state of this process's transaction.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Raises an ERROR on a standby, as the server does for commands that write.
pub fn refuse_in_recovery(what: &CStr) {
    // SAFETY: may raise; reads shared state otherwise.
    unsafe { pg_sys::PreventCommandDuringRecovery(what.as_ptr()) }
}

/// The clock, as the server's TimestampTz (microseconds since 2000-01-01).
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// A time of [`now`]'s kind as a value. Out of range only if the clock is; then the earliest time is as good as any.
pub fn instant(at: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(at).unwrap_or_else(|_| TimestampWithTimeZone::negative_infinity())
}

/// Random bytes for keys; falls back to the clock when the system has none.
pub fn random_u64() -> u64 {
    let mut value = 0u64;
    // SAFETY: writes exactly the eight bytes of `value`.
    let filled = unsafe { pg_sys::pg_strong_random((&raw mut value).cast(), size_of::<u64>()) };
    if filled {
        value
    } else {
        (now() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// Sets a session setting of this process, as its configuration would.
pub fn set_session(name: &CStr, value: &CStr) {
    // SAFETY: both are NUL-terminated; the settings used are USERSET or SUSET with valid values.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Shows in pg_stat_activity what this process does; `None` when it waits.
pub fn report_activity(what: Option<&CStr>) {
    // SAFETY: copies the string into this process's own status slot.
    unsafe {
        match what {
            Some(text) => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()),
            None => pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null()),
        }
    }
}

/// Shows in pg_stat_activity, and in messages of the log, which statement runs; `None`: none does any more.
pub fn report_statement(text: Option<&'static CStr>) {
    // SAFETY: the server reads the text as long as it is set, and it lives as long as the process.
    unsafe { pg_sys::debug_query_string = text.map_or(std::ptr::null(), CStr::as_ptr) };
    report_activity(text);
}

/// Cancels whatever this process does after so many milliseconds; `None` takes that back.
pub fn set_deadline(limit_ms: Option<i64>) {
    // SAFETY: the timeout was registered by InitPostgres; its handler sends this process a cancel.
    unsafe {
        match limit_ms {
            Some(limit_ms) => {
                enable_timeout_after(STATEMENT_TIMEOUT, i32::try_from(limit_ms.max(1)).unwrap_or(i32::MAX))
            }
            None => disable_timeout(STATEMENT_TIMEOUT, false),
        }
    }
}

/// Obeys a cancel, or a request to end, that has come.
pub fn check_for_interrupts() {
    // SAFETY: may raise, and nothing is held here.
    unsafe {
        if pg_sys::InterruptPending != 0 {
            pg_sys::ProcessInterrupts();
        }
    }
}

/// Lets cancels wait that come from now on, until [`take_cancels`].
pub fn hold_cancels() {
    // SAFETY: a counter of this process made for this.
    unsafe { (&raw mut pg_sys::QueryCancelHoldoffCount).write_volatile(1) };
}

/// Ends [`hold_cancels`]: one that has come meanwhile is obeyed at the next look.
pub fn take_cancels() {
    // SAFETY: as above; an error that was raised in between has set it to zero already.
    unsafe { (&raw mut pg_sys::QueryCancelHoldoffCount).write_volatile(0) };
}

/// Forgets a cancel that has come too late.
pub fn drop_cancel() {
    // SAFETY: a volatile flag made for this.
    unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) };
}

/// Ends the process. Exit callbacks run.
pub fn exit(code: i32) -> ! {
    // SAFETY: the one way for a server process to end.
    unsafe { pg_sys::proc_exit(code) };
    #[allow(unreachable_code, reason = "not every version declares that proc_exit does not return")]
    std::process::abort()
}

/// Calls `callback` when this process ends, unless it is killed.
pub fn on_exit(callback: unsafe extern "C-unwind" fn(i32, pg_sys::Datum)) {
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(callback), pg_sys::Datum::from(0)) }
}

/// Runs `body` in a transaction with a snapshot and a time limit; 0 is none. Commits when it returns `Ok`; rolls back when it
/// returns `Err` or raises, and gives the message. The process goes on either way.
pub fn transaction<R>(limit_ms: i32, body: impl FnOnce() -> Result<R, Error>) -> Result<R, String> {
    // SAFETY: no transaction is open in the loops that call this; a cancel that came for an earlier one is dropped.
    unsafe {
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
        pg_sys::SetCurrentStatementStartTimestamp();
    }
    IN_TRANSACTION.store(true, Ordering::SeqCst);
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: as above; the snapshot popped is the one pushed here.
        unsafe {
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            if limit_ms > 0 {
                enable_timeout_after(STATEMENT_TIMEOUT, limit_ms);
            }
        }
        let value = body().map_err(|error| error.message())?;
        // SAFETY: as above.
        unsafe {
            disable_timeout(STATEMENT_TIMEOUT, false);
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    }))
    .catch_others(|cause| {
        Err(match cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report.message().to_owned(),
            CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
        })
    })
    .execute();
    IN_TRANSACTION.store(false, Ordering::SeqCst);
    // SAFETY: nothing of the transaction is in use any more. Aborting is allowed whether or not one is open.
    unsafe {
        if outcome.is_err() {
            disable_timeout(STATEMENT_TIMEOUT, false);
            pg_sys::AbortCurrentTransaction();
        }
        (&raw mut pg_sys::QueryCancelPending).write_volatile(0);
        pg_sys::pgstat_report_stat(true);
    }
    outcome
}

/// Gives what follows in the running [`transaction`] a limit of its own. False, and without effect, outside of one and where
/// the process is to end.
pub fn limit_from_here(limit_ms: i32) -> bool {
    let applies = IN_TRANSACTION.load(Ordering::SeqCst) && !must_end();
    if applies {
        // SAFETY: arms the timer that `transaction` has set, anew; that disarms it at its end.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, limit_ms) }
    }
    applies
}

/// Databases that accept connections: OID and name. Needs an open transaction; reads pg_database without any other
/// catalog, so it works where no database is connected.
pub fn connectable_databases() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    // SAFETY: the scan is ended and the relation closed before returning; a raised error leaves both to the
    // transaction's abort. GETSTRUCT of a pg_database tuple is its fixed part.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // -2 marks a database whose DROP was interrupted (15.4 and later).
            if row.datallowconn && row.datconnlimit != -2 {
                let name = CStr::from_ptr(row.datname.data.as_ptr()).to_string_lossy().into_owned();
                found.push((row.oid.to_u32(), name));
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    }
    found
}

/// Whether the extension is installed in the connected database. Needs an open transaction.
pub fn extension_installed() -> bool {
    // SAFETY: a catalog lookup by a NUL-terminated name, inside a transaction.
    unsafe { pg_sys::get_extension_oid(c"perf_opt".as_ptr(), true) != pg_sys::InvalidOid }
}

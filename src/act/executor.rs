//! Runs SQL at top level, as a client's simple query would: statements that refuse to run in a transaction block or in a
//! function (VACUUM, CREATE INDEX CONCURRENTLY, CALL of a procedure that commits) run here. Called by the workers of job
//! runs, outside of any transaction; leaves none open, whatever happens. Locks what the statements lock.
//!
//! What is to be written down about a run is handed in as `at_end` and runs in the transaction of the last statement: the
//! work and its record are committed together or not at all. Statements that have ended their own transactions before
//! (VACUUM, procedures) leave the record to the last of them.

use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::ptr;

use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::{pg_sys, PgList, PgLogLevel, PgSqlErrorCode, PgTryBuilder};

use crate::compat;
use crate::error::Error;
use crate::pg::text::DbText;
use crate::pg::{background, ident};

/// SQLSTATE of what somebody, or a time limit, has cancelled.
pub const QUERY_CANCELED: &str = "57014";
/// SQLSTATEs of a lock that could not be had: in time, or because of a deadlock.
const LOCK_NOT_AVAILABLE: [&str; 2] = ["55P03", "40P01"];

/// Why something did not work: what the server would have told a client.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Five characters.
    pub sqlstate: String,
    /// Without the severity.
    pub message: String,
    /// What else was said.
    pub detail: Option<String>,
    /// The way out.
    pub hint: Option<String>,
}

impl Failure {
    /// Of our own making.
    pub fn new(sqlstate: &str, message: impl Into<String>) -> Failure {
        Failure { sqlstate: sqlstate.to_owned(), message: message.into(), detail: None, hint: None }
    }

    /// Whether a lock could not be had.
    pub fn is_of_a_lock(&self) -> bool {
        LOCK_NOT_AVAILABLE.contains(&self.sqlstate.as_str())
    }

    fn of(cause: CaughtError) -> Failure {
        let (code, report) = match &cause {
            CaughtError::PostgresError(report)
            | CaughtError::ErrorReport(report)
            | CaughtError::RustPanic { ereport: report, .. } => (report.sql_error_code(), report),
        };
        Failure {
            sqlstate: sqlstate_text(code as i32),
            message: shortened(report.message()),
            detail: report.detail().map(shortened),
            hint: report.hint().map(shortened),
        }
    }
}

/// The beginning of a text that others make as long as they like: up to 100 tries of a run keep theirs in one row.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 2_000;
    text.chars().take(CHARACTERS_MAX).collect()
}

/// The five characters of a packed SQLSTATE, six bits each.
fn sqlstate_text(packed: i32) -> String {
    (0..5).map(|at| char::from((((packed >> (6 * at)) & 0x3F) as u8) + b'0')).collect()
}

/// Runs `body` in a transaction of its own, with a snapshot. Commits when it returns `Ok`.
pub fn transaction<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    caught(|| {
        // SAFETY: no transaction is open; the snapshot popped is the one pushed here.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let value = body()?;
        // SAFETY: as above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    })
}

/// Runs `body` in a subtransaction of the open transaction, under a snapshot that sees what came before. What it did is
/// undone when it fails, and only that.
pub fn subtransaction<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // SAFETY: a plain read; the values are put back below, as the server's own languages do it for a block with a handler.
    let (context, owner) = unsafe {
        let saved = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(saved.0);
        saved
    };
    let attempt = || {
        // SAFETY: the snapshot popped is the one pushed here; an abort drops it.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            let value = body()?;
            pg_sys::PopActiveSnapshot();
            Ok(value)
        }
    };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(attempt)).catch_others(|cause| Err(Failure::of(cause))).execute();
    // SAFETY: the subtransaction begun above is the current one, whatever happened.
    unsafe {
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

/// The same for an answer that can do without what `body` gives: what it said when it failed. Somebody who wants the whole
/// answer ended is heard: a cancel is raised again.
pub fn attempt<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, String> {
    subtransaction(body).map_err(|failure| {
        if failure.sqlstate == QUERY_CANCELED {
            ErrorReport::new(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, failure.message, "perf_opt")
                .report(PgLogLevel::ERROR);
            unreachable!("an ERROR does not return");
        }
        failure.message
    })
}

/// Runs a text of one or more statements, as the role of this session.
pub fn script(text: &str, at_end: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    // Where the database is not in UTF-8, a conversion is looked up in the catalogs, which takes a transaction.
    let text = if text.is_ascii() { DbText::from_ascii(text) } else { transaction(|| Ok(DbText::from_utf8(text)))? };
    let text =
        CString::new(text.as_bytes()).map_err(|_| Failure::new("22021", "a command must not contain a zero byte"))?;
    // The server looks at it until the process ends, which is soon: the process runs one job.
    let text: &'static CStr = Box::leak(text.into_boxed_c_str());
    background::report_statement(Some(text));
    let outcome = caught(|| {
        // SAFETY: no transaction is open, and the context lives until after the last statement.
        unsafe {
            let context = pg_sys::AllocSetContextCreateExtended(
                pg_sys::TopMemoryContext,
                c"perf_opt command".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            let outer = pg_sys::MemoryContextSwitchTo(context);
            let outcome = run_statements(text, context, at_end);
            pg_sys::MemoryContextSwitchTo(outer);
            pg_sys::MemoryContextDelete(context);
            outcome
        }
    });
    background::report_statement(None);
    outcome
}

/// Runs one statement of ours at top level.
pub fn statement(text: &str) -> Result<(), Failure> {
    script(text, || Ok(()))
}

/// One statement of a text of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its text.
    pub sql: String,
    /// Schema and name, unquoted, of the index that it creates.
    pub creates: Option<(String, String)>,
    /// It makes or drops an index without holding off writers: nobody has to wait while it waits.
    pub is_gentle: bool,
}

/// The statements of a text of perf_opt's own, for what cannot run in one transaction. Inside a transaction.
pub fn pieces(text: &str) -> Vec<Piece> {
    let bytes = DbText::from_utf8(text).as_bytes().to_vec();
    let Ok(text) = CString::new(bytes) else { return Vec::new() };
    // SAFETY: parses only; the trees belong to the current memory context, places are within the text, and the tag of a
    // statement is looked at before it is taken for an IndexStmt, whose table is never NULL, or a DropStmt.
    unsafe {
        let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(text.as_ptr()));
        let piece = |raw: *mut pg_sys::RawStmt| {
            let start = usize::try_from((*raw).stmt_location).unwrap_or(0);
            let rest = text.as_bytes().get(start..).unwrap_or_default();
            let length = usize::try_from((*raw).stmt_len).ok().filter(|length| *length > 0).unwrap_or(rest.len());
            let sql = DbText::from_bytes(rest[..length.min(rest.len())].to_vec()).to_utf8().trim().to_owned();
            let is_gentle = match (*(*raw).stmt).type_ {
                pg_sys::NodeTag::T_IndexStmt => (*(*raw).stmt.cast::<pg_sys::IndexStmt>()).concurrent,
                pg_sys::NodeTag::T_DropStmt => (*(*raw).stmt.cast::<pg_sys::DropStmt>()).concurrent,
                _ => false,
            };
            let creates = ((*(*raw).stmt).type_ == pg_sys::NodeTag::T_IndexStmt).then(|| {
                let statement = (*raw).stmt.cast::<pg_sys::IndexStmt>();
                let name =
                    |name: *mut core::ffi::c_char| (!name.is_null()).then(|| ident::from_server(CStr::from_ptr(name)));
                Some((name((*(*statement).relation).schemaname)?, name((*statement).idxname)?))
            });
            Piece { sql, creates: creates.flatten(), is_gentle }
        };
        statements.iter_ptr().map(piece).collect()
    }
}

/// Raises what the server says of a text that is not SQL; refuses one without a statement. Inside a transaction.
pub fn check_syntax(text: &str) -> Result<(), Error> {
    let refused = |value: &str| Error::InvalidArgument {
        argument: "command",
        value: value.to_owned(),
        accepted: "One or more SQL statements.".to_owned(),
    };
    let text = CString::new(DbText::from_utf8(text).as_bytes()).map_err(|_| refused("text with a zero byte"))?;
    // SAFETY: parses only; the trees belong to the current memory context.
    let statements = unsafe { PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(text.as_ptr())).len() };
    if statements == 0 {
        return Err(refused("no statement"));
    }
    Ok(())
}

/// Runs `body`, which opens and commits transactions; aborts the one that is open when it fails.
fn caught<R>(body: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    let outcome = PgTryBuilder::new(AssertUnwindSafe(body)).catch_others(|cause| Err(Failure::of(cause))).execute();
    if outcome.is_err() {
        // SAFETY: nothing of the transaction is in use any more. Out of all blocks, whatever state they were in.
        unsafe {
            pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::AbortOutOfAnyTransaction();
        }
    }
    // SAFETY: outside of any transaction.
    unsafe {
        pg_sys::pgstat_report_stat(true);
    }
    outcome
}

/// The loop of a simple query.
///
/// # Safety
/// No transaction is open; `context` is the current memory context and outlives the call.
unsafe fn run_statements(
    text: &CStr,
    context: pg_sys::MemoryContext,
    at_end: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    // SAFETY: each call as in the server's own loop over the statements of a simple query, in its order; parse trees,
    // plans and the text live in `context` until the end.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::MemoryContextSwitchTo(context);
        let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::pg_parse_query(text.as_ptr()));
        let count = statements.len();
        if count == 0 {
            return Err(Failure::new("22023", "the command has no statement"));
        }
        let mut started = true;
        for (index, raw) in statements.iter_ptr().enumerate() {
            if !started {
                pg_sys::StartTransactionCommand();
                pg_sys::MemoryContextSwitchTo(context);
                started = true;
            }
            if count > 1 {
                pg_sys::BeginImplicitTransactionBlock();
            }
            background::check_for_interrupts();
            run_one(raw, text)?;
            let is_last = index + 1 == count;
            if is_last && count > 1 {
                pg_sys::EndImplicitTransactionBlock();
            }
            if (*(*raw).stmt).type_ == pg_sys::NodeTag::T_TransactionStmt {
                pg_sys::CommitTransactionCommand();
                started = false;
            } else if !is_last {
                pg_sys::CommandCounterIncrement();
            }
            pg_sys::MemoryContextSwitchTo(context);
        }
        if pg_sys::IsTransactionBlock() {
            return Err(Failure::new("25001", "the command leaves a transaction open"));
        }
        if !started {
            pg_sys::StartTransactionCommand();
        }
        // A procedure or VACUUM may have left a snapshot or none; ours sees what the command has done.
        pg_sys::CommandCounterIncrement();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        at_end()?;
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::MemoryContextSwitchTo(context);
        Ok(())
    }
}

/// Plans and runs one statement at top level.
///
/// # Safety
/// As for [`run_statements`], inside a transaction command; `raw` is one of the parse trees of `text`.
unsafe fn run_one(raw: *mut pg_sys::RawStmt, text: &CStr) -> Result<(), Failure> {
    // SAFETY: see the function's contract; the snapshot popped is the one pushed here, the portal dropped the one created.
    unsafe {
        let statement = (*raw).stmt;
        if (*statement).type_ == pg_sys::NodeTag::T_CopyStmt
            && (*statement.cast::<pg_sys::CopyStmt>()).filename.is_null()
        {
            // Without a client the server takes its own standard input and output, which may be its log.
            let failure = Failure::new("0A000", "a job has no client to COPY from or to");
            return Err(Failure {
                hint: Some("COPY from or to a file of the server, or use INSERT.".to_owned()),
                ..failure
            });
        }
        let needs_snapshot = pg_sys::analyze_requires_snapshot(raw);
        if needs_snapshot {
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let queries = pg_sys::pg_analyze_and_rewrite_fixedparams(raw, text.as_ptr(), ptr::null(), 0, ptr::null_mut());
        let plans =
            pg_sys::pg_plan_queries(queries, text.as_ptr(), pg_sys::CURSOR_OPT_PARALLEL_OK as i32, ptr::null_mut());
        if needs_snapshot {
            pg_sys::PopActiveSnapshot();
        }
        background::check_for_interrupts();
        let portal = pg_sys::CreatePortal(c"".as_ptr(), true, true);
        (*portal).visible = false;
        let tag = pg_sys::CreateCommandTag((*raw).stmt);
        pg_sys::PortalDefineQuery(portal, ptr::null(), text.as_ptr(), tag, plans, ptr::null_mut());
        pg_sys::PortalStart(portal, ptr::null_mut(), 0, ptr::null_mut());
        let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestNone);
        compat::run_portal(portal, receiver);
        pg_sys::PortalDrop(portal, false);
    }
    Ok(())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let (code, message, hint) = error.parts();
        Failure { sqlstate: sqlstate_text(code as i32), message, detail: None, hint: Some(hint) }
    }
}

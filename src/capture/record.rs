//! Turns what hooks saw into records: counts for the statement, a slow sample, a sample for the advisor.

use super::frames::{Frame, Open, Planned, MAX_RELATIONS};
use super::source::StatementText;
use super::{plan, reads, sample, transaction};
use crate::compat;
use crate::guc;
use crate::memory::slow_ring::{self, Record};
use crate::memory::statements::{self, Execution, Key, Recorded, Source, Usage};
use crate::memory::{self, slab, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use core::ffi::{c_char, CStr};
use perf_core::fnv::fnv1a;
use perf_core::outcome::{unpack_sqlstate, Outcome, Severity};
use pgrx::pg_sys;
use std::net::IpAddr;

/// What is known of a failed execution.
pub struct Failed<'a> {
    pub outcome: Outcome,
    pub calls: u64,
    pub elapsed_ns: u64,
    pub rows: u64,
    pub plans: u64,
    pub planning_ns: u64,
    pub usage: Usage,
    pub text: StatementText<'a>,
}

/// The key of a statement of the current role.
fn key(queryid: u64, toplevel: bool) -> Key {
    // SAFETY: a plain read of the process's state.
    key_of(unsafe { raw::GetUserId() }.to_u32(), queryid, toplevel)
}

#[inline(always)]
fn key_of(userid: u32, queryid: u64, toplevel: bool) -> Key {
    // SAFETY: a plain read of a process global.
    Key { queryid, dbid: unsafe { pg_sys::MyDatabaseId }.to_u32(), userid, toplevel }
}

fn statement_start() -> i64 {
    // SAFETY: never raise.
    unsafe {
        match raw::GetCurrentStatementStartTimestamp() {
            0 => raw::GetCurrentTimestamp(),
            at => at,
        }
    }
}

#[inline(always)]
fn slowness(elapsed_ns: u64) -> Option<Severity> {
    if elapsed_ns <= guc::slow_threshold_ns() {
        return None;
    }
    severity_of(elapsed_ns)
}

#[cold]
fn severity_of(elapsed_ns: u64) -> Option<Severity> {
    Severity::of_ns(elapsed_ns, &guc::thresholds_ns())
}

/// A query came to its end, or its transaction did.
///
/// # Safety
/// `open.query` is NULL or a live descriptor whose executor is open; `measured` when its nodes counted their rows.
#[inline(always)]
pub unsafe fn finished(memory: &Memory, (plans, planning_ns): (u64, u64), open: &mut Open, measured: bool) {
    let severity = slowness(open.execution.elapsed_ns);
    // SAFETY: the caller vouches for the descriptor.
    let query = unsafe { open.query.as_ref() };
    let execution = &mut open.execution;
    execution.plans = plans;
    execution.planning_ns = planning_ns;
    execution.slowness = severity.map_or(0, |severity| severity as u8 + 1);
    execution.at = statement_start();
    if let Some(query) = query {
        // SAFETY: an open executor has a live state.
        unsafe {
            if (*query.estate).es_jit_flags != 0 {
                execution.jit_ns = compat::jit_ns(query.estate);
            }
        }
    }
    let text = query.map_or(StatementText::Missing, |query| {
        // SAFETY: a live descriptor has a live plan.
        let plan = unsafe { &*query.plannedstmt };
        StatementText::of(query.sourceText, plan.stmt_location, plan.stmt_len)
    });
    let key = key_of(open.userid, open.queryid, open.toplevel);
    let recorded = slab::record(memory, &key, execution, &text);
    // SAFETY: the caller vouches for the descriptor.
    unsafe { transaction::on_statement(memory, &key, execution, open.query, &text) };
    if let (Some(ring), Some(query)) = (memory::reads::of_interest(execution.elapsed_ns), query) {
        // SAFETY: the descriptor is live, its executor open.
        unsafe { reads::note(ring, &key, execution, query, &text) };
    }
    let wanted = match recorded {
        Recorded::SampleWanted => true,
        Recorded::Kept => measured && statements::is_worth_sampling(&open.execution),
        Recorded::Folded => false,
    };
    if wanted && !open.query.is_null() && guc::sample_literals() {
        // SAFETY: the descriptor is live.
        unsafe { sample::take(memory, &key, open.query, &text, measured) };
    }
    if let Some(severity) = severity {
        // SAFETY: the descriptor is NULL or live, its executor open.
        unsafe { keep_slow_query(memory, severity, &key, open, &text) };
    }
}

/// As [`finished`], of a query whose nodes counted nothing; for those who are rarely at it before the executor's end.
///
/// # Safety
/// As for [`finished`].
#[cold]
#[inline(never)]
pub unsafe fn finished_early(memory: &Memory, planning: (u64, u64), open: &mut Open) {
    // SAFETY: passed on to the caller.
    unsafe { finished(memory, planning, open, false) };
}

/// Whether the execution of a costly query that starts now is to be sampled, as far as that is known before.
#[cold]
pub fn is_sample_due(memory: &Memory, queryid: u64, toplevel: bool) -> bool {
    guc::sample_literals() && statements::is_sample_due(memory, &key(queryid, toplevel))
}

/// Keeps a slow query, with its plan.
///
/// # Safety
/// As for [`finished`].
#[cold]
unsafe fn keep_slow_query(memory: &Memory, severity: Severity, key: &Key, open: &Open, text: &StatementText) {
    let mut about = About::new(key, &open.execution, Outcome::Ok, text);
    // SAFETY: the caller vouches for the descriptor.
    if let Some(query) = unsafe { open.query.as_ref() } {
        // SAFETY: the descriptor is live and its executor open.
        unsafe {
            let plan = &*query.plannedstmt;
            about.relations_len = relations_of(plan, &mut about.relations);
            about.estimated_rows = (*plan.planTree).plan_rows;
            if guc::capture_plans() {
                about.plan = plan::explain(memory, open.query);
            }
        }
    }
    keep_slow(memory, severity, &about);
}

/// A portal ran a part of a query. If it is never closed but dies with its transaction, its text dies first: the table
/// gets it now, without a call.
///
/// # Safety
/// `open.query` is a live descriptor whose executor is open.
#[cold]
pub unsafe fn keep_text(memory: &Memory, open: &Open) {
    // SAFETY: NULL or the portal that is running; the caller vouches for the descriptor and with it for the plan.
    unsafe {
        if pg_sys::ActivePortal.as_ref().is_none_or(|portal| portal.queryDesc != open.query) {
            return;
        }
        let query = &*open.query;
        let plan = &*query.plannedstmt;
        let text = StatementText::of(query.sourceText, plan.stmt_location, plan.stmt_len);
        let nothing_yet = Execution { at: statement_start(), ..Execution::default() };
        statements::record(memory, &key_of(open.userid, open.queryid, open.toplevel), &nothing_yet, &text);
    }
}

/// A utility statement returned.
#[inline]
pub fn utility(memory: &Memory, frame: &Frame, execution: &mut Execution) {
    let severity = slowness(execution.elapsed_ns);
    execution.slowness = severity.map_or(0, |severity| severity as u8 + 1);
    execution.at = statement_start();
    let text = text_of(frame, StatementText::of(frame.text, frame.location, frame.len));
    let key = key(frame.queryid, frame.toplevel);
    slab::record(memory, &key, execution, &text);
    // SAFETY: no descriptor is given.
    unsafe { transaction::on_statement(memory, &key, execution, core::ptr::null(), &text) };
    if let Some(severity) = severity {
        keep_slow(memory, severity, &About::new(&key, execution, Outcome::Ok, &text));
    }
}

/// A statement did not return.
pub fn failed(memory: &Memory, frame: &Frame, failed: &Failed) {
    let severity = slowness(failed.elapsed_ns);
    let execution = Execution {
        calls: failed.calls,
        failed: true,
        sqlstate: frame.sqlstate,
        slowness: severity.map_or(0, |severity| severity as u8 + 1),
        rows: failed.rows,
        elapsed_ns: failed.elapsed_ns,
        plans: failed.plans,
        planning_ns: failed.planning_ns,
        jit_ns: 0,
        usage: failed.usage,
        at: statement_start(),
    };
    let text = text_of(frame, failed.text);
    let key = match frame.userid {
        0 => key(frame.queryid, frame.toplevel),
        userid => key_of(userid, frame.queryid, frame.toplevel),
    };
    slab::record(memory, &key, &execution, &text);
    // SAFETY: no descriptor is given.
    unsafe { transaction::on_statement(memory, &key, &execution, core::ptr::null(), &text) };
    if let Some(severity) = severity {
        let mut about = About::new(&key, &execution, failed.outcome, &text);
        about.relations = frame.failed_relations;
        about.relations_len = frame.failed_relations_len;
        about.estimated_rows = frame.estimated_rows;
        keep_slow(memory, severity, &about);
    }
}

/// Planning that no execution followed.
pub fn planned_only(memory: &Memory, planned: &Planned) {
    let execution = Execution {
        plans: planned.plans,
        planning_ns: planned.planning_ns,
        at: statement_start(),
        ..Execution::default()
    };
    slab::record(memory, &key(planned.queryid, planned.toplevel), &execution, &StatementText::Missing);
}

/// A statement that failed outside of the executor.
pub struct Refused {
    pub outcome: Outcome,
    pub sqlstate: i32,
    pub elapsed_ns: u64,
}

/// A text that was refused before it had a queryid. It cannot be trusted to be SQL and is not kept.
pub fn not_planned(memory: &Memory, refused: &Refused) {
    let text = format!("(not planned: {})", unpack_sqlstate(refused.sqlstate));
    let queryid = fingerprint(text.as_bytes());
    not_executed(memory, queryid, refused, 0, 0, &StatementText::Clean(text.as_bytes()));
}

/// A statement that was analysed, but failed before the executor ran it: no permission, a lock not granted in time.
pub fn not_executed(
    memory: &Memory,
    queryid: u64,
    refused: &Refused,
    plans: u64,
    planning_ns: u64,
    text: &StatementText,
) {
    let severity = slowness(refused.elapsed_ns);
    let execution = Execution {
        calls: 1,
        failed: true,
        sqlstate: refused.sqlstate,
        slowness: severity.map_or(0, |severity| severity as u8 + 1),
        elapsed_ns: refused.elapsed_ns,
        plans,
        planning_ns,
        at: statement_start(),
        ..Execution::default()
    };
    let key = key(queryid, true);
    slab::record(memory, &key, &execution, text);
    // SAFETY: no descriptor is given.
    unsafe { transaction::on_statement(memory, &key, &execution, core::ptr::null(), text) };
    if let Some(severity) = severity {
        keep_slow(memory, severity, &About::new(&key, &execution, refused.outcome, text));
    }
}

/// A statement that was counted already failed after all, when its transaction was committed.
pub fn failed_late(memory: &Memory, queryid: u64, sqlstate: i32, text: &StatementText) {
    let execution = Execution { failed: true, sqlstate, at: statement_start(), ..Execution::default() };
    let key = key(queryid, true);
    slab::record_in_table(memory, &key, &execution, text);
    // SAFETY: no descriptor is given.
    unsafe { transaction::on_statement(memory, &key, &execution, core::ptr::null(), text) };
}

/// Statements of which only the tag is kept share a queryid for each tag.
pub fn queryid_of_tag(tag: *const c_char) -> u64 {
    fingerprint(tag_bytes(tag))
}

/// FNV-1a; never 0, which stands for "none".
fn fingerprint(bytes: &[u8]) -> u64 {
    fnv1a(bytes.iter().copied()).max(1)
}

fn tag_bytes<'a>(tag: *const c_char) -> &'a [u8] {
    if tag.is_null() {
        return &[];
    }
    // SAFETY: tags are constants, of the server or of ours.
    unsafe { CStr::from_ptr(tag) }.to_bytes()
}

fn text_of<'a>(frame: &Frame, text: StatementText<'a>) -> StatementText<'a> {
    if frame.redacted {
        StatementText::Clean(tag_bytes(frame.tag))
    } else {
        text
    }
}

/// The first relations of a plan's list; returns how many.
///
/// # Safety
/// The plan is live.
pub unsafe fn relations_of(plan: &pg_sys::PlannedStmt, out: &mut [u32; MAX_RELATIONS]) -> u16 {
    // SAFETY: NULL or a live list of OIDs.
    let Some(list) = (unsafe { plan.relationOids.as_ref() }) else { return 0 };
    let len = (list.length.max(0) as usize).min(out.len());
    for (index, slot) in out.iter_mut().take(len).enumerate() {
        // SAFETY: below the list's length.
        *slot = unsafe { (*list.elements.add(index)).oid_value }.to_u32();
    }
    len as u16
}

/// Relations that a plan writes.
///
/// # Safety
/// The plan is live, and the list its result relations.
#[inline(always)]
pub unsafe fn written_by<'a>(plan: &'a pg_sys::PlannedStmt, list: &'a pg_sys::List) -> impl Iterator<Item = u32> + 'a {
    (0..list.length.max(0) as usize).map(move |index| {
        // SAFETY: the list has numbers, from 1, of entries of the plan's range table.
        unsafe {
            let number = (*list.elements.add(index)).int_value - 1;
            let entry: *const pg_sys::RangeTblEntry = (*(*plan.rtable).elements.add(number as usize)).ptr_value.cast();
            (*entry).relid.to_u32()
        }
    })
}

/// A slow execution, before it is laid out for shared memory.
struct About<'a> {
    key: &'a Key,
    execution: &'a Execution,
    outcome: Outcome,
    text: &'a StatementText<'a>,
    relations: [u32; MAX_RELATIONS],
    relations_len: u16,
    estimated_rows: f64,
    plan: Option<String>,
}

impl<'a> About<'a> {
    fn new(key: &'a Key, execution: &'a Execution, outcome: Outcome, text: &'a StatementText<'a>) -> About<'a> {
        About {
            key,
            execution,
            outcome,
            text,
            relations: [0; MAX_RELATIONS],
            relations_len: 0,
            estimated_rows: 0.0,
            plan: None,
        }
    }
}

/// Slow executions are laid out here before they are copied.
static RECORD: ProcessLocal<Record> = ProcessLocal::new(Record::EMPTY);

#[cold]
fn keep_slow(memory: &Memory, severity: Severity, about: &About) {
    // SAFETY: process-local; recording does not nest.
    let record = unsafe { &mut *RECORD.as_ptr() };
    let (key, execution) = (about.key, about.execution);
    // SAFETY: never raise.
    (record.captured_at, record.encoding) = unsafe { (raw::GetCurrentTimestamp(), pg_sys::GetDatabaseEncoding()) };
    record.duration_ns = execution.elapsed_ns;
    record.planning_ns = execution.planning_ns;
    record.rows = execution.rows;
    record.estimated_rows = about.estimated_rows;
    record.queryid = key.queryid;
    record.dbid = key.dbid;
    record.userid = key.userid;
    record.shared_blks_hit = execution.usage.shared_blks_hit;
    record.shared_blks_read = execution.usage.shared_blks_read;
    record.temp_blks_written = execution.usage.temp_blks_written;
    record.wal_bytes = execution.usage.wal_bytes;
    record.sqlstate = execution.sqlstate;
    record.outcome = about.outcome as u8;
    record.toplevel = key.toplevel;
    record.relations = about.relations;
    record.relations_len = about.relations_len;
    record.text_len = copy(about.text.text(), &mut record.text);
    record.plan_len = copy(about.plan.as_deref().unwrap_or("").as_bytes(), &mut record.plan);
    // SAFETY: NULL or NUL-terminated; this process's own status entry does not change while it is in a hook.
    unsafe {
        record.application_name_len = copy(c_bytes(pg_sys::application_name), &mut record.application_name);
        let address = pg_sys::MyBEEntry.as_ref().and_then(|entry| client_address(&entry.st_clientaddr));
        let address = address.map_or(String::new(), |address| address.to_string());
        record.client_addr_len = copy(address.as_bytes(), &mut record.client_addr);
    }
    slow_ring::push(memory, severity, record);
}

/// The client's IP address; `None` for sockets of other families.
fn client_address(address: &pg_sys::SockAddr) -> Option<IpAddr> {
    let storage: *const libc::sockaddr_storage = (&raw const address.addr).cast();
    // SAFETY: the storage is large enough for every family, and the family says how to read it.
    unsafe {
        match i32::from((*storage).ss_family) {
            libc::AF_INET => {
                let v4 = &*storage.cast::<libc::sockaddr_in>();
                Some(IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()))
            }
            libc::AF_INET6 => Some(IpAddr::from((*storage.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr)),
            _ => None,
        }
    }
}

unsafe fn c_bytes<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller vouches for a NUL-terminated string.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

fn copy(from: &[u8], to: &mut [u8]) -> u16 {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
    len as u16
}

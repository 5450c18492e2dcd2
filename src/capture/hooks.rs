//! The hooks themselves: executor, utility and planner. Each does its part before, lets the server (or the next
//! extension's hook) run, and does its part after. See the module's head for the rules.
#![allow(ffi_unwind_calls, reason = "the server's part of a hook must raise through ours untouched")]

use super::failure::{self, on_error};
use super::frames::{frames, Frames, Kind, Planned, MAX_DEPTH, MAX_OPEN};
use super::{actuals, record, source};
use crate::compat::{self, Meter};
use crate::guc::{self, Track};
use crate::memory::statements::Usage;
use crate::memory::{self, slab, Memory};
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::Ordering;
use pgrx::pg_sys;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// The hooks that were there before ours.
#[derive(Clone, Copy)]
struct Previous {
    start: pg_sys::ExecutorStart_hook_type,
    run: pg_sys::ExecutorRun_hook_type,
    finish: pg_sys::ExecutorFinish_hook_type,
    end: pg_sys::ExecutorEnd_hook_type,
    utility: pg_sys::ProcessUtility_hook_type,
    planner: pg_sys::planner_hook_type,
    emit_log: pg_sys::emit_log_hook_type,
}

static PREVIOUS: ProcessLocal<Previous> = ProcessLocal::new(Previous {
    start: None,
    run: None,
    finish: None,
    end: None,
    utility: None,
    planner: None,
    emit_log: None,
});

/// What a utility statement's node is shown to before it runs.
type BeforeUtility = unsafe fn(*mut pg_sys::Node);

static BEFORE_UTILITY: ProcessLocal<Option<BeforeUtility>> = ProcessLocal::new(None);

/// Puts the hooks in place; in the postmaster, after libraries were preloaded. Does nothing when shared memory is made
/// anew after a crash.
/// `before_utility` is told of every utility statement before anything of ours is on the stack; it may raise.
pub fn install(before_utility: BeforeUtility) {
    if frames().enabled {
        return;
    }
    BEFORE_UTILITY.set(Some(before_utility));
    // SAFETY: hook variables are plain globals, set before any backend exists.
    unsafe {
        PREVIOUS.set(Previous {
            start: pg_sys::ExecutorStart_hook,
            run: pg_sys::ExecutorRun_hook,
            finish: pg_sys::ExecutorFinish_hook,
            end: pg_sys::ExecutorEnd_hook,
            utility: pg_sys::ProcessUtility_hook,
            planner: pg_sys::planner_hook,
            emit_log: pg_sys::emit_log_hook,
        });
        pg_sys::ExecutorStart_hook = Some(executor_start);
        pg_sys::ExecutorRun_hook = Some(executor_run);
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        pg_sys::ExecutorEnd_hook = Some(executor_end);
        pg_sys::ProcessUtility_hook = Some(process_utility);
        pg_sys::planner_hook = Some(planner);
        pg_sys::emit_log_hook = Some(emit_log);
        pg_sys::RegisterXactCallback(Some(failure::on_transaction_end), core::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(failure::on_subtransaction_end), core::ptr::null_mut());
    }
    frames().enabled = true;
}

/// Captures nothing of what this process runs from now on; for perf_opt's own workers.
pub fn exclude_this_process() {
    frames().enabled = false;
}

/// Captures nothing of what `body` runs: statements of perf_opt's own in a process that runs others' too. Should it raise,
/// nothing more is captured of this process, which then ends.
pub fn unobserved<T>(body: impl FnOnce() -> T) -> T {
    let enabled = std::mem::replace(&mut frames().enabled, false);
    let value = body();
    frames().enabled = enabled;
    value
}

/// Runs our part of a hook. A panic in it switches capture off and lets the query go on.
#[inline(always)]
pub(super) fn fenced<T>(default: T, part: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(value) => value,
        Err(_) => {
            after_panic();
            default
        }
    }
}

#[cold]
fn after_panic() {
    frames().enabled = false;
    if let Some(memory) = memory::get_ref() {
        memory.header().panics.fetch_add(1, Ordering::Relaxed);
        memory.header().disabled.store(1, Ordering::Relaxed);
    }
}

/// The memory to record in, when this process captures.
#[inline(always)]
pub(super) fn capturing(frames: &Frames) -> Option<&'static Memory> {
    if !frames.enabled {
        return None;
    }
    let memory = memory::get_ref()?;
    (memory.header().disabled.load(Ordering::Relaxed) == 0).then_some(memory)
}

/// Whether a statement that starts now is to be captured.
#[inline(always)]
fn wanted(frames: &Frames) -> bool {
    match guc::track() {
        // The thousand statements of an extension's script are CREATE EXTENSION's.
        // SAFETY: a plain read of a process global.
        Track::All => frames.depth == 0 || !unsafe { pg_sys::creating_extension },
        Track::Top => frames.depth == 0,
        Track::None => false,
    }
}

/// Puts a frame on the stack and returns its index; `None` when the statement is not to be captured.
#[inline(always)]
fn push(kind: Kind, queryid: u64, text: *const c_char, location: i32, len: i32) -> Option<usize> {
    let frames = frames();
    // Attached first, also when nothing is wanted yet: it remembers how the session began.
    let memory = attached(frames)?;
    if !wanted(frames) {
        return None;
    }
    let depth = frames.depth;
    if depth >= MAX_DEPTH {
        memory.header().too_deep.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    if depth == 0 {
        frames.failure_recorded = false;
    }
    let frame = &mut frames.stack[depth];
    frame.kind = kind;
    frame.toplevel = depth == 0;
    frame.guarded = false;
    frame.redacted = false;
    // SAFETY: reads the transaction state.
    frame.level = unsafe { raw::GetCurrentTransactionNestLevel() };
    frame.queryid = queryid;
    frame.query = core::ptr::null_mut();
    frame.text = text;
    frame.location = location;
    frame.len = len;
    frame.sqlstate = 0;
    frame.tag = core::ptr::null();
    frame.failed_text_len = 0;
    frame.failed_relations_len = 0;
    // What planning reads is not told apart from what runs.
    if kind != Kind::Plan {
        frame.meter = Meter::now();
    }
    frame.started_ns = raw::clock_ns();
    frames.depth = depth + 1;
    Some(depth)
}

/// As `capturing`, after making sure that this process has its slab and exit handler.
#[inline(always)]
pub(super) fn attached(frames: &mut Frames) -> Option<&'static Memory> {
    let memory = capturing(frames)?;
    if !frames.attached {
        attach(memory, frames)?;
    }
    Some(memory)
}

/// The first statement of a process: parallel workers and processes outside of a database capture nothing, their
/// leader does; all others get a slab and an exit handler.
#[cold]
fn attach(memory: &'static Memory, frames: &mut Frames) -> Option<()> {
    // SAFETY: plain reads of process globals; before_shmem_exit only fails, with FATAL, when its 20 places are taken.
    unsafe {
        if pg_sys::ParallelWorkerNumber >= 0 || pg_sys::MyProc.is_null() || pg_sys::MyDatabaseId == pg_sys::InvalidOid {
            if pg_sys::ParallelWorkerNumber >= 0 {
                frames.enabled = false;
            }
            return None;
        }
        pg_sys::before_shmem_exit(Some(failure::on_exit), pg_sys::Datum::from(0));
    }
    slab::attach(memory);
    source::note_strings();
    frames.attached = true;
    Some(())
}

/// Takes a frame off the stack: time and usage since it was put there. Frames above it were left by errors that
/// somebody swallowed; they failed. `None` when an abort took the frame and recorded it already.
#[inline(always)]
fn pop(frames: &mut Frames, index: usize, usage: Option<&mut Usage>) -> Option<u64> {
    let now = raw::clock_ns();
    if frames.depth != index + 1 {
        if frames.depth <= index {
            return None;
        }
        failure::fail_down_to(frames, index + 1, now);
    }
    frames.depth = index;
    if index == 0 {
        frames.failure_recorded = false;
        frames.idle_since_ns = now;
    }
    let frame = &frames.stack[index];
    if let Some(usage) = usage {
        frame.meter.add_since_to(usage);
    }
    Some(now.saturating_sub(frame.started_ns))
}

/// Runs the server's part with `on_error` told of errors raised meanwhile.
macro_rules! with_error_context {
    ($index:expr, $call:expr) => {{
        // SAFETY: the callback record lives in this stack frame and is unlinked before the frame is left; when an
        // error skips the frame, the server restores the list itself.
        let mut context = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(on_error),
            arg: $index as *mut c_void,
        };
        pg_sys::error_context_stack = &mut context;
        let result = $call;
        pg_sys::error_context_stack = context.previous;
        result
    }};
}

#[inline(always)]
unsafe fn begin_query(query: *mut pg_sys::QueryDesc) -> Option<usize> {
    // SAFETY: the server hands hooks a live descriptor with its plan.
    let (plan, text) = unsafe { (&*(*query).plannedstmt, (*query).sourceText) };
    if plan.queryId == 0 {
        return None;
    }
    let index = push(Kind::Run, compat::query_id(plan.queryId), text, plan.stmt_location, plan.stmt_len)?;
    frames().stack[index].query = query;
    Some(index)
}

#[inline(always)]
unsafe fn end_run(query: *mut pg_sys::QueryDesc, index: usize, limited: bool, counted_before: bool) {
    let frames = frames();
    let queryid = frames.stack[index].queryid;
    if frames.find_open(query, queryid).is_some() {
        // A later run of the same query: a cursor's next rows.
        frames.measured.forget(query);
        let mut usage = Usage::NONE;
        let Some(elapsed_ns) = pop(frames, index, Some(&mut usage)) else { return };
        let Some(open) = frames.find_open(query, queryid) else { return };
        let execution = &mut frames.open[open].execution;
        execution.elapsed_ns += elapsed_ns;
        // SAFETY: the executor is open, so the descriptor has a state.
        execution.rows += unsafe { rows_of_run(query) };
        execution.usage.add(&usage);
        return;
    }
    let mut usage = Usage::NONE;
    let Some(elapsed_ns) = pop(frames, index, Some(&mut usage)) else { return };
    // Field by field, in the place where it will stay.
    let place = frames.open_len;
    let frame = &frames.stack[index];
    let open = &mut frames.open[place];
    open.query = query;
    open.toplevel = frame.toplevel;
    open.level = frame.level;
    open.queryid = queryid;
    open.execution.calls = u64::from(!counted_before);
    open.execution.failed = false;
    open.execution.sqlstate = 0;
    open.execution.jit_ns = 0;
    open.execution.elapsed_ns = elapsed_ns;
    open.execution.usage = usage;
    // SAFETY: a plain read of the process's state; the executor is open.
    unsafe {
        open.userid = raw::GetUserId().to_u32();
        open.execution.rows = rows_of_run(query);
    }
    if limited {
        // It may not have been read to its end.
        frames.measured.forget(query);
        if let Some(memory) = capturing(frames) {
            // SAFETY: the descriptor is live.
            unsafe { record::keep_text(memory, &frames.open[place]) };
        }
    }
    if place < MAX_OPEN {
        frames.open_len = place + 1;
    } else if let Some(memory) = capturing(frames) {
        let planning = frames.take_planning(frames.open[place].queryid, frames.open[place].toplevel);
        // SAFETY: the descriptor is live.
        unsafe { record::finished(memory, planning, &mut frames.open[place], false) };
    }
}

#[inline(always)]
unsafe fn queryid_of(query: *const pg_sys::QueryDesc) -> u64 {
    // SAFETY: the caller vouches for a live descriptor, which has a live plan.
    compat::query_id(unsafe { (*(*query).plannedstmt).queryId })
}

#[inline(always)]
unsafe fn rows_of_run(query: *const pg_sys::QueryDesc) -> u64 {
    // SAFETY: the caller vouches for an open executor.
    unsafe { (*query).estate.as_ref() }.map_or(0, |estate| estate.es_processed)
}

/// Whether a plan is one whose rows are worth counting.
#[inline(always)]
unsafe fn is_costly(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: the caller vouches for a live descriptor, which has a live plan.
    unsafe { (*(*(*query).plannedstmt).planTree).total_cost >= actuals::COSTLY }
}

/// Gives an execution that is to be sampled instruments that count rows, unless it has its own.
#[cold]
unsafe fn measure(query: *mut pg_sys::QueryDesc, flags: c_int) {
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0 {
        return;
    }
    let frames = frames();
    // SAFETY: the caller vouches for a live descriptor.
    unsafe {
        if (*query).instrument_options != 0 || queryid_of(query) == 0 {
            return;
        }
        // Parallel workers have no memory to record in; their leader asks for what they count.
        let Some(memory) = attached(frames) else { return };
        if wanted(frames) && record::is_sample_due(memory, queryid_of(query), frames.depth == 0) {
            (*query).instrument_options |= pg_sys::InstrumentOption::INSTRUMENT_ROWS as c_int;
            frames.measured.remember(query, queryid_of(query));
        }
    }
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the server's contract for the hook: a live descriptor with its plan, not yet opened.
    unsafe {
        if is_costly(query) {
            fenced((), || measure(query, flags));
        }
        match (*PREVIOUS.as_ptr()).start {
            Some(hook) => hook(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
    }
}

unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    #[cfg(not(feature = "pg18"))] execute_once: bool,
) {
    // SAFETY: the server's contract for the hook: a live descriptor, opened. Our parts keep to the module's rules.
    unsafe {
        let counted_before = (*query).already_executed;
        let index = fenced(None, || begin_query(query));
        #[cfg(not(feature = "pg18"))]
        macro_rules! next {
            () => {
                match (*PREVIOUS.as_ptr()).run {
                    Some(hook) => hook(query, direction, count, execute_once),
                    None => raw::standard_ExecutorRun(query, direction, count, execute_once),
                }
            };
        }
        #[cfg(feature = "pg18")]
        macro_rules! next {
            () => {
                match (*PREVIOUS.as_ptr()).run {
                    Some(hook) => hook(query, direction, count),
                    None => raw::standard_ExecutorRun(query, direction, count),
                }
            };
        }
        let Some(index) = index else {
            next!();
            return;
        };
        with_error_context!(index, next!());
        fenced((), || end_run(query, index, count > 0, counted_before));
    }
}

/// Whether the executor's end has something to do that takes time: modifying CTEs not read to their end, and triggers.
#[inline]
unsafe fn has_more_to_run(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: the executor is open, so the state and its lists of result relations are live.
    unsafe {
        let Some(estate) = (*query).estate.as_ref() else { return true };
        let with_triggers = |list: *const pg_sys::List| {
            list.as_ref().is_some_and(|list| {
                (0..list.length as usize).any(|index| {
                    let relation: *const pg_sys::ResultRelInfo = (*list.elements.add(index)).ptr_value.cast();
                    !(*relation).ri_TrigDesc.is_null()
                })
            })
        };
        !estate.es_auxmodifytables.is_null()
            || with_triggers(estate.es_opened_result_relations)
            || with_triggers(estate.es_tuple_routing_result_relations)
            || with_triggers(estate.es_trig_target_relations)
    }
}

unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as for `executor_run`.
    unsafe {
        let index = if has_more_to_run(query) { fenced(None, || begin_query(query)) } else { None };
        macro_rules! next {
            () => {
                match (*PREVIOUS.as_ptr()).finish {
                    Some(hook) => hook(query),
                    None => raw::standard_ExecutorFinish(query),
                }
            };
        }
        let Some(index) = index else {
            next!();
            return;
        };
        with_error_context!(index, next!());
        fenced((), || {
            let frames = frames();
            let mut usage = Usage::NONE;
            let Some(elapsed_ns) = pop(frames, index, Some(&mut usage)) else { return };
            if let Some(open) = frames.find_open(query, queryid_of(query)) {
                let execution = &mut frames.open[open].execution;
                execution.elapsed_ns += elapsed_ns;
                execution.usage.add(&usage);
            }
        });
    }
}

unsafe extern "C-unwind" fn executor_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as for `executor_run`; the executor's state is still there before the server's part.
    unsafe {
        fenced((), || {
            let frames = frames();
            if let Some(index) = frames.find_open(query, queryid_of(query)) {
                if let Some(memory) = capturing(frames) {
                    let open = &frames.open[index];
                    let planning = frames.take_planning(open.queryid, open.toplevel);
                    let measured = is_costly(query) && frames.measured.take(query, frames.open[index].queryid);
                    record::finished(memory, planning, &mut frames.open[index], measured);
                }
                frames.close(index);
            }
        });
        match (*PREVIOUS.as_ptr()).end {
            Some(hook) => hook(query),
            None => raw::standard_ExecutorEnd(query),
        }
    }
}

unsafe extern "C-unwind" fn planner(
    parse: *mut pg_sys::Query,
    query_string: *const c_char,
    cursor_options: core::ffi::c_int,
    bound_params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: the server's contract for the hook: a live query tree, which the planner may scribble on, so what is
    // needed of it is read before.
    unsafe {
        let (queryid, location, len) = (compat::query_id((*parse).queryId), (*parse).stmt_location, (*parse).stmt_len);
        let index = match queryid {
            0 => None,
            _ => fenced(None, || push(Kind::Plan, queryid, query_string, location, len)),
        };
        macro_rules! next {
            () => {
                match (*PREVIOUS.as_ptr()).planner {
                    Some(hook) => hook(parse, query_string, cursor_options, bound_params),
                    None => raw::standard_planner(parse, query_string, cursor_options, bound_params),
                }
            };
        }
        let Some(index) = index else { return next!() };
        let plan = with_error_context!(index, next!());
        fenced((), || {
            let frames = frames();
            let Some(planning_ns) = pop(frames, index, None) else { return };
            let toplevel = frames.stack[index].toplevel;
            let displaced = frames.remember_planning(Planned { queryid, plans: 1, planning_ns, toplevel });
            if let (Some(planned), Some(memory)) = (displaced, capturing(frames)) {
                record::planned_only(memory, &planned);
            }
        });
        plan
    }
}

/// What of a utility statement is needed after it ran; by then its tree may be gone.
struct Utility {
    index: usize,
    counts_rows: bool,
}

/// EXECUTE runs a statement that is captured itself; PREPARE and DEALLOCATE do nothing worth counting.
fn is_captured(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a utility statement's node is live and tagged.
    let tag = unsafe { (*node).type_ };
    !matches!(tag, pg_sys::NodeTag::T_ExecuteStmt | pg_sys::NodeTag::T_PrepareStmt | pg_sys::NodeTag::T_DeallocateStmt)
}

#[inline(always)]
unsafe fn begin_utility(pstmt: *mut pg_sys::PlannedStmt, text: *const c_char) -> Option<usize> {
    // SAFETY: the server's contract for the hook.
    unsafe {
        let statement = &*pstmt;
        let node = statement.utilityStmt;
        if statement.queryId == 0 || !is_captured(node) {
            return None;
        }
        let index = push(
            Kind::Utility,
            compat::query_id(statement.queryId),
            text,
            statement.stmt_location,
            statement.stmt_len,
        )?;
        let frame = &mut frames().stack[index];
        let tag = (*node).type_;
        frame.guarded = matches!(tag, pg_sys::NodeTag::T_CallStmt | pg_sys::NodeTag::T_DoStmt);
        if carries_secrets(tag) {
            frame.redacted = true;
            frame.tag = pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node));
            frame.queryid = record::queryid_of_tag(frame.tag);
        }
        Some(index)
    }
}

/// Statements whose text may hold a secret outside of a literal, or nothing but it: only their tag is kept.
fn carries_secrets(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag as T;
    matches!(
        tag,
        T::T_CreateRoleStmt
            | T::T_AlterRoleStmt
            | T::T_AlterRoleSetStmt
            | T::T_AlterDatabaseSetStmt
            | T::T_AlterSystemStmt
            | T::T_VariableSetStmt
            | T::T_CreateSubscriptionStmt
            | T::T_AlterSubscriptionStmt
            | T::T_CreateForeignServerStmt
            | T::T_AlterForeignServerStmt
            | T::T_CreateUserMappingStmt
            | T::T_AlterUserMappingStmt
            | T::T_CreateFdwStmt
            | T::T_AlterFdwStmt
            | T::T_DoStmt
    )
}

/// Rows are known of the commands that copy, fetch or store them.
unsafe fn rows_of(qc: *const pg_sys::QueryCompletion) -> u64 {
    use pg_sys::CommandTag as Tag;
    // SAFETY: NULL or live.
    unsafe { qc.as_ref() }
        .filter(|qc| {
            matches!(
                qc.commandTag,
                Tag::CMDTAG_COPY | Tag::CMDTAG_FETCH | Tag::CMDTAG_SELECT | Tag::CMDTAG_REFRESH_MATERIALIZED_VIEW
            )
        })
        .map_or(0, |qc| qc.nprocessed)
}

unsafe extern "C-unwind" fn process_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server's contract for the hook; nothing of `pstmt` is read after the server's part.
    unsafe {
        if let Some(before_utility) = BEFORE_UTILITY.get() {
            before_utility((*pstmt).utilityStmt);
        }
        let begun = fenced(None, || {
            let index = begin_utility(pstmt, query_string)?;
            Some((Utility { index, counts_rows: !qc.is_null() }, frames().stack[index].guarded))
        });
        macro_rules! next {
            () => {
                match (*PREVIOUS.as_ptr()).utility {
                    Some(hook) => hook(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc),
                    None => raw::standard_ProcessUtility(
                        pstmt,
                        query_string,
                        read_only_tree,
                        context,
                        params,
                        query_env,
                        dest,
                        qc,
                    ),
                }
            };
        }
        let Some((utility, guarded)) = begun else {
            next!();
            return;
        };
        let index = utility.index;
        if guarded {
            with_error_context!(index, failure::guard(index, || next!()));
        } else {
            with_error_context!(index, next!());
        }
        fenced((), || {
            let frames = frames();
            let mut usage = Usage::NONE;
            let Some(elapsed_ns) = pop(frames, index, Some(&mut usage)) else { return };
            let rows = if utility.counts_rows { rows_of(qc) } else { 0 };
            if let Some(memory) = capturing(frames) {
                record::utility(memory, &frames.stack[index], elapsed_ns, rows, &usage);
            }
        });
    }
}

/// Errors that no frame saw are those of parsing and analysis: no queryid exists yet.
unsafe extern "C-unwind" fn emit_log(error: *mut pg_sys::ErrorData) {
    // SAFETY: the server hands over the error it is about to write.
    unsafe {
        fenced((), || failure::on_logged(&*error));
        if let Some(hook) = (*PREVIOUS.as_ptr()).emit_log {
            hook(error);
        }
    }
}

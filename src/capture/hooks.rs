//! The hooks of the executor, the planner and the log, and how all are installed. Each does its part before, lets the server (or the next
//! extension's hook) run, and does its part after. See the module's head for the rules.
#![allow(ffi_unwind_calls, reason = "the server's part of a hook must raise through ours untouched")]

use super::entry::{attached, pop, push, wanted, with_error_context, Previous, PREVIOUS};
use super::failure;
use super::fence::{capturing, fenced};
use super::frames::{frames, Kind, Planned, MAX_OPEN};
use super::utility::{process_utility, BeforeUtility, BEFORE_UTILITY};
use super::{actuals, moves, record};
use crate::compat;
use crate::memory::statements::Usage;
use crate::pg::raw;
use core::ffi::{c_char, c_int, c_void};
use pgrx::pg_sys;

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
        // SAFETY: the executor is open.
        unsafe { actuals::end_run(query, false) };
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
    // SAFETY: the executor is open.
    unsafe { actuals::end_run(query, !limited) };
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
        unsafe { record::finished_early(memory, planning, &mut frames.open[place]) };
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

/// Whether an execution that starts now is to be sampled, its rows counted; not when somebody counts them already.
unsafe fn is_counted(query: *const pg_sys::QueryDesc, flags: c_int) -> bool {
    // SAFETY: the caller vouches for a live descriptor.
    let (queryid, instruments) = unsafe { (queryid_of(query), (*query).instrument_options) };
    if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0 || instruments != 0 || queryid == 0 {
        return false;
    }
    let frames = frames();
    // Parallel workers have no memory to record in; their leader asks for what they count.
    let Some(memory) = attached(frames) else { return false };
    wanted(frames) && record::is_sample_due(memory, queryid, frames.depth == 0)
}

/// The start of a costly statement, out of the way of the others.
#[cold]
#[inline(never)]
unsafe fn costly_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: as for `executor_start`.
    unsafe {
        if fenced(false, || is_counted(query, flags)) {
            // Only for the time of the start, which is when nodes get their instruments: whoever looks at the descriptor
            // later finds what others asked for.
            (*query).instrument_options |= actuals::COUNT_ROWS;
            next_start(query, flags);
            (*query).instrument_options &= !actuals::COUNT_ROWS;
        } else {
            next_start(query, flags);
        }
    }
}

#[inline(always)]
unsafe fn next_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: as for `executor_start`.
    unsafe {
        match (*PREVIOUS.as_ptr()).start {
            Some(hook) => hook(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
    }
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the server's contract for the hook: a live descriptor with its plan, not yet opened.
    unsafe {
        moves::before_start(query, flags);
        if is_costly(query) {
            costly_start(query, flags);
        } else {
            next_start(query, flags);
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

#[inline(always)]
unsafe fn next_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as for `executor_run`.
    unsafe {
        match (*PREVIOUS.as_ptr()).finish {
            Some(hook) => hook(query),
            None => raw::standard_ExecutorFinish(query),
        }
    }
}

unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as for `executor_run`.
    unsafe {
        if has_more_to_run(query) {
            framed_finish(query);
        } else {
            next_finish(query);
        }
    }
}

/// The executor's end where it takes time, with a frame of its own.
#[inline(never)]
unsafe fn framed_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: as for `executor_run`.
    unsafe {
        let Some(index) = fenced(None, || begin_query(query)) else {
            next_finish(query);
            return;
        };
        with_error_context!(index, next_finish(query));
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
                    let measured = actuals::has_counted(query);
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

/// Errors that no frame saw are those of parsing and analysis: no queryid exists yet.
unsafe extern "C-unwind" fn emit_log(error: *mut pg_sys::ErrorData) {
    // SAFETY: the server hands over the error it is about to write.
    unsafe {
        fenced((), || failure::on_logged(&*error, attached));
        if let Some(hook) = (*PREVIOUS.as_ptr()).emit_log {
            hook(error);
        }
    }
}

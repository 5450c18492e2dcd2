//! The hook of utility statements: everything but SELECT, INSERT, UPDATE, DELETE and MERGE. See the module's head for the
//! rules.
#![allow(ffi_unwind_calls, reason = "the server's part of a hook must raise through ours untouched")]

use super::entry::{pop, push, with_error_context, PREVIOUS};
use super::failure;
use super::fence::{capturing, fenced};
use super::frames::{frames, Kind};
use super::record;
use crate::compat;
use crate::memory::statements::Execution;
use crate::pg::local::ProcessLocal;
use crate::pg::raw;
use core::ffi::{c_char, c_void, CStr};
use perf_core::pool::{followed_name, FOLLOWED};
use pgrx::pg_sys;

/// What a utility statement's node is shown to before it runs.
pub type BeforeUtility = unsafe fn(*mut pg_sys::Node);

pub static BEFORE_UTILITY: ProcessLocal<Option<BeforeUtility>> = ProcessLocal::new(None);

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
            frame.tag = tag_of(node);
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

/// What is kept of a statement instead of its text. Of SET, whether it lasts longer than the transaction, and whether a pooler
/// would follow it.
///
/// # Safety
/// A valid statement.
unsafe fn tag_of(node: *mut pg_sys::Node) -> *const c_char {
    // SAFETY: as promised; a node is what its tag says, and names are NUL-terminated.
    unsafe {
        let tag = pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node));
        if (*node).type_ != pg_sys::NodeTag::T_VariableSetStmt {
            return tag;
        }
        let set = node.cast::<pg_sys::VariableSetStmt>();
        if (*set).is_local {
            return c"SET LOCAL".as_ptr();
        }
        if (*set).name.is_null() || (*set).kind == pg_sys::VariableSetKind::VAR_RESET {
            return tag;
        }
        let is = |name: &CStr| pg_sys::pg_strcasecmp((*set).name, name.as_ptr()) == 0;
        // SET TRANSACTION is of the transaction without LOCAL.
        if (*set).kind == pg_sys::VariableSetKind::VAR_SET_MULTI && !is(c"SESSION CHARACTERISTICS") {
            return c"SET LOCAL".as_ptr();
        }
        FOLLOWED.iter().find(|one| is(followed_name(one))).map_or(tag, |one| one.as_ptr())
    }
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

/// The arguments of the hook, for who is next.
#[derive(Clone, Copy)]
struct Call {
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
}

impl Call {
    #[inline(always)]
    unsafe fn next(self) {
        let Call { pstmt, query_string, read_only_tree, context, params, query_env, dest, qc } = self;
        // SAFETY: the server's contract for the hook, handed on as it came.
        unsafe {
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
        }
    }

    /// CALL and DO, which may end transactions.
    #[cold]
    #[inline(never)]
    unsafe fn next_guarded(&self, index: usize) {
        let call = *self;
        // SAFETY: as for `next`; nothing here has a destructor.
        unsafe { failure::guard(index, || call.next()) };
    }
}

pub unsafe extern "C-unwind" fn process_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
) {
    let call = Call { pstmt, query_string, read_only_tree, context, params, query_env, dest, qc };
    // SAFETY: the server's contract for the hook; nothing of `pstmt` is read after the server's part.
    unsafe {
        if let Some(before_utility) = BEFORE_UTILITY.get() {
            before_utility((*pstmt).utilityStmt);
        }
        let Some(index) = fenced(None, || begin_utility(pstmt, query_string)) else {
            call.next();
            return;
        };
        if frames().stack[index].guarded {
            with_error_context!(index, call.next_guarded(index));
        } else {
            with_error_context!(index, call.next());
        }
        fenced((), || end_utility(index, qc));
    }
}

#[inline(always)]
unsafe fn end_utility(index: usize, qc: *const pg_sys::QueryCompletion) {
    let frames = frames();
    let mut execution = Execution { calls: 1, ..Execution::default() };
    let Some(elapsed_ns) = pop(frames, index, Some(&mut execution.usage)) else { return };
    execution.elapsed_ns = elapsed_ns;
    // SAFETY: NULL or live; the caller's own.
    execution.rows = unsafe { rows_of(qc) };
    if let Some(memory) = capturing(frames) {
        record::utility(memory, &frames.stack[index], &mut execution);
    }
}

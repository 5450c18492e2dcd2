//! Refuses to read rows that have moved, under a snapshot that finds them in neither place ([`crate::memory::moves`]).
//! Called by the hook of the executor's start, in every process, before anything of ours is on the stack: it may raise.
//! Locks nothing.

use core::ffi::c_int;

use pgrx::{pg_sys, PgSqlErrorCode};

use crate::memory::moves;
use crate::pg::{ident, raw};

/// Transactions so much older than the next one are seen by every snapshot, and the server may have forgotten them.
const LONG_AGO: u64 = 1 << 30;

/// Whether one transaction is older than another, as the server compares them.
#[inline(always)]
fn precedes(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

/// Looks at an execution that is about to start.
///
/// # Safety
/// As for the hook: a live descriptor with its plan, not yet opened.
#[inline(always)]
pub unsafe fn before_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: see the function's contract; plain reads of this process's state.
    unsafe {
        let Some(snapshot) = (*query).snapshot.as_ref() else { return };
        if pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 {
            keep();
        }
        if let Some(newest) = moves::newest() {
            if !precedes(newest, snapshot.xmin.into_inner()) {
                refuse_too_old(query, flags);
            }
        }
    }
}

/// Notes that this transaction keeps its snapshot; out of the way of most.
#[inline(never)]
fn keep() {
    // SAFETY: plain reads of this process's state.
    unsafe { moves::keep(pg_sys::MyProcPid as u32, raw::GetCurrentTransactionStartTimestamp()) };
}

#[cold]
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn refuse_too_old(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: as for `before_start`.
    unsafe {
        let (plan, snapshot) = (&*(*query).plannedstmt, (*query).snapshot);
        if flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0
            || (*snapshot).snapshot_type != pg_sys::SnapshotType::SNAPSHOT_MVCC
        {
            return;
        }
        for one in moves::of_database(pg_sys::MyDatabaseId.to_u32()) {
            if reads(plan, one.relation) && is_missed(one.xid, snapshot) {
                let name = ident::relation(pg_sys::Oid::from(one.relation)).unwrap_or_default();
                pgrx::ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                    format!("could not serialize access: rows of {name} have been moved since this snapshot was taken"),
                    "The snapshot would find them in neither place. Run the transaction again."
                );
            }
        }
    }
}

/// Whether a plan reads a relation: names it, but for what it only adds rows to.
unsafe fn reads(plan: &pg_sys::PlannedStmt, relation: u32) -> bool {
    // SAFETY: the plan and its lists are live.
    unsafe {
        let Some(entries) = plan.rtable.as_ref() else { return false };
        let target = match plan.resultRelations.as_ref() {
            Some(list) if plan.commandType == pg_sys::CmdType::CMD_INSERT && list.length > 0 => {
                usize::try_from((*list.elements).int_value).unwrap_or(0)
            }
            _ => 0,
        };
        (0..entries.length as usize).filter(|index| index + 1 != target).any(|index| {
            let entry: *const pg_sys::RangeTblEntry = (*entries.elements.add(index)).ptr_value.cast();
            (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && (*entry).relid.to_u32() == relation
        })
    }
}

/// Whether a transaction has committed, and a snapshot does not see that.
unsafe fn is_missed(xid: u64, snapshot: pg_sys::Snapshot) -> bool {
    // SAFETY: the snapshot is live and of the usual kind; what is asked about is young enough to be known.
    unsafe {
        if pg_sys::ReadNextFullTransactionId().value.saturating_sub(xid) >= LONG_AGO {
            return false;
        }
        let xid = pg_sys::TransactionId::from(xid as u32);
        pg_sys::XidInMVCCSnapshot(xid, snapshot) && pg_sys::TransactionIdDidCommit(xid)
    }
}

//! Reads some rows of a table, evenly spread over its blocks: what statistics do not say. Called inside a subtransaction that
//! is rolled back, which ends scans, locks and snapshots on every path. Never waits for the lock; reads at most [`BLOCKS_MAX`]
//! blocks, whatever the size of the table, and none after the call's [`Deadline`]. Reads only what the role in effect may.

use std::ptr;

use pgrx::{pg_sys, PgMemoryContexts};

use super::expressions::columns_of;
use super::planner::Deadline;

/// Blocks read, at most.
const BLOCKS_MAX: u32 = 1_000;
/// Rows looked at, at most; a block once begun is finished.
const ROWS_MAX: u32 = 10_000;

/// What was read.
pub struct Read {
    /// Rows.
    pub rows: u32,
    /// How many times as many there are in the table.
    pub scale: f64,
}

/// Runs `body` on a table open under ACCESS SHARE; None when it is locked, gone, or not a heap, or when the role in
/// effect may not evaluate `expressions`, each NULL or over range table entry 1, for every row.
///
/// # Safety
/// Inside a subtransaction that is rolled back; the expressions are valid.
pub unsafe fn with_table<R>(
    table: pg_sys::Oid,
    expressions: &[*mut pg_sys::Node],
    body: impl FnOnce(pg_sys::Relation) -> Option<R>,
) -> Option<R> {
    // SAFETY: plain lock-manager and relation-cache calls; the rollback releases the lock.
    unsafe {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        if !pg_sys::ConditionalLockRelationOid(table, mode) {
            return None;
        }
        let opened = pg_sys::try_relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        if opened.is_null() {
            return None;
        }
        let is_heap = (*opened).rd_tableam == pg_sys::GetHeapamTableAmRoutine();
        let result = if is_heap && may_read(table, expressions) { body(opened) } else { None };
        pg_sys::relation_close(opened, pg_sys::NoLock as pg_sys::LOCKMODE);
        result
    }
}

/// Whether the role in effect may read what `expressions` name of `table`, and no policy hides rows from it.
///
/// # Safety
/// The table is locked; the expressions are valid or NULL.
unsafe fn may_read(table: pg_sys::Oid, expressions: &[*mut pg_sys::Node]) -> bool {
    // SAFETY: syscache lookups that raise no ERROR for a table that exists.
    unsafe {
        let (role, select) = (pg_sys::GetUserId(), pg_sys::ACL_SELECT as pg_sys::AclMode);
        let allowed = pg_sys::AclResult::ACLCHECK_OK;
        let may_read_columns = || {
            let columns: Vec<i16> = expressions.iter().flat_map(|node| columns_of(*node)).collect();
            !columns.is_empty()
                && !columns.contains(&0)
                && columns.iter().all(|column| pg_sys::pg_attribute_aclcheck(table, *column, role, select) == allowed)
        };
        (pg_sys::pg_class_aclcheck(table, role, select) == allowed || may_read_columns())
            && pg_sys::check_enable_rls(table, role, true) != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    }
}

/// Hands rows to `each`, in a memory context that is emptied after every row, until it says that it has enough; a block once
/// begun is finished.
///
/// # Safety
/// Within [`with_table`].
pub unsafe fn rows(table: pg_sys::Relation, mut each: impl FnMut(pg_sys::HeapTuple) -> bool) -> Read {
    // SAFETY: each scan is ended before the next begins.
    unsafe {
        let blocks = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
        let wanted = blocks.min(BLOCKS_MAX);
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let mut context = PgMemoryContexts::new("perf_opt sampled row");
        // Unlike a sequential scan, one of a range of TIDs is not counted as a scan of the table, and takes no predicate lock.
        let flags = pg_sys::ScanOptions::SO_TYPE_TIDRANGESCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let (mut read, mut rows, mut more) = (0, 0, true);
        while read < wanted && rows < ROWS_MAX && more && !Deadline::has_passed() {
            pgrx::check_for_interrupts!();
            let snapshot = pg_sys::GetActiveSnapshot();
            let scan = pg_sys::heap_beginscan(table, snapshot, 0, ptr::null_mut(), ptr::null_mut(), flags);
            pg_sys::heap_setscanlimits(scan, spread(read, blocks), 1);
            loop {
                let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let before = context.set_as_current();
                more &= each(tuple);
                pg_sys::MemoryContextSwitchTo(before.value());
                context.reset();
                rows += 1;
            }
            pg_sys::heap_endscan(scan);
            read += 1;
        }
        pg_sys::PopActiveSnapshot();
        Read { rows, scale: f64::from(blocks) / f64::from(read.max(1)) }
    }
}

/// The `at`-th block to read of `blocks`: whatever the number read, they lie evenly over the table, each at most once.
fn spread(at: u32, blocks: u32) -> u32 {
    // A step near the golden section that shares no factor with the number of blocks.
    let blocks = u64::from(blocks.max(1));
    let mut step = ((blocks as f64 * 0.618_033_988_75) as u64).max(1);
    while gcd(step, blocks) != 1 {
        step += 1;
    }
    (u64::from(at) * step % blocks) as u32
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        gcd(b, a % b)
    }
}

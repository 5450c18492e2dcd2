//! The only place that knows the differences between PostgreSQL versions.

use perf_core::counters::Usage;
use pgrx::pg_sys;

/// An interval as the server's instrumentation keeps it, in nanoseconds.
#[cfg(feature = "pg15")]
fn nanoseconds(time: &pg_sys::instr_time) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// An interval as the server's instrumentation keeps it, in nanoseconds.
#[cfg(not(feature = "pg15"))]
fn nanoseconds(time: &pg_sys::instr_time) -> i64 {
    time.ticks
}

/// The part of the process's running totals that perf_opt follows.
#[derive(Clone, Copy)]
pub struct Meter {
    blocks: [i64; 6],
    read_time: pg_sys::instr_time,
    write_time: pg_sys::instr_time,
    wal_records: i64,
    wal_bytes: u64,
}

/// Reading and writing of shared and local blocks, which are one until 16, counted apart from 17 on.
#[cfg(any(feature = "pg15", feature = "pg16"))]
#[inline(always)]
fn block_times(usage: &pg_sys::BufferUsage) -> (pg_sys::instr_time, pg_sys::instr_time) {
    (usage.blk_read_time, usage.blk_write_time)
}

/// Reading and writing of shared and local blocks, which are one until 16, counted apart from 17 on.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
#[inline(always)]
fn block_times(usage: &pg_sys::BufferUsage) -> (pg_sys::instr_time, pg_sys::instr_time) {
    let sum = |a: pg_sys::instr_time, b: pg_sys::instr_time| pg_sys::instr_time { ticks: a.ticks + b.ticks };
    (
        sum(usage.shared_blk_read_time, usage.local_blk_read_time),
        sum(usage.shared_blk_write_time, usage.local_blk_write_time),
    )
}

impl Meter {
    pub const ZERO: Meter = {
        // SAFETY: integers only; zero is a valid value for each.
        unsafe { core::mem::zeroed() }
    };

    /// The totals now.
    #[inline(always)]
    pub fn now() -> Meter {
        let (buffers, wal) = (&raw const pg_sys::pgBufferUsage, &raw const pg_sys::pgWalUsage);
        // SAFETY: process globals; nobody writes them while this runs.
        let (buffers, wal) = unsafe { (&*buffers, &*wal) };
        let (read_time, write_time) = block_times(buffers);
        Meter {
            blocks: [
                buffers.shared_blks_hit,
                buffers.shared_blks_read,
                buffers.shared_blks_dirtied,
                buffers.shared_blks_written,
                buffers.temp_blks_read,
                buffers.temp_blks_written,
            ],
            read_time,
            write_time,
            wal_records: wal.wal_records,
            wal_bytes: wal.wal_bytes,
        }
    }

    /// Adds to `usage` what the process used since this was taken.
    #[inline(always)]
    pub fn add_since_to(&self, usage: &mut Usage) {
        let now = Meter::now();
        let [hit, read, dirtied, written, temp_read, temp_written] =
            core::array::from_fn(|index| now.blocks[index].wrapping_sub(self.blocks[index]) as u64);
        usage.shared_blks_hit += hit;
        usage.shared_blks_read += read;
        usage.shared_blks_dirtied += dirtied;
        usage.shared_blks_written += written;
        usage.temp_blks_read += temp_read;
        usage.temp_blks_written += temp_written;
        usage.blk_read_ns += (nanoseconds(&now.read_time) - nanoseconds(&self.read_time)) as u64;
        usage.blk_write_ns += (nanoseconds(&now.write_time) - nanoseconds(&self.write_time)) as u64;
        usage.wal_records += now.wal_records.wrapping_sub(self.wal_records) as u64;
        usage.wal_bytes += now.wal_bytes.wrapping_sub(self.wal_bytes);
    }
}

/// Time that JIT compilation took for a query, leader and workers.
///
/// # Safety
/// `estate` is a live executor state.
pub unsafe fn jit_ns(estate: *const pg_sys::EState) -> u64 {
    let total = |instr: &pg_sys::JitInstrumentation| {
        // From 17 on deforming is counted apart as well, inside of generation.
        nanoseconds(&instr.generation_counter)
            + nanoseconds(&instr.inlining_counter)
            + nanoseconds(&instr.optimization_counter)
            + nanoseconds(&instr.emission_counter)
    };
    // SAFETY: the caller vouches for the state; both pointers are NULL or live with it.
    unsafe {
        let own = (*estate).es_jit.as_ref().map_or(0, |jit| total(&jit.instr));
        let workers = (*estate).es_jit_worker_instr.as_ref().map_or(0, total);
        (own + workers) as u64
    }
}

/// The `index`-th (from 1) entry of this backend's snapshot of the backend status array.
///
/// # Safety
/// Call `pgstat_fetch_stat_numbackends` first: it takes the snapshot that the returned pointer points into. The pointer is
/// good until the snapshot is cleared.
pub unsafe fn local_backend_entry(index: i32) -> *mut pg_sys::LocalPgBackendStatus {
    #[cfg(feature = "pg15")]
    // SAFETY: passed on to the caller.
    return unsafe { pg_sys::pgstat_fetch_stat_local_beentry(index) };
    #[cfg(not(feature = "pg15"))]
    // SAFETY: passed on to the caller.
    return unsafe { pg_sys::pgstat_get_local_beentry_by_index(index) };
}

/// Whether a path key sorts downwards.
///
/// # Safety
/// `key` points to a valid path key of a plan under construction.
pub unsafe fn pathkey_descends(key: *mut pg_sys::PathKey) -> bool {
    // SAFETY: the caller promises a valid pointer.
    #[cfg(feature = "pg18")]
    unsafe {
        (*key).pk_cmptype == pg_sys::CompareType::COMPARE_GT
    }
    // SAFETY: the caller promises a valid pointer.
    #[cfg(not(feature = "pg18"))]
    unsafe {
        (*key).pk_strategy == pg_sys::BTGreaterStrategyNumber as std::ffi::c_int
    }
}

/// Whether a variable stands above an outer join that may have made it NULL; known from 16 on.
///
/// # Safety
/// `var` points to a valid variable.
pub unsafe fn is_nulled(var: *const pg_sys::Var) -> bool {
    #[cfg(feature = "pg15")]
    {
        let _ = var;
        false
    }
    // SAFETY: the caller promises a valid pointer.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        !(*var).varnullingrels.is_null()
    }
}

/// Checks that the current role may run a planned statement; raises an ERROR if not.
///
/// # Safety
/// `planned` points to a valid planned statement.
pub unsafe fn check_permissions(planned: *mut pg_sys::PlannedStmt) {
    // SAFETY: the caller promises a valid pointer; the lists are the planned statement's own.
    #[cfg(feature = "pg15")]
    unsafe {
        pg_sys::ExecCheckRTPerms((*planned).rtable, true);
    }
    // SAFETY: as above.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        pg_sys::ExecCheckPermissions((*planned).rtable, (*planned).permInfos, true);
    }
}

/// Executor flags to print a plan without running it; `generic` when its parameters have no values.
pub fn explain_flags(generic: bool) -> std::ffi::c_int {
    #[cfg(feature = "pg15")]
    let generic_flag = 0;
    #[cfg(not(feature = "pg15"))]
    let generic_flag = pg_sys::EXEC_FLAG_EXPLAIN_GENERIC as std::ffi::c_int;
    pg_sys::EXEC_FLAG_EXPLAIN_ONLY as std::ffi::c_int | if generic { generic_flag } else { 0 }
}

/// Whether a B-tree is of use to conditions that say nothing of its first key: skip scan, from 18 on.
pub const HAS_SKIP_SCAN: bool = cfg!(feature = "pg18");

/// The cost function of an access method, as an `IndexOptInfo` holds it.
#[cfg(not(feature = "pg15"))]
type CostFunction = pg_sys::amcostestimate_function;
/// In PostgreSQL 15 it is declared there without its parameters.
#[cfg(feature = "pg15")]
type CostFunction = Option<unsafe extern "C-unwind" fn()>;

/// Converts the cost function of an access method for an `IndexOptInfo`.
pub fn cost_function(of_method: pg_sys::amcostestimate_function) -> CostFunction {
    #[cfg(not(feature = "pg15"))]
    return of_method;
    // SAFETY: only the declared type differs; the planner casts it back before the call.
    #[cfg(feature = "pg15")]
    unsafe {
        std::mem::transmute::<pg_sys::amcostestimate_function, CostFunction>(of_method)
    }
}

/// Says whether NULLs are equal to a unique index; the planner did not ask before 18.
///
/// # Safety
/// `info` points to a valid node.
pub unsafe fn set_nulls_not_distinct(info: *mut pg_sys::IndexOptInfo, equal: bool) {
    #[cfg(feature = "pg18")]
    // SAFETY: the caller promises a valid pointer.
    unsafe {
        (*info).nullsnotdistinct = equal;
    }
    #[cfg(not(feature = "pg18"))]
    let _ = (info, equal);
}

/// A query id as the server declares it.
#[cfg(feature = "pg18")]
type ServerQueryId = i64;
/// A query id as the server declares it.
#[cfg(not(feature = "pg18"))]
type ServerQueryId = u64;

/// A query id as perf_opt keeps it: the same bits, unsigned.
#[inline(always)]
pub fn query_id(id: ServerQueryId) -> u64 {
    u64::from_ne_bytes(id.to_ne_bytes())
}

/// Runs a portal at top level to its end.
///
/// # Safety
/// The portal has been started; both are valid.
pub unsafe fn run_portal(portal: pg_sys::Portal, receiver: *mut pg_sys::DestReceiver) {
    let all = core::ffi::c_long::MAX;
    // SAFETY: see the function's contract. `QueryCompletion` is filled by the call.
    unsafe {
        let mut completion: pg_sys::QueryCompletion = core::mem::zeroed();
        #[cfg(not(feature = "pg18"))]
        pg_sys::PortalRun(portal, all, true, true, receiver, receiver, &raw mut completion);
        #[cfg(feature = "pg18")]
        pg_sys::PortalRun(portal, all, true, receiver, receiver, &raw mut completion);
    }
}

/// Lets a background process connect as a role that may not log in, where the server can.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub const WITHOUT_LOGIN_CHECK: u32 = 0;
/// Lets a background process connect as a role that may not log in, where the server can.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub const WITHOUT_LOGIN_CHECK: u32 = pg_sys::BGWORKER_BYPASS_ROLELOGINCHECK;

/// What the buffer table knows a block of a relation's main fork by.
///
/// # Safety
/// The relation is open.
pub unsafe fn buffer_tag(relation: pg_sys::Relation, block: u32) -> pg_sys::BufferTag {
    let fork = pg_sys::ForkNumber::MAIN_FORKNUM;
    // SAFETY: see the function's contract.
    #[cfg(feature = "pg15")]
    unsafe {
        pg_sys::BufferTag { rnode: (*relation).rd_node, forkNum: fork, blockNum: block }
    }
    // SAFETY: see the function's contract.
    #[cfg(not(feature = "pg15"))]
    unsafe {
        let file = (*relation).rd_locator;
        let (space, database, number) = (file.spcOid, file.dbOid, file.relNumber);
        pg_sys::BufferTag { spcOid: space, dbOid: database, relNumber: number, forkNum: fork, blockNum: block }
    }
}

/// Lets `one` know, before their rows in pg_class are exchanged, that it gets the file that `other` has: made in this
/// transaction, so that what is written to it may need no WAL.
///
/// # Safety
/// Inside a transaction that has both relations locked.
pub unsafe fn take_over_file(one: pg_sys::Oid, other: pg_sys::Oid) {
    let none = pg_sys::NoLock as pg_sys::LOCKMODE;
    // SAFETY: see the function's contract; both are closed.
    unsafe {
        let (one, other) = (pg_sys::relation_open(one, none), pg_sys::relation_open(other, none));
        (*other).rd_createSubid = (*one).rd_createSubid;
        #[cfg(feature = "pg15")]
        {
            (*other).rd_newRelfilenodeSubid = (*one).rd_newRelfilenodeSubid;
            (*other).rd_firstRelfilenodeSubid = (*one).rd_firstRelfilenodeSubid;
            pg_sys::RelationAssumeNewRelfilenode(one);
        }
        #[cfg(not(feature = "pg15"))]
        {
            (*other).rd_newRelfilelocatorSubid = (*one).rd_newRelfilelocatorSubid;
            (*other).rd_firstRelfilelocatorSubid = (*one).rd_firstRelfilelocatorSubid;
            pg_sys::RelationAssumeNewRelfilelocator(one);
        }
        pg_sys::relation_close(one, none);
        pg_sys::relation_close(other, none);
    }
}

/// The condition of a MERGE; part of the join tree until 16.
///
/// # Safety
/// `query` is valid.
pub unsafe fn merge_condition(query: *mut pg_sys::Query) -> *mut pg_sys::Node {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    {
        let _ = query;
        std::ptr::null_mut()
    }
    // SAFETY: see the function's contract.
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    unsafe {
        (*query).mergeJoinCondition
    }
}

/// The expressions of the entry that stands for what rows are grouped by, from 18 on; `None` for any other entry.
///
/// # Safety
/// `entry` is valid.
pub unsafe fn group_expressions(entry: *mut pg_sys::RangeTblEntry) -> Option<*mut pg_sys::List> {
    #[cfg(not(feature = "pg18"))]
    {
        let _ = entry;
        None
    }
    // SAFETY: see the function's contract.
    #[cfg(feature = "pg18")]
    unsafe {
        ((*entry).rtekind == pg_sys::RTEKind::RTE_GROUP).then(|| (*entry).groupexprs)
    }
}

/// A column of a descriptor, counted from 0.
///
/// # Safety
/// The descriptor is live and has that column.
#[cfg(not(feature = "pg18"))]
pub unsafe fn attribute<'a>(descriptor: pg_sys::TupleDesc, at: usize) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: see the function's contract.
    unsafe { &(*descriptor).attrs.as_slice((*descriptor).natts as usize)[at] }
}

/// A column of a descriptor, counted from 0.
///
/// # Safety
/// The descriptor is live and has that column.
#[cfg(feature = "pg18")]
pub unsafe fn attribute<'a>(descriptor: pg_sys::TupleDesc, at: usize) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: see the function's contract.
    // Columns in full follow those in short.
    unsafe {
        let count = (*descriptor).natts as usize;
        let columns: *const pg_sys::FormData_pg_attribute = (*descriptor).compact_attrs.as_ptr().add(count).cast();
        &*columns.add(at)
    }
}

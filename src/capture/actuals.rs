//! Counts the rows that the nodes of a costly statement's plan really gave, for the advisor to correct estimates with. Only
//! the few executions that are sampled are counted; the others keep the executor without instruments. Locks nothing.

use core::ffi::{c_int, c_void};
use core::ptr;
use perf_core::cardinality::{Gathered, Identity};
use pgrx::{is_a, pg_sys, PgList};

use crate::pg::attempt::attempt;
use crate::pg::cardinality::{self, Loops};

/// Plans below are not counted: their estimates decide nothing, and the decision itself would cost too much.
pub const COSTLY: f64 = 1_000.0;

/// Among the instruments that an execution asks for: give each node one, as for `INSTRUMENT_ROWS`. A bit that the server has
/// no use for, so that it can be told whether anybody else wants to see what they count.
pub const COUNT_ROWS: c_int = 1 << 20;
/// The execution was not run to its end at one go: its counts say nothing.
const INCOMPLETE: c_int = 1 << 21;

/// After each run of an execution, `whole` when the first ran it to its end.
///
/// # Safety
/// `query` is a live descriptor whose executor is open.
#[inline(always)]
pub unsafe fn end_run(query: *mut pg_sys::QueryDesc, whole: bool) {
    // SAFETY: as promised.
    unsafe {
        if instruments(query) & COUNT_ROWS != 0 {
            end_counted_run(query, whole);
        }
    }
}

/// Whether an execution that has come to its end has counted the rows of its nodes.
///
/// # Safety
/// `query` is a live descriptor whose executor is open.
#[inline(always)]
pub unsafe fn has_counted(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: as promised.
    unsafe { instruments(query) & (COUNT_ROWS | INCOMPLETE) == COUNT_ROWS }
}

#[inline(always)]
unsafe fn instruments(query: *const pg_sys::QueryDesc) -> c_int {
    // SAFETY: the caller vouches for an open executor.
    unsafe { (*query).estate.as_ref() }.map_or(0, |estate| estate.es_instrument)
}

#[cold]
#[inline(never)]
unsafe fn end_counted_run(query: *mut pg_sys::QueryDesc, whole: bool) {
    use pg_sys::InstrumentOption as I;
    let by_others = I::INSTRUMENT_TIMER | I::INSTRUMENT_BUFFERS | I::INSTRUMENT_ROWS | I::INSTRUMENT_WAL;
    // SAFETY: the caller vouches for an open executor; inside the statement's transaction, without a lightweight lock.
    unsafe {
        if !whole {
            (*(*query).estate).es_instrument |= INCOMPLETE;
        }
        // Whoever prints the plan without having asked for counts prints all that is printed without being asked for.
        if (*(*query).estate).es_instrument & by_others as c_int == 0 {
            attempt(|| Some(forget_hash_tables((*query).planstate, ptr::null_mut())));
        }
    }
}

/// Hash tables describe themselves in an EXPLAIN without ANALYZE too, if their node has an instrument.
unsafe extern "C-unwind" fn forget_hash_tables(state: *mut pg_sys::PlanState, nothing: *mut c_void) -> bool {
    // SAFETY: the walker hands over the nodes of a live execution; the tag says which struct a node is.
    unsafe {
        if !state.is_null() && is_a(state.cast(), pg_sys::NodeTag::T_HashState) {
            let hash = state.cast::<pg_sys::HashState>();
            (*hash).hinstrument = ptr::null_mut();
            (*hash).shared_info = ptr::null_mut();
        }
        !state.is_null() && pg_sys::planstate_tree_walker(state, Some(forget_hash_tables), nothing)
    }
}

/// How a node was executed.
#[derive(Clone, Copy)]
struct Run<'a> {
    /// Number of the subplan it is in.
    subplan: i32,
    /// Read to its end by whoever reads it.
    complete: bool,
    /// Below a Gather, where several processes count together.
    parallel: bool,
    /// Executed no more than once by each process; known from where it is.
    once: bool,
    loops: Option<&'a Loops<'a>>,
}

/// The counts of an execution that came to its end; None when there are none.
///
/// # Safety
/// `query` is a live descriptor whose executor is open and was run to the end, with instruments.
#[cold]
pub unsafe fn of(query: *mut pg_sys::QueryDesc) -> Option<Gathered> {
    // SAFETY: inside the statement's transaction, without a lightweight lock; the walk changes nothing but the
    // instruments, which it closes as EXPLAIN does.
    unsafe {
        attempt(|| {
            let mut walk = Walk { planned: (*query).plannedstmt, gathered: Gathered::default() };
            let run = Run { subplan: 0, complete: true, parallel: false, once: true, loops: None };
            walk.node((*query).planstate, run);
            (!walk.gathered.is_full()).then_some(walk.gathered)
        })
    }
}

struct Walk {
    planned: *const pg_sys::PlannedStmt,
    gathered: Gathered,
}

impl Walk {
    /// # Safety
    /// `state` is NULL or a node of the execution.
    unsafe fn node(&mut self, state: *mut pg_sys::PlanState, run: Run<'_>) -> Identity {
        use pg_sys::NodeTag as T;
        if state.is_null() || self.gathered.is_full() {
            return 0;
        }
        // SAFETY: the plan node's tag says which struct the plan and its state are.
        unsafe {
            pg_sys::check_stack_depth();
            let plan: *const pg_sys::Plan = (*state).plan;
            let (left, right) = ((*state).lefttree, (*state).righttree);
            self.subplans((*state).initPlan, run);
            self.subplans((*state).subPlan, run);
            let reading_all = Run { complete: true, ..run };
            let (mut one, mut other) = (0, 0);
            match cardinality::tag(plan) {
                T::T_Append => {
                    let append = state.cast::<pg_sys::AppendState>();
                    one = self.all((*append).appendplans, (*append).as_nplans, run);
                }
                T::T_MergeAppend => {
                    let append = state.cast::<pg_sys::MergeAppendState>();
                    one = self.all((*append).mergeplans, (*append).ms_nplans, run);
                }
                T::T_SubqueryScan => one = self.node((*state.cast::<pg_sys::SubqueryScanState>()).subplan, run),
                // The first to read a CTE fills it, for all.
                T::T_CteScan => {
                    let scan = state.cast::<pg_sys::CteScanState>();
                    if (*scan).leader == scan {
                        let subplan = (*plan.cast::<pg_sys::CteScan>()).ctePlanId;
                        let complete = (*scan).eof_cte;
                        self.node((*scan).cteplanstate, Run { subplan, complete, loops: None, ..run });
                    }
                }
                // Their inputs are no counts of rows.
                T::T_BitmapHeapScan | T::T_CustomScan | T::T_ForeignScan => {}
                T::T_NestLoop => {
                    one = self.node(left, run);
                    let join = plan.cast::<pg_sys::Join>();
                    let first_match = (*join).inner_unique
                        || matches!((*join).jointype, pg_sys::JoinType::JOIN_SEMI | pg_sys::JoinType::JOIN_ANTI);
                    let loops = Loops { innermost: plan.cast_mut().cast(), around: run.loops };
                    let complete = run.complete && !first_match;
                    other = self.node(right, Run { complete, once: false, loops: Some(&loops), ..run });
                }
                T::T_HashJoin => {
                    other = self.node(right, run);
                    // Nothing to match: the outer side may not have been read.
                    let fills = fills_outer((*plan.cast::<pg_sys::Join>()).jointype);
                    let complete = run.complete && (fills || counted(right).is_some_and(|(rows, _)| rows > 0.0));
                    one = self.node(left, Run { complete, ..run });
                }
                T::T_MergeJoin => {
                    // Ends with the side that ends first, and goes back on the inner one.
                    let fills = fills_outer((*plan.cast::<pg_sys::Join>()).jointype);
                    one = self.node(left, Run { complete: run.complete && fills, ..run });
                    other = self.node(right, Run { complete: false, ..run });
                }
                T::T_Sort | T::T_Hash => one = self.node(left, reading_all),
                T::T_Agg => {
                    let streams = (*plan.cast::<pg_sys::Agg>()).aggstrategy == pg_sys::AggStrategy::AGG_SORTED;
                    one = self.node(left, if streams { run } else { reading_all });
                }
                T::T_Material => {
                    let complete = (*state.cast::<pg_sys::MaterialState>()).eof_underlying;
                    one = self.node(left, Run { complete, ..run });
                }
                T::T_Limit => {
                    let limit = state.cast::<pg_sys::LimitState>();
                    let to_the_end = (*limit).lstate == pg_sys::LimitStateCond::LIMIT_SUBPLANEOF;
                    one = self.node(left, Run { complete: run.complete && to_the_end, ..run });
                }
                T::T_WindowAgg => {
                    let stops = !(*plan.cast::<pg_sys::WindowAgg>()).runCondition.is_null();
                    one = self.node(left, Run { complete: run.complete && !stops, ..run });
                }
                T::T_Gather | T::T_GatherMerge => {
                    // A Gather that is run again adds up.
                    let once = counted(state).is_some_and(|(_, loops)| loops == 1.0);
                    one = self.node(left, Run { parallel: true, once, ..run });
                }
                _ => {
                    one = self.node(left, run);
                    other = self.node(right, run);
                }
            }
            let identity = cardinality::identity(plan, self.planned, run.subplan, one, other);
            if cardinality::is_counted(plan) {
                let fed = run.loops.is_some_and(|loops| loops.feed(plan));
                let rows = if run.complete && !fed { rows(state, run) } else { None };
                self.gathered.add(identity, (*plan).plan_rows, rows);
            }
            identity
        }
    }

    /// # Safety
    /// There are `count` nodes of the execution at `states`.
    unsafe fn all(&mut self, states: *mut *mut pg_sys::PlanState, count: i32, run: Run<'_>) -> Identity {
        let mut sum: Identity = 0;
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: as promised.
            sum = sum.wrapping_add(unsafe { self.node(*states.add(at), run) });
        }
        sum
    }

    /// # Safety
    /// `list` holds subplan states of the execution.
    unsafe fn subplans(&mut self, list: *mut pg_sys::List, run: Run<'_>) {
        use pg_sys::SubLinkType as S;
        // SAFETY: as promised.
        unsafe {
            for state in PgList::<pg_sys::SubPlanState>::from_pg(list).iter_ptr() {
                let subplan = (*state).subplan;
                // A correlated one counts for one outer row; a CTE is reached from its first reader.
                if !(*subplan).parParam.is_null() || (*subplan).subLinkType == S::CTE_SUBLINK {
                    continue;
                }
                let complete = (*subplan).useHashTable
                    || !matches!((*subplan).subLinkType, S::EXISTS_SUBLINK | S::ANY_SUBLINK | S::ALL_SUBLINK);
                let inside =
                    Run { subplan: (*subplan).plan_id, complete, parallel: run.parallel, once: false, loops: None };
                self.node((*state).planstate, inside);
            }
        }
    }
}

fn fills_outer(join: pg_sys::JoinType::Type) -> bool {
    use pg_sys::JoinType as J;
    matches!(join, J::JOIN_LEFT | J::JOIN_FULL | J::JOIN_ANTI)
}

/// Rows and loops of a node, all processes together.
///
/// # Safety
/// `state` is NULL or a node of the execution.
unsafe fn counted(state: *mut pg_sys::PlanState) -> Option<(f64, f64)> {
    // SAFETY: an instrument lives as long as its node; closing it twice does nothing.
    unsafe {
        let instrument = state.as_ref()?.instrument;
        if instrument.is_null() {
            return None;
        }
        pg_sys::InstrEndLoop(instrument);
        Some(((*instrument).ntuples, (*instrument).nloops))
    }
}

/// The rows of a node that was read to its end.
///
/// # Safety
/// `state` is a node of the execution.
unsafe fn rows(state: *mut pg_sys::PlanState, run: Run<'_>) -> Option<f64> {
    // SAFETY: as promised.
    unsafe {
        let (rows, loops) = counted(state)?;
        if !run.parallel {
            return (loops == 1.0).then_some(rows);
        }
        if !run.once || loops < 1.0 {
            return None;
        }
        Some(if cardinality::is_shared((*state).plan) { rows } else { rows / loops })
    }
}

//! Counts what a finished plan would do, step by step (see `perf_core::index::work`). Reads plan nodes, and what the path
//! hook noted of the relations and index paths the planner looked at: a plan does not say how many entries its index scans
//! read, a path does.

mod effort;
mod order;
mod seen;

use perf_core::index::work::{missed, visited, Step, Work};
use pgrx::{pg_sys, PgList};

use crate::pg::cardinality::Corrections;
use effort::Effort;
use order::{first_parameter, fixes_all_keys, Orders};
pub use seen::Seen;

/// Bytes of a page.
const PAGE: f64 = 8192.0;

/// An inner side of fewer rows than this is rounded too much to be held against those of the join.
const COMPARABLE_MIN: f64 = 1.5;

/// How the executor spills: from `work_mem` and `hash_mem_multiplier`, in bytes.
struct Limits {
    sort_bytes: f64,
    hash_bytes: f64,
}

/// The steps of `planned`, one execution; rows are the planner's estimates as `corrections` has them.
///
/// # Safety
/// `planned` was just made by the planner, and `seen` filled by the hook meanwhile.
pub unsafe fn of(planned: *mut pg_sys::PlannedStmt, seen: &Seen, corrections: &Corrections) -> Work {
    // SAFETY: settings of this process; the plan is valid by the caller's promise.
    unsafe {
        let sort_bytes = f64::from(pg_sys::work_mem) * 1024.0;
        let limits = Limits { sort_bytes, hash_bytes: sort_bytes * pg_sys::hash_mem_multiplier };
        let mut counter =
            Counter { planned, seen, corrections, limits, work: Work::default(), fed: Vec::new(), done: Vec::new() };
        counter.node((*planned).planTree, 1.0);
        counter.work
    }
}

struct Counter<'a> {
    planned: *mut pg_sys::PlannedStmt,
    seen: &'a Seen,
    corrections: &'a Corrections,
    limits: Limits,
    work: Work,
    /// The parameters that loops around the node set.
    fed: Vec<Fed>,
    /// Plans of CTEs and uncorrelated subqueries that are counted already: they run once.
    done: Vec<i32>,
}

/// A parameter that a loop sets for what is inside it.
struct Fed {
    number: i32,
    /// How far its values come in order, 0 to 1.
    sorted: f64,
    /// How many of the rows that the planner expects of a search for it there are.
    found: f64,
}

impl Counter<'_> {
    /// Counts `plan` and what is below it, executed `loops` times (a share of one when its reader stops early).
    ///
    /// # Safety
    /// `plan` is NULL or a node of the plan.
    unsafe fn node(&mut self, plan: *mut pg_sys::Plan, loops: f64) {
        if plan.is_null() || loops <= 0.0 {
            return;
        }
        // SAFETY: the tag says which struct a node is; children are NULL or plans.
        unsafe {
            pg_sys::check_stack_depth();
            let rows = self.corrections.rows(plan) * loops;
            self.work.add(Step::Node, loops.max(1.0).min(loops + 1.0));
            self.work.add(Step::Row, rows);
            let tag = (*plan.cast::<pg_sys::Node>()).type_;
            let (left, right) = ((*plan).lefttree, (*plan).righttree);
            let corrections = self.corrections;
            let rows_of = |child: *mut pg_sys::Plan| corrections.rows(child) * loops;
            // Tuples that the node's own conditions are asked of.
            let mut input = rows.max(rows_of(left));
            let mut tests: Vec<*mut pg_sys::List> = vec![(*plan).qual];
            match tag {
                pg_sys::NodeTag::T_SeqScan | pg_sys::NodeTag::T_SampleScan => {
                    let relation = super::plan_tree::scanned(plan.cast(), self.planned);
                    let seen = self.seen.relation(relation).copied();
                    input = seen.map_or(rows, |seen| seen.tuples * loops);
                    self.work.add(Step::SequentialTuple, input);
                    self.work.add(Step::SequentialPage, seen.map_or(0.0, |seen| seen.pages * loops));
                }
                pg_sys::NodeTag::T_IndexScan => {
                    input = self.fetched((*plan.cast::<pg_sys::IndexScan>()).indexid, plan, loops, false);
                }
                pg_sys::NodeTag::T_IndexOnlyScan => {
                    input = self.fetched((*plan.cast::<pg_sys::IndexOnlyScan>()).indexid, plan, loops, true);
                }
                pg_sys::NodeTag::T_BitmapIndexScan => {
                    let index = (*plan.cast::<pg_sys::BitmapIndexScan>()).indexid;
                    let seen = self.seen.path(index, (*plan).plan_rows, (*plan).total_cost);
                    let left_out = seen.map_or(0.0, |seen| seen.read - seen.entries);
                    self.work.add(Step::IndexEntry, rows + left_out * loops);
                    let pages = self.seen.index(index).map_or(0.0, |seen| seen.pages);
                    let fed = self.search(plan);
                    self.descents(loops, pages, fed.0);
                    return;
                }
                pg_sys::NodeTag::T_BitmapAnd | pg_sys::NodeTag::T_BitmapOr => {
                    let list = if tag == pg_sys::NodeTag::T_BitmapAnd {
                        (*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans
                    } else {
                        (*plan.cast::<pg_sys::BitmapOr>()).bitmapplans
                    };
                    for child in PgList::<pg_sys::Plan>::from_pg(list).iter_ptr() {
                        self.node(child, loops);
                    }
                    return;
                }
                pg_sys::NodeTag::T_BitmapHeapScan => {
                    let relation = super::plan_tree::scanned(plan.cast(), self.planned);
                    let tuples = rows_of(left).max(rows);
                    input = tuples;
                    self.work.add(Step::BitmapTuple, tuples);
                    if let Some(seen) = self.seen.relation(relation) {
                        let each = tuples / loops.max(1.0);
                        self.work.add(Step::BitmapPage, visited(seen.pages, each) * loops);
                    }
                    self.node(left, loops);
                }
                pg_sys::NodeTag::T_NestLoop => {
                    self.node(left, loops);
                    let outer = rows_of(left);
                    input = (rows_of(right) * outer / loops.max(1e-9)).max(rows).min(outer * 1e3 + rows);
                    let inner = self.inner_loops(plan, outer, loops);
                    let around = self.fed.len();
                    let found = found_share(plan.cast());
                    let fed = PgList::<pg_sys::NestLoopParam>::from_pg((*plan.cast::<pg_sys::NestLoop>()).nestParams);
                    for param in fed.iter_ptr() {
                        let sorted = self.orders().of(plan, (*param).paramval.cast());
                        self.fed.push(Fed { number: (*param).paramno, sorted, found });
                    }
                    self.node(right, inner);
                    self.fed.truncate(around);
                    tests.push((*plan.cast::<pg_sys::Join>()).joinqual);
                    self.conditions(plan, &tests, rows);
                    self.targets(plan, rows);
                    self.work.add(Step::Operation, input - rows);
                    return;
                }
                pg_sys::NodeTag::T_HashJoin => {
                    self.node(left, loops);
                    self.node(right, loops);
                    self.work.add(Step::HashProbe, rows_of(left));
                    let keys = PgList::<pg_sys::Node>::from_pg((*plan.cast::<pg_sys::HashJoin>()).hashclauses).len();
                    self.work.add(Step::Operation, rows_of(left) * keys as f64);
                    // The outer side of a key may ask a subplan.
                    let subplans = Effort::of((*plan.cast::<pg_sys::HashJoin>()).hashclauses.cast()).subplans;
                    self.evaluate(plan, Effort { subplans, ..Effort::default() }, rows_of(left));
                    if !right.is_null() {
                        let inner = bytes(right, self.corrections.rows(right));
                        self.work.add(Step::HashMiss, missed(inner) * rows_of(left));
                        if inner > self.limits.hash_bytes {
                            self.work.add(
                                Step::TemporaryPage,
                                loops * (inner + bytes(left, self.corrections.rows(left))) / 8192.0,
                            );
                        }
                    }
                    tests.push((*plan.cast::<pg_sys::Join>()).joinqual);
                    input = rows;
                }
                pg_sys::NodeTag::T_MergeJoin => {
                    let share = merged_share(plan, left, right);
                    self.node(left, loops * share);
                    self.node(right, loops * share);
                    self.work.add(Step::Operation, 2.0 * share * (rows_of(left) + rows_of(right)));
                    tests.push((*plan.cast::<pg_sys::Join>()).joinqual);
                    input = rows;
                }
                pg_sys::NodeTag::T_Hash => {
                    self.node(left, loops);
                    self.work.add(Step::HashBuild, rows_of(left));
                    let table = bytes(plan, self.corrections.rows(left));
                    self.work.add(Step::HashMiss, missed(table) * rows_of(left));
                    return;
                }
                pg_sys::NodeTag::T_Sort | pg_sys::NodeTag::T_IncrementalSort => {
                    let child = self.corrections.rows(left);
                    // A reader that stops early needs all of the input, but only the top of the order.
                    let least = if tag == pg_sys::NodeTag::T_Sort { 1.0 } else { first_group_share(plan, left) };
                    let whole = loops.max(least);
                    let kept = (self.corrections.rows(plan) * loops / whole).max(2.0);
                    self.node(left, whole);
                    self.work.add(Step::SortComparison, whole * child * kept.log2().max(1.0));
                    if bytes(plan, child.min(kept)) > self.limits.sort_bytes {
                        self.work.add(Step::TemporaryPage, whole * bytes(plan, child) / 8192.0);
                    }
                    return;
                }
                pg_sys::NodeTag::T_Agg => {
                    let agg = plan.cast::<pg_sys::Agg>();
                    let hashed = (*agg).aggstrategy == pg_sys::AggStrategy::AGG_HASHED;
                    let whole = if hashed || (*agg).aggstrategy == pg_sys::AggStrategy::AGG_PLAIN {
                        loops.max(1.0)
                    } else {
                        loops
                    };
                    self.node(left, whole);
                    input = self.corrections.rows(left) * whole;
                    self.work.add(Step::GroupedTuple, input);
                    // HAVING leaves fewer than there are.
                    let groups = ((*agg).numGroups as f64).max(self.corrections.rows(plan)).min(input.max(1.0));
                    self.work.add(if hashed { Step::Group } else { Step::Operation }, groups * whole);
                    if hashed {
                        self.work.add(Step::HashProbe, input);
                        self.work.add(Step::HashMiss, missed(bytes(plan, groups)) * input);
                        if bytes(plan, groups) > self.limits.hash_bytes && !left.is_null() {
                            self.work
                                .add(Step::TemporaryPage, whole * bytes(left, self.corrections.rows(left)) / 8192.0);
                        }
                    }
                    // Transitions run for every tuple, conditions for every group.
                    self.targets(plan, input);
                    self.conditions(plan, &tests, groups * loops);
                    return;
                }
                pg_sys::NodeTag::T_Limit => {
                    let child = self.corrections.rows(left);
                    let share = if child > 0.0 { (self.corrections.rows(plan) / child).min(1.0) } else { 1.0 };
                    self.node(left, loops * share);
                    return;
                }
                pg_sys::NodeTag::T_Material => {
                    // Filled once, then read again.
                    self.node(left, loops.min(1.0));
                    return;
                }
                pg_sys::NodeTag::T_Memoize => {
                    self.work.add(Step::HashProbe, loops);
                    let entries = f64::from((*plan.cast::<pg_sys::Memoize>()).est_entries);
                    let misses = if entries > 0.0 { loops.min(entries) } else { loops };
                    self.node(left, misses);
                    return;
                }
                pg_sys::NodeTag::T_Append => {
                    self.children((*plan.cast::<pg_sys::Append>()).appendplans, loops);
                    return;
                }
                pg_sys::NodeTag::T_MergeAppend => {
                    self.children((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, loops);
                    self.work.add(Step::SortComparison, rows * 2.0);
                    return;
                }
                pg_sys::NodeTag::T_SubqueryScan => {
                    let inner = (*plan.cast::<pg_sys::SubqueryScan>()).subplan;
                    self.node(inner, loops);
                    input = rows.max(rows_of(inner));
                }
                pg_sys::NodeTag::T_CteScan => {
                    self.subplan((*plan.cast::<pg_sys::CteScan>()).ctePlanId, 1.0, true);
                }
                pg_sys::NodeTag::T_WindowAgg => {
                    self.node(left, loops);
                    self.work.add(Step::GroupedTuple, rows_of(left));
                }
                _ => {
                    self.node(left, loops);
                    self.node(right, loops);
                }
            }
            self.conditions(plan, &tests, input);
            self.targets(plan, rows);
        }
    }

    /// # Safety
    /// `list` is a list of plans.
    unsafe fn children(&mut self, list: *mut pg_sys::List, loops: f64) {
        // SAFETY: as promised.
        unsafe {
            for child in PgList::<pg_sys::Plan>::from_pg(list).iter_ptr() {
                self.node(child, loops);
            }
        }
    }

    /// What is known of the orders in the plan.
    fn orders(&self) -> Orders<'_> {
        Orders { planned: self.planned, seen: self.seen, corrections: self.corrections }
    }

    /// Counts an index scan; the tuples its conditions are asked of.
    ///
    /// # Safety
    /// `plan` is an index scan.
    unsafe fn fetched(&mut self, index: pg_sys::Oid, plan: *mut pg_sys::Plan, loops: f64, only: bool) -> f64 {
        // SAFETY: as promised.
        let (estimated, cost, rows) = unsafe { ((*plan).plan_rows, (*plan).total_cost, self.corrections.rows(plan)) };
        let path = self.seen.path(index, estimated, cost).copied();
        // SAFETY: as promised.
        let (sorted, found) = unsafe { self.search(plan) };
        // Where a filter is asked of what was read, it may be the filter that is misjudged.
        // SAFETY: as promised.
        let is_filtered = unsafe { !(*plan).qual.is_null() };
        let entries = path.map_or(rows, |path| if is_filtered { (path.entries * found).max(rows) } else { rows });
        let left_out = path.map_or(0.0, |path| path.read - path.entries);
        let visits = loops * if only { entries * (1.0 - path.map_or(0.0, |path| path.all_visible)) } else { entries };
        self.work.add(Step::IndexEntry, (entries + left_out) * loops);
        let index = self.seen.index(index);
        let (followed, leaves) = index.map_or((0.0, 0.0), |seen| (seen.correlation.powi(2), seen.pages));
        // SAFETY: as promised.
        let fixed = index.is_some_and(|index| unsafe { fixes_all_keys(plan, index) });
        self.descents(loops, leaves, sorted);
        // SAFETY: as promised.
        let relation = unsafe { super::plan_tree::scanned(plan.cast(), self.planned) };
        let (tuples, pages) = self.seen.relation(relation).map_or((0.0, 0.0), |seen| (seen.tuples, seen.pages));
        // Each search begins somewhere else, unless it is for the next key in an index that follows the table's order.
        let searches = visits.min(loops.max(1.0));
        let near_searches = searches * sorted * followed;
        let rest = visits - searches;
        let followers = rest * followed;
        // Entries of one key are in the order of the table: when there are many, several are on each page.
        let runs = if fixed { rest - followers } else { 0.0 };
        let dense = (runs / searches.max(1.0) / pages.max(1.0)).min(1.0);
        let run_pages = visited(pages, runs / searches.max(1.0)) * searches.max(1.0) * dense;
        let ordered = visited(pages, near_searches) + followers * pages / tuples.max(1.0) + run_pages;
        let far = visits - near_searches - followers - runs * dense;
        let missed = missed(pages * PAGE);
        self.work.add(Step::OrderedPage, ordered * missed);
        self.work.add(Step::FarFetch, far * missed);
        self.work.add(Step::NearFetch, visits - far * missed);
        entries * loops
    }

    /// How far the searches of an index scan come in order, and how much of what the planner expects each to find there is.
    ///
    /// # Safety
    /// `plan` is a node.
    unsafe fn search(&self, plan: *mut pg_sys::Plan) -> (f64, f64) {
        // SAFETY: as promised. Without a parameter it is the same search each time; of one that is not known nothing is.
        match unsafe { first_parameter(plan) } {
            Some(number) => {
                self.fed.iter().rev().find(|fed| fed.number == number).map_or((0.0, 1.0), |fed| (fed.sorted, fed.found))
            }
            None => (1.0, 1.0),
        }
    }

    /// Counts searches in an index of so many pages.
    fn descents(&mut self, loops: f64, pages: f64, sorted: f64) {
        let (loops, missed) = (loops.max(1.0), missed(pages * PAGE));
        let far = loops * (1.0 - sorted) * missed;
        self.work.add(Step::FarDescent, far);
        self.work.add(Step::Descent, loops - far);
        self.work.add(Step::OrderedLeaf, visited(pages, loops * sorted) * missed);
    }

    /// How often the inner side of a nested loop runs: less than once an outer row when the planner expects to find the
    /// answer in a cache, or to stop early.
    ///
    /// # Safety
    /// `plan` is a nested loop.
    unsafe fn inner_loops(&self, plan: *mut pg_sys::Plan, outer: f64, loops: f64) -> f64 {
        // SAFETY: both children are there in a valid join.
        unsafe {
            let (left, right) = ((*plan).lefttree, (*plan).righttree);
            if left.is_null() || right.is_null() {
                return 0.0;
            }
            let tag = (*right.cast::<pg_sys::Node>()).type_;
            if matches!(tag, pg_sys::NodeTag::T_Material | pg_sys::NodeTag::T_Memoize) || outer <= loops {
                return outer;
            }
            let rescans = self.corrections.factor(left) * loops * ((*plan).total_cost - (*left).total_cost)
                / (*right).total_cost.max(1e-9);
            outer.min(rescans.max(loops))
        }
    }

    /// Counts a subplan that runs `loops` times, or, when `once`, a single time in the whole plan.
    ///
    /// # Safety
    /// `number` is a plan number of the plan.
    unsafe fn subplan(&mut self, number: i32, loops: f64, once: bool) {
        if once {
            if self.done.contains(&number) {
                return;
            }
            self.done.push(number);
        }
        // SAFETY: numbers are one-based into the list of subplans, whose members may be NULL.
        unsafe {
            let plans = PgList::<pg_sys::Plan>::from_pg((*self.planned).subplans);
            if let Some(plan) = (number as usize).checked_sub(1).and_then(|at| plans.get_ptr(at)) {
                self.node(plan, if once { 1.0 } else { loops });
            }
        }
    }

    /// Counts conditions that are asked of `tuples` tuples: the first of all, the others of the half that is left.
    ///
    /// # Safety
    /// `lists` are lists of expressions of the plan.
    unsafe fn conditions(&mut self, plan: *mut pg_sys::Plan, lists: &[*mut pg_sys::List], tuples: f64) {
        let mut share = 1.0;
        for list in lists {
            // SAFETY: as promised.
            unsafe {
                for condition in PgList::<pg_sys::Node>::from_pg(*list).iter_ptr() {
                    let effort = Effort::of(condition);
                    self.evaluate(plan, effort, tuples * share);
                    share = 0.5;
                }
            }
        }
    }

    /// Counts the columns that a node computes for `tuples` tuples.
    ///
    /// # Safety
    /// `plan` is a node of the plan.
    unsafe fn targets(&mut self, plan: *mut pg_sys::Plan, tuples: f64) {
        // SAFETY: a target list holds target entries.
        unsafe {
            let effort = Effort::of((*plan).targetlist.cast());
            self.evaluate(plan, effort, tuples);
        }
    }

    /// # Safety
    /// The subplans are those of the plan.
    unsafe fn evaluate(&mut self, plan: *mut pg_sys::Plan, effort: Effort, tuples: f64) {
        self.work.add(Step::Operation, effort.operations * tuples);
        self.work.add(Step::NumericOperation, effort.numeric * tuples);
        self.work.add(Step::TextOperation, effort.text * tuples);
        self.work.add(Step::TextFunction, effort.text_functions * tuples);
        for asked in effort.subplans {
            // SAFETY: as promised; a correlated plan has an argument for each of its parameters.
            unsafe {
                let anew = !(*asked).parParam.is_null();
                if !anew {
                    self.work.add(Step::HashProbe, tuples);
                }
                let around = self.fed.len();
                let orders = self.orders();
                let numbers = (*asked).parParam;
                let mut fed = Vec::new();
                let arguments = PgList::<pg_sys::Node>::from_pg((*asked).args);
                for (at, argument) in (0..).zip(arguments.iter_ptr()) {
                    let number = pg_sys::list_nth_int(numbers, at);
                    fed.push(Fed { number, sorted: orders.of(plan, argument), found: 1.0 });
                }
                self.fed.extend(fed);
                self.subplan((*asked).plan_id, tuples, !anew);
                self.fed.truncate(around);
            }
        }
    }
}

/// How much of what the planner expects the inner side of a loop to find there is. A search by a parameter is estimated from
/// the values of the searched column alone, which sampling takes for fewer than they are in a large table; the join, from
/// those of both columns.
///
/// # Safety
/// `join` is a nested loop.
unsafe fn found_share(join: *mut pg_sys::NestLoop) -> f64 {
    // SAFETY: as promised; a join has both inputs.
    unsafe {
        let plan = &(*join).join.plan;
        let (outer, inner) = ((*plan.lefttree).plan_rows, (*plan.righttree).plan_rows);
        let is_plain = (*join).join.jointype == pg_sys::JoinType::JOIN_INNER
            && (*join).join.joinqual.is_null()
            && plan.qual.is_null();
        if is_plain && inner > COMPARABLE_MIN && outer > 0.0 {
            (plan.plan_rows / (outer * inner)).min(1.0)
        } else {
            1.0
        }
    }
}

/// How much of its input an incremental sort reads before it gives its first row, as its cost tells.
///
/// # Safety
/// `plan` is a sort of `input`.
unsafe fn first_group_share(plan: *mut pg_sys::Plan, input: *mut pg_sys::Plan) -> f64 {
    // SAFETY: as promised.
    unsafe {
        let before = (*plan).startup_cost - (*input).startup_cost;
        let all = (*input).total_cost - (*input).startup_cost;
        if all > 0.0 {
            (before / all).clamp(0.0, 1.0)
        } else {
            1.0
        }
    }
}

/// How much of its inputs a merge join reads before one of them ends, as its cost tells: a plan does not say it.
///
/// # Safety
/// `plan` is a merge join of the other two.
unsafe fn merged_share(plan: *mut pg_sys::Plan, left: *mut pg_sys::Plan, right: *mut pg_sys::Plan) -> f64 {
    // SAFETY: as promised; a join has both inputs.
    unsafe {
        let run = |plan: *mut pg_sys::Plan| ((*plan).total_cost - (*plan).startup_cost).max(0.0);
        let inputs = run(left) + run(right);
        if inputs > 0.0 {
            (run(plan) / inputs).min(1.0)
        } else {
            1.0
        }
    }
}

/// Memory of `rows` rows of a node.
///
/// # Safety
/// `plan` is a node.
unsafe fn bytes(plan: *mut pg_sys::Plan, rows: f64) -> f64 {
    // SAFETY: as promised.
    rows * (f64::from(unsafe { (*plan).plan_width }) + 24.0)
}

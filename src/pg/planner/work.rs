//! Counts what a finished plan would do, step by step (see `perf_core::index::work`). Reads plan nodes, and what the path
//! hook noted of the relations and index paths the planner looked at: a plan does not say how many entries its index scans
//! read, a path does.

use perf_core::index::work::{Step, Work};
use pgrx::{pg_guard, pg_sys, PgList};

use crate::pg::cardinality::Corrections;
use crate::pg::relation;

/// An index path, as the planner priced it.
#[derive(Clone, Copy, Debug)]
struct SeenIndex {
    index: pg_sys::Oid,
    rows: f64,
    total_cost: f64,
    /// Entries that one scan reads.
    entries: f64,
    /// How far the index follows the order of the table, 0 to 1.
    correlation: f64,
    /// Share of the table's pages that are all-visible, 0 to 1.
    all_visible: f64,
}

/// A relation, as the planner saw it.
#[derive(Clone, Copy, Debug)]
struct SeenRelation {
    relation: pg_sys::Oid,
    tuples: f64,
    pages: f64,
}

/// What the path hook noted during one planner run.
#[derive(Debug, Default)]
pub struct Seen {
    indexes: Vec<SeenIndex>,
    relations: Vec<SeenRelation>,
}

impl Seen {
    /// Notes the paths of one relation.
    ///
    /// # Safety
    /// Called by the planner's path-list hook with its arguments.
    pub unsafe fn note(&mut self, rel: *mut pg_sys::RelOptInfo, rte: *mut pg_sys::RangeTblEntry) {
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            if (*rte).rtekind != pg_sys::RTEKind::RTE_RELATION {
                return;
            }
            let relation = (*rte).relid;
            self.relations.push(SeenRelation { relation, tuples: (*rel).tuples, pages: f64::from((*rel).pages) });
            for list in [(*rel).pathlist, (*rel).partial_pathlist] {
                for path in PgList::<pg_sys::Path>::from_pg(list).iter_ptr() {
                    self.note_path(path, rel, relation);
                }
            }
        }
    }

    /// # Safety
    /// `path` is a path of `rel`.
    unsafe fn note_path(&mut self, path: *mut pg_sys::Path, rel: *mut pg_sys::RelOptInfo, relation: pg_sys::Oid) {
        // SAFETY: the tag says which struct it is.
        unsafe {
            if !pgrx::is_a(path.cast(), pg_sys::NodeTag::T_IndexPath) {
                return;
            }
            let index_path = path.cast::<pg_sys::IndexPath>();
            let info = (*index_path).indexinfo;
            let first = if (*info).nkeycolumns > 0 { *(*info).indexkeys as i16 } else { 0 };
            self.indexes.push(SeenIndex {
                index: (*info).indexoid,
                rows: (*path).rows,
                total_cost: (*path).total_cost,
                entries: ((*index_path).indexselectivity * (*info).tuples).max(1.0),
                correlation: relation::correlation(relation, first).abs(),
                all_visible: (*rel).allvisfrac,
            });
        }
    }

    fn index(&self, index: pg_sys::Oid, rows: f64, total_cost: f64) -> Option<&SeenIndex> {
        let distance = |seen: &SeenIndex| {
            (seen.rows - rows).abs() / rows.max(1.0) + 0.1 * (seen.total_cost - total_cost).abs() / total_cost.max(1e-9)
        };
        self.indexes.iter().filter(|seen| seen.index == index).min_by(|a, b| distance(a).total_cmp(&distance(b)))
    }

    fn relation(&self, relation: pg_sys::Oid) -> Option<&SeenRelation> {
        self.relations.iter().find(|seen| seen.relation == relation)
    }
}

/// Pages of a table that a processor's cache holds: visits to a smaller table are near wherever they go.
const CACHED_PAGES: f64 = 4_000.0;

/// So many times more rows than the first table gives are more than its own.
const MULTIPLIED: f64 = 1.2;

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
            Counter { planned, seen, corrections, limits, work: Work::default(), jumping: false, done: Vec::new() };
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
    /// The loop around the node asks for keys in no order of the table that they come from.
    jumping: bool,
    /// Plans of CTEs and uncorrelated subqueries that are counted already: they run once.
    done: Vec<i32>,
}

/// What evaluating a list of expressions once takes.
#[derive(Default)]
struct Effort {
    operations: f64,
    numeric: f64,
    text: f64,
    patterns: f64,
    /// Plan number, whether it runs anew for every row.
    subplans: Vec<(i32, bool)>,
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
                    self.work.add(Step::Descent, loops);
                    self.work.add(Step::IndexEntry, rows);
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
                        // Pages hit by that many tuples thrown at random.
                        let each = tuples / loops.max(1.0);
                        let pages = seen.pages * -(-each / seen.pages.max(1.0)).exp_m1();
                        self.work.add(Step::BitmapPage, pages * loops);
                    }
                    self.node(left, loops);
                }
                pg_sys::NodeTag::T_NestLoop => {
                    self.node(left, loops);
                    let outer = rows_of(left);
                    input = (rows_of(right) * outer / loops.max(1e-9)).max(rows).min(outer * 1e3 + rows);
                    let inner = self.inner_loops(plan, outer, loops);
                    let jumping = self.is_jumping(left);
                    let around = std::mem::replace(&mut self.jumping, jumping);
                    self.node(right, inner);
                    self.jumping = around;
                    tests.push((*plan.cast::<pg_sys::Join>()).joinqual);
                    self.conditions(&tests, rows);
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
                    if !right.is_null() {
                        let inner = bytes(right, self.corrections.rows(right));
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
                        if bytes(plan, groups) > self.limits.hash_bytes && !left.is_null() {
                            self.work
                                .add(Step::TemporaryPage, whole * bytes(left, self.corrections.rows(left)) / 8192.0);
                        }
                    }
                    // Transitions run for every tuple, conditions for every group.
                    self.targets(plan, input);
                    self.conditions(&tests, groups * loops);
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
            self.conditions(&tests, input);
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

    /// Counts an index scan; the tuples its conditions are asked of.
    ///
    /// # Safety
    /// `plan` is an index scan.
    unsafe fn fetched(&mut self, index: pg_sys::Oid, plan: *mut pg_sys::Plan, loops: f64, only: bool) -> f64 {
        // SAFETY: as promised.
        let (estimated, cost, rows) = unsafe { ((*plan).plan_rows, (*plan).total_cost, self.corrections.rows(plan)) };
        let seen = self.seen.index(index, estimated, cost);
        // Where a filter is asked of what was read, it may be the filter that is misjudged.
        // SAFETY: as promised.
        let is_filtered = unsafe { !(*plan).qual.is_null() };
        let entries = seen.map_or(rows, |seen| if is_filtered { seen.entries.max(rows) } else { rows }) * loops;
        // SAFETY: as promised.
        let relation = unsafe { super::plan_tree::scanned(plan.cast(), self.planned) };
        let pages = self.seen.relation(relation).map_or(0.0, |seen| seen.pages);
        let scattered = 1.0 - seen.map_or(0.0, |seen| seen.correlation * seen.correlation);
        let near = 1.0 - scattered * (pages / CACHED_PAGES).min(1.0);
        self.work.add(Step::Descent, loops.max(1.0));
        self.work.add(Step::IndexEntry, entries);
        let visits = if only { entries * (1.0 - seen.map_or(0.0, |seen| seen.all_visible)) } else { entries };
        let mut far = visits * (1.0 - near);
        if self.jumping && pages > CACHED_PAGES {
            // Each search ends somewhere else, however close to each other its own entries are.
            far = far.max(visits.min(loops));
        }
        self.work.add(Step::NearFetch, visits - far);
        self.work.add(Step::FarFetch, far);
        entries
    }

    /// Whether the rows of `outer` come in another order than that of the table that gives the keys for a search in another:
    /// when there are more of them than the table has that is read first, they were multiplied by searches themselves.
    ///
    /// # Safety
    /// `outer` is NULL or a node of the plan.
    unsafe fn is_jumping(&self, outer: *mut pg_sys::Plan) -> bool {
        let mut leaf = outer;
        // SAFETY: as promised; children are NULL or plans.
        unsafe {
            while !leaf.is_null() && !(*leaf).lefttree.is_null() {
                if is_bitmap_or_sort(leaf) {
                    break;
                }
                leaf = (*leaf).lefttree;
            }
            self.corrections.rows(outer) > MULTIPLIED * self.corrections.rows(leaf)
        }
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
    unsafe fn conditions(&mut self, lists: &[*mut pg_sys::List], tuples: f64) {
        let mut share = 1.0;
        for list in lists {
            // SAFETY: as promised.
            unsafe {
                for condition in PgList::<pg_sys::Node>::from_pg(*list).iter_ptr() {
                    let effort = Effort::of(condition);
                    self.evaluate(effort, tuples * share);
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
            self.evaluate(effort, tuples);
        }
    }

    /// # Safety
    /// The subplans are those of the plan.
    unsafe fn evaluate(&mut self, effort: Effort, tuples: f64) {
        self.work.add(Step::Operation, effort.operations * tuples);
        self.work.add(Step::NumericOperation, effort.numeric * tuples);
        self.work.add(Step::TextOperation, effort.text * tuples);
        self.work.add(Step::PatternMatch, effort.patterns * tuples);
        for (number, anew) in effort.subplans {
            if !anew {
                self.work.add(Step::HashProbe, tuples);
            }
            // SAFETY: as promised.
            unsafe { self.subplan(number, tuples, !anew) };
        }
    }
}

impl Effort {
    /// # Safety
    /// `node` is NULL, an expression or a list of expressions of a finished plan.
    unsafe fn of(node: *mut pg_sys::Node) -> Effort {
        let mut effort = Effort::default();
        // SAFETY: the walker reads only.
        unsafe { walk(node, (&raw mut effort).cast()) };
        effort
    }

    fn count(&mut self, type_oid: pg_sys::Oid, result: pg_sys::Oid) {
        if type_oid == pg_sys::NUMERICOID || result == pg_sys::NUMERICOID {
            self.numeric += 1.0;
            return;
        }
        // SAFETY: a syscache lookup; zero for no such type.
        let length = unsafe { pg_sys::get_typlen(type_oid) };
        if length == -1 {
            self.text += 1.0;
        } else {
            self.operations += 1.0;
        }
    }
}

/// Adds what one node does to the [`Effort`] behind `context`.
#[pg_guard]
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut std::ffi::c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: `context` is the effort that `Effort::of` lent; the tag says which struct a node is.
    unsafe {
        let effort = &mut *context.cast::<Effort>();
        let first = |list: *mut pg_sys::List| {
            PgList::<pg_sys::Node>::from_pg(list).get_ptr(0).map_or(pg_sys::InvalidOid, |arg| pg_sys::exprType(arg))
        };
        match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr | pg_sys::NodeTag::T_DistinctExpr | pg_sys::NodeTag::T_NullIfExpr => {
                let expression = node.cast::<pg_sys::OpExpr>();
                // iclikesel, icnlikesel, regexeqsel to icregexnesel with likesel among them, prefixsel.
                let support = pg_sys::get_oprrest((*expression).opno).to_u32();
                if matches!(support, 1814 | 1815 | 1818..=1823 | 3437) {
                    effort.patterns += 1.0;
                } else {
                    effort.count(first((*expression).args), (*expression).opresulttype);
                }
            }
            pg_sys::NodeTag::T_FuncExpr => {
                let expression = node.cast::<pg_sys::FuncExpr>();
                effort.count(first((*expression).args), (*expression).funcresulttype);
            }
            pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                let expression = node.cast::<pg_sys::ScalarArrayOpExpr>();
                effort.count(first((*expression).args), pg_sys::BOOLOID);
                effort.operations += 1.0;
            }
            pg_sys::NodeTag::T_Aggref => {
                let aggregate = node.cast::<pg_sys::Aggref>();
                let argument = PgList::<pg_sys::TargetEntry>::from_pg((*aggregate).args)
                    .get_ptr(0)
                    .map_or(pg_sys::INT8OID, |entry| pg_sys::exprType((*entry).expr.cast()));
                effort.count(argument, pg_sys::InvalidOid);
            }
            pg_sys::NodeTag::T_CaseExpr | pg_sys::NodeTag::T_CoalesceExpr | pg_sys::NodeTag::T_NullTest => {
                effort.operations += 1.0;
            }
            pg_sys::NodeTag::T_SubPlan => {
                let plan = node.cast::<pg_sys::SubPlan>();
                effort.subplans.push(((*plan).plan_id, !(*plan).parParam.is_null()));
            }
            _ => {}
        }
        pg_sys::expression_tree_walker(node, Some(walk), context)
    }
}

/// Whether a node gives rows in an order of its own, or of the table.
///
/// # Safety
/// `plan` is a node.
unsafe fn is_bitmap_or_sort(plan: *mut pg_sys::Plan) -> bool {
    // SAFETY: as promised.
    let tag = unsafe { (*plan.cast::<pg_sys::Node>()).type_ };
    matches!(
        tag,
        pg_sys::NodeTag::T_BitmapHeapScan
            | pg_sys::NodeTag::T_Sort
            | pg_sys::NodeTag::T_IncrementalSort
            | pg_sys::NodeTag::T_Agg
    )
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

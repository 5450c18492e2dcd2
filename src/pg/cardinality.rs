//! What the rows of a plan's nodes are counts of, and what counts of an earlier execution say about the planner's
//! estimates. Called by capture, which counts, and by what-if planning, which corrects. Reads plan nodes only.

use std::collections::HashMap;

use perf_core::cardinality::{self, Identity};
use pgrx::{pg_sys, PgList};

/// The nested loops around a node, the innermost first.
pub struct Loops<'a> {
    /// The loop on whose inner side the node is.
    pub innermost: *mut pg_sys::NestLoop,
    /// The loops around that.
    pub around: Option<&'a Loops<'a>>,
}

impl Loops<'_> {
    /// Whether a node gives other rows for each outer row of one of the loops: then its count is none of the relation.
    ///
    /// # Safety
    /// `plan` and the loops belong to one valid plan.
    pub unsafe fn feed(&self, plan: *const pg_sys::Plan) -> bool {
        // SAFETY: the list holds the parameters of the loop; a node's set of parameters may be NULL, which is empty.
        let fed = unsafe {
            PgList::<pg_sys::NestLoopParam>::from_pg((*self.innermost).nestParams)
                .iter_ptr()
                .any(|param| pg_sys::bms_is_member((*param).paramno, (*plan).extParam))
        };
        // SAFETY: as promised.
        fed || self.around.is_some_and(|around| unsafe { around.feed(plan) })
    }
}

/// A node's tag.
///
/// # Safety
/// `plan` is a valid node.
pub unsafe fn tag(plan: *const pg_sys::Plan) -> pg_sys::NodeTag {
    // SAFETY: every node begins with its tag.
    unsafe { (*plan.cast::<pg_sys::Node>()).type_ }
}

/// What `plan` is a count of, in the subplan of that number (0: the main plan), from what its inputs are counts of: `one`
/// is its only input, the outer one, or the sum of all that it appends.
///
/// # Safety
/// `plan` is a node of `planned`.
pub unsafe fn identity(
    plan: *const pg_sys::Plan,
    planned: *const pg_sys::PlannedStmt,
    subplan: i32,
    one: Identity,
    other: Identity,
) -> Identity {
    use pg_sys::NodeTag as T;
    // SAFETY: the tag says which struct a node is.
    unsafe {
        match tag(plan) {
            own if reads_one_entry(own) || matches!(own, T::T_WorkTableScan | T::T_ForeignScan | T::T_CustomScan) => {
                relation(planned, (*plan.cast::<pg_sys::Scan>()).scanrelid as usize, subplan)
            }
            T::T_NestLoop | T::T_HashJoin | T::T_MergeJoin => cardinality::join(one, other),
            // What a worker has grouped is the input of the grouping proper.
            T::T_Agg if is_partial_agg(plan) => one,
            T::T_Agg | T::T_Group | T::T_Unique => cardinality::grouped(one),
            T::T_SetOp => cardinality::grouped(cardinality::join(one, other)),
            T::T_SubqueryScan if !(*plan).qual.is_null() => cardinality::filtered(one),
            T::T_Append => appended((*plan.cast::<pg_sys::Append>()).apprelids, planned, subplan, one),
            T::T_MergeAppend => appended((*plan.cast::<pg_sys::MergeAppend>()).apprelids, planned, subplan, one),
            T::T_RecursiveUnion | T::T_BitmapAnd | T::T_BitmapOr => {
                cardinality::appended(cardinality::join(one, other))
            }
            _ => one,
        }
    }
}

/// Partitions appended are the partitioned table, however many of them are left; of several tables when they are joined
/// partition by partition.
///
/// # Safety
/// `relations` is a set of places in the range table of `planned`, or NULL.
unsafe fn appended(
    relations: *const pg_sys::Bitmapset,
    planned: *const pg_sys::PlannedStmt,
    subplan: i32,
    sum_of_inputs: Identity,
) -> Identity {
    let mut sum: Identity = 0;
    let mut member = -1;
    loop {
        // SAFETY: as promised; a negative number ends the set.
        unsafe {
            member = pg_sys::bms_next_member(relations, member);
            match usize::try_from(member) {
                Ok(place) => sum = cardinality::join(sum, relation(planned, place, subplan)),
                Err(_) => break,
            }
        }
    }
    if sum == 0 {
        cardinality::appended(sum_of_inputs)
    } else {
        sum
    }
}

/// # Safety
/// `planned` is a valid planned statement.
unsafe fn relation(planned: *const pg_sys::PlannedStmt, place: usize, subplan: i32) -> Identity {
    // SAFETY: places are one-based into the range table; 0 is none.
    unsafe {
        let table = PgList::<pg_sys::RangeTblEntry>::from_pg((*planned).rtable);
        let Some(entry) = place.checked_sub(1).and_then(|at| table.get_ptr(at)) else {
            return cardinality::scan(0, b"", subplan);
        };
        let alias = (*entry).eref.as_ref().map_or(std::ptr::null_mut(), |eref| eref.aliasname);
        let alias = if alias.is_null() { &[][..] } else { std::ffi::CStr::from_ptr(alias).to_bytes() };
        cardinality::scan((*entry).relid.to_u32(), alias, subplan)
    }
}

/// # Safety
/// `plan` is an aggregate.
unsafe fn is_partial_agg(plan: *const pg_sys::Plan) -> bool {
    // SAFETY: as promised.
    unsafe { (*plan.cast::<pg_sys::Agg>()).aggsplit & pg_sys::AGGSPLITOP_SKIPFINAL != 0 }
}

/// Whether a node of this kind reads one entry of the range table, and gives what a count can stand for.
fn reads_one_entry(tag: pg_sys::NodeTag) -> bool {
    use pg_sys::NodeTag as T;
    matches!(
        tag,
        T::T_SeqScan
            | T::T_SampleScan
            | T::T_IndexScan
            | T::T_IndexOnlyScan
            | T::T_BitmapHeapScan
            | T::T_TidScan
            | T::T_TidRangeScan
            | T::T_FunctionScan
            | T::T_ValuesScan
            | T::T_TableFuncScan
            | T::T_CteScan
            | T::T_NamedTuplestoreScan
    )
}

/// Whether a node's count says something of its identity: scans, joins and groupings do, what only passes rows on does not.
///
/// # Safety
/// `plan` is a valid node.
pub unsafe fn is_counted(plan: *const pg_sys::Plan) -> bool {
    use pg_sys::NodeTag as T;
    // SAFETY: the tag says which struct a node is.
    unsafe {
        match tag(plan) {
            own if reads_one_entry(own) => true,
            T::T_Append
            | T::T_MergeAppend
            | T::T_NestLoop
            | T::T_HashJoin
            | T::T_MergeJoin
            | T::T_Group
            | T::T_Unique
            | T::T_SetOp => true,
            T::T_Agg => !is_partial_agg(plan),
            T::T_SubqueryScan => !(*plan).qual.is_null(),
            T::T_ForeignScan | T::T_CustomScan => (*plan.cast::<pg_sys::Scan>()).scanrelid > 0,
            _ => false,
        }
    }
}

/// Whether the processes below a Gather share the rows of a node, and do not each read all of them.
///
/// # Safety
/// `plan` is NULL or a valid node.
pub unsafe fn is_shared(plan: *const pg_sys::Plan) -> bool {
    if plan.is_null() {
        return false;
    }
    // SAFETY: the tag says which struct a node is; what drives a node is its outer input.
    unsafe {
        (*plan).parallel_aware
            || match tag(plan) {
                pg_sys::NodeTag::T_Append => any_shared((*plan.cast::<pg_sys::Append>()).appendplans),
                pg_sys::NodeTag::T_MergeAppend => any_shared((*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
                pg_sys::NodeTag::T_SubqueryScan => is_shared((*plan.cast::<pg_sys::SubqueryScan>()).subplan),
                _ => is_shared((*plan).lefttree),
            }
    }
}

/// # Safety
/// `plans` is a list of plans.
unsafe fn any_shared(plans: *mut pg_sys::List) -> bool {
    // SAFETY: as promised.
    unsafe { PgList::<pg_sys::Plan>::from_pg(plans).iter_ptr().any(|plan| is_shared(plan)) }
}

/// Into how many parts the planner divides the rows that processes share.
fn divisor(workers: i32) -> f64 {
    let workers = f64::from(workers.max(0));
    // SAFETY: a plain read of a setting.
    let leader = if unsafe { pg_sys::parallel_leader_participation } { (1.0 - 0.3 * workers).max(0.0) } else { 0.0 };
    (workers + leader).max(1.0)
}

/// What counts of an earlier execution make of a plan's estimates.
#[derive(Default)]
pub struct Corrections {
    factors: HashMap<*const pg_sys::Plan, f64>,
    /// The largest factor, at least 1, by which an estimate of this plan and a count differ; None when nothing is known.
    pub misestimate: Option<f64>,
}

impl Corrections {
    /// Holds `actuals` against the nodes of `planned`.
    ///
    /// # Safety
    /// `planned` is a valid planned statement, and outlives what is made here.
    pub unsafe fn of(planned: *mut pg_sys::PlannedStmt, actuals: &[(Identity, f64)]) -> Corrections {
        if actuals.is_empty() {
            return Corrections::default();
        }
        let mut walk = Walk {
            planned,
            actuals: actuals.iter().copied().collect(),
            identities: HashMap::new(),
            result: Corrections::default(),
        };
        // SAFETY: as promised; members of the list of subplans may be NULL.
        unsafe {
            // Scans of a CTE need what was found about its plan, and a CTE comes before those that read it.
            for (place, plan) in PgList::<pg_sys::Plan>::from_pg((*planned).subplans).iter_ptr().enumerate() {
                walk.identify(plan, place as i32 + 1);
                walk.correct(plan, Place::TOP);
            }
            walk.identify((*planned).planTree, 0);
            walk.correct((*planned).planTree, Place::TOP);
        }
        walk.result
    }

    /// What the planner's estimate of a node's rows is to be multiplied with.
    pub fn factor(&self, plan: *const pg_sys::Plan) -> f64 {
        self.factors.get(&plan).copied().unwrap_or(1.0)
    }

    /// Rows of a node, an execution.
    ///
    /// # Safety
    /// `plan` is NULL or a valid node.
    pub unsafe fn rows(&self, plan: *const pg_sys::Plan) -> f64 {
        // SAFETY: as promised.
        unsafe { plan.as_ref() }.map_or(0.0, |node| node.plan_rows * self.factor(plan))
    }
}

struct Walk {
    planned: *mut pg_sys::PlannedStmt,
    actuals: HashMap<Identity, f64>,
    identities: HashMap<*const pg_sys::Plan, Identity>,
    result: Corrections,
}

/// Where in the plan a node is.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Into how many parts the rows of shared nodes are divided.
    divisor: f64,
    loops: Option<&'a Loops<'a>>,
    /// Correction of nodes that the loops feed.
    fed: f64,
}

impl Place<'_> {
    const TOP: Place<'static> = Place { divisor: 1.0, loops: None, fed: 1.0 };
}

impl Walk {
    /// Finds the identities of a plan's nodes.
    ///
    /// # Safety
    /// `plan` is NULL or a node of the planned statement.
    unsafe fn identify(&mut self, plan: *const pg_sys::Plan, subplan: i32) -> Identity {
        if plan.is_null() {
            return 0;
        }
        // SAFETY: children are NULL or plans.
        unsafe {
            pg_sys::check_stack_depth();
            let (mut one, mut other) = (0, 0);
            for (at, child) in children(plan).into_iter().enumerate() {
                let identity = self.identify(child, subplan);
                let is_right = at == 1 && !(*plan).righttree.is_null();
                let side = if is_right { &mut other } else { &mut one };
                *side = cardinality::join(*side, identity);
            }
            let identity = identity(plan, self.planned, subplan, one, other);
            self.identities.insert(plan, identity);
            identity
        }
    }

    /// Finds the corrections of a plan's nodes; the top one's is returned.
    ///
    /// # Safety
    /// As for `identify`, which went before.
    unsafe fn correct(&mut self, plan: *const pg_sys::Plan, place: Place<'_>) -> f64 {
        use pg_sys::NodeTag as T;
        if plan.is_null() {
            return 1.0;
        }
        // SAFETY: the tag says which struct a node is.
        unsafe {
            pg_sys::check_stack_depth();
            let tag = tag(plan);
            let fed = place.loops.is_some_and(|loops| loops.feed(plan));
            let known = if fed { Some(place.fed) } else { self.known(plan, place.divisor) };
            let left: *const pg_sys::Plan = (*plan).lefttree;
            let factor = match tag {
                T::T_NestLoop => self.correct_loop(plan, place, known),
                T::T_HashJoin | T::T_MergeJoin => {
                    let outer = self.correct(left, place);
                    let inner = self.correct((*plan).righttree, place);
                    known.unwrap_or_else(|| joined(plan, outer, inner))
                }
                T::T_BitmapHeapScan => {
                    let factor = known.unwrap_or(1.0);
                    // A filter may be what is misjudged, not what the bitmap finds.
                    self.spread(left, if (*plan).qual.is_null() { factor } else { 1.0 });
                    factor
                }
                T::T_Gather => {
                    let divisor = divisor((*plan.cast::<pg_sys::Gather>()).num_workers);
                    self.correct(left, Place { divisor, ..place })
                }
                T::T_GatherMerge => {
                    let divisor = divisor((*plan.cast::<pg_sys::GatherMerge>()).num_workers);
                    self.correct(left, Place { divisor, ..place })
                }
                T::T_Agg | T::T_Group | T::T_Unique | T::T_SetOp => {
                    self.correct(left, place);
                    self.correct((*plan).righttree, place);
                    // There are no more groups than rows.
                    let rows = self.result.rows(left) + self.result.rows((*plan).righttree);
                    known.unwrap_or_else(|| cardinality::bounded((rows.max(1.0) / (*plan).plan_rows.max(1.0)).min(1.0)))
                }
                T::T_Limit => {
                    self.correct(left, place);
                    let rows = self.result.rows(left);
                    let limited = match limit_of(plan) {
                        Some(limit) => rows.min(limit),
                        None => rows.min((*plan).plan_rows),
                    };
                    cardinality::bounded(limited.max(1.0) / (*plan).plan_rows.max(1.0))
                }
                T::T_CteScan => known.unwrap_or_else(|| {
                    let place = (*plan.cast::<pg_sys::CteScan>()).ctePlanId as usize;
                    let plans = PgList::<pg_sys::Plan>::from_pg((*self.planned).subplans);
                    place.checked_sub(1).and_then(|at| plans.get_ptr(at)).map_or(1.0, |cte| self.result.factor(cte))
                }),
                _ => {
                    let (mut before, mut after) = (0.0, 0.0);
                    for child in children(plan) {
                        self.correct(child, place);
                        before += (*child).plan_rows;
                        after += self.result.rows(child);
                    }
                    known.unwrap_or(if before > 0.0 { cardinality::bounded(after / before) } else { 1.0 })
                }
            };
            self.result.factors.insert(plan, factor);
            factor
        }
    }

    /// What the inner side gives for an outer row follows from what the join gives, unless the join only asks whether there
    /// is a match.
    ///
    /// # Safety
    /// `plan` is a nested loop of the plan.
    unsafe fn correct_loop(&mut self, plan: *const pg_sys::Plan, place: Place<'_>, known: Option<f64>) -> f64 {
        // SAFETY: as promised; a join has both inputs.
        unsafe {
            let outer = self.correct((*plan).lefttree, place);
            let right = (*plan).righttree;
            let loops = Loops { innermost: plan.cast_mut().cast(), around: place.loops };
            if loops.feed(right) {
                let factor = known.unwrap_or(outer);
                let fed = match (known, (*plan.cast::<pg_sys::Join>()).jointype) {
                    (None, _) | (_, pg_sys::JoinType::JOIN_SEMI | pg_sys::JoinType::JOIN_ANTI) => 1.0,
                    (Some(factor), _) => {
                        let each = (*plan).plan_rows * factor / self.result.rows((*plan).lefttree).max(1.0);
                        cardinality::bounded(each / (*right).plan_rows.max(1.0))
                    }
                };
                self.correct(right, Place { loops: Some(&loops), fed, ..place });
                return factor;
            }
            let inner = self.correct(right, Place { loops: Some(&loops), ..place });
            known.unwrap_or_else(|| joined(plan, outer, inner))
        }
    }

    /// Gives the nodes below a bitmap heap scan its correction.
    ///
    /// # Safety
    /// `plan` is NULL or a node of the plan.
    unsafe fn spread(&mut self, plan: *const pg_sys::Plan, factor: f64) {
        if plan.is_null() {
            return;
        }
        self.result.factors.insert(plan, factor);
        // SAFETY: as promised.
        unsafe {
            for child in children(plan) {
                self.spread(child, factor);
            }
        }
    }

    /// The correction of a node that was counted.
    ///
    /// # Safety
    /// `plan` is a node of the plan.
    unsafe fn known(&mut self, plan: *const pg_sys::Plan, divisor: f64) -> Option<f64> {
        // SAFETY: as promised.
        let estimated = unsafe {
            if !is_counted(plan) {
                return None;
            }
            (*plan).plan_rows * if divisor > 1.0 && is_shared(plan) { divisor } else { 1.0 }
        };
        let actual = *self.actuals.get(self.identities.get(&plan)?)?;
        let factor = cardinality::factor(estimated, actual);
        let worst = self.result.misestimate.unwrap_or(1.0).max(cardinality::misestimate(factor));
        self.result.misestimate = Some(worst);
        Some(factor)
    }
}

/// The correction of a join of which nothing is known: one that only asks whether there is a match gives no more rows for
/// more matches.
///
/// # Safety
/// `plan` is a join.
unsafe fn joined(plan: *const pg_sys::Plan, outer: f64, inner: f64) -> f64 {
    // SAFETY: as promised.
    match unsafe { (*plan.cast::<pg_sys::Join>()).jointype } {
        pg_sys::JoinType::JOIN_SEMI | pg_sys::JoinType::JOIN_ANTI => outer,
        _ => cardinality::bounded(outer * inner),
    }
}

/// The inputs of a node; of a join the outer one first.
///
/// # Safety
/// `plan` is a valid node.
unsafe fn children(plan: *const pg_sys::Plan) -> Vec<*const pg_sys::Plan> {
    // SAFETY: the tag says which struct a node is; the lists hold plans.
    unsafe {
        let all = |list| PgList::<pg_sys::Plan>::from_pg(list).iter_ptr().map(<*mut _>::cast_const).collect();
        match tag(plan) {
            pg_sys::NodeTag::T_Append => all((*plan.cast::<pg_sys::Append>()).appendplans),
            pg_sys::NodeTag::T_MergeAppend => all((*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
            pg_sys::NodeTag::T_BitmapAnd => all((*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans),
            pg_sys::NodeTag::T_BitmapOr => all((*plan.cast::<pg_sys::BitmapOr>()).bitmapplans),
            pg_sys::NodeTag::T_SubqueryScan => vec![(*plan.cast::<pg_sys::SubqueryScan>()).subplan.cast_const()],
            _ => [(*plan).lefttree, (*plan).righttree]
                .into_iter()
                .filter(|child| !child.is_null())
                .map(<*mut _>::cast_const)
                .collect(),
        }
    }
}

/// The number of rows that a Limit lets through, where it is a constant.
///
/// # Safety
/// `plan` is a Limit.
unsafe fn limit_of(plan: *const pg_sys::Plan) -> Option<f64> {
    // SAFETY: as promised; LIMIT is of type bigint, passed by value.
    unsafe {
        let count = (*plan.cast::<pg_sys::Limit>()).limitCount;
        if count.is_null() || !pgrx::is_a(count, pg_sys::NodeTag::T_Const) {
            return None;
        }
        let constant = count.cast::<pg_sys::Const>();
        (!(*constant).constisnull).then(|| (*constant).constvalue.value() as i64 as f64)
    }
}

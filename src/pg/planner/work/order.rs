//! In what order the rows of a plan come: whether searches for one of their columns, one after the other, end near each
//! other. Reads plan nodes; looks up statistics; nothing is locked.

use pgrx::{pg_sys, PgList};

use super::super::plan_tree::scanned;
use super::seen::{Seen, SeenIndex};
use crate::pg::cardinality::{tag, Corrections};
use crate::pg::relation::correlation;

/// An input of fewer rows than this does not break the order of what is read for each of its rows.
const SINGLE_MAX: f64 = 1.5;

/// `eqsel`: what an operator's restriction estimator is when the operator is an equality.
const EQUALITY_ESTIMATOR: u32 = 101;

/// A plan and what is known of it.
#[derive(Clone, Copy)]
pub struct Orders<'a> {
    /// The plan.
    pub planned: *mut pg_sys::PlannedStmt,
    /// Its relations and indexes.
    pub seen: &'a Seen,
    /// Its rows.
    pub corrections: &'a Corrections,
}

/// The path hook's note of an index scan and its conditions.
struct Scanned<'a> {
    relation: pg_sys::Oid,
    index: Option<&'a SeenIndex>,
    conditions: *mut pg_sys::List,
}

impl Orders<'_> {
    /// How far the values of an expression of `plan` follow an order from row to row: 1 when sorted, 0 when at random.
    ///
    /// # Safety
    /// `plan` is a node of the plan, `node` an expression that it evaluates.
    pub unsafe fn of(&self, plan: *mut pg_sys::Plan, node: *mut pg_sys::Node) -> f64 {
        use pg_sys::NodeTag as T;
        // SAFETY: the tag says which struct a node is; a valid join has both inputs.
        unsafe {
            pg_sys::check_stack_depth();
            if plan.is_null() {
                return 0.0;
            }
            let Some(var) = variable(node) else {
                return 0.0;
            };
            let column = (*var).varattno;
            let is_outer = (*var).varno == pg_sys::OUTER_VAR;
            let (left, right) = ((*plan).lefttree, (*plan).righttree);
            match tag(plan) {
                T::T_SeqScan | T::T_SampleScan | T::T_BitmapHeapScan | T::T_TidScan | T::T_TidRangeScan => {
                    correlation(scanned(plan.cast(), self.planned), column).powi(2)
                }
                T::T_IndexScan | T::T_IndexOnlyScan => self.of_index(plan, var),
                T::T_SubqueryScan => self.entry((*plan.cast::<pg_sys::SubqueryScan>()).subplan, column),
                T::T_Sort | T::T_IncrementalSort => {
                    // An incremental sort begins with a sort.
                    let sort = plan.cast::<pg_sys::Sort>();
                    f64::from(u8::from((*sort).numCols > 0 && *(*sort).sortColIdx == column))
                }
                T::T_Agg if (*plan.cast::<pg_sys::Agg>()).aggstrategy != pg_sys::AggStrategy::AGG_SORTED => 0.0,
                T::T_NestLoop | T::T_HashJoin | T::T_MergeJoin if !is_outer => {
                    if self.corrections.rows(left) <= SINGLE_MAX {
                        return self.entry(right, column);
                    }
                    self.equal(plan, column).map_or(0.0, |other| self.entry(left, other))
                }
                _ if is_outer => self.entry(left, column),
                _ => 0.0,
            }
        }
    }

    /// The same of a column of what `plan` gives.
    ///
    /// # Safety
    /// `plan` is NULL or a node of the plan.
    unsafe fn entry(&self, plan: *mut pg_sys::Plan, column: pg_sys::AttrNumber) -> f64 {
        // SAFETY: as promised; a target list holds target entries.
        unsafe { target(plan, column).map_or(0.0, |expression| self.of(plan, expression)) }
    }

    /// The order of a column in that of an index: it is sorted when all key columns before it are fixed.
    ///
    /// # Safety
    /// `plan` is an index scan that gives `var`.
    unsafe fn of_index(&self, plan: *mut pg_sys::Plan, var: *mut pg_sys::Var) -> f64 {
        // SAFETY: as promised.
        unsafe {
            let scan = self.scanned(plan);
            let Some(index) = scan.index else { return 0.0 };
            let Some(column) = column_of(var, index) else { return 0.0 };
            for (place, key) in index.columns.iter().take(index.key_count).enumerate() {
                if *key == column {
                    return 1.0;
                }
                if !compared(scan.conditions, place + 1).is_some_and(|(_, is_equal)| is_equal) {
                    break;
                }
            }
            index.correlation.powi(2) * correlation(scan.relation, column).powi(2)
        }
    }

    /// # Safety
    /// `plan` is an index scan of either kind.
    unsafe fn scanned(&self, plan: *mut pg_sys::Plan) -> Scanned<'_> {
        // SAFETY: as promised; the tag tells the kinds apart.
        unsafe {
            let (index, conditions) = index_of(plan);
            Scanned { relation: scanned(plan.cast(), self.planned), index: self.seen.index(index), conditions }
        }
    }

    /// The column of a join's outer input that is equal to a column of its inner one.
    ///
    /// # Safety
    /// `plan` is a join.
    unsafe fn equal(&self, plan: *mut pg_sys::Plan, column: pg_sys::AttrNumber) -> Option<pg_sys::AttrNumber> {
        // SAFETY: the tag says which join it is.
        unsafe {
            let clauses = match tag(plan) {
                pg_sys::NodeTag::T_HashJoin => (*plan.cast::<pg_sys::HashJoin>()).hashclauses,
                pg_sys::NodeTag::T_MergeJoin => (*plan.cast::<pg_sys::MergeJoin>()).mergeclauses,
                _ => return self.searched(plan.cast(), column),
            };
            PgList::<pg_sys::Node>::from_pg(clauses).iter_ptr().find_map(|clause| {
                let (one, other) = arguments(clause)?;
                let (outer, inner) = (variable(one)?, variable(other)?);
                let same = (*inner).varno == pg_sys::INNER_VAR && (*inner).varattno == column;
                (same && (*outer).varno == pg_sys::OUTER_VAR).then(|| (*outer).varattno)
            })
        }
    }

    /// The column of a loop's outer input by which its inner side, an index scan, searches for its own `column`.
    ///
    /// # Safety
    /// `join` is a nested loop.
    unsafe fn searched(&self, join: *mut pg_sys::NestLoop, column: pg_sys::AttrNumber) -> Option<pg_sys::AttrNumber> {
        // SAFETY: as promised; what passes rows on has them from its outer input.
        unsafe {
            let mut scan = (*join).join.plan.righttree;
            let mut wanted = target(scan, column)?;
            while matches!(tag(scan), pg_sys::NodeTag::T_Memoize | pg_sys::NodeTag::T_Material) {
                scan = (*scan).lefttree;
                wanted = target(scan, (*variable(wanted)?).varattno)?;
            }
            if !matches!(tag(scan), pg_sys::NodeTag::T_IndexScan | pg_sys::NodeTag::T_IndexOnlyScan) {
                return None;
            }
            let scan = self.scanned(scan);
            let index = scan.index?;
            let wanted = column_of(variable(wanted)?, index)?;
            let place = index.columns.iter().position(|key| *key == wanted)? + 1;
            let (value, is_equal) = compared(scan.conditions, place)?;
            let number = parameter(value).filter(|_| is_equal)?;
            let fed = PgList::<pg_sys::NestLoopParam>::from_pg((*join).nestParams);
            let param = fed.iter_ptr().find(|param| (**param).paramno == number)?;
            let var = (*param).paramval;
            ((*var).varno == pg_sys::OUTER_VAR).then(|| (*var).varattno)
        }
    }
}

/// An index scan's index and conditions; none for another node.
///
/// # Safety
/// `plan` is a node.
unsafe fn index_of(plan: *mut pg_sys::Plan) -> (pg_sys::Oid, *mut pg_sys::List) {
    // SAFETY: the tag says which struct it is.
    unsafe {
        match tag(plan) {
            pg_sys::NodeTag::T_IndexScan => {
                let scan = plan.cast::<pg_sys::IndexScan>();
                ((*scan).indexid, (*scan).indexqual)
            }
            pg_sys::NodeTag::T_IndexOnlyScan => {
                let scan = plan.cast::<pg_sys::IndexOnlyScan>();
                ((*scan).indexid, (*scan).indexqual)
            }
            pg_sys::NodeTag::T_BitmapIndexScan => {
                let scan = plan.cast::<pg_sys::BitmapIndexScan>();
                ((*scan).indexid, (*scan).indexqual)
            }
            _ => (pg_sys::InvalidOid, std::ptr::null_mut()),
        }
    }
}

/// The number of the first parameter that an index scan searches for: its conditions come in the order of the keys.
///
/// # Safety
/// `plan` is a node.
pub unsafe fn first_parameter(plan: *mut pg_sys::Plan) -> Option<i32> {
    // SAFETY: as promised; the list holds conditions.
    unsafe {
        let conditions = PgList::<pg_sys::Node>::from_pg(index_of(plan).1);
        let mut conditions = conditions.iter_ptr();
        conditions.find_map(|condition| parameter(arguments(condition)?.1))
    }
}

/// The table's column of a variable in an index scan: that of the table itself, or of the index.
///
/// # Safety
/// `var` is a variable of a scan of `index`.
unsafe fn column_of(var: *mut pg_sys::Var, index: &SeenIndex) -> Option<i16> {
    // SAFETY: as promised.
    let (number, place) = unsafe { ((*var).varno, (*var).varattno) };
    if number == pg_sys::INDEX_VAR {
        return index.columns.get(usize::try_from(place).ok()?.checked_sub(1)?).copied().filter(|column| *column != 0);
    }
    Some(place)
}

/// What the key at `place` of an index is compared with, and whether the two are to be equal.
///
/// # Safety
/// `conditions` are those of an index scan.
unsafe fn compared(conditions: *mut pg_sys::List, place: usize) -> Option<(*mut pg_sys::Node, bool)> {
    // SAFETY: as promised.
    unsafe {
        PgList::<pg_sys::Node>::from_pg(conditions).iter_ptr().find_map(|condition| {
            let (key, value) = arguments(condition)?;
            let is_key = variable(key).is_some_and(|var| usize::try_from((*var).varattno) == Ok(place));
            is_key.then(|| (value, is_equality(condition)))
        })
    }
}

/// Whether an expression asks for equality with one value, or with any of some.
///
/// # Safety
/// `node` is NULL or an expression.
pub unsafe fn is_equality(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag says which struct it is.
    unsafe {
        let operator = match node.as_ref().map(|node| node.type_) {
            Some(pg_sys::NodeTag::T_OpExpr) => (*node.cast::<pg_sys::OpExpr>()).opno,
            Some(pg_sys::NodeTag::T_ScalarArrayOpExpr) => (*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno,
            _ => return false,
        };
        pg_sys::get_oprrest(operator).to_u32() == EQUALITY_ESTIMATOR
    }
}

/// Whether an index scan asks for one value of every key: what it finds comes in the order of the table then.
///
/// # Safety
/// `plan` is a node.
pub unsafe fn fixes_all_keys(plan: *mut pg_sys::Plan, index: &SeenIndex) -> bool {
    // SAFETY: as promised.
    unsafe {
        let conditions = index_of(plan).1;
        (1..=index.key_count).all(|place| compared(conditions, place).is_some_and(|(_, is_equal)| is_equal))
    }
}

/// Both arguments of a binary operator.
///
/// # Safety
/// `node` is an expression.
unsafe fn arguments(node: *mut pg_sys::Node) -> Option<(*mut pg_sys::Node, *mut pg_sys::Node)> {
    // SAFETY: the tag says which struct it is.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_OpExpr {
            return None;
        }
        let list = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::OpExpr>()).args);
        Some((list.get_ptr(0)?, list.get_ptr(1)?))
    }
}

/// The number of a parameter that the plan itself sets.
///
/// # Safety
/// `node` is an expression.
unsafe fn parameter(node: *mut pg_sys::Node) -> Option<i32> {
    // SAFETY: the tag says which struct it is.
    unsafe {
        let node = bare(node);
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_Param {
            return None;
        }
        let param = node.cast::<pg_sys::Param>();
        ((*param).paramkind == pg_sys::ParamKind::PARAM_EXEC).then(|| (*param).paramid)
    }
}

/// An expression that is a variable.
///
/// # Safety
/// `node` is NULL or an expression.
unsafe fn variable(node: *mut pg_sys::Node) -> Option<*mut pg_sys::Var> {
    // SAFETY: the tag says which struct it is.
    unsafe {
        let node = bare(node);
        (!node.is_null() && (*node).type_ == pg_sys::NodeTag::T_Var).then(|| node.cast())
    }
}

/// An expression without what only changes the name of its type.
///
/// # Safety
/// `node` is NULL or an expression.
unsafe fn bare(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the tag says which struct it is.
    unsafe {
        while !node.is_null() && (*node).type_ == pg_sys::NodeTag::T_RelabelType {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
    }
    node
}

/// A column's expression in the target list of `plan`.
///
/// # Safety
/// `plan` is NULL or a node.
unsafe fn target(plan: *mut pg_sys::Plan, column: pg_sys::AttrNumber) -> Option<*mut pg_sys::Node> {
    if plan.is_null() {
        return None;
    }
    // SAFETY: a target list holds target entries.
    unsafe {
        let place = usize::try_from(column).ok()?.checked_sub(1)?;
        let entry = PgList::<pg_sys::TargetEntry>::from_pg((*plan).targetlist).get_ptr(place)?;
        let node: *mut pg_sys::Node = (*entry).expr.cast();
        (!node.is_null()).then_some(node)
    }
}

//! Reads a finished plan: its scans, the indexes they use, what it writes. Reads nodes only.

use pgrx::{is_a, pg_sys, PgList};

use super::request::{Planned, Write, WriteCommand};

/// How a relation is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// EXPLAIN's name of the node.
    pub method: &'static str,
    /// The relation.
    pub relation: pg_sys::Oid,
    /// Indexes used.
    pub indexes: Vec<UsedIndex>,
}

/// An index in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedIndex {
    /// One that exists.
    Real(pg_sys::Oid),
    /// The one at this place of the configuration.
    Hypothetical(usize),
}

/// Adds the scans and sorts of `planned` to `into`; `hypothetical` are the OIDs that stand for hypothetical indexes.
///
/// # Safety
/// `planned` is a valid planned statement.
pub unsafe fn describe(planned: *mut pg_sys::PlannedStmt, hypothetical: &[pg_sys::Oid], into: &mut Planned) {
    // SAFETY: the plan tree and the list of subplans belong to a valid planned statement.
    unsafe {
        walk((*planned).planTree, planned, hypothetical, into);
        for plan in PgList::<pg_sys::Plan>::from_pg((*planned).subplans).iter_ptr() {
            walk(plan, planned, hypothetical, into);
        }
    }
}

/// # Safety
/// `plan` is NULL or a node of `planned`.
unsafe fn walk(
    plan: *mut pg_sys::Plan,
    planned: *mut pg_sys::PlannedStmt,
    hypothetical: &[pg_sys::Oid],
    into: &mut Planned,
) {
    if plan.is_null() {
        return;
    }
    // SAFETY: a node's tag says which struct it is; every child is NULL or a plan.
    unsafe {
        pg_sys::check_stack_depth();
        let node = plan.cast::<pg_sys::Node>();
        let children = |list: *mut pg_sys::List, into: &mut Planned| {
            for child in PgList::<pg_sys::Plan>::from_pg(list).iter_ptr() {
                walk(child, planned, hypothetical, into);
            }
        };
        let mut scan = |method, indexes: Vec<pg_sys::Oid>| {
            let relation = scanned(plan.cast(), planned);
            let indexes = indexes
                .into_iter()
                .map(|oid| match hypothetical.iter().position(|known| *known == oid) {
                    Some(at) => UsedIndex::Hypothetical(at),
                    None => UsedIndex::Real(oid),
                })
                .collect();
            into.scans.push(Scan { method, relation, indexes });
        };
        match (*node).type_ {
            pg_sys::NodeTag::T_SeqScan => scan("Seq Scan", vec![]),
            pg_sys::NodeTag::T_SampleScan => scan("Sample Scan", vec![]),
            pg_sys::NodeTag::T_TidScan => scan("Tid Scan", vec![]),
            pg_sys::NodeTag::T_TidRangeScan => scan("Tid Range Scan", vec![]),
            pg_sys::NodeTag::T_ForeignScan => scan("Foreign Scan", vec![]),
            pg_sys::NodeTag::T_IndexScan => scan("Index Scan", vec![(*plan.cast::<pg_sys::IndexScan>()).indexid]),
            pg_sys::NodeTag::T_IndexOnlyScan => {
                scan("Index Only Scan", vec![(*plan.cast::<pg_sys::IndexOnlyScan>()).indexid]);
            }
            pg_sys::NodeTag::T_BitmapHeapScan => {
                let mut indexes = Vec::new();
                bitmap_indexes((*plan).lefttree, &mut indexes);
                scan("Bitmap Heap Scan", indexes);
                return;
            }
            pg_sys::NodeTag::T_Sort | pg_sys::NodeTag::T_IncrementalSort => into.sorts += 1,
            pg_sys::NodeTag::T_Append => children((*plan.cast::<pg_sys::Append>()).appendplans, into),
            pg_sys::NodeTag::T_MergeAppend => children((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, into),
            pg_sys::NodeTag::T_SubqueryScan => {
                walk((*plan.cast::<pg_sys::SubqueryScan>()).subplan, planned, hypothetical, into)
            }
            pg_sys::NodeTag::T_CustomScan => children((*plan.cast::<pg_sys::CustomScan>()).custom_plans, into),
            _ => {}
        }
        walk((*plan).lefttree, planned, hypothetical, into);
        walk((*plan).righttree, planned, hypothetical, into);
    }
}

/// # Safety
/// `plan` is NULL or a node below a bitmap heap scan.
unsafe fn bitmap_indexes(plan: *mut pg_sys::Plan, into: &mut Vec<pg_sys::Oid>) {
    if plan.is_null() {
        return;
    }
    // SAFETY: the tag says which struct it is.
    unsafe {
        if is_a(plan.cast(), pg_sys::NodeTag::T_BitmapIndexScan) {
            into.push((*plan.cast::<pg_sys::BitmapIndexScan>()).indexid);
            return;
        }
        let list = if is_a(plan.cast(), pg_sys::NodeTag::T_BitmapAnd) {
            (*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans
        } else if is_a(plan.cast(), pg_sys::NodeTag::T_BitmapOr) {
            (*plan.cast::<pg_sys::BitmapOr>()).bitmapplans
        } else {
            return;
        };
        for child in PgList::<pg_sys::Plan>::from_pg(list).iter_ptr() {
            bitmap_indexes(child, into);
        }
    }
}

/// # Safety
/// `scan` is a scan node of `planned`.
pub unsafe fn scanned(scan: *mut pg_sys::Scan, planned: *mut pg_sys::PlannedStmt) -> pg_sys::Oid {
    // SAFETY: a scan's range table index is one-based into the planned statement's range table, or 0.
    unsafe {
        let table = PgList::<pg_sys::RangeTblEntry>::from_pg((*planned).rtable);
        ((*scan).scanrelid as usize)
            .checked_sub(1)
            .and_then(|at| table.get_ptr(at))
            .map_or(pg_sys::InvalidOid, |entry| (*entry).relid)
    }
}

/// What a query writes, and how many rows its plan expects; for MERGE, each kind of action once.
///
/// # Safety
/// `query` was planned into `planned`.
pub unsafe fn writes_of(query: *mut pg_sys::Query, planned: *mut pg_sys::PlannedStmt) -> Vec<Write> {
    // SAFETY: both are valid; the result relation is a one-based index into the query's range table, 0 without one; a
    // MERGE's list holds its actions.
    unsafe {
        let table = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
        let target = ((*query).resultRelation as usize).checked_sub(1).and_then(|at| table.get_ptr(at));
        let Some(entry) = target else { return Vec::new() };
        let top = (*planned).planTree;
        let source = if is_a(top.cast(), pg_sys::NodeTag::T_ModifyTable) { (*top).lefttree } else { top };
        let rows = if source.is_null() { 1.0 } else { (*source).plan_rows };
        let mut kinds = vec![((*query).commandType, (*query).targetList)];
        if (*query).commandType == pg_sys::CmdType::CMD_MERGE {
            kinds = PgList::<pg_sys::MergeAction>::from_pg((*query).mergeActionList)
                .iter_ptr()
                .map(|action| ((*action).commandType, (*action).targetList))
                .collect();
        }
        let mut writes: Vec<Write> = Vec::new();
        for (command, targets) in kinds {
            let command = match command {
                pg_sys::CmdType::CMD_INSERT => WriteCommand::Insert,
                pg_sys::CmdType::CMD_UPDATE => WriteCommand::Update,
                pg_sys::CmdType::CMD_DELETE => WriteCommand::Delete,
                _ => continue,
            };
            let columns = PgList::<pg_sys::TargetEntry>::from_pg(targets)
                .iter_ptr()
                .filter(|target| !(**target).resjunk)
                .map(|target| (*target).resno)
                .collect();
            let write = Write { relation: (*entry).relid, command, rows, columns };
            if !writes.contains(&write) {
                writes.push(write);
            }
        }
        writes
    }
}

//! Follows an expression to the column of a table, or the value from outside, that it always is equal to.

use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys, PgList};

use super::query::{each, Entry, Walker};
use super::{TableColumn, UNKNOWN_SLOT};
use crate::compat;

/// Integer types: one cast to another keeps what is equal equal.
const INTEGERS: [pg_sys::Oid; 3] = [pg_sys::INT2OID, pg_sys::INT4OID, pg_sys::INT8OID];

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A column; several where a UNION gives rows of several tables.
    Columns(Vec<TableColumn>),
    /// A value from outside; several where each row has its own.
    Slots(Vec<usize>),
    /// Neither.
    Other,
}

impl Walker {
    /// What an expression of a level is.
    ///
    /// # Safety
    /// The node is NULL or valid, and of this level.
    pub(super) unsafe fn resolve(&mut self, level: usize, node: *mut pg_sys::Node) -> Value {
        if node.is_null() {
            return Value::Other;
        }
        // SAFETY: as promised.
        unsafe {
            pg_sys::check_stack_depth();
            match (*node).type_ {
                pg_sys::NodeTag::T_Var => {
                    let var = node.cast::<pg_sys::Var>();
                    match self.up(level, (*var).varlevelsup) {
                        Some(home) => self.variable(home, (*var).varno as usize, (*var).varattno),
                        None => Value::Other,
                    }
                }
                pg_sys::NodeTag::T_Param => {
                    let param = node.cast::<pg_sys::Param>();
                    match (*param).paramid as usize {
                        number if (*param).paramkind != pg_sys::ParamKind::PARAM_EXTERN || number == 0 => Value::Other,
                        number if number <= self.known => Value::Slots(vec![number - 1]),
                        _ => self.unknown(node),
                    }
                }
                pg_sys::NodeTag::T_Const if (*node.cast::<pg_sys::Const>()).constisnull => Value::Other,
                pg_sys::NodeTag::T_RelabelType => self.resolve(level, (*node.cast::<pg_sys::RelabelType>()).arg.cast()),
                pg_sys::NodeTag::T_CollateExpr => self.resolve(level, (*node.cast::<pg_sys::CollateExpr>()).arg.cast()),
                pg_sys::NodeTag::T_CoerceToDomain => {
                    self.resolve(level, (*node.cast::<pg_sys::CoerceToDomain>()).arg.cast())
                }
                pg_sys::NodeTag::T_CoerceViaIO => {
                    // The text of a value is what its values are compared by.
                    match self.resolve(level, (*node.cast::<pg_sys::CoerceViaIO>()).arg.cast()) {
                        Value::Slots(slots) => Value::Slots(slots),
                        _ => Value::Other,
                    }
                }
                pg_sys::NodeTag::T_FuncExpr if is_cast(node.cast()) => self.cast(level, node.cast()),
                _ if is_one_value(node) => self.unknown(node),
                _ => Value::Other,
            }
        }
    }

    /// A cast by a function: values stay what they are, and so do integers that are columns.
    unsafe fn cast(&mut self, level: usize, function: *mut pg_sys::FuncExpr) -> Value {
        // SAFETY: a valid node with at least one argument.
        unsafe {
            let arguments = each::<pg_sys::Node>((*function).args);
            let Some(&inner) = arguments.first() else { return Value::Other };
            let integers =
                INTEGERS.contains(&(*function).funcresulttype) && INTEGERS.contains(&pg_sys::exprType(inner));
            match self.resolve(level, inner) {
                Value::Columns(columns) if integers => Value::Columns(columns),
                Value::Slots(slots) => Value::Slots(slots),
                _ => Value::Other,
            }
        }
    }

    /// A column of an entry of the range table.
    unsafe fn variable(&mut self, level: usize, number: usize, column: i16) -> Value {
        if column <= 0 {
            return Value::Other;
        }
        let nth = column as usize - 1;
        // SAFETY: the level's query is valid; lists have an element for each column.
        unsafe {
            let Some(entry) = self.range_entry(level, number) else { return Value::Other };
            match (*entry).rtekind {
                pg_sys::RTEKind::RTE_JOIN => {
                    let columns = PgList::<pg_sys::Node>::from_pg((*entry).joinaliasvars);
                    columns.get_ptr(nth).map_or(Value::Other, |column| self.resolve(level, column))
                }
                pg_sys::RTEKind::RTE_VALUES => {
                    let mut slots = Vec::new();
                    for row in each::<pg_sys::List>((*entry).values_lists) {
                        let value = PgList::<pg_sys::Node>::from_pg(row).get_ptr(nth);
                        match value.map_or(Value::Other, |value| self.resolve(level, value)) {
                            Value::Slots(more) => slots.extend(more),
                            _ => return Value::Other,
                        }
                    }
                    slots.sort_unstable();
                    slots.dedup();
                    Value::Slots(slots)
                }
                _ => {
                    if let Some(expressions) = compat::group_expressions(entry) {
                        let columns = PgList::<pg_sys::Node>::from_pg(expressions);
                        return columns.get_ptr(nth).map_or(Value::Other, |column| self.resolve(level, column));
                    }
                    match self.levels[level].entries.get(&number) {
                        Some(Entry::Table(table)) => Value::Columns(vec![(*table, column)]),
                        Some(Entry::Query(inner)) => self.output(*inner, nth + 1),
                        _ => Value::Other,
                    }
                }
            }
        }
    }

    /// A column of what a query gives.
    ///
    /// # Safety
    /// The level's query is valid and walked.
    pub(super) unsafe fn output(&mut self, level: usize, number: usize) -> Value {
        let query = self.levels[level].query;
        // SAFETY: as promised.
        unsafe {
            if !(*query).setOperations.is_null() {
                let mut columns = Vec::new();
                return match self.branches(level, (*query).setOperations, number, &mut columns) {
                    true => Value::Columns(columns),
                    false => Value::Other,
                };
            }
            if !(*query).groupingSets.is_null() {
                return Value::Other;
            }
            let reads = (*query).commandType == pg_sys::CmdType::CMD_SELECT;
            let targets = if reads { (*query).targetList } else { (*query).returningList };
            let wanted = |target: &*mut pg_sys::TargetEntry| (**target).resno as usize == number;
            let Some(target) = each::<pg_sys::TargetEntry>(targets).into_iter().find(wanted) else {
                return Value::Other;
            };
            let value = self.resolve(level, (*target).expr.cast());
            // A condition from outside is one on the result: it says nothing of the rows that were chosen from.
            let chosen = !(*query).limitCount.is_null()
                || !(*query).limitOffset.is_null()
                || (*query).hasWindowFuncs
                || ((*query).hasDistinctOn && !is_distinct(query, target));
            match value {
                Value::Columns(columns) if chosen => {
                    let pinned = |column: &TableColumn| self.shape.pins.iter().any(|pin| pin.column == *column);
                    if columns.iter().all(pinned) {
                        Value::Columns(columns)
                    } else {
                        Value::Other
                    }
                }
                value => value,
            }
        }
    }

    /// The columns that the branches of a UNION give for one; false where one of them gives none.
    unsafe fn branches(
        &mut self,
        level: usize,
        node: *mut pg_sys::Node,
        number: usize,
        columns: &mut Vec<TableColumn>,
    ) -> bool {
        if node.is_null() {
            return false;
        }
        // SAFETY: a tree of set operations over entries of the range table.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_SetOperationStmt => {
                    let operation = node.cast::<pg_sys::SetOperationStmt>();
                    self.branches(level, (*operation).larg, number, columns)
                        && self.branches(level, (*operation).rarg, number, columns)
                }
                pg_sys::NodeTag::T_RangeTblRef => {
                    let entry = (*node.cast::<pg_sys::RangeTblRef>()).rtindex as usize;
                    match self.variable(level, entry, i16::try_from(number).unwrap_or(0)) {
                        Value::Columns(more) => {
                            columns.extend(more);
                            true
                        }
                        _ => false,
                    }
                }
                _ => false,
            }
        }
    }

    /// The place of an expression whose value nobody knows; the same for the same expression.
    unsafe fn unknown(&mut self, node: *mut pg_sys::Node) -> Value {
        // SAFETY: both are valid expressions.
        let same = |known: &*mut pg_sys::Node| unsafe { pg_sys::equal(known.cast(), node.cast()) };
        let at = self.unknown.iter().position(same).unwrap_or_else(|| {
            self.unknown.push(node);
            self.unknown.len() - 1
        });
        Value::Slots(vec![UNKNOWN_SLOT + at])
    }

    /// A place that is nobody else's.
    pub(super) fn fresh_slot(&mut self) -> usize {
        self.unknown.push(std::ptr::null_mut());
        UNKNOWN_SLOT + self.unknown.len() - 1
    }

    /// Whether an INSERT names its rows itself.
    ///
    /// # Safety
    /// The level's query is valid.
    pub(super) unsafe fn inserts_rows(&self, level: usize) -> bool {
        // SAFETY: as promised; an INSERT of values reads nothing but them.
        unsafe {
            let query = self.levels[level].query;
            (*query).commandType == pg_sys::CmdType::CMD_INSERT
                && each::<pg_sys::Node>((*(*query).jointree).fromlist).iter().all(|from| {
                    (**from).type_ == pg_sys::NodeTag::T_RangeTblRef && {
                        let number = (*from.cast::<pg_sys::RangeTblRef>()).rtindex as usize;
                        let entry = self.range_entry(level, number);
                        entry.is_some_and(|entry| (*entry).rtekind == pg_sys::RTEKind::RTE_VALUES)
                    }
                })
        }
    }

    /// How many rows it names: one, or "several".
    ///
    /// # Safety
    /// As for `inserts_rows`.
    pub(super) unsafe fn rows_inserted(&self, level: usize) -> usize {
        // SAFETY: as promised.
        unsafe {
            match PgList::<pg_sys::Node>::from_pg((*(*self.levels[level].query).jointree).fromlist).is_empty() {
                true => 1,
                false => 2,
            }
        }
    }
}

/// Whether a column of a SELECT DISTINCT ON is one of those.
unsafe fn is_distinct(query: *mut pg_sys::Query, target: *mut pg_sys::TargetEntry) -> bool {
    // SAFETY: a clause of a valid query.
    unsafe {
        let mut clauses = each::<pg_sys::SortGroupClause>((*query).distinctClause).into_iter();
        (*target).ressortgroupref > 0 && clauses.any(|c| (*c).tleSortGroupRef == (*target).ressortgroupref)
    }
}

unsafe fn is_cast(function: *mut pg_sys::FuncExpr) -> bool {
    // SAFETY: a valid node.
    unsafe {
        matches!(
            (*function).funcformat,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CAST | pg_sys::CoercionForm::COERCE_IMPLICIT_CAST
        )
    }
}

/// The column of the query that IN (SELECT ...) compares with.
///
/// # Safety
/// The node is valid.
pub(super) unsafe fn sublink_column(node: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: as promised.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_RelabelType => sublink_column((*node.cast::<pg_sys::RelabelType>()).arg.cast()),
            pg_sys::NodeTag::T_FuncExpr if is_cast(node.cast()) => {
                let inner = PgList::<pg_sys::Node>::from_pg((*node.cast::<pg_sys::FuncExpr>()).args).get_ptr(0);
                inner.and_then(|inner| sublink_column(inner))
            }
            pg_sys::NodeTag::T_Param => {
                let param = node.cast::<pg_sys::Param>();
                ((*param).paramkind == pg_sys::ParamKind::PARAM_SUBLINK).then_some((*param).paramid as usize)
            }
            _ => None,
        }
    }
}

/// The elements of an array that is written out; `None` for one that is a single value.
///
/// # Safety
/// The node is valid.
pub(super) unsafe fn elements_of(node: *mut pg_sys::Node) -> Option<Vec<*mut pg_sys::Node>> {
    // SAFETY: as promised.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_ArrayExpr => Some(each((*node.cast::<pg_sys::ArrayExpr>()).elements)),
            pg_sys::NodeTag::T_RelabelType => elements_of((*node.cast::<pg_sys::RelabelType>()).arg.cast()),
            pg_sys::NodeTag::T_ArrayCoerceExpr => elements_of((*node.cast::<pg_sys::ArrayCoerceExpr>()).arg.cast()),
            _ => None,
        }
    }
}

/// Whether an expression has one value for all rows: no column, no query, nothing that is another at the next call.
unsafe fn is_one_value(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a valid expression.
    unsafe { !varies(node, std::ptr::null_mut()) && !pg_sys::contain_volatile_functions(node) }
}

#[pg_guard]
unsafe extern "C-unwind" fn varies(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    if node.is_null() {
        return false;
    }
    // SAFETY: called with nodes of a valid expression.
    unsafe {
        let tag = (*node).type_;
        matches!(tag, T_Var | T_SubLink | T_Query | T_Aggref | T_WindowFunc | T_GroupingFunc | T_NextValueExpr)
            || matches!(tag, T_SetToDefault | T_CurrentOfExpr)
            || (tag == T_Const && (*node.cast::<pg_sys::Const>()).constisnull)
            || pg_sys::expression_tree_walker(node, Some(varies), context)
    }
}

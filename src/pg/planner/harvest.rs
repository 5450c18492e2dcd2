//! What a statement asks of a relation, read from the planner while it plans: views, subqueries and CTEs are resolved,
//! casts are stripped, equalities that follow from others are there. Reads planner nodes only.

use perf_core::index::candidates::{Comparison, Filter, Needs};
use perf_core::index::Key;
use pgrx::{is_a, pg_sys, PgList};

use crate::compat;
use crate::pg::relation::btree_opclass;

/// Selectivity where the planner has not computed one.
const UNKNOWN_SELECTIVITY: f64 = 0.1;
/// Conditions looked at in one place, at most: bounds the work for generated statements.
const CONDITIONS_MAX: usize = 64;

/// What is asked of `rel`; None when it is nothing an index could be made on.
///
/// # Safety
/// Called by the planner's path-list hook with its arguments.
pub unsafe fn needs(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
) -> Option<Needs> {
    // SAFETY: all nodes are the planner's, alive during the hook.
    unsafe {
        if (*rte).rtekind != pg_sys::RTEKind::RTE_RELATION || !matches!((*rte).relkind as u8, b'r' | b'm' | b'p') {
            return None;
        }
        let member = match parent_of(root, rti) {
            // A partition: its parent is asked the same, and an index there is one here.
            Some((_, parent)) if (*parent).relkind as u8 == b'p' => return None,
            // The parent of an inheritance tree, among its own children.
            Some((_, parent)) if (*parent).relid == (*rte).relid => return None,
            Some((append, _)) => Some(append),
            None => None,
        };
        let at = Place { root, rel, varno: rti as i32, relation: (*rte).relid };
        let mut needs = Needs { relation: (*rte).relid.to_u32(), ..Needs::default() };
        for info in restrictions((*rel).baserestrictinfo) {
            if !(*info).orclause.is_null() {
                needs.alternatives.extend(at.arms((*info).orclause));
            } else if let Some(filter) = at.filter((*info).clause, (*info).norm_selec) {
                needs.filters.push(filter);
                needs.orders.extend(at.row_order((*info).clause));
            }
        }
        match member {
            None => at.joins_and_orders(&mut needs),
            Some(append) => {
                // Joins and orders are known of the parent alone; its columns may be numbered differently.
                let varno = (*append).parent_relid;
                let rel = *(*root).simple_rel_array.add(varno as usize);
                let parent = Place { root, rel, varno: varno as i32, relation: (*append).parent_reloid };
                let mut asked = Needs::default();
                parent.joins_and_orders(&mut asked);
                needs.joins = asked.joins.iter().filter_map(|column| in_child(append, *column)).collect();
                let order = |keys: &Vec<Key>| -> Option<Vec<Key>> {
                    keys.iter().map(|key| Some(Key { column: in_child(append, key.column)?, ..*key })).collect()
                };
                needs.orders = asked.orders.iter().filter_map(order).collect();
            }
        }
        let empty = needs.filters.is_empty()
            && needs.alternatives.is_empty()
            && needs.joins.is_empty()
            && needs.orders.is_empty();
        (!empty).then_some(needs)
    }
}

/// The table that entry `rti` is a child of, and how its columns are those of the child; None for a table that stands in
/// the statement itself, or in an arm of a UNION ALL.
///
/// # Safety
/// `root` is the planner's, `rti` a range table index in it.
unsafe fn parent_of(
    root: *mut pg_sys::PlannerInfo,
    rti: pg_sys::Index,
) -> Option<(*mut pg_sys::AppendRelInfo, *mut pg_sys::RangeTblEntry)> {
    // SAFETY: both arrays are indexed by range table index.
    unsafe {
        if (*root).append_rel_array.is_null() {
            return None;
        }
        let append = *(*root).append_rel_array.add(rti as usize);
        if append.is_null() {
            return None;
        }
        let parent = *(*root).simple_rte_array.add((*append).parent_relid as usize);
        let is_table = !parent.is_null() && (*parent).rtekind == pg_sys::RTEKind::RTE_RELATION;
        is_table.then_some((append, parent))
    }
}

/// The child's number of a parent's column.
///
/// # Safety
/// `append` is the planner's, of two tables.
unsafe fn in_child(append: *mut pg_sys::AppendRelInfo, column: i16) -> Option<i16> {
    // SAFETY: the list has one entry for each of the parent's columns: a variable of the child, or NULL for a dropped one.
    unsafe {
        let at = usize::try_from(column).ok()?.checked_sub(1)?;
        let var = PgList::<pg_sys::Var>::from_pg((*append).translated_vars).get_ptr(at)?;
        (!var.is_null()).then(|| (*var).varattno)
    }
}

/// # Safety
/// `list` is a list of restriction infos.
unsafe fn restrictions(list: *mut pg_sys::List) -> Vec<*mut pg_sys::RestrictInfo> {
    // SAFETY: as promised.
    unsafe { PgList::<pg_sys::RestrictInfo>::from_pg(list).iter_ptr().take(CONDITIONS_MAX).collect() }
}

/// One relation in one place of a statement.
struct Place {
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    varno: i32,
    relation: pg_sys::Oid,
}

impl Place {
    /// Adds the joins and the orders that are asked for.
    ///
    /// # Safety
    /// During the hook.
    unsafe fn joins_and_orders(&self, needs: &mut Needs) {
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            self.joins(&mut needs.joins);
            let root = &*self.root;
            for keys in [root.query_pathkeys, root.group_pathkeys, root.distinct_pathkeys, root.sort_pathkeys] {
                let order = self.order(keys);
                if !order.is_empty() && !needs.orders.contains(&order) {
                    needs.orders.push(order);
                }
            }
        }
    }

    /// The plain column that `node` is, through binary-compatible casts.
    ///
    /// # Safety
    /// `node` is NULL or an expression.
    unsafe fn column(&self, node: *mut pg_sys::Node) -> Option<*mut pg_sys::Var> {
        let mut node = node;
        // SAFETY: the tag says which struct it is.
        unsafe {
            while !node.is_null() && is_a(node, pg_sys::NodeTag::T_RelabelType) {
                node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
            }
            if node.is_null() || !is_a(node, pg_sys::NodeTag::T_Var) {
                return None;
            }
            let var = node.cast::<pg_sys::Var>();
            ((*var).varno == self.varno && (*var).varlevelsup == 0 && (*var).varattno > 0).then_some(var)
        }
    }

    /// The B-tree strategy of `operator` on `var`'s column (1 to 5), if an index with the column's own collation can use it.
    ///
    /// # Safety
    /// `var` is a column of this relation.
    unsafe fn strategy(&self, var: *mut pg_sys::Var, operator: pg_sys::Oid, collation: pg_sys::Oid) -> Option<i32> {
        // SAFETY: syscache lookups.
        unsafe {
            if collation != pg_sys::InvalidOid && (*var).varcollid != collation {
                return None;
            }
            let opclass = btree_opclass((*var).vartype)?;
            let strategy = pg_sys::get_op_opfamily_strategy(operator, opclass.family);
            (strategy != 0).then_some(strategy)
        }
    }

    /// A condition on one column.
    ///
    /// # Safety
    /// `clause` is an expression on this relation.
    unsafe fn filter(&self, clause: *mut pg_sys::Expr, selectivity: f64) -> Option<Filter> {
        let selectivity = if (0.0..=1.0).contains(&selectivity) { selectivity } else { UNKNOWN_SELECTIVITY };
        let node = clause.cast::<pg_sys::Node>();
        let made = |column: i16, comparison| Some(Filter { column, comparison, selectivity });
        // SAFETY: the tag says which struct it is.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_OpExpr => {
                    let (var, operator, other) = self.sides(node.cast())?;
                    if !is_value(other) {
                        return None;
                    }
                    let strategy = self.strategy(var, operator, (*node.cast::<pg_sys::OpExpr>()).inputcollid)?;
                    made((*var).varattno, if strategy == 3 { Comparison::Equal } else { Comparison::Range })
                }
                pg_sys::NodeTag::T_ScalarArrayOpExpr => {
                    let list = node.cast::<pg_sys::ScalarArrayOpExpr>();
                    let arguments = PgList::<pg_sys::Node>::from_pg((*list).args);
                    let var = self.column(arguments.get_ptr(0)?)?;
                    if !(*list).useOr || !is_value(arguments.get_ptr(1)?) {
                        return None;
                    }
                    let strategy = self.strategy(var, (*list).opno, (*list).inputcollid)?;
                    made((*var).varattno, if strategy == 3 { Comparison::In } else { Comparison::Range })
                }
                pg_sys::NodeTag::T_NullTest => {
                    let test = node.cast::<pg_sys::NullTest>();
                    let var = self.column((*test).arg.cast())?;
                    btree_opclass((*var).vartype)?;
                    let is_null = (*test).nulltesttype == pg_sys::NullTestType::IS_NULL;
                    made((*var).varattno, if is_null { Comparison::IsNull } else { Comparison::Range })
                }
                // `(a, b) > (1, 2)`: a range of the first column, and of all of them in their order.
                pg_sys::NodeTag::T_RowCompareExpr => {
                    let columns = self.row_columns(node.cast())?;
                    made((**columns.first()?).varattno, Comparison::Range)
                }
                // `flag` and `NOT flag`.
                pg_sys::NodeTag::T_Var => made((*self.column(node)?).varattno, Comparison::Equal),
                pg_sys::NodeTag::T_BoolExpr => {
                    let not = node.cast::<pg_sys::BoolExpr>();
                    if (*not).boolop != pg_sys::BoolExprType::NOT_EXPR {
                        return None;
                    }
                    let inner = PgList::<pg_sys::Node>::from_pg((*not).args).get_ptr(0)?;
                    made((*self.column(inner)?).varattno, Comparison::Equal)
                }
                _ => None,
            }
        }
    }

    /// The columns that a comparison of rows begins with, if an index on them can use it.
    ///
    /// # Safety
    /// `clause` is a comparison of rows on this relation.
    unsafe fn row_columns(&self, clause: *mut pg_sys::RowCompareExpr) -> Option<Vec<*mut pg_sys::Var>> {
        // SAFETY: the lists are equally long: expressions left and right, operators, collations.
        unsafe {
            let mut sides = [(*clause).largs, (*clause).rargs].map(|list| PgList::<pg_sys::Node>::from_pg(list));
            let commuted = self.column(sides[0].get_ptr(0)?).is_none();
            if commuted {
                sides.swap(0, 1);
            }
            let [keys, values] = sides;
            let operators = PgList::<pg_sys::Oid>::from_pg((*clause).opnos);
            let collations = PgList::<pg_sys::Oid>::from_pg((*clause).inputcollids);
            let mut columns = Vec::new();
            for at in 0..keys.len() {
                let operator = operators.get_oid(at)?;
                let operator = if commuted { pg_sys::get_commutator(operator) } else { operator };
                let collation = collations.get_oid(at)?;
                let usable = self.column(keys.get_ptr(at)?).filter(|var| {
                    values.get_ptr(at).is_some_and(|value| is_value(value))
                        && self.strategy(*var, operator, collation).is_some()
                });
                match usable {
                    Some(var) => columns.push(var),
                    None => break,
                }
            }
            (!columns.is_empty()).then_some(columns)
        }
    }

    /// The order that an index must have to serve a comparison of rows as a whole.
    ///
    /// # Safety
    /// `clause` is an expression on this relation.
    unsafe fn row_order(&self, clause: *mut pg_sys::Expr) -> Option<Vec<Key>> {
        // SAFETY: the tag says which struct it is.
        unsafe {
            if !is_a(clause.cast(), pg_sys::NodeTag::T_RowCompareExpr) {
                return None;
            }
            let columns = self.row_columns(clause.cast())?;
            Some(columns.into_iter().map(|var| Key::ascending((*var).varattno)).collect())
        }
    }

    /// The column, the operator with the column on its left, and the other side.
    ///
    /// # Safety
    /// `clause` is an operator expression.
    unsafe fn sides(&self, clause: *mut pg_sys::OpExpr) -> Option<(*mut pg_sys::Var, pg_sys::Oid, *mut pg_sys::Node)> {
        // SAFETY: as promised; the argument list holds expressions.
        unsafe {
            let arguments = PgList::<pg_sys::Node>::from_pg((*clause).args);
            if arguments.len() != 2 {
                return None;
            }
            let (left, right) = (arguments.get_ptr(0)?, arguments.get_ptr(1)?);
            if let Some(var) = self.column(left) {
                return Some((var, (*clause).opno, right));
            }
            let var = self.column(right)?;
            let commuted = pg_sys::get_commutator((*clause).opno);
            (commuted != pg_sys::InvalidOid).then_some((var, commuted, left))
        }
    }

    /// The arms of an OR: each the conditions in it that an index could use. Nothing when one arm has none.
    ///
    /// # Safety
    /// `clause` is the OR of a restriction on this relation.
    unsafe fn arms(&self, clause: *mut pg_sys::Expr) -> Vec<Vec<Filter>> {
        let mut arms = Vec::new();
        // SAFETY: an OR's arguments are restriction infos, or ANDs of restriction infos.
        unsafe {
            if !is_a(clause.cast(), pg_sys::NodeTag::T_BoolExpr) {
                return arms;
            }
            for arm in PgList::<pg_sys::Node>::from_pg((*clause.cast::<pg_sys::BoolExpr>()).args).iter_ptr() {
                let members = if is_a(arm, pg_sys::NodeTag::T_BoolExpr) {
                    PgList::<pg_sys::Node>::from_pg((*arm.cast::<pg_sys::BoolExpr>()).args).iter_ptr().collect()
                } else {
                    vec![arm]
                };
                let filters: Vec<Filter> = members
                    .into_iter()
                    .filter(|member| is_a(*member, pg_sys::NodeTag::T_RestrictInfo))
                    .filter_map(|member| {
                        let info = member.cast::<pg_sys::RestrictInfo>();
                        self.filter((*info).clause, (*info).norm_selec)
                    })
                    .collect();
                if filters.is_empty() || arms.len() >= CONDITIONS_MAX {
                    return Vec::new();
                }
                arms.push(filters);
            }
        }
        arms
    }

    /// Columns equated with another relation's: from the equivalence classes and from what did not become one.
    ///
    /// # Safety
    /// During the hook.
    unsafe fn joins(&self, into: &mut Vec<i16>) {
        let mut add = |column: i16| {
            if !into.contains(&column) && into.len() < 8 {
                into.push(column);
            }
        };
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            for class in PgList::<pg_sys::EquivalenceClass>::from_pg((*self.root).eq_classes).iter_ptr() {
                if (*class).ec_has_const || !pg_sys::bms_is_member(self.varno, (*class).ec_relids) {
                    continue;
                }
                let members = PgList::<pg_sys::EquivalenceMember>::from_pg((*class).ec_members);
                let elsewhere = members.iter_ptr().any(|member| {
                    !(*member).em_is_child
                        && !(*member).em_relids.is_null()
                        && !pg_sys::bms_is_member(self.varno, (*member).em_relids)
                });
                if !elsewhere {
                    continue;
                }
                for member in members.iter_ptr() {
                    if let Some(var) = self.column((*member).em_expr.cast()) {
                        if btree_opclass((*var).vartype).is_some() {
                            add((*var).varattno);
                        }
                    }
                }
            }
            for info in restrictions((*self.rel).joininfo) {
                let clause = (*info).clause.cast::<pg_sys::Node>();
                if !is_a(clause, pg_sys::NodeTag::T_OpExpr) {
                    continue;
                }
                if let Some((var, operator, other)) = self.sides(clause.cast()) {
                    let relids = pg_sys::pull_varnos(self.root, other);
                    if pg_sys::bms_is_member(self.varno, relids) {
                        continue;
                    }
                    if self.strategy(var, operator, (*clause.cast::<pg_sys::OpExpr>()).inputcollid).is_some() {
                        add((*var).varattno);
                    }
                }
            }
        }
    }

    /// The leading part of an order that is on this relation's columns.
    ///
    /// # Safety
    /// `keys` is a list of path keys.
    unsafe fn order(&self, keys: *mut pg_sys::List) -> Vec<Key> {
        let mut order = Vec::new();
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            for key in PgList::<pg_sys::PathKey>::from_pg(keys).iter_ptr() {
                let class = (*key).pk_eclass;
                let column = PgList::<pg_sys::EquivalenceMember>::from_pg((*class).ec_members)
                    .iter_ptr()
                    .find_map(|member| self.column((*member).em_expr.cast()));
                let Some(var) = column else { break };
                let usable = btree_opclass((*var).vartype).is_some_and(|opclass| opclass.family == (*key).pk_opfamily)
                    && ((*class).ec_collation == pg_sys::InvalidOid || (*class).ec_collation == (*var).varcollid);
                if !usable {
                    break;
                }
                order.push(Key {
                    column: (*var).varattno,
                    descending: compat::pathkey_descends(key),
                    nulls_first: (*key).pk_nulls_first,
                });
            }
        }
        debug_assert!(self.relation != pg_sys::InvalidOid);
        order
    }
}

/// Whether `node` has one value for a whole scan.
///
/// # Safety
/// `node` is an expression.
unsafe fn is_value(node: *mut pg_sys::Node) -> bool {
    // SAFETY: read-only walks over a valid expression.
    unsafe { !pg_sys::contain_var_clause(node) && !pg_sys::contain_volatile_functions(node) }
}

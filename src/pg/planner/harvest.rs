//! What a statement asks of a relation, read from the planner while it plans: views, subqueries and CTEs are resolved,
//! casts are stripped, equalities that follow from others are there. Reads planner nodes and the syscache only.

mod conditions;
mod facts;
mod inheritance;
mod place;
mod subject;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use perf_core::index::needs::Needs;
use perf_core::index::{Key, Part};
use pgrx::{is_a, pg_sys, PgList};

use self::place::{bits, restrictions, Place, CONDITIONS_MAX};
use crate::compat;
use crate::pg::expressions::Expressions;
use crate::pg::relation::btree_opclass;

/// Joined columns and expressions of one relation, at most.
const JOINS_MAX: usize = 8;

/// What is asked of `rel`; None when it is nothing an index could be made on.
///
/// # Safety
/// Called by the planner's path-list hook with its arguments.
pub unsafe fn needs(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    rti: pg_sys::Index,
    rte: *mut pg_sys::RangeTblEntry,
    expressions: &mut Expressions,
) -> Option<Needs> {
    // SAFETY: all nodes are the planner's, alive during the hook.
    unsafe {
        if (*rte).rtekind != pg_sys::RTEKind::RTE_RELATION || !matches!((*rte).relkind as u8, b'r' | b'm' | b'p') {
            return None;
        }
        let member = match inheritance::parent_of(root, rti) {
            // A partition: its parent is asked the same, and an index there is one here.
            Some((_, parent)) if (*parent).relkind as u8 == b'p' => return None,
            // The parent of an inheritance tree, among its own children.
            Some((_, parent)) if (*parent).relid == (*rte).relid => return None,
            Some((append, _)) => Some(append),
            None => None,
        };
        let (relation, inherits) = ((*rte).relid, (*rte).inh);
        let mut at = Place { root, rel, varno: rti as i32, relation, inherits, extent: OnceCell::new(), expressions };
        let mut needs = Needs { relation: (*rte).relid.to_u32(), ..Needs::default() };
        for info in restrictions((*rel).baserestrictinfo) {
            if !(*info).orclause.is_null() {
                needs.alternatives.extend(at.arms((*info).orclause));
            } else if !(*info).pseudoconstant {
                needs.filters.extend(at.filters(info, true));
                needs.orders.extend(at.row_order((*info).clause));
            }
        }
        match member {
            None => at.joins_and_orders(&mut needs),
            Some(append) => {
                // Joins and orders are known of the parent alone.
                let varno = (*append).parent_relid;
                let rel = *(*root).simple_rel_array.add(varno as usize);
                let (varno, relation) = (varno as i32, (*append).parent_reloid);
                let extent = OnceCell::new();
                let mut parent =
                    Place { root, rel, varno, relation, inherits, extent, expressions: &mut *at.expressions };
                let mut asked = Needs::default();
                parent.joins_and_orders(&mut asked);
                inheritance::hand_down(append, &asked, &mut needs);
            }
        }
        let empty = needs.filters.is_empty()
            && needs.alternatives.is_empty()
            && needs.joins.is_empty()
            && needs.orders.is_empty();
        if empty {
            return None;
        }
        needs.outputs = at.outputs();
        Some(needs)
    }
}

impl Place<'_> {
    /// Adds the joins and the orders that are asked for.
    ///
    /// # Safety
    /// During the hook.
    unsafe fn joins_and_orders(&mut self, needs: &mut Needs) {
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            self.joins(needs);
            let root = &*self.root;
            for keys in [root.query_pathkeys, root.group_pathkeys, root.distinct_pathkeys, root.sort_pathkeys] {
                let order = self.order(keys);
                if !order.is_empty() && !needs.orders.contains(&order) {
                    needs.orders.push(order);
                }
            }
        }
    }

    /// What is equated with another relation's: from the equivalence classes and from what did not become one.
    ///
    /// # Safety
    /// During the hook.
    unsafe fn joins(&mut self, needs: &mut Needs) {
        let mut joined = Joined::default();
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            for class in PgList::<pg_sys::EquivalenceClass>::from_pg((*self.root).eq_classes).iter_ptr() {
                if (*class).ec_has_const || !pg_sys::bms_is_member(self.varno, (*class).ec_relids) {
                    continue;
                }
                let members = PgList::<pg_sys::EquivalenceMember>::from_pg((*class).ec_members);
                let others: Vec<i32> = members
                    .iter_ptr()
                    .filter(|member| !(**member).em_is_child)
                    .filter(|member| !pg_sys::bms_is_member(self.varno, (**member).em_relids))
                    .flat_map(|member| bits((*member).em_relids))
                    .collect();
                if others.is_empty() {
                    continue;
                }
                for member in members.iter_ptr().take(CONDITIONS_MAX) {
                    if let Some(subject) = self.subject((*member).em_expr.cast()) {
                        if btree_opclass(subject.type_oid).is_some() && subject.collates((*class).ec_collation) {
                            joined.add(self.part(&subject), &others);
                        }
                    }
                }
            }
            for info in restrictions((*self.rel).joininfo) {
                let clause = (*info).clause.cast::<pg_sys::Node>();
                if !is_a(clause, pg_sys::NodeTag::T_OpExpr) {
                    continue;
                }
                let call = clause.cast::<pg_sys::OpExpr>();
                let Some((subject, operator, other)) = self.sides(call) else { continue };
                let relids = pg_sys::pull_varnos(self.root, other);
                if pg_sys::bms_is_member(self.varno, relids) {
                    continue;
                }
                if subject.strategy(operator, (*call).inputcollid).is_some() {
                    joined.add(self.part(&subject), &bits(relids));
                }
            }
        }
        needs.joined_together = joined.by_relation.into_values().filter(|parts| parts.len() > 1).collect();
        needs.joined_together.dedup();
        needs.joins = joined.parts;
    }

    /// The leading part of an order that is on this relation.
    ///
    /// # Safety
    /// `keys` is a list of path keys.
    unsafe fn order(&mut self, keys: *mut pg_sys::List) -> Vec<Key> {
        let mut order = Vec::new();
        // SAFETY: planner nodes, alive during the hook.
        unsafe {
            for key in PgList::<pg_sys::PathKey>::from_pg(keys).iter_ptr().take(CONDITIONS_MAX) {
                let class = (*key).pk_eclass;
                let subject = PgList::<pg_sys::EquivalenceMember>::from_pg((*class).ec_members)
                    .iter_ptr()
                    .take(CONDITIONS_MAX)
                    .find_map(|member| self.subject((*member).em_expr.cast()));
                let Some(subject) = subject else { break };
                let usable = btree_opclass(subject.type_oid)
                    .is_some_and(|opclass| opclass.family == (*key).pk_opfamily)
                    && subject.collates((*class).ec_collation);
                if !usable {
                    break;
                }
                order.push(Key {
                    descending: compat::pathkey_descends(key),
                    nulls_first: (*key).pk_nulls_first,
                    ..Key::of(self.part(&subject))
                });
            }
        }
        order
    }
}

/// What is joined, and with whom.
#[derive(Default)]
struct Joined {
    parts: Vec<Part>,
    by_relation: BTreeMap<i32, Vec<Part>>,
}

impl Joined {
    fn add(&mut self, part: Part, others: &[i32]) {
        if !self.parts.contains(&part) {
            if self.parts.len() >= JOINS_MAX {
                return;
            }
            self.parts.push(part);
        }
        for other in others {
            let parts = self.by_relation.entry(*other).or_default();
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
    }
}

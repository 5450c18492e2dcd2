//! What a condition or an order is on: a column of the relation, or an expression over its columns alone.

use perf_core::index::Part;
use pgrx::{is_a, pg_sys, PgList};

use super::place::Place;
use crate::compat;
use crate::pg::ident;
use crate::pg::relation::btree_opclass;

/// A column or an expression that an index could have as a key.
pub struct Subject {
    /// The node, without binary-compatible casts around it.
    pub node: *mut pg_sys::Node,
    /// The attribute number, if it is a column.
    pub column: Option<i16>,
    /// Its type; of a domain, what it is a domain over.
    pub type_oid: pg_sys::Oid,
    /// Its collation, or zero.
    pub collation: pg_sys::Oid,
}

impl Subject {
    /// Whether an index on it, with its own collation, serves a comparison under `collation`.
    pub fn collates(&self, collation: pg_sys::Oid) -> bool {
        collation == pg_sys::InvalidOid || self.collation == collation
    }

    /// The strategy (1 to 5) of `operator` in a B-tree with the type's default operator class; None without one.
    pub fn strategy(&self, operator: pg_sys::Oid, collation: pg_sys::Oid) -> Option<i32> {
        if !self.collates(collation) {
            return None;
        }
        let opclass = btree_opclass(self.type_oid)?;
        // SAFETY: a syscache lookup.
        let strategy = unsafe { pg_sys::get_op_opfamily_strategy(operator, opclass.family) };
        (strategy != 0).then_some(strategy)
    }
}

impl Place<'_> {
    /// What `node` is, through binary-compatible casts; None when no index could have it as a key.
    ///
    /// # Safety
    /// `node` is NULL or an expression.
    pub unsafe fn subject(&self, node: *mut pg_sys::Node) -> Option<Subject> {
        let mut node = node;
        // SAFETY: the tag says which struct it is.
        unsafe {
            while !node.is_null() && is_a(node, pg_sys::NodeTag::T_RelabelType) {
                node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
            }
            if node.is_null() {
                return None;
            }
            let column = if is_a(node, pg_sys::NodeTag::T_Var) {
                let var = node.cast::<pg_sys::Var>();
                let own = (*var).varno == self.varno && (*var).varlevelsup == 0 && (*var).varattno > 0;
                Some(own.then_some((*var).varattno)?)
            } else {
                let constant = is_a(node, pg_sys::NodeTag::T_Const) || is_a(node, pg_sys::NodeTag::T_Param);
                if constant || !self.is_own(node) {
                    return None;
                }
                None
            };
            let type_oid = pg_sys::getBaseType(pg_sys::exprType(node));
            if column.is_none() && pg_sys::get_typtype(type_oid) as u8 == pg_sys::TYPTYPE_PSEUDO {
                return None;
            }
            Some(Subject { node, column, type_oid, collation: pg_sys::exprCollation(node) })
        }
    }

    /// Its part of a key. An expression gets its number now: only what is asked for has one.
    pub fn part(&mut self, subject: &Subject) -> Part {
        match subject.column {
            Some(column) => Part::Column(column),
            // SAFETY: a subject that is no column passed `is_own`.
            None => Part::Expression(unsafe { self.expressions.number(self.relation, subject.node, self.varno) }),
        }
    }

    /// Whether `node` reads columns of this relation and nothing else, and always gives the same for the same row.
    ///
    /// # Safety
    /// `node` is an expression.
    pub unsafe fn is_own(&self, node: *mut pg_sys::Node) -> bool {
        // What may stand in for a column is returned like one, so that it is seen and refused.
        let flags = pg_sys::PVC_INCLUDE_AGGREGATES | pg_sys::PVC_INCLUDE_WINDOWFUNCS | pg_sys::PVC_INCLUDE_PLACEHOLDERS;
        // SAFETY: read-only walks over a valid expression; the list holds expressions, the tag says which are variables.
        unsafe {
            let found = PgList::<pg_sys::Node>::from_pg(pg_sys::pull_var_clause(node, flags as i32));
            let own = |node: *mut pg_sys::Node| {
                let var = node.cast::<pg_sys::Var>();
                is_a(node, pg_sys::NodeTag::T_Var)
                    && (*var).varno == self.varno
                    && (*var).varlevelsup == 0
                    && (*var).varattno > 0
                    && !compat::is_nulled(var)
            };
            !found.is_empty()
                && found.iter_ptr().all(own)
                && !pg_sys::contain_subplans(node)
                && !pg_sys::contain_mutable_functions(node)
                && !pg_sys::expression_returns_set(node)
                && !has_parameter(node)
        }
    }
}

/// Whether a parameter of any kind is part of the expression: an index cannot have one.
///
/// # Safety
/// `node` is an expression.
unsafe fn has_parameter(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the printed tree is NUL-terminated and palloc'd; the values of constants are printed as numbers in it.
    let printed = unsafe { ident::owned(pg_sys::nodeToString(node.cast())) };
    printed.is_none_or(|tree| tree.contains("{PARAM "))
}

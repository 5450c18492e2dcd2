//! Expressions that statements ask for and that an index could have as a key or predicate: a table of distinct node trees,
//! each numbered. Owns copies in a memory context of its own, so that they outlive the planner run they were seen in; made
//! by an advisor for one call. Locks nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;

use perf_core::index::{name, Part};
use pgrx::{is_a, pg_sys, PgList, PgMemoryContexts};

use super::evaluate;
use super::hypothetical::Samples;
use super::planner::Configuration;
use super::relation::Relation;
use super::{ident, planner};

/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 20;

/// One expression over one relation.
#[derive(Debug)]
struct Item {
    relation: pg_sys::Oid,
    node: *mut pg_sys::Node,
}

/// A key of an index that exists, where the catalog has it as an expression.
pub struct StoredKey {
    /// A column, below binary-compatible casts, or the number of the expression.
    pub part: Part,
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// Its collation, or zero.
    pub collation: pg_sys::Oid,
}

/// The table.
pub struct Expressions {
    context: PgMemoryContexts,
    items: Vec<Item>,
    /// Shares of rows that predicates keep, as they were asked for.
    shares: RefCell<HashMap<u32, Option<f64>>>,
    /// What was learnt of keys, these and others.
    pub samples: Samples,
}

impl std::fmt::Debug for Expressions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(&self.items).finish()
    }
}

impl Default for Expressions {
    fn default() -> Self {
        Expressions {
            context: PgMemoryContexts::new("perf_opt expressions"),
            items: Vec::new(),
            shares: RefCell::default(),
            samples: Samples::default(),
        }
    }
}

impl Expressions {
    /// The number of `node`, an expression over `relation`, whose columns it names by range table index `varno`. The same
    /// expression always has the same number.
    ///
    /// # Safety
    /// `node` is a valid expression without sub-selects, whose variables are all of `varno` at level 0.
    pub unsafe fn number(&mut self, relation: pg_sys::Oid, node: *mut pg_sys::Node, varno: i32) -> u32 {
        // SAFETY: valid by the caller's promise; the copy is ours to change, in a context that lives as long as `self`.
        unsafe {
            let before = self.context.set_as_current();
            let copy = pg_sys::copyObjectImpl(node.cast()).cast::<pg_sys::Node>();
            pg_sys::MemoryContextSwitchTo(before.value());
            for var in PgList::<pg_sys::Var>::from_pg(pg_sys::pull_var_clause(copy, 0)).iter_ptr() {
                debug_assert_eq!((*var).varno, varno);
                // How the statement named it is of no interest here, and would be printed.
                (*var).varno = 1;
                (*var).varnosyn = 1;
                (*var).varattnosyn = (*var).varattno;
            }
            let known = self
                .items
                .iter()
                .position(|item| item.relation == relation && pg_sys::equal(item.node.cast(), copy.cast()));
            match known {
                Some(at) => {
                    pg_sys::pfree(copy.cast());
                    at as u32
                }
                None => {
                    self.items.push(Item { relation, node: copy });
                    self.items.len() as u32 - 1
                }
            }
        }
    }

    /// The keys that `trees`, an index's `indexprs`, holds; None when they cannot be read.
    pub fn number_keys(&mut self, relation: pg_sys::Oid, trees: &str) -> Option<Vec<StoredKey>> {
        // SAFETY: a list of expressions over range table entry 1, alive while they are numbered.
        self.read_stored(trees, |own, list| unsafe {
            let mut keys = Vec::new();
            for mut node in PgList::<pg_sys::Node>::from_pg(list.cast()).iter_ptr() {
                while is_a(node, pg_sys::NodeTag::T_RelabelType) {
                    node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
                }
                let part = if is_a(node, pg_sys::NodeTag::T_Var) {
                    Part::Column((*node.cast::<pg_sys::Var>()).varattno)
                } else {
                    Part::Expression(own.number(relation, node, 1))
                };
                keys.push(StoredKey { part, type_oid: pg_sys::exprType(node), collation: pg_sys::exprCollation(node) });
            }
            Some(keys)
        })
    }

    /// The number of the condition that `tree`, an index's `indpred`, is; None when it is several or cannot be read.
    pub fn number_predicate(&mut self, relation: pg_sys::Oid, tree: &str) -> Option<u32> {
        // SAFETY: a condition over range table entry 1, alive while it is numbered.
        self.read_stored(tree, |own, node| unsafe {
            let clauses = pg_sys::make_ands_implicit(pg_sys::canonicalize_qual(node.cast(), false));
            let clauses = PgList::<pg_sys::Node>::from_pg(clauses);
            let only = clauses.get_ptr(0).filter(|_| clauses.len() == 1)?;
            Some(own.number(relation, only, 1))
        })
    }

    /// Hands what the catalog holds of an index to `read`: as the relation cache hands it to the planner, constants
    /// folded and functions known. None when that raises an ERROR.
    fn read_stored<R>(
        &mut self,
        text: &str,
        read: impl FnOnce(&mut Self, *mut pg_sys::Node) -> Option<R>,
    ) -> Option<R> {
        let text = ident::until_nul(text);
        // SAFETY: inside a subtransaction that is rolled back; the text is the server's own, of expressions without
        // sub-selects. Only functions of superusers are run.
        planner::with_catalog_path(|| unsafe {
            evaluate::restrict();
            let stored = pg_sys::stringToNode(text.as_ptr()).cast::<pg_sys::Node>();
            // What folding would run as the caller must be as good as the caller's own.
            if !evaluate::is_trusted(stored) {
                return None;
            }
            let node = pg_sys::eval_const_expressions(ptr::null_mut(), stored);
            pg_sys::fix_opfuncids(node);
            read(self, node)
        })
        .flatten()
    }

    /// The expression over range table entry 1; NULL for a number that was never given.
    pub fn node(&self, number: u32) -> *mut pg_sys::Node {
        self.items.get(number as usize).map_or(std::ptr::null_mut(), |item| item.node)
    }

    /// The columns that the expression reads.
    pub fn columns(&self, number: u32) -> Vec<i16> {
        // SAFETY: NULL or a valid expression.
        unsafe { columns_of(self.node(number)) }
    }

    /// Whether the expression compares with a value that is written in it, rather than with NULL, true or false.
    pub fn compares_value(&self, number: u32) -> bool {
        let node = self.node(number);
        // SAFETY: NULL or a live node.
        let is = |tag| unsafe { !node.is_null() && is_a(node, tag) };
        is(pg_sys::NodeTag::T_OpExpr) || is(pg_sys::NodeTag::T_ScalarArrayOpExpr)
    }

    /// The expression as SQL, without the relation's name before its columns and with every name outside `pg_catalog`
    /// qualified, so that it means the same under any `search_path`. Empty for a number that was never given.
    pub fn text(&self, number: u32) -> String {
        let Some(item) = self.items.get(number as usize) else { return String::new() };
        let Some((_, name)) = ident::relation_parts(item.relation) else { return String::new() };
        let name = ident::until_nul(&name);
        planner::with_catalog_path(|| {
            // SAFETY: the deparse context is made for the one relation the expression is over.
            unsafe {
                let context = pg_sys::deparse_context_for(name.as_ptr(), item.relation);
                ident::owned(pg_sys::deparse_expression(item.node, context, false, false)).unwrap_or_default()
            }
        })
        .unwrap_or_default()
    }

    /// The expression as a key of an index definition has it: a plain function call as it is, else in parentheses.
    pub fn key_text(&self, number: u32) -> String {
        let node = self.node(number);
        let text = self.text(number);
        // SAFETY: NULL or a live node; the tag says which struct it is.
        let is_call = unsafe {
            !node.is_null()
                && is_a(node, pg_sys::NodeTag::T_FuncExpr)
                && (*node.cast::<pg_sys::FuncExpr>()).funcformat == pg_sys::CoercionForm::COERCE_EXPLICIT_CALL
        };
        if is_call {
            text
        } else {
            name::in_parentheses(&text)
        }
    }

    /// The share of `relation`'s rows for which the expression, a condition, is true, as the planner sees it: 0 to 1. None
    /// when it cannot be planned now, or would run functions that do not belong to a superuser. Asks the planner once for each
    /// number.
    pub fn share(&self, number: u32, relation: &Relation) -> Option<f64> {
        if let Some(known) = self.shares.borrow().get(&number) {
            return *known;
        }
        // SAFETY: NULL or a valid expression.
        let trusted = unsafe { evaluate::is_trusted(self.node(number)) };
        let text = if trusted { self.text(number) } else { String::new() };
        let share = if text.is_empty() { None } else { share_of(relation, &text, Some(LOCK_TIMEOUT_MS)) };
        self.shares.borrow_mut().insert(number, share);
        share
    }
}

/// The columns that an expression over range table entry 1 reads; 0 stands for all of them.
///
/// # Safety
/// `node` is NULL or a valid expression.
pub unsafe fn columns_of(node: *mut pg_sys::Node) -> Vec<i16> {
    let mut columns = Vec::new();
    // SAFETY: the set is allocated in the current context and freed; attribute numbers in it are offset so that system
    // columns, which are negative, fit.
    unsafe {
        let mut set = ptr::null_mut();
        pg_sys::pull_varattnos(node, 1, &mut set);
        let mut member = pg_sys::bms_next_member(set, -1);
        while member >= 0 {
            columns.push((member + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16);
            member = pg_sys::bms_next_member(set, member);
        }
        pg_sys::bms_free(set);
    }
    columns
}

/// The share of rows that `condition`, in SQL, keeps; None when it cannot be planned.
pub fn share_of(relation: &Relation, condition: &str, lock_timeout_ms: Option<u32>) -> Option<f64> {
    // A partitioned table has no rows of its own: what all its partitions keep.
    let only = if relation.kind == b'p' { "" } else { "ONLY " };
    let text = format!("SELECT FROM {only}{} WHERE {condition}", relation.qualified());
    // Planning runs what the owner has put into the table's indexes: as the owner, never as the caller. Names that the text
    // does not qualify are the server's own.
    let statement = planner::Statement {
        text: &text,
        lock_timeout_ms,
        search_path: Some("pg_catalog"),
        role: Some(relation.owner),
        ..planner::Statement::default()
    };
    let plans = planner::plan(&statement, &[Configuration::default()]).ok()?;
    Some((plans.first()?.rows / relation.tuples.max(1.0)).clamp(0.0, 1.0))
}

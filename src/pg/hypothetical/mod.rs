//! Indexes that do not exist: their description, and the `IndexOptInfo` that makes the planner believe in them.
//!
//! A description is made before planning (reads the syscache, locks nothing beyond one call); [`Hypothetical::inject`] runs
//! inside the planner, allocates in its memory context and touches no catalog.

mod inject;
mod price;
mod statistics;
mod statistics_row;
mod statistics_values;

use std::collections::HashMap;
use std::ffi::CString;
use std::rc::Rc;

use perf_core::index::{Candidate, Kind, Part};
use pgrx::pg_sys;

use super::expressions::Expressions;
use super::ident;
use super::relation::{self, Relation};
pub use statistics::{Samples, Statistics};

/// Storage parameters that matter to size or cost.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// `fillfactor`, in percent; None for the access method's own.
    pub fillfactor: Option<f64>,
    /// `deduplicate_items`.
    pub deduplicate: bool,
    /// `pages_per_range`.
    pub pages_per_range: f64,
}

impl Default for Storage {
    fn default() -> Self {
        Storage { fillfactor: None, deduplicate: true, pages_per_range: 128.0 }
    }
}

/// One key of a hypothetical index.
#[derive(Clone, Debug)]
pub struct KeyPart {
    /// Attribute number in the relation it was described for; 0 for an expression.
    pub column: i16,
    /// The expression, over range table entry 1; NULL for a column.
    pub expression: *mut pg_sys::Node,
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// Operator class.
    pub class: pg_sys::Oid,
    /// Its family.
    pub family: pg_sys::Oid,
    /// Its input type.
    pub input: pg_sys::Oid,
    /// Collation.
    pub collation: pg_sys::Oid,
    /// `DESC`.
    pub descending: bool,
    /// `NULLS FIRST`.
    pub nulls_first: bool,
}

/// Where an index would have storage: the relation itself, or a partition of it.
#[derive(Clone, Debug)]
struct Target {
    /// Keys (0 for an expression), then INCLUDE columns, as numbered in this relation.
    attributes: Vec<i16>,
    /// For each column of the relation that was named its number here; empty when both number them alike.
    map: Vec<i16>,
    pages: f64,
    key_pages: f64,
    height: u32,
}

/// An index that does not exist.
#[derive(Clone, Debug)]
pub struct Hypothetical {
    /// Name, for EXPLAIN.
    pub name: CString,
    /// The relation it was described for.
    pub relation: pg_sys::Oid,
    /// Access method.
    pub kind: Kind,
    /// Storage parameters.
    pub storage: Storage,
    /// Keys.
    pub keys: Vec<KeyPart>,
    /// INCLUDE columns.
    pub include: Vec<i16>,
    /// Predicate as an implicitly-ANDed list over range table entry 1; NULL for none.
    pub predicate: *mut pg_sys::List,
    /// Share of rows that the predicate keeps.
    pub predicate_share: f64,
    /// `UNIQUE`.
    pub unique: bool,
    /// `NULLS NOT DISTINCT`.
    pub nulls_not_distinct: bool,
    /// Estimated size of all parts, when built.
    pub bytes: f64,
    /// Whether the statistics of every column were there to estimate it with.
    pub has_statistics: bool,
    targets: HashMap<u32, Target>,
    /// Of expression keys, in the order of the keys.
    statistics: Vec<Option<Rc<Statistics>>>,
}

impl Hypothetical {
    /// Describes a candidate on `relation`; `leaves` are its partitions with storage when it is partitioned. None when a
    /// column or an expression is gone, or has no operator class for this kind of index.
    pub fn from_candidate(
        name: &str,
        candidate: &Candidate,
        relation: &Relation,
        leaves: &[Relation],
        expressions: &Expressions,
    ) -> Option<Self> {
        let stored = |number: i16| relation.column(number).filter(|column| !column.is_virtual);
        let mut keys = Vec::with_capacity(candidate.keys.len());
        for key in &candidate.keys {
            let mut part = match key.part {
                Part::Column(number) => {
                    let column = stored(number)?;
                    KeyPart::of_column(column.number, column.type_oid, column.collation)
                }
                Part::Expression(number) => {
                    let node = expressions.node(number);
                    if node.is_null() || !expressions.columns(number).into_iter().all(|column| stored(column).is_some())
                    {
                        return None;
                    }
                    KeyPart::of_expression(node)
                }
            };
            let class = match key.opclass {
                0 => relation::default_opclass(part.type_oid, method_of(candidate.kind))?,
                oid => pg_sys::Oid::from(oid),
            };
            part.set_class(class)?;
            part.descending = key.descending;
            part.nulls_first = key.nulls_first;
            keys.push(part);
        }
        if !candidate.include.iter().all(|number| stored(*number).is_some()) {
            return None;
        }
        let mut index = Hypothetical::new(name, relation.oid, candidate.kind, keys);
        index.include = candidate.include.clone();
        if let Some(number) = candidate.predicate {
            let node = expressions.node(number);
            if node.is_null() {
                return None;
            }
            // SAFETY: a valid boolean expression that outlives the index; the copy is ours to flatten.
            index.predicate = unsafe {
                let copy = pg_sys::copyObjectImpl(node.cast()).cast::<pg_sys::Expr>();
                pg_sys::make_ands_implicit(pg_sys::canonicalize_qual(copy, false))
            };
            index.predicate_share = expressions.share(number, relation)?;
        }
        index.settle(relation, leaves, &expressions.samples);
        Some(index)
    }

    /// An index on keys alone, to be priced with [`Hypothetical::settle`].
    pub fn new(name: &str, relation: pg_sys::Oid, kind: Kind, keys: Vec<KeyPart>) -> Self {
        Hypothetical {
            name: ident::until_nul(name),
            relation,
            kind,
            storage: Storage::default(),
            keys,
            include: Vec::new(),
            predicate: std::ptr::null_mut(),
            predicate_share: 1.0,
            unique: false,
            nulls_not_distinct: false,
            bytes: 0.0,
            has_statistics: true,
            targets: HashMap::new(),
            statistics: Vec::new(),
        }
    }

    /// OID of the access method.
    fn method(&self) -> pg_sys::Oid {
        method_of(self.kind)
    }
}

/// OID of an access method.
pub fn method_of(kind: Kind) -> pg_sys::Oid {
    match kind {
        Kind::Btree => pg_sys::BTREE_AM_OID,
        Kind::Hash => pg_sys::HASH_AM_OID,
        Kind::Brin => pg_sys::BRIN_AM_OID,
        Kind::Gin => pg_sys::GIN_AM_OID,
    }
}

impl KeyPart {
    /// A column; its operator class is to be set.
    pub fn of_column(column: i16, type_oid: pg_sys::Oid, collation: pg_sys::Oid) -> Self {
        KeyPart {
            column,
            expression: std::ptr::null_mut(),
            type_oid,
            class: pg_sys::InvalidOid,
            family: pg_sys::InvalidOid,
            input: pg_sys::InvalidOid,
            collation,
            descending: false,
            nulls_first: false,
        }
    }

    /// An expression over range table entry 1, which must outlive this; its operator class is to be set.
    pub fn of_expression(expression: *mut pg_sys::Node) -> Self {
        // SAFETY: a valid analysed expression.
        let (type_oid, collation) = unsafe { (pg_sys::exprType(expression), pg_sys::exprCollation(expression)) };
        KeyPart { expression, ..KeyPart::of_column(0, type_oid, collation) }
    }

    /// Sets the operator class; None when it does not exist.
    pub fn set_class(&mut self, class: pg_sys::Oid) -> Option<()> {
        let opclass = relation::opclass(class)?;
        self.class = class;
        self.family = opclass.family;
        self.input = opclass.input;
        Some(())
    }
}

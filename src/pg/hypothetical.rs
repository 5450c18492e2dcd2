//! Indexes that do not exist: their description, and the `IndexOptInfo` that makes the planner believe in them.
//!
//! A description is made before planning (reads the syscache, locks nothing beyond one call); [`Hypothetical::inject`] runs
//! inside the planner, allocates in its memory context and touches no catalog.

use std::collections::HashMap;
use std::ffi::CString;

use perf_core::index::{size, Candidate, Kind};
use pgrx::{pg_sys, PgList};

use super::expressions::Expressions;
use super::ident;
use super::relation::{self, Relation};
use crate::compat;

/// Leaf fillfactor of a B-tree that says nothing else.
const FILLFACTOR: f64 = 90.0;

/// One key of a hypothetical index.
#[derive(Clone, Debug)]
pub struct KeyPart {
    /// Attribute number in the relation it was described for; 0 for an expression.
    pub column: i16,
    /// The expression, over range table entry 1; NULL for a column.
    pub expression: *mut pg_sys::Node,
    /// Operator family.
    pub family: pg_sys::Oid,
    /// Input type of the operator class.
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
    pages: f64,
    height: u32,
}

/// An index that does not exist.
#[derive(Clone, Debug)]
pub struct Hypothetical {
    /// Name, for EXPLAIN.
    pub name: CString,
    /// The relation it was described for.
    pub relation: pg_sys::Oid,
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
    /// Estimated size of all parts, when built.
    pub bytes: f64,
    /// Whether the statistics of every column were there to estimate it with.
    pub has_statistics: bool,
    targets: HashMap<u32, Target>,
}

impl Hypothetical {
    /// Describes a candidate on `relation`; `leaves` are its partitions with storage when it is partitioned. None when a
    /// column is gone or has no order.
    pub fn from_candidate(
        name: &str,
        candidate: &Candidate,
        relation: &Relation,
        leaves: &[Relation],
        _expressions: &Expressions,
    ) -> Option<Self> {
        if candidate.kind != Kind::Btree {
            return None;
        }
        let mut keys = Vec::with_capacity(candidate.keys.len());
        for key in &candidate.keys {
            let column = relation.column(key.column()?).filter(|column| !column.is_virtual)?;
            let opclass = relation::btree_opclass(column.type_oid)?;
            keys.push(KeyPart {
                column: column.number,
                expression: std::ptr::null_mut(),
                family: opclass.family,
                input: opclass.input,
                collation: column.collation,
                descending: key.descending,
                nulls_first: key.nulls_first,
            });
        }
        let mut index = Hypothetical::new(name, relation.oid, keys);
        index.settle(relation, leaves);
        Some(index)
    }

    /// An index on keys alone, to be priced with [`Hypothetical::settle`].
    pub fn new(name: &str, relation: pg_sys::Oid, keys: Vec<KeyPart>) -> Self {
        Hypothetical {
            name: ident::until_nul(name),
            relation,
            keys,
            include: Vec::new(),
            predicate: std::ptr::null_mut(),
            predicate_share: 1.0,
            unique: false,
            bytes: 0.0,
            has_statistics: true,
            targets: HashMap::new(),
        }
    }

    /// Prices the index on `relation`, or on each of `leaves` when `relation` is partitioned. Call again after a change.
    pub fn settle(&mut self, relation: &Relation, leaves: &[Relation]) {
        self.targets.clear();
        self.bytes = 0.0;
        self.has_statistics = true;
        if relation.kind == b'p' {
            for leaf in leaves {
                self.settle_on(relation, leaf);
            }
        } else {
            self.settle_on(relation, relation);
        }
    }

    fn settle_on(&mut self, named: &Relation, target: &Relation) {
        let mut attributes = Vec::new();
        let mut columns = Vec::new();
        let mut deduplicate = self.include.is_empty();
        for number in self.keys.iter().map(|key| key.column).chain(self.include.iter().copied()) {
            if number == 0 {
                attributes.push(0);
                continue;
            }
            // Partitions may number their columns differently: the name decides.
            let Some(column) = named.column(number).and_then(|column| target.column_named(&column.name)) else {
                return;
            };
            attributes.push(column.number);
        }
        for (at, number) in attributes.iter().enumerate() {
            if *number == 0 {
                columns.push(self.expression_column(at, target));
            } else if let Some(column) = target.column(*number) {
                let (estimate, known) = target.size_column(column);
                self.has_statistics &= known;
                columns.push(estimate);
            }
        }
        for key in &self.keys {
            deduplicate &=
                relation::equal_image(relation::Opclass { family: key.family, input: key.input }, key.collation);
        }
        let estimate = size::btree(&size::Btree {
            tuples: target.tuples * self.predicate_share,
            columns,
            keys: self.keys.len(),
            deduplicate,
            fillfactor: FILLFACTOR,
        });
        self.bytes += estimate.bytes();
        self.targets.insert(target.oid.to_u32(), Target { attributes, pages: estimate.pages, height: estimate.height });
    }

    /// An expression has no statistics before its index exists: its type's usual width, all values distinct.
    fn expression_column(&mut self, at: usize, target: &Relation) -> size::Column {
        self.has_statistics = false;
        // SAFETY: the expression is a valid analysed node tree that outlives this description.
        let width = unsafe {
            let expression = self.keys[at].expression;
            pg_sys::get_typavgwidth(pg_sys::exprType(expression), pg_sys::exprTypmod(expression))
        };
        size::Column {
            width: f64::from(width),
            align: 1.0,
            widths: Vec::new(),
            null_fraction: 0.0,
            distinct: target.tuples.max(1.0),
            common: Vec::new(),
        }
    }

    /// Adds this index to `rel`, if it would have storage there.
    ///
    /// # Safety
    /// Called by the planner's relation hook: `rel` is the relation's node under construction for relation
    /// `relation_oid`, and the current memory context is the planner's.
    pub unsafe fn inject(&self, oid: pg_sys::Oid, relation_oid: pg_sys::Oid, rel: *mut pg_sys::RelOptInfo) {
        let Some(target) = self.targets.get(&relation_oid.to_u32()) else { return };
        let keys = self.keys.len();
        let columns = keys + self.include.len();
        // SAFETY: every array is palloc0'd with as many elements as are written; the node is zeroed, which is a valid
        // IndexOptInfo with all flags off; lists and expressions are copied into the planner's context before they are
        // changed; `rel` is valid by the caller's promise.
        unsafe {
            let am = &*pg_sys::GetIndexAmRoutineByAmId(pg_sys::BTREE_AM_OID, false);
            let info = pg_sys::palloc0(size_of::<pg_sys::IndexOptInfo>()).cast::<pg_sys::IndexOptInfo>();
            (*info).type_ = pg_sys::NodeTag::T_IndexOptInfo;
            (*info).indexoid = oid;
            (*info).reltablespace = (*rel).reltablespace;
            (*info).rel = rel;
            (*info).pages = target.pages.clamp(1.0, f64::from(u32::MAX)) as pg_sys::BlockNumber;
            (*info).tuples = ((*rel).tuples * self.predicate_share).max(1.0);
            (*info).tree_height = target.height as i32;
            (*info).ncolumns = columns as i32;
            (*info).nkeycolumns = keys as i32;
            (*info).indexkeys = zeroed_array(columns);
            (*info).indexcollations = zeroed_array(columns);
            (*info).opfamily = zeroed_array(columns);
            (*info).opcintype = zeroed_array(columns);
            (*info).sortopfamily = zeroed_array(columns);
            (*info).reverse_sort = zeroed_array(columns);
            (*info).nulls_first = zeroed_array(columns);
            (*info).opclassoptions = zeroed_array(columns);
            (*info).canreturn = zeroed_array(columns);
            for (at, attribute) in target.attributes.iter().enumerate() {
                *(*info).indexkeys.add(at) = i32::from(*attribute);
                *(*info).canreturn.add(at) = true;
            }
            let mut expressions = PgList::<pg_sys::Node>::new();
            for (at, key) in self.keys.iter().enumerate() {
                *(*info).indexcollations.add(at) = key.collation;
                *(*info).opfamily.add(at) = key.family;
                *(*info).opcintype.add(at) = key.input;
                *(*info).sortopfamily.add(at) = key.family;
                *(*info).reverse_sort.add(at) = key.descending;
                *(*info).nulls_first.add(at) = key.nulls_first;
                if key.column == 0 {
                    expressions.push(for_relation(key.expression, rel));
                }
            }
            (*info).indexprs = expressions.into_pg();
            (*info).indpred = for_relation(self.predicate.cast(), rel).cast();
            (*info).indextlist = target_list(info, relation_oid, rel);
            (*info).relam = pg_sys::BTREE_AM_OID;
            (*info).unique = self.unique;
            (*info).immediate = true;
            (*info).hypothetical = true;
            (*info).amcanorderbyop = am.amcanorderbyop;
            (*info).amoptionalkey = am.amoptionalkey;
            (*info).amsearcharray = am.amsearcharray;
            (*info).amsearchnulls = am.amsearchnulls;
            (*info).amhasgettuple = am.amgettuple.is_some();
            (*info).amhasgetbitmap = am.amgetbitmap.is_some();
            (*info).amcanparallel = am.amcanparallel;
            (*info).amcanmarkpos = am.ammarkpos.is_some() && am.amrestrpos.is_some();
            (*info).amcostestimate = compat::cost_function(am.amcostestimate);
            (*rel).indexlist = pg_sys::lcons(info.cast(), (*rel).indexlist);
        }
    }
}

/// # Safety
/// Needs a current memory context; the result lives in it.
unsafe fn zeroed_array<T>(count: usize) -> *mut T {
    // SAFETY: palloc0 raises an ERROR rather than returning NULL, and aligns for any type.
    unsafe { pg_sys::palloc0(count.max(1) * size_of::<T>()).cast() }
}

/// A copy of `node` whose variables point to `rel` instead of range table entry 1.
///
/// # Safety
/// `node` is NULL or a valid node tree; `rel` is valid.
unsafe fn for_relation(node: *mut pg_sys::Node, rel: *mut pg_sys::RelOptInfo) -> *mut pg_sys::Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: valid by the caller's promise; the copy is ours to change.
    unsafe {
        let copy = pg_sys::copyObjectImpl(node.cast()).cast::<pg_sys::Node>();
        if (*rel).relid != 1 {
            pg_sys::ChangeVarNodes(copy, 1, (*rel).relid as i32, 0);
        }
        copy
    }
}

/// The target list that an index-only scan returns: one entry a column.
///
/// # Safety
/// `info` has its columns, keys and expressions set; `rel` is the node of relation `relation_oid`.
unsafe fn target_list(
    info: *mut pg_sys::IndexOptInfo,
    relation_oid: pg_sys::Oid,
    rel: *mut pg_sys::RelOptInfo,
) -> *mut pg_sys::List {
    // SAFETY: as promised; there is one expression for every key numbered 0.
    unsafe {
        let expressions = PgList::<pg_sys::Expr>::from_pg((*info).indexprs);
        let mut next_expression = 0;
        let mut entries = PgList::<pg_sys::TargetEntry>::new();
        for at in 0..(*info).ncolumns {
            let attribute = *(*info).indexkeys.add(at as usize) as i16;
            let expression = if attribute == 0 {
                next_expression += 1;
                expressions.get_ptr(next_expression - 1).unwrap_or(std::ptr::null_mut())
            } else {
                let (mut type_oid, mut typmod, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
                pg_sys::get_atttypetypmodcoll(relation_oid, attribute, &mut type_oid, &mut typmod, &mut collation);
                pg_sys::makeVar((*rel).relid as i32, attribute, type_oid, typmod, collation, 0).cast()
            };
            entries.push(pg_sys::makeTargetEntry(expression, (at + 1) as i16, std::ptr::null_mut(), false));
        }
        entries.into_pg()
    }
}

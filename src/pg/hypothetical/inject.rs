//! The planner's view of an index that does not exist: one `IndexOptInfo`, filled as the server fills it for an index that
//! does. Called inside the planner; allocates in its memory context, opens nothing.

use perf_core::index::Kind;
use pgrx::{pg_guard, pg_sys, PgList};

use super::price::renumbered;
use super::Hypothetical;
use crate::compat;

/// What `brincostestimate` assumes of an index that it cannot open.
const ASSUMED_PAGES_PER_RANGE: f64 = 128.0;
/// The share of pages that `gincostestimate` takes for pages of keys, of an index that it cannot open.
const ASSUMED_KEY_PAGES: f64 = 0.9;

/// What the planner is given, and behind it what the cost functions cannot read from an index that is not there. The planner
/// never copies the node.
#[repr(C)]
struct Info {
    node: pg_sys::IndexOptInfo,
    cost: pg_sys::amcostestimate_function,
    pages_per_range: f64,
    key_pages: f64,
}

impl Hypothetical {
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
            let am = &*pg_sys::GetIndexAmRoutineByAmId(self.method(), false);
            let whole = pg_sys::palloc0(size_of::<Info>()).cast::<Info>();
            (*whole).cost = am.amcostestimate;
            (*whole).pages_per_range = self.storage.pages_per_range;
            (*whole).key_pages = target.key_pages;
            let info = &raw mut (*whole).node;
            (*info).type_ = pg_sys::NodeTag::T_IndexOptInfo;
            (*info).indexoid = oid;
            (*info).reltablespace = (*rel).reltablespace;
            (*info).rel = rel;
            (*info).pages = target.pages.clamp(1.0, f64::from(u32::MAX)) as pg_sys::BlockNumber;
            (*info).tuples = ((*rel).tuples * self.predicate_share).max(1.0);
            (*info).tree_height = if self.kind == Kind::Btree { target.height as i32 } else { -1 };
            (*info).ncolumns = columns as i32;
            (*info).nkeycolumns = keys as i32;
            (*info).indexkeys = zeroed_array(columns);
            (*info).indexcollations = zeroed_array(columns);
            (*info).opfamily = zeroed_array(columns);
            (*info).opcintype = zeroed_array(columns);
            if am.amcanorder {
                (*info).sortopfamily = zeroed_array(columns);
                (*info).reverse_sort = zeroed_array(columns);
                (*info).nulls_first = zeroed_array(columns);
            }
            (*info).opclassoptions = zeroed_array(columns);
            (*info).canreturn = zeroed_array(columns);
            for (at, attribute) in target.attributes.iter().enumerate() {
                *(*info).indexkeys.add(at) = i32::from(*attribute);
                // Of these methods only a B-tree keeps the values themselves.
                *(*info).canreturn.add(at) = self.kind == Kind::Btree;
            }
            let mut expressions = PgList::<pg_sys::Node>::new();
            for (at, key) in self.keys.iter().enumerate() {
                *(*info).indexcollations.add(at) = key.collation;
                *(*info).opfamily.add(at) = key.family;
                *(*info).opcintype.add(at) = key.input;
                if am.amcanorder {
                    *(*info).sortopfamily.add(at) = key.family;
                    *(*info).reverse_sort.add(at) = key.descending;
                    *(*info).nulls_first.add(at) = key.nulls_first;
                }
                if key.column == 0 {
                    expressions.push(for_relation(renumbered(key.expression, &target.map), rel));
                }
            }
            (*info).indexprs = expressions.into_pg();
            (*info).indpred = for_relation(renumbered(self.predicate.cast(), &target.map), rel).cast();
            (*info).indextlist = target_list(info, relation_oid, rel);
            (*info).relam = self.method();
            (*info).unique = self.unique;
            compat::set_nulls_not_distinct(info, self.nulls_not_distinct);
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
            (*info).amcostestimate = compat::cost_function(match self.kind {
                Kind::Brin => Some(brin_cost),
                Kind::Gin => Some(gin_cost),
                Kind::Btree | Kind::Hash => am.amcostestimate,
            });
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

/// Runs the access method's own cost function.
///
/// # Safety
/// Arguments are those of an access method's cost function for an index that [`Hypothetical::inject`] made.
#[allow(clippy::too_many_arguments, reason = "the server's signature")]
#[allow(ffi_unwind_calls, reason = "the cost function is C code, which may raise an ERROR through us")]
unsafe fn own_cost(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: as promised; arguments are passed on as they came.
    unsafe {
        if let Some(cost) = (*(*path).indexinfo.cast::<Info>()).cost {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                cost(root, path, loop_count, startup, total, selectivity, correlation, pages);
            });
        }
    }
}

/// `brincostestimate` with the number of pages per range that the index would have: given a table as many times longer or
/// shorter as its assumption is wrong, it counts as many ranges as there would be.
#[pg_guard]
#[allow(clippy::too_many_arguments, reason = "the server's signature")]
unsafe extern "C-unwind" fn brin_cost(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: the planner's own nodes; the table's page count is put back. An ERROR on the way ends the planner run.
    unsafe {
        let info = (*path).indexinfo.cast::<Info>();
        let rel = (*info).node.rel;
        let heap_pages = (*rel).pages;
        let pages_per_range = (*info).pages_per_range;
        let as_if = (f64::from(heap_pages) * ASSUMED_PAGES_PER_RANGE / pages_per_range).ceil();
        (*rel).pages = as_if.min(f64::from(u32::MAX - 1)) as pg_sys::BlockNumber;
        own_cost(root, path, loop_count, startup, total, selectivity, correlation, pages);
        (*rel).pages = heap_pages;
        // It charged a tenth of an operator for each block of every range it expects to visit.
        let visited = *selectivity * (f64::from(heap_pages) / pages_per_range).ceil().max(1.0);
        let overcharged = 0.1 * pg_sys::cpu_operator_cost * visited * (ASSUMED_PAGES_PER_RANGE - pages_per_range);
        *total = (*total - overcharged).max(*startup);
    }
}

/// `gincostestimate` with the pages of keys that the index would have, which it takes for nine tenths of all pages.
#[pg_guard]
#[allow(clippy::too_many_arguments, reason = "the server's signature")]
unsafe extern "C-unwind" fn gin_cost(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup: *mut pg_sys::Cost,
    total: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: the planner's own nodes; the index's page count is put back. An ERROR on the way ends the planner run.
    unsafe {
        let info = (*path).indexinfo.cast::<Info>();
        let all_pages = (*info).node.pages;
        let as_if = ((*info).key_pages / ASSUMED_KEY_PAGES).ceil();
        (*info).node.pages = as_if.clamp(1.0, f64::from(u32::MAX - 1)) as pg_sys::BlockNumber;
        own_cost(root, path, loop_count, startup, total, selectivity, correlation, pages);
        (*info).node.pages = all_pages;
    }
}

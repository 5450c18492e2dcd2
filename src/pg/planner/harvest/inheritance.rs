//! Tables that are read as children of another: what is asked of the parent is asked of them, under their own column
//! numbers. Reads planner nodes only.

use perf_core::index::needs::Needs;
use perf_core::index::{Key, Part};
use pgrx::{pg_sys, PgList};

/// The table that entry `rti` is a child of, and how its columns are those of the child; None for a table that stands in
/// the statement itself, or in an arm of a UNION ALL.
///
/// # Safety
/// `root` is the planner's, `rti` a range table index in it.
pub unsafe fn parent_of(
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

/// Adds to a child's needs the joins and orders that are `asked` of its parent's columns; not those of expressions.
///
/// # Safety
/// `append` is the planner's, of two tables.
pub unsafe fn hand_down(append: *mut pg_sys::AppendRelInfo, asked: &Needs, needs: &mut Needs) {
    let part = |part: &Part| match *part {
        // SAFETY: as promised.
        Part::Column(column) => unsafe { in_child(append, column) }.map(Part::Column),
        Part::Expression(_) => None,
    };
    needs.joins = asked.joins.iter().filter_map(part).collect();
    let together = |parts: &Vec<Part>| -> Option<Vec<Part>> { parts.iter().map(part).collect() };
    needs.joined_together = asked.joined_together.iter().filter_map(together).collect();
    let order = |keys: &Vec<Key>| -> Option<Vec<Key>> {
        keys.iter().map(|key| Some(Key { part: part(&key.part)?, ..*key })).collect()
    };
    needs.orders.extend(asked.orders.iter().filter_map(order));
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

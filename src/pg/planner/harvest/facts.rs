//! What the statistics and the planner know of a relation's columns that decides which kinds of index are worth a try.

use std::collections::HashSet;

use perf_core::index::candidates::INCLUDE_MAX;
use pgrx::{is_a, pg_sys, PgList};

use super::place::{bits, restrictions, Place};
use super::subject::Subject;
use crate::pg::relation::{default_opclass, statistics_tuple, with_slot};

/// Bytes of all columns in an index that is to spare visits to the table, at most.
const OUTPUT_WIDTH_MAX: f64 = 100.0;
/// Share of a row that they may make, unless they are as few as this.
const OUTPUT_SHARE_MAX: f64 = 0.5;
const OUTPUTS_FEW: usize = 3;
/// Rows left by the conditions from which on visits to the table are worth sparing.
const OUTPUT_ROWS_MIN: f64 = 20.0;
/// Bytes of a row besides its columns: line pointer and header.
const ROW_OVERHEAD: f64 = 28.0;
/// Share of the table's pages that must be all-visible for that.
const VISIBLE_MIN: f64 = 0.5;
/// Pages from which on a table is big enough for BRIN: 80 MB.
const BRIN_PAGES_MIN: f64 = 10_000.0;
/// Correlation of rows and values from which on block ranges tell values apart.
const CORRELATION_MIN: f64 = 0.9;
/// Distinct values of a column, at most, for one of them to tell a kind of rows rather than whatever a call asks for.
const KINDS_MAX: f32 = 50.0;
/// Values of an IN list that are looked up among the common ones, at most.
const VALUES_MAX: usize = 20;

impl Place<'_> {
    /// All columns that the statement reads here, when an index could hold them all and spare visits to the table: they are
    /// few and narrow, and by far not the whole row. Empty otherwise.
    ///
    /// # Safety
    /// During the hook.
    pub unsafe fn outputs(&self) -> Vec<i16> {
        // SAFETY: the array of needed attributes has one set for each number from the lowest to the highest.
        unsafe {
            let (pages, visible) = self.extent();
            if (*self.rel).rows < OUTPUT_ROWS_MIN || visible < VISIBLE_MIN || (*self.rel).attr_needed.is_null() {
                return Vec::new();
            }
            let (low, high) = ((*self.rel).min_attr, (*self.rel).max_attr);
            let mut read: Vec<i16> = (low..=high)
                .filter(|number| !bits(*(*self.rel).attr_needed.add((number - low) as usize)).is_empty())
                .collect();
            let mut set = std::ptr::null_mut();
            for info in restrictions((*self.rel).baserestrictinfo) {
                pg_sys::pull_varattnos((*info).clause.cast(), self.varno as pg_sys::Index, &mut set);
            }
            read.extend(bits(set).iter().map(|bit| (bit + pg_sys::FirstLowInvalidHeapAttributeNumber) as i16));
            read.sort_unstable();
            read.dedup();
            // System columns and whole rows have numbers below one.
            let is_part =
                read.len() <= INCLUDE_MAX && read.len() < high as usize && read.iter().all(|column| *column > 0);
            if !is_part {
                return Vec::new();
            }
            let width: f64 = read.iter().map(|column| self.width(*column)).sum();
            let row = pages * f64::from(pg_sys::BLCKSZ) / (*self.rel).tuples.max(1.0) - ROW_OVERHEAD;
            let is_narrow = width <= OUTPUT_WIDTH_MAX && (read.len() <= OUTPUTS_FEW || width <= row * OUTPUT_SHARE_MAX);
            if is_narrow {
                read
            } else {
                Vec::new()
            }
        }
    }

    /// Pages, of all children for a relation that stands for them, and the share of them that is all-visible.
    ///
    /// # Safety
    /// During the hook.
    unsafe fn extent(&self) -> (f64, f64) {
        // SAFETY: passed on.
        *self.extent.get_or_init(|| unsafe { self.measured_extent() })
    }

    /// # Safety
    /// During the hook.
    unsafe fn measured_extent(&self) -> (f64, f64) {
        // SAFETY: relation nodes are in the array at their range table index or NULL there.
        unsafe {
            if !self.inherits {
                return (f64::from((*self.rel).pages), (*self.rel).allvisfrac);
            }
            let (mut pages, mut visible) = (0.0, 0.0);
            let mut family = HashSet::from([self.varno as pg_sys::Index]);
            // Children follow their parents in the list.
            for append in PgList::<pg_sys::AppendRelInfo>::from_pg((*self.root).append_rel_list).iter_ptr() {
                if !family.contains(&(*append).parent_relid) {
                    continue;
                }
                family.insert((*append).child_relid);
                let child = *(*self.root).simple_rel_array.add((*append).child_relid as usize);
                if !child.is_null() {
                    pages += f64::from((*child).pages);
                    visible += f64::from((*child).pages) * (*child).allvisfrac;
                }
            }
            (pages, if pages > 0.0 { visible / pages } else { 0.0 })
        }
    }

    /// Reads a column's statistics tuple, if there is one.
    fn statistics<R>(&self, column: i16, read: impl FnOnce(pg_sys::HeapTuple) -> R) -> Option<R> {
        // SAFETY: the tuple is released after it was read.
        unsafe {
            let tuple = statistics_tuple(self.relation, column, self.inherits);
            if tuple.is_null() {
                return None;
            }
            let result = read(tuple);
            pg_sys::ReleaseSysCache(tuple);
            Some(result)
        }
    }

    /// Mean bytes of a column's values.
    fn width(&self, column: i16) -> f64 {
        // SAFETY: a pg_statistic tuple's fixed part; syscache lookups.
        self.statistics(column, |tuple| unsafe {
            f64::from((*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_statistic>()).stawidth)
        })
        .unwrap_or_else(|| unsafe {
            let (mut type_oid, mut typmod, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
            pg_sys::get_atttypetypmodcoll(self.relation, column, &mut type_oid, &mut typmod, &mut collation);
            f64::from(pg_sys::get_typavgwidth(type_oid, typmod))
        })
    }

    /// Mean bytes of a column's values if a hash index finds them by `operator`; 0 otherwise, and for an expression, whose
    /// values nobody has measured.
    pub fn hash_width(&self, subject: &Subject, operator: pg_sys::Oid) -> f64 {
        let class = default_opclass(subject.type_oid, pg_sys::HASH_AM_OID);
        let (Some(column), Some(class)) = (subject.column, class) else { return 0.0 };
        // SAFETY: syscache lookups.
        let strategy = unsafe { pg_sys::get_op_opfamily_strategy(operator, pg_sys::get_opclass_family(class)) };
        if strategy == 0 {
            0.0
        } else {
            self.width(column)
        }
    }

    /// Whether the table is big, its rows lie in the order of the subject, and a BRIN index finds them by `operator`.
    ///
    /// # Safety
    /// During the hook.
    pub unsafe fn is_ordered(&self, subject: &Subject, operator: pg_sys::Oid) -> bool {
        let Some(column) = subject.column else { return false };
        // SAFETY: as promised; a slot's numbers are as many as it says.
        unsafe {
            if self.extent().0 < BRIN_PAGES_MIN {
                return false;
            }
            let Some(class) = default_opclass(subject.type_oid, pg_sys::BRIN_AM_OID) else { return false };
            if pg_sys::get_op_opfamily_strategy(operator, pg_sys::get_opclass_family(class)) == 0 {
                return false;
            }
            let mut correlation = 0.0;
            self.statistics(column, |tuple| {
                with_slot(tuple, pg_sys::STATISTIC_KIND_CORRELATION, pg_sys::ATTSTATSSLOT_NUMBERS, |slot| {
                    if slot.nnumbers > 0 {
                        correlation = f64::from(*slot.numbers);
                    }
                });
            });
            correlation.abs() > CORRELATION_MIN
        }
    }

    /// Whether `values`, one or an array of them, are written in the statement and all among the most common ones of a
    /// column with few.
    /// A bound parameter may be another value in the next call, so with any of them nothing counts as written.
    ///
    /// # Safety
    /// `values` is an expression; `operator` takes the column on its left.
    pub unsafe fn are_common(
        &self,
        subject: &Subject,
        operator: pg_sys::Oid,
        collation: pg_sys::Oid,
        values: *mut pg_sys::Node,
    ) -> bool {
        let Some(column) = subject.column else { return false };
        // SAFETY: the tag says which struct it is; the operator's function is called with values of the types it takes: the
        // column's from its statistics and the constant's.
        unsafe {
            let bound = (*(*self.root).glob).boundParams;
            if !is_a(values, pg_sys::NodeTag::T_Const) || (!bound.is_null() && (*bound).numParams > 0) {
                return false;
            }
            let function = pg_sys::get_opcode(operator);
            // As the planner does: a function that may tell what it saw gets to see only what the role may read.
            let may_read = || {
                let select = pg_sys::ACL_SELECT as pg_sys::AclMode;
                let result = pg_sys::pg_class_aclcheck(self.relation, pg_sys::GetUserId(), select);
                result == pg_sys::AclResult::ACLCHECK_OK
            };
            if function == pg_sys::InvalidOid || !(pg_sys::get_func_leakproof(function) || may_read()) {
                return false;
            }
            let Some(wanted) = constants(values.cast(), operator) else { return false };
            let mut found = vec![false; wanted.len()];
            self.statistics(column, |tuple| {
                let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_statistic>();
                if !(0.0 < (*row).stadistinct && (*row).stadistinct <= KINDS_MAX) {
                    return;
                }
                with_slot(tuple, pg_sys::STATISTIC_KIND_MCV, pg_sys::ATTSTATSSLOT_VALUES, |slot| {
                    for at in 0..slot.nvalues.max(0) as usize {
                        let common = *slot.values.add(at);
                        for (value, found) in wanted.iter().zip(&mut found) {
                            let equal = || pg_sys::OidFunctionCall2Coll(function, collation, common, *value);
                            *found = *found || equal().value() != 0;
                        }
                    }
                });
            });
            !found.is_empty() && found.iter().all(|found| *found)
        }
    }
}

/// The values of a constant: itself, or its elements when the operator takes those. None with a NULL or too many.
///
/// # Safety
/// `constant` is valid.
unsafe fn constants(constant: *mut pg_sys::Const, operator: pg_sys::Oid) -> Option<Vec<pg_sys::Datum>> {
    // SAFETY: the datum is of the constant's type; the array's elements are as many as the callee says.
    unsafe {
        if (*constant).constisnull {
            return None;
        }
        let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        pg_sys::op_input_types(operator, &mut left, &mut right);
        let element = pg_sys::get_element_type((*constant).consttype);
        if element == pg_sys::InvalidOid || !pg_sys::IsBinaryCoercible(element, right) {
            return Some(vec![(*constant).constvalue]);
        }
        let (mut length, mut by_value, mut alignment) = (0i16, false, 0);
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut alignment);
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            pg_sys::pg_detoast_datum((*constant).constvalue.cast_mut_ptr()).cast(),
            element,
            i32::from(length),
            by_value,
            alignment,
            &mut values,
            &mut nulls,
            &mut count,
        );
        let count = count.max(0) as usize;
        let usable = count > 0 && count <= VALUES_MAX && (0..count).all(|at| !*nulls.add(at));
        usable.then(|| (0..count).map(|at| *values.add(at)).collect())
    }
}

//! Statistics of expression keys. An expression has none before an index on it exists and was analysed; without them the
//! planner assumes that an equality keeps half a percent of the rows. Its values for the column's own statistics say more:
//! common values become common values, bounds of the histogram become a sample.
//!
//! Computed once for each expression of a call, outside of the planner; served to it as a `pg_statistic` row. Reads the
//! syscache, locks `pg_statistic` in ACCESS SHARE for the time of one call.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;
use std::rc::Rc;

use perf_core::index::size;
use pgrx::{pg_guard, pg_sys};

use super::{Hypothetical, KeyPart};
use crate::pg::elements::{self, Elements, Search};
use crate::pg::evaluate::{self, Evaluator};
use crate::pg::relation::{self, Relation};
use crate::pg::{ident, planner};

/// Common values kept, at most: the server's own default.
const COMMON_MAX: usize = 100;
/// A value is common when it is this much more frequent than the average one, as for ANALYZE.
const COMMON_RATIO: f64 = 1.25;
/// Columns of pg_statistic, and the first of its groups of five slots.
const SLOTS: usize = 5;
const KINDS: usize = 6;
const COLUMNS: usize = KINDS + 5 * SLOTS;
/// Distinct values beyond this share of the rows are noted as a share, as ANALYZE does.
const SCALING_SHARE: f64 = 0.1;

/// What one call has learnt of keys, so that nothing is sampled twice.
#[derive(Debug, Default)]
pub struct Samples {
    elements: RefCell<HashMap<String, Option<Elements>>>,
    statistics: RefCell<HashMap<String, Option<Rc<Statistics>>>>,
}

/// What is known of an expression key.
#[derive(Debug)]
pub struct Statistics {
    /// A `pg_statistic` row: the tuple with its header, in whole words.
    row: Vec<u64>,
    bytes: u32,
    /// The same for the size estimate.
    pub column: size::Column,
}

impl Samples {
    /// The elements that `search` finds.
    pub fn elements(&self, search: &Search) -> Option<Elements> {
        let name = format!(
            "{} {} {} {}",
            search.relation.to_u32(),
            search.class.to_u32(),
            printed(search.key),
            printed(search.predicate)
        );
        if let Some(known) = self.elements.borrow().get(&name) {
            return known.clone();
        }
        let found = elements::sample(search);
        self.elements.borrow_mut().insert(name, found.clone());
        found
    }

    /// Statistics of an expression key on `relation`; None when they cannot be told.
    pub fn statistics(&self, relation: &Relation, key: &KeyPart) -> Option<Rc<Statistics>> {
        let name = format!("{} {} {}", relation.oid.to_u32(), key.collation.to_u32(), printed(key.expression));
        if let Some(known) = self.statistics.borrow().get(&name) {
            return known.clone();
        }
        // SAFETY: inside a subtransaction that is rolled back.
        let found = planner::with_catalog_path(|| unsafe { compute(relation, key) }).flatten().map(Rc::new);
        self.statistics.borrow_mut().insert(name, found.clone());
        found
    }
}

fn printed(node: *mut pg_sys::Node) -> String {
    // SAFETY: NULL or a valid node tree; the text is palloc'd.
    unsafe { ident::owned(pg_sys::nodeToString(node.cast())).unwrap_or_default() }
}

impl Hypothetical {
    /// Hands the planner the statistics of key `number` (from 1), if there are any.
    ///
    /// # Safety
    /// Called by the planner's hook for statistics of this index: `data` is the planner's, and the current memory context too.
    pub unsafe fn serve_statistics(
        &self,
        root: *mut pg_sys::PlannerInfo,
        number: i16,
        data: *mut pg_sys::VariableStatData,
    ) {
        let key = usize::try_from(number - 1).ok().and_then(|at| self.statistics.get(at));
        let Some(statistics) = key.and_then(Option::as_ref) else { return };
        // SAFETY: the tuple is a copy of its own, freed by the function given with it; arrays of the planner are indexed by
        // range table index.
        unsafe {
            let tuple = pg_sys::palloc0(size_of::<pg_sys::HeapTupleData>()).cast::<pg_sys::HeapTupleData>();
            let words = pg_sys::palloc(statistics.row.len() * size_of::<u64>()).cast::<u64>();
            ptr::copy_nonoverlapping(statistics.row.as_ptr(), words, statistics.row.len());
            (*tuple).t_len = statistics.bytes;
            (*tuple).t_data = words.cast();
            (*data).statsTuple = tuple;
            (*data).freefunc = Some(free_tuple);
            // As for a real index: whoever may read the whole table may have its statistics compared by any operator.
            let role = pg_sys::GetUserId();
            let mode = pg_sys::AclMode::from(pg_sys::ACL_SELECT);
            let readable = pg_sys::pg_class_aclcheck(self.relation, role, mode) == pg_sys::AclResult::ACLCHECK_OK;
            let hides_rows = (*data).rel.as_ref().is_some_and(|rel| {
                let entry = *(*root).simple_rte_array.add(rel.relid as usize);
                !(*entry).securityQuals.is_null()
            });
            (*data).acl_ok = readable && !hides_rows;
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn free_tuple(tuple: pg_sys::HeapTuple) {
    // SAFETY: made by `serve_statistics`.
    unsafe {
        pg_sys::pfree((*tuple).t_data.cast());
        pg_sys::pfree(tuple.cast());
    }
}

/// A value of the expression: how often, and how many bounds of the column's histogram it stands for.
struct Item {
    value: pg_sys::Datum,
    share: f64,
    /// Rank of the input among the inputs.
    input: f64,
    bounds: u32,
    is_common: bool,
}

/// # Safety
/// Inside a subtransaction that is rolled back.
unsafe fn compute(relation: &Relation, key: &KeyPart) -> Option<Statistics> {
    // SAFETY: as promised; what is allocated lives until the end of the subtransaction.
    unsafe {
        if !evaluate::is_trusted(key.expression) {
            return None;
        }
        let column = only_column(key.expression).and_then(|number| relation.column(number))?;
        let flags = pg_sys::TYPECACHE_CMP_PROC_FINFO | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_EQ_OPR;
        let output = pg_sys::lookup_type_cache(key.type_oid, flags as i32);
        let of_input = pg_sys::lookup_type_cache(column.type_oid, flags as i32);
        if (*output).cmp_proc == pg_sys::InvalidOid || (*of_input).cmp_proc == pg_sys::InvalidOid {
            return None;
        }
        let values = relation.values(column)?;
        evaluate::restrict();
        let table = pg_sys::try_relation_open(relation.oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        if table.is_null() {
            return None;
        }
        let descriptor = pg_sys::CreateTupleDescCopy((*table).rd_att);
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let evaluator = Evaluator::new(descriptor, key.expression);

        let rest = (1.0 - values.null_share - values.common.iter().map(|(_, share)| share).sum::<f64>()).max(0.0);
        let each = rest / (values.bounds.len().max(1)) as f64;
        let mut inputs: Vec<(pg_sys::Datum, f64, bool)> =
            values.common.iter().map(|(value, share)| (*value, *share, true)).collect();
        inputs.extend(values.bounds.iter().map(|value| (*value, each, false)));
        sort(&mut inputs, of_input, column.collation, |input| input.0);
        let mut items = Vec::with_capacity(inputs.len());
        let mut null_share = 0.0;
        for (rank, (input, share, is_common)) in inputs.into_iter().enumerate() {
            evaluator.set(column.number, Some(input));
            match evaluator.value() {
                None => null_share += share,
                Some(value) => {
                    items.push(Item { value, share, input: rank as f64, bounds: u32::from(!is_common), is_common })
                }
            }
        }
        evaluator.set(column.number, None);
        match evaluator.value() {
            None => null_share += values.null_share,
            Some(value) if values.null_share > 0.0 => {
                items.push(Item { value, share: values.null_share, input: 0.0, bounds: 0, is_common: true });
            }
            Some(_) => {}
        }
        if items.is_empty() {
            return None;
        }
        let correlation =
            values.correlation.map(|of_column| of_column * rank_correlation(&mut items, output, key.collation));
        let groups = grouped(items, output, key.collation);
        let distinct = distinct_of(&groups, values.distinct, values.common.len(), rest * relation.tuples);
        Some(Form { relation, key, output, groups, null_share, distinct, correlation }.finish())
    }
}

/// The column that an expression reads, if it is just one.
///
/// # Safety
/// `expression` is valid.
unsafe fn only_column(expression: *mut pg_sys::Node) -> Option<i16> {
    let mut set = ptr::null_mut();
    // SAFETY: attribute numbers in the set are offset so that system columns, which are negative, fit.
    unsafe {
        pg_sys::pull_varattnos(expression, 1, &mut set);
        let member = pg_sys::bms_next_member(set, -1);
        let number = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
        (member >= 0 && number > 0 && pg_sys::bms_num_members(set) == 1).then_some(number as i16)
    }
}

/// # Safety
/// `cache` has the type's comparison function; values are of that type.
unsafe fn sort<T>(
    list: &mut [T],
    cache: *mut pg_sys::TypeCacheEntry,
    collation: pg_sys::Oid,
    value: impl Fn(&T) -> pg_sys::Datum,
) {
    // SAFETY: as promised.
    list.sort_by(|a, b| unsafe { compare(cache, collation, value(a), value(b)) });
}

/// # Safety
/// As for [`sort`].
unsafe fn compare(
    cache: *mut pg_sys::TypeCacheEntry,
    collation: pg_sys::Oid,
    a: pg_sys::Datum,
    b: pg_sys::Datum,
) -> std::cmp::Ordering {
    // SAFETY: as promised; the function returns an int4.
    let order = unsafe { pg_sys::FunctionCall2Coll(&raw mut (*cache).cmp_proc_finfo, collation, a, b) };
    (order.value() as i32).cmp(&0)
}

/// How the order of the values follows that of the inputs, -1 to 1. Sorts the items by value.
///
/// # Safety
/// As for [`sort`].
unsafe fn rank_correlation(items: &mut [Item], cache: *mut pg_sys::TypeCacheEntry, collation: pg_sys::Oid) -> f64 {
    // SAFETY: as promised; a stable sort keeps equal values in the order of their inputs.
    unsafe { sort(items, cache, collation, |item| item.value) };
    let count = items.len() as f64;
    if count < 2.0 {
        return 1.0;
    }
    let mean = items.iter().map(|item| item.input).sum::<f64>() / count;
    let (mut both, mut inputs, mut ranks) = (0.0, 0.0, 0.0);
    for (rank, item) in items.iter().enumerate() {
        let (rank, input) = (rank as f64 - (count - 1.0) / 2.0, item.input - mean);
        both += rank * input;
        inputs += input * input;
        ranks += rank * rank;
    }
    let scale = (inputs * ranks).sqrt();
    if scale > 0.0 {
        (both / scale).clamp(-1.0, 1.0)
    } else {
        1.0
    }
}

/// Sums up equal values of a sorted list.
///
/// # Safety
/// As for [`sort`].
unsafe fn grouped(items: Vec<Item>, cache: *mut pg_sys::TypeCacheEntry, collation: pg_sys::Oid) -> Vec<Item> {
    let mut groups: Vec<Item> = Vec::new();
    for item in items {
        // SAFETY: as promised.
        let equal = |last: &Item| unsafe { compare(cache, collation, last.value, item.value).is_eq() };
        match groups.last_mut().filter(|last| equal(last)) {
            Some(last) => {
                last.share += item.share;
                last.bounds += item.bounds;
                last.is_common |= item.is_common;
            }
            None => groups.push(item),
        }
    }
    groups
}

/// Distinct values: those known from common values alone, and for the others the estimator of Haas and Stokes (1998), which
/// ANALYZE uses, over the bounds of the histogram; never more than the column has.
fn distinct_of(groups: &[Item], column_distinct: f64, common: usize, rest_rows: f64) -> f64 {
    let only_common = groups.iter().filter(|group| group.bounds == 0).count() as f64;
    let bounds: f64 = groups.iter().map(|group| f64::from(group.bounds)).sum();
    if bounds < 1.0 {
        return only_common.max(1.0);
    }
    let seen = groups.iter().filter(|group| group.bounds > 0).count() as f64;
    let once = groups.iter().filter(|group| group.bounds == 1 && !group.is_common).count() as f64;
    let of_column = (column_distinct - common as f64).max(seen);
    let estimate = bounds * seen / (bounds - once + once * bounds / rest_rows.max(bounds));
    only_common + estimate.clamp(seen, of_column)
}

/// What goes into a `pg_statistic` row.
struct Form<'a> {
    relation: &'a Relation,
    key: &'a KeyPart,
    output: *mut pg_sys::TypeCacheEntry,
    groups: Vec<Item>,
    null_share: f64,
    distinct: f64,
    correlation: Option<f64>,
}

impl Form<'_> {
    /// # Safety
    /// As for [`compute`].
    unsafe fn finish(self) -> Statistics {
        let average = (1.0 - self.null_share) / self.distinct.max(1.0);
        let all_known = self.groups.len() as f64 >= self.distinct.floor();
        let is_common =
            |group: &Item| group.is_common || all_known || (group.bounds > 1 && group.share >= COMMON_RATIO * average);
        let (mut common, bounds): (Vec<&Item>, Vec<&Item>) = self.groups.iter().partition(|group| is_common(group));
        common.sort_by(|a, b| b.share.total_cmp(&a.share));
        common.truncate(COMMON_MAX);
        // SAFETY: as promised; values are of the output type.
        unsafe {
            let widths: Vec<(u32, f64)> = if (*self.output).typlen == -1 {
                self.groups.iter().map(|group| (relation::stored_width(group.value), group.share)).collect()
            } else {
                Vec::new()
            };
            let total: f64 = widths.iter().map(|(_, share)| share).sum();
            let width = match (*self.output).typlen {
                -1 if total > 0.0 => widths.iter().map(|(width, share)| f64::from(*width) * share).sum::<f64>() / total,
                length if length > 0 => f64::from(length),
                _ => f64::from(pg_sys::get_typavgwidth(self.key.type_oid, -1)),
            };
            let align = if (*self.output).typlen == -1 && width < 127.0 {
                1.0
            } else {
                relation::alignment_bytes((*self.output).typalign as u8)
            };
            let column = size::Column {
                width,
                align,
                widths,
                null_fraction: self.null_share,
                distinct: self.distinct,
                common: common.iter().map(|group| group.share).collect(),
            };
            let (row, bytes) = self.row(&common, &bounds, width);
            Statistics { row, bytes, column }
        }
    }

    /// # Safety
    /// As for [`compute`].
    unsafe fn row(&self, common: &[&Item], bounds: &[&Item], width: f64) -> (Vec<u64>, u32) {
        let mut values = [pg_sys::Datum::from(0); COLUMNS];
        let mut nulls = [false; COLUMNS];
        nulls[KINDS + 3 * SLOTS..].fill(true);
        let float = |value: f64| pg_sys::Datum::from((value as f32).to_bits() as usize);
        let rows = self.relation.tuples.max(1.0);
        let distinct =
            if self.distinct > SCALING_SHARE * rows { -(self.distinct / rows).min(1.0) } else { self.distinct };
        values[0] = pg_sys::Datum::from(self.relation.oid);
        values[3] = float(self.null_share);
        values[4] = pg_sys::Datum::from(width.round() as i32);
        values[5] = float(distinct);
        let mut slot = 0;
        // SAFETY: the arrays have as many elements as are said, and a place for every column of the descriptor; the tuple is
        // copied before the descriptor is closed.
        unsafe {
            let mut add = |kind: u32, operator: pg_sys::Oid, numbers: &[f64], list: &[&Item]| {
                values[KINDS + slot] = pg_sys::Datum::from(kind as i16);
                values[KINDS + SLOTS + slot] = pg_sys::Datum::from(operator);
                values[KINDS + 2 * SLOTS + slot] = pg_sys::Datum::from(self.key.collation);
                if !numbers.is_empty() {
                    let mut floats: Vec<pg_sys::Datum> = numbers.iter().map(|number| float(*number)).collect();
                    let count = floats.len() as i32;
                    let array =
                        pg_sys::construct_array(floats.as_mut_ptr(), count, pg_sys::FLOAT4OID, 4, true, b'i' as _);
                    values[KINDS + 3 * SLOTS + slot] = pg_sys::Datum::from(array as usize);
                    nulls[KINDS + 3 * SLOTS + slot] = false;
                }
                if !list.is_empty() {
                    let mut data: Vec<pg_sys::Datum> = list.iter().map(|item| item.value).collect();
                    let count = data.len() as i32;
                    let (length, by_value, align) =
                        ((*self.output).typlen, (*self.output).typbyval, (*self.output).typalign);
                    let array = pg_sys::construct_array(
                        data.as_mut_ptr(),
                        count,
                        self.key.type_oid,
                        i32::from(length) as _,
                        by_value,
                        align,
                    );
                    values[KINDS + 4 * SLOTS + slot] = pg_sys::Datum::from(array as usize);
                    nulls[KINDS + 4 * SLOTS + slot] = false;
                }
                slot += 1;
            };
            if !common.is_empty() {
                let shares: Vec<f64> = common.iter().map(|item| item.share).collect();
                add(pg_sys::STATISTIC_KIND_MCV, (*self.output).eq_opr, &shares, common);
            }
            if bounds.len() > 1 {
                add(pg_sys::STATISTIC_KIND_HISTOGRAM, (*self.output).lt_opr, &[], bounds);
            }
            if let Some(correlation) = self.correlation {
                add(pg_sys::STATISTIC_KIND_CORRELATION, (*self.output).lt_opr, &[correlation], &[]);
            }
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let catalog = pg_sys::table_open(pg_sys::StatisticRelationId, lock);
            let tuple = pg_sys::heap_form_tuple((*catalog).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::table_close(catalog, lock);
            let bytes = (*tuple).t_len;
            let mut row = vec![0u64; (bytes as usize).div_ceil(size_of::<u64>())];
            ptr::copy_nonoverlapping((*tuple).t_data.cast::<u8>(), row.as_mut_ptr().cast(), bytes as usize);
            (row, bytes)
        }
    }
}

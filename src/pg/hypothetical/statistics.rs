//! Statistics of expression keys. An expression has none before an index on it exists and was analysed; without them the
//! planner assumes that an equality keeps half a percent of the rows. Its values for some rows of the table say more; where
//! these cannot be read (a partitioned table, a locked one, one that the caller may not read), its values for the column's
//! own statistics: common values become common values, bounds of the histogram become a sample. Of `tsvector` the common
//! words are noted, as ANALYZE does.
//!
//! Computed once for each expression of a call, outside of the planner; served to it as a `pg_statistic` row. Reads and locks
//! as `crate::pg::sample` does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr;
use std::rc::Rc;

use perf_core::index::size;
use pgrx::{pg_guard, pg_sys};

use super::statistics_row::Row;
use super::statistics_values::{compare, haas_stokes, of_column, of_rows, sort, Item};
use super::{Hypothetical, KeyPart};
use crate::pg::elements::{self, Elements, Search};
use crate::pg::evaluate;
use crate::pg::relation::{self, Relation};
use crate::pg::{ident, planner};

/// Common values kept, at most: the server's own default.
const COMMON_MAX: usize = 100;
/// An expression with at least this many distinct values for each of the column's is one to one.
const ONE_TO_ONE: f64 = 0.98;
/// Bounds of a histogram, at most: the server's own default.
const BOUNDS_MAX: usize = 101;
/// ANALYZE keeps words that occur in this many rows for each word of a row: its accuracy, for a statistics target of 100.
const WORD_SHARE_MIN: f64 = 9.0 / 144_285.0;
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
        let found = if key.type_oid == pg_sys::TSVECTOROID {
            self.of_words(relation, key)
        } else {
            // SAFETY: inside a subtransaction that is rolled back.
            planner::with_catalog_path(|| unsafe { compute(relation, key) }).flatten()
        }
        .map(Rc::new);
        self.statistics.borrow_mut().insert(name, found.clone());
        found
    }
}

impl Samples {
    /// Statistics of a `tsvector`: its common words.
    fn of_words(&self, relation: &Relation, key: &KeyPart) -> Option<Statistics> {
        let elements = self.elements(&Search {
            relation: relation.oid,
            key: key.expression,
            predicate: ptr::null_mut(),
            type_oid: key.type_oid,
            class: relation::default_opclass(key.type_oid, pg_sys::GIN_AM_OID)?,
            collation: key.collation,
            several: false,
        })?;
        let present = (1.0 - elements.null_share).max(f64::MIN_POSITIVE);
        let mut words: Vec<(Vec<u8>, f64)> = elements
            .common
            .into_iter()
            .map(|(word, share)| (word, share / present))
            .filter(|(_, share)| *share > elements.per_row / present * WORD_SHARE_MIN)
            .collect();
        // As the planner looks them up: the shorter first.
        words.sort_by(|a, b| a.0.len().cmp(&b.0.len()).then_with(|| a.0.cmp(&b.0)));
        // SAFETY: inside a subtransaction that is rolled back; texts are allocated there.
        planner::with_catalog_path(|| unsafe {
            let output = pg_sys::lookup_type_cache(pg_sys::TEXTOID, pg_sys::TYPECACHE_EQ_OPR as i32);
            let data: Vec<pg_sys::Datum> = words
                .iter()
                .map(|(word, _)| {
                    let text = pg_sys::cstring_to_text_with_len(word.as_ptr().cast(), word.len() as i32);
                    pg_sys::Datum::from(text as usize)
                })
                .collect();
            let mut shares: Vec<f64> = words.iter().map(|(_, share)| *share).collect();
            let least = shares.iter().copied().fold(1.0, f64::min);
            let most = shares.iter().copied().fold(0.0, f64::max);
            shares.extend([least, most]);
            let width = f64::from(pg_sys::get_typavgwidth(key.type_oid, -1)).max(elements.per_row * 10.0);
            let mut row = Row::new(relation, elements.null_share, width, -1.0);
            if !data.is_empty() {
                let collation = pg_sys::DEFAULT_COLLATION_OID;
                row.add(pg_sys::STATISTIC_KIND_MCELEM, (*output).eq_opr, collation, &shares, output, data);
            }
            let column = size::Column {
                width,
                align: 4.0,
                widths: Vec::new(),
                null_fraction: elements.null_share,
                distinct: relation.tuples.max(1.0),
                common: Vec::new(),
            };
            let (row, bytes) = row.finish();
            Statistics { row, bytes, column }
        })
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

/// # Safety
/// Inside a subtransaction that is rolled back.
unsafe fn compute(relation: &Relation, key: &KeyPart) -> Option<Statistics> {
    // SAFETY: as promised; what is allocated lives until the end of the subtransaction.
    unsafe {
        let flags = pg_sys::TYPECACHE_CMP_PROC_FINFO | pg_sys::TYPECACHE_LT_OPR | pg_sys::TYPECACHE_EQ_OPR;
        let output = pg_sys::lookup_type_cache(key.type_oid, flags as i32);
        if (*output).cmp_proc == pg_sys::InvalidOid || !evaluate::is_trusted(key.expression) {
            return None;
        }
        evaluate::restrict();
        let rows = of_rows(relation, key);
        // Where values and inputs are one to one, what ANALYZE knows of the column, from more rows, is as true of the values.
        let one_to_one = rows.as_ref().is_some_and(|rows| rows.preserved >= ONE_TO_ONE);
        let column = if one_to_one || rows.is_none() { of_column(relation, key, flags as i32) } else { None };
        let mut found = column.or(rows)?;
        if found.items.is_empty() {
            return None;
        }
        let order = rank_correlation(&mut found.items, output, key.collation);
        let groups = grouped(found.items, output, key.collation);
        let distinct = match found.inputs {
            // The column's own number of distinct values corrects what a sample of this size gets wrong of it.
            Some(inputs) => {
                let estimate = distinct_of(&groups, f64::MAX, 0, found.rest_rows);
                (found.column_distinct * estimate / inputs.estimate(found.rest_rows)).clamp(1.0, found.column_distinct)
            }
            None => distinct_of(&groups, found.column_distinct, found.column_common, found.rest_rows),
        };
        let correlation = found.correlation.map(|of_column| of_column * order);
        let sampled = f64::from(groups.iter().map(|group| group.bounds).sum::<u32>());
        Some(
            Form { relation, key, output, groups, null_share: found.null_share, distinct, correlation, sampled }
                .finish(),
        )
    }
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

/// Distinct values: those known from common values alone, and for the others an estimate from the bounds of the histogram;
/// never more than the column has.
fn distinct_of(groups: &[Item], column_distinct: f64, common: usize, rest_rows: f64) -> f64 {
    let only_common = groups.iter().filter(|group| group.bounds == 0).count() as f64;
    let bounds: f64 = groups.iter().map(|group| f64::from(group.bounds)).sum();
    if bounds < 1.0 {
        return only_common.max(1.0);
    }
    let seen = groups.iter().filter(|group| group.bounds > 0).count() as f64;
    let once = groups.iter().filter(|group| group.bounds == 1 && !group.is_common).count() as f64;
    let of_column = (column_distinct - common as f64).max(seen);
    only_common + haas_stokes(bounds, seen, once, rest_rows).clamp(seen, of_column)
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
    /// Values that were sampled.
    sampled: f64,
}

impl Form<'_> {
    /// # Safety
    /// As for [`compute`].
    unsafe fn finish(self) -> Statistics {
        let average = (1.0 - self.null_share) / self.distinct.max(1.0);
        let all_known = self.groups.len() <= COMMON_MAX && self.groups.len() as f64 >= self.distinct.floor();
        // More frequent than the average one beyond chance: two standard deviations, as ANALYZE has it.
        let expected = self.sampled * average;
        let frequent = expected + 2.0 * expected.sqrt() + 0.5;
        let is_common =
            |group: &Item| group.is_common || all_known || (group.bounds > 1 && f64::from(group.bounds) > frequent);
        let (mut common, bounds): (Vec<&Item>, Vec<&Item>) = self.groups.iter().partition(|group| is_common(group));
        let bounds = quantiles(&bounds);
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
            let data = |list: &[&Item]| list.iter().map(|item| item.value).collect::<Vec<_>>();
            let rows = self.relation.tuples.max(1.0);
            let distinct =
                if self.distinct > SCALING_SHARE * rows { -(self.distinct / rows).min(1.0) } else { self.distinct };
            let mut row = Row::new(self.relation, self.null_share, width, distinct);
            let collation = self.key.collation;
            if !common.is_empty() {
                let (kind, operator) = (pg_sys::STATISTIC_KIND_MCV, (*self.output).eq_opr);
                row.add(kind, operator, collation, &column.common, self.output, data(&common));
            }
            let less = (*self.output).lt_opr;
            if bounds.len() > 1 {
                row.add(pg_sys::STATISTIC_KIND_HISTOGRAM, less, collation, &[], self.output, data(&bounds));
            }
            if let Some(correlation) = self.correlation {
                let kind = pg_sys::STATISTIC_KIND_CORRELATION;
                row.add(kind, less, collation, &[correlation], self.output, Vec::new());
            }
            let (row, bytes) = row.finish();
            Statistics { row, bytes, column }
        }
    }
}

/// As many bounds as a histogram has, so that about as many values lie between any two.
fn quantiles<'a>(groups: &[&'a Item]) -> Vec<&'a Item> {
    let total: f64 = groups.iter().map(|group| f64::from(group.bounds.max(1))).sum();
    if total <= BOUNDS_MAX as f64 {
        return groups.iter().flat_map(|group| std::iter::repeat_n(*group, group.bounds.max(1) as usize)).collect();
    }
    let mut result = Vec::with_capacity(BOUNDS_MAX);
    let (mut at, mut passed) = (0, 0.0);
    for bound in 0..BOUNDS_MAX {
        let wanted = (total - 1.0) * bound as f64 / (BOUNDS_MAX - 1) as f64;
        while let Some(group) = groups.get(at).filter(|group| passed + f64::from(group.bounds.max(1)) <= wanted) {
            passed += f64::from(group.bounds.max(1));
            at += 1;
        }
        result.extend(groups.get(at.min(groups.len() - 1)).copied());
    }
    result
}

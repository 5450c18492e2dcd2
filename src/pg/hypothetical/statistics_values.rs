//! Values of an expression key, before statistics are made of them: of some rows of the table, or of what is known of the
//! column. Called by `super::statistics`; reads and locks as `crate::pg::sample` does.

use std::collections::HashMap;
use std::ptr;

use pgrx::pg_sys;

use super::KeyPart;
use crate::pg::evaluate::Evaluator;
use crate::pg::planner::Deadline;
use crate::pg::relation::Relation;
use crate::pg::{elements, sample};

/// Longer values are counted and not looked at: that would take reading and copying too much. The first is that of ANALYZE.
const VALUE_BYTES_MAX: usize = 1_024;
const INPUT_BYTES_MAX: usize = 65_536;

/// A value of the expression: how often, and how many bounds of the column's histogram it stands for.
pub struct Item {
    pub value: pg_sys::Datum,
    pub share: f64,
    /// Rank of the input among the inputs.
    pub input: f64,
    pub bounds: u32,
    pub is_common: bool,
}

/// Values of an expression, before they are counted.
pub struct Found {
    pub items: Vec<Item>,
    pub null_share: f64,
    /// Correlation of the inputs' order with that of the rows.
    pub correlation: Option<f64>,
    /// The most distinct values there can be, and how many of them are common values of the column.
    pub column_distinct: f64,
    pub column_common: usize,
    /// Rows that the bounds stand for.
    pub rest_rows: f64,
    /// The values of the only column in the same rows.
    pub inputs: Option<Inputs>,
    /// Distinct values for each of theirs.
    pub preserved: f64,
}

/// How often values of a column occur in a sample.
#[derive(Default)]
pub struct Inputs {
    counts: HashMap<u64, u32>,
    sampled: u32,
}

impl Inputs {
    fn add(&mut self, hash: u64) {
        *self.counts.entry(hash).or_default() += 1;
        self.sampled += 1;
    }

    /// Distinct values in all rows.
    pub fn estimate(&self, rows: f64) -> f64 {
        let once = self.counts.values().filter(|count| **count == 1).count() as f64;
        haas_stokes(f64::from(self.sampled), self.counts.len() as f64, once, rows)
    }
}

/// The estimator of Haas and Stokes (1998), which ANALYZE uses: of `sampled` values `seen` are distinct, `once` occur once.
pub fn haas_stokes(sampled: f64, seen: f64, once: f64, rows: f64) -> f64 {
    (sampled * seen / (sampled - once + once * sampled / rows.max(sampled))).max(1.0)
}

/// Values for some rows of the table.
///
/// # Safety
/// Inside a subtransaction that is rolled back; the expression is trusted.
pub unsafe fn of_rows(relation: &Relation, key: &KeyPart) -> Option<Found> {
    // SAFETY: values are copied out of the row's memory; the expression is trusted.
    unsafe {
        let outer = pg_sys::CurrentMemoryContext;
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(key.type_oid, &mut length, &mut by_value);
        if length < -1 {
            return None;
        }
        sample::with_table(relation.oid, &[key.expression], |table| {
            let evaluator = Evaluator::new(pg_sys::CreateTupleDescCopyConstr((*table).rd_att), key.expression);
            let mut wide = 0u64;
            let mut values: Vec<(u64, pg_sys::Datum)> = Vec::new();
            let column = only_column(key.expression).and_then(|number| relation.column(number));
            let known = column.and_then(|column| Some((column, elements::Stored::of(column.type_oid)?)));
            let (mut inputs, mut outputs) = (Inputs::default(), Inputs::default());
            let stored_output = elements::Stored::of(key.type_oid)?;
            let read = sample::rows(table, |tuple| {
                evaluator.set_row(tuple);
                if let Some((input, stored)) =
                    known.as_ref().and_then(|(column, stored)| Some((evaluator.get(column.number)?, stored)))
                {
                    if stored.is_longer(input, INPUT_BYTES_MAX) {
                        wide += 1;
                        return !Deadline::has_passed();
                    }
                    inputs.add(stored.hash(input));
                }
                if let Some(value) = evaluator.value() {
                    if stored_output.is_longer(value, VALUE_BYTES_MAX) {
                        wide += 1;
                        return !Deadline::has_passed();
                    }
                    outputs.add(stored_output.hash(value));
                    let before = pg_sys::MemoryContextSwitchTo(outer);
                    let place = &(*tuple).t_self;
                    let block = u64::from(place.ip_blkid.bi_hi) << 16 | u64::from(place.ip_blkid.bi_lo);
                    let copy = match length {
                        _ if by_value => value,
                        -1 => pg_sys::Datum::from(pg_sys::pg_detoast_datum_copy(value.cast_mut_ptr()) as usize),
                        _ => {
                            let copy = pg_sys::palloc(length as usize).cast::<u8>();
                            ptr::copy_nonoverlapping(value.cast_mut_ptr::<u8>(), copy, length as usize);
                            pg_sys::Datum::from(copy as usize)
                        }
                    };
                    values.push((block << 16 | u64::from(place.ip_posid), copy));
                    pg_sys::MemoryContextSwitchTo(before);
                }
                true
            });
            if read.rows == 0 {
                return None;
            }
            // Blocks are not read in their order.
            values.sort_by_key(|(place, _)| *place);
            let share = 1.0 / f64::from(read.rows);
            let null_share = 1.0 - (values.len() as f64 + wide as f64) * share;
            let rows = relation.tuples.max(f64::from(read.rows));
            let of_column = known.map(|(column, _)| relation.size_column(column)).filter(|(_, known)| *known);
            let item = |(rank, (_, value)): (usize, (u64, pg_sys::Datum))| Item {
                value,
                share,
                input: rank as f64,
                bounds: 1,
                is_common: false,
            };
            let preserved = outputs.counts.len() as f64 / inputs.counts.len().max(1) as f64;
            Some(Found {
                items: values.into_iter().enumerate().map(item).collect(),
                null_share: null_share.clamp(0.0, 1.0),
                correlation: Some(1.0),
                column_distinct: of_column.as_ref().map_or(rows, |(column, _)| column.distinct),
                column_common: 0,
                rest_rows: rows * (1.0 - null_share),
                preserved: if of_column.is_some() { preserved } else { 0.0 },
                inputs: of_column.map(|_| inputs).filter(|inputs| inputs.sampled > 0),
            })
        })
    }
}

/// Values for the statistics of the only column.
///
/// # Safety
/// Inside a subtransaction that is rolled back; the expression is trusted.
pub unsafe fn of_column(relation: &Relation, key: &KeyPart, flags: i32) -> Option<Found> {
    // SAFETY: as promised; the descriptor is copied while the relation is open.
    unsafe {
        let column = only_column(key.expression).and_then(|number| relation.column(number))?;
        let of_input = pg_sys::lookup_type_cache(column.type_oid, flags);
        if (*of_input).cmp_proc == pg_sys::InvalidOid {
            return None;
        }
        let values = relation.values(column)?;
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        if !pg_sys::ConditionalLockRelationOid(relation.oid, lock) {
            return None;
        }
        let table = pg_sys::try_relation_open(relation.oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        if table.is_null() {
            return None;
        }
        let descriptor = pg_sys::CreateTupleDescCopyConstr((*table).rd_att);
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
                    items.push(Item { value, share, input: rank as f64, bounds: u32::from(!is_common), is_common });
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
        Some(Found {
            items,
            null_share,
            correlation: values.correlation,
            column_distinct: values.distinct,
            column_common: values.common.len(),
            rest_rows: rest * relation.tuples,
            inputs: None,
            preserved: 1.0,
        })
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
pub unsafe fn sort<T>(
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
pub unsafe fn compare(
    cache: *mut pg_sys::TypeCacheEntry,
    collation: pg_sys::Oid,
    a: pg_sys::Datum,
    b: pg_sys::Datum,
) -> std::cmp::Ordering {
    // SAFETY: as promised; the function returns an int4.
    let order = unsafe { pg_sys::FunctionCall2Coll(&raw mut (*cache).cmp_proc_finfo, collation, a, b) };
    (order.value() as i32).cmp(&0)
}

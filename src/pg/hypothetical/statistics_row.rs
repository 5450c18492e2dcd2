//! A `pg_statistic` row that is in no table: its columns are laid out as PostgreSQL 15 to 18 have them. Locks the catalog in
//! ACCESS SHARE for the time of one call.

use std::ptr;

use pgrx::pg_sys;

use crate::pg::relation::Relation;

/// Columns of pg_statistic, and the first of its groups of five slots.
const SLOTS: usize = 5;
const KINDS: usize = 6;
const COLUMNS: usize = KINDS + 5 * SLOTS;

/// A `pg_statistic` row under construction.
pub struct Row {
    values: [pg_sys::Datum; COLUMNS],
    nulls: [bool; COLUMNS],
    slot: usize,
}

impl Row {
    /// A row without slots. A negative `distinct` is a share of the rows.
    pub fn new(relation: &Relation, null_share: f64, width: f64, distinct: f64) -> Self {
        let mut row = Row { values: [pg_sys::Datum::from(0); COLUMNS], nulls: [false; COLUMNS], slot: 0 };
        row.nulls[KINDS + 3 * SLOTS..].fill(true);
        row.values[0] = pg_sys::Datum::from(relation.oid);
        row.values[3] = float(null_share);
        row.values[4] = pg_sys::Datum::from(width.round() as i32);
        row.values[5] = float(distinct);
        row
    }

    /// Fills the next slot; there are five.
    ///
    /// # Safety
    /// `data` is of the type `of`; allocates in the current context.
    pub unsafe fn add(
        &mut self,
        kind: u32,
        operator: pg_sys::Oid,
        collation: pg_sys::Oid,
        numbers: &[f64],
        of: *mut pg_sys::TypeCacheEntry,
        mut data: Vec<pg_sys::Datum>,
    ) {
        let at = KINDS + self.slot;
        self.slot += 1;
        self.values[at] = pg_sys::Datum::from(kind as i16);
        self.values[at + SLOTS] = pg_sys::Datum::from(operator);
        self.values[at + 2 * SLOTS] = pg_sys::Datum::from(collation);
        // SAFETY: the arrays have as many elements as are said.
        unsafe {
            if !numbers.is_empty() {
                let mut floats: Vec<pg_sys::Datum> = numbers.iter().map(|number| float(*number)).collect();
                let count = floats.len() as i32;
                let array = pg_sys::construct_array(floats.as_mut_ptr(), count, pg_sys::FLOAT4OID, 4, true, b'i' as _);
                self.values[at + 3 * SLOTS] = pg_sys::Datum::from(array as usize);
                self.nulls[at + 3 * SLOTS] = false;
            }
            if !data.is_empty() {
                let (count, length) = (data.len() as i32, i32::from((*of).typlen));
                let (by_value, align) = ((*of).typbyval, (*of).typalign);
                let array = pg_sys::construct_array(data.as_mut_ptr(), count, (*of).type_id, length, by_value, align);
                self.values[at + 4 * SLOTS] = pg_sys::Datum::from(array as usize);
                self.nulls[at + 4 * SLOTS] = false;
            }
        }
    }

    /// The tuple with its header in whole words, and its length in bytes.
    ///
    /// # Safety
    /// The values are alive.
    pub unsafe fn finish(mut self) -> (Vec<u64>, u32) {
        // SAFETY: there is a value for every column of the descriptor; the tuple is copied before the catalog is closed.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let catalog = pg_sys::table_open(pg_sys::StatisticRelationId, lock);
            let tuple = pg_sys::heap_form_tuple((*catalog).rd_att, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
            pg_sys::table_close(catalog, lock);
            let bytes = (*tuple).t_len;
            let mut row = vec![0u64; (bytes as usize).div_ceil(size_of::<u64>())];
            ptr::copy_nonoverlapping((*tuple).t_data.cast::<u8>(), row.as_mut_ptr().cast(), bytes as usize);
            (row, bytes)
        }
    }
}

fn float(value: f64) -> pg_sys::Datum {
    pg_sys::Datum::from((value as f32).to_bits() as usize)
}

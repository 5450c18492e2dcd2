//! What the advisor must know of a relation: its columns, their default B-tree operator classes, their statistics, its
//! rows. Reads the syscache and the relation's block count; locks the relation in ACCESS SHARE for the time of one call
//! and never waits for that lock.

use std::ffi::CStr;

use perf_core::index::size;
use pgrx::pg_sys;

use super::ident;
use super::lock::Shared;

/// Why a relation cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It does not exist any more.
    Gone,
    /// Somebody holds a lock that excludes readers.
    Locked,
    /// It is not a table, partitioned table or materialized view.
    NotATable,
    /// It belongs to the system.
    System,
    /// It is temporary.
    Temporary,
    /// It is unlogged, and this is a standby: it has no files here.
    NotHere,
}

impl Unusable {
    /// Half a sentence that says why.
    pub fn describe(self) -> &'static str {
        match self {
            Unusable::Gone => "it does not exist any more",
            Unusable::Locked => "it is locked by another session",
            Unusable::NotATable => "it is not a table or materialized view",
            Unusable::System => "it belongs to the system",
            Unusable::Temporary => "it is temporary",
            Unusable::NotHere => "it is unlogged, and this server is a standby",
        }
    }
}

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Attribute number.
    pub number: i16,
    /// Name, unquoted.
    pub name: String,
    /// Type.
    pub type_oid: pg_sys::Oid,
    /// Type modifier.
    pub typmod: i32,
    /// Collation, or zero.
    pub collation: pg_sys::Oid,
    /// Computed when read: has no storage, so no index.
    pub is_virtual: bool,
    /// `attlen`.
    length: i16,
    /// `attalign`.
    alignment: u8,
}

/// One relation.
#[derive(Clone, Debug)]
pub struct Relation {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Owner.
    pub owner: pg_sys::Oid,
    /// Schema, unquoted.
    pub schema: String,
    /// Name, unquoted.
    pub name: String,
    /// `relkind`: `r`, `p` or `m`.
    pub kind: u8,
    /// Rows, as the planner would estimate them now.
    pub tuples: f64,
    /// Its blocks.
    pub pages: f64,
    /// Live columns.
    pub columns: Vec<Column>,
}

/// What the statistics hold of a column. Values live in the memory context of the call that read them.
pub struct Values {
    /// Common values with their share of all rows.
    pub common: Vec<(pg_sys::Datum, f64)>,
    /// Bounds of the histogram of the others.
    pub bounds: Vec<pg_sys::Datum>,
    /// Share of NULLs.
    pub null_share: f64,
    /// Distinct values that are not NULL.
    pub distinct: f64,
    /// Correlation between the order of the values and that of the rows.
    pub correlation: Option<f64>,
}

/// What an operator class is for.
#[derive(Clone, Copy, Debug)]
pub struct Opclass {
    /// Its family.
    pub family: pg_sys::Oid,
    /// The type it takes.
    pub input: pg_sys::Oid,
    /// The type it stores; zero when that is the same.
    pub stored: pg_sys::Oid,
}

impl Relation {
    /// Reads a relation; refuses what no index should be recommended on.
    pub fn read(oid: pg_sys::Oid) -> Result<Relation, Unusable> {
        let Some(_lock) = Shared::try_take(oid) else { return Err(Unusable::Locked) };
        // SAFETY: plain syscache calls; the relation is opened only under the lock just taken and closed before it is given
        // back; the tuple descriptor is used while the relation is open.
        unsafe {
            let relation = pg_sys::try_relation_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
            if relation.is_null() {
                return Err(Unusable::Gone);
            }
            let class = (*relation).rd_rel;
            let kind = (*class).relkind as u8;
            let result = if !matches!(kind, b'r' | b'p' | b'm') {
                Err(Unusable::NotATable)
            } else if oid.to_u32() < pg_sys::FirstNormalObjectId || pg_sys::IsSystemRelation(relation) {
                Err(Unusable::System)
            } else if (*class).relpersistence as u8 == b't' {
                Err(Unusable::Temporary)
            } else if (*class).relpersistence as u8 == b'u' && pg_sys::RecoveryInProgress() {
                Err(Unusable::NotHere)
            } else {
                Relation::from_open(oid, kind, relation)
            };
            pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            result
        }
    }

    /// # Safety
    /// `relation` is open and locked.
    unsafe fn from_open(oid: pg_sys::Oid, kind: u8, relation: pg_sys::Relation) -> Result<Relation, Unusable> {
        let (mut pages, mut tuples, mut visible) = (0u32, 0f64, 0f64);
        // SAFETY: the relation is open.
        let owner = unsafe { (*(*relation).rd_rel).relowner };
        let mut columns = Vec::new();
        // SAFETY: the relation is open; the out-parameters live through the call; PgTupleDesc holds its own reference.
        unsafe {
            if kind == b'p' {
                // Has no storage: what ANALYZE noted.
                tuples = f64::from((*(*relation).rd_rel).reltuples.max(0.0));
            } else {
                pg_sys::estimate_rel_size(relation, std::ptr::null_mut(), &mut pages, &mut tuples, &mut visible);
            }
            for attribute in pgrx::PgTupleDesc::from_pg_copy((*relation).rd_att).iter() {
                if !attribute.attisdropped {
                    columns.push(Column {
                        number: attribute.attnum,
                        name: ident::from_server(CStr::from_ptr(attribute.attname.data.as_ptr())),
                        type_oid: attribute.atttypid,
                        typmod: attribute.atttypmod,
                        collation: attribute.attcollation,
                        is_virtual: attribute.attgenerated as u8 == b'v',
                        length: attribute.attlen,
                        alignment: attribute.attalign as u8,
                    });
                }
            }
        }
        let (schema, name) = ident::relation_parts(oid).ok_or(Unusable::Gone)?;
        Ok(Relation { oid, owner, schema, name, kind, tuples, pages: f64::from(pages), columns })
    }

    /// The quoted, qualified name.
    pub fn qualified(&self) -> String {
        ident::qualified(&self.schema, &self.name)
    }

    /// A column by attribute number.
    pub fn column(&self, number: i16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// A column by name.
    pub fn column_named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The statistics of a column: of all partitions when it is partitioned, or whatever there is.
    ///
    /// # Safety
    /// Needs a transaction; the result is NULL or must be released.
    unsafe fn statistics(&self, column: &Column) -> pg_sys::HeapTuple {
        // SAFETY: as promised.
        unsafe {
            let tuple = statistics_tuple(self.oid, column.number, self.kind == b'p');
            if tuple.is_null() {
                return statistics_tuple(self.oid, column.number, self.kind != b'p');
            }
            tuple
        }
    }

    /// Distinct values as a number.
    fn distinct(&self, row: &pg_sys::FormData_pg_statistic) -> f64 {
        match f64::from(row.stadistinct) {
            count if count > 0.0 => count,
            share if share < 0.0 => (-share * self.tuples).max(1.0),
            _ => self.tuples.max(1.0),
        }
    }

    /// What the statistics hold of a column; None without any.
    pub fn values(&self, column: &Column) -> Option<Values> {
        // SAFETY: the tuple comes from the syscache and is released below, after the values were copied out of it; a slot's
        // arrays are as long as it says. The values stay allocated: slots with values are not freed.
        unsafe {
            let tuple = self.statistics(column);
            if tuple.is_null() {
                return None;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_statistic>();
            let mut values = Values {
                common: Vec::new(),
                bounds: Vec::new(),
                null_share: f64::from((*row).stanullfrac),
                distinct: self.distinct(&*row),
                correlation: None,
            };
            let both = pg_sys::ATTSTATSSLOT_NUMBERS | pg_sys::ATTSTATSSLOT_VALUES;
            if let Some(slot) = slot_of(tuple, pg_sys::STATISTIC_KIND_MCV, both) {
                for at in 0..slot.nvalues.min(slot.nnumbers).max(0) as usize {
                    values.common.push((*slot.values.add(at), f64::from(*slot.numbers.add(at))));
                }
            }
            if let Some(slot) = slot_of(tuple, pg_sys::STATISTIC_KIND_HISTOGRAM, pg_sys::ATTSTATSSLOT_VALUES) {
                for at in 0..slot.nvalues.max(0) as usize {
                    values.bounds.push(*slot.values.add(at));
                }
            }
            if let Some(slot) = slot_of(tuple, pg_sys::STATISTIC_KIND_CORRELATION, pg_sys::ATTSTATSSLOT_NUMBERS) {
                if slot.nnumbers > 0 {
                    values.correlation = Some(f64::from(*slot.numbers));
                }
            }
            pg_sys::ReleaseSysCache(tuple);
            Some(values)
        }
    }

    /// What the statistics say of a column, for the size estimate; and whether there are any.
    pub fn size_column(&self, column: &Column) -> (size::Column, bool) {
        // SAFETY: the tuple comes from the syscache and is released below; its fixed part is a Form_pg_statistic.
        unsafe {
            let mut estimate = size::Column {
                width: f64::from(pg_sys::get_typavgwidth(column.type_oid, column.typmod)),
                align: alignment_bytes(column.alignment),
                widths: Vec::new(),
                null_fraction: 0.0,
                distinct: self.tuples.max(1.0),
                common: Vec::new(),
            };
            let tuple = self.statistics(column);
            if tuple.is_null() {
                if column.length > 0 {
                    estimate.width = f64::from(column.length);
                }
                return (estimate, false);
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_statistic>();
            estimate.width = f64::from((*row).stawidth);
            estimate.null_fraction = f64::from((*row).stanullfrac);
            estimate.distinct = self.distinct(&*row);
            // A B-tree keeps a name without what pads it to its length.
            let is_name = pg_sys::getBaseType(column.type_oid) == pg_sys::NAMEOID;
            let width_of: Option<unsafe fn(pg_sys::Datum) -> u32> = match column.length {
                _ if is_name => Some(name_width),
                -1 => Some(stored_width),
                _ => None,
            };
            let wanted = pg_sys::ATTSTATSSLOT_NUMBERS | pg_sys::ATTSTATSSLOT_VALUES;
            with_slot(tuple, pg_sys::STATISTIC_KIND_MCV, wanted, |slot| {
                for at in 0..slot.nnumbers.max(0) as usize {
                    let share = f64::from(*slot.numbers.add(at));
                    estimate.common.push(share);
                    if let Some(width_of) = width_of.filter(|_| (at as i32) < slot.nvalues) {
                        estimate.widths.push((width_of(*slot.values.add(at)), share));
                    }
                }
            });
            if let Some(width_of) = width_of {
                let rest = (1.0 - estimate.null_fraction - estimate.common.iter().sum::<f64>()).max(0.0);
                with_slot(tuple, pg_sys::STATISTIC_KIND_HISTOGRAM, pg_sys::ATTSTATSSLOT_VALUES, |slot| {
                    for at in 0..slot.nvalues.max(0) as usize {
                        let share = rest / f64::from(slot.nvalues);
                        estimate.widths.push((width_of(*slot.values.add(at)), share));
                    }
                });
            }
            pg_sys::ReleaseSysCache(tuple);
            if is_name && !estimate.widths.is_empty() {
                let weight: f64 = estimate.widths.iter().map(|(_, share)| share).sum();
                let sum: f64 = estimate.widths.iter().map(|(width, share)| f64::from(*width) * share).sum();
                estimate.width = sum / weight.max(f64::MIN_POSITIVE);
            } else if column.length > 0 {
                estimate.width = f64::from(column.length);
            } else if estimate.width < 127.0 {
                // A short header needs no alignment.
                estimate.align = 1.0;
            }
            (estimate, true)
        }
    }
}

/// How far the physical order of `relation` follows its column `number`, -1 to 1; 0 when that is not known.
pub fn correlation(relation: pg_sys::Oid, number: i16) -> f64 {
    let mut correlation = 0.0;
    // SAFETY: the tuple comes from the syscache and is released below.
    unsafe {
        let tuple = statistics_tuple(relation, number, false);
        if !tuple.is_null() {
            with_slot(tuple, pg_sys::STATISTIC_KIND_CORRELATION, pg_sys::ATTSTATSSLOT_NUMBERS, |slot| {
                if slot.nnumbers > 0 {
                    correlation = f64::from(*slot.numbers);
                }
            });
            pg_sys::ReleaseSysCache(tuple);
        }
    }
    correlation
}

/// The statistics of a column, of the relation alone or with its children.
///
/// # Safety
/// Needs a transaction; the result is NULL or must be released.
pub unsafe fn statistics_tuple(relation: pg_sys::Oid, column: i16, inherited: bool) -> pg_sys::HeapTuple {
    // SAFETY: three keys of the right types for this cache.
    unsafe {
        pg_sys::SearchSysCache3(
            pg_sys::SysCacheIdentifier::STATRELATTINH as i32,
            pg_sys::Datum::from(relation),
            pg_sys::Datum::from(column),
            pg_sys::Datum::from(inherited),
        )
    }
}

/// One slot of a statistics tuple, if it is there; to be freed with its memory context or by its own function.
///
/// # Safety
/// `tuple` is a pg_statistic tuple.
unsafe fn slot_of(tuple: pg_sys::HeapTuple, kind: u32, wanted: u32) -> Option<pg_sys::AttStatsSlot> {
    let mut slot = pg_sys::AttStatsSlot::default();
    // SAFETY: the slot is filled by the callee when it returns true.
    unsafe {
        pg_sys::get_attstatsslot(&mut slot, tuple, kind as i32, pg_sys::InvalidOid, wanted as i32).then_some(slot)
    }
}

/// Runs `read` on one slot of a statistics tuple, if it is there.
///
/// # Safety
/// `tuple` is a pg_statistic tuple.
pub unsafe fn with_slot(tuple: pg_sys::HeapTuple, kind: u32, wanted: u32, mut read: impl FnMut(&pg_sys::AttStatsSlot)) {
    // SAFETY: freed once.
    unsafe {
        if let Some(mut slot) = slot_of(tuple, kind, wanted) {
            read(&slot);
            pg_sys::free_attstatsslot(&mut slot);
        }
    }
}

/// Bytes that a variable-length value takes in an index: with a short header where that is possible.
///
/// # Safety
/// `value` is a variable-length datum.
pub unsafe fn stored_width(value: pg_sys::Datum) -> u32 {
    // SAFETY: as promised; only the header is read.
    let payload = unsafe { pgrx::varsize_any_exhdr(value.cast_mut_ptr()) } as u32;
    if payload < 126 {
        payload + 1
    } else {
        payload + 4
    }
}

/// Bytes that a name takes in a B-tree: its own, and the NUL at its end.
///
/// # Safety
/// `value` is a name.
unsafe fn name_width(value: pg_sys::Datum) -> u32 {
    // SAFETY: as promised; a name is NUL-terminated within its length.
    let name = unsafe { CStr::from_ptr(value.cast_mut_ptr()) };
    name.to_bytes_with_nul().len() as u32
}

/// Bytes to which a type with this `typalign` is aligned.
pub fn alignment_bytes(code: u8) -> f64 {
    match code {
        b'd' => 8.0,
        b'i' => 4.0,
        b's' => 2.0,
        _ => 1.0,
    }
}

/// The default B-tree operator class of a type; None for a type without an order.
pub fn btree_opclass(type_oid: pg_sys::Oid) -> Option<Opclass> {
    opclass(default_opclass(type_oid, pg_sys::BTREE_AM_OID)?)
}

/// OID of the default operator class of a type for an access method.
pub fn default_opclass(type_oid: pg_sys::Oid, method: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache lookup.
    let class = unsafe { pg_sys::GetDefaultOpClass(type_oid, method) };
    (class != pg_sys::InvalidOid).then_some(class)
}

/// Family and input type of an operator class; None when it is gone.
pub fn opclass(class: pg_sys::Oid) -> Option<Opclass> {
    // SAFETY: the tuple comes from the syscache, is read as what that cache holds, and released.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::CLAOID as i32, pg_sys::Datum::from(class));
        if tuple.is_null() {
            return None;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_opclass>();
        let found = Opclass { family: (*row).opcfamily, input: (*row).opcintype, stored: (*row).opckeytype };
        pg_sys::ReleaseSysCache(tuple);
        Some(found)
    }
}

/// The support function of an operator class with this number.
pub fn support(family: pg_sys::Oid, input: pg_sys::Oid, number: i16) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache lookup.
    let function = unsafe { pg_sys::get_opfamily_proc(family, input, input, number) };
    (function != pg_sys::InvalidOid).then_some(function)
}

/// Whether equal values of this operator class have equal images, so that a B-tree may fold them.
pub fn equal_image(family: pg_sys::Oid, input: pg_sys::Oid, collation: pg_sys::Oid) -> bool {
    // SAFETY: support function 4 of B-tree takes one type OID and returns a boolean.
    support(family, input, 4).is_some_and(|function| unsafe {
        pg_sys::OidFunctionCall1Coll(function, collation, pg_sys::Datum::from(input)).value() != 0
    })
}

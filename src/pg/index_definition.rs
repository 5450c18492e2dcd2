//! The text of an index that exists. Called by the index advisor, for what it writes about; locks the index's table in
//! ACCESS SHARE for the time of one call and never waits for that lock.

use pgrx::pg_sys;

use super::relation::Unusable;
use super::text::Text;
use super::{catalog, ident, lock};

/// How an index is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// CREATE INDEX, with all partitions and with its tablespace.
    pub create: String,
    /// Its keys: names of columns, unquoted, or expressions.
    pub keys: Vec<String>,
}

/// The definition of `index` on `relation`; `columns` are the attribute numbers of its keys, 0 for an expression.
pub fn read(relation: pg_sys::Oid, index: pg_sys::Oid, columns: &[i16]) -> Result<Definition, Unusable> {
    // Printing an index opens its table, and would wait for it.
    let lock = lock::Shared::try_take(relation).ok_or(Unusable::Locked)?;
    // SAFETY: a syscache lookup of one OID; printing comes after it, with the table locked.
    let exists = unsafe {
        pg_sys::SearchSysCacheExists(
            pg_sys::SysCacheIdentifier::INDEXRELID as i32,
            pg_sys::Datum::from(index),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
        )
    };
    if !exists {
        return Err(Unusable::Gone);
    }
    let keys = (1i32..).zip(columns).map(|(number, column)| key(relation, index, number, *column)).collect();
    // SAFETY: the index exists; the result is a palloc'd string.
    let create = unsafe { ident::owned(pg_sys::pg_get_indexdef_string(index)) };
    drop(lock);
    create.map(|create| Definition { create, keys }).ok_or(Unusable::Gone)
}

/// Key `number` of an index.
fn key(relation: pg_sys::Oid, index: pg_sys::Oid, number: i32, column: i16) -> String {
    let text = if column == 0 {
        let query = "SELECT pg_catalog.pg_get_indexdef($1, $2, false)";
        catalog::value::<Text>(query, &[index.into(), number.into()]).ok().flatten().map(|text| text.0)
    } else {
        // SAFETY: a syscache lookup that gives NULL or a palloc'd string.
        unsafe { ident::owned(pg_sys::get_attname(relation, column, true)) }
    };
    text.unwrap_or_default()
}

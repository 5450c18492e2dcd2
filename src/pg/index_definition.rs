//! The text of an index that exists. Called by the index advisor, for what it writes about; locks the index's table in
//! ACCESS SHARE for the time of one call and never waits for that lock.

use pgrx::pg_sys;

use super::relation::Unusable;
use super::{catalog, ident, lock};

/// How an index is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// CREATE INDEX, with all partitions and with its tablespace.
    pub create: String,
    /// Its keys: names of columns, unquoted, or expressions.
    pub keys: Vec<String>,
}

/// The definition of `index` on `relation`.
pub fn read(relation: pg_sys::Oid, index: pg_sys::Oid) -> Result<Definition, Unusable> {
    // Printing an index opens its table, and would wait for it.
    let lock = lock::Shared::try_take(relation).ok_or(Unusable::Locked)?;
    let keys = catalog::rows(
        "SELECT coalesce(t.attname::pg_catalog.text, pg_catalog.pg_get_indexdef(i.indexrelid, k.number::pg_catalog.int4, false))
           FROM pg_catalog.pg_index i
          CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k (attnum, number)
           LEFT JOIN pg_catalog.pg_attribute t
             ON t.attrelid OPERATOR(pg_catalog.=) i.indrelid AND t.attnum OPERATOR(pg_catalog.=) k.attnum
          WHERE i.indexrelid OPERATOR(pg_catalog.=) $1 AND k.number OPERATOR(pg_catalog.<=) i.indnkeyatts
          ORDER BY k.number",
        &[index.into()],
        |row| row.get::<String>(1),
    )
    .unwrap_or_default();
    if keys.is_empty() {
        return Err(Unusable::Gone);
    }
    // SAFETY: the index was there just now and its table is locked; the result is a palloc'd string.
    let create = unsafe { ident::owned(pg_sys::pg_get_indexdef_string(index)) };
    drop(lock);
    create.map(|create| Definition { create, keys }).ok_or(Unusable::Gone)
}

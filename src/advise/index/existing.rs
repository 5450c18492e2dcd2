//! Indexes that exist, read from the catalog through SPI.

use perf_core::index::{keys_cover, Candidate, Key, Kind};
use pgrx::pg_sys;

use crate::pg::catalog;
use crate::pg::text::Text;

/// An index of a relation.
#[derive(Clone, Debug)]
pub struct Existing {
    /// Its name, unquoted.
    pub name: String,
    /// Key columns; 0 for an expression.
    pub keys: Vec<Key>,
    /// Size on disk at the last VACUUM, ANALYZE or build: asking the file itself would wait for a REINDEX.
    pub bytes: i64,
    /// A valid B-tree on plain columns with default operator classes and collations, on all rows.
    pub is_plain: bool,
}

/// The indexes of `relation`.
pub fn of(relation: pg_sys::Oid) -> Vec<Existing> {
    catalog::rows(
        "SELECT c.relname::pg_catalog.text, i.indkey::pg_catalog.int2[], i.indoption::pg_catalog.int2[],
                i.indnkeyatts::pg_catalog.int4,
                c.relpages::pg_catalog.int8 OPERATOR(pg_catalog.*) pg_catalog.current_setting('block_size')::pg_catalog.int8,
                i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND a.amname OPERATOR(pg_catalog.=) 'btree'
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_opclass o
                                 WHERE o.oid OPERATOR(pg_catalog.=) ANY (i.indclass::pg_catalog.oid[]) AND NOT o.opcdefault)
                AND NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(i.indkey::pg_catalog.int2[]),
                                                       pg_catalog.unnest(i.indcollation::pg_catalog.oid[])) k (attnum, coll)
                                  JOIN pg_catalog.pg_attribute t ON t.attrelid OPERATOR(pg_catalog.=) i.indrelid
                                   AND t.attnum OPERATOR(pg_catalog.=) k.attnum
                                 WHERE k.coll OPERATOR(pg_catalog.<>) t.attcollation)
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
           JOIN pg_catalog.pg_am a ON a.oid OPERATOR(pg_catalog.=) c.relam
          WHERE i.indrelid OPERATOR(pg_catalog.=) $1
          ORDER BY 1",
        &[relation.into()],
        |row| {
            let columns = row.get::<Vec<i16>>(2)?.unwrap_or_default();
            let options = row.get::<Vec<i16>>(3)?.unwrap_or_default();
            let count = row.get::<i32>(4)?.unwrap_or(0).max(0) as usize;
            let keys = columns
                .iter()
                .zip(&options)
                .take(count)
                .map(|(column, option)| Key { descending: option & 1 != 0, nulls_first: option & 2 != 0, ..Key::ascending(*column) })
                .collect();
            Ok(Some(Existing {
                name: row.get::<Text>(1)?.unwrap_or_default().0,
                keys,
                bytes: row.get::<i64>(5)?.unwrap_or(0),
                is_plain: row.get::<bool>(6)?.unwrap_or(false),
            }))
        },
    )
    .unwrap_or_default()
}

/// The existing index that does all that `candidate` would.
pub fn covering<'a>(existing: &'a [Existing], candidate: &Candidate) -> Option<&'a Existing> {
    if candidate.kind != Kind::Btree || candidate.predicate.is_some() || !candidate.include.is_empty() {
        return None;
    }
    existing.iter().find(|index| index.is_plain && keys_cover(&index.keys, &candidate.keys))
}

/// Shares of the updates of a relation since its statistics began that left its indexes alone (HOT); None without updates.
pub fn hot_share(relation: pg_sys::Oid) -> Option<f64> {
    catalog::rows(
        "SELECT s.n_tup_hot_upd::pg_catalog.float8 OPERATOR(pg_catalog./) s.n_tup_upd
           FROM pg_catalog.pg_stat_all_tables s
          WHERE s.relid OPERATOR(pg_catalog.=) $1 AND s.n_tup_upd OPERATOR(pg_catalog.>) 0",
        &[relation.into()],
        |row| row.get::<f64>(1),
    )
    .unwrap_or_default()
    .first()
    .copied()
}

/// Names of all relations in a schema: an index may not take one of them.
pub fn names_in(schema: &str) -> std::collections::HashSet<String> {
    catalog::rows(
        "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c
          WHERE c.relnamespace OPERATOR(pg_catalog.=) (SELECT n.oid FROM pg_catalog.pg_namespace n
                                                        WHERE n.nspname::pg_catalog.text OPERATOR(pg_catalog.=) $1)",
        &[Text(schema.to_owned()).into()],
        |row| Ok(row.get::<Text>(1)?.map(|name| name.0)),
    )
    .unwrap_or_default()
    .into_iter()
    .collect()
}

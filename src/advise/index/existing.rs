//! Indexes that exist, read from the catalog through SPI and described as candidates are. Called by the study; locks
//! nothing.

use std::cell::RefCell;

use perf_core::index::{Candidate, Key, Kind, Part};
use pgrx::pg_sys;

use crate::pg::catalog;
use crate::pg::expressions::{Expressions, StoredKey};
use crate::pg::hypothetical::method_of;
use crate::pg::opclass;
use crate::pg::relation::Relation;
use crate::pg::text::Text;

/// An index of a relation.
#[derive(Clone, Debug)]
pub struct Existing {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Its name, unquoted.
    pub name: String,
    /// Its keys, if all of them can be described.
    pub keys: Vec<Key>,
    /// Size on disk at the last VACUUM, ANALYZE or build: asking the file itself would wait for a REINDEX.
    pub bytes: i64,
    /// A valid B-tree on plain columns with default operator classes and collations, on all rows.
    pub is_plain: bool,
    /// All of it; None for an index that is not valid, or is what no candidate can be: of another access method, under
    /// another collation, on rows of several conditions.
    pub index: Option<Candidate>,
    /// The same of an index that is not valid: a build of it goes on, or has failed.
    pub unfinished: Option<Candidate>,
}

/// An index as the catalog has it.
pub struct Row {
    /// OID.
    pub oid: pg_sys::Oid,
    /// OID of its table.
    pub relation: pg_sys::Oid,
    /// Its name, unquoted.
    pub name: String,
    bytes: i64,
    is_valid: bool,
    method: pg_sys::Oid,
    /// Columns, 0 for an expression: of keys, then of INCLUDE.
    columns: Vec<i16>,
    options: Vec<i16>,
    classes: Vec<pg_sys::Oid>,
    collations: Vec<pg_sys::Oid>,
    /// How many of the columns are keys.
    keys: usize,
    /// Node trees; None without.
    expressions: Option<String>,
    predicate: Option<String>,
}

/// The indexes of `relation`; expressions of theirs get numbers.
pub fn of(relation: &Relation, expressions: &RefCell<Expressions>) -> Vec<Existing> {
    read(&[relation.oid], false)
        .into_iter()
        .map(|row| {
            let described = described(relation, &row, &mut expressions.borrow_mut());
            let (index, unfinished) = if row.is_valid { (described, None) } else { (None, described) };
            let is_plain = index.as_ref().is_some_and(|index| {
                index.kind == Kind::Btree
                    && index.predicate.is_none()
                    && index.keys.iter().all(|key| key.opclass == 0 && key.column().is_some())
            });
            let keys = index.as_ref().map_or_else(Vec::new, |index| index.keys.clone());
            Existing { oid: row.oid, name: row.name, keys, bytes: row.bytes, is_plain, index, unfinished }
        })
        .collect()
}

/// The indexes of `partitions` that the index of the whole can take in: valid, no part of another yet, and enforcing
/// nothing.
pub fn attachable(partitions: &[pg_sys::Oid]) -> Vec<Row> {
    read(partitions, true)
}

fn read(relations: &[pg_sys::Oid], attachable: bool) -> Vec<Row> {
    catalog::rows(
        "SELECT c.relname::pg_catalog.text, i.indkey::pg_catalog.int2[], i.indoption::pg_catalog.int2[],
                i.indnkeyatts::pg_catalog.int4,
                c.relpages::pg_catalog.int8 OPERATOR(pg_catalog.*) pg_catalog.current_setting('block_size')::pg_catalog.int8,
                i.indisvalid, c.relam, i.indclass::pg_catalog.oid[], i.indcollation::pg_catalog.oid[],
                i.indexprs::pg_catalog.text, i.indpred::pg_catalog.text, i.indexrelid, i.indrelid
           FROM pg_catalog.pg_index i
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
          WHERE i.indrelid OPERATOR(pg_catalog.=) ANY ($1)
            AND (NOT $2 OR (i.indisvalid AND i.indislive AND NOT c.relispartition AND NOT i.indisunique AND NOT i.indisexclusion))
          ORDER BY 1",
        &[relations.to_vec().into(), attachable.into()],
        |row| {
            Ok(Some(Row {
                oid: row.get::<pg_sys::Oid>(12)?.unwrap_or(pg_sys::InvalidOid),
                relation: row.get::<pg_sys::Oid>(13)?.unwrap_or(pg_sys::InvalidOid),
                name: row.get::<Text>(1)?.unwrap_or_default().0,
                columns: row.get::<Vec<i16>>(2)?.unwrap_or_default(),
                options: row.get::<Vec<i16>>(3)?.unwrap_or_default(),
                keys: row.get::<i32>(4)?.unwrap_or(0).max(0) as usize,
                bytes: row.get::<i64>(5)?.unwrap_or(0),
                is_valid: row.get::<bool>(6)?.unwrap_or(false),
                method: row.get::<pg_sys::Oid>(7)?.unwrap_or(pg_sys::InvalidOid),
                classes: row.get::<Vec<pg_sys::Oid>>(8)?.unwrap_or_default(),
                collations: row.get::<Vec<pg_sys::Oid>>(9)?.unwrap_or_default(),
                expressions: row.get::<Text>(10)?.map(|tree| tree.0),
                predicate: row.get::<Text>(11)?.map(|tree| tree.0),
            }))
        },
    )
    .unwrap_or_default()
}

/// The index as a candidate, if it could be one.
pub fn described(relation: &Relation, row: &Row, expressions: &mut Expressions) -> Option<Candidate> {
    let kinds = [Kind::Btree, Kind::Hash, Kind::Brin, Kind::Gin];
    let kind = kinds.into_iter().find(|kind| method_of(*kind) == row.method)?;
    if row.keys == 0 {
        return None;
    }
    let mut stored = match &row.expressions {
        Some(trees) => expressions.number_keys(relation.oid, trees)?,
        None => Vec::new(),
    }
    .into_iter();
    let mut keys = Vec::with_capacity(row.keys);
    for (at, column) in row.columns.iter().take(row.keys).enumerate() {
        let key = match column {
            0 => stored.next()?,
            _ => StoredKey { part: Part::Column(*column), type_oid: pg_sys::InvalidOid, collation: pg_sys::InvalidOid },
        };
        // What a column's type and collation are is known of the relation, an expression's of itself.
        let (type_oid, collation) = match key.part {
            Part::Column(number) => relation.column(number).map(|column| (column.type_oid, column.collation))?,
            Part::Expression(_) => (key.type_oid, key.collation),
        };
        if *row.collations.get(at)? != collation {
            return None;
        }
        let class = *row.classes.get(at)?;
        let option = *row.options.get(at)?;
        keys.push(Key {
            part: key.part,
            opclass: if opclass::is_default(class, type_oid, row.method) { 0 } else { class.to_u32() },
            descending: option & 1 != 0,
            nulls_first: option & 2 != 0,
        });
    }
    let predicate = match &row.predicate {
        Some(tree) => Some(expressions.number_predicate(relation.oid, tree)?),
        None => None,
    };
    let include = row.columns.iter().skip(row.keys).copied().collect();
    Some(Candidate { relation: relation.oid.to_u32(), kind, keys, include, predicate, free: 0 })
}

/// The index that is `candidate`, no more and no less, whose build goes on or has failed.
pub fn unfinished<'a>(existing: &'a [Existing], candidate: &Candidate) -> Option<&'a Existing> {
    let equals = |index: &Candidate| index.covers(candidate) && candidate.covers(index);
    existing.iter().find(|one| one.unfinished.as_ref().is_some_and(equals))
}

/// The existing index that does all that `candidate` would. One on all rows does what one on some of them would.
pub fn covering<'a>(existing: &'a [Existing], candidate: &Candidate) -> Option<&'a Existing> {
    let on_all_rows = Candidate { predicate: None, ..candidate.clone() };
    let covers = |index: &Candidate| index.covers(candidate) || index.covers(&on_all_rows);
    existing.iter().find(|one| one.index.as_ref().is_some_and(covers))
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

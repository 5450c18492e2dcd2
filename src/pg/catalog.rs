//! Catalog questions that are asked in SQL, through SPI: outside of planning, a few times a call.

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, Spi};

use super::text::Text;

/// Runs a query and collects what `read` makes of its rows; an ERROR of the query is raised as it is.
pub fn rows<T>(
    query: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&pgrx::spi::SpiHeapTupleData<'_>) -> Result<Option<T>, pgrx::spi::Error>,
) -> Result<Vec<T>, pgrx::spi::Error> {
    Spi::connect(|client| {
        let mut result = Vec::new();
        for row in client.select(query, None, arguments)? {
            result.extend(read(&row)?);
        }
        Ok(result)
    })
}

/// The text of a column; empty for NULL.
pub fn text_of(row: &pgrx::spi::SpiHeapTupleData<'_>, column: usize) -> Result<String, pgrx::spi::Error> {
    Ok(row.get::<Text>(column)?.unwrap_or_default().0)
}

/// The first value of a query's first row; None for no row and for NULL. Unlike `Spi::get_one`, this assigns no transaction
/// id, so it works on a standby too.
pub fn value<T: pgrx::FromDatum + pgrx::IntoDatum>(
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<T>, pgrx::spi::Error> {
    Ok(rows(query, arguments, |row| row.get::<T>(1))?.into_iter().next())
}

/// Bytes of the current database; `None` where the current role may not measure it.
pub fn database_bytes() -> Result<Option<f64>, pgrx::spi::Error> {
    value(
        "SELECT CASE WHEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CONNECT')
                       OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                     THEN pg_catalog.pg_database_size(pg_catalog.current_database()) END::pg_catalog.float8",
        &[],
    )
}

/// The relation that a name means in the current search path, whoever has it locked; None when there is none.
pub fn relation_named(name: &str) -> Result<Option<pg_sys::Oid>, pgrx::spi::Error> {
    if !is_relation_name(name) {
        return Ok(None);
    }
    value("SELECT pg_catalog.to_regclass($1)::pg_catalog.oid", &[Text(name.to_owned()).into()])
}

/// Whether `name` can be a relation's, qualified or not: `to_regclass` raises an ERROR for some that cannot, rather than
/// finding nothing.
pub fn is_relation_name(name: &str) -> bool {
    let is_space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c');
    let mut rest = name.trim_start_matches(is_space);
    for _ in 0..2 {
        if let Some(mut quoted) = rest.strip_prefix('"') {
            // A doubled quote stands for itself.
            rest = loop {
                let Some((_, after)) = quoted.split_once('"') else { return false };
                match after.strip_prefix('"') {
                    Some(more) => quoted = more,
                    None => break after,
                }
            };
        } else {
            let end = rest.find(|c: char| c == '.' || is_space(c)).unwrap_or(rest.len());
            if end == 0 {
                return false;
            }
            rest = &rest[end..];
        }
        rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            return true;
        }
        let Some(next) = rest.strip_prefix('.') else { return false };
        rest = next.trim_start_matches(is_space);
    }
    false
}

/// The index called `name` and, if it is partitioned, its parts; None when there is none.
pub fn index_named(name: &str) -> Option<Vec<pg_sys::Oid>> {
    if !is_relation_name(name) {
        return None;
    }
    let found = rows(
        "WITH RECURSIVE tree (relid) AS (
             SELECT c.oid FROM pg_catalog.pg_class c
              WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)
                AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['i', 'I']::pg_catalog.\"char\"[])
             UNION ALL
             SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.relid)
         SELECT t.relid FROM tree t",
        &[Text(name.to_owned()).into()],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .unwrap_or_default();
    (!found.is_empty()).then_some(found)
}

/// The leaves of a partitioned table that are plain tables. Unlike `pg_partition_tree`, this waits for no lock.
pub fn leaves(parent: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    rows(
        "WITH RECURSIVE tree (relid) AS (
             SELECT i.inhrelid FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) $1
             UNION ALL
             SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.relid)
         SELECT c.oid FROM tree t JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relid
          WHERE c.relkind OPERATOR(pg_catalog.=) 'r' ORDER BY c.relname, c.oid",
        &[parent.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .unwrap_or_default()
}

/// A partition, at any depth.
#[derive(Clone, Debug)]
pub struct Partition {
    /// OID.
    pub oid: pg_sys::Oid,
    /// The table that it is directly a partition of.
    pub parent: pg_sys::Oid,
    /// Schema, unquoted.
    pub schema: String,
    /// Name, unquoted.
    pub name: String,
    /// What it is.
    pub kind: PartitionKind,
}

/// What a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionKind {
    /// A table.
    Plain,
    /// It has partitions itself, and so no storage.
    Partitioned,
    /// A foreign table: no index can be made on it here.
    Foreign,
}

/// The partitions of `parent`, at every depth, those nearer to it first. Waits for no lock.
pub fn partitions(parent: pg_sys::Oid) -> Vec<Partition> {
    rows(
        "WITH RECURSIVE tree (relid, parent, level) AS (
             SELECT i.inhrelid, i.inhparent, 1 FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) $1
             UNION ALL
             SELECT i.inhrelid, i.inhparent, t.level OPERATOR(pg_catalog.+) 1
               FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.relid)
         SELECT c.oid, t.parent, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text
           FROM tree t
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relid
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          ORDER BY t.level, c.relname, c.oid",
        &[parent.into()],
        |row| {
            Ok(Some(Partition {
                oid: row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
                parent: row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
                schema: row.get::<Text>(3)?.unwrap_or_default().0,
                name: row.get::<Text>(4)?.unwrap_or_default().0,
                kind: match row.get::<Text>(5)?.unwrap_or_default().0.as_str() {
                    "p" => PartitionKind::Partitioned,
                    "f" => PartitionKind::Foreign,
                    _ => PartitionKind::Plain,
                },
            }))
        },
    )
    .unwrap_or_default()
}

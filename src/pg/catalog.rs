//! Catalog questions that are asked in SQL, through SPI: outside of planning, a few times a call.

use pgrx::datum::DatumWithOid;
use pgrx::{pg_sys, Spi};

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

/// The first value of a query's first row; None for no row and for NULL. Unlike `Spi::get_one`, this assigns no transaction
/// id, so it works on a standby too.
pub fn value<T: pgrx::FromDatum + pgrx::IntoDatum>(
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<T>, pgrx::spi::Error> {
    Ok(rows(query, arguments, |row| row.get::<T>(1))?.into_iter().next())
}

/// Whether `name` is of at most two parts: `to_regclass` raises an ERROR for more rather than finding nothing.
pub fn is_relation_name(name: &str) -> bool {
    let mut quoted = false;
    let dots = name.bytes().filter(|byte| {
        quoted ^= *byte == b'"';
        *byte == b'.' && !quoted
    });
    dots.count() <= 1
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
        &[name.into()],
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
    /// It has partitions itself, and so no storage.
    pub is_partitioned: bool,
}

/// The partitions of `parent` that may carry an index, those nearer to it first. Waits for no lock.
pub fn partitions(parent: pg_sys::Oid) -> Vec<Partition> {
    rows(
        "WITH RECURSIVE tree (relid, parent, level) AS (
             SELECT i.inhrelid, i.inhparent, 1 FROM pg_catalog.pg_inherits i WHERE i.inhparent OPERATOR(pg_catalog.=) $1
             UNION ALL
             SELECT i.inhrelid, i.inhparent, t.level OPERATOR(pg_catalog.+) 1
               FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.relid)
         SELECT c.oid, t.parent, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind OPERATOR(pg_catalog.=) 'p'
           FROM tree t
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.relid
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p']::pg_catalog.\"char\"[])
          ORDER BY t.level, c.relname, c.oid",
        &[parent.into()],
        |row| {
            Ok(Some(Partition {
                oid: row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid),
                parent: row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
                schema: row.get::<String>(3)?.unwrap_or_default(),
                name: row.get::<String>(4)?.unwrap_or_default(),
                is_partitioned: row.get::<bool>(5)?.unwrap_or(false),
            }))
        },
    )
    .unwrap_or_default()
}

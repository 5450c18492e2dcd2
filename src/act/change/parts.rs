//! The parts of an index of a partitioned table: those that came with it, and those that were adopted and are to stay when it
//! goes; and the partitions that lack their part. Inside a transaction; reads catalogs, and locks what it prints.

use std::collections::HashSet;

use pgrx::pg_sys;

use super::index_state::{self, IndexState};
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::{catalog, ident};

/// An index that stays, with its own parts, as what is made in its place.
#[derive(Clone, Debug)]
pub struct Kept {
    /// OID.
    pub oid: pg_sys::Oid,
    /// Of the part that it belongs to; `None` of one that stands by itself afterwards.
    pub parent: Option<pg_sys::Oid>,
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// What it is.
    pub state: IndexState,
}

impl Kept {
    /// What it is called until its place is free.
    pub fn stand_in(&self) -> String {
        format!("perf_opt_keep_{}", self.oid.to_u32())
    }

    /// The statement that makes the same index under that name.
    pub fn again(&self) -> Option<String> {
        let name = ident::quote(&self.name);
        let (create, rest) = ["CREATE INDEX ", "CREATE UNIQUE INDEX "].into_iter().find_map(|create| {
            let rest = self.state.definition.strip_prefix(create)?.strip_prefix(&name)?.strip_prefix(" ON ")?;
            Some((create, rest))
        })?;
        let stand_in = ident::quote(&self.stand_in());
        Some(if self.state.partitioned {
            format!("{create}{stand_in} ON ONLY {rest}")
        } else {
            format!("{create}CONCURRENTLY {stand_in} ON {rest}")
        })
    }
}

/// A part as the catalog has it.
struct Node {
    oid: pg_sys::Oid,
    parent: pg_sys::Oid,
    schema: String,
    name: String,
    /// It was there before it became a part.
    is_adopted: bool,
}

/// What is to stay when the partitioned index `whole` is dropped: parts that were indexes of their own before, but for those
/// in `own`, and all parts of theirs. Those above first.
pub fn kept(whole: pg_sys::Oid, own: &HashSet<u32>) -> Result<Vec<Kept>, Error> {
    let nodes = catalog::rows(
        // An index that comes with its partition, or with the whole, is made by the transaction that makes it a part.
        "WITH RECURSIVE part (oid, parent, since, depth) AS (
             SELECT i.inhrelid, i.inhparent, i.xmin, 1 FROM pg_catalog.pg_inherits i
              WHERE i.inhparent OPERATOR(pg_catalog.=) $1
             UNION ALL
             SELECT i.inhrelid, i.inhparent, i.xmin, p.depth OPERATOR(pg_catalog.+) 1
               FROM part p JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) p.oid)
         SELECT p.oid, p.parent, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
                NOT x.xmin OPERATOR(pg_catalog.=) p.since
           FROM part p
           JOIN pg_catalog.pg_index x ON x.indexrelid OPERATOR(pg_catalog.=) p.oid
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.oid
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          ORDER BY p.depth, p.oid",
        &[whole.into()],
        |row| {
            let invalid = pg_sys::InvalidOid;
            let text = |at| catalog::text_of(row, at);
            Ok(Some(Node {
                oid: row.get::<pg_sys::Oid>(1)?.unwrap_or(invalid),
                parent: row.get::<pg_sys::Oid>(2)?.unwrap_or(invalid),
                schema: text(3)?,
                name: text(4)?,
                is_adopted: row.get::<bool>(5)?.unwrap_or(false),
            }))
        },
    )
    .map_err(spi_failed)?;
    let mut staying = HashSet::new();
    let mut kept = Vec::new();
    for node in nodes {
        let is_below = staying.contains(&node.parent.to_u32());
        if !is_below && (!node.is_adopted || own.contains(&node.oid.to_u32())) {
            continue;
        }
        let Some(state) = index_state::read(&node.schema, &node.name)? else { continue };
        staying.insert(node.oid.to_u32());
        let parent = is_below.then_some(node.parent);
        kept.push(Kept { oid: node.oid, parent, schema: node.schema, name: node.name, state });
    }
    Ok(kept)
}

/// A partition that lacks its part of an index.
pub struct Lacking {
    /// OID of the partition.
    pub relation: pg_sys::Oid,
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// It has partitions itself.
    pub is_partitioned: bool,
    /// Quoted and qualified: the index that its own is to be a part of.
    pub parent: String,
}

/// The first partition of the table of `whole`, from above, that lacks its part. What foreign tables lack does not count.
pub fn lacking(whole: pg_sys::Oid, table: pg_sys::Oid) -> Result<Option<Lacking>, Error> {
    let found = catalog::rows(
        "WITH RECURSIVE part (oid, relation) AS (
             SELECT $1::pg_catalog.oid, $2::pg_catalog.oid
             UNION ALL
             SELECT i.inhrelid, x.indrelid
               FROM part p
               JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) p.oid
               JOIN pg_catalog.pg_index x ON x.indexrelid OPERATOR(pg_catalog.=) i.inhrelid)
         SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind OPERATOR(pg_catalog.=) 'p', p.oid
           FROM part p
           JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) p.relation
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}')
            AND NOT EXISTS (SELECT FROM part own WHERE own.relation OPERATOR(pg_catalog.=) c.oid)
          ORDER BY c.oid LIMIT 1",
        &[whole.into(), table.into()],
        |row| {
            let invalid = pg_sys::InvalidOid;
            let text = |at| catalog::text_of(row, at);
            let Some(parent) = row.get::<pg_sys::Oid>(5)?.and_then(ident::relation) else { return Ok(None) };
            Ok(Some(Lacking {
                relation: row.get::<pg_sys::Oid>(1)?.unwrap_or(invalid),
                schema: text(2)?,
                name: text(3)?,
                is_partitioned: row.get::<bool>(4)?.unwrap_or(false),
                parent,
            }))
        },
    );
    Ok(found.map_err(spi_failed)?.into_iter().next())
}

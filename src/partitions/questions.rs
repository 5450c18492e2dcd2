//! What whoever makes a partition, moves rows or archives a table asks the catalogs first. Called inside a transaction. Locks
//! nothing.

use pgrx::pg_sys;

use crate::pg::query::text;
use crate::pg::{ident, privilege, query};

/// Columns that hold what was written to them, quoted: generated ones are computed again.
pub fn stored_columns(relation: pg_sys::Oid) -> Vec<String> {
    query::run_with(
        c"SELECT a.attname::text FROM pg_attribute a
           WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
        &[relation.into()],
        |row| ident::quote(&row.string(1)),
    )
    .1
}

/// A foreign key that refers to rows of the default partition of a table, by whatever name: through the table, through one
/// that it is a partition of, or to the default partition and its own ones alone.
pub fn incoming_key(parent: pg_sys::Oid, default: pg_sys::Oid) -> Option<String> {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"WITH RECURSIVE above (relid) AS (
                  SELECT $1::oid UNION ALL SELECT i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.relid),
              below (relid) AS (
                  SELECT $2::oid UNION ALL SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.relid)
              SELECT format('%I of %s', k.conname, k.conrelid::regclass) FROM pg_constraint k
               WHERE k.contype = 'f' AND k.confrelid IN (SELECT relid FROM above UNION SELECT relid FROM below)
               ORDER BY k.conparentid <> 0, k.conname LIMIT 1",
            &[parent.into(), default.into()],
            |row| row.string(1),
        )
    });
    found.1.into_iter().next()
}

/// Whether a relation or a type has the name: a table needs both.
pub fn is_taken(schema: &str, name: &str) -> bool {
    let found = privilege::with_own_path(|| {
        query::run_with(
            c"SELECT FROM pg_namespace n WHERE n.nspname = $1
                 AND (EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = $2)
                      OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = $2))",
            &[text(schema), text(name)],
            |_| (),
        )
    });
    found.0 > 0
}

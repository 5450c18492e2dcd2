//! What became of partitions that were old enough to be compressed, as perf.partition_compression remembers it, so that
//! nothing is tried again each hour. Called by [`super::compress`], inside its transactions. Locks rows of that table
//! only.

use pgrx::pg_sys;

use super::compress_facts::Facts;
use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::text;
use crate::pg::text::Text;

const TABLE: &std::ffi::CStr = c"partition_compression";

/// What became of one.
pub struct Became {
    /// Rewritten; else it was kept as it was, since it would not have gained.
    pub is_compressed: bool,
    /// Why it was kept.
    pub reason: Option<String>,
    /// What its rows are ordered by now.
    pub ordered_by: Option<String>,
    /// Rows, where they were read.
    pub rows: Option<i64>,
    /// With indexes and TOAST.
    pub bytes_before: i64,
    /// The same of the rewritten table.
    pub bytes_after: i64,
}

/// Which of the tables are done: have the files that they had when that was written down.
pub fn done(tables: &[pg_sys::Oid]) -> Result<Vec<pg_sys::Oid>, Error> {
    privilege::as_owner(TABLE, || {
        let found = rows(
            c"SELECT p.relid FROM perf.partition_compression p
               WHERE p.relid = ANY ($1) AND p.relfilenode = pg_relation_filenode(p.relid)",
            &[tables.to_vec().into()],
            |row| row.get::<pg_sys::Oid>(1),
        );
        Ok(found.into_iter().flatten().collect())
    })
}

/// Forgets tables that are gone.
pub fn forget_gone() -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        run(
            c"DELETE FROM perf.partition_compression p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relid)",
            &[],
        );
        Ok(())
    })
}

/// Writes down what became of a table, with the files that it has now.
pub fn note(facts: &Facts, parent_name: &str, became: &Became) -> Result<(), Error> {
    let owner = privilege::current_role();
    let optional = |text: &Option<String>| text.clone().map(Text);
    privilege::as_owner(TABLE, || {
        run(
            c"INSERT INTO perf.partition_compression (relid, relfilenode, owner, parent, relation, outcome, reason,
                                                      ordered_by, rows, bytes_before, bytes_after)
              VALUES ($1, COALESCE(pg_relation_filenode($1), 0), $2, $3, $4, $5, $6, $7, $8, $9, $10)
              ON CONFLICT (relid) DO UPDATE
              SET relfilenode = excluded.relfilenode, owner = excluded.owner, parent = excluded.parent,
                  relation = excluded.relation, outcome = excluded.outcome, reason = excluded.reason,
                  ordered_by = excluded.ordered_by, rows = excluded.rows, bytes_before = excluded.bytes_before,
                  bytes_after = excluded.bytes_after, compressed_at = excluded.compressed_at",
            &[
                facts.oid.into(),
                owner.into(),
                text(parent_name),
                text(&facts.full_name),
                text(if became.is_compressed { "compressed" } else { "kept" }),
                optional(&became.reason).into(),
                optional(&became.ordered_by).into(),
                became.rows.into(),
                became.bytes_before.into(),
                became.bytes_after.into(),
            ],
        );
        Ok(())
    })
}

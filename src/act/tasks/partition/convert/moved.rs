//! Rows of other partitions that the way back moves into the first one: which partitions have them, and how many they are.
//! Called by the swap back, inside its transaction, and before it for what is said in advance. Locks nothing; what is read
//! of partitions is read under the caller's locks.

use pgrx::pg_sys;

use super::facts::{oids, Table};
use crate::act::executor::Failure;
use crate::act::runs::rows;
use crate::pg::text::Text;
use crate::pg::{background, ddl, ident, privilege};

/// All below the partitioned table but the first partition, those that are being detached among them.
pub fn others(parent: &Table, first: &Table) -> Vec<pg_sys::Oid> {
    oids(
        c"WITH RECURSIVE tree AS (
              SELECT inhrelid FROM pg_inherits WHERE inhparent = $1 AND inhrelid <> $2
              UNION ALL
              SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.inhrelid)
          SELECT inhrelid FROM tree ORDER BY 1",
        &[parent.oid.into(), first.oid.into()],
    )
}

/// Refuses to go on while a partition is half detached: reading the partitioned table leaves its rows out, and dropping the
/// table takes it along.
pub fn refuse_pending(parent: &Table) -> Result<(), Failure> {
    let pending = rows(
        c"WITH RECURSIVE tree AS (
              SELECT inhparent, inhrelid, inhdetachpending FROM pg_inherits WHERE inhparent = $1
              UNION ALL
              SELECT i.inhparent, i.inhrelid, i.inhdetachpending FROM tree t JOIN pg_inherits i ON i.inhparent = t.inhrelid)
          SELECT inhparent, inhrelid FROM tree WHERE inhdetachpending ORDER BY 2",
        &[parent.oid.into()],
        |row| {
            let name = |column| row.get::<pg_sys::Oid>(column).and_then(ident::relation).unwrap_or_default();
            (name(1), name(2))
        },
    );
    match pending.into_iter().next() {
        Some((of, partition)) => Err(Failure {
            hint: Some(format!("ALTER TABLE {of} DETACH PARTITION {partition} FINALIZE; and call it again.")),
            ..Failure::new("55000", format!("the concurrent detach of {partition} from {of} has not ended"))
        }),
        None => Ok(()),
    }
}

/// The rows in all of them, those that policies hide among them. Each is asked as its owner: to plan a query is to run
/// functions of the table's indexes already.
pub fn count(others: &[pg_sys::Oid]) -> u64 {
    let leaves = oids(
        c"SELECT oid FROM pg_class WHERE oid = ANY ($1) AND relkind <> 'p' ORDER BY oid",
        &[others.to_vec().into()],
    );
    let mut sum = 0u64;
    for leaf in leaves {
        let Some(name) = ident::relation(leaf) else { continue };
        background::check_for_interrupts();
        let query = format!("SELECT count(*) FROM ONLY {name}");
        let count = privilege::as_relation_owner_unforced(leaf, || ddl::value::<i64>(&query));
        sum += count.map_or(0, i64::unsigned_abs);
    }
    sum
}

/// What there is to be moved, for people; nothing when there is nothing.
pub fn announcement(parent: &Table, first: &Table) -> Option<String> {
    rows(
        c"SELECT count(*), sum(greatest(reltuples, 0))::int8, pg_size_pretty(sum(pg_relation_size(oid))) FROM pg_class
          WHERE oid = ANY ($1) AND relkind = 'r' AND pg_relation_size(oid) > 0 HAVING count(*) > 0",
        &[others(parent, first).into()],
        |row| {
            let (partitions, rows) = (row.get::<i64>(1).unwrap_or(0), row.get::<i64>(2).unwrap_or(0));
            format!(
                "rows of {partitions} other partitions ({size}, about {rows} rows by their statistics) will be moved into {} \
                 under ACCESS EXCLUSIVE",
                first.full,
                size = row.get::<Text>(3).unwrap_or_default().0,
            )
        },
    )
    .into_iter()
    .next()
}

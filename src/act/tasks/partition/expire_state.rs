//! Partitions that are being let go, as perf.partition_expiry remembers them from before the detach until nothing is
//! left to be done: what a crash has interrupted goes on at the next look. Called by the steps of [`super::expire`] and
//! [`super::archive`], inside their transactions. Locks rows of that table only.

use perf_core::partition::{expiry, literal, At};
use pgrx::pg_sys;

use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::partitions::{Parent, Partition};
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{background, ddl, ident, partition_bound, privilege, query};

const TABLE: &std::ffi::CStr = c"partition_expiry";

/// A partition that is let go.
#[derive(Clone, Debug)]
pub struct Expired {
    /// Of the table.
    pub oid: pg_sys::Oid,
    /// Its row type: tells it from another table that has got its number.
    reltype: pg_sys::Oid,
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// Quoted and qualified: what it was a partition of.
    pub parent_name: String,
    /// FOR VALUES ...
    pub bounds: String,
    /// Where its rows end.
    pub upper: At,
    /// Of the file that it is archived in, if it is.
    pub stem: String,
    /// That file, once it has a name.
    pub file: Option<String>,
    /// Its detach is known to have been ours. Else a crash may have come before it, and somebody has detached it since.
    pub detach_begun: bool,
}

/// What is at a number that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The table, detached.
    Detached,
    /// The table, attached to something.
    Attached,
    /// Somebody has dropped it, moved or renamed it, or made something else of it: it is theirs.
    Other,
}

impl Expired {
    /// What is to be remembered of a partition. Inside a transaction.
    pub fn of(parent: &Parent, partition: &Partition) -> Expired {
        let range = partition.range.map(|range| (literal(parent.key, range.lower), literal(parent.key, range.upper)));
        let (lower, upper) = range.unwrap_or_default();
        let (cluster, number) = background::database_identity();
        let identity = format!("{cluster:x}-{number}-{}", partition.oid.to_u32());
        let database =
            ddl::value::<Text>("SELECT pg_catalog.current_database()::pg_catalog.text").unwrap_or_default().0;
        Expired {
            oid: partition.oid,
            reltype: reltype(partition.oid),
            schema: partition.schema.clone(),
            name: partition.name.clone(),
            parent_name: parent.full_name(),
            bounds: partition_bound::text(partition.oid).unwrap_or_default(),
            upper: partition.range.map_or(At::MAX, |range| range.upper),
            stem: expiry::file_stem([&database, &partition.schema, &partition.name], [&lower, &upper], &identity),
            file: None,
            detach_begun: false,
        }
    }

    /// Quoted and qualified.
    pub fn full_name(&self) -> String {
        ident::qualified(&self.schema, &self.name)
    }

    /// Remembers it, inside the transaction of what comes before its detach.
    pub fn note(&self, parent: pg_sys::Oid) -> Result<(), Error> {
        privilege::as_owner(TABLE, || {
            run(
                c"INSERT INTO perf.partition_expiry
                        (relid, reltype, schema_name, table_name, parent, parent_name, bounds, upper_at, stem,
                         detach_begun)
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
                  ON CONFLICT (relid) DO UPDATE
                  SET reltype = excluded.reltype, schema_name = excluded.schema_name, table_name = excluded.table_name,
                      parent = excluded.parent, parent_name = excluded.parent_name, bounds = excluded.bounds,
                      upper_at = excluded.upper_at, stem = excluded.stem, file = NULL,
                      detach_begun = excluded.detach_begun, begun_at = pg_catalog.clock_timestamp()",
                &[
                    self.oid.into(),
                    self.reltype.into(),
                    text(&self.schema),
                    text(&self.name),
                    parent.into(),
                    text(&self.parent_name),
                    text(&self.bounds),
                    self.upper.into(),
                    text(&self.stem),
                    self.detach_begun.into(),
                ],
            );
            Ok(())
        })
    }

    /// Remembers the file that it goes to.
    pub fn note_file(&self, file: &str) -> Result<(), Error> {
        privilege::as_owner(TABLE, || {
            run(c"UPDATE perf.partition_expiry SET file = $2 WHERE relid = $1", &[self.oid.into(), text(file)]);
            Ok(())
        })
    }

    /// Nothing is left to be done.
    pub fn forget(&self) -> Result<(), Error> {
        forget(self.oid)
    }

    /// What it is now. Lasting only when it was locked before.
    pub fn find(&self) -> Found {
        let found = privilege::with_own_path(|| {
            query::run_with(
                c"SELECT c.relispartition FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE c.oid = $1 AND c.reltype = $2 AND n.nspname = $3 AND c.relname = $4 AND c.relkind IN ('r', 'p', 'f')",
                &[self.oid.into(), self.reltype.into(), text(&self.schema), text(&self.name)],
                |row| row.get::<bool>(1).unwrap_or(false),
            )
        });
        match found.1.first() {
            Some(true) => Found::Attached,
            Some(false) => Found::Detached,
            None => Found::Other,
        }
    }
}

/// The detach of a table that was noted has begun, and was ours.
pub fn note_detach(table: pg_sys::Oid) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        run(c"UPDATE perf.partition_expiry SET detach_begun = true WHERE relid = $1", &[table.into()]);
        Ok(())
    })
}

/// Nothing is left to be done about a table.
pub fn forget(table: pg_sys::Oid) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        run(c"DELETE FROM perf.partition_expiry WHERE relid = $1", &[table.into()]);
        Ok(())
    })
}

/// Whether a file is somebody's archive, or to become one, other than that of a table.
pub fn is_named(file: &str, other_than: pg_sys::Oid) -> Result<bool, Error> {
    privilege::as_owner(TABLE, || {
        let found = rows(
            c"SELECT FROM perf.partition_archive WHERE file = $1
              UNION ALL SELECT FROM perf.partition_expiry WHERE file = $1 AND relid <> $2",
            &[text(file), other_than.into()],
            |_| (),
        );
        Ok(!found.is_empty())
    })
}

/// What was noted of the partitions of a parent, oldest first.
pub fn noted(parent: pg_sys::Oid) -> Result<Vec<Expired>, Error> {
    privilege::as_owner(TABLE, || {
        Ok(rows(
            c"SELECT relid, reltype, schema_name::text, table_name::text, parent_name, bounds, upper_at, stem,
                     file, detach_begun
                FROM perf.partition_expiry WHERE parent = $1 ORDER BY begun_at, relid",
            &[parent.into()],
            |row| Expired {
                oid: row.get::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
                reltype: row.get::<pg_sys::Oid>(2).unwrap_or(pg_sys::InvalidOid),
                schema: row.string(3),
                name: row.string(4),
                parent_name: row.string(5),
                bounds: row.string(6),
                upper: row.get::<i64>(7).unwrap_or(At::MAX),
                stem: row.string(8),
                file: row.get::<Text>(9).map(|file| file.0),
                detach_begun: row.get::<bool>(10).unwrap_or(false),
            },
        ))
    })
}

fn reltype(relation: pg_sys::Oid) -> pg_sys::Oid {
    let found = query::run_with(
        c"SELECT reltype FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) $1",
        &[relation.into()],
        |row| row.get::<pg_sys::Oid>(1),
    );
    found.1.into_iter().flatten().next().unwrap_or(pg_sys::InvalidOid)
}

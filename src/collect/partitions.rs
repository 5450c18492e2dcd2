//! Creates and drops the time partitions of the extension's own history tables.
//!
//! Called by the collector worker inside a transaction, as a superuser. A parent is a table of schema `perf` that is
//! partitioned by RANGE over one timestamptz column; it belongs to the extension and so do its partitions (ALTER EXTENSION
//! ADD TABLE): pg_dump leaves them out, pg_upgrade carries them over, DROP EXTENSION takes them along.
//!
//! Locks: making a partition takes SHARE UPDATE EXCLUSIVE on the parent, which no reader or writer notices. Dropping one
//! needs ACCESS EXCLUSIVE on partition and parent: taken only when free, otherwise the drop is left to the next call, so
//! that a long query over the history never holds up the worker, nor the worker anybody else.

use crate::error::Error;
use crate::pg::lock;
use perf_core::ladder::Bounds;
pub use perf_core::ladder::Ladder;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::spi::{self, Spi, SpiClient};

/// What a call has changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// Partitions made.
    pub created: u32,
    /// Partitions dropped.
    pub dropped: u32,
    /// Partitions that had their time but were in use: the next call tries again.
    pub deferred: u32,
}

impl std::ops::AddAssign for Changes {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.dropped += other.dropped;
        self.deferred += other.deferred;
    }
}

struct Partition {
    oid: pg_sys::Oid,
    name: String,
    bounds: Bounds,
}

/// Turns a failure of SPI itself (a server ERROR never comes back as a value) into the extension's error.
pub fn spi_failed(error: spi::Error) -> Error {
    Error::WrongState {
        message: format!("a query of perf_opt on its own tables failed: {error}"),
        hint: "Check that the objects of schema perf are those the extension created.".to_owned(),
    }
}

/// Makes the partitions of `perf.<parent>` that `ladder` asks for at `now` and that do not exist.
///
/// Does nothing while another session manages the same table, unless the partition that holds `now` is the one missing.
pub fn ensure(parent: &str, ladder: &Ladder, now: TimestampWithTimeZone) -> Result<Changes, Error> {
    let now = i64::from(now);
    Spi::connect_mut(|client| {
        let oid = parent_oid(client, parent)?;
        let mut missing = ladder.missing(&bounds_of(&partitions(client, oid)?), now);
        if missing.is_empty() {
            return Ok(Changes::default());
        }
        if !lock::try_lock_share_update(oid) {
            if !missing.iter().any(|b| b.lower <= now && now < b.upper) {
                return Ok(Changes { deferred: missing.len() as u32, ..Changes::default() });
            }
            run(
                client,
                "SELECT pg_catalog.format('LOCK TABLE perf.%I IN SHARE UPDATE EXCLUSIVE MODE', $1)",
                &[parent.into()],
            )?;
        }
        // What the other session has made in between is there now.
        missing = ladder.missing(&bounds_of(&partitions(client, oid)?), now);
        for bounds in &missing {
            create(client, parent, bounds)?;
        }
        Ok(Changes { created: missing.len() as u32, ..Changes::default() })
    })
}

/// Drops the partitions of `perf.<parent>` whose time is over at `now`.
pub fn expire(parent: &str, ladder: &Ladder, now: TimestampWithTimeZone) -> Result<Changes, Error> {
    let now = i64::from(now);
    Spi::connect_mut(|client| {
        let oid = parent_oid(client, parent)?;
        let mut changes = Changes::default();
        for partition in partitions(client, oid)?.iter().filter(|p| ladder.is_expired(&p.bounds, now)) {
            match drop_partition(client, oid, partition)? {
                true => changes.dropped += 1,
                false => changes.deferred += 1,
            }
        }
        Ok(changes)
    })
}

/// Drops the oldest partition of `perf.<parent>` that ended before `now`, to get back under a size cap.
/// `dropped` is 0 when there is none, `deferred` is 1 when it is in use.
pub fn drop_oldest(parent: &str, now: TimestampWithTimeZone) -> Result<Changes, Error> {
    let now = i64::from(now);
    Spi::connect_mut(|client| {
        let oid = parent_oid(client, parent)?;
        let mut changes = Changes::default();
        if let Some(oldest) = partitions(client, oid)?.iter().find(|p| p.bounds.upper <= now) {
            match drop_partition(client, oid, oldest)? {
                true => changes.dropped = 1,
                false => changes.deferred = 1,
            }
        }
        Ok(changes)
    })
}

/// Bytes on disk of `perf.<parent>` and all below it, indexes and TOAST included.
pub fn total_bytes(parent: &str) -> Result<i64, Error> {
    Spi::get_one_with_args::<i64>(
        "SELECT coalesce(sum(pg_catalog.pg_total_relation_size(relid)), 0)::bigint
           FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass(pg_catalog.format('perf.%I', $1)))",
        &[parent.into()],
    )
    .map(|bytes| bytes.unwrap_or(0))
    .map_err(spi_failed)
}

fn bounds_of(partitions: &[Partition]) -> Vec<Bounds> {
    partitions.iter().map(|p| p.bounds).collect()
}

fn parent_oid(client: &SpiClient, parent: &str) -> Result<pg_sys::Oid, Error> {
    client
        .select("SELECT pg_catalog.to_regclass(pg_catalog.format('perf.%I', $1))::oid", Some(1), &[parent.into()])
        .and_then(|rows| rows.first().get_one::<pg_sys::Oid>())
        .map_err(spi_failed)?
        .ok_or_else(|| Error::UndefinedObject {
            message: format!("table perf.{parent} does not exist"),
            hint: "It belongs to the extension: DROP EXTENSION perf_opt, then CREATE EXTENSION perf_opt.".to_owned(),
        })
}

/// The range partitions of a table, oldest first.
fn partitions(client: &SpiClient, parent: pg_sys::Oid) -> Result<Vec<Partition>, Error> {
    let rows = client
        .select(
            "SELECT oid, relname::text, bound[1]::timestamptz, bound[2]::timestamptz
               FROM (SELECT c.oid, c.relname, pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid),
                            $re$FROM \\('([^']+)'\\) TO \\('([^']+)'\\)$re$) AS bound
                       FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
                      WHERE i.inhparent = $1) AS p
              WHERE bound IS NOT NULL ORDER BY 3",
            None,
            &[parent.into()],
        )
        .map_err(spi_failed)?;
    let mut found = Vec::new();
    for row in rows {
        let (oid, name) = (row.get::<pg_sys::Oid>(1).map_err(spi_failed)?, row.get::<String>(2).map_err(spi_failed)?);
        let lower = row.get::<TimestampWithTimeZone>(3).map_err(spi_failed)?;
        let upper = row.get::<TimestampWithTimeZone>(4).map_err(spi_failed)?;
        if let (Some(oid), Some(name), Some(lower), Some(upper)) = (oid, name, lower, upper) {
            found.push(Partition { oid, name, bounds: Bounds { lower: lower.into(), upper: upper.into() } });
        }
    }
    Ok(found)
}

/// Runs the statement that `query` composes with format(): the server quotes, nothing is glued together here.
fn run(client: &mut SpiClient, query: &str, arguments: &[pgrx::datum::DatumWithOid]) -> Result<(), Error> {
    let statement = client
        .select(query, Some(1), arguments)
        .and_then(|rows| rows.first().get_one::<String>())
        .map_err(spi_failed)?
        .unwrap_or_default();
    client.update(&statement, None, &[]).map(|_| ()).map_err(spi_failed)
}

fn create(client: &mut SpiClient, parent: &str, bounds: &Bounds) -> Result<(), Error> {
    let instant = |us: i64| {
        TimestampWithTimeZone::try_from(us).map_err(|_| Error::WrongState {
            message: format!("the clock is outside of what a timestamp can hold: {us} us"),
            hint: "Check the clock of the server.".to_owned(),
        })
    };
    let (lower, upper) = (instant(bounds.lower)?, instant(bounds.upper)?);
    let name = client
        .select(
            "SELECT $1 || pg_catalog.to_char($2 AT TIME ZONE 'UTC', '\"_p\"YYYYMMDDHH24MI')",
            Some(1),
            &[parent.into(), lower.into()],
        )
        .and_then(|rows| rows.first().get_one::<String>())
        .map_err(spi_failed)?
        .unwrap_or_default();
    let name = name.as_str();
    run(
        client,
        "SELECT pg_catalog.format('CREATE TABLE perf.%I (LIKE perf.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS
         INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION)', $1, $2)",
        &[name.into(), parent.into()],
    )?;
    run(client, "SELECT pg_catalog.format('ALTER EXTENSION perf_opt ADD TABLE perf.%I', $1)", &[name.into()])?;
    // Without a key, rows of a table that a publication of all tables includes could not be removed.
    run(client, "SELECT pg_catalog.format('ALTER TABLE perf.%I REPLICA IDENTITY FULL', $1)", &[name.into()])?;
    run(
        client,
        "SELECT pg_catalog.format('ALTER TABLE perf.%I ATTACH PARTITION perf.%I FOR VALUES FROM (%L) TO (%L)', $1, $2, $3, $4)",
        &[parent.into(), name.into(), lower.into(), upper.into()],
    )
}

/// False when somebody uses the partition or the parent.
fn drop_partition(client: &mut SpiClient, parent: pg_sys::Oid, partition: &Partition) -> Result<bool, Error> {
    // The partition first: failing on the parent then leaves nobody locked out of the rest.
    if !lock::try_lock_exclusive(partition.oid) || !lock::try_lock_exclusive(parent) {
        return Ok(false);
    }
    let name = partition.name.as_str();
    let is_member = !client
        .select(
            "SELECT true FROM pg_catalog.pg_depend
              WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = $1 AND deptype = 'e'",
            Some(1),
            &[partition.oid.into()],
        )
        .map_err(spi_failed)?
        .is_empty();
    if is_member {
        run(client, "SELECT pg_catalog.format('ALTER EXTENSION perf_opt DROP TABLE perf.%I', $1)", &[name.into()])?;
    }
    run(client, "SELECT pg_catalog.format('DROP TABLE perf.%I', $1)", &[name.into()])?;
    Ok(true)
}

//! What the sampler measures through SQL, one function for each group of metrics. Called by the sampler inside its
//! transaction; takes no lock but ACCESS SHARE on the relations whose size is asked for.

use super::connections;
use super::host;
use super::partitions::spi_failed;
use super::sampler::Take;
use crate::error::Error;
use crate::pg::backends::{self, BackendCounts, WAIT_CLASSES};
use crate::pg::ident;
use crate::pg::text::Text;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{SpiClient, SpiTupleTable};

/// Roles of a database whose busy connections are kept every minute; the rest is one row `(other)`.
const ROLES: usize = 4;
/// Relations whose size is kept every hour and every day; the rest of a day is one row `(other)`.
const RELATIONS_HOURLY: i32 = 10;
const RELATIONS_DAILY: i32 = 40;
/// Of these, chosen by the catalog's own estimate, the size is measured.
const RELATIONS_MEASURED: i32 = 400;
/// Replicas, slots or tablespaces beyond this number are not sampled.
const OBJECTS_MAX: i64 = 32;

fn query<'c>(client: &SpiClient<'c>, query: &str, arguments: &[DatumWithOid]) -> Result<SpiTupleTable<'c>, Error> {
    client.select(query, None, arguments).map_err(spi_failed)
}

pub(super) fn connections(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    let mut looks = take.seen.take_looks();
    if looks.is_empty() {
        looks.push(backends::look());
    }
    let database = take.database.clone();
    type Field = fn(&BackendCounts) -> u32;
    let fields: [(&'static str, Field); 3] = [
        ("connections_total", |c| c.total),
        ("connections_active", |c| c.active),
        ("connections_idle_in_transaction", |c| c.idle_in_transaction),
    ];
    for (metric, field) in fields {
        take.spread(metric, "", looks.iter().map(|look| field(&look.server)));
        take.spread(metric, &database, looks.iter().map(|look| field(&look.database.counts)));
    }
    for (role, busy) in connections::busy_by_role(client, &looks, ROLES)? {
        let object = format!("{}/{}", ident::quote(&database), ident::quote(&role));
        take.spread("connections_busy", &object, busy.into_iter());
    }
    if let Some(shares) = connections::waits(&looks) {
        for (class, pct) in WAIT_CLASSES.iter().zip(shares) {
            take.value("waiting_pct", class, pct);
        }
    }
    Ok(())
}

pub(super) fn pool_hours(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    take.seen.write_hours(client)
}

pub(super) fn throughput(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    let database = take.database.clone();
    if let Some(total) = take.statements_total {
        let qps = take.rate("qps", &database, total as f64, 0);
        take.measured("qps", &database, qps);
    }
    let rows = query(
        client,
        "SELECT (xact_commit + xact_rollback)::float8, active_time, blks_hit::float8, blks_read::float8,
                temp_bytes::float8, coalesce(extract(epoch FROM stats_reset)::bigint, 0)
           FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()",
        &[],
    )?;
    for row in rows {
        let field = |n: usize| row.get::<f64>(n).map_err(spi_failed);
        let epoch = row.get::<i64>(6).map_err(spi_failed)?.unwrap_or(0);
        if let Some(xacts) = field(1)? {
            let rate = take.rate("xacts_per_s", &database, xacts, epoch);
            take.measured("xacts_per_s", &database, rate);
        }
        if let Some(active_ms) = field(2)? {
            let sessions = take.rate("active_sessions", &database, active_ms / 1e3, epoch);
            take.measured("active_sessions", &database, sessions);
        }
        if let (Some(hit), Some(read)) = (field(3)?, field(4)?) {
            let hit = take.grown("blks_hit", &database, hit, epoch);
            let read = take.grown("blks_read", &database, read, epoch);
            if let (Some((hit, _)), Some((read, _))) = (hit, read) {
                if hit + read > 0.0 {
                    take.value("buffer_hit_pct", &database, 100.0 * hit / (hit + read));
                }
            }
        }
        if let Some(temp) = field(5)? {
            let rate = take.rate("temp_bytes_per_s", &database, temp, epoch);
            take.measured("temp_bytes_per_s", &database, rate);
        }
    }
    Ok(())
}

pub(super) fn wal_and_replication(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    // On a replica there is no current WAL position to ask for, and nothing can be stored either.
    let position = client
        .select(
            "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
                         THEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::float8 END",
            Some(1),
            &[],
        )
        .and_then(|rows| rows.first().get_one::<f64>())
        .map_err(spi_failed)?;
    let Some(position) = position else { return Ok(()) };
    let rate = take.rate("wal_bytes_per_s", "", position, 0);
    take.measured("wal_bytes_per_s", "", rate);
    let rows = query(
        client,
        // Standbys that share a name, as those do that were not given one, are told as the one that is furthest behind.
        "SELECT coalesce(nullif(application_name, ''), pid::text),
                $1 - min(pg_catalog.pg_wal_lsn_diff(replay_lsn, '0/0'))::float8, max(extract(epoch FROM replay_lag))::float8
           FROM pg_catalog.pg_stat_replication GROUP BY 1 ORDER BY 1 LIMIT $2",
        &[position.into(), OBJECTS_MAX.into()],
    )?;
    for row in rows {
        let replica = row.get::<Text>(1).map_err(spi_failed)?.unwrap_or_default().0;
        take.measured("replication_lag_bytes", &replica, row.get::<f64>(2).map_err(spi_failed)?.map(|b| b.max(0.0)));
        take.measured("replication_lag_s", &replica, row.get::<f64>(3).map_err(spi_failed)?);
    }
    let rows = query(
        client,
        "SELECT slot_name::text, $1 - pg_catalog.pg_wal_lsn_diff(restart_lsn, '0/0')::float8
           FROM pg_catalog.pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 1 LIMIT $2",
        &[position.into(), OBJECTS_MAX.into()],
    )?;
    for row in rows {
        let slot = row.get::<Text>(1).map_err(spi_failed)?.unwrap_or_default().0;
        take.measured("slot_retained_bytes", &slot, row.get::<f64>(2).map_err(spi_failed)?.map(|b| b.max(0.0)));
    }
    Ok(())
}

pub(super) fn storage(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    let rows = query(
        client,
        "SELECT oid, spcname::text FROM pg_catalog.pg_tablespace
          WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY 1 LIMIT $1",
        &[OBJECTS_MAX.into()],
    )?;
    let mut tablespaces = Vec::new();
    for row in rows {
        let oid = row.get::<pgrx::pg_sys::Oid>(1).map_err(spi_failed)?;
        if let (Some(oid), Some(name)) = (oid, row.get::<Text>(2).map_err(spi_failed)?) {
            tablespaces.push((oid.to_u32(), name.0));
        }
    }
    host::disks(take, tablespaces);
    let inactive = client
        .select("SELECT count(*)::float8 FROM pg_catalog.pg_replication_slots WHERE NOT active", Some(1), &[])
        .and_then(|rows| rows.first().get_one::<f64>())
        .map_err(spi_failed)?;
    take.measured("slots_inactive", "", inactive);
    let wal = client
        .select("SELECT sum(size)::float8 FROM pg_catalog.pg_ls_waldir()", Some(1), &[])
        .and_then(|rows| rows.first().get_one::<f64>())
        .map_err(spi_failed)?;
    take.measured("wal_dir_bytes", "", wal);
    Ok(())
}

pub(super) fn machine(_: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    host::machine(take);
    Ok(())
}

pub(super) fn database_sizes(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    let rows = query(
        client,
        "SELECT sum(size) FILTER (WHERE datname = pg_catalog.current_database())::float8, sum(size)::float8
           FROM (SELECT datname, pg_catalog.pg_database_size(oid) AS size FROM pg_catalog.pg_database) AS d",
        &[],
    )?;
    let database = take.database.clone();
    for row in rows {
        take.measured("database_size_bytes", &database, row.get::<f64>(1).map_err(spi_failed)?);
        take.measured("databases_size_bytes", "", row.get::<f64>(2).map_err(spi_failed)?);
    }
    Ok(())
}

pub(super) fn relations_hourly(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    relations(client, take, RELATIONS_HOURLY, false)
}

pub(super) fn relations_daily(client: &mut SpiClient, take: &mut Take) -> Result<(), Error> {
    relations(client, take, RELATIONS_DAILY, true)
}

/// Sizes with indexes and TOAST of the largest tables and materialized views of users; catalogs and the extension's own
/// partitions, whose names come and go, are part of `(other)`. Measuring opens each relation and its indexes: those that
/// are locked exclusively are passed over, not to wait behind a VACUUM FULL. Locks are read once: there may be as many as
/// anybody likes.
fn relations(client: &mut SpiClient, take: &mut Take, at_most: i32, with_other: bool) -> Result<(), Error> {
    let rows = query(
        client,
        "WITH largest AS MATERIALIZED (
             SELECT c.oid, c.reltoastrelid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
               FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               LEFT JOIN pg_catalog.pg_class AS t ON t.oid = c.reltoastrelid
              WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
                AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'perf')
              ORDER BY c.relpages::bigint + coalesce(t.relpages, 0) DESC, c.oid DESC LIMIT $1),
         heaps AS (
             SELECT l.oid, p.part
               FROM largest AS l CROSS JOIN LATERAL (VALUES (l.oid), (l.reltoastrelid)) AS p (part)),
         opened AS (
             SELECT h.oid, h.part FROM heaps AS h
              UNION ALL
             SELECT h.oid, i.indexrelid FROM heaps AS h JOIN pg_catalog.pg_index AS i ON i.indrelid = h.part),
         locked AS MATERIALIZED (
             SELECT DISTINCT l.relation FROM pg_catalog.pg_locks AS l
              WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL
                AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())),
         candidates AS MATERIALIZED (
             SELECT l.oid, l.name FROM largest AS l
              WHERE l.oid NOT IN (SELECT o.oid FROM opened AS o JOIN locked AS k ON k.relation = o.part))
         SELECT name, size::float8
           FROM (SELECT name, pg_catalog.pg_total_relation_size(oid) AS size FROM candidates) AS s
          WHERE size > 0 ORDER BY size DESC, name LIMIT $2",
        &[RELATIONS_MEASURED.into(), at_most.into()],
    )?;
    let mut named = 0.0;
    for row in rows {
        let name = row.get::<Text>(1).map_err(spi_failed)?.unwrap_or_default().0;
        if let Some(bytes) = row.get::<f64>(2).map_err(spi_failed)? {
            named += bytes;
            take.value("relation_size_bytes", &name, bytes);
        }
    }
    if with_other {
        let total = client
            .select("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())::float8", Some(1), &[])
            .and_then(|rows| rows.first().get_one::<f64>())
            .map_err(spi_failed)?;
        take.measured("relation_size_bytes", "(other)", total.map(|t| (t - named).max(0.0)));
    }
    Ok(())
}

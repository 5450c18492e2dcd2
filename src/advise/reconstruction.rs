//! Reads when the rows of each table came to be, from the statistics of its creation times: a history of the database's size
//! for the days before perf_opt was there. Called by `capacity` while samples are too few; reads catalogs and statistics
//! with the rights of the caller, so tables that one may not read count as if they had always been there.

use perf_core::forecast::reconstruct::{daily, Dated};
use perf_core::forecast::Point;
use pgrx::spi::SpiClient;

use super::samples::today;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::privilege;

/// The largest tables of which this many are looked at; the rest counts as constant.
const TABLES_MAX: i32 = 1_000;
/// Less than this share of what tables hold, dated, says nothing about the whole.
const DATED_MIN_SHARE: f64 = 0.5;
/// Tables below this are not worth a past.
const BYTES_MIN: f64 = 1_048_576.0;

/// Days and sizes of the database, and what they were taken from.
pub struct Past {
    /// The size at the end of each day up to yesterday.
    pub points: Vec<Point>,
    /// Tables that told when their rows came.
    pub tables: usize,
    /// Share of what all tables hold that these hold, in percent.
    pub dated_pct: f64,
}

/// The columns of each table that say when a row was made: of a date or time type, nearly without NULLs, nothing ahead of
/// now, and either filled by a default that is the current time or in the order the rows lie in. Of several the one
/// whose middle value is the earliest, for a row is changed after it is made. Tables that lose more than half as many rows
/// as they get keep no trace of their past. Statistics are text, made and read in one style of dates; a year that only a
/// date can hold becomes one that is ahead of now just the same.
const DATED: &str = "
    WITH locked AS MATERIALIZED (
        SELECT l.relation FROM pg_catalog.pg_locks AS l
         WHERE l.mode = 'AccessExclusiveLock' AND l.relation IS NOT NULL AND l.pid <> pg_catalog.pg_backend_pid()
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())),
    tables AS MATERIALIZED (
        SELECT c.oid, n.nspname, c.relname
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON s.relid = c.oid
         WHERE c.relkind = 'r' AND c.relpersistence <> 't'
           AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'perf')
           AND c.oid NOT IN (SELECT relation FROM locked)
           AND c.reltoastrelid NOT IN (SELECT relation FROM locked)
         ORDER BY c.relpages DESC, c.oid LIMIT $1),
    sized AS MATERIALIZED (
        SELECT t.*, pg_catalog.pg_total_relation_size(t.oid)::float8 AS bytes FROM tables AS t),
    columns AS (
        SELECT t.oid, t.bytes, a.attnum,
               s.most_common_vals::text::text[] AS common, s.most_common_freqs::float8[] AS shares,
               s.histogram_bounds::text::text[] AS bounds
          FROM sized AS t
          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND a.atttypid IN ('pg_catalog.date'::regtype, 'pg_catalog.timestamp'::regtype,
                              'pg_catalog.timestamptz'::regtype)
          JOIN pg_catalog.pg_stats AS s ON s.schemaname = t.nspname AND s.tablename = t.relname
           AND s.attname = a.attname AND NOT s.inherited
          LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          LEFT JOIN pg_catalog.pg_stat_all_tables AS st ON st.relid = t.oid
         WHERE s.null_frac < 0.01 AND t.bytes >= $2
           AND (pg_catalog.abs(s.correlation) > 0.9
                OR pg_catalog.pg_get_expr(d.adbin, d.adrelid) ~* '(now\\(|current_|_timestamp\\(|local)')
           AND 2 * coalesce(st.n_tup_del, 0) <= greatest(coalesce(st.n_tup_ins, 0), coalesce(st.n_live_tup, 0))),
    dated AS (
        SELECT c.oid, c.bytes, b.bounds, m.days, m.shares,
               pg_catalog.row_number() OVER (PARTITION BY c.oid ORDER BY coalesce(b.middle, m.middle), c.attnum) AS choice
          FROM columns AS c
         CROSS JOIN LATERAL (
               SELECT pg_catalog.array_agg(day ORDER BY day) AS bounds,
                      pg_catalog.percentile_cont(0.5) WITHIN GROUP (ORDER BY day) AS middle, max(day) AS latest
                 FROM (SELECT extract(epoch FROM v)::float8 / 86400 - 10957 AS day
                         FROM (SELECT CASE WHEN t ~ '^[0-9]{5}' THEN timestamptz '9999-12-31' ELSE t::timestamptz END
                                 FROM pg_catalog.unnest(c.bounds) AS t) AS v (v)
                        WHERE pg_catalog.isfinite(v)) AS v) AS b
         CROSS JOIN LATERAL (
               SELECT pg_catalog.array_agg(day) AS days, pg_catalog.array_agg(share) AS shares,
                      pg_catalog.percentile_cont(0.5) WITHIN GROUP (ORDER BY day) AS middle, max(day) AS latest
                 FROM (SELECT extract(epoch FROM v)::float8 / 86400 - 10957 AS day, share
                         FROM (SELECT CASE WHEN t ~ '^[0-9]{5}' THEN timestamptz '9999-12-31' ELSE t::timestamptz END, f
                                 FROM ROWS FROM (pg_catalog.unnest(c.common), pg_catalog.unnest(c.shares)) AS t (t, f))
                              AS v (v, share)
                        WHERE pg_catalog.isfinite(v)) AS v) AS m
         WHERE greatest(b.latest, m.latest) < $3 + 1)
    SELECT t.bytes, d.bounds, d.days, d.shares
      FROM sized AS t LEFT JOIN dated AS d ON d.oid = t.oid AND d.choice = 1";

/// The past of the current database, whose size is `database_bytes` now. None where too little of it is dated.
pub fn read(client: &SpiClient, database_bytes: f64) -> Result<Option<Past>, Error> {
    let today = today(client)?;
    let arguments = [TABLES_MAX.into(), BYTES_MIN.into(), today.into()];
    let rows = privilege::with_iso_dates(|| client.select(DATED, None, &arguments)).map_err(spi_failed)?;
    let (mut all, mut tables) = (0.0, Vec::new());
    for row in rows {
        let bytes = row.get::<f64>(1).map_err(spi_failed)?.unwrap_or(0.0);
        let list = |n| row.get::<Vec<Option<f64>>>(n).map(|l| l.unwrap_or_default()).map_err(spi_failed);
        let (bounds, days, shares) = (list(2)?, list(3)?, list(4)?);
        all += bytes;
        if !bounds.is_empty() || !days.is_empty() {
            tables.push(Dated {
                bytes,
                bounds: bounds.into_iter().flatten().collect(),
                most_common: days.into_iter().zip(shares).filter_map(|(day, share)| day.zip(share)).collect(),
            });
        }
    }
    let dated: f64 = tables.iter().map(|t| t.bytes).sum();
    if all <= 0.0 || dated < DATED_MIN_SHARE * all {
        return Ok(None);
    }
    // Yesterday is the last whole day, as for samples.
    let points = daily(&tables, (database_bytes - dated).max(0.0), today.floor() - 1.0);
    Ok((!points.is_empty()).then(|| Past { points, tables: tables.len(), dated_pct: 100.0 * dated / all }))
}

//! What the sampler has measured of the server, and what can be measured at once. Reads perf.capacity_sample with the
//! rights of the caller.

use perf_core::pool::CONNECTIONS_SHARE_MAX;
use pgrx::spi::{Spi, SpiClient};

use super::failed;
use crate::advise::samples::{current_database, one, peak, percentile};
use crate::collect::host;
use crate::error::Error;
use crate::pg::query::text;
use crate::pg::{backends, catalog, privilege};

/// Numbers of the server; None where nobody has measured.
pub(super) struct Measured {
    /// Statements a second of the current database: 95th percentile of the last day's minutes.
    pub(super) qps: Option<f64>,
    /// Processor time in percent: 95th percentile of the hours of the last 14 days.
    pub(super) cpu_pct: Option<f64>,
    /// Part of block reads of the current database that the buffer cache answered, in percent, over the last day.
    pub(super) buffer_hit_pct: Option<f64>,
    /// Memory of the machine or of its control group.
    pub(super) memory_bytes: Option<f64>,
    /// Bytes of the current database.
    pub(super) database_bytes: Option<f64>,
    /// Pressure of I/O in percent, 95th percentile of the last day.
    pub(super) io_pressure_pct: Option<f64>,
    /// Cores that the server may use.
    pub(super) cores: f64,
    /// Most connections at once over the last day, or now.
    pub(super) connections: f64,
    /// The same of the current database alone.
    pub(super) connections_of_database: f64,
    /// What no more than should be in use: 90 % of max_connections.
    pub(super) connections_ceiling: f64,
}

pub(super) fn read() -> Result<Measured, Error> {
    privilege::with_own_path(|| Spi::connect(measure))
}

fn measure(client: &SpiClient) -> Result<Measured, Error> {
    let here = current_database(client)?;
    let limit = |metric: &str, server: f64| -> Result<f64, Error> {
        Ok(recent(client, metric)?.filter(|limit| *limit > 0.0).map_or(server, |limit| limit.min(server)))
    };
    let memory = recent(client, "memory_total_bytes")?;
    let (server, database) = backends::count();
    let most = |now: u32, object: &str| -> Result<f64, Error> {
        Ok(peak(client, "connections_total", object)?.unwrap_or(0.0).max(f64::from(now)))
    };
    let possible = one::<f64>(client, "SELECT current_setting('max_connections')::float8", &[])?.unwrap_or(100.0);
    Ok(Measured {
        qps: percentile(client, "qps", &here, 60, "1 day")?,
        cpu_pct: match percentile(client, "cpu_used_pct", "", 3600, "14 days")? {
            Some(pct) => Some(pct),
            None => percentile(client, "cpu_used_pct", "", 300, "2 days")?,
        },
        buffer_hit_pct: one(
            client,
            "SELECT avg(value_mean) FROM perf.capacity_sample_visible WHERE resolution_s = 60 AND metric = 'buffer_hit_pct'
                AND object = $1 AND sampled_at > now() - interval '1 day'",
            &[text(&here)],
        )?,
        memory_bytes: memory.map(|memory| limit("cgroup_memory_limit_bytes", memory)).transpose()?,
        database_bytes: catalog::database_bytes().map_err(failed)?,
        io_pressure_pct: percentile(client, "pressure_io_pct", "", 300, "1 day")?,
        cores: f64::from(host::cores_or_own()),
        connections: most(server.total, "")?,
        connections_of_database: most(database.total, &here)?,
        connections_ceiling: (possible * CONNECTIONS_SHARE_MAX).floor().max(1.0),
    })
}

/// The latest value of the last day, of the whole server.
fn recent(client: &SpiClient, metric: &str) -> Result<Option<f64>, Error> {
    one(
        client,
        "SELECT value_mean FROM perf.capacity_sample_visible WHERE resolution_s = 300 AND metric = $1
            AND object = '' AND sampled_at > now() - interval '1 day' ORDER BY sampled_at DESC LIMIT 1",
        &[metric.into()],
    )
}

//! What the sampler has measured of the server, and what can be measured at once. Reads perf.capacity_sample with the
//! rights of the caller.

use super::value_of;
use crate::collect::host;
use crate::error::Error;
use crate::pg::backends;
use crate::pg::text::Text;

/// Connections above this part of max_connections are as good as none left.
const CONNECTIONS_SHARE_MAX: f64 = 0.9;

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
    let limit = |metric: &str, server: f64| -> Result<f64, Error> {
        Ok(recent(metric, false)?.filter(|limit| *limit > 0.0).map_or(server, |limit| limit.min(server)))
    };
    let here = || std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let memory = recent("memory_total_bytes", false)?;
    let (server, database) = backends::count();
    let most = |now: u32, of_database: bool| -> Result<f64, Error> {
        let sampled = value_of::<f64>(
            "SELECT max(coalesce(value_max, value_mean)) FROM perf.capacity_sample WHERE resolution_s = 60
                AND metric = 'connections_total' AND object = CASE WHEN $1 THEN current_database() ELSE '' END
                AND sampled_at > now() - interval '1 day'",
            &[of_database.into()],
        )?;
        Ok(sampled.unwrap_or(0.0).max(f64::from(now)))
    };
    let possible = value_of::<f64>("SELECT current_setting('max_connections')::float8", &[])?.unwrap_or(100.0);
    Ok(Measured {
        qps: percentile("qps", true, 60, "1 day")?,
        cpu_pct: match percentile("cpu_used_pct", false, 3600, "14 days")? {
            Some(pct) => Some(pct),
            None => percentile("cpu_used_pct", false, 300, "2 days")?,
        },
        buffer_hit_pct: value_of::<f64>(
            "SELECT avg(value_mean) FROM perf.capacity_sample WHERE resolution_s = 60 AND metric = 'buffer_hit_pct'
                AND object = current_database() AND sampled_at > now() - interval '1 day'",
            &[],
        )?,
        memory_bytes: memory.map(|memory| limit("cgroup_memory_limit_bytes", memory)).transpose()?,
        database_bytes: value_of::<f64>(
            "SELECT CASE WHEN has_database_privilege(current_database(), 'CONNECT')
                           OR pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                         THEN pg_database_size(current_database()) END::float8",
            &[],
        )?,
        io_pressure_pct: percentile("pressure_io_pct", false, 300, "1 day")?,
        cores: host::cores().map_or_else(here, f64::from),
        connections: most(server.total, false)?,
        connections_of_database: most(database.total, true)?,
        connections_ceiling: (possible * CONNECTIONS_SHARE_MAX).floor().max(1.0),
    })
}

/// The latest value of the last day.
fn recent(metric: &str, of_database: bool) -> Result<Option<f64>, Error> {
    value_of::<f64>(
        "SELECT value_mean FROM perf.capacity_sample WHERE resolution_s = 300 AND metric = $1
            AND (object = current_database() OR NOT $2) AND sampled_at > now() - interval '1 day'
          ORDER BY sampled_at DESC LIMIT 1",
        &[Text(metric.to_owned()).into(), of_database.into()],
    )
}

/// The 95th percentile of the samples of a while.
fn percentile(metric: &str, of_database: bool, resolution_s: i32, of: &str) -> Result<Option<f64>, Error> {
    value_of::<f64>(
        "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY coalesce(value_p95, value_mean))
           FROM perf.capacity_sample WHERE resolution_s = $3 AND metric = $1
            AND (object = current_database() OR NOT $2) AND sampled_at > now() - $4::interval",
        &[Text(metric.to_owned()).into(), of_database.into(), resolution_s.into(), Text(of.to_owned()).into()],
    )
}

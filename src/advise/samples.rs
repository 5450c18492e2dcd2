//! Reads the samples of capacity: as users ask for them, and as the advisors do. Through SPI with the rights of the caller;
//! takes no lock.

use perf_core::forecast::Point;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::spi::{Spi, SpiClient, SpiTupleTable};

use crate::collect::partitions::spi_failed;
use crate::collect::sampler::{METRICS, STEPS};
use crate::error::Error;
use crate::pg::query::text;
use crate::pg::text::Text;

pub(super) const DAY_US: f64 = 86_400e6;

/// Now, in days since the epoch of timestamps.
pub(super) fn today(client: &SpiClient) -> Result<f64, Error> {
    Ok(one::<TimestampWithTimeZone>(client, "SELECT now()", &[])?.map_or(0.0, |now| i64::from(now) as f64 / DAY_US))
}

/// The first value of a query; None where there is no row.
pub(super) fn one<T: pgrx::datum::FromDatum + pgrx::datum::IntoDatum>(
    client: &SpiClient,
    query: &str,
    arguments: &[DatumWithOid],
) -> Result<Option<T>, Error> {
    let first = |rows: SpiTupleTable<'_>| if rows.is_empty() { Ok(None) } else { rows.first().get_one::<T>() };
    client.select(query, Some(1), arguments).and_then(first).map_err(spi_failed)
}

/// The name of the current database.
pub(super) fn current_database(client: &SpiClient) -> Result<String, Error> {
    Ok(one::<Text>(client, "SELECT current_database()::text", &[])?.unwrap_or_default().0)
}

/// The daily samples of a metric: `value` is the mean, the 95th percentile or the peak of each day.
pub(super) fn daily(client: &SpiClient, metric: &str, object: &str, value: &str) -> Result<Vec<Point>, Error> {
    let rows = client
        .select(
            "SELECT sampled_at, CASE $3 WHEN 'value_max' THEN coalesce(value_max, value_mean)
                                        WHEN 'value_p95' THEN coalesce(value_p95, value_mean) ELSE value_mean END
               FROM perf.capacity_sample_visible WHERE resolution_s = 86400 AND metric = $1 AND object = $2 ORDER BY 1",
            None,
            &[metric.into(), text(object), value.into()],
        )
        .map_err(spi_failed)?;
    let mut points = Vec::new();
    for row in rows {
        let at = row.get::<TimestampWithTimeZone>(1).map_err(spi_failed)?;
        if let (Some(at), Some(value)) = (at, row.get::<f64>(2).map_err(spi_failed)?) {
            points.push(Point { day: i64::from(at) as f64 / DAY_US, value });
        }
    }
    Ok(points)
}

/// When sampling began, looked up where samples are kept longest first: a day or an hour is dated by its beginning.
pub(super) fn first_at(client: &SpiClient, metric: &str, object: &str) -> Result<Option<TimestampWithTimeZone>, Error> {
    for step in STEPS.iter().rev() {
        let first = one::<TimestampWithTimeZone>(
            client,
            "SELECT min(sampled_at) FROM perf.capacity_sample_visible WHERE resolution_s = $1 AND metric = $2 AND object = $3",
            &[step.resolution_s.into(), metric.into(), text(object)],
        )?;
        if first.is_some() {
            return Ok(first);
        }
    }
    Ok(None)
}

/// The highest value of the last day's minutes.
pub(super) fn peak(client: &SpiClient, metric: &str, object: &str) -> Result<Option<f64>, Error> {
    one(
        client,
        "SELECT max(coalesce(value_max, value_mean)) FROM perf.capacity_sample_visible
          WHERE resolution_s = 60 AND metric = $1 AND object = $2 AND sampled_at > now() - interval '1 day'",
        &[metric.into(), text(object)],
    )
}

/// The 95th percentile of the samples of a while.
pub(super) fn percentile(
    client: &SpiClient,
    metric: &str,
    object: &str,
    resolution_s: i32,
    of: &str,
) -> Result<Option<f64>, Error> {
    one(
        client,
        "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY coalesce(value_p95, value_mean))
           FROM perf.capacity_sample_visible WHERE resolution_s = $3 AND metric = $1
            AND object = $2 AND sampled_at > now() - $4::interval",
        &[metric.into(), text(object), resolution_s.into(), of.into()],
    )
}

/// One row of `capacity_samples`.
pub struct Sample {
    pub sampled_at: TimestampWithTimeZone,
    /// None: not for the current role.
    pub object: Option<String>,
    pub min: f64,
    pub mean: f64,
    pub p95: f64,
    pub max: f64,
}

/// What is kept of a metric since a time: at the finest resolution that is kept for so long, and from where that has been
/// summed up to, at the finer ones. NULL: all that is kept.
pub fn samples(metric: Option<&str>, since: Option<TimestampWithTimeZone>) -> Result<Vec<Sample>, Error> {
    let Some(known) = METRICS.iter().find(|m| Some(m.name) == metric) else {
        return Err(Error::InvalidArgument {
            argument: "metric",
            value: metric.map_or("NULL".to_owned(), |m| format!("\"{m}\"")),
            accepted: format!("Known metrics: {}.", METRICS.iter().map(|m| m.name).collect::<Vec<_>>().join(", ")),
        });
    };
    Spi::connect(|client| {
        let since = i64::from(match since {
            Some(since) => since,
            None => one(client, "SELECT '-infinity'::timestamptz", &[])?
                .ok_or_else(|| spi_failed(pgrx::spi::Error::NoTupleTable))?,
        });
        let now: i64 = one::<TimestampWithTimeZone>(client, "SELECT now()", &[])?.map_or(0, i64::from);
        let age_s = now.saturating_sub(since) / 1_000_000;
        let wanted = STEPS.iter().find(|s| age_s <= s.ladder.keep_s).map_or(86_400, |s| s.resolution_s);
        let finest = known.measured_every_s.first().copied().unwrap_or(60);
        // Coarsest first; what is measured at a resolution is complete there, and nothing finer follows.
        let steps = STEPS.iter().rev().filter(|s| s.resolution_s <= wanted.max(finest) && s.resolution_s >= finest);
        let mut from = since;
        let mut samples = Vec::new();
        for step in steps {
            let measured = known.measured_every_s.contains(&step.resolution_s);
            let until = if measured {
                i64::MAX
            } else {
                one::<TimestampWithTimeZone>(
                    client,
                    "SELECT rolled_until FROM perf.capacity_clock WHERE resolution_s = $1",
                    &[step.resolution_s.into()],
                )?
                .map_or(i64::MIN, i64::from)
            };
            read(client, known.name, step.resolution_s, from, until, &mut samples)?;
            if measured {
                break;
            }
            from = from.max(until);
        }
        Ok(samples)
    })
}

fn read(
    client: &SpiClient,
    metric: &str,
    resolution_s: i64,
    from: i64,
    until: i64,
    samples: &mut Vec<Sample>,
) -> Result<(), Error> {
    let instant = |us: i64| {
        TimestampWithTimeZone::try_from(us).map_err(|_| Error::InvalidArgument {
            argument: "since",
            value: us.to_string(),
            accepted: "Give a time a timestamptz can hold.".to_owned(),
        })
    };
    let rows = client
        .select(
            "SELECT sampled_at, object, value_mean, value_min, value_p95, value_max FROM perf.capacity_sample_visible
              WHERE metric = $1 AND resolution_s = $2 AND sampled_at >= $3 AND sampled_at < $4 ORDER BY 1, 2",
            None,
            &[metric.into(), resolution_s.into(), instant(from)?.into(), instant(until)?.into()],
        )
        .map_err(spi_failed)?;
    for row in rows {
        let value = |n: usize| row.get::<f64>(n).map_err(spi_failed);
        let at = row.get::<TimestampWithTimeZone>(1).map_err(spi_failed)?;
        let object = row.get::<Text>(2).map_err(spi_failed)?.map(|object| object.0);
        if let (Some(sampled_at), Some(mean)) = (at, value(3)?) {
            samples.push(Sample {
                sampled_at,
                object,
                mean,
                // One measured value is its own minimum and maximum.
                min: value(4)?.unwrap_or(mean),
                p95: value(5)?.unwrap_or(mean),
                max: value(6)?.unwrap_or(mean),
            });
        }
    }
    Ok(())
}

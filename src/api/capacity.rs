//! SQL: `capacity_estimate`, `capacity_samples`, `capacity_sample_now`.

use super::or_raise;
use crate::advise::{capacity, samples};
use crate::collect::sampler;
use crate::pg::text::{Document, Text};
use pgrx::datum::{Array, Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

/// Projects database size, used disk, peak connections and statements a second to the given horizons.
///
/// Sizes in bytes, connections as the highest number of a day, qps as the 95th percentile of a day's minutes. Method and
/// grades: see `perf_core::forecast`. Triggers come from perf.scaling_trigger (disk in percent of what can be used;
/// connections never above 90 % of max_connections): the lowest that is not reached yet. Errors: 22023 for no horizon, a
/// NULL one, or one that is not above zero or above 100 years.
#[pg_extern]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn capacity_estimate(
    horizons: default!(Option<Array<Interval>>, "'{6 months,1 year}'"),
) -> TableIterator<
    'static,
    (
        name!(metric, String),
        name!(unit, String),
        name!(horizon, Interval),
        name!(horizon_at, TimestampWithTimeZone),
        name!(current_value, Option<f64>),
        name!(projected, Option<f64>),
        name!(projected_low, Option<f64>),
        name!(projected_high, Option<f64>),
        name!(growth_per_quarter, Option<f64>),
        name!(trigger_name, Option<Text>),
        name!(trigger_value, Option<f64>),
        name!(crosses_at, Option<TimestampWithTimeZone>),
        name!(crosses_earliest_at, Option<TimestampWithTimeZone>),
        name!(crosses_latest_at, Option<TimestampWithTimeZone>),
        name!(model, Option<String>),
        name!(history_days, f64),
        name!(backtest_error_pct, Option<f64>),
        name!(backtest_coverage_pct, Option<f64>),
        name!(quality, String),
        name!(basis, String),
        name!(action, Text),
        name!(crossings, Document),
    ),
> {
    let asked = horizons.map(|array| array.iter().collect());
    let rows = or_raise(capacity::horizons(asked).and_then(|horizons| capacity::estimate(&horizons)));
    TableIterator::new(rows.into_iter().map(|e| {
        (
            e.metric.to_owned(),
            e.unit.to_owned(),
            e.horizon.interval,
            e.horizon.at,
            e.current_value,
            e.projected,
            e.projected_low,
            e.projected_high,
            e.growth_per_quarter,
            e.trigger_name.map(Text),
            e.trigger_value,
            e.crosses_at,
            e.crosses_earliest_at,
            e.crosses_latest_at,
            e.model,
            e.history_days,
            e.backtest_error_pct,
            e.backtest_coverage_pct,
            e.quality.to_owned(),
            e.basis.to_owned(),
            Text(e.action),
            Document(e.crossings),
        )
    }))
}

/// Samples of one metric, oldest first; its unit is the end of its name. Errors: 22023 for an unknown metric.
#[pg_extern(stable)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn capacity_samples(
    metric: Option<&str>,
    since: default!(Option<TimestampWithTimeZone>, "now() - '30 days'::interval"),
) -> TableIterator<
    'static,
    (
        name!(sampled_at, TimestampWithTimeZone),
        name!(object, Option<Text>),
        name!(value_min, f64),
        name!(value_mean, f64),
        name!(value_p95, f64),
        name!(value_max, f64),
    ),
> {
    let rows = or_raise(samples::samples(metric, since));
    TableIterator::new(rows.into_iter().map(|s| (s.sampled_at, s.object.map(Text), s.min, s.mean, s.p95, s.max)))
}

/// Takes a sample at once, of what is due: for servers that cannot preload the library, from pg_cron. Rates need two calls
/// in one session. Returns the rows stored, sums included. Superuser, or EXECUTE granted by one.
#[pg_extern]
fn capacity_sample_now() -> i64 {
    or_raise(sampler::check_writable());
    sampler::observe_backends();
    let now = pgrx::datetime::now();
    let report = or_raise(sampler::sample(now, None).and_then(|report| sampler::rotate(now).map(|_| report)));
    (report.stored + report.rolled_up) as i64
}

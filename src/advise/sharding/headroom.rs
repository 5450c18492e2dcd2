//! How long one machine will do: when processor time or statements a second reach the limit of the largest one. Reads
//! perf.capacity_sample, perf.scaling_trigger and perf.price with the rights of the caller; locks nothing.
//!
//! Disk is no part of it: storage is added without another machine.

use perf_core::forecast::{crossing, Forecast, Point};
use perf_core::sharding::HEADROOM_MONTHS;
use pgrx::spi::Spi;

use crate::advise::samples::{current_database, daily};
use crate::collect::host;
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{catalog, privilege};

const DAYS_PER_MONTH: f64 = 30.44;
/// Nobody plans machines for longer.
const LIMIT_DAYS: f64 = 10.0 * 365.0;

/// What is known of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headroom {
    /// Months until the first limit is reached; infinite when the forecast reaches none. `None`: not known.
    pub months: Option<f64>,
    /// Where that comes from.
    pub why: Vec<String>,
}

/// What limits one machine.
struct Limit {
    metric: &'static str,
    /// Of which object samples are: the server, or the current database.
    of_database: bool,
    trigger: &'static str,
}

const LIMITS: [Limit; 2] = [
    Limit { metric: "cpu_used_pct", of_database: false, trigger: "horizontal_cpu" },
    Limit { metric: "qps", of_database: true, trigger: "qps_horizontal" },
];

/// Forecasts what limits one machine.
pub fn read() -> Result<Headroom, Error> {
    privilege::with_own_path(|| {
        let factor = larger_by()?;
        let mut headroom = Headroom::default();
        let mut all_known = true;
        for limit in &LIMITS {
            let trigger = catalog::value::<f64>(
                "SELECT threshold FROM perf.scaling_trigger WHERE trigger_name = $1",
                &[Text(limit.trigger.to_owned()).into()],
            )
            .map_err(failed)?;
            // Without a trigger it is none of the limits.
            let Some(trigger) = trigger else { continue };
            // A threshold for statements is the owner's, for whatever machine; one in percent is of this machine.
            let threshold = if limit.metric == "cpu_used_pct" { trigger * factor } else { trigger };
            let of = if threshold > trigger {
                format!(" ({trigger:.0} % of the largest machine of perf.price, {factor:.1} times this one)")
            } else {
                String::new()
            };
            let of = if limit.of_database { " (of this database alone)".to_owned() } else { of };
            let series = Spi::connect(|client| {
                let object = if limit.of_database { current_database(client)? } else { String::new() };
                daily(client, limit.metric, &object, "value_p95")
            })?;
            let months = months_until(&series, threshold);
            match months {
                Some(months) if months.is_finite() => {
                    headroom.why.push(format!("{} reaches {threshold:.0} in {months:.0} months{of}", limit.metric));
                }
                Some(_) => {
                    headroom.why.push(format!("{} does not reach {threshold:.0} by its forecast{of}", limit.metric))
                }
                None => all_known = false,
            }
            if let Some(months) = months {
                headroom.months = Some(headroom.months.map_or(months, |other| other.min(months)));
            }
        }
        // One limit that is far away says nothing while another one is not known.
        if !all_known && headroom.months.is_some_and(|months| months >= HEADROOM_MONTHS) {
            headroom.months = None;
        }
        Ok(headroom)
    })
}

fn failed(error: pgrx::spi::Error) -> Error {
    crate::collect::partitions::spi_failed(error)
}

/// How many times the cores of this machine the largest one of the price table has; 1 without any.
fn larger_by() -> Result<f64, Error> {
    let largest = catalog::value::<i32>("SELECT max(vcpus) FROM perf.price WHERE kind = 'instance'", &[]);
    let cores = f64::from(host::cores_or_own());
    Ok(largest.map_err(failed)?.map_or(1.0, |vcpus| (f64::from(vcpus) / cores).max(1.0)))
}

/// Months until a series reaches a threshold; `None` when its history does not carry so far.
fn months_until(series: &[Point], threshold: f64) -> Option<f64> {
    let forecast = Forecast::of(series);
    forecast.model()?;
    let span = series.last()?.day - series.first()?.day;
    // Beyond twice the history no date can be given.
    let carried = (2.0 * span).min(LIMIT_DAYS);
    let when = crossing(|day| forecast.at(day), threshold, carried);
    match when.expected {
        Some(days) => Some(days / DAYS_PER_MONTH),
        None if carried >= HEADROOM_MONTHS * DAYS_PER_MONTH => Some(f64::INFINITY),
        None => None,
    }
}

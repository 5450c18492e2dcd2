//! Answers when capacity runs out: stored samples forecast, next to what is measured now and what the policy triggers say.
//!
//! Reads perf.capacity_sample and perf.scaling_trigger through SPI with the rights of the caller; takes no lock. Without any
//! sample it still answers, with what can be measured at once and no projection.

use super::reconstruction;
use super::samples::{current_database, daily, first_at, one, peak, percentile, DAY_US};
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{backends, catalog, filesystem};
use perf_core::forecast::{crossing, history_needed_days, Crossing, Forecast, Point, Quality, Sum, QUARTER_DAYS};
use perf_core::pool::CONNECTIONS_SHARE_MAX;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::spi::{Spi, SpiClient};
use serde_json::{json, Value};

/// More horizons than this are a mistake.
const HORIZONS_MAX: usize = 64;

/// A point in the future that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Horizon {
    /// As it was asked for.
    pub interval: Interval,
    /// The date it means.
    pub at: TimestampWithTimeZone,
    days: f64,
}

/// One row of `capacity_estimate`.
#[derive(Debug)]
pub struct Estimate {
    pub metric: &'static str,
    pub unit: &'static str,
    pub horizon: Horizon,
    pub current_value: Option<f64>,
    pub projected: Option<f64>,
    pub projected_low: Option<f64>,
    pub projected_high: Option<f64>,
    pub growth_per_quarter: Option<f64>,
    pub trigger_name: Option<String>,
    pub trigger_value: Option<f64>,
    pub crosses_at: Option<TimestampWithTimeZone>,
    pub crosses_earliest_at: Option<TimestampWithTimeZone>,
    pub crosses_latest_at: Option<TimestampWithTimeZone>,
    pub model: Option<String>,
    pub history_days: f64,
    pub backtest_error_pct: Option<f64>,
    pub backtest_coverage_pct: Option<f64>,
    pub quality: &'static str,
    pub basis: &'static str,
    pub action: String,
    pub crossings: Value,
}

/// What users see where the history before the samples was rebuilt.
const RECONSTRUCTED: &str = "reconstructed";

struct Trigger {
    name: String,
    value: f64,
    recommendation: String,
}

/// What is known of one metric.
struct Known {
    metric: &'static str,
    unit: &'static str,
    current: Option<f64>,
    sum: Sum,
    first_at: Option<TimestampWithTimeZone>,
    /// The last day that was forecast from, in days since the epoch of timestamps.
    last_day: Option<f64>,
    triggers: Vec<Trigger>,
    /// The same from a rebuilt history, for horizons that samples are too few for.
    rebuilt: Option<Rebuilt>,
}

/// A history that was rebuilt from when rows were made.
struct Rebuilt {
    sum: Sum,
    last_day: Option<f64>,
    history_days: f64,
    /// What it was rebuilt from, as a sentence.
    source: String,
}

/// What a metric is expected to do, as it is used for one horizon.
struct Outlook<'a> {
    sum: &'a Sum,
    /// Days since the last day that was forecast from.
    age: f64,
    /// Of the forecast as such.
    quality: Quality,
    rebuilt: Option<&'a Rebuilt>,
}

/// Turns the argument of `capacity_estimate` into dates.
pub fn horizons(asked: Option<Vec<Option<Interval>>>) -> Result<Vec<Horizon>, Error> {
    let invalid = |value: String| Error::InvalidArgument {
        argument: "horizons",
        value,
        accepted: "Give one to 64 intervals above zero and up to 100 years, such as '{6 months,1 year}'.".to_owned(),
    };
    let asked = asked.ok_or_else(|| invalid("NULL".to_owned()))?;
    if asked.is_empty() || asked.len() > HORIZONS_MAX {
        return Err(invalid(format!("an array of {} elements", asked.len())));
    }
    Spi::connect(|client| {
        let mut horizons = Vec::new();
        for interval in asked {
            let interval = interval.ok_or_else(|| invalid("an array with a NULL element".to_owned()))?;
            let rows = client
                .select(
                    "SELECT $1 > interval '0' AND $1 <= interval '100 years', $1::text",
                    Some(1),
                    &[interval.into()],
                )
                .map_err(spi_failed)?;
            let (accepted, shown) = rows.first().get_two::<bool, String>().map_err(spi_failed)?;
            if accepted != Some(true) {
                return Err(invalid(shown.unwrap_or_default()));
            }
            let rows = client
                .select(
                    "SELECT now() + $1, extract(epoch FROM now() + $1 - now())::float8 / 86400",
                    Some(1),
                    &[interval.into()],
                )
                .map_err(spi_failed)?;
            if let (Some(at), Some(days)) = rows.first().get_two::<TimestampWithTimeZone, f64>().map_err(spi_failed)? {
                horizons.push(Horizon { interval, at, days });
            }
        }
        Ok(horizons)
    })
}

/// Every metric at every horizon.
pub fn estimate(horizons: &[Horizon]) -> Result<Vec<Estimate>, Error> {
    Spi::connect(|client| {
        let now: i64 = one::<TimestampWithTimeZone>(client, "SELECT now()", &[])?.map_or(0, i64::from);
        let mut known = [database_size(client)?, disk_used(client)?, peak_connections(client)?, qps(client)?];
        rebuild(client, &mut known, horizons, now as f64 / DAY_US)?;
        Ok(known.iter().flat_map(|k| horizons.iter().map(move |h| k.estimate(h, now))).collect())
    })
}

impl Known {
    fn estimate(&self, horizon: &Horizon, now: i64) -> Estimate {
        let outlook = self.outlook(horizon, now as f64 / DAY_US);
        let (sum, age, quality) = (outlook.sum, outlook.age, outlook.quality);
        let projection = sum.at(horizon.days + age);
        let trigger = self.trigger();
        let crossing = trigger.map_or_else(Crossing::default, |t| self.crossing(&outlook, horizon, t));
        let date = |days: Option<f64>| days.and_then(|days| date_in(now, days));
        let sampled_days = self.first_at.map_or(0.0, |first| ((now - i64::from(first)) as f64 / DAY_US).max(0.0));
        Estimate {
            metric: self.metric,
            unit: self.unit,
            horizon: *horizon,
            current_value: self.current,
            projected: projection.map(|p| p.value),
            projected_low: projection.map(|p| p.low),
            projected_high: projection.map(|p| p.high),
            growth_per_quarter: sum.slope_per_day().map(|s| s * QUARTER_DAYS),
            trigger_name: trigger.map(|t| t.name.clone()),
            trigger_value: trigger.map(|t| t.value),
            crosses_at: date(crossing.expected),
            crosses_earliest_at: date(crossing.earliest),
            crosses_latest_at: date(crossing.latest),
            model: projection.and_then(|_| sum.model()),
            history_days: outlook.rebuilt.map_or(sampled_days, |r| r.history_days),
            backtest_error_pct: projection.and_then(|_| sum.backtest_error_pct()),
            backtest_coverage_pct: projection.and_then(|_| sum.backtest_coverage_pct()),
            quality: if outlook.rebuilt.is_some() { RECONSTRUCTED } else { quality.name() },
            basis: match (projection, self.current) {
                (Some(_), _) if outlook.rebuilt.is_some() => RECONSTRUCTED,
                (Some(_), _) => "samples",
                (None, Some(_)) => "measured",
                (None, None) => "none",
            },
            action: self.action(horizon, now, &outlook, trigger, &crossing),
            crossings: self.crossings(&outlook, horizon, now),
        }
    }

    /// Samples where they carry the horizon, a rebuilt history where only that does.
    fn outlook(&self, horizon: &Horizon, today: f64) -> Outlook<'_> {
        // The forecast counts from its last point, which may be a while ago.
        let of = |sum, last_day: Option<f64>, rebuilt| {
            let age = last_day.map_or(0.0, |last| (today - last).max(0.0));
            Outlook { sum, age, quality: Sum::quality(sum, horizon.days + age), rebuilt }
        };
        let sampled = of(&self.sum, self.last_day, None);
        match &self.rebuilt {
            Some(rebuilt) if sampled.quality == Quality::InsufficientData => {
                let known = of(&rebuilt.sum, rebuilt.last_day, Some(rebuilt));
                if known.quality == Quality::InsufficientData {
                    sampled
                } else {
                    known
                }
            }
            _ => sampled,
        }
    }

    fn is_reached(&self, trigger: &Trigger) -> bool {
        self.current.is_some_and(|current| current >= trigger.value)
    }

    /// When a trigger is reached, in days from now, within the horizon.
    fn crossing(&self, outlook: &Outlook, horizon: &Horizon, trigger: &Trigger) -> Crossing {
        let Outlook { sum, age, quality, .. } = *outlook;
        if self.is_reached(trigger) {
            return Crossing { earliest: Some(0.0), expected: Some(0.0), latest: Some(0.0) };
        }
        // No date from a horizon that is beyond what the history carries.
        if quality < Quality::Low {
            return Crossing::default();
        }
        let limit = (2.0 * sum.graded_days() - age).max(0.0);
        crossing(|day| sum.at(day + age), trigger.value, limit.min(horizon.days))
    }

    /// Every trigger with its dates, the lowest first.
    fn crossings(&self, outlook: &Outlook, horizon: &Horizon, now: i64) -> Value {
        let date = |days: Option<f64>| days.map(|days| iso_date(now as f64 / DAY_US + days));
        let one = |trigger: &Trigger| {
            let crossing = self.crossing(outlook, horizon, trigger);
            json!({
                "trigger_name": trigger.name, "trigger_value": trigger.value, "reached": self.is_reached(trigger),
                "crosses_on": date(crossing.expected), "crosses_earliest_on": date(crossing.earliest),
                "crosses_latest_on": date(crossing.latest), "recommendation": trigger.recommendation,
            })
        };
        Value::Array(self.triggers.iter().map(one).collect())
    }

    /// The lowest trigger that is not reached yet; when all are, the highest.
    fn trigger(&self) -> Option<&Trigger> {
        let ahead = |t: &&Trigger| self.current.is_none_or(|c| c < t.value);
        self.triggers.iter().find(ahead).or(self.triggers.last())
    }

    fn action(
        &self,
        horizon: &Horizon,
        now: i64,
        outlook: &Outlook,
        trigger: Option<&Trigger>,
        crossing: &Crossing,
    ) -> String {
        let reached = trigger.is_some_and(|t| self.is_reached(t));
        let day = |days: f64| iso_date(now as f64 / DAY_US + days);
        let mut action = match trigger {
            Some(t) if reached => format!("{} is reached now: {}", t.name, t.recommendation),
            _ => String::new(),
        };
        let mut say = |text: String| {
            if !action.is_empty() {
                action.push(' ');
            }
            action.push_str(&text);
        };
        if let Some(rebuilt) = outlook.rebuilt {
            say(rebuilt.source.clone());
        }
        match (outlook.quality, trigger) {
            (Quality::InsufficientData, _) => {
                let needed = history_needed_days(horizon.days);
                match self.first_at {
                    None => say(format!(
                        "No samples yet: they are taken once perf_opt is in shared_preload_libraries. This horizon needs \
                         {needed} days of them."
                    )),
                    Some(first) => {
                        let first = i64::from(first) as f64 / DAY_US;
                        // One more day: a day counts when it is complete.
                        let ready = (first + needed + 1.0).max(now as f64 / DAY_US + 1.0);
                        say(format!(
                            "Samples since {}: this horizon needs {needed} days of them, there from {} on.",
                            iso_date(first),
                            iso_date(ready)
                        ));
                    }
                }
            }
            (_, Some(_)) if reached => {}
            (Quality::Extrapolated, _) => {
                say("The horizon is more than twice the history: no date can be given, only a direction.".to_owned());
            }
            (_, Some(t)) => match (crossing.expected, crossing.earliest) {
                (Some(days), _) => say(format!("{} is reached about {}: {}", t.name, day(days), t.recommendation)),
                (None, Some(days)) => say(format!(
                    "{} is not expected within the horizon, but possible from {} on: {}",
                    t.name,
                    day(days),
                    t.recommendation
                )),
                (None, None) => say(format!("None: {} is not reached within the horizon.", t.name)),
            },
            (_, None) => say("None: no trigger is set for this metric.".to_owned()),
        }
        action
    }
}

/// Where samples do not carry every horizon: rebuilds the history of the database's size from when its rows were made,
/// and that of the disk on the assumption that all else on it was as large as it is now.
fn rebuild(client: &SpiClient, known: &mut [Known; 4], horizons: &[Horizon], today: f64) -> Result<(), Error> {
    let [size, disk, ..] = known;
    let lacks = |known: &Known| {
        horizons.iter().any(|horizon| known.outlook(horizon, today).quality == Quality::InsufficientData)
    };
    if !lacks(size) && !lacks(disk) {
        return Ok(());
    }
    let Some(bytes) = size.current else { return Ok(()) };
    let Some(past) = reconstruction::read(client, bytes)? else { return Ok(()) };
    let rebuilt = |extra: f64| {
        let points: Vec<Point> = past.points.iter().map(|p| Point { value: p.value + extra, ..*p }).collect();
        let last_day = last_day(&points);
        Rebuilt {
            history_days: points.first().map_or(0.0, |first| (today - first.day).max(0.0)),
            sum: Sum::of(vec![Forecast::of(&points)]),
            last_day,
            source: format!(
                "Rebuilt from when the rows of {} tables ({:.0} % of all their bytes) were made; what was deleted \
                 meanwhile is not seen.",
                past.tables, past.dated_pct
            ),
        }
    };
    disk.rebuilt = disk.current.map(|used| {
        let mut disk = rebuilt((used - bytes).max(0.0));
        disk.source.push_str(" All else on the disk is taken to have been as large as it is now.");
        disk
    });
    size.rebuilt = Some(rebuilt(0.0));
    Ok(())
}

/// A number of days after `now`.
fn date_in(now: i64, days: f64) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(now.saturating_add((days * DAY_US) as i64)).ok()
}

fn database_size(client: &SpiClient) -> Result<Known, Error> {
    let database = current_database(client)?;
    let series = daily(client, "database_size_bytes", &database, "value_mean")?;
    Ok(Known {
        metric: "database_size",
        unit: "bytes",
        current: catalog::database_bytes().map_err(spi_failed)?,
        first_at: first_at(client, "database_size_bytes", &database)?,
        last_day: last_day(&series),
        sum: Sum::of(vec![Forecast::of(&series)]),
        triggers: triggers(client, "database_size", Some)?,
        rebuilt: None,
    })
}

fn disk_used(client: &SpiClient) -> Result<Known, Error> {
    let space = filesystem::space(".");
    let whole = daily(client, "disk_used_bytes", "data", "value_mean")?;
    let databases = daily(client, "databases_size_bytes", "", "value_mean")?;
    // WAL on a filesystem of its own does not fill this one.
    let wal_is_here = filesystem::space("pg_wal").zip(space).is_some_and(|(wal, data)| wal.device == data.device);
    let wal = if wal_is_here {
        daily(client, "wal_dir_bytes", "", "value_mean")?
    } else {
        databases.iter().map(|p| Point { value: 0.0, ..*p }).collect()
    };
    let usable = space.map(|s| s.used_bytes + s.available_bytes);
    Ok(Known {
        metric: "disk_used",
        unit: "bytes",
        current: space.map(|s| s.used_bytes),
        first_at: first_at(client, "disk_used_bytes", "data")?,
        last_day: last_day(&whole),
        sum: Sum::with_rest(&whole, &databases, &wal),
        triggers: triggers(client, "disk_used", |pct| usable.map(|u| u * pct / 100.0))?,
        rebuilt: None,
    })
}

fn peak_connections(client: &SpiClient) -> Result<Known, Error> {
    let series = daily(client, "connections_total", "", "value_max")?;
    let now = f64::from(backends::count().0.total);
    let possible: Option<f64> = one(client, "SELECT current_setting('max_connections')::float8", &[])?;
    let ceiling = (possible.unwrap_or(f64::INFINITY) * CONNECTIONS_SHARE_MAX).floor();
    Ok(Known {
        metric: "peak_connections",
        unit: "connections",
        current: Some(peak(client, "connections_total", "")?.map_or(now, |sampled| sampled.max(now))),
        first_at: first_at(client, "connections_total", "")?,
        last_day: last_day(&series),
        sum: Sum::of(vec![Forecast::of(&series)]),
        triggers: triggers(client, "peak_connections", |t| Some(t.min(ceiling)))?,
        rebuilt: None,
    })
}

fn qps(client: &SpiClient) -> Result<Known, Error> {
    let database = current_database(client)?;
    let series = daily(client, "qps", &database, "value_p95")?;
    Ok(Known {
        metric: "qps",
        unit: "1/s",
        current: percentile(client, "qps", &database, 60, "1 day")?,
        first_at: first_at(client, "qps", &database)?,
        last_day: last_day(&series),
        sum: Sum::of(vec![Forecast::of(&series)]),
        triggers: triggers(client, "qps", Some)?,
        rebuilt: None,
    })
}

/// The last day there is a value of; a day is dated by its beginning.
fn last_day(series: &[Point]) -> Option<f64> {
    series.last().map(|p| p.day)
}

fn triggers(client: &SpiClient, metric: &str, value: impl Fn(f64) -> Option<f64>) -> Result<Vec<Trigger>, Error> {
    let rows = client
        .select(
            "SELECT trigger_name, threshold, recommendation FROM perf.scaling_trigger
              WHERE kind = 'capacity' AND metric = $1 ORDER BY threshold, trigger_name",
            None,
            &[metric.into()],
        )
        .map_err(spi_failed)?;
    let mut triggers = Vec::new();
    for row in rows {
        let (name, recommendation) = (row.get::<Text>(1).map_err(spi_failed)?, row.get::<Text>(3).map_err(spi_failed)?);
        let threshold = row.get::<f64>(2).map_err(spi_failed)?.and_then(&value);
        if let (Some(name), Some(value), Some(recommendation)) = (name, threshold, recommendation) {
            triggers.push(Trigger { name: name.0, value, recommendation: recommendation.0 });
        }
    }
    Ok(triggers)
}

/// The date in UTC of a number of days since the epoch of timestamps, 2000-01-01.
fn iso_date(days: f64) -> String {
    perf_core::forecast::iso_date_2000(days)
}

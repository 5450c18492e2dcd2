//! Forecasts a daily series and says how far it may be believed.
//!
//! Five models compete: a robust line (Theil-Sen, refined by least squares over its inliers) and an exponential over
//! the whole history, a line over its last half and over its last third, and the mean pace from the last level on. A
//! rolling-origin back-test chooses: each model is fitted to the beginning of the history and judged by the rest, and
//! by whether it misses the last third, which most of the back-test came too early to see. A series that no model of
//! its whole history fits wanders: there the mean of the models that are near is taken. Intervals come from the errors
//! of that back-test (conformal) and from how far the serious models disagree; the coverage that is published is the
//! one the intervals reached on the history, each origin judged by the others. One-off steps (a bulk load, a VACUUM
//! FULL) are taken out of the trend, weekday offsets are learned after three weeks.
//!
//! Time is in days and may have any origin as long as whole numbers are midnights. Nothing here panics on any input.

mod backtest;
mod clean;
mod disk;
pub mod reconstruct;

use crate::calendar::Date;
use crate::stats::{median, robust_line, theil_sen, Line};
use backtest::Backtest;
pub use disk::Sum;

/// Less history than this supports no projection at all.
pub const HISTORY_MIN_DAYS: f64 = 14.0;
/// With less than this, nothing beyond `SHORT_HORIZON_DAYS` is projected.
pub const HISTORY_FULL_DAYS: f64 = 30.0;
/// How far a short history reaches.
pub const SHORT_HORIZON_DAYS: f64 = 30.0;
/// Length of a quarter in days.
pub const QUARTER_DAYS: f64 = 365.25 / 4.0;

/// One day of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When, in days.
    pub day: f64,
    /// What.
    pub value: f64,
}

/// A form of growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// A line over the whole history.
    Linear,
    /// An exponential over the whole history.
    Log,
    /// A line over the last half.
    LastHalf,
    /// A line over the last third.
    LastThird,
    /// The mean pace from the last level on: what a random walk does.
    Drift,
}

impl Model {
    const ALL: [Model; 5] = [Model::Linear, Model::Log, Model::LastHalf, Model::LastThird, Model::Drift];

    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Model::Linear => "linear",
            Model::Log => "log",
            Model::LastHalf => "last_half",
            Model::LastThird => "last_third",
            Model::Drift => "drift",
        }
    }
}

/// How far a projection may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// No projection: the history is too short for this horizon.
    InsufficientData,
    /// The horizon is more than twice the history: no date of a crossing.
    Extrapolated,
    /// The horizon is up to twice the history.
    Low,
    /// The horizon is no longer than the history.
    Supported,
}

impl Quality {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Quality::InsufficientData => "insufficient_data",
            Quality::Extrapolated => "extrapolated",
            Quality::Low => "low",
            Quality::Supported => "supported",
        }
    }

    /// The grade of a horizon, given the days of history.
    pub fn of(history_days: f64, horizon_days: f64) -> Quality {
        let too_short = history_days < HISTORY_MIN_DAYS
            || (history_days < HISTORY_FULL_DAYS && horizon_days > SHORT_HORIZON_DAYS)
            || !horizon_days.is_finite();
        match () {
            // A history that is not a number is none.
            _ if too_short || history_days.is_nan() => Quality::InsufficientData,
            _ if horizon_days <= history_days => Quality::Supported,
            _ if horizon_days <= 2.0 * history_days => Quality::Low,
            _ => Quality::Extrapolated,
        }
    }
}

/// Days of history a horizon needs before anything is projected for it.
pub fn history_needed_days(horizon_days: f64) -> f64 {
    if horizon_days > SHORT_HORIZON_DAYS {
        HISTORY_FULL_DAYS
    } else {
        HISTORY_MIN_DAYS
    }
}

/// A projected value and its interval: `low <= value <= high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Projection {
    /// What the chosen model expects.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// When a threshold is reached, in days from the end of the history. `earliest <= expected <= latest` where they exist.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Crossing {
    /// When the upper end of the interval reaches it.
    pub earliest: Option<f64>,
    /// When the projection reaches it.
    pub expected: Option<f64>,
    /// When even the lower end has reached it.
    pub latest: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct Fit {
    model: Model,
    line: Line,
}

impl Fit {
    /// None where the points do not allow the model.
    fn of(model: Model, points: &[(f64, f64)]) -> Option<Fit> {
        let n = points.len();
        let line = match model {
            Model::Linear => robust_line(points)?,
            Model::LastHalf if n >= 10 => robust_line(&points[n / 2..])?,
            Model::LastThird if n >= 15 => robust_line(&points[n - n / 3..])?,
            Model::Drift if n >= 10 => drift(points)?,
            Model::Log if points.iter().all(|p| p.1 > 0.0) => {
                robust_line(&points.iter().map(|(x, y)| (*x, y.ln())).collect::<Vec<_>>())?
            }
            _ => return None,
        };
        (line.slope.is_finite() && line.intercept.is_finite()).then_some(Fit { model, line })
    }

    fn at(&self, day: f64) -> f64 {
        match self.model {
            Model::Log => self.line.at(day).clamp(-700.0, 700.0).exp(),
            _ => self.line.at(day),
        }
    }
}

/// From the level of the first days to that of the last: the middle of five days, so that one odd day moves nothing.
fn drift(points: &[(f64, f64)]) -> Option<Line> {
    let level = |part: &[(f64, f64)]| Some((median(part.iter().map(|p| p.0))?, median(part.iter().map(|p| p.1))?));
    let (first, last) = (level(&points[..5])?, level(&points[points.len() - 5..])?);
    let slope = (last.1 - first.1) / (last.0 - first.0);
    Some(Line { intercept: last.1 - slope * last.0, slope })
}

/// A fitted series.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Days from the first to the last point.
    pub history_days: f64,
    /// What grades are given by: the history, less where most days of it are missing.
    pub graded_days: f64,
    /// The last value.
    pub last: Option<f64>,
    /// Growth a day at the end of the history. None with fewer than three points or less than a day.
    pub slope_per_day: Option<f64>,
    /// Sizes of the one-off steps that were taken out of the trend.
    pub steps: Vec<f64>,
    fitted: Option<Fitted>,
}

#[derive(Debug, Clone)]
struct Fitted {
    best: Model,
    /// The models whose mean is the projection.
    mixed: Vec<Fit>,
    /// The models that did nearly as well, these among them.
    serious: Vec<Fit>,
    backtest: Backtest,
    weekday: [f64; 7],
    end_day: f64,
    /// Values below zero make no sense for a series that never had one.
    floor: f64,
}

impl Forecast {
    /// Fits a series, in any order, with gaps or not.
    pub fn of(series: &[Point]) -> Forecast {
        let points = clean::sorted_daily(series);
        let (first, last) = (points.first().copied(), points.last().copied());
        let history_days = first.zip(last).map_or(0.0, |(a, b)| b.0 - a.0);
        let graded_days = history_days.min(2.0 * points.len() as f64);
        let mut forecast = Forecast {
            history_days,
            graded_days,
            last: last.map(|p| p.1),
            slope_per_day: None,
            steps: Vec::new(),
            fitted: None,
        };
        if points.len() < 3 || history_days < 1.0 {
            return forecast;
        }
        let floor = if points.iter().all(|p| p.1 >= 0.0) { 0.0 } else { f64::NEG_INFINITY };
        // Computed in units of the largest value: the same shape gives the same decisions, and nothing overflows.
        let scale = points.iter().map(|p| p.1.abs()).fold(0.0, f64::max);
        let scale = if scale > 0.0 { scale } else { 1.0 };
        let end_day = last.map_or(0.0, |p| p.0);
        let unit: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x - end_day, y / scale)).collect();
        let (level, steps) = clean::without_steps(&unit);
        forecast.steps = steps.into_iter().map(|s| s * scale).collect();
        forecast.slope_per_day = theil_sen(&level).map(|l| l.slope * scale);
        if graded_days < HISTORY_MIN_DAYS {
            return forecast;
        }
        let weekday = clean::weekday_offsets(&level, end_day);
        let plain: Vec<(f64, f64)> =
            level.iter().map(|&(x, y)| (x, y - weekday[clean::weekday_of(x + end_day)])).collect();
        let fits: Vec<Fit> = Model::ALL.iter().filter_map(|&m| Fit::of(m, &plain)).collect();
        let Some(chosen) = backtest::choose(&fits, &plain) else { return forecast };
        let Some(best) = chosen.mixed.first().map(|f| f.model) else { return forecast };
        let backtest = chosen.backtest.scaled(scale);
        let (mixed, serious) = (chosen.mixed, chosen.serious);
        let mut fitted = Fitted { best, mixed, serious, backtest, weekday, end_day, floor };
        fitted.rescale(scale);
        forecast.slope_per_day = Some(fitted.trend(0.0) - fitted.trend(-1.0));
        forecast.fitted = Some(fitted);
        forecast
    }

    /// The best model; the projection is its, or its mean with models that are as near where none fits. None: no projection.
    pub fn model(&self) -> Option<Model> {
        self.fitted.as_ref().map(|f| f.best)
    }

    /// Median error of the back-test in percent of what came. None where nothing could be tested.
    pub fn backtest_error_pct(&self) -> Option<f64> {
        self.fitted.as_ref().and_then(|f| f.backtest.error_pct)
    }

    /// Share of the back-test in percent that lay inside its intervals.
    pub fn backtest_coverage_pct(&self) -> Option<f64> {
        self.fitted.as_ref().and_then(|f| f.backtest.coverage_pct)
    }

    /// The grade of a horizon.
    pub fn quality(&self, horizon_days: f64) -> Quality {
        match self.fitted {
            Some(_) => Quality::of(self.graded_days, horizon_days),
            None => Quality::InsufficientData,
        }
    }

    /// The projection `horizon_days` after the last point. None where the quality is `InsufficientData`.
    pub fn at(&self, horizon_days: f64) -> Option<Projection> {
        (self.quality(horizon_days) > Quality::InsufficientData)
            .then(|| self.fitted.as_ref().map(|f| f.at(horizon_days)))?
    }
}

impl Fitted {
    fn rescale(&mut self, scale: f64) {
        for fit in self.serious.iter_mut().chain(&mut self.mixed) {
            match fit.model {
                Model::Log => fit.line.intercept += scale.ln(),
                _ => fit.line = Line { intercept: fit.line.intercept * scale, slope: fit.line.slope * scale },
            }
        }
        for offset in &mut self.weekday {
            *offset *= scale;
        }
    }

    /// The projection without the week.
    fn trend(&self, horizon_days: f64) -> f64 {
        // Divided before they are added: the sum of large values may be infinite.
        self.mixed.iter().map(|f| f.at(horizon_days) / self.mixed.len() as f64).sum()
    }

    fn at(&self, horizon_days: f64) -> Projection {
        let offset = self.weekday[clean::weekday_of(self.end_day + horizon_days)];
        let bound = |v: f64| v.clamp(self.floor.max(f64::MIN), f64::MAX);
        let value = self.trend(horizon_days) + offset;
        let margin = self.backtest.margin(horizon_days);
        let spread =
            |pick: fn(f64, f64) -> f64| self.serious.iter().map(|f| f.at(horizon_days) + offset).fold(value, pick);
        Projection {
            value: bound(value),
            low: bound(spread(f64::min).min(value - margin)),
            high: bound(spread(f64::max).max(value + margin)),
        }
    }
}

/// When `projection` reaches `threshold`, looking day by day up to `limit_days`. For a sum of series, sum their
/// projections.
pub fn crossing(projection: impl Fn(f64) -> Option<Projection>, threshold: f64, limit_days: f64) -> Crossing {
    let mut crossing = Crossing::default();
    // Three years of history look six years ahead.
    let days = if limit_days.is_finite() { limit_days.clamp(0.0, 3660.0).floor() as u32 } else { 0 };
    for day in 0..=days {
        let day = f64::from(day);
        let Some(p) = projection(day) else { break };
        for (slot, value) in
            [(&mut crossing.earliest, p.high), (&mut crossing.expected, p.value), (&mut crossing.latest, p.low)]
        {
            if slot.is_none() && value >= threshold {
                *slot = Some(day);
            }
        }
        if crossing.latest.is_some() {
            break;
        }
    }
    crossing
}

/// The date (proleptic Gregorian, UTC) of a number of days since 2000-01-01, as YYYY-MM-DD.
pub fn iso_date_2000(days: f64) -> String {
    let date = Date::of(days.floor().clamp(-700_000.0, 100_000_000.0) as i64 + 10_957);
    format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
}

#[cfg(test)]
mod tests;

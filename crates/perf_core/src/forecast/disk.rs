//! A quantity that is a sum of parts, each forecast apart: disk = databases + WAL + everything else.

use super::{Forecast, Point, Projection, Quality};

/// Forecasts of parts that add up.
#[derive(Debug, Clone)]
pub struct Sum {
    parts: Vec<Forecast>,
}

impl Sum {
    /// One part is the plain forecast of a series.
    pub fn of(parts: Vec<Forecast>) -> Sum {
        Sum { parts }
    }

    /// The whole and two of its parts, day by day; the rest is the third part. Where a part is not known on at least as many
    /// days as the whole needs, or the rest would be negative (a part lies elsewhere), the whole is forecast as one.
    pub fn with_rest(whole: &[Point], first: &[Point], second: &[Point]) -> Sum {
        let on = |series: &[Point], day: f64| series.iter().find(|p| p.day.floor() == day.floor()).map(|p| p.value);
        let joined: Vec<(f64, f64, f64, f64)> = whole
            .iter()
            .filter_map(|w| {
                let (a, b) = (on(first, w.day)?, on(second, w.day)?);
                Some((w.day, a, b, w.value - a - b))
            })
            .collect();
        let complete = joined.len() * 10 >= whole.len() * 9 && joined.iter().all(|j| j.3 >= 0.0);
        if !complete || joined.is_empty() {
            return Sum { parts: vec![Forecast::of(whole)] };
        }
        let part = |pick: fn(&(f64, f64, f64, f64)) -> f64| {
            Forecast::of(&joined.iter().map(|j| Point { day: j.0, value: pick(j) }).collect::<Vec<_>>())
        };
        Sum { parts: vec![part(|j| j.1), part(|j| j.2), part(|j| j.3)] }
    }

    /// The projection `horizon_days` after the last point; the interval adds the intervals of the parts up, as if they
    /// erred together.
    pub fn at(&self, horizon_days: f64) -> Option<Projection> {
        let zero = Projection { value: 0.0, low: 0.0, high: 0.0 };
        if self.parts.is_empty() {
            return None;
        }
        self.parts.iter().try_fold(zero, |sum, part| {
            let p = part.at(horizon_days)?;
            Some(Projection { value: sum.value + p.value, low: sum.low + p.low, high: sum.high + p.high })
        })
    }

    /// The worst grade of the parts.
    pub fn quality(&self, horizon_days: f64) -> Quality {
        self.parts.iter().map(|p| p.quality(horizon_days)).min().unwrap_or(Quality::InsufficientData)
    }

    /// The shortest history of the parts, as grades count it.
    pub fn graded_days(&self) -> f64 {
        self.parts.iter().map(|p| p.graded_days).fold(f64::INFINITY, f64::min).min(1e9)
    }

    /// Growth a day, of all parts together.
    pub fn slope_per_day(&self) -> Option<f64> {
        self.parts.iter().map(|p| p.slope_per_day).sum()
    }

    /// Names of the chosen models, in the order of the parts.
    pub fn model(&self) -> Option<String> {
        let names: Option<Vec<&str>> = self.parts.iter().map(|p| p.model().map(|m| m.name())).collect();
        names.filter(|n| !n.is_empty()).map(|n| n.join(" + "))
    }

    /// The largest back-test error of a part.
    pub fn backtest_error_pct(&self) -> Option<f64> {
        self.parts.iter().map(Forecast::backtest_error_pct).try_fold(0.0, |worst: f64, e| Some(worst.max(e?)))
    }

    /// The smallest coverage of a part.
    pub fn backtest_coverage_pct(&self) -> Option<f64> {
        self.parts.iter().map(Forecast::backtest_coverage_pct).try_fold(100.0, |worst: f64, c| Some(worst.min(c?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(days: usize, value: impl Fn(f64) -> f64) -> Vec<Point> {
        (0..days).map(|d| Point { day: d as f64, value: value(d as f64) }).collect()
    }

    #[test]
    fn parts_are_forecast_apart_and_add_up() {
        let whole = series(100, |d| 1000.0 + 3.0 * d);
        let sum = Sum::with_rest(&whole, &series(100, |d| 400.0 + 2.0 * d), &series(100, |_| 100.0));
        assert_eq!(sum.parts.len(), 3);
        assert!(sum.at(50.0).is_some_and(|p| (p.value - (1000.0 + 3.0 * 149.0)).abs() < 1.0 && p.low <= p.high));
        assert!(sum.slope_per_day().is_some_and(|s| (s - 3.0).abs() < 1e-6));
        assert_eq!(sum.quality(90.0), Quality::Supported);
    }

    #[test]
    fn without_the_parts_the_whole_is_forecast_as_one() {
        let whole = series(100, |d| 1000.0 + 3.0 * d);
        assert_eq!(Sum::with_rest(&whole, &series(20, |_| 1.0), &series(100, |_| 1.0)).parts.len(), 1);
        let elsewhere = series(100, |_| 5000.0);
        assert_eq!(Sum::with_rest(&whole, &elsewhere, &series(100, |_| 1.0)).parts.len(), 1);
        assert_eq!(Sum::with_rest(&[], &[], &[]).at(10.0), None);
        assert_eq!(Sum::of(vec![]).at(10.0), None);
    }
}

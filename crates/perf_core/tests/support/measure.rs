//! How good forecasts are on the series of a family.

use perf_core::forecast::Forecast;

use super::series::{least_squares, series, seven_day_delta};

/// Sums over forecasts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    forecasts: f64,
    inside: f64,
    said: f64,
    width: f64,
    error: f64,
    delta: f64,
    least_squares: f64,
}

impl Measured {
    /// So many series of a family, each at four horizons.
    pub fn of(family: &str, each: usize) -> Measured {
        let mut m = Measured::default();
        for number in 0..each {
            let s = series(family, number);
            let forecast = Forecast::of(&s.history);
            let last = s.history[s.history.len() - 1].value.abs().max(1.0);
            for part in [8, 4, 2, 1] {
                let ahead = s.future.len() / part;
                let horizon = ahead as f64;
                let truth = s.future[ahead - 1].value;
                let Some(p) = forecast.at(horizon) else { continue };
                m.forecasts += 1.0;
                m.inside += f64::from(u8::from(p.low <= truth && truth <= p.high));
                m.said += forecast.backtest_coverage_pct().unwrap_or(0.0);
                m.width += 100.0 * (p.high - p.low) / last;
                m.error += 100.0 * (p.value - truth).abs() / last;
                m.delta += 100.0 * (seven_day_delta(&s.history, horizon) - truth).abs() / last;
                m.least_squares += 100.0 * (least_squares(&s.history, horizon) - truth).abs() / last;
            }
        }
        m
    }

    /// Adds another family.
    pub fn add(&mut self, other: &Measured) {
        self.forecasts += other.forecasts;
        self.inside += other.inside;
        self.said += other.said;
        self.width += other.width;
        self.error += other.error;
        self.delta += other.delta;
        self.least_squares += other.least_squares;
    }

    /// Share of truths inside the interval, in percent.
    pub fn coverage_pct(&self) -> f64 {
        100.0 * self.inside / self.forecasts
    }

    /// Error over that of a seven-day delta.
    pub fn of_delta(&self) -> f64 {
        self.error / self.delta
    }

    /// Error over that of least squares.
    pub fn of_least_squares(&self) -> f64 {
        self.error / self.least_squares
    }

    /// One row of a table.
    pub fn print(&self, name: &str) {
        let n = self.forecasts;
        println!(
            "{name:16} {:>10.1} {:>9.1} {:>9.1} {:>9.2} {:>9.2} {:>8.2} {:>8.2} {:>10.3}",
            self.coverage_pct(),
            self.said / n,
            self.width / n,
            self.error / n,
            self.delta / n,
            self.least_squares / n,
            self.of_delta(),
            self.of_least_squares(),
        );
    }
}

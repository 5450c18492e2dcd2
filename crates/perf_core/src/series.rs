//! Series of samples: differences of counters that may be reset, and the few numbers a span of samples is kept as.

use std::collections::HashMap;

/// The last reading of every counter, from which rates are made. Counters are read, never reset.
#[derive(Debug, Default)]
pub struct CounterBook {
    last: HashMap<(&'static str, String), Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    value: f64,
    at_us: i64,
    /// Identity of the counter's life: when its statistics were reset, or 0.
    epoch: i64,
}

/// No more counters than this are remembered; beyond it the oldest readings go.
const COUNTERS_MAX: usize = 4096;

impl CounterBook {
    /// Takes a reading and returns what the counter has grown by and the seconds since the last reading. None: there is no
    /// last reading, the clock has not moved forward, or the counter was reset (its epoch differs or it went backwards).
    pub fn grown(
        &mut self,
        metric: &'static str,
        object: &str,
        value: f64,
        epoch: i64,
        at_us: i64,
    ) -> Option<(f64, f64)> {
        if !value.is_finite() {
            return None;
        }
        if self.last.len() >= COUNTERS_MAX {
            if let Some(oldest) = self.last.iter().min_by_key(|(_, r)| r.at_us).map(|(k, _)| k.clone()) {
                self.last.remove(&oldest);
            }
        }
        let before = self.last.insert((metric, object.to_owned()), Reading { value, at_us, epoch })?;
        let seconds = (at_us - before.at_us) as f64 / 1e6;
        (before.epoch == epoch && seconds > 0.0 && value >= before.value).then_some((value - before.value, seconds))
    }

    /// As `grown`, a second.
    pub fn rate(&mut self, metric: &'static str, object: &str, value: f64, epoch: i64, at_us: i64) -> Option<f64> {
        self.grown(metric, object, value, epoch, at_us).map(|(grown, seconds)| grown / seconds)
    }
}

/// What a span of samples is kept as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Smallest value.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// 95th percentile (interpolated).
    pub p95: f64,
    /// Largest value.
    pub max: f64,
}

impl Summary {
    /// None when there is no finite value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let mean = (sorted.iter().map(|v| v / sorted.len() as f64).sum::<f64>()).clamp(min, max);
        Some(Summary { min, mean, p95: crate::stats::quantile_sorted(&sorted, 0.95)?, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_of_the_same_life() {
        let mut book = CounterBook::default();
        assert_eq!(book.rate("c", "", 100.0, 1, 0), None);
        assert_eq!(book.rate("c", "", 160.0, 1, 60_000_000), Some(1.0));
        assert_eq!(book.rate("c", "other", 160.0, 1, 60_000_000), None, "another object is another counter");
        assert_eq!(book.rate("c", "", 500.0, 2, 120_000_000), None, "statistics were reset");
        assert_eq!(book.rate("c", "", 400.0, 2, 180_000_000), None, "went backwards");
        assert_eq!(book.rate("c", "", 400.0, 2, 180_000_000), None, "no time has passed");
        assert_eq!(book.rate("c", "", 400.0, 2, 190_000_000), Some(0.0));
        assert_eq!(book.rate("c", "", f64::NAN, 2, 200_000_000), None);
        assert_eq!(book.rate("c", "", 410.0, 2, 200_000_000), Some(1.0), "a bad reading is not remembered");
        assert_eq!(book.rate("c", "", 420.0, 2, 100_000_000), None, "the clock was set back");
        assert_eq!(book.rate("c", "", 430.0, 2, 110_000_000), Some(1.0), "and goes on from there");
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = CounterBook::default();
        for n in 0..COUNTERS_MAX as i64 + 10 {
            book.rate("c", &n.to_string(), 1.0, 0, n);
        }
        assert_eq!(book.last.len(), COUNTERS_MAX);
    }

    #[test]
    fn a_summary_of_known_values() {
        let s = Summary::of((1..=100).map(f64::from)).unwrap_or(Summary { min: 0.0, mean: 0.0, p95: 0.0, max: 0.0 });
        assert_eq!((s.min, s.max), (1.0, 100.0));
        assert!((s.mean - 50.5).abs() < 1e-9 && (s.p95 - 95.05).abs() < 1e-9);
        assert_eq!(Summary::of([f64::NAN]), None);
        assert_eq!(Summary::of([]), None);
    }
}

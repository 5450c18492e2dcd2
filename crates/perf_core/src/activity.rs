//! What statements did within a span of time, from counters that only grow: a reading now less one from before. Pure.

use std::collections::HashMap;

use crate::histogram::Histogram;

/// Of what sums of times may differ when they are added in another order.
const ROUNDING: f64 = 1e-9;

/// Counters of statements.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Statements, failed ones included.
    pub statements: f64,
    /// Those that failed.
    pub failures: f64,
    /// Those that were slow.
    pub slow: f64,
    /// Their time, in milliseconds.
    pub total_ms: f64,
    /// Their latencies.
    pub latency: Histogram,
}

impl Totals {
    /// Adds others.
    pub fn add(&mut self, other: &Totals) {
        self.statements += other.statements;
        self.failures += other.failures;
        self.slow += other.slow;
        self.total_ms += other.total_ms;
        self.latency.merge(&other.latency);
    }

    /// What came since `earlier`. None when a counter went back: then these are not the counters that were read.
    pub fn since(&self, earlier: &Totals) -> Option<Totals> {
        let mut grown = Totals {
            statements: self.statements - earlier.statements,
            failures: self.failures - earlier.failures,
            slow: self.slow - earlier.slow,
            total_ms: self.total_ms - earlier.total_ms,
            latency: self.latency,
        };
        grown.latency.subtract(&earlier.latency);
        if grown.total_ms < 0.0 && grown.total_ms >= -ROUNDING * earlier.total_ms {
            grown.total_ms = 0.0;
        }
        let whole = [grown.statements, grown.failures, grown.slow, grown.total_ms].iter().all(|&v| v >= 0.0);
        whole.then_some(grown)
    }

    /// Mean latency in milliseconds; None without statements.
    pub fn mean_ms(&self) -> Option<f64> {
        share(self.total_ms, self.statements)
    }

    /// Latency in milliseconds at a quantile (0 to 1); None without statements.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        self.latency.quantile_ns(quantile).map(|ns| ns * 1e-6)
    }

    /// Failed statements of a hundred; None without statements.
    pub fn error_pct(&self) -> Option<f64> {
        share(100.0 * self.failures, self.statements)
    }

    /// Statements a second; None for no time.
    pub fn per_s(&self, span_us: i64) -> Option<f64> {
        share(self.statements * 1e6, span_us as f64)
    }

    /// Slow statements a minute; None for no time.
    pub fn slow_per_min(&self, span_us: i64) -> Option<f64> {
        share(self.slow * 60e6, span_us as f64)
    }
}

/// What each of `now` has done since `earlier` was read, both by the key of who did it, and what all those have done
/// that are not told apart: they are `rest`, whose place others' counters move to, whole, when there is no room for them. With
/// `is_full`, `earlier` had no room for all: those it does not have were read as part of `rest`, too.
pub fn growth(
    now: &[(i64, Totals)],
    earlier: &HashMap<i64, Totals>,
    rest: i64,
    is_full: bool,
) -> (HashMap<i64, Totals>, Totals) {
    let (mut grown, mut rest_now) = (HashMap::new(), Totals::default());
    let mut left_out: HashMap<i64, &Totals> = earlier.iter().map(|(key, totals)| (*key, totals)).collect();
    for (key, totals) in now {
        let since = match earlier.get(key) {
            _ if *key == rest => None,
            Some(before) => totals.since(before).inspect(|_| {
                left_out.remove(key);
            }),
            None => None,
        };
        match since {
            Some(since) => {
                grown.insert(*key, since);
            }
            None if *key == rest || (is_full && !earlier.contains_key(key)) => rest_now.add(totals),
            // It was not there then, or its counters moved away meanwhile: all of it is since.
            None => {
                grown.insert(*key, totals.clone());
            }
        }
    }
    let mut rest_before = Totals::default();
    left_out.values().for_each(|totals| rest_before.add(totals));
    let rest = rest_now.since(&rest_before).unwrap_or(rest_now);
    (grown, rest)
}

/// `part / whole`, where that is a number.
pub fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole).filter(|share| share.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn totals(latencies_ms: &[u64], failures: f64) -> Totals {
        let mut latency = Histogram::default();
        latencies_ms.iter().for_each(|ms| latency.record_ns(ms * 1_000_000));
        Totals {
            statements: latencies_ms.len() as f64,
            failures,
            slow: latencies_ms.iter().filter(|&&ms| ms > 1000).count() as f64,
            total_ms: latencies_ms.iter().sum::<u64>() as f64,
            latency,
        }
    }

    #[test]
    fn rates_are_of_the_span() {
        let earlier = totals(&[10_000; 50], 0.0);
        let mut now = totals(&[10, 10, 10, 2000], 1.0);
        now.add(&earlier);
        let grown = now.since(&earlier).unwrap();
        assert_eq!((grown.mean_ms(), grown.error_pct()), (Some(507.5), Some(25.0)));
        assert_eq!((grown.per_s(2_000_000), grown.slow_per_min(30_000_000)), (Some(2.0), Some(2.0)));
        let (p95, p50) = (grown.quantile_ms(0.95).unwrap(), grown.quantile_ms(0.5).unwrap());
        assert!((p95 - 2000.0).abs() < 63.0 && (p50 - 10.0).abs() < 0.4);
        assert_eq!(earlier.since(&now), None);
    }

    #[test]
    fn nothing_ran_is_no_latency_but_a_rate_of_none() {
        let none = Totals::default();
        assert_eq!((none.mean_ms(), none.quantile_ms(0.99), none.error_pct()), (None, None, None));
        assert_eq!((none.per_s(1), none.slow_per_min(60), none.per_s(0)), (Some(0.0), Some(0.0), None));
    }

    #[test]
    fn what_moves_to_the_rest_did_not_happen_since() {
        const REST: i64 = 1;
        let all = |pairs: &[(i64, usize)]| -> Vec<(i64, Totals)> {
            pairs.iter().map(|&(key, count)| (key, totals(&vec![3; count], 0.0))).collect()
        };
        let statements = |(grown, rest): (HashMap<i64, Totals>, Totals)| {
            let mut grown: Vec<_> = grown.iter().map(|(key, totals)| (*key, totals.statements)).collect();
            grown.sort_by_key(|one| one.0);
            (grown, rest.statements)
        };
        let earlier: HashMap<i64, Totals> = all(&[(REST, 5), (2, 100), (3, 10), (4, 7)]).into_iter().collect();
        // 2 moved after four more, 3 goes on, 4 moved and came again, 9 is new.
        let now = all(&[(REST, 5 + 104 + 7 + 1), (3, 12), (4, 2), (9, 6)]);
        assert_eq!(statements(growth(&now, &earlier, REST, false)), (vec![(3, 2.0), (4, 2.0), (9, 6.0)], 5.0));
        // With more than there was room for, 9 was part of the rest then.
        let earlier: HashMap<i64, Totals> = all(&[(REST, 5 + 4), (2, 100)]).into_iter().collect();
        let now = all(&[(REST, 5), (2, 101), (9, 6)]);
        assert_eq!(statements(growth(&now, &earlier, REST, true)), (vec![(2, 1.0)], 2.0));
        // All were forgotten.
        let now = all(&[(REST, 1), (2, 3)]);
        assert_eq!(statements(growth(&now, &earlier, REST, false)), (vec![(2, 3.0)], 1.0));
    }

    proptest! {
        #[test]
        fn what_was_added_comes_back(a in prop::collection::vec(1u64..100_000, 0..40), b in prop::collection::vec(1u64..100_000, 0..40)) {
            let (earlier, grown) = (totals(&a, 0.0), totals(&b, 0.0));
            let mut now = earlier.clone();
            now.add(&grown);
            prop_assert_eq!(now.since(&earlier), Some(grown));
        }

        #[test]
        fn a_share_is_finite(part in any::<f64>(), whole in any::<f64>()) {
            prop_assert!(share(part, whole).is_none_or(f64::is_finite));
        }
    }
}

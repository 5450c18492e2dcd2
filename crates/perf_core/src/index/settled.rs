//! Measured time of which parts are from before an index: what it would come to with the indexes of today.

/// Part of a statement's measured time: until how much had been measured, and what today's plan takes in relation to the plan
/// of then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Measured by the end of it, from the beginning on.
    pub until_ms: f64,
    /// Today's plan in relation to that of then; what is above 1 counts as 1.
    pub ratio: f64,
}

/// What `measured_ms` would be had today's plan been there all the time. `spans` follow each other; what is after the last was
/// measured with the plan of today.
pub fn settled(measured_ms: f64, spans: &[Span]) -> f64 {
    let (mut from, mut sum) = (0.0, 0.0);
    for span in spans {
        let until = span.until_ms.min(measured_ms).max(from);
        let ratio = if span.ratio.is_finite() { span.ratio.clamp(0.0, 1.0) } else { 1.0 };
        sum += (until - from) * ratio;
        from = until;
    }
    sum + (measured_ms - from).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_span_counts_for_what_is_left_of_it() {
        assert_eq!(settled(100.0, &[]), 100.0);
        assert_eq!(settled(100.0, &[Span { until_ms: 80.0, ratio: 0.25 }]), 40.0);
        let spans = [Span { until_ms: 50.0, ratio: 0.1 }, Span { until_ms: 80.0, ratio: 0.5 }];
        assert_eq!(settled(100.0, &spans), 5.0 + 15.0 + 20.0);
        assert_eq!(settled(100.0, &[Span { until_ms: 80.0, ratio: f64::NAN }]), 100.0);
        assert_eq!(settled(100.0, &[Span { until_ms: 500.0, ratio: 3.0 }]), 100.0);
    }

    proptest! {
        #[test]
        fn nothing_is_added_and_nothing_negative(measured in 0.0f64..1e6,
                                                 spans in prop::collection::vec((0.0f64..2e6, -1.0f64..2.0), 0..6)) {
            let spans: Vec<Span> = spans.into_iter().map(|(until_ms, ratio)| Span { until_ms, ratio }).collect();
            let left = settled(measured, &spans);
            prop_assert!((0.0..=measured * (1.0 + 1e-12)).contains(&left), "{left} of {measured}");
        }

        #[test]
        fn what_was_measured_since_counts_whole(before in 0.0f64..1e6, since in 0.0f64..1e6, ratio in 0.0f64..1.0) {
            let left = settled(before + since, &[Span { until_ms: before, ratio }]);
            prop_assert!((left - (before * ratio + since)).abs() <= 1e-9 * (1.0 + before + since));
        }
    }
}

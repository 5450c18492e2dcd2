//! The size a database had on earlier days, as far as the rows that are still there tell: each table grew as its rows'
//! times of creation say, by the histogram that the server keeps of such a column. Rows that were deleted meanwhile are
//! not seen, so a table that loses rows looks as if it grew faster than it did: the caller leaves such tables out.

use super::Point;

/// No further back than samples are kept.
const DAYS_MAX: f64 = 3.0 * 365.0;

/// A table and when its rows came to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dated {
    /// Its size now, with indexes and TOAST.
    pub bytes: f64,
    /// Days that hold a known share of the rows, 0..1.
    pub most_common: Vec<(f64, f64)>,
    /// Bounds, in ascending order, between which equal numbers of the other rows lie.
    pub bounds: Vec<f64>,
}

impl Dated {
    /// The earliest day that a row tells of.
    fn first_day(&self) -> Option<f64> {
        let days = self.most_common.iter().map(|(day, _)| *day).chain(self.bounds.first().copied());
        days.filter(|day| day.is_finite()).min_by(f64::total_cmp)
    }

    /// Share of the rows that existed just before a moment.
    fn share_at(&self, day: f64) -> f64 {
        let common: f64 = self.most_common.iter().filter(|(at, _)| *at < day).map(|(_, share)| share).sum();
        let all_common: f64 = self.most_common.iter().map(|(_, share)| share).sum();
        let rest = (1.0 - all_common).max(0.0);
        (common + rest * below(&self.bounds, day)).clamp(0.0, 1.0)
    }
}

/// Share of the rows below `day`, between bounds of equal shares; evenly spread between two bounds.
fn below(bounds: &[f64], day: f64) -> f64 {
    let steps = bounds.len().saturating_sub(1);
    if steps == 0 {
        return f64::from(u8::from(bounds.first().is_some_and(|b| *b <= day)));
    }
    let passed = bounds.partition_point(|b| *b <= day);
    let Some((lower, upper)) = passed.checked_sub(1).and_then(|n| Some((bounds.get(n)?, bounds.get(n + 1)?))) else {
        return f64::from(u8::from(passed > 0));
    };
    let part = if upper > lower { (day - lower) / (upper - lower) } else { 1.0 };
    ((passed - 1) as f64 + part) / steps as f64
}

/// Sizes at the end of each day up to `until_day`, of the tables and of `constant` bytes of which nothing is known but
/// that they are there now. Empty where no table has a date before that day.
pub fn daily(tables: &[Dated], constant: f64, until_day: f64) -> Vec<Point> {
    let last = until_day.floor();
    let first = tables.iter().filter_map(Dated::first_day).min_by(f64::total_cmp).map(f64::floor);
    let Some(first) = first.filter(|first| *first < last).map(|first| first.max(last - DAYS_MAX)) else {
        return Vec::new();
    };
    (0..=(last - first) as u32)
        .map(|n| {
            let day = first + f64::from(n);
            let dated: f64 = tables.iter().map(|t| t.bytes * t.share_at(day + 1.0)).sum();
            Point { day, value: constant + dated }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecast::{Forecast, Quality};
    use proptest::prelude::*;

    #[test]
    fn an_even_stream_of_rows_is_a_line() {
        let table = Dated { bytes: 1000.0, bounds: (0..=100).map(f64::from).collect(), ..Dated::default() };
        let points = daily(&[table], 500.0, 100.0);
        assert_eq!(points.len(), 101);
        assert!(points.iter().all(|p| (p.value - 500.0 - 10.0 * (p.day + 1.0).min(100.0)).abs() < 1e-6));
        let forecast = Forecast::of(&points[..100]);
        assert_eq!(forecast.quality(90.0), Quality::Supported);
        assert!(forecast.at(50.0).is_some_and(|p| (p.value - 2000.0).abs() < 20.0), "{:?}", forecast.at(50.0));
    }

    #[test]
    fn days_that_are_listed_count_whole() {
        let table = Dated { bytes: 100.0, most_common: vec![(3.0, 0.5), (5.0, 0.25)], bounds: vec![4.0, 6.0] };
        let sizes: Vec<f64> = daily(&[table], 0.0, 7.0).iter().map(|p| p.value).collect();
        assert_eq!(sizes, [50.0, 62.5, 100.0, 100.0, 100.0]);
    }

    #[test]
    fn without_a_past_there_is_none() {
        assert!(daily(&[], 5.0, 10.0).is_empty());
        assert!(daily(&[Dated { bytes: 1.0, ..Dated::default() }], 5.0, 10.0).is_empty());
        let today = Dated { bytes: 1.0, bounds: vec![10.2, 10.4], ..Dated::default() };
        assert!(daily(&[today], 5.0, 10.9).is_empty());
        let ancient = Dated { bytes: 1.0, bounds: vec![-1e9, 10.0], ..Dated::default() };
        assert_eq!(daily(&[ancient], 0.0, 10.0).len(), DAYS_MAX as usize + 1);
    }

    proptest! {
        #[test]
        fn it_never_shrinks_and_ends_at_what_is_there(
            tables in prop::collection::vec((0.0..1e9f64, prop::collection::vec(0.0..400.0f64, 0..30),
                                             prop::collection::vec((0.0..400.0f64, 0.0..0.2f64), 0..5)), 0..5),
            constant in 0.0..1e9f64,
        ) {
            let tables: Vec<Dated> = tables.into_iter().map(|(bytes, mut bounds, most_common)| {
                bounds.sort_by(f64::total_cmp);
                Dated { bytes, most_common, bounds }
            }).collect();
            let points = daily(&tables, constant, 500.0);
            prop_assert!(points.windows(2).all(|w| w[0].value <= w[1].value + 1e-6 && w[0].day + 1.0 == w[1].day));
            if let Some(last) = points.last() {
                let known = |t: &&Dated| !t.bounds.is_empty();
                let whole: f64 = constant + tables.iter().filter(known).map(|t| t.bytes).sum::<f64>();
                let listed: f64 = tables.iter().filter(|t| !known(t))
                    .map(|t| t.bytes * t.most_common.iter().map(|c| c.1).sum::<f64>().min(1.0)).sum();
                prop_assert!((last.value - whole - listed).abs() <= 1e-6 * (1.0 + whole));
            }
        }
    }
}

//! Whether a table would gain from being partitioned by time, by what statements ask of it. Called by the advisor of
//! partitions; decides only.
//!
//! A statement that has to read the whole table reads, once it is partitioned, the partitions that its range of time
//! touches. Ranges are taken to end with the newest rows, as those of dashboards do; where rows lie in time is known from
//! the histogram of the column. A statement that an index leads to its rows gains nothing here. A DELETE of what is older
//! than an age becomes the drop of a partition, which takes no time that depends on its rows.

use super::{Every, Span};
use crate::schedule::DAY_US;

/// Partitions that a table would have at most: each takes planning time and memory.
pub const PARTITIONS_MAX: f64 = 120.0;
/// Fewer are hardly worth the change.
pub const PARTITIONS_MIN: f64 = 3.0;
/// The widest interval with at least this share of the best one's gain is chosen: partitions are not for free.
const GOOD_ENOUGH: f64 = 0.9;
/// `high`: this share of the workload saved, in percent.
pub const HIGH_PCT: f64 = 20.0;
/// `medium`.
pub const MEDIUM_PCT: f64 = 5.0;
/// Less is not worth a word.
pub const NOTICEABLE_PCT: f64 = 1.0;

/// What one statement asks of the table by one time column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// Its measured time.
    pub weight: f64,
    /// Share of its time that is spent on reading all of this table; 0 when an index leads it to its rows.
    pub scan_share: f64,
    /// Share of the table's rows in the range of time that it asks for.
    pub range_share: f64,
    /// It deletes what is older than an age.
    pub is_delete: bool,
}

/// What partitioning by one column would give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Advice {
    /// Width of a partition.
    pub every: Every,
    /// How many there would be now.
    pub partitions: f64,
    /// Time saved, in the unit of the weights.
    pub saved: f64,
}

/// The mean length of an interval.
pub fn length_us(span: Span) -> f64 {
    let days = f64::from(span.months) * 365.2425 / 12.0 + f64::from(span.days);
    days * DAY_US as f64 + span.micros as f64
}

/// Where the rows of a table lie in time: positions that cut them into parts of as many rows each, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Of the bounds of a histogram; `None` when they say nothing.
    pub fn of(bounds: Vec<f64>) -> Option<Spread> {
        let is_ordered = bounds.windows(2).all(|pair| pair[0] <= pair[1]);
        match (bounds.first(), bounds.last()) {
            (Some(first), Some(last)) if is_ordered && first < last && (last - first).is_finite() => {
                Some(Spread(bounds))
            }
            _ => None,
        }
    }

    /// From the oldest row to the newest.
    pub fn span_us(&self) -> f64 {
        match (self.0.first(), self.0.last()) {
            (Some(first), Some(last)) => last - first,
            _ => 0.0,
        }
    }

    /// Share of the rows before a position.
    pub fn before(&self, at: f64) -> f64 {
        let parts = (self.0.len() - 1) as f64;
        let after = self.0.partition_point(|bound| *bound <= at);
        match (after.checked_sub(1).and_then(|index| self.0.get(index)), self.0.get(after)) {
            (None, _) => 0.0,
            (_, None) => 1.0,
            (Some(lower), Some(upper)) => ((after - 1) as f64 + (at - lower) / (upper - lower)) / parts,
        }
    }

    /// The position that has this share of the rows before it.
    pub fn quantile(&self, share: f64) -> f64 {
        let place = share.clamp(0.0, 1.0) * (self.0.len() - 1) as f64;
        let at = |index: usize| self.0.get(index).or(self.0.last()).copied().unwrap_or_default();
        let (lower, upper) = (at(place as usize), at(place as usize + 1));
        lower + (upper - lower) * place.fract()
    }

    /// Share of the rows in the intervals that the newest rows, so many of all, touch: on average half an interval more, for
    /// where one begins depends on the day.
    pub fn touched(&self, range_share: f64, length_us: f64) -> f64 {
        1.0 - self.before(self.quantile(1.0 - range_share) - length_us / 2.0)
    }
}

/// Time of a statement that partitions would save.
pub fn saved(one: &Use, length_us: f64, spread: &Spread) -> f64 {
    if one.is_delete {
        return one.weight;
    }
    one.weight * one.scan_share.clamp(0.0, 1.0) * (1.0 - spread.touched(one.range_share, length_us))
}

/// The interval that is best for a table; `None` when nothing is saved by any.
pub fn best(uses: &[Use], spread: &Spread, allowed: &[Every]) -> Option<Advice> {
    let of = |every: &Every| {
        let length = length_us(every.span());
        let saved = uses.iter().map(|one| saved(one, length, spread)).sum();
        Advice { every: *every, partitions: spread.span_us() / length, saved }
    };
    let fits = |advice: &Advice| (PARTITIONS_MIN..=PARTITIONS_MAX).contains(&advice.partitions);
    let candidates: Vec<Advice> = allowed.iter().map(of).filter(fits).collect();
    let most = candidates.iter().map(|advice| advice.saved).fold(0.0, f64::max);
    let good = candidates.into_iter().filter(|advice| advice.saved > 0.0 && advice.saved >= GOOD_ENOUGH * most);
    good.min_by(|a, b| a.partitions.total_cmp(&b.partitions))
}

/// How urgent a gain is.
pub fn priority(benefit_pct: f64, is_blocked: bool) -> &'static str {
    match benefit_pct {
        _ if is_blocked => "low",
        pct if pct >= HIGH_PCT => "high",
        pct if pct >= MEDIUM_PCT => "medium",
        _ => "low",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMED: [Every; 5] = [Every::Day, Every::Week, Every::Month, Every::Quarter, Every::Year];
    const YEAR_US: f64 = 365.2425 * DAY_US as f64;

    fn reads(range_share: f64) -> Use {
        Use { weight: 100.0, scan_share: 1.0, range_share, is_delete: false }
    }

    /// As many rows each day, for so long until the end of 2025.
    fn even(us: f64) -> Spread {
        let end = 56.0 * YEAR_US;
        Spread::of((0..=100).map(|n| end - us + us * f64::from(n) / 100.0).collect()).unwrap()
    }

    #[test]
    fn a_week_of_a_year_is_cut_by_months() {
        let advice = best(&[reads(7.0 / 365.0)], &even(YEAR_US), &NAMED).unwrap();
        // Weeks save 97 %, months 94 %: months are good enough, and fewer.
        assert_eq!(advice.every, Every::Month);
        assert!((advice.saved - 93.9).abs() < 0.1, "{advice:?}");
        assert!((advice.partitions - 12.0).abs() < 1e-9);
    }

    #[test]
    fn partitions_are_neither_many_nor_few() {
        assert_eq!(best(&[reads(0.001)], &even(30.0 * YEAR_US), &NAMED).unwrap().every, Every::Year);
        assert_eq!(best(&[reads(0.001)], &even(30.0 * YEAR_US), &NAMED[..2]), None);
        // A week of data: by days, or not at all.
        assert_eq!(best(&[reads(0.1)], &even(YEAR_US / 52.0), &NAMED).unwrap().every, Every::Day);
        assert_eq!(best(&[reads(0.1)], &even(YEAR_US / 365.0), &NAMED), None);
    }

    #[test]
    fn where_the_rows_lie_matters() {
        // Nine tenths of a year's rows are of its last week.
        let end = 56.0 * YEAR_US;
        let week = YEAR_US / 52.0;
        let bounds = (0..=10).map(|n| if n == 0 { end - YEAR_US } else { end - week + week * f64::from(n - 1) / 9.0 });
        let spread = Spread::of(bounds.collect()).unwrap();
        assert!(spread.touched(0.05, length_us(Every::Month.span())) > 0.9);
        assert!(spread.touched(0.05, DAY_US as f64) < 0.2);
        assert!((spread.before(spread.quantile(0.3)) - 0.3).abs() < 1e-9);
    }

    #[test]
    fn what_an_index_finds_and_what_reads_all_gains_nothing() {
        let spread = even(YEAR_US);
        assert_eq!(best(&[Use { scan_share: 0.0, ..reads(0.01) }], &spread, &NAMED), None);
        assert_eq!(best(&[reads(1.0)], &spread, &NAMED), None);
        assert_eq!(best(&[], &spread, &NAMED), None);
    }

    #[test]
    fn deletes_become_drops() {
        let delete = Use { is_delete: true, scan_share: 0.0, ..reads(0.5) };
        let advice = best(&[delete], &even(YEAR_US), &NAMED).unwrap();
        assert_eq!((advice.every, advice.saved), (Every::Quarter, 100.0));
    }

    #[test]
    fn some_bounds_say_nothing() {
        for bounds in [vec![], vec![1.0], vec![1.0, 1.0], vec![2.0, 1.0], vec![0.0, f64::INFINITY], vec![f64::NAN, 1.0]]
        {
            assert_eq!(Spread::of(bounds), None);
        }
    }

    #[test]
    fn priorities() {
        assert_eq!([priority(30.0, false), priority(6.0, false), priority(2.0, false)], ["high", "medium", "low"]);
        assert_eq!(priority(90.0, true), "low");
    }

    proptest! {
        /// Nothing saves more than all, and a wider range touches no less.
        #[test]
        fn savings_are_bounded(
            uses in prop::collection::vec((0.0..1e6f64, 0.0..1.0f64, 0.0..1.0f64, any::<bool>()), 0..10),
            mut bounds in prop::collection::vec(0.0..1e17f64, 2..20),
        ) {
            let uses: Vec<Use> = uses
                .into_iter()
                .map(|(weight, scan_share, range_share, is_delete)| Use { weight, scan_share, range_share, is_delete })
                .collect();
            let all: f64 = uses.iter().map(|one| one.weight).sum();
            bounds.sort_by(f64::total_cmp);
            if let Some(spread) = Spread::of(bounds) {
                let touched = |share| spread.touched(share, DAY_US as f64);
                prop_assert!((0.0..=1.0).contains(&touched(0.3)) && touched(0.1) <= touched(0.3) + 1e-9);
                if let Some(advice) = best(&uses, &spread, &NAMED) {
                    prop_assert!(advice.saved > 0.0 && advice.saved <= all * (1.0 + 1e-9));
                    prop_assert!((PARTITIONS_MIN..=PARTITIONS_MAX).contains(&advice.partitions));
                }
            }
        }
    }
}

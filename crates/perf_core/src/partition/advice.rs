//! Whether a table would gain from being partitioned by time, by what statements ask of it. Called by the advisor of
//! partitions; decides only.
//!
//! A statement that has to read the whole table reads, once it is partitioned, the partitions that its range of time
//! touches: a range of width w touches w / L + 1 of length L on average, the last one as well where it ends now. A
//! statement that an index leads to its rows gains nothing here. A DELETE of what is older than an age becomes the drop of
//! a partition, which takes no time that depends on its rows.

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
    /// Share of the table's span of time that it asks for.
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

/// Share of the table that a range touches when it is cut into intervals of a length.
pub fn touched_share(range_share: f64, length_us: f64, span_us: f64) -> f64 {
    (range_share + length_us / span_us).clamp(0.0, 1.0)
}

/// Time of a statement that partitions would save.
pub fn saved(one: &Use, length_us: f64, span_us: f64) -> f64 {
    if one.is_delete {
        return one.weight;
    }
    one.weight * one.scan_share.clamp(0.0, 1.0) * (1.0 - touched_share(one.range_share, length_us, span_us))
}

/// The interval that is best for a table whose rows span so much time; `None` when nothing is saved by any.
pub fn best(uses: &[Use], span_us: f64, allowed: &[Every]) -> Option<Advice> {
    let of = |every: &Every| {
        let length = length_us(every.span());
        let saved = uses.iter().map(|one| saved(one, length, span_us)).sum();
        Advice { every: *every, partitions: span_us / length, saved }
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

    #[test]
    fn a_week_of_a_year_is_cut_by_weeks_or_months() {
        let advice = best(&[reads(7.0 / 365.0)], YEAR_US, &NAMED).unwrap();
        // Weeks save 96 %, months 90 %: months are good enough, and fewer.
        assert_eq!(advice.every, Every::Month);
        assert!((advice.saved - 90.0).abs() < 1.0, "{advice:?}");
        assert!((advice.partitions - 12.0).abs() < 1e-9);
    }

    #[test]
    fn long_spans_have_few_partitions() {
        assert_eq!(best(&[reads(0.001)], 30.0 * YEAR_US, &NAMED).unwrap().every, Every::Year);
        assert_eq!(best(&[reads(0.001)], 5.0 * YEAR_US, &NAMED).unwrap().every, Every::Quarter);
        assert_eq!(best(&[reads(0.001)], 30.0 * YEAR_US, &NAMED[..2]), None);
        // A week of data: by days, or not at all.
        assert_eq!(best(&[reads(0.1)], YEAR_US / 52.0, &NAMED).unwrap().every, Every::Day);
        assert_eq!(best(&[reads(0.1)], YEAR_US / 365.0, &NAMED), None);
    }

    #[test]
    fn what_an_index_finds_and_what_reads_all_gains_nothing() {
        assert_eq!(best(&[Use { scan_share: 0.0, ..reads(0.01) }], YEAR_US, &NAMED), None);
        assert_eq!(best(&[reads(1.0)], YEAR_US, &NAMED), None);
        assert_eq!(best(&[], YEAR_US, &NAMED), None);
    }

    #[test]
    fn deletes_become_drops() {
        let advice = best(&[Use { is_delete: true, scan_share: 0.0, ..reads(0.5) }], YEAR_US, &NAMED).unwrap();
        assert_eq!((advice.every, advice.saved), (Every::Quarter, 100.0));
    }

    #[test]
    fn priorities() {
        assert_eq!([priority(30.0, false), priority(6.0, false), priority(2.0, false)], ["high", "medium", "low"]);
        assert_eq!(priority(90.0, true), "low");
    }

    proptest! {
        /// Nothing saves more than all, and less is never better.
        #[test]
        fn savings_are_bounded(
            uses in prop::collection::vec((0.0..1e6f64, 0.0..1.0f64, 0.0..1.0f64, any::<bool>()), 0..10), years in 0.001..100.0f64,
        ) {
            let uses: Vec<Use> = uses
                .into_iter()
                .map(|(weight, scan_share, range_share, is_delete)| Use { weight, scan_share, range_share, is_delete })
                .collect();
            let all: f64 = uses.iter().map(|one| one.weight).sum();
            if let Some(advice) = best(&uses, years * YEAR_US, &NAMED) {
                prop_assert!(advice.saved > 0.0 && advice.saved <= all * (1.0 + 1e-9));
                prop_assert!((PARTITIONS_MIN..=PARTITIONS_MAX).contains(&advice.partitions));
            }
        }
    }
}

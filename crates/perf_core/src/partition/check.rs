//! What is wrong with the ranges of a table's partitions. Called by the check of partitions; decides only, reads no clock
//! and locks nothing.

use super::plan::{holes, sorted};
use super::{plan, At, Every, Key, Range, Ruler, Span, Wish};
use crate::schedule::Zone;

/// From so many partitions on a table has too many. "The query planner is generally able to handle partition hierarchies
/// with up to a few thousand partitions fairly well" (PostgreSQL's manual, 5.12.6): each takes memory in every session
/// that plans a statement over all of them.
pub const PARTITIONS_MAX: usize = 2_000;

/// What is wrong, seen by the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The interval that contains now, where no partition holds all of it that is left.
    pub now: Option<Range>,
    /// Missing ahead of the clock, by their lower bounds.
    pub ahead: Vec<Range>,
    /// Holes between partitions that a look at the table fills.
    pub gaps: Vec<Range>,
    /// Holes that take more partitions than a look at the table makes.
    pub wide_gaps: Vec<Range>,
    /// Partitions that have been beyond the retention for longer than the grace.
    pub expired: Vec<usize>,
    /// Partitions with a bound that is not where an interval begins.
    pub odd: Vec<usize>,
}

/// Compares what there is with what is wanted. What has become due within `grace` before now is no fault yet: it waits for
/// the job's next run.
pub fn faults(ruler: &Ruler, existing: &[Range], wish: &Wish, utc_us: i64, grace_us: i64) -> Faults {
    let now = ruler.now(utc_us);
    let then = plan(ruler, existing, wish, utc_us.saturating_sub(grace_us));
    let plan = plan(ruler, existing, wish, utc_us);
    let mut faults = Faults { wide_gaps: plan.wide_gaps, expired: then.expire, ..Faults::default() };
    if !existing.iter().any(|range| range.contains(now)) {
        faults.now = Some(free_part(existing, ruler.interval_of(now), now));
    }
    let highest = existing.iter().map(|range| range.upper).max().unwrap_or(At::MIN);
    for range in plan.create.into_iter().filter(|range| !range.contains(now) && then.create.contains(range)) {
        if range.upper <= now || range.upper <= highest {
            match faults.gaps.last_mut() {
                Some(last) if last.upper == range.lower => last.upper = range.upper,
                _ => faults.gaps.push(range),
            }
        } else {
            faults.ahead.push(range);
        }
    }
    let is_cut = |at: At| at == At::MIN || at == At::MAX || ruler.interval_of(at).lower == at;
    faults.odd =
        (0..existing.len()).filter(|at| !is_cut(existing[*at].lower) || !is_cut(existing[*at].upper)).collect();
    faults
}

/// The part around a position of a range that no partition overlaps. The position is in the range and in no partition.
pub fn free_part(existing: &[Range], range: Range, at: At) -> Range {
    existing.iter().filter(|other| !other.is_empty()).fold(range, |free, other| Range {
        lower: if other.upper <= at { free.lower.max(other.upper) } else { free.lower },
        upper: if other.lower > at { free.upper.min(other.lower) } else { free.upper },
    })
}

/// Holes between partitions, wherever the clock is.
pub fn holes_between(existing: &[Range]) -> Vec<Range> {
    let covered = sorted(existing);
    let upper = covered.iter().map(|range| range.upper).max();
    match (covered.first(), upper) {
        (Some(first), Some(upper)) => holes(&covered, Range { lower: first.lower, upper }),
        _ => Vec::new(),
    }
}

/// What partitions seem to be cut by: all that have two ends must be intervals of it.
pub fn guess_every(key: Key, zone: &dyn Zone, existing: &[Range]) -> Option<Every> {
    let bounded: Vec<&Range> = existing.iter().filter(|range| range.is_bounded() && !range.is_empty()).collect();
    let fits = |every: &Every| {
        let ruler = Ruler { every: *every, key, zone };
        bounded.iter().all(|range| ruler.interval_of(range.lower) == **range)
    };
    let hour = Span { micros: crate::schedule::HOUR_US, ..Span::default() };
    let custom = Every::custom(hour).ok();
    let named = [Every::Day, Every::Week, Every::Month, Every::Quarter, Every::Year];
    named.into_iter().chain(custom).filter(|every| every.fits(key).is_ok()).find(fits).filter(|_| !bounded.is_empty())
}

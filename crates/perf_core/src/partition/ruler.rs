//! The intervals of a table: tiles of the key's line. Called by the plan, by what names partitions and by the jobs.

use super::every::Step;
use super::{At, Every, Key, Range, Span};
use crate::schedule::{resolve, Zone, DAY_US, HORIZON_US, SECOND_US};

/// Tiles the line of a key with intervals, without a gap and without an overlap.
///
/// Positions farther than some 146,000 years from 1970 are not cut: the last interval of each side has no end there.
#[derive(Clone, Copy)]
pub struct Ruler<'a> {
    /// How long an interval is.
    pub every: Every,
    /// What the line is made of.
    pub key: Key,
    /// Whose wall clock the intervals begin on.
    pub zone: &'a dyn Zone,
}

/// How far a cut may lie from where the clock shows its time now: more than two days that the date line takes.
const SEARCH_US: i64 = 5 * DAY_US;
/// Beyond the horizon by more than a clock is ever from UTC.
const EDGE_US: i64 = HORIZON_US + 2 * DAY_US;

/// An interval and what it is counted as.
pub(super) struct Tile {
    pub(super) range: Range,
    /// The time of the wall clock that it stands for, which the clock may have skipped.
    pub(super) wall_us: i64,
}

impl Ruler<'_> {
    /// An instant on the key's line: what its wall clock shows, or the instant itself.
    pub fn now(&self, utc_us: i64) -> At {
        if self.is_on_wall_clock() {
            self.shown(utc_us)
        } else {
            utc_us
        }
    }

    /// The interval a position lies in; `i64::MAX`, which lies in none, gives the last.
    pub fn interval_of(&self, at: At) -> Range {
        self.tile(at).range
    }

    /// The interval after one, or after a part of one: the interval its upper bound lies in.
    pub fn following(&self, r: &Range) -> Range {
        self.interval_of(r.upper)
    }

    /// What lies an age before an instant, and never after it. Months and days are those of the wall clock, with the
    /// month's last day for one it does not have; hours are real time. `i64::MIN` beyond the horizon.
    pub fn before(&self, utc_us: i64, age: &Span) -> At {
        let now = self.now(utc_us);
        let calendar = Span { micros: 0, ..*age };
        let day = if calendar == Span::default() {
            // The second pass through a repeated hour has no way back from the wall clock.
            now
        } else {
            self.on_line(calendar.before(self.shown(utc_us)))
        };
        if day == At::MIN {
            return day;
        }
        day.saturating_sub(age.micros).min(now)
    }

    pub(super) fn is_on_wall_clock(&self) -> bool {
        matches!(self.key, Key::Date | Key::Timestamp)
    }

    /// What the wall clock shows at an instant.
    fn shown(&self, utc_us: i64) -> i64 {
        utc_us.saturating_add(i64::from(self.zone.offset_s(utc_us)) * SECOND_US)
    }

    /// What the wall clock shows at a position.
    pub(super) fn wall(&self, at: At) -> i64 {
        if self.is_on_wall_clock() {
            at
        } else {
            self.shown(at)
        }
    }

    /// The position at which the wall clock first shows a time, or the end of the gap that has it.
    pub(super) fn on_line(&self, wall_us: i64) -> At {
        if wall_us < -HORIZON_US {
            At::MIN
        } else if wall_us > HORIZON_US {
            At::MAX
        } else if self.is_on_wall_clock() {
            wall_us
        } else {
            resolve(self.zone, wall_us).first()
        }
    }

    fn cut(&self, step: Step, index: i64) -> At {
        self.on_line(step.wall(index))
    }

    /// The last interval that begins at or before a position. Those that begin in one gap begin together, so it is the
    /// last of them that is not empty.
    pub(super) fn tile(&self, at: At) -> Tile {
        let step = self.every.step();
        let at = at.clamp(-EDGE_US, EDGE_US);
        let wall = self.wall(at);
        let index = step.index(wall);
        let tile = |index: i64| {
            let range = Range { lower: self.cut(step, index), upper: self.cut(step, index + 1) };
            Tile { range, wall_us: step.wall(index) }
        };
        let nominal = tile(index);
        if nominal.range.contains(at) {
            return nominal;
        }
        // The clock was set back to show what it had shown before, or set forward near a cut.
        let (mut first, mut after) = (step.index(wall - SEARCH_US), step.index(wall + SEARCH_US) + 1);
        while after - first > 1 {
            let middle = first + (after - first) / 2;
            if self.cut(step, middle) <= at {
                first = middle;
            } else {
                after = middle;
            }
        }
        tile(first)
    }
}

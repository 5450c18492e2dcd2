//! Partitions by time: where their bounds lie, how they are written and named, and which ones a table needs or may
//! lose. Called by the partition jobs, by conversions and by what checks or advises; decides only, reads no clock and
//! locks nothing.
//!
//! # Positions
//! A key of any type is a position on one line, [`At`]: microseconds since 1970-01-01, of the wall clock for `date` and
//! `timestamp`, which know of no time zone, and of UTC for the others. `i64::MIN` and `i64::MAX` are beyond all values:
//! MINVALUE and -infinity, MAXVALUE and infinity.
//!
//! # Intervals
//! A [`Ruler`] tiles the line with intervals that are cut on the wall clock of a time zone. Whole months count from
//! January of the year 0, so that quarters begin in January, April, July and October. Whole weeks begin on Monday,
//! counted from 1970-01-05. All else counts from 1970-01-01 00:00 on the wall clock, also what is shorter than a day:
//! `6 hours` begin at 00:00, 06:00, 12:00 and 18:00 in winter and in summer.
//!
//! # When clocks are changed
//! For keys on UTC a cut lies where the clock first shows its time, or right after the gap that has swallowed it. So
//! the interval in which a clock is set back is longer, and the intervals that begin in one gap are one. For keys on the
//! wall clock nothing is changed: there, intervals of a kind are all as long as the calendar says.

pub mod advice;
pub mod check;
pub mod compression;
mod every;
pub mod expiry;
mod literal;
mod name;
mod plan;
mod ruler;

pub use every::{Every, Span};
pub use literal::{at_of_number, at_of_uuid, literal, range_of_numbers, range_of_uuids};
pub use name::{name, name_nth};
pub use plan::{plan, Plan, Wish, CREATED_MAX, PREMAKE_MAX};
pub use ruler::Ruler;

/// A position on the line of a key.
pub type At = i64;

/// What a number in a `bigint` key counts since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    /// As of `extract(epoch from ...)`.
    Seconds,
    /// As of JavaScript and Java.
    Milliseconds,
    /// As of PostgreSQL itself.
    Microseconds,
    /// As of Go and of traces.
    Nanoseconds,
}

/// The instants at which a guess of the unit begins and ends to believe, in seconds: the years 1990 and 2200. Wider by
/// far than any real data, and yet no number is believable in two units.
const BELIEVABLE_S: std::ops::Range<i64> = 631_152_000..7_258_118_400;

impl EpochUnit {
    /// All of them.
    pub const ALL: [EpochUnit; 4] =
        [EpochUnit::Seconds, EpochUnit::Milliseconds, EpochUnit::Microseconds, EpochUnit::Nanoseconds];

    /// How many of them are in a second.
    pub fn per_second(self) -> i64 {
        match self {
            EpochUnit::Seconds => 1,
            EpochUnit::Milliseconds => 1_000,
            EpochUnit::Microseconds => 1_000_000,
            EpochUnit::Nanoseconds => 1_000_000_000,
        }
    }

    /// Reads a name, like `milliseconds` or `ms`, in any case.
    pub fn parse(text: &str) -> Result<EpochUnit, String> {
        let found = match text.trim().to_ascii_lowercase().as_str() {
            "s" | "second" | "seconds" => Some(EpochUnit::Seconds),
            "ms" | "millisecond" | "milliseconds" => Some(EpochUnit::Milliseconds),
            "us" | "microsecond" | "microseconds" => Some(EpochUnit::Microseconds),
            "ns" | "nanosecond" | "nanoseconds" => Some(EpochUnit::Nanoseconds),
            _ => None,
        };
        found.ok_or_else(|| {
            format!("unit \"{text}\" is not known: accepted are seconds, milliseconds, microseconds and nanoseconds")
        })
    }

    /// The one unit in which a number lies in the years 1990 to 2199.
    pub fn guess(value: i64) -> Option<EpochUnit> {
        EpochUnit::ALL.into_iter().find(|unit| BELIEVABLE_S.contains(&value.div_euclid(unit.per_second())))
    }
}

impl std::fmt::Display for EpochUnit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EpochUnit::Seconds => "seconds",
            EpochUnit::Milliseconds => "milliseconds",
            EpochUnit::Microseconds => "microseconds",
            EpochUnit::Nanoseconds => "nanoseconds",
        })
    }
}

/// The type of a partition key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `date`: on the wall clock.
    Date,
    /// `timestamp without time zone`: on the wall clock.
    Timestamp,
    /// `timestamp with time zone`.
    Timestamptz,
    /// `uuid` that begins with milliseconds since 1970, as version 7 does.
    Uuid7,
    /// `bigint` that counts since 1970.
    Epoch(EpochUnit),
}

/// A part of the line, from its lower position up to, and without, its upper one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first position in it; `i64::MIN` has none below.
    pub lower: At,
    /// The first position after it; `i64::MAX` has none above.
    pub upper: At,
}

impl Range {
    /// Whether a position lies in it.
    pub fn contains(&self, at: At) -> bool {
        self.lower <= at && at < self.upper
    }

    /// Whether some position lies in both.
    pub fn overlaps(&self, other: &Range) -> bool {
        !self.intersection(other).is_empty()
    }

    /// Whether it has an end on both sides.
    pub fn is_bounded(&self) -> bool {
        self.lower != At::MIN && self.upper != At::MAX
    }

    /// Whether no position lies in it.
    pub fn is_empty(&self) -> bool {
        self.lower >= self.upper
    }

    /// What lies in both; empty when nothing does.
    pub fn intersection(&self, other: &Range) -> Range {
        Range { lower: self.lower.max(other.lower), upper: self.upper.min(other.upper) }
    }
}

#[cfg(test)]
mod tests;

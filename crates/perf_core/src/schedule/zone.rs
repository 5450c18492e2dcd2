//! Between the wall clock of a time zone and instants. Called by the schedules; the zone itself is the caller's, since
//! only the server knows its own zone database.

use super::{Instant, HOUR_US, SECOND_US};

/// What a schedule must know of a time zone.
pub trait Zone {
    /// How many seconds the wall clock is east of UTC at an instant.
    fn offset_s(&self, utc_us: Instant) -> i32;
}

/// No offset, ever.
#[derive(Clone, Copy, Debug)]
pub struct Utc;

impl Zone for Utc {
    fn offset_s(&self, _utc_us: Instant) -> i32 {
        0
    }
}

/// The instants at which the wall clock shows a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Never: the clock was set forward over it, at this instant.
    Skipped {
        /// The first instant after the gap.
        until: Instant,
    },
    /// Once, as nearly always.
    Once(Instant),
    /// Twice, because the clock was set back: the first and the last time.
    Twice(Instant, Instant),
}

impl Local {
    /// When a job that is due at this time starts: once, the first time it comes, or right after the gap that has
    /// swallowed it.
    pub fn first(self) -> Instant {
        match self {
            Local::Skipped { until } => until,
            Local::Once(instant) | Local::Twice(instant, _) => instant,
        }
    }
}

/// The offset in microseconds.
pub(super) fn offset_us(zone: &dyn Zone, at: Instant) -> i64 {
    i64::from(zone.offset_s(at)) * SECOND_US
}

/// How far from a guess the offset is asked for, in hours. The guess is off by no more than one change of the clock,
/// and the largest change ever made was a whole day, where the date line was moved. Changes less than half a day apart
/// are not known of any zone.
const PROBES_H: [i64; 5] = [-25, -12, 0, 12, 25];

/// Finds the instants of a wall clock time, given as if it were UTC.
pub fn resolve(zone: &dyn Zone, local_us: i64) -> Local {
    let guess = local_us - offset_us(zone, local_us);
    let mut found: Option<(Instant, Instant)> = None;
    for probe in PROBES_H {
        let offset = offset_us(zone, guess + probe * HOUR_US);
        let at = local_us - offset;
        if offset_us(zone, at) == offset {
            found = Some(found.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        }
    }
    match found {
        Some((first, last)) if first == last => Local::Once(first),
        Some((first, last)) => Local::Twice(first, last),
        None => {
            let (before, after) = (guess - 49 * HOUR_US, guess + 49 * HOUR_US);
            Local::Skipped { until: first_second(before, after, |at| at + offset_us(zone, at) > local_us) }
        }
    }
}

/// The first instant after `from` and up to `to` at which the offset is not that of `from`, which it is not at `to`.
pub(super) fn first_change(zone: &dyn Zone, from: Instant, to: Instant) -> Instant {
    let offset = zone.offset_s(from);
    first_second(from, to, |at| zone.offset_s(at) != offset)
}

/// Bisects to where `reached` becomes true, between an instant where it is not and one where it is. Clocks are changed
/// on whole seconds of UTC.
fn first_second(before: Instant, after: Instant, reached: impl Fn(Instant) -> bool) -> Instant {
    let (mut before, mut after) = (before, after);
    while after - before > SECOND_US {
        let middle = before + (after - before) / 2;
        if reached(middle) {
            after = middle;
        } else {
            before = middle;
        }
    }
    let second = after.div_euclid(SECOND_US) * SECOND_US;
    if second > before {
        second
    } else {
        after
    }
}

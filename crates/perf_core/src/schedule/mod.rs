//! When a job is due: the text of a schedule, its ticks, what to do about missed ones, and when to try again. Called
//! by the scheduler; decides only, reads no clock and locks nothing.
//!
//! # Kinds
//! - **Intervals of hours, minutes and seconds** (`5 min`, `2 hours 30 min`, `24 hours`) count in real time. Their
//!   ticks are the anchor (when the job was made) plus whole multiples of the interval, so that they do not drift.
//! - **Intervals of days and weeks** (`1 day`, `2 weeks`) come at the anchor's time of day in the job's time zone,
//!   counted in days of the calendar from the anchor's.
//! - **Names**: `hourly` is minute 0 of every hour, `daily` is 00:00, `weekly` is Sunday 00:00 as cron's `@weekly`,
//!   `monthly` is the first of the month at 00:00. `@hourly` and the like mean the same.
//! - **Cron** with five fields, in the job's time zone: minute, hour, day of month, month, day of week. Each is `*`, a
//!   number, a list, a range or a step; months and days of the week have names; days of the month also take `L`, `LW`
//!   and `15W`, days of the week `5L` and `5#2`. When both day fields are restricted, a day matches if **either** does;
//!   when one of them starts with `*`, also as `*/2`, both must: exactly as in Vixie's cron and in pg_cron.
//!
//! # When clocks are changed
//! Schedules that name their times of day (`daily`, `30 2 * * *`, `0,30 1-5 * * *`, `1 day`) run **once** for each of
//! them: a time that is skipped runs right after the gap (several of them together run once), a time that comes twice
//! runs the first time.
//! Schedules with `*` or `/` in the minute or the hour (`*/5 * * * *`, `hourly`) follow the clock: they run at every
//! instant at which the clock shows a matching minute, so not in the gap, and in both passes through a repeated hour.

mod cron;
mod parse;
mod recover;
mod zone;

pub use parse::Error;
pub use recover::{retry_at, CatchUp, Plan, Skipped, RUNS_LIMIT, SKIP_GRACE_US};
pub use zone::{resolve, Local, Utc, Zone};

use cron::Cron;

/// Microseconds since 1970-01-01 00:00 UTC.
pub type Instant = i64;

pub(crate) const SECOND_US: i64 = 1_000_000;
pub(crate) const MINUTE_US: i64 = 60 * SECOND_US;
pub(crate) const HOUR_US: i64 = 60 * MINUTE_US;
/// A day, in microseconds.
pub const DAY_US: i64 = 24 * HOUR_US;

/// Instants farther than this from 1970, some 146,000 years, have no ticks: there is room to count beyond them.
pub(crate) const HORIZON_US: i64 = i64::MAX / 2;

/// When a job runs. Shown as the text that reads back as the same schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// So many microseconds of real time.
    Every(i64),
    /// So many days of the calendar.
    Days(i64),
    Cron(Cron),
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Schedule {
    /// Reads an interval from 1 second to 365 days, a name, or five fields of cron. Case does not matter, nor do more
    /// blanks than needed.
    pub fn parse(text: &str) -> Result<Schedule, Error> {
        parse::schedule(text)
    }

    /// The first tick after an instant; the instant itself is not. `anchor` is any one tick of an interval, cron does
    /// not look at it. `None` only beyond the horizon of the calendar.
    pub fn next_after(&self, after: Instant, zone: &dyn Zone, anchor: Instant) -> Option<Instant> {
        if after.abs_diff(0) > HORIZON_US as u64 || anchor.abs_diff(0) > HORIZON_US as u64 {
            return None;
        }
        match &self.kind {
            Kind::Every(interval) => Some(grid_from(anchor, *interval, after + 1)),
            Kind::Days(days) => {
                let anchor = anchor + zone::offset_us(zone, anchor);
                next_time_of_day(after, zone, |local_us| Some(grid_from(anchor, days * DAY_US, local_us)))
            }
            Kind::Cron(cron) if cron.cadence => next_match(cron, after, zone),
            Kind::Cron(cron) => next_time_of_day(after, zone, |local_us| cron.next_from(local_us)),
        }
    }
}

/// The first of `origin + k * step` at or after a value.
fn grid_from(origin: i64, step: i64, from: i64) -> i64 {
    // In phases, since the distance between the two may not fit.
    let behind = (from.rem_euclid(step) - origin.rem_euclid(step)).rem_euclid(step);
    from + (step - behind) % step
}

/// How many wall clock times may have had their run before the search is given up: more than the minutes of a day,
/// which is the most that a clock was ever set back.
const TIMES_LIMIT: u32 = 1500;

/// The first run after an instant of what names its times of day. `next_from` gives the first such wall clock time at
/// or after one.
fn next_time_of_day(after: Instant, zone: &dyn Zone, next_from: impl Fn(i64) -> Option<i64>) -> Option<Instant> {
    let mut from = after + zone::offset_us(zone, after) + 1;
    for _ in 0..TIMES_LIMIT {
        let time = next_from(from)?;
        let at = resolve(zone, time).first();
        // Not so in the second pass through a repeated hour: the times of the first had their run.
        if at > after {
            return Some(at);
        }
        from = time + 1;
    }
    None
}

/// How far ahead the offset is taken to be the same when it is the same there. No zone has changed its clock twice in
/// half a day.
const STEADY_US: i64 = 12 * HOUR_US;
/// How much the clock may differ from what the present offset says, and more.
const JUMP_MARGIN_US: i64 = 3 * DAY_US;
/// How many steps the search goes: it takes some 15 to pass a match that the clock skips.
const STEPS_LIMIT: u32 = 1500;

/// The first instant after another at which the wall clock shows a match.
fn next_match(cron: &Cron, after: Instant, zone: &dyn Zone) -> Option<Instant> {
    let mut from = after + 1;
    for _ in 0..STEPS_LIMIT {
        let offset = zone::offset_us(zone, from);
        let at = cron.next_from(from + offset)? - offset;
        let end = at.min(from + STEADY_US);
        if zone::offset_us(zone, end) != offset {
            // The clock is changed before that: on from there, with the other offset.
            from = zone::first_change(zone, from, end);
        } else if end == at {
            return Some(at);
        } else if at - end > JUMP_MARGIN_US && end - after > JUMP_MARGIN_US {
            from = at - JUMP_MARGIN_US;
        } else {
            from = end;
        }
    }
    None
}

#[cfg(test)]
mod tests;

//! Tests of schedules against real time zones and against walks minute by minute.

mod recover;
mod text;
mod ticks;

use std::cell::Cell;

use jiff::tz::TimeZone;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

/// A zone of the tests' own database, which counts how often it is asked.
pub(super) struct Tz {
    zone: TimeZone,
    asked: Cell<u32>,
}

impl Zone for Tz {
    fn offset_s(&self, utc_us: Instant) -> i32 {
        self.asked.set(self.asked.get() + 1);
        let (earliest, latest) = (Timestamp::MIN.as_microsecond(), Timestamp::MAX.as_microsecond());
        self.zone.to_offset(Timestamp::from_microsecond(utc_us.clamp(earliest, latest)).unwrap()).seconds()
    }
}

pub(super) fn tz(name: &str) -> Tz {
    Tz { zone: TimeZone::get(name).unwrap(), asked: Cell::new(0) }
}

/// The instant of `2024-03-31 01:00Z` or `2024-03-31 03:00+02`.
pub(super) fn at(text: &str) -> Instant {
    text.parse::<Timestamp>().unwrap().as_microsecond()
}

/// How an instant reads on the wall clock, with the offset in force.
pub(super) fn shown(zone: &Tz, instant: Instant) -> String {
    let zoned = Timestamp::from_microsecond(instant).unwrap().to_zoned(zone.zone.clone());
    zoned.strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

pub(super) fn schedule(text: &str) -> Schedule {
    Schedule::parse(text).unwrap()
}

/// The ticks after one instant and up to another.
pub(super) fn ticks(
    schedule: &Schedule,
    zone: &dyn Zone,
    anchor: Instant,
    after: Instant,
    to: Instant,
) -> Vec<Instant> {
    let next = |at: &Instant| {
        let tick = schedule.next_after(*at, zone, anchor)?;
        assert!(tick > *at, "{schedule} stands still");
        (tick <= to).then_some(tick)
    };
    std::iter::successors(next(&after), next).collect()
}

/// What the wall clock shows at the ticks between two instants.
pub(super) fn shown_ticks(text: &str, zone: &str, after: &str, to: &str) -> Vec<String> {
    let (schedule, zone) = (schedule(text), tz(zone));
    let anchor = at("2000-01-01 00:00Z");
    ticks(&schedule, &zone, anchor, at(after), at(to)).into_iter().map(|tick| shown(&zone, tick)).collect()
}

pub(super) const ZONES: [&str; 12] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Africa/Casablanca",
    "America/St_Johns",
    "America/Havana",
    "America/Sao_Paulo",
    "Asia/Pyongyang",
    "Antarctica/Troll",
    "UTC",
];

/// Texts of all kinds.
pub(super) const TEXTS: [&str; 18] = [
    "1 s",
    "90 s",
    "7 min",
    "1 hour",
    "24 hours",
    "1 day",
    "3 days",
    "hourly",
    "daily",
    "weekly",
    "monthly",
    "*/5 * * * *",
    "30 2 * * *",
    "0,30 1-3 * * *",
    "*/20 2 * * *",
    "15 */2 * * 1-5",
    "0 0 31W 1,8 *",
    "59 23 L * 5#2",
];

/// An instant within some days of a change of a zone's clock since 1985, or in any zone without changes.
pub(super) fn near_a_change() -> impl Strategy<Value = (usize, Instant)> {
    let span = at("2038-01-01 00:00Z") - at("1985-01-01 00:00Z");
    (0..ZONES.len(), 0..span, -3 * DAY_US..3 * DAY_US, any::<bool>()).prop_map(|(zone, offset, away, whole)| {
        let from = Timestamp::from_microsecond(at("1985-01-01 00:00Z") + offset).unwrap();
        let rules = TimeZone::get(ZONES[zone]).unwrap();
        let change = rules.following(from).next();
        let near = change.map_or(from, |change| change.timestamp()).as_microsecond() + away;
        (zone, if whole { near.div_euclid(MINUTE_US) * MINUTE_US } else { near })
    })
}

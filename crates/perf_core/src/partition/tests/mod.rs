//! Tests of partitions against another calendar, in real time zones and in one that changes its clock at random.

mod checks;
mod plans;
mod text;
mod tiles;

use jiff::tz::TimeZone;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::schedule::{Utc, Zone, DAY_US, HOUR_US, MINUTE_US, SECOND_US};

/// A zone of the tests' own database.
pub(super) struct Tz(TimeZone);

impl Zone for Tz {
    fn offset_s(&self, utc_us: i64) -> i32 {
        let (earliest, latest) =
            (Timestamp::MIN.as_microsecond() + SECOND_US, Timestamp::MAX.as_microsecond() - SECOND_US);
        self.0.to_offset(Timestamp::from_microsecond(utc_us.clamp(earliest, latest)).unwrap()).seconds()
    }
}

pub(super) fn tz(name: &str) -> Tz {
    Tz(TimeZone::get(name).unwrap())
}

/// A zone that changes its clock when it likes.
#[derive(Debug)]
pub(super) struct Whims {
    first: i32,
    /// By instant, the earliest first.
    changes: Vec<(i64, i32)>,
}

impl Zone for Whims {
    fn offset_s(&self, utc_us: i64) -> i32 {
        let past = self.changes.partition_point(|(at, _)| *at <= utc_us);
        past.checked_sub(1).map_or(self.first, |last| self.changes[last].1)
    }
}

/// Changes three to sixty days apart, of up to a day.
pub(super) fn whims() -> impl Strategy<Value = Whims> {
    let offset = -12 * 3600..12 * 3600;
    let change = (3 * 86_400i64..60 * 86_400, offset.clone());
    (offset, at("2015-01-01 00:00Z")..at("2020-01-01 00:00Z"), prop::collection::vec(change, 0..40)).prop_map(
        |(first, start, changes)| {
            let start = start.div_euclid(SECOND_US);
            let changes = changes.into_iter().scan(start, |at, (wait, offset)| {
                *at += wait;
                Some((*at * SECOND_US, offset))
            });
            Whims { first, changes: changes.collect() }
        },
    )
}

/// The instant of `2024-03-31 01:00Z` or `2024-03-31 03:00+02`.
pub(super) fn at(text: &str) -> At {
    text.parse::<Timestamp>().unwrap().as_microsecond()
}

pub(super) fn range(lower: &str, upper: &str) -> Range {
    Range { lower: at(lower), upper: at(upper) }
}

pub(super) fn every(text: &str) -> Every {
    Every::parse(text).unwrap()
}

pub(super) fn age(text: &str) -> Option<Span> {
    Some(Span::parse(text).unwrap())
}

/// With changes by hours, by days back and forth, of seconds, and none.
pub(super) const ZONES: [&str; 12] = [
    "Europe/Berlin",
    "America/New_York",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Africa/Monrovia",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "America/Sitka",
    "Asia/Manila",
    "Pacific/Kwajalein",
    "Asia/Beirut",
    "UTC",
];

pub(super) const EVERY: [&str; 16] = [
    "day", "week", "month", "quarter", "year", "1 min", "15 min", "1 hour", "6 hours", "7 hours", "36 hours",
    "10 days", "2 weeks", "2 months", "5 months", "3 years",
];

pub(super) const KEYS: [Key; 8] = [
    Key::Date,
    Key::Timestamp,
    Key::Timestamptz,
    Key::Uuid7,
    Key::Epoch(EpochUnit::Seconds),
    Key::Epoch(EpochUnit::Milliseconds),
    Key::Epoch(EpochUnit::Microseconds),
    Key::Epoch(EpochUnit::Nanoseconds),
];

/// An instant near a change of a zone's clock when there is one after it, else anywhere since a date.
pub(super) fn zone_and_instant(since: &str) -> impl Strategy<Value = (usize, At)> {
    let years = at(since)..at("2045-01-01 00:00Z");
    (0..ZONES.len(), years, -3 * DAY_US..3 * DAY_US, 0..4u8).prop_map(|(zone, from, away, how)| {
        let start = Timestamp::from_microsecond(from).unwrap();
        let rules = TimeZone::get(ZONES[zone]).unwrap();
        let change = rules.following(start).next();
        let near = change.filter(|_| how > 0).map_or(from, |change| change.timestamp().as_microsecond() + away);
        (zone, if how > 1 { near.div_euclid(MINUTE_US * 30) * MINUTE_US * 30 } else { near })
    })
}

pub(super) fn every_and_key() -> impl Strategy<Value = (Every, Key)> {
    let fitting = |(name, key): &(&str, Key)| every(name).fits(*key).is_ok();
    (prop::sample::select(&EVERY[..]), prop::sample::select(&KEYS[..]))
        .prop_filter("fits", fitting)
        .prop_map(|(name, key)| (every(name), key))
}

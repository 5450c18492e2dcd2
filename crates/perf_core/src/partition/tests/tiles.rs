//! Intervals and ages.

use super::*;
use crate::calendar::{weekday, Date};

fn interval(text: &str, key: Key, zone: &str, instant: &str) -> Range {
    let zone = tz(zone);
    let ruler = Ruler { every: every(text), key, zone: &zone };
    ruler.interval_of(at(instant))
}

#[test]
fn intervals_of_the_calendar() {
    for (text, lower, upper) in [
        ("day", "2026-03-15 00:00Z", "2026-03-16 00:00Z"),
        ("week", "2026-03-09 00:00Z", "2026-03-16 00:00Z"),
        ("month", "2026-03-01 00:00Z", "2026-04-01 00:00Z"),
        ("quarter", "2026-01-01 00:00Z", "2026-04-01 00:00Z"),
        ("year", "2026-01-01 00:00Z", "2027-01-01 00:00Z"),
        ("6 hours", "2026-03-15 12:00Z", "2026-03-15 18:00Z"),
        ("15 min", "2026-03-15 13:45Z", "2026-03-15 14:00Z"),
        ("36 hours", "2026-03-14 00:00Z", "2026-03-15 12:00Z"),
        ("7 days", "2026-03-09 00:00Z", "2026-03-16 00:00Z"),
        ("2 weeks", "2026-03-02 00:00Z", "2026-03-16 00:00Z"),
        ("2 months", "2026-03-01 00:00Z", "2026-05-01 00:00Z"),
        ("6 months", "2026-01-01 00:00Z", "2026-07-01 00:00Z"),
        ("3 years", "2025-01-01 00:00Z", "2028-01-01 00:00Z"),
    ] {
        let Range { lower, upper } = range(lower, upper);
        let ruler = Ruler { every: every(text), key: Key::Timestamptz, zone: &Utc };
        let now = at("2026-03-15 13:50Z");
        let last = if text == "36 hours" { at("2026-03-15 11:50Z") } else { now };
        assert_eq!(ruler.interval_of(last), Range { lower, upper }, "{text}");
        assert_eq!(ruler.following(&Range { lower, upper }).lower, upper);
        // A part of an interval is followed by its rest, if it ends within it.
        assert_eq!(ruler.following(&Range { lower, upper: upper - 1 }), Range { lower, upper });
    }
}

#[test]
fn intervals_begin_on_the_zones_clock() {
    for (text, key, zone, instant, lower, upper) in [
        ("month", Key::Timestamptz, "Europe/Berlin", "2026-03-31 22:30Z", "2026-04-01 00:00+02", "2026-05-01 00:00+02"),
        ("month", Key::Timestamptz, "Europe/Berlin", "2026-03-31 21:30Z", "2026-03-01 00:00+01", "2026-04-01 00:00+02"),
        ("month", Key::Timestamp, "Europe/Berlin", "2026-03-31 22:30Z", "2026-03-01 00:00Z", "2026-04-01 00:00Z"),
        ("day", Key::Uuid7, "Asia/Kathmandu", "2026-03-31 18:15Z", "2026-04-01 00:00+05:45", "2026-04-02 00:00+05:45"),
        // Midnight is skipped.
        (
            "day",
            Key::Timestamptz,
            "America/Sao_Paulo",
            "2018-11-04 12:00Z",
            "2018-11-04 01:00-02",
            "2018-11-05 00:00-02",
        ),
        // A whole day is skipped: the 30th of December 2011 was not.
        ("day", Key::Timestamptz, "Pacific/Apia", "2011-12-30 09:59Z", "2011-12-29 00:00-10", "2011-12-31 00:00+14"),
        ("day", Key::Timestamptz, "Pacific/Apia", "2011-12-30 10:00Z", "2011-12-31 00:00+14", "2012-01-01 00:00+14"),
        // The hours in the gap are one with the next.
        (
            "1 hour",
            Key::Timestamptz,
            "Europe/Berlin",
            "2024-03-31 01:30Z",
            "2024-03-31 03:00+02",
            "2024-03-31 04:00+02",
        ),
        (
            "1 hour",
            Key::Timestamptz,
            "Europe/Berlin",
            "2024-03-31 00:30Z",
            "2024-03-31 01:00+01",
            "2024-03-31 03:00+02",
        ),
        // Both passes through a repeated hour are one.
        (
            "1 hour",
            Key::Timestamptz,
            "Europe/Berlin",
            "2024-10-27 01:30Z",
            "2024-10-27 02:00+02",
            "2024-10-27 03:00+01",
        ),
        // Half hours of it, where the second pass belongs to the last of the first.
        (
            "30 min",
            Key::Timestamptz,
            "Europe/Berlin",
            "2024-10-27 01:10Z",
            "2024-10-27 02:30+02",
            "2024-10-27 03:00+01",
        ),
        (
            "30 min",
            Key::Timestamptz,
            "Europe/Berlin",
            "2024-10-27 00:10Z",
            "2024-10-27 02:00+02",
            "2024-10-27 02:30+02",
        ),
        // A whole day came twice: what the clock showed again belongs to the day that had begun.
        (
            "day",
            Key::Timestamptz,
            "America/Sitka",
            "1867-10-18 20:00Z",
            "1867-10-19 00:00+14:58:47",
            "1867-10-20 00:00-09:01:13",
        ),
    ] {
        assert_eq!(interval(text, key, zone, instant), range(lower, upper), "{text} {zone} {instant}");
    }
}

#[test]
fn now_is_the_wall_clocks_for_keys_without_a_zone() {
    let (zone, instant) = (tz("Europe/Berlin"), at("2026-03-31 22:30Z"));
    for key in KEYS {
        let ruler = Ruler { every: Every::Month, key, zone: &zone };
        let expected = match key {
            Key::Date | Key::Timestamp => "2026-04-01 00:30Z",
            _ => "2026-03-31 22:30Z",
        };
        assert_eq!(ruler.now(instant), at(expected), "{key:?}");
    }
}

#[test]
fn ages_go_back_by_the_calendar() {
    for (key, now, span, expected) in [
        (Key::Timestamptz, "2026-03-31 12:00+02", "1 month", "2026-02-28 12:00+01"),
        (Key::Timestamptz, "2024-02-29 12:00+01", "1 year", "2023-02-28 12:00+01"),
        (Key::Timestamptz, "2026-03-30 12:00+02", "2 days", "2026-03-28 12:00+01"),
        (Key::Timestamptz, "2026-03-30 12:00+02", "48 hours", "2026-03-28 11:00+01"),
        (Key::Timestamptz, "2026-04-01 00:10+02", "1 day 00:20", "2026-03-30 23:50+02"),
        // In the gap.
        (Key::Timestamptz, "2024-04-30 02:30+02", "1 month", "2024-03-30 02:30+01"),
        (Key::Timestamptz, "2024-04-01 02:30+02", "1 day", "2024-03-31 03:00+02"),
        // In the second pass through a repeated hour.
        (Key::Timestamptz, "2024-10-27 02:30+01", "10 min", "2024-10-27 02:20+01"),
        (Key::Timestamptz, "2024-10-27 02:30+01", "0 days", "2024-10-27 02:30+01"),
        (Key::Timestamp, "2026-03-30 12:00+02", "2 days", "2026-03-28 12:00Z"),
        (Key::Date, "2026-03-31 00:30+02", "1 month", "2026-02-28 00:30Z"),
    ] {
        let zone = tz("Europe/Berlin");
        let ruler = Ruler { every: Every::Day, key, zone: &zone };
        assert_eq!(ruler.before(at(now), &Span::parse(span).unwrap()), at(expected), "{now} {span}");
    }
}

#[test]
fn an_age_longer_than_the_line_is_before_all() {
    let ruler = Ruler { every: Every::Day, key: Key::Timestamptz, zone: &Utc };
    let longest = Span { months: i32::MAX, days: i32::MAX, micros: i64::MAX };
    assert_eq!(ruler.before(at("2026-01-01 00:00Z"), &longest), At::MIN);
    // Nor is the future old.
    let negative = Span { months: -1, days: -1, micros: -1 };
    assert_eq!(ruler.before(at("2026-01-01 00:00Z"), &negative), at("2026-01-01 00:00Z"));
}

/// The tiles around a position fit each other and their own members.
fn assert_tiles(ruler: &Ruler, from: At) {
    let mut tile = ruler.interval_of(from);
    assert!(tile.contains(from), "{tile:?} {from}");
    assert_eq!(ruler.interval_of(tile.lower - 1).upper, tile.lower);
    for _ in 0..40 {
        assert!(tile.lower < tile.upper, "{tile:?}");
        for inside in [tile.lower, tile.lower + (tile.upper - tile.lower) / 2, tile.upper - 1] {
            assert_eq!(ruler.interval_of(inside), tile, "{inside}");
        }
        let next = ruler.following(&tile);
        assert_eq!(next.lower, tile.upper);
        tile = next;
    }
}

#[test]
fn the_ends_of_the_line_are_in_intervals_without_an_end() {
    let berlin = tz("Europe/Berlin");
    for key in KEYS {
        for every in EVERY.map(every) {
            let ruler = Ruler { every, key, zone: &berlin };
            let (first, last) = (ruler.interval_of(At::MIN), ruler.interval_of(At::MAX));
            assert_eq!((first.lower, last.upper), (At::MIN, At::MAX));
            assert_eq!(ruler.interval_of(first.upper - 1), first);
            assert_eq!(ruler.interval_of(last.lower), last);
            assert_eq!(ruler.interval_of(At::MAX - 1), last);
            assert_eq!(ruler.following(&last), last);
            let second = ruler.following(&first);
            assert_eq!(second.lower, first.upper);
            assert!(second.is_bounded());
            assert_eq!(ruler.interval_of(last.lower - 1).upper, last.lower);
        }
    }
}

proptest! {
    #[test]
    fn intervals_tile_the_line_in_real_zones((zone, from) in zone_and_instant("1830-01-01 00:00Z"), (every, key) in every_and_key()) {
        let zone = tz(ZONES[zone]);
        assert_tiles(&Ruler { every, key, zone: &zone }, from);
    }

    #[test]
    fn intervals_tile_the_line_whatever_the_clock_does(
        zone in whims(), from in any::<prop::sample::Index>(), away in -3 * DAY_US..3 * DAY_US, (every, key) in every_and_key()
    ) {
        let from = if zone.changes.is_empty() { away } else { from.get(&zone.changes).0 + away };
        assert_tiles(&Ruler { every, key, zone: &zone }, from);
    }

    #[test]
    fn any_position_is_in_its_interval(from in any::<i64>(), (every, key) in every_and_key()) {
        let ruler = Ruler { every, key, zone: &Utc };
        let tile = ruler.interval_of(from);
        prop_assert!(tile.contains(from));
        let next = ruler.following(&tile);
        prop_assert!(next == tile || next.lower == tile.upper);
    }

    #[test]
    fn named_intervals_begin_where_the_calendar_says(from in at("0001-01-01 00:00Z")..at("9000-01-01 00:00Z")) {
        let tile = |every| Ruler { every, key: Key::Timestamp, zone: &Utc }.interval_of(from);
        for every in [Every::Day, Every::Week, Every::Month, Every::Quarter, Every::Year] {
            let Range { lower, upper } = tile(every);
            let (day, date) = (lower / DAY_US, Date::of(lower.div_euclid(DAY_US)));
            prop_assert_eq!(lower % DAY_US, 0);
            let days = (upper - lower) / DAY_US;
            match every {
                Every::Day => prop_assert_eq!(days, 1),
                Every::Week => prop_assert!(days == 7 && weekday(day) == 1),
                Every::Month => prop_assert!(days == date.month_days().into() && date.day == 1),
                Every::Quarter => prop_assert!((90..93).contains(&days) && date.day == 1 && date.month % 3 == 1),
                _ => prop_assert!((365..367).contains(&days) && date.day == 1 && date.month == 1),
            }
        }
    }

    #[test]
    fn a_longer_age_is_never_later((zone, now) in zone_and_instant("1830-01-01 00:00Z"), days in 0..4000i32, more in 0..100i32, hours in 0..100i64) {
        let zone = tz(ZONES[zone]);
        for key in [Key::Timestamp, Key::Timestamptz] {
            let ruler = Ruler { every: Every::Day, key, zone: &zone };
            let before = |days, hours| ruler.before(now, &Span { months: 0, days, micros: hours * HOUR_US });
            prop_assert!(before(days, hours) <= ruler.now(now));
            prop_assert!(before(days + more, hours) <= before(days, hours));
            prop_assert!(before(days, hours + 1) <= before(days, hours));
        }
    }
}

//! What is read and written: intervals, ages, bounds and names.

use std::collections::HashSet;

use jiff::civil::DateTime;

use super::*;

#[test]
fn intervals_are_read() {
    let custom = |months, days, micros| Every::Custom(Span { months, days, micros });
    for (text, expected, shown) in [
        ("day", Every::Day, "day"),
        ("  Daily ", Every::Day, "day"),
        ("1 day", Every::Day, "day"),
        ("WEEKLY", Every::Week, "week"),
        ("1 week", Every::Week, "week"),
        ("7 days", custom(0, 7, 0), "7 days"),
        ("14 days", custom(0, 14, 0), "2 weeks"),
        ("2 weeks", custom(0, 14, 0), "2 weeks"),
        ("10 days", custom(0, 10, 0), "10 days"),
        ("monthly", Every::Month, "month"),
        ("1 mon", Every::Month, "month"),
        ("3 months", custom(3, 0, 0), "3 months"),
        ("quarterly", Every::Quarter, "quarter"),
        ("2 quarters", custom(6, 0, 0), "6 months"),
        ("12 months", custom(12, 0, 0), "12 months"),
        ("yearly", Every::Year, "year"),
        ("Annually", Every::Year, "year"),
        ("3 years", custom(36, 0, 0), "3 years"),
        ("1 year 6 mons", custom(18, 0, 0), "18 months"),
        ("1000 years", custom(12_000, 0, 0), "1000 years"),
        ("6 hours", custom(0, 0, 6 * HOUR_US), "6 hours"),
        ("06:00:00", custom(0, 0, 6 * HOUR_US), "6 hours"),
        ("15min", custom(0, 0, 15 * MINUTE_US), "15 min"),
        ("90 min", custom(0, 0, 90 * MINUTE_US), "1 hour 30 min"),
        ("24 hours", custom(0, 0, DAY_US), "24 hours"),
        ("1 day 12 hours", custom(0, 0, 36 * HOUR_US), "36 hours"),
        ("1 day 00:01", custom(0, 0, DAY_US + MINUTE_US), "24 hours 1 min"),
    ] {
        assert_eq!(Every::parse(text), Ok(expected), "{text}");
        assert_eq!(expected.to_string(), shown);
        assert_eq!(Every::parse(shown), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_no_interval_is_refused_with_what_is_accepted() {
    let long = "1 day ".repeat(100);
    for (text, reason) in [
        ("", "it is empty"),
        ("   ", "it is empty"),
        ("fortnight", "it is not known"),
        ("-1 day", "it is not known"),
        ("5", "is not a whole number and a unit"),
        ("1.5 days", "is not a whole number and a unit"),
        ("3 moons", "unit \"moons\" is not known"),
        ("0 days", "shorter than 1 minute"),
        ("0 months", "shorter than 1 minute"),
        ("59 s", "shorter than 1 minute"),
        ("90 s", "whole minutes"),
        ("1 month 1 day", "months do not mix"),
        ("1 month 00:01", "months do not mix"),
        ("1001 years", "longer than 1000 years"),
        ("99999999999999999999 days", "longer than 1000 years"),
        ("9223372036854775807 hours", "longer than 1000 years"),
        ("366000 days", "longer than 1000 years"),
        ("12:60", "is not a whole number and a unit"),
        ("::", "it is not known"),
        ("1::", "is not a whole number and a unit"),
        (&long, "bytes are too many"),
    ] {
        let error = Every::parse(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
        assert!(error.contains("accepted are day, week, month"), "{error}");
        assert!(error.len() < 400);
    }
}

#[test]
fn ages_are_read() {
    for (text, expected, shown) in [
        ("13 months", Span { months: 13, ..Span::default() }, "1 year 1 month"),
        (
            "1 year 2 mons 3 days 04:05:06",
            Span { months: 14, days: 3, micros: 14_706 * SECOND_US },
            "1 year 2 months 3 days 4 hours 5 min 6 s",
        ),
        ("0 days", Span::default(), "0 s"),
        ("90 days", Span { days: 90, ..Span::default() }, "90 days"),
    ] {
        assert_eq!(Span::parse(text), Ok(expected), "{text}");
        assert_eq!(expected.to_string(), shown);
        assert_eq!(Span::parse(shown), Ok(expected));
    }
    for text in ["", "month", "-1 day", "1 fortnight", "2000 years"] {
        let error = Span::parse(text).unwrap_err();
        assert!(error.starts_with("invalid age") && error.contains("accepted are"), "{error}");
    }
}

#[test]
fn dates_are_not_cut_into_hours() {
    for (text, fits) in
        [("day", true), ("2 weeks", true), ("month", true), ("24 hours", true), ("6 hours", false), ("36 hours", false)]
    {
        assert_eq!(every(text).fits(Key::Date).is_ok(), fits, "{text}");
        assert_eq!(every(text).fits(Key::Timestamp), Ok(()));
    }
}

#[test]
fn units_are_guessed_by_their_size() {
    let second = at("2026-03-15 00:00Z") / SECOND_US;
    for (value, unit) in [
        (second, Some(EpochUnit::Seconds)),
        (second * 1_000, Some(EpochUnit::Milliseconds)),
        (second * 1_000_000, Some(EpochUnit::Microseconds)),
        (second * 1_000_000_000, Some(EpochUnit::Nanoseconds)),
        (at("1990-01-01 00:00Z") / SECOND_US, Some(EpochUnit::Seconds)),
        (at("1989-12-31 23:59:59Z") / SECOND_US, None),
        (at("2200-01-01 00:00Z") / SECOND_US, None),
        (0, None),
        (-second, None),
        (i64::MIN, None),
        (i64::MAX, None),
    ] {
        assert_eq!(EpochUnit::guess(value), unit, "{value}");
    }
    for unit in EpochUnit::ALL {
        assert_eq!(EpochUnit::parse(&unit.to_string()), Ok(unit));
    }
    assert_eq!(EpochUnit::parse(" MS "), Ok(EpochUnit::Milliseconds));
    assert!(EpochUnit::parse("days").unwrap_err().contains("accepted are seconds"));
}

#[test]
fn bounds_are_written_as_the_server_reads_them() {
    let march = at("2026-03-01 00:00Z");
    let ides = (crate::calendar::Date { year: -43, month: 3, day: 15 }).days() * DAY_US;
    let epoch = Key::Epoch;
    for (key, position, expected) in [
        (Key::Date, march, "'2026-03-01'"),
        (Key::Timestamp, march, "'2026-03-01 00:00:00'"),
        (Key::Timestamptz, march - 5 * HOUR_US - 45 * MINUTE_US, "'2026-02-28 18:15:00+00'"),
        (Key::Timestamptz, march + 1, "'2026-03-01 00:00:00.000001+00'"),
        (Key::Timestamp, march - 1, "'2026-02-28 23:59:59.999999'"),
        (Key::Date, ides, "'0044-03-15 BC'"),
        (Key::Timestamptz, ides, "'0044-03-15 00:00:00+00 BC'"),
        (Key::Timestamp, ides + HOUR_US, "'0044-03-15 01:00:00 BC'"),
        (Key::Date, at("0079-08-24 00:00Z"), "'0079-08-24'"),
        (Key::Date, at("0001-01-01 00:00Z"), "'0001-01-01'"),
        (Key::Date, at("0001-01-01 00:00Z") - DAY_US, "'0001-12-31 BC'"),
        (Key::Timestamp, at("9999-12-30 00:00Z") + 2 * DAY_US, "'10000-01-01 00:00:00'"),
        (Key::Date, -2_440_588 * DAY_US, "'4714-11-24 BC'"),
        (Key::Date, -2_440_589 * DAY_US, "MINVALUE"),
        (Key::Timestamptz, -2_440_588 * DAY_US - 1, "MINVALUE"),
        (Key::Uuid7, march, "'019ca6b1-dc00-0000-0000-000000000000'"),
        (Key::Uuid7, 0, "'00000000-0000-0000-0000-000000000000'"),
        (Key::Uuid7, -1, "MINVALUE"),
        (Key::Uuid7, (1 << 48) * 1000 - 1, "'ffffffff-ffff-0000-0000-000000000000'"),
        (Key::Uuid7, (1 << 48) * 1000, "MAXVALUE"),
        (epoch(EpochUnit::Seconds), march, "1772323200"),
        (epoch(EpochUnit::Seconds), -SECOND_US, "-1"),
        (epoch(EpochUnit::Milliseconds), march, "1772323200000"),
        (epoch(EpochUnit::Microseconds), march, "1772323200000000"),
        (epoch(EpochUnit::Nanoseconds), march, "1772323200000000000"),
        (epoch(EpochUnit::Nanoseconds), at("2300-01-01 00:00Z"), "MAXVALUE"),
        (epoch(EpochUnit::Nanoseconds), at("1600-01-01 00:00Z"), "MINVALUE"),
    ] {
        assert_eq!(literal(key, position), expected, "{key:?} {position}");
    }
    for key in KEYS {
        assert_eq!(literal(key, At::MIN), "MINVALUE");
        assert_eq!(literal(key, At::MAX), "MAXVALUE");
    }
}

#[test]
fn bounds_within_a_position_take_all_of_it() {
    let whole = [1, 0x9c, 0xa6, 0xb2, 0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut part = whole;
    part[6] = 0x70;
    assert_eq!(at_of_uuid(&part), at_of_uuid(&whole));
    let range = range_of_uuids(Some(&part), Some(&part));
    assert_eq!((range.lower, range.upper), (at_of_uuid(&whole), at_of_uuid(&whole) + 1_000));
    assert!(range_of_uuids(Some(&whole), Some(&whole)).is_empty());
    assert_eq!(range_of_uuids(None, None), Range { lower: At::MIN, upper: At::MAX });
    let nanoseconds = range_of_numbers(EpochUnit::Nanoseconds, Some(-1_500), Some(1_500));
    assert_eq!(nanoseconds, Range { lower: -2, upper: 2 });
    let nanoseconds = range_of_numbers(EpochUnit::Nanoseconds, None, Some(1_000));
    assert_eq!(nanoseconds, Range { lower: At::MIN, upper: 1 });
    assert_eq!(at_of_number(EpochUnit::Seconds, i64::MAX / 2), At::MAX);
    assert_eq!(at_of_number(EpochUnit::Seconds, i64::MIN / 2), At::MIN);
    let extremes = range_of_numbers(EpochUnit::Nanoseconds, Some(i64::MIN), Some(i64::MAX));
    assert!(extremes.is_bounded() && !extremes.is_empty());
}

#[test]
fn names_say_when_the_interval_begins() {
    let berlin = tz("Europe/Berlin");
    for (text, expected) in [
        ("day", "events_p2026_03_15"),
        ("week", "events_p2026_w11"),
        ("month", "events_p2026_03"),
        ("quarter", "events_p2026_q1"),
        ("year", "events_p2026"),
        ("6 hours", "events_p2026_03_15_1200"),
        ("2 weeks", "events_p2026_03_02"),
        ("7 days", "events_p2026_03_09"),
        ("2 months", "events_p2026_03"),
        ("3 years", "events_p2025"),
    ] {
        for key in [Key::Timestamp, Key::Timestamptz, Key::Uuid7, Key::Epoch(EpochUnit::Seconds)] {
            let ruler = Ruler { every: every(text), key, zone: &berlin };
            let range = ruler.interval_of(ruler.now(at("2026-03-15 13:00+01")));
            assert_eq!(name("events", &ruler, &range), expected);
            assert_eq!(name_nth("events", &ruler, &range, 3), format!("{expected}_3"));
        }
    }
}

#[test]
fn weeks_are_named_by_iso() {
    let ruler = Ruler { every: Every::Week, key: Key::Date, zone: &Utc };
    for day in (at("1890-01-01 00:00Z")..at("2110-01-01 00:00Z")).step_by(DAY_US as usize) {
        let week = Timestamp::from_microsecond(day).unwrap().to_zoned(TimeZone::UTC).date().iso_week_date();
        let name = name("t", &ruler, &ruler.interval_of(day));
        assert_eq!(name, format!("t_p{:04}_w{:02}", week.year(), week.week()));
    }
}

#[test]
fn odd_ranges_have_names_of_their_own() {
    let (berlin, apia, sao_paulo) = (tz("Europe/Berlin"), tz("Pacific/Apia"), tz("America/Sao_Paulo"));
    let ruler = |every, key| Ruler { every, key, zone: &berlin };
    let hour = Every::Custom(Span { micros: HOUR_US, ..Span::default() });
    let part = |lower: &str, upper: &str, ruler: Ruler| name("e", &ruler, &range(lower, upper));
    let month = |lower, upper| part(lower, upper, ruler(Every::Month, Key::Timestamptz));
    assert_eq!(month("2026-03-17 00:00+01", "2026-04-01 00:00+02"), "e_p2026_03_17_0000");
    assert_eq!(month("2026-03-01 00:00+01", "2026-03-17 00:00+01"), "e_p2026_03_01_0000");
    assert_eq!(month("2026-03-17 10:20:30+01", "2026-04-01 00:00+02"), "e_p2026_03_17_102030");
    assert_eq!(month("2026-03-17 10:20:00.5+01", "2026-04-01 00:00+02"), "e_p2026_03_17_102000_500000");
    assert_eq!(month("2026-01-01 00:00+01", "2026-07-01 00:00+02"), "e_p2026_01_01_0000");
    assert_eq!(part("2026-03-17 00:00Z", "2026-04-01 00:00Z", ruler(Every::Month, Key::Date)), "e_p2026_03_17");
    let hour = |lower, upper| part(lower, upper, ruler(hour, Key::Timestamptz));
    assert_eq!(hour("2024-10-27 02:00+02", "2024-10-27 02:00+01"), "e_p2024_10_27_0200");
    assert_eq!(hour("2024-10-27 02:00+01", "2024-10-27 03:00+01"), "e_p2024_10_27_0200b");
    // The day begins at 01:00 and is named by its date; so is the one that takes the place of two.
    let day = |zone, instant| {
        let ruler = Ruler { every: Every::Day, key: Key::Timestamptz, zone };
        name("e", &ruler, &ruler.interval_of(at(instant)))
    };
    assert_eq!(day(&sao_paulo, "2018-11-04 12:00Z"), "e_p2018_11_04");
    assert_eq!(day(&apia, "2011-12-30 09:00Z"), "e_p2011_12_29");
    assert_eq!(day(&apia, "2011-12-30 11:00Z"), "e_p2011_12_31");
    let all = Range { lower: At::MIN, upper: At::MAX };
    assert_eq!(name("e", &ruler(Every::Day, Key::Date), &all), "e_pmin");
    let ides = (crate::calendar::Date { year: -43, month: 3, day: 15 }).days() * DAY_US;
    let ides = ruler(Every::Month, Key::Date).interval_of(ides);
    assert_eq!(name("e", &ruler(Every::Month, Key::Date), &ides), "e_p0044bc_03");
}

#[test]
fn long_names_are_cut_and_told_apart() {
    let ruler = Ruler { every: Every::Month, key: Key::Date, zone: &Utc };
    let march = range("2026-03-01 00:00Z", "2026-04-01 00:00Z");
    let (one, other) = ("ä".repeat(31), "ä".repeat(30) + "ö");
    let (one, other) = (name(&one, &ruler, &march), name(&other, &ruler, &march));
    assert_ne!(one, other);
    assert!(one.starts_with("ääää") && one.ends_with("_p2026_03") && one.len() <= 63);
    let fitting = "x".repeat(54);
    assert_eq!(name(&fitting, &ruler, &march), fitting + "_p2026_03");
}

/// A text of a literal as jiff reads it.
fn read_back(literal: &str) -> At {
    let text = literal.trim_matches('\'');
    let text = text.strip_suffix("+00").unwrap_or(text);
    let time = if text.contains(':') { text.to_owned() } else { format!("{text} 00:00:00") };
    time.parse::<DateTime>().unwrap().to_zoned(TimeZone::UTC).unwrap().timestamp().as_microsecond()
}

fn an_interval() -> impl Strategy<Value = Every> {
    prop_oneof![
        prop::sample::select(&EVERY[..]).prop_map(every),
        (2..=12_000i32).prop_map(|months| Every::Custom(Span { months, ..Span::default() })),
        (2..=365_250i32).prop_map(|days| Every::Custom(Span { days, ..Span::default() })),
        (1..=365_250 * 1440i64)
            .prop_map(|minutes| Every::Custom(Span { micros: minutes * MINUTE_US, ..Span::default() })),
    ]
}

proptest! {
    #[test]
    fn an_interval_reads_back(every in an_interval()) {
        prop_assert_eq!(Every::parse(&every.to_string()), Ok(every));
        if let Every::Custom(span) = every {
            prop_assert_eq!(Every::custom(span), Ok(every));
        }
    }

    #[test]
    fn an_allowed_interval_reads_back(months in -2..30i32, days in -2..30i32, minutes in -2..3000i64) {
        let span = Span { months, days, micros: minutes * MINUTE_US };
        if let Ok(every) = Every::custom(span) {
            prop_assert_eq!(Every::parse(&every.to_string()), Ok(every));
        }
    }

    #[test]
    fn an_age_reads_back(months in 0..12_000i32, days in 0..365_250i32, seconds in 0..365_250 * 86_400i64) {
        let span = Span { months, days, micros: seconds * SECOND_US };
        prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[0-9]{0,30} ?[a-zµ: ]{0,20}\\PC{0,10}") {
        if let Ok(every) = Every::parse(&text) {
            prop_assert_eq!(Every::parse(&every.to_string()), Ok(every));
        }
        let _ = Span::parse(&text);
    }

    #[test]
    fn a_literal_reads_back(position in at("0001-01-01 00:00Z")..at("9999-12-30 00:00Z")) {
        prop_assert_eq!(read_back(&literal(Key::Timestamp, position)), position);
        prop_assert_eq!(read_back(&literal(Key::Timestamptz, position)), position);
        prop_assert_eq!(read_back(&literal(Key::Date, position)), position.div_euclid(DAY_US) * DAY_US);
    }

    #[test]
    fn a_literal_of_numbers_reads_back(position in -(1i64 << 52)..1i64 << 52) {
        for unit in EpochUnit::ALL {
            let value: i64 = literal(Key::Epoch(unit), position).parse().unwrap();
            let read = at_of_number(unit, value);
            prop_assert!(read <= position && position - read < SECOND_US / unit.per_second().min(SECOND_US));
            prop_assert!(EpochUnit::guess(value).is_none_or(|guess| guess == unit) || unit != EpochUnit::Seconds);
        }
    }

    #[test]
    fn a_literal_of_a_uuid_reads_back(position in 0..(1i64 << 48) * 1000) {
        let text = literal(Key::Uuid7, position);
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        prop_assert_eq!((text.len(), digits.len()), (38, 32));
        let uuid = u128::from_str_radix(&digits, 16).unwrap().to_be_bytes();
        prop_assert_eq!(at_of_uuid(&uuid), position.div_euclid(1000) * 1000);
    }

    #[test]
    fn any_position_has_a_literal_and_a_name(position in any::<i64>(), length in any::<u32>(), (every, key) in every_and_key()) {
        prop_assert!(!literal(key, position).is_empty());
        let ruler = Ruler { every, key, zone: &Utc };
        let range = Range { lower: position, upper: position.saturating_add(length.into()) };
        prop_assert!(name("t", &ruler, &range).len() <= 63);
        prop_assert!(name("t", &ruler, &ruler.interval_of(position)).len() <= 63);
    }

    #[test]
    fn names_are_short_and_told_apart(
        parent in "\\PC{1,63}", (zone, from) in zone_and_instant("1830-01-01 00:00Z"), (every, key) in every_and_key(),
        cuts in prop::collection::vec(0.0..1.0f64, 0..12), n in 2..=u32::MAX
    ) {
        let zone = tz(ZONES[zone]);
        let ruler = Ruler { every, key, zone: &zone };
        // Whole intervals and parts of them, side by side.
        let mut ranges = vec![ruler.interval_of(from)];
        for _ in 0..12 {
            ranges.push(ruler.following(&ranges[ranges.len() - 1]));
        }
        for (at, cut) in cuts.iter().enumerate() {
            let Range { lower, upper } = ranges[at];
            let unit = if key == Key::Date { DAY_US } else { 1 };
            let middle = lower + ((upper - lower) as f64 * cut) as i64 / unit * unit;
            if lower < middle && middle < upper {
                ranges[at].upper = middle;
                ranges.push(Range { lower: middle, upper });
            }
        }
        let names: HashSet<String> = ranges.iter().map(|range| name(&parent, &ruler, range)).collect();
        prop_assert_eq!(names.len(), ranges.len(), "{:?}", names);
        for range in &ranges {
            let nth = name_nth(&parent, &ruler, range, n);
            prop_assert!(nth.len() <= 63 && !names.contains(&nth));
        }
        prop_assert!(names.iter().all(|name| name.len() <= 63));
    }
}

//! When schedules come, where clocks are changed above all.

use jiff::tz::AmbiguousOffset;

use super::*;
use crate::calendar::{weekday, Date};

const BERLIN: &str = "Europe/Berlin";

#[test]
fn a_wall_clock_time_is_once_twice_or_never() {
    let local = |text: &str| at(&format!("{text}Z"));
    for (zone, time, expected) in [
        (BERLIN, "2024-03-31 01:59", Local::Once(at("2024-03-31 01:59+01"))),
        (BERLIN, "2024-03-31 02:00", Local::Skipped { until: at("2024-03-31 03:00+02") }),
        (BERLIN, "2024-03-31 02:59", Local::Skipped { until: at("2024-03-31 03:00+02") }),
        (BERLIN, "2024-03-31 03:00", Local::Once(at("2024-03-31 03:00+02"))),
        (BERLIN, "2024-10-27 01:59", Local::Once(at("2024-10-27 01:59+02"))),
        (BERLIN, "2024-10-27 02:00", Local::Twice(at("2024-10-27 02:00+02"), at("2024-10-27 02:00+01"))),
        (BERLIN, "2024-10-27 03:00", Local::Once(at("2024-10-27 03:00+01"))),
        ("Australia/Lord_Howe", "2024-10-06 02:15", Local::Skipped { until: at("2024-10-06 02:30+11") }),
        (
            "Australia/Lord_Howe",
            "2024-04-07 01:45",
            Local::Twice(at("2024-04-07 01:45+11"), at("2024-04-07 01:45+10:30")),
        ),
        ("Pacific/Apia", "2011-12-29 23:59", Local::Once(at("2011-12-29 23:59-10"))),
        ("Pacific/Apia", "2011-12-30 12:00", Local::Skipped { until: at("2011-12-31 00:00+14") }),
        ("Pacific/Apia", "2011-12-31 00:00", Local::Once(at("2011-12-31 00:00+14"))),
        ("Asia/Kathmandu", "2024-03-31 02:00", Local::Once(at("2024-03-31 02:00+05:45"))),
    ] {
        assert_eq!(resolve(&tz(zone), local(time)), expected, "{zone} {time}");
    }
}

#[test]
fn a_named_time_runs_once_a_day_all_year_round() {
    // All but the one in which a day was left out.
    for zone in ZONES.into_iter().filter(|name| *name != "Pacific/Apia").map(tz) {
        for (text, time) in [("30 2 * * *", "02:30:00"), ("daily", "00:00:00"), ("1 day", "01:45:00")] {
            let anchor = resolve(&zone, at("2024-05-06 01:45Z")).first();
            for year in (2010..2026).step_by(3) {
                let start = |year: i32| resolve(&zone, at(&format!("{year}-01-01 00:00Z"))).first() - 1;
                let ticks = ticks(&schedule(text), &zone, anchor, start(year), start(year + 1));
                let mut days: Vec<String> = ticks.iter().map(|tick| shown(&zone, *tick)[..10].to_owned()).collect();
                let shifted = ticks.iter().filter(|tick| &shown(&zone, **tick)[11..19] != time).count();
                assert_eq!(ticks.len(), if year % 4 == 0 { 366 } else { 365 }, "{text} {year}");
                days.dedup();
                assert_eq!(days.len(), ticks.len(), "{text} {year}");
                assert!(shifted <= 2, "{text} {year}: {shifted}");
            }
        }
    }
}

#[test]
fn a_time_in_the_gap_runs_right_after_it() {
    let day = |text: &str| shown_ticks(text, BERLIN, "2024-03-30 22:59Z", "2024-03-31 21:59Z");
    assert_eq!(day("30 2 * * *"), ["2024-03-31 03:00:00+02:00"]);
    // Times in the gap, and the one at its end, run together.
    assert_eq!(
        day("0,30 1-3 * * *"),
        [
            "2024-03-31 01:00:00+01:00",
            "2024-03-31 01:30:00+01:00",
            "2024-03-31 03:00:00+02:00",
            "2024-03-31 03:30:00+02:00"
        ]
    );
    // What follows the clock passes over it.
    assert_eq!(day("*/20 2 * * *"), [""; 0]);
    assert_eq!(day("0-40/20 2 * * *"), [""; 0]);
    assert_eq!(day("*/30 1-3 * * *").len(), 4);
    assert_eq!(day("hourly").len(), 23);
    assert_eq!(day("*/5 * * * *").len(), 23 * 12);
    assert_eq!(day("1 hour").len(), 23);

    let whole_day = |text: &str| shown_ticks(text, "Pacific/Apia", "2011-12-29 12:00-10", "2012-01-01 12:00+14");
    let both = ["2011-12-31 00:00:00+14:00", "2012-01-01 00:00:00+14:00"];
    assert_eq!(whole_day("daily"), both, "the 30th and the 31st together");
    assert_eq!(whole_day("30 2 30 12 *"), ["2011-12-31 00:00:00+14:00"]);
    assert_eq!(whole_day("1 day").len(), 3, "of 14:00 on the 29th, the 30th, the 31st");
    assert_eq!(whole_day("*/30 2 30 12 *"), [""; 0]);
    let half = shown_ticks("0 2 * * *", "Australia/Lord_Howe", "2024-10-05 03:00Z", "2024-10-06 03:00Z");
    assert_eq!(half, ["2024-10-06 02:30:00+11:00"]);
}

#[test]
fn a_time_that_comes_twice_runs_the_first_time() {
    let day = |text: &str| shown_ticks(text, BERLIN, "2024-10-26 21:59Z", "2024-10-27 22:59Z");
    assert_eq!(day("30 2 * * *"), ["2024-10-27 02:30:00+02:00"]);
    assert_eq!(
        day("0,30 2-3 * * *"),
        [
            "2024-10-27 02:00:00+02:00",
            "2024-10-27 02:30:00+02:00",
            "2024-10-27 03:00:00+01:00",
            "2024-10-27 03:30:00+01:00"
        ]
    );
    assert_eq!(
        day("*/30 2 * * *"),
        [
            "2024-10-27 02:00:00+02:00",
            "2024-10-27 02:30:00+02:00",
            "2024-10-27 02:00:00+01:00",
            "2024-10-27 02:30:00+01:00"
        ]
    );
    assert_eq!(day("0-40/20 2 * * *").len(), 6);
    assert_eq!(day("hourly").len(), 25);
    assert_eq!(day("1 hour").len(), 25);
    assert_eq!(day("*/5 * * * *").len(), 25 * 12);
    // Put back over midnight: the evening before comes again, after the new day has begun.
    let midnight =
        |text: &str| shown_ticks(text, "America/St_Johns", "2010-11-06 23:00-02:30", "2010-11-07 01:00-03:30");
    assert_eq!(midnight("daily"), ["2010-11-07 00:00:00-02:30"]);
    assert_eq!(midnight("30 23 * * *"), ["2010-11-06 23:30:00-02:30"]);
    assert_eq!(
        midnight("*/30 23,0 * * *"),
        ["23:30:00-02:30", "00:00:00-02:30", "23:30:00-03:30", "00:00:00-03:30", "00:30:00-03:30"]
            .map(|time| format!("2010-11-{} {time}", if time.starts_with('2') { "06" } else { "07" }))
    );
}

#[test]
fn intervals_keep_their_anchor() {
    let zone = tz(BERLIN);
    let anchor = at("2024-03-29 14:03:27.5+01");
    let quarter = schedule("15 min");
    for after in [anchor - 1, anchor - 15 * MINUTE_US, at("1960-01-01 00:00Z"), at("2100-01-01 00:00Z")] {
        let next = quarter.next_after(after, &zone, anchor).unwrap();
        assert_eq!((next - anchor) % (15 * MINUTE_US), 0);
        assert!(next > after && next - after <= 15 * MINUTE_US);
    }
    assert_eq!(quarter.next_after(anchor, &zone, anchor), Some(anchor + 15 * MINUTE_US));
    let shown_after = |text: &str| -> Vec<String> {
        let to = anchor + 4 * DAY_US + HOUR_US;
        ticks(&schedule(text), &zone, anchor, anchor, to).into_iter().map(|tick| shown(&zone, tick)).collect()
    };
    assert_eq!(shown_after("2 days"), ["2024-03-31 14:03:27+02:00", "2024-04-02 14:03:27+02:00"]);
    assert_eq!(shown_after("48 hours"), ["2024-03-31 15:03:27+02:00", "2024-04-02 15:03:27+02:00"]);
}

#[test]
fn day_fields_combine_as_in_vixie_cron() {
    let days = |text: &str| -> Vec<u32> {
        shown_ticks(text, "UTC", "2024-05-31 23:59Z", "2024-06-30 23:59Z")
            .iter()
            .map(|day| day[8..10].parse().unwrap())
            .collect()
    };
    // June 2024 starts on a Saturday.
    assert_eq!(days("0 0 13 * *"), [13]);
    assert_eq!(days("0 0 * * FRI"), [7, 14, 21, 28]);
    assert_eq!(days("0 0 13 * FRI"), [7, 13, 14, 21, 28], "either");
    assert_eq!(days("0 0 */2 * FRI"), [7, 21], "both, as one starts with a star");
    assert_eq!(days("0 0 13-15 * */5"), [14], "both");
    assert_eq!(days("weekly"), [2, 9, 16, 23, 30]);
    assert_eq!(days("0 0 * * SUN,7,0"), days("weekly"));
    assert_eq!(days("0 0 * * SAT-SUN"), [1, 2, 8, 9, 15, 16, 22, 23, 29, 30]);
    assert_eq!(days("0 0 L * *"), [30]);
    assert_eq!(days("0 0 LW * *"), [28]);
    assert_eq!(days("0 0 15W * *"), [14]);
    assert_eq!(days("0 0 * * 5L"), [28]);
    assert_eq!(days("0 0 * * FRI#2"), [14]);
    assert_eq!(days("monthly"), [1]);
}

#[test]
fn what_comes_rarely_is_found() {
    let next = |text: &str, after: &str| {
        let zone = tz(BERLIN);
        let tick = schedule(text).next_after(at(after), &zone, 0).unwrap();
        assert!(zone.asked.get() < 200, "{text}: asked {} times", zone.asked.get());
        shown(&zone, tick)
    };
    assert_eq!(next("0 0 29 2 *", "2096-02-29 00:00Z"), "2104-02-29 00:00:00+01:00");
    assert_eq!(next("* * 29 2 *", "2096-03-01 00:00Z"), "2104-02-29 00:00:00+01:00");
    // A fifth Monday of February: 40 years, as 2100 has no leap day.
    assert_eq!(next("0 12 * 2 1#5", "2072-02-29 12:00Z"), "2112-02-29 12:00:00+01:00");
    assert_eq!(next("* 12 * 2 1#5", "2072-03-01 00:00Z"), "2112-02-29 12:00:00+01:00");
    // In the gap whenever the last Sunday of March is the 31st.
    assert_eq!(next("*/30 2 31 3 *", "2024-03-30 00:00Z"), "2025-03-31 02:00:00+02:00");
}

/// One field with the values it means.
#[derive(Clone, Debug)]
struct Values {
    text: String,
    values: Vec<u32>,
}

fn field(low: u32, high: u32, broad: u32) -> impl Strategy<Value = Values> {
    let all = move || (low..=high).collect::<Vec<u32>>();
    prop_oneof![
        broad => Just(Values { text: "*".to_owned(), values: all() }),
        broad => (2..=(high - low)).prop_map(move |step| Values {
            text: format!("*/{step}"),
            values: (low..=high).step_by(step as usize).collect(),
        }),
        2 => proptest::collection::vec(low..=high, 1..4).prop_map(|values| Values {
            text: values.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
            values,
        }),
        1 => (low..=high, low..=high).prop_map(|(a, b)| Values {
            text: format!("{}-{}", a.min(b), a.max(b)),
            values: (a.min(b)..=a.max(b)).collect(),
        }),
        1 => (low..=high, low..=high, 1..9_u32).prop_map(|(a, b, step)| Values {
            text: format!("{}-{}/{step}", a.min(b), a.max(b)),
            values: (a.min(b)..=a.max(b)).step_by(step as usize).collect(),
        }),
    ]
}

/// The five fields of cron.
type Fields = (Values, Values, Values, Values, Values);

fn fields() -> impl Strategy<Value = Fields> {
    (field(0, 59, 2), field(0, 23, 3), field(1, 31, 9), field(1, 12, 19), field(0, 7, 9))
}

fn fields_text(fields: &Fields) -> String {
    [&fields.0, &fields.1, &fields.2, &fields.3, &fields.4].map(|field| field.text.as_str()).join(" ")
}

/// Whether a wall clock minute, counted from 1970, matches.
fn matches(fields: &Fields, minute: i64) -> bool {
    let (day, time) = (minute.div_euclid(1440), minute.rem_euclid(1440) as u32);
    let date = Date::of(day);
    let by_month = fields.2.values.contains(&date.day);
    let by_week = fields.4.values.iter().any(|value| value % 7 == weekday(day));
    let both = fields.2.text.starts_with('*') || fields.4.text.starts_with('*');
    fields.0.values.contains(&(time % 60))
        && fields.1.values.contains(&(time / 60))
        && fields.3.values.contains(&date.month)
        && if both { by_month && by_week } else { by_month || by_week }
}

/// The ticks in a span, found by looking at the clock every minute. All zones of the tests count in whole minutes in
/// the years that are tested.
fn watched(fields: &Fields, zone: &Tz, from: Instant, to: Instant) -> Vec<Instant> {
    let cadence = [&fields.0, &fields.1].iter().any(|field| field.text.contains(['*', '/']));
    let minute = |at: Instant| (at + zone::offset_us(zone, at)) / MINUTE_US;
    let mut latest = None;
    let mut ticks = Vec::new();
    let start = from.div_euclid(MINUTE_US) * MINUTE_US - 2 * DAY_US;
    for now in (start..=to).step_by(MINUTE_US as usize) {
        let shown = minute(now);
        let seen: i64 = latest.unwrap_or(shown - 1);
        // Times that the clock has jumped over are due now, times that it has shown before are not.
        let due = if cadence { matches(fields, shown) } else { (seen + 1..=shown).any(|time| matches(fields, time)) };
        if due && now > from {
            ticks.push(now);
        }
        latest = Some(seen.max(shown));
    }
    ticks
}

/// A clock that knows no rules.
struct Wild(u64);

impl Zone for Wild {
    fn offset_s(&self, utc_us: Instant) -> i32 {
        ((utc_us / HOUR_US) as u64 ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15) as i32
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn cron_comes_when_a_watcher_of_the_clock_would_say_so(
        fields in fields(), (zone, from) in near_a_change(), probes in proptest::collection::vec(0..4 * DAY_US, 8),
    ) {
        // What never comes is refused.
        if let Ok(schedule) = Schedule::parse(&fields_text(&fields)) {
            let zone = tz(ZONES[zone]);
            let to = from + 4 * DAY_US;
            let expected = watched(&fields, &zone, from, to);
            prop_assert_eq!(&ticks(&schedule, &zone, 0, from, to), &expected, "{} {}", schedule, shown(&zone, from));
            for probe in probes {
                let after = from + probe;
                let next = schedule.next_after(after, &zone, 0).filter(|tick| *tick <= to);
                prop_assert_eq!(next, expected.iter().copied().find(|tick| *tick > after), "{}", shown(&zone, after));
            }
        } else {
            prop_assert!((0..1461 * 1440).step_by(1440).all(|minute|
                !matches(&fields, minute + i64::from(fields.1.values[0] * 60 + fields.0.values[0]))));
        }
    }

    #[test]
    fn wall_clock_times_are_those_of_another_library(
        zone in 0..ZONES.len() + 3, from in 0..180_i64, away in -50..50_i64,
    ) {
        // With those that moved the date line.
        let mut zones = ZONES.into_iter().chain(["America/Juneau", "Asia/Manila", "Pacific/Kwajalein"]);
        let zone = tz(zones.nth(zone).unwrap());
        let from = Timestamp::from_microsecond(at("1844-01-01 00:00Z") + from * 366 * DAY_US).unwrap();
        let change = zone.zone.following(from).next().map_or(from, |change| change.timestamp()).as_microsecond();
        let local = change + zone::offset_us(&zone, change - 1) + away * 30 * MINUTE_US;
        let civil = jiff::tz::Offset::UTC.to_datetime(Timestamp::from_microsecond(local).unwrap());
        let back = |offset: jiff::tz::Offset| local - i64::from(offset.seconds()) * SECOND_US;
        match (resolve(&zone, local), zone.zone.to_ambiguous_timestamp(civil).offset()) {
            (Local::Once(once), AmbiguousOffset::Unambiguous { offset }) => prop_assert_eq!(once, back(offset)),
            (Local::Twice(first, last), AmbiguousOffset::Fold { before, after }) => {
                prop_assert_eq!((first, last), (back(before), back(after)));
            }
            (Local::Skipped { until }, AmbiguousOffset::Gap { before, after }) => {
                prop_assert_eq!(zone.offset_s(until), after.seconds());
                prop_assert_eq!(zone.offset_s(until - 1), before.seconds());
            }
            (ours, theirs) => prop_assert!(false, "{:?} {:?} {}", ours, theirs, shown(&zone, local)),
        }
    }

    #[test]
    fn days_come_at_the_time_of_the_anchor((zone, from) in near_a_change(), days in 1..9_i64, ago in 0..400 * DAY_US) {
        let zone = tz(ZONES[zone]);
        let anchor = from - ago;
        let schedule = schedule(&format!("{days} days"));
        let local = |at: Instant| at + zone::offset_us(&zone, at);
        let mut expected: Vec<Instant> = (0..1 + 420 / days)
            .map(|count| resolve(&zone, local(anchor) + count * days * DAY_US).first())
            .filter(|tick| *tick > from && *tick <= from + 9 * DAY_US)
            .collect();
        expected.dedup();
        prop_assert_eq!(ticks(&schedule, &zone, anchor, from, from + 9 * DAY_US), expected);
    }

    #[test]
    fn ticks_only_ever_grow(text in 0..TEXTS.len(), seed: u64, after: i64, anchor: i64) {
        let schedule = schedule(TEXTS[text]);
        let mut last = after;
        for _ in 0..5 {
            match schedule.next_after(last, &Wild(seed), anchor) {
                Some(next) => {
                    prop_assert!(next > last);
                    last = next;
                }
                None => break,
            }
        }
        let after = after / 100;
        let next = schedule.next_after(after, &Utc, anchor / 100);
        prop_assert!(next.is_some_and(|next| next > after && next <= after + 366 * 8 * DAY_US));
    }
}

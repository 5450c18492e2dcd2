//! Missed ticks, clocks that are set, and retries.

use super::super::recover::COUNT_LIMIT;
use super::*;

const ANCHOR: &str = "2024-01-01 00:00Z";

fn missed(text: &str, next_run_at: &str, now: &str, catch_up: CatchUp) -> Plan {
    schedule(text).missed(at(next_run_at), at(now), catch_up, &tz("Europe/Berlin"), at(ANCHOR))
}

fn skipped(count: u64, first: &str, last: &str) -> Option<Skipped> {
    Some(Skipped { count, at_least: false, first: at(first), last: at(last) })
}

#[test]
fn words_of_catching_up() {
    for catch_up in CatchUp::ALL {
        assert_eq!(CatchUp::from_name(catch_up.name()), Some(catch_up));
    }
    assert_eq!(CatchUp::from_name("none"), None);
    assert_eq!(CatchUp::ALL[0].name(), "run_once");
}

#[test]
fn nothing_is_due_before_its_time() {
    let plan = missed("5 min", "2024-05-01 10:05Z", "2024-05-01 10:04:59Z", CatchUp::All);
    assert_eq!(plan, Plan { runs: vec![], skipped: None, next: Some(at("2024-05-01 10:05Z")) });
}

#[test]
fn a_tick_in_time_runs_whatever_is_done_about_missed_ones() {
    for catch_up in CatchUp::ALL {
        for now in ["2024-05-01 10:05Z", "2024-05-01 10:06Z"] {
            let plan = missed("5 min", "2024-05-01 10:05Z", now, catch_up);
            let runs = vec![at("2024-05-01 10:05Z")];
            assert_eq!(plan, Plan { runs, skipped: None, next: Some(at("2024-05-01 10:10Z")) });
        }
    }
}

#[test]
fn downtime_is_caught_up_as_asked() {
    for (text, last) in [("1 hour", "2024-05-01 15:00Z"), ("0 * * * *", "2024-05-01 15:00Z")] {
        let plan = |catch_up| missed(text, "2024-05-01 10:00Z", "2024-05-01 15:30Z", catch_up);
        let next = Some(at("2024-05-01 16:00Z"));
        let older = skipped(5, "2024-05-01 10:00Z", "2024-05-01 14:00Z");
        assert_eq!(plan(CatchUp::RunOnce), Plan { runs: vec![at(last)], skipped: older, next });
        let all = skipped(6, "2024-05-01 10:00Z", last);
        assert_eq!(plan(CatchUp::Skip), Plan { runs: vec![], skipped: all, next });
        let hours = (10..16).map(|hour| at(&format!("2024-05-01 {hour}:00Z"))).collect();
        assert_eq!(plan(CatchUp::All), Plan { runs: hours, skipped: None, next });
        // The latest is only just late.
        let plan = missed(text, "2024-05-01 10:00Z", "2024-05-01 15:01Z", CatchUp::Skip);
        assert_eq!(plan, Plan { runs: vec![at(last)], skipped: older, next });
    }
    // A tick that the schedule does not have itself, as after a change of it.
    let plan = missed("1 hour", "2024-05-01 10:10Z", "2024-05-01 11:30Z", CatchUp::All);
    assert_eq!(plan.runs, [at("2024-05-01 10:10Z"), at("2024-05-01 11:00Z")]);
}

#[test]
fn a_year_of_seconds_is_reckoned() {
    for (catch_up, runs) in [(CatchUp::RunOnce, 1), (CatchUp::Skip, 1), (CatchUp::All, RUNS_LIMIT)] {
        let zone = tz("Europe/Berlin");
        let (first, now) = (at("2023-01-01 00:00:01Z"), at("2024-01-01 00:00Z"));
        let plan = schedule("1 s").missed(first, now, catch_up, &zone, first);
        assert_eq!(zone.asked.get(), 0);
        assert_eq!(plan.runs.len(), runs);
        assert_eq!(plan.runs.last(), Some(&now));
        let older = plan.skipped.unwrap();
        assert_eq!(older.count, 365 * 86_400 - runs as u64);
        assert_eq!((older.first, older.last, older.at_least), (first, now - runs as i64 * SECOND_US, false));
        assert_eq!(plan.next, Some(now + SECOND_US));
    }
}

#[test]
fn years_of_cron_take_a_bounded_number_of_steps() {
    // Minutes, minutes with long pauses between, and minutes that stopped coming long ago.
    for text in ["* * * * *", "*/7 * * * MON", "* * 1 1 *", "* * * 1 *", "0-59 0-23 * 1 *"] {
        for catch_up in CatchUp::ALL {
            let zone = tz("Europe/Berlin");
            let schedule = schedule(text);
            let now = at("2024-12-30 15:30:10Z");
            let first = schedule.next_after(at("1994-05-05 00:00Z"), &zone, 0).unwrap();
            zone.asked.set(0);
            let plan = schedule.missed(first, now, catch_up, &zone, 0);
            assert!(zone.asked.get() < 500_000, "{text} {catch_up:?}: {}", zone.asked.get());
            let older = plan.skipped.unwrap();
            assert!(older.at_least && older.count >= COUNT_LIMIT as u64 && older.first == first);
            // From the last skipped one on, no tick is left out.
            let mut tick = older.last;
            for run in plan.runs.iter().copied().chain(plan.next) {
                tick = schedule.next_after(tick, &zone, 0).unwrap();
                assert_eq!(tick, run, "{text} {catch_up:?}");
            }
            assert!(tick > now);
            let late = catch_up == CatchUp::Skip && text != "* * * * *";
            let runs = if catch_up == CatchUp::All { RUNS_LIMIT } else { usize::from(!late) };
            assert_eq!(plan.runs.len(), runs, "{text} {catch_up:?}");
        }
    }
}

#[test]
fn the_count_is_exact_up_to_its_limit() {
    let schedule = schedule("* * * * *");
    let first = at("2024-05-01 00:00Z");
    for (minutes, count, at_least) in
        [(9_999, 9_000, false), (10_000, 9_001, false), (10_999, 10_000, false), (11_000, 10_000, true)]
    {
        let plan = schedule.missed(first, first + minutes * MINUTE_US, CatchUp::All, &Utc, 0);
        let older = plan.skipped.unwrap();
        assert_eq!((older.count, older.at_least), (count, at_least), "{minutes}");
        assert_eq!(older.last + MINUTE_US, plan.runs[0]);
        assert_eq!(plan.runs.len(), RUNS_LIMIT);
    }
}

#[test]
fn instants_beyond_the_calendar_do_no_harm() {
    for text in TEXTS {
        for catch_up in CatchUp::ALL {
            for (first, now) in [(i64::MIN, i64::MAX), (i64::MIN, 0), (i64::MAX, i64::MAX), (i64::MAX, 0)] {
                let plan = schedule(text).missed(first, now, catch_up, &Utc, 0);
                assert_eq!(
                    plan.runs.is_empty(),
                    first > now || now - SKIP_GRACE_US > first && catch_up == CatchUp::Skip
                );
            }
            schedule(text).missed(HORIZON_US - 10 * DAY_US, i64::MAX, catch_up, &Utc, 0);
        }
        for now in [i64::MIN, i64::MAX] {
            schedule(text).after_clock_change(i64::MAX, now, &Utc, 0);
            assert!(retry_at(now, u32::MAX, u64::MAX) >= now);
        }
    }
}

#[test]
fn a_clock_set_back_does_not_stop_intervals() {
    let change = |text: &str, next_run_at: &str, now: &str| {
        schedule(text).after_clock_change(at(next_run_at), at(now), &tz("Europe/Berlin"), at(ANCHOR))
    };
    assert_eq!(change("5 min", "2024-05-01 10:05Z", "2024-05-01 10:00Z"), None);
    assert_eq!(change("5 min", "2024-05-01 10:05Z", "2024-05-01 09:01Z"), Some(at("2024-05-01 09:06Z")));
    assert_eq!(change("24 hours", "2024-05-02 10:05Z", "2024-05-01 09:06Z"), Some(at("2024-05-02 09:06Z")));
    // An hour, a day and some: what goes by the wall clock waits, and so runs no tick twice.
    for text in ["hourly", "daily", "*/5 * * * *", "weekly", "monthly", "1 day"] {
        let tick = schedule(text).next_after(at("2024-05-01 10:00Z"), &Utc, at(ANCHOR)).unwrap();
        for back in [HOUR_US, 26 * HOUR_US, 6 * DAY_US] {
            let now = at("2024-05-01 10:00Z") - back;
            assert_eq!(schedule(text).after_clock_change(tick, now, &Utc, at(ANCHOR)), None, "{text}");
        }
    }
    // The clock was years ahead.
    assert_eq!(change("daily", "2040-05-01 22:00Z", "2024-05-01 10:00Z"), Some(at("2024-05-01 22:00Z")));
    assert_eq!(change("1 day", "2040-05-01 00:00Z", "2024-05-01 10:00Z"), Some(at("2024-05-01 23:00Z")));
}

#[test]
fn retries_come_later_and_later_but_not_together() {
    let now = at("2024-05-01 10:00Z");
    let mut seen = std::collections::BTreeSet::new();
    for (attempt, wait_s) in
        [(0, 1), (1, 1), (2, 2), (3, 4), (4, 8), (8, 128), (9, 256), (10, 300), (11, 300), (u32::MAX, 300)]
    {
        let wait = wait_s * SECOND_US;
        let (mut low, mut high) = (wait, 0);
        for seed in 0..1000 {
            let jittered = retry_at(now, attempt, seed) - now;
            assert_eq!(retry_at(now, attempt, seed) - now, jittered);
            (low, high) = (low.min(jittered), high.max(jittered));
            seen.insert((attempt, jittered));
        }
        assert!(low >= wait / 2 && low < wait * 51 / 100, "{attempt}: {low}");
        assert!(high <= wait && high > wait * 99 / 100, "{attempt}: {high}");
    }
    assert!(seen.len() > 9_900);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_tick_is_run_or_skipped_or_next(
        text in 0..TEXTS.len(), (zone, from) in near_a_change(), down in 0..1500_u32, late in 0..DAY_US,
        way in 0..3_usize,
    ) {
        let (schedule, zone, catch_up) = (schedule(TEXTS[text]), tz(ZONES[zone]), CatchUp::ALL[way]);
        let anchor = from - 12_345_678;
        let mut due = vec![schedule.next_after(from, &zone, anchor).unwrap()];
        let next_of = |due: &[Instant]| schedule.next_after(*due.last().unwrap(), &zone, anchor).unwrap();
        for _ in 0..down {
            due.push(next_of(&due));
        }
        let next = next_of(&due);
        let latest = *due.last().unwrap();
        let now = (latest + late).min(next - 1);

        let plan = schedule.missed(due[0], now, catch_up, &zone, anchor);
        prop_assert_eq!(plan.next, Some(next));
        let keep = match catch_up {
            CatchUp::RunOnce => 1,
            CatchUp::Skip => usize::from(now - latest <= SKIP_GRACE_US),
            CatchUp::All => RUNS_LIMIT,
        };
        let (older, runs) = due.split_at(due.len().saturating_sub(keep));
        prop_assert_eq!(&plan.runs, runs);
        prop_assert_eq!(plan.skipped, older.last().map(|last| Skipped {
            count: older.len() as u64, at_least: false, first: older[0], last: *last,
        }));
    }

    #[test]
    fn the_end_of_a_long_downtime_is_the_same_as_that_of_a_short_one(
        text in 5..TEXTS.len(), (zone, now) in near_a_change(), way in 0..3_usize,
    ) {
        let (schedule, zone, catch_up) = (schedule(TEXTS[text]), tz(ZONES[zone]), CatchUp::ALL[way]);
        let first = schedule.next_after(now - 900 * DAY_US, &zone, now).unwrap();
        let long = schedule.missed(first, now, catch_up, &zone, now);
        let since = long.runs.first().map_or(now, |run| run - 1);
        let runs = ticks(&schedule, &zone, now, since, now);
        prop_assert_eq!(&long.runs, &runs);
        if let Some(older) = long.skipped {
            prop_assert_eq!(schedule.next_after(older.last, &zone, now), runs.first().copied().or(long.next));
        }
    }
}

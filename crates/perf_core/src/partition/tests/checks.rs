//! What is wrong with ranges.

use super::check::{faults, free_part, guess_every, holes_between, Faults};
use super::*;

const MONTHLY: Ruler = Ruler { every: Every::Month, key: Key::Timestamptz, zone: &Utc };
const NOW: &str = "2026-03-15 12:00Z";
const GRACE: i64 = 2 * HOUR_US;

fn month(month: i32) -> Range {
    let first = |month: i32| at(&format!("2026-{month:02}-01 00:00Z"));
    Range { lower: first(month), upper: first(month + 1) }
}

fn found(existing: &[Range], wish: &Wish) -> Faults {
    faults(&MONTHLY, existing, wish, at(NOW), GRACE)
}

fn ahead(premake: u32) -> Wish {
    Wish { premake, ..Wish::default() }
}

#[test]
fn nothing_is_wrong_with_a_managed_table() {
    assert_eq!(found(&[month(2), month(3), month(4), month(5)], &ahead(2)), Faults::default());
}

#[test]
fn what_is_missing_is_told_apart() {
    let all = found(&[month(1), month(6)], &ahead(4));
    assert_eq!(all.now, Some(month(3)));
    assert_eq!(all.gaps, [month(2), range("2026-04-01 00:00Z", "2026-06-01 00:00Z")]);
    assert_eq!(all.ahead, [month(7)]);
    let none = found(&[], &ahead(2));
    assert_eq!((none.now, none.ahead, none.gaps), (Some(month(3)), vec![month(4), month(5)], vec![]));
}

#[test]
fn what_has_just_become_due_is_no_fault() {
    let existing = [month(2), month(3), month(4)];
    let just = at("2026-03-01 01:00Z");
    let wish = Wish { retention: age("1 day"), ..ahead(2) };
    assert_eq!(faults(&MONTHLY, &existing, &wish, just, GRACE), Faults::default());
    let late = faults(&MONTHLY, &existing, &wish, just + GRACE, GRACE);
    assert_eq!((late.ahead, late.expired), (vec![month(5)], vec![]));
    let later = faults(&MONTHLY, &existing, &wish, just + GRACE + DAY_US, GRACE);
    assert_eq!(later.expired, [0]);
    // A partition that has only just begun to be missing for now is one at once.
    let missing = faults(&MONTHLY, &[month(2)], &ahead(1), just, GRACE);
    assert_eq!((missing.now, missing.gaps), (Some(month(3)), vec![]));
}

#[test]
fn odd_bounds_are_found() {
    let odd = range("2026-03-02 00:00Z", "2026-04-01 00:00Z");
    let wide = range("2026-01-01 00:00Z", "2026-03-01 00:00Z");
    let open = Range { lower: At::MIN, upper: at("2026-01-01 00:00Z") };
    assert_eq!(found(&[open, wide, odd, month(4)], &ahead(1)).odd, [2]);
}

#[test]
fn free_parts_touch_their_neighbours() {
    let existing = [month(2), range("2026-03-10 00:00Z", "2026-03-12 00:00Z"), month(4)];
    assert_eq!(
        free_part(&existing, month(3), at("2026-03-05 00:00Z")),
        range("2026-03-01 00:00Z", "2026-03-10 00:00Z")
    );
    assert_eq!(
        free_part(&existing, month(3), at("2026-03-12 00:00Z")),
        range("2026-03-12 00:00Z", "2026-04-01 00:00Z")
    );
    assert_eq!(free_part(&[], month(3), at("2026-03-05 00:00Z")), month(3));
}

#[test]
fn holes_lie_between() {
    assert_eq!(holes_between(&[]), []);
    assert_eq!(holes_between(&[month(2)]), []);
    assert_eq!(holes_between(&[month(4), month(1), month(2)]), [month(3)]);
}

#[test]
fn intervals_are_guessed() {
    let guess = |ranges: &[Range]| guess_every(Key::Timestamptz, &Utc, ranges);
    assert_eq!(guess(&[month(1), month(5)]), Some(Every::Month));
    assert_eq!(guess(&[range("2026-03-02 00:00Z", "2026-03-09 00:00Z")]), Some(Every::Week));
    assert_eq!(guess(&[range("2026-01-01 00:00Z", "2026-04-01 00:00Z")]), Some(Every::Quarter));
    assert_eq!(guess(&[range("2026-01-01 00:00Z", "2026-01-01 01:00Z")]), Some(every("1 hour")));
    assert_eq!(guess(&[month(1), range("2026-02-01 00:00Z", "2026-02-02 00:00Z")]), None);
    assert_eq!(guess(&[Range { lower: At::MIN, upper: At::MAX }]), None);
    assert_eq!(guess(&[]), None);
}

proptest! {
    /// Making what is missing leaves no fault but odd bounds, and free parts overlap nothing.
    #[test]
    fn what_is_made_mends(
        starts in prop::collection::vec((0..400i64, 1..40i64), 0..12), now in 0..400i64, premake in 1..6u32,
    ) {
        let day = |n: i64| at("2026-01-01 00:00Z") + n * DAY_US;
        let mut existing: Vec<Range> = Vec::new();
        for (start, days) in starts {
            let range = Range { lower: day(start), upper: day(start + days) };
            if !existing.iter().any(|other| other.overlaps(&range)) {
                existing.push(range);
            }
        }
        let utc = day(now) + HOUR_US;
        let before = faults(&MONTHLY, &existing, &ahead(premake), utc, 0);
        if let Some(missing) = before.now {
            prop_assert!(missing.contains(utc) && !existing.iter().any(|other| other.overlaps(&missing)));
        }
        prop_assert!(before.gaps.iter().chain(&before.ahead).all(|gap| !existing.iter().any(|other| other.overlaps(gap))));
        let made = plan(&MONTHLY, &existing, &ahead(premake), utc).create;
        existing.extend(made);
        let after = faults(&MONTHLY, &existing, &ahead(premake), utc, 0);
        prop_assert_eq!(Faults { odd: vec![], ..after }, Faults::default());
        prop_assert_eq!(holes_between(&existing), vec![]);
    }
}

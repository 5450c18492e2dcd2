//! What plans create, let expire and compress.

use super::*;

const MONTHLY: Ruler = Ruler { every: Every::Month, key: Key::Timestamptz, zone: &Utc };
const NOW: &str = "2026-03-15 12:00Z";

fn month(year: i32, month: i32) -> Range {
    let first = |month: i32| at(&format!("{}-{:02}-01 00:00Z", year + (month - 1) / 12, (month - 1) % 12 + 1));
    Range { lower: first(month), upper: first(month + 1) }
}

fn months(year: i32, from: i32, to: i32) -> Vec<Range> {
    (from..=to).map(|of| month(year, of)).collect()
}

fn ahead(premake: u32) -> Wish {
    Wish { premake, ..Wish::default() }
}

fn planned(existing: &[Range], wish: &Wish) -> Plan {
    plan(&MONTHLY, existing, wish, at(NOW))
}

#[test]
fn an_empty_table_gets_now_and_what_follows() {
    assert_eq!(planned(&[], &ahead(3)), Plan { create: months(2026, 3, 6), ..Plan::default() });
    assert_eq!(planned(&[], &ahead(0)).create, [month(2026, 3)]);
    assert_eq!(planned(&[month(2026, 4), month(2026, 3)], &ahead(3)).create, months(2026, 5, 6));
    assert_eq!(planned(&months(2026, 3, 6), &ahead(3)), Plan::default());
    // Empty ranges cover nothing.
    let empty = Range { lower: at(NOW), upper: at(NOW) };
    assert_eq!(planned(&[empty], &ahead(3)).create, months(2026, 3, 6));
}

#[test]
fn odd_partitions_are_respected() {
    let odd = [range("2026-03-10 00:00Z", "2026-03-20 00:00Z"), range("2026-04-29 10:00Z", "2026-05-02 00:00Z")];
    let expected = [
        range("2026-03-01 00:00Z", "2026-03-10 00:00Z"),
        range("2026-03-20 00:00Z", "2026-04-01 00:00Z"),
        range("2026-04-01 00:00Z", "2026-04-29 10:00Z"),
        range("2026-05-02 00:00Z", "2026-06-01 00:00Z"),
    ];
    assert_eq!(planned(&odd, &ahead(2)).create, expected);
    // Without ends: nothing is missing beyond them.
    let below = Range { lower: At::MIN, upper: at("2026-03-17 00:00Z") };
    let above = Range { lower: at("2026-04-20 00:00Z"), upper: At::MAX };
    assert_eq!(
        planned(&[above, below], &ahead(9)).create,
        [range("2026-03-17 00:00Z", "2026-04-01 00:00Z"), range("2026-04-01 00:00Z", "2026-04-20 00:00Z")]
    );
    assert_eq!(planned(&[Range { lower: At::MIN, upper: At::MAX }], &ahead(9)), Plan::default());
    // A far partition without an end does not ask for all that is below it.
    let above = Range { lower: at("2099-01-01 00:00Z"), upper: At::MAX };
    assert_eq!(planned(&[above], &ahead(1)).create, months(2026, 3, 4));
}

#[test]
fn holes_are_filled() {
    let existing = [month(2025, 10), month(2026, 1), month(2026, 3), month(2026, 7)];
    let expected = [months(2025, 11, 12), months(2026, 2, 2), months(2026, 4, 6)].concat();
    assert_eq!(planned(&existing, &ahead(1)).create, expected);
    // Also the one below now, after a long pause.
    let below = Range { lower: At::MIN, upper: at("2025-12-10 00:00Z") };
    let rest = range("2025-12-10 00:00Z", "2026-01-01 00:00Z");
    assert_eq!(planned(&[below], &ahead(1)).create, [vec![rest], months(2026, 1, 4)].concat());
    // But not what would expire at once.
    let wish = Wish { retention: age("3 months"), ..ahead(1) };
    let plan = planned(&existing, &wish);
    assert_eq!(plan.create, [months(2025, 12, 12), months(2026, 2, 2), months(2026, 4, 6)].concat());
    assert_eq!(plan.expire, [0]);
    // Nor the part of an interval that ends just where the retention does.
    let existing = [month(2025, 11), range("2025-12-15 12:00Z", "2026-01-01 00:00Z"), month(2026, 1), month(2026, 2)];
    assert_eq!(planned(&existing, &wish).create, months(2026, 3, 4));
}

#[test]
fn a_wide_hole_is_left_and_said() {
    let daily = Ruler { every: Every::Day, ..MONTHLY };
    let old = range("2020-01-01 00:00Z", "2020-01-02 00:00Z");
    let young = range("2025-06-01 00:00Z", "2025-06-02 00:00Z");
    let wide = range("2020-01-02 00:00Z", "2025-06-01 00:00Z");
    let plan_ = plan(&daily, &[young, old], &ahead(2), at(NOW));
    assert_eq!(plan_.wide_gaps, [wide]);
    assert_eq!(plan_.create.len(), 3 + 286);
    assert_eq!(plan_.create[0].lower, young.upper);
    // What would expire is not missing.
    let wish = Wish { retention: age("300 days"), ..ahead(2) };
    assert_eq!(plan(&daily, &[young, old], &wish, at(NOW)).wide_gaps, []);
    let wish = Wish { retention: age("5 years"), ..ahead(2) };
    let gaps = plan(&daily, &[young, old], &wish, at(NOW)).wide_gaps;
    assert_eq!(gaps, [range("2021-03-15 00:00Z", "2025-06-01 00:00Z")]);
    // Two holes that are too much together: the newest comes first, the other with the next plan.
    let existing = [range("2021-06-01 00:00Z", "2021-06-02 00:00Z"), range("2023-08-01 00:00Z", "2023-08-02 00:00Z")];
    let first = plan(&daily, &existing, &ahead(2), at(NOW));
    assert_eq!(first.create[0].lower, existing[1].upper);
    assert_eq!(first.wide_gaps, [range("2021-06-02 00:00Z", "2023-08-01 00:00Z")]);
    let second = plan(&daily, &[&existing[..], &first.create].concat(), &ahead(2), at(NOW));
    assert_eq!(second.create.len(), 790);
    assert_eq!(second.wide_gaps, []);
}

#[test]
fn plans_come_to_an_end_however_many_are_wished() {
    let minutely = Ruler { every: every("1 min"), ..MONTHLY };
    let mut existing = Vec::new();
    for _ in 0..10 {
        let plan = plan(&minutely, &existing, &ahead(u32::MAX), at(NOW));
        assert_eq!(plan.create.len(), CREATED_MAX);
        existing.extend(plan.create);
    }
    let last = plan(&minutely, &existing, &ahead(u32::MAX), at(NOW));
    assert_eq!(last.create.len(), 1);
    let end = at(NOW) + (i64::from(PREMAKE_MAX) + 1) * MINUTE_US;
    assert_eq!(last.create[0].upper, end);
}

#[test]
fn expiry_and_compression_go_by_the_upper_bound() {
    let existing = [months(2025, 1, 12), months(2026, 1, 4)].concat();
    let wish = Wish { premake: 1, retention: age("1 year"), compress_after: age("3 months") };
    let plan = planned(&existing, &wish);
    assert_eq!((plan.expire, plan.compress), (vec![0, 1], (2..11).collect()));
    // To the instant.
    let at_noon = Wish { retention: age("14 days 12 hours"), ..ahead(1) };
    let just = |now: i64| super::super::plan(&MONTHLY, &months(2026, 1, 4), &at_noon, now).expire;
    assert_eq!(just(at(NOW)), [0, 1]);
    assert_eq!(just(at(NOW) - 1), [0]);
    // Retention of nothing keeps what contains now, and what has no end.
    let none = Wish { retention: age("0 days"), compress_after: age("0 days"), ..ahead(1) };
    let open = [
        Range { lower: At::MIN, upper: at("2026-02-01 00:00Z") },
        Range { lower: at("2026-02-01 00:00Z"), upper: At::MAX },
    ];
    let plan = planned(&open, &none);
    assert_eq!((plan.expire, plan.compress), (vec![0], vec![]));
    // Dates expire by the wall clock.
    let auckland = tz("Pacific/Auckland");
    let dates = Ruler { every: Every::Day, key: Key::Date, zone: &auckland };
    let days = [range("2026-03-14 00:00Z", "2026-03-15 00:00Z"), range("2026-03-15 00:00Z", "2026-03-16 00:00Z")];
    let wish = Wish { retention: age("1 day"), ..ahead(1) };
    assert_eq!(super::super::plan(&dates, &days, &wish, at("2026-03-15 12:00Z")).expire, [0]);
    assert_eq!(super::super::plan(&dates, &days, &wish, at("2026-03-15 10:30Z")).expire, []);
}

#[test]
fn nothing_is_planned_where_keys_have_no_values() {
    let uuids = Ruler { key: Key::Uuid7, ..MONTHLY };
    let odd = Range { lower: at("1950-01-01 00:00Z"), upper: at("1950-02-01 00:00Z") };
    let plan_ = plan(&uuids, &[odd], &ahead(2), at(NOW));
    assert_eq!(plan_.create.len(), 12 * 56 + 5);
    assert_eq!(plan_.create[0], month(1970, 1));
}

/// Lets a plan happen.
fn apply(existing: &[Range], plan: &Plan) -> Vec<Range> {
    let kept = existing.iter().enumerate().filter(|(at, _)| !plan.expire.contains(at)).map(|(_, range)| *range);
    kept.chain(plan.create.iter().copied()).collect()
}

/// Partitions that do not overlap, some odd, from some intervals before a position.
fn existing(ruler: &Ruler, from: At, shape: &[(u8, f64)], open: (bool, bool)) -> Vec<Range> {
    let unit = if ruler.key == Key::Date { DAY_US } else { MINUTE_US };
    let mut tile = ruler.interval_of(from);
    let mut ranges = Vec::new();
    for (kind, part) in shape {
        let Range { lower, upper } = tile;
        let middle = lower + ((upper - lower) as f64 * part) as i64 / unit * unit;
        match kind {
            0 | 1 => ranges.push(tile),
            2 => ranges.push(Range { lower: middle, upper }),
            3 => ranges.push(Range { lower, upper: middle }),
            4 => ranges.extend([Range { lower, upper: middle }, Range { lower: middle, upper }]),
            _ => {}
        }
        tile = ruler.following(&tile);
    }
    ranges.retain(|range| !range.is_empty());
    if open.0 {
        ranges.first_mut().into_iter().for_each(|range| range.lower = At::MIN);
    }
    if open.1 {
        ranges.last_mut().into_iter().for_each(|range| range.upper = At::MAX);
    }
    ranges
}

/// All that holds of a plan, whatever it is made of.
fn assert_sound(ruler: &Ruler, existing: &[Range], wish: &Wish, utc_us: i64) {
    let made = plan(ruler, existing, wish, utc_us);
    let now = ruler.now(utc_us);
    let cutoff = wish.retention.map_or(At::MIN, |age| ruler.before(utc_us, &age));
    for created in &made.create {
        assert!(!created.is_empty() && created.is_bounded() && created.upper > cutoff, "{created:?}");
        assert!(existing.iter().all(|range| !range.overlaps(created)), "{created:?}");
        let interval = ruler.interval_of(created.lower);
        assert!(interval.lower <= created.lower && created.upper <= interval.upper);
        let (lower, upper) = (literal(ruler.key, created.lower), literal(ruler.key, created.upper));
        assert_ne!(lower, upper);
    }
    assert!(made.create.windows(2).all(|pair| pair[0].upper <= pair[1].lower));
    for (at, range) in existing.iter().enumerate() {
        assert_eq!(made.expire.contains(&at), range.upper <= cutoff);
        assert!(!(made.expire.contains(&at) && (range.contains(now) || range.upper > now)));
        assert!(!(made.expire.contains(&at) && made.compress.contains(&at)));
        assert!(!made.compress.contains(&at) || range.upper <= now);
    }
    let before: Vec<Range> = existing.iter().chain(&made.create).copied().collect();
    let covered = |at: At| before.iter().any(|range| range.contains(at));
    let mut tile = ruler.interval_of(now);
    for ahead in 0..=wish.premake {
        for at in [tile.lower, tile.lower + (tile.upper - tile.lower) / 3, tile.upper - 1] {
            // All of it, but for what is over for good.
            assert!(covered(at) || (ahead == 0 && at < cutoff), "{at}");
        }
        tile = ruler.following(&tile);
    }
    assert!(covered(now));
    // No hole is left between what there is, but for those that are named and those that are over.
    let mut sorted = before.clone();
    sorted.sort_by_key(|range| range.lower);
    for pair in sorted.windows(2).filter(|pair| pair[0].upper < pair[1].lower && pair[1].upper != At::MAX) {
        let hole = Range { lower: pair[0].upper, upper: pair[1].lower };
        let named = made.wide_gaps.iter().any(|gap| gap.overlaps(&hole));
        // What of the hole is not over begins with an interval.
        let over = hole.upper <= cutoff || ruler.interval_of(cutoff).lower >= hole.upper;
        assert!(named || over, "{hole:?} {cutoff}");
    }
    if made.wide_gaps.is_empty() {
        let again = plan(ruler, &apply(existing, &made), wish, utc_us);
        assert_eq!(again.create, []);
        assert_eq!(again.expire, Vec::<usize>::new());
        assert_eq!(again.wide_gaps, []);
    }
}

proptest! {
    #[test]
    fn plans_are_sound(
        (zone, now) in zone_and_instant("1976-01-01 00:00Z"), (every, key) in every_and_key(), premake in 0..6u32,
        shape in prop::collection::vec((0..8u8, 0.0..1.0f64), 0..20), back in 0..20i64,
        retention in prop::option::of((0..3i32, 0..20i32, 0..48i64)), compress in prop::option::of(0..40i32),
        open in any::<(bool, bool)>()
    ) {
        let zone = tz(ZONES[zone]);
        let ruler = Ruler { every, key, zone: &zone };
        let mut from = ruler.interval_of(ruler.now(now));
        for _ in 0..back {
            let before = ruler.interval_of(from.lower - 1);
            // Where all keys have values.
            from = if before.lower > at("1970-01-02 00:00Z") { before } else { from };
        }
        let existing = existing(&ruler, from.lower, &shape, open);
        let span = |(months, days, hours)| Span { months, days, micros: hours * HOUR_US };
        let wish = Wish {
            premake,
            retention: retention.map(span),
            compress_after: compress.map(|days| span((0, days, 0))),
        };
        assert_sound(&ruler, &existing, &wish, now);
        // The order of what there is does not matter.
        let turned: Vec<Range> = existing.iter().rev().copied().collect();
        prop_assert_eq!(plan(&ruler, &turned, &wish, now).create, plan(&ruler, &existing, &wish, now).create);
    }

    #[test]
    fn plans_are_sound_whatever_the_clock_does(
        zone in whims(), near in any::<prop::sample::Index>(), (every, key) in every_and_key(), premake in 0..6u32,
        shape in prop::collection::vec((0..8u8, 0.0..1.0f64), 0..20), days in prop::option::of(0..20i32)
    ) {
        let now = if zone.changes.is_empty() { at(NOW) } else { near.get(&zone.changes).0 };
        let ruler = Ruler { every, key, zone: &zone };
        let from = ruler.interval_of(now - 5 * DAY_US).lower;
        let existing = existing(&ruler, from, &shape, (false, false));
        let wish = Wish { premake, retention: days.map(|days| Span { days, ..Span::default() }), compress_after: None };
        assert_sound(&ruler, &existing, &wish, now);
    }

    #[test]
    fn any_bounds_are_planned_around(
        now in any::<i64>(), (every, key) in every_and_key(), bounds in prop::collection::vec(any::<(i64, i64)>(), 0..6),
        months in any::<i32>(), premake in 0..5u32
    ) {
        let ruler = Ruler { every, key, zone: &Utc };
        let existing: Vec<Range> = bounds.into_iter().map(|(lower, upper)| Range { lower, upper }).collect();
        let retention = Some(Span { months, ..Span::default() });
        let plan = plan(&ruler, &existing, &Wish { premake, retention, compress_after: retention }, now);
        prop_assert!(plan.create.len() <= CREATED_MAX);
        for created in &plan.create {
            prop_assert!(!created.is_empty() && existing.iter().all(|range| !range.overlaps(created)));
        }
        for at in plan.expire {
            prop_assert!(existing[at].upper <= ruler.now(now));
        }
    }
}

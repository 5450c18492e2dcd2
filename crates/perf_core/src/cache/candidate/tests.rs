use super::*;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;

fn key(number: u64) -> u64 {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

fn summary(reads_by_key: &[(u64, u64)], window_s: i64, ms: f64) -> Summary {
    let mut survey = Survey::default();
    survey.read(SECOND, 1, None, 0, 0.0, 0.0);
    for (number, reads) in reads_by_key {
        for _ in 0..*reads {
            survey.read(2 * SECOND, 1, Some(key(*number)), 0, ms, 100.0);
        }
    }
    let mut found = survey.summaries((1 + window_s) * SECOND).remove(0).1;
    found.unknown = 0.0;
    found
}

#[test]
fn the_two_formulae() {
    // One key, 101 reads in 100 s: once a second.
    let one = summary(&[(1, 101)], 100, 10.0);
    assert_eq!((one.window_s, one.reads, one.distinct()), (100.0, 101.0, 1.0));
    assert!((one.hit_share(9.0, Writes::default()) - 0.9).abs() < 1e-9);
    let written = Writes { of_all: 0.25, of_one: 0.0 };
    assert!((one.hit_share(1e6, written) - 1.0 / 1.25).abs() < 1e-6);
    // The one key gets all writes of one key.
    let written = Writes { of_all: 0.0, of_one: 0.25 };
    assert!((one.hit_share(1e6, written) - 1.0 / 1.25).abs() < 1e-6);
    // Never more than what was seen again.
    assert!((one.hit_share(1e9, Writes::default()) - 100.0 / 101.0).abs() < 1e-9);
}

#[test]
fn single_keys_have_rates_not_the_mean() {
    // Half of the reads are of one key, the others of keys that nobody asks for again.
    let keys: Vec<(u64, u64)> = (0..100).map(|n| (n, if n == 0 { 100 } else { 1 })).collect();
    let found = summary(&keys, 100, 10.0);
    let share = found.hit_share(50.0, Writes::default());
    assert!((share - 0.49).abs() < 0.02, "{share}");
}

#[test]
fn a_longer_life_must_bring_a_point() {
    let one = summary(&[(1, 3_601)], 3_600, 10.0);
    // 10 s: 90.9 %; 30 s: 96.8 %; 60 s: 98.4 %; 300 s: 99.7 %.
    assert_eq!(one.recommended_ttl_s(Writes::default(), 86_400.0), 300.0);
    assert_eq!(one.recommended_ttl_s(Writes::default(), 60.0), 60.0);
    assert_eq!(one.recommended_ttl_s(Writes { of_all: 1.0, of_one: 0.0 }, 86_400.0), 10.0);
    assert_eq!(Summary::default().recommended_ttl_s(Writes::default(), 86_400.0), 10.0);
}

#[test]
fn verdicts_have_their_reasons() {
    let verdict = |summary: &Summary, share| {
        let found = judge(summary, share, false);
        (found.verdict, found.reason)
    };
    let good = summary(&[(1, 100), (2, 100)], 60, 20.0);
    let (found, reason) = verdict(&good, 0.9);
    assert_eq!(found, Verdict::Recommended);
    assert!(reason.contains("200.0 reads a minute of 20.0 ms each, 2 different ones; 90 % hits"), "{reason}");
    let (found, reason) = verdict(&good, 0.1);
    assert_eq!(found, Verdict::NotWorthIt);
    assert!(reason.contains("written too often"), "{reason}");
    let fast = summary(&[(1, 100)], 60, 0.5);
    assert!(verdict(&fast, 0.99).1.contains("pays from 2 ms on"));
    let few = summary(&[(1, 10)], 60, 20.0);
    assert_eq!(verdict(&few, 0.9).0, Verdict::InsufficientData);
    let keys: Vec<(u64, u64)> = (0..100).map(|n| (n, 1)).collect();
    assert!(verdict(&summary(&keys, 60, 20.0), 0.0).1.contains("hardly anything is asked twice"));
    let mut unknown = good.clone();
    unknown.unknown = 100.0;
    assert_eq!(verdict(&unknown, 0.9).0, Verdict::InsufficientData);
    let mut rare = good;
    rare.window_s = 86_400.0 * 60.0;
    assert!(verdict(&rare, 0.9).1.contains("too little"));
}

#[test]
fn memory_is_bounded_and_counts_stay_right() {
    let mut survey = Survey::default();
    for n in 0..300_000u64 {
        // Every third read is of one key.
        let number = if n % 3 == 0 { 7 } else { n };
        survey.read(SECOND + n as i64, 5, Some(key(number)), 0, 3.0, 10.0);
    }
    for n in 0..10_000 {
        survey.read(SECOND, 1_000 + n, Some(1), 0, 0.001, 10.0);
    }
    assert!(survey.statements.len() <= STATEMENTS_MAX);
    assert!(survey.statements[&5].keys.len() <= KEYS_MAX);
    let found = survey.summaries(2 * SECOND).into_iter().find(|(queryid, _)| *queryid == 5).unwrap().1;
    assert_eq!(found.reads, 300_000.0);
    assert!((found.distinct() / 200_000.0 - 1.0).abs() < 0.15, "{}", found.distinct());
    assert!((found.key_reads.iter().sum::<f64>() / 300_000.0 - 1.0).abs() < 0.15);
    assert!((found.hit_share(1e9, Writes::default()) - 1.0 / 3.0).abs() < 0.05);
}

#[test]
fn reads_that_were_left_out_count() {
    let mut survey = Survey::default();
    survey.read(SECOND, 5, None, 0, 0.0, 0.0);
    for n in 0..40_000u64 {
        // A quarter of the keys for a while, each twice.
        let (number, shift) = (n / 2, if n < 20_000 { 0 } else { 2 });
        if super::super::shadow::is_sampled(key(number), shift) {
            survey.read(SECOND, 5, Some(key(number)), shift, 3.0, 10.0);
        }
    }
    let found = survey.summaries(61 * SECOND).remove(0).1;
    assert!((found.reads / 40_000.0 - 1.0).abs() < 0.05, "{}", found.reads);
    assert!((found.distinct() / 20_000.0 - 1.0).abs() < 0.1, "{}", found.distinct());
    assert!((found.total_ms / 120_000.0 - 1.0).abs() < 0.05);
    assert!((found.bytes - 10.0).abs() < 0.1);
}

#[test]
fn a_new_statement_has_a_chance() {
    let mut survey = Survey::default();
    let hour = 3_600 * SECOND;
    for n in 0..STATEMENTS_MAX as u64 {
        survey.read(SECOND, n, Some(1), 0, 50.0, 10.0);
    }
    for second in 0..100 {
        survey.read(hour + second * SECOND, 9_999, Some(1), 0, 5.0, 10.0);
        survey.read(hour + second * SECOND, 10_000, Some(1), 0, 5.0, 10.0);
    }
    let reads = |queryid| survey.statements.get(&queryid).map(|tally| tally.reads);
    assert_eq!((reads(9_999), reads(10_000)), (Some(100.0), Some(100.0)));
}

#[test]
fn old_reads_count_less() {
    let mut survey = Survey::default();
    for second in 0..4 * 3_600 {
        survey.read(SECOND * (second + 10), 5, Some(key(1)), 0, 3.0, 10.0);
    }
    let found = survey.summaries(SECOND * (4 * 3_600 + 10)).remove(0).1;
    assert!(found.window_s < 2.0 * 3_600.0 + 10.0);
    assert!((found.reads_per_min() - 60.0).abs() < 0.5, "{}", found.reads_per_min());
}

proptest! {
    #[test]
    fn shares_are_shares(keys in prop::collection::vec((0u64..50, 1u64..60), 1..50), window in 1i64..10_000,
                         ttl in 0.1f64..1e6, all in 0f64..10.0, one in 0f64..10.0) {
        let found = summary(&keys, window, 5.0);
        let writes = Writes { of_all: all, of_one: one };
        let share = found.hit_share(ttl, writes);
        prop_assert!((0.0..=1.0).contains(&share));
        prop_assert!(found.hit_share(ttl * 2.0, writes) >= share - 1e-9);
        let more = Writes { of_all: all + 1.0, of_one: one };
        prop_assert!(found.hit_share(ttl, more) <= share + 1e-9);
        // Nobody hits more often than the same was asked again.
        let reads: f64 = found.key_reads.iter().sum();
        prop_assert!(share <= (reads - found.distinct()) / reads + 1e-9);
        judge(&found, share, true);
    }
}

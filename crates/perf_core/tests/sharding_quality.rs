//! The advice on sharding against workloads with known answers and against their replay.

mod support;

use perf_core::sharding::{advise, Placement, Verdict};
use support::workloads::{case, Answer};

#[test]
fn known_answers_are_found_and_shares_are_those_of_a_replay() {
    let (mut right, mut compared, mut off, cases) = (0, 0, Vec::new(), 54);
    let mut wrong = Vec::new();
    for number in 0..cases {
        let case = case(number, 2000);
        let advice = advise(&case.workload);
        let keys = |placements: &[Placement]| -> Vec<(usize, usize)> {
            let of = |(r, p): (usize, &Placement)| match p {
                Placement::Distributed(column) => Some((r, *column)),
                _ => None,
            };
            placements.iter().enumerate().filter_map(of).collect()
        };
        // Where there is no foreign key or statement for it, a true table cannot be known to belong.
        let by_truth = |placements: &[Placement]| {
            let (found, truth) = (keys(placements), keys(&case.truth));
            found.len() > 1 && found.iter().all(|k| truth.contains(k))
        };
        let fits = match case.answer {
            Answer::Shard => advice.verdict == Verdict::Shard && by_truth(&advice.candidates[0].placements),
            Answer::NotYet => advice.verdict == Verdict::NotYet && by_truth(&advice.candidates[0].placements),
            Answer::Dont => advice.verdict == Verdict::Unsuitable,
        };
        right += usize::from(fits);
        if !fits {
            wrong.push(format!("{}: {}", case.name, advice.reason));
        }
        if let Some(candidate) = advice.candidates.iter().find(|c| by_truth(&c.placements)) {
            let replayed = case.replay();
            compared += 1;
            let difference = (candidate.one_node_pct - replayed.single_pct).abs();
            if difference > 2.0 {
                off.push(format!("{}: {:.1} {:.1}", case.name, candidate.one_node_pct, replayed.single_pct));
            }
            // The hash of a replay is one of many, and the prediction is the mean of them.
            assert!((replayed.imbalance - candidate.imbalance).abs() < 0.4, "{} {replayed:?}", case.name);
        }
    }
    assert!(right * 100 >= cases * 95, "{right} of {cases}: {wrong:#?}");
    // What was captured and what is replayed are two samples: their own difference may be more than 2 points, seldom.
    assert!(compared >= 36 && off.len() * 20 <= compared, "{compared}: {off:#?}");
}

//! Prints how well the advice on sharding does on generated workloads with known answers.
//!
//! `cargo run --release -p perf_core --example sharding_quality [CASES [TRANSACTIONS]]`

#[path = "../tests/support/mod.rs"]
mod support;

use perf_core::sharding::{advise, Placement, Verdict};
use support::workloads::{case, Answer};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>().unwrap_or(0).max(1));
    let (cases, transactions) = (arguments.next().unwrap_or(54), arguments.next().unwrap_or(8000));
    println!(
        "{:44} {:11} {:11} {:>8} {:>8} {:>6} {:>6} {:>7}  key",
        "case", "answer", "verdict", "pred %", "replay %", "imb", "real", "speedup"
    );
    let (mut right, mut compared, mut within, mut worst, mut ms) = (0, 0, 0, 0.0f64, 0.0f64);
    for number in 0..cases {
        let case = case(number, transactions);
        let started = std::time::Instant::now();
        let advice = advise(&case.workload);
        ms = ms.max(started.elapsed().as_secs_f64() * 1e3);
        let by_truth = |placements: &[Placement]| {
            let split = |p: &&(&Placement, &Placement)| matches!(p.0, Placement::Distributed(_));
            let pairs: Vec<(&Placement, &Placement)> = placements.iter().zip(&case.truth).collect();
            pairs.iter().filter(split).count() > 1 && pairs.iter().filter(split).all(|(a, b)| a == b)
        };
        let expected = match case.answer {
            Answer::Shard => Verdict::Shard,
            Answer::NotYet => Verdict::NotYet,
            Answer::Dont => Verdict::Unsuitable,
        };
        let best = advice.candidates.first();
        let key_right = expected == Verdict::Unsuitable || best.is_some_and(|c| by_truth(&c.placements));
        let fits = advice.verdict == expected && key_right;
        right += usize::from(fits);
        let of_truth = advice.candidates.iter().find(|c| by_truth(&c.placements));
        let replayed = case.replay();
        if let Some(c) = of_truth {
            let difference = (c.one_node_pct - replayed.single_pct).abs();
            compared += 1;
            within += usize::from(difference <= 2.0);
            worst = worst.max(difference);
        }
        let number = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.2}"));
        println!(
            "{:44} {:11} {:11} {:>8} {:>8.2} {:>6} {:>6.2} {:>7}  {}{}",
            case.name,
            expected.name(),
            advice.verdict.name(),
            number(of_truth.map(|c| c.one_node_pct)),
            replayed.single_pct,
            number(of_truth.map(|c| c.imbalance)),
            replayed.imbalance,
            number(best.map(|c| c.predicted_speedup)),
            best.map_or("", |c| c.key.as_str()),
            if fits { "" } else { "  WRONG" },
        );
        if !fits {
            println!("    {}", advice.reason);
        }
    }
    println!("right answers: {right} of {cases} ({:.1} %)", 100.0 * right as f64 / cases as f64);
    println!("single-shard share within 2 points of the replay: {within} of {compared}, worst {worst:.2} points");
    println!("slowest advice: {ms:.1} ms for {transactions} transactions");
}

use super::super::ledger::{Outcome, Pages, Planner};
use super::*;
use proptest::prelude::*;

/// Each candidate multiplies the cost of its statements; the best one counts. What costs more than 0.9 of the cost
/// without takes a third more time than it costs.
struct Table {
    factors: Vec<Vec<f64>>,
    calls: usize,
    calls_max: usize,
}

impl Planner for Table {
    fn plan(&mut self, statement: usize, config: &[usize]) -> Option<Outcome> {
        self.calls += 1;
        let factor = |at: usize| self.factors[at][statement];
        let best =
            config.iter().copied().filter(|at| factor(*at) < 1.0).min_by(|a, b| factor(*a).total_cmp(&factor(*b)));
        let cost = 100.0 * best.map_or(1.0, factor);
        Some(Outcome { cost, value: time(cost), used: best.into_iter().collect() })
    }
    fn may_plan(&mut self) -> bool {
        self.calls <= self.calls_max
    }
    fn expired(&mut self) -> bool {
        false
    }
}

fn time(cost: f64) -> f64 {
    if cost > 90.0 && cost < 100.0 {
        cost * 4.0 / 3.0
    } else {
        cost
    }
}

fn choice(bytes: f64, statements: Vec<usize>) -> Choice {
    Choice { relation: 1, bytes, write_cost: 0.0, statements, preferred: false }
}

fn base() -> Outcome {
    Outcome { cost: 100.0, value: 100.0, used: vec![] }
}

fn chosen<P: Planner>(
    planner: &mut P,
    weights: &[f64],
    choices: &[Choice],
    bundles: &[Vec<usize>],
    budget: Option<f64>,
) -> Selection {
    let mut pages = Pages::new(weights.iter().map(|_| (base(), usize::MAX)));
    let mut ledger = pages.with(planner);
    for statement in 0..weights.len() {
        ledger.add_relevant(statement, (0..choices.len()).filter(|at| choices[*at].statements.contains(&statement)));
    }
    select(weights, choices, bundles, Storage { budget, data: 0.0 }, &mut ledger)
}

fn run(factors: Vec<Vec<f64>>, bytes: &[f64], budget: Option<f64>, calls_max: usize) -> (Selection, Vec<Choice>) {
    let count = factors.first().map_or(0, Vec::len);
    let weights = vec![100.0; count];
    let choices: Vec<Choice> = factors
        .iter()
        .zip(bytes)
        .map(|(row, bytes)| choice(*bytes, (0..count).filter(|s| row[*s] != 1.0).collect()))
        .collect();
    let mut planner = Table { factors, calls: 0, calls_max };
    (chosen(&mut planner, &weights, &choices, &[], budget), choices)
}

#[test]
fn takes_what_helps_and_no_more() {
    let (selection, _) = run(vec![vec![0.1, 1.0], vec![1.0, 0.5], vec![0.2, 1.0]], &[8192.0; 3], None, usize::MAX);
    assert_eq!(selection.chosen, [0, 1]);
    assert!((selection.worth - 139.0 - 5.0 * (10f64.ln() + 2f64.ln())).abs() < 1e-6, "{selection:?}");
}

#[test]
fn two_small_beat_one_big_under_a_budget() {
    let factors = vec![vec![0.1, 1.0, 1.0], vec![1.0, 0.3, 1.0], vec![1.0, 1.0, 0.3]];
    let (selection, _) = run(factors, &[100_000.0, 50_000.0, 50_000.0], Some(100_000.0), usize::MAX);
    assert_eq!(selection.chosen, [1, 2]);
}

#[test]
fn one_wide_replaces_two_narrow() {
    let factors = vec![vec![0.1, 1.0], vec![1.0, 0.1], vec![0.1, 0.1]];
    let (selection, _) = run(factors, &[8192.0, 8192.0, 30_000.0], None, usize::MAX);
    assert_eq!(selection.chosen, [2]);
}

#[test]
fn never_what_harms_a_statement() {
    let (selection, _) = run(vec![vec![0.1, 0.95]], &[8192.0], None, usize::MAX);
    assert!(selection.chosen.is_empty());
}

#[test]
fn write_cost_outweighs() {
    let choices = [Choice { write_cost: 105.0, ..choice(8192.0, vec![0]) }];
    let mut planner = Table { factors: vec![vec![0.1]], calls: 0, calls_max: usize::MAX };
    assert!(chosen(&mut planner, &[100.0], &choices, &[], None).chosen.is_empty());
}

#[test]
fn preferred_wins_a_tie() {
    let choices = [choice(8192.0, vec![0]), Choice { preferred: true, ..choice(8192.0, vec![0]) }];
    let mut planner = Table { factors: vec![vec![0.1], vec![0.1]], calls: 0, calls_max: usize::MAX };
    assert_eq!(chosen(&mut planner, &[100.0], &choices, &[], None).chosen, [1]);
}

/// Helps only with both.
struct Both;

impl Planner for Both {
    fn plan(&mut self, _: usize, config: &[usize]) -> Option<Outcome> {
        let both = config == [0, 1];
        let cost = if both { 1.0 } else { 100.0 };
        Some(Outcome { cost, value: cost, used: if both { vec![0, 1] } else { vec![] } })
    }
    fn may_plan(&mut self) -> bool {
        true
    }
    fn expired(&mut self) -> bool {
        false
    }
}

#[test]
fn a_bundle_helps_where_its_members_do_not() {
    let choices = [choice(8192.0, vec![0]), choice(8192.0, vec![0])];
    assert_eq!(chosen(&mut Both, &[100.0], &choices, &[vec![1, 0]], None).chosen, [0, 1]);
    assert!(chosen(&mut Both, &[100.0], &choices, &[vec![0, 1]], Some(9000.0)).chosen.is_empty());
}

proptest! {
    #[test]
    fn within_budget_net_positive_and_stops(
        factors in prop::collection::vec(prop::collection::vec(0.05f64..1.1, 4), 1..8),
        bytes in prop::collection::vec(8192.0f64..1e6, 8),
        budget in 8192.0f64..2e6,
        calls_max in 0usize..500,
    ) {
        let (selection, choices) = run(factors.clone(), &bytes, Some(budget), calls_max);
        let used: f64 = selection.chosen.iter().map(|at| choices[*at].bytes).sum();
        prop_assert!(used <= budget);
        prop_assert!(selection.worth >= 0.0);
        for statement in (0..4).filter(|_| !selection.cut_short) {
            let best = selection.chosen.iter().map(|at| factors[*at][statement]).fold(1.0, f64::min);
            prop_assert!(time(100.0 * best) <= 100.0 * WORSE_MAX);
        }
    }

    #[test]
    fn no_worse_than_the_best_of_all_sets_by_more_than_a_little(
        factors in prop::collection::vec(prop::collection::vec(0.05f64..0.9, 4), 1..7),
        bytes in prop::collection::vec(8192.0f64..1e6, 7),
        budget in 8192.0f64..2e6,
    ) {
        let (selection, choices) = run(factors.clone(), &bytes, Some(budget), usize::MAX);
        let mut optimum: f64 = 0.0;
        for set in 0u32..1 << factors.len() {
            let members: Vec<usize> = (0..factors.len()).filter(|at| set >> at & 1 == 1).collect();
            if members.iter().map(|at| choices[*at].bytes).sum::<f64>() > budget {
                continue;
            }
            let saved: f64 = (0..4)
                .map(|s| members.iter().map(|at| factors[*at][s]).fold(1.0, f64::min))
                .map(|ratio: f64| 100.0 * (1.0 - ratio + FASTER * (1.0 / ratio).ln()))
                .sum();
            optimum = optimum.max(saved - members.len() as f64);
        }
        prop_assert!(selection.worth >= 0.97 * optimum - 1e-6, "{} of {optimum}", selection.worth);
    }
}

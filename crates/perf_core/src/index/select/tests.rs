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
    select(weights, choices, bundles, Storage { budget, data: 0.0 }, &[], &mut ledger)
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
    let (selection, _) = run(factors, &[100_000.0, 50_000.0, 50_000.0], Some(105_000.0), usize::MAX);
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

#[test]
fn a_share_of_the_budget_is_held_back() {
    let chosen = |budget| run(vec![vec![0.1]], &[1e6], Some(budget), usize::MAX).0.chosen;
    assert!(chosen(1e6 / (1.0 - HELD_BACK) - 1.0).is_empty());
    assert_eq!(chosen(1e6 / (1.0 - HELD_BACK) + 1.0), [0]);
    assert_eq!(Storage { budget: None, data: 0.0 }.planned(), f64::INFINITY);
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

/// A planner of whims: what a plan costs, takes and uses depends on the whole set in no order, and some have no plan.
struct Whims {
    seed: u64,
}

impl Planner for Whims {
    fn plan(&mut self, statement: usize, config: &[usize]) -> Option<Outcome> {
        let mut state = config.iter().fold(self.seed ^ (statement as u64) << 32, |state, at| step(state ^ *at as u64));
        let mut roll = |faces: u64| {
            state = step(state);
            state >> 33 & (faces - 1)
        };
        if roll(16) == 0 {
            return None;
        }
        let (cost, value) = (1.0 + roll(128) as f64, 1.0 + roll(128) as f64);
        Some(Outcome { cost, value, used: config.iter().copied().filter(|_| roll(4) == 0).collect() })
    }
    fn may_plan(&mut self) -> bool {
        true
    }
    fn expired(&mut self) -> bool {
        false
    }
}

fn step(state: u64) -> u64 {
    state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407).rotate_left(17)
}

/// Choices for `statements` statements, each of which serves about half of them.
fn whimsical(seed: u64, choices: usize, statements: usize) -> Vec<Choice> {
    let mut state = seed;
    let mut roll = || {
        state = step(state);
        state >> 33
    };
    (0..choices)
        .map(|_| Choice {
            relation: (roll() % 3) as u32,
            write_cost: (roll() % 10) as f64,
            preferred: roll() % 8 == 0,
            ..choice(8192.0 * (1 + roll() % 100) as f64, (0..statements).filter(|_| roll() % 2 == 0).collect())
        })
        .collect()
}

/// Pages on which each statement lists most of the choices that serve it.
fn whimsical_pages(choices: &[Choice], statements: usize, calls_max: usize, planner: &mut Whims) -> Pages {
    let mut pages = Pages::new((0..statements).map(|_| (base(), calls_max)));
    for (at, choice) in choices.iter().enumerate() {
        for statement in choice.statements.iter().filter(|statement| (at + **statement) % 5 != 0) {
            pages.with(planner).add_relevant(*statement, [at]);
        }
    }
    pages
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
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
        prop_assert!(used <= budget * (1.0 - HELD_BACK));
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
            if members.iter().map(|at| choices[*at].bytes).sum::<f64>() > budget * (1.0 - HELD_BACK) {
                continue;
            }
            let saved: f64 = (0..4)
                .map(|s| members.iter().map(|at| factors[*at][s]).fold(1.0, f64::min))
                .map(|ratio: f64| 100.0 * (1.0 - ratio + FASTER * (1.0 / ratio).ln()))
                .sum();
            optimum = optimum.max(saved - members.len() as f64);
        }
        prop_assert!(selection.worth >= 0.95 * optimum - 1e-6, "{} of {optimum}", selection.worth);
    }

    #[test]
    fn what_is_kept_up_to_date_is_what_is_counted_anew(
        seed in any::<u64>(),
        calls_max in 0usize..40,
        moves in prop::collection::vec(
            (prop::collection::vec(0usize..12, 0..4), prop::collection::vec(0usize..12, 0..4), 0usize..4), 1..40),
    ) {
        let (weights, mut planner) = (vec![100.0, 50.0, 20.0, 1.0, 70.0], Whims { seed });
        let choices = whimsical(seed, 12, weights.len());
        let mut pages = whimsical_pages(&choices, weights.len(), calls_max, &mut planner);
        let mut ledger = pages.with(&mut planner);
        let task = Task::of(&weights, &choices, Storage { budget: Some(3e6), data: 1e7 }, &ledger);
        let mut state = State::empty(&task);
        let mut marks = Vec::new();
        for (out, into, what) in moves {
            match what {
                0 => marks.push((state.mark(), state.chosen().to_vec())),
                1 => {
                    if let Some((mark, chosen)) = marks.pop() {
                        state.back(mark);
                        prop_assert_eq!(state.chosen(), chosen);
                    }
                }
                2 if seed % 2 == 0 => {
                    state.settle();
                    marks.clear();
                }
                _ => {}
            }
            let into: Vec<usize> = into.into_iter().filter(|at| !out.contains(at)).collect();
            state.change(&task, &mut ledger, &out, &into);
            let effects: Vec<_> = (0..choices.len()).map(|at| state.effect(&task, &mut ledger, at)).collect();

            let mut anew = State::empty(&task);
            anew.change(&task, &mut ledger, &[], state.chosen());
            prop_assert!(near(state.worth(), anew.worth()), "{} {}", state.worth(), anew.worth());
            prop_assert!(near(state.bytes(), state.chosen().iter().map(|at| choices[*at].bytes).sum::<f64>()));
            let ratios: Vec<f64> = (0..weights.len()).map(|one| ledger.ratio(one, state.chosen())).collect();
            let mut worth: f64 = ratios.iter().enumerate().map(|(one, ratio)| task.saved(one, *ratio)).sum();
            worth -= state.chosen().iter().map(|at| task.keeping(*at)).sum::<f64>();
            prop_assert!(near(state.worth(), worth), "{} {worth}", state.worth());
            let slow = ratios.iter().filter(|ratio| **ratio > WORSE_MAX).count();
            prop_assert_eq!(state.is_allowed(&task), slow == 0 && state.bytes() <= task.budget);

            for (at, effect) in effects.into_iter().enumerate() {
                prop_assert_eq!(state.contains(at), state.chosen().contains(&at));
                let (before, mark) = (state.worth(), state.mark());
                let (out, into): (&[usize], &[usize]) =
                    if state.contains(at) { (&[at], &[]) } else { (&[], &[at]) };
                let harms = state.harms(effect);
                state.change(&task, &mut ledger, out, into);
                prop_assert!(near(state.worth(), before + effect.gain));
                prop_assert_eq!(state.is_allowed(&task), !harms && state.bytes() <= task.budget);
                state.back(mark);
                prop_assert_eq!(state.worth(), before);
            }
        }
    }

    #[test]
    fn whatever_the_planner_does_budget_and_limit_hold(
        seed in any::<u64>(),
        calls_max in 0usize..60,
        budget in 8192.0f64..4e6,
        bundle in prop::collection::vec(0usize..12, 0..4),
    ) {
        let (weights, mut planner) = (vec![100.0, 50.0, 20.0, 1.0, 70.0], Whims { seed });
        let choices = whimsical(seed, 12, weights.len());
        let mut pages = whimsical_pages(&choices, weights.len(), calls_max, &mut planner);
        let mut ledger = pages.with(&mut planner);
        let storage = Storage { budget: Some(budget), data: 0.0 };
        let first = select(&weights, &choices, std::slice::from_ref(&bundle), storage, &[], &mut ledger);
        let again = select(&weights, &choices, &[bundle], storage, &first.chosen, &mut ledger);
        let all: Vec<usize> = (0..choices.len()).collect();
        let from_all = select(&weights, &choices, &[], storage, &all, &mut ledger);
        for selection in [&first, &again, &from_all] {
            prop_assert!(selection.chosen.iter().map(|at| choices[*at].bytes).sum::<f64>() <= storage.planned());
            for statement in 0..weights.len() {
                prop_assert!(ledger.ratio(statement, &selection.chosen) <= WORSE_MAX);
            }
        }
        // What was best before is not lost.
        prop_assert!(again.worth >= first.worth * (1.0 - 1e-6));
        let sets = [first.chosen, all, again.chosen.clone()];
        let best = best_of(&weights, &choices, storage, &sets, &mut ledger);
        prop_assert!(near(best.worth, again.worth) || best.worth > again.worth);
    }
}

//! Choosing indexes under a storage budget: multi-start greedy, then local search, until the deadline. The best set so far
//! is always at hand.

use std::collections::HashMap;

/// No statement may get worse than this, by the planner's cost.
pub const WORSE_MAX: f64 = 1.05;
/// A candidate that saves less of the whole workload than this is not worth having.
pub const SAVING_MIN: f64 = 0.0025;
/// Candidates within this share of each other save the same; the smaller one is taken.
const TIE: f64 = 0.001;
/// A preferred candidate is taken unless another one saves this share more.
const PREFERENCE: f64 = 0.03;
/// `benefit / size^exponent`: from density to plain benefit.
const EXPONENTS: [f64; 4] = [0.0, 1.0, 0.5, 0.25];

/// What stands between the selection and the planner.
pub trait CostOracle {
    /// Cost of statement `statement` with exactly the candidates `config` (sorted); None when it cannot be planned.
    fn cost(&mut self, statement: usize, config: &[usize]) -> Option<f64>;
    /// Whether time is up.
    fn expired(&mut self) -> bool;
}

/// One candidate as the selection sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Size when built.
    pub bytes: f64,
    /// What maintaining it costs, in the unit of the statements' weights.
    pub write_cost: f64,
    /// Statements that it might serve.
    pub statements: Vec<usize>,
    /// Taken before another of the same worth (named by the policy).
    pub preferred: bool,
}

/// One statement as the selection sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its share in what is to be saved: time, or executions times cost.
    pub weight: f64,
    /// Planner's cost without any candidate.
    pub cost: f64,
}

/// The chosen candidates and what they promise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Indexes into the choices, sorted.
    pub chosen: Vec<usize>,
    /// Saved weight, net of write costs.
    pub saving: f64,
    /// Whether the deadline cut the search short.
    pub cut_short: bool,
}

/// Memoised costs: a statement's cost depends only on those candidates that might serve it.
struct Costs<'a, O: CostOracle> {
    oracle: &'a mut O,
    statements: &'a [Statement],
    choices: &'a [Choice],
    known: HashMap<(usize, Vec<usize>), Option<f64>>,
}

impl<O: CostOracle> Costs<'_, O> {
    /// Cost after / cost before, 1 when it cannot be known.
    fn ratio(&mut self, statement: usize, config: &[usize]) -> f64 {
        let relevant: Vec<usize> =
            config.iter().copied().filter(|at| self.choices[*at].statements.contains(&statement)).collect();
        let before = self.statements[statement].cost;
        if relevant.is_empty() || before <= 0.0 {
            return 1.0;
        }
        let cost = match self.known.get(&(statement, relevant.clone())) {
            Some(cost) => *cost,
            None => {
                let cost = self.oracle.cost(statement, &relevant);
                self.known.insert((statement, relevant), cost);
                cost
            }
        };
        cost.map_or(1.0, |after| after / before)
    }

    /// Saved weight of a whole set; None when a statement gets worse than allowed.
    fn saving(&mut self, config: &[usize]) -> Option<f64> {
        let mut saving = 0.0;
        for statement in 0..self.statements.len() {
            let ratio = self.ratio(statement, config);
            if ratio > WORSE_MAX {
                return None;
            }
            saving += self.statements[statement].weight * (1.0 - ratio);
        }
        Some(saving - config.iter().map(|at| self.choices[*at].write_cost).sum::<f64>())
    }

    /// What `members` add to `config`; None when a statement gets worse than allowed.
    fn added(&mut self, config: &[usize], members: &[usize]) -> Option<f64> {
        let with = union(config, members);
        let new = with.iter().filter(|at| !config.contains(at));
        let mut saving = -new.map(|at| self.choices[*at].write_cost).sum::<f64>();
        let mut statements: Vec<usize> =
            members.iter().flat_map(|at| self.choices[*at].statements.iter().copied()).collect();
        statements.sort_unstable();
        statements.dedup();
        for statement in statements {
            let after = self.ratio(statement, &with);
            if after > WORSE_MAX {
                return None;
            }
            saving += self.statements[statement].weight * (self.ratio(statement, config) - after);
        }
        Some(saving)
    }
}

fn with(config: &[usize], at: usize) -> Vec<usize> {
    let mut result = config.to_vec();
    if let Err(place) = result.binary_search(&at) {
        result.insert(place, at);
    }
    result
}

fn union(config: &[usize], members: &[usize]) -> Vec<usize> {
    members.iter().fold(config.to_vec(), |sum, at| with(&sum, *at))
}

fn without(config: &[usize], at: usize) -> Vec<usize> {
    config.iter().copied().filter(|other| *other != at).collect()
}

/// Chooses among `choices` so that as much weight as possible is saved within `budget` bytes. `bundles` are sets of choices
/// that help together and perhaps not alone, such as those for the arms of an OR.
pub fn select<O: CostOracle>(
    statements: &[Statement],
    choices: &[Choice],
    bundles: &[Vec<usize>],
    budget: Option<f64>,
    oracle: &mut O,
) -> Selection {
    let budget = budget.unwrap_or(f64::INFINITY);
    let total: f64 = statements.iter().map(|statement| statement.weight).sum();
    let mut costs = Costs { oracle, statements, choices, known: HashMap::new() };
    let mut moves: Vec<Vec<usize>> = (0..choices.len()).map(|at| vec![at]).collect();
    for bundle in bundles.iter().filter(|bundle| bundle.len() > 1) {
        let bundle = union(&[], bundle);
        if !moves.contains(&bundle) {
            moves.push(bundle);
        }
    }
    let mut best = Selection::default();
    for exponent in EXPONENTS {
        let (chosen, finished) = greedy(&mut costs, &moves, exponent, budget, total * SAVING_MIN);
        let (chosen, finished) =
            if finished { improved(&mut costs, chosen, budget, total * SAVING_MIN) } else { (chosen, false) };
        if let Some(saving) = costs.saving(&chosen) {
            if saving > best.saving * (1.0 + 1e-9) {
                best = Selection { chosen, saving, cut_short: false };
            }
        }
        if !finished || costs.oracle.expired() {
            best.cut_short = true;
            break;
        }
        // Without a budget to share, density makes no difference worth the planner's time.
        if budget.is_infinite() && exponent > 0.0 {
            break;
        }
    }
    best
}

/// Lazy greedy: a move's gain is computed again only when its last known one could win.
fn greedy<O: CostOracle>(
    costs: &mut Costs<O>,
    moves: &[Vec<usize>],
    exponent: f64,
    budget: f64,
    least: f64,
) -> (Vec<usize>, bool) {
    let (mut chosen, mut used): (Vec<usize>, f64) = (Vec::new(), 0.0);
    let mut gains: Vec<f64> = vec![f64::INFINITY; moves.len()];
    loop {
        let bytes: Vec<f64> = moves
            .iter()
            .map(|members| members.iter().filter(|at| !chosen.contains(at)).map(|at| costs.choices[*at].bytes).sum())
            .collect();
        let score = |gain: f64, at: usize| gain / bytes[at].max(8192.0).powf(exponent);
        let mut order: Vec<(usize, f64)> = gains.iter().enumerate().map(|(at, gain)| (at, score(*gain, at))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut best: Option<(usize, f64)> = None;
        for (at, bound) in order {
            if best.is_some_and(|(_, best_score)| bound < best_score * (1.0 - PREFERENCE)) {
                break;
            }
            let done = moves[at].iter().all(|member| chosen.contains(member));
            // A bundle's gain may grow when one of its members is chosen; a single's is taken as final.
            let hopeless = gains[at] < least && moves[at].len() == 1;
            if done || hopeless || used + bytes[at] > budget {
                continue;
            }
            if costs.oracle.expired() {
                return (chosen, false);
            }
            gains[at] = costs.added(&chosen, &moves[at]).unwrap_or(f64::NEG_INFINITY);
            if gains[at] < least {
                continue;
            }
            let new = score(gains[at], at);
            let better = match best {
                None => true,
                Some((other, old)) => {
                    let tolerance =
                        match (is_preferred(costs.choices, &moves[at]), is_preferred(costs.choices, &moves[other])) {
                            (true, false) | (false, true) => PREFERENCE,
                            _ => TIE,
                        };
                    let rank = |at: usize| (!is_preferred(costs.choices, &moves[at]), bytes[at] as u64, at);
                    new > old * (1.0 + tolerance) || (new > old * (1.0 - tolerance) && rank(at) < rank(other))
                }
            };
            if better {
                best = Some((at, new));
            }
        }
        match best {
            Some((at, _)) => {
                used += bytes[at];
                chosen = union(&chosen, &moves[at]);
            }
            None => return (chosen, true),
        }
    }
}

fn is_preferred(choices: &[Choice], members: &[usize]) -> bool {
    members.iter().any(|at| choices[*at].preferred)
}

/// Drops what the others have made superfluous, then tries each unused candidate in the place of each chosen one.
fn improved<O: CostOracle>(
    costs: &mut Costs<O>,
    mut chosen: Vec<usize>,
    budget: f64,
    least: f64,
) -> (Vec<usize>, bool) {
    let Some(mut saving) = costs.saving(&chosen) else { return (chosen, true) };
    for _round in 0..4 {
        let mut changed = false;
        for at in chosen.clone() {
            if costs.oracle.expired() {
                return (chosen, false);
            }
            let rest = without(&chosen, at);
            if let Some(new) = costs.saving(&rest) {
                if saving - new < least {
                    (chosen, saving, changed) = (rest, new, true);
                }
            }
        }
        for old in chosen.clone() {
            if !chosen.contains(&old) {
                continue;
            }
            let rest = without(&chosen, old);
            let used: f64 = rest.iter().map(|at| costs.choices[*at].bytes).sum();
            for at in 0..costs.choices.len() {
                let shared = costs.choices[at].statements.iter().any(|s| costs.choices[old].statements.contains(s));
                if chosen.contains(&at) || used + costs.choices[at].bytes > budget || (!shared && budget.is_infinite())
                {
                    continue;
                }
                if costs.oracle.expired() {
                    return (chosen, false);
                }
                let swapped = with(&rest, at);
                let margin = if costs.choices[old].preferred { saving * PREFERENCE } else { saving * TIE };
                if let Some(new) = costs.saving(&swapped) {
                    if new > saving + margin {
                        (chosen, saving, changed) = (swapped, new, true);
                        break;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    (chosen, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Each candidate multiplies the cost of its statements; the best one counts.
    struct Table {
        factors: Vec<Vec<f64>>,
        base: Vec<f64>,
        calls: usize,
        calls_max: usize,
    }

    impl CostOracle for Table {
        fn cost(&mut self, statement: usize, config: &[usize]) -> Option<f64> {
            self.calls += 1;
            let best = config.iter().map(|at| self.factors[*at][statement]).fold(1.0, f64::min);
            let worst = config.iter().map(|at| self.factors[*at][statement]).fold(1.0, f64::max);
            Some(self.base[statement] * if worst > 1.0 { worst } else { best })
        }
        fn expired(&mut self) -> bool {
            self.calls >= self.calls_max
        }
    }

    fn run(factors: Vec<Vec<f64>>, bytes: &[f64], budget: Option<f64>, calls_max: usize) -> (Selection, Vec<Choice>) {
        let count = factors.first().map_or(0, Vec::len);
        let statements = vec![Statement { weight: 100.0, cost: 100.0 }; count];
        let choices: Vec<Choice> = factors
            .iter()
            .zip(bytes)
            .map(|(row, bytes)| Choice {
                bytes: *bytes,
                write_cost: 0.0,
                statements: (0..row.len()).filter(|s| row[*s] != 1.0).collect(),
                preferred: false,
            })
            .collect();
        let mut oracle = Table { factors, base: vec![100.0; count], calls: 0, calls_max };
        (select(&statements, &choices, &[], budget, &mut oracle), choices)
    }

    #[test]
    fn takes_what_helps_and_no_more() {
        let (selection, _) = run(vec![vec![0.1, 1.0], vec![1.0, 0.5], vec![0.2, 1.0]], &[8192.0; 3], None, usize::MAX);
        assert_eq!(selection.chosen, [0, 1]);
        assert!((selection.saving - 140.0).abs() < 1e-6);
    }

    #[test]
    fn two_small_beat_one_big_under_a_budget() {
        let factors = vec![vec![0.1, 1.0, 1.0], vec![1.0, 0.3, 1.0], vec![1.0, 1.0, 0.3]];
        let (selection, _) = run(factors, &[100_000.0, 50_000.0, 50_000.0], Some(100_000.0), usize::MAX);
        assert_eq!(selection.chosen, [1, 2]);
    }

    #[test]
    fn never_what_harms_a_statement() {
        let (selection, _) = run(vec![vec![0.1, 1.2]], &[8192.0], None, usize::MAX);
        assert!(selection.chosen.is_empty());
    }

    #[test]
    fn write_cost_outweighs() {
        let statements = [Statement { weight: 100.0, cost: 100.0 }];
        let choice = Choice { bytes: 8192.0, write_cost: 95.0, statements: vec![0], preferred: false };
        let mut oracle = Table { factors: vec![vec![0.1]], base: vec![100.0], calls: 0, calls_max: usize::MAX };
        assert!(select(&statements, &[choice], &[], None, &mut oracle).chosen.is_empty());
    }

    #[test]
    fn preferred_wins_a_tie() {
        let statements = [Statement { weight: 100.0, cost: 100.0 }];
        let choice = |preferred| Choice { bytes: 8192.0, write_cost: 0.0, statements: vec![0], preferred };
        let mut oracle =
            Table { factors: vec![vec![0.1], vec![0.1]], base: vec![100.0], calls: 0, calls_max: usize::MAX };
        assert_eq!(select(&statements, &[choice(false), choice(true)], &[], None, &mut oracle).chosen, [1]);
    }

    /// Helps only with both.
    struct Both;

    impl CostOracle for Both {
        fn cost(&mut self, _: usize, config: &[usize]) -> Option<f64> {
            Some(if config == [0, 1] { 1.0 } else { 100.0 })
        }
        fn expired(&mut self) -> bool {
            false
        }
    }

    #[test]
    fn a_bundle_helps_where_its_members_do_not() {
        let statements = [Statement { weight: 100.0, cost: 100.0 }];
        let choice = Choice { bytes: 8192.0, write_cost: 0.0, statements: vec![0], preferred: false };
        let choices = [choice.clone(), choice];
        assert!(select(&statements, &choices, &[], None, &mut Both).chosen.is_empty());
        assert_eq!(select(&statements, &choices, &[vec![1, 0]], None, &mut Both).chosen, [0, 1]);
        assert!(select(&statements, &choices, &[vec![0, 1]], Some(9000.0), &mut Both).chosen.is_empty());
    }

    proptest! {
        #[test]
        fn within_budget_net_positive_and_stops(
            factors in prop::collection::vec(prop::collection::vec(0.05f64..1.2, 4), 1..8),
            bytes in prop::collection::vec(8192.0f64..1e6, 8),
            budget in 8192.0f64..2e6,
            calls_max in 0usize..500,
        ) {
            let (selection, choices) = run(factors.clone(), &bytes, Some(budget), calls_max);
            let used: f64 = selection.chosen.iter().map(|at| choices[*at].bytes).sum();
            prop_assert!(used <= budget);
            prop_assert!(selection.saving >= 0.0);
            for at in &selection.chosen {
                prop_assert!(factors[*at].iter().all(|factor| *factor <= WORSE_MAX));
            }
        }
    }
}

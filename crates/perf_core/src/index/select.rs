//! Choosing indexes under a storage budget: several starts, some building up from nothing and some taking away from all,
//! each followed by local search, until the deadline. The best set so far is always at hand.

use super::ledger::{Ledger, Planner};

/// No statement may take longer than this, compared with no index at all.
pub const WORSE_MAX: f64 = 1.05;
/// An index that saves less than this share of the whole workload is not worth having.
pub const SAVING_MIN: f64 = 0.0025;
/// Indexes as large as all the tables together must save this share more.
const STORAGE_SAVING_MIN: f64 = 0.01;
/// Candidates within this share of each other save the same; the smaller one is taken.
const TIE: f64 = 0.0002;
/// A preferred candidate is taken unless another one saves this share more.
const PREFERENCE: f64 = 0.03;
/// `benefit / size^exponent`: from plain benefit to density.
const EXPONENTS: [f64; 5] = [0.0, 1.0, 0.5, 0.25, 0.75];
/// Rounds of local search after each start, at most.
const ROUNDS_MAX: usize = 6;
/// Worth of a statement's becoming e times faster, as a share of its time. Without it, whatever follows the first index of a
/// statement looks like nothing, although the statement would be twice as fast again; asked once more with the first index
/// built, it would be recommended after all.
const FASTER: f64 = 0.05;
/// Faster than this, a hundred times, nobody notices.
const RATIO_MIN: f64 = 0.01;
/// What a statement beyond [`WORSE_MAX`] counts, in multiples of its weight: enough to outweigh any gain.
const PENALTY: f64 = 100.0;

/// One candidate as the selection sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Candidates of the same relation can stand in for each other.
    pub relation: u32,
    /// Size when built.
    pub bytes: f64,
    /// What maintaining it costs, in the unit of the statements' weights.
    pub write_cost: f64,
    /// Statements that it might serve.
    pub statements: Vec<usize>,
    /// Taken before another of the same worth (named by the policy).
    pub preferred: bool,
}

/// The chosen candidates and what they promise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Indexes into the choices, sorted.
    pub chosen: Vec<usize>,
    /// What the set is worth: saved weight, net of write costs and of what an index must save at least, and a little for
    /// statements that become many times faster.
    pub worth: f64,
    /// Whether the deadline cut the search short.
    pub cut_short: bool,
}

/// The question.
struct Task<'a> {
    /// Each statement's share in what is to be saved.
    weights: &'a [f64],
    choices: &'a [Choice],
    budget: f64,
    /// What an index must save.
    least: f64,
    /// What it must save beyond that for each byte it takes.
    byte_price: f64,
}

/// A set of candidates and what it does to every statement.
#[derive(Clone)]
struct State {
    chosen: Vec<usize>,
    ratios: Vec<f64>,
    bytes: f64,
    worth: f64,
}

impl Task<'_> {
    fn start(&self) -> State {
        State { chosen: Vec::new(), ratios: vec![1.0; self.weights.len()], bytes: 0.0, worth: 0.0 }
    }

    /// What a statement with this ratio is worth: what it saves, and a little for each time it gets faster once more.
    fn saved(&self, statement: usize, ratio: f64) -> f64 {
        let faster = (1.0 / ratio.clamp(RATIO_MIN, 1.0)).ln();
        self.weights[statement] * (1.0 - ratio + FASTER * faster - PENALTY * (ratio - WORSE_MAX).max(0.0))
    }

    /// What having a candidate costs.
    fn keeping(&self, at: usize) -> f64 {
        self.choices[at].write_cost + self.least + self.byte_price * self.choices[at].bytes
    }

    /// `state` without `out` and with `into`.
    fn changed<P: Planner>(&self, ledger: &mut Ledger<'_, P>, state: &State, out: &[usize], into: &[usize]) -> State {
        let mut next = state.clone();
        let mut touched: Vec<usize> = Vec::new();
        for at in out {
            if let Ok(place) = next.chosen.binary_search(at) {
                next.chosen.remove(place);
                next.bytes -= self.choices[*at].bytes;
                next.worth += self.keeping(*at);
                touched.extend(&self.choices[*at].statements);
            }
        }
        for at in into {
            if let Err(place) = next.chosen.binary_search(at) {
                next.chosen.insert(place, *at);
                next.bytes += self.choices[*at].bytes;
                next.worth -= self.keeping(*at);
                touched.extend(&self.choices[*at].statements);
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for statement in touched {
            let ratio = ledger.ratio(statement, &next.chosen);
            next.worth += self.saved(statement, ratio) - self.saved(statement, next.ratios[statement]);
            next.ratios[statement] = ratio;
        }
        next
    }

    fn is_allowed(&self, state: &State) -> bool {
        state.bytes <= self.budget && state.ratios.iter().all(|ratio| *ratio <= WORSE_MAX)
    }

    fn is_preferred(&self, members: &[usize]) -> bool {
        members.iter().any(|at| self.choices[*at].preferred)
    }
}

/// What the storage is: how much of it there may be, and how much there is of data.
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Bytes for all chosen candidates; None for no limit.
    pub budget: Option<f64>,
    /// Bytes of the tables in question.
    pub data: f64,
}

/// Chooses among `choices` so that as much weight as possible is saved within the budget. `bundles` are sets of choices
/// that help together and perhaps not alone, such as those for the arms of an OR.
pub fn select<P: Planner>(
    weights: &[f64],
    choices: &[Choice],
    bundles: &[Vec<usize>],
    storage: Storage,
    ledger: &mut Ledger<'_, P>,
) -> Selection {
    let total = weights.iter().sum::<f64>();
    let byte_price = if storage.data > 0.0 { STORAGE_SAVING_MIN * total / storage.data } else { 0.0 };
    let budget = storage.budget.unwrap_or(f64::INFINITY);
    let task = Task { weights, choices, budget, least: SAVING_MIN * total, byte_price };
    let mut moves: Vec<Vec<usize>> =
        (0..choices.len()).filter(|at| !choices[*at].statements.is_empty()).map(|at| vec![at]).collect();
    for bundle in bundles.iter().filter(|bundle| bundle.len() > 1) {
        let mut bundle = bundle.clone();
        bundle.sort_unstable();
        bundle.dedup();
        if !moves.contains(&bundle) {
            moves.push(bundle);
        }
    }
    let mut best = Selection::default();
    let starts = EXPONENTS.iter().flat_map(|exponent| [(true, *exponent), (false, *exponent)]);
    for (up, exponent) in starts {
        let (state, finished) =
            if up { build_up(&task, ledger, &moves, exponent) } else { take_away(&task, ledger, exponent) };
        let (state, finished) = if finished { improved(&task, ledger, state) } else { (state, false) };
        if task.is_allowed(&state) && state.worth > best.worth * (1.0 + 1e-9) {
            best = Selection { chosen: state.chosen, worth: state.worth, ..best };
        }
        if !finished || ledger.expired() {
            best.cut_short = true;
            break;
        }
        if ledger.lacked_time() {
            best.cut_short = true;
        }
        // Without a budget to share, density makes no difference worth the planner's time.
        if task.budget.is_infinite() && exponent > 0.0 {
            break;
        }
    }
    best
}

/// Lazy greedy: a move's gain is computed again only when its last known one could win.
fn build_up<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    moves: &[Vec<usize>],
    exponent: f64,
) -> (State, bool) {
    let mut state = task.start();
    let mut gains: Vec<f64> = vec![f64::INFINITY; moves.len()];
    loop {
        let bytes: Vec<f64> = moves
            .iter()
            .map(|members| {
                members.iter().filter(|at| !state.chosen.contains(at)).map(|at| task.choices[*at].bytes).sum()
            })
            .collect();
        let score = |gain: f64, at: usize| gain / bytes[at].max(8192.0).powf(exponent);
        let mut order: Vec<(usize, f64)> = gains.iter().enumerate().map(|(at, gain)| (at, score(*gain, at))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut best: Option<(usize, f64, State)> = None;
        for (at, bound) in order {
            if best.as_ref().is_some_and(|(_, best_score, _)| bound < best_score * (1.0 - PREFERENCE)) {
                break;
            }
            let done = moves[at].iter().all(|member| state.chosen.contains(member));
            // A bundle's gain may grow when one of its members is chosen; a single's is taken as final.
            let hopeless = gains[at] <= 0.0 && moves[at].len() == 1;
            if done || hopeless || state.bytes + bytes[at] > task.budget {
                continue;
            }
            if ledger.expired() {
                return (state, false);
            }
            let next = task.changed(ledger, &state, &[], &moves[at]);
            gains[at] = if task.is_allowed(&next) { next.worth - state.worth } else { f64::NEG_INFINITY };
            if gains[at] <= 0.0 {
                continue;
            }
            let new = score(gains[at], at);
            let better = match &best {
                None => true,
                Some((other, old, _)) => {
                    let preferred = |at: usize| task.is_preferred(&moves[at]);
                    let tolerance = if preferred(at) != preferred(*other) { PREFERENCE } else { TIE };
                    let rank = |at: usize| (!preferred(at), bytes[at] as u64, at);
                    new > old * (1.0 + tolerance) || (new > old * (1.0 - tolerance) && rank(at) < rank(*other))
                }
            };
            if better {
                best = Some((at, new, next));
            }
        }
        match best {
            Some((_, _, next)) => state = next,
            None => return (state, true),
        }
    }
}

/// Begins with everything that some plan uses when all is at hand, and takes away what is missed least for its size until
/// the budget holds and nothing superfluous is left.
fn take_away<P: Planner>(task: &Task<'_>, ledger: &mut Ledger<'_, P>, exponent: f64) -> (State, bool) {
    let all: Vec<usize> = (0..task.choices.len()).collect();
    let mut used: Vec<usize> = Vec::new();
    for statement in 0..task.weights.len() {
        if ledger.expired() {
            return (task.start(), false);
        }
        used.extend(ledger.plan(statement, &all).0);
    }
    used.sort_unstable();
    used.dedup();
    let mut state = task.changed(ledger, &task.start(), &[], &used);
    loop {
        let mut best: Option<(f64, State)> = None;
        for at in state.chosen.clone() {
            if ledger.expired() {
                return (state, false);
            }
            let next = task.changed(ledger, &state, &[at], &[]);
            let loss = state.worth - next.worth;
            let needed = task.is_allowed(&state);
            if needed && loss > 0.0 {
                continue;
            }
            // What is better gone goes first, whatever its size.
            let score = if loss <= 0.0 { loss } else { loss / task.choices[at].bytes.max(8192.0).powf(exponent) };
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, next));
            }
        }
        match best {
            Some((_, next)) => state = next,
            None => return (state, true),
        }
    }
}

/// Takes one or two out and fills up again, by worth and by density, while that helps.
fn improved<P: Planner>(task: &Task<'_>, ledger: &mut Ledger<'_, P>, mut state: State) -> (State, bool) {
    for _ in 0..ROUNDS_MAX {
        let before = state.worth;
        for out in outs(task, &state) {
            if !out.iter().all(|at| state.chosen.contains(at)) {
                continue;
            }
            let margin = if task.is_preferred(&out) { PREFERENCE } else { TIE } * state.worth.abs();
            let rest = task.changed(ledger, &state, &out, &[]);
            for exponent in [0.0, 1.0] {
                let (filled, finished) = fill(task, ledger, rest.clone(), &out, exponent);
                let smaller = filled.chosen.len() < state.chosen.len() || filled.bytes < state.bytes;
                let needed = if out.is_empty() || smaller { 0.0 } else { margin };
                if task.is_allowed(&filled) && filled.worth > state.worth + needed {
                    state = filled;
                    if !finished {
                        return (state, false);
                    }
                    break;
                }
                if !finished {
                    return (state, false);
                }
            }
        }
        if state.worth <= before * (1.0 + 1e-9) {
            break;
        }
    }
    (state, true)
}

/// Adds the best candidate as long as one helps; first of all, instead of `out`, one that is not in it.
fn fill<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    mut state: State,
    out: &[usize],
    exponent: f64,
) -> (State, bool) {
    let served: Vec<usize> = out.iter().flat_map(|at| task.choices[*at].statements.iter().copied()).collect();
    let mut candidates: Vec<usize> = (0..task.choices.len())
        .filter(|at| {
            let choice = &task.choices[*at];
            if choice.statements.is_empty() {
                return false;
            }
            // Without a budget to share, only what serves the same statements can gain from a place becoming free.
            out.is_empty() || task.budget.is_finite() || choice.statements.iter().any(|one| served.contains(one))
        })
        .collect();
    let mut first = !out.is_empty();
    loop {
        let mut best: Option<(f64, usize, State)> = None;
        let mut hopeful = Vec::with_capacity(candidates.len());
        for at in candidates {
            let choice = &task.choices[at];
            if state.chosen.contains(&at) || state.bytes + choice.bytes > task.budget {
                continue;
            }
            if ledger.expired() {
                return (state, false);
            }
            let next = task.changed(ledger, &state, &[], &[at]);
            let gain = next.worth - state.worth;
            if gain <= 0.0 || !task.is_allowed(&next) {
                continue;
            }
            hopeful.push(at);
            let score = gain / choice.bytes.max(8192.0).powf(exponent);
            if !(first && out.contains(&at)) && best.as_ref().is_none_or(|(most, _, _)| score > *most) {
                best = Some((score, at, next));
            }
        }
        let Some((_, _, next)) = best else { return (state, true) };
        state = next;
        first = false;
        candidates = hopeful;
    }
}

/// What may be taken out in one move: nothing, each, every two of a relation.
fn outs(task: &Task<'_>, state: &State) -> Vec<Vec<usize>> {
    let mut outs = vec![Vec::new()];
    outs.extend(state.chosen.iter().map(|at| vec![*at]));
    for (place, a) in state.chosen.iter().enumerate() {
        for b in &state.chosen[place + 1..] {
            if task.choices[*a].relation == task.choices[*b].relation {
                outs.push(vec![*a, *b]);
            }
        }
    }
    outs
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Outcome, Pages};
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
            ledger
                .add_relevant(statement, (0..choices.len()).filter(|at| choices[*at].statements.contains(&statement)));
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
}

//! Choosing indexes under a storage budget: several starts, some building up from nothing and some taking away from all,
//! each followed by local search, until the deadline. The best set so far is always at hand.

mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use super::ledger::{Ledger, Planner};
use state::State;

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
/// Share of a budget that is not planned with. It counts the bytes of the indexes once they are built, and what is known
/// before are estimates: half of them are off by 1.5 % or more, either way, and several of them together by less than each.
const HELD_BACK: f64 = 0.02;
/// Smaller indexes are all the same.
const BYTES_MIN: f64 = 8192.0;
/// Rounds of local search after each start, at most.
const ROUNDS_MAX: usize = 6;
/// More candidates than this are not each squeezed into a full budget.
const SQUEEZED_MAX: usize = 64;
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
    /// For each choice the statements that may use it, with its place in their lists.
    served: Vec<Vec<(usize, u32)>>,
    budget: f64,
    /// What an index must save.
    least: f64,
    /// What it must save beyond that for each byte it takes.
    byte_price: f64,
}

impl<'a> Task<'a> {
    fn of<P: Planner>(weights: &'a [f64], choices: &'a [Choice], storage: Storage, ledger: &Ledger<'_, P>) -> Task<'a> {
        let total = weights.iter().sum::<f64>();
        let place = |statement: usize, at: usize| ledger.place(statement, at).map(|place| (statement, place));
        Task {
            weights,
            choices,
            served: choices
                .iter()
                .enumerate()
                .map(|(at, choice)| choice.statements.iter().filter_map(|statement| place(*statement, at)).collect())
                .collect(),
            budget: storage.planned(),
            least: SAVING_MIN * total,
            byte_price: if storage.data > 0.0 { STORAGE_SAVING_MIN * total / storage.data } else { 0.0 },
        }
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

    fn is_preferred(&self, members: &[usize]) -> bool {
        members.iter().any(|at| self.choices[*at].preferred)
    }

    /// Choices that serve a statement which one of `others` serves.
    fn serving_as(&self, others: &[usize]) -> Vec<usize> {
        let mut is_served = vec![false; self.weights.len()];
        for (statement, _) in others.iter().flat_map(|at| &self.served[*at]) {
            is_served[*statement] = true;
        }
        let serves = |at: &usize| self.served[*at].iter().any(|(statement, _)| is_served[*statement]);
        (0..self.choices.len()).filter(serves).collect()
    }

    /// `gain / size^exponent`.
    fn density(&self, gain: f64, at: usize, exponent: f64) -> f64 {
        gain / self.choices[at].bytes.max(BYTES_MIN).powf(exponent)
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

impl Storage {
    /// What of the budget may be planned with.
    pub fn planned(self) -> f64 {
        self.budget.map_or(f64::INFINITY, |budget| budget * (1.0 - HELD_BACK))
    }
}

/// Where a search begins.
#[derive(Clone, Copy)]
enum Start {
    /// With what was best before.
    Before,
    /// With nothing, building up by `benefit / size^exponent`.
    Up(f64),
    /// With everything, taking away by it.
    Down(f64),
}

/// The best of `sets`, all within the budget, by what the ledger knows now: if possible one that slows no statement down too
/// much.
pub fn best_of<P: Planner>(
    weights: &[f64],
    choices: &[Choice],
    storage: Storage,
    sets: &[Vec<usize>],
    ledger: &mut Ledger<'_, P>,
) -> Selection {
    let task = Task::of(weights, choices, storage, ledger);
    let mut best: Option<(bool, Selection)> = None;
    for chosen in sets {
        let mut state = State::empty(&task);
        state.change(&task, ledger, &[], chosen);
        let is_allowed = state.is_allowed(&task);
        let better =
            best.as_ref().is_none_or(
                |(was_allowed, best)| {
                    if is_allowed == *was_allowed {
                        state.worth() > best.worth
                    } else {
                        is_allowed
                    }
                },
            );
        if better {
            let chosen = state.chosen().to_vec();
            best = Some((is_allowed, Selection { chosen, worth: state.worth(), cut_short: false }));
        }
    }
    best.map(|(_, best)| best).unwrap_or_default()
}

/// Chooses among `choices` so that as much weight as possible is saved within the budget. `bundles` are sets of choices
/// that help together and perhaps not alone, such as those for the arms of an OR. `before` is a set to begin with: what
/// was best when less was known, allowed or not.
pub fn select<P: Planner>(
    weights: &[f64],
    choices: &[Choice],
    bundles: &[Vec<usize>],
    storage: Storage,
    before: &[usize],
    ledger: &mut Ledger<'_, P>,
) -> Selection {
    let task = Task::of(weights, choices, storage, ledger);
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
    let mut seen = HashSet::new();
    let first = Some(Start::Before).filter(|_| !before.is_empty());
    let each = EXPONENTS.into_iter().flat_map(|exponent| [Start::Up(exponent), Start::Down(exponent)]);
    let starts = first.into_iter().chain(each);
    for start in starts {
        let mut state = State::empty(&task);
        let finished = match start {
            Start::Before => {
                state.change(&task, ledger, &[], before);
                take_away(&task, ledger, EXPONENTS[0], None, &mut state)
            }
            Start::Up(exponent) => build_up(&task, ledger, &moves, exponent, &mut state),
            Start::Down(exponent) => {
                add_used(&task, ledger, &mut state) && take_away(&task, ledger, exponent, None, &mut state)
            }
        };
        state.settle();
        let finished = finished && improve(&task, ledger, &mut state, &mut seen);
        if state.is_allowed(&task) && state.worth() > best.worth * (1.0 + 1e-9) {
            best = Selection { chosen: state.chosen().to_vec(), worth: state.worth(), ..best };
        }
        if !finished || ledger.expired() {
            best.cut_short = true;
            break;
        }
        if ledger.lacked_time() {
            best.cut_short = true;
        }
        // Without a budget to share, density makes no difference worth the planner's time.
        if task.budget.is_infinite() && matches!(start, Start::Up(exponent) if exponent > 0.0) {
            break;
        }
    }
    if !best.cut_short {
        let mut state = State::empty(&task);
        state.change(&task, ledger, &[], &best.chosen);
        state.settle();
        best.cut_short = !squeeze_in(&task, ledger, &mut state, &mut seen);
        best = Selection { chosen: state.chosen().to_vec(), worth: state.worth(), ..best };
    }
    best
}

/// Lazy greedy: a move's gain is computed again only when its last known one could win. Whether it came to its end.
fn build_up<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    moves: &[Vec<usize>],
    exponent: f64,
    state: &mut State,
) -> bool {
    let mut gains: Vec<f64> = vec![f64::INFINITY; moves.len()];
    loop {
        let bytes: Vec<f64> = moves
            .iter()
            .map(|members| members.iter().filter(|at| !state.contains(**at)).map(|at| task.choices[*at].bytes).sum())
            .collect();
        let score = |gain: f64, at: usize| gain / bytes[at].max(BYTES_MIN).powf(exponent);
        let mut order: Vec<(usize, f64)> = gains.iter().enumerate().map(|(at, gain)| (at, score(*gain, at))).collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut best: Option<(usize, f64)> = None;
        for (at, bound) in order {
            if best.is_some_and(|(_, best_score)| bound < best_score * (1.0 - PREFERENCE)) {
                break;
            }
            let done = moves[at].iter().all(|member| state.contains(*member));
            // A bundle's gain may grow when one of its members is chosen; a single's is taken as final.
            let hopeless = gains[at] <= 0.0 && moves[at].len() == 1;
            if done || hopeless || state.bytes() + bytes[at] > task.budget {
                continue;
            }
            if ledger.expired() {
                return false;
            }
            gains[at] = gain(task, ledger, state, &moves[at]);
            if gains[at] <= 0.0 {
                continue;
            }
            let new = score(gains[at], at);
            let better = match best {
                None => true,
                Some((other, old)) => {
                    let preferred = |at: usize| task.is_preferred(&moves[at]);
                    let tolerance = if preferred(at) != preferred(other) { PREFERENCE } else { TIE };
                    let rank = |at: usize| (!preferred(at), bytes[at] as u64, at);
                    new > old * (1.0 + tolerance) || (new > old * (1.0 - tolerance) && rank(at) < rank(other))
                }
            };
            if better {
                best = Some((at, new));
            }
        }
        match best {
            Some((at, _)) => state.change(task, ledger, &[], &moves[at]),
            None => return true,
        }
    }
}

/// By how much the set is worth more with `members`; minus infinity when it is not allowed.
fn gain<P: Planner>(task: &Task<'_>, ledger: &mut Ledger<'_, P>, state: &mut State, members: &[usize]) -> f64 {
    if let [at] = members {
        let effect = state.effect(task, ledger, *at);
        return if state.harms(effect) { f64::NEG_INFINITY } else { effect.gain };
    }
    let mark = state.mark();
    let before = state.worth();
    state.change(task, ledger, &[], members);
    let gain = if state.is_allowed(task) { state.worth() - before } else { f64::NEG_INFINITY };
    state.back(mark);
    gain
}

/// Adds everything that some plan uses when all is at hand. Whether it came to its end.
fn add_used<P: Planner>(task: &Task<'_>, ledger: &mut Ledger<'_, P>, state: &mut State) -> bool {
    let all: Vec<usize> = (0..task.choices.len()).collect();
    let mut used: Vec<usize> = Vec::new();
    for statement in 0..task.weights.len() {
        if ledger.expired() {
            return false;
        }
        used.extend(ledger.plan(statement, &all).0);
    }
    used.sort_unstable();
    used.dedup();
    state.change(task, ledger, &[], &used);
    true
}

/// Takes away what is missed least for its size until the budget holds and nothing superfluous is left besides `kept`.
/// Whether it came to its end.
fn take_away<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    exponent: f64,
    kept: Option<usize>,
    state: &mut State,
) -> bool {
    loop {
        let mut best: Option<(f64, usize)> = None;
        let needed = state.is_allowed(task);
        for at in state.chosen().to_vec() {
            if kept == Some(at) {
                continue;
            }
            if ledger.expired() {
                return false;
            }
            let loss = -state.effect(task, ledger, at).gain;
            if needed && loss > 0.0 {
                continue;
            }
            // What is better gone goes first, whatever its size.
            let score = if loss <= 0.0 { loss } else { task.density(loss, at, exponent) };
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, at));
            }
        }
        match best {
            Some((_, at)) => state.change(task, ledger, &[at], &[]),
            None => return true,
        }
    }
}

/// Takes one or two out and fills up again, by worth and by density, while that helps. `seen` are the sets from which this
/// was tried before: it ends where it ended then. Whether it came to its end.
fn improve<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    state: &mut State,
    seen: &mut HashSet<Vec<usize>>,
) -> bool {
    for _ in 0..ROUNDS_MAX {
        if !seen.insert(state.chosen().to_vec()) {
            return true;
        }
        let before = state.worth();
        for out in outs(task, state) {
            if !out.iter().all(|at| state.contains(*at)) {
                continue;
            }
            let margin = if task.is_preferred(&out) { PREFERENCE } else { TIE } * state.worth().abs();
            let (count, bytes, worth) = (state.chosen().len(), state.bytes(), state.worth());
            let whole = state.mark();
            state.change(task, ledger, &out, &[]);
            let rest = state.mark();
            let mut improved = false;
            for exponent in [0.0, 1.0] {
                let finished = fill(task, ledger, state, &out, exponent);
                let smaller = state.chosen().len() < count || state.bytes() < bytes;
                let needed = if out.is_empty() || smaller { 0.0 } else { margin };
                improved = state.is_allowed(task) && state.worth() > worth + needed;
                if !finished {
                    if !improved {
                        state.back(whole);
                    }
                    return false;
                }
                if improved {
                    break;
                }
                state.back(rest);
            }
            if improved {
                state.settle();
            } else {
                state.back(whole);
            }
        }
        if state.worth() <= before * (1.0 + 1e-9) {
            break;
        }
    }
    true
}

/// Puts each candidate that is not chosen into a set that the budget limits, whatever must go for it, and fills up again,
/// while that helps. Whether it came to its end.
fn squeeze_in<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    state: &mut State,
    seen: &mut HashSet<Vec<usize>>,
) -> bool {
    let fits = |at: &usize| task.choices[*at].bytes <= task.budget && !task.served[*at].is_empty();
    let candidates: Vec<usize> = (0..task.choices.len()).filter(fits).collect();
    if task.budget.is_infinite() || candidates.len() > SQUEEZED_MAX {
        return true;
    }
    for _ in 0..ROUNDS_MAX {
        let before = state.worth();
        for at in &candidates {
            for exponent in [0.0, 1.0] {
                if state.contains(*at) {
                    break;
                }
                let (whole, worth) = (state.mark(), state.worth());
                state.change(task, ledger, &[], &[*at]);
                let finished =
                    take_away(task, ledger, exponent, Some(*at), state) && fill(task, ledger, state, &[], exponent);
                if finished && state.is_allowed(task) && state.worth() > worth * (1.0 + TIE) {
                    state.settle();
                } else {
                    state.back(whole);
                }
                if !finished {
                    return false;
                }
            }
        }
        if state.worth() <= before * (1.0 + 1e-9) {
            break;
        }
        if !improve(task, ledger, state, seen) {
            return false;
        }
    }
    true
}

/// Adds the best candidate as long as one helps; first of all, instead of `out`, one that is not in it. Whether it came to
/// its end.
fn fill<P: Planner>(
    task: &Task<'_>,
    ledger: &mut Ledger<'_, P>,
    state: &mut State,
    out: &[usize],
    exponent: f64,
) -> bool {
    let mut candidates: Vec<usize> = if out.is_empty() || task.budget.is_finite() {
        (0..task.choices.len()).filter(|at| !task.served[*at].is_empty()).collect()
    } else {
        // Without a budget to share, only what serves the same statements can gain from a place becoming free.
        task.serving_as(out)
    };
    let mut first = !out.is_empty();
    loop {
        let mut best: Option<(f64, usize)> = None;
        let mut hopeful = Vec::with_capacity(candidates.len());
        for at in candidates {
            if state.contains(at) || state.bytes() + task.choices[at].bytes > task.budget {
                continue;
            }
            if ledger.expired() {
                return false;
            }
            let effect = state.effect(task, ledger, at);
            if effect.gain <= 0.0 || state.harms(effect) {
                continue;
            }
            hopeful.push(at);
            let score = task.density(effect.gain, at, exponent);
            if !(first && out.contains(&at)) && best.is_none_or(|(most, _)| score > most) {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { return true };
        state.change(task, ledger, &[], &[at]);
        first = false;
        candidates = hopeful;
    }
}

/// What may be taken out in one move: nothing, each, every two of a relation.
fn outs(task: &Task<'_>, state: &State) -> Vec<Vec<usize>> {
    let mut outs = vec![Vec::new()];
    outs.extend(state.chosen().iter().map(|at| vec![*at]));
    for (place, a) in state.chosen().iter().enumerate() {
        for b in &state.chosen()[place + 1..] {
            if task.choices[*a].relation == task.choices[*b].relation {
                outs.push(vec![*a, *b]);
            }
        }
    }
    outs
}

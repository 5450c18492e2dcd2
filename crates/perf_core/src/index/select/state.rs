//! The set of candidates under change, and what it does to every statement: kept up to date move by move, so that trying a
//! candidate looks only at the statements that may use it, and a move that does not pay is taken back instead of copied
//! from. Owned by the search; asks the ledger.

use super::super::ledger::{Ledger, Planner, Set};
use super::{Task, WORSE_MAX};

/// What one statement takes with a set of candidates, and what that is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Taken {
    ratio: f64,
    saved: f64,
}

impl Taken {
    /// Not asked yet.
    const UNKNOWN: Taken = Taken { ratio: f64::NAN, saved: f64::NAN };

    fn of(task: &Task<'_>, statement: usize, ratio: f64) -> Taken {
        Taken { ratio, saved: task.saved(statement, ratio) }
    }

    fn is_known(self) -> bool {
        !self.ratio.is_nan()
    }

    fn is_worse(self) -> bool {
        self.ratio > WORSE_MAX
    }
}

/// One statement under the set.
#[derive(Clone)]
struct Line {
    /// Those of the set that it may use.
    set: Set,
    now: Taken,
    /// What it would be with each of the candidates it may use put in or taken out, as far as that was asked; empty when
    /// nothing was asked yet.
    toggled: Vec<Taken>,
}

impl Line {
    /// Notes what one candidate more would make of it, wherever that needs no plan.
    fn look_ahead<P: Planner>(&mut self, task: &Task<'_>, ledger: &Ledger<'_, P>, statement: usize) {
        let mut last = self.now;
        let ratios = ledger.ratios_with_one_more(statement, self.set);
        let taken = ratios.into_iter().map(|ratio| {
            if ratio.is_nan() {
                return Taken::UNKNOWN;
            }
            // Most candidates change nothing: their worth need not be worked out again.
            if ratio != last.ratio {
                last = if ratio == self.now.ratio { self.now } else { Taken::of(task, statement, ratio) };
            }
            last
        });
        self.toggled = taken.collect();
    }
}

/// What a move does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effect {
    /// By how much the set is worth more.
    pub gain: f64,
    /// How many statements more are slowed down beyond [`WORSE_MAX`].
    pub worse: isize,
}

/// A moment to return to.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    lines: usize,
    toggles: usize,
    bytes: f64,
    worth: f64,
    worse: usize,
}

/// A set of candidates and what it does to every statement.
pub(super) struct State {
    chosen: Vec<usize>,
    is_chosen: Vec<bool>,
    lines: Vec<Line>,
    bytes: f64,
    worth: f64,
    /// Statements beyond [`WORSE_MAX`].
    worse: usize,
    /// Lines as they were, and candidates put in or taken out, since the last [`State::settle`].
    old_lines: Vec<(usize, Line)>,
    toggles: Vec<usize>,
}

impl State {
    /// No candidate at all.
    pub(super) fn empty(task: &Task<'_>) -> State {
        let line = Line { set: 0, now: Taken { ratio: 1.0, saved: 0.0 }, toggled: Vec::new() };
        State {
            chosen: Vec::new(),
            is_chosen: vec![false; task.choices.len()],
            lines: vec![line; task.weights.len()],
            bytes: 0.0,
            worth: 0.0,
            worse: 0,
            old_lines: Vec::new(),
            toggles: Vec::new(),
        }
    }

    /// The candidates, sorted.
    pub(super) fn chosen(&self) -> &[usize] {
        &self.chosen
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        self.is_chosen[at]
    }

    pub(super) fn bytes(&self) -> f64 {
        self.bytes
    }

    /// What the set is worth.
    pub(super) fn worth(&self) -> f64 {
        self.worth
    }

    /// Whether it is within the budget and slows nothing down too much.
    pub(super) fn is_allowed(&self, task: &Task<'_>) -> bool {
        self.bytes <= task.budget && self.worse == 0
    }

    /// Whether no statement is too slow after `effect`.
    pub(super) fn harms(&self, effect: Effect) -> bool {
        self.worse.saturating_add_signed(effect.worse) > 0
    }

    /// What putting a candidate in does, or taking it out when it is in.
    pub(super) fn effect<P: Planner>(&mut self, task: &Task<'_>, ledger: &mut Ledger<'_, P>, at: usize) -> Effect {
        let keeping = task.keeping(at);
        let mut effect = Effect { gain: if self.is_chosen[at] { keeping } else { -keeping }, worse: 0 };
        for (statement, place) in &task.served[at] {
            let line = &mut self.lines[*statement];
            if line.toggled.is_empty() {
                line.look_ahead(task, ledger, *statement);
            }
            let then = &mut line.toggled[*place as usize];
            if !then.is_known() {
                *then = Taken::of(task, *statement, ledger.ratio_of(*statement, line.set ^ 1 << place));
            }
            effect.gain += then.saved - line.now.saved;
            effect.worse += isize::from(then.is_worse()) - isize::from(line.now.is_worse());
        }
        effect
    }

    /// Takes `out` out and puts `into` in.
    pub(super) fn change<P: Planner>(
        &mut self,
        task: &Task<'_>,
        ledger: &mut Ledger<'_, P>,
        out: &[usize],
        into: &[usize],
    ) {
        let mut touched: Vec<(usize, Set)> = Vec::new();
        for (at, wanted) in out.iter().map(|at| (*at, false)).chain(into.iter().map(|at| (*at, true))) {
            if self.is_chosen[at] == wanted {
                continue;
            }
            self.toggle(at);
            self.toggles.push(at);
            self.bytes += if wanted { task.choices[at].bytes } else { -task.choices[at].bytes };
            self.worth -= if wanted { task.keeping(at) } else { -task.keeping(at) };
            touched.extend(task.served[at].iter().map(|(statement, place)| (*statement, 1 << place)));
        }
        touched.sort_unstable();
        for of_one in touched.chunk_by(|a, b| a.0 == b.0) {
            let statement = of_one[0].0;
            let line = &mut self.lines[statement];
            let bits = of_one.iter().fold(0, |bits, (_, bit)| bits ^ bit);
            let set = line.set ^ bits;
            let asked = line.toggled.get(bits.trailing_zeros() as usize).filter(|then| then.is_known());
            let now = match asked {
                Some(then) if bits.count_ones() == 1 => *then,
                _ => Taken::of(task, statement, ledger.ratio_of(statement, set)),
            };
            let next = Line { set, now, toggled: Vec::new() };
            self.worth += now.saved - line.now.saved;
            self.worse = self.worse + usize::from(now.is_worse()) - usize::from(line.now.is_worse());
            self.old_lines.push((statement, std::mem::replace(line, next)));
        }
    }

    /// This moment, to return to as long as nothing is settled.
    pub(super) fn mark(&self) -> Mark {
        let (lines, toggles) = (self.old_lines.len(), self.toggles.len());
        Mark { lines, toggles, bytes: self.bytes, worth: self.worth, worse: self.worse }
    }

    /// Takes back all that was changed since `mark`.
    pub(super) fn back(&mut self, mark: Mark) {
        for (statement, line) in self.old_lines.drain(mark.lines..).rev() {
            self.lines[statement] = line;
        }
        while self.toggles.len() > mark.toggles {
            if let Some(at) = self.toggles.pop() {
                self.toggle(at);
            }
        }
        (self.bytes, self.worth, self.worse) = (mark.bytes, mark.worth, mark.worse);
    }

    /// Nothing done so far will be taken back.
    pub(super) fn settle(&mut self) {
        self.old_lines.clear();
        self.toggles.clear();
    }

    fn toggle(&mut self, at: usize) {
        self.is_chosen[at] = !self.is_chosen[at];
        match self.chosen.binary_search(&at) {
            Ok(place) => {
                self.chosen.remove(place);
            }
            Err(place) => self.chosen.insert(place, at),
        }
    }
}

//! What is known of the plans of each statement, so that most questions need no planner.
//!
//! A plan made with the candidates A at hand, which uses only U of them, is also the plan for every set between U and A:
//! the planner takes the cheapest, and what it left aside did not matter. So a few plans answer for very many sets. When a
//! statement's share of planner calls is used up, the cheapest known plan that a set allows stands in for the real one: a
//! bound that never promises too much.

use std::collections::HashMap;

/// Candidates that one statement may use, at most: as many as a set fits into 128 bits.
pub const RELEVANT_MAX: usize = 128;

/// Questions answered without a plan, at most, between two looks at the clock: some microseconds.
const UNWATCHED_MAX: u32 = 100;

/// One plan of a statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The planner's cost.
    pub cost: f64,
    /// What executing it is expected to take, in any unit.
    pub value: f64,
    /// The candidates in the plan.
    pub used: Vec<usize>,
}

/// What stands between the search and the planner.
pub trait Planner {
    /// The plan of `statement` with exactly the candidates `config`, sorted, at hand; None when there is none.
    fn plan(&mut self, statement: usize, config: &[usize]) -> Option<Outcome>;
    /// Whether there is time for a plan; from then on the ledger answers from what it has.
    fn may_plan(&mut self) -> bool;
    /// Whether time is up for the search itself.
    fn expired(&mut self) -> bool;
}

/// A set of candidates, by their places in the statement's list.
pub type Set = u128;

#[derive(Clone, Copy)]
struct Record {
    at_hand: Set,
    used: Set,
    cost: f64,
    value: f64,
}

/// One statement's plans.
struct Page {
    relevant: Vec<usize>,
    places: HashMap<usize, u32>,
    records: Vec<Record>,
    calls: usize,
    calls_max: usize,
    learnt: usize,
}

impl Page {
    fn add_relevant(&mut self, at: usize) {
        if self.relevant.len() < RELEVANT_MAX && !self.places.contains_key(&at) {
            self.places.insert(at, self.relevant.len() as u32);
            self.relevant.push(at);
        }
    }

    fn set(&self, config: &[usize]) -> Set {
        config.iter().filter_map(|at| self.places.get(at)).fold(0, |set, place| set | 1 << place)
    }

    fn members(&self, set: Set) -> Vec<usize> {
        let mut members: Vec<usize> =
            self.relevant.iter().enumerate().filter(|(place, _)| set >> place & 1 == 1).map(|(_, at)| *at).collect();
        members.sort_unstable();
        members
    }

    /// The record whose plan is the plan for `set` too: that made with just this set, else the first that says so.
    fn settled(&self, set: Set) -> Option<usize> {
        let mut found = None;
        for (at, one) in self.records.iter().enumerate() {
            if one.at_hand == set {
                return Some(at);
            }
            if found.is_none() && one.used & !set == 0 && set & !one.at_hand == 0 {
                found = Some(at);
            }
        }
        found
    }

    /// The cheapest known plan that `set` allows.
    fn bound(&self, set: Set) -> usize {
        (0..self.records.len())
            .filter(|at| self.records[*at].used & !set == 0)
            .min_by(|a, b| self.records[*a].cost.total_cmp(&self.records[*b].cost))
            .unwrap_or(0)
    }

    fn ratio(&self, record: usize) -> f64 {
        self.records[record].value / self.records[0].value.max(f64::MIN_POSITIVE)
    }

    fn may_ask(&self) -> bool {
        self.calls < self.calls_max
    }

    /// For each place that is not in `set`, the ratio with the candidate there added, in one look at the records; NaN where
    /// the planner has to be asked, and for what is in `set`.
    fn ratios_with_one_more(&self, set: Set) -> Vec<f64> {
        let mut ratios = vec![f64::NAN; self.relevant.len()];
        let open = !set & all(self.relevant.len());
        // The cheapest that needs nothing new, and of those that need one candidate more; cost and record.
        let (mut cheapest, mut with_one): (_, Vec<(Set, usize)>) = (0, Vec::new());
        let (mut settled, mut exact): (Set, Set) = (0, 0);
        for (at, record) in self.records.iter().enumerate() {
            let missing = record.used & !set;
            if missing.count_ones() > 1 {
                continue;
            }
            if missing == 0 {
                cheapest = if record.cost < self.records[cheapest].cost { at } else { cheapest };
            } else {
                with_one.push((missing, at));
            }
            if set & !record.at_hand == 0 {
                let more = open & record.at_hand;
                let answers = if more.count_ones() == 1 && more & exact == 0 {
                    exact |= more;
                    more
                } else {
                    (if missing == 0 { more } else { missing }) & !settled
                };
                settled |= answers;
                fill(&mut ratios, answers, self.ratio(at));
            }
        }
        if !self.may_ask() {
            fill(&mut ratios, open & !settled, self.ratio(cheapest));
            with_one.sort_by(|a, b| self.records[b.1].cost.total_cmp(&self.records[a.1].cost).then(b.1.cmp(&a.1)));
            for (place, at) in with_one {
                let (one, other) = (self.records[at].cost, self.records[cheapest].cost);
                if one < other || (one == other && at < cheapest) {
                    fill(&mut ratios, place & !settled, self.ratio(at));
                }
            }
        }
        ratios
    }
}

/// The first `count` places.
fn all(count: usize) -> Set {
    if count >= RELEVANT_MAX {
        Set::MAX
    } else {
        (1 << count) - 1
    }
}

/// Writes `value` at all places of `set`.
fn fill(values: &mut [f64], mut set: Set, value: f64) {
    while set != 0 {
        values[set.trailing_zeros() as usize] = value;
        set &= set - 1;
    }
}

/// The plans of all statements.
pub struct Pages {
    pages: Vec<Page>,
}

/// The plans of all statements, with a planner to ask for what is not known.
pub struct Ledger<'a, P: Planner> {
    planner: &'a mut P,
    pages: &'a mut Vec<Page>,
    refused: bool,
    /// How often the clock may still be passed by.
    unwatched: u32,
}

impl Pages {
    /// Opens a page for each statement with its plan without candidates, and how often the planner may be asked.
    pub fn new(statements: impl IntoIterator<Item = (Outcome, usize)>) -> Self {
        let pages = statements
            .into_iter()
            .map(|(base, calls_max)| Page {
                relevant: Vec::new(),
                places: HashMap::new(),
                records: vec![Record { at_hand: 0, used: 0, cost: base.cost, value: base.value }],
                calls: 0,
                calls_max,
                learnt: 0,
            })
            .collect();
        Pages { pages }
    }

    /// Whether the plan of `statement` with `config` at hand is known, and not just a bound.
    pub fn is_known(&self, statement: usize, config: &[usize]) -> bool {
        let page = &self.pages[statement];
        page.settled(page.set(config)).is_some() && config.iter().all(|at| page.places.contains_key(at))
    }

    /// Whether `statement` was planned with exactly `config` at hand. What another plan says of it holds as long as the planner
    /// finds the cheapest plan; that is nearly always, not always.
    pub fn is_planned(&self, statement: usize, config: &[usize]) -> bool {
        let page = &self.pages[statement];
        let set = page.set(config);
        page.records.iter().any(|one| one.at_hand == set) && config.iter().all(|at| page.places.contains_key(at))
    }

    /// Notes a plan of `statement` that was made elsewhere, with `config` at hand. It counts from now on, even where the
    /// ledger has answered otherwise by a bound.
    pub fn learn(&mut self, statement: usize, config: &[usize], outcome: &Outcome) {
        let page = &mut self.pages[statement];
        page.learnt += 1;
        for at in config {
            page.add_relevant(*at);
        }
        let (at_hand, used) = (page.set(config), page.set(&outcome.used));
        // Before all but the plan without candidates: the first that answers counts.
        page.records.insert(1, Record { at_hand, used, cost: outcome.cost, value: outcome.value });
    }

    /// How often the planner was asked in all.
    pub fn calls(&self) -> usize {
        self.pages.iter().map(|page| page.calls + page.learnt).sum()
    }

    /// The ledger for as long as nothing else is asked of the planner.
    pub fn with<'a, P: Planner>(&'a mut self, planner: &'a mut P) -> Ledger<'a, P> {
        Ledger { planner, pages: &mut self.pages, refused: false, unwatched: 0 }
    }
}

impl<P: Planner> Ledger<'_, P> {
    /// Adds candidates that `statement` may use; the first [`RELEVANT_MAX`] count.
    pub fn add_relevant(&mut self, statement: usize, candidates: impl IntoIterator<Item = usize>) {
        for at in candidates {
            self.pages[statement].add_relevant(at);
        }
    }

    /// How many candidates `statement` may use.
    pub fn relevant(&self, statement: usize) -> usize {
        self.pages[statement].relevant.len()
    }

    /// Whether there is time for another plan.
    pub fn may_plan(&mut self) -> bool {
        self.planner.may_plan()
    }

    /// Whether time is up. Looks at the clock after each plan, else now and then.
    pub fn expired(&mut self) -> bool {
        if self.unwatched > 0 {
            self.unwatched -= 1;
            return false;
        }
        let expired = self.planner.expired();
        self.unwatched = if expired { 0 } else { UNWATCHED_MAX };
        expired
    }

    /// Whether a plan was wanted when there was no time for it any more.
    pub fn lacked_time(&self) -> bool {
        self.refused
    }

    /// The candidates in the plan of `statement` with `config` at hand, and its cost in relation to that without any.
    pub fn plan(&mut self, statement: usize, config: &[usize]) -> (Vec<usize>, f64) {
        let set = self.pages[statement].set(config);
        let at = self.record(statement, set);
        let page = &self.pages[statement];
        let record = &page.records[at];
        (page.members(record.used), record.cost / page.records[0].cost.max(f64::MIN_POSITIVE))
    }

    /// What executing `statement` takes with `config` at hand, in relation to without any candidate.
    pub fn ratio(&mut self, statement: usize, config: &[usize]) -> f64 {
        let set = self.pages[statement].set(config);
        self.ratio_of(statement, set)
    }

    /// The place of a candidate in the list of `statement`; None when the statement never uses it.
    pub fn place(&self, statement: usize, candidate: usize) -> Option<u32> {
        self.pages[statement].places.get(&candidate).copied()
    }

    /// [`Self::ratio`] for a set of places.
    pub fn ratio_of(&mut self, statement: usize, set: Set) -> f64 {
        let at = self.record(statement, set);
        self.pages[statement].ratio(at)
    }

    /// [`Self::ratio_of`] `set` with each of the other places added; NaN where the planner has to be asked, and for the
    /// places in `set`.
    pub fn ratios_with_one_more(&self, statement: usize, set: Set) -> Vec<f64> {
        self.pages[statement].ratios_with_one_more(set)
    }

    fn record(&mut self, statement: usize, set: Set) -> usize {
        let page = &mut self.pages[statement];
        if let Some(at) = page.settled(set) {
            return at;
        }
        if !page.may_ask() {
            return page.bound(set);
        }
        if !self.planner.may_plan() {
            self.refused = true;
            return page.bound(set);
        }
        page.calls += 1;
        self.unwatched = 0;
        let members = page.members(set);
        let record = match self.planner.plan(statement, &members) {
            Some(outcome) => {
                let used = page.set(&outcome.used);
                Record { at_hand: set, used, cost: outcome.cost, value: outcome.value }
            }
            // Nobody asks for it again.
            None => Record { at_hand: set, ..page.records[page.bound(set)] },
        };
        page.records.push(record);
        page.records.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every candidate has a cost; the cheapest at hand is taken, 100 without any.
    struct Cheapest {
        costs: Vec<f64>,
        calls: usize,
    }

    impl Planner for Cheapest {
        fn plan(&mut self, _: usize, config: &[usize]) -> Option<Outcome> {
            self.calls += 1;
            let best = config.iter().copied().min_by(|a, b| self.costs[*a].total_cmp(&self.costs[*b]));
            let used: Vec<usize> = best.into_iter().filter(|at| self.costs[*at] < 100.0).collect();
            let cost = used.first().map_or(100.0, |at| self.costs[*at]);
            Some(Outcome { cost, value: cost, used })
        }
        fn may_plan(&mut self) -> bool {
            true
        }
        fn expired(&mut self) -> bool {
            false
        }
    }

    fn base() -> Outcome {
        Outcome { cost: 100.0, value: 100.0, used: vec![] }
    }

    #[test]
    fn one_plan_answers_for_all_sets_between() {
        let mut planner = Cheapest { costs: vec![50.0, 20.0, 70.0, 90.0], calls: 0 };
        let mut pages = Pages::new([(base(), 10)]);
        let mut ledger = pages.with(&mut planner);
        ledger.add_relevant(0, 0..4);
        assert_eq!(ledger.plan(0, &[0, 1, 2, 3]), (vec![1], 0.2));
        for config in [&[1][..], &[0, 1], &[1, 2, 3]] {
            assert_eq!(ledger.ratio(0, config), 0.2);
        }
        assert_eq!(pages.calls(), 1);
        assert_eq!(pages.with(&mut planner).ratio(0, &[0, 2]), 0.5);
        assert_eq!(pages.calls(), 2);
    }

    #[test]
    fn what_was_learnt_counts() {
        let mut planner = Cheapest { costs: vec![50.0, 20.0], calls: 0 };
        let mut pages = Pages::new([(base(), 0)]);
        pages.with(&mut planner).add_relevant(0, [0]);
        assert_eq!(pages.with(&mut planner).ratio(0, &[0, 1]), 1.0);
        pages.learn(0, &[0, 1], &Outcome { cost: 20.0, value: 130.0, used: vec![1] });
        assert_eq!(pages.with(&mut planner).ratio(0, &[0, 1]), 1.3);
        assert_eq!(pages.with(&mut planner).ratio(0, &[1]), 1.3);
        assert_eq!(pages.with(&mut planner).ratio(0, &[0]), 1.0);
        assert!(pages.is_planned(0, &[0, 1]) && !pages.is_planned(0, &[1]) && !pages.is_planned(0, &[0, 1, 2]));
    }

    #[test]
    fn candidates_of_other_statements_cost_no_call() {
        let mut planner = Cheapest { costs: vec![50.0, 20.0], calls: 0 };
        let mut pages = Pages::new([(base(), 10)]);
        let mut ledger = pages.with(&mut planner);
        ledger.add_relevant(0, [0]);
        assert_eq!(ledger.ratio(0, &[1]), 1.0);
        assert_eq!(pages.calls(), 0);
    }

    proptest! {
        #[test]
        fn never_promises_more_than_the_planner(
            costs in prop::collection::vec(1.0f64..150.0, 1..10),
            configs in prop::collection::vec(prop::collection::btree_set(0usize..10, 0..10), 1..40),
            calls_max in 0usize..30,
        ) {
            let mut oracle = Cheapest { costs: costs.clone(), calls: 0 };
            let mut planner = Cheapest { costs: costs.clone(), calls: 0 };
            let mut pages = Pages::new([(base(), calls_max)]);
            pages.with(&mut planner).add_relevant(0, 0..costs.len());
            for config in configs {
                let config: Vec<usize> = config.into_iter().filter(|at| *at < costs.len()).collect();
                let exact = oracle.plan(0, &config).map_or(1.0, |outcome| outcome.value / 100.0);
                let told = pages.with(&mut planner).ratio(0, &config);
                prop_assert!(told >= exact - 1e-12 && told <= 1.0 + 1e-12);
                if pages.calls() < calls_max {
                    prop_assert!((told - exact).abs() < 1e-12);
                }
            }
            prop_assert!(pages.calls() <= calls_max);
        }

        #[test]
        fn one_look_tells_what_each_question_would(
            plans in prop::collection::vec(
                (prop::collection::btree_set(0usize..6, 0..6), 0usize..64, 1u32..4, 1u32..4, any::<bool>()), 0..12),
            config in prop::collection::btree_set(0usize..6, 0..6),
            calls_max in 0usize..2,
        ) {
            let mut planner = Cheapest { costs: vec![50.0, 20.0, 70.0, 90.0, 120.0, 10.0], calls: 0 };
            let mut pages = Pages::new([(base(), calls_max)]);
            pages.with(&mut planner).add_relevant(0, 0..6);
            for (at_hand, used, cost, value, learnt) in plans {
                let at_hand: Vec<usize> = at_hand.into_iter().collect();
                let used = at_hand.iter().copied().filter(|at| used >> at & 1 == 1).collect();
                let (cost, value) = (f64::from(cost), f64::from(value));
                if learnt {
                    pages.learn(0, &at_hand, &Outcome { cost, value, used });
                } else {
                    pages.with(&mut planner).ratio(0, &at_hand);
                }
            }
            let set = config.iter().fold(0, |set, at| set | 1 << at);
            let ratios = pages.with(&mut planner).ratios_with_one_more(0, set);
            for (at, told) in ratios.into_iter().enumerate() {
                if config.contains(&at) {
                    prop_assert!(told.is_nan());
                    continue;
                }
                let before = pages.calls();
                let ratio = pages.with(&mut planner).ratio_of(0, set | 1 << at);
                if told.is_nan() {
                    prop_assert!(pages.calls() > before);
                    // That plan may answer for others too.
                    break;
                }
                prop_assert_eq!(told, ratio);
                prop_assert_eq!(pages.calls(), before);
            }
        }
    }
}

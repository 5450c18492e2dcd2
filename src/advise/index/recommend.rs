//! From a workload to index recommendations: study, candidates, selection, evidence. Called by the SQL function; plans only,
//! so it changes nothing and leaves nothing locked.

use std::collections::hash_map::Entry;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use perf_core::index::ledger::{Outcome as PlanOutcome, Pages};
use perf_core::index::select::{best_of, select, Selection, Storage, WORSE_MAX};
use perf_core::index::{keys_cover, Candidate};
use pgrx::pg_sys;

use super::policy::{self, Resolved};
use super::pool::{self, is_covered, Oracle, Pool, IMPROVED};
use super::rows::{self, Gain, Recommendation};
use super::study::{self, Known, Study};
use super::upkeep;
use crate::error::Error;
use crate::pg::planner::{Deadline, Planned, UsedIndex};
use crate::workload::queries::Workload;

/// Share of the time budget that the baseline may take.
const STUDY_SHARE: f64 = 0.4;
/// Share of the time budget after which no more candidates are tried one statement at a time; the heaviest come first.
const SHORTLIST_SHARE: f64 = 0.65;
/// Share of the time budget after which the search makes do with the plans it has, and after which it ends: what it found is
/// still to be confirmed with real plans.
const SEARCH_SHARES: (f64, f64) = (0.8, 0.85);
/// Share of the time budget after which existing indexes are judged no further; the search has the rest.
const UPKEEP_SHARE: f64 = 0.5;

/// How often to select at most, each time with what the real plans of the last selection taught: indexes that look alike
/// do the same harm one after the other. Mostly it takes fewer than ten.
const SELECTIONS_MAX: usize = 20;
/// Planner calls in all, a statement on average.
const CALLS_MEAN_MAX: usize = 25;
/// Share of the time budget after which no index gives way to one of the policy any more.
const POLICY_SHARE: f64 = 0.9;

/// How to search.
pub struct Options {
    /// When the call began.
    pub started: Instant,
    /// When the search ends.
    pub deadline: Instant,
    /// Bytes for all recommended indexes together.
    pub budget_bytes: Option<f64>,
    /// Policy rows without their table too.
    pub include_inapplicable: bool,
}

impl Options {
    /// Everything that can be found within some time, from now.
    pub fn within(budget: Duration) -> Options {
        let started = Instant::now();
        Options { started, deadline: started + budget, budget_bytes: None, include_inapplicable: true }
    }
}

/// Rows and what the user should be told besides.
pub struct Outcome {
    /// The answer, best first.
    pub rows: Vec<Recommendation>,
    /// One line each.
    pub notices: Vec<String>,
}

/// Recommends indexes for `workload` and judges every row of the policy.
pub fn run(workload: &Workload, options: &Options) -> Result<Outcome, Error> {
    let _limit = Deadline::set(options.deadline);
    let budget = options.deadline.saturating_duration_since(options.started);
    let mut study = study::run(workload, options.started + budget.mul_f64(STUDY_SHARE))?;
    let cases = policy::cases()?;
    for case in &cases {
        if let Resolved::Index(relation, _) = &case.resolved {
            if let Entry::Vacant(place) = study.relations.entry(relation.oid.to_u32()) {
                if let Ok(known) = Known::read(relation.oid, &study.expressions) {
                    place.insert(known);
                }
            }
        }
    }
    let upkeep = upkeep::run(workload, &mut study, &cases, options.started + budget.mul_f64(UPKEEP_SHARE))?;
    let at = |share: f64| options.started + budget.mul_f64(share);
    let mut pool = Pool::of(&study, workload, at(SHORTLIST_SHARE));
    for (at, case) in cases.iter().enumerate() {
        if let Resolved::Index(_, candidate) = &case.resolved {
            if study.relations.get(&candidate.relation).is_some_and(|known| !is_covered(known, candidate)) {
                pool.add(&study, workload, candidate.clone(), Some(at));
            }
        }
    }
    let mut pages = opened(&study);
    let mut shortlist = {
        let mut oracle = Oracle::until(&study, &pool, at(SHORTLIST_SHARE));
        pool.shortlist(&study, &mut pages.with(&mut oracle))
    };
    let hurried = Instant::now() >= at(SHORTLIST_SHARE);
    pool.add_merged(&study, workload, &mut shortlist);
    let choices = pool.choices(&shortlist);
    let weights: Vec<f64> = study.statements.iter().map(|statement| statement.weight).collect();
    let (plan_until, deadline) = (at(SEARCH_SHARES.0), at(SEARCH_SHARES.1));
    let mut oracle = Oracle { study: &study, pool: &pool, plan_until, deadline };
    let mut ledger = pages.with(&mut oracle);
    for (at, choice) in choices.iter().enumerate() {
        for statement in &choice.statements {
            if ledger.relevant(*statement) < pool::relevant_max(&study.statements[*statement]) {
                ledger.add_relevant(*statement, [at]);
            }
        }
    }
    let storage = Storage { budget: options.budget_bytes, data: study.relations.values().map(Known::bytes).sum() };
    let mut selection = select(&weights, &choices, &shortlist.bundles, storage, &[], &mut ledger);
    // The first choice rests on few plans. Each set is planned with for real, and the next choice knows those plans, until
    // it is one that was planned with. One more plan of each statement confirms the last.
    let calls_max = (CALLS_MEAN_MAX * study.statements.len()).saturating_sub(study.calls + study.statements.len());
    let mut sets: Vec<Vec<usize>> = Vec::new();
    loop {
        let is_new = !sets.contains(&selection.chosen);
        if is_new {
            sets.push(std::mem::take(&mut selection.chosen));
        }
        let mut judge = Judge { study: &study, pool: &pool, pages: &mut pages, deadline };
        let learnt = is_new && sets.last().is_some_and(|chosen| judge.learn(chosen, calls_max));
        let mut oracle = Oracle { study: &study, pool: &pool, plan_until, deadline };
        let mut ledger = pages.with(&mut oracle);
        let best = best_of(&weights, &choices, storage, &sets, &mut ledger);
        let late = Instant::now() >= deadline;
        let last = late || !learnt || sets.len() >= SELECTIONS_MAX;
        let next = if last {
            best
        } else {
            select(&weights, &choices, &shortlist.bundles, storage, &best.chosen, &mut ledger)
        };
        selection = Selection { cut_short: late || selection.cut_short || next.cut_short, ..next };
        if last {
            break;
        }
    }
    let mut judge = Judge { study: &study, pool: &pool, pages: &mut pages, deadline: options.deadline };
    judge.prefer_policy(&mut selection, storage.planned(), at(POLICY_SHARE));
    judge.drop_parts(&mut selection);
    let plans = judge.confirmed(&mut selection);
    // The evidence names the indexes.
    rows::name_all(&mut pool, &study, &selection.chosen);
    let mut judge = Judge { study: &study, pool: &pool, pages: &mut pages, deadline: options.deadline };
    let gains = judge.gains(&selection, &plans);
    let alone = judge.alone(&selection);
    let calls = pages.calls() + study.calls;
    if selection.cut_short || study.cut_short || hurried {
        study
            .notices
            .push("the time budget ran out: this is the best found so far; raise time_budget_ms for more".to_owned());
    }
    pgrx::debug1!(
        "perf_opt planned {} statements {calls} times for {} candidates, {} of them on the shortlist",
        study.statements.len(),
        pool.entries.len(),
        shortlist.places.len()
    );
    let mut rows =
        rows::make(&rows::Findings { workload, study: &study, pool: &pool, cases: &cases, gains, alone, options });
    let used: HashSet<pg_sys::Oid> = plans
        .iter()
        .flatten()
        .flat_map(|confirmed| &confirmed.plan.scans)
        .flat_map(|scan| &scan.indexes)
        .filter_map(|index| match index {
            UsedIndex::Real(oid) => Some(*oid),
            UsedIndex::Hypothetical(_) => None,
        })
        .chain(rows.iter().flat_map(|row| row.existing.iter().copied()))
        .collect();
    let upkeep: Vec<Recommendation> = upkeep.into_iter().filter(|row| agrees(row, &rows, &used)).collect();
    // What to do comes before what is as the policy wants it.
    let todo = rows.iter().take_while(|row| ["recommended", "building"].contains(&row.status)).count();
    rows.splice(todo..todo, upkeep);
    Ok(Outcome { rows, notices: study.notices })
}

/// Whether advice on an existing index goes together with the other rows: an index that they keep or that their plans use is
/// not dropped, and a failed one is not rebuilt where they make one in its place. Plans use the parts of a partitioned index.
fn agrees(advice: &Recommendation, rows: &[Recommendation], used: &HashSet<pg_sys::Oid>) -> bool {
    match advice.action {
        "drop" => !advice.existing.iter().any(|index| used.contains(index)),
        "reindex" if advice.size_bytes.is_none() => !rows.iter().any(|row| {
            row.status == "recommended"
                && row.relation == advice.relation
                && row.columns == advice.columns
                && row.access_method == advice.access_method
        }),
        _ => true,
    }
}

/// The ledger's pages, with the plans of today.
fn opened(study: &Study) -> Pages {
    let allowed = pool::calls_allowed(study);
    Pages::new(study.statements.iter().zip(allowed).map(|(statement, calls)| {
        let base = &statement.base;
        (PlanOutcome { cost: base.total_cost, value: study.time_of(base), used: Vec::new() }, calls)
    }))
}

/// The plan that a statement has with the chosen indexes.
struct Confirmed {
    plan: Planned,
    /// The candidates that it was made with.
    config: Vec<usize>,
}

/// What is known of a statement with a set of candidates: how long it may take in relation to today, and what its plan uses.
struct Verdict {
    ratio: f64,
    used: Vec<usize>,
}

/// A wider index of the policy in place of a chosen index that is its beginning may lose this share of what that one saves.
const POLICY_TOLERANCE: f64 = 0.02;

/// Looks at what was selected.
struct Judge<'a> {
    study: &'a Study,
    pool: &'a Pool,
    pages: &'a mut Pages,
    deadline: Instant,
}

impl Confirmed {
    fn uses(&self, candidates: &[usize]) -> bool {
        pool::used(&self.plan, &self.config).iter().any(|at| candidates.contains(at))
    }
}

impl Judge<'_> {
    fn oracle(&self) -> Oracle<'_> {
        Oracle::until(self.study, self.pool, self.deadline)
    }

    /// Those of `config` that might serve a statement.
    fn relevant(&self, statement: usize, config: &[usize]) -> Vec<usize> {
        config.iter().copied().filter(|at| self.pool.entries[*at].statements.contains(&statement)).collect()
    }

    /// What a statement takes with `config`, in relation to without; from the ledger as long as it can.
    fn ratio(&mut self, statement: usize, config: &[usize]) -> f64 {
        let mut oracle = Oracle::until(self.study, self.pool, self.deadline);
        self.pages.with(&mut oracle).ratio(statement, config)
    }

    /// Where the policy wants an index that begins with a chosen one and the workload is served as well by it, takes the
    /// policy's: it is what the owner asked for, and the one index serves both.
    fn prefer_policy(&mut self, selection: &mut Selection, budget: f64, until: Instant) {
        for wanted in (0..self.pool.entries.len()).filter(|at| !self.pool.entries[*at].policy.is_empty()) {
            if Instant::now() >= until {
                return;
            }
            let (beginnings, own): (Vec<usize>, Vec<usize>) =
                selection.chosen.iter().partition(|at| self.begins(**at, wanted));
            if beginnings.is_empty() || selection.chosen.contains(&wanted) {
                continue;
            }
            let mut instead = own.clone();
            instead.push(wanted);
            instead.sort_unstable();
            let bytes: f64 = instead.iter().map(|at| self.pool.entries[*at].index.bytes).sum();
            if bytes > budget {
                continue;
            }
            let (now, then) = (self.saved_by(&selection.chosen), self.saved_by(&instead));
            let without = self.saved_by(&own);
            let touched = self.pool.entries[wanted].statements.clone();
            let harms = touched.into_iter().any(|statement| self.ratio(statement, &instead) > WORSE_MAX);
            if !harms && then >= now - POLICY_TOLERANCE * (now - without).max(0.0) {
                selection.chosen = instead;
            }
        }
    }

    /// Gives up an index on a partition that an index chosen for its parent brings along.
    fn drop_parts(&self, selection: &mut Selection) {
        let chosen = selection.chosen.clone();
        selection.chosen.retain(|part| !chosen.iter().any(|whole| self.brings(*whole, *part)));
    }

    /// Whether candidate `whole` is on a partitioned table and has the same columns as `part`, on one of its partitions.
    fn brings(&self, whole: usize, part: usize) -> bool {
        let (whole, part) = (&self.pool.entries[whole].candidate, &self.pool.entries[part].candidate);
        let (Some(above), Some(below)) =
            (self.study.relations.get(&whole.relation), self.study.relations.get(&part.relation))
        else {
            return false;
        };
        let names = |known: &Known, candidate: &Candidate| -> Option<Vec<String>> {
            let named = |column: i16| known.relation.column(column).map(|column| column.name.clone());
            candidate.keys.iter().map(|key| named(key.column()?)).collect()
        };
        above.leaves.iter().any(|leaf| leaf.oid == below.relation.oid)
            && whole.kind == part.kind
            && whole.predicate.is_none()
            && part.include.is_empty()
            && names(below, part).is_some_and(|wanted| {
                names(above, whole)
                    .is_some_and(|columns| columns.len() >= wanted.len() && columns[..wanted.len()] == wanted)
            })
    }

    /// Whether candidate `short` is the beginning of candidate `long`.
    fn begins(&self, short: usize, long: usize) -> bool {
        let (short, long) = (&self.pool.entries[short].candidate, &self.pool.entries[long].candidate);
        // INCLUDE columns aside: the comparison of what both save takes care of them.
        short.relation == long.relation
            && short.kind == long.kind
            && short.predicate.is_none()
            && short.keys.len() < long.keys.len() + usize::from(!short.include.is_empty())
            && keys_cover(&long.keys, &short.keys)
    }

    /// What a set of candidates saves of the workload, net of what the writes pay.
    fn saved_by(&mut self, chosen: &[usize]) -> f64 {
        let mut saved = -chosen.iter().filter_map(|at| self.pool.entries[*at].write_cost).sum::<f64>();
        for (number, statement) in self.study.statements.iter().enumerate() {
            if !self.relevant(number, chosen).is_empty() {
                saved += statement.weight * (1.0 - self.ratio(number, chosen));
            }
        }
        saved
    }

    /// Plans the statements that were not planned with just these indexes yet, and tells the ledger; whether there was one, and
    /// time and calls for all.
    fn learn(&mut self, chosen: &[usize], calls_max: usize) -> bool {
        let mut learnt = false;
        for number in 0..self.study.statements.len() {
            let relevant = self.relevant(number, chosen);
            if relevant.is_empty() || self.pages.is_planned(number, &relevant) {
                continue;
            }
            if Instant::now() >= self.deadline || self.pages.calls() >= calls_max {
                return false;
            }
            learnt |= self.learnt(number, &relevant).is_some();
        }
        learnt
    }

    /// The plan of a statement with `config`, which the ledger is told of; None when it cannot be made.
    fn learnt(&mut self, number: usize, config: &[usize]) -> Option<(Planned, Verdict)> {
        let plan = self.oracle().planned(number, config)?;
        let (value, used) = (self.study.judged(number, &plan), pool::used(&plan, config));
        let outcome = PlanOutcome { cost: plan.total_cost, value, used: used.clone() };
        self.pages.learn(number, config, &outcome);
        let ratio = value / self.study.time_of(&self.study.statements[number].base);
        Some((plan, Verdict { ratio, used }))
    }

    /// What the ledger knows for sure, without asking the planner.
    fn known(&mut self, number: usize, config: &[usize]) -> Option<Verdict> {
        if !self.pages.is_known(number, config) {
            return None;
        }
        let mut oracle = Oracle::until(self.study, self.pool, self.deadline);
        let mut ledger = self.pages.with(&mut oracle);
        Some(Verdict { ratio: ledger.ratio(number, config), used: ledger.plan(number, config).0 })
    }

    /// Plans every statement with the chosen indexes, whatever the ledger says, and gives up an index that makes one take
    /// longer than allowed. Where a statement cannot be planned, because its tables are locked now or time is up, what the
    /// ledger knows counts; where that knows nothing, the indexes that might serve the statement are given up: nobody can
    /// say that they do no harm.
    fn confirmed(&mut self, selection: &mut Selection) -> Vec<Option<Confirmed>> {
        let mut plans: Vec<Option<Confirmed>> = (0..self.study.statements.len()).map(|_| None).collect();
        let mut stale: Vec<usize> = (0..plans.len()).collect();
        while !stale.is_empty() {
            for number in std::mem::take(&mut stale) {
                let relevant = self.relevant(number, &selection.chosen);
                plans[number] = None;
                if relevant.is_empty() {
                    continue;
                }
                let is_late = Instant::now() >= self.deadline;
                selection.cut_short |= is_late;
                let learnt = if is_late { None } else { self.learnt(number, &relevant) };
                let (plan, verdict) = match learnt {
                    Some((plan, verdict)) => (Some(plan), Some(verdict)),
                    None => (None, self.known(number, &relevant)),
                };
                let given_up = match verdict {
                    None => relevant,
                    Some(verdict) if verdict.ratio > WORSE_MAX => self.guilty(&verdict.used),
                    Some(_) => {
                        plans[number] = plan.map(|plan| Confirmed { plan, config: relevant });
                        continue;
                    }
                };
                selection.chosen.retain(|at| !given_up.contains(at));
                // A plan that uses none of them stays what it is without them.
                stale.extend(
                    given_up
                        .iter()
                        .flat_map(|at| &self.pool.entries[*at].statements)
                        .filter(|number| plans[**number].as_ref().is_none_or(|confirmed| confirmed.uses(&given_up))),
                );
            }
            stale.sort_unstable();
            stale.dedup();
        }
        plans
    }

    /// Of the indexes in a plan that does harm, the one that serves the fewest statements.
    fn guilty(&self, used: &[usize]) -> Vec<usize> {
        used.iter().copied().min_by_key(|at| self.pool.entries[*at].statements.len()).into_iter().collect()
    }

    /// What each chosen candidate contributes. A statement whose plan uses several shares its gain among them by what it
    /// would lose without each.
    fn gains(&mut self, selection: &Selection, plans: &[Option<Confirmed>]) -> Vec<(usize, Gain)> {
        let mut gains: Vec<(usize, Gain)> = selection.chosen.iter().map(|at| (*at, Gain::default())).collect();
        for (number, statement) in self.study.statements.iter().enumerate() {
            let Some(Confirmed { plan: after, config: relevant }) = &plans[number] else { continue };
            let used = pool::used(after, relevant);
            let ratio = self.study.time_of(after) / self.study.time_of(&statement.base);
            if used.is_empty() || ratio > IMPROVED {
                continue;
            }
            let saved = statement.weight * (1.0 - ratio);
            let losses: Vec<f64> = used
                .iter()
                .map(|at| {
                    let rest: Vec<usize> = relevant.iter().copied().filter(|other| other != at).collect();
                    let without = if used.len() == 1 { 1.0 } else { self.ratio(number, &rest) };
                    (without - ratio).max(0.0)
                })
                .collect();
            let sum: f64 = losses.iter().sum();
            for (at, loss) in used.iter().zip(&losses) {
                let share = if sum > 0.0 { loss / sum } else { 1.0 / used.len() as f64 };
                if let Some((_, gain)) = gains.iter_mut().find(|(chosen, _)| chosen == at) {
                    gain.saved += saved * share;
                    gain.statements.push((number, rows::change(self.study, self.pool, number, relevant, after)));
                }
            }
        }
        gains
    }

    /// What each policy candidate that was not chosen would save on its own, as a share of the workload; None when time is
    /// up, or a statement that it might serve cannot be planned.
    fn alone(&mut self, selection: &Selection) -> Vec<(usize, Option<f64>)> {
        let pool = self.pool;
        (0..pool.entries.len())
            .filter(|at| !pool.entries[*at].policy.is_empty() && !selection.chosen.contains(at))
            .map(|at| {
                let mut saved = 0.0;
                for number in &pool.entries[at].statements {
                    if Instant::now() >= self.deadline {
                        return (at, None);
                    }
                    // The ledger's answer may be a bound, and says then that the index is of less use than it is.
                    let verdict = match self.known(*number, &[at]) {
                        Some(verdict) => Some(verdict),
                        None => self.learnt(*number, &[at]).map(|(_, verdict)| verdict),
                    };
                    let Some(verdict) = verdict else { return (at, None) };
                    saved += self.study.statements[*number].weight * (1.0 - verdict.ratio.min(1.0));
                }
                (at, Some(saved / self.study.total_weight.max(f64::MIN_POSITIVE)))
            })
            .collect()
    }
}

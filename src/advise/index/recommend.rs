//! From a workload to index recommendations: study, candidates, selection, evidence. Called by the SQL function; plans only,
//! so it changes nothing and leaves nothing locked.

use std::collections::hash_map::Entry;
use std::time::Instant;

use perf_core::index::select::{select, CostOracle, Selection, Statement as Weighed};

use super::policy::{self, PolicyRow, Resolved};
use super::pool::{is_covered, Planner, Pool, IMPROVED};
use super::rows::{self, Gain, Recommendation};
use super::study::{self, Known, Study};
use super::upkeep;
use crate::error::Error;
use crate::pg::hypothetical::Hypothetical;
use crate::pg::planner::{Configuration, Planned, UsedIndex};
use crate::workload::queries::Workload;

/// Share of the time budget that the baseline may take.
const STUDY_SHARE: f64 = 0.4;
/// Share of the time budget after which existing indexes are judged no further; the search has the rest.
const UPKEEP_SHARE: f64 = 0.6;

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

/// Rows and what the user should be told besides.
pub struct Outcome {
    /// The answer, best first.
    pub rows: Vec<Recommendation>,
    /// One line each.
    pub notices: Vec<String>,
}

/// A policy row with what it means here.
pub struct PolicyCase {
    /// As written.
    pub row: PolicyRow,
    /// As resolved.
    pub resolved: Resolved,
}

/// Recommends indexes for `workload` and judges every row of the policy.
pub fn run(workload: &Workload, options: &Options) -> Result<Outcome, Error> {
    let budget = options.deadline.saturating_duration_since(options.started);
    let mut study = study::run(workload, options.started + budget.mul_f64(STUDY_SHARE))?;
    let cases: Vec<PolicyCase> =
        policy::read()?.into_iter().map(|row| PolicyCase { resolved: policy::resolve(&row), row }).collect();
    for case in &cases {
        if let Resolved::Index(relation, _) = &case.resolved {
            if let Entry::Vacant(place) = study.relations.entry(relation.oid.to_u32()) {
                if let Ok(known) = Known::read(relation.oid) {
                    place.insert(known);
                }
            }
        }
    }
    let upkeep = upkeep::run(workload, &mut study, &cases, options.started + budget.mul_f64(UPKEEP_SHARE))?;
    let mut pool = Pool::of(&study, workload, options.deadline);
    for (at, case) in cases.iter().enumerate() {
        if let Resolved::Index(_, candidate) = &case.resolved {
            if study.relations.get(&candidate.relation).is_some_and(|known| !is_covered(known, candidate)) {
                pool.add(&study, workload, candidate.clone(), Some(at));
            }
        }
    }
    let statements: Vec<Weighed> = study
        .statements
        .iter()
        .map(|statement| Weighed { weight: statement.weight, cost: statement.base.total_cost })
        .collect();
    let mut planner = Planner { study: &study, pool: &pool, deadline: options.deadline };
    let mut selection = select(&statements, &pool.choices(), &pool.bundles, options.budget_bytes, &mut planner);
    prefer_policy(&mut selection, &study, &pool, options.budget_bytes, &mut planner);
    if selection.cut_short || study.cut_short {
        study
            .notices
            .push("the time budget ran out: this is the best found so far; raise time_budget_ms for more".to_owned());
    }
    rows::name_all(&mut pool, &study, &selection.chosen);
    let gains = gains(&study, &pool, &selection);
    let alone = alone(&study, &pool, &selection, options.deadline);
    let mut rows =
        rows::make(&rows::Findings { workload, study: &study, pool: &pool, cases: &cases, gains, alone, options });
    // What to do comes before what is as the policy wants it.
    let todo = rows.iter().take_while(|row| row.status == "recommended").count();
    rows.splice(todo..todo, upkeep);
    Ok(Outcome { rows, notices: study.notices })
}

/// A wider index of the policy in place of a chosen index that is its beginning may lose this share of what that one saves.
const POLICY_TOLERANCE: f64 = 0.02;

/// Where the policy wants an index that begins with a chosen one and the workload is served as well by it, takes the
/// policy's: it is what the owner asked for, and the one index serves both.
fn prefer_policy(
    selection: &mut Selection,
    study: &Study,
    pool: &Pool,
    budget_bytes: Option<f64>,
    planner: &mut Planner,
) {
    let choices = pool.choices();
    for wanted in (0..pool.entries.len()).filter(|at| !pool.entries[*at].policy.is_empty()) {
        if planner.expired() {
            return;
        }
        let beginnings: Vec<usize> = selection.chosen.iter().copied().filter(|at| begins(pool, *at, wanted)).collect();
        if beginnings.is_empty() || selection.chosen.contains(&wanted) {
            continue;
        }
        let mut instead: Vec<usize> = selection.chosen.iter().copied().filter(|at| !beginnings.contains(at)).collect();
        instead.push(wanted);
        instead.sort_unstable();
        let bytes: f64 = instead.iter().map(|at| choices[*at].bytes).sum();
        if budget_bytes.is_some_and(|budget| bytes > budget) {
            continue;
        }
        let (Some(now), Some(then)) =
            (saved_by(study, pool, &selection.chosen, planner), saved_by(study, pool, &instead, planner))
        else {
            return;
        };
        let own: Vec<usize> = selection.chosen.iter().copied().filter(|at| !beginnings.contains(at)).collect();
        let Some(without) = saved_by(study, pool, &own, planner) else { return };
        if then >= now - POLICY_TOLERANCE * (now - without).max(0.0) {
            selection.chosen = instead;
        }
    }
}

/// Whether candidate `short` is the beginning of candidate `long`.
fn begins(pool: &Pool, short: usize, long: usize) -> bool {
    let (short, long) = (&pool.entries[short].candidate, &pool.entries[long].candidate);
    short.relation == long.relation && short.keys.len() < long.keys.len() && long.keys.starts_with(&short.keys)
}

/// What a set of candidates saves of the workload, net of what the writes pay; None when time is up.
fn saved_by(study: &Study, pool: &Pool, chosen: &[usize], planner: &mut Planner) -> Option<f64> {
    let mut saved = 0.0;
    for (number, statement) in study.statements.iter().enumerate() {
        let relevant: Vec<usize> =
            chosen.iter().copied().filter(|at| pool.entries[*at].statements.contains(&number)).collect();
        if relevant.is_empty() {
            continue;
        }
        if planner.expired() {
            return None;
        }
        let cost = planner.cost(number, &relevant)?;
        saved += statement.weight * (1.0 - cost / statement.base.total_cost.max(f64::MIN_POSITIVE));
    }
    let writes: f64 = chosen.iter().filter_map(|at| pool.entries[*at].write_cost).sum();
    Some(saved - writes)
}

/// What each chosen candidate contributes. A statement whose plan uses several shares its gain among them by what it would
/// lose without each.
fn gains(study: &Study, pool: &Pool, selection: &Selection) -> Vec<(usize, Gain)> {
    let mut gains: Vec<(usize, Gain)> = selection.chosen.iter().map(|at| (*at, Gain::default())).collect();
    for (number, statement) in study.statements.iter().enumerate() {
        let relevant: Vec<usize> =
            selection.chosen.iter().copied().filter(|at| pool.entries[*at].statements.contains(&number)).collect();
        let Some(after) = (!relevant.is_empty()).then(|| planned(study, pool, number, &relevant)).flatten() else {
            continue;
        };
        let before = statement.base.total_cost;
        if after.total_cost > before * IMPROVED {
            continue;
        }
        let mut used: Vec<usize> = after
            .scans
            .iter()
            .flat_map(|scan| &scan.indexes)
            .filter_map(|index| match index {
                UsedIndex::Hypothetical(place) => relevant.get(*place).copied(),
                UsedIndex::Real(_) => None,
            })
            .collect();
        used.sort_unstable();
        used.dedup();
        let saved = statement.weight * (1.0 - after.total_cost / before);
        let losses: Vec<f64> = used
            .iter()
            .map(|at| {
                let rest: Vec<usize> = relevant.iter().copied().filter(|other| other != at).collect();
                let without = if used.len() == 1 || rest.is_empty() {
                    Some(before)
                } else {
                    planned(study, pool, number, &rest).map(|plan| plan.total_cost)
                };
                (without.unwrap_or(before) - after.total_cost).max(0.0)
            })
            .collect();
        let sum: f64 = losses.iter().sum();
        for (at, loss) in used.iter().zip(&losses) {
            let share = if sum > 0.0 { loss / sum } else { 1.0 / used.len() as f64 };
            if let Some((_, gain)) = gains.iter_mut().find(|(chosen, _)| chosen == at) {
                gain.saved += saved * share;
                gain.statements.push((number, rows::change(study, pool, number, &relevant, &after)));
            }
        }
    }
    gains
}

/// The plan of a statement with these candidates.
fn planned(study: &Study, pool: &Pool, statement: usize, config: &[usize]) -> Option<Planned> {
    let indexes: Vec<&Hypothetical> = config.iter().map(|at| &pool.entries[*at].index).collect();
    let configuration = Configuration { hypothetical: &indexes, ..Configuration::default() };
    study.statements[statement].plan(&[configuration])?.into_iter().next()
}

/// What each policy candidate that was not chosen would save on its own, as a share of the workload; None when time is up.
fn alone(study: &Study, pool: &Pool, selection: &Selection, deadline: Instant) -> Vec<(usize, Option<f64>)> {
    let mut planner = Planner { study, pool, deadline };
    (0..pool.entries.len())
        .filter(|at| !pool.entries[*at].policy.is_empty() && !selection.chosen.contains(at))
        .map(|at| {
            let mut saved = 0.0;
            for number in &pool.entries[at].statements {
                if planner.expired() {
                    return (at, None);
                }
                let statement = &study.statements[*number];
                if let Some(cost) = planner.cost(*number, &[at]) {
                    saved +=
                        statement.weight * (1.0 - (cost / statement.base.total_cost.max(f64::MIN_POSITIVE)).min(1.0));
                }
            }
            (at, Some(saved / study.total_weight.max(f64::MIN_POSITIVE)))
        })
        .collect()
}

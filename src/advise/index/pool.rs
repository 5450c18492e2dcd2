//! The candidates of a whole workload, and the planner as the selection's oracle. Plans; locks as planning does.

use std::time::Instant;

use perf_core::index::candidates::generate;
use perf_core::index::merge::merged;
use perf_core::index::select::{Choice, CostOracle};
use perf_core::index::Candidate;

use super::existing;
use super::study::{Known, Studied, Study};
use crate::pg::hypothetical::Hypothetical;
use crate::pg::planner::{Configuration, UsedIndex, WriteCommand};
use crate::workload::queries::Workload;

/// A candidate must make a statement at least this much cheaper to stay.
pub const IMPROVED: f64 = 0.99;
/// Candidates of one statement that are tried alone, at most.
const SINGLES_MAX: usize = 20;
/// Merged candidates, at most.
const MERGED_MAX: usize = 100;
/// An index entry written, in the planner's unit: a descent of three levels and a leaf insertion.
const ENTRY_COST: f64 = 0.5;
/// Work of a write besides its index entries, counted in index entries: the tuple, its WAL, the statement itself.
const WRITE_BASE: f64 = 3.0;
/// Updates that stay HOT where the server has counted none yet.
const HOT_SHARE: f64 = 0.5;

/// One candidate of the workload.
pub struct Entry {
    /// The index.
    pub candidate: Candidate,
    /// As the planner is told.
    pub index: Hypothetical,
    /// Names of its parts, one for each partition with storage.
    pub parts: Vec<String>,
    /// Statements that it might serve.
    pub statements: Vec<usize>,
    /// Rows of the policy that name it.
    pub policy: Vec<usize>,
    /// What it costs the writes of its relation, in the unit of weights; None when nothing is known of writes.
    pub write_cost: Option<f64>,
}

/// All candidates.
#[derive(Default)]
pub struct Pool {
    /// In the order found.
    pub entries: Vec<Entry>,
    /// Candidates that one statement's plan used together.
    pub bundles: Vec<Vec<usize>>,
}

impl Pool {
    /// Makes the candidates of every statement and keeps those that help it, alone or together.
    pub fn of(study: &Study, workload: &Workload, deadline: Instant) -> Pool {
        let mut pool = Pool::default();
        for statement in &study.statements {
            if Instant::now() >= deadline {
                break;
            }
            if statement.weight <= 0.0 {
                continue;
            }
            let (candidates, together) = helpful(study, statement);
            let mut bundle = Vec::new();
            for (place, candidate) in candidates.into_iter().enumerate() {
                let at = pool.add(study, workload, candidate, None);
                if together.contains(&place) {
                    bundle.extend(at);
                }
            }
            if bundle.len() > 1 && !pool.bundles.contains(&bundle) {
                pool.bundles.push(bundle);
            }
        }
        let own: Vec<Candidate> = pool.entries.iter().map(|entry| entry.candidate.clone()).collect();
        for candidate in merged(&own, MERGED_MAX) {
            if study.relations.get(&candidate.relation).is_some_and(|known| !is_covered(known, &candidate)) {
                pool.add(study, workload, candidate, None);
            }
        }
        pool
    }

    /// Adds a candidate once and returns its place; a policy row that names it is noted.
    pub fn add(
        &mut self,
        study: &Study,
        workload: &Workload,
        candidate: Candidate,
        policy: Option<usize>,
    ) -> Option<usize> {
        let same = self.entries.iter().position(|entry| entry.candidate.same_index(&candidate));
        if let Some(entry) = same.and_then(|at| self.entries.get_mut(at)) {
            entry.candidate.free = entry.candidate.free.max(candidate.free);
            entry.policy.extend(policy);
            return same;
        }
        let known = study.relations.get(&candidate.relation)?;
        let index = Hypothetical::from_candidate("", &candidate, &known.relation, &known.leaves)?;
        let first = candidate.keys.first().map_or(0, |key| key.column);
        let statements: Vec<usize> = (0..study.statements.len())
            .filter(|at| study.statements[*at].asks_for(candidate.relation, first))
            .collect();
        let write_cost = write_cost(study, workload, known, &candidate);
        let policy = policy.into_iter().collect();
        self.entries.push(Entry { candidate, index, parts: Vec::new(), statements, policy, write_cost });
        Some(self.entries.len() - 1)
    }

    /// As the selection wants them.
    pub fn choices(&self) -> Vec<Choice> {
        self.entries
            .iter()
            .map(|entry| Choice {
                bytes: entry.index.bytes,
                write_cost: entry.write_cost.unwrap_or(0.0),
                statements: entry.statements.clone(),
                preferred: !entry.policy.is_empty(),
            })
            .collect()
    }
}

/// Whether an existing index does what `candidate` would.
pub fn is_covered(known: &Known, candidate: &Candidate) -> bool {
    existing::covering(&known.existing, candidate).is_some()
}

/// The candidates of one statement that make it cheaper, and which of them its plan uses when it has them all.
fn helpful(study: &Study, statement: &Studied) -> (Vec<Candidate>, Vec<usize>) {
    let nothing = || (Vec::new(), Vec::new());
    let mut candidates: Vec<Candidate> = Vec::new();
    for candidate in statement.base.needs.iter().flat_map(generate) {
        let usable = study.relations.get(&candidate.relation).is_some_and(|known| !is_covered(known, &candidate));
        if usable && !candidates.iter().any(|known| known.same_index(&candidate)) {
            candidates.push(candidate);
        }
    }
    let indexes: Vec<(usize, Hypothetical)> = candidates
        .iter()
        .enumerate()
        .filter_map(|(at, candidate)| {
            let known = study.relations.get(&candidate.relation)?;
            Some((at, Hypothetical::from_candidate("", candidate, &known.relation, &known.leaves)?))
        })
        .collect();
    let together: Vec<&Hypothetical> = indexes.iter().map(|(_, index)| index).collect();
    let limit = statement.base.total_cost * IMPROVED;
    let all = Configuration { hypothetical: &together, ..Configuration::default() };
    let Some(plans) = (!together.is_empty()).then(|| statement.plan(&[all])).flatten() else { return nothing() };
    if plans.iter().all(|plan| plan.total_cost > limit) {
        return nothing();
    }
    let mut keep = vec![false; candidates.len()];
    for used in plans.iter().flat_map(|plan| &plan.scans).flat_map(|scan| &scan.indexes) {
        if let UsedIndex::Hypothetical(place) = used {
            keep[indexes[*place].0] = true;
        }
    }
    let used = keep.clone();
    let singles: Vec<[&Hypothetical; 1]> = together.iter().take(SINGLES_MAX).map(|index| [*index]).collect();
    let configurations: Vec<Configuration<'_>> =
        singles.iter().map(|single| Configuration { hypothetical: single, ..Configuration::default() }).collect();
    for (plan, (at, _)) in statement.plan(&configurations).unwrap_or_default().iter().zip(&indexes) {
        keep[*at] |= plan.total_cost <= limit;
    }
    let kept: Vec<usize> = (0..candidates.len()).filter(|at| keep[*at]).collect();
    let together = (0..kept.len()).filter(|place| used[kept[*place]]).collect();
    (candidates.into_iter().zip(keep).filter_map(|(candidate, keep)| keep.then_some(candidate)).collect(), together)
}

/// What a candidate costs the writes of its relation.
///
/// Measured: a write of n existing indexes does the work of n + 3 index entries, so one more costs 1 / (n + 3) of its
/// measured time; an UPDATE pays when it sets a key column, else for the share of updates that are not HOT. Given queries:
/// rows times what an entry costs in the planner's unit.
fn write_cost(study: &Study, workload: &Workload, known: &Known, candidate: &Candidate) -> Option<f64> {
    let columns = candidate.columns();
    let (mut sum, mut seen) = (0.0, false);
    for statement in &study.statements {
        for write in statement.base.writes.iter().filter(|write| write.relation == known.relation.oid) {
            seen = true;
            let share = match write.command {
                WriteCommand::Insert => 1.0,
                WriteCommand::Update if write.columns.iter().any(|column| columns.contains(column)) => 1.0,
                WriteCommand::Update => 1.0 - known.hot_share.unwrap_or(HOT_SHARE),
                WriteCommand::Delete => 0.0,
            };
            sum += share
                * if workload.is_measured() {
                    statement.weight / (known.existing.len() as f64 + WRITE_BASE)
                } else {
                    workload.statements[statement.at].calls * write.rows.max(1.0) * ENTRY_COST
                };
        }
    }
    (seen || (workload.is_measured() && !workload.statements.is_empty())).then_some(sum)
}

/// The planner, asked one statement and one set of candidates at a time.
pub struct Planner<'a> {
    /// The statements.
    pub study: &'a Study,
    /// The candidates.
    pub pool: &'a Pool,
    /// When to stop.
    pub deadline: Instant,
}

impl CostOracle for Planner<'_> {
    fn cost(&mut self, statement: usize, config: &[usize]) -> Option<f64> {
        let indexes: Vec<&Hypothetical> = config.iter().map(|at| &self.pool.entries[*at].index).collect();
        let configuration = Configuration { hypothetical: &indexes, ..Configuration::default() };
        self.study.statements[statement].plan(&[configuration])?.first().map(|plan| plan.total_cost)
    }

    fn expired(&mut self) -> bool {
        Instant::now() >= self.deadline
    }
}

//! Advice on the indexes that exist: which to drop and which to rebuild. Called by `recommend` once the workload is studied.
//!
//! `crate::indexes` collects facts from the catalogs, `perf_core::index::upkeep` judges them, and this module asks the planner what
//! each drop would cost the workload: one that makes a statement dearer is not recommended. `rows` says what is left.
//! Plans and locks as planning does, and for a moment each table that it has something to say of; never waits for a lock.

mod rows;

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use perf_core::index::keys_cover;
use perf_core::index::upkeep::{self as decide, Action, Finding, Verdict, BLOAT_BYTES_MIN};
use pgrx::pg_sys;

use super::policy::{PolicyCase, Resolved};
use super::rows::Recommendation;
use super::study::Study;
use crate::error::Error;
use crate::indexes::{self, Found, Server};
use crate::pg::planner::{Configuration, Planned, UsedIndex};
use crate::pg::relation::Relation;
use crate::workload::queries::Workload;

/// A drop may make no statement dearer than this: the planner's cost moves that much with the size of an index alone.
const WORSE_MAX: f64 = 1.01;

/// A verdict that stands, and the statements that were planned without the index.
struct Case<'a> {
    found: &'a Found,
    /// The index that stays instead.
    other: Option<&'a Found>,
    verdict: Verdict,
    /// Places in the study, with the new plan.
    replanned: Vec<(usize, Planned)>,
}

/// Rows on existing indexes, the most important first. None for given queries: what they do not use, others may.
pub fn run(
    workload: &Workload,
    study: &mut Study,
    policy: &[PolicyCase],
    deadline: Instant,
) -> Result<Vec<Recommendation>, Error> {
    if !workload.is_measured() {
        return Ok(Vec::new());
    }
    let server = Server::read()?;
    let mut all = indexes::indexes(server.days)?;
    let foreign_keys = indexes::foreign_keys()?;
    note_wanted(&mut all, study, policy);
    estimate_builds(&mut all, deadline);
    let mut pricing = Pricing { study, hidden: Vec::new(), plans: HashMap::new(), deadline };
    let mut cases = Vec::new();
    let mut unpriced = 0usize;
    let mut groups: Vec<&[Found]> = all.chunk_by(|a, b| a.relation == b.relation).collect();
    // Partitioned tables first: a part goes with its index, and then it is not rebuilt and takes no other's place.
    groups.sort_by_key(|group| !group.iter().any(|one| one.index.partitioned));
    for group in groups {
        pgrx::check_for_interrupts!();
        let left: Vec<&Found> =
            group.iter().filter(|one| !pricing.hidden.contains(&pg_sys::Oid::from(one.index.oid))).collect();
        let judged: Vec<decide::Index> = left.iter().map(|one| one.index.clone()).collect();
        let keys = foreign_keys.get(&group[0].relation.to_u32()).map_or(&[][..], Vec::as_slice);
        for verdict in decide::judge(&judged, keys, server.counters()) {
            let found = left[verdict.index];
            let replanned = match (verdict.action, verdict.finding) {
                (Action::Reindex, _) | (_, Finding::Invalid { .. }) => Vec::new(),
                _ => match pricing.without(found) {
                    Priced::Same(replanned) => replanned,
                    Priced::Worse => continue,
                    Priced::OutOfTime => {
                        unpriced += 1;
                        continue;
                    }
                },
            };
            let other = other_of(verdict.finding).map(|at| left[at]);
            cases.push(Case { found, other, verdict, replanned });
        }
    }
    if unpriced > 0 {
        study.notices.push(format!(
            "the time budget ran out before {unpriced} existing indexes were judged; raise time_budget_ms"
        ));
    }
    if server.is_standby && all.iter().any(|one| !one.index.bound) {
        study.notices.push(
            "this is a standby: whether an index is unused or its build failed can only be told on the primary"
                .to_owned(),
        );
    }
    // When time runs out, it shall be for the smallest.
    cases.sort_by(|a, b| b.found.index.bytes.total_cmp(&a.found.index.bytes));
    Ok(rows::make(workload, study, &server, &cases, deadline))
}

fn other_of(finding: Finding) -> Option<usize> {
    match finding {
        Finding::Duplicate { of, .. } => Some(of),
        Finding::Covered { by } => Some(by),
        Finding::Invalid { by } => by,
        Finding::Unused | Finding::Bloated { .. } => None,
    }
}

/// Marks what the plans of the workload use and what the policy asks for.
fn note_wanted(all: &mut [Found], study: &Study, policy: &[PolicyCase]) {
    let used: HashSet<pg_sys::Oid> = study
        .statements
        .iter()
        .flat_map(|statement| &statement.base.scans)
        .flat_map(|scan| &scan.indexes)
        .filter_map(real)
        .collect();
    let mut asked: HashSet<(u32, &str)> = HashSet::new();
    for case in policy {
        let Resolved::Index(relation, candidate) = &case.resolved else { continue };
        let Some(known) = study.relations.get(&relation.oid.to_u32()) else { continue };
        let covering = known.existing.iter().filter(|one| one.is_plain && keys_cover(&one.keys, &candidate.keys));
        asked.extend(covering.map(|one| (relation.oid.to_u32(), one.name.as_str())));
    }
    for one in all {
        one.index.wanted = one.parts.iter().any(|part| used.contains(part))
            || asked.contains(&(one.relation.to_u32(), one.name.as_str()));
    }
}

fn real(index: &UsedIndex) -> Option<pg_sys::Oid> {
    match index {
        UsedIndex::Real(oid) => Some(*oid),
        UsedIndex::Hypothetical(_) => None,
    }
}

/// Estimates what a fresh build would take, for the indexes where that can matter.
fn estimate_builds(all: &mut [Found], deadline: Instant) {
    let mut last: Option<Relation> = None;
    for one in all.iter_mut() {
        if !one.is_countable() || one.excludes || one.index.bytes < BLOAT_BYTES_MIN || Instant::now() >= deadline {
            continue;
        }
        if last.as_ref().map(|relation| relation.oid) != Some(one.relation) {
            last = Relation::read(one.relation).ok();
        }
        one.index.fresh_bytes = last.as_ref().and_then(|relation| one.fresh_bytes(relation));
    }
}

/// What the planner says of life without an index.
enum Priced {
    /// No statement gets dearer; those that were planned again.
    Same(Vec<(usize, Planned)>),
    /// One does, or cannot be planned.
    Worse,
    /// Not asked.
    OutOfTime,
}

/// Plans the statements that an absent index concerns, with all indexes absent that were found dispensable so far.
struct Pricing<'a> {
    study: &'a Study,
    hidden: Vec<pg_sys::Oid>,
    /// Statements that have a new plan because of that.
    plans: HashMap<usize, Planned>,
    deadline: Instant,
}

impl Pricing<'_> {
    fn without(&mut self, found: &Found) -> Priced {
        let hidden: Vec<pg_sys::Oid> = self.hidden.iter().chain(&found.parts).copied().collect();
        let mut replanned = Vec::new();
        for (number, statement) in self.study.statements.iter().enumerate() {
            let plan = self.plans.get(&number).unwrap_or(&statement.base);
            let uses =
                plan.scans.iter().flat_map(|scan| &scan.indexes).filter_map(real).any(|oid| found.parts.contains(&oid));
            // Statistics on an expression live with its index, and are used by plans that do not scan it.
            let estimates = !found.index.expressions.is_empty() && statement.reads(found.relation.to_u32());
            if !uses && !estimates {
                continue;
            }
            if Instant::now() >= self.deadline {
                return Priced::OutOfTime;
            }
            let configuration = Configuration { hidden: &hidden, ..Configuration::default() };
            match statement.plan(&[configuration]).and_then(|plans| plans.into_iter().next()) {
                Some(after) if after.total_cost <= statement.base.total_cost * WORSE_MAX => {
                    replanned.push((number, after))
                }
                _ => return Priced::Worse,
            }
        }
        self.plans.extend(replanned.iter().cloned());
        self.hidden = hidden;
        Priced::Same(replanned)
    }
}

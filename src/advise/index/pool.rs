//! The candidates of a whole workload, and the planner as the selection's oracle. Plans; locks as planning does.

use std::time::Instant;

use perf_core::index::candidates::generate;
use perf_core::index::ledger::{self, Ledger, Outcome};
use perf_core::index::merge::merged;
use perf_core::index::select::Choice;
use perf_core::index::{Candidate, Kind, Part};
use pgrx::pg_sys;

use super::study::{Known, Studied, Study};
use super::{ddl, existing};
use crate::pg::catalog::Partition;
use crate::pg::hypothetical::Hypothetical;
use crate::pg::planner::{Configuration, Planned, UsedIndex, WriteCommand};
use crate::pg::relation::Relation;
use crate::workload::queries::Workload;

/// A plan must be at least this much cheaper, or take this much less time, to count as improved. Less than 2 % is a fetch or
/// two of a statement that takes 0.1 ms, and far below what times can be told apart by.
pub const IMPROVED: f64 = 0.98;
/// Candidates of one statement, at most; of one that joins many relations fewer, this number divided by theirs: planning
/// takes longer for every index of every relation.
const OWN_MAX: usize = 96;
const OWN_JOINED_MAX: usize = 320;
/// Candidates of other statements that one is planned with besides, at most.
const OTHERS_MAX: usize = 24;
/// How often the candidates in a statement's plan are set aside to see which come next.
const LAYERS_MAX: usize = 4;
/// Merged candidates, at most.
const MERGED_MAX: usize = 100;
/// Planner calls in the search, a statement on average.
const CALLS_MEAN: f64 = 18.0;
/// Statements that join more relations than this are asked for less often: each plan takes much longer.
const EASY_RELATIONS: f64 = 4.0;
/// The same for any one statement, at least and at most; the heavier, the more.
const CALLS_RANGE: (f64, f64) = (6.0, 90.0);
/// An index entry written, in nanoseconds: a descent of three levels, a leaf insertion, its WAL and its part of the page
/// splits, where keys land all over the index. One that always lands at the end takes a fifth of that, one of 60 bytes a
/// quarter more.
const ENTRY_NS: f64 = 4_800.0;
/// Entries that a row makes in a GIN index.
const GIN_ENTRIES: f64 = 5.0;
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
    /// Its parts in partitions, those nearer to its table first.
    pub parts: Vec<NamedPart>,
    /// Statements that it might serve.
    pub statements: Vec<usize>,
    /// Rows of the policy that name it.
    pub policy: Vec<usize>,
    /// What it costs the writes of its relation, in the unit of weights; None when nothing is known of writes.
    pub write_cost: Option<f64>,
}

/// What an index of a partitioned table does in one partition.
pub struct NamedPart {
    /// The partition.
    pub partition: Partition,
    /// The name of its index, unquoted: of the one to be made, or of the one that it has.
    pub name: String,
    /// It has one already that only needs to be attached: its OID.
    pub ready: Option<pg_sys::Oid>,
}

/// All candidates.
#[derive(Default)]
pub struct Pool {
    /// In the order found.
    pub entries: Vec<Entry>,
    /// Candidates of each statement's own needs.
    own: Vec<Vec<usize>>,
}

/// What is left of the pool when every statement has shown what its plans use.
#[derive(Default)]
pub struct Shortlist {
    /// Places in the pool that some plan used, or that the policy names.
    pub places: Vec<usize>,
    /// Candidates that one statement's plan used together.
    pub bundles: Vec<Vec<usize>>,
}

impl Pool {
    /// Makes the candidates of every statement.
    pub fn of(study: &Study, workload: &Workload, deadline: Instant) -> Pool {
        let mut pool = Pool::default();
        for statement in &study.statements {
            let mut own = Vec::new();
            if statement.weight > 0.0 && Instant::now() < deadline {
                let lists: Vec<Vec<Candidate>> = statement.base.needs.iter().map(generate).collect();
                let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
                // The most promising of every relation first.
                for candidate in (0..longest).flat_map(|rank| lists.iter().filter_map(move |list| list.get(rank))) {
                    if own.len() >= own_max(statement) {
                        break;
                    }
                    let known = study.relations.get(&candidate.relation);
                    if known.is_some_and(|known| !is_covered(known, candidate)) {
                        own.extend(pool.add(study, workload, candidate.clone(), None).filter(|at| !own.contains(at)));
                    }
                }
            }
            pool.own.push(own);
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
        let index = hypothetical(study, known, &candidate)?;
        let statements: Vec<usize> = (0..study.statements.len())
            .filter(|at| study.statements[*at].weight > 0.0 && study.statements[*at].may_use(&candidate))
            .collect();
        let write_cost = write_cost(study, workload, known, &candidate);
        let policy = policy.into_iter().collect();
        self.entries.push(Entry { candidate, index, parts: Vec::new(), statements, policy, write_cost });
        Some(self.entries.len() - 1)
    }

    /// Adds the indexes that serve two of the shortlisted at once.
    pub fn add_merged(&mut self, study: &Study, workload: &Workload, shortlist: &mut Shortlist) {
        let parents: Vec<Candidate> = shortlist.places.iter().map(|at| self.entries[*at].candidate.clone()).collect();
        for candidate in merged(&parents, MERGED_MAX) {
            if study.relations.get(&candidate.relation).is_some_and(|known| !is_covered(known, &candidate)) {
                let at = self.add(study, workload, candidate, None);
                shortlist.places.extend(at.filter(|at| !shortlist.places.contains(at)));
            }
        }
        shortlist.places.sort_unstable();
    }

    /// Asks every statement for its plan with all of its candidates, then without those it used, and so on: what it would
    /// use first, second, third. One planner call each.
    pub fn shortlist(&self, study: &Study, ledger: &mut Ledger<'_, Oracle<'_>>) -> Shortlist {
        let mut shortlist = Shortlist::default();
        for number in 0..study.statements.len() {
            ledger.add_relevant(number, self.own[number].iter().copied());
            let mut rest = self.own[number].clone();
            for layer in 0..LAYERS_MAX {
                if rest.is_empty() || !ledger.may_plan() {
                    break;
                }
                rest.sort_unstable();
                let (used, cost) = ledger.plan(number, &rest);
                if used.is_empty() || cost > IMPROVED {
                    break;
                }
                rest.retain(|at| !used.contains(at));
                if layer == 0 && used.len() > 1 && !shortlist.bundles.contains(&used) {
                    shortlist.bundles.push(used.clone());
                }
                shortlist.places.extend(used);
            }
        }
        shortlist.places.extend((0..self.entries.len()).filter(|at| !self.entries[*at].policy.is_empty()));
        shortlist.places.sort_unstable();
        shortlist.places.dedup();
        shortlist
    }

    /// As the selection wants them: those not on the shortlist serve nothing.
    pub fn choices(&self, shortlist: &Shortlist) -> Vec<Choice> {
        self.entries
            .iter()
            .enumerate()
            .map(|(at, entry)| Choice {
                relation: entry.candidate.relation,
                bytes: entry.index.bytes,
                write_cost: entry.write_cost.unwrap_or(0.0),
                statements: if shortlist.places.binary_search(&at).is_ok() {
                    entry.statements.clone()
                } else {
                    Vec::new()
                },
                preferred: !entry.policy.is_empty(),
            })
            .collect()
    }
}

/// The index as the planner is told of it: nothing where a partition has its part already.
fn hypothetical(study: &Study, known: &Known, candidate: &Candidate) -> Option<Hypothetical> {
    let expressions = study.expressions.borrow();
    let describe =
        |leaves: &[Relation]| Hypothetical::from_candidate("", candidate, &known.relation, leaves, &expressions);
    if !known.partitions.has_ready() {
        return describe(&known.leaves);
    }
    let served = known.partitions.served_by(&ddl::definition(&known.relation, candidate, &expressions));
    let open: Vec<Relation> =
        known.leaves.iter().filter(|leaf| !served.contains(&leaf.oid.to_u32())).cloned().collect();
    describe(&open)
}

fn own_max(statement: &Studied) -> usize {
    OWN_MAX.min(OWN_JOINED_MAX / statement.base.needs.len().max(1)).max(statement.base.needs.len())
}

/// Candidates that a statement is planned with, at most.
pub fn relevant_max(statement: &Studied) -> usize {
    own_max(statement) + OTHERS_MAX
}

/// Whether an existing index does what `candidate` would.
pub fn is_covered(known: &Known, candidate: &Candidate) -> bool {
    existing::covering(&known.existing, candidate).is_some()
}

/// How often the planner may be asked for each statement during the search.
pub fn calls_allowed(study: &Study) -> Vec<usize> {
    let total: f64 = study.statements.iter().map(|statement| statement.weight).sum();
    let count = study.statements.len().max(1) as f64;
    let fair = |statement: &Studied| {
        let share = if total > 0.0 { statement.weight * count / total } else { 1.0 };
        let ease = (EASY_RELATIONS / statement.base.needs.len().max(1) as f64).min(1.0);
        (ease * CALLS_MEAN * (0.5 + 0.5 * share)).clamp(CALLS_RANGE.0, CALLS_RANGE.1) as usize
    };
    study.statements.iter().map(fair).collect()
}

/// What a candidate costs the writes of its relation.
///
/// Rows written times what an entry takes, but no more than their share of the measured time: a write with n indexes does the
/// work of n + 3 entries. An INSERT makes one entry a row. So does an UPDATE that sets a column of the index, and as it can no
/// longer be HOT then, it makes one in every other index too; another UPDATE pays for the share that is not HOT.
pub fn write_cost(study: &Study, workload: &Workload, known: &Known, candidate: &Candidate) -> Option<f64> {
    let columns = stored_columns(study, candidate);
    let each = 1e-6
        * ENTRY_NS
        * match candidate.kind {
            Kind::Btree | Kind::Hash => 1.0,
            Kind::Brin => 0.1,
            Kind::Gin => GIN_ENTRIES,
        };
    let (mut sum, mut seen) = (0.0, false);
    for statement in &study.statements {
        for write in statement.base.writes.iter().filter(|write| write.relation == known.relation.oid) {
            seen = true;
            let hot = known.hot_share.unwrap_or(HOT_SHARE);
            let others = known.existing.len() as f64;
            let entries = match write.command {
                WriteCommand::Insert => 1.0,
                WriteCommand::Update if write.columns.iter().any(|column| columns.contains(column)) => {
                    1.0 + hot * others
                }
                WriteCommand::Update => 1.0 - hot,
                WriteCommand::Delete => 0.0,
            };
            let counted = &workload.statements[statement.at];
            let measured = workload.is_measured();
            let rows = if measured { counted.rows as f64 } else { counted.calls * write.rows.max(1.0) };
            let most = if measured { statement.weight / (others + WRITE_BASE) } else { f64::INFINITY };
            sum += entries * (rows * each).min(most);
        }
    }
    (seen || (workload.is_measured() && !workload.statements.is_empty())).then_some(sum)
}

/// The columns whose change makes a new index entry: of keys, expressions, INCLUDE and predicate.
fn stored_columns(study: &Study, candidate: &Candidate) -> Vec<i16> {
    let expressions = study.expressions.borrow();
    let mut columns = candidate.include.clone();
    for key in &candidate.keys {
        match key.part {
            Part::Column(column) => columns.push(column),
            Part::Expression(number) => columns.extend(expressions.columns(number)),
        }
    }
    columns.extend(candidate.predicate.iter().flat_map(|number| expressions.columns(*number)));
    columns
}

/// The planner, asked one statement and one set of candidates at a time.
pub struct Oracle<'a> {
    /// The statements.
    pub study: &'a Study,
    /// The candidates.
    pub pool: &'a Pool,
    /// Until when to plan.
    pub plan_until: Instant,
    /// When to stop.
    pub deadline: Instant,
}

impl<'a> Oracle<'a> {
    /// One that plans as long as it goes on at all.
    pub fn until(study: &'a Study, pool: &'a Pool, deadline: Instant) -> Self {
        Oracle { study, pool, plan_until: deadline, deadline }
    }

    /// The plan of a statement with these candidates.
    pub fn planned(&self, statement: usize, config: &[usize]) -> Option<Planned> {
        let indexes: Vec<&Hypothetical> = config.iter().map(|at| &self.pool.entries[*at].index).collect();
        let configuration = Configuration { hypothetical: &indexes, ..Configuration::default() };
        self.study.statements[statement].plan(&[configuration])?.into_iter().next()
    }
}

impl ledger::Planner for Oracle<'_> {
    fn plan(&mut self, statement: usize, config: &[usize]) -> Option<Outcome> {
        let plan = self.planned(statement, config)?;
        Some(Outcome { cost: plan.total_cost, value: self.study.judged(statement, &plan), used: used(&plan, config) })
    }

    fn may_plan(&mut self) -> bool {
        Instant::now() < self.plan_until
    }

    fn expired(&mut self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// The candidates in a plan that was made with `config`.
pub fn used(plan: &Planned, config: &[usize]) -> Vec<usize> {
    let mut used: Vec<usize> = plan
        .scans
        .iter()
        .flat_map(|scan| &scan.indexes)
        .filter_map(|index| match index {
            UsedIndex::Hypothetical(place) => config.get(*place).copied(),
            UsedIndex::Real(_) => None,
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    used
}

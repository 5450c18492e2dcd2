//! The workload as the planner sees it today: what each statement costs, asks for and writes. Plans, and locks as planning
//! does; nothing is left locked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

use perf_core::index::needs::Needs;
use perf_core::index::{Candidate, Key, Kind};
use perf_core::outcome::unpack_sqlstate;
use pgrx::{pg_sys, PgSqlErrorCode};

use super::earlier::Earlier;
use super::existing::{self, Existing};
use super::parts::Partitions;
use crate::compat;
use crate::error::Error;
use crate::indexes::OWN_SCHEMA;
use crate::pg::expressions::Expressions;
use crate::pg::planner::{self, Configuration, Deadline, Failure, Parameter, Planned, Statement};
use crate::pg::relation::{Relation, Unusable};
use crate::pg::role;
use crate::workload::queries::{Source, StatementSample, Workload, WorkloadStatement};

/// Statements planned, at most: those with the most time.
const STATEMENTS_MAX: usize = 300;
/// Share of the measured time that they cover, at most.
const COVERED: f64 = 0.99;
/// Writes below that share are still planned, for what an index would cost them.
const WRITES_MAX: usize = 200;
/// Share of a statement's samples that must ask alike for what is written in it to be part of an index.
const STABLE_SHARE: f64 = 0.95;
/// Samples compared for that, at most.
const SAMPLES_MAX: usize = 8;
/// What a statement takes besides its execution, in ms: to be sent, parsed, planned and answered. Statements without
/// measured times would otherwise be worth an index for microseconds.
const AROUND_MS: f64 = 0.1;
/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 20;

/// One statement with its plan of today.
pub struct Studied {
    /// Place in the workload.
    pub at: usize,
    /// What is to be saved: measured ms, as far as they are not saved already, or executions times estimated ms.
    pub weight: f64,
    /// The plan of today.
    pub base: Planned,
    text: String,
    search_path: Option<String>,
    role: Option<pg_sys::Oid>,
    parameters: Vec<Parameter>,
    cardinalities: Vec<(u64, f64)>,
    /// Its text may be that of a statement around it.
    unwrap: bool,
    /// Planned without values for its parameters.
    pub generic: bool,
}

impl Studied {
    /// A sample of the statement at this place, not planned yet.
    fn of(sample: &StatementSample, at: usize, role: Option<pg_sys::Oid>, source: Source) -> Self {
        Studied {
            at,
            weight: 0.0,
            base: Planned::default(),
            text: sample.text.clone(),
            search_path: (!sample.search_path.is_empty()).then(|| sample.search_path.clone()),
            role,
            parameters: parameters_of(sample),
            cardinalities: sample.cardinalities.clone(),
            unwrap: source == Source::Captured,
            generic: false,
        }
    }

    /// Plans it again under other configurations; None when that fails.
    pub fn plan(&self, configurations: &[Configuration<'_>]) -> Option<Vec<Planned>> {
        planner::plan(&self.statement(), configurations).ok()
    }

    fn statement(&self) -> Statement<'_> {
        Statement {
            text: &self.text,
            search_path: self.search_path.as_deref(),
            role: self.role,
            parameters: &self.parameters,
            cardinalities: &self.cardinalities,
            lock_timeout_ms: Some(LOCK_TIMEOUT_MS),
            unwrap: self.unwrap,
        }
    }

    /// Whether it could use such an index.
    pub fn may_use(&self, candidate: &Candidate) -> bool {
        self.base.needs.iter().filter(|needs| needs.relation == candidate.relation).any(|needs| {
            let asked = |key: &Key| needs.mentions(key.part);
            let by_any_key = match candidate.kind {
                Kind::Gin | Kind::Brin => true,
                Kind::Btree => compat::HAS_SKIP_SCAN,
                Kind::Hash => false,
            };
            let by_key =
                if by_any_key { candidate.keys.iter().any(asked) } else { candidate.keys.first().is_some_and(asked) };
            by_key && candidate.predicate.is_none_or(|number| needs.implies(number))
        })
    }

    /// Whether it asks anything of `relation`.
    pub fn reads(&self, relation: u32) -> bool {
        self.base.scans.iter().any(|scan| scan.relation.to_u32() == relation)
            || self.base.needs.iter().any(|needs| needs.relation == relation)
    }
}

/// The plan of today of the statement at a place in the workload; `None` when the caller may not plan as the role that runs
/// it, or none of its samples can be planned.
pub fn plan_of(workload: &Workload, at: usize) -> Option<Planned> {
    let statement = workload.statements.get(at)?;
    let role = (statement.userid != pg_sys::InvalidOid).then_some(statement.userid);
    if role.is_some_and(|role| !role::may_plan_as(role)) {
        return None;
    }
    let plan = |sample| Studied::of(sample, at, role, workload.source).plan(&[Configuration::default()]);
    statement.samples.iter().find_map(plan)?.into_iter().next()
}

/// A relation that statements ask for.
pub struct Known {
    /// Its description.
    pub relation: Relation,
    /// Its partitions with storage.
    pub leaves: Vec<Relation>,
    /// Its partitions at every depth, and what they have.
    pub partitions: Partitions,
    /// Its indexes.
    pub existing: Vec<Existing>,
    /// Share of HOT updates.
    pub hot_share: Option<f64>,
}

impl Known {
    /// Bytes of its rows, indexes and TOAST apart.
    pub fn bytes(&self) -> f64 {
        if self.leaves.is_empty() {
            self.relation.pages * 8192.0
        } else {
            self.leaves.iter().map(|leaf| leaf.pages * 8192.0).sum()
        }
    }

    /// Reads all of it.
    pub fn read(oid: pg_sys::Oid, expressions: &RefCell<Expressions>) -> Result<Known, Unusable> {
        let relation = Relation::read(oid)?;
        let leaves = super::what_if::leaves_of(&relation);
        Ok(Known {
            partitions: Partitions::of(&relation, &leaves, expressions),
            leaves,
            existing: existing::of(&relation, expressions),
            hot_share: existing::hot_share(oid),
            relation,
        })
    }
}

/// What was learnt.
#[derive(Default)]
pub struct Study {
    /// Statements with a plan.
    pub statements: Vec<Studied>,
    /// Expressions that they ask for.
    pub expressions: RefCell<Expressions>,
    /// Relations that they ask for and that may carry an index.
    pub relations: HashMap<u32, Known>,
    /// What the user should know.
    pub notices: Vec<String>,
    /// Weight of the whole workload, planned or not: all that was measured.
    pub total_weight: f64,
    /// Whether the weights of statements are measured times.
    pub is_measured: bool,
    /// Planner calls made.
    pub calls: usize,
    /// Whether time ran out before the last statement.
    pub cut_short: bool,
}

/// Plans the statements that matter, the heaviest first.
pub fn run(workload: &Workload, deadline: Instant) -> Result<Study, Error> {
    // So that a statement which takes too long leaves time for the others.
    let _limit = Deadline::set(deadline);
    let mut study = Study { is_measured: workload.is_measured(), ..Study::default() };
    let (mut skipped, mut locked, mut slow, mut first_error) = (0usize, 0usize, 0usize, None);
    let earlier = if workload.source == Source::Captured { Earlier::read()? } else { Earlier::default() };
    for at in worth_planning(workload) {
        pgrx::check_for_interrupts!();
        if Instant::now() >= deadline {
            study.cut_short = true;
            break;
        }
        let statement = &workload.statements[at];
        match studied(workload, at, &earlier, &study.expressions, &mut study.calls) {
            Ok(one) => study.statements.extend(one),
            Err(failure) => {
                if matches!(failure, Failure::TimedOut) {
                    slow += 1;
                    continue;
                }
                if workload.source == Source::Given && !failure.is_locked() {
                    return Err(bad_query(at, statement, &failure));
                }
                if failure.is_locked() {
                    locked += 1;
                } else if !statement.nested {
                    skipped += 1;
                    first_error.get_or_insert_with(|| why_not(statement, &failure));
                }
            }
        }
    }
    study.total_weight = if workload.is_measured() {
        workload.total_ms()
    } else {
        study.statements.iter().map(|statement| statement.weight).sum()
    };
    if locked > 0 {
        study
            .notices
            .push(format!("{locked} statements were left out: they read tables that another session has locked"));
    }
    if slow > 0 {
        study.notices.push(format!(
            "{slow} statements were left out: planning one took too long for the time budget; raise time_budget_ms"
        ));
    }
    if skipped > 0 {
        let error = first_error.unwrap_or_default();
        study
            .notices
            .push(format!("{skipped} statements were left out because they cannot be planned; the first: {error}"));
    }
    if workload.not_permitted > 0 {
        study.notices.push(format!(
            "{} statements were left out: they run as roles that you are not a member of",
            workload.not_permitted
        ));
    }
    study.read_relations();
    Ok(study)
}

impl Study {
    /// What executing a plan takes, in ms: by the count of its steps, and what no index changes.
    pub fn time_of(&self, plan: &Planned) -> f64 {
        plan.work.milliseconds() + if self.is_measured { 0.0 } else { AROUND_MS } + f64::MIN_POSITIVE
    }

    /// The same for a plan that is to take the place of the statement's plan of today: it may do harm where that cannot be
    /// ruled out.
    pub fn judged(&self, statement: usize, plan: &Planned) -> f64 {
        let base = &self.statements[statement].base;
        self.time_of(base) - base.work.milliseconds() + plan.work.instead_of(&base.work)
    }

    fn read_relations(&mut self) {
        let mut locked = Vec::new();
        for oid in self.statements.iter().flat_map(|statement| &statement.base.needs).map(|needs| needs.relation) {
            if self.relations.contains_key(&oid) {
                continue;
            }
            match Known::read(pg_sys::Oid::from(oid), &self.expressions) {
                // Its tables are the extension's own business: nobody should be told to index them.
                Ok(known) if known.relation.schema == OWN_SCHEMA => {}
                Ok(known) => {
                    self.relations.insert(oid, known);
                }
                Err(Unusable::Locked) if !locked.contains(&oid) => locked.push(oid),
                Err(_) => {}
            }
        }
        for oid in locked {
            let name = crate::pg::ident::relation(pg_sys::Oid::from(oid)).unwrap_or_default();
            self.notices.push(format!("{name} was left out: another session has locked it"));
        }
    }
}

/// Places in the workload: the heaviest statements, then the remaining writes.
fn worth_planning(workload: &Workload) -> Vec<usize> {
    let mut order: Vec<usize> = (0..workload.statements.len()).collect();
    if !workload.is_measured() {
        return order;
    }
    let ms = |at: &usize| workload.statements[*at].total_ms;
    order.sort_by(|a, b| ms(b).total_cmp(&ms(a)).then(a.cmp(b)));
    let total: f64 = order.iter().map(ms).sum();
    let (mut chosen, mut covered, mut writes) = (Vec::new(), 0.0, 0);
    for at in order {
        if covered < total * COVERED && chosen.len() < STATEMENTS_MAX {
            covered += ms(&at);
            chosen.push(at);
        } else if writes < WRITES_MAX && is_write(&workload.statements[at]) {
            writes += 1;
            chosen.push(at);
        }
    }
    chosen
}

fn is_write(statement: &WorkloadStatement) -> bool {
    let text = statement.samples.first().map_or("", |sample| sample.text.trim_start());
    ["insert", "update", "merge"]
        .iter()
        .any(|word| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)))
}

/// Plans one statement from its first sample that can be; nothing for a utility statement of a measured workload.
fn studied(
    workload: &Workload,
    at: usize,
    earlier: &Earlier,
    expressions: &RefCell<Expressions>,
    calls: &mut usize,
) -> Result<Option<Studied>, Failure> {
    let statement = &workload.statements[at];
    let harvest = Configuration { harvest: Some(expressions), ..Configuration::default() };
    let mut last = None;
    for (place, sample) in statement.samples.iter().enumerate() {
        let role = (statement.userid != pg_sys::InvalidOid).then_some(statement.userid);
        if role.is_some_and(|role| !role::may_plan_as(role)) {
            return Ok(None);
        }
        let mut one = Studied::of(sample, at, role, workload.source);
        *calls += 1;
        match planner::plan(&one.statement(), &[harvest]) {
            Ok(plans) => {
                one.base = plans.into_iter().next().unwrap_or_default();
                pgrx::debug2!("perf_opt statement {}: {}", statement.queryid, one.base.work);
                keep_stable(workload, &mut one, &statement.samples[place..], expressions, calls);
                one.generic = one.parameters.is_empty() && one.base.has_parameters;
                one.weight = if workload.is_measured() {
                    earlier.settled(statement, &one, calls)
                } else {
                    statement.calls * (one.base.work.milliseconds() + AROUND_MS)
                };
                return Ok(Some(one));
            }
            Err(Failure::Utility) if workload.is_measured() => return Ok(None),
            // A normalised utility statement need not parse: `CREATE FUNCTION ... AS $1`.
            Err(failure) if workload.is_measured() && is_syntax_error(&failure) && !begins_as_query(&one.text) => {
                return Ok(None)
            }
            Err(failure) => last = Some(failure),
        }
    }
    last.map_or(Ok(None), Err)
}

/// Leaves out of what the statement asks for the conditions and expressions that are not the same in all its samples:
/// an index on the rows of a literal, or with one in a key, is of no use to the next call with another. The first of
/// `samples` is the one it was planned with.
fn keep_stable(
    workload: &Workload,
    one: &mut Studied,
    samples: &[StatementSample],
    expressions: &RefCell<Expressions>,
    calls: &mut usize,
) {
    let Some((first, others)) = samples.split_first() else { return };
    if !one.base.needs.iter().any(Needs::has_expressions) {
        return;
    }
    let harvest = Configuration { harvest: Some(expressions), ..Configuration::default() };
    let (mut same, mut different) = (1usize, Vec::new());
    for sample in others.iter().take(SAMPLES_MAX - 1) {
        if sample.text == first.text && sample.params == first.params {
            same += 1;
            continue;
        }
        *calls += 1;
        let other = Studied::of(sample, one.at, one.role, workload.source);
        if let Ok(plans) = planner::plan(&other.statement(), &[harvest]) {
            different.extend(plans.into_iter().next().map(|plan| plan.needs));
        }
    }
    let total = same + different.len();
    let is_stable = |relation: u32, asks: &dyn Fn(&Needs) -> bool| {
        let alike = |needs: &&Vec<Needs>| needs.iter().any(|needs| needs.relation == relation && asks(needs));
        (same + different.iter().filter(alike).count()) as f64 >= STABLE_SHARE * total as f64
    };
    // One sample of many calls says nothing of the others; the caller's own queries are what they are.
    let unproven = total < 2 && workload.is_measured() && workload.statements[one.at].calls >= 2.0;
    for needs in &mut one.base.needs {
        let relation = needs.relation;
        needs.retain(
            |number| {
                let is_literal = || expressions.borrow().compares_value(number);
                is_stable(relation, &|other| other.implies(number)) && !(unproven && is_literal())
            },
            |part| is_stable(relation, &|other| other.mentions(part)),
        );
    }
}

fn is_syntax_error(failure: &Failure) -> bool {
    failure.code() == Some(PgSqlErrorCode::ERRCODE_SYNTAX_ERROR)
}

fn begins_as_query(text: &str) -> bool {
    let start = text.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    let word: String = start.chars().take_while(char::is_ascii_alphabetic).collect();
    ["select", "insert", "update", "delete", "merge", "with", "values", "table"]
        .iter()
        .any(|known| word.eq_ignore_ascii_case(known))
}

/// A captured sample as the planner is given it, with its [`parameters_of`]: as the role that sent it, and without waiting for
/// what others have locked.
pub fn captured<'a>(sample: &'a StatementSample, parameters: &'a [Parameter], role: pg_sys::Oid) -> Statement<'a> {
    Statement {
        text: &sample.text,
        search_path: (!sample.search_path.is_empty()).then_some(sample.search_path.as_str()),
        role: Some(role),
        parameters,
        cardinalities: &sample.cardinalities,
        lock_timeout_ms: Some(LOCK_TIMEOUT_MS),
        unwrap: true,
    }
}

/// The values of a sample's parameters, as the planner is given them; none where one is not known, or NULL: `x > NULL` would
/// plan as no rows at all.
pub fn parameters_of(sample: &StatementSample) -> Vec<Parameter> {
    let known: Vec<Parameter> = sample
        .params
        .iter()
        .flatten()
        .map(|param| Parameter { type_oid: param.type_oid, value: Some(param.value.clone()) })
        .collect();
    if known.len() == sample.params.len() {
        known
    } else {
        Vec::new()
    }
}

/// Why a measured statement has no plan. Not the error's message, which may quote a sampled literal.
fn why_not(statement: &WorkloadStatement, failure: &Failure) -> String {
    match failure {
        Failure::Raised(_) => {
            let sqlstate = failure.code().map_or_else(String::new, |code| unpack_sqlstate(code as i32));
            format!("queryid {}, SQLSTATE {sqlstate}", statement.queryid)
        }
        _ => format!("queryid {}, {}", statement.queryid, failure.message()),
    }
}

fn bad_query(at: usize, statement: &WorkloadStatement, failure: &Failure) -> Error {
    let text = statement.samples.first().map_or("", |sample| sample.text.as_str());
    let shown: String = text.chars().take(80).collect();
    let accepted = match failure.code() {
        Some(PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE) => "You need the privileges to run each query.",
        _ => "Each element is exactly one SELECT, INSERT, UPDATE, DELETE or MERGE statement that can be planned.",
    };
    Error::InvalidArgument {
        argument: "queries",
        value: format!("element {}, \"{shown}\": {}", at + 1, failure.message()),
        accepted: accepted.to_owned(),
    }
}

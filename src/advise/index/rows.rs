//! Words and SQL for what was found: one row a recommendation, one for every row of the policy. Reads names from the catalog.

use std::collections::{HashMap, HashSet};

use perf_core::index::{name, Candidate};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::policy::{PolicyCase, Resolved};
use super::pool::{Entry, NamedPart, Pool};
use super::recommend::Options;
use super::study::{Known, Studied, Study};
use super::what_if::used_name;
use super::{ddl, existing};
use crate::capture::actuals::COSTLY;
use crate::indexes;
use crate::pg::hypothetical::Hypothetical;
use crate::pg::ident;
use crate::pg::planner::{Planned, Scan};
use crate::workload::queries::Workload;

/// Statements listed in the evidence of one row, at most: those that gain most.
pub const EVIDENCE_MAX: usize = 20;
/// `high`: this share of the workload saved, in percent.
pub const HIGH_PCT: f64 = 5.0;
/// `high` too: a statement of at least `HIGH_PCT` of the workload this many times cheaper.
const HIGH_SPEEDUP: f64 = 10.0;
/// `medium`: this share of the workload saved, in percent.
pub const MEDIUM_PCT: f64 = 1.0;

/// A plan whose row estimates are off by this factor may be another one tomorrow.
const MISESTIMATE: f64 = 10.0;

/// A policy index that saves less than this share of the workload, in percent, saves nothing worth a word.
const NOTICEABLE_PCT: f64 = 0.1;

/// One row of `perf.index_recommendations`; the columns are described there.
#[derive(Clone, Debug, Default)]
pub struct Recommendation {
    pub id: String,
    pub priority: String,
    pub action: &'static str,
    pub source: &'static str,
    pub status: &'static str,
    pub relation: String,
    pub columns: Vec<String>,
    pub access_method: String,
    pub ddl: Option<String>,
    pub undo_ddl: Option<String>,
    pub size_bytes: Option<i64>,
    pub benefit_pct: Option<f64>,
    pub benefit_ms_per_hour: Option<f64>,
    pub statements_improved: Option<i32>,
    pub best_speedup: Option<f64>,
    pub write_cost_pct: Option<f64>,
    pub confidence: &'static str,
    pub basis: &'static str,
    pub policy_gain: Option<String>,
    pub reason: String,
    pub evidence: Value,
    pub achieved_pct: Option<f64>,
    /// Not a column: the existing index that the row is about, with its parts in partitions, or those that it attaches.
    pub existing: Vec<pg_sys::Oid>,
}

/// One statement that an index improves.
#[derive(Clone, Debug)]
pub struct Change {
    /// Planner's cost.
    cost: f64,
    /// What it takes, in relation to today.
    ratio: f64,
    plan: String,
}

/// What one chosen candidate contributes.
#[derive(Clone, Debug, Default)]
pub struct Gain {
    /// Saved weight, before write costs.
    pub saved: f64,
    /// Statements with their new plan.
    pub statements: Vec<(usize, Change)>,
}

impl Gain {
    /// Whether it saves anything, and more than the writes pay for it.
    pub fn is_worth(&self, entry: &Entry) -> bool {
        !self.statements.is_empty() && self.saved > entry.write_cost.unwrap_or(0.0)
    }
}

/// Everything there is to tell.
pub struct Findings<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Its statements as planned today.
    pub study: &'a Study,
    /// Its candidates.
    pub pool: &'a Pool,
    /// The policy.
    pub cases: &'a [PolicyCase],
    /// The chosen candidates.
    pub gains: Vec<(usize, Gain)>,
    /// Policy candidates that were not chosen, and what they would save alone.
    pub alone: Vec<(usize, Option<f64>)>,
    /// How the search was asked for.
    pub options: &'a Options,
}

/// Gives every candidate that has a row its name, unused and the same tomorrow: the chosen ones first, then those that the
/// policy names.
pub fn name_all(pool: &mut Pool, study: &Study, chosen: &[usize]) {
    let mut used: HashMap<String, HashSet<String>> = HashMap::new();
    let expressions = study.expressions.borrow();
    let others: Vec<usize> =
        (0..pool.entries.len()).filter(|at| !chosen.contains(at) && !pool.entries[*at].policy.is_empty()).collect();
    for at in chosen.iter().copied().chain(others) {
        let Some(entry) = pool.entries.get_mut(at) else { continue };
        let Some(known) = study.relations.get(&entry.candidate.relation) else { continue };
        let pieces = ddl::name_pieces(known, &entry.candidate, &expressions);
        let mut unused = |schema: &str, relation: &str| {
            let names = used.entry(schema.to_owned()).or_insert_with(|| existing::names_in(schema));
            let name = name::index_name(relation, &pieces, |name| names.contains(name));
            names.insert(name.clone());
            name
        };
        let chosen = unused(&known.relation.schema, &known.relation.name);
        let definition = ddl::definition(&known.relation, &entry.candidate, &expressions);
        entry.parts = known
            .partitions
            .parts_of(&definition)
            .into_iter()
            .map(|part| {
                let name = match part.ready {
                    Some(ready) => ready.name.clone(),
                    None => unused(&part.partition.schema, &part.partition.name),
                };
                NamedPart { partition: part.partition.clone(), name, ready: part.ready.map(|ready| ready.oid) }
            })
            .collect();
        entry.index.name = ident::until_nul(&chosen);
    }
}

/// How the plan of a statement changes.
pub fn change(study: &Study, pool: &Pool, statement: usize, config: &[usize], after: &Planned) -> Change {
    let indexes: Vec<&Hypothetical> = config.iter().map(|at| &pool.entries[*at].index).collect();
    let before = &study.statements[statement].base;
    let relations: HashSet<u32> = indexes.iter().map(|index| index.relation.to_u32()).collect();
    let leaves: HashSet<u32> = relations
        .iter()
        .filter_map(|oid| study.relations.get(oid))
        .flat_map(|known| known.leaves.iter().map(|leaf| leaf.oid.to_u32()))
        .chain(relations.iter().copied())
        .collect();
    let old = summary(&before.scans, before.sorts, &[], &leaves);
    let new = summary(&after.scans, after.sorts, &indexes, &leaves);
    Change {
        cost: after.total_cost,
        ratio: study.time_of(after) / study.time_of(before),
        plan: format!("{old} -> {new}"),
    }
}

/// `Seq Scan on orders, Sort`: the scans of the relations in question, each once.
pub fn summary(scans: &[Scan], sorts: u32, given: &[&Hypothetical], relations: &HashSet<u32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for scan in scans.iter().filter(|scan| relations.contains(&scan.relation.to_u32())) {
        let table = ident::relation_parts(scan.relation).map_or_else(String::new, |(_, name)| name);
        let names: Vec<String> = scan.indexes.iter().map(|index| used_name(*index, given)).collect();
        let part = if names.is_empty() {
            format!("{} on {table}", scan.method)
        } else {
            format!("{} using {} on {table}", scan.method, names.join(", "))
        };
        if !parts.contains(&part) && parts.len() < 6 {
            parts.push(part);
        }
    }
    if sorts > 0 {
        parts.push("Sort".to_owned());
    }
    parts.join(", ")
}

/// All rows: recommended ones by what they save, then the rest of the policy in its order.
pub fn make(findings: &Findings<'_>) -> Vec<Recommendation> {
    let mut rows: Vec<Recommendation> = findings
        .gains
        .iter()
        .filter(|(at, gain)| gain.is_worth(&findings.pool.entries[*at]))
        .map(|(at, gain)| findings.recommended(&findings.pool.entries[*at], gain))
        .collect();
    let benefit = |row: &Recommendation| row.benefit_pct.unwrap_or(0.0);
    rows.sort_by(|a, b| benefit(b).total_cmp(&benefit(a)).then_with(|| a.id.cmp(&b.id)));
    for (at, case) in findings.cases.iter().enumerate() {
        rows.extend(findings.policy_row(at, case));
    }
    rows
}

impl Findings<'_> {
    fn pct(&self, weight: f64) -> f64 {
        if self.study.total_weight > 0.0 {
            100.0 * weight / self.study.total_weight
        } else {
            0.0
        }
    }

    /// A row with what every row on this candidate says.
    fn described(&self, known: &Known, candidate: &Candidate) -> Recommendation {
        let expressions = self.study.expressions.borrow();
        let parts = ddl::identity(known, candidate, &expressions);
        Recommendation {
            id: stable_id(&parts),
            action: "create",
            access_method: candidate.kind.access_method().to_owned(),
            confidence: "low",
            basis: "policy",
            evidence: json!([]),
            relation: known.relation.qualified(),
            columns: ddl::key_texts(known, candidate, &expressions),
            ..Recommendation::default()
        }
    }

    /// The statements that create the index and that drop it again.
    fn ddl(&self, known: &Known, entry: &Entry) -> (String, String) {
        ddl::create(known, entry, &self.study.expressions.borrow())
    }

    fn recommended(&self, entry: &Entry, gain: &Gain) -> Recommendation {
        let Some(known) = self.study.relations.get(&entry.candidate.relation) else { return Recommendation::default() };
        let mut statements: Vec<(&Studied, &Change)> =
            gain.statements.iter().map(|(at, change)| (&self.study.statements[*at], change)).collect();
        let saved = |one: &(&Studied, &Change)| one.0.weight * (1.0 - one.1.ratio);
        statements.sort_by(|a, b| saved(b).total_cmp(&saved(a)).then(a.0.at.cmp(&b.0.at)));
        let speedup = |one: &(&Studied, &Change)| 1.0 / one.1.ratio.max(f64::MIN_POSITIVE);
        let best = statements.iter().map(speedup).fold(1.0, f64::max);
        let net = gain.saved - entry.write_cost.unwrap_or(0.0);
        let benefit = self.pct(net);
        let fast_on_top =
            statements.iter().any(|one| speedup(one) >= HIGH_SPEEDUP && self.pct(one.0.weight) >= HIGH_PCT);
        let generic = statements.iter().any(|one| one.0.generic);
        let case = entry.policy.first().and_then(|at| self.cases.get(*at));
        let (ddl, undo) = self.ddl(known, entry);
        let under_way = existing::unfinished(&known.existing, &entry.candidate)
            .filter(|_| indexes::being_changed().is_ok_and(|busy| busy.contains(&known.relation.oid)));
        let mut reason = self.reason(known, entry, &statements, best);
        if let Some(index) = under_way {
            reason.push_str(&format!("; it is being built now, as {}", ident::quote(&index.name)));
        }
        Recommendation {
            priority: if benefit >= HIGH_PCT || fast_on_top {
                "high"
            } else if benefit >= MEDIUM_PCT {
                "medium"
            } else {
                "low"
            }
            .to_owned(),
            source: if case.is_some() { "both" } else { "workload" },
            status: if under_way.is_some() { "building" } else { "recommended" },
            ddl: under_way.is_none().then_some(ddl),
            undo_ddl: Some(match under_way {
                Some(index) => {
                    format!("DROP INDEX CONCURRENTLY {}", ident::qualified(&known.relation.schema, &index.name))
                }
                None => undo,
            }),
            size_bytes: Some(entry.index.bytes as i64),
            benefit_pct: Some(benefit),
            benefit_ms_per_hour: self.workload.hours.map(|hours| net / hours),
            statements_improved: Some(statements.len() as i32),
            best_speedup: Some(best),
            write_cost_pct: entry.write_cost.map(|cost| self.pct(cost)),
            confidence: if !entry.index.has_statistics {
                "low"
            } else if generic || !self.workload.is_measured() || statements.iter().any(|one| is_doubtful(one.0)) {
                "medium"
            } else {
                "high"
            },
            basis: "what_if",
            policy_gain: case.and_then(|case| case.row.expected_gain.clone()),
            reason,
            evidence: self.evidence(&statements),
            existing: entry.parts.iter().filter_map(|part| part.ready).collect(),
            ..self.described(known, &entry.candidate)
        }
    }

    fn reason(&self, known: &Known, entry: &Entry, statements: &[(&Studied, &Change)], best: f64) -> String {
        let weight: f64 = statements.iter().map(|one| one.0.weight).sum();
        let after: f64 = statements.iter().map(|one| one.0.weight * one.1.ratio).sum();
        let of_what = if self.workload.is_measured() { "measured time" } else { "estimated time" };
        let columns = ddl::key_texts(known, &entry.candidate, &self.study.expressions.borrow()).join(", ");
        let mut reason = format!(
            "{} with {:.1} % of the {of_what} {} {} by {columns}; with this index they are expected to take {:.1} % less, one of them up to {} less",
            counted(statements.len(), "statement"),
            self.pct(weight),
            if statements.len() == 1 { "reads" } else { "read" },
            known.relation.name,
            100.0 * (1.0 - after / weight.max(f64::MIN_POSITIVE)),
            times(best),
        );
        if !entry.index.has_statistics {
            reason.push_str("; the table was never analysed, so run ANALYZE and ask again");
        }
        let misestimate = statements.iter().filter_map(|one| one.0.base.misestimate).fold(1.0, f64::max);
        if misestimate >= MISESTIMATE {
            reason.push_str(&format!(
                "; the planner's row estimates are off by up to {} there, so the gain is judged by the rows that were counted",
                times(misestimate)
            ));
        }
        if known.relation.kind == b'p' {
            reason.push_str("; the table is partitioned, so each partition gets its own index");
            reason.push_str(&about_parts(known, entry));
        }
        reason.push('.');
        reason
    }

    fn evidence(&self, statements: &[(&Studied, &Change)]) -> Value {
        statements
            .iter()
            .take(EVIDENCE_MAX)
            .map(|(studied, change)| {
                let statement = &self.workload.statements[studied.at];
                json!({
                    "queryid": (statement.queryid != 0).then_some(statement.queryid),
                    "query_no": (!self.workload.is_measured()).then_some(studied.at + 1),
                    "calls": statement.calls,
                    "ms": self.workload.is_measured().then_some(studied.weight),
                    "measured_ms": self.workload.is_measured().then_some(statement.total_ms),
                    "cost_before": studied.base.total_cost,
                    "cost_after": change.cost,
                    "time_after_pct": 100.0 * change.ratio,
                    "plan_change": change.plan,
                    "rows_misestimate": studied.base.misestimate,
                    "parameters": if studied.generic { "generic" } else { "known" },
                })
            })
            .collect()
    }

    /// The row of the policy's own index; None when the workload's row says it already, or nobody asked for it.
    fn policy_row(&self, at: usize, case: &PolicyCase) -> Option<Recommendation> {
        let with_policy = |row: Recommendation| Recommendation {
            priority: case.row.priority.clone(),
            source: "policy",
            policy_gain: case.row.expected_gain.clone(),
            ..row
        };
        let unresolved = |status, reason: String| Recommendation {
            id: stable_id(&case.identity()),
            action: "create",
            status,
            relation: case.table.clone(),
            columns: case.row.columns.clone(),
            access_method: "btree".to_owned(),
            confidence: "low",
            basis: "policy",
            reason,
            evidence: json!([]),
            ..Recommendation::default()
        };
        let locked = || {
            let table = &case.table;
            sentence(&format!("{table} is locked by another session, so it was not judged; ask again."))
        };
        let candidate = match &case.resolved {
            Resolved::NotApplicable(why) => {
                return self
                    .options
                    .include_inapplicable
                    .then(|| with_policy(unresolved("not_applicable", sentence(why))));
            }
            Resolved::Locked => return Some(with_policy(unresolved("not_applicable", locked()))),
            Resolved::Index(_, candidate) => candidate,
        };
        // Locked since it was resolved.
        let Some(known) = self.study.relations.get(&candidate.relation) else {
            return Some(with_policy(unresolved("not_applicable", locked())));
        };
        let row = self.described(known, candidate);
        if let Some(index) = existing::covering(&known.existing, candidate) {
            return Some(with_policy(Recommendation {
                action: "keep",
                status: "exists",
                size_bytes: Some(index.bytes),
                confidence: "high",
                basis: "measured",
                reason: format!("Index {} already serves these columns.", ident::quote(&index.name)),
                existing: vec![index.oid],
                ..row
            }));
        }
        let (place, entry) = self.pool.entries.iter().enumerate().find(|(_, entry)| entry.policy.contains(&at))?;
        let chosen = self.gains.iter().any(|(chosen, gain)| *chosen == place && gain.is_worth(entry));
        if chosen {
            return None;
        }
        let (ddl, undo) = self.ddl(known, entry);
        let row = with_policy(Recommendation {
            ddl: Some(ddl),
            undo_ddl: Some(undo),
            size_bytes: Some(entry.index.bytes as i64),
            write_cost_pct: entry.write_cost.map(|cost| self.pct(cost)),
            ..row
        });
        if self.study.statements.is_empty() {
            let why = if self.study.cut_short {
                "the time budget ran out before a statement was planned"
            } else {
                "no statement has been measured yet"
            };
            return Some(Recommendation {
                status: "recommended",
                reason: format!("The policy wants it; {why}, so its gain here is not known."),
                ..row
            });
        }
        Some(self.not_chosen(row, known, entry, place))
    }

    /// Why a policy index was not chosen.
    fn not_chosen(&self, row: Recommendation, known: &Known, entry: &Entry, place: usize) -> Recommendation {
        let alone = self.alone.iter().find(|(at, _)| *at == place).and_then(|(_, saved)| *saved);
        let rivals: Vec<(&Entry, &Gain)> = self
            .gains
            .iter()
            .filter(|(_, gain)| !gain.statements.is_empty())
            .map(|(at, gain)| (&self.pool.entries[*at], gain))
            .filter(|(other, gain)| {
                other.candidate.relation == entry.candidate.relation
                    && gain.statements.iter().any(|(statement, _)| entry.statements.contains(statement))
            })
            .collect();
        let names: Vec<_> = rivals.iter().map(|(other, _)| ident::from_server(&other.index.name)).collect();
        let together = self.pct(rivals.iter().map(|(_, gain)| gain.saved).sum());
        let readers = self.study.statements.iter().filter(|one| one.reads(entry.candidate.relation)).count();
        let first = entry.candidate.keys.first().map(|key| key.part);
        let asks = |statement: &&Studied| {
            let needs = &statement.base.needs;
            needs
                .iter()
                .any(|one| one.relation == entry.candidate.relation && first.is_some_and(|part| one.mentions(part)))
        };
        let asking = self.study.statements.iter().filter(asks).count();
        let relation = &known.relation.name;
        let saved = alone.map(|share| 100.0 * share);
        let reason = match saved {
            None => "The time budget ran out before it could be judged; raise time_budget_ms.".to_owned(),
            Some(pct) if pct >= NOTICEABLE_PCT && !rivals.is_empty() => format!(
                "It alone would save {pct:.1} % of the workload; the recommended {} on {relation} save{} {together:.1} % with the same statements among them.",
                names.join(" and "),
                if names.len() == 1 { "s" } else { "" },
            ),
            Some(pct) if pct >= NOTICEABLE_PCT => {
                format!("It would save {pct:.1} % of the workload, but not what it costs the writes, or not within the storage budget.")
            }
            _ if readers == 0 => format!("No statement of the workload reads {relation}."),
            _ if asking == 0 => {
                let column = row.columns.first().cloned().unwrap_or_default();
                format!("None of the {} that read {relation} asks for {column}.", counted(readers, "statement"))
            }
            _ => format!(
                "None of the {} that ask for its first column gets cheaper with it.",
                counted(asking, "statement")
            ),
        };
        Recommendation {
            status: if saved.is_some() { "not_needed" } else { "not_applicable" },
            basis: if saved.is_some() { "what_if" } else { "policy" },
            confidence: if self.workload.is_measured() { "high" } else { "medium" },
            benefit_pct: saved,
            statements_improved: saved.filter(|pct| *pct < NOTICEABLE_PCT).map(|_| 0),
            reason: sentence(&reason),
            ..row
        }
    }
}

/// Names listed in a reason, at most.
const NAMED_MAX: usize = 3;

/// What a partitioned index makes of partitions that cannot have a part of it, and of those that have it already.
fn about_parts(known: &Known, entry: &Entry) -> String {
    let mut words = String::new();
    let ready: Vec<String> =
        entry.parts.iter().filter(|part| part.ready.is_some()).map(|part| part.name.clone()).collect();
    if !ready.is_empty() {
        words.push_str(&format!("; what is there already becomes part of it: {}", named(&ready)));
    }
    let foreign: Vec<String> = known.partitions.foreign().map(|part| part.name.clone()).collect();
    if !foreign.is_empty() {
        words.push_str(&format!(
            "; foreign tables get none from here, so look to them where they are: {}",
            named(&foreign)
        ));
    }
    words
}

/// `a, b, c and 4 more`.
fn named(names: &[String]) -> String {
    let first = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn stable_id(parts: &[String]) -> String {
    name::stable_id(&parts.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Whether the gain of a statement hangs on row estimates that are wrong, or that nobody has checked.
fn is_doubtful(statement: &Studied) -> bool {
    match statement.base.misestimate {
        Some(factor) => factor >= MISESTIMATE,
        None => statement.base.total_cost >= COSTLY,
    }
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}

fn times(factor: f64) -> String {
    if factor < 10.0 {
        format!("{factor:.1} times")
    } else {
        format!("{factor:.0} times")
    }
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

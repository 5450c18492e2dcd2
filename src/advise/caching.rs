//! Which results to keep in a cache: the wishes of `perf.cache_policy` and the captured statements, with what was counted of
//! their reads, what writes their rows, and what shadows or the store have measured. Called by `perf.caching_strategies` and
//! `perf.cache_shadow`. Analyses statements, and locks as that does; nothing is left locked.

mod candidates;
mod dependence;
mod facts;
mod policies;
pub mod shadow;
pub mod watch;

use perf_core::cache::candidate::{self, Judgement, Summary, Verdict, Writes};
use pgrx::pg_sys;
use serde_json::{json, Map, Value};

use crate::error::Error;
use crate::memory;
use crate::pg::{ident, privilege};
use crate::workload::shapes;
use facts::{Facts, Statement};

/// Gets that a measured hit rate is of, at least.
const GETS_MIN: f64 = 30.0;
/// Statements named in the evidence of one row, at most.
const QUERIES_MAX: usize = 5;

/// One row of the answer; the columns are described in sql/caching.sql.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    pub key_template: String,
    pub ttl_s: Option<f64>,
    pub recommended_ttl_s: Option<f64>,
    pub size_bytes: Option<i64>,
    pub invalidated_by: Vec<String>,
    pub used_for: Option<String>,
    pub source: &'static str,
    pub status: &'static str,
    pub queryid: Option<i64>,
    pub reads_per_min: Option<f64>,
    pub writes_per_min: Option<f64>,
    pub expected_hit_pct: Option<f64>,
    pub measured_hit_pct: Option<f64>,
    pub saved_ms_per_min: Option<f64>,
    pub basis: &'static str,
    pub reason: String,
    pub evidence: Value,
    /// Statements that the cache would answer.
    pub queryids: Vec<i64>,
}

/// A measured hit rate.
#[derive(Clone, Copy, Debug)]
struct Measured {
    gets: f64,
    share: f64,
    by_store: bool,
    /// Of the shadow's cache.
    size_bytes: i64,
    ttl_s: f64,
}

fn failed(error: pgrx::spi::Error) -> Error {
    crate::collect::partitions::spi_failed(error)
}

/// All strategies: the policy's, then those of the workload.
pub fn strategies(include_inapplicable: bool) -> Result<Vec<Row>, Error> {
    with_facts(|policies, facts| Ok(rows_of(policies, facts, include_inapplicable)))
}

/// Shows all policies and what they are judged by.
fn with_facts<T>(body: impl FnOnce(&[policies::Policy], &Facts) -> Result<T, Error>) -> Result<T, Error> {
    let policies = policies::read()?;
    let shapes = if memory::is_ready() { Some(shapes::read()?) } else { None };
    privilege::with_own_path(|| body(&policies, &Facts::read(shapes.as_ref())?))
}

/// A statement of a strategy, for whoever sets that up.
pub struct Cached {
    /// Normalised.
    pub text: String,
    /// The mean time of an execution.
    pub mean_ms: f64,
    /// What its values are called in a key, by place.
    pub placeholders: Vec<String>,
}

/// A table that they read.
pub struct Read {
    /// The table.
    pub oid: pg_sys::Oid,
    /// Quoted and qualified.
    pub name: String,
    /// What a change of it is called, where nobody calls it otherwise.
    pub event: String,
    /// Columns by which a change of a row does not say whose results it changes.
    pub inexact: Vec<String>,
}

/// A strategy with its statements, and the tables that they read.
pub struct Strategy {
    /// As it is told.
    pub row: Row,
    /// Its statements.
    pub statements: Vec<Cached>,
    /// Their tables, those that are partitions as what they are a part of.
    pub tables: Vec<Read>,
}

/// The strategy of a name, if there is one.
pub fn strategy(name: &str) -> Result<Option<Strategy>, Error> {
    with_facts(|policies, facts| {
        let Some(row) = rows_of(policies, facts, true).into_iter().find(|row| row.name == name) else {
            return Ok(None);
        };
        let all = facts.statements.as_deref().unwrap_or_default().iter();
        let of_it: Vec<&Statement> = all.filter(|one| row.queryids.contains(&(one.queryid as i64))).collect();
        let statements = of_it.iter().map(|statement| Cached {
            text: statement.text.clone(),
            mean_ms: statement.total_ms / statement.calls.max(1.0),
            placeholders: candidates::placeholders(statement, facts),
        });
        let statements = statements.collect();
        let mut tables: Vec<Read> = Vec::new();
        for relation in of_it.iter().flat_map(|statement| facts.tables_of(statement)) {
            let oid = pg_sys::Oid::from(relation.root);
            if !tables.iter().any(|known| known.oid == oid) {
                let name = ident::qualified(&relation.schema, &relation.name);
                let inexact = facts.inexact(&of_it, relation);
                tables.push(Read { oid, name, event: candidates::event(relation), inexact });
            }
        }
        Ok(Some(Strategy { row, statements, tables }))
    })
}

fn rows_of(policies: &[policies::Policy], facts: &Facts, include_inapplicable: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut bound: Vec<u64> = Vec::new();
    for policy in policies {
        let statements = policy.statements(facts);
        bound.extend(statements.iter().map(|statement| statement.queryid));
        let row = policies::row(policy, &statements, facts);
        if row.status != "not_applicable" || include_inapplicable {
            rows.push(row);
        }
    }
    rows.extend(candidates::rows(facts, &bound));
    rows
}

/// What is known of the reads of some statements together.
fn summary_of(statements: &[&Statement], facts: &Facts) -> Option<Summary> {
    let mut sum: Option<Summary> = None;
    for one in statements.iter().filter_map(|statement| facts.summaries.get(&statement.queryid)) {
        let sum = sum.get_or_insert_with(|| Summary { keys: Vec::new(), key_reads: Vec::new(), ..Summary::default() });
        let (before, more) = (sum.reads + sum.unknown, one.reads + one.unknown);
        sum.bytes = if before + more > 0.0 { (sum.bytes * before + one.bytes * more) / (before + more) } else { 0.0 };
        sum.window_s = sum.window_s.max(one.window_s);
        sum.reads += one.reads;
        sum.unknown += one.unknown;
        sum.total_ms += one.total_ms;
        for (to, from) in [(&mut sum.keys, &one.keys), (&mut sum.key_reads, &one.key_reads)] {
            to.resize(to.len().max(from.len()), 0.0);
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }
    sum
}

/// What is counted of statements, where nothing of their single reads is known.
fn counted(statements: &[&Statement], facts: &Facts) -> Summary {
    Summary {
        window_s: facts.seconds.unwrap_or(0.0),
        reads: statements.iter().map(|statement| statement.calls).sum(),
        total_ms: statements.iter().map(|statement| statement.total_ms).sum(),
        ..Summary::default()
    }
}

/// How the rows of some statements are written.
fn writes_of(statements: &[&Statement], facts: &Facts) -> Writes {
    let each = statements.iter().map(|statement| facts.writes(statement));
    each.fold(Writes::default(), |most, one| Writes {
        of_all: most.of_all.max(one.of_all),
        of_one: most.of_one.max(one.of_one),
    })
}

/// Judges a strategy by what is known of its statements, and fills in the numbers. `ttl_s`: of the policy.
fn assess(row: &mut Row, statements: &[&Statement], facts: &Facts, ttl_s: Option<f64>) {
    let total: f64 = statements.iter().map(|statement| statement.total_ms).sum();
    let calls: f64 = statements.iter().map(|statement| statement.calls).sum();
    let found = summary_of(statements, facts);
    let counts = counted(statements, facts);
    let writes = writes_of(statements, facts);
    let clock = statements.iter().any(|statement| statement.shape.clock);
    let longest = if clock { candidate::CLOCK_TTL_S } else { f64::INFINITY };
    let summary = found.as_ref().unwrap_or(&counts);
    row.reads_per_min = (summary.window_s > 0.0).then(|| summary.reads_per_min());
    row.writes_per_min = facts.seconds.map(|_| 60.0 * (writes.of_all + writes.of_one));
    let asked = found.as_ref().filter(|summary| summary.reads > 0.0);
    row.recommended_ttl_s = asked.map(|summary| summary.recommended_ttl_s(writes, longest));
    row.ttl_s = ttl_s.or(row.recommended_ttl_s);
    let expected = asked.zip(row.ttl_s).map(|(summary, ttl)| summary.hit_share(ttl, writes));
    row.expected_hit_pct = expected.map(|share| 100.0 * share);
    let measured = facts.measured(&row.name, row.ttl_s);
    row.measured_hit_pct = measured.map(|measured| 100.0 * measured.share);
    let trusted = measured.filter(|measured| measured.gets >= GETS_MIN);
    let share = trusted.map(|measured| measured.share).or(expected);
    row.saved_ms_per_min = share
        .filter(|_| summary.window_s > 0.0)
        .map(|share| candidate::saved_ms_per_min(summary.reads_per_min(), summary.mean_ms(), share));
    row.size_bytes = asked.map(|summary| (summary.bytes * summary.distinct()).round() as i64);
    row.basis = match (trusted.is_some(), expected.is_some()) {
        (true, _) => "measured",
        (_, true) => "expected",
        _ => row.basis,
    };
    let obstacle = statements.iter().find_map(|statement| facts.obstacle(statement));
    let mean_ms = if calls > 0.0 { total / calls } else { 0.0 };
    let judgement = match obstacle {
        Some(why) => Judgement { verdict: Verdict::NotWorthIt, reason: format!("It cannot be cached: {why}") },
        // Of statements that are mostly fast, only the slow executions were surveyed.
        None if mean_ms < candidate::MEAN_MS_MIN => candidate::judge(&counts, 0.0, false),
        None => match (&found, share) {
            (Some(summary), Some(share)) => candidate::judge(summary, share, trusted.is_some()),
            (Some(summary), None) => candidate::judge(summary, 0.0, false),
            (None, _) => Judgement {
                verdict: Verdict::InsufficientData,
                reason: format!(
                    "{calls:.0} reads of {mean_ms:.1} ms each were counted, but none was looked at yet: that needs the \
                     collector and perf_opt.cache_survey_min_ms"
                ),
            },
        },
    };
    row.status = match judgement.verdict {
        Verdict::Recommended => "recommended",
        Verdict::NotWorthIt => "not_worth_it",
        Verdict::InsufficientData => "insufficient_data",
    };
    if measured.is_some_and(|measured| measured.by_store) {
        row.status = "active";
    }
    let mut sentences = vec![capitalised(&judgement.reason)];
    if clock && row.status != "not_worth_it" {
        let shown = match ttl_s {
            Some(ttl) if ttl > candidate::CLOCK_TTL_S => format!("for up to {ttl:.0} s, the policy's time to live"),
            _ => "for up to its time to live".to_owned(),
        };
        sentences
            .push(format!("Its answer moves with the clock: what a hit gives is stale {shown}, even without a write"));
    }
    row.reason = sentences.join(". ") + ".";
    row.evidence = evidence(row, statements, facts, found.as_ref(), measured.as_ref(), writes);
}

fn evidence(
    row: &Row,
    statements: &[&Statement],
    facts: &Facts,
    summary: Option<&Summary>,
    measured: Option<&Measured>,
    writes: Writes,
) -> Value {
    let mut evidence = Map::new();
    let queries: Vec<Value> = (statements.iter().take(QUERIES_MAX))
        .map(|statement| {
            json!({"queryid": statement.queryid as i64, "query": statement.text, "calls": statement.calls,
                   "mean_ms": statement.total_ms / statement.calls.max(1.0),
                   "relations": facts.names_of(statement)})
        })
        .collect();
    evidence.insert("statements".to_owned(), Value::Array(queries));
    if let Some(summary) = summary {
        evidence.insert(
            "reads".to_owned(),
            json!({"window_s": summary.window_s, "reads": summary.reads, "values_unknown": summary.unknown,
                   "mean_ms": summary.mean_ms(), "different": summary.distinct(), "mean_bytes": summary.bytes}),
        );
    }
    if facts.seconds.is_some() {
        evidence.insert(
            "writes_per_min".to_owned(),
            json!({"of_all": 60.0 * writes.of_all, "of_one_key": 60.0 * writes.of_one}),
        );
    }
    if let Some(measured) = measured {
        let by = if measured.by_store { "store" } else { "shadow" };
        let mut what = json!({"by": by, "gets": measured.gets, "hit_pct": 100.0 * measured.share});
        if !measured.by_store {
            what["size_bytes"] = json!(measured.size_bytes);
            what["ttl_s"] = if measured.ttl_s.is_finite() { json!(measured.ttl_s) } else { Value::Null };
        }
        evidence.insert("measured".to_owned(), what);
    }
    let mut caveats: Vec<String> = Vec::new();
    if row.status != "not_applicable" && !statements.is_empty() {
        caveats.push("readers must share their settings, of the time zone above all".to_owned());
        if facts.hidden > 0 {
            caveats.push(format!("writes by {} statements of other roles are not counted", facts.hidden));
        }
    }
    evidence.insert("caveats".to_owned(), json!(caveats));
    Value::Object(evidence)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

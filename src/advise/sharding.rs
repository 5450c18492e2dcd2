//! Whether to split the database over several nodes, and by what: the captured statements and transactions, catalogs and
//! statistics put together for `perf_core::sharding`. Called by `perf.sharding_advice` and the recommendations on scaling.
//! Analyses statements, and locks as that does; nothing is left locked.

mod facts;
mod headroom;

use std::collections::{HashMap, HashSet};

use perf_core::sharding::{self, Advice, Candidate, Pin, Statement, Step, Transaction, Verdict, Workload};

use crate::error::Error;
use crate::pg::ident;
use crate::pg::names::current_database;
use crate::workload::shapes::{self, Shapes};
use crate::workload::transactions::{self, Trace};
use facts::Tables;
pub use headroom::Headroom;

/// Nodes that anybody asks for.
const NODES: std::ops::RangeInclusive<i32> = 2..=1000;

/// One row of the answer.
#[derive(Clone, Debug)]
pub struct Row {
    /// Table and column.
    pub candidate_key: Option<String>,
    /// shard, not_yet or unsuitable.
    pub verdict: &'static str,
    /// Transactions that touch one value of the key, in percent.
    pub single_shard_pct: Option<f64>,
    /// Transactions that touch several, or all nodes, in percent.
    pub cross_shard_pct: Option<f64>,
    /// Copied to all nodes.
    pub reference_tables: Vec<String>,
    /// Split by the key.
    pub colocated_tables: Vec<String>,
    /// Load of the busiest node over the mean.
    pub imbalance: Option<f64>,
    /// What must be changed first.
    pub blockers: Vec<String>,
    /// Work of all nodes over that of one.
    pub predicted_speedup: Option<f64>,
    /// How to do it.
    pub ddl: Option<String>,
    /// Why.
    pub reason: String,
}

impl Row {
    /// The one row where there is no candidate.
    fn without_candidate(verdict: Verdict, reason: String) -> Row {
        Row {
            candidate_key: None,
            verdict: verdict.name(),
            single_shard_pct: None,
            cross_shard_pct: None,
            reference_tables: Vec::new(),
            colocated_tables: Vec::new(),
            imbalance: None,
            blockers: Vec::new(),
            predicted_speedup: None,
            ddl: None,
            reason,
        }
    }
}

/// The answer, with what it was made of.
pub struct Answer {
    /// What to do.
    pub verdict: Verdict,
    /// The best first; never empty.
    pub rows: Vec<Row>,
    /// How long one machine will do.
    pub headroom: Headroom,
}

/// Number of nodes, checked.
pub fn checked_nodes(nodes: Option<i32>) -> Result<u32, Error> {
    match nodes.filter(|nodes| NODES.contains(nodes)).and_then(|nodes| u32::try_from(nodes).ok()) {
        Some(nodes) => Ok(nodes),
        None => Err(Error::InvalidArgument {
            argument: "nodes",
            value: nodes.map_or("NULL".to_owned(), |nodes| nodes.to_string()),
            accepted: format!("Give a number of nodes from {} to {}.", NODES.start(), NODES.end()),
        }),
    }
}

/// Looks at the captured workload.
pub fn advise(nodes: u32) -> Result<Answer, Error> {
    answer(&shapes::read()?, &transactions::traces(current_database()), nodes)
}

/// Looks at a workload that was read.
pub fn answer(shapes: &Shapes, traces: &[Trace], nodes: u32) -> Result<Answer, Error> {
    let headroom = headroom::read()?;
    let touched: HashSet<u32> =
        shapes.statements.iter().flat_map(|s| &s.shape.tables).map(|table| table.to_u32()).collect();
    if touched.is_empty() {
        return Ok(nothing_known(shapes, headroom));
    }
    let updated: Vec<_> = shapes.statements.iter().flat_map(|s| s.shape.updated.iter().copied()).collect();
    let tables = facts::read(&touched, &updated)?;
    let (statements, by_id) = statements(shapes, &tables);
    let transactions = transactions(shapes, traces, &by_id);
    let (seen, incomplete) = (transactions.len(), transactions.iter().filter(|one| one.incomplete).count());
    let Tables { relations, foreign_keys, .. } = tables;
    let workload = Workload {
        relations,
        foreign_keys,
        statements,
        transactions,
        nodes,
        headroom_months: headroom.months,
        missing_share: shapes.missing_share(),
    };
    let advice = sharding::advise(&workload);
    let mut notes: Vec<String> = headroom.why.clone();
    notes.push(match (seen, incomplete) {
        (0, 0) => "no transactions were captured, so that every call counts as one".to_owned(),
        (_, 0) => format!("{seen} transactions were looked at"),
        _ => format!("{seen} transactions were looked at, of {incomplete} of which not all statements are known"),
    });
    notes.push(shapes.caveat());
    notes.retain(|note| !note.is_empty());
    Ok(Answer { verdict: advice.verdict, rows: rows(&workload, &advice, &notes), headroom })
}

/// There is nothing to judge by.
fn nothing_known(shapes: &Shapes, headroom: Headroom) -> Answer {
    let caveat = shapes.caveat();
    let mut reason = format!(
        "Don't shard yet: {} captured statements, none of which uses a table of this database that is known",
        shapes.statements.len() + shapes.unclear + shapes.hidden
    );
    if !caveat.is_empty() {
        reason = format!("{reason}; {caveat}");
    }
    let verdict = Verdict::NotYet;
    Answer { verdict, rows: vec![Row::without_candidate(verdict, reason + ".")], headroom }
}

/// Place of a statement by its queryid and whether a client sent it; `None` for one that uses no table.
type ById = HashMap<(u64, bool), Option<usize>>;

/// Statements as the advice wants them, and where each is.
fn statements(shapes: &Shapes, tables: &Tables) -> (Vec<Statement>, ById) {
    let mut found = Vec::new();
    let mut by_id = HashMap::new();
    for one in &shapes.statements {
        let shape = &one.shape;
        // A table that is no part of any workload was dropped from the answer: places move.
        let places: Vec<Option<usize>> = shape.tables.iter().map(|table| tables.place(*table)).collect();
        let mut moved = vec![None; places.len()];
        let mut kept = Vec::new();
        for (at, place) in places.iter().enumerate() {
            if let Some(place) = place {
                moved[at] = Some(kept.len());
                kept.push(*place);
            }
        }
        let column = |(table, number): (usize, i16)| {
            Some((*moved.get(table)?.as_ref()?, tables.column(*shape.tables.get(table)?, number)?))
        };
        // Without any table it is no part of what is split; that it ran is known.
        let place = (!kept.is_empty()).then_some(found.len());
        by_id.entry((one.queryid, one.toplevel)).or_insert(place);
        if kept.is_empty() {
            continue;
        }
        found.push(Statement {
            id: one.queryid as i64,
            total_ms: one.total_ms,
            calls: one.calls,
            joins: shape.joins.iter().filter_map(|(a, b)| Some((column(*a)?, column(*b)?))).collect(),
            pins: shape
                .pins
                .iter()
                .filter_map(|pin| Some(Pin { column: column(pin.column)?, slots: pin.slots.clone() }))
                .collect(),
            writes: shape.writes.iter().filter_map(|table| *moved.get(*table)?).collect(),
            tables: kept,
        });
    }
    (found, by_id)
}

/// Transactions as the advice wants them; without those that use no table.
fn transactions(shapes: &Shapes, traces: &[Trace], by_id: &ById) -> Vec<Transaction> {
    let mut found = Vec::new();
    for trace in traces.iter().filter(|trace| !trace.rolled_back) {
        let mut steps = Vec::new();
        let mut incomplete = trace.truncated;
        for step in &trace.steps {
            let id = (step.queryid, step.toplevel);
            match by_id.get(&id) {
                Some(Some(statement)) => steps.push(Step { statement: *statement, values: step.values.clone() }),
                Some(None) => {}
                // Not understood, of another role, or there was no room to keep it: it may touch anything.
                None => incomplete |= !shapes.apart.contains_key(&id),
            }
        }
        if incomplete || !steps.is_empty() {
            found.push(Transaction { steps, times: 1.0, incomplete });
        }
    }
    found
}

fn rows(workload: &Workload, advice: &Advice, notes: &[String]) -> Vec<Row> {
    let with_notes = |reason: &str| {
        let notes = notes.join("; ");
        format!("{} ({notes}).", reason.trim_end_matches('.'))
    };
    if advice.candidates.is_empty() {
        return vec![Row::without_candidate(advice.verdict, with_notes(&advice.reason))];
    }
    let names = |places: &[usize]| places.iter().map(|&r| workload.relations[r].name.clone()).collect();
    let row = |(number, candidate): (usize, &Candidate)| {
        let ddl: Vec<String> = candidate.ddl.iter().map(|one| one.sql(ident::literal)).collect();
        Row {
            candidate_key: Some(candidate.key.clone()),
            verdict: candidate.verdict.name(),
            single_shard_pct: Some(candidate.single_shard_pct),
            cross_shard_pct: Some(candidate.cross_shard_pct),
            reference_tables: names(&candidate.reference_tables),
            colocated_tables: names(&candidate.colocated_tables),
            imbalance: Some(candidate.imbalance),
            blockers: candidate.blockers.clone(),
            predicted_speedup: Some(candidate.predicted_speedup),
            ddl: (!ddl.is_empty()).then(|| ddl.join("\n")),
            reason: match number {
                0 => with_notes(&advice.reason),
                _ => format!("{}: {}.", candidate.key, candidate.reasons.join("; ")),
            },
        }
    };
    advice.candidates.iter().enumerate().map(row).collect()
}

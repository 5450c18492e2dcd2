//! How the statements of a change read their relations, by the planner, before it and after it. Without values: what a plan
//! compares with is nobody else's to see. Called by perf.apply() and perf.verify(); plans each as the role that runs it, and
//! locks as planning does.

use std::collections::BTreeMap;

use perf_core::change::Part;
use serde_json::{json, Value};

use super::index::{study, what_if};
use crate::act::change::watched::{self, Plans, Watched};
use crate::error::Error;
use crate::pg::ident;
use crate::pg::planner::Planned;
use crate::workload::captured;
use crate::workload::queries::Workload;

/// Statements of one change whose plans are looked at, those with most time first.
const PLANNED_MAX: usize = 10;

/// Notes the plans of today of the statements that a change concerns.
pub fn keep(change_id: i64, concerned: &[Watched]) -> Result<(), Error> {
    let mut wanted: Vec<&Watched> = concerned.iter().filter(|one| one.part != Part::Control).collect();
    wanted.sort_by(|a, b| b.weight_ms.total_cmp(&a.weight_ms));
    let queryids: Vec<i64> = wanted.iter().take(PLANNED_MAX).map(|one| one.queryid).collect();
    watched::keep_plans(change_id, &of(&captured::read()?, &queryids))
}

/// Adds to each statement of a verification how it was planned before the change, and how it is now.
pub fn compare(change_id: i64, statements: &mut Value) -> Result<(), Error> {
    let before = watched::plans(change_id)?;
    if before.is_empty() {
        return Ok(());
    }
    let queryids: Vec<i64> = before.keys().copied().collect();
    let after = of(&captured::read()?, &queryids);
    for one in statements.as_array_mut().into_iter().flatten() {
        let Some(queryid) = one.get("queryid").and_then(Value::as_i64) else { continue };
        let (Some(was), Some(fields)) = (before.get(&queryid), one.as_object_mut()) else { continue };
        fields.insert("plan_before".to_owned(), json!(was));
        fields.insert("plan_after".to_owned(), json!(after.get(&queryid)));
    }
    Ok(())
}

/// The plans of the heaviest statements with these numbers.
fn of(workload: &Workload, queryids: &[i64]) -> Plans {
    let mut heaviest: BTreeMap<i64, usize> = BTreeMap::new();
    for (at, statement) in workload.statements.iter().enumerate() {
        let known = heaviest.entry(statement.queryid).or_insert(at);
        if workload.statements[*known].total_ms < statement.total_ms {
            *known = at;
        }
    }
    let found = queryids.iter().filter_map(|queryid| Some((*queryid, *heaviest.get(queryid)?)));
    found.filter_map(|(queryid, at)| Some((queryid, described(&study::plan_of(workload, at)?)))).collect()
}

/// `Index Scan on public.orders using orders_customer_idx`, a line for each scan.
fn described(planned: &Planned) -> Vec<String> {
    let line = |scan: &crate::pg::planner::Scan| {
        let relation = ident::relation(scan.relation).unwrap_or_default();
        let indexes: Vec<String> =
            scan.indexes.iter().map(|used| ident::quote(&what_if::used_name(*used, &[]))).collect();
        match indexes.as_slice() {
            [] => format!("{} on {relation}", scan.method),
            _ => format!("{} on {relation} using {}", scan.method, indexes.join(", ")),
        }
    };
    planned.scans.iter().map(line).collect()
}

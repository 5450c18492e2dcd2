//! What the planner thinks of a statement, with and without an index. Plans in subtransactions; locks nothing that lasts.

use pgrx::pg_sys;

use crate::advise::index::what_if;
use crate::pg::hypothetical::Hypothetical;
use crate::pg::planner::{self, Configuration, Failure, Planned, Statement};
use crate::pg::query_rules;

/// The plan of a statement as things are.
pub fn plan(statement: &Statement<'_>) -> Result<Planned, Failure> {
    let plans = planner::plan(statement, &[Configuration::default()])?;
    Ok(plans.into_iter().next().unwrap_or_default())
}

/// The planner's cost of it; None where it cannot be planned.
pub fn cost(statement: &Statement<'_>) -> Option<f64> {
    plan(statement).ok().map(|plan| plan.total_cost)
}

/// Its cost without some indexes.
pub fn cost_without(statement: &Statement<'_>, hidden: &[pg_sys::Oid]) -> Option<f64> {
    let configuration = Configuration { hidden, ..Configuration::default() };
    planner::plan(statement, &[configuration]).ok()?.first().map(|plan| plan.total_cost)
}

/// Its cost with an index that a CREATE INDEX describes, and without some; None where either cannot be.
pub fn cost_with(statement: &Statement<'_>, ddl: &str, hidden: &[pg_sys::Oid]) -> Option<f64> {
    // The description's nodes live no longer than the subtransaction.
    query_rules::guarded(|| {
        let index = what_if::read(ddl).ok()?;
        let configuration = Configuration { hypothetical: &[&index], hidden, ..Configuration::default() };
        planner::plan(statement, &[configuration]).ok()?.first().map(|plan| plan.total_cost)
    })
    .ok()
    .flatten()
}

/// The table of an index that a CREATE INDEX describes, and its columns, if it is one on columns only.
pub fn described(ddl: &str) -> Option<(pg_sys::Oid, Vec<i16>)> {
    let plain = |index: &Hypothetical| index.predicate.is_null() && index.include.is_empty();
    query_rules::guarded(|| {
        let index = what_if::read(ddl).ok().filter(plain)?;
        Some((index.relation, index.keys.iter().map(|key| key.column).collect::<Vec<i16>>()))
    })
    .ok()
    .flatten()
    .filter(|(_, columns)| columns.iter().all(|column| *column > 0))
}

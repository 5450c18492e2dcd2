//! SQL: `apply`, `verify`, `undo`. See sql/apply_functions.sql.

use pgrx::prelude::*;

use super::{or_raise, required};
use crate::act::change::{undo as taking_back, verify as verifying};
use crate::act::define;
use crate::advise::{apply as applying, plans};
use crate::pg::text::{Document, Text};
use crate::pg::{background, privilege};

/// Carries out a recommendation; the number of the run that does.
#[pg_extern(volatile, parallel_unsafe)]
fn apply(recommendation_id: Option<Text>) -> i64 {
    or_raise(required("recommendation_id", recommendation_id).and_then(|id| applying::request(&id.0)))
}

/// Takes a change back; the number of the run that does.
#[pg_extern(volatile, parallel_unsafe)]
fn undo(recommendation_id: Option<Text>) -> i64 {
    or_raise(required("recommendation_id", recommendation_id).and_then(|id| {
        define::check_preloaded()?;
        background::refuse_in_recovery(c"perf.undo()");
        taking_back::request(&id.0)
    }))
}

/// Compares what the statements of a change do with what they did before it.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn verify(
    recommendation_id: Option<Text>,
) -> TableIterator<
    'static,
    (
        name!(predicted_pct, Option<f64>),
        name!(achieved_pct, Option<f64>),
        name!(statements, Document),
        name!(verdict, &'static str),
        name!(reason, Text),
    ),
> {
    let found = or_raise(required("recommendation_id", recommendation_id).and_then(|id| {
        define::check_preloaded()?;
        background::refuse_in_recovery(c"perf.verify()");
        let change = taking_back::find(&id.0)?;
        taking_back::require_made(&change)?;
        let mut found = verifying::run(&change, privilege::current_role())?;
        plans::compare(change.change_id, &mut found.statements)?;
        Ok(found)
    }));
    let judgement = found.judgement;
    TableIterator::once((
        found.predicted_pct,
        judgement.achieved_pct,
        Document(found.statements),
        judgement.verdict.name(),
        Text(judgement.reason),
    ))
}

//! SQL: `scaling_recommendations`.

use pgrx::prelude::*;

use super::or_raise;
use crate::advise::scaling;
use crate::pg::text::{Document, Text};

/// What to do as the load grows. See sql/scaling.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn scaling_recommendations() -> TableIterator<
    'static,
    (
        name!(id, Text),
        name!(kind, Text),
        name!(priority, Text),
        name!(triggered, bool),
        name!(recommendation, Text),
        name!(metric, Option<Text>),
        name!(measured_value, Option<f64>),
        name!(threshold, Option<f64>),
        name!(unit, Option<Text>),
        name!(expected_benefit_pct, Option<f64>),
        name!(basis, Text),
        name!(config, Option<Text>),
        name!(reason, Text),
        name!(evidence, Document),
    ),
> {
    TableIterator::new(or_raise(scaling::recommend()).into_iter().map(|row| {
        (
            Text(row.id),
            Text(row.kind.to_owned()),
            Text(row.priority),
            row.triggered,
            Text(row.recommendation),
            row.metric.map(Text),
            row.measured_value,
            row.threshold,
            row.unit.map(Text),
            row.expected_benefit_pct,
            Text(row.basis.name().to_owned()),
            row.config.map(Text),
            Text(row.reason),
            Document(row.evidence),
        )
    }))
}

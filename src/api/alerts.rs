//! SQL: `alerts`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::advise::alerts;
use crate::pg::text::Text;

/// Alerts that fire or that nothing is known of, and with `include_ok` those in order as well. Error 22004 for NULL.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
pub fn alerts(
    include_ok: default!(Option<bool>, "false"),
) -> TableIterator<
    'static,
    (
        name!(name, Text),
        name!(severity, Text),
        name!(status, &'static str),
        name!(value, Option<f64>),
        name!(threshold, f64),
        name!(unit, Text),
        name!(since_at, Option<TimestampWithTimeZone>),
        name!(action, Text),
    ),
> {
    let include_ok = or_raise(required("include_ok", include_ok));
    TableIterator::new(alerts::report(include_ok).into_iter().map(|alert| {
        let since_at = alert.since_at.and_then(|at| TimestampWithTimeZone::try_from(at).ok());
        (
            Text(alert.name),
            Text(alert.severity),
            alert.status.name(),
            alert.value,
            alert.threshold,
            Text(alert.unit),
            since_at,
            Text(alert.action),
        )
    }))
}

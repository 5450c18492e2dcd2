//! SQL: `baseline_capture`, `baseline_compare`, `baseline_drop`.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::baselines::{self, Occasion};
use crate::pg::text::Text;

/// Keeps what the statements of this database did since a time, under a name. Its number.
#[pg_extern(volatile, parallel_unsafe)]
fn baseline_capture(
    name: Option<&str>,
    note: default!(Option<&str>, "NULL"),
    since: default!(Option<TimestampWithTimeZone>, "now() - interval '24 hours'"),
    keep: default!(Option<Interval>, "'1 year'"),
) -> i64 {
    let name = or_raise(required("name", name));
    let since = or_raise(required("since", since));
    let keep = or_raise(required("keep", keep));
    or_raise(baselines::capture(name, note, since, keep, Occasion::Asked))
}

/// Statement by statement, what has changed between two baselines, or since one was captured.
#[pg_extern(volatile, parallel_restricted)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn baseline_compare(
    before: Option<&str>,
    after: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(queryid, i64),
        name!(query, Text),
        name!(calls_before, i64),
        name!(calls_after, i64),
        name!(mean_ms_before, Option<f64>),
        name!(mean_ms_after, Option<f64>),
        name!(p95_ms_before, Option<f64>),
        name!(p95_ms_after, Option<f64>),
        name!(p99_ms_before, Option<f64>),
        name!(p99_ms_after, Option<f64>),
        name!(change_pct, Option<f64>),
        name!(verdict, &'static str),
    ),
> {
    let before = or_raise(required("before", before));
    let changes = or_raise(baselines::compare(before, after));
    let calls = |calls: u64| i64::try_from(calls).unwrap_or(i64::MAX);
    TableIterator::new(changes.into_iter().map(move |change| {
        let (was, is) = (&change.before, &change.after);
        (
            change.queryid,
            Text(change.query),
            calls(was.calls),
            calls(is.calls),
            was.mean_ms(),
            is.mean_ms(),
            was.quantile_ms(0.95),
            is.quantile_ms(0.95),
            was.quantile_ms(0.99),
            is.quantile_ms(0.99),
            change.change_pct,
            change.verdict.name(),
        )
    }))
}

/// Removes a baseline; whether there was one.
#[pg_extern(volatile, parallel_unsafe)]
fn baseline_drop(name: Option<&str>) -> bool {
    or_raise(baselines::remove(or_raise(required("name", name))))
}

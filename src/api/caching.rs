//! SQL: `caching_strategies`, `cache_shadow`.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::advise::caching::{self, shadow};
use crate::error::Error;
use crate::pg::text::{Document, Text};

/// Which results to keep in a cache. See sql/caching.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn caching_strategies(
    include_inapplicable: default!(Option<bool>, false),
) -> TableIterator<
    'static,
    (
        name!(name, Text),
        name!(key_template, Text),
        name!(ttl, Option<Interval>),
        name!(recommended_ttl, Option<Interval>),
        name!(size_bytes, Option<i64>),
        name!(invalidated_by, Vec<Text>),
        name!(used_for, Option<Text>),
        name!(source, Text),
        name!(status, Text),
        name!(queryid, Option<i64>),
        name!(reads_per_min, Option<f64>),
        name!(writes_per_min, Option<f64>),
        name!(expected_hit_pct, Option<f64>),
        name!(measured_hit_pct, Option<f64>),
        name!(saved_ms_per_min, Option<f64>),
        name!(basis, Text),
        name!(reason, Text),
        name!(evidence, Document),
    ),
> {
    let rows = or_raise(required("include_inapplicable", include_inapplicable).and_then(caching::strategies));
    TableIterator::new(rows.into_iter().map(|row| {
        (
            Text(row.name),
            Text(row.key_template),
            interval(row.ttl_s),
            interval(row.recommended_ttl_s),
            row.size_bytes,
            row.invalidated_by.into_iter().map(Text).collect::<Vec<Text>>(),
            row.used_for.map(Text),
            Text(row.source.to_owned()),
            Text(row.status.to_owned()),
            row.queryid,
            row.reads_per_min,
            row.writes_per_min,
            row.expected_hit_pct,
            row.measured_hit_pct,
            row.saved_ms_per_min,
            Text(row.basis.to_owned()),
            Text(row.reason),
            Document(row.evidence),
        )
    }))
}

fn interval(seconds: Option<f64>) -> Option<Interval> {
    let us = seconds.filter(|seconds| seconds.is_finite())? * 1e6;
    Interval::new(0, 0, us.round() as i64).ok()
}

/// Switches the shadow of a caching strategy on or off. See sql/caching.sql.
#[pg_extern(volatile, parallel_unsafe)]
fn cache_shadow(
    name: Option<Text>,
    on: default!(Option<bool>, true),
    sizes: default!(Option<Vec<Option<i64>>>, "NULL"),
    ttls: default!(Option<Vec<Option<Interval>>>, "NULL"),
) -> i64 {
    or_raise(switched(name, on, sizes, ttls))
}

fn switched(
    name: Option<Text>,
    on: Option<bool>,
    sizes: Option<Vec<Option<i64>>>,
    ttls: Option<Vec<Option<Interval>>>,
) -> Result<i64, Error> {
    let name = required("name", name)?.0;
    if !required("on", on)? {
        return shadow::off(&name);
    }
    let sizes = sizes.map(|sizes| sizes.into_iter().collect::<Option<Vec<i64>>>());
    let sizes = sizes.map(|sizes| required("sizes", sizes)).transpose()?;
    let seconds = |ttl: Option<Interval>| ttl.map_or(f64::INFINITY, |ttl| ttl.as_micros() as f64 * 1e-6);
    let ttls_s = ttls.map(|ttls| ttls.into_iter().map(seconds).collect());
    shadow::on(&name, shadow::Wanted { sizes, ttls_s })
}

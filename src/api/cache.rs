//! SQL: `cache_put`, `cache_get`, `cache_snapshot`, `cache_invalidate`, `cache_stats`, `cached`.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::cache::entries::{self, Key, Origin, Put};
use crate::cache::invalidate::Request;
use crate::cache::{cached, statistics};
use crate::error::Error;
use crate::memory::cache_stats::Event;
use crate::pg::jsonb::RawJsonb;
use crate::pg::snapshot::PgSnapshot;
use crate::pg::text::Text;

/// Stores a value. See sql/cache.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cache_put"(
    "key" text,
    "value" jsonb,
    "ttl" interval DEFAULT NULL,
    "tags" text[] DEFAULT '{}',
    "snapshot" pg_snapshot DEFAULT NULL
) RETURNS boolean
LANGUAGE c PARALLEL UNSAFE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cache_put(
    key: Option<Text>,
    value: Option<RawJsonb>,
    ttl: Option<Interval>,
    tags: Option<Vec<Option<Text>>>,
    snapshot: Option<PgSnapshot>,
) -> bool {
    or_raise((|| {
        entries::check_writable("perf.cache_put")?;
        let tags = required("tags", tags)?.into_iter().map(|tag| required("tags", tag).map(|tag| tag.0));
        let put = Put {
            key: Key::of(required("key", key)?.0)?,
            value: required("value", value)?,
            ttl_us: ttl.map(|ttl| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)),
            tags: tags.collect::<Result<_, Error>>()?,
            computed_with: snapshot.map(|snapshot| Origin::Said(snapshot.0)),
        };
        put.check()?;
        entries::put(put)
    })())
}

/// The value of a key. See sql/cache.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cache_get"("key" text) RETURNS jsonb
LANGUAGE c PARALLEL UNSAFE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cache_get(key: Option<Text>) -> Option<RawJsonb> {
    or_raise((|| Ok(entries::get(&Key::of(required("key", key)?.0)?)))())
}

/// What a value that is computed from here on is computed with. See sql/cache.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cache_snapshot"() RETURNS pg_snapshot
LANGUAGE c PARALLEL UNSAFE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cache_snapshot() -> PgSnapshot {
    PgSnapshot(crate::pg::snapshot::active())
}

/// Makes entries invalid. See sql/cache.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cache_invalidate"(
    "event" text DEFAULT NULL,
    "key" text DEFAULT NULL,
    "tag" text DEFAULT NULL
) RETURNS bigint
LANGUAGE c PARALLEL UNSAFE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cache_invalidate(event: Option<Text>, key: Option<Text>, tag: Option<Text>) -> i64 {
    or_raise((|| {
        entries::check_writable("perf.cache_invalidate")?;
        let request = match (event, key, tag) {
            (Some(event), None, None) => Request::by_event(&event.0)?,
            (None, Some(key), None) => Request::by_key(Key::of(key.0)?.text),
            (None, None, Some(tag)) => {
                entries::check_tag("tag", &tag.0)?;
                Request::by_tag(tag.0)
            }
            (event, key, tag) => {
                let given = [event.is_some(), key.is_some(), tag.is_some()].into_iter().filter(|given| *given).count();
                return Err(Error::InvalidArgument {
                    argument: "event",
                    value: format!("{given} of event, key and tag are given"),
                    accepted: "Give one of them: perf.cache_invalidate(key => '...').".to_owned(),
                });
            }
        };
        request.apply().map(|removed| i64::try_from(removed).unwrap_or(i64::MAX))
    })())
}

/// What the cache holds and how it fares. See sql/cache.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn cache_stats() -> TableIterator<
    'static,
    (
        name!(name, Text),
        name!(entries, i64),
        name!(bytes, i64),
        name!(gets, Option<i64>),
        name!(hits, Option<i64>),
        name!(hit_pct, Option<f64>),
        name!(puts, Option<i64>),
        name!(refused_puts, Option<i64>),
        name!(invalidations, Option<i64>),
        name!(expired, Option<i64>),
    ),
> {
    let rows = or_raise(statistics::read());
    TableIterator::new(rows.into_iter().map(|row| {
        let of = |event| row.counts.map(|counts| i64::try_from(counts.of(event)).unwrap_or(i64::MAX));
        let (gets, hits) = (of(Event::Get), of(Event::Hit));
        let hit_pct =
            gets.zip(hits).filter(|(gets, _)| *gets > 0).map(|(gets, hits)| 100.0 * hits as f64 / gets as f64);
        let invalidations = of(Event::Invalidation);
        (
            Text(row.name),
            row.entries,
            row.bytes,
            gets,
            hits,
            hit_pct,
            of(Event::Put),
            of(Event::Refused),
            invalidations,
            of(Event::Expired),
        )
    }))
}

/// A policy's result. See sql/cache.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cached"("name" text, "params" jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE c PARALLEL UNSAFE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cached(name: Option<Text>, params: Option<RawJsonb>) -> RawJsonb {
    or_raise((|| cached::cached(&required("name", name)?.0, &required("params", params)?.parsed()))())
}

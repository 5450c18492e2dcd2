//! SQL: `cache_watch`, `cache_unwatch`.

use pgrx::prelude::*;

use super::{or_raise, required};
use crate::cache::watch::{self, Request};
use crate::error::Error;
use crate::pg::text::Text;

/// Watches a relation for an event. See sql/cache_watch.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cache_watch"(
    "event" text,
    "relation" regclass,
    "operations" text[] DEFAULT '{insert,update,delete}',
    "keys" text[] DEFAULT NULL,
    "tags" text[] DEFAULT NULL
) RETURNS bigint
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cache_watch(
    event: Option<Text>,
    relation: Option<pg_sys::Oid>,
    operations: Option<Vec<Option<Text>>>,
    keys: Option<Vec<Option<Text>>>,
    tags: Option<Vec<Option<Text>>>,
) -> i64 {
    or_raise((|| {
        let request = Request {
            event: required("event", event)?.0,
            relation: required("relation", relation)?,
            operations: strings("operations", required("operations", operations)?)?,
            keys: keys.map(|keys| strings("keys", keys)).transpose()?,
            tags: tags.map(|tags| strings("tags", tags)).transpose()?,
        };
        request.store()
    })())
}

/// Ends a watch. See sql/cache_watch.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "cache_unwatch"("event" text, "relation" regclass) RETURNS boolean
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn cache_unwatch(event: Option<Text>, relation: Option<pg_sys::Oid>) -> bool {
    or_raise((|| watch::remove(&required("event", event)?.0, required("relation", relation)?))())
}

fn strings(argument: &'static str, texts: Vec<Option<Text>>) -> Result<Vec<String>, Error> {
    texts.into_iter().map(|text| required(argument, text).map(|text| text.0)).collect()
}

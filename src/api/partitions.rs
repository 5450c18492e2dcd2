//! SQL: `partition_manage`, `partition_unmanage`, `partition_tick`.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use super::{finite, or_raise, required};
use crate::act::define;
use crate::act::tasks::partition::manage::{managed_one, Request};
use crate::act::tasks::partition::tick;
use crate::pg::text::Text;

/// Manages the partitions of a table by time, as the current role. See sql/partitions.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "partition_manage"(
    "parent" regclass,
    "every" text,
    "premake" int DEFAULT 4,
    "retention" interval DEFAULT NULL,
    "on_expire" text DEFAULT 'detach',
    "archive_schema" text DEFAULT 'archive',
    "compress_after" interval DEFAULT NULL,
    "time_zone" text DEFAULT 'UTC',
    "archive_to" text DEFAULT 'schema',
    "epoch" text DEFAULT NULL,
    "max_move_rows" bigint DEFAULT 100000
) RETURNS bigint
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::too_many_arguments, reason = "the arguments are the contract")]
fn partition_manage(
    parent: Option<pg_sys::Oid>,
    every: Option<&str>,
    premake: Option<i32>,
    retention: Option<Interval>,
    on_expire: Option<&str>,
    archive_schema: Option<&str>,
    compress_after: Option<Interval>,
    time_zone: Option<&str>,
    archive_to: Option<&str>,
    epoch: Option<&str>,
    max_move_rows: Option<i64>,
) -> i64 {
    or_raise((|| {
        Request {
            parent: required("parent", parent)?,
            every: required("every", every)?,
            premake: required("premake", premake)?,
            retention,
            on_expire: required("on_expire", on_expire)?,
            archive_schema: required("archive_schema", archive_schema)?,
            compress_after,
            time_zone: required("time_zone", time_zone)?,
            archive_to: required("archive_to", archive_to)?,
            epoch,
            max_move_rows: required("max_move_rows", max_move_rows)?,
        }
        .store()
    })())
}

/// Manages the partitions of a table no more.
#[pg_extern(sql = r#"
CREATE FUNCTION "partition_unmanage"("parent" regclass) RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn partition_unmanage(parent: Option<pg_sys::Oid>) {
    or_raise(required("parent", parent).and_then(managed_one).and_then(|managed| define::remove(managed.job_id)));
}

/// Does now what is due of managed parents, and says what it did.
#[pg_extern(sql = r#"
CREATE FUNCTION "partition_tick"(
    "parent" regclass DEFAULT NULL,
    "as_of" timestamptz DEFAULT pg_catalog.now()
) RETURNS TABLE ("relation" text, "step" text, "status" text, "detail" text)
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn partition_tick(
    parent: Option<pg_sys::Oid>,
    as_of: Option<TimestampWithTimeZone>,
) -> TableIterator<'static, (name!(relation, Text), name!(step, Text), name!(status, Text), name!(detail, Text))> {
    let answers = or_raise(finite("as_of", as_of).and_then(|as_of| tick::tick(parent, as_of)));
    TableIterator::new(
        answers
            .into_iter()
            .map(|answer| (Text(answer.relation), Text(answer.step), Text(answer.status), Text(answer.detail))),
    )
}

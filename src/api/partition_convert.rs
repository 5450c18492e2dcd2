//! SQL: `partition_convert_plan`, and what the procedures `partition_convert` and `partition_convert_undo` are made of.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::act::tasks::partition::convert::plan::{self, Request};
use crate::act::tasks::partition::convert::request::{self, Started, Wanted};
use crate::error::Error;
use crate::pg::text::Text;

fn asked(
    control: Option<Text>,
    every: Option<Text>,
    time_zone: Option<Text>,
    epoch: Option<Text>,
) -> Result<Request, Error> {
    Ok(Request {
        control: required("control", control)?.0,
        every: required("every", every)?.0,
        time_zone: required("time_zone", time_zone)?.0,
        epoch: epoch.map(|epoch| epoch.0),
    })
}

/// What a conversion would do. See sql/partition_convert_functions.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "partition_convert_plan"(
    "relation" regclass,
    "control" text,
    "every" text,
    "time_zone" text DEFAULT 'UTC',
    "epoch" text DEFAULT NULL
) RETURNS TABLE ("step_no" int, "sql" text, "lock" text, "blocker" text)
LANGUAGE c SET search_path = pg_catalog, pg_temp SET row_security = off
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, reason = "the row type is the contract")]
fn partition_convert_plan(
    relation: Option<pg_sys::Oid>,
    control: Option<Text>,
    every: Option<Text>,
    time_zone: Option<Text>,
    epoch: Option<Text>,
) -> TableIterator<
    'static,
    (name!(step_no, i32), name!(sql, Option<Text>), name!(lock, Option<Text>), name!(blocker, Option<Text>)),
> {
    let rows = or_raise((|| {
        let relation = required("relation", relation)?;
        Ok(plan::show(&plan::study(relation, &asked(control, every, time_zone, epoch)?, true)?))
    })());
    let rows = rows
        .into_iter()
        .map(|row| (row.number, row.sql.map(Text), row.lock.map(|lock| Text(lock.to_owned())), row.blocker.map(Text)));
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Queues the run that converts a table or undoes that; or what is in the way.
#[pg_extern(sql = r#"
CREATE FUNCTION "_partition_convert_start"(
    "relation" regclass,
    "control" text,
    "every" text,
    "max_lock" interval,
    "give_up_after" interval,
    "time_zone" text,
    "epoch" text,
    "undo" boolean
) RETURNS TABLE ("run_id" bigint, "sqlstate" text, "message" text, "hint" text)
LANGUAGE c SET search_path = pg_catalog, pg_temp SET row_security = off
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, clippy::too_many_arguments, reason = "the procedures' arguments and columns")]
fn _partition_convert_start(
    relation: Option<pg_sys::Oid>,
    control: Option<Text>,
    every: Option<Text>,
    max_lock: Option<Interval>,
    give_up_after: Option<Interval>,
    time_zone: Option<Text>,
    epoch: Option<Text>,
    undo: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(run_id, Option<i64>),
        name!(sqlstate, Option<Text>),
        name!(message, Option<Text>),
        name!(hint, Option<Text>),
    ),
> {
    let started = or_raise((|| {
        let relation = required("relation", relation)?;
        let request = asked(control, every, time_zone, epoch)?;
        Wanted {
            relation,
            request: (!required("undo", undo)?).then_some(request),
            max_lock: required("max_lock", max_lock)?,
            give_up_after: required("give_up_after", give_up_after)?,
        }
        .start()
    })());
    TableIterator::once(match started {
        Started::Run(run_id) => (Some(run_id), None, None, None),
        Started::Refused(obstacle) => {
            let sqlstate = Text(obstacle.sqlstate.to_owned());
            (None, Some(sqlstate), Some(Text(obstacle.message)), Some(Text(obstacle.hint)))
        }
    })
}

/// What a run has done beyond the lines seen, and how it ended.
#[pg_extern(sql = r#"
CREATE FUNCTION "_partition_convert_progress"("run_id" bigint, "seen" int, "quiet" int)
RETURNS TABLE ("lines" text[], "seen" int, "quiet" int, "ended" boolean, "sqlstate" text, "message" text, "hint" text)
STRICT LANGUAGE c SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, reason = "what the procedure reads")]
fn _partition_convert_progress(
    run_id: i64,
    seen: i32,
    quiet: i32,
) -> TableIterator<
    'static,
    (
        name!(lines, Vec<Text>),
        name!(seen, i32),
        name!(quiet, i32),
        name!(ended, bool),
        name!(sqlstate, Option<Text>),
        name!(message, Option<Text>),
        name!(hint, Option<Text>),
    ),
> {
    let progress = or_raise(request::progress(run_id, seen, quiet));
    let [sqlstate, message, hint] =
        progress.failure.map_or([None, None, None], |parts| parts.map(|part| Some(Text(part))));
    let lines = progress.lines.into_iter().map(Text).collect();
    TableIterator::once((lines, progress.seen, progress.quiet, progress.ended, sqlstate, message, hint))
}

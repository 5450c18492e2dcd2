//! SQL: `matview_schedule`, `matview_unschedule`.

use pgrx::datum::Interval;
use pgrx::prelude::*;

use super::{or_raise, required};
use crate::act::define;
use crate::act::tasks::matview;
use crate::act::tasks::matview::schedule::Request;

/// Refreshes a materialized view by schedule, as the current role. See sql/matviews.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "matview_schedule"(
    "view" regclass,
    "schedule" text,
    "time_zone" text DEFAULT 'UTC',
    "mode" text DEFAULT 'auto',
    "skip_unchanged" boolean DEFAULT true,
    "timeout" interval DEFAULT '15 min',
    "lock_timeout" interval DEFAULT '2 s',
    "max_retries" int DEFAULT 3
) RETURNS bigint
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::too_many_arguments, reason = "the arguments are the contract")]
fn matview_schedule(
    view: Option<pg_sys::Oid>,
    schedule: Option<&str>,
    time_zone: Option<&str>,
    mode: Option<&str>,
    skip_unchanged: Option<bool>,
    timeout: Option<Interval>,
    lock_timeout: Option<Interval>,
    max_retries: Option<i32>,
) -> i64 {
    or_raise((|| {
        let request = Request {
            view: required("view", view)?,
            schedule: required("schedule", schedule)?,
            time_zone: required("time_zone", time_zone)?,
            mode: required("mode", mode)?,
            skip_unchanged: required("skip_unchanged", skip_unchanged)?,
            timeout,
            lock_timeout,
            max_retries: required("max_retries", max_retries)?,
        };
        request.store()
    })())
}

/// Refreshes a materialized view no more.
#[pg_extern(sql = r#"
CREATE FUNCTION "matview_unschedule"("view" regclass) RETURNS void
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn matview_unschedule(view: Option<pg_sys::Oid>) {
    or_raise(required("view", view).and_then(matview::schedule::job_of_caller).and_then(define::remove));
}

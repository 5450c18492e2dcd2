//! SQL: `job_schedule`, `job_unschedule`, `job_pause`, `job_resume`, `job_run_now`, `job_cancel`, `job_wait`.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use serde_json::json;

use super::{or_raise, required};
use crate::act::define::{self, Definition};
use crate::act::{board, executor};
use crate::pg::names;
use crate::pg::text::Text;

/// Defines a job of the current role: SQL that runs at top level, by schedule. See sql/jobs_functions.sql.
#[pg_extern]
#[allow(clippy::too_many_arguments, reason = "the arguments are the contract")]
fn job_schedule(
    name: Option<Text>,
    schedule: Option<Text>,
    command: Option<Text>,
    time_zone: default!(Option<Text>, "'UTC'"),
    timeout: default!(Option<Interval>, "NULL"),
    lock_timeout: default!(Option<Interval>, "NULL"),
    max_retries: default!(Option<i32>, "3"),
    priority: default!(Option<i32>, "0"),
    catch_up: default!(Option<Text>, "'run_once'"),
    overlap: default!(Option<Text>, "'skip'"),
) -> i64 {
    or_raise((|| {
        let (name, schedule) = (required("name", name)?.0, required("schedule", schedule)?.0);
        let (command, time_zone) = (required("command", command)?.0, required("time_zone", time_zone)?.0);
        let (catch_up, overlap) = (required("catch_up", catch_up)?.0, required("overlap", overlap)?.0);
        let definition = Definition {
            name: &name,
            kind: "command",
            target: None,
            schedule: &schedule,
            time_zone: &time_zone,
            command: Some(&command),
            options: json!({}),
            timeout,
            lock_timeout,
            max_retries: required("max_retries", max_retries)?,
            priority: required("priority", priority)?,
            catch_up: &catch_up,
            overlap: &overlap,
        };
        executor::check_syntax(&command)?;
        definition.store()
    })())
}

/// Removes a job of the current role.
#[pg_extern]
fn job_unschedule(job_id: Option<i64>) {
    or_raise(required("job_id", job_id).and_then(define::remove));
}

/// Lets the ticks of a job pass by until a time.
#[pg_extern]
fn job_pause(job_id: Option<i64>, until: default!(Option<TimestampWithTimeZone>, "'infinity'")) {
    or_raise(required("job_id", job_id).and_then(|job_id| define::pause(job_id, required("until", until)?)));
}

/// Ends a pause.
#[pg_extern]
fn job_resume(job_id: Option<i64>) {
    or_raise(required("job_id", job_id).and_then(define::resume));
}

/// Queues a run of a job; its number.
#[pg_extern]
fn job_run_now(job_id: Option<i64>) -> i64 {
    or_raise(required("job_id", job_id).and_then(define::run_now))
}

/// Cancels a run; false when it had ended.
#[pg_extern]
fn job_cancel(run_id: Option<i64>) -> bool {
    or_raise(required("run_id", run_id).and_then(define::cancel))
}

/// Waits for the end of a run; its status.
#[pg_extern]
fn job_wait(run_id: Option<i64>, timeout: default!(Option<Interval>, "'1 min'")) -> Text {
    or_raise(
        required("run_id", run_id).and_then(|run_id| define::wait(run_id, required("timeout", timeout)?)).map(Text),
    )
}

/// Runs under way in this database.
#[pg_extern(volatile)]
fn _running_jobs() -> TableIterator<'static, (name!(run_id, i64), name!(pid, Option<i32>))> {
    let places = if crate::memory::is_ready() { board::of_database(names::current_database()) } else { Vec::new() };
    TableIterator::new(places.into_iter().map(|place| (place.run_id, (place.pid != 0).then_some(place.pid))))
}

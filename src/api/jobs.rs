//! SQL: `job_schedule`, `job_unschedule`, `job_pause`, `job_resume`, `job_run_now`, `job_cancel`, `job_wait`.

use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use serde_json::json;

use super::or_raise;
use crate::act::define::{self, Definition};
use crate::act::{board, executor};
use crate::error::Error;
use crate::pg::names;
use crate::pg::text::Text;

/// The value of an argument that may not be NULL.
pub(super) fn given<T>(argument: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::NullArgument { argument })
}

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
        let (name, schedule) = (given("name", name)?.0, given("schedule", schedule)?.0);
        let (command, time_zone) = (given("command", command)?.0, given("time_zone", time_zone)?.0);
        let (catch_up, overlap) = (given("catch_up", catch_up)?.0, given("overlap", overlap)?.0);
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
            max_retries: given("max_retries", max_retries)?,
            priority: given("priority", priority)?,
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
    or_raise(given("job_id", job_id).and_then(define::remove));
}

/// Lets the ticks of a job pass by until a time.
#[pg_extern]
fn job_pause(job_id: Option<i64>, until: default!(Option<TimestampWithTimeZone>, "'infinity'")) {
    or_raise(given("job_id", job_id).and_then(|job_id| define::pause(job_id, given("until", until)?)));
}

/// Ends a pause.
#[pg_extern]
fn job_resume(job_id: Option<i64>) {
    or_raise(given("job_id", job_id).and_then(define::resume));
}

/// Queues a run of a job; its number.
#[pg_extern]
fn job_run_now(job_id: Option<i64>) -> i64 {
    or_raise(given("job_id", job_id).and_then(define::run_now))
}

/// Cancels a run; false when it had ended.
#[pg_extern]
fn job_cancel(run_id: Option<i64>) -> bool {
    or_raise(given("run_id", run_id).and_then(define::cancel))
}

/// Waits for the end of a run; its status.
#[pg_extern]
fn job_wait(run_id: Option<i64>, timeout: default!(Option<Interval>, "'1 min'")) -> Text {
    or_raise(given("run_id", run_id).and_then(|run_id| define::wait(run_id, given("timeout", timeout)?)).map(Text))
}

/// Runs under way in this database.
#[pg_extern(volatile)]
fn _running_jobs() -> TableIterator<'static, (name!(run_id, i64), name!(pid, Option<i32>))> {
    let places = if crate::memory::is_ready() { board::of_database(names::current_database()) } else { Vec::new() };
    TableIterator::new(places.into_iter().map(|place| (place.run_id, (place.pid != 0).then_some(place.pid))))
}

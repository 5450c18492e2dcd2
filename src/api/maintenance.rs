//! SQL: `index_maintenance`, `index_maintenance_schedule`, `prewarm`, `prewarm_schedule`, `prewarm_mark`, `prewarm_unmark`.

use perf_core::index::maintenance::Limits;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;
use serde_json::Value;

use super::{or_raise, required};
use crate::act::define::{self, Definition};
use crate::act::jobs::to_unix;
use crate::act::tasks::index_maintenance as maintenance;
use crate::act::tasks::prewarm::{self, statements, Hour};
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::zone::ServerZone;

const MAINTENANCE: &str = "index maintenance";
const SCHEDULED_MAINTENANCE: &str = "scheduled index maintenance";
const PREWARM: &str = "prewarm";
const PREWARM_ONCE: &str = "prewarm on request";
/// The prewarm job has this long: it shall be done before the hour that it is for.
const PREWARM_LIMIT: &str = "10 minutes";
/// What the prewarm job reads from disk in a second, at most.
const PREWARM_BYTES_PER_S: f64 = 200.0 * 1024.0 * 1024.0;

fn out_of_range(argument: &'static str, value: impl std::fmt::Display, accepted: &str) -> Error {
    Error::InvalidArgument { argument, value: value.to_string(), accepted: accepted.to_owned() }
}

fn percent(argument: &'static str, value: Option<f64>) -> Result<f64, Error> {
    match required(argument, value)? {
        value if (0.0..=100.0).contains(&value) => Ok(value),
        value => Err(out_of_range(argument, value, "A percentage from 0 to 100.")),
    }
}

fn bytes(argument: &'static str, value: Option<i64>) -> Result<i64, Error> {
    match required(argument, value)? {
        value if value >= 0 => Ok(value),
        value => Err(out_of_range(argument, value, "A number of bytes, not below zero.")),
    }
}

fn positive(argument: &'static str, value: Option<Interval>) -> Result<Interval, Error> {
    match required(argument, value)? {
        value if value.as_micros() > 0 => Ok(value),
        value => {
            Err(out_of_range(argument, format!("{} s", value.as_micros() as f64 / 1e6), "An interval above zero."))
        }
    }
}

fn limits(
    max_bloat_pct: Option<f64>,
    min_size_bytes: Option<i64>,
    max_duration: Option<Interval>,
    min_free_bytes: Option<i64>,
) -> Result<Limits, Error> {
    let max_bloat_pct = percent("max_bloat_pct", max_bloat_pct)?;
    let min_size_bytes = bytes("min_size_bytes", min_size_bytes)? as f64;
    let window = positive("max_duration", max_duration)?.as_micros() as f64;
    let min_free_bytes = bytes("min_free_bytes", min_free_bytes)? as f64;
    Ok(Limits { max_bloat_pct, min_size_bytes, min_free_bytes, window_ms: window / 1e3 })
}

/// A job of one of these kinds: tried once a tick, missed ticks made up for by one run.
fn definition<'a>(
    name: &'a str,
    kind: &'a str,
    schedule: &'a str,
    time_zone: &'a str,
    options: Value,
    (timeout, lock_timeout): (Option<Interval>, Option<Interval>),
) -> Definition<'a> {
    Definition {
        name,
        kind,
        target: None,
        schedule,
        time_zone,
        command: None,
        options,
        timeout,
        lock_timeout,
        max_retries: 0,
        priority: 0,
        catch_up: "run_once",
        overlap: "skip",
    }
}

/// Lists the indexes that are bloated or left over, or queues a run that sees to them. See sql/maintenance_functions.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the row type is the contract")]
fn index_maintenance(
    max_bloat_pct: default!(Option<f64>, 40),
    dry_run: default!(Option<bool>, true),
    min_size_bytes: default!(Option<i64>, 10485760),
    max_duration: default!(Option<Interval>, "'1 hour'"),
    lock_timeout: default!(Option<Interval>, "'1 minute'"),
    min_free_bytes: default!(Option<i64>, 1073741824),
) -> TableIterator<
    'static,
    (
        name!(relation, Option<Text>),
        name!(index, Option<Text>),
        name!(size_bytes, Option<i64>),
        name!(estimated_bytes, Option<i64>),
        name!(bloat_pct, Option<f64>),
        name!(action, Text),
        name!(ddl, Option<Text>),
        name!(reason, Text),
        name!(run_id, Option<i64>),
    ),
> {
    let (cases, run_id) = or_raise((|| {
        let limits = limits(max_bloat_pct, min_size_bytes, max_duration, min_free_bytes)?;
        let lock_timeout = positive("lock_timeout", lock_timeout)?;
        let run_id = if required("dry_run", dry_run)? {
            None
        } else {
            let options = maintenance::to_options(&limits);
            let times = (None, Some(lock_timeout));
            let job = definition(MAINTENANCE, maintenance::KIND, define::MANUAL, "UTC", options, times);
            Some(define::run_now(job.store()?)?)
        };
        Ok((maintenance::list(&limits)?, run_id))
    })());
    let nothing = cases.is_empty().then(|| {
        let reason = Text("nothing is the matter with any index".to_owned());
        run_id.map(|_| (None, None, None, None, None, Text("skip".to_owned()), None, reason, run_id))
    });
    let cases = cases.into_iter().map(move |case| {
        (
            Some(Text(case.relation.clone())),
            Some(Text(case.index.clone())),
            Some(case.facts.size_bytes as i64),
            case.facts.expected_bytes().map(|bytes| bytes as i64),
            case.facts.bloat_pct(),
            Text(case.action.name().to_owned()),
            case.ddl().map(Text),
            Text(case.reason),
            run_id,
        )
    });
    TableIterator::new(cases.chain(nothing.flatten()).collect::<Vec<_>>())
}

/// Defines the job that sees to indexes regularly; its number.
#[pg_extern]
fn index_maintenance_schedule(
    schedule: default!(Option<&str>, "'weekly'"),
    max_bloat_pct: default!(Option<f64>, 40),
    time_zone: default!(Option<&str>, "'UTC'"),
    min_size_bytes: default!(Option<i64>, 10485760),
    max_duration: default!(Option<Interval>, "'1 hour'"),
    lock_timeout: default!(Option<Interval>, "'1 minute'"),
    min_free_bytes: default!(Option<i64>, 1073741824),
) -> i64 {
    or_raise((|| {
        let schedule = required("schedule", schedule)?;
        let limits = limits(max_bloat_pct, min_size_bytes, max_duration, min_free_bytes)?;
        let zone = required("time_zone", time_zone)?;
        let times = (None, Some(positive("lock_timeout", lock_timeout)?));
        let options = maintenance::to_options(&limits);
        definition(SCHEDULED_MAINTENANCE, maintenance::KIND, schedule, zone, options, times).store()
    })())
}

/// Defines the current role's prewarm job; its number.
#[pg_extern]
fn prewarm_schedule(
    schedule: default!(Option<&str>, "'50 * * * *'"),
    time_zone: default!(Option<&str>, "'UTC'"),
    max_bytes: default!(Option<i64>, "NULL"),
    min_gain_pct: default!(Option<f64>, 10),
) -> i64 {
    or_raise((|| {
        let schedule = required("schedule", schedule)?;
        let time_zone = required("time_zone", time_zone)?;
        let options = prewarm::Options {
            time_zone: time_zone.to_owned(),
            max_bytes: max_bytes.map(|value| bytes("max_bytes", Some(value))).transpose()?,
            min_gain_pct: percent("min_gain_pct", min_gain_pct)?,
            bytes_per_s: PREWARM_BYTES_PER_S,
            once: None,
        };
        let times = (Some(limit(PREWARM_LIMIT)?), Some(limit("1 s")?));
        definition(PREWARM, prewarm::KIND, schedule, time_zone, options.to_json(), times).store()
    })())
}

fn limit(text: &'static str) -> Result<Interval, Error> {
    text.parse::<Interval>().map_err(|_| out_of_range("timeout", text, "An interval."))
}

/// Shows what the prewarm job would do before an hour, or queues a run that does it.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the row type is the contract")]
fn prewarm(
    for_hour: default!(Option<TimestampWithTimeZone>, "NULL"),
    max_bytes: default!(Option<i64>, "NULL"),
    dry_run: default!(Option<bool>, true),
) -> TableIterator<
    'static,
    (
        name!(relation, Option<Text>),
        name!(statement_id, Option<i64>),
        name!(blocks, Option<i64>),
        name!(expected_reads, Option<f64>),
        name!(cached_blocks, Option<i64>),
        name!(action, Text),
        name!(reason, Text),
        name!(run_id, Option<i64>),
    ),
> {
    let rows = or_raise((|| {
        let dry_run = required("dry_run", dry_run)?;
        let Some((job_id, options)) = define::own_job(PREWARM, prewarm::KIND)? else {
            return Err(Error::WrongState {
                message: "you have no prewarm job, so nothing has been learned".to_owned(),
                hint: "SELECT perf.prewarm_schedule(); what hours read is known after a day.".to_owned(),
            });
        };
        let unknown = || out_of_range("options", &options, "Call perf.prewarm_schedule() again.");
        let mut options = prewarm::Options::from_json(&options).ok_or_else(unknown)?;
        options.max_bytes = max_bytes.map(|value| bytes("max_bytes", Some(value))).transpose()?.or(options.max_bytes);
        let zone = ServerZone::named("time_zone", &options.time_zone)?;
        let hour = match for_hour {
            Some(at) if at.is_infinity() || at.is_neg_infinity() => {
                return Err(out_of_range("for_hour", "infinity", "A time, or NULL for the next hour."));
            }
            Some(at) => Hour::containing(to_unix(i64::from(at)).div_euclid(1_000_000), &zone),
            None => Hour::after(prewarm::now(), &zone),
        };
        let choices = prewarm::choose(job_id, hour, options.budget_blocks())?;
        let marked = statements::all(&options.time_zone, hour.of_week)?;
        let run_id = if dry_run {
            None
        } else {
            options.once = Some((job_id, hour.at));
            let times = (Some(limit(PREWARM_LIMIT)?), Some(limit("1 s")?));
            let job = definition(PREWARM_ONCE, prewarm::KIND, define::MANUAL, "UTC", options.to_json(), times);
            Some(define::run_now(job.store()?)?)
        };
        Ok((choices, marked, run_id))
    })());
    let (choices, marked, run_id) = rows;
    let relations = choices.into_iter().map(move |choice| {
        let is_loaded = choice.blocks > 0;
        (
            Some(Text(choice.relation)),
            None,
            is_loaded.then_some(i64::from(choice.blocks)),
            Some(choice.expected_reads),
            choice.cached.map(i64::from),
            Text(if is_loaded { "load" } else { "skip" }.to_owned()),
            Text(choice.reason),
            run_id,
        )
    });
    let statements = marked.into_iter().map(move |one| {
        let action = Text(if one.is_due { "run" } else { "skip" }.to_owned());
        (None, Some(one.statement_id), None, None, None, action, Text(one.reason), run_id)
    });
    TableIterator::new(relations.chain(statements).collect::<Vec<_>>())
}

/// Marks a statement to be run ahead of the hours that are busy with it; the number of the mark.
#[pg_extern]
fn prewarm_mark(statement: Option<&str>) -> i64 {
    or_raise(required("statement", statement).and_then(statements::mark))
}

/// Takes a mark away; false when there is none of that number.
#[pg_extern]
fn prewarm_unmark(statement_id: Option<i64>) -> bool {
    or_raise(required("statement_id", statement_id).and_then(statements::unmark))
}

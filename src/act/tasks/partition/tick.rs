//! `perf.partition_tick`: a look at managed parents that the caller waits for. Where it can, it has the parents' jobs do it,
//! each step in a transaction of its own: locks are held for moments, and what refuses to run in a transaction runs. In a
//! transaction that has changed something, or holds locks of the parents, those could neither see nor pass the caller: there
//! the steps are done in the transaction itself, and hold their locks until it ends.

use std::time::{Duration, Instant};

use pgrx::{pg_sys, PgSqlErrorCode};
use serde_json::Value;

use super::ground::Ground;
use super::manage::{managed, managed_one, Managed};
use super::settings::Settings;
use super::{look, Look, Status, Step, Steps};
use crate::act::executor::QUERY_CANCELED;
use crate::act::requests;
use crate::error::Error;
use crate::pg::query::{self, Row};
use crate::pg::text::{Document, Text};
use crate::pg::{background, ident, privilege};

const RUNS: &std::ffi::CStr = c"job_run";
/// How often a run is looked at.
const LOOK_MS: i64 = 5;
const LOOK_MAX_MS: i64 = 200;
/// A wait that takes longer says what it is waiting for, so often.
const PROGRESS: Duration = Duration::from_secs(2);

/// One row of the answer.
pub struct Answer {
    /// Quoted and qualified.
    pub relation: String,
    /// What was done.
    pub step: String,
    /// done, failed or skipped; queued for a run that nobody could wait for.
    pub status: String,
    /// More of it.
    pub detail: String,
}

/// Looks at one managed parent, or at all of the caller's.
pub fn tick(parent: Option<pg_sys::Oid>, as_of_us: i64) -> Result<Vec<Answer>, Error> {
    background::refuse_in_recovery(c"partition_tick");
    let parents = match parent {
        Some(parent) => vec![managed_one(parent)?],
        None => managed(None)?,
    };
    let mut answers = Vec::new();
    let mut runs = Vec::new();
    for one in parents {
        let run_id = if in_our_way(one.parent) { None } else { requests::queue_run(one.job_id, as_of_us) };
        match run_id {
            // They run beside each other.
            Some(run_id) => runs.push((one, run_id)),
            None => inside(&one, as_of_us, &mut answers)?,
        }
    }
    for (one, run_id) in runs {
        wait(&one, run_id, &mut answers)?;
    }
    Ok(answers)
}

/// Whether a worker could not do it: it does not run, does not see what this transaction has done, or would wait for it.
fn in_our_way(parent: pg_sys::Oid) -> bool {
    // One that goes by one snapshot would not see what was done, or miss rows that were moved.
    let is_own = query::has_written() || query::keeps_one_snapshot();
    let locked = || {
        let found = privilege::with_own_path(|| {
            query::run_with(
                c"WITH RECURSIVE tree (relid) AS (
                      SELECT $1::oid UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid)
                  SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN (SELECT relid FROM tree)",
                &[parent.into()],
                |_| (),
            )
        });
        found.0 > 0
    };
    !crate::memory::is_ready() || !crate::guc::worker_enabled() || is_own || locked()
}

/// In the caller's transaction.
fn inside(one: &Managed, as_of_us: i64, answers: &mut Vec<Answer>) -> Result<(), Error> {
    let mut steps = Steps::default();
    let outcome = Settings::from_options(&one.options).and_then(|settings| {
        let what = Look { ground: Ground::Inside, parent: one.parent, settings: &settings, as_of_us, caller: None };
        let mut whole = || look(&what, &mut steps);
        // A superuser who looks after another's tables does not lend them a superuser's rights.
        if one.owner == privilege::current_role() {
            whole()
        } else {
            privilege::as_role(one.owner, whole)
        }
    });
    if let Err(failure) = outcome {
        if failure.sqlstate == QUERY_CANCELED {
            // It reached a subtransaction, and is meant for the whole.
            pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED, failure.message);
        }
        answers.push(failed(one, &failure.message));
    }
    answers.extend(steps.all.into_iter().map(answer));
    Ok(())
}

fn name_of(one: &Managed) -> String {
    ident::relation(one.parent).unwrap_or_else(|| format!("(relation {})", one.parent.to_u32()))
}

fn failed(one: &Managed, message: &str) -> Answer {
    Answer {
        relation: name_of(one),
        step: "read".to_owned(),
        status: Status::Failed.name().to_owned(),
        detail: message.to_owned(),
    }
}

fn answer(step: Step) -> Answer {
    Answer {
        relation: step.relation,
        step: step.step.to_owned(),
        status: step.status.name().to_owned(),
        detail: step.detail,
    }
}

/// What is known of a run.
struct Seen {
    status: String,
    message: Option<String>,
    has_failed: bool,
    detail: Value,
}

fn see(run_id: i64) -> Result<Option<Seen>, Error> {
    let read = |row: &Row| {
        Some(Seen {
            status: row.string(1),
            message: row.get::<Text>(2).map(|text| text.0),
            has_failed: row.get::<bool>(3).unwrap_or(false),
            detail: row.get::<Document>(4).map_or(Value::Null, |detail| detail.0),
        })
    };
    privilege::as_owner(RUNS, || {
        Ok(query::under_latest_snapshot(|| {
            query::select_with(
                c"SELECT status, message, sqlstate IS NOT NULL, detail FROM perf.job_run WHERE run_id = $1",
                &[run_id.into()],
                read,
            )
        })
        .into_iter()
        .next())
    })
}

/// Waits until a run has ended, or a try of it has failed, and reads what it has done.
fn wait(one: &Managed, run_id: i64, answers: &mut Vec<Answer>) -> Result<(), Error> {
    let mut told = Instant::now();
    let mut pause_ms = LOOK_MS;
    loop {
        let Some(seen) = see(run_id)? else {
            answers.push(failed(one, "its run is gone: the job was removed"));
            return Ok(());
        };
        let is_open = matches!(seen.status.as_str(), "queued" | "running");
        if !is_open || seen.status == "queued" && seen.has_failed {
            read_steps(one, &seen, answers);
            return Ok(());
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let done = seen.detail.get("done").and_then(Value::as_u64).unwrap_or(0);
            pgrx::notice!("{}: run {run_id} is {}, {done} steps done", name_of(one), seen.status);
        }
        background::pause(pause_ms);
        pause_ms = (pause_ms * 3 / 2).min(LOOK_MAX_MS);
    }
}

fn read_steps(one: &Managed, seen: &Seen, answers: &mut Vec<Answer>) {
    let steps = seen.detail.get("steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |step: &Value, name: &str| step.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let before = answers.len();
    answers.extend(steps.iter().map(|step| Answer {
        relation: text(step, "relation"),
        step: text(step, "step"),
        status: text(step, "status"),
        detail: text(step, "detail"),
    }));
    let is_told = answers[before..].iter().any(|answer| answer.status == Status::Failed.name());
    if !is_told && !matches!(seen.status.as_str(), "succeeded" | "skipped") {
        answers.push(failed(one, seen.message.as_deref().unwrap_or(&seen.status)));
    }
}

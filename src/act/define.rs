//! What users do with jobs: define, pause, resume, run, cancel, wait, remove. Called by the job functions, in the user's
//! transaction; tables are written with the rights of their owner, after it was checked whose job it is. A job belongs to
//! the role that defined it; nobody else but a superuser gets to know that it exists.
//!
//! Locks the row of the job. The scheduler hears of the change when the transaction commits.

use perf_core::schedule::CatchUp;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use serde_json::Value;

use super::board;
use super::jobs::{self, to_server, to_unix};
use super::runs::{rows, run, timestamp};
use crate::collect::registry;
use crate::error::Error;
use crate::pg::query::{self, text};
use crate::pg::text::{Document, Text};
use crate::pg::{background, names, privilege};

const JOBS: &std::ffi::CStr = c"job";
const NAME_CHARACTERS: usize = 200;
const RETRIES_MAX: i32 = 100;
const PRIORITY_MAX: i32 = 100;
/// The word for a job that runs only when asked to.
pub const MANUAL: &str = "manual";
/// What a wait sleeps between two looks, in milliseconds: at first, and at most.
const LOOK_MS: i64 = 5;
const LOOK_MAX_MS: i64 = 100;
/// How often a cancel looks again for a run that is between its claim and its worker.
const CANCEL_LOOKS: u32 = 200;

/// A job as a user wants it.
pub struct Definition<'a> {
    /// Unique among the owner's.
    pub name: &'a str,
    /// One of the kinds that workers know.
    pub kind: &'a str,
    /// The relation that it is about.
    pub target: Option<pg_sys::Oid>,
    /// Interval, name, cron, or `manual`.
    pub schedule: &'a str,
    /// Of the server's.
    pub time_zone: &'a str,
    /// SQL, for kinds that take it.
    pub command: Option<&'a str>,
    /// What the kind wants to know.
    pub options: Value,
    /// Limit of a run.
    pub timeout: Option<Interval>,
    /// Limit of a wait for a lock.
    pub lock_timeout: Option<Interval>,
    /// Further tries after a failure.
    pub max_retries: i32,
    /// Higher ones first.
    pub priority: i32,
    /// What to do about missed ticks.
    pub catch_up: &'a str,
    /// What to do about a tick while a run has not ended.
    pub overlap: &'a str,
}

fn invalid(argument: &'static str, value: impl std::fmt::Display, accepted: &str) -> Error {
    Error::InvalidArgument { argument, value: format!("\"{value}\""), accepted: accepted.to_owned() }
}

/// Refuses where no job would ever run.
pub fn check_preloaded() -> Result<(), Error> {
    if crate::memory::is_ready() {
        Ok(())
    } else {
        Err(Error::NotPreloaded)
    }
}

/// An interval that must be above zero; a month counts as 30 days.
fn check_positive(argument: &'static str, interval: Option<Interval>) -> Result<(), Error> {
    match interval {
        Some(interval) if interval.as_micros() <= 0 => Err(Error::InvalidArgument {
            argument,
            value: format!("{} s", interval.as_micros() as f64 / 1e6),
            accepted: "An interval above zero, or NULL for no limit.".to_owned(),
        }),
        _ => Ok(()),
    }
}

impl Definition<'_> {
    fn check(&self) -> Result<(), Error> {
        check_preloaded()?;
        background::refuse_in_recovery(c"the definition of a job");
        if self.name.trim().is_empty() || self.name.chars().count() > NAME_CHARACTERS {
            return Err(invalid("name", self.name, "A name of 1 to 200 characters."));
        }
        check_positive("timeout", self.timeout)?;
        check_positive("lock_timeout", self.lock_timeout)?;
        if !(0..=RETRIES_MAX).contains(&self.max_retries) {
            return Err(invalid("max_retries", self.max_retries, "A number from 0 to 100."));
        }
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority) {
            return Err(invalid("priority", self.priority, "A number from -100 to 100."));
        }
        if self.priority > 0 && !privilege::is_superuser(privilege::current_role()) {
            return Err(Error::Denied {
                message: format!("only a superuser may put a job before others, with priority {}", self.priority),
                hint: "Use a priority from -100 to 0.".to_owned(),
            });
        }
        if CatchUp::from_name(self.catch_up).is_none() {
            return Err(invalid("catch_up", self.catch_up, "run_once, skip or all."));
        }
        if !["skip", "queue", "parallel"].contains(&self.overlap) {
            return Err(invalid("overlap", self.overlap, "skip, queue or parallel."));
        }
        Ok(())
    }

    /// Stores the job, in place of the owner's job of the same name if there is one of the same kind. Its number.
    pub fn store(&self) -> Result<i64, Error> {
        self.check()?;
        let now = background::now();
        let (schedule, zone) = jobs::parse(self.schedule, self.time_zone)?;
        let next = match &schedule {
            None => None,
            Some(schedule) => Some(
                schedule
                    .next_after(to_unix(now), &zone, to_unix(now))
                    .ok_or_else(|| invalid("schedule", self.schedule, "A schedule with a tick in the future."))?,
            ),
        };
        let canonical = schedule.map_or_else(|| MANUAL.to_owned(), |schedule| schedule.to_string());
        let owner = privilege::current_role();
        let job_id = privilege::as_owner(JOBS, || {
            let stored = rows(
                c"INSERT INTO perf.job AS j (name, kind, target, schedule, time_zone, command, options, owner, timeout,
                        lock_timeout, max_retries, priority, catch_up, overlap, anchor_at, next_run_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
                 ON CONFLICT (owner, name) DO UPDATE
                 SET target = excluded.target, schedule = excluded.schedule, time_zone = excluded.time_zone,
                     command = excluded.command, options = excluded.options, timeout = excluded.timeout,
                     lock_timeout = excluded.lock_timeout, max_retries = excluded.max_retries,
                     priority = excluded.priority, catch_up = excluded.catch_up, overlap = excluded.overlap,
                     anchor_at = CASE WHEN j.schedule = excluded.schedule THEN j.anchor_at ELSE excluded.anchor_at END,
                     next_run_at = CASE WHEN j.schedule = excluded.schedule AND j.time_zone = excluded.time_zone
                                        THEN j.next_run_at ELSE excluded.next_run_at END,
                     enabled = true
                 WHERE j.kind = excluded.kind
                 RETURNING job_id",
                &[
                    text(self.name),
                    text(self.kind),
                    self.target.into(),
                    text(&canonical),
                    text(self.time_zone),
                    self.command.map(|command| Text(command.to_owned())).into(),
                    Document(self.options.clone()).into(),
                    owner.into(),
                    self.timeout.into(),
                    self.lock_timeout.into(),
                    self.max_retries.into(),
                    self.priority.into(),
                    text(self.catch_up),
                    text(self.overlap),
                    timestamp(now).into(),
                    next.map(|next| timestamp(to_server(next))).into(),
                ],
                |row| row.get::<i64>(1),
            );
            stored.into_iter().flatten().next().ok_or_else(|| Error::InvalidArgument {
                argument: "name",
                value: format!("\"{}\" is the name of a job of another kind", self.name),
                accepted: "See perf.jobs; perf.job_unschedule(job_id) removes a job.".to_owned(),
            })
        })?;
        registry::note_jobs_change();
        Ok(job_id)
    }
}

/// Makes the job of a kind that a relation has the current role's, under the name it gets now: whoever may do to the relation
/// what the job does may say when. What it does from then on is done with that role's rights: runs of another role that have
/// not started are cancelled, since they would do with that one's rights what this one says.
pub fn take_over(kind: &str, target: pg_sys::Oid, name: &str) -> Result<(), Error> {
    let role = privilege::current_role();
    privilege::as_owner(JOBS, || {
        // The name of a relation that was renamed since may be this one's now.
        run(
            c"UPDATE perf.job SET name = pg_catalog.left(name, 150) || ' ' || job_id
             WHERE owner = $2 AND name = $3 AND kind = $4 AND target IS DISTINCT FROM $1",
            &[target.into(), role.into(), text(name), text(kind)],
        );
        run(
            c"UPDATE perf.job SET owner = $2, name = $3
             WHERE target = $1 AND kind = $4 AND (owner, name) IS DISTINCT FROM ($2::pg_catalog.regrole, $3)",
            &[target.into(), role.into(), text(name), text(kind)],
        );
        // One that is being claimed is stopped when its worker looks whose job it is.
        run(
            c"UPDATE perf.job_run SET status = 'cancelled', finished_at = pg_catalog.clock_timestamp(),
                    message = 'the job has another owner now'
             WHERE run_id IN (SELECT r.run_id FROM perf.job_run r JOIN perf.job j USING (job_id)
                              WHERE j.target = $1 AND j.kind = $3 AND r.status = 'queued' AND r.owner <> $2
                              FOR UPDATE OF r SKIP LOCKED)",
            &[target.into(), role.into(), text(kind)],
        );
        Ok(())
    })
}

/// The current role's job of a name and kind: number and options.
pub fn own_job(name: &str, kind: &str) -> Result<Option<(i64, Value)>, Error> {
    let owner = privilege::current_role();
    let found = privilege::as_owner(JOBS, || {
        Ok(rows(
            c"SELECT job_id, options FROM perf.job WHERE owner = $1 AND name = $2 AND kind = $3",
            &[owner.into(), text(name), text(kind)],
            |row| row.get::<i64>(1).zip(row.get::<Document>(2)),
        ))
    })?;
    Ok(found.into_iter().flatten().next().map(|(job_id, options)| (job_id, options.0)))
}

/// Locks the row of a job that the current role may see. Inside of the tables' owner's rights.
fn lock_own(job_id: i64, role: pg_sys::Oid) -> Result<(), Error> {
    let owner =
        rows(c"SELECT owner::pg_catalog.oid FROM perf.job WHERE job_id = $1 FOR UPDATE", &[job_id.into()], |row| {
            row.get::<pg_sys::Oid>(1)
        });
    match owner.into_iter().flatten().next() {
        Some(owner) if owner == role || privilege::is_superuser(role) => Ok(()),
        _ => Err(Error::UndefinedObject {
            message: format!("job {job_id} does not exist"),
            hint: "perf.jobs lists your jobs.".to_owned(),
        }),
    }
}

/// Changes a job of the current role's. The scheduler hears of it.
fn change<T>(job_id: i64, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let role = privilege::current_role();
    let changed = privilege::as_owner(JOBS, || {
        lock_own(job_id, role)?;
        body()
    })?;
    registry::note_jobs_change();
    Ok(changed)
}

/// Removes a job. Its queued runs are cancelled; one that is under way comes to its end.
pub fn remove(job_id: i64) -> Result<(), Error> {
    change(job_id, || {
        run(
            c"UPDATE perf.job_run SET status = 'cancelled', finished_at = pg_catalog.clock_timestamp(),
                    message = 'the job was removed'
             WHERE run_id IN (SELECT run_id FROM perf.job_run WHERE job_id = $1 AND status = 'queued'
                              FOR UPDATE SKIP LOCKED)",
            &[job_id.into()],
        );
        run(c"DELETE FROM perf.job WHERE job_id = $1", &[job_id.into()]);
        Ok(())
    })
}

/// No tick is queued before `until`.
pub fn pause(job_id: i64, until: TimestampWithTimeZone) -> Result<(), Error> {
    if i64::from(until) <= background::now() {
        return Err(Error::InvalidArgument {
            argument: "until",
            value: "a time in the past".to_owned(),
            accepted: "A time in the future, or infinity.".to_owned(),
        });
    }
    change(job_id, || {
        run(c"UPDATE perf.job SET paused_until = $2 WHERE job_id = $1", &[job_id.into(), until.into()]);
        Ok(())
    })
}

/// Ends a pause, or switches a job on again. Ticks that have passed meanwhile are not made up for.
pub fn resume(job_id: i64) -> Result<(), Error> {
    change(job_id, || {
        let found =
            rows(c"SELECT schedule, time_zone, anchor_at FROM perf.job WHERE job_id = $1", &[job_id.into()], |row| {
                (row.string(1), row.string(2), row.get::<TimestampWithTimeZone>(3).map_or(0, i64::from))
            });
        let now = background::now();
        for (schedule, time_zone, anchor_at) in found {
            let (schedule, zone) = jobs::parse(&schedule, &time_zone)?;
            let next = schedule.and_then(|schedule| schedule.next_after(to_unix(now), &zone, to_unix(anchor_at)));
            run(
                c"UPDATE perf.job SET enabled = true, paused_until = NULL,
                        next_run_at = CASE WHEN next_run_at > $3 THEN LEAST(next_run_at, $2) ELSE $2 END
                 WHERE job_id = $1",
                &[job_id.into(), next.map(|next| timestamp(to_server(next))).into(), timestamp(now).into()],
            );
        }
        Ok(())
    })
}

/// Queues a run of a job, whatever its schedule says. Its number.
pub fn run_now(job_id: i64) -> Result<i64, Error> {
    check_preloaded()?;
    change(job_id, || {
        let queued = rows(
            c"INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, status)
             SELECT job_id, name, owner, true, pg_catalog.clock_timestamp(), 'queued' FROM perf.job WHERE job_id = $1
             RETURNING run_id",
            &[job_id.into()],
            |row| row.get::<i64>(1),
        );
        Ok(queued.into_iter().flatten().next().unwrap_or_default())
    })
}

/// Status of a run that the current role may see; what other transactions have committed up to now counts.
fn status(run_id: i64, role: pg_sys::Oid) -> Result<String, Error> {
    let found = privilege::as_owner(JOBS, || {
        Ok(query::under_latest_snapshot(|| {
            query::select_with(
                c"SELECT status, owner::pg_catalog.oid FROM perf.job_run WHERE run_id = $1",
                &[run_id.into()],
                |row| Some((row.string(1), row.get::<pg_sys::Oid>(2))),
            )
        }))
    })?;
    match found.into_iter().next() {
        Some((status, owner)) if owner == Some(role) || privilege::is_superuser(role) => Ok(status),
        _ => Err(Error::UndefinedObject {
            message: format!("job run {run_id} does not exist"),
            hint: "perf.job_runs lists the runs of your jobs.".to_owned(),
        }),
    }
}

fn is_open(status: &str) -> bool {
    matches!(status, "queued" | "running")
}

/// Waits until a run has ended, or the time is over: its status then.
pub fn wait(run_id: i64, timeout: Interval) -> Result<String, Error> {
    check_preloaded()?;
    check_positive("timeout", Some(timeout))?;
    let role = privilege::current_role();
    let deadline = background::now().saturating_add(i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX));
    let mut pause_ms = LOOK_MS;
    loop {
        let status = status(run_id, role)?;
        let left_ms = (deadline - background::now()) / 1_000;
        if !is_open(&status) || left_ms <= 0 {
            return Ok(status);
        }
        if pause_ms == LOOK_MS && is_of_this_transaction(run_id)? {
            return Err(Error::WrongState {
                message: format!("job run {run_id} was queued by this transaction and cannot start before it commits"),
                hint: "Commit after perf.job_run_now(), then call perf.job_wait().".to_owned(),
            });
        }
        if pause_ms == LOOK_MAX_MS && waits_for_us(run_id)? {
            pgrx::notice!("job run {run_id} waits for this transaction's snapshot, so this cannot wait for it");
            return Ok(status);
        }
        background::pause(pause_ms.min(left_ms + 1));
        pause_ms = (pause_ms * 3 / 2).min(LOOK_MAX_MS);
    }
}

/// Whether the worker of a run waits for this very backend: for its snapshot, as concurrent index builds do, or a lock.
fn waits_for_us(run_id: i64) -> Result<bool, Error> {
    let database = names::current_database();
    let worker = board::of_database(database).into_iter().find(|place| place.run_id == run_id);
    let Some(worker) = worker.filter(|worker| worker.pid != 0) else { return Ok(false) };
    let waits = rows(
        c"SELECT pg_catalog.pg_backend_pid() = ANY (pg_catalog.pg_blocking_pids($1))",
        &[worker.pid.into()],
        |row| row.get::<bool>(1),
    );
    Ok(waits.into_iter().flatten().any(|waits| waits))
}

/// Whether the row is this transaction's own, so that nobody else sees it yet.
fn is_of_this_transaction(run_id: i64) -> Result<bool, Error> {
    let own = privilege::as_owner(JOBS, || {
        Ok(rows(
            c"SELECT xmin::pg_catalog.text = (pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text::numeric
                                             % 4294967296)::pg_catalog.text
             FROM perf.job_run WHERE run_id = $1",
            &[run_id.into()],
            |row| row.get::<bool>(1),
        ))
    })?;
    Ok(own.into_iter().flatten().any(|own| own))
}

/// Cancels a run. False when it had ended.
pub fn cancel(run_id: i64) -> Result<bool, Error> {
    check_preloaded()?;
    let role = privilege::current_role();
    registry::note_jobs_change();
    for _ in 0..CANCEL_LOOKS {
        if !is_open(&status(run_id, role)?) {
            return Ok(false);
        }
        if cancel_queued(run_id)? || board::cancel(names::current_database(), run_id) {
            return Ok(true);
        }
        // The scheduler has it in its hands: claimed, but not yet given to a worker.
        background::pause(LOOK_MS);
    }
    Ok(false)
}

/// Cancels a run that has not been claimed. False when it was, or is just being claimed.
fn cancel_queued(run_id: i64) -> Result<bool, Error> {
    privilege::as_owner(JOBS, || {
        let cancelled = run(
            c"UPDATE perf.job_run SET status = 'cancelled', finished_at = pg_catalog.clock_timestamp(),
                    message = 'cancelled before it started'
             WHERE run_id IN (SELECT run_id FROM perf.job_run WHERE run_id = $1 AND status = 'queued'
                              FOR UPDATE SKIP LOCKED)",
            &[run_id.into()],
        );
        Ok(cancelled > 0)
    })
}

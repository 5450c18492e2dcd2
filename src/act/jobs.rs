//! The rows of perf.job as the scheduler sees them: which ticks are due, and when the next one is. Decisions about time
//! are `perf_core::schedule`'s; here they meet the tables.
//!
//! Called by the scheduler and by the job functions, inside a transaction, with the rights of the tables' owner. Locks the
//! rows of due jobs; one that somebody else has locked is left to the next look.

use perf_core::schedule::{CatchUp, Plan, Schedule};
use pgrx::datum::TimestampWithTimeZone;

use super::runs::{self, rows, run, timestamp, Ticks};
use crate::error::Error;
use crate::pg::alarm::UNIX_TO_SERVER_US;
use crate::pg::zone::ServerZone;

/// Jobs looked at in one transaction.
const BATCH: i64 = 500;

/// A point of time as schedules count it, of the server's.
pub fn to_unix(at: i64) -> i64 {
    at.saturating_add(UNIX_TO_SERVER_US)
}

/// The reverse.
pub fn to_server(at: i64) -> i64 {
    at.saturating_sub(UNIX_TO_SERVER_US)
}

struct DueJob {
    job_id: i64,
    schedule: String,
    time_zone: String,
    next_run_at: i64,
    anchor_at: i64,
    catch_up: String,
    overlap: String,
    paused_until: Option<i64>,
    open_run: Option<i64>,
}

/// What a look at the due jobs came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Every due job has had its ticks queued.
    Done,
    /// There are more due jobs than fit into one transaction.
    More,
    /// Some are due, and somebody else has them locked.
    Locked,
}

/// Queues the ticks that are due and moves their jobs on to the next one.
pub fn queue_due(now: i64) -> Look {
    let due = rows(
        c"SELECT j.job_id, j.schedule, j.time_zone, j.next_run_at, j.anchor_at, j.catch_up, j.overlap, j.paused_until,
                (SELECT pg_catalog.min(r.run_id) FROM perf.job_run r
                 WHERE r.status IN ('queued', 'running') AND r.job_id = j.job_id)
         FROM perf.job j
         WHERE j.enabled AND j.next_run_at <= $1 AND (j.paused_until IS NULL OR j.paused_until <= $1)
         ORDER BY j.next_run_at LIMIT $2
         FOR UPDATE OF j SKIP LOCKED",
        &[timestamp(now).into(), BATCH.into()],
        |row| {
            let time = |at: Option<TimestampWithTimeZone>| at.map(i64::from);
            DueJob {
                job_id: row.get(1).unwrap_or_default(),
                schedule: row.string(2),
                time_zone: row.string(3),
                next_run_at: time(row.get(4)).unwrap_or(now),
                anchor_at: time(row.get(5)).unwrap_or(now),
                catch_up: row.string(6),
                overlap: row.string(7),
                paused_until: time(row.get(8)),
                open_run: row.get(9),
            }
        },
    );
    let count = due.len() as i64;
    for job in &due {
        if let Err(error) = queue_ticks(job, now) {
            // A schedule or time zone that was good when it was stored and is no more: say so, once.
            let (_, message, _) = error.parts();
            pgrx::log!("perf_opt job {} is switched off: {message}", job.job_id);
            runs::switch_off(job.job_id);
        }
    }
    if count == BATCH {
        return Look::More;
    }
    let left = rows(
        c"SELECT EXISTS (SELECT FROM perf.job WHERE enabled AND next_run_at <= $1
                        AND (paused_until IS NULL OR paused_until <= $1))",
        &[timestamp(now).into()],
        |row| row.get::<bool>(1),
    );
    if left.into_iter().flatten().any(|left| left) {
        Look::Locked
    } else {
        Look::Done
    }
}

fn queue_ticks(job: &DueJob, now: i64) -> Result<(), Error> {
    let (Some(schedule), zone) = parse(&job.schedule, &job.time_zone)? else {
        store_next(job.job_id, None);
        return Ok(());
    };
    let anchor = to_unix(job.anchor_at);
    let mut first = to_unix(job.next_run_at);
    if let Some(until) = job.paused_until {
        // Ticks of a pause are not missed; they were not wanted.
        if to_unix(until) > first {
            first = match schedule.next_after(to_unix(until) - 1, &zone, anchor) {
                Some(next) => next,
                None => {
                    store_next(job.job_id, None);
                    return Ok(());
                }
            };
        }
    }
    if first > to_unix(now) {
        store_next(job.job_id, Some(first));
        return Ok(());
    }
    let catch_up = CatchUp::from_name(&job.catch_up).unwrap_or(CatchUp::RunOnce);
    let Plan { runs: ticks, skipped, next } = schedule.missed(first, to_unix(now), catch_up, &zone, anchor);
    if let Some(skipped) = skipped {
        let reason = match catch_up {
            CatchUp::RunOnce => "missed while nothing could run; the latest tick stands for all",
            CatchUp::Skip => "missed while nothing could run",
            CatchUp::All => "missed while nothing could run; too many to run them all",
        };
        let ticks = Ticks {
            count: skipped.count,
            is_exact: !skipped.at_least,
            first: to_server(skipped.first),
            last: to_server(skipped.last),
        };
        runs::skip(job.job_id, &ticks, reason);
    }
    for tick in ticks {
        let tick = to_server(tick);
        match job.open_run {
            Some(open) if job.overlap == "skip" => {
                let ticks = Ticks { count: 1, is_exact: true, first: tick, last: tick };
                runs::skip(job.job_id, &ticks, &format!("run {open} of this job has not ended"));
            }
            _ => runs::queue(job.job_id, tick),
        }
    }
    store_next(job.job_id, next);
    Ok(())
}

/// The schedule and the time zone of a job; no schedule for one that runs only when asked to.
pub fn parse(schedule: &str, time_zone: &str) -> Result<(Option<Schedule>, ServerZone), Error> {
    let zone = ServerZone::named("time_zone", time_zone)?;
    if schedule.trim().eq_ignore_ascii_case(super::define::MANUAL) {
        return Ok((None, zone));
    }
    match Schedule::parse(schedule) {
        Ok(schedule) => Ok((Some(schedule), zone)),
        Err(error) => {
            let value = error.message.trim_start_matches("invalid schedule").trim_start_matches([':', ' ']).to_owned();
            Err(Error::InvalidArgument { argument: "schedule", value, accepted: error.hint })
        }
    }
}

fn store_next(job_id: i64, next: Option<i64>) {
    run(
        c"UPDATE perf.job SET next_run_at = $2, paused_until = CASE WHEN paused_until > $2 THEN paused_until END
         WHERE job_id = $1",
        &[job_id.into(), next.map(|next| timestamp(to_server(next))).into()],
    );
}

/// When the next job is due or ends its pause; `None` when there is none. Not those that are due and locked: there is
/// nothing to be done about them at once.
pub fn next_due_at(now: i64) -> Option<i64> {
    // The first by its index, however many there are; and those that pause, which are few.
    let found = rows(
        c"SELECT LEAST((SELECT pg_catalog.min(next_run_at) FROM perf.job
                        WHERE enabled AND next_run_at > $1 AND paused_until IS NULL),
                       (SELECT pg_catalog.min(GREATEST(next_run_at, paused_until)) FROM perf.job
                        WHERE enabled AND next_run_at IS NOT NULL AND paused_until < 'infinity'
                          AND GREATEST(next_run_at, paused_until) > $1))",
        &[timestamp(now).into()],
        |row| row.get::<TimestampWithTimeZone>(1),
    );
    found.into_iter().flatten().next().map(i64::from)
}

/// The clock was set back: jobs whose next tick has moved further away than their schedule ever waits are due sooner.
pub fn clock_set_back(now: i64) {
    let jobs = rows(
        c"SELECT job_id, schedule, time_zone, next_run_at, anchor_at FROM perf.job
         WHERE enabled AND next_run_at IS NOT NULL FOR UPDATE SKIP LOCKED",
        &[],
        |row| {
            let time = |at: Option<TimestampWithTimeZone>| at.map_or(now, i64::from);
            (row.get::<i64>(1).unwrap_or_default(), row.string(2), row.string(3), time(row.get(4)), time(row.get(5)))
        },
    );
    for (job_id, schedule, time_zone, next_run_at, anchor_at) in jobs {
        let Ok((Some(schedule), zone)) = parse(&schedule, &time_zone) else { continue };
        let moved = schedule.after_clock_change(to_unix(next_run_at), to_unix(now), &zone, to_unix(anchor_at));
        if let Some(moved) = moved {
            run(
                c"UPDATE perf.job SET next_run_at = $2, anchor_at = $2 WHERE job_id = $1",
                &[job_id.into(), timestamp(to_server(moved)).into()],
            );
        }
    }
}

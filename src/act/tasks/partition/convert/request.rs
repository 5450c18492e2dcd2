//! How a conversion is asked for and followed: the job that does it is stored and queued in the caller's transaction, and
//! looked at in others, until its run has ended. Called by the SQL functions; locks the row of the job.

use pgrx::datum::Interval;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::facts;
use super::obstacles::{self, Obstacle};
use super::plan::{self, Request, Step};
use super::record::{self, Conversion, State};
use super::KIND;
use crate::act::define::{self, Definition};
use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::pg::text::Document;
use crate::pg::{background, privilege};

const JOBS: &std::ffi::CStr = c"job";
const NAME_CHARACTERS: usize = 200;
/// After a crash it goes on so often.
const MAX_RETRIES: i32 = 10;
/// How long one look at a run waits.
const LOOK_MS: i64 = 200;
/// Looks without news after which it is said what is under way.
const QUIET_LOOKS: i32 = 9;

/// What a caller wants.
pub struct Wanted {
    /// Which table.
    pub relation: pg_sys::Oid,
    /// How to convert it; `None`: back.
    pub request: Option<Request>,
    /// Longest wait for a lock that others queue behind.
    pub max_lock: Interval,
    /// How long to try.
    pub give_up_after: Interval,
}

/// What came of it: a run, or what is in the way.
pub enum Started {
    /// Row of perf.job_run.
    Run(i64),
    /// The first obstacle.
    Refused(Obstacle),
}

fn milliseconds(argument: &'static str, interval: Interval) -> Result<i64, Error> {
    let us = interval.as_micros();
    let ms = i64::try_from(us / 1_000).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
    match ms {
        1.. => Ok(ms),
        _ => Err(Error::InvalidArgument {
            argument,
            value: format!("{} s", us as f64 / 1e6),
            accepted: "An interval of a millisecond or more.".to_owned(),
        }),
    }
}

impl Wanted {
    /// Queues the run, unless something is in the way.
    pub fn start(&self) -> Result<Started, Error> {
        if background::in_transaction_block() {
            return Ok(Started::Refused(Obstacle {
                step: Step::Start,
                sqlstate: "25001",
                message: "a conversion cannot run inside a transaction block: it commits each of its steps".to_owned(),
                hint: "CALL it by itself, outside of BEGIN ... COMMIT, functions and DO.".to_owned(),
            }));
        }
        define::check_preloaded()?;
        let (max_lock_ms, give_up_ms) =
            (milliseconds("max_lock", self.max_lock)?, milliseconds("give_up_after", self.give_up_after)?);
        let known = Conversion::find(self.relation)?;
        let mut options =
            json!({ "max_lock_ms": max_lock_ms, "give_up_ms": give_up_ms, "undo": self.request.is_none() });
        let relation = match (&self.request, &known) {
            (None, None) => return Ok(Started::Refused(self.unknown()?)),
            (None, Some(known)) => {
                if let Some(refused) = self.owned(known)? {
                    return Ok(Started::Refused(refused));
                }
                known.relation
            }
            (Some(request), known) => {
                let unfinished =
                    known.as_ref().filter(|known| known.state == State::Converted && known.step == Step::Swap.name());
                // After the swap only partitions are to be made, which needs nothing of what the old table was.
                if unfinished.is_none() {
                    let study = plan::study(self.relation, request, false)?;
                    if let Some(first) = study.obstacles.into_iter().next() {
                        // What a bigint counts is told by its rows, which the job looks at.
                        if !(first.message.starts_with("what the numbers") && request.epoch.is_none()) {
                            return Ok(Started::Refused(first));
                        }
                    }
                }
                let request = record::request_to_json(request);
                if let (Some(options), Some(request)) = (options.as_object_mut(), request.as_object()) {
                    options.extend(request.clone());
                }
                known.as_ref().map_or(self.relation, |known| known.relation)
            }
        };
        if let Some((run_id, same)) = self.under_way(relation, &options)? {
            return Ok(if same { Started::Run(run_id) } else { Started::Refused(busy(run_id)) });
        }
        let name: String =
            facts::table(relation).map_or_else(String::new, |table| format!("conversion of {}", table.full));
        let job_id = Definition {
            name: &name.chars().take(NAME_CHARACTERS).collect::<String>(),
            kind: KIND,
            target: Some(relation),
            schedule: define::MANUAL,
            time_zone: "UTC",
            command: None,
            options,
            timeout: None,
            lock_timeout: None,
            max_retries: MAX_RETRIES,
            priority: 0,
            catch_up: "run_once",
            overlap: "queue",
        }
        .store()?;
        Ok(Started::Run(define::run_now(job_id)?))
    }

    /// There is nothing to undo: of what there is, the first thing that keeps it from being a conversion.
    fn unknown(&self) -> Result<Obstacle, Error> {
        let table = facts::table(self.relation);
        let nature = table.as_ref().map_or_else(Vec::new, obstacles::nature);
        if let Some(denied) = nature.into_iter().find(|obstacle| obstacle.sqlstate == "42501") {
            return Ok(denied);
        }
        let full = table.map_or_else(|| self.relation.to_u32().to_string(), |table| table.full);
        Ok(Obstacle {
            step: Step::Start,
            sqlstate: "55000",
            message: format!("{full} was not converted by perf.partition_convert"),
            hint: "perf.partition_conversions lists what can be undone; a table whose first partition is gone cannot."
                .to_owned(),
        })
    }

    fn owned(&self, known: &Conversion) -> Result<Option<Obstacle>, Error> {
        let table = facts::table(known.relation);
        let nature = table.as_ref().map_or_else(Vec::new, obstacles::nature);
        Ok(nature.into_iter().find(|obstacle| obstacle.sqlstate == "42501"))
    }

    /// A run about the table that has not ended, and whether it is this role's and does what is wanted. One that waits to be
    /// tried again and does something else is cancelled.
    fn under_way(&self, relation: pg_sys::Oid, options: &Value) -> Result<Option<(i64, bool)>, Error> {
        let role = privilege::current_role();
        let found = privilege::as_owner(JOBS, || {
            Ok(rows(
                c"SELECT r.run_id, j.owner::oid = $2, r.status, j.options FROM perf.job_run r JOIN perf.job j USING (job_id)
                 WHERE j.kind = 'partition_convert' AND j.target = $1 AND r.status IN ('queued', 'running')
                 ORDER BY r.run_id",
                &[relation.into(), role.into()],
                |row| {
                    let same = row.get::<Document>(4).is_some_and(|stored| {
                        ["undo", "control", "every", "time_zone"].iter().all(|name| stored.0.get(name) == options.get(name))
                    });
                    (row.get::<i64>(1).unwrap_or_default(), row.get::<bool>(2).unwrap_or(false), row.string(3), same)
                },
            ))
        })?;
        for (run_id, own, status, same) in found {
            if own && !same && status == "queued" && define::cancel(run_id)? {
                continue;
            }
            return Ok(Some((run_id, own && same)));
        }
        Ok(None)
    }
}

fn busy(run_id: i64) -> Obstacle {
    Obstacle {
        step: Step::Start,
        sqlstate: "55000",
        message: format!("run {run_id} is at work on the table"),
        hint: format!("SELECT perf.job_cancel({run_id}) cancels it; perf.job_runs shows how far it is."),
    }
}

/// Removes the job of a conversion, whose run is about to end.
pub fn remove_job(job_id: i64) -> Result<(), Error> {
    privilege::as_owner(JOBS, || {
        privilege::writable(|| {
            run(c"DELETE FROM perf.job WHERE job_id = $1 AND kind = 'partition_convert'", &[job_id.into()]);
            Ok(())
        })
    })
}

/// What there is to say about a run.
pub struct Progress {
    /// To show.
    pub lines: Vec<String>,
    /// Lines shown so far.
    pub seen: i32,
    /// Looks without news.
    pub quiet: i32,
    /// It is over.
    pub ended: bool,
    /// How it failed: SQLSTATE, message, hint.
    pub failure: Option<[String; 3]>,
}

/// Looks at a run after a while.
pub fn progress(run_id: i64, seen: i32, quiet: i32) -> Result<Progress, Error> {
    background::pause(LOOK_MS);
    let found = rows(
        c"SELECT status, detail -> 'lines', detail ->> 'doing', sqlstate, message, detail ->> 'hint',
                 coalesce(format(' (%s, %s %%)', phase, round(phase_done_pct::numeric)), '')
          FROM perf.job_runs WHERE run_id = $1",
        &[run_id.into()],
        |row| {
            let lines = row.get::<Document>(2).map_or(Value::Null, |lines| lines.0);
            (row.string(1), lines, row.string(3), [row.string(4), row.string(5), row.string(6)], row.string(7))
        },
    );
    let Some((status, all, doing, failure, phase)) = found.into_iter().next() else {
        return Err(Error::UndefinedObject {
            message: format!("job run {run_id} does not exist"),
            hint: "perf.job_runs lists the runs of your jobs.".to_owned(),
        });
    };
    let all = all.as_array().cloned().unwrap_or_default();
    let mut lines: Vec<String> =
        all.iter().skip(seen.max(0) as usize).filter_map(Value::as_str).map(str::to_owned).collect();
    let shown = i32::try_from(all.len()).unwrap_or(i32::MAX).max(seen);
    let ended = !matches!(status.as_str(), "queued" | "running");
    let quiet = if lines.is_empty() { quiet.saturating_add(1) } else { 0 };
    if !ended && quiet >= QUIET_LOOKS {
        lines.push(match (status.as_str(), doing.as_str()) {
            ("queued", _) => "waiting for a worker".to_owned(),
            (_, "") => "under way".to_owned(),
            (_, doing) => format!("under way: {doing}{phase}"),
        });
    }
    let quiet = if lines.is_empty() { quiet } else { 0 };
    let failure = (ended && !matches!(status.as_str(), "succeeded" | "skipped")).then_some(failure);
    Ok(Progress { lines, seen: shown, quiet, ended, failure })
}

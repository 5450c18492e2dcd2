//! Jobs that refresh a materialized view, as users define them: one for each view. Called by the SQL functions, in the
//! user's transaction. Locks the row of the job.

use pgrx::datum::Interval;
use pgrx::pg_sys;
use serde_json::json;

use super::{order, view};
use crate::act::define::{take_over, Definition};
use crate::act::runs::rows;
use crate::error::Error;
use crate::pg::{ident, privilege};

const JOBS: &std::ffi::CStr = c"job";
const MODES: [&str; 3] = ["auto", "concurrent", "plain"];
const NAME_CHARACTERS: usize = 200;

/// What a user wants.
pub struct Request<'a> {
    /// The view.
    pub view: pg_sys::Oid,
    /// As jobs take it.
    pub schedule: &'a str,
    /// As jobs take it.
    pub time_zone: &'a str,
    /// How to refresh.
    pub mode: &'a str,
    /// Leave it when nothing has changed.
    pub skip_unchanged: bool,
    /// Limit of a run.
    pub timeout: Option<Interval>,
    /// Limit of a wait for a lock.
    pub lock_timeout: Option<Interval>,
    /// Further tries after a failure.
    pub max_retries: i32,
}

impl Request<'_> {
    /// Stores the job, in place of the one that the view has. Its number.
    pub fn store(&self) -> Result<i64, Error> {
        let view_name = view::check(self.view)?;
        if !MODES.contains(&self.mode) {
            return Err(Error::InvalidArgument {
                argument: "mode",
                value: format!("\"{}\"", self.mode),
                accepted: "auto (concurrent where that is possible), concurrent or plain.".to_owned(),
            });
        }
        let name: String = format!("refresh {view_name}").chars().take(NAME_CHARACTERS).collect();
        take_over(super::KIND, self.view, &name)?;
        Definition {
            name: &name,
            kind: super::KIND,
            target: Some(self.view),
            schedule: self.schedule,
            time_zone: self.time_zone,
            command: None,
            options: json!({ "mode": self.mode, "skip_unchanged": self.skip_unchanged }),
            timeout: self.timeout,
            lock_timeout: self.lock_timeout,
            max_retries: self.max_retries,
            priority: -order::depth(self.view),
            catch_up: "run_once",
            overlap: "skip",
        }
        .store()
    }
}

/// The job that refreshes a view, if it is the current role's, or the view is.
pub fn job_of_caller(view: pg_sys::Oid) -> Result<i64, Error> {
    let role = privilege::current_role();
    let found = privilege::as_owner(JOBS, || {
        Ok(rows(
            c"SELECT job_id FROM perf.job
             WHERE target = $1 AND kind = 'matview'
               AND (owner::pg_catalog.oid = $2 OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = $2))",
            &[view.into(), role.into()],
            |row| row.get::<i64>(1),
        ))
    })?;
    found.into_iter().flatten().next().ok_or_else(|| Error::UndefinedObject {
        message: format!(
            "you have no job that refreshes {}",
            ident::relation(view).unwrap_or_else(|| format!("relation {}", view.to_u32()))
        ),
        hint: "perf.jobs lists your jobs.".to_owned(),
    })
}

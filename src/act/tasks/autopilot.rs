//! Autopilot's job: one look at the advice, by which at most one change is begun or taken back. What it looks at lies further
//! down than this module and is given from above. Runs as the owner of perf_opt's tables; what it begins runs as the owner
//! of the table that it is about. Queued by the collector while perf_opt.autopilot is on.

use serde_json::{json, Value};

use super::{Outcome, Write};
use crate::act::define::{Definition, MANUAL};
use crate::act::executor::{self, Failure};
use crate::act::runs::{rows, Order};
use crate::act::{change::store, define};
use crate::error::Error;
use crate::pg::local::ProcessLocal;
use crate::pg::query::text;
use crate::pg::{background, privilege};

/// The kind of job.
pub const KIND: &str = "autopilot";

/// Decides and begins, inside a transaction: what was done, for the record; `Err` with the reason when there was nothing.
pub type Step = fn() -> Result<Result<Value, String>, Error>;

static STEP: ProcessLocal<Option<Step>> = ProcessLocal::new(None);

/// Sets the step. Called when the library is loaded, so that every worker has it.
pub fn give(step: Step) {
    STEP.set(Some(step));
}

/// One look.
pub fn run(_order: &Order, write: Write) -> Result<(), Failure> {
    let Some(step) = STEP.get() else { return Err(Failure::new("0A000", "autopilot is not there")) };
    executor::transaction(|| {
        write(match step()? {
            Ok(detail) => Outcome { detail, ..Outcome::plain() },
            Err(reason) => Outcome::skipped(reason, json!({})),
        })
    })
}

/// Queues a look as the owner of the tables, unless one is queued or under way. Inside a transaction.
pub fn queue() -> Result<(), Error> {
    let Some(table) = privilege::table(store::TABLE) else { return Ok(()) };
    let open = privilege::as_owner(store::TABLE, || {
        Ok(rows(
            c"SELECT true FROM perf.job_run r JOIN perf.job j USING (job_id)
               WHERE j.kind = $1 AND r.status IN ('queued', 'running') LIMIT 1",
            &[text(KIND)],
            |_| (),
        ))
    })?;
    if !open.is_empty() || background::in_recovery() {
        return Ok(());
    }
    privilege::as_role(privilege::relation_owner(table), || {
        let job = Definition {
            name: KIND,
            kind: KIND,
            target: None,
            schedule: MANUAL,
            time_zone: "UTC",
            command: None,
            options: json!({}),
            timeout: None,
            lock_timeout: None,
            max_retries: 0,
            priority: 0,
            catch_up: "skip",
            overlap: "skip",
        };
        define::run_now(job.store()?).map(|_| ())
    })
}

//! What the kinds of jobs do. Each kind is a row of [`KINDS`]. Called by the worker of a run, outside of any transaction, in
//! a session of the job's owner; locks what its statements lock.

pub mod autopilot;
pub mod change;
pub mod fleet;
pub mod index_maintenance;
pub mod matview;
pub mod partition;
pub mod partitioned_index;
pub mod prewarm;
mod setting;

use serde_json::{json, Value};

use super::change::KIND as CHANGE;
use super::executor::{self, Failure};
use super::runs::{self, Order};
use crate::pg::privilege;

/// What a task that did not fail says of itself.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// There was nothing to do, for this reason.
    pub skipped: Option<String>,
    /// Time it waited for locks, where that was measured.
    pub lock_wait_ms: Option<f64>,
    /// An object for the record.
    pub detail: Value,
}

impl Outcome {
    /// There was nothing to do.
    pub fn skipped(reason: String, detail: Value) -> Outcome {
        Outcome { skipped: Some(reason), lock_wait_ms: None, detail }
    }

    /// Nothing to add.
    pub fn plain() -> Outcome {
        Outcome { skipped: None, lock_wait_ms: None, detail: json!({}) }
    }
}

/// Writes down that the task is done. To be called once, in the transaction that does the last of its work.
pub type Write<'a> = &'a mut dyn FnMut(Outcome) -> Result<(), Failure>;

/// Writes down how far a run has come, inside a transaction, for whoever looks at it.
pub fn note(order: &Order, detail: &Value) -> Result<(), Failure> {
    let note = || {
        privilege::writable(|| runs::note(order, detail));
        Ok(())
    };
    Ok(privilege::as_owner(c"job_run", note)?)
}

/// A kind of job.
struct Kind {
    name: &'static str,
    run: fn(&Order, Write) -> Result<(), Failure>,
    /// Whether another try may help after a failure.
    may_retry: fn(&Failure) -> bool,
}

fn always(_: &Failure) -> bool {
    true
}

const KINDS: &[Kind] = &[
    Kind { name: "command", run: command, may_retry: always },
    Kind { name: fleet::KIND, run: fleet::run, may_retry: always },
    Kind { name: matview::KIND, run: matview::run, may_retry: always },
    Kind { name: index_maintenance::KIND, run: index_maintenance::run, may_retry: always },
    Kind { name: prewarm::KIND, run: prewarm::run, may_retry: always },
    Kind { name: partition::KIND, run: partition::run, may_retry: always },
    Kind { name: partition::convert::KIND, run: partition::convert::run, may_retry: always },
    Kind { name: autopilot::KIND, run: autopilot::run, may_retry: always },
    Kind { name: CHANGE, run: change::run, may_retry: change::may_retry },
];

/// Does what a run is for.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    match KINDS.iter().find(|kind| kind.name == order.kind) {
        Some(kind) => (kind.run)(order, write),
        None => Err(Failure::new("0A000", format!("no kind of job \"{}\" is known", order.kind))),
    }
}

/// Whether a kind of job gains by another try after a failure.
pub fn may_retry(kind: &str, failure: &Failure) -> bool {
    KINDS.iter().find(|known| known.name == kind).is_none_or(|known| (known.may_retry)(failure))
}

/// SQL of the owner's.
fn command(order: &Order, write: Write) -> Result<(), Failure> {
    let text = order.command.as_deref().unwrap_or_default();
    executor::script(text, || write(Outcome::plain()))
}

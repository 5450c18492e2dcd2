//! Jobs that manage the partitions of a table: make those that are needed ahead of time ([`rotate`]), let go of those whose
//! retention is over ([`expire`]), compress old ones ([`compress`]). `perf_core::partition` says which; here it is done.
//!
//! Called by the worker of a run, in a session of the job's owner, and by `perf.partition_tick` in its caller's
//! transaction. Each step has its own (sub)transaction, so that one that fails stops no other. No step takes ACCESS
//! EXCLUSIVE on a parent, but for moving rows out of a default partition, for letting go of a partition beside one, and for
//! letting go of one whose constraints, indexes or foreign keys run functions of an owner that is not the job's.

pub mod archive;
pub mod archive_file;
pub mod compress;
pub mod compress_facts;
pub mod compress_state;
pub mod convert;
pub mod expire;
pub mod expire_state;
pub mod ground;
pub mod manage;
pub mod rotate;
pub mod settings;
pub mod shield;
mod snapshots;
pub mod tick;

use perf_core::partition::{Key, Plan};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::{note, Outcome, Write};
use crate::act::executor::{self, Failure};
use crate::act::jobs::to_unix;
use crate::act::runs::Order;
use crate::partitions::{Parent, Partition};
use crate::pg::{background, ddl, ident, privilege};
use ground::Ground;
use settings::Settings;

/// The kind of job.
pub const KIND: &str = "partition";

/// What became of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is done.
    Done,
    /// It could not be done, for the reason in the detail.
    Failed,
    /// It is left for now, or for somebody to decide on.
    Skipped,
}

impl Status {
    /// For a row of an answer.
    pub fn name(self) -> &'static str {
        match self {
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
        }
    }
}

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Quoted and qualified: what it was about.
    pub relation: String,
    /// create, attach, move_rows, detach, finalize, drop, archive, compress or read.
    pub step: &'static str,
    /// What became of it.
    pub status: Status,
    /// More of it, or the reason.
    pub detail: String,
    /// SQLSTATE of a failure.
    pub sqlstate: Option<String>,
}

/// The steps of one look at a parent.
#[derive(Default)]
pub struct Steps<'a> {
    /// In the order in which they came.
    pub all: Vec<Step>,
    /// The run that they are written down in as they come, where there is one.
    order: Option<&'a Order>,
}

impl<'a> Steps<'a> {
    /// None yet.
    pub fn of(order: &'a Order) -> Steps<'a> {
        Steps { all: Vec::new(), order: Some(order) }
    }

    /// Something was done.
    pub fn done(&mut self, relation: String, step: &'static str, detail: impl Into<String>) -> Result<(), Failure> {
        self.add(Step { relation, step, status: Status::Done, detail: detail.into(), sqlstate: None })
    }

    /// Something is left.
    pub fn skipped(&mut self, relation: String, step: &'static str, detail: impl Into<String>) -> Result<(), Failure> {
        self.add(Step { relation, step, status: Status::Skipped, detail: detail.into(), sqlstate: None })
    }

    /// Something went wrong. A cancel is handed on: it is about all steps.
    pub fn failed(&mut self, relation: String, step: &'static str, failure: Failure) -> Result<(), Failure> {
        if failure.sqlstate == executor::QUERY_CANCELED {
            return Err(failure);
        }
        let sqlstate = Some(failure.sqlstate);
        self.add(Step { relation, step, status: Status::Failed, detail: failure.message, sqlstate })
    }

    /// Whoever waits for the run sees each step when it has ended, and a crash leaves them in the record.
    fn add(&mut self, step: Step) -> Result<(), Failure> {
        self.all.push(step);
        match self.order {
            Some(order) => executor::transaction(|| note(order, &self.detail())),
            None => Ok(()),
        }
    }

    fn count(&self, status: Status) -> usize {
        self.all.iter().filter(|step| step.status == status).count()
    }

    fn detail(&self) -> Value {
        let steps: Vec<Value> = self.all.iter().map(|step| {
            json!({ "relation": step.relation, "step": step.step, "status": step.status.name(), "detail": step.detail })
        }).collect();
        json!({ "done": self.count(Status::Done), "failed": self.count(Status::Failed),
                "skipped": self.count(Status::Skipped), "steps": steps })
    }
}

/// What a look at a parent goes by.
pub struct Look<'a> {
    /// Where steps run.
    pub ground: Ground,
    /// The parent.
    pub parent: pg_sys::Oid,
    /// How it is managed.
    pub settings: &'a Settings,
    /// The time that it is taken to be, in microseconds since 1970.
    pub as_of_us: i64,
    /// The process that waits for it in a statement, if one does: its snapshot is not in the way of what it asked for.
    pub caller: Option<i32>,
}

/// All that is to be done about one parent now. Fails only when it is cancelled.
pub fn look(look: &Look, steps: &mut Steps) -> Result<(), Failure> {
    let name = look.ground.read(|| Ok(ident::relation(look.parent)))?;
    let name = name.unwrap_or_else(|| format!("(relation {})", look.parent.to_u32()));
    for part in [rotate::rotate, expire::expire, compress::compress] {
        if let Err(failure) = part(look, steps) {
            steps.failed(name.clone(), "read", failure)?;
        }
    }
    Ok(())
}

/// Parent and plan of this moment, in the caller's (sub)transaction.
fn planned(look: &Look) -> Result<(Parent, Plan), Failure> {
    let parent = Parent::read("parent", look.parent, look.settings.epoch)?;
    let zone = look.settings.zone()?;
    let ruler = look.settings.ruler(parent.key, &zone);
    let plan = perf_core::partition::plan(&ruler, &parent.ranges(), &look.settings.wish(), look.as_of_us);
    Ok((parent, plan))
}

/// Whether the age of a partition is known by its bounds: a uuid of another version than 7 says nothing of it. Reads some
/// rows of the partition then.
fn tells_time(parent: &Parent, partition: &Partition) -> bool {
    const ROWS: u32 = 1_000;
    if parent.key != Key::Uuid7 {
        return true;
    }
    if partition.relkind == b'f' {
        return false;
    }
    let column = ident::quote(&parent.column);
    let statement = format!(
        "SELECT pg_catalog.count(*) FROM (SELECT {column} AS key FROM {} LIMIT {ROWS}) AS seen
          WHERE pg_catalog.substr(seen.key::pg_catalog.text, 15, 1) <> '7'",
        partition.full_name()
    );
    let count = || privilege::as_relation_owner_unforced(partition.oid, || ddl::value::<i64>(&statement));
    privilege::with_own_path(count) == Some(0)
}

/// Runs a job of this kind.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    background::set_session(c"default_transaction_isolation", c"read committed");
    let settings = Settings::from_options(&order.options)?;
    let parent = pg_sys::Oid::from(order.target.unwrap_or_default());
    let as_of_us = order.as_of.unwrap_or_else(|| to_unix(background::now()));
    let mut steps = Steps::of(order);
    look(&Look { ground: Ground::TopLevel, parent, settings: &settings, as_of_us, caller: order.caller }, &mut steps)?;
    let detail = steps.detail();
    if let Some(step) = steps.all.iter().find(|step| step.status == Status::Failed) {
        let sqlstate = step.sqlstate.as_deref().unwrap_or("XX000");
        return Err(Failure::new(sqlstate, format!("{} of {}: {}", step.step, step.relation, step.detail)));
    }
    executor::transaction(|| {
        write(match steps.all.len() {
            0 => Outcome::skipped("nothing is to be done".to_owned(), detail),
            _ => Outcome { detail, ..Outcome::plain() },
        })
    })
}

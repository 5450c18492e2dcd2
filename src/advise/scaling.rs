//! What to do as the load grows: all six kinds of scaling, each with its trigger, what was measured, how far that is from it,
//! what it would bring by the captured workload, and the configuration for it. Called by `perf.scaling_recommendations`.
//!
//! Analyses and plans captured statements, and locks as that does; nothing is left locked. Nothing is recommended because a
//! policy says so: a policy's numbers are triggers, and what was not measured is NULL.

mod machine;
mod measured;
mod memory;
mod partitions;
mod pooling;
mod replication;
mod views;

use std::time::Duration;

use perf_core::sharding::Verdict;
use pgrx::datum::DatumWithOid;
use serde_json::Value;

use super::{replicas, sharding};
use crate::error::Error;
use crate::pg::background;
use crate::pg::names::current_database;
use crate::pg::text::Text;
use crate::pg::{catalog, privilege};
use crate::workload::shapes::{self, Shapes};
use crate::workload::transactions::{self, Trace};
use measured::Measured;

/// Nodes that sharding is judged for, as `perf.sharding_advice` does by default.
const NODES: u32 = 4;

/// What ids of rows on the partitioning of a table begin with; its name follows.
pub const PARTITIONING: &str = "scaling:partitioning:";
/// What ids of rows on the work memory of a role begin with; its name follows.
pub const WORK_MEM: &str = "scaling:work_mem:";

/// Where a row's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// From this server.
    Measured,
    /// From what its planner estimates.
    WhatIf,
    /// From the policy tables.
    Policy,
    /// There are none.
    None,
}

impl Basis {
    /// The name users see.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Measured => "measured",
            Basis::WhatIf => "what_if",
            Basis::Policy => "policy",
            Basis::None => "none",
        }
    }
}

/// One row of the answer.
#[derive(Clone, Debug)]
pub struct Row {
    /// The same at every call.
    pub id: String,
    /// Of the six kinds.
    pub kind: &'static str,
    /// high, medium or low.
    pub priority: String,
    /// The measured value has reached the threshold, or the workload itself calls for it.
    pub triggered: bool,
    /// What to do, in a sentence; "Don't" as well.
    pub recommendation: String,
    /// What is compared.
    pub metric: Option<String>,
    /// Its value.
    pub measured_value: Option<f64>,
    /// What it is compared with.
    pub threshold: Option<f64>,
    /// Of both.
    pub unit: Option<String>,
    /// What it would bring.
    pub expected_benefit_pct: Option<f64>,
    /// Where that comes from.
    pub basis: Basis,
    /// Ready to use.
    pub config: Option<String>,
    /// Why.
    pub reason: String,
    /// Numbers behind it.
    pub evidence: Value,
}

impl Row {
    /// A row of a kind that has nothing to say yet.
    fn new(kind: &'static str) -> Row {
        Row {
            id: format!("scaling:{kind}"),
            kind,
            priority: "low".to_owned(),
            triggered: false,
            recommendation: String::new(),
            metric: None,
            measured_value: None,
            threshold: None,
            unit: None,
            expected_benefit_pct: None,
            basis: Basis::None,
            config: None,
            reason: String::new(),
            evidence: Value::Object(serde_json::Map::new()),
        }
    }

    /// Compares a measured value with a trigger, if there is one.
    fn compare(&mut self, metric: &str, unit: &str, value: Option<f64>, trigger: Option<&Trigger>) {
        self.metric = Some(metric.to_owned());
        self.unit = Some(unit.to_owned());
        self.measured_value = value;
        self.threshold = trigger.and_then(|trigger| trigger.threshold);
        if value.is_some() {
            self.basis = Basis::Measured;
        }
        self.triggered = value.zip(self.threshold).is_some_and(|(value, threshold)| value >= threshold);
        if self.triggered {
            self.priority = trigger.map_or_else(|| "medium".to_owned(), |trigger| trigger.priority.clone());
        }
    }

    /// How far the measured value is from its threshold, in words.
    fn distance(&self) -> String {
        let (name, unit) = (self.metric.as_deref().unwrap_or_default(), self.unit.as_deref().unwrap_or_default());
        // Thresholds are a machine's; statements are counted by each database for itself.
        let unit = if unit == "1/s" { "1/s in this database alone" } else { unit };
        match (self.measured_value, self.threshold) {
            (None, _) => format!("{name} was not measured yet"),
            (Some(value), None) => {
                format!("{name} is {value:.1} {unit}, and perf.scaling_trigger has no threshold for it")
            }
            (Some(value), Some(threshold)) if value >= threshold => {
                format!("{name} is {value:.1} {unit}, at or above {threshold:.1}")
            }
            (Some(value), Some(threshold)) => {
                let share = 100.0 * value / threshold;
                format!("{name} is {value:.1} {unit}, {share:.0} % of {threshold:.1}")
            }
        }
    }
}

/// A row of perf.scaling_trigger.
#[derive(Clone, Debug)]
struct Trigger {
    name: String,
    threshold: Option<f64>,
    priority: String,
    settings: Value,
}

/// What all kinds are judged by.
struct Context {
    triggers: Vec<Trigger>,
    measured: Measured,
    /// `None` where nothing is captured: the library is not preloaded.
    shapes: Option<Shapes>,
    traces: Vec<Trace>,
}

impl Context {
    fn trigger(&self, name: &str) -> Option<&Trigger> {
        self.triggers.iter().find(|trigger| trigger.name == name)
    }

    /// What to say of a kind that needs the captured workload.
    fn nothing_captured(&self) -> &'static str {
        match self.shapes {
            None => "nothing is captured, because perf_opt is not in shared_preload_libraries",
            Some(_) => "nothing was captured yet",
        }
    }
}

/// All rows: at least one of each kind.
pub fn recommend() -> Result<Vec<Row>, Error> {
    recommend_within(partitions::BUDGET)
}

/// The same with less time to plan the workload in.
pub fn recommend_within(budget: Duration) -> Result<Vec<Row>, Error> {
    let shapes = match shapes::read() {
        Ok(shapes) => Some(shapes),
        Err(Error::NotPreloaded) => None,
        Err(error) => return Err(error),
    };
    let context = Context {
        triggers: triggers()?,
        measured: measured::read()?,
        traces: transactions::traces(current_database()),
        shapes,
    };
    let mut rows = vec![replication::row(&context)];
    rows.extend(pooling::rows(&context)?);
    rows.extend(views::rows(&context)?);
    rows.extend(partitions::rows(&context, budget)?);
    rows.push(machine::vertical(&context)?);
    rows.push(machine::horizontal(&context)?);
    rows.extend(memory::rows(&context)?);
    if background::in_recovery() {
        for row in rows.iter_mut().filter(|row| row.basis == Basis::Measured) {
            row.reason
                .push_str(" This is a standby: samples are of its primary, statements, cores and memory its own.");
        }
    }
    Ok(rows)
}

fn failed(error: pgrx::spi::Error) -> Error {
    crate::collect::partitions::spi_failed(error)
}

fn triggers() -> Result<Vec<Trigger>, Error> {
    rows_of(
        "SELECT trigger_name, threshold, priority, settings::text FROM perf.scaling_trigger ORDER BY trigger_name",
        &[],
        |row| {
            let settings = row.get::<Text>(4)?.unwrap_or_default().0;
            Ok(Some(Trigger {
                name: row.get::<Text>(1)?.unwrap_or_default().0,
                threshold: row.get::<f64>(2)?,
                priority: row.get::<Text>(3)?.unwrap_or_default().0,
                settings: serde_json::from_str(&settings).unwrap_or_default(),
            }))
        },
    )
}

/// Rows of a statement of perf_opt's own, with the rights of the caller.
fn rows_of<T>(
    query: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&pgrx::spi::SpiHeapTupleData<'_>) -> Result<Option<T>, pgrx::spi::Error>,
) -> Result<Vec<T>, Error> {
    privilege::with_own_path(|| catalog::rows(query, arguments, read)).map_err(failed)
}

/// Its first value.
fn value_of<T: pgrx::FromDatum + pgrx::IntoDatum>(
    query: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<T>, Error> {
    privilege::with_own_path(|| catalog::value(query, arguments)).map_err(failed)
}

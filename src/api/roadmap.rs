//! SQL: `optimization_roadmap`, `roadmap_tick`, `roadmap_untick`, `deployment_checklist`, `checklist_tick`,
//! `checklist_untick`.

use std::time::Duration;

use pgrx::prelude::*;

use super::{or_raise, required};
use crate::advise::ticks::{self, List};
use crate::advise::{checklist, roadmap};
use crate::error::Error;
use crate::pg::text::{self, Text};

/// The time that planning may take.
fn budget(ms: Option<i32>) -> Result<Duration, Error> {
    let ms = required("time_budget_ms", ms)?;
    u64::try_from(ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis).ok_or_else(|| Error::InvalidArgument {
        argument: "time_budget_ms",
        value: ms.to_string(),
        accepted: "Give a number of milliseconds above zero.".to_owned(),
    })
}

fn warn(lines: Vec<String>) {
    for line in lines {
        pgrx::warning!("{}", text::message(line));
    }
}

/// The roadmap, with what this database says of each task. See sql/roadmap_functions.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn optimization_roadmap(
    time_budget_ms: default!(Option<i32>, 2000),
) -> TableIterator<
    'static,
    (
        name!(phase, i32),
        name!(phase_name, Text),
        name!(priority, Text),
        name!(weeks, Option<Text>),
        name!(task_no, i32),
        name!(task, Text),
        name!(status, Text),
        name!(expected_gain_pct, Option<f64>),
        name!(gain_basis, Text),
        name!(measured_gain_pct, Option<f64>),
        name!(effort_hours_low, Option<f64>),
        name!(effort_hours_high, Option<f64>),
        name!(ddl, Option<Text>),
        name!(reason, Text),
    ),
> {
    let (rows, warnings) = or_raise(budget(time_budget_ms).and_then(roadmap::roadmap));
    warn(warnings);
    TableIterator::new(rows.into_iter().map(|row| {
        let task = row.task;
        (
            task.phase,
            Text(task.phase_name),
            Text(task.priority),
            task.weeks.map(Text),
            task.task_no,
            Text(task.task),
            Text(row.status.name().to_owned()),
            row.expected_gain_pct,
            Text(row.gain_basis),
            row.measured_gain_pct,
            task.effort.0,
            task.effort.1,
            row.ddl.map(Text),
            Text(row.reason),
        )
    }))
}

/// Ticks a task of the roadmap that no server can look at.
#[pg_extern(volatile, parallel_unsafe)]
fn roadmap_tick(phase: Option<i32>, task_no: Option<i32>, note: default!(Option<&str>, "NULL")) {
    or_raise((|| roadmap::tick(required("phase", phase)?, required("task_no", task_no)?, note))());
}

/// Takes a tick away; whether there was one.
#[pg_extern(volatile, parallel_unsafe)]
fn roadmap_untick(phase: Option<i32>, task_no: Option<i32>) -> bool {
    or_raise((|| {
        let phase = required("phase", phase)?.to_string();
        ticks::untick(List::Roadmap, &phase, required("task_no", task_no)?)
    })())
}

/// The deployment checklist, with what the server can check. See sql/roadmap_functions.sql.
#[pg_extern(volatile, parallel_unsafe)]
fn deployment_checklist(
    only_phase: default!(Option<&str>, "NULL"),
) -> TableIterator<
    'static,
    (name!(phase, Text), name!(item_no, i32), name!(item, Text), name!(status, Text), name!(detail, Text)),
> {
    let (rows, warnings) = or_raise(checklist::checklist(only_phase));
    warn(warnings);
    TableIterator::new(
        rows.into_iter()
            .map(|row| (Text(row.phase), row.item_no, Text(row.item), Text(row.status.to_owned()), Text(row.detail))),
    )
}

/// Ticks an item of the checklist.
#[pg_extern(volatile, parallel_unsafe)]
fn checklist_tick(phase: Option<&str>, item_no: Option<i32>, note: default!(Option<&str>, "NULL")) {
    or_raise((|| checklist::tick(required("phase", phase)?, required("item_no", item_no)?, note))());
}

/// Takes a tick away; whether there was one.
#[pg_extern(volatile, parallel_unsafe)]
fn checklist_untick(phase: Option<&str>, item_no: Option<i32>) -> bool {
    or_raise((|| ticks::untick(List::Checklist, required("phase", phase)?, required("item_no", item_no)?))())
}

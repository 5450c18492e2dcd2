//! The owner's roadmap, a row a task, with what this database says of each: whether it is done, what it would still gain by
//! the captured workload, and what it has gained. Called by `perf.optimization_roadmap`; the checklist asks it too.
//!
//! Reads with the rights of the caller; locks what the advisors lock. A task whose kind no server can look at waits for a
//! person's tick.

mod advised;
mod changes;
pub mod facts;
mod observed;

use std::time::Duration;

use perf_core::roadmap::{range, whole, Part, Status, Whole};

use super::ticks::{self, List, Tick};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::text::Text;
use crate::pg::{catalog, ident};
use facts::Facts;

pub use advised::replicas_wanted;
pub use changes::{gained, Change};
pub use observed::{capture, threshold};

/// SQL of one task, at most.
const DDL_BYTES_MAX: usize = 20_000;
/// Reasons of one task, at most.
const REASONS_MAX: usize = 8;

fn failed(error: pgrx::spi::Error) -> Error {
    crate::collect::partitions::spi_failed(error)
}

/// A row of perf.roadmap_task.
#[derive(Clone, Debug)]
pub struct Task {
    pub phase: i32,
    pub task_no: i32,
    pub phase_name: String,
    pub weeks: Option<String>,
    pub priority: String,
    pub kind: String,
    pub task: String,
    pub objects: Vec<String>,
    pub phase_gain: (Option<f64>, Option<f64>),
    /// An even share of the phase's.
    pub effort: (Option<f64>, Option<f64>),
    pub note: Option<String>,
}

/// One row of the answer.
#[derive(Clone, Debug)]
pub struct Row {
    pub task: Task,
    pub status: Status,
    pub expected_gain_pct: Option<f64>,
    pub gain_basis: String,
    pub measured_gain_pct: Option<f64>,
    pub ddl: Option<String>,
    pub reason: String,
}

/// What was found of a task.
struct Found {
    parts: Vec<Part>,
    /// Why what is left has no expected gain, where it has none.
    why_no_gain: &'static str,
    /// Changes that belong to it.
    changes: Vec<Change>,
}

impl Found {
    fn of(parts: Vec<Part>, why_no_gain: &'static str) -> Found {
        Found { parts, why_no_gain, changes: Vec::new() }
    }
}

/// All tasks in order, and what the user should be told besides. `budget`: for planning.
pub fn roadmap(budget: Duration) -> Result<(Vec<Row>, Vec<String>), Error> {
    let facts = Facts::new(budget);
    let ticks = ticks::all(List::Roadmap);
    let rows = tasks()?.into_iter().map(|task| judged(&facts, &ticks, task)).collect();
    Ok((rows, facts.into_warnings()))
}

/// The tasks of the policy.
pub fn tasks() -> Result<Vec<Task>, Error> {
    privilege::with_own_path(|| {
        catalog::rows(
            "SELECT phase, task_no, phase_name, weeks, priority, kind, task, objects, phase_gain_low_pct,
                    phase_gain_high_pct, phase_effort_low_hours / count(*) OVER of_phase,
                    phase_effort_high_hours / count(*) OVER of_phase, note
               FROM perf.roadmap_task WINDOW of_phase AS (PARTITION BY phase) ORDER BY phase, task_no",
            &[],
            |row| {
                let text = |n| catalog::text_of(row, n);
                let maybe = |n| Ok::<_, pgrx::spi::Error>(row.get::<Text>(n)?.map(|text| text.0));
                let objects = row.get::<Vec<Option<Text>>>(8)?.unwrap_or_default();
                Ok(Some(Task {
                    phase: row.get::<i32>(1)?.unwrap_or(0),
                    task_no: row.get::<i32>(2)?.unwrap_or(0),
                    phase_name: text(3)?,
                    weeks: maybe(4)?,
                    priority: text(5)?,
                    kind: text(6)?,
                    task: text(7)?,
                    objects: objects.into_iter().flatten().map(|name| name.0).collect(),
                    phase_gain: (row.get::<f64>(9)?, row.get::<f64>(10)?),
                    effort: (row.get::<f64>(11)?, row.get::<f64>(12)?),
                    note: maybe(13)?,
                }))
            },
        )
    })
    .map_err(failed)
}

/// How far the tasks of a kind are together, by what the server sees of them, and why; those of one phase, if one is given.
pub fn status_of(facts: &Facts, kind: &str, phase: Option<i32>) -> Result<(Status, String), String> {
    let mut parts = Vec::new();
    for task in tasks_of(kind, phase)? {
        parts.extend(judge(facts, &task)?.parts);
    }
    Ok((whole(&parts).status, reasons(&parts)))
}

/// The tasks of a kind.
fn tasks_of(kind: &str, phase: Option<i32>) -> Result<Vec<Task>, String> {
    let tasks = tasks().map_err(Error::message)?;
    Ok(tasks.into_iter().filter(|task| task.kind == kind && phase.is_none_or(|phase| task.phase == phase)).collect())
}

/// A materialized view of the roadmap.
pub struct View {
    /// As the policy names it.
    pub name: String,
    /// It is there.
    pub exists: bool,
    /// What it is made of is there, so that it could be.
    pub is_applicable: bool,
    /// A job refreshes it, and its last refresh did not fail.
    pub is_refreshed: bool,
}

/// The materialized views of the roadmap's tasks.
pub fn views(facts: &Facts) -> Result<Vec<View>, String> {
    let mut views: Vec<View> = Vec::new();
    for name in tasks_of("matview", None)?.into_iter().flat_map(|task| task.objects) {
        if views.iter().any(|view| view.name == name) {
            continue;
        }
        let exists = facts.find(&name)?.is_some_and(|found| found.kind == "m");
        let status = observed::of_view(facts, &name)?.status;
        let (is_applicable, is_refreshed) = (exists || status != Status::NotApplicable, status == Status::Done);
        views.push(View { name, exists, is_applicable, is_refreshed });
    }
    Ok(views)
}

/// A kind of task that this server can look at.
struct Kind {
    name: &'static str,
    judge: fn(&Facts, &Task) -> Result<Found, String>,
    /// A person's word counts all the same: the server sees whether it is needed, not whether it is done.
    is_told: bool,
}

const KINDS: &[Kind] = &[
    Kind { name: "index", judge: advised::index, is_told: false },
    Kind { name: "cache", judge: advised::cache, is_told: false },
    Kind { name: "monitoring", judge: |_, _| observed::monitoring(), is_told: false },
    Kind { name: "matview", judge: observed::matview, is_told: false },
    Kind { name: "pooling", judge: |facts, _| advised::pooling(facts), is_told: true },
    Kind { name: "rewrite", judge: observed::rewrite, is_told: false },
    Kind { name: "replicas", judge: |facts, _| advised::replicas(facts), is_told: false },
    Kind { name: "partitioning", judge: advised::partitioning, is_told: false },
    Kind { name: "maintenance", judge: |facts, _| observed::maintenance(facts), is_told: false },
    Kind { name: "archival", judge: observed::archival, is_told: false },
    Kind { name: "sharding", judge: |facts, _| advised::sharding(facts), is_told: false },
    Kind { name: "prewarm", judge: |facts, _| observed::prewarm(facts), is_told: false },
];

fn kind_of(task: &Task) -> Option<&'static Kind> {
    // Without a view there is nothing to look for in statements.
    let is_blind = task.kind == "rewrite" && task.objects.is_empty();
    KINDS.iter().find(|kind| kind.name == task.kind && !is_blind)
}

/// Whether a person's word counts for a task.
fn is_told(task: &Task) -> bool {
    kind_of(task).is_none_or(|kind| kind.is_told)
}

fn judge(facts: &Facts, task: &Task) -> Result<Found, String> {
    kind_of(task).map_or_else(|| Ok(observed::manual()), |kind| (kind.judge)(facts, task))
}

fn judged(facts: &Facts, ticks: &[Tick], task: Task) -> Row {
    let tick = ticks::of(ticks, &task.phase.to_string(), task.task_no, &task.task);
    let found = judge(facts, &task).unwrap_or_else(|why| Found::of(vec![Part::new(Status::Blocked, why)], ""));
    let mut sum = whole(&found.parts);
    let mut said = vec![reasons(&found.parts)];
    if let Some(tick) = tick {
        // What the server cannot see is as a person says; what it sees, it sees.
        if is_told(&task) {
            sum = Whole { status: Status::Done, gain: None, left: 0, unknown: 0 };
            said.clear();
        }
        said.push(tick.told());
    }
    let unverified = found.changes.iter().filter(|change| change.is_unverified()).count();
    if unverified > 0 {
        said.push(format!("{unverified} applied and not verified yet"));
    }
    let (expected_gain_pct, mut gain_basis) = match sum.gain {
        Some((pct, how)) => {
            if sum.unknown > 0 {
                said.push(format!("the gain of {} of {} parts that are left is not known", sum.unknown, sum.left));
            }
            (Some(pct), how.name().to_owned())
        }
        None => {
            if sum.status.is_left() && !found.why_no_gain.is_empty() {
                said.push(format!("no gain is predicted: {}", found.why_no_gain));
            }
            (None, "none".to_owned())
        }
    };
    if let Some(policy) = range(task.phase_gain.0, task.phase_gain.1) {
        gain_basis.push_str(&format!("; policy, not measured: {policy} once phase {} is done", task.phase));
    }
    if let Some(note) = &task.note {
        said.push(note.trim_end_matches('.').to_owned());
    }
    said.retain(|text| !text.is_empty());
    let ddl = ddl(&found.parts);
    Row {
        measured_gain_pct: changes::gained(found.changes.iter()),
        status: sum.status,
        expected_gain_pct,
        gain_basis,
        ddl: ddl.filter(|_| sum.status.is_left()),
        reason: sentence(&said.join("; ")),
        task,
    }
}

/// What does all that is left, statement by statement; what is too long to show is counted.
fn ddl(parts: &[Part]) -> Option<String> {
    let mut text = String::new();
    let mut more = 0;
    for ddl in parts.iter().filter(|part| part.status.is_left()).filter_map(|part| part.ddl.as_deref()) {
        if text.len() + ddl.len() > DDL_BYTES_MAX {
            more += 1;
            continue;
        }
        text.push_str(ddl);
        text.push('\n');
    }
    if more > 0 {
        text.push_str(&format!("-- {more} more: ask again when these are done.\n"));
    }
    text.pop().map(|_| text)
}

/// What the parts say, those first that are left to do.
fn reasons(parts: &[Part]) -> String {
    let mut texts: Vec<&str> = Vec::new();
    let (left, rest): (Vec<&Part>, Vec<&Part>) = parts.iter().partition(|part| part.status.is_left());
    for part in left.into_iter().chain(rest) {
        let text = part.reason.trim_end_matches('.');
        if !text.is_empty() && !texts.contains(&text) {
            texts.push(text);
        }
    }
    let more = texts.len().saturating_sub(REASONS_MAX);
    texts.truncate(REASONS_MAX);
    let joined = texts.join("; ");
    if more > 0 {
        format!("{joined}; and {more} more")
    } else {
        joined
    }
}

/// Begins with a capital letter, unless that is a name's first one.
fn sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    let is_word = text.split(' ').next().is_some_and(|word| word.chars().all(|c| c.is_ascii_alphabetic()));
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let first = if is_word { first.to_ascii_uppercase() } else { first };
    std::iter::once(first).chain(chars).chain(['.']).collect()
}

/// SQL ended by a semicolon, whether it was or not.
fn statement(sql: &str) -> String {
    format!("{};", sql.trim_end().trim_end_matches(';'))
}

/// An object that is not in this database.
fn missing(name: &str) -> Part {
    Part::new(Status::NotApplicable, format!("table {} is not in the search path", ident::quote(name)))
}

/// Ticks a task that no server can look at.
pub fn tick(phase: i32, task_no: i32, note: Option<&str>) -> Result<(), Error> {
    let task = tasks()?.into_iter().find(|task| (task.phase, task.task_no) == (phase, task_no));
    let Some(task) = task else {
        return Err(Error::UndefinedObject {
            message: format!("there is no task {task_no} in phase {phase} of the roadmap"),
            hint: "perf.roadmap_task has the tasks.".to_owned(),
        });
    };
    if !is_told(&task) {
        return Err(Error::WrongState {
            message: format!("task {task_no} of phase {phase} ({}) is looked at by the server", task.kind),
            hint: "Do what its row of perf.optimization_roadmap() says; its status follows.".to_owned(),
        });
    }
    ticks::tick(List::Roadmap, &phase.to_string(), task_no, &task.task, note)
}

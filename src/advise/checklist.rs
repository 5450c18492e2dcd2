//! The deployment checklist: items of perf.checklist_item, each checked by the server where it can be, or as a person has
//! ticked it. Called by `perf.deployment_checklist`. Reads with the rights of the caller; locks what the checks lock.
//!
//! A check has the last word: a tick next to one that fails is told and changes nothing. Where a check cannot tell, a tick
//! counts.

mod checks;

use std::time::Duration;

use super::roadmap::facts::Facts;
use super::ticks::{self, List};
use crate::error::Error;
use crate::pg::catalog;
use crate::pg::privilege;
use crate::pg::text::Text;

/// For planning what indexes are still wanted.
const BUDGET: Duration = Duration::from_secs(2);

/// What a check says.
pub struct Outcome {
    /// None: the server cannot tell.
    passed: Option<bool>,
    detail: String,
}

impl Outcome {
    fn passed(detail: impl Into<String>) -> Outcome {
        Outcome { passed: Some(true), detail: detail.into() }
    }

    fn failed(detail: impl Into<String>) -> Outcome {
        Outcome { passed: Some(false), detail: detail.into() }
    }

    fn unknown(detail: impl Into<String>) -> Outcome {
        Outcome { passed: None, detail: detail.into() }
    }
}

/// One row of the answer.
pub struct Row {
    pub phase: String,
    pub item_no: i32,
    pub item: String,
    /// passed, failed, manual or ticked.
    pub status: &'static str,
    pub detail: String,
}

/// A row of perf.checklist_item.
struct Item {
    phase: String,
    item_no: i32,
    item: String,
    check: Option<String>,
    note: Option<String>,
}

/// All items, or those of one phase, and what the user should be told besides.
pub fn checklist(only_phase: Option<&str>) -> Result<(Vec<Row>, Vec<String>), Error> {
    let items = items()?;
    if let Some(phase) = only_phase {
        if !items.iter().any(|item| item.phase == phase) {
            return Err(no_phase("only_phase", phase, &items));
        }
    }
    let facts = Facts::new(BUDGET);
    let ticks = ticks::all(List::Checklist);
    let wanted = items.into_iter().filter(|item| only_phase.is_none_or(|phase| item.phase == phase));
    let rows = wanted
        .map(|item| {
            let outcome = match item.check.as_deref() {
                Some(check) => checks::run(check, &item.phase, &facts),
                None => Outcome::unknown("the server cannot check this"),
            };
            let tick = ticks::of(&ticks, &item.phase, item.item_no, &item.item);
            let status = match (outcome.passed, tick) {
                (Some(true), _) => "passed",
                (Some(false), _) => "failed",
                (None, Some(_)) => "ticked",
                (None, None) => "manual",
            };
            let mut said = vec![outcome.detail];
            // A person's word stands for itself.
            if status == "ticked" && item.check.is_none() {
                said.clear();
            }
            said.extend(tick.map(ticks::Tick::told));
            said.extend(item.note);
            said.retain(|text| !text.is_empty());
            Row { phase: item.phase, item_no: item.item_no, item: item.item, status, detail: said.join("; ") }
        })
        .collect();
    Ok((rows, facts.into_warnings()))
}

/// Ticks an item.
pub fn tick(phase: &str, item_no: i32, note: Option<&str>) -> Result<(), Error> {
    let items = items()?;
    match items.iter().find(|item| item.phase == phase && item.item_no == item_no) {
        Some(item) => ticks::tick(List::Checklist, phase, item_no, &item.item, note),
        None if items.iter().any(|item| item.phase == phase) => Err(Error::UndefinedObject {
            message: format!("there is no item {item_no} in phase \"{phase}\" of the checklist"),
            hint: "perf.checklist_item has the items.".to_owned(),
        }),
        None => Err(no_phase("phase", phase, &items)),
    }
}

fn no_phase(argument: &'static str, phase: &str, items: &[Item]) -> Error {
    let mut phases: Vec<&str> = items.iter().map(|item| item.phase.as_str()).collect();
    phases.dedup();
    Error::InvalidArgument {
        argument,
        value: format!("\"{phase}\""),
        accepted: match phases.is_empty() {
            true => "perf.checklist_item has no rows: perf.load_policy() loads the shipped ones.".to_owned(),
            false => format!("Phases of the checklist: {}.", phases.join(", ")),
        },
    }
}

/// In order: before, the phases, those of the user's own, after.
fn items() -> Result<Vec<Item>, Error> {
    privilege::with_own_path(|| {
        catalog::rows(
            "SELECT phase, item_no, item, check_name, note FROM perf.checklist_item
              ORDER BY CASE WHEN phase = 'before' THEN 0 WHEN phase LIKE 'phase\\_%' THEN 1 WHEN phase = 'after' THEN 3
                            ELSE 2 END, phase COLLATE \"C\", item_no",
            &[],
            |row| {
                let text = |n| Ok::<_, pgrx::spi::Error>(row.get::<Text>(n)?.map(|text| text.0));
                Ok(Some(Item {
                    phase: text(1)?.unwrap_or_default(),
                    item_no: row.get::<i32>(2)?.unwrap_or(0),
                    item: text(3)?.unwrap_or_default(),
                    check: text(4)?,
                    note: text(5)?,
                }))
            },
        )
    })
    .map_err(crate::collect::partitions::spi_failed)
}

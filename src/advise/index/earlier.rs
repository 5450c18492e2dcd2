//! Measured time from before an index was there. What `perf.apply()` has made is in the plans of today, but not in the times
//! that were measured until then: an index nearly as good as one that was just built would seem to save all over again what
//! that one saves already.
//!
//! Called by the study. Reads perf.change with the rights of its owner, plans as the study does; locks nothing that lasts.

use std::collections::HashMap;

use perf_core::index::settled::{settled, Span};
use pgrx::pg_sys;
use serde_json::Value;

use super::study::Studied;
use crate::act::change::store::{self, Change};
use crate::error::Error;
use crate::pg::planner::{Configuration, Planned, UsedIndex};
use crate::pg::{background, catalog, ident, privilege};
use crate::workload::queries::WorkloadStatement;

/// A moment at which indexes came that a statement was promised to gain by.
struct Step {
    /// Of the statement, measured until then.
    until_ms: f64,
    /// When, as the server counts.
    at: i64,
    indexes: Vec<pg_sys::Oid>,
}

/// What is known of changes, by the statements' query ids, the oldest first.
#[derive(Default)]
pub struct Earlier {
    steps: HashMap<i64, Vec<Step>>,
}

impl Earlier {
    /// Reads the indexes that were made and are still there, unless it turned out that they do not help.
    pub fn read() -> Result<Earlier, Error> {
        let mut earlier = Earlier::default();
        if privilege::table(store::TABLE).is_none() {
            return Ok(earlier);
        }
        // Whoever made it, it is there; nothing of it is told.
        for change in store::open(privilege::current_role(), true)? {
            let helps = change.kind == "index_create" && ["applied", "verified"].contains(&change.status.as_str());
            let Some(ago) = change.applied_s_ago.filter(|_| helps) else { continue };
            let indexes = made(&change);
            let at = background::now() - (ago * 1e6) as i64;
            let evidence = change.recommendation.get("evidence").and_then(Value::as_array);
            for one in evidence.into_iter().flatten().filter(|_| !indexes.is_empty()) {
                let ms = |name: &str| one.get(name).and_then(Value::as_f64);
                let Some(queryid) = one.get("queryid").and_then(Value::as_i64) else { continue };
                let Some(until_ms) = ms("measured_ms").or_else(|| ms("ms")) else { continue };
                earlier.steps.entry(queryid).or_default().push(Step { until_ms, at, indexes: indexes.clone() });
            }
        }
        Ok(earlier)
    }

    /// What the measured time of a statement, planned already, comes to with the indexes of today; planner calls are counted.
    pub fn settled(&self, statement: &WorkloadStatement, studied: &Studied, calls: &mut usize) -> f64 {
        let measured_ms = statement.total_ms;
        let uses = |step: &&Step| {
            let mut used = studied.base.scans.iter().flat_map(|scan| &scan.indexes);
            used.any(|index| matches!(index, UsedIndex::Real(oid) if step.indexes.contains(oid)))
        };
        // What was measured since perf.reset() may be from after the index altogether. Of several roles that send the same
        // statement each has a step of its own; those that cannot be its own are later than it has come.
        let known = self.steps.get(&statement.queryid).into_iter().flatten();
        let mut steps: Vec<&Step> = known
            .filter(|step| statement.first_seen.is_some_and(|first| first <= step.at) && step.until_ms <= measured_ms)
            .filter(uses)
            .collect();
        steps.sort_by(|a, b| a.until_ms.total_cmp(&b.until_ms));
        if steps.is_empty() {
            return measured_ms;
        }
        let hidden: Vec<Vec<pg_sys::Oid>> = (0..steps.len())
            .map(|first| steps[first..].iter().flat_map(|step| step.indexes.iter().copied()).collect())
            .collect();
        let before: Vec<Configuration<'_>> =
            hidden.iter().map(|hidden| Configuration { hidden, ..Configuration::default() }).collect();
        *calls += before.len();
        let Some(plans) = studied.plan(&before) else { return measured_ms };
        let time = |plan: &Planned| plan.work.milliseconds() + f64::MIN_POSITIVE;
        let spans: Vec<Span> = steps
            .iter()
            .zip(&plans)
            .map(|(step, plan)| Span { until_ms: step.until_ms, ratio: time(&studied.base) / time(plan) })
            .collect();
        settled(measured_ms, &spans)
    }
}

/// The indexes that a change has made and that are there.
fn made(change: &Change) -> Vec<pg_sys::Oid> {
    let made = change.state.get("made").and_then(Value::as_array).into_iter().flatten();
    let name = |one: &Value, field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    made.map(|one| ident::qualified(&name(one, "schema"), &name(one, "name")))
        .filter_map(|index| catalog::relation_named(&index).ok().flatten())
        .collect()
}

//! What perf_opt does unasked, when perf_opt.autopilot says so: of the indexes that are recommended the best that is sure to
//! pay, one change at a time, in the hours of its window, within its budget, as the owner of the table; each is verified, and
//! taken back when two rounds of executions say that it has done harm. Called by the worker of autopilot's job, in one
//! transaction; locks as the advisor does.

use perf_core::autopilot::{is_wanted, Advice};
use serde_json::{json, Value};

use super::index::rows::Recommendation;
use super::{apply, guard};
use crate::act::change::audit::{self, Entry};
use crate::act::change::store::{self, Change};
use crate::act::change::{undo, window};
use crate::error::Error;
use crate::guc::{self, Autopilot};
use crate::pg::privilege;

/// Failures of one advice after which it is left to people.
const FAILURES_MAX: usize = 3;

/// One look: what was done, or why nothing was.
pub fn step() -> Result<Result<Value, String>, Error> {
    let mode = guc::autopilot();
    if mode == Autopilot::Off {
        return Ok(Err("perf_opt.autopilot is off".to_owned()));
    }
    store::settle()?;
    guard::check(&store::of_autopilot()?)?;
    let own = store::of_autopilot()?;
    let is_to_go =
        |change: &&Change| change.is_confirmed_harm() && change.can_be_taken_back() && guard::may_undo(change);
    let mut to_go: Vec<&Change> = own.iter().filter(is_to_go).collect();
    guard::sort_for_undo(&mut to_go)?;
    for harmful in to_go {
        // One that cannot be taken back is a person's to look at, and keeps no other waiting.
        match privilege::as_role(harmful.owner, || undo::request(&harmful.recommendation_id)) {
            Ok(run_id) => {
                guard::judge_others_anew(harmful, &own)?;
                return Ok(Ok(json!({ "undo": harmful.recommendation_id, "run_id": run_id })));
            }
            Err(problem) => {
                pgrx::log!("perf_opt autopilot cannot take change {} back: {}", harmful.change_id, problem.message())
            }
        }
    }
    if let Some(open) = store::in_hand()?.into_iter().find(guard::holds_up) {
        return Ok(Err(format!("change {} is {}: one at a time", open.change_id, open.status)));
    }
    if !window::is_open()? {
        return Ok(Err("it is not within perf_opt.autopilot_window".to_owned()));
    }
    let used: f64 = own
        .iter()
        .filter(|change| change.is_made() && change.kind == "index_create")
        .filter_map(|change| change.size_bytes)
        .map(|bytes| bytes as f64)
        .sum();
    let Some((row, total_ms)) = choose(&own, guc::autopilot_max_bytes() - used)? else {
        return Ok(Err("nothing that is recommended is sure to pay within perf_opt.autopilot_max_mb".to_owned()));
    };
    if mode == Autopilot::Advise {
        return advise(&row);
    }
    let run_id = apply::unasked(&row, total_ms)?;
    Ok(Ok(json!({ "apply": row.id, "run_id": run_id })))
}

/// The first advice that is worth it, and the time of the workload. What was taken back is not done again.
fn choose(own: &[Change], left_bytes: f64) -> Result<Option<(Recommendation, f64)>, Error> {
    let (rows, total_ms) = apply::advice()?;
    let taken_back = store::taken_back()?;
    let is_wanted = |row: &Recommendation| {
        row.status == "recommended"
            && row.ddl.is_some()
            && (row.action != "drop" || row.undo_ddl.is_some())
            && may_try(own, &row.id)
            && !taken_back.contains(&row.id)
            && is_wanted(
                &Advice {
                    action: row.action,
                    confidence: row.confidence,
                    benefit_pct: row.benefit_pct,
                    size_bytes: row.size_bytes.map_or(f64::INFINITY, |bytes| bytes as f64),
                },
                left_bytes,
            )
    };
    Ok(rows.into_iter().find(is_wanted).map(|row| (row, total_ms)))
}

/// Whether an advice has not been carried out before, nor failed too often.
fn may_try(own: &[Change], recommendation_id: &str) -> bool {
    let of_advice = |change: &&Change| change.recommendation_id == recommendation_id && !change.is_postponed();
    let earlier: Vec<&Change> = own.iter().filter(of_advice).collect();
    earlier.len() < FAILURES_MAX && earlier.iter().all(|change| change.status == "failed")
}

/// Notes what would be done, once.
fn advise(row: &Recommendation) -> Result<Result<Value, String>, Error> {
    if audit::was_advised(&row.id)? {
        return Ok(Err(format!("recommendation {} is in perf.audit already", row.id)));
    }
    let change = Change {
        recommendation_id: row.id.clone(),
        kind: format!("index_{}", row.action),
        relation: row.relation.clone(),
        by_autopilot: true,
        ..Change::default()
    };
    let entry = Entry {
        action: "advise",
        sql: row.ddl.as_deref(),
        outcome: "not done",
        sqlstate: None,
        detail: json!({ "predicted_pct": row.benefit_pct, "size_bytes": row.size_bytes, "reason": row.reason }),
    };
    audit::note(&change, privilege::current_role(), &entry)?;
    Ok(Ok(json!({ "advise": row.id })))
}

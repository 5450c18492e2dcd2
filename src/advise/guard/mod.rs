//! The guard of autopilot: what others have changed, settings and indexes, becomes a change like any other, is judged by what it
//! does to the statements, and put back when it does harm and perf_opt.autopilot_guard says so.
//!
//! `look` is a step of the collector and compares the server with what was seen at the last look (`memory`); `check` and what
//! follows is called by autopilot's step before something is taken back. Reads catalogs and settings only, and the texts of
//! statements when there is a new index; locks as analysing those does. Runs as the owner of the tables.

mod cause;
mod indexes;
mod memory;
mod settings;

use perf_core::change::{Moved, Verdict};
use serde_json::json;

use crate::act::change::audit::{self, Entry};
use crate::act::change::observed::{self, is_observed};
use crate::act::change::store::{self, Change};
use crate::act::change::verify;
use crate::collect::worker::News;
use crate::error::Error;
use crate::guc::{self, AutopilotGuard};
use crate::pg::local::ProcessLocal;
use crate::pg::{background, privilege};

/// Changes of others that are watched at a time.
const OPEN_MAX: i64 = 10;

/// Whether this process has emptied the memory since the guard is off.
static IS_FORGOTTEN: ProcessLocal<bool> = ProcessLocal::new(false);

/// The step after each run of the collector.
pub fn look(_now: i64) -> Result<News, Error> {
    let mut news = News::default();
    if privilege::table(memory::TABLE).is_none() || background::in_recovery() {
        return Ok(news);
    }
    if guc::autopilot_guard() == AutopilotGuard::Off {
        if !IS_FORGOTTEN.get() {
            memory::forget()?;
            IS_FORGOTTEN.set(true);
        }
        return Ok(news);
    }
    IS_FORGOTTEN.set(false);
    let last = memory::last()?;
    let now = memory::now()?;
    settings::look(last.as_ref(), &now, &mut news)?;
    indexes::look(last.as_ref(), &mut news)?;
    memory::note(&now)?;
    Ok(news)
}

/// Whether another change can be watched.
fn has_room(news: &mut News, what: &str) -> Result<bool, Error> {
    let has_room = observed::open()? < OPEN_MAX;
    if !has_room {
        news.lines.push(format!("perf_opt guard: {OPEN_MAX} changes are watched already: {what} is not judged"));
    }
    Ok(has_room)
}

/// Writes down that a change was seen.
fn note_seen(change: &Change, news: &mut News) -> Result<(), Error> {
    let what = change.message.as_deref().unwrap_or_default();
    let entry = Entry {
        action: "observed",
        sql: Some(&change.ddl),
        outcome: what,
        sqlstate: None,
        detail: json!({ "total_ms": change.total_ms, "undo": change.undo_ddl }),
    };
    audit::note(change, privilege::current_role(), &entry)?;
    news.lines.push(format!("perf_opt guard: change {} was made by others: {what}", change.change_id));
    Ok(())
}

/// Writes down that others have put a change back.
fn note_put_back(change: &Change) -> Result<(), Error> {
    let outcome = "put back by others";
    store::undone(change.change_id, outcome)?;
    let entry = Entry { action: "undone", sql: None, outcome, sqlstate: None, detail: json!({}) };
    audit::note(change, privilege::current_role(), &entry)
}

/// Whether a change was taken back by perf_opt rather than by hand.
fn was_taken_back(change: &Change) -> bool {
    is_observed(change) && change.status == "undone" && change.run_id != 0
}

fn has(change: &Change, field: &str) -> bool {
    change.state.get(field).is_some_and(|value| !value.is_null())
}

/// Looks into what two rounds of executions have found to be harm: whether the change can be its cause. What cannot is told to
/// have brought nothing.
pub fn check(own: &[Change]) -> Result<(), Error> {
    for change in own.iter().filter(|change| is_observed(change) && change.is_confirmed_harm() && !has(change, "cause"))
    {
        let cause = cause::of(change)?;
        let id = change.change_id;
        if let Some(cause) = cause {
            store::add_to_state(id, &json!({ "cause": cause }))?;
            let undone = if may_undo_kind(change) { "it is put back" } else { "it is left as it is" };
            let what = change.message.as_deref().unwrap_or_default();
            pgrx::log!("perf_opt guard: change {id} ({}) does harm: {what}; {cause}; {undone}", change.relation);
            continue;
        }
        let reason =
            "statements have become slower, but not by this: with it put back they would be planned the same way";
        store::verified(id, Verdict::NoGain.name(), Some(0.0), reason, &json!({ "confirmed": null }))?;
        let entry = Entry {
            action: "verify",
            sql: None,
            outcome: "no_gain",
            sqlstate: None,
            detail: json!({ "reason": reason }),
        };
        audit::note(change, privilege::current_role(), &entry)?;
    }
    Ok(())
}

fn may_undo_kind(change: &Change) -> bool {
    guc::autopilot_guard() == AutopilotGuard::Undo && change.undo_ddl.is_some() && !has(change, "insisted")
}

/// Whether autopilot may take a change back, as far as the guard is concerned.
pub fn may_undo(change: &Change) -> bool {
    !is_observed(change) || may_undo_kind(change) && has(change, "cause")
}

/// Whether nothing else is begun while a change stands as it does. What others have made and nobody puts back holds nobody up.
pub fn holds_up(change: &Change) -> bool {
    !is_observed(change) || change.status != "regressed" || may_undo_kind(change)
}

/// Puts what nobody reads by first: of several indexes that were measured together that is the one to go.
pub fn sort_for_undo(harmful: &mut [&Change]) -> Result<(), Error> {
    let mut scans = Vec::with_capacity(harmful.len());
    for change in harmful.iter() {
        scans.push((change.change_id, verify::scans(change)?));
    }
    let of = |change: &Change| scans.iter().find(|one| one.0 == change.change_id).map_or(0, |one| one.1);
    harmful.sort_by_key(|change| (of(change), std::cmp::Reverse(change.change_id)));
    Ok(())
}

/// One change goes: those of the same table that were measured together with it are judged anew.
pub fn judge_others_anew(gone: &Change, own: &[Change]) -> Result<(), Error> {
    let together = |other: &&Change| {
        is_observed(other)
            && other.change_id != gone.change_id
            && other.target == gone.target
            && matches!(other.status.as_str(), "applied" | "regressed")
    };
    if is_observed(gone) {
        for other in own.iter().filter(together) {
            observed::begin_anew(other.change_id)?;
        }
    }
    Ok(())
}

/// The statements that have become slower since a change.
fn slower(change: &Change) -> Result<Vec<i64>, Error> {
    let Some((statements, judgement)) = observed::measure(change)? else { return Ok(Vec::new()) };
    let slower = statements.iter().zip(&judgement.moved).filter(|(_, moved)| matches!(moved, Moved::Slower(_)));
    Ok(slower.map(|(one, _)| one.queryid).collect())
}

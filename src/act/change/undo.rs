//! Taking a change back: who may, whether it is still what was made, and the run that does it. Called by perf.undo() in the
//! user's transaction, and again by the worker, since something may have happened in between.

use serde_json::{json, Value};

use super::audit::{self, Entry};
use super::index_state::{self, IndexState};
use super::store::{self, Change};
use super::{caching, setting, view};
use crate::error::Error;
use crate::pg::{ident, privilege};

/// Finds the change of an advice for whoever may do something about it.
pub fn find(recommendation_id: &str) -> Result<Change, Error> {
    store::settle()?;
    let change = store::latest(recommendation_id)?.ok_or_else(|| Error::InvalidArgument {
        argument: "recommendation_id",
        value: format!("\"{recommendation_id}\" was never applied"),
        accepted: "perf.applied_changes lists what was; perf.apply() makes a change.".to_owned(),
    })?;
    if !privilege::has_rights_of(change.owner) {
        return Err(Error::Denied {
            message: format!("change {} is another role's", change.change_id),
            hint: "Its owner can verify it and take it back, and members of that role.".to_owned(),
        });
    }
    Ok(change)
}

/// Refuses what is not there, or on its way.
pub fn require_made(change: &Change) -> Result<(), Error> {
    let gone = format!("is not there any more: {}", change.message.as_deref().unwrap_or_default());
    let (what, hint) = match change.status.as_str() {
        _ if change.is_made() => return Ok(()),
        "undone" => (gone.as_str(), "perf.apply() makes it again, if it is still recommended."),
        "undoing" => ("is being taken back", "perf.job_wait(run_id) waits for that."),
        "failed" => ("has failed", "perf.applied_changes says why; perf.apply() tries again."),
        _ => ("is not applied yet", "perf.job_wait(run_id) waits for that; perf.job_cancel(run_id) stops it."),
    };
    Err(Error::WrongState {
        message: format!("change {} of recommendation \"{}\" {what}", change.change_id, change.recommendation_id),
        hint: hint.to_owned(),
    })
}

fn changed(change: &Change, what: &str) -> Error {
    Error::WrongState {
        message: format!("change {} cannot be taken back: {what}", change.change_id),
        hint: "It is not what perf.apply() has made any more: put it right by hand.".to_owned(),
    }
}

/// An index in the state of a change.
pub fn index(state: &Value) -> Option<(&str, &str, &str)> {
    let field = |name: &str| state.get(name).and_then(Value::as_str);
    Some((field("schema")?, field("name")?, field("definition")?))
}

/// The indexes that a change has made, or the one that it has dropped.
pub fn indexes<'a>(change: &'a Change, list: &str) -> Vec<(&'a str, &'a str, &'a str)> {
    change.state.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(index).collect()
}

/// Refuses when something has happened to what was made.
pub fn require_unchanged(change: &Change) -> Result<(), Error> {
    setting::require_unchanged(change)?;
    if let Some(what) = caching::edited(change)? {
        return Err(changed(change, &what));
    }
    let made = indexes(change, "made")
        .into_iter()
        .map(|(schema, name, definition)| {
            Ok((ident::qualified(schema, name), definition, index_state::read(schema, name)?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let is_whole = |found: &IndexState| found.partitioned && found.relation == change.target;
    let has_whole = made.iter().any(|(_, _, found)| found.as_ref().is_some_and(is_whole));
    for (quoted, definition, found) in made {
        match found {
            // It went with its partition.
            None if has_whole => {}
            None => return Err(changed(change, &format!("index {quoted} is gone"))),
            Some(found) if found.definition != definition => {
                return Err(changed(
                    change,
                    &format!("index {quoted} was \"{definition}\" and is \"{}\" now", found.definition),
                ));
            }
            Some(found) if !found.may_drop && !found.attached => {
                return Err(Error::Denied {
                    message: format!("must be owner of index {quoted}"),
                    hint: "Who may drop the index may take the change back.".to_owned(),
                });
            }
            Some(_) => {}
        }
    }
    if let Some((schema, name, definition)) = change.state.get("view").and_then(index) {
        let quoted = ident::qualified(schema, name);
        match view::definition(schema, name)? {
            None => return Err(changed(change, &format!("materialized view {quoted} is gone"))),
            Some(found) if found != definition => {
                return Err(changed(change, &format!("materialized view {quoted} has another definition now")));
            }
            Some(_) => {}
        }
    }
    for (schema, name, _) in indexes(change, "dropped") {
        if index_state::read(schema, name)?.is_some() {
            let quoted = ident::qualified(schema, name);
            return Err(changed(change, &format!("there is an index {quoted} again")));
        }
    }
    Ok(())
}

/// Refuses when another index bears the name of one that was made.
pub fn require_not_replaced(change: &Change) -> Result<(), Error> {
    for (schema, name, definition) in indexes(change, "made") {
        if let Some(found) =
            index_state::read(schema, name)?.filter(|found| found.valid && found.definition != definition)
        {
            let quoted = ident::qualified(schema, name);
            let what = format!("index {quoted} was \"{definition}\" and is \"{}\" now", found.definition);
            return Err(changed(change, &what));
        }
    }
    Ok(())
}

/// Queues the run that takes a change back; its number.
pub fn request(recommendation_id: &str) -> Result<i64, Error> {
    let change = find(recommendation_id)?;
    require_made(&change)?;
    let Some(undo_ddl) = &change.undo_ddl else {
        return Err(Error::Unsupported {
            message: format!("a change of kind {} has nothing that could be taken back", change.kind),
            hint: "A rebuild, and the drop of what nobody could use, leave nothing to restore.".to_owned(),
        });
    };
    require_unchanged(&change)?;
    let run_id = super::queue_run()?;
    if !store::set_undoing(&change, run_id)? {
        return Err(Error::WrongState {
            message: format!("change {} is in somebody else's hands", change.change_id),
            hint: "perf.applied_changes says where it stands.".to_owned(),
        });
    }
    let entry = Entry {
        action: "undo",
        sql: Some(undo_ddl),
        outcome: "queued",
        sqlstate: None,
        detail: json!({ "run_id": run_id, "status": change.status }),
    };
    audit::note(&change, privilege::current_role(), &entry)?;
    Ok(run_id)
}

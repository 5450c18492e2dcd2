//! Settings that others have changed since the last look: all that were changed by the time one look sees them are one change,
//! for they are measured together and put back together. Called by `look`.

use serde_json::{json, Value};

use super::memory::{self, Look};
use super::{has_room, note_put_back, note_seen, was_taken_back};
use crate::act::change::observed::{self, is_observed, Before};
use crate::act::change::setting::{self, Configured, Place, Setting, Settings};
use crate::act::change::store::{self, Change};
use crate::collect::worker::News;
use crate::error::Error;
use crate::pg::{privilege, role};
use pgrx::pg_sys;

/// What happened to one setting.
struct Event {
    place: Place,
    was: Option<Configured>,
    is: Option<Configured>,
}

impl Event {
    fn was(&self) -> Option<&str> {
        self.was.as_ref().map(|one| one.value.as_str())
    }

    fn is(&self) -> Option<&str> {
        self.is.as_ref().map(|one| one.value.as_str())
    }
}

/// Compares the configuration with that of the last look, and keeps it.
pub fn look(last: Option<&Look>, now: &Look, news: &mut News) -> Result<(), Error> {
    let is_reloaded = last.is_none_or(|last| last.loaded_at != now.loaded_at);
    let mut before = memory::settings()?;
    let mut after = setting::of_entries()?;
    if is_reloaded {
        after.extend(setting::of_server()?);
    } else {
        before.retain(|place, _| !place.is_server);
    }
    let events = differences(&before, &after)?;
    let Some(last) = last else { return Ok(()) };
    // The files count from when they were read; databases and roles are as they were at the last look until then.
    let until = if events.iter().all(|event| event.place.is_server) { now.loaded_at } else { last.looked_at };
    record(events, until, news)
}

/// Keeps what differs: what of it is another value.
fn differences(before: &Settings, after: &Settings) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    for (place, is) in after {
        let was = before.get(place);
        if was.is_some_and(|was| {
            was.value == is.value && was.auto_written == is.auto_written && was.written == is.written
        }) {
            continue;
        }
        memory::note_setting(place, Some(is))?;
        // A setting of the server that was not there is new altogether: of another version.
        if was.map(|was| &was.value) != Some(&is.value) && (was.is_some() || !place.is_server) {
            events.push(Event { place: place.clone(), was: was.cloned(), is: Some(is.clone()) });
        }
    }
    for (place, was) in before.iter().filter(|(place, _)| !after.contains_key(place)) {
        memory::note_setting(place, None)?;
        if !place.is_server {
            events.push(Event { place: place.clone(), was: Some(was.clone()), is: None });
        }
    }
    Ok(events)
}

fn record(events: Vec<Event>, until: i64, news: &mut News) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let changes = store::latest_of(setting::KIND)?;
    let mut fresh: Vec<Event> = Vec::new();
    let mut put_back: Vec<(i64, Place)> = Vec::new();
    for event in events {
        let of = |change: &Change| setting::of(change).into_iter().find(|one| one.place == event.place);
        let reverts = |one: &Setting| one.is.as_deref() == event.was() && one.was.as_deref() == event.is();
        let makes = |one: &Setting| one.is.as_deref() == event.is();
        let known = changes.iter().any(|change| match of(change) {
            // perf.apply() and perf.undo() do what they say.
            Some(one) => match change.status.as_str() {
                "undoing" | "undone" => change.run_id != 0 && reverts(&one),
                "queued" | "applying" => makes(&one),
                _ => !is_observed(change) && makes(&one),
            },
            None => false,
        });
        let reverted = changes.iter().find(|change| change.is_made() && of(change).is_some_and(|one| reverts(&one)));
        match reverted {
            _ if known => {}
            Some(change) => put_back.push((change.change_id, event.place.clone())),
            None => fresh.push(event),
        }
    }
    for change in changes.iter().filter(|change| put_back.iter().any(|(id, _)| *id == change.change_id)) {
        let is_back = |one: &Setting| put_back.contains(&(change.change_id, one.place.clone()));
        if setting::of(change).iter().all(is_back) {
            note_put_back(change)?;
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    match changes.iter().find(|change| is_observed(change) && change.status == "applied") {
        Some(open) => add(open, &fresh, news),
        None => insert(&fresh, until, &changes, news),
    }
}

/// What is run to do what was done.
fn done(settings: &[Setting], events: &[Event]) -> String {
    let statement = |one: &Setting| match events.iter().find(|event| event.place == one.place) {
        Some(Event { is: Some(is), .. }) if is.origin == "file" || is.origin == "command_line" => {
            let place = if is.origin == "file" { "configuration file" } else { "command line" };
            Some(format!("-- {place}: {} = {}", one.place.name, is.written))
        }
        Some(event) => setting::statement(&one.place, event.is.as_ref().map(|is| is.written.as_str())),
        None => setting::statement(&one.place, one.is.as_deref()),
    };
    settings.iter().filter_map(statement).collect::<Vec<_>>().join(";\n")
}

fn undone(settings: &[Setting]) -> Option<String> {
    let statements: Vec<&str> = settings.iter().filter_map(|one| one.undo.as_deref()).collect();
    (!statements.is_empty()).then(|| statements.join(";\n"))
}

fn told(settings: &[Setting]) -> String {
    let one = |one: &Setting| {
        let place = &one.place;
        let whose = match (place.is_server, place.role, place.database) {
            (true, _, _) => String::new(),
            (false, 0, _) => " (of the database)".to_owned(),
            (false, role, _) => format!(" (of role {})", role::name(pg_sys::Oid::from(role))),
        };
        let note = one.note.as_deref().map_or_else(String::new, |note| format!("; {note}"));
        format!("{}{whose}{note}", one.told())
    };
    settings.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn names(settings: &[Setting]) -> String {
    settings.iter().map(|one| one.place.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn kept(settings: &[Setting]) -> Value {
    settings.iter().map(Setting::to_json).collect()
}

/// A change of its own.
fn insert(events: &[Event], until: i64, changes: &[Change], news: &mut News) -> Result<(), Error> {
    let settings: Vec<Setting> = events
        .iter()
        .take(setting::SETTINGS_MAX)
        .map(|event| setting::changed(&event.place, event.was.as_ref(), event.is.as_ref()))
        .collect();
    let names = names(&settings);
    let (Some(first), true) = (settings.first(), has_room(news, &names)?) else { return Ok(()) };
    let prefix = format!("observed:setting:{}:", first.place.name);
    let number = 1 + changes.iter().filter(|change| change.recommendation_id.starts_with(&prefix)).count();
    // Whoever sets again what was put back means it.
    let again = |one: &Setting| {
        changes
            .iter()
            .filter(|change| was_taken_back(change))
            .any(|change| setting::of(change).iter().any(|earlier| earlier.place == one.place && earlier.is == one.is))
    };
    let insisted = settings.iter().any(again);
    let since = observed::since(pg_sys::InvalidOid, until)?;
    let owner = privilege::table(store::TABLE).map_or(pg_sys::InvalidOid, privilege::relation_owner);
    let mut change = Change {
        recommendation_id: format!("{prefix}{number}"),
        kind: setting::KIND.to_owned(),
        relation: names,
        ddl: done(&settings, events),
        undo_ddl: undone(&settings),
        owner,
        by_autopilot: true,
        recommendation: json!({ "reason": "seen by the guard of autopilot" }),
        state: json!({ "observed": true, "settings": kept(&settings), "since": since,
                       "insisted": insisted.then_some(true) }),
        ..Change::default()
    };
    let mut message = told(&settings);
    if insisted {
        message.push_str("; it was put back before, and is left now");
    }
    let Some(change_id) = store::insert(&change)? else { return Ok(()) };
    change.change_id = change_id;
    change.total_ms = observed::keep_all(change_id, Before { since, until }, setting::role_of(&settings))?;
    observed::set_total(change_id, change.total_ms)?;
    store::applied(change_id, &json!({}), Some(&message))?;
    observed::begin_round(change_id)?;
    change.message = Some(message);
    note_seen(&change, news)
}

/// More of a change that is not judged yet.
fn add(open: &Change, events: &[Event], news: &mut News) -> Result<(), Error> {
    let mut settings = setting::of(open);
    for event in events {
        let found = setting::changed(&event.place, event.was.as_ref(), event.is.as_ref());
        if let Some(known) = settings.iter_mut().find(|one| one.place == event.place) {
            known.is = found.is;
            // Where nothing overrides what is set now, nothing puts it back.
            if found.undo.is_none() {
                (known.undo, known.note) = (None, found.note);
            }
        } else if settings.len() < setting::SETTINGS_MAX {
            settings.push(found);
        }
    }
    let message = told(&settings);
    let mut change = open.clone();
    change.ddl = done(&settings, events);
    change.undo_ddl = undone(&settings);
    change.relation = names(&settings);
    observed::replace(&change)?;
    store::applied(open.change_id, &json!({ "settings": kept(&settings) }), Some(&message))?;
    observed::begin_round(open.change_id)?;
    change.message = Some(message);
    note_seen(&change, news)
}

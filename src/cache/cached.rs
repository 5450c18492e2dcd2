//! perf.cached(): a policy's result, from the cache or computed by whoever asks, with the rights of whoever asks.
//!
//! One computation at a time for each key: it takes a lock that lasts until the end of its transaction, for nobody can read
//! what it has stored before. Others look again and again, for a limited time, or are served a stale value where the policy
//! tolerates one. They are in no queue of the lock, so that nothing that else is locked makes a deadlock of it. A transaction
//! that has such a lock already waits for none.

use std::cell::Cell;

use perf_core::cache::question::Question;
use perf_core::cache::template::{Filled, Template};
use serde_json::Value;

use super::entries::{self, Key, Origin, Put};
use super::policies::{self, Policy};
use crate::error::Error;
use crate::guc;
use crate::memory::cache_stats::Event;
use crate::pg::compute::{analysed, compute, Analysed, Computed, Meaning};
use crate::pg::jsonb::RawJsonb;
use crate::pg::key_lock::{self, Space};
use crate::pg::{background, parameter_types, raw};

/// Longest pause between two looks at what somebody else computes.
const PAUSE_MS_MAX: i64 = 16;
/// How long a value that has been stored may take to be committed, before it is computed again.
const COMMIT_US: i64 = 250_000;

thread_local! {
    /// When the transaction began that last took a lock.
    static LOCKED_IN: Cell<i64> = const { Cell::new(i64::MIN) };
}

/// The result of a policy.
pub fn cached(name: &str, parameters: &Value) -> Result<RawJsonb, Error> {
    let Some(policy) = &policies::by_name(name)? else { return Err(unknown(name, &policies::read()?)) };
    let (Some(template), Some(sql)) = (&policy.template, policy.compute_sql.as_deref().filter(|sql| !sql.is_empty()))
    else {
        return Err(Error::WrongState {
            message: format!("cache policy \"{name}\" has nothing to compute its values with"),
            hint: "Set compute_sql of its row in perf.cache_policy to a SELECT.".to_owned(),
        });
    };
    let question = Question::parse(sql);
    if let Some(name) = question.parameters.iter().find(|name| !template.placeholders().any(|known| known == *name)) {
        return Err(Error::WrongState {
            message: format!(
                "compute_sql of cache policy \"{}\" has a placeholder {{{name}}} that its key has not",
                policy.name
            ),
            hint: "Two values of it would share one result: add it to key_template.".to_owned(),
        });
    }
    let given = given(parameters, template, &question)?;
    // What depends on the session is neither stored nor taken from what is; the rest is of those only who mean the same.
    let Analysed { meaning, casts } = analysed(&question.sql, question.parameters.len());
    // In a key as the column's type prints it, which is how changes of rows name it.
    let in_key: Vec<(&str, String)> = given
        .iter()
        .map(|(name, value)| {
            let place = question.parameters.iter().position(|known| known == name);
            let cast = place.and_then(|place| casts.get(place).copied().flatten());
            (name.as_str(), cast.map_or_else(|| value.clone(), |cast| parameter_types::printed(value, cast)))
        })
        .collect();
    check_key(&in_key, template)?;
    let filled = template.fill(|name| in_key.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str()));
    let Filled::Key(key) = filled else { return Err(Error::NullArgument { argument: "params" }) };
    let key = Key::of(key)?;
    let mut may_store = None;
    if let Some(meaning) = meaning {
        if let Some(found) = hit(&key, meaning, policy) {
            return Ok(found);
        }
        may_store = entries::check_writable("perf.cached").is_ok().then_some(meaning);
    }
    if let Some(meaning) = may_store {
        if let Some(found) = queue(&key, meaning, policy) {
            return Ok(found);
        }
    }
    entries::count(&policy.name, Event::Get, 1);
    let value = |name: &String| given.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let values: Vec<String> = question.parameters.iter().map(|name| value(name).unwrap_or_default()).collect();
    let what = format!("compute_sql of cache policy \"{}\"", policy.name);
    let Computed { value, snapshot } = compute(&what, &question.sql, &values)?;
    if let Some(meaning) = may_store {
        let computed_with = Some(Origin::Known(snapshot, meaning));
        let put = Put { key, value, ttl_us: None, tags: Vec::new(), computed_with };
        match put.check() {
            Ok(()) => drop(entries::put(put)?),
            // Too large to keep, not to give.
            Err(_) => entries::count(&policy.name, Event::Refused, 1),
        }
    } else {
        entries::count(&policy.name, Event::Refused, 1);
    }
    Ok(value)
}

fn hit(key: &Key, meaning: Meaning, policy: &Policy) -> Option<RawJsonb> {
    let stored = entries::look(key, Some(meaning), false)?;
    entries::note_hit(key, &policy.name);
    Some(stored.value)
}

/// Waits for whoever computes the same; what that one has stored, or a stale value in place of the wait.
fn queue(key: &Key, meaning: Meaning, policy: &Policy) -> Option<RawJsonb> {
    let computation = (key.id ^ meaning.statement) as u64;
    if key_lock::try_take(Space::Compute, computation) {
        note_lock();
        // It may have been stored since we looked.
        return hit(key, meaning, policy);
    }
    let stale = entries::look(key, Some(meaning), policy.max_stale_us > 0)
        .filter(|stored| stored.is_fresh || stored.is_tolerable);
    if let Some(stored) = stale {
        entries::note_hit(key, &policy.name);
        return Some(stored.value);
    }
    if has_lock() {
        return None;
    }
    let mut until = background::now().saturating_add(guc::cache_wait_us());
    let (mut pause_ms, mut is_stored) = (1, false);
    while background::now() < until {
        background::pause(pause_ms);
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
        if let Some(found) = hit(key, meaning, policy) {
            return Some(found);
        }
        if key_lock::try_take(Space::Compute, computation) {
            note_lock();
            return hit(key, meaning, policy);
        }
        // It waits for its commit only: soon, or nobody knows when.
        if !is_stored && entries::is_being_put(key) {
            is_stored = true;
            until = until.min(background::now() + COMMIT_US);
        }
    }
    None
}

fn began_at() -> i64 {
    // SAFETY: inside a transaction; reads when it began.
    unsafe { raw::GetCurrentTransactionStartTimestamp() }
}

fn note_lock() {
    LOCKED_IN.set(began_at());
}

fn has_lock() -> bool {
    LOCKED_IN.get() == began_at()
}

/// The parameters, as text: all that are needed, and no other.
fn given(parameters: &Value, template: &Template, question: &Question) -> Result<Vec<(String, String)>, Error> {
    let refused = |value: String, accepted: String| Error::InvalidArgument { argument: "params", value, accepted };
    let Value::Object(parameters) = parameters else {
        return Err(refused(parameters.to_string(), "A JSON object: {\"name\": value, ...}.".to_owned()));
    };
    let mut needed: Vec<&str> = template.placeholders().collect();
    needed.extend(question.parameters.iter().map(String::as_str));
    needed.sort_unstable();
    needed.dedup();
    let takes = match needed.as_slice() {
        [] => "This policy takes no parameters.".to_owned(),
        names => format!("This policy takes {}.", names.join(", ")),
    };
    if let Some(name) = parameters.keys().find(|name| !needed.contains(&name.as_str())) {
        return Err(refused(format!("unknown parameter \"{name}\""), takes));
    }
    let text = |name: &str| match parameters.get(name) {
        None => Err(refused(format!("no parameter \"{name}\""), takes.clone())),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(other) => {
            Err(refused(format!("parameter \"{name}\" is {other}"), "A text, a number, true or false.".to_owned()))
        }
    };
    needed.iter().map(|name| Ok(((*name).to_owned(), text(name)?))).collect()
}

/// Else two sets of parameters could have one key.
fn check_key(values: &[(&str, String)], template: &Template) -> Result<(), Error> {
    for name in template.placeholders() {
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        if value.is_empty() || value.contains([':', '{', '}']) {
            let accepted =
                "What is part of a key: not empty, without colon and braces, as its type prints it.".to_owned();
            let value = format!("parameter \"{name}\" is \"{value}\"");
            return Err(Error::InvalidArgument { argument: "params", value, accepted });
        }
    }
    Ok(())
}

fn unknown(name: &str, known: &[Policy]) -> Error {
    let names: Vec<&str> = known.iter().map(|policy| policy.name.as_str()).collect();
    let hint = match names.as_slice() {
        [] => "There is no policy in perf.cache_policy.".to_owned(),
        names => format!("There are {}.", names.join(", ")),
    };
    Error::UndefinedObject { message: format!("cache policy \"{name}\" does not exist"), hint }
}

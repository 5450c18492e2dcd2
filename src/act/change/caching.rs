//! Changes that set a cache up: what its name was asked for so far, whether its policy is what was made, and the judgement by
//! `perf_core::change::cache`. Called inside a transaction; reads counters in shared memory.

use perf_core::change::cache::{self, Asked, Promise};
use perf_core::change::Judgement;
use serde_json::{json, Value};

use super::store::Change;
use crate::cache::policies;
use crate::error::Error;
use crate::guc;
use crate::memory::cache_stats::{self, Event};
use crate::pg::names::current_database;

/// The kind of change.
pub const KIND: &str = "cache_policy";
const SECONDS: f64 = 60.0;

fn text<'a>(change: &'a Change, name: &str) -> &'a str {
    change.state.pointer(&format!("/cache/{name}")).and_then(Value::as_str).unwrap_or_default()
}

fn number(change: &Change, name: &str) -> f64 {
    change.state.pointer(&format!("/cache/{name}")).and_then(Value::as_f64).unwrap_or(0.0)
}

/// How the cache of a change is asked, for whoever has to do it.
pub fn call(change: &Change) -> &str {
    text(change, "call")
}

/// Gets and hits since the server was started.
fn counted(name: &str) -> (f64, f64) {
    let counts = cache_stats::read(current_database(), name).unwrap_or_default();
    (counts.of(Event::Get) as f64, counts.of(Event::Hit) as f64)
}

/// What is to be remembered when a cache has been set up.
pub fn state(change: &Change) -> Value {
    let (gets, hits) = counted(text(change, "name"));
    json!({ "asked_before": { "gets": gets, "hits": hits } })
}

/// Judges the cache of a change. `tables`: what is said of the statements on the tables that are watched for it.
pub fn judge(change: &Change, tables: Judgement) -> Judgement {
    let (gets, hits) = counted(text(change, "name"));
    let before =
        |name: &str| change.state.pointer(&format!("/asked_before/{name}")).and_then(Value::as_f64).unwrap_or(0.0);
    // The server counts from zero when it starts.
    let is_same_start = gets >= before("gets") && hits >= before("hits");
    let since = |now: f64, name: &str| if is_same_start { now - before(name) } else { now };
    let asked = Asked {
        gets: since(gets, "gets"),
        hits: since(hits, "hits"),
        minutes: change.applied_s_ago.unwrap_or(0.0) / SECONDS,
    };
    let promise = Promise {
        mean_ms: number(change, "mean_ms"),
        total_ms_per_min: number(change, "total_ms_per_min"),
        predicted_pct: change.predicted_pct,
        min_calls: guc::verify_min_calls(),
        is_late: change.is_late(),
        call: call(change),
    };
    cache::judge(&asked, &promise, tables)
}

/// What somebody has made of the policy since, if it is there and another one.
pub fn edited(change: &Change) -> Result<Option<String>, Error> {
    let is_made = change.state.pointer("/cache/made").and_then(Value::as_bool) == Some(true);
    if change.kind != KIND || !is_made {
        return Ok(None);
    }
    let name = text(change, "name");
    let Some(policy) = policies::by_name(name)? else { return Ok(None) };
    let is_same = policy.compute_sql.as_deref().unwrap_or_default() == text(change, "compute_sql")
        && policy.key_template == text(change, "key_template");
    Ok((!is_same).then(|| format!("compute_sql or key_template of cache policy \"{name}\" is another one now")))
}

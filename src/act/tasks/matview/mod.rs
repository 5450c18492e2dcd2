//! Jobs that refresh a materialized view: after the views it reads, without blocking readers where that is possible, and not
//! at all where nothing has changed.
//!
//! Called by the worker of a run, in a session of the job's owner. Three steps, each with transactions of its own: wait for
//! the views it reads ([`order`]), find out whether anything has changed ([`facts`]), refresh. The last one holds the
//! view's lock (EXCLUSIVE or ACCESS EXCLUSIVE) until it commits, together with the record of the run.

mod facts;
pub mod order;
pub mod schedule;
pub mod view;

use std::ffi::{CStr, CString};
use std::time::Instant;

use perf_core::matview::{decide, Facts};
use pgrx::pg_sys;
use serde_json::{json, Map, Value};

use super::{Outcome, Write};
use crate::act::executor::{self, Failure};
use crate::act::runs::Order;
use crate::memory::watch;
use crate::pg::refresh::{self, Mode};
use crate::pg::text::DbText;
use crate::pg::{background, ident, names, view_sources};

/// The kind of job.
pub const KIND: &str = "matview";
/// Tries to find the lock that the view needs, should what it depends on change while it is waited for.
const LOCK_TRIES: u32 = 3;

/// Runs a job of this kind.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    let view = pg_sys::Oid::from(order.target.unwrap_or_default());
    // Each statement must see what was committed before it, whatever the owner's default is.
    background::set_session(c"default_transaction_isolation", c"read committed");
    let mut detail = Map::new();
    order::wait_for_upstream(order, view, &mut detail)?;
    let wanted = order.options.get("mode").and_then(Value::as_str).unwrap_or("auto");
    let skips = order.options.get("skip_unchanged").and_then(Value::as_bool).unwrap_or(true);
    if skips && executor::transaction(|| skip(view, &mut detail, write))? {
        return Ok(());
    }
    executor::transaction(|| refresh(view, wanted, detail, write))
}

/// Whether nothing has changed since the last refresh; that is recorded then.
fn skip(view: pg_sys::Oid, detail: &mut Map<String, Value>, write: Write) -> Result<bool, Failure> {
    let started = Instant::now();
    let Some(populated) = view_sources::is_populated(view) else { return Err(view::gone(view)) };
    let last = facts::load(view);
    let now = facts::observe(view);
    let reason = decide(populated, last.as_ref(), &now);
    detail.insert("decision_ms".to_owned(), json!(milliseconds(started)));
    match reason {
        None => {
            let reason = "nothing has changed since the last refresh".to_owned();
            write(Outcome::skipped(reason, Value::Object(detail.clone())))?;
            Ok(true)
        }
        Some(reason) => {
            detail.insert("refreshed_because".to_owned(), json!(facts::describe(&reason)));
            Ok(false)
        }
    }
}

fn refresh(view: pg_sys::Oid, wanted: &str, mut detail: Map<String, Value>, write: Write) -> Result<(), Failure> {
    view::check_privilege(view)?;
    let (mode, why_not, lock_wait_ms) = lock(view, wanted)?;
    // Under the lock nobody renames the view.
    let Some(name) = ident::relation(view) else { return Err(view::gone(view)) };
    let before = before_refresh(view);
    let writes = facts::writes(&before);
    let statement = statement(&name, mode)?;
    background::report_statement(Some(statement));
    let started = Instant::now();
    let rows = refresh::run(statement);
    let duration_ms = milliseconds(started);
    background::report_statement(None);
    let known = after_refresh(view, before);
    let mode = if mode == Mode::Concurrent { "concurrent" } else { "plain" };
    facts::store(view, &known, mode, duration_ms, rows, writes);
    detail.insert("mode".to_owned(), json!(mode));
    detail.insert("why_not_concurrent".to_owned(), json!(why_not));
    detail.insert("duration_ms".to_owned(), json!(duration_ms));
    detail.insert("rows".to_owned(), json!(rows));
    detail.insert("cannot_be_skipped".to_owned(), json!(known.obstacle));
    detail.retain(|_, value| !value.is_null());
    write(Outcome { skipped: None, lock_wait_ms: Some(lock_wait_ms), detail: Value::Object(detail) })
}

/// Takes the lock for the mode that is wanted and possible: the mode, why it is not the concurrent one, and how long it
/// took. What decides on the mode may change while the lock is waited for, and no more after that.
fn lock(view: pg_sys::Oid, wanted: &str) -> Result<(Mode, Option<String>, f64), Failure> {
    let mut waited_ms = 0.0;
    for _ in 0..LOCK_TRIES {
        let (mode, why_not) = view::mode(view, wanted)?;
        let started = Instant::now();
        refresh::lock(view, mode);
        waited_ms += milliseconds(started);
        if view_sources::is_populated(view).is_none() {
            return Err(view::gone(view));
        }
        if view::mode(view, wanted)?.0 == mode {
            return Ok((mode, why_not, waited_ms));
        }
        refresh::unlock(view, mode);
    }
    Err(Failure::new("55006", "the view's indexes change faster than its lock can be had"))
}

/// What is known of the view before the snapshot of its refresh is taken.
fn before_refresh(view: pg_sys::Oid) -> Facts {
    let mut facts = facts::observe(view);
    let database = names::current_database();
    // A transaction that has counted its change and not committed yet would be missed: see `memory::watch`.
    let writing = facts.sources.iter().find(|source| watch::is_being_written(database, source.oid));
    if let (Some(source), None) = (writing, &facts.obstacle) {
        let name = ident::relation(pg_sys::Oid::from(source.oid)).unwrap_or_default();
        facts.obstacle = Some(format!("{name} was being written during the last refresh"));
    }
    facts
}

/// What is known of the view once it is refreshed. What it reads must have been the same all the time.
fn after_refresh(view: pg_sys::Oid, before: Facts) -> Facts {
    let after = facts::structure(view);
    let mut known = before;
    // This transaction's own change of the view is counted when it commits; nobody else's can be until then.
    known.own_changes += 1;
    if known.obstacle.is_none() {
        known.obstacle = after.obstacle.clone();
    }
    if known.obstacle.is_none() && !known.same_structure(&after) {
        known.obstacle = Some("what it reads was defined anew during the last refresh".to_owned());
    }
    known
}

/// The statement. The server looks at it until the process ends, which is soon: the process runs one job.
fn statement(name: &str, mode: Mode) -> Result<&'static CStr, Failure> {
    let concurrently = if mode == Mode::Concurrent { "CONCURRENTLY " } else { "" };
    let text = format!("REFRESH MATERIALIZED VIEW {concurrently}{name}");
    let text = CString::new(DbText::from_utf8(&text).as_bytes())
        .map_err(|_| Failure::new("22021", "the view's name has a zero byte"))?;
    Ok(Box::leak(text.into_boxed_c_str()))
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

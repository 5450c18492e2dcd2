//! Carries a change out, or takes it back: the worker's part of perf.apply() and perf.undo(). Works at top level as the role
//! that asked; each statement has its own transaction, so that concurrent builds can run. What fails in the middle is put
//! back as far as it got: no index is left that cannot be used. Locks what the statements lock.

use std::collections::HashSet;
use std::ffi::CString;

use perf_core::index::maintenance::is_named_after;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::{note, partition, partitioned_index, setting, Outcome, Write};
use crate::act::change::audit::{self, Entry};
use crate::act::change::index_state::{self, IndexState};
use crate::act::change::store::{self, Change};
use crate::act::change::{caching, room, undo, view, watched, window};
use crate::act::executor::{self, Failure, Piece};
use crate::act::runs::Order;
use crate::act::tasks::partition::convert::record::Conversion;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::indexes;
use crate::pg::text::Text;
use crate::pg::{background, buffers, catalog, ident, privilege};

const DUPLICATE: &str = "42P07";
const UNDEFINED: &str = "42704";
/// How long is waited for a lock: while nobody has to wait for that, and else.
const GENTLE_LOCK_TIMEOUT: &std::ffi::CStr = c"1min";
const LOCK_TIMEOUT: &std::ffi::CStr = c"2s";
/// What came to nothing does not hold up others for long: what cannot be dropped at once is dropped later.
const CLEAN_UP_LOCK_TIMEOUT: &std::ffi::CStr = c"1s";

/// Whether another try may help.
pub fn may_retry(failure: &Failure) -> bool {
    failure.is_of_a_lock()
}

/// Does what the change of this run is about.
pub fn run(order: &Order, write: Write) -> Result<(), Failure> {
    let cleaned = drop_left()?;
    let Some(change) = executor::transaction(|| Ok(store::of_run(order.run_id)?))? else {
        let outcome = match cleaned {
            0 => Outcome::skipped("no change waits for this run: perf.apply() queues its own".to_owned(), json!({})),
            cleaned => Outcome { detail: json!({ "cleaned": cleaned }), ..Outcome::plain() },
        };
        return executor::transaction(|| write(outcome));
    };
    let started = background::now();
    // Names are looked up as for whoever asked.
    let path = change.state.get("search_path").and_then(Value::as_str).unwrap_or_default();
    background::set_session(c"search_path", &CString::new(path).unwrap_or_default());
    if change.status == "undoing" {
        return take_back(order, &change, || {
            let ms = elapsed_ms(started);
            store::undone(change.change_id, "taken back")?;
            record(&change, "undone", change.undo_ddl.as_deref(), json!({ "ms": ms }))?;
            write(outcome(&change, "undo", ms))
        });
    }
    if change.by_autopilot && order.attempt == 1 && !executor::transaction(|| Ok(window::is_open()?))? {
        return Err(Failure::new("55000", store::WINDOW_CLOSED));
    }
    executor::transaction(|| Ok(store::begin(change.change_id)?))?;
    match change.kind.as_str() {
        "matview" => return make_view(&change, started, write),
        caching::KIND => return set_up_cache(&change, started, write),
        "partitioning" => {
            return convert(order, &change, false, &mut |lines| {
                done(&change, &json!({ "conversion": lines }), None, started, write)
            })
        }
        _ => {}
    }
    let (state, message) = match change.kind.as_str() {
        "index_create" => create(order, &change, &change.ddl, "made")?,
        "index_drop" => drop_one(order, &change)?,
        "index_reindex" => rebuild(&change)?,
        "setting" => setting::carry_out(&change)?,
        kind => return Err(Failure::new("0A000", format!("changes of kind {kind} are not carried out by a run"))),
    };
    executor::transaction(|| done(&change, &state, message.as_deref(), started, write))
}

/// Writes down that a change is made, in the transaction of the last of it.
fn done(change: &Change, state: &Value, message: Option<&str>, started: i64, write: Write) -> Result<(), Failure> {
    let ms = elapsed_ms(started);
    store::applied(change.change_id, state, message)?;
    watched::mark(change.change_id)?;
    record(change, "applied", Some(&change.ddl), json!({ "ms": ms, "state": state }))?;
    write(outcome(change, "apply", ms))
}

/// Makes a materialized view and the job that refreshes it, in one transaction.
fn make_view(change: &Change, started: i64, write: Write) -> Result<(), Failure> {
    let field = |name: &str| change.state.get(name).and_then(Value::as_str).unwrap_or_default();
    let (schema, name) = (field("schema"), field("name"));
    executor::script(&change.ddl, || {
        let definition = view::definition(schema, name)?.unwrap_or_default();
        let state = json!({ "view": { "schema": schema, "name": name, "definition": definition } });
        done(change, &state, None, started, write)
    })
}

/// Makes the policy of a cache and watches its tables, in one transaction.
fn set_up_cache(change: &Change, started: i64, write: Write) -> Result<(), Failure> {
    executor::script(&change.ddl, || {
        let message = format!("applications ask it by {}", caching::call(change));
        done(change, &caching::state(change), Some(&message), started, write)
    })
}

/// Converts a table, or goes back. `finish` writes that down, in the transaction of the last of it.
fn convert(
    order: &Order,
    change: &Change,
    is_undo: bool,
    finish: &mut dyn FnMut(Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut options = change.state.get("options").cloned().unwrap_or_default();
    if let Some(options) = options.as_object_mut() {
        options.insert("undo".to_owned(), Value::Bool(is_undo));
    }
    let order = Order { target: Some(change.target.to_u32()), options, ..order.clone() };
    partition::convert::run(&order, &mut |outcome| finish(outcome.detail))
}

fn elapsed_ms(started: i64) -> i64 {
    (background::now() - started) / 1_000
}

fn outcome(change: &Change, step: &str, ms: i64) -> Outcome {
    let detail = json!({ "change_id": change.change_id, "step": step, "kind": change.kind, "relation": change.relation, "ms": ms });
    Outcome { detail, ..Outcome::plain() }
}

fn record(change: &Change, action: &'static str, sql: Option<&str>, detail: Value) -> Result<(), Error> {
    let entry = Entry { action, sql, outcome: "ok", sqlstate: None, detail };
    audit::note(change, privilege::current_role(), &entry)
}

fn state_of(piece: &Piece) -> Result<Option<IndexState>, Error> {
    match &piece.creates {
        Some((schema, name)) => index_state::read(schema, name),
        None => Ok(None),
    }
}

/// Runs the statements that make one or more indexes. What it gives is to be kept of them under `list`.
fn create(order: &Order, change: &Change, ddl: &str, list: &str) -> Result<(Value, Option<String>), Failure> {
    let pieces = executor::transaction(|| Ok(executor::pieces(ddl)))?;
    if order.attempt == 1 {
        executor::transaction(|| {
            for piece in &pieces {
                let taken = match &piece.creates {
                    Some((schema, name)) => relation_named(schema, name)?.then(|| ident::qualified(schema, name)),
                    None => None,
                };
                if let Some(name) = taken {
                    return Err(Failure::new(DUPLICATE, format!("there is a relation {name} already")));
                }
            }
            Ok(())
        })?;
    } else {
        let own = change.oids();
        if executor::transaction(|| is_complete(&pieces, &own))? {
            // The try before this one was lost after its work.
            return Ok((kept(&pieces, list)?, None));
        }
        clean_up(&pieces, change, &Left::Made(own)).or_else(|failure| Err(leave(change, failure)?))?;
    }
    let mut own = Vec::new();
    executor::transaction(|| Ok(store::set_oids(change.change_id, &own)?))?;
    executor::transaction(|| Ok(room::require(change.size_bytes.unwrap_or(0))?))?;
    match build(order, change, &pieces, &mut own) {
        Ok(more) => Ok((kept(&[pieces, more].concat(), list)?, None)),
        Err(failure) => {
            // Whoever has cancelled the build wants no half of it.
            background::set_deadline(None);
            background::drop_cancel();
            background::set_session(c"lock_timeout", CLEAN_UP_LOCK_TIMEOUT);
            Err(match clean_up(&pieces, change, &Left::Made(own)) {
                Ok(()) => failure,
                Err(_) => leave(change, failure)?,
            })
        }
    }
}

/// Runs the statements one by one. What was made beyond them: the parts in partitions that have come since.
fn build(order: &Order, change: &Change, pieces: &[Piece], own: &mut Vec<u32>) -> Result<Vec<Piece>, Failure> {
    for (at, piece) in pieces.iter().enumerate() {
        executor::transaction(|| note(order, &json!({ "step": at + 1, "steps": pieces.len(), "sql": piece.sql })))?;
        run_patiently(&piece.sql, piece.is_gentle)?;
        note_made(change, piece, own)?;
    }
    let made = pieces.iter().filter_map(|piece| piece.creates.as_ref());
    let whole = partitioned_index::whole_of(change, made.map(|(schema, name)| (schema.as_str(), name.as_str())))?;
    let Some(whole) = whole.filter(|whole| !whole.valid) else { return Ok(Vec::new()) };
    let mut more = Vec::new();
    for creates in partitioned_index::complete(change, &whole)? {
        let piece = Piece { sql: String::new(), creates: Some(creates), is_gentle: false };
        note_made(change, &piece, own)?;
        more.push(piece);
    }
    Ok(more)
}

/// What bears the name from now on is this change's as long as it is this very index.
fn note_made(change: &Change, piece: &Piece, own: &mut Vec<u32>) -> Result<(), Failure> {
    executor::transaction(|| {
        own.extend(state_of(piece)?.map(|found| found.oid.to_u32()));
        Ok(store::set_oids(change.change_id, own)?)
    })
}

/// Notes that something is left of a change that came to nothing: it is dropped as soon as nobody is in the way.
fn leave(change: &Change, failure: Failure) -> Result<Failure, Failure> {
    background::drop_cancel();
    executor::transaction(|| Ok(store::set_left(change.change_id, true)?))?;
    let message = format!("{}; what was made so far is dropped when no transaction is in the way", failure.message);
    Ok(Failure { message, ..failure })
}

/// Drops what earlier changes of the current role have left, as far as nobody is in the way: of how many.
fn drop_left() -> Result<usize, Failure> {
    let changes = executor::transaction(|| Ok(store::with_left(privilege::current_role())?))?;
    let mut cleaned = 0;
    for change in &changes {
        // Of a change that failed its own statements, of one that is still there those that were to take it back.
        let text = if change.status == "failed" { Some(&change.ddl) } else { change.undo_ddl.as_ref() };
        let pieces = executor::transaction(|| Ok(text.map_or_else(Vec::new, |text| executor::pieces(text))))?;
        match clean_up(&pieces, change, &Left::Unusable) {
            Ok(()) => {
                executor::transaction(|| Ok(store::set_left(change.change_id, false)?))?;
                cleaned += 1;
            }
            Err(failure) if failure.is_of_a_lock() => {}
            // It keeps no other change waiting.
            Err(failure) => {
                pgrx::log!("perf_opt: what change {} has left cannot be dropped: {}", change.change_id, failure.message)
            }
        }
    }
    Ok(cleaned)
}

/// How long what follows waits for a lock: while nobody has to wait for that, and else.
pub fn wait_for_locks(is_gentle: bool) {
    background::set_session(c"lock_timeout", if is_gentle { GENTLE_LOCK_TIMEOUT } else { LOCK_TIMEOUT });
}

/// Runs one statement; one that makes others wait while it waits does not wait for long.
pub fn run_patiently(sql: &str, is_gentle: bool) -> Result<(), Failure> {
    wait_for_locks(is_gentle);
    executor::statement(sql)
}

fn relation_named(schema: &str, name: &str) -> Result<bool, Error> {
    let found = catalog::rows(
        "SELECT true FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.name AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[Text(schema.to_owned()).into(), Text(name.to_owned()).into()],
        |row| row.get::<bool>(1),
    )
    .map_err(spi_failed)?;
    Ok(!found.is_empty())
}

/// Whether all that is to be made is there and can be used. What somebody else has made under one of the names is in the way.
fn is_complete(pieces: &[Piece], own: &[u32]) -> Result<bool, Failure> {
    let mut complete = true;
    for piece in pieces {
        let Some((schema, name)) = &piece.creates else { continue };
        match state_of(piece)? {
            Some(found) if found.valid && !own.contains(&found.oid.to_u32()) => {
                let name = ident::qualified(schema, name);
                return Err(Failure::new(DUPLICATE, format!("somebody has made {name} meanwhile")));
            }
            found => complete &= found.is_some_and(|found| found.valid),
        }
    }
    Ok(complete)
}

/// What there is to remember of what was made.
fn kept(pieces: &[Piece], list: &str) -> Result<Value, Failure> {
    executor::transaction(|| {
        let mut made = Vec::new();
        for piece in pieces {
            let (Some((schema, name)), Some(found)) = (&piece.creates, state_of(piece)?) else { continue };
            // What is part of another goes with that, and with its partition.
            made.push(
                json!({ "schema": schema, "name": name, "definition": found.definition, "part": found.attached }),
            );
        }
        Ok(json!({ list: made }))
    })
}

/// What of it is dropped.
enum Left {
    /// What was made, by OID, and what an interrupted build has left.
    Made(Vec<u32>),
    /// What cannot be used: another one may have come since.
    Unusable,
}

/// Drops what was made of several indexes, as far as it is there. With an index of a partitioned table goes what was attached
/// to it, and what of that was there before is made again. An index that somebody else has made under the name stays, and so
/// does one that somebody may be building.
fn clean_up(pieces: &[Piece], change: &Change, left: &Left) -> Result<(), Failure> {
    let state = |piece: &Piece| {
        executor::transaction(|| {
            let Some(found) = state_of(piece)? else { return Ok(None) };
            let is_own = matches!(left, Left::Made(own) if own.contains(&found.oid.to_u32()));
            let is_left = !found.valid && !indexes::being_changed().map_err(spi_failed)?.contains(&found.relation);
            Ok((is_own || is_left).then_some(found))
        })
    };
    for piece in pieces.iter().rev() {
        let Some((schema, name)) = &piece.creates else { continue };
        let Some(found) = state(piece)? else { continue };
        if !found.attached && !found.partitioned {
            executor::statement(&format!("DROP INDEX CONCURRENTLY {}", ident::qualified(schema, name)))?;
        }
    }
    for piece in pieces {
        if let Some(whole) = state(piece)?.filter(|found| partitioned_index::is_whole(change, found)) {
            return partitioned_index::take_away(change, &whole, &own_of(change, left), || Ok(()));
        }
    }
    Ok(())
}

/// OIDs of what a change has made.
fn own_of(change: &Change, left: &Left) -> HashSet<u32> {
    match left {
        Left::Made(own) => own.iter().copied().collect(),
        Left::Unusable => change.oids().into_iter().collect(),
    }
}

/// Drops an index. A drop that is interrupted leaves an index that nobody can use any more: it is brought to its end.
fn drop_index(sql: &str, schema: &str, name: &str) -> Result<(), Failure> {
    let state = || executor::transaction(|| Ok(index_state::read(schema, name)?));
    let Err(failure) = executor::statement(sql) else { return Ok(()) };
    match state()? {
        None => Ok(()),
        Some(found) if found.valid => Err(failure),
        Some(_) => {
            background::set_deadline(None);
            background::drop_cancel();
            executor::statement(sql).map_err(|again| Failure {
                message: format!("{}; the index cannot be used any more: {sql} brings that to its end", again.message),
                ..again
            })
        }
    }
}

/// Drops the index that the change is about, if it is what it was when the change was asked for.
fn drop_one(order: &Order, change: &Change) -> Result<(Value, Option<String>), Failure> {
    for (schema, name, definition) in undo::indexes(change, "wanted") {
        let quoted = ident::qualified(schema, name);
        match executor::transaction(|| Ok(index_state::read(schema, name)?))? {
            None if order.attempt == 1 => {
                return Err(Failure::new(UNDEFINED, format!("somebody has dropped index {quoted} meanwhile")));
            }
            // The try before this one was lost after its work.
            None => {}
            Some(found) if found.definition != definition => {
                return Err(Failure::new("55000", format!("index {quoted} is \"{}\" now", found.definition)));
            }
            Some(_) => drop_index(&change.ddl, schema, name)?,
        }
    }
    Ok((json!({ "dropped": change.state.get("wanted") }), None))
}

fn bytes_of(schema: &str, name: &str) -> Result<Option<f64>, Failure> {
    executor::transaction(|| {
        let found = index_state::read(schema, name)?;
        let blocks = found.and_then(|found| buffers::blocks(found.oid).ok());
        Ok(blocks.map(|blocks| f64::from(blocks) * f64::from(pg_sys::BLCKSZ)))
    })
}

/// Rebuilds the index that the change is about.
fn rebuild(change: &Change) -> Result<(Value, Option<String>), Failure> {
    let Some((schema, name, _)) = undo::indexes(change, "wanted").into_iter().next() else {
        return Err(Failure::new("55000", "the index of the change is not known"));
    };
    let before = bytes_of(schema, name)?;
    executor::transaction(|| Ok(room::require(before.unwrap_or(0.0) as i64)?))?;
    if let Err(failure) = executor::statement(&change.ddl) {
        background::set_deadline(None);
        background::drop_cancel();
        drop_leftovers(change, schema, name)?;
        return Err(failure);
    }
    let after = bytes_of(schema, name)?;
    let message = before.zip(after).map(|(before, after)| format!("{before:.0} bytes have become {after:.0}"));
    Ok((json!({ "bytes_before": before, "bytes_after": after }), message))
}

/// Drops what a rebuild has left that failed.
fn drop_leftovers(change: &Change, schema: &str, name: &str) -> Result<(), Failure> {
    let invalid = executor::transaction(|| {
        let found = catalog::rows(
            "SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
              WHERE i.indrelid OPERATOR(pg_catalog.=) $1 AND NOT i.indisvalid",
            &[change.target.into()],
            |row| Ok(row.get::<Text>(1)?.map(|name| name.0)),
        );
        Ok(found.map_err(spi_failed)?)
    })?;
    for left in invalid.iter().filter(|left| is_named_after(left, name)) {
        executor::statement(&format!("DROP INDEX CONCURRENTLY {}", ident::qualified(schema, left)))?;
    }
    Ok(())
}

/// Takes a change back; `finish` writes that down, in the transaction of the last of it where that is possible.
fn take_back(order: &Order, change: &Change, finish: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    let undo_ddl = change.undo_ddl.as_deref().unwrap_or_default();
    // What an earlier try has dropped is gone.
    let is_first = order.attempt == 1;
    executor::transaction(|| {
        Ok(if is_first { undo::require_unchanged(change) } else { undo::require_not_replaced(change) }?)
    })?;
    match change.kind.as_str() {
        "index_create" => {
            let made = undo::indexes(change, "made").into_iter().map(|(schema, name, _)| (schema, name));
            let whole = partitioned_index::whole_of(change, made)?;
            drop_made(change, undo_ddl)?;
            if let Some(whole) = whole {
                let own = change.oids().into_iter().collect();
                return partitioned_index::take_away(change, &whole, &own, finish);
            }
        }
        "index_drop" => create(order, change, undo_ddl, "made").map(|_| ())?,
        "setting" => setting::take_back(change)?,
        "matview" | caching::KIND => return executor::script(undo_ddl, finish),
        // The try before this one may have been lost after its work.
        "partitioning" if !is_first && !executor::transaction(|| Ok(Conversion::find(change.target)?.is_some()))? => {}
        "partitioning" => {
            let mut finish = Some(finish);
            return convert(order, change, true, &mut |_| finish.take().map_or(Ok(()), |finish| finish()));
        }
        kind => return Err(Failure::new("0A000", format!("changes of kind {kind} are not taken back by a run"))),
    }
    executor::transaction(finish)
}

/// Drops what was made and is not part of another index: the one index of a plain table, and what belonged to partitions that
/// are none any more.
fn drop_made(change: &Change, undo_ddl: &str) -> Result<(), Failure> {
    let own = change.oids();
    let made = undo::indexes(change, "made");
    let is_alone = made.len() == 1;
    for (schema, name, _) in &made {
        let found = executor::transaction(|| Ok(index_state::read(schema, name)?))?;
        let is_left = |found: &IndexState| !found.attached && own.contains(&found.oid.to_u32());
        if found.is_some_and(|found| !found.partitioned && (is_alone || is_left(&found))) {
            let sql = format!("DROP INDEX CONCURRENTLY {}", ident::qualified(schema, name));
            drop_index(if is_alone { undo_ddl } else { &sql }, schema, name)?;
        }
    }
    Ok(())
}

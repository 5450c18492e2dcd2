//! What a materialized view's content depends on, and whether it has changed since its last refresh; the record of that in
//! perf.matview_state.
//!
//! Why a skip is right. Let S be the snapshot of the last refresh. Before S was taken the structure was read, then the
//! counters of all tables, then the structure again, then it was made sure that nobody held a lock to write one of the
//! tables; after the refresh the structure was read once more. It was equal each time, so the tables counted are those
//! that the refresh has read: what joins them later is not in the first two readings, and what leaves them is locked by
//! the refresh, or counts a change. Now take any transaction that has changed one of them, and that a reader of today
//! sees and S did not. It was counted before it became visible, so its change is in the counters of today; and it was not
//! in the old ones, or its lock would have been seen, since it is held from the counting until after the change is
//! visible. So equal counters mean that there is no such transaction. A different life of shared memory, a different
//! structure (catalog rows by writer and place, so a change there and back counts), an unknown kind of expression, a
//! function that is not immutable, a relation without counters, a policy: each means a refresh. Lastly the view's own
//! counter tells that nobody else has written to it, as a refresh under an old snapshot would.
//!
//! Called by the task, inside a transaction. Locks nothing for longer than a call, but the row of its record.

use perf_core::matview::{Facts, Object, Reason, Source};
use pgrx::pg_sys;
use serde_json::{json, Value};

use crate::act::runs::{rows, run};
use crate::memory::watch;
use crate::pg::query::text;
use crate::pg::text::{Document, Text};
use crate::pg::{ident, names, privilege, view_sources};

const STATE: &std::ffi::CStr = c"matview_state";

/// Definition and tables, without counters.
pub fn structure(view: pg_sys::Oid) -> Facts {
    let found = view_sources::find(view);
    Facts {
        objects: found.objects.into_iter().map(|(name, version)| Object { name, version }).collect(),
        sources: (found.sources.into_iter()).map(|(oid, version)| Source { oid, version, changes: 0 }).collect(),
        obstacle: found.obstacle,
        ..Facts::default()
    }
}

/// Everything there is to know now. The tables are the same before and after their counters are read, or it says so.
pub fn observe(view: pg_sys::Oid) -> Facts {
    let mut facts = structure(view);
    facts.boot = watch::boot().unwrap_or_default();
    facts.database = names::current_database();
    let mut relations = vec![view.to_u32()];
    relations.extend(facts.sources.iter().map(|source| source.oid));
    let obstacle = match watch::changes(facts.database, &relations) {
        Some(counted) => {
            let (own, others) = counted.split_first().map_or((0, &[][..]), |(own, others)| (*own, others));
            facts.own_changes = own;
            for (source, changes) in facts.sources.iter_mut().zip(others) {
                source.changes = *changes;
            }
            let again = structure(view);
            (!facts.same_structure(&again)).then(|| "what it reads is being defined anew".to_owned())
        }
        None => Some("too many tables are watched".to_owned()),
    };
    facts.obstacle = facts.obstacle.or(obstacle);
    facts
}

/// Rows written to the view's tables so far, as the statistics have it: for people, not for decisions.
pub fn writes(facts: &Facts) -> i64 {
    let sources = source_oids(facts);
    let counted = as_owner(|| rows(c"SELECT perf._writes_to($1)", &[sources.into()], |row| row.get::<i64>(1)));
    counted.into_iter().flatten().flatten().next().unwrap_or(0)
}

fn source_oids(facts: &Facts) -> Vec<pg_sys::Oid> {
    facts.sources.iter().map(|source| pg_sys::Oid::from(source.oid)).collect()
}

/// With the rights of the tables' owner; `None` when they are gone.
fn as_owner<T>(body: impl FnOnce() -> T) -> Option<T> {
    privilege::as_owner_of(STATE, || privilege::writable(body))
}

/// What was known at the last refresh.
pub fn load(view: pg_sys::Oid) -> Option<Facts> {
    let found = as_owner(|| {
        rows(c"SELECT facts FROM perf.matview_state WHERE view = $1", &[view.into()], |row| row.get::<Document>(1))
    });
    found.into_iter().flatten().flatten().next().and_then(|facts| from_json(&facts.0))
}

/// Writes down a refresh, with what is known from now on.
pub fn store(view: pg_sys::Oid, facts: &Facts, mode: &str, duration_ms: f64, row_count: u64, writes: i64) {
    as_owner(|| {
        run(
            c"INSERT INTO perf.matview_state (view, refreshed_at, mode, duration_ms, rows, sources, writes, obstacle, facts)
             VALUES ($1, pg_catalog.clock_timestamp(), $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (view) DO UPDATE
             SET refreshed_at = excluded.refreshed_at, mode = excluded.mode, duration_ms = excluded.duration_ms,
                 rows = excluded.rows, sources = excluded.sources, writes = excluded.writes,
                 obstacle = excluded.obstacle, facts = excluded.facts",
            &[
                view.into(),
                text(mode),
                duration_ms.into(),
                i64::try_from(row_count).unwrap_or(i64::MAX).into(),
                source_oids(facts).into(),
                writes.into(),
                facts.obstacle.clone().map(Text).into(),
                Document(to_json(facts)).into(),
            ],
        )
    });
}

fn to_json(facts: &Facts) -> Value {
    let sources = facts.sources.iter().map(|source| json!([source.oid, source.version, source.changes]));
    json!({
        "boot": facts.boot.to_string(),
        "database": facts.database,
        "own_changes": facts.own_changes,
        "objects": facts.objects.iter().map(|object| json!([object.name, object.version])).collect::<Vec<_>>(),
        "sources": sources.collect::<Vec<_>>(),
        "obstacle": facts.obstacle,
    })
}

/// The reverse; `None` for what was not written by [`to_json`], which means a refresh.
fn from_json(value: &Value) -> Option<Facts> {
    let objects = value.get("objects")?.as_array()?.iter().map(|object| {
        Some(Object { name: object.get(0)?.as_str()?.to_owned(), version: object.get(1)?.as_str()?.to_owned() })
    });
    let sources = value.get("sources")?.as_array()?.iter().map(|source| {
        Some(Source {
            oid: u32::try_from(source.get(0)?.as_u64()?).ok()?,
            version: source.get(1)?.as_str()?.to_owned(),
            changes: source.get(2)?.as_u64()?,
        })
    });
    Some(Facts {
        boot: value.get("boot")?.as_str()?.parse().ok()?,
        database: u32::try_from(value.get("database")?.as_u64()?).ok()?,
        own_changes: value.get("own_changes")?.as_u64()?,
        objects: objects.collect::<Option<_>>()?,
        sources: sources.collect::<Option<_>>()?,
        obstacle: value.get("obstacle")?.as_str().map(str::to_owned),
    })
}

/// Why a view is refreshed, in words.
pub fn describe(reason: &Reason) -> String {
    match reason {
        Reason::NotPopulated => "it is not populated".to_owned(),
        Reason::NeverRefreshed => "no refresh by a job is on record".to_owned(),
        Reason::Unknowable(obstacle) => format!("changes cannot be told: {obstacle}"),
        Reason::WasUnknowable(obstacle) => format!("changes since the last refresh cannot be told: {obstacle}"),
        Reason::Restarted => "changes are counted anew since the server started".to_owned(),
        Reason::Redefined => "it, or what it reads, was defined anew".to_owned(),
        Reason::Overwritten => "it was refreshed or changed by somebody else".to_owned(),
        Reason::Changed(tables) => {
            const NAMED: usize = 5;
            let name = |oid: &u32| ident::relation(pg_sys::Oid::from(*oid)).unwrap_or_else(|| oid.to_string());
            let names: Vec<String> = tables.iter().take(NAMED).map(name).collect();
            let others = tables.len().saturating_sub(NAMED);
            let more = if others > 0 { format!(" and {others} more") } else { String::new() };
            format!("changed: {}{more}", names.join(", "))
        }
    }
}

//! Indexes that others have made since the last look. What is no index of a plain table for queries alone, what came with its
//! table, many at once, and what perf_opt makes itself, is remembered and no more. Called by `look`. Reads catalogs; the
//! texts of statements only when there is such an index.

use perf_core::change::Part;
use perf_core::guard::INDEXES_MAX;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::memory::{Look, TABLE};
use super::{has_room, note_put_back, note_seen, was_taken_back};
use crate::act::change::index_state;
use crate::act::change::observed::{self, is_observed, Before};
use crate::act::change::store::{self, Change};
use crate::act::runs::{rows, run, timestamp};
use crate::advise::apply;
use crate::collect::worker::News;
use crate::error::Error;
use crate::pg::query::text;
use crate::pg::{ident, privilege};

const KIND: &str = "index_create";

/// An index that was not remembered, or not as one that can be used.
struct Found {
    oid: pg_sys::Oid,
    relation: pg_sys::Oid,
    alike: String,
    absent_at: Option<i64>,
    is_valid: bool,
    is_candidate: bool,
}

/// Looks for new indexes, and remembers them.
pub fn look(last: Option<&Look>, news: &mut News) -> Result<(), Error> {
    let found = unknown(last)?;
    let Some(last) = last else {
        return found.iter().try_for_each(|one| remember(one, 0, true));
    };
    let (candidates, others): (Vec<Found>, Vec<Found>) =
        found.into_iter().partition(|one| one.is_valid && one.is_candidate);
    for one in &others {
        remember(one, one.absent_at.unwrap_or(last.looked_at), one.is_valid)?;
    }
    if candidates.len() > INDEXES_MAX {
        news.lines
            .push(format!("perf_opt guard: {} indexes are new at once: none of them is judged", candidates.len()));
        candidates.iter().try_for_each(|one| remember(one, last.looked_at, true))?;
    } else if !candidates.is_empty() {
        let changes = store::latest_of(KIND)?;
        for one in &candidates {
            let until = one.absent_at.unwrap_or(last.looked_at);
            let is_known = insert(one, until, &changes, news)?;
            remember(one, until, is_known)?;
        }
    }
    forget_gone()
}

/// The indexes of user tables that there is still something to be said of.
fn unknown(last: Option<&Look>) -> Result<Vec<Found>, Error> {
    let next_xid = last.map_or(0, |last| last.next_xid);
    privilege::as_owner(TABLE, || {
        Ok(rows(
            c"WITH found AS (
                 SELECT i.indexrelid, i.indrelid, i.indisvalid AND i.indislive AND i.indisready AS is_valid, k.absent_at,
                        i.indisunique OR i.indisexclusion OR i.indisclustered OR i.indisreplident
                        OR t.relkind <> 'r' OR t.relispartition AS is_other,
                        pg_catalog.md5(pg_catalog.concat_ws('|', x.relam, i.indnkeyatts, i.indkey, i.indclass, i.indcollation,
                                                            i.indoption, i.indexprs, i.indpred)) AS alike
                   FROM pg_catalog.pg_index i
                   JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
                   JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
                   JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
                   LEFT JOIN perf.guard_index k ON k.indexrelid = i.indexrelid
                  WHERE i.indexrelid >= 16384::oid AND k.is_known IS NOT TRUE AND t.relkind IN ('r', 'p')
                    AND t.relpersistence <> 't' AND n.nspname NOT IN ('perf', 'pg_catalog', 'information_schema'))
              SELECT f.indexrelid, f.indrelid, f.is_valid, f.absent_at, f.alike,
                     NOT f.is_other
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = f.indexrelid)
                     -- Another one that is alike was rebuilt, renamed, or made anew.
                     AND NOT EXISTS (SELECT FROM perf.guard_index k
                                      WHERE k.indrelid = f.indrelid AND k.alike = f.alike AND k.is_known
                                        AND k.indexrelid <> f.indexrelid)
                     -- Its table was made since the last look: the row of its first column is older than everything later.
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
                                      WHERE a.attrelid = f.indrelid AND a.attnum = -1
                                        AND pg_catalog.age(a.xmin)
                                            <= pg_catalog.age(pg_catalog.mod($1, 4294967296)::text::xid))
                     -- perf_opt makes it, or has made it.
                     AND NOT EXISTS (SELECT FROM perf.change c
                                      WHERE c.target = f.indrelid AND c.kind LIKE 'index%' AND NOT c.state ? 'observed'
                                        AND (c.status IN ('queued', 'applying', 'undoing')
                                             OR GREATEST(c.applied_at, c.undone_at) >= COALESCE(f.absent_at, $2)))
                FROM found f",
            &[next_xid.into(), timestamp(last.map_or(0, |last| last.looked_at)).into()],
            |row| Found {
                oid: row.get(1).unwrap_or(pg_sys::InvalidOid),
                relation: row.get(2).unwrap_or(pg_sys::InvalidOid),
                is_valid: row.get(3).unwrap_or(false),
                absent_at: row.get::<TimestampWithTimeZone>(4).map(i64::from),
                alike: row.string(5),
                is_candidate: row.get(6).unwrap_or(false),
            },
        ))
    })
}

fn remember(one: &Found, absent_at: i64, is_known: bool) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        run(
            c"INSERT INTO perf.guard_index (indexrelid, indrelid, alike, absent_at, is_known) VALUES ($1, $2, $3, $4, $5)
              ON CONFLICT (indexrelid) DO UPDATE SET is_known = $5 WHERE guard_index.is_known <> $5",
            &[
                one.oid.into(),
                one.relation.into(),
                text(&one.alike),
                timestamp(absent_at).into(),
                is_known.into(),
            ],
        );
        Ok(())
    })
}

/// Forgets indexes that are gone. One that is watched and was not taken back by perf_opt was dropped by others.
fn forget_gone() -> Result<(), Error> {
    let gone = privilege::as_owner(TABLE, || {
        Ok(rows(
            c"DELETE FROM perf.guard_index k
               WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indexrelid = k.indexrelid) RETURNING indexrelid",
            &[],
            |row| row.get::<pg_sys::Oid>(1).map_or(0, pg_sys::Oid::to_u32),
        ))
    })?;
    if gone.is_empty() {
        return Ok(());
    }
    for change in store::latest_of(KIND)?.iter().filter(|change| is_observed(change) && change.is_made()) {
        if oid(change).is_some_and(|oid| gone.contains(&oid)) {
            note_put_back(change)?;
        }
    }
    Ok(())
}

/// The index that a change of others is about.
pub fn oid(change: &Change) -> Option<u32> {
    change.oids().first().copied()
}

/// Makes a change of a new index. False: it is to be looked at again.
fn insert(found: &Found, until: i64, changes: &[Change], news: &mut News) -> Result<bool, Error> {
    let Some((schema, name)) = ident::relation_parts(found.oid) else { return Ok(true) };
    // Somebody has its table locked.
    let Ok(state) = index_state::read(&schema, &name) else { return Ok(false) };
    let (Some(state), Some(relation)) = (state, ident::relation(found.relation)) else { return Ok(true) };
    let quoted = ident::qualified(&schema, &name);
    if !has_room(news, &format!("index {quoted}"))? {
        return Ok(true);
    }
    let insisted = changes
        .iter()
        .filter(|change| was_taken_back(change) && change.target == found.relation)
        .any(|change| change.state.get("alike").and_then(Value::as_str) == Some(found.alike.as_str()));
    let since = observed::since(found.relation, until)?;
    let mut change = Change {
        recommendation_id: format!("observed:index:{schema}.{name}:{}", found.oid.to_u32()),
        kind: KIND.to_owned(),
        relation,
        target: found.relation,
        ddl: state.definition.clone(),
        undo_ddl: Some(format!("DROP INDEX CONCURRENTLY {quoted}")),
        owner: privilege::relation_owner(found.relation),
        by_autopilot: true,
        recommendation: json!({ "action": "create", "reason": "seen by the guard of autopilot" }),
        state: json!({
            "observed": true, "made": [{ "schema": schema, "name": name, "definition": state.definition }],
            "oids": [found.oid.to_u32()], "alike": found.alike, "since": since, "insisted": insisted.then_some(true),
            // What its statements name is looked up by whoever takes it back.
            "search_path": "pg_catalog, pg_temp",
        }),
        ..Change::default()
    };
    let mut concerned = Vec::new();
    apply::add_others(&change, &mut concerned)?;
    let parts: Vec<(i64, Part)> = concerned.iter().map(|one| (one.queryid, one.part)).collect();
    let Some(change_id) = store::insert(&change)? else { return Ok(true) };
    change.change_id = change_id;
    change.total_ms = observed::keep(change_id, Before { since, until }, &parts)?;
    if change.total_ms <= 0.0 {
        // Nothing that is known of its table from before could be compared with.
        observed::forget(change_id)?;
        return Ok(true);
    }
    let mut message = format!("index {quoted} was made by others");
    if insisted {
        message.push_str("; one like it was dropped before, and it is left now");
    }
    observed::set_total(change_id, change.total_ms)?;
    store::applied(change_id, &json!({}), Some(&message))?;
    observed::begin_round(change_id)?;
    change.message = Some(message);
    note_seen(&change, news)?;
    Ok(true)
}

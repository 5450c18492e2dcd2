//! From an advice to the change that carries it out: finds the advice among those that are given now, sees to rights and
//! room, keeps what the statements concerned did so far, and queues the run. Called by perf.apply() in the user's
//! transaction; nothing happens before that commits.

mod cache;
mod partitioning;
mod setting;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use perf_core::change::Part;
use pgrx::datum::Interval;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::index::applied::to_json;
use super::index::ddl::concurrently;
use super::index::recommend::{self, Options};
use super::index::rows::Recommendation;
use super::{plans, scaling};
use crate::act::change::audit::{self, Entry};
use crate::act::change::store::{self, Change};
use crate::act::change::watched::{self, Watched};
use crate::act::change::{index_state, observed, queue_run, room};
use crate::act::define;
use crate::act::runs::timestamp;
use crate::baselines::{self, Occasion};
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::query::select_with;
use crate::pg::text::Text;
use crate::pg::{background, catalog, ident, privilege};
use crate::workload::{captured, shapes};

/// What the search for the advice may take.
const BUDGET: Duration = Duration::from_secs(10);
/// Statements watched at most: of those that touch the relation, and of those that do not.
const CONCERNED_MAX: usize = 50;
const CONTROLS_MAX: usize = 20;
/// Executions without which a statement says nothing of the machine.
const CONTROL_CALLS_MIN: f64 = 20.0;
/// What ids of perf.scaling_recommendations() begin with, and those of views.
const SCALING: &str = "scaling:";
const VIEWS: &str = "scaling:materialized_view:";
/// How long the baseline of a change is kept.
const KEEP: &str = "60 days";

/// Makes the change of an advice: the number of the run that does.
pub fn request(recommendation_id: &str) -> Result<i64, Error> {
    define::check_preloaded()?;
    background::refuse_in_recovery(c"perf.apply()");
    store::settle()?;
    if let Some(open) = store::latest(recommendation_id)?.filter(|one| one.is_made() || one.is_busy()) {
        return Err(applied_already(&open));
    }
    if recommendation_id.starts_with(scaling::WORK_MEM) {
        return setting::request(recommendation_id);
    }
    let (mut change, concerned) = match recommendation_id.strip_prefix(VIEWS) {
        None if recommendation_id.starts_with(cache::CACHE) => (cache::of(recommendation_id)?, Vec::new()),
        Some(view) => (of_view(recommendation_id, view)?, Vec::new()),
        None if recommendation_id.starts_with(scaling::PARTITIONING) => partitioning::of(recommendation_id)?,
        None if recommendation_id.starts_with(SCALING) => return Err(by_itself(recommendation_id)?),
        None => of_index(recommendation_id)?,
    };
    change.recommendation_id = recommendation_id.to_owned();
    change.owner = privilege::current_role();
    begin(change, concerned)
}

/// Makes the change of an advice that nobody has asked for, as the owner of the table: the number of the run that does.
pub fn unasked(row: &Recommendation, total_ms: f64) -> Result<i64, Error> {
    let (mut change, concerned) = of_row(row, total_ms)?;
    change.recommendation_id = row.id.clone();
    change.owner = privilege::relation_owner(change.target);
    change.by_autopilot = true;
    begin(change, concerned)
}

/// Keeps what the statements concerned did so far, and queues the run.
fn begin(mut change: Change, mut concerned: Vec<Watched>) -> Result<i64, Error> {
    add_others(&change, &mut concerned)?;
    let path = catalog::value::<Text>("SELECT pg_catalog.current_setting('search_path')", &[]).map_err(spi_failed)?;
    if let Some(state) = change.state.as_object_mut() {
        // What the statements name is looked up in the worker as it was here.
        state.insert("search_path".to_owned(), json!(path.unwrap_or_default().0));
    }
    let as_caller = change.owner == privilege::current_role();
    change.run_id = if as_caller { queue_run()? } else { privilege::as_role(change.owner, queue_run)? };
    let since = since(&change)?;
    let note = format!("captured before a change of {}", change.relation);
    let baseline = keep_new(&mut change, since, &note)?;
    let change_id = change.change_id;
    watched::keep(change_id, &baseline, &concerned)?;
    plans::keep(change_id, &concerned)?;
    let entry = Entry {
        action: "apply",
        sql: Some(&change.ddl),
        outcome: "queued",
        sqlstate: None,
        detail: json!({ "run_id": change.run_id, "predicted_pct": change.predicted_pct, "size_bytes": change.size_bytes }),
    };
    audit::note(&change, change.owner, &entry)?;
    Ok(change.run_id)
}

/// Stores a new change, which has a number then, and the baseline from before it, whose name it gives.
fn keep_new(change: &mut Change, since: i64, note: &str) -> Result<String, Error> {
    let Some(change_id) = store::insert(change)? else {
        // Somebody else's transaction was first, and has committed just now.
        return Err(match store::latest(&change.recommendation_id)? {
            Some(open) => applied_already(&open),
            None => in_hand(&change.recommendation_id, "is being applied by another session"),
        });
    };
    change.change_id = change_id;
    let baseline = format!("before change {change_id} ({})", change.recommendation_id);
    baselines::capture(&baseline, Some(note), timestamp(since), keep()?, Occasion::Change(change_id))?;
    store::set_baseline(change_id, &baseline)?;
    Ok(baseline)
}

fn in_hand(recommendation_id: &str, what: &str) -> Error {
    let hint = "perf.applied_changes says where it stands; perf.undo() takes back what is applied.";
    refused_as(recommendation_id, what, hint)
}

fn applied_already(open: &Change) -> Error {
    let what = match open.status.as_str() {
        "queued" | "applying" => "is being applied already",
        "undoing" => "is being taken back",
        _ => "is applied already",
    };
    in_hand(&open.recommendation_id, what)
}

fn keep() -> Result<Interval, Error> {
    KEEP.parse::<Interval>().map_err(|_| Error::InvalidArgument {
        argument: "keep",
        value: KEEP.to_owned(),
        accepted: "An interval.".to_owned(),
    })
}

/// From when on the statements are compared: since an earlier change of the same relation that has been judged, if there is
/// one. One that has not is part of what this change is compared with.
fn since(change: &Change) -> Result<i64, Error> {
    let latest = privilege::as_owner(store::TABLE, || {
        Ok(select_with(
            c"SELECT pg_catalog.max(GREATEST(undone_at, verified_at)) FROM perf.change
               WHERE target = $1 AND status IN ('verified', 'no_gain', 'regressed', 'undone')",
            &[change.target.into()],
            |row| row.get::<pgrx::datum::TimestampWithTimeZone>(1).map(i64::from),
        ))
    })?;
    let now = background::now();
    let earliest = now - observed::BEFORE_US;
    Ok(latest.into_iter().next().filter(|at| *at < now).map_or(earliest, |at| at.max(earliest)))
}

/// The statements that the advice says something of, by queryid.
type Concerned = BTreeMap<i64, Watched>;

/// What a list of statements says of each; `ratio` reads what one is to take in relation to now.
fn promised(evidence: &Value, ratio: impl Fn(&Value) -> Option<f64>) -> Vec<Watched> {
    let mut found = Concerned::new();
    for one in evidence.as_array().into_iter().flatten() {
        let ms = one.get("ms").and_then(Value::as_f64);
        let Some((queryid, ms)) = one.get("queryid").and_then(Value::as_i64).zip(ms) else { continue };
        let ratio = ratio(one);
        let known = found.entry(queryid).or_insert(Watched {
            queryid,
            part: Part::Promised,
            promised_ratio: ratio,
            weight_ms: 0.0,
        });
        // Of several roles: as much as each has of their time.
        let all = known.weight_ms + ms;
        known.promised_ratio = match (known.promised_ratio, ratio) {
            (Some(before), Some(more)) if all > 0.0 => Some((before * known.weight_ms + more * ms) / all),
            (before, more) => before.or(more),
        };
        known.weight_ms = all;
    }
    found.into_values().collect()
}

/// Adds the other statements that touch the relation, and some that do not.
pub fn add_others(change: &Change, concerned: &mut Vec<Watched>) -> Result<(), Error> {
    let mut known: Concerned = concerned.drain(..).map(|one| (one.queryid, one)).collect();
    let mut family = family_of(change.target)?;
    for table in change.tables() {
        family.extend(family_of(table)?);
    }
    let mut others: BTreeMap<i64, (Watched, f64)> = BTreeMap::new();
    for one in shapes::read()?.statements {
        let queryid = one.queryid as i64;
        if queryid == 0 || known.contains_key(&queryid) || one.shape.tables.is_empty() {
            continue;
        }
        let touches = one.shape.tables.iter().any(|table| family.contains(&table.to_u32()));
        let writes = one.shape.writes.iter().filter_map(|at| one.shape.tables.get(*at));
        let part = match (touches, writes.into_iter().any(|table| family.contains(&table.to_u32()))) {
            (_, true) => Part::Writer,
            (true, false) => Part::Reader,
            (false, false) => Part::Control,
        };
        let other =
            others.entry(queryid).or_insert((Watched { queryid, part, promised_ratio: None, weight_ms: 0.0 }, 0.0));
        other.0.weight_ms += one.total_ms;
        other.1 += one.calls;
    }
    let mut others: Vec<(Watched, f64)> = others.into_values().collect();
    others.sort_by(|a, b| b.0.weight_ms.total_cmp(&a.0.weight_ms).then(a.0.queryid.cmp(&b.0.queryid)));
    let (controls, touching): (Vec<_>, Vec<_>) = others.into_iter().partition(|one| one.0.part == Part::Control);
    let controls = controls.into_iter().filter(|one| one.1 >= CONTROL_CALLS_MIN).take(CONTROLS_MAX);
    known.extend(touching.into_iter().take(CONCERNED_MAX).chain(controls).map(|(one, _)| (one.queryid, one)));
    concerned.extend(known.into_values());
    Ok(())
}

/// The relation, what it is a partition of, and its partitions: statements name any of them.
fn family_of(relation: pg_sys::Oid) -> Result<HashSet<u32>, Error> {
    let above = catalog::rows(
        "WITH RECURSIVE up (relid) AS (
             SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid OPERATOR(pg_catalog.=) $1
             UNION ALL
             SELECT i.inhparent FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid OPERATOR(pg_catalog.=) u.relid)
         SELECT u.relid FROM up u",
        &[relation.into()],
        |row| row.get::<pg_sys::Oid>(1),
    )
    .map_err(spi_failed)?;
    let below = catalog::partitions(relation).into_iter().map(|partition| partition.oid);
    Ok(above.into_iter().chain(below).chain([relation]).map(pg_sys::Oid::to_u32).collect())
}

fn unknown(recommendation_id: &str) -> Error {
    Error::InvalidArgument {
        argument: "recommendation_id",
        value: format!("\"{recommendation_id}\" is not recommended now"),
        accepted: "An id of perf.index_recommendations() as it is today: what the workload does not call for any more is not applied."
            .to_owned(),
    }
}

fn refused(row: &Recommendation, what: &str, hint: &str) -> Error {
    refused_as(&row.id, &format!("on {} {what}", row.relation), hint)
}

fn refused_as(recommendation_id: &str, what: &str, hint: &str) -> Error {
    Error::WrongState { message: format!("recommendation \"{recommendation_id}\" {what}"), hint: hint.to_owned() }
}

/// What the advisor on indexes says now, and the time of the workload.
pub fn advice() -> Result<(Vec<Recommendation>, f64), Error> {
    let workload = captured::read()?;
    let rows = recommend::run(&workload, &Options::within(BUDGET))?.rows;
    Ok((rows, workload.total_ms()))
}

/// The change that an advice on indexes asks for, and the statements that it names.
fn of_index(recommendation_id: &str) -> Result<(Change, Vec<Watched>), Error> {
    let (rows, total_ms) = advice()?;
    let row = rows.into_iter().find(|row| row.id == recommendation_id).ok_or_else(|| unknown(recommendation_id))?;
    of_row(&row, total_ms)
}

/// The same of an advice that was just given.
fn of_row(row: &Recommendation, total_ms: f64) -> Result<(Change, Vec<Watched>), Error> {
    match row.status {
        "building" => return Err(refused(row, "is being built by somebody already", "Wait for that, and ask again.")),
        "exists" => return Err(refused(row, "needs nothing to be done", &row.reason)),
        "not_applicable" => return Err(refused(row, "cannot be applied here", &row.reason)),
        _ => {}
    }
    let target = catalog::relation_named(&row.relation).map_err(spi_failed)?.ok_or_else(|| unknown(&row.id))?;
    let Some(ddl) = row.ddl.clone() else {
        return Err(refused(row, "has no statement to run", &row.reason));
    };
    let recommendation = to_json(row);
    let mut change = Change {
        relation: row.relation.clone(),
        target,
        ddl,
        undo_ddl: row.undo_ddl.clone(),
        predicted_pct: row.benefit_pct,
        size_bytes: row.size_bytes,
        total_ms,
        recommendation,
        state: json!({}),
        ..Change::default()
    };
    match row.action {
        "create" => {
            change.kind = "index_create".to_owned();
            require_owner(target, &row.relation)?;
            room::require(row.size_bytes.unwrap_or(0))?;
        }
        action => {
            change.kind = format!("index_{action}");
            of_existing(row, &mut change)?;
        }
    }
    let ratio = |one: &Value| one.get("time_after_pct").and_then(Value::as_f64).map(|pct| pct / 100.0);
    Ok((change, promised(&row.evidence, ratio)))
}

/// The advice of perf.scaling_recommendations() of an id.
fn scaling_row(recommendation_id: &str) -> Result<scaling::Row, Error> {
    let rows = scaling::recommend()?;
    rows.into_iter().find(|row| row.id == recommendation_id).ok_or_else(|| unknown(recommendation_id))
}

/// Why an advice on scaling is not carried out by perf.apply().
fn by_itself(recommendation_id: &str) -> Result<Error, Error> {
    let row = scaling_row(recommendation_id)?;
    Ok(Error::Unsupported {
        message: format!("recommendation \"{recommendation_id}\" is not carried out by perf.apply()"),
        hint: row
            .config
            .map_or(row.recommendation, |config| format!("Look at it and run it yourself: {}", config.trim_end())),
    })
}

/// The change that makes a materialized view of perf.matview_policy, with the job that refreshes it.
fn of_view(recommendation_id: &str, name: &str) -> Result<Change, Error> {
    let row = scaling_row(recommendation_id)?;
    let is_policy = row.evidence.get("sources").is_some();
    let (Some(ddl), true) = (&row.config, is_policy) else {
        return Err(match &row.config {
            // Of a captured statement: what its names mean is for somebody to check who knows.
            Some(_) => by_itself(recommendation_id)?,
            None => refused_as(recommendation_id, "has no statement to run", &row.recommendation),
        });
    };
    let place = catalog::rows(
        "SELECT pg_catalog.current_schema()::pg_catalog.text,
                pg_catalog.has_schema_privilege(pg_catalog.current_schema(), 'CREATE')",
        &[],
        |row| Ok(row.get::<Text>(1)?.zip(row.get::<bool>(2)?)),
    )
    .map_err(spi_failed)?;
    let Some((schema, may_create)) = place.into_iter().next() else {
        return Err(Error::WrongState {
            message: "no schema has been selected to create in".to_owned(),
            hint: "Set search_path.".to_owned(),
        });
    };
    if !may_create {
        return Err(denied(format!("permission denied for schema {}", ident::quote(&schema.0))));
    }
    let view = ident::qualified(&schema.0, name);
    let source = row.evidence.get("sources").and_then(Value::as_str).unwrap_or_default();
    let source = source.split(", ").next().unwrap_or_default();
    let target = catalog::relation_named(source).map_err(spi_failed)?.ok_or_else(|| unknown(recommendation_id))?;
    let total_ms = captured::read()?.total_ms();
    Ok(Change {
        kind: "matview".to_owned(),
        relation: view.clone(),
        target,
        ddl: ddl.trim_end().trim_end_matches(';').to_owned(),
        undo_ddl: Some(format!(
            "SELECT perf.job_unschedule(job_id) FROM perf.jobs WHERE kind = 'matview' AND target = {};\nDROP MATERIALIZED VIEW {view}",
            ident::literal(&view)
        )),
        predicted_pct: row.expected_benefit_pct,
        total_ms,
        recommendation: json!({ "priority": row.priority, "reason": row.reason, "evidence": row.evidence }),
        state: json!({ "schema": schema.0, "name": name }),
        ..Change::default()
    })
}

/// Whoever makes an index owns its table, and may create in its schema.
fn require_owner(table: pg_sys::Oid, name: &str) -> Result<(), Error> {
    let found = catalog::rows(
        "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.has_schema_privilege(c.relnamespace, 'CREATE')
           FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[table.into()],
        |row| Ok(Some((row.get::<bool>(1)?.unwrap_or(false), row.get::<bool>(2)?.unwrap_or(false)))),
    )
    .map_err(spi_failed)?;
    match found.into_iter().next() {
        Some((true, true)) => Ok(()),
        Some((true, false)) => Err(denied(format!("permission denied to create an index in the schema of {name}"))),
        _ => Err(denied(format!("must be owner of table {name}"))),
    }
}

fn denied(message: String) -> Error {
    Error::Denied { message, hint: "perf.apply() does nothing that the caller could not do himself.".to_owned() }
}

/// What has to be remembered of an index that is to be dropped or rebuilt.
fn of_existing(row: &Recommendation, change: &mut Change) -> Result<(), Error> {
    let Some((schema, name)) = row.existing.first().and_then(|oid| ident::relation_parts(*oid)) else {
        return Err(unknown(&row.id));
    };
    let quoted = ident::qualified(&schema, &name);
    let Some(found) = index_state::read(&schema, &name)? else { return Err(unknown(&row.id)) };
    if found.partitioned {
        return Err(Error::Unsupported {
            message: format!("index {quoted} is partitioned, and what is made again has other names for its parts"),
            hint: format!("Run it yourself: {}", change.ddl),
        });
    }
    let is_drop = row.action == "drop";
    if is_drop && !found.may_drop {
        return Err(denied(format!("must be owner of index {quoted}")));
    }
    if !is_drop && !may_rebuild(found.relation)? {
        return Err(denied(format!("must be owner of index {quoted}")));
    }
    change.state = json!({ "wanted": [{ "schema": schema, "name": name, "definition": found.definition }] });
    // What nobody could use is not made again.
    change.undo_ddl = (is_drop && found.valid).then(|| {
        let create = concurrently(&found.definition);
        std::iter::once(create).chain(found.extras).chain(found.analyze).collect::<Vec<_>>().join(";\n")
    });
    Ok(())
}

fn may_rebuild(table: pg_sys::Oid) -> Result<bool, Error> {
    let found = catalog::rows(
        // The privilege to maintain came with version 17.
        "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE')
                OR CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 170000
                        THEN pg_catalog.has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
           FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) $1",
        &[table.into()],
        |row| row.get::<bool>(1),
    )
    .map_err(spi_failed)?;
    Ok(found.into_iter().next().unwrap_or(false))
}

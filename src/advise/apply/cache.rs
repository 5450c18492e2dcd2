//! From a strategy of perf.caching_strategies() to the change that sets it up: the policy that perf.cached() computes by, and
//! the watches that keep what is cached exact. Called by perf.apply(), in the user's transaction.

use std::collections::HashSet;

use perf_core::cache::question::{with_placeholders, Question};
use perf_core::cache::template::Template;
use perf_core::normalized::with_casts;
use pgrx::pg_sys;
use serde_json::{json, Map, Value};

use super::{denied, refused_as, unknown};
use crate::act::change::caching::KIND;
use crate::act::change::store::{self, Change};
use crate::advise::caching::{self, Cached, Read, Strategy};
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::statement_shape::{self, Source, Unclear};
use crate::pg::text::Text;
use crate::pg::{catalog, compute, ident, parameter_types, privilege};
use crate::workload::captured;

/// What ids of strategies begin with here.
pub const CACHE: &str = "cache:";
/// Never wait longer for a lock that somebody else holds.
const LOCK_TIMEOUT_MS: u32 = 100;
/// Minutes of an hour.
const MINUTES: f64 = 60.0;

/// The change that sets a strategy up.
pub fn of(recommendation_id: &str) -> Result<Change, Error> {
    let name = recommendation_id.strip_prefix(CACHE).unwrap_or_default();
    let Some(strategy) = caching::strategy(name)? else { return Err(unknown(recommendation_id)) };
    let row = &strategy.row;
    let refuse = |what: &str, hint: &str| refused_as(recommendation_id, what, hint);
    if !["recommended", "active"].contains(&row.status) {
        return Err(refuse(&format!("is not to be applied: it is {}", row.status), &row.reason));
    }
    if strategy.tables.is_empty() {
        return Err(refuse("has no captured statement that says which tables to watch", &row.reason));
    }
    let is_new = row.source == "workload";
    let compute_sql = if is_new { Some(written(recommendation_id, &strategy)?) } else { None };
    let watches = watches(recommendation_id, &strategy)?;
    if !is_new && watches.is_empty() {
        return Err(refuse("needs nothing to be done", "Its tables are watched for its events already."));
    }
    require_rights(is_new, &watches)?;
    let watch = |(event, table): &(&str, &Read)| {
        format!("SELECT perf.cache_watch({}, {})", ident::literal(event), ident::literal(&table.name))
    };
    let mut ddl: Vec<String> = compute_sql.iter().map(|sql| insert(row, sql)).collect();
    ddl.extend(watches.iter().map(watch));
    // What is stored would be kept exact by nobody.
    let events: Vec<String> = row.invalidated_by.iter().map(|event| ident::literal(event)).collect();
    let mut undo = vec![format!(
        "SELECT perf.cache_invalidate(event => w.event)\n  FROM (SELECT DISTINCT event FROM perf.cache_watches WHERE event IN ({})) AS w",
        events.join(", ")
    )];
    undo.extend(watches.iter().map(|(event, table)| unwatch(&row.name, event, &table.name)));
    if is_new {
        undo.push(format!("DELETE FROM perf.cache_policy WHERE cache_name = {}", ident::literal(&row.name)));
    }
    let workload = captured::read()?;
    let total_ms_per_min = workload.total_ms() / (MINUTES * workload.hours.unwrap_or(1.0)).max(f64::MIN_POSITIVE);
    let predicted = row.saved_ms_per_min.map(|saved| 100.0 * saved / total_ms_per_min.max(f64::MIN_POSITIVE));
    let cache = json!({
        "name": row.name, "key_template": row.key_template, "compute_sql": compute_sql, "made": is_new,
        "watches": watches.iter().map(|(_, table)| table.oid.to_u32()).collect::<Vec<_>>(),
        "mean_ms": mean_ms(&strategy.statements), "total_ms_per_min": total_ms_per_min, "call": call(row),
    });
    let tables: Vec<u32> = strategy.tables.iter().map(|table| table.oid.to_u32()).collect();
    Ok(Change {
        kind: KIND.to_owned(),
        relation: row.name.clone(),
        target: strategy.tables.first().map_or(pg_sys::InvalidOid, |table| table.oid),
        ddl: ddl.join(";\n"),
        undo_ddl: Some(undo.join(";\n")),
        predicted_pct: predicted,
        total_ms: workload.total_ms(),
        recommendation: json!({ "reason": row.reason, "evidence": row.evidence, "saved_ms_per_min": row.saved_ms_per_min }),
        state: json!({ "cache": cache, "tables": tables }),
        ..Change::default()
    })
}

/// What computing a value takes, over all statements alike.
fn mean_ms(statements: &[Cached]) -> f64 {
    statements.iter().map(|one| one.mean_ms).sum::<f64>() / statements.len().max(1) as f64
}

/// How applications ask it.
fn call(row: &caching::Row) -> String {
    let parsed = Template::parse(&row.key_template).ok();
    let names = parsed.iter().flat_map(Template::placeholders);
    let values: Map<String, Value> = names.map(|name| (name.to_owned(), json!("..."))).collect();
    let arguments =
        if values.is_empty() { String::new() } else { format!(", {}", ident::literal(&json!(values).to_string())) };
    format!("SELECT perf.cached({}{arguments})", ident::literal(&row.name))
}

/// compute_sql of a strategy that is one statement: its text, with what is in the key in the place of its values. Refuses what
/// would not be the same statement, or would not be kept.
fn written(recommendation_id: &str, strategy: &Strategy) -> Result<String, Error> {
    let refuse = |what: String, hint: &str| refused_as(recommendation_id, &what, hint);
    const BY_HAND: &str = "Write the row of perf.cache_policy yourself, with its compute_sql.";
    let [statement] = &strategy.statements[..] else {
        return Err(refuse("is not about one statement".to_owned(), BY_HAND));
    };
    let text = with_casts(&statement.text);
    let types = parameter_types::inferred(&text, LOCK_TIMEOUT_MS)
        .map_err(|why| refuse(format!("has a statement that cannot be analysed here: {why}"), BY_HAND))?;
    let value = |number: usize| {
        let name = statement.placeholders.get(number.checked_sub(1)?)?;
        let of_type = types.get(number - 1)?.as_ref()?;
        Some(format!("({{{name}}}::{of_type})"))
    };
    let sql = with_placeholders(&text, value)
        .ok_or_else(|| refuse("has a value whose type is not known".to_owned(), BY_HAND))?;
    // Names have to mean what they meant where it was captured.
    let question = Question::parse(&sql);
    let parameters = vec![pg_sys::TEXTOID; question.parameters.len()];
    let source = Source {
        text: &question.sql,
        search_path: None,
        role: privilege::current_role(),
        nested: false,
        parameters: &parameters,
        lock_timeout_ms: LOCK_TIMEOUT_MS,
    };
    let shape = statement_shape::of(&source).map_err(|unclear| match unclear {
        Unclear::Utility => refuse("is no query".to_owned(), BY_HAND),
        Unclear::Failed(why) => refuse(format!("has a statement that cannot be analysed here: {why}"), BY_HAND),
    })?;
    let read = shape.tables.iter().map(|table| root_of(*table)).collect::<Result<HashSet<_>, Error>>()?;
    if read != strategy.tables.iter().map(|table| table.oid).collect() {
        let mut names: Vec<String> = read.into_iter().filter_map(ident::relation).collect();
        names.sort();
        let what = format!("reads other tables from here: {}", names.join(", "));
        return Err(refuse(what, "Set search_path as the statement's sessions have it."));
    }
    if compute::analysed(&question.sql, question.parameters.len()).meaning.is_none() {
        let what = "has a statement whose results perf.cached() would not keep".to_owned();
        return Err(refuse(what, "COMMENT of perf.cached() says which."));
    }
    Ok(sql)
}

/// Ends the watch of a strategy, if its table is there and no other policy goes by it.
fn unwatch(name: &str, event: &str, table: &str) -> String {
    let (name, event, table) = (ident::literal(name), ident::literal(event), ident::literal(table));
    format!(
        "SELECT perf.cache_unwatch({event}, r) FROM to_regclass({table}) AS r\n WHERE r IS NOT NULL\n   AND NOT EXISTS (SELECT FROM perf.cache_policy WHERE {event} = ANY (invalidated_by) AND cache_name <> {name})"
    )
}

/// What a table is a part of, or itself.
fn root_of(table: pg_sys::Oid) -> Result<pg_sys::Oid, Error> {
    let root = "SELECT pg_catalog.pg_partition_root($1::pg_catalog.regclass)::pg_catalog.oid";
    Ok(catalog::value::<pg_sys::Oid>(root, &[table.into()]).map_err(spi_failed)?.unwrap_or(table))
}

/// The row of the policy.
fn insert(row: &caching::Row, compute_sql: &str) -> String {
    let events: Vec<String> = row.invalidated_by.iter().map(|event| ident::literal(event)).collect();
    format!(
        "INSERT INTO perf.cache_policy (cache_name, key_template, ttl, invalidated_by, used_for, queryid, compute_sql, origin)\nVALUES ({}, {},\n        make_interval(secs => {}), ARRAY[{}], {}, {},\n        {}, 'added')",
        ident::literal(&row.name),
        ident::literal(&row.key_template),
        row.ttl_s.unwrap_or(60.0),
        events.join(", "),
        ident::literal("set up by perf.apply()"),
        row.queryid.map_or("NULL".to_owned(), |queryid| queryid.to_string()),
        ident::literal(compute_sql),
    )
}

/// Events and tables that are to be watched: of each table one, unless people watch it for one of the strategy's events. What
/// another strategy has made is asked for again, for that one may be on its way to be taken back.
fn watches<'a>(recommendation_id: &str, strategy: &'a Strategy) -> Result<Vec<(&'a str, &'a Read)>, Error> {
    let row = &strategy.row;
    let made: Vec<u64> = store::latest_of(KIND)?
        .into_iter()
        .filter(|change| change.is_made() || change.is_busy())
        .flat_map(|change| change.state["cache"]["watches"].as_array().cloned().unwrap_or_default())
        .filter_map(|table| table.as_u64())
        .collect();
    let known = privilege::as_owner(c"cache_watch_table", || {
        let found = catalog::rows(
            "SELECT w.relation FROM perf.cache_watch_table w
              WHERE w.event OPERATOR(pg_catalog.=) ANY ($1) AND w.keys IS NULL
                AND w.operations OPERATOR(pg_catalog.@>) '{insert,update,delete}'",
            &[row.invalidated_by.iter().map(|event| Some(Text(event.clone()))).collect::<Vec<_>>().into()],
            |row| row.get::<pg_sys::Oid>(1),
        );
        found.map_err(spi_failed)
    })?;
    let template = Template::parse(&row.key_template).ok();
    let mut wanted = Vec::new();
    for table in &strategy.tables {
        let misleading = |name: &&str| table.inexact.iter().any(|column| column == name);
        if let Some(name) = template.iter().flat_map(Template::placeholders).find(misleading) {
            return Err(refused_as(
                recommendation_id,
                &format!("cannot be kept exact: {} has a column {name} that is not what the key is by", table.name),
                "Call the placeholder otherwise, so that any change of the table invalidates all of its keys.",
            ));
        }
        if !known.contains(&table.oid) || made.contains(&table.oid.to_u32().into()) {
            wanted.push((event_of(recommendation_id, row, table)?, table));
        }
    }
    Ok(wanted)
}

/// The event that a change of a table is for a strategy.
fn event_of<'a>(recommendation_id: &str, row: &'a caching::Row, table: &Read) -> Result<&'a str, Error> {
    let own = row.invalidated_by.iter().find(|event| **event == table.event);
    own.or(row.invalidated_by.first()).map(String::as_str).ok_or_else(|| {
        let hint = "Name an event in invalidated_by of its row in perf.cache_policy.";
        refused_as(recommendation_id, "has no event that would invalidate it", hint)
    })
}

/// Whoever sets a strategy up may write policies, and make triggers on the tables.
fn require_rights(is_new: bool, watches: &[(&str, &Read)]) -> Result<(), Error> {
    const MAY_WRITE: &str = "SELECT pg_catalog.has_table_privilege('perf.cache_policy', 'INSERT')";
    if is_new && catalog::value::<bool>(MAY_WRITE, &[]).map_err(spi_failed)? != Some(true) {
        return Err(denied("permission denied for table cache_policy".to_owned()));
    }
    for (_, table) in watches {
        let may = "SELECT pg_catalog.has_table_privilege($1, 'TRIGGER')";
        if catalog::value::<bool>(may, &[table.oid.into()]).map_err(spi_failed)? != Some(true) {
            return Err(denied(format!("permission denied to watch table {}", table.name)));
        }
    }
    Ok(())
}

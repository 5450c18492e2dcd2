//! `perf.what_if`, `perf.index_recommendations`.

use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::required;
use crate::advise::index::applied;
use crate::advise::index::recommend::{self, Options};
use crate::advise::index::what_if;
use crate::error::Error;
use crate::pg::text::{self, Document, Text};
use crate::workload::{captured, queries, stat_statements};

/// Plans one statement with and without indexes that do not exist; creates nothing and executes nothing.
///
/// `query` is one SELECT, INSERT, UPDATE, DELETE or MERGE; `indexes` are CREATE INDEX statements (btree, hash, brin and gin
/// with several columns, expressions, operator classes, collations, ASC/DESC, NULLS FIRST/LAST, INCLUDE, UNIQUE, WHERE and
/// the storage parameters fillfactor, deduplicate_items and pages_per_range); `without` are names of existing indexes to
/// leave out of sight. Returns a row `current` and a row `hypothetical`: `total_cost` in the planner's unit, the names of
/// the indexes used, the plan as EXPLAIN prints it, and `size_bytes`, what all of `indexes` would take on disk right after
/// their build (NULL for `current`), and `estimated_ms`, the time that the steps in `work` (name to count) take when
/// everything is in memory, at the prices of the machine they were measured on: good for comparing plans. `$1`, `$2`, ... are
/// planned generically. Privileges on the tables are needed as for EXPLAIN.
/// For an expression or a GIN index up to 1,000 blocks of its table are read, for statistics and size.
///
/// Errors: 22004 for a NULL argument, 22023 when `query` is not exactly one statement with a plan or an element of `indexes`
/// not one CREATE INDEX, 0A000 for kinds of index that are not supported, 42704 for an unknown index in `without`, and
/// whatever analysing the statement raises.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the row type is the contract")]
fn what_if(
    query: Option<Text>,
    indexes: default!(Option<Vec<Option<Text>>>, "'{}'"),
    without: default!(Option<Vec<Option<Text>>>, "'{}'"),
) -> TableIterator<
    'static,
    (
        name!(variant, Text),
        name!(total_cost, f64),
        name!(indexes_used, Vec<Text>),
        name!(plan, Text),
        name!(size_bytes, Option<i64>),
        name!(estimated_ms, f64),
        name!(work, pgrx::JsonB),
    ),
> {
    let answer = required("query", query)
        .and_then(|query| Ok((query.0, strings("indexes", indexes)?, strings("without", without)?)))
        .and_then(|(query, indexes, without)| what_if::run(&query, &indexes, &without));
    match answer {
        Ok(variants) => TableIterator::new(variants.into_iter().map(|row| {
            let work: serde_json::Map<String, serde_json::Value> = row
                .work
                .counted()
                .filter(|(_, count)| *count > 0.0)
                .map(|(name, count)| (name.to_owned(), serde_json::json!(count.round() as u64)))
                .collect();
            let estimated_ms = row.work.milliseconds();
            let work = pgrx::JsonB(serde_json::Value::Object(work));
            (
                Text(row.variant.to_owned()),
                row.total_cost,
                texts(row.indexes_used),
                Text(row.plan),
                row.size_bytes,
                estimated_ms,
                work,
            )
        })),
        Err(error) => error.raise(),
    }
}

/// The elements of an array argument; none of them may be NULL.
fn elements<T>(argument: &'static str, value: Option<Vec<Option<T>>>) -> Result<Vec<T>, Error> {
    required(argument, value)?.into_iter().map(|element| required(argument, element)).collect()
}

fn strings(argument: &'static str, value: Option<Vec<Option<Text>>>) -> Result<Vec<String>, Error> {
    Ok(elements(argument, value)?.into_iter().map(|text| text.0).collect())
}

fn texts(strings: Vec<String>) -> Vec<Text> {
    strings.into_iter().map(Text).collect()
}

/// Recommends indexes for a workload, with evidence, judges every row of `perf.index_policy`, and says which existing
/// indexes to drop or rebuild.
///
/// `time_budget_ms`: when to stop searching; the best set found by then is returned, without statements that take too long
/// to plan, as when a user function sleeps. `storage_budget_bytes`: for all
/// recommended indexes together; NULL for no limit. `include_inapplicable`: also policy rows whose table is missing.
/// `workload`: `captured` or `pg_stat_statements`. `queries`: advice for exactly these statements instead, each executed
/// `weights` times (once by default); needs no capture.
///
/// Existing indexes come as rows `drop` and `reindex` (see `crate::advise::index::upkeep` and `perf_core::index::upkeep`,
/// which have the thresholds and their reasons): unused, duplicate, covered by a wider one, left from a failed build,
/// bloated. `size_bytes` is what they free, `benefit_pct` what the writes save. Not for given `queries`: what these do not
/// use, others may.
///
/// Gains are in time, estimated from plans with indexes that do not exist; sizes are of a fresh build with deduplication.
/// Percentages are of the workload's measured time (given queries: of its weighted estimated time). NULL is not known. Nothing is created,
/// and no table is waited for: what is locked or cannot be planned is left out, and a NOTICE counts it.
///
/// Errors: 22023 for an argument out of range or a query that cannot be planned, 22004 for a NULL where none may be, 55000
/// when the workload's source is not there.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the row type is the contract")]
fn index_recommendations(
    time_budget_ms: default!(Option<i32>, 5000),
    storage_budget_bytes: default!(Option<i64>, "NULL"),
    include_inapplicable: default!(Option<bool>, false),
    workload: default!(Option<Text>, "'captured'"),
    queries: default!(Option<Vec<Option<Text>>>, "NULL"),
    weights: default!(Option<Vec<Option<f64>>>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(id, Text),
        name!(priority, Text),
        name!(action, Text),
        name!(source, Text),
        name!(status, Text),
        name!(relation, Text),
        name!(columns, Vec<Text>),
        name!(access_method, Text),
        name!(ddl, Option<Text>),
        name!(undo_ddl, Option<Text>),
        name!(size_bytes, Option<i64>),
        name!(benefit_pct, Option<f64>),
        name!(benefit_ms_per_hour, Option<f64>),
        name!(statements_improved, Option<i32>),
        name!(best_speedup, Option<f64>),
        name!(write_cost_pct, Option<f64>),
        name!(confidence, Text),
        name!(basis, Text),
        name!(policy_gain, Option<Text>),
        name!(reason, Text),
        name!(evidence, Document),
        name!(achieved_pct, Option<f64>),
    ),
> {
    let started = Instant::now();
    let answer = deadline(started, time_budget_ms).and_then(|deadline| {
        let options = Options {
            started,
            deadline,
            budget_bytes: budget(storage_budget_bytes)?,
            include_inapplicable: required("include_inapplicable", include_inapplicable)?,
        };
        let workload = source(workload, queries, weights)?;
        let mut outcome = recommend::run(&workload, &options)?;
        if workload.is_measured() {
            applied::tell(&mut outcome.rows)?;
        }
        Ok(outcome)
    });
    let outcome = match answer {
        Ok(outcome) => outcome,
        Err(error) => error.raise(),
    };
    for line in outcome.notices {
        pgrx::notice!("{}", text::message(line));
    }
    TableIterator::new(outcome.rows.into_iter().map(|row| {
        (
            Text(row.id),
            Text(row.priority),
            Text(row.action.to_owned()),
            Text(row.source.to_owned()),
            Text(row.status.to_owned()),
            Text(row.relation),
            texts(row.columns),
            Text(row.access_method),
            row.ddl.map(Text),
            row.undo_ddl.map(Text),
            row.size_bytes,
            row.benefit_pct,
            row.benefit_ms_per_hour,
            row.statements_improved,
            row.best_speedup,
            row.write_cost_pct,
            Text(row.confidence.to_owned()),
            Text(row.basis.to_owned()),
            row.policy_gain.map(Text),
            Text(row.reason),
            Document(row.evidence),
            row.achieved_pct,
        )
    }))
}

fn deadline(started: Instant, budget_ms: Option<i32>) -> Result<Instant, Error> {
    let budget_ms = required("time_budget_ms", budget_ms)?;
    match u64::try_from(budget_ms) {
        Ok(ms) if ms > 0 => Ok(started + Duration::from_millis(ms)),
        _ => Err(Error::InvalidArgument {
            argument: "time_budget_ms",
            value: budget_ms.to_string(),
            accepted: "Give a number of milliseconds above zero.".to_owned(),
        }),
    }
}

fn budget(bytes: Option<i64>) -> Result<Option<f64>, Error> {
    match bytes {
        Some(bytes) if bytes <= 0 => Err(Error::InvalidArgument {
            argument: "storage_budget_bytes",
            value: bytes.to_string(),
            accepted: "Give a number of bytes above zero, or NULL for no limit.".to_owned(),
        }),
        bytes => Ok(bytes.map(|bytes| bytes as f64)),
    }
}

fn source(
    workload: Option<Text>,
    queries: Option<Vec<Option<Text>>>,
    weights: Option<Vec<Option<f64>>>,
) -> Result<queries::Workload, Error> {
    let name = required("workload", workload)?.0;
    if !matches!(name.as_str(), "captured" | "pg_stat_statements") {
        return Err(Error::InvalidArgument {
            argument: "workload",
            value: format!("\"{name}\""),
            accepted: "Give 'captured' or 'pg_stat_statements'; a list of statements goes into argument \"queries\"."
                .to_owned(),
        });
    }
    match (queries, weights) {
        (Some(list), weights) => {
            let weights = weights.map(|weights| elements("weights", Some(weights))).transpose()?;
            queries::given(strings("queries", Some(list))?, weights)
        }
        (None, Some(_)) => Err(Error::InvalidArgument {
            argument: "weights",
            value: "given without queries".to_owned(),
            accepted: "Weights belong to argument \"queries\".".to_owned(),
        }),
        (None, None) if name == "captured" => captured::read(),
        (None, None) => stat_statements::read(),
    }
}

pgrx::extension_sql_file!("../../sql/index.sql", name = "index_comments", requires = [what_if, index_recommendations]);

//! Partitioning by time: what `partition_advice` finds, and tables of the policy that are not partitioned.

use std::time::{Duration, Instant};

use pgrx::pg_sys;
use serde_json::json;

use super::{rows_of, value_of, Basis, Context, Row, PARTITIONING};
use crate::advise::partitioning;
use crate::error::Error;
use crate::pg::lock::Shared;
use crate::pg::text::Text;
use crate::pg::{catalog, ident};
use crate::workload::captured;

/// Time that planning the workload may take, unless there is less.
pub(super) const BUDGET: Duration = Duration::from_secs(5);

pub(super) fn rows(context: &Context, budget: Duration) -> Result<Vec<Row>, Error> {
    let bytes_min = value_of::<i64>("SELECT pg_size_bytes(current_setting('shared_buffers'))", &[])?.unwrap_or(0);
    let mut rows = Vec::new();
    if context.shapes.is_some() {
        let (found, notices) = partitioning::advise(&captured::read()?, bytes_min as f64, Instant::now() + budget)?;
        for one in found {
            let mut row = Row::new("partitioning");
            row.id = format!("{PARTITIONING}{}", one.relation);
            row.priority = one.priority.to_owned();
            row.triggered = one.ddl.is_some();
            row.metric = Some("relation_size".to_owned());
            row.measured_value = one.evidence.get("size_bytes").and_then(serde_json::Value::as_f64);
            row.threshold = Some(bytes_min as f64);
            row.unit = Some("bytes".to_owned());
            row.expected_benefit_pct = Some(one.benefit_pct);
            row.basis = if one.basis == "measured" { Basis::Measured } else { Basis::WhatIf };
            row.recommendation = match row.triggered {
                true => format!("Partition {} by {} ({}).", one.relation, ident::quote(&one.control_column), one.every),
                false => format!("Clear what is in the way of partitioning {}.", one.relation),
            };
            row.reason = one.reason + ".";
            row.config = one.ddl.map(|ddl| ddl + ";\n");
            row.evidence = one.evidence;
            if let Some(evidence) = row.evidence.as_object_mut() {
                evidence.insert("control_column".to_owned(), json!(one.control_column));
                evidence.insert("every".to_owned(), json!(one.every));
                if !notices.is_empty() {
                    evidence.insert("notices".to_owned(), json!(notices));
                }
            }
            rows.push(row);
        }
    }
    for row in of_policy(bytes_min as f64)? {
        // Where the workload speaks for itself, it has the word.
        if rows.iter().all(|known| known.id != row.id) {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        let mut row = Row::new("partitioning");
        row.metric = Some("relation_size".to_owned());
        row.threshold = Some(bytes_min as f64);
        row.unit = Some("bytes".to_owned());
        row.recommendation = "Don't: no table would gain from it.".to_owned();
        let first = match context.shapes {
            Some(_) => {
                "No table of at least shared_buffers is read by ranges of time, or deleted from by age, for 1 % of \
                        the captured time or more"
            }
            None => "What statements ask for is not known, because perf_opt is not in shared_preload_libraries",
        };
        row.reason = format!("{first}; no table of perf.partition_policy is there to be partitioned.");
        rows.push(row);
    }
    Ok(rows)
}

/// A row of perf.partition_policy.
struct Policy {
    table: String,
    control: Option<String>,
    every: String,
}

/// Tables of the caller's search path that the policy wants partitioned and that are not.
fn of_policy(bytes_min: f64) -> Result<Vec<Row>, Error> {
    let policies = rows_of(
        "SELECT table_name, control_column, every FROM perf.partition_policy ORDER BY table_name",
        &[],
        |row| {
            Ok(Some(Policy {
                table: row.get::<Text>(1)?.unwrap_or_default().0,
                control: row.get::<Text>(2)?.map(|text| text.0),
                every: row.get::<Text>(3)?.unwrap_or_default().0,
            }))
        },
    )?;
    let mut rows = Vec::new();
    for policy in policies {
        let found = catalog::rows(
            "SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text
               FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS s (name, place)
               JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) s.name
               JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid
                AND c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name
              WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relispartition
                AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
              ORDER BY s.place LIMIT 1",
            &[Text(policy.table.clone()).into()],
            |row| {
                let text = |n| catalog::text_of(row, n);
                let oid = row.get::<pg_sys::Oid>(1)?.unwrap_or(pg_sys::InvalidOid);
                Ok(Some((oid, ident::qualified(&text(2)?, &text(3)?))))
            },
        )
        .map_err(super::failed)?;
        let Some((oid, name)) = found.into_iter().next() else { continue };
        let bytes = size_of(oid)?;
        let mut row = Row::new("partitioning");
        row.id = format!("{PARTITIONING}{name}");
        row.metric = Some("relation_size".to_owned());
        row.measured_value = bytes;
        row.threshold = Some(bytes_min);
        row.unit = Some("bytes".to_owned());
        row.basis = Basis::Policy;
        row.recommendation = format!("Not by the workload: {name} is in perf.partition_policy and not partitioned.");
        row.reason = format!(
            "perf.partition_policy wants {name} by {}; {}, and what captured statements ask of it would \
             not gain 1 % of all time, or is not known.",
            policy.every,
            bytes.map_or("its size could not be measured".to_owned(), |b| format!("it has {:.0} MB", b / 1_048_576.0))
        );
        let control = match policy.control {
            Some(control) => Some(control),
            None => only_time_column(oid)?,
        };
        row.evidence = json!({ "size_bytes": bytes, "control_column": control, "every": policy.every });
        row.config = control.map(|control| {
            format!(
                "CALL perf.partition_convert({}, {}, {});\n",
                ident::literal(&name),
                ident::literal(&control),
                ident::literal(&policy.every)
            )
        });
        rows.push(row);
    }
    Ok(rows)
}

/// Bytes of a table as it is now, unless somebody has locked it: the catalogs know them only since the last VACUUM.
fn size_of(table: pg_sys::Oid) -> Result<Option<f64>, Error> {
    let Some(_lock) = Shared::try_take(table) else { return Ok(None) };
    value_of::<f64>("SELECT pg_table_size($1)::float8", &[table.into()])
}

/// The one column of a table that tells the time, if it is one.
fn only_time_column(table: pg_sys::Oid) -> Result<Option<String>, Error> {
    let columns = rows_of(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
            AND atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)",
        &[table.into()],
        |row| Ok(row.get::<Text>(1)?.map(|text| text.0)),
    )?;
    Ok(<[String; 1]>::try_from(columns).ok().map(|[one]| one))
}

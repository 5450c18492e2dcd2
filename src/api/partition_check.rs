//! SQL: `partition_check`, `partition_advice`.

use std::time::{Duration, Instant};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use super::{finite, or_raise};
use crate::advise::partitioning;
use crate::error::Error;
use crate::partitions::check;
use crate::pg::ddl;
use crate::pg::text::{self, Document, Text};
use crate::workload::captured;

/// Time that planning the workload may take.
const BUDGET: Duration = Duration::from_secs(5);

/// What is wrong with partitioned tables. See sql/partition_check.sql.
#[pg_extern(sql = r#"
CREATE FUNCTION "partition_check"(
    "relation" regclass DEFAULT NULL,
    "as_of" timestamptz DEFAULT pg_catalog.now()
) RETURNS TABLE ("parent" text, "problem" text, "detail" text, "fix_sql" text)
LANGUAGE c
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn partition_check(
    relation: Option<pg_sys::Oid>,
    as_of: Option<TimestampWithTimeZone>,
) -> TableIterator<
    'static,
    (name!(parent, Text), name!(problem, Text), name!(detail, Text), name!(fix_sql, Option<Text>)),
> {
    let problems = or_raise(finite("as_of", as_of).and_then(|as_of| check::check(relation, as_of)));
    TableIterator::new(
        problems.into_iter().map(|one| (Text(one.parent), Text(one.problem), Text(one.detail), one.fix.map(Text))),
    )
}

/// Tables that would gain from being partitioned. See sql/partition_check.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn partition_advice(
    min_size_bytes: default!(Option<i64>, "NULL"),
) -> TableIterator<
    'static,
    (
        name!(relation, Text),
        name!(control_column, Text),
        name!(every, Text),
        name!(priority, Text),
        name!(expected_benefit_pct, f64),
        name!(basis, Text),
        name!(reason, Text),
        name!(evidence, Document),
        name!(ddl, Option<Text>),
    ),
> {
    let started = Instant::now();
    let (rows, notices) = or_raise((|| {
        let bytes_min = match min_size_bytes {
            Some(bytes) if bytes < 0 => {
                return Err(Error::InvalidArgument {
                    argument: "min_size_bytes",
                    value: bytes.to_string(),
                    accepted: "Bytes, zero or more, or NULL for the size of shared_buffers.".to_owned(),
                })
            }
            Some(bytes) => bytes,
            None => shared_buffers_bytes(),
        };
        partitioning::advise(&captured::read()?, bytes_min as f64, started + BUDGET)
    })());
    for line in notices {
        pgrx::notice!("{}", text::message(line));
    }
    TableIterator::new(rows.into_iter().map(|row| {
        (
            Text(row.relation),
            Text(row.control_column),
            Text(row.every),
            Text(row.priority.to_owned()),
            row.benefit_pct,
            Text(row.basis.to_owned()),
            Text(row.reason),
            Document(row.evidence),
            row.ddl.map(Text),
        )
    }))
}

fn shared_buffers_bytes() -> i64 {
    ddl::value("SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers'))").unwrap_or(0)
}

//! SQL: `sql_optimization_examples`.

use pgrx::prelude::*;

use super::{or_raise, required};
use crate::advise::rewrites;
use crate::pg::text::{self, Text};

/// How statements could be written better. See sql/rewrites.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn sql_optimization_examples(
    include_inapplicable: default!(Option<bool>, false),
) -> TableIterator<
    'static,
    (
        name!(example_no, i32),
        name!(title, Text),
        name!(source, Text),
        name!(queryid, Option<i64>),
        name!(problem, Text),
        name!(before_sql, Text),
        name!(after_sql, Option<Text>),
        name!(supporting_ddl, Option<Text>),
        name!(changes_result, Option<bool>),
        name!(cost_before, Option<f64>),
        name!(cost_after, Option<f64>),
        name!(improvement_pct, Option<f64>),
        name!(basis, Text),
        name!(policy_gain, Option<Text>),
        name!(note, Text),
    ),
> {
    let answer = or_raise(required("include_inapplicable", include_inapplicable).and_then(rewrites::examples));
    for line in answer.notices {
        pgrx::notice!("{}", text::message(line));
    }
    TableIterator::new(answer.rows.into_iter().map(|row| {
        (
            row.example_no,
            Text(row.title),
            Text(row.source.to_owned()),
            row.queryid,
            Text(row.problem),
            Text(row.before_sql),
            row.after_sql.map(Text),
            row.supporting_ddl.map(Text),
            row.changes_result,
            row.cost_before,
            row.cost_after,
            row.improvement_pct,
            Text(row.basis.to_owned()),
            row.policy_gain.map(Text),
            Text(row.note),
        )
    }))
}

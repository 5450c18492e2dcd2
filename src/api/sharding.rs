//! SQL: `sharding_advice`.

use pgrx::prelude::*;

use super::or_raise;
use crate::advise::sharding;
use crate::pg::text::Text;

/// Whether to split the database over nodes, and by what. See sql/scaling.sql.
#[pg_extern(volatile, parallel_unsafe)]
#[allow(clippy::type_complexity, reason = "the columns are the contract")]
fn sharding_advice(
    nodes: default!(Option<i32>, 4),
) -> TableIterator<
    'static,
    (
        name!(candidate_key, Option<Text>),
        name!(verdict, Text),
        name!(single_shard_pct, Option<f64>),
        name!(cross_shard_pct, Option<f64>),
        name!(reference_tables, Vec<Text>),
        name!(colocated_tables, Vec<Text>),
        name!(imbalance, Option<f64>),
        name!(blockers, Vec<Text>),
        name!(predicted_speedup, Option<f64>),
        name!(ddl, Option<Text>),
        name!(reason, Text),
    ),
> {
    let texts = |strings: Vec<String>| strings.into_iter().map(Text).collect::<Vec<Text>>();
    let answer = or_raise(sharding::checked_nodes(nodes).and_then(sharding::advise));
    TableIterator::new(answer.rows.into_iter().map(move |row| {
        (
            row.candidate_key.map(Text),
            Text(row.verdict.to_owned()),
            row.single_shard_pct,
            row.cross_shard_pct,
            texts(row.reference_tables),
            texts(row.colocated_tables),
            row.imbalance,
            texts(row.blockers),
            row.predicted_speedup,
            row.ddl.map(Text),
            Text(row.reason),
        )
    }))
}

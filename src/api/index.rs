//! `perf.what_if`, `perf.index_recommendations`.

use pgrx::prelude::*;

use crate::advise::index::what_if;
use crate::error::Error;

/// Plans one statement with and without indexes that do not exist; creates nothing and executes nothing.
///
/// `query` is one SELECT, INSERT, UPDATE, DELETE or MERGE; `indexes` are CREATE INDEX statements (B-tree: several columns,
/// ASC/DESC, NULLS FIRST/LAST, INCLUDE, expressions, WHERE); `without` are names of existing indexes to leave out of sight.
/// Returns a row `current` and a row `hypothetical`: `total_cost` in the planner's unit, the names of the indexes used, and
/// the plan as EXPLAIN prints it. `$1`, `$2`, ... are planned generically. Privileges on the tables are needed as for EXPLAIN.
///
/// Errors: 22004 for a NULL argument, 22023 when `query` is not exactly one statement with a plan or an element of `indexes`
/// not one CREATE INDEX, 0A000 for kinds of index that are not supported, 42704 for an unknown index in `without`, and
/// whatever analysing the statement raises.
#[pg_extern(volatile, parallel_unsafe)]
fn what_if(
    query: Option<&str>,
    indexes: default!(Option<Vec<Option<String>>>, "'{}'"),
    without: default!(Option<Vec<Option<String>>>, "'{}'"),
) -> TableIterator<
    'static,
    (name!(variant, String), name!(total_cost, f64), name!(indexes_used, Vec<String>), name!(plan, String)),
> {
    let answer = required("query", query)
        .and_then(|query| Ok((query, elements("indexes", indexes)?, elements("without", without)?)))
        .and_then(|(query, indexes, without)| what_if::run(query, &indexes, &without));
    match answer {
        Ok(variants) => TableIterator::new(
            variants.into_iter().map(|row| (row.variant.to_owned(), row.total_cost, row.indexes_used, row.plan)),
        ),
        Err(error) => error.raise(),
    }
}

fn required<T>(argument: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::NullArgument { argument })
}

/// The elements of an array argument; none of them may be NULL.
fn elements<T>(argument: &'static str, value: Option<Vec<Option<T>>>) -> Result<Vec<T>, Error> {
    required(argument, value)?.into_iter().map(|element| required(argument, element)).collect()
}

//! The workload as pg_stat_statements has it: day one, before anything was captured. Reads its view through SPI.

use perf_core::normalized::with_casts;
use pgrx::pg_sys;

use super::queries::{Source, StatementSample, Workload, WorkloadStatement};
use crate::error::Error;
use crate::pg::text::Text;
use crate::pg::{catalog, ident, role};

/// Statements read, at most, by measured time.
const STATEMENTS_MAX: i64 = 1000;

/// Reads the view of the current database.
pub fn read() -> Result<Workload, Error> {
    let schema = catalog::value::<Text>(
        "SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_extension e
           JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
          WHERE e.extname OPERATOR(pg_catalog.=) 'pg_stat_statements'",
        &[],
    )
    .ok()
    .flatten()
    .map(|schema| schema.0)
    .ok_or_else(|| Error::WrongState {
        message: "extension \"pg_stat_statements\" is not installed in this database".to_owned(),
        hint: "Run CREATE EXTENSION pg_stat_statements, or pass workload => 'captured' or queries.".to_owned(),
    })?;
    let view = ident::qualified(&schema, "pg_stat_statements");
    let info = ident::qualified(&schema, "pg_stat_statements_info");
    let query = format!(
        "SELECT s.queryid, s.userid, s.calls, s.total_exec_time OPERATOR(pg_catalog.+) s.total_plan_time, s.rows, s.query
           FROM {view} s
          WHERE s.dbid OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                                                WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
            AND s.toplevel AND s.queryid IS NOT NULL AND s.calls OPERATOR(pg_catalog.>) 0
          ORDER BY 4 DESC LIMIT {STATEMENTS_MAX}"
    );
    let failed = |error: pgrx::spi::Error| Error::WrongState {
        message: format!("{view} cannot be read: {error}"),
        hint: "Update the extension with ALTER EXTENSION pg_stat_statements UPDATE.".to_owned(),
    };
    let statements = catalog::rows(&query, &[], |row| {
        let text = row.get::<Text>(6)?.unwrap_or_default().0;
        Ok(Some(WorkloadStatement {
            queryid: row.get::<i64>(1)?.unwrap_or(0),
            userid: row.get::<pg_sys::Oid>(2)?.unwrap_or(pg_sys::InvalidOid),
            calls: row.get::<i64>(3)?.unwrap_or(0) as f64,
            total_ms: row.get::<f64>(4)?.unwrap_or(0.0),
            rows: row.get::<i64>(5)?.unwrap_or(0).max(0) as u64,
            samples: vec![StatementSample { text: with_casts(&text), ..StatementSample::default() }],
            ..WorkloadStatement::default()
        }))
    })
    .map_err(failed)?;
    let hours = catalog::rows(
        &format!(
            "SELECT (EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) i.stats_reset)
                     OPERATOR(pg_catalog./) 3600)::pg_catalog.float8 FROM {info} i"
        ),
        &[],
        |row| row.get::<f64>(1),
    )
    .map_err(failed)?
    .first()
    .copied()
    .filter(|hours| *hours > 0.0);
    let all = statements.len();
    let statements: Vec<WorkloadStatement> =
        statements.into_iter().filter(|statement| role::may_plan_as(statement.userid)).collect();
    let not_permitted = all - statements.len();
    Ok(Workload { source: Source::StatStatements, hours, statements, not_permitted })
}

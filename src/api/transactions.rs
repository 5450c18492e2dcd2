//! What capture knows of applications and transactions, as SQL: internal, for tests and for looking into what advisors
//! say.

use super::or_raise;
use crate::memory;
use crate::pg::names::{current_database, Names};
use crate::pg::srf::RowSink;
use crate::pg::text::Document;
use crate::workload::transactions::{self, Application, Step};
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{json, Value};

/// All applications; see the COMMENT for the columns.
///
/// # Errors
/// 55000 when perf_opt is not preloaded.
#[pg_extern(sql = r#"
CREATE FUNCTION perf."_applications"() RETURNS TABLE (
    database text, username text, application_name text, statements bigint, failures bigint,
    statement_ms double precision, p50_ms double precision, p95_ms double precision, p99_ms double precision,
    transactions bigint, rolled_back bigint, writing bigint, writing_ms double precision
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn _applications(fcinfo: pg_sys::FunctionCallInfo) {
    or_raise(memory::require());
    // SAFETY: called by the server for a function declared to return TABLE.
    let mut sink = unsafe { RowSink::start(fcinfo) };
    let mut names = Names::default();
    for application in transactions::applications(None) {
        emit(&mut sink, &mut names, &application);
    }
}

fn emit(sink: &mut RowSink, names: &mut Names, application: &Application) {
    let ms = |ns: u64| ns as f64 * 1e-6;
    let quantiles = application.latency.quantiles_ns([0.5, 0.95, 0.99]);
    sink.row::<13>(|row| {
        row.text_or_null(names.database(application.dbid));
        row.text_or_null(names.role(application.userid));
        row.text(application.name.as_bytes());
        row.bigint(application.statements);
        row.bigint(application.failures);
        row.float(ms(application.statement_ns));
        for at in 0..3 {
            row.float_or_null(quantiles.map(|ns| ns[at] * 1e-6));
        }
        row.bigint(application.transactions);
        row.bigint(application.rolled_back);
        row.bigint(application.writing);
        row.float(ms(application.writing_ns));
    });
}

/// Transactions of this database that are kept; see the COMMENT for the columns.
///
/// # Errors
/// 55000 when perf_opt is not preloaded.
#[pg_extern(sql = r#"
CREATE FUNCTION perf."_transaction_traces"() RETURNS TABLE (
    ended_at timestamptz, username text, application_name text, statement_ms double precision, writes boolean,
    temporary boolean, fresh boolean, rolled_back boolean, truncated boolean, steps jsonb
) LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"#)]
fn _transaction_traces(fcinfo: pg_sys::FunctionCallInfo) {
    or_raise(memory::require());
    // SAFETY: called by the server for a function declared to return TABLE.
    let mut sink = unsafe { RowSink::start(fcinfo) };
    let mut names = Names::default();
    for trace in transactions::traces(current_database()) {
        let steps = Document(trace.steps.iter().map(document).collect()).into_datum();
        sink.row::<10>(|row| {
            row.timestamp(trace.ended_at);
            row.text_or_null(names.role(trace.userid));
            row.text(trace.application.as_bytes());
            row.float(trace.statement_ns as f64 * 1e-6);
            for flag in [trace.writes, trace.temporary, trace.fresh, trace.rolled_back, trace.truncated] {
                row.put(Some(pg_sys::Datum::from(flag)));
            }
            row.put(steps);
        });
    }
}

fn document(step: &Step) -> Value {
    json!({ "queryid": step.queryid as i64, "toplevel": step.toplevel, "values": step.values })
}

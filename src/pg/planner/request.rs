//! What the planner is asked, and what it answers. Plain values; locks nothing.

use std::cell::RefCell;

use perf_core::cardinality::Identity;
use perf_core::index::needs::Needs;
use perf_core::index::work::Work;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{pg_sys, PgSqlErrorCode};

use super::plan_tree::Scan;
use crate::pg::expressions::Expressions;
use crate::pg::hypothetical::Hypothetical;

/// One parameter value as text, with its type.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Type.
    pub type_oid: pg_sys::Oid,
    /// Text form; None for NULL.
    pub value: Option<String>,
}

/// A statement to plan.
#[derive(Clone, Debug, Default)]
pub struct Statement<'a> {
    /// One statement.
    pub text: &'a str,
    /// The `search_path` to resolve it with; None for the current one.
    pub search_path: Option<&'a str>,
    /// The role to plan it as; None for the current one.
    pub role: Option<pg_sys::Oid>,
    /// Values of `$1`, `$2`, ...; when any is missing the plan is generic.
    pub parameters: &'a [Parameter],
    /// Rows that nodes of its plan gave when it ran, to correct estimates with.
    pub cardinalities: &'a [(Identity, f64)],
    /// How long to wait for a lock, in ms; None for the session's own `lock_timeout`.
    pub lock_timeout_ms: Option<u32>,
    /// Take the query out of a PREPARE, EXPLAIN, DECLARE CURSOR, CREATE TABLE AS or COPY around it: that is the text a
    /// captured query may have come in.
    pub unwrap: bool,
}

/// Which indexes the planner is to see besides or instead of the real ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Configuration<'a> {
    /// Indexes to add.
    pub hypothetical: &'a [&'a Hypothetical],
    /// Indexes to hide.
    pub hidden: &'a [pg_sys::Oid],
    /// Collect what the statement asks of its relations, and here the expressions in it.
    pub harvest: Option<&'a RefCell<Expressions>>,
    /// Print the plan as EXPLAIN does.
    pub explain: bool,
}

/// What the statement writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// Target relation.
    pub relation: pg_sys::Oid,
    /// What it does there.
    pub command: WriteCommand,
    /// Rows a call, as the planner sees it.
    pub rows: f64,
    /// Columns that an UPDATE sets.
    pub columns: Vec<i16>,
}

/// How a statement writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCommand {
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
}

/// One plan.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// The planner's total cost; of all queries together when rules make several.
    pub total_cost: f64,
    /// Rows out of the top node.
    pub rows: f64,
    /// Scans in plan order.
    pub scans: Vec<Scan>,
    /// Number of Sort nodes.
    pub sorts: u32,
    /// EXPLAIN's text, when asked for.
    pub text: Option<String>,
    /// What it asks of its relations, when asked for.
    pub needs: Vec<Needs>,
    /// What it writes.
    pub writes: Vec<Write>,
    /// What executing it would do.
    pub work: Work,
    /// Whether it has parameters (`$1`, ...).
    pub has_parameters: bool,
    /// The largest factor, at least 1, between rows that were expected and rows that were counted; None when none were.
    pub misestimate: Option<f64>,
}

/// Why there is no plan.
pub enum Failure {
    /// The server raised an ERROR.
    Raised(Box<CaughtError>),
    /// It is not exactly one statement: how many.
    NotOne(usize),
    /// It is a utility statement.
    Utility,
    /// Analysing or planning it took longer than the call's [`Deadline`] allows.
    TimedOut,
}

impl Failure {
    /// One line that says why.
    pub fn message(&self) -> String {
        match self {
            Failure::Raised(caught) => report_of(caught).message().to_owned(),
            Failure::NotOne(count) => format!("{count} statements instead of one"),
            Failure::Utility => "a utility statement has no plan".to_owned(),
            Failure::TimedOut => "analysing or planning it took too long".to_owned(),
        }
    }

    /// SQLSTATE of a raised error.
    pub fn code(&self) -> Option<PgSqlErrorCode> {
        match self {
            Failure::Raised(caught) => Some(report_of(caught).sql_error_code()),
            _ => None,
        }
    }

    /// Whether somebody held a lock on what the statement reads.
    pub fn is_locked(&self) -> bool {
        self.code() == Some(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
    }
}

/// What the server said.
pub fn report_of(caught: &CaughtError) -> &pg_sys::panic::ErrorReportWithLevel {
    match caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        CaughtError::RustPanic { ereport, .. } => ereport,
    }
}

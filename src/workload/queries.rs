//! Statements with what they cost: the advisors' input, from whichever source. Owns plain data; locks nothing.

use pgrx::pg_sys;

use crate::error::Error;

/// One parameter of a sampled call.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleParam {
    /// Its type.
    pub type_oid: pg_sys::Oid,
    /// Its text form.
    pub value: String,
}

/// One real call of a statement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatementSample {
    /// Text as it was sent, one statement.
    pub text: String,
    /// `search_path` it was sent with; empty when unknown.
    pub search_path: String,
    /// Values of `$1`, `$2`, ...; None for NULL. Empty when they are unknown.
    pub params: Vec<Option<SampleParam>>,
    /// Rows that nodes of its plan gave, by `perf_core::cardinality`'s identities. Empty when they are unknown.
    pub cardinalities: Vec<(u64, f64)>,
}

/// One statement and what was measured of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadStatement {
    /// The server's query id; 0 when unknown.
    pub queryid: i64,
    /// The role that runs it; zero for the current one.
    pub userid: pg_sys::Oid,
    /// Executions. For given queries: their weight.
    pub calls: f64,
    /// Failed executions.
    pub failures: u64,
    /// Measured time; 0 when it was not measured.
    pub total_ms: f64,
    /// When the measurement began, as the server counts; None when that is not known.
    pub first_seen: Option<i64>,
    /// Rows returned or changed.
    pub rows: u64,
    /// It ran within a function: its text may name the function's arguments, and then cannot be planned alone.
    pub nested: bool,
    /// Samples, the most telling first. Never empty.
    pub samples: Vec<StatementSample>,
}

/// Where a workload comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Capture, in shared memory.
    Captured,
    /// The view of pg_stat_statements.
    StatStatements,
    /// The caller's list.
    Given,
}

/// A workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Where it comes from.
    pub source: Source,
    /// Over how many hours it was measured, if it was and that is known.
    pub hours: Option<f64>,
    /// Its statements.
    pub statements: Vec<WorkloadStatement>,
    /// Statements left out because the caller may not plan as their role.
    pub not_permitted: usize,
}

impl Workload {
    /// A workload without statements.
    pub fn empty(source: Source) -> Self {
        Workload { source, hours: None, statements: Vec::new(), not_permitted: 0 }
    }

    /// The measured time of all statements.
    pub fn total_ms(&self) -> f64 {
        self.statements.iter().map(|statement| statement.total_ms).sum()
    }

    /// Whether its times were measured.
    pub fn is_measured(&self) -> bool {
        self.source != Source::Given
    }
}

/// The caller's own list, each query as many times as its weight says.
pub fn given(queries: Vec<String>, weights: Option<Vec<f64>>) -> Result<Workload, Error> {
    let weights = weights.unwrap_or_else(|| vec![1.0; queries.len()]);
    if weights.len() != queries.len() {
        return Err(Error::InvalidArgument {
            argument: "weights",
            value: format!("{} elements", weights.len()),
            accepted: format!("Give one weight for each of the {} queries, or none at all.", queries.len()),
        });
    }
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite() || **weight < 0.0) {
        return Err(Error::InvalidArgument {
            argument: "weights",
            value: weight.to_string(),
            accepted: "A weight is a number of executions: zero or more, and finite.".to_owned(),
        });
    }
    let statements = queries
        .into_iter()
        .zip(weights)
        .map(|(text, calls)| WorkloadStatement {
            calls,
            samples: vec![StatementSample { text, ..StatementSample::default() }],
            ..WorkloadStatement::default()
        })
        .collect();
    Ok(Workload { statements, ..Workload::empty(Source::Given) })
}

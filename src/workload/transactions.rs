//! What capture knows beyond single statements: what each application did, and some transactions as they were. Read by the
//! advisors and by metrics; owns plain data, locks nothing itself.

use crate::memory::{applications, traces};
use perf_core::histogram::Histogram;

/// What one application did in one database as one role since the server started.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// OID of the database.
    pub dbid: u32,
    /// OID of the role; 0 in the row "(other)", of which there is one for each database at most, and one without a database.
    pub userid: u32,
    /// `application_name`; empty when the client gave none. "(other)" sums up those there was no room for.
    pub name: String,
    /// Top-level statements, failed ones included.
    pub statements: u64,
    /// Top-level statements that failed.
    pub failures: u64,
    /// Time in top-level statements.
    pub statement_ns: u64,
    /// Latencies of top-level statements.
    pub latency: Histogram,
    /// Transactions that ended.
    pub transactions: u64,
    /// Transactions rolled back.
    pub rolled_back: u64,
    /// Transactions that were given a transaction id: they wrote, or locked rows.
    pub writing: u64,
    /// Time in statements of those.
    pub writing_ns: u64,
}

/// A transaction as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// When it ended, in microseconds of the server's epoch.
    pub ended_at: i64,
    /// Role that began it.
    pub userid: u32,
    /// `application_name` at its end.
    pub application: String,
    /// Time in its top-level statements.
    pub statement_ns: u64,
    /// It was given a transaction id: it wrote, or locked rows.
    pub writes: bool,
    /// It used a temporary table.
    pub temporary: bool,
    /// It wrote nothing, and read a relation that the same role had written within a second before.
    pub fresh: bool,
    /// It was rolled back.
    pub rolled_back: bool,
    /// It had more statements, or one of them more values, than there was room for: the last ones are missing.
    pub truncated: bool,
    /// Its statements in the order in which they ended: those within a function before the one that calls it. Failed ones
    /// as well, and BEGIN and COMMIT.
    pub steps: Vec<Step>,
}

/// A statement of a transaction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// As in `perf.statements()`.
    pub queryid: u64,
    /// Whether a client sent it, rather than a function.
    pub toplevel: bool,
    /// Hashes of the values of `$1`, `$2`, ... of its normalised text, parameters first, then literals in their order.
    /// Values whose text is the same have the same hash, whatever their type. None: NULL, too long, or not known; the
    /// parameters of failed and utility statements are not. Variables of PL/pgSQL are no parameters of the text.
    pub values: Vec<Option<u64>>,
}

/// What each application did, of all databases.
pub fn applications() -> Vec<Application> {
    let application = |counted: applications::Counted| Application {
        dbid: counted.dbid,
        userid: counted.userid,
        name: counted.name,
        statements: counted.statements,
        failures: counted.failures,
        statement_ns: counted.statement_ns,
        latency: counted.latency,
        transactions: counted.transactions,
        rolled_back: counted.rolled_back,
        writing: counted.writing,
        writing_ns: counted.writing_ns,
    };
    applications::read().into_iter().map(application).collect()
}

/// The transactions of a database that are kept, oldest first.
pub fn traces(dbid: u32) -> Vec<Trace> {
    let mut found = Vec::new();
    traces::read(dbid, |record| {
        let has = |flag: u32| record.flags & flag != 0;
        let step = |step: traces::Step| Step { queryid: step.queryid, toplevel: step.toplevel, values: step.values };
        found.push(Trace {
            ended_at: record.ended_at,
            userid: record.userid,
            application: traces::application(record),
            statement_ns: record.statement_ns,
            writes: has(traces::WRITES),
            temporary: has(traces::TEMPORARY),
            fresh: has(traces::FRESH),
            rolled_back: has(traces::ROLLED_BACK),
            truncated: has(traces::TRUNCATED),
            steps: traces::steps(record).into_iter().map(step).collect(),
        });
    });
    found
}

//! What capture knows beyond single statements: what each application did, and some transactions as they were. Read by the
//! advisors and by metrics; owns plain data, locks nothing itself.

use crate::memory::{applications, traces};

pub use applications::{Application, OTHER, OTHER_ROLE};
pub use traces::Step;

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

/// What each application did, of all databases or of one.
pub fn applications(dbid: Option<u32>) -> Vec<Application> {
    applications::read(dbid)
}

/// The transactions of a database that are kept, oldest first.
pub fn traces(dbid: u32) -> Vec<Trace> {
    let mut found = Vec::new();
    traces::read(dbid, |record| {
        let has = |flag: u32| record.flags & flag != 0;
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
            steps: traces::steps(record),
        });
    });
    found
}

//! How statements could be written better: the examples of `perf.sql_example`, measured here, and rules over captured
//! statements. Called by `perf.sql_optimization_examples`. Analyses and plans, and locks as that does; nothing is executed,
//! and nothing is left locked.
//!
//! `policy` has the examples, `workload` the captured statements, `facts` what catalogs and statistics say of their tables,
//! `costs` asks the planner. What is looked for in a statement is `crate::pg::query_rules`, which rules there are and when
//! they speak is `perf_core::rewrite`.

mod costs;
mod facts;
mod policy;
mod workload;

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::memory;
use crate::pg::planner::Deadline;

/// Time for everything.
const BUDGET: Duration = Duration::from_secs(10);

/// One row of the answer; the columns are described in sql/rewrites.sql.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub example_no: i32,
    pub title: String,
    pub source: &'static str,
    pub queryid: Option<i64>,
    pub problem: String,
    pub before_sql: String,
    pub after_sql: Option<String>,
    pub supporting_ddl: Option<String>,
    pub changes_result: Option<bool>,
    pub cost_before: Option<f64>,
    pub cost_after: Option<f64>,
    pub improvement_pct: Option<f64>,
    pub basis: &'static str,
    pub policy_gain: Option<String>,
    pub note: String,
}

/// All rows, and what the user should know besides.
#[derive(Default)]
pub struct Answer {
    pub rows: Vec<Row>,
    pub notices: Vec<String>,
}

/// The examples, then what the captured statements could do better, the heaviest first.
pub fn examples(include_inapplicable: bool) -> Result<Answer, Error> {
    let deadline = Instant::now() + BUDGET;
    let _limit = Deadline::set(deadline);
    let mut answer = Answer { rows: policy::rows(include_inapplicable)?, notices: Vec::new() };
    if memory::is_ready() {
        workload::add(&mut answer, include_inapplicable, deadline)?;
    } else {
        answer.notices.push(
            "captured statements are not looked at: perf_opt is not loaded via \"shared_preload_libraries\"".to_owned(),
        );
    }
    Ok(answer)
}

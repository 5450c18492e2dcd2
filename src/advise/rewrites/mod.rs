//! How statements could be written better: the examples of `perf.sql_example`, measured here, and rules over captured
//! statements. Called by `perf.sql_optimization_examples`. Analyses and plans, and locks as that does; nothing is executed,
//! and nothing is left locked.
//!
//! `policy` has the examples, `workload` the captured statements, `studied` one of them, `measured` what its counters and the
//! state of its tables say, `facts` what catalogs and statistics say of tables, `costs` asks the planner. What is looked for
//! in a statement is `crate::pg::query_rules`, which rules there are and when they speak is `perf_core::rewrite`.

mod costs;
mod facts;
mod measured;
mod policy;
mod studied;
mod workload;

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::memory;
use crate::pg::planner::Deadline;

/// Time for everything: analysing statements, planning them, and what catalogs are asked.
const BUDGET: Duration = Duration::from_secs(10);
/// Share of it that the examples may take.
const EXAMPLES_SHARE: f64 = 0.5;

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
    let started = Instant::now();
    let _limit = Deadline::set(started + BUDGET);
    let mut answer = Answer::default();
    {
        let _limit = Deadline::set(started + BUDGET.mul_f64(EXAMPLES_SHARE));
        policy::add(&mut answer, include_inapplicable)?;
    }
    if memory::is_ready() {
        workload::add(&mut answer, include_inapplicable)?;
    } else {
        answer.notices.push(
            "captured statements are not looked at: perf_opt is not loaded via \"shared_preload_libraries\"".to_owned(),
        );
    }
    Ok(answer)
}

//! The model of the workload that the advisors reason about.

pub mod captured;
pub mod queries;
pub mod stat_statements;

//! The model of the workload that the advisors reason about.

pub mod captured;
pub mod history;
pub mod pools;
pub mod queries;
pub mod shapes;
pub mod stat_statements;
pub mod transactions;

//! How perf_opt tells what it knows to people and programs. Called by the SQL functions; reads through the advisors only.

pub mod prometheus;

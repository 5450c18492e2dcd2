//! The logic of perf_opt that needs no server: plain data in, plain data out, tested with plain `cargo test`.
//!
//! Nothing here may depend on pgrx, do I/O or read a clock.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod activity;
pub mod alerts;
pub mod autopilot;
pub mod backoff;
pub mod baseline;
pub mod cache;
pub mod calendar;
pub mod cardinality;
pub mod change;
pub mod conninfo;
pub mod cost;
pub mod counters;
pub mod delta;
pub mod fnv;
pub mod forecast;
pub mod guard;
pub mod histogram;
pub mod host;
pub mod index;
pub mod ladder;
pub mod matview;
pub mod normalize;
pub mod normalized;
pub mod outcome;
pub mod partition;
pub mod partition_convert;
pub mod patterns;
pub mod pool;
pub mod prewarm;
pub mod replicas;
pub mod rewrite;
pub mod roadmap;
pub mod sampling;
pub mod schedule;
pub mod series;
pub mod sharding;
pub mod standby;
pub mod stats;

//! The embedded cache: values that applications put and get, exact under invalidation. Entries and marks are rows of unlogged
//! tables of schema perf; what is counted is in shared memory. Called by the SQL surface, and by the collector
//! ([`tidy::maintain`]). And what keeps it, Redis and listeners exact: what is watched ([`watch`]), what changed ([`outbox`]),
//! and the process that tells ([`invalidator`]).

pub mod batch;
pub mod cached;
mod changed;
pub mod entries;
pub mod invalidate;
pub mod invalidator;
mod lease;
pub mod marks;
pub mod outbox;
pub mod policies;
pub mod redis;
pub mod statistics;
pub mod tidy;
pub mod watch;

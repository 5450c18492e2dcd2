//! The embedded cache: values that applications put and get, exact under invalidation. Entries and marks are rows of unlogged
//! tables of schema perf; what is counted is in shared memory. Called by the SQL surface, by the worker that works off what
//! has changed ([`marks::mark_invalid`], [`statistics::note_invalidations`]) and by the collector ([`tidy::maintain`]).

pub mod cached;
pub mod entries;
pub mod invalidate;
mod lease;
pub mod marks;
mod policies;
pub mod statistics;
pub mod tidy;

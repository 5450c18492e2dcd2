//! Result caches: what is watched, what changed, and who is told.

pub mod invalidator;
pub mod outbox;
pub mod redis;
pub mod watch;

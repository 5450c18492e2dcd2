//! Changes that were recommended and made: what is remembered of them, whether they did what they promised, and how they are
//! taken back. Made by `advise::apply`, which knows the advice; carried out by the workers of the kind `act::tasks::change`;
//! judged by `perf_core::change`.
//!
//! Locks rows of perf.change, for the length of the caller's transaction.

pub mod audit;
pub mod caching;
pub mod index_state;
pub mod observed;
pub mod parts;
pub mod room;
pub mod setting;
pub mod store;
pub mod undo;
pub mod verify;
pub mod view;
pub mod watched;
pub mod window;

use pgrx::datum::Interval;
use serde_json::json;

use crate::act::define::{self, Definition};
use crate::error::Error;

/// The kind of job.
pub const KIND: &str = "change";
/// The job of each role that makes changes: its runs follow each other, so that a role makes one change at a time.
const JOB: &str = "apply recommendations";
/// How long a step waits for a lock, while nobody has to wait for it.
const LOCK_TIMEOUT: &str = "1 minute";
/// Further tries of a run whose worker was lost, or that waited for a lock in vain.
const RETRIES: i32 = 2;

/// Queues a run of the current role's changes; its number.
pub fn queue_run() -> Result<i64, Error> {
    let lock_timeout = LOCK_TIMEOUT.parse::<Interval>().map_err(|_| Error::InvalidArgument {
        argument: "lock_timeout",
        value: LOCK_TIMEOUT.to_owned(),
        accepted: "An interval.".to_owned(),
    })?;
    let job = Definition {
        name: JOB,
        kind: KIND,
        target: None,
        schedule: define::MANUAL,
        time_zone: "UTC",
        command: None,
        options: json!({}),
        timeout: None,
        lock_timeout: Some(lock_timeout),
        max_retries: RETRIES,
        priority: 0,
        catch_up: "skip",
        overlap: "queue",
    };
    define::run_now(job.store()?)
}

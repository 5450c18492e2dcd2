//! The SQL surface: argument checks, rows out, no logic.

pub mod act;
pub mod alerts;
pub mod baselines;
pub mod cache;
pub mod cache_watch;
pub mod caching;
pub mod capacity;
pub mod cost;
pub mod fleet;
pub mod health;
pub mod index;
pub mod jobs;
pub mod maintenance;
pub mod matviews;
pub mod metrics;
pub mod observe;
pub mod partition_check;
pub mod partition_convert;
pub mod partitions;
pub mod pools;
pub mod report;
pub mod rewrites;
pub mod roadmap;
pub mod scaling;
pub mod sharding;
pub mod statements;
pub mod transactions;

use pgrx::datum::TimestampWithTimeZone;

use crate::act::jobs::to_unix;
use crate::error::Error;

/// The value of an argument that may not be NULL.
pub fn required<T>(argument: &'static str, value: Option<T>) -> Result<T, Error> {
    value.ok_or(Error::NullArgument { argument })
}

/// A time that is not NULL and not infinite, in microseconds since 1970.
pub fn finite(argument: &'static str, value: Option<TimestampWithTimeZone>) -> Result<i64, Error> {
    let at = i64::from(required(argument, value)?);
    if at == i64::MIN || at == i64::MAX {
        return Err(Error::InvalidArgument {
            argument,
            value: if at < 0 { "-infinity" } else { "infinity" }.to_owned(),
            accepted: "A time.".to_owned(),
        });
    }
    Ok(to_unix(at))
}

/// The value, or the error raised. Call it in a public function's first lines, where nothing with a destructor is live.
pub fn or_raise<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| error.raise())
}

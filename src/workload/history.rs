//! What the collector has written of the current database, as the caller may see it. Locks what reading it locks.

use pgrx::datum::TimestampWithTimeZone;

use crate::pg::background::{self, instant};
use crate::pg::query::select_with;

/// The first stretch of time that is looked at; each next one is twice as long.
const STRETCH_US: i64 = 86_400_000_000;

/// When what was written from `since` on began; None for `since`: all of it. A long history is not read for it: partitions
/// before the first that has something are empty, and those after it are left alone.
pub fn first_activity(since: Option<i64>) -> Option<i64> {
    let now = background::now();
    let Some(mut from) = since else { return between(i64::MIN, i64::MAX) };
    let mut stretch = STRETCH_US;
    while from <= now {
        let until = from.saturating_add(stretch).min(now.saturating_add(STRETCH_US));
        if let Some(found) = between(from, until) {
            return Some(found);
        }
        (from, stretch) = (until, stretch.saturating_mul(2));
    }
    // Clocks are set.
    between(from, i64::MAX)
}

fn between(from: i64, until: i64) -> Option<i64> {
    let found = select_with(
        c"SELECT pg_catalog.min(h.bucket_at) FROM perf.statement_history_visible h
           WHERE h.collected_at OPERATOR(pg_catalog.>=) $1 AND h.collected_at OPERATOR(pg_catalog.<) $2
             AND h.last_seen_at OPERATOR(pg_catalog.>=) $1",
        &[instant(from).into(), instant(until).into()],
        |row| row.get::<TimestampWithTimeZone>(1),
    );
    found.into_iter().next().map(i64::from)
}

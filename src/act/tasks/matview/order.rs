//! Views that read other views are refreshed after them. The scheduler starts what has the higher priority first, and a
//! view's priority falls with each view between it and the tables; here a run waits for those that have started and not
//! ended.
//!
//! Nobody waits for a run that has failed before, or for ever. Who waits holds nothing, and views cannot read each other
//! in a circle, so waiting ends. Called by the task outside of any transaction, and by the function that schedules one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use serde_json::{json, Map, Value};

use crate::act::executor::{self, Failure};
use crate::act::runs::{rows, Order};
use crate::pg::{background, privilege, view_sources};

/// What a wait sleeps between two looks, in milliseconds: at first, and at most.
const LOOK_MS: i64 = 10;
const LOOK_MAX_MS: i64 = 250;
/// How long runs are waited for: those that run, at most and at most half of this run's own time; those that are about to
/// start.
const RUNNING_MAX: Duration = Duration::from_secs(300);
const STARTING_MAX: Duration = Duration::from_secs(2);
/// Views upon views, at most, that make a difference.
const DEPTH_MAX: i32 = 100;

/// How many materialized views, one reading the other, are below this one.
pub fn depth(view: pg_sys::Oid) -> i32 {
    fn depth_of(view: u32, known: &mut BTreeMap<u32, i32>, level: i32) -> i32 {
        if let Some(depth) = known.get(&view) {
            return *depth;
        }
        if level >= DEPTH_MAX {
            return 0;
        }
        let below = view_sources::find(pg_sys::Oid::from(view)).matviews;
        let depth = below.iter().map(|below| 1 + depth_of(*below, known, level + 1)).max().unwrap_or(0).min(DEPTH_MAX);
        known.insert(view, depth);
        depth
    }
    depth_of(view.to_u32(), &mut BTreeMap::new(), 0)
}

/// Runs of the views that this one reads.
struct Upstream {
    running: bool,
    starting: bool,
}

/// Waits until the views that this one reads are refreshed, if they are due.
pub fn wait_for_upstream(order: &Order, view: pg_sys::Oid, detail: &mut Map<String, Value>) -> Result<(), Failure> {
    let started = Instant::now();
    let half = order.timeout_ms.and_then(|limit| u64::try_from(limit / 2).ok()).map(Duration::from_millis);
    let most = half.map_or(RUNNING_MAX, |half| half.min(RUNNING_MAX));
    let mut pause_ms = LOOK_MS;
    let mut has_waited = false;
    loop {
        let late = started.elapsed();
        let waits = executor::transaction(|| {
            let found = upstream(order, view);
            let waits = (found.running && late < most) || (found.starting && late < STARTING_MAX.min(most));
            if waits {
                background::pause(pause_ms);
            } else if found.running {
                detail.insert("not_waited_for".to_owned(), json!("a view that it reads is still being refreshed"));
            }
            Ok(waits)
        })?;
        if !waits {
            break;
        }
        has_waited = true;
        pause_ms = (pause_ms * 3 / 2).min(LOOK_MAX_MS);
    }
    if has_waited {
        detail.insert("upstream_wait_ms".to_owned(), json!(started.elapsed().as_secs_f64() * 1e3));
    }
    Ok(())
}

fn upstream(order: &Order, view: pg_sys::Oid) -> Upstream {
    let none = Upstream { running: false, starting: false };
    let read: Vec<pg_sys::Oid> = view_sources::find(view).matviews.into_iter().map(pg_sys::Oid::from).collect();
    if read.is_empty() {
        return none;
    }
    let found = privilege::as_owner_of(c"job_run", || {
        let due = rows(c"SELECT scheduled_at FROM perf.job_run WHERE run_id = $1", &[order.run_id.into()], |row| {
            row.get::<TimestampWithTimeZone>(1)
        });
        let Some(due) = due.into_iter().flatten().next() else { return Vec::new() };
        // A first try only: one that has failed may fail again.
        rows(
            c"SELECT COALESCE(pg_catalog.bool_or(r.status = 'running' AND r.attempt = 1), false),
                    COALESCE(pg_catalog.bool_or(r.status = 'queued' AND r.attempt = 0
                                                OR r.run_id IS NULL AND j.enabled AND j.next_run_at <= $2
                                                   AND COALESCE(j.paused_until <= $2, true)), false)
             FROM perf.job j
             LEFT JOIN perf.job_run r
                    ON r.job_id = j.job_id AND r.status IN ('queued', 'running') AND r.scheduled_at <= $2
             WHERE j.kind = 'matview' AND j.target::pg_catalog.oid = ANY ($1)",
            &[read.into(), due.into()],
            |row| Upstream { running: row.get(1).unwrap_or(false), starting: row.get(2).unwrap_or(false) },
        )
    });
    found.into_iter().flatten().next().unwrap_or(none)
}

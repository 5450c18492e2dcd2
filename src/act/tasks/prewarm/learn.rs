//! What a prewarm job knows: the counters it saw last, what each hour of the week touches of which relation, and how the
//! hours went that it warmed or held out. Called by the job's run, inside a transaction; writes with the rights of the tables'
//! owner and locks the row of the job's state.
//!
//! Nothing is sampled in between: the difference of the server's own counters from one run to the next is an hour.

use std::collections::HashMap;

use perf_core::prewarm::{self as decide, Measured, Reading, Use, RELATIONS_MAX};
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;

use super::{Hour, PROFILE, SECOND_US};
use crate::act::jobs::{to_server, to_unix};
use crate::act::runs::{rows, run, timestamp};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::zone::ServerZone;

/// Weeks of measured hours that are kept.
const WEEKS_KEPT: i32 = 10;

/// Blocks that were asked for, and found in the cache, of each relation since its statistics began.
type Counters = HashMap<u32, (i64, i64)>;

struct State {
    read_at: Option<i64>,
    runs: i64,
    counters: Counters,
}

/// Takes a reading: adds what the hour that is over has touched to the profile, and settles its measurement. The number of
/// the run, from 1.
pub fn read(job_id: i64, now: i64, zone: &ServerZone) -> Result<i64, Error> {
    owned(|| {
        let before = state(job_id);
        let runs = before.runs + 1;
        run(c"UPDATE perf.prewarm_state SET runs = $2 WHERE job_id = $1", &[job_id.into(), runs.into()]);
        let reading = decide::reading(before.read_at, now);
        if reading == Reading::Wait {
            return Ok(runs);
        }
        let counters = counters();
        if let Reading::Of(at) = reading {
            let hour = Hour::containing(at, zone);
            let used = difference(&before.counters, &counters);
            learn(job_id, hour.of_week, &used);
            measure(job_id, hour, &used);
        }
        store(job_id, now, &counters);
        Ok(runs)
    })
}

/// Begins to count anew: what was read up to now says nothing of an hour. Nothing to do for a job without a state.
pub fn begin(job_id: i64) -> Result<(), Error> {
    owned(|| {
        store(job_id, super::now(), &counters());
        Ok(())
    })
}

/// Hours that were measured, the latest first.
pub fn history(job_id: i64, limit: i64) -> Result<Vec<Measured>, Error> {
    owned(|| {
        Ok(rows(
            c"SELECT warmed, touched, reads FROM perf.prewarm_hour
             WHERE job_id = $1 AND touched IS NOT NULL ORDER BY hour_at DESC LIMIT $2",
            &[job_id.into(), limit.into()],
            |row| {
                let used = Use { touched: row.get(2).unwrap_or(0.0), reads: row.get(3).unwrap_or(0.0) };
                Measured { warmed: row.get(1).unwrap_or(false), used }
            },
        ))
    })
}

fn owned<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    privilege::as_owner(PROFILE, || privilege::writable(body))
}

fn state(job_id: i64) -> State {
    run(c"INSERT INTO perf.prewarm_state (job_id) VALUES ($1) ON CONFLICT DO NOTHING", &[job_id.into()]);
    let found = rows(
        c"SELECT read_at, runs, relids, fetched, hit FROM perf.prewarm_state WHERE job_id = $1 FOR UPDATE",
        &[job_id.into()],
        |row| {
            let relids = row.get::<Vec<pg_sys::Oid>>(3).unwrap_or_default();
            let fetched = row.get::<Vec<i64>>(4).unwrap_or_default();
            let hit = row.get::<Vec<i64>>(5).unwrap_or_default();
            State {
                read_at: row.get::<TimestampWithTimeZone>(1).map(|at| to_unix(i64::from(at)).div_euclid(SECOND_US)),
                runs: row.get::<i64>(2).unwrap_or(0),
                counters: relids.into_iter().map(pg_sys::Oid::to_u32).zip(fetched.into_iter().zip(hit)).collect(),
            }
        },
    );
    found.into_iter().next().unwrap_or(State { read_at: None, runs: 0, counters: Counters::new() })
}

fn store(job_id: i64, now: i64, counters: &Counters) {
    let relids: Vec<pg_sys::Oid> = counters.keys().map(|oid| pg_sys::Oid::from(*oid)).collect();
    let fetched: Vec<i64> = counters.values().map(|(fetched, _)| *fetched).collect();
    let hit: Vec<i64> = counters.values().map(|(_, hit)| *hit).collect();
    let at = timestamp(to_server(now.saturating_mul(SECOND_US)));
    run(
        c"UPDATE perf.prewarm_state SET read_at = $2, relids = $3, fetched = $4, hit = $5 WHERE job_id = $1",
        &[job_id.into(), at.into(), relids.into(), fetched.into(), hit.into()],
    );
}

/// Of all tables, materialized views and indexes of users that were ever read. TOAST goes uncounted: nobody but its owner may
/// read it by name.
fn counters() -> Counters {
    let found = rows(
        c"SELECT s.relid, s.fetched, s.hit
         FROM (SELECT c.oid AS relid, pg_stat_get_blocks_fetched(c.oid) AS fetched, pg_stat_get_blocks_hit(c.oid) AS hit
               FROM pg_class c
               WHERE c.relkind IN ('r', 'm', 'i') AND c.relpersistence <> 't'
                 AND c.relnamespace NOT IN (SELECT n.oid FROM pg_namespace n
                                            WHERE n.nspname IN ('pg_catalog', 'pg_toast', 'information_schema', 'perf'))) s
         WHERE s.fetched > 0",
        &[],
        |row| {
            let oid = row.get::<pg_sys::Oid>(1).map_or(0, pg_sys::Oid::to_u32);
            (oid, (row.get::<i64>(2).unwrap_or(0), row.get::<i64>(3).unwrap_or(0)))
        },
    );
    found.into_iter().collect()
}

/// What was touched in between. Counters that went back were reset, and say nothing.
fn difference(before: &Counters, after: &Counters) -> HashMap<u32, Use> {
    after
        .iter()
        .filter_map(|(oid, (fetched, hit))| {
            let (fetched_before, hit_before) = before.get(oid).copied().unwrap_or((0, 0));
            let (touched, hits) = (fetched - fetched_before, hit - hit_before);
            (touched > 0 && hits >= 0)
                .then(|| (*oid, Use { touched: touched as f64, reads: (touched - hits).max(0) as f64 }))
        })
        .collect()
}

fn learn(job_id: i64, hour: i64, used: &HashMap<u32, Use>) {
    let mut known: HashMap<u32, (Option<Use>, Use)> = rows(
        c"SELECT relid, touched, reads FROM perf.prewarm_profile WHERE job_id = $1 AND hour = $2",
        &[job_id.into(), hour.into()],
        |row| {
            let oid = row.get::<pg_sys::Oid>(1).map_or(0, pg_sys::Oid::to_u32);
            (oid, Use { touched: row.get(2).unwrap_or(0.0), reads: row.get(3).unwrap_or(0.0) })
        },
    )
    .into_iter()
    .map(|(oid, before)| (oid, (Some(before), Use::default())))
    .collect();
    for (oid, used) in used {
        known.entry(*oid).or_default().1 = *used;
    }
    let mut profile: Vec<(u32, Use)> = known
        .into_iter()
        .filter_map(|(oid, (before, observed))| Some((oid, decide::learn(before, observed)?)))
        .collect();
    profile.sort_by(|a, b| b.1.touched.total_cmp(&a.1.touched).then(a.0.cmp(&b.0)));
    profile.truncate(RELATIONS_MAX);
    let relids: Vec<pg_sys::Oid> = profile.iter().map(|(oid, _)| pg_sys::Oid::from(*oid)).collect();
    let touched: Vec<f64> = profile.iter().map(|(_, used)| used.touched).collect();
    let reads: Vec<f64> = profile.iter().map(|(_, used)| used.reads).collect();
    run(
        c"DELETE FROM perf.prewarm_profile p
         WHERE p.job_id = $1 AND (p.hour = $2 AND p.relid <> ALL ($3)
                                  OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relid))",
        &[job_id.into(), hour.into(), relids.clone().into()],
    );
    run(
        c"INSERT INTO perf.prewarm_profile (job_id, hour, relid, touched, reads)
         SELECT $1, $2, u.relid, u.touched, u.reads FROM unnest($3::oid[], $4::float8[], $5::float8[]) u (relid, touched, reads)
         ON CONFLICT (job_id, hour, relid) DO UPDATE SET touched = excluded.touched, reads = excluded.reads",
        &[job_id.into(), hour.into(), relids.into(), touched.into(), reads.into()],
    );
}

/// Notes how an hour went that was warmed or held out.
fn measure(job_id: i64, hour: Hour, used: &HashMap<u32, Use>) {
    let at = timestamp(to_server(hour.at.saturating_mul(SECOND_US)));
    let found = rows(
        c"SELECT relids FROM perf.prewarm_hour WHERE job_id = $1 AND hour_at = $2 AND touched IS NULL",
        &[job_id.into(), at.into()],
        |row| row.get::<Vec<pg_sys::Oid>>(1),
    );
    for relids in found.into_iter().flatten() {
        let sum = relids
            .iter()
            .filter_map(|oid| used.get(&oid.to_u32()))
            .fold(Use::default(), |sum, one| Use { touched: sum.touched + one.touched, reads: sum.reads + one.reads });
        run(
            c"UPDATE perf.prewarm_hour SET touched = $3, reads = $4 WHERE job_id = $1 AND hour_at = $2",
            &[job_id.into(), at.into(), sum.touched.into(), sum.reads.into()],
        );
    }
    run(
        c"DELETE FROM perf.prewarm_hour WHERE job_id = $1 AND hour_at < now() - make_interval(weeks => $2)",
        &[job_id.into(), WEEKS_KEPT.into()],
    );
}

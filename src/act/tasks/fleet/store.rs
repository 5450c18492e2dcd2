//! Keeps what standbys say: the latest answer of each, the use of indexes, and samples of capacity. Called by the fleet job
//! inside its transaction; locks the rows of its node.

use perf_core::standby::{self, Lag, Mark, Reading};
use pgrx::pg_sys;

use super::{Answer, Facts, Here};
use crate::act::executor::{self, Failure};
use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::text;
use crate::pg::text::Text;

const NODES: &std::ffi::CStr = c"fleet_node";

/// What is known of a node since it was asked before.
struct Earlier {
    marks: Vec<Mark>,
    reading: Option<Reading>,
}

/// Writes down an answer; the lag that it means.
pub fn store(job_id: i64, name: &str, here: &Here, answer: &Answer) -> Result<Option<Lag>, Failure> {
    let lag = privilege::as_owner(NODES, || privilege::writable(|| Ok(write(job_id, here, answer))))?;
    let Some((lag, qps)) = lag else {
        write_status(job_id, answer)?;
        return Ok(None);
    };
    // Where samples have no partition for now, the answer counts nevertheless.
    let sampled = executor::subtransaction(|| {
        let samples = [("fleet_lag_s", lag.seconds), ("fleet_qps", qps)];
        Ok(privilege::as_owner(NODES, || {
            privilege::writable(|| {
                for (metric, value) in samples.into_iter().filter_map(|(metric, value)| Some((metric, value?))) {
                    sample(metric, name, value);
                }
                Ok(())
            })
        })?)
    });
    match sampled {
        Err(failure) if failure.sqlstate == executor::QUERY_CANCELED => Err(failure),
        _ => Ok(Some(lag)),
    }
}

fn sample(metric: &str, name: &str, value: f64) {
    run(
        c"INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean)
         VALUES ($1, $2, pg_catalog.now(), 60, $3)",
        &[text(metric), text(name), value.into()],
    );
}

fn earlier(job_id: i64) -> Earlier {
    let found = rows(
        c"SELECT mark_positions, mark_times, counter, pg_catalog.date_part('epoch', counter_at), counter_life
         FROM perf.fleet_node WHERE job_id = $1",
        &[job_id.into()],
        |row| {
            let positions = row.get::<Vec<f64>>(1).unwrap_or_default();
            let times = row.get::<Vec<f64>>(2).unwrap_or_default();
            let life = row.get::<Text>(5);
            Earlier {
                marks: positions.into_iter().zip(times).map(|(position, at_s)| Mark { position, at_s }).collect(),
                reading: row.get::<f64>(3).zip(row.get::<f64>(4)).zip(life).map(|((value, at_s), life)| Reading {
                    value,
                    at_s,
                    life: life.0,
                }),
            }
        },
    );
    found.into_iter().next().unwrap_or(Earlier { marks: Vec::new(), reading: None })
}

/// An answer of a standby that follows: its lag and statements a second. None where there is none.
fn write(job_id: i64, here: &Here, answer: &Answer) -> Option<(Lag, Option<f64>)> {
    let facts: &Facts = answer.facts.as_ref()?;
    let earlier = earlier(job_id);
    let lag = standby::lag(here.now, facts.replayed, facts.replayed_at_s, &earlier.marks);
    let qps = facts.reading.as_ref().and_then(|now| standby::rate(earlier.reading.as_ref(), now));
    let (positions, times): (Vec<f64>, Vec<f64>) = lag.marks.iter().map(|mark| (mark.position, mark.at_s)).unzip();
    run(
        c"INSERT INTO perf.fleet_node AS n (job_id, status, since_at, checked_at, last_seen_at, lag_bytes, lag_s, qps,
                qps_basis, message, counter, counter_at, counter_life, mark_positions, mark_times)
         SELECT j.job_id, $2, now(), now(), now(), $3, $4, $5, $6, $7, $8, pg_catalog.to_timestamp($9), $10, $11, $12
         FROM perf.job j WHERE j.job_id = $1
         ON CONFLICT (job_id) DO UPDATE
         SET since_at = CASE WHEN n.status = excluded.status THEN n.since_at ELSE excluded.since_at END,
             status = excluded.status, checked_at = excluded.checked_at, last_seen_at = excluded.last_seen_at,
             lag_bytes = excluded.lag_bytes, lag_s = excluded.lag_s, qps = excluded.qps, qps_basis = excluded.qps_basis,
             message = excluded.message, counter = excluded.counter, counter_at = excluded.counter_at,
             counter_life = excluded.counter_life, mark_positions = excluded.mark_positions,
             mark_times = excluded.mark_times",
        &[
            job_id.into(),
            text(answer.status.name()),
            lag.bytes.into(),
            lag.seconds.into(),
            qps.into(),
            text(facts.basis),
            answer.message.clone().map(Text).into(),
            facts.reading.as_ref().map(|reading| reading.value).into(),
            facts.reading.as_ref().map(|reading| reading.at_s).into(),
            facts.reading.as_ref().map(|reading| Text(reading.life.clone())).into(),
            positions.into(),
            times.into(),
        ],
    );
    if let Some(scans) = &facts.index_scans {
        write_index_use(job_id, scans);
    }
    Some((lag, qps))
}

/// An answer of what is no standby, or none at all: how far it is behind is not known.
fn write_status(job_id: i64, answer: &Answer) -> Result<(), Error> {
    privilege::as_owner(NODES, || {
        privilege::writable(|| {
            run(
                c"INSERT INTO perf.fleet_node AS n (job_id, status, since_at, checked_at, message)
                 SELECT j.job_id, $2, now(), now(), $3 FROM perf.job j WHERE j.job_id = $1
                 ON CONFLICT (job_id) DO UPDATE
                 SET since_at = CASE WHEN n.status = excluded.status THEN n.since_at ELSE excluded.since_at END,
                     status = excluded.status, checked_at = excluded.checked_at, message = excluded.message,
                     lag_bytes = NULL, lag_s = NULL, qps = NULL, qps_basis = NULL",
                &[job_id.into(), text(answer.status.name()), answer.message.clone().map(Text).into()],
            );
            Ok(())
        })
    })
}

fn write_index_use(job_id: i64, scans: &[(u32, i64)]) {
    let indexes: Vec<pg_sys::Oid> = scans.iter().map(|(index, _)| pg_sys::Oid::from(*index)).collect();
    let counters: Vec<i64> = scans.iter().map(|(_, counter)| *counter).collect();
    run(
        c"DELETE FROM perf.fleet_index_use u
         WHERE u.job_id = $1 AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = u.indexrelid)",
        &[job_id.into()],
    );
    // A counter below what it was has begun anew.
    run(
        c"INSERT INTO perf.fleet_index_use AS u (job_id, indexrelid, counter, scans, first_seen_at, last_used_at)
         SELECT j.job_id, s.indexrelid, s.counter, s.counter, now(), now()
         FROM perf.job j, ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) AS s (indexrelid, counter)
         WHERE j.job_id = $1 AND EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.indexrelid)
         ON CONFLICT (job_id, indexrelid) DO UPDATE
         SET counter = excluded.counter, last_used_at = excluded.last_used_at,
             scans = LEAST(u.scans::numeric + CASE WHEN excluded.counter >= u.counter
                                                   THEN excluded.counter - u.counter ELSE excluded.counter END,
                           9223372036854775807)::bigint
         WHERE u.counter <> excluded.counter",
        &[job_id.into(), indexes.into(), counters.into()],
    );
}

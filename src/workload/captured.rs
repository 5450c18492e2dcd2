//! The workload as capture has it: what shared memory holds of the current database, with samples of real executions.
//! Owns nothing; reads the table under its own locks.

use std::collections::HashMap;

use perf_core::normalized::with_casts;
use pgrx::pg_sys;

use super::queries::{SampleParam, Source, StatementSample, Workload, WorkloadStatement};
use super::shapes;
use crate::error::Error;
use crate::memory;
use crate::memory::samples::{self, Sample, Value};
use crate::memory::survey::{self, Snapshot};
use crate::pg::names::current_database;
use crate::pg::role;

/// Statements handed on, at most, by measured time.
const STATEMENTS_MAX: usize = 1_000;
const HOUR_US: f64 = 3_600e6;

/// What capture holds of the current database, statements with the most time first, without those that are about perf_opt
/// alone. Executions of the same statement by different roles, and within functions, stay apart: each is planned as its role.
/// Raises nothing of its own.
pub fn read() -> Result<Workload, Error> {
    memory::require()?;
    let dbid = current_database();
    let mut samples: HashMap<_, _> = samples::of_database(dbid).into_iter().collect();
    let mut captured: Vec<Snapshot> =
        survey::snapshot(Some(dbid), true).into_iter().filter(|item| !item.is_other).collect();
    captured.sort_by_key(|item| std::cmp::Reverse(item.time_ns()));
    let is_own = |item: &Snapshot| {
        let text = item.text.as_ref().map(|text| text.to_utf8()).unwrap_or_default();
        shapes::is_own(item, &text, samples.get(&item.key).map_or(&[], Vec::as_slice))
    };
    let all: Vec<&Snapshot> =
        captured.iter().filter(|item| item.time_ns() > 0 && !is_own(item)).take(STATEMENTS_MAX).collect();
    let first_seen = all.iter().map(|item| item.counters.first_seen).min();
    let last_seen = all.iter().map(|item| item.counters.last_seen).max();
    let hours = first_seen.zip(last_seen).map(|(first, last)| (last - first) as f64 / HOUR_US).filter(|&h| h > 0.0);
    let permitted: Vec<&Snapshot> =
        all.iter().copied().filter(|item| role::may_plan_as(pg_sys::Oid::from(item.key.userid))).collect();
    let not_permitted = all.len() - permitted.len();
    let statements =
        permitted.into_iter().map(|item| statement(item, samples.remove(&item.key).unwrap_or_default())).collect();
    Ok(Workload { source: Source::Captured, hours, statements, not_permitted })
}

/// A statement of capture with its samples, the most telling first.
pub fn statement(item: &Snapshot, kept: Vec<Sample>) -> WorkloadStatement {
    let counters = &item.counters;
    let mut samples: Vec<StatementSample> = kept.iter().map(sample).collect();
    // Samples whose parameters are all known say more than those with gaps, and those whose rows were counted more yet.
    samples.sort_by_key(|sample| (sample.params.iter().any(Option::is_none), sample.cardinalities.is_empty()));
    if samples.is_empty() {
        // Nothing was sampled: plan the normalised text with parameters of unknown value.
        let text = item.text.as_ref().map(|text| with_casts(&text.to_utf8())).unwrap_or_default();
        samples.push(StatementSample { text, ..StatementSample::default() });
    }
    WorkloadStatement {
        queryid: item.key.queryid as i64,
        userid: pg_sys::Oid::from(item.key.userid),
        calls: counters.calls as f64,
        failures: counters.failures,
        total_ms: item.time_ns() as f64 * 1e-6,
        first_seen: Some(counters.first_seen),
        rows: counters.rows,
        nested: !item.key.toplevel,
        samples,
    }
}

fn sample(kept: &Sample) -> StatementSample {
    let unknown = kept.params.iter().any(|param| param.value == Value::Unknown);
    let params = if unknown {
        Vec::new()
    } else {
        kept.params
            .iter()
            .map(|param| match &param.value {
                Value::Text(value) => {
                    Some(SampleParam { type_oid: pg_sys::Oid::from(param.type_oid), value: value.to_utf8() })
                }
                Value::Null | Value::Unknown => None,
            })
            .collect()
    };
    StatementSample {
        text: kept.text.to_utf8(),
        search_path: kept.search_path.to_utf8(),
        params,
        cardinalities: kept.cardinalities.clone(),
    }
}

//! A larger machine, and several of them.

use perf_core::sharding::HEADROOM_MONTHS;
use serde_json::json;

use super::{rows_of, sharding, Basis, Context, Row, Verdict, NODES};
use crate::advise::{GIB, MEMORY_TOLERANCE};
use crate::error::Error;
use crate::pg::text::Text;

/// Processor time from which on a larger machine brings something, where no trigger says otherwise.
const CPU_PCT: f64 = 70.0;
/// The buffer cache of a working set that fits.
const HIT_PCT: f64 = 98.0;
/// Less pressure of I/O is none.
const IO_PRESSURE_PCT: f64 = 10.0;

/// A machine of perf.price.
struct Instance {
    name: String,
    vcpus: f64,
    memory_bytes: f64,
}

pub(super) fn vertical(context: &Context) -> Result<Row, Error> {
    let mut row = Row::new("vertical");
    let measured = &context.measured;
    row.compare("reads_and_writes", "1/s", measured.qps, context.trigger("vertical_rw"));
    let distance = row.distance();
    let cpu_limit = context.trigger("horizontal_cpu").and_then(|trigger| trigger.threshold).unwrap_or(CPU_PCT);
    let by_cpu = measured.cpu_pct.is_some_and(|pct| pct >= cpu_limit);
    // More memory helps what is read from disk, if it would hold more of the database.
    let misses = measured.buffer_hit_pct.is_some_and(|pct| pct < HIT_PCT);
    let waits = measured.io_pressure_pct.is_some_and(|pct| pct >= IO_PRESSURE_PCT);
    let larger = measured.database_bytes.zip(measured.memory_bytes).is_some_and(|(database, memory)| database > memory);
    let by_memory = misses && waits && larger;
    let instances = instances()?;
    let memory = measured.memory_bytes.unwrap_or(0.0);
    let cpu_on = |one: &Instance| measured.cpu_pct.map(|pct| pct * measured.cores / one.vcpus);
    // What is to grow does so enough, and nothing becomes less.
    let next = instances.iter().find(|one| {
        let either = !by_cpu && !by_memory;
        let cpu = if by_cpu || either { one.vcpus > measured.cores } else { one.vcpus >= measured.cores };
        let sold = if by_memory || either { 1.0 + MEMORY_TOLERANCE } else { 1.0 - MEMORY_TOLERANCE };
        cpu && one.memory_bytes >= sold * memory && (!by_cpu || cpu_on(one).is_some_and(|pct| pct < cpu_limit))
    });
    let cpu_then = next.and_then(cpu_on);
    let name = next.map(|one| one.name.as_str());
    let called_for = by_cpu || by_memory;
    row.triggered |= called_for;
    if called_for {
        row.priority = "high".to_owned();
    } else if measured.cpu_pct.is_some() {
        row.priority = "low".to_owned();
    }
    row.recommendation = match (called_for, row.triggered, name) {
        (true, _, Some(name)) => format!("Move to {name}."),
        (true, _, None) => {
            "Move to a larger machine; perf.price has no larger instance that would be enough.".to_owned()
        }
        (false, true, _) if measured.cpu_pct.is_none() => {
            "Not yet known: the trigger is reached, and how busy the processors are was not measured.".to_owned()
        }
        (false, false, _) if measured.cpu_pct.is_none() => {
            "Not yet known: how busy the processors are was not measured.".to_owned()
        }
        (false, true, _) => "Don't: the trigger is reached, but this machine carries it.".to_owned(),
        (false, false, _) => "Don't: this machine carries the load.".to_owned(),
    };
    if row.measured_value.is_none() && by_cpu {
        row.metric = Some("cpu_used".to_owned());
        row.unit = Some("%".to_owned());
        (row.measured_value, row.threshold) = (measured.cpu_pct, Some(cpu_limit));
        row.basis = Basis::Measured;
    }
    let number = |value: Option<f64>, unit: &str| value.map_or("not measured".to_owned(), |v| format!("{v:.1} {unit}"));
    let gigabytes = |bytes: Option<f64>| number(bytes.map(|bytes| bytes / GIB), "GiB");
    row.reason = format!(
        "{distance}; processors of {:.0} cores in use: {} (limit {cpu_limit:.0} %), answered by the buffer cache: {}, \
         I/O pressure: {}, database: {}, memory: {}",
        measured.cores,
        number(measured.cpu_pct, "%"),
        number(measured.buffer_hit_pct, "%"),
        number(measured.io_pressure_pct, "%"),
        gigabytes(measured.database_bytes),
        gigabytes(measured.memory_bytes)
    );
    if let (true, Some(pct), Some(name)) = (called_for, cpu_then, name) {
        row.reason.push_str(&format!("; on {name} the processors would be in use for {pct:.1} %"));
    }
    row.reason.push('.');
    if let (true, Some(one)) = (called_for, next) {
        row.config =
            Some(format!("instance: {} ({:.0} vCPU, {:.0} GiB)\n", one.name, one.vcpus, one.memory_bytes / GIB));
        // What no longer waits for a processor; nothing is promised of memory.
        row.expected_benefit_pct =
            cpu_then.zip(measured.cpu_pct).filter(|_| by_cpu).map(|(then, now)| 100.0 * (1.0 - then / now));
    }
    row.evidence = json!({ "cpu_pct": measured.cpu_pct, "cpu_pct_then": cpu_then, "cores": measured.cores,
                           "memory_bytes": measured.memory_bytes, "buffer_hit_pct": measured.buffer_hit_pct,
                           "io_pressure_pct": measured.io_pressure_pct, "database_bytes": measured.database_bytes,
                           "next_instance": name, "by_cpu": by_cpu, "by_memory": by_memory });
    Ok(row)
}

/// Machines with known sizes, the smaller first.
fn instances() -> Result<Vec<Instance>, Error> {
    rows_of(
        "SELECT item, vcpus::float8, memory_bytes::float8 FROM perf.price
          WHERE kind = 'instance' AND vcpus IS NOT NULL AND memory_bytes IS NOT NULL
          ORDER BY vcpus, memory_bytes, item",
        &[],
        |row| {
            Ok(Some(Instance {
                name: row.get::<Text>(1)?.unwrap_or_default().0,
                vcpus: row.get::<f64>(2)?.unwrap_or(0.0),
                memory_bytes: row.get::<f64>(3)?.unwrap_or(0.0),
            }))
        },
    )
}

pub(super) fn horizontal(context: &Context) -> Result<Row, Error> {
    let mut row = Row::new("horizontal");
    row.compare("cpu_used", "%", context.measured.cpu_pct, context.trigger("horizontal_cpu"));
    let distance = row.distance();
    let Some(shapes) = &context.shapes else {
        row.recommendation = "Don't: whether the workload could be split is not known.".to_owned();
        row.reason = format!("{distance}; {}.", context.nothing_captured());
        return Ok(row);
    };
    let answer = sharding::answer(shapes, &context.traces, NODES)?;
    let best = answer.rows.first();
    let reason = best.map_or("", |best| best.reason.as_str());
    row.reason = format!("{distance}. {reason}");
    let key = best.and_then(|best| best.candidate_key.as_deref()).unwrap_or("no key");
    row.recommendation = match (answer.verdict, row.triggered) {
        (Verdict::Shard, true) => format!("Offload reads to replicas first; then shard by {key}."),
        (Verdict::Shard, false) => format!("Prepare to shard by {key}: one machine will not do for long."),
        (Verdict::NotYet, _) if key == "no key" => "Don't shard: nothing is known of the workload.".to_owned(),
        (Verdict::NotYet, true) => {
            format!("Don't shard yet: {key} would do, but replicas or a larger machine come first.")
        }
        (Verdict::NotYet, false) => match answer.headroom.months {
            Some(months) if months >= HEADROOM_MONTHS => {
                format!("Don't shard yet: {key} would do, but one machine will do for now.")
            }
            Some(_) => format!("Don't shard yet: {key} would do, but too little of the workload is known."),
            None => format!("Don't shard yet: {key} would do, but how long one machine will do is not known."),
        },
        (Verdict::Unsuitable, true) => {
            "Don't shard: no key fits the workload. Offload reads to replicas, or take a larger machine.".to_owned()
        }
        (Verdict::Unsuitable, false) => "Don't shard: no key fits the workload.".to_owned(),
    };
    if let (Some(best), Verdict::Shard) = (best, answer.verdict) {
        row.config = best.ddl.clone();
        // Of the work a node does, by the model of `perf.sharding_advice`.
        row.expected_benefit_pct = best.predicted_speedup.filter(|s| *s > 1.0).map(|s| 100.0 * (1.0 - 1.0 / s));
        row.basis = Basis::WhatIf;
        if !row.triggered {
            row.priority = "medium".to_owned();
        }
    } else if !row.triggered {
        row.priority = "low".to_owned();
    }
    let finite = answer.headroom.months.filter(|months| months.is_finite());
    row.evidence = json!({ "verdict": answer.verdict.name(),
                           "candidate_key": best.and_then(|b| b.candidate_key.clone()),
                           "single_shard_pct": best.and_then(|b| b.single_shard_pct),
                           "imbalance": best.and_then(|b| b.imbalance), "nodes": NODES,
                           "predicted_speedup": best.and_then(|b| b.predicted_speedup),
                           "headroom_months": finite, "blockers": best.map(|b| b.blockers.clone()) });
    Ok(row)
}

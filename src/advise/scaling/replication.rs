//! Read replicas.

use std::fmt::Write;

use perf_core::replicas::{gain_max, Target};
use serde_json::{json, Value};

use super::{replicas, Context, Row};
use crate::pg::names::current_database;
use crate::workload::transactions;

/// Parts named in the evidence, at most.
const PARTS_MAX: usize = 20;

pub(super) fn row(context: &Context) -> Row {
    let mut row = Row::new("read_replicas");
    row.compare("qps", "1/s", context.measured.qps, context.trigger("qps_replicas"));
    let distance = row.distance();
    let Some(shapes) = &context.shapes else {
        row.recommendation = "Don't: what replicas could take over is not known.".to_owned();
        row.reason = format!("{distance}; {}.", context.nothing_captured());
        return row;
    };
    let applications = transactions::applications(Some(current_database()));
    let found = replicas::offload(shapes, &context.traces, &applications);
    let advice = &found.advice;
    let Some(share) = advice.offloadable_share else {
        row.recommendation = "Don't: what replicas could take over is not known.".to_owned();
        row.reason = format!("{distance}; {}.", context.nothing_captured());
        return row;
    };
    let pct = 100.0 * share;
    row.expected_benefit_pct = Some(pct);
    row.basis = super::Basis::Measured;
    let bound = if found.by_transactions { "" } else { "at most " };
    row.reason = format!(
        "{distance}; {bound}{pct:.1} % of the statements' time is in {} that only read, lock nothing, call nothing \
         volatile and could go: with {} replicas the server does at most {:.2} times the work",
        if found.by_transactions { "transactions" } else { "statements" },
        advice.replicas,
        advice.gain_max
    );
    if !found.by_transactions {
        row.reason.push_str("; no transactions were captured, so that reads within transactions that write are in it");
    }
    let caveat = shapes.caveat();
    if !caveat.is_empty() {
        let _ = write!(row.reason, "; {caveat}");
    }
    row.reason.push('.');
    row.recommendation = match (row.triggered, advice.replicas) {
        (_, 0) => format!("Don't: replicas would take over {pct:.1} % of the time, too little for one of them."),
        (true, n) => format!("Add {n} read replicas, and point to them what the configuration says."),
        (false, n) => format!("Not yet: {n} read replicas would do, but the trigger is not reached."),
    };
    if advice.replicas == 0 {
        row.priority = "low".to_owned();
    } else {
        row.config = Some(config(&found));
    }
    let parts: Vec<Value> = advice
        .parts
        .iter()
        .take(PARTS_MAX)
        .map(|part| {
            json!({ "role": part.role, "application": part.application, "share_pct": 100.0 * part.share,
                    "offloadable_pct": 100.0 * part.offloadable_share, "target": part.target.name() })
        })
        .collect();
    row.evidence = json!({ "offloadable_pct": pct, "replicas": advice.replicas, "gain_max": advice.gain_max,
                           "gain_with_one": gain_max(share, 1), "transactions": context.traces.len(),
                           "by": if found.by_transactions { "transactions" } else { "statements" },
                           "not_understood_pct": 100.0 * shapes.missing_share(), "parts": parts });
    row
}

/// Who should connect where.
fn config(found: &replicas::Offload) -> String {
    let mut text =
        String::from("# Connection strings by role and application_name; replicas first, the primary last.\n");
    for part in &found.advice.parts {
        let of = 100.0 * part.share;
        let who = match part.application.as_str() {
            "" => format!("role {}", part.role),
            application => format!("role {}, application {application}", part.role),
        };
        let (where_to, what) = match part.target {
            Target::Replica => ("prefer-standby", "all of it may go to a replica"),
            Target::Both => ("prefer-standby", "for its transactions that only read; read-write for the others"),
            Target::Primary => ("read-write", "stays on the primary"),
        };
        // Writing to a string does not fail; names are on lines of their own, without control characters.
        let who: String = who.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(text, "# {who}: {of:.1} % of the time: {what}");
        let _ = writeln!(text, "host=replica1,primary target_session_attrs={where_to}");
    }
    text
}

//! Rows on what perf.apply() has made: the advisor has nothing to say of it any more, so it is told from what was remembered.
//! Reads perf.change with the rights of its owner, and gives each caller what is the caller's to see.

use pgrx::pg_sys;
use serde_json::{json, Value};

use super::rows::Recommendation;
use crate::act::change::observed::is_observed;
use crate::act::change::store::{self, Change};
use crate::error::Error;
use crate::pg::{privilege, role};

/// What is remembered of a row.
pub fn to_json(row: &Recommendation) -> Value {
    json!({
        "priority": row.priority, "action": row.action, "source": row.source, "columns": row.columns,
        "access_method": row.access_method, "size_bytes": row.size_bytes, "benefit_pct": row.benefit_pct,
        "benefit_ms_per_hour": row.benefit_ms_per_hour, "statements_improved": row.statements_improved,
        "best_speedup": row.best_speedup, "write_cost_pct": row.write_cost_pct, "confidence": row.confidence,
        "basis": row.basis, "policy_gain": row.policy_gain, "reason": row.reason, "evidence": row.evidence,
    })
}

fn word(value: &str, words: &[&'static str]) -> &'static str {
    words.iter().find(|word| **word == value).copied().unwrap_or(words[0])
}

/// The row of a change.
fn from_change(change: &Change) -> Recommendation {
    let of = &change.recommendation;
    let text = |name: &str| of.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| of.get(name).and_then(Value::as_f64);
    let whole = |name: &str| of.get(name).and_then(Value::as_i64);
    let columns = of.get("columns").and_then(Value::as_array).into_iter().flatten();
    let mut reason = text("reason");
    if let Some(message) = &change.message {
        reason = format!("{reason} Applied: {message}.");
    }
    Recommendation {
        id: change.recommendation_id.clone(),
        priority: text("priority"),
        action: word(&text("action"), &["create", "drop", "reindex"]),
        source: word(&text("source"), &["workload", "policy", "both"]),
        status: match change.status.as_str() {
            "queued" | "applying" | "undoing" => "building",
            "verified" => "verified",
            "no_gain" => "no_gain",
            "regressed" => "regressed",
            _ => "applied",
        },
        relation: change.relation.clone(),
        columns: columns.filter_map(Value::as_str).map(str::to_owned).collect(),
        access_method: text("access_method"),
        ddl: None,
        undo_ddl: change.undo_ddl.clone(),
        size_bytes: whole("size_bytes"),
        // As it was, to the last digit, which a document does not keep.
        benefit_pct: change.predicted_pct,
        benefit_ms_per_hour: number("benefit_ms_per_hour"),
        statements_improved: whole("statements_improved").and_then(|count| i32::try_from(count).ok()),
        best_speedup: number("best_speedup"),
        write_cost_pct: number("write_cost_pct"),
        confidence: word(&text("confidence"), &["low", "medium", "high"]),
        basis: word(&text("basis"), &["policy", "what_if", "measured"]),
        policy_gain: of.get("policy_gain").and_then(Value::as_str).map(str::to_owned),
        reason,
        evidence: of.get("evidence").cloned().unwrap_or_else(|| json!([])),
        achieved_pct: change.achieved_pct,
        existing: Vec::new(),
    }
}

/// Puts the rows of changes that stand in the place of those that the advisor has for the same, after what is to be done.
pub fn tell(rows: &mut Vec<Recommendation>) -> Result<(), Error> {
    if privilege::table(store::TABLE).is_none() {
        return Ok(());
    }
    let sees_all = role::is_member(c"pg_monitor");
    let changes = store::open(privilege::current_role(), sees_all)?;
    let rows_of: Vec<Recommendation> = changes
        .iter()
        .filter(|change| change.kind.starts_with("index_") && !is_observed(change) && is_there(change.target))
        .map(from_change)
        .collect();
    rows.retain(|row| rows_of.iter().all(|made| made.id != row.id));
    let todo = rows.iter().take_while(|row| ["recommended", "building"].contains(&row.status)).count();
    rows.splice(todo..todo, rows_of);
    Ok(())
}

fn is_there(relation: pg_sys::Oid) -> bool {
    privilege::relation_owner(relation) != pg_sys::InvalidOid
}

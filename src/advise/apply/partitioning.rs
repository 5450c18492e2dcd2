//! The change that makes a table partitioned: what perf.partition_convert would do, as a change that can be verified and taken
//! back. Called by perf.apply(); plans as the conversion does, and locks as that does.

use perf_core::change::Part;
use serde_json::{json, Value};

use super::{refused_as, scaling_row, unknown};
use crate::act::change::store::Change;
use crate::act::change::watched::Watched;
use crate::act::tasks::partition::convert::plan::{self, Request};
use crate::act::tasks::partition::convert::record;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::{catalog, ident};
use crate::workload::captured;

/// What ids of this kind begin with.
pub const PREFIX: &str = "scaling:partitioning:";
/// Whose wall clock bounds lie on, as the conversion has it by default.
const ZONE: &str = "UTC";
/// How long the conversion waits for a lock that others queue behind, and how long it tries, as by default.
const MAX_LOCK_MS: i64 = 500;
const GIVE_UP_MS: i64 = 600_000;

/// The change that an advice asks for, and the statements that it names.
pub fn of(recommendation_id: &str) -> Result<(Change, Vec<Watched>), Error> {
    let row = scaling_row(recommendation_id)?;
    let Some(ddl) = &row.config else {
        return Err(refused_as(recommendation_id, "has something in its way", &row.reason));
    };
    let relation = recommendation_id.strip_prefix(PREFIX).unwrap_or_default();
    let text = |name: &str| row.evidence.get(name).and_then(Value::as_str).map(str::to_owned);
    let target = catalog::relation_named(relation).map_err(spi_failed)?.ok_or_else(|| unknown(recommendation_id))?;
    let request = Request {
        control: text("control_column").unwrap_or_default(),
        every: text("every").unwrap_or_default(),
        time_zone: ZONE.to_owned(),
        epoch: None,
    };
    if let Some(first) = plan::study(target, &request, false)?.obstacles.into_iter().next() {
        return Err(match first.sqlstate {
            "42501" => Error::Denied { message: first.message, hint: first.hint },
            _ => refused_as(recommendation_id, &format!("cannot be carried out: {}", first.message), &first.hint),
        });
    }
    let mut options = record::request_to_json(&request);
    if let Some(options) = options.as_object_mut() {
        options.insert("max_lock_ms".to_owned(), json!(MAX_LOCK_MS));
        options.insert("give_up_ms".to_owned(), json!(GIVE_UP_MS));
    }
    let promised = promised(&row.evidence);
    let change = Change {
        kind: "partitioning".to_owned(),
        relation: relation.to_owned(),
        target,
        ddl: ddl.trim_end().trim_end_matches(';').to_owned(),
        undo_ddl: Some(format!("CALL perf.partition_convert_undo({})", ident::literal(relation))),
        predicted_pct: row.expected_benefit_pct,
        total_ms: captured::read()?.statements.iter().map(|statement| statement.total_ms).sum(),
        recommendation: json!({ "priority": row.priority, "reason": row.reason, "evidence": row.evidence }),
        state: json!({ "options": options }),
        ..Change::default()
    };
    Ok((change, promised))
}

/// The statements that are said to gain, by queryid: what they would take in relation to now.
fn promised(evidence: &Value) -> Vec<Watched> {
    let statements = evidence.get("statements").and_then(Value::as_array);
    let mut found: Vec<Watched> = Vec::new();
    for one in statements.into_iter().flatten() {
        let number = |name: &str| one.get(name).and_then(Value::as_f64);
        let (Some(queryid), Some(ms)) = (one.get("queryid").and_then(Value::as_i64), number("ms")) else { continue };
        let ratio = number("saved_ms").filter(|_| ms > 0.0).map(|saved| 1.0 - saved / ms);
        match found.iter_mut().find(|known| known.queryid == queryid) {
            Some(known) => known.weight_ms += ms,
            None => found.push(Watched { queryid, part: Part::Promised, promised_ratio: ratio, weight_ms: ms }),
        }
    }
    found
}

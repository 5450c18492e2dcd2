//! The change that makes a table partitioned: what perf.partition_convert would do, as a change that can be verified and taken
//! back. Called by perf.apply(); plans as the conversion does, and locks as that does.

use serde_json::{json, Value};

use super::{promised, refused_as, scaling_row, unknown};
use crate::act::change::store::Change;
use crate::act::change::watched::Watched;
use crate::act::tasks::partition::convert::plan::{self, Request};
use crate::act::tasks::partition::convert::record;
use crate::advise::partitioning;
use crate::advise::scaling::PARTITIONING;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::{catalog, ident};
use crate::workload::captured;

/// How long the conversion waits for a lock that others queue behind, and how long it tries: the defaults of
/// perf.partition_convert().
const MAX_LOCK_MS: i64 = 50;
const GIVE_UP_MS: i64 = 300_000;

/// The change that an advice asks for, and the statements that it names.
pub fn of(recommendation_id: &str) -> Result<(Change, Vec<Watched>), Error> {
    let row = scaling_row(recommendation_id)?;
    let Some(ddl) = &row.config else {
        return Err(refused_as(recommendation_id, "has something in its way", &row.reason));
    };
    let relation = recommendation_id.strip_prefix(PARTITIONING).unwrap_or_default();
    let text = |name: &str| row.evidence.get(name).and_then(Value::as_str).map(str::to_owned);
    let target = catalog::relation_named(relation).map_err(spi_failed)?.ok_or_else(|| unknown(recommendation_id))?;
    let request = Request {
        control: text("control_column").unwrap_or_default(),
        every: text("every").unwrap_or_default(),
        time_zone: partitioning::ZONE.to_owned(),
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
    let ratio = |one: &Value| {
        let number = |name: &str| one.get(name).and_then(Value::as_f64);
        number("ms").filter(|ms| *ms > 0.0).zip(number("saved_ms")).map(|(ms, saved)| 1.0 - saved / ms)
    };
    let concerned = promised(row.evidence.get("statements").unwrap_or(&Value::Null), ratio);
    let change = Change {
        kind: "partitioning".to_owned(),
        relation: relation.to_owned(),
        target,
        ddl: ddl.trim_end().trim_end_matches(';').to_owned(),
        undo_ddl: Some(format!("CALL perf.partition_convert_undo({})", ident::literal(relation))),
        predicted_pct: row.expected_benefit_pct,
        total_ms: captured::read()?.total_ms(),
        recommendation: json!({ "priority": row.priority, "reason": row.reason, "evidence": row.evidence }),
        state: json!({ "options": options }),
        ..Change::default()
    };
    Ok((change, concerned))
}

//! From an advice on a setting to the change that carries it out: the part of `apply` for perf.scaling_recommendations() on
//! the work memory of a role. Called in the user's transaction; nothing happens before that commits.

use perf_core::guard::{canonical, Kind};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::{denied, keep_new, scaling_row, unknown};
use crate::act::change::audit::{self, Entry};
use crate::act::change::observed::{self, Before};
use crate::act::change::queue_run;
use crate::act::change::setting::{self, Configured, Place};
use crate::act::change::store::Change;
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::names::current_database;
use crate::pg::{background, catalog, privilege, role};

const NAME: &str = "work_mem";

/// Makes the change of an advice on work memory: the number of the run that does.
pub fn request(recommendation_id: &str) -> Result<i64, Error> {
    let row = scaling_row(recommendation_id)?;
    let field = |name: &str| row.evidence.get(name);
    let role = field("role").and_then(Value::as_u64).and_then(|oid| u32::try_from(oid).ok());
    let value = field("value").and_then(Value::as_str);
    let (Some(role), Some(value)) = (role, value) else { return Err(unknown(recommendation_id)) };
    require_right(role)?;
    let place = Place { is_server: false, database: current_database(), role, name: NAME.to_owned() };
    let is = Configured {
        value: canonical(value, Kind::Number(Some("kB"))),
        written: value.to_owned(),
        auto_written: None,
        origin: "entry".to_owned(),
        needs_restart: false,
    };
    let entries = setting::of_entries()?;
    let wanted = setting::changed(&place, entries.get(&place), Some(&is));
    let Some(ddl) = setting::statement(&place, Some(value)) else { return Err(unknown(recommendation_id)) };
    let now = background::now();
    let since = observed::since(pg_sys::InvalidOid, now)?;
    let mut change = Change {
        recommendation_id: recommendation_id.to_owned(),
        kind: setting::KIND.to_owned(),
        relation: NAME.to_owned(),
        ddl,
        undo_ddl: wanted.undo.clone(),
        owner: privilege::current_role(),
        predicted_pct: row.expected_benefit_pct,
        run_id: queue_run()?,
        recommendation: json!({ "priority": row.priority, "reason": row.reason, "evidence": row.evidence }),
        state: json!({ "settings": [wanted.to_json()], "since": since, "search_path": "pg_catalog, pg_temp" }),
        ..Change::default()
    };
    let note = format!("captured before {} was changed", wanted.place.name);
    keep_new(&mut change, since, &note)?;
    let change_id = change.change_id;
    let total_ms = observed::keep_all(change_id, Before { since, until: now }, Some(role))?;
    observed::set_total(change_id, total_ms)?;
    let entry = Entry {
        action: "apply",
        sql: Some(&change.ddl),
        outcome: "queued",
        sqlstate: None,
        detail: json!({ "run_id": change.run_id, "predicted_pct": change.predicted_pct }),
    };
    audit::note(&change, change.owner, &entry)?;
    Ok(change.run_id)
}

/// A role sets what is its own; others take the right to change roles, which the server looks at once more.
fn require_right(of: u32) -> Result<(), Error> {
    let current = privilege::current_role();
    let creates = catalog::value::<bool>(
        "SELECT r.rolcreaterole FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) $1",
        &[current.into()],
    )
    .map_err(spi_failed)?;
    if current.to_u32() == of || privilege::is_superuser(current) || creates == Some(true) {
        return Ok(());
    }
    Err(denied(format!("permission denied to alter role {}", role::name(pg_sys::Oid::from(of)))))
}

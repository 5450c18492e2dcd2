//! The audit: a row for each step of a change, only ever added. Written in the transaction of the step, with the rights of
//! the table's owner. Owns the trigger function that keeps everybody else from changing what is written.

use pgrx::{pg_guard, pg_sys};
use serde_json::Value;

use super::store::Change;
use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::pg::query::text;
use crate::pg::text::{Document, Text};
use crate::pg::{privilege, role};

/// One step.
pub struct Entry<'a> {
    /// advise, observed, apply, applied, verify, undo, undone or failed.
    pub action: &'static str,
    /// What was run, or is to be.
    pub sql: Option<&'a str>,
    /// What came of it.
    pub outcome: &'a str,
    /// Of a failure.
    pub sqlstate: Option<&'a str>,
    /// Numbers.
    pub detail: Value,
}

/// Adds a row.
pub fn note(change: &Change, actor: pg_sys::Oid, entry: &Entry) -> Result<(), Error> {
    let actor = role::name(actor);
    privilege::as_owner(c"audit", || {
        privilege::writable(|| {
            run(
                c"INSERT INTO perf.audit (actor, by_autopilot, change_id, recommendation_id, kind, relation, action, sql,
                                         outcome, sqlstate, detail)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    text(&actor),
                    change.by_autopilot.into(),
                    change.change_id.into(),
                    text(&change.recommendation_id),
                    text(&change.kind),
                    text(&change.relation),
                    text(entry.action),
                    entry.sql.map(|sql| Text(sql.to_owned())).into(),
                    text(entry.outcome),
                    entry.sqlstate.map(|state| Text(state.to_owned())).into(),
                    Document(entry.detail.clone()).into(),
                ],
            );
        });
        Ok(())
    })
}

/// Whether a row says already that autopilot would carry an advice out.
pub fn was_advised(recommendation_id: &str) -> Result<bool, Error> {
    privilege::as_owner(c"audit", || {
        let found = rows(
            c"SELECT true FROM perf.audit WHERE action = 'advise' AND recommendation_id = $1 LIMIT 1",
            &[text(recommendation_id)],
            |_| (),
        );
        Ok(!found.is_empty())
    })
}

/// What the server looks for to call the next function.
#[no_mangle]
pub extern "C" fn pg_finfo_perf_opt_audit_guard() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// The trigger function perf._audit_guard().
#[pg_guard]
#[no_mangle]
pub extern "C-unwind" fn perf_opt_audit_guard(_call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    Error::WrongState {
        message: "rows of perf.audit are never changed or removed".to_owned(),
        hint: "What was done stays on record; DROP EXTENSION perf_opt removes the table as a whole.".to_owned(),
    }
    .raise()
}

//! The rows of perf.change and the statements for the steps of one: queued → applying → applied → verified | no_gain |
//! regressed; any of the last four → undoing → undone. A run that comes to nothing takes its change back to `fallback`.
//!
//! Called inside a transaction; reads and writes with the rights of the tables' owner. Locks the rows it changes.

use pgrx::pg_sys;
use serde_json::{json, Value};

use super::audit::{self, Entry};
use crate::act::runs::{rows, run};
use crate::collect::registry;
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::{text, Row};
use crate::pg::text::{Document, Text};

/// The table whose owner keeps the records.
pub const TABLE: &std::ffi::CStr = c"change";

/// Why a run of autopilot's that had to wait for too long does nothing.
pub const WINDOW_CLOSED: &str = "perf_opt.autopilot_window has closed meanwhile";
/// After so long what is seldom executed is not waited for any more.
const LATE_S: f64 = 7.0 * 86_400.0;
/// Undos of a change that fail after which nobody tries again unasked.
const UNDO_FAILURES_MAX: u64 = 3;

/// A row.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Its number.
    pub change_id: i64,
    /// Of the advice.
    pub recommendation_id: String,
    /// index_create and so on.
    pub kind: String,
    /// Quoted and qualified.
    pub relation: String,
    /// The relation.
    pub target: pg_sys::Oid,
    /// Statements that make it.
    pub ddl: String,
    /// Statements that take it back, if that can be done.
    pub undo_ddl: Option<String>,
    /// Who has made it.
    pub owner: pg_sys::Oid,
    /// Nobody has.
    pub by_autopilot: bool,
    /// Where it stands.
    pub status: String,
    /// Of the measured time, in per cent.
    pub predicted_pct: Option<f64>,
    /// The same.
    pub achieved_pct: Option<f64>,
    /// Estimate of the size of what it makes.
    pub size_bytes: Option<i64>,
    /// Time of the workload that the promise is about, in ms.
    pub total_ms: f64,
    /// Row of perf.job_run of its latest step.
    pub run_id: i64,
    /// Why it stands there.
    pub message: Option<String>,
    /// The row of the advice.
    pub recommendation: Value,
    /// What there was, or is, in the database.
    pub state: Value,
    /// When it was applied was so many seconds ago.
    pub applied_s_ago: Option<f64>,
}

impl Change {
    fn read(row: &Row) -> Change {
        let document = |at: i32| row.get::<Document>(at).map_or(Value::Null, |document| document.0);
        let string = |at: i32| row.get::<Text>(at).map(|text| text.0);
        Change {
            change_id: row.get(1).unwrap_or_default(),
            recommendation_id: row.string(2),
            kind: row.string(3),
            relation: row.string(4),
            target: row.get::<pg_sys::Oid>(5).unwrap_or(pg_sys::InvalidOid),
            ddl: row.string(6),
            undo_ddl: string(7),
            owner: row.get::<pg_sys::Oid>(8).unwrap_or(pg_sys::InvalidOid),
            by_autopilot: row.get(9).unwrap_or_default(),
            status: row.string(10),
            predicted_pct: row.get(11),
            achieved_pct: row.get(12),
            size_bytes: row.get(13),
            total_ms: row.get(14).unwrap_or_default(),
            run_id: row.get(15).unwrap_or_default(),
            message: string(16),
            recommendation: document(17),
            state: document(18),
            applied_s_ago: row.get(19),
        }
    }

    /// Whether a run of it is queued or under way.
    pub fn is_busy(&self) -> bool {
        ["queued", "applying", "undoing"].contains(&self.status.as_str())
    }

    /// Whether two rounds of executions have said that it does harm.
    pub fn is_confirmed_harm(&self) -> bool {
        self.status == "regressed" && self.state.get("confirmed").and_then(Value::as_bool) == Some(true)
    }

    /// OIDs of the indexes that it has made so far, in earlier tries as well.
    pub fn oids(&self) -> Vec<u32> {
        let noted = self.state.get("oids").and_then(Value::as_array).into_iter().flatten();
        noted.filter_map(Value::as_u64).filter_map(|oid| u32::try_from(oid).ok()).collect()
    }

    /// Other relations that it concerns.
    pub fn tables(&self) -> impl Iterator<Item = pg_sys::Oid> + '_ {
        let noted = self.state.get("tables").and_then(Value::as_array).into_iter().flatten();
        noted.filter_map(Value::as_u64).filter_map(|oid| u32::try_from(oid).ok()).map(pg_sys::Oid::from)
    }

    /// Whether it was waited long enough for what is seldom executed.
    pub fn is_late(&self) -> bool {
        self.applied_s_ago.is_some_and(|seconds| seconds > LATE_S)
    }

    /// Whether it can be taken back, as far as is known: after some tries in vain it is a person's to look at.
    pub fn can_be_taken_back(&self) -> bool {
        let failures = self.state.get("undo_failures").and_then(Value::as_u64).unwrap_or(0);
        self.undo_ddl.is_some() && failures < UNDO_FAILURES_MAX
    }

    /// Whether it came to nothing because its run came too late for autopilot's hours.
    pub fn is_postponed(&self) -> bool {
        self.status == "failed" && self.message.as_deref() == Some(WINDOW_CLOSED)
    }

    /// Whether what it made is there.
    pub fn is_made(&self) -> bool {
        ["applied", "verified", "no_gain", "regressed"].contains(&self.status.as_str())
    }
}

macro_rules! selected {
    ($rest:literal) => {
        crate::pg::query::c_text(
            concat!(
                "SELECT change_id, recommendation_id, kind, relation, target, ddl, undo_ddl, owner::pg_catalog.oid,
                        by_autopilot, status, predicted_pct, achieved_pct, size_bytes, total_ms, run_id, message, recommendation,
                        state, EXTRACT(epoch FROM pg_catalog.clock_timestamp() - applied_at)::float8 FROM perf.change ",
                $rest,
                "\0"
            )
            .as_bytes(),
        )
    };
}

/// The latest change that an advice has led to.
pub fn latest(recommendation_id: &str) -> Result<Option<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const { selected!("WHERE recommendation_id = $1 ORDER BY change_id DESC LIMIT 1") };
        Ok(rows(statement, &[text(recommendation_id)], Change::read).into_iter().next())
    })
}

/// A change by its number.
pub fn numbered(change_id: i64) -> Result<Option<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const { selected!("WHERE change_id = $1") };
        Ok(rows(statement, &[change_id.into()], Change::read).into_iter().next())
    })
}

/// The change that a run is for.
pub fn of_run(run_id: i64) -> Result<Option<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const { selected!("WHERE run_id = $1 AND status IN ('queued', 'applying', 'undoing')") };
        Ok(rows(statement, &[run_id.into()], Change::read).into_iter().next())
    })
}

/// Changes with higher numbers that wait to be verified, at most so many.
pub fn unverified(after: i64, limit: i64) -> Result<Vec<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const {
            selected!("WHERE status = 'applied' AND change_id > $1 ORDER BY change_id LIMIT $2 FOR UPDATE SKIP LOCKED")
        };
        Ok(rows(statement, &[after.into(), limit.into()], Change::read))
    })
}

/// Advice that was carried out and taken back by whomever: nobody is to carry it out unasked.
pub fn taken_back() -> Result<Vec<String>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = c"SELECT DISTINCT recommendation_id FROM perf.change WHERE status = 'undone'";
        Ok(rows(statement, &[], |row| row.string(1)))
    })
}

/// Changes whose work is there or under way, that a role may see.
pub fn open(role: pg_sys::Oid, sees_all: bool) -> Result<Vec<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const {
            selected!(
                "WHERE status NOT IN ('undone', 'failed') AND ($2 OR owner::pg_catalog.oid = $1) ORDER BY change_id"
            )
        };
        Ok(rows(statement, &[role.into(), sees_all.into()], Change::read))
    })
}

/// All changes that autopilot has made.
pub fn of_autopilot() -> Result<Vec<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const { selected!("WHERE by_autopilot ORDER BY change_id") };
        Ok(rows(statement, &[], Change::read))
    })
}

/// The latest changes of a kind, the newest first, but for those that came to nothing.
pub fn latest_of(kind: &str) -> Result<Vec<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const { selected!("WHERE kind = $1 AND status <> 'failed' ORDER BY change_id DESC LIMIT 200") };
        Ok(rows(statement, &[text(kind)], Change::read))
    })
}

/// Changes, whosever, that are under way, and those of autopilot that are not verified yet or are to be taken back.
pub fn in_hand() -> Result<Vec<Change>, Error> {
    let found = privilege::as_owner(TABLE, || {
        let statement = const {
            selected!(
                "WHERE status IN ('queued', 'applying', 'undoing') OR by_autopilot AND status IN ('applied', 'regressed')
                 ORDER BY change_id"
            )
        };
        Ok(rows(statement, &[], Change::read))
    })?;
    Ok(found.into_iter().filter(|change| change.status != "regressed" || change.can_be_taken_back()).collect())
}

/// Changes of autopilot that have done harm by one round of executions.
pub fn unconfirmed() -> Result<Vec<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const {
            selected!("WHERE by_autopilot AND status = 'regressed' AND NOT state ? 'confirmed' ORDER BY change_id FOR UPDATE SKIP LOCKED")
        };
        Ok(rows(statement, &[], Change::read))
    })
}

/// Stores a new change; its number. `None` when there is an open one of the same advice.
pub fn insert(new: &Change) -> Result<Option<i64>, Error> {
    privilege::as_owner(TABLE, || {
        let made = rows(
            c"INSERT INTO perf.change (recommendation_id, kind, relation, target, ddl, undo_ddl, owner, by_autopilot, status,
                                      predicted_pct, size_bytes, total_ms, run_id, recommendation, state)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'queued', $9, $10, $11, $12, $13, $14)
             ON CONFLICT DO NOTHING RETURNING change_id",
            &[
                text(&new.recommendation_id),
                text(&new.kind),
                text(&new.relation),
                // As a number: an OID of zero would be NULL.
                i64::from(new.target.to_u32()).into(),
                text(&new.ddl),
                new.undo_ddl.clone().map(Text).into(),
                new.owner.into(),
                new.by_autopilot.into(),
                new.predicted_pct.into(),
                new.size_bytes.into(),
                new.total_ms.into(),
                new.run_id.into(),
                Document(new.recommendation.clone()).into(),
                Document(new.state.clone()).into(),
            ],
            |row| row.get::<i64>(1),
        );
        Ok(made.into_iter().flatten().next())
    })
}

/// Runs a statement that writes to the tables of changes: of how many rows.
pub(super) fn changed(
    statement: &'static std::ffi::CStr,
    arguments: &[pgrx::datum::DatumWithOid],
) -> Result<u64, Error> {
    privilege::as_owner(TABLE, || Ok(privilege::writable(|| run(statement, arguments))))
}

/// Names the baseline that was captured for a change.
pub fn set_baseline(change_id: i64, baseline: &str) -> Result<(), Error> {
    changed(c"UPDATE perf.change SET baseline = $2 WHERE change_id = $1", &[change_id.into(), text(baseline)])
        .map(|_| ())
}

/// A worker has begun.
pub fn begin(change_id: i64) -> Result<(), Error> {
    changed(
        c"UPDATE perf.change SET status = 'applying' WHERE change_id = $1 AND status = 'queued'",
        &[change_id.into()],
    )
    .map(|_| ())
}

/// The work is done; what is there now, and what takes it back.
pub fn applied(change_id: i64, state: &Value, message: Option<&str>) -> Result<(), Error> {
    changed(
        c"UPDATE perf.change SET status = 'applied', applied_at = pg_catalog.clock_timestamp(), state = state || $2,
                message = $3, verified_at = NULL, achieved_pct = NULL
         WHERE change_id = $1",
        &[change_id.into(), Document(state.clone()).into(), message.map(|message| Text(message.to_owned())).into()],
    )
    .map(|_| ())
}

/// What was measured. False when it is not to be verified any more.
pub fn verified(
    change_id: i64,
    status: &str,
    achieved_pct: Option<f64>,
    message: &str,
    detail: &Value,
) -> Result<bool, Error> {
    changed(
        c"UPDATE perf.change SET status = $2, achieved_pct = $3, message = $4, verified_at = COALESCE(verified_at, pg_catalog.clock_timestamp()),
                state = state || $5
         WHERE change_id = $1 AND status IN ('applied', 'verified', 'no_gain', 'regressed')",
        &[change_id.into(), text(status), achieved_pct.into(), text(message), Document(detail.clone()).into()],
    )
    .map(|count| count > 0)
}

/// Why it still waits.
pub fn set_message(change_id: i64, message: &str) -> Result<(), Error> {
    changed(
        c"UPDATE perf.change SET message = $2 WHERE change_id = $1 AND message IS DISTINCT FROM $2",
        &[change_id.into(), text(message)],
    )
    .map(|_| ())
}

/// It is to be taken back by a run. False when somebody else has come first.
pub fn set_undoing(change: &Change, run_id: i64) -> Result<bool, Error> {
    changed(
        c"UPDATE perf.change SET status = 'undoing', fallback = $2, run_id = $3 WHERE change_id = $1 AND status = $2",
        &[change.change_id.into(), text(&change.status), run_id.into()],
    )
    .map(|count| count > 0)
}

/// It was taken back.
pub fn undone(change_id: i64, message: &str) -> Result<(), Error> {
    changed(
        c"UPDATE perf.change SET status = 'undone', undone_at = pg_catalog.clock_timestamp(), message = $2 WHERE change_id = $1",
        &[change_id.into(), text(message)],
    )
    .map(|_| ())
}

/// Whether something is left to be dropped of a change that came to nothing.
pub fn set_left(change_id: i64, left: bool) -> Result<(), Error> {
    changed(
        c"UPDATE perf.change SET state = CASE WHEN $2 THEN state || '{\"left\": true}' ELSE state - 'left' END
         WHERE change_id = $1",
        &[change_id.into(), left.into()],
    )
    .map(|_| ())
}

/// Notes which indexes a change has made so far, by OID.
pub fn set_oids(change_id: i64, oids: &[u32]) -> Result<(), Error> {
    add_to_state(change_id, &json!({ "oids": oids }))
}

/// Writes down what else is known of a change.
pub fn add_to_state(change_id: i64, state: &Value) -> Result<(), Error> {
    changed(
        c"UPDATE perf.change SET state = state || $2 WHERE change_id = $1",
        &[change_id.into(), Document(state.clone()).into()],
    )
    .map(|_| ())
}

/// Changes of a role that came to nothing and have left something.
pub fn with_left(owner: pg_sys::Oid) -> Result<Vec<Change>, Error> {
    privilege::as_owner(TABLE, || {
        let statement = const {
            selected!(
                "WHERE owner = $1 AND state ? 'left' AND status NOT IN ('queued', 'applying', 'undoing') ORDER BY change_id"
            )
        };
        Ok(rows(statement, &[owner.into()], Change::read))
    })
}

/// Queues a run for each role whose changes have left something, unless one is queued already.
pub fn queue_clean_up() -> Result<(), Error> {
    let queued = privilege::as_owner(TABLE, || {
        Ok(run(
            c"INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, status)
             SELECT j.job_id, j.name, j.owner, true, pg_catalog.clock_timestamp(), 'queued' FROM perf.job j
              WHERE j.kind = 'change' AND j.enabled
                AND j.owner IN (SELECT c.owner FROM perf.change c
                               WHERE c.state ? 'left' AND c.status NOT IN ('queued', 'applying', 'undoing'))
                AND NOT EXISTS (SELECT FROM perf.job_run r WHERE r.job_id = j.job_id AND r.status IN ('queued', 'running'))",
            &[],
        ))
    })?;
    if queued > 0 {
        registry::note_jobs_change();
    }
    Ok(())
}

/// Puts right what is said of changes whose run has come to nothing (it failed, was cancelled, or is not known any more), and
/// of those that somebody else has taken back.
pub fn settle() -> Result<(), Error> {
    settle_runs()?;
    settle_gone()
}

/// Changes whose work is not there any more: an index that was made and that nobody finds by its name or its number, a view
/// that is gone, an index that was dropped and is there again.
fn settle_gone() -> Result<(), Error> {
    let gone = privilege::as_owner(TABLE, || {
        Ok(rows(
            c"WITH made AS (
                 SELECT c.change_id, c.kind, CASE c.kind WHEN 'index_drop' THEN 'dropped' ELSE 'made' END AS list
                   FROM perf.change c
                  WHERE c.status IN ('applied', 'verified', 'no_gain', 'regressed')
                    AND c.kind IN ('index_create', 'index_drop', 'matview')
                    FOR UPDATE SKIP LOCKED),
              found AS (
                 SELECT m.change_id, m.kind,
                        EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(
                                    CASE m.kind WHEN 'matview' THEN pg_catalog.jsonb_build_array(c.state->'view')
                                                ELSE COALESCE(c.state->m.list, '[]') END) AS e
                                  JOIN pg_catalog.pg_namespace n ON n.nspname = e->>'schema'
                                  JOIN pg_catalog.pg_class k ON k.relnamespace = n.oid AND k.relname = e->>'name'
                                   AND k.relkind IN ('i', 'I', 'm')
                                 WHERE NOT COALESCE((e->>'part')::boolean, false)) AS by_name,
                        EXISTS (SELECT FROM pg_catalog.jsonb_array_elements_text(COALESCE(c.state->'oids', '[]')) AS o
                                  JOIN pg_catalog.pg_class k ON k.oid = o::oid
                                 -- Parts may be left of partitions that are none any more.
                                 WHERE k.relkind = 'I' OR k.relkind = 'i' AND pg_catalog.jsonb_array_length(c.state->m.list) = 1
                               ) AS by_oid
                   FROM made m JOIN perf.change c USING (change_id))
             UPDATE perf.change c
                SET status = 'undone', undone_at = pg_catalog.clock_timestamp(),
                    message = CASE c.kind WHEN 'index_drop' THEN 'somebody has made an index of this name again'
                                          ELSE 'somebody has dropped what it made' END
               FROM found f
              WHERE c.change_id = f.change_id AND CASE f.kind WHEN 'index_drop' THEN f.by_name
                                                              ELSE NOT f.by_name AND NOT f.by_oid END
             RETURNING c.change_id",
            &[],
            |row| row.get::<i64>(1),
        ))
    })?;
    for change_id in gone.into_iter().flatten() {
        let Some(change) = numbered(change_id)? else { continue };
        let entry = Entry {
            action: "undone",
            sql: None,
            outcome: change.message.as_deref().unwrap_or_default(),
            sqlstate: None,
            detail: json!({}),
        };
        audit::note(&change, change.owner, &entry)?;
    }
    Ok(())
}

fn settle_runs() -> Result<(), Error> {
    let lost = privilege::as_owner(TABLE, || {
        Ok(rows(
            c"WITH lost AS (
                 SELECT c.change_id, r.message, r.sqlstate, r.status FROM perf.change c
                   LEFT JOIN perf.job_run r ON r.run_id = c.run_id
                  WHERE c.status IN ('queued', 'applying', 'undoing')
                    AND (r.run_id IS NULL OR r.status NOT IN ('queued', 'running'))
                  FOR UPDATE OF c SKIP LOCKED)
             UPDATE perf.change c SET status = c.fallback, message = COALESCE(l.message, 'its run is not known any more'),
                    state = c.state
                    -- A worker that was lost could not clean up after itself.
                    || CASE WHEN c.status IN ('applying', 'undoing') AND c.kind LIKE 'index%'
                            THEN '{\"left\": true}' ELSE '{}' END::jsonb
                    || CASE WHEN c.status = 'undoing'
                            THEN pg_catalog.jsonb_build_object('undo_failures',
                                     COALESCE((c.state->>'undo_failures')::int, 0) + 1) ELSE '{}' END::jsonb
               FROM lost l WHERE c.change_id = l.change_id AND c.status IN ('queued', 'applying', 'undoing')
             RETURNING c.change_id, l.message, l.sqlstate, COALESCE(l.status, 'unknown')",
            &[],
            |row| {
                let string = |at: i32| row.get::<Text>(at).map(|text| text.0);
                (row.get::<i64>(1).unwrap_or_default(), string(2), string(3), row.string(4))
            },
        ))
    })?;
    for (change_id, message, sqlstate, run_status) in lost {
        let Some(change) = numbered(change_id)? else { continue };
        let entry = Entry {
            action: "failed",
            sql: None,
            outcome: message.as_deref().unwrap_or("its run is not known any more"),
            sqlstate: sqlstate.as_deref(),
            detail: json!({ "run_id": change.run_id, "run_status": run_status, "status": change.status }),
        };
        audit::note(&change, change.owner, &entry)?;
    }
    Ok(())
}

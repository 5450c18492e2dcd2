//! Changes that concern more than a promise: settings, and what the guard of autopilot has seen others do. What the statements
//! did before is taken from the history up to the change; what counts besides their time is their work (blocks found and
//! read, temporary blocks, WAL records). Judged by `perf_core::guard`. Called inside a transaction; reads all roles'
//! statements with the rights of the tables' owner, and hands on numbers alone.

use perf_core::baseline::Side;
use perf_core::change::{Judgement, Observed, Part, Verdict};
use perf_core::guard::{self, Question};
use perf_core::histogram::Histogram;
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::setting;
use super::store::{self, Change, TABLE};
use crate::act::runs::{rows, timestamp};
use crate::error::Error;
use crate::guc;
use crate::pg::privilege;
use crate::pg::query::{text, Row};
use crate::pg::text::{Document, Text};

/// Statements of a change at most.
const STATEMENTS_MAX: i64 = 100;
/// The statements' time that is compared with, at most.
pub const BEFORE_US: i64 = 24 * 3_600 * 1_000_000;
/// How long sessions are waited for that began before the setting of their role or database was changed.
const SESSIONS_S: f64 = 3_600.0;

/// Whether somebody else has made it.
pub fn is_observed(change: &Change) -> bool {
    change.state.get("observed").and_then(Value::as_bool) == Some(true)
}

/// Whether it is judged here.
fn is_judged_here(change: &Change) -> bool {
    change.kind == setting::KIND || is_observed(change)
}

/// From when to when history tells of the time before a change.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// After this, in the server's time.
    pub since: i64,
    /// Up to this.
    pub until: i64,
}

/// Keeps what all statements of a role, or of everybody, did before a change: those with the most time. Their time, in ms.
pub fn keep_all(change_id: i64, before: Before, role: Option<u32>) -> Result<f64, Error> {
    kept(
        c"INSERT INTO perf.change_statement (change_id, queryid, part, weight_ms, calls, total_ms, blocks, histogram)
          SELECT $1, h.queryid, 'reader', pg_catalog.sum(h.total_ms), pg_catalog.sum(h.calls), pg_catalog.sum(h.total_ms),
                 pg_catalog.sum(h.shared_blks_hit + h.shared_blks_read + h.temp_blks_read + h.temp_blks_written
                                + h.wal_records),
                 perf._histogram_merge(h.histogram)
            FROM perf.statement_history h
           WHERE h.collected_at > $2 AND h.collected_at <= $3 AND h.queryid IS NOT NULL AND h.calls > 0
             AND h.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
             AND ($4 = 0 OR h.userid::bigint = $4)
           GROUP BY h.queryid ORDER BY pg_catalog.sum(h.total_ms) DESC LIMIT $5
          ON CONFLICT DO NOTHING RETURNING weight_ms",
        &[
            change_id.into(),
            timestamp(before.since).into(),
            timestamp(before.until).into(),
            role.map_or(0, i64::from).into(),
            STATEMENTS_MAX.into(),
        ],
    )
}

/// The same of some statements, with the part that each has.
pub fn keep(change_id: i64, before: Before, parts: &[(i64, Part)]) -> Result<f64, Error> {
    let wanted: Vec<Value> =
        parts.iter().map(|(queryid, part)| json!({ "queryid": queryid, "part": part.name() })).collect();
    kept(
        c"INSERT INTO perf.change_statement (change_id, queryid, part, weight_ms, calls, total_ms, blocks, histogram)
          SELECT $1, w.queryid, w.part, pg_catalog.sum(h.total_ms), pg_catalog.sum(h.calls), pg_catalog.sum(h.total_ms),
                 pg_catalog.sum(h.shared_blks_hit + h.shared_blks_read + h.temp_blks_read + h.temp_blks_written
                                + h.wal_records),
                 perf._histogram_merge(h.histogram)
            FROM pg_catalog.jsonb_to_recordset($4) AS w (queryid bigint, part text)
            JOIN perf.statement_history h ON h.queryid = w.queryid
           WHERE h.collected_at > $2 AND h.collected_at <= $3 AND h.calls > 0
             AND h.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
           GROUP BY w.queryid, w.part
          ON CONFLICT DO NOTHING RETURNING CASE WHEN part <> 'control' AND calls >= 10 THEN weight_ms ELSE 0 END",
        &[
            change_id.into(),
            timestamp(before.since).into(),
            timestamp(before.until).into(),
            Document(Value::Array(wanted)).into(),
        ],
    )
}

fn kept(statement: &'static std::ffi::CStr, arguments: &[pgrx::datum::DatumWithOid]) -> Result<f64, Error> {
    privilege::as_owner(TABLE, || {
        let weights = privilege::writable(|| rows(statement, arguments, |row| row.get::<f64>(1).unwrap_or_default()));
        Ok(weights.into_iter().sum())
    })
}

/// From when on the statements are compared with what they did before a change at `until`: a day, but nothing from before
/// another change that touches as much. In the server's time.
pub fn since(target: pg_sys::Oid, until: i64) -> Result<i64, Error> {
    let latest = privilege::as_owner(TABLE, || {
        Ok(rows(
            c"SELECT pg_catalog.max(GREATEST(applied_at, undone_at)) FROM perf.change
               WHERE (kind = 'setting' OR $1 = 0 OR target = $1::oid) AND GREATEST(applied_at, undone_at) <= $2",
            &[i64::from(target.to_u32()).into(), timestamp(until).into()],
            |row| row.get::<pgrx::datum::TimestampWithTimeZone>(1).map(i64::from),
        ))
    })?;
    Ok(latest.into_iter().flatten().next().map_or(until - BEFORE_US, |at| at.max(until - BEFORE_US)))
}

/// Writes down the time of the workload that a change is compared with.
pub fn set_total(change_id: i64, total_ms: f64) -> Result<(), Error> {
    write(c"UPDATE perf.change SET total_ms = $2 WHERE change_id = $1", &[change_id.into(), total_ms.into()])
}

/// Writes down that a change has become more.
pub fn replace(change: &Change) -> Result<(), Error> {
    write(
        c"UPDATE perf.change SET ddl = $2, undo_ddl = $3, relation = $4 WHERE change_id = $1",
        &[change.change_id.into(), text(&change.ddl), change.undo_ddl.clone().map(Text).into(), text(&change.relation)],
    )
}

/// Removes a change that nothing can be said of.
pub fn forget(change_id: i64) -> Result<(), Error> {
    write(c"DELETE FROM perf.change WHERE change_id = $1", &[change_id.into()])
}

/// How many changes of others are watched.
pub fn open() -> Result<i64, Error> {
    privilege::as_owner(TABLE, || {
        let found = rows(
            c"SELECT pg_catalog.count(*) FROM perf.change WHERE state ? 'observed' AND status IN ('applied', 'regressed')",
            &[],
            |row| row.get::<i64>(1).unwrap_or(0),
        );
        Ok(found.into_iter().next().unwrap_or(0))
    })
}

fn write(statement: &'static std::ffi::CStr, arguments: &[pgrx::datum::DatumWithOid]) -> Result<(), Error> {
    store::changed(statement, arguments).map(|_| ())
}

/// From now on executions are after the change, for another round.
pub fn begin_round(change_id: i64) -> Result<(), Error> {
    write(
        c"UPDATE perf.change SET marked_at = (SELECT COALESCE(pg_catalog.max(collected_at), '-infinity')
                                                FROM perf.statement_history)
          WHERE change_id = $1",
        &[change_id.into()],
    )
}

/// A change is to be judged anew, for something else has changed that it was judged together with.
pub fn begin_anew(change_id: i64) -> Result<(), Error> {
    write(
        c"UPDATE perf.change SET status = 'applied', verified_at = NULL, achieved_pct = NULL,
                 message = 'another change was taken back: judged anew', state = state - 'confirmed' - 'cause'
           WHERE change_id = $1 AND status IN ('applied', 'verified', 'no_gain', 'regressed')",
        &[change_id.into()],
    )?;
    begin_round(change_id)
}

fn side(row: &Row, first: i32) -> (Side, f64) {
    let latency = row.get::<Vec<u8>>(first + 3).and_then(|bytes| Histogram::decode(&bytes)).unwrap_or_default();
    let calls = row.get::<i64>(first).and_then(|calls| u64::try_from(calls).ok()).unwrap_or(0);
    let work = row.get::<i64>(first + 2).map_or(0.0, |work| work as f64) / (calls as f64).max(1.0);
    (Side { calls, total_ms: row.get::<f64>(first + 1).unwrap_or(0.0), latency }, work)
}

/// Before and after, statement by statement, the heaviest first. Of a setting without those that another change concerns.
pub fn statements(change: &Change) -> Result<Vec<Observed>, Error> {
    let role = setting::role_of(&setting::of(change)).map_or(0, i64::from);
    privilege::as_owner(TABLE, || {
        Ok(rows(
            c"WITH this AS MATERIALIZED (SELECT * FROM perf.change WHERE change_id = $1),
                   since AS MATERIALIZED (
                      SELECT h.queryid, pg_catalog.sum(h.calls)::bigint AS calls, pg_catalog.sum(h.total_ms) AS total_ms,
                             pg_catalog.sum(h.shared_blks_hit + h.shared_blks_read + h.temp_blks_read + h.temp_blks_written
                                            + h.wal_records)::bigint AS work,
                             perf._histogram_merge(h.histogram) AS histogram
                        FROM perf.statement_history h
                       WHERE h.collected_at > (SELECT marked_at FROM this) AND h.calls > 0
                         AND h.queryid IN (SELECT s.queryid FROM perf.change_statement s WHERE s.change_id = $1)
                         -- What was seen is older than the look; what is made here is not.
                         AND (SELECT state ? 'observed' OR h.bucket_at >= applied_at FROM this)
                         AND h.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
                         AND ($2 = 0 OR h.userid::bigint = $2)
                       GROUP BY h.queryid)
              SELECT s.queryid, s.part, s.weight_ms, s.calls, s.total_ms, s.blocks, s.histogram,
                     a.calls, a.total_ms, a.work, a.histogram
                FROM this t JOIN perf.change_statement s USING (change_id) LEFT JOIN since a USING (queryid)
               WHERE t.kind <> 'setting' OR NOT EXISTS (
                        SELECT FROM perf.change c JOIN perf.change_statement o USING (change_id)
                         WHERE o.queryid = s.queryid AND o.part <> 'control' AND c.kind <> 'setting'
                           AND GREATEST(c.applied_at, c.undone_at)
                               > timestamptz '2000-01-01 00:00:00+00' + (t.state ->> 'since')::bigint * interval '1 microsecond')
               ORDER BY s.weight_ms DESC, s.queryid",
            &[change.change_id.into(), role.into()],
            |row| {
                let ((before, blocks_before), (after, blocks_after)) = (side(row, 4), side(row, 8));
                Observed {
                    queryid: row.get::<i64>(1).unwrap_or_default(),
                    part: Part::from_name(&row.string(2)).unwrap_or(Part::Control),
                    promised_ratio: None,
                    weight_ms: row.get(3).unwrap_or_default(),
                    before,
                    after,
                    blocks_before,
                    blocks_after,
                }
            },
        ))
    })
}

/// Sessions of clients that began before the settings of their database or role were changed.
fn old_sessions(change: &Change) -> Result<i64, Error> {
    let settings = setting::of(change);
    let waits = change.applied_s_ago.is_some_and(|seconds| seconds < SESSIONS_S);
    if !waits || settings.is_empty() || settings.iter().any(|one| one.place.is_server) {
        return Ok(0);
    }
    let role = setting::role_of(&settings).map_or(0, i64::from);
    privilege::as_owner(TABLE, || {
        let found = rows(
            c"SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
               WHERE a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend'
                 AND ($2 = 0 OR a.usesysid::bigint = $2)
                 AND a.backend_start < (SELECT c.applied_at FROM perf.change c WHERE c.change_id = $1)",
            &[change.change_id.into(), role.into()],
            |row| row.get::<i64>(1).unwrap_or(0),
        );
        Ok(found.into_iter().next().unwrap_or(0))
    })
}

/// What was measured of a change, and what that says; `None` of one that is judged by its promise.
pub fn measure(change: &Change) -> Result<Option<(Vec<Observed>, Judgement)>, Error> {
    if !is_judged_here(change) {
        return Ok(None);
    }
    let found = statements(change)?;
    let is_setting = change.kind == setting::KIND;
    let question = Question {
        is_setting,
        total_ms: change.total_ms,
        min_calls: guc::verify_min_calls(),
        is_late: change.is_late(),
    };
    let mut judgement = guard::judge(&found, &question);
    let sessions = if is_setting { old_sessions(change)? } else { 0 };
    if sessions > 0 {
        judgement.verdict = Verdict::Waiting;
        judgement.achieved_pct = None;
        judgement.reason = format!("{sessions} sessions began before the change and run with the value that was");
        if change.status == "applied" {
            begin_round(change.change_id)?;
        }
    }
    Ok(Some((found, judgement)))
}

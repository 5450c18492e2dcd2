//! The rows of perf.job_run, and the one statement for each step in the life of one:
//! queued → running → succeeded | failed | skipped | crashed | cancelled; a try that is to be repeated goes back to queued.
//! Every step names the status it comes from, so that a row ends once, whoever else is at it.
//!
//! Called by the scheduler, by the workers of runs and by the job functions, inside a transaction, with the rights of the
//! tables' owner. Locks the rows it changes.

use std::ffi::CStr;

use pgrx::datum::{DatumWithOid, Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use serde_json::{json, Value};

use super::executor::{Failure, QUERY_CANCELED};
use super::requests::Request;
use crate::pg::background;
use crate::pg::query::{self, text, Row};
use crate::pg::text::{Document, Text};

/// A run that may start now.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Row of perf.job_run.
    pub run_id: i64,
    /// The job's owner.
    pub owner: u32,
    /// Which try this will be.
    pub attempt: i32,
}

/// A run whose owner cannot run it.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Row of perf.job_run.
    pub run_id: i64,
    /// Its job, switched off when it can never run again.
    pub job_id: i64,
    /// The reason.
    pub failure: Failure,
    /// The owner is gone.
    pub for_good: bool,
}

/// What a worker is to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// Row of perf.job_run.
    pub run_id: i64,
    /// Row of perf.job.
    pub job_id: i64,
    /// Which try.
    pub attempt: i32,
    /// Name of the job.
    pub name: String,
    /// What sort of job.
    pub kind: String,
    /// SQL, for jobs that have some.
    pub command: Option<String>,
    /// The relation that it is about.
    pub target: Option<u32>,
    /// What else was asked for.
    pub options: Value,
    /// The time that the run is to take it to be, in microseconds since 1970; `None`: now.
    pub as_of: Option<i64>,
    /// The process that waits, within a statement, for the first try of it, if one does.
    pub caller: Option<i32>,
    /// Limit of the whole run.
    pub timeout_ms: Option<i64>,
    /// Limit of a wait for a lock.
    pub lock_timeout_ms: Option<i64>,
    /// Further tries after a failure.
    pub max_retries: i32,
}

/// How a run went.
#[derive(Clone, Debug)]
pub enum Ending {
    /// It did what it was to do.
    Succeeded,
    /// There was nothing to do, for this reason.
    Skipped(String),
    /// It failed; may be tried again.
    Failed(Failure),
    /// Somebody cancelled it.
    Cancelled(String),
}

/// What is written down of a run that has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// How it went.
    pub ending: Ending,
    /// When its worker began.
    pub started_at: i64,
    /// Time it waited for locks, where that was measured.
    pub lock_wait_ms: Option<f64>,
    /// An object: what the kind of job wants to say.
    pub detail: Value,
}

/// Runs a statement with arguments; the number of rows it changed.
pub fn run(statement: &'static CStr, arguments: &[DatumWithOid]) -> u64 {
    query::run_with(statement, arguments, |_| ()).0
}

/// Rows of a statement, each converted.
pub fn rows<T>(statement: &'static CStr, arguments: &[DatumWithOid], convert: impl FnMut(&Row) -> T) -> Vec<T> {
    query::run_with(statement, arguments, convert).1
}

/// The server's time as a value.
pub fn timestamp(at: i64) -> TimestampWithTimeZone {
    TimestampWithTimeZone::try_from(at).unwrap_or_else(|_| TimestampWithTimeZone::positive_infinity())
}

// ---- the scheduler's steps ----

/// Queues a tick of a job. Nothing happens when the tick has been queued before.
pub fn queue(job_id: i64, scheduled_at: i64) {
    run(
        c"INSERT INTO perf.job_run (job_id, job_name, owner, scheduled_at, status)
         SELECT job_id, name, owner, $2, 'queued' FROM perf.job WHERE job_id = $1
         ON CONFLICT DO NOTHING",
        &[job_id.into(), timestamp(scheduled_at).into()],
    );
}

/// Queues a run that a backend asks for from within its transaction; its number, -1 when there is no such job. It takes the
/// place of one that has failed and waits for its next try, which would keep the backend waiting.
pub fn queue_requested(request: &Request) -> i64 {
    run(
        c"UPDATE perf.job_run SET status = 'skipped', finished_at = pg_catalog.clock_timestamp(),
                message = 'a run that was asked for took its place'
         WHERE run_id IN (SELECT run_id FROM perf.job_run
                          WHERE job_id = $1 AND status = 'queued' AND not_before > pg_catalog.clock_timestamp()
                          FOR UPDATE SKIP LOCKED)",
        &[request.job_id.into()],
    );
    let detail = json!({ "as_of_us": request.as_of_us, "caller_pid": request.caller });
    let queued = rows(
        c"INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, status, detail)
         SELECT job_id, name, owner, true, pg_catalog.clock_timestamp(), 'queued', $2 FROM perf.job WHERE job_id = $1
         RETURNING run_id",
        &[request.job_id.into(), Document(detail).into()],
        |row| row.get::<i64>(1),
    );
    queued.into_iter().flatten().next().unwrap_or(-1)
}

/// Queues a run of each job whose table has a concurrent detach that was interrupted, unless one is waiting already: as long
/// as it is pending no other partition of the table can be detached so.
pub fn queue_interrupted() {
    run(
        c"INSERT INTO perf.job_run (job_id, job_name, owner, requested, scheduled_at, status)
         SELECT j.job_id, j.name, j.owner, true, pg_catalog.clock_timestamp(), 'queued' FROM perf.job j
         WHERE j.kind = 'partition' AND j.enabled
           AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = j.target::pg_catalog.oid AND i.inhdetachpending)
           AND NOT EXISTS (SELECT FROM perf.job_run r WHERE r.job_id = j.job_id AND r.status IN ('queued', 'running'))",
        &[],
    );
}

/// Records ticks that do not run, as one row: the first of them, with their number and the last one in its detail.
pub fn skip(job_id: i64, ticks: &Ticks, reason: &str) {
    let detail = json!({ "ticks": ticks.count, "count_is_exact": ticks.is_exact, "last_tick_at": iso(ticks.last) });
    run(
        c"INSERT INTO perf.job_run (job_id, job_name, owner, scheduled_at, finished_at, status, message, detail)
         SELECT job_id, name, owner, $2, pg_catalog.clock_timestamp(), 'skipped', $3, $4 FROM perf.job WHERE job_id = $1
         ON CONFLICT DO NOTHING",
        &[job_id.into(), timestamp(ticks.first).into(), text(reason), Document(detail).into()],
    );
}

/// Ticks that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// How many.
    pub count: u64,
    /// There may be more.
    pub is_exact: bool,
    /// The first.
    pub first: i64,
    /// The last.
    pub last: i64,
}

/// The server's time as text.
pub fn iso(at: i64) -> String {
    pgrx::datum::datetime_support::ToIsoString::to_iso_string(timestamp(at))
}

/// Queued runs that may start, at most `limit`, most urgent first; and those whose owner cannot run them. A run that
/// somebody has locked (to cancel it, in a transaction still open) is left to the next look.
///
/// Of runs of the same priority those of the owner that has the fewest under way come first. `full` are owners that have as
/// many as they may.
pub fn ready(now: i64, limit: usize, full: &[u32]) -> (Vec<Ready>, Vec<Refused>) {
    let full: Vec<pg_sys::Oid> = full.iter().map(|owner| pg_sys::Oid::from(*owner)).collect();
    // The first open run of each job is found in one pass over the open ones. Asked for each of them, as they lie behind
    // each other, that takes longer than a round may: thousands of runs of one job would hold up all others for ever.
    let found = rows(
        c"WITH turn AS MATERIALIZED (
             SELECT run_id, pg_catalog.row_number() OVER (PARTITION BY job_id
                                                         ORDER BY status = 'running' DESC, scheduled_at, run_id) AS place,
                    pg_catalog.count(*) FILTER (WHERE status = 'running') OVER (PARTITION BY owner) AS busy
             FROM perf.job_run WHERE status IN ('queued', 'running'))
         SELECT r.run_id, r.job_id, r.attempt + 1, r.owner::pg_catalog.oid,
                CASE WHEN a.oid IS NULL THEN 'gone'
                     WHEN NOT a.rolcanlogin AND pg_catalog.current_setting('server_version_num')::int < 170000 THEN 'nologin'
                     WHEN NOT pg_catalog.has_database_privilege(a.oid, d.oid, 'CONNECT') THEN 'connect'
                     WHEN a.rolconnlimit = 0 AND NOT a.rolsuper THEN 'limit'
                     ELSE 'able' END,
                a.rolname::pg_catalog.text
         FROM turn t
         JOIN perf.job_run r ON r.run_id = t.run_id
         JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
         LEFT JOIN perf.job j ON j.job_id = r.job_id
         LEFT JOIN pg_catalog.pg_authid a ON a.oid = r.owner
         WHERE r.status = 'queued'
           AND (r.not_before IS NULL OR r.not_before <= $1)
           AND (t.place = 1 OR j.overlap = 'parallel')
           AND r.owner::pg_catalog.oid <> ALL ($3)
         ORDER BY j.priority DESC NULLS LAST, t.busy, r.scheduled_at, r.run_id
         LIMIT $2
         FOR UPDATE OF r SKIP LOCKED",
        &[timestamp(now).into(), (limit as i64).into(), full.into()],
        |row| {
            let owner = row.get::<pg_sys::Oid>(4).map_or(0, pg_sys::Oid::to_u32);
            let role = row.string(6);
            let refusal = match row.string(5).as_str() {
                "able" => None,
                "gone" => Some(Failure::new("42704", format!("the job's owner does not exist: role {owner} was dropped"))),
                "nologin" => Some(Failure::new("28000", format!("role \"{role}\" is not permitted to log in"))),
                "limit" => Some(Failure::new("53300", format!("role \"{role}\" may have no connection"))),
                _ => Some(Failure::new("42501", format!("role \"{role}\" may not connect to this database"))),
            };
            let run_id = row.get::<i64>(1).unwrap_or_default();
            (
                Ready { run_id, owner, attempt: row.get::<i32>(3).unwrap_or(1) },
                row.get::<i64>(2).unwrap_or_default(),
                refusal,
            )
        },
    );
    let mut ready = Vec::new();
    let mut refused = Vec::new();
    for (run, job_id, refusal) in found {
        match refusal {
            None => ready.push(run),
            Some(failure) => {
                let for_good = failure.sqlstate == "42704";
                refused.push(Refused { run_id: run.run_id, job_id, failure, for_good });
            }
        }
    }
    (ready, refused)
}

/// Claims runs: from now on a worker has them, or they have crashed.
pub fn claim(runs: &[Ready]) {
    let ids: Vec<i64> = runs.iter().map(|run| run.run_id).collect();
    run(
        c"UPDATE perf.job_run
         SET status = 'running', started_at = pg_catalog.clock_timestamp(), attempt = attempt + 1, message = NULL
         WHERE run_id = ANY ($1) AND status = 'queued'",
        &[ids.into()],
    );
}

/// Takes back the claim of runs that no worker could be started for.
pub fn unclaim(runs: &[Ready], reason: &str) {
    let ids: Vec<i64> = runs.iter().map(|run| run.run_id).collect();
    run(
        c"UPDATE perf.job_run SET status = 'queued', started_at = NULL, attempt = attempt - 1, message = $2
         WHERE run_id = ANY ($1) AND status = 'running'",
        &[ids.into(), text(reason)],
    );
}

/// Runs that are claimed: row and try.
pub fn claimed() -> Vec<(i64, i32)> {
    rows(c"SELECT run_id, attempt FROM perf.job_run WHERE status = 'running'", &[], |row| {
        (row.get(1).unwrap_or_default(), row.get(2).unwrap_or_default())
    })
}

/// A claimed run whose worker is gone: to be tried again when its job allows, else its end. False when it had ended, or
/// somebody has it locked: one user's open transaction must not hold up the scheduler.
pub fn lost(run_id: i64, attempt: i32, failure: &Failure, status: &str, seed: u64) -> bool {
    let found = rows(
        c"SELECT j.max_retries FROM perf.job_run r LEFT JOIN perf.job j USING (job_id)
         WHERE r.run_id = $1 AND r.attempt = $2 AND r.status = 'running' FOR UPDATE OF r SKIP LOCKED",
        &[run_id.into(), attempt.into()],
        |row| row.get::<i32>(1),
    );
    let Some(max_retries) = found.first().copied() else { return false };
    (attempt <= max_retries.unwrap_or(0) && retry(run_id, attempt, failure, status, seed))
        || end(run_id, attempt, status, failure, None, None, &json!({}))
}

// ---- the worker's steps ----

/// What a claimed run is to do; `None` when it is not claimed, or its job is gone or another's than that of `owner`, whose
/// rights this session has. Read by hand, not in SQL: this is the first thing that a new process does, where parsing and
/// planning a join costs more than all the rest of the run.
pub fn order(run_id: i64, attempt: i32, owner: pg_sys::Oid) -> Option<Order> {
    let (job_id, as_of, caller) = query::row_by_key(c"job_run", c"job_run_pkey", run_id, |row| {
        let detail = row.named::<Document>(c"detail").map_or(Value::Null, |detail| detail.0);
        let as_of = detail.get("as_of_us").and_then(Value::as_i64);
        let caller = detail.get("caller_pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
        let claimed = row.named::<Text>(c"status").is_some_and(|status| status.0 == "running")
            && row.named::<i32>(c"attempt") == Some(attempt);
        row.named::<i64>(c"job_id").filter(|_| claimed).map(|job_id| (job_id, as_of, caller.filter(|_| attempt == 1)))
    })
    .flatten()?;
    let milliseconds = |interval: Option<Interval>| {
        interval.map(|interval| i64::try_from(interval.as_micros() / 1_000).unwrap_or(i64::MAX))
    };
    let string = |text: Option<Text>| text.unwrap_or_default().0;
    let read = |row: &query::Row| Order {
        run_id,
        attempt,
        job_id,
        name: string(row.named(c"name")),
        kind: string(row.named(c"kind")),
        command: row.named::<Text>(c"command").map(|command| command.0),
        target: row.named::<pg_sys::Oid>(c"target").map(pg_sys::Oid::to_u32),
        options: row.named::<Document>(c"options").map_or(Value::Null, |options| options.0),
        as_of,
        caller,
        timeout_ms: milliseconds(row.named(c"timeout")),
        lock_timeout_ms: milliseconds(row.named(c"lock_timeout")),
        max_retries: row.named(c"max_retries").unwrap_or_default(),
    };
    let is_own = |row: &query::Row| row.named::<pg_sys::Oid>(c"owner") == Some(owner);
    query::row_by_key(c"job", c"job_pkey", job_id, |row| is_own(row).then(|| read(row))).flatten()
}

/// Writes down the end of a try. A failed one goes back to the queue while the job allows more.
pub fn finish(order: &Order, record: &Record, seed: u64) {
    let (run_id, attempt) = (order.run_id, order.attempt);
    let failure = match &record.ending {
        Ending::Succeeded => return succeed(order, "succeeded", None, record),
        Ending::Skipped(reason) => return succeed(order, "skipped", Some(reason), record),
        Ending::Failed(failure) => {
            if attempt <= order.max_retries && retry(run_id, attempt, failure, "failed", seed) {
                return;
            }
            failure.clone()
        }
        Ending::Cancelled(message) => Failure::new(QUERY_CANCELED, message.clone()),
    };
    let status = if matches!(record.ending, Ending::Cancelled(_)) { "cancelled" } else { "failed" };
    end(run_id, attempt, status, &failure, Some(record.started_at), record.lock_wait_ms, &record.detail);
}

fn succeed(order: &Order, status: &str, message: Option<&str>, record: &Record) {
    run(
        c"UPDATE perf.job_run
         SET status = $3, started_at = $4, finished_at = pg_catalog.clock_timestamp(), sqlstate = NULL, message = $5,
             lock_wait_ms = $6, detail = detail || $7
         WHERE run_id = $1 AND attempt = $2 AND status = 'running'",
        &[
            order.run_id.into(),
            order.attempt.into(),
            text(status),
            timestamp(record.started_at).into(),
            message.map(|message| Text(message.to_owned())).into(),
            record.lock_wait_ms.into(),
            Document(record.detail.clone()).into(),
        ],
    );
    run(
        c"UPDATE perf.job_state SET consecutive_failures = 0
         WHERE job_id IN (SELECT job_id FROM perf.job_state WHERE job_id = $1 AND consecutive_failures <> 0
                          FOR UPDATE SKIP LOCKED)",
        &[order.job_id.into()],
    );
}

/// Back to the queue, with the failed try in the detail. False when it had ended, or its job was removed or is another's.
fn retry(run_id: i64, attempt: i32, failure: &Failure, status: &str, seed: u64) -> bool {
    let now = background::now();
    let not_before = perf_core::schedule::retry_at(now, u32::try_from(attempt).unwrap_or(1), seed);
    let tried = json!({ "attempt": attempt, "status": status, "sqlstate": failure.sqlstate, "message": failure.message, "at": iso(now) });
    let changed = run(
        c"UPDATE perf.job_run
         SET status = 'queued', not_before = $3, sqlstate = $4, message = $5,
             detail = pg_catalog.jsonb_set(detail, '{attempts}',
                          COALESCE(detail -> 'attempts', '[]') || pg_catalog.jsonb_build_array($6))
         WHERE run_id = $1 AND attempt = $2 AND status = 'running'
           AND EXISTS (SELECT FROM perf.job j WHERE j.job_id = job_run.job_id AND j.owner = job_run.owner)",
        &[
            run_id.into(),
            attempt.into(),
            timestamp(not_before).into(),
            text(&failure.sqlstate),
            text(&failure.message),
            Document(tried).into(),
        ],
    );
    changed > 0
}

/// The end of a run that did not succeed: counts it, and tells whoever listens to `perf_jobs`.
fn end(
    run_id: i64,
    attempt: i32,
    status: &str,
    failure: &Failure,
    started_at: Option<i64>,
    lock_wait_ms: Option<f64>,
    detail: &Value,
) -> bool {
    let mut detail = detail.clone();
    if let Some(object) = detail.as_object_mut() {
        for (name, value) in [("error_detail", &failure.detail), ("hint", &failure.hint)] {
            if let Some(value) = value {
                object.insert(name.to_owned(), Value::String(value.clone()));
            }
        }
    }
    let ended = rows(
        c"UPDATE perf.job_run
         SET status = $3, started_at = COALESCE($4, started_at), finished_at = pg_catalog.clock_timestamp(), sqlstate = $5,
             message = $6, lock_wait_ms = $7, detail = detail || $8
         WHERE run_id = $1 AND attempt = $2 AND status IN ('queued', 'running')
         RETURNING job_id, job_name",
        &[
            run_id.into(),
            attempt.into(),
            text(status),
            started_at.map(timestamp).into(),
            text(&failure.sqlstate),
            text(&failure.message),
            lock_wait_ms.into(),
            Document(detail).into(),
        ],
        |row| (row.get::<i64>(1).unwrap_or_default(), row.string(2)),
    );
    let Some((job_id, name)) = ended.into_iter().next() else { return false };
    if status == "cancelled" {
        return true;
    }
    count_failure(job_id);
    // Without name and message: whoever is connected may listen, and they are the owner's alone.
    let notice = json!({ "job_id": job_id, "run_id": run_id, "status": status, "sqlstate": failure.sqlstate });
    run(c"SELECT pg_catalog.pg_notify('perf_jobs', $1)", &[text(&notice.to_string())]);
    pgrx::log!("perf_opt job {job_id} \"{name}\", run {run_id}: {status} ({}): {}", failure.sqlstate, failure.message);
    true
}

/// Counts a failure of a job, without waiting for anybody: another run of the job, which has reset the count in its own
/// transaction, may stay in it for as long as its owner likes. One failure goes uncounted then.
fn count_failure(job_id: i64) {
    let counted = run(
        c"UPDATE perf.job_state SET consecutive_failures = consecutive_failures + 1
         WHERE job_id IN (SELECT job_id FROM perf.job_state WHERE job_id = $1 FOR UPDATE SKIP LOCKED)",
        &[job_id.into()],
    );
    if counted == 0 {
        run(
            c"INSERT INTO perf.job_state (job_id, consecutive_failures) SELECT job_id, 1 FROM perf.job WHERE job_id = $1
             ON CONFLICT DO NOTHING",
            &[job_id.into()],
        );
    }
}

/// A queued run that cannot start: its end.
pub fn refuse(refused: &Refused) {
    let attempt =
        rows(c"SELECT attempt FROM perf.job_run WHERE run_id = $1", &[refused.run_id.into()], |row| row.get::<i32>(1));
    let attempt = attempt.first().copied().flatten().unwrap_or(0);
    end(refused.run_id, attempt, "failed", &refused.failure, None, None, &json!({}));
    if refused.for_good {
        switch_off(refused.job_id);
    }
}

/// A job that can never run again. One that somebody has locked is switched off at its next run.
pub fn switch_off(job_id: i64) {
    run(
        c"UPDATE perf.job SET enabled = false
          WHERE job_id IN (SELECT job_id FROM perf.job WHERE job_id = $1 FOR UPDATE SKIP LOCKED)",
        &[job_id.into()],
    );
}

/// When a queued run may start that may not yet; `None` when there is none.
pub fn next_retry_at(now: i64) -> Option<i64> {
    let found = rows(
        c"SELECT pg_catalog.min(not_before) FROM perf.job_run WHERE status = 'queued' AND not_before > $1",
        &[timestamp(now).into()],
        |row| row.get::<TimestampWithTimeZone>(1),
    );
    found.into_iter().flatten().next().map(i64::from)
}

/// Removes runs that ended before `before`, those of nodes of the fleet after some hours, which come by the minute and
/// would leave the others no room, and the oldest beyond `most`; the latest of each job stays. At most `batch`.
pub fn prune(before: i64, most: i64, batch: i64) -> u64 {
    // Not by whoever removes the job: a lock on it in an open transaction of a user's would hold up the scheduler.
    run(c"DELETE FROM perf.job_state s WHERE NOT EXISTS (SELECT FROM perf.job j WHERE j.job_id = s.job_id)", &[]);
    run(
        c"DELETE FROM perf.job_run WHERE run_id IN (
             SELECT r.run_id FROM perf.job_run r
             WHERE r.finished_at IS NOT NULL
               AND (r.finished_at < $1
                    OR r.finished_at < now() - interval '6 hours'
                       AND EXISTS (SELECT FROM perf.job f WHERE f.job_id = r.job_id AND f.kind = 'fleet')
                    OR r.run_id <= (SELECT x.run_id FROM perf.job_run x ORDER BY x.run_id DESC OFFSET $2 LIMIT 1))
               AND (EXISTS (SELECT FROM perf.job_run n WHERE n.job_id = r.job_id AND n.run_id > r.run_id)
                    OR NOT EXISTS (SELECT FROM perf.job j WHERE j.job_id = r.job_id))
             ORDER BY r.finished_at LIMIT $3)",
        &[timestamp(before).into(), most.into(), batch.into()],
    )
}

/// Notes what a run has done so far, so that it is known whatever becomes of it. For the run's own worker.
pub fn note(order: &Order, detail: &Value) {
    run(
        c"UPDATE perf.job_run SET detail = detail || $3 WHERE run_id = $1 AND attempt = $2 AND status = 'running'",
        &[order.run_id.into(), order.attempt.into(), Document(detail.clone()).into()],
    );
}

/// A run of the same kind of job that was claimed before this one and has not ended.
pub fn earlier_of_kind(order: &Order) -> Option<i64> {
    let found = rows(
        c"SELECT r.run_id FROM perf.job_run r JOIN perf.job j USING (job_id), perf.job_run me
         WHERE r.status = 'running' AND j.kind = $2 AND me.run_id = $1
           AND (r.started_at, r.run_id) < (me.started_at, me.run_id)
         ORDER BY r.started_at LIMIT 1",
        &[order.run_id.into(), text(&order.kind)],
        |row| row.get::<i64>(1),
    );
    found.into_iter().flatten().next()
}

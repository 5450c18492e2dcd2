//! Statements that users have marked to be run ahead of the hours that are busy with them: their blocks are read by the
//! very plan that will read them again. Called by the functions that mark them and by the prewarm job; a statement runs as
//! the job's owner, who has marked it, in a read-only transaction. Locks what its statements lock.

use perf_core::prewarm as decide;
use pgrx::pg_sys;
use serde_json::{json, Value};

use crate::act::board;
use crate::act::executor::{self, Failure, QUERY_CANCELED};
use crate::act::runs::{self, rows, Order};
use crate::collect::partitions::spi_failed;
use crate::error::Error;
use crate::pg::query::text;
use crate::pg::text::Text;
use crate::pg::{background, catalog, privilege, select_only};

const STATEMENTS: &std::ffi::CStr = c"prewarm_statement";
/// A statement is cancelled after so long: it shall warm the cache, not hold up the others.
const LIMIT_MS: i64 = 60_000;
/// Statements that a role can mark.
const MARKS_MAX: i64 = 100;

/// A marked statement.
pub struct Marked {
    /// Its number.
    pub statement_id: i64,
    /// Its text.
    pub statement: String,
    /// The next hour is one of those that it is run ahead of.
    pub is_due: bool,
    /// Why, or why not.
    pub reason: String,
}

/// Marks a statement for the current role; the number of its mark, also when it was marked before.
pub fn mark(statement: &str) -> Result<i64, Error> {
    let queryid = select_only::check("statement", statement)?;
    let queryid = (queryid != 0).then(|| i64::from_ne_bytes(queryid.to_ne_bytes()));
    let owner = privilege::current_role();
    privilege::as_owner(STATEMENTS, || {
        let marks = rows(
            c"SELECT count(*) FROM perf.prewarm_statement WHERE owner = $1 AND statement <> $2",
            &[owner.into(), text(statement)],
            |row| row.get::<i64>(1),
        );
        if marks.into_iter().flatten().any(|marks| marks >= MARKS_MAX) {
            return Err(Error::WrongState {
                message: format!("you have marked {MARKS_MAX} statements already"),
                hint: "perf.prewarm_unmark(statement_id) takes a mark away; perf.prewarm_statements lists them."
                    .to_owned(),
            });
        }
        let marked = rows(
            c"INSERT INTO perf.prewarm_statement (owner, queryid, statement) VALUES ($1, $2, $3)
             ON CONFLICT (owner, md5(statement)) DO UPDATE SET queryid = excluded.queryid
             RETURNING statement_id",
            &[owner.into(), queryid.into(), text(statement)],
            |row| row.get::<i64>(1),
        );
        Ok(marked.into_iter().flatten().next().unwrap_or_default())
    })
}

/// Takes a mark away; false when there is none of that number that the current role may see.
pub fn unmark(statement_id: i64) -> Result<bool, Error> {
    let role = privilege::current_role();
    privilege::as_owner(STATEMENTS, || {
        let removed = rows(
            c"DELETE FROM perf.prewarm_statement WHERE statement_id = $1 AND (owner = $2 OR $3) RETURNING statement_id",
            &[statement_id.into(), role.into(), privilege::is_superuser(role).into()],
            |row| row.get::<i64>(1),
        );
        Ok(!removed.is_empty())
    })
}

/// The current role's statements, and which of them are due before an hour of the week. The calls of each hour are those in
/// the history that the role may see.
pub fn all(time_zone: &str, hour: i64) -> Result<Vec<Marked>, Error> {
    let role = privilege::current_role();
    let marked = privilege::as_owner(STATEMENTS, || {
        Ok(rows(
            c"SELECT statement_id, statement, queryid FROM perf.prewarm_statement WHERE owner = $1 ORDER BY statement_id",
            &[role.into()],
            |row| (row.get::<i64>(1).unwrap_or_default(), row.string(2), row.get::<i64>(3)),
        ))
    })?;
    let mut found = Vec::new();
    for (statement_id, statement, queryid) in marked {
        let calls = catalog::rows(
            "SELECT coalesce(pg_catalog.max(h.calls) FILTER (WHERE h.hour OPERATOR(pg_catalog.=) $3), 0)::pg_catalog.float8,
                    coalesce(pg_catalog.max(h.calls), 0)::pg_catalog.float8
               FROM (SELECT (pg_catalog.date_part('isodow', l.at) OPERATOR(pg_catalog.-) 1) OPERATOR(pg_catalog.*) 24
                            OPERATOR(pg_catalog.+) pg_catalog.date_part('hour', l.at) AS hour, pg_catalog.sum(l.calls) AS calls
                       FROM (SELECT pg_catalog.timezone($2, s.bucket_at) AS at, s.calls
                               FROM perf.statement_history_visible s
                              WHERE s.queryid OPERATOR(pg_catalog.=) $1
                                AND s.collected_at OPERATOR(pg_catalog.>)
                                    (pg_catalog.now() OPERATOR(pg_catalog.-) '28 days'::pg_catalog.interval)) l
                      GROUP BY 1) h",
            &[queryid.into(), time_zone.into(), (hour as f64).into()],
            |row| Ok(row.get::<f64>(1)?.zip(row.get::<f64>(2)?)),
        )
        .map_err(spi_failed)?;
        let (of_hour, busiest) = calls.into_iter().next().unwrap_or((0.0, 0.0));
        let reason = if busiest <= 0.0 {
            "marked; no call of it is known, so that it is run ahead of every hour".to_owned()
        } else {
            format!("marked; {of_hour:.0} calls in this hour of the week, {busiest:.0} in its busiest")
        };
        let is_due = decide::is_peak(of_hour, busiest);
        found.push(Marked { statement_id, statement, is_due, reason });
    }
    Ok(found)
}

/// Those that are due.
pub fn due(time_zone: &str, hour: i64) -> Result<Vec<Marked>, Error> {
    Ok(all(time_zone, hour)?.into_iter().filter(|one| one.is_due).collect())
}

/// Runs statements one after the other; one that fails stops no other. What became of each.
pub fn run(due: &[Marked], order: &Order, started: i64) -> Result<Vec<Value>, Failure> {
    let mut outcomes = Vec::new();
    for one in due {
        let began = background::now();
        let left_ms = order.timeout_ms.map(|limit_ms| (limit_ms - (began - started) / 1_000).max(1));
        background::set_deadline(Some(left_ms.map_or(LIMIT_MS, |left| left.min(LIMIT_MS))));
        // A comment at the end of the text must not take the COMMIT with it.
        let outcome = executor::statement(&format!("BEGIN TRANSACTION READ ONLY;\n{}\n;COMMIT", one.statement));
        let ms = (background::now() - began) as f64 / 1e3;
        background::set_deadline(left_ms.map(|left| (left - ms as i64).max(1)));
        let failure = match outcome {
            Ok(()) => None,
            // A cancel of the run, or the run's own limit; else the statement's.
            Err(failure)
                if failure.sqlstate == QUERY_CANCELED
                    && (board::is_cancelled(background::my_pid()) || ms < LIMIT_MS as f64) =>
            {
                return Err(failure);
            }
            Err(failure) => Some(failure.message),
        };
        executor::transaction(|| Ok(note(one.statement_id, ms, failure.as_deref())?))?;
        outcomes.push(json!({ "statement_id": one.statement_id, "ms": ms.round() as i64, "error": failure }));
    }
    Ok(outcomes)
}

fn note(statement_id: i64, ms: f64, error: Option<&str>) -> Result<(), Error> {
    let role: pg_sys::Oid = privilege::current_role();
    privilege::as_owner(STATEMENTS, || {
        privilege::writable(|| {
            runs::run(
                c"UPDATE perf.prewarm_statement SET last_run_at = now(), last_ms = $2, last_error = $3
                 WHERE statement_id = $1 AND owner = $4",
                &[statement_id.into(), ms.into(), error.map(|error| Text(error.to_owned())).into(), role.into()],
            );
            Ok(())
        })
    })
}

//! Baselines: what the statements of the current database did in some time, kept in perf.baseline and perf.baseline_statement.
//! Captured with the rights of the extension's owner, since they are of everybody; read through views that show the caller
//! what is the caller's to see. Locks what its statements lock.

use std::collections::HashMap;

use perf_core::baseline::{change_pct, verdict, Side, Verdict};
use perf_core::histogram::Histogram;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;

use crate::error::Error;
use crate::memory;
use crate::pg::query::{run_with, select_with, text, Row};
use crate::pg::text::Text;
use crate::pg::{background, privilege};

const TABLE: &std::ffi::CStr = c"baseline";
const NAME_CHARS_MAX: usize = 200;
const BASELINES_MAX: i64 = 200;
const KEEP_MAX_US: i64 = 3_653 * 86_400_000_000;

/// What has become of one statement.
pub struct Change {
    /// The server's query id.
    pub queryid: i64,
    /// Normalised.
    pub query: String,
    /// In the time of the first baseline.
    pub before: Side,
    /// In the time it is compared with.
    pub after: Side,
    /// Of the mean.
    pub change_pct: Option<f64>,
    pub verdict: Verdict,
}

/// What for a baseline is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Somebody wants to compare with it.
    Asked,
    /// A change of this number. Those of changes make room for each other, and take none away from people.
    Change(i64),
}

/// Keeps what has been done since a time. The number of the baseline.
pub fn capture(
    name: &str,
    note: Option<&str>,
    since: TimestampWithTimeZone,
    keep: Interval,
    occasion: Occasion,
) -> Result<i64, Error> {
    check_name(name)?;
    let now = background::now();
    let from = i64::from(since);
    if from == i64::MIN || from >= now {
        let accepted = "A time in the past.".to_owned();
        return Err(Error::InvalidArgument { argument: "since", value: time_text(from), accepted });
    }
    let keep_us = keep.as_micros();
    if keep_us <= 0 || keep_us > i128::from(KEEP_MAX_US) {
        let accepted = "A positive interval of ten years at most.".to_owned();
        return Err(Error::InvalidArgument { argument: "keep", value: keep_text(keep), accepted });
    }
    memory::require()?;
    let owner = privilege::current_role();
    privilege::as_owner(TABLE, || {
        run_with(c"DELETE FROM perf.baseline WHERE expires_at <= pg_catalog.clock_timestamp()", &[], |_| ());
        make_room(occasion)?;
        let change_id = match occasion {
            Occasion::Asked => None,
            Occasion::Change(id) => Some(id),
        };
        // One statement, so one look at the history: whatever is not in it now is pending, or later.
        let made = run_with(
            c"WITH made AS (
                  INSERT INTO perf.baseline (name, note, owner, from_at, captured_at, history_at, expires_at, change_id)
                  SELECT $1, $2, $3, $4, n.now, h.at, n.now + $5, $6
                    FROM (SELECT pg_catalog.clock_timestamp() AS now) AS n,
                         (SELECT coalesce(pg_catalog.max(collected_at), '-infinity') AS at FROM perf.statement_history) AS h
                  ON CONFLICT (name) DO NOTHING RETURNING baseline_id),
              pending AS MATERIALIZED (SELECT * FROM perf._pending_statements(false)),
              activity AS (
                  SELECT userid, queryid, query, calls, failures, total_ms, rows, shared_blks_hit, shared_blks_read,
                         histogram, true AS is_wanted, false AS is_pending
                    FROM perf.statement_history_visible WHERE collected_at >= $4 AND last_seen_at >= $4
                  UNION ALL
                  SELECT userid, queryid, query, calls, failures, total_ms, rows, shared_blks_hit, shared_blks_read,
                         histogram, last_seen_at >= $4, true
                    FROM pending),
              stored AS (
                  INSERT INTO perf.baseline_statement
                        (baseline_id, userid, queryid, query, calls, failures, total_ms, rows, shared_blks, histogram,
                         pending_calls, pending_ms, pending_histogram)
                  SELECT m.baseline_id, a.userid, a.queryid, coalesce(pg_catalog.min(a.query), ''),
                         coalesce(pg_catalog.sum(a.calls) FILTER (WHERE a.is_wanted), 0),
                         coalesce(pg_catalog.sum(a.failures) FILTER (WHERE a.is_wanted), 0),
                         coalesce(pg_catalog.sum(a.total_ms) FILTER (WHERE a.is_wanted), 0),
                         coalesce(pg_catalog.sum(a.rows) FILTER (WHERE a.is_wanted), 0),
                         coalesce(pg_catalog.sum(a.shared_blks_hit + a.shared_blks_read) FILTER (WHERE a.is_wanted), 0),
                         coalesce(perf._histogram_merge(a.histogram) FILTER (WHERE a.is_wanted), ''),
                         coalesce(pg_catalog.sum(a.calls) FILTER (WHERE a.is_pending), 0),
                         coalesce(pg_catalog.sum(a.total_ms) FILTER (WHERE a.is_pending), 0),
                         coalesce(perf._histogram_merge(a.histogram) FILTER (WHERE a.is_pending), '')
                    FROM made AS m, activity AS a WHERE a.queryid IS NOT NULL AND a.calls > 0
                   GROUP BY m.baseline_id, a.userid, a.queryid ORDER BY pg_catalog.sum(a.total_ms) DESC LIMIT 5000)
              SELECT baseline_id FROM made",
            &[
                text(name),
                note.map(|note| Text(note.to_owned())).into(),
                owner.into(),
                since.into(),
                keep.into(),
                change_id.into(),
            ],
            |row| row.get::<i64>(1),
        );
        let Some(id) = made.1.into_iter().flatten().next() else {
            return Err(Error::DuplicateObject {
                message: format!("baseline \"{name}\" exists"),
                hint: "Choose another name, or remove it with perf.baseline_drop(name).".to_owned(),
            });
        };
        Ok(id)
    })
}

/// Sees to it that there is room for one more.
fn make_room(occasion: Occasion) -> Result<(), Error> {
    if let Occasion::Change(_) = occasion {
        run_with(
            c"DELETE FROM perf.baseline WHERE baseline_id IN (
                  SELECT baseline_id FROM perf.baseline WHERE change_id IS NOT NULL ORDER BY baseline_id DESC OFFSET $1)",
            &[(BASELINES_MAX - 1).into()],
            |_| (),
        );
        return Ok(());
    }
    let query = c"SELECT pg_catalog.count(*) FROM perf.baseline WHERE change_id IS NULL";
    let count = run_with(query, &[], |row| row.get::<i64>(1)).1;
    if count.first().copied().flatten() >= Some(BASELINES_MAX) {
        return Err(Error::WrongState {
            message: format!("there are {BASELINES_MAX} baselines"),
            hint: "Remove those that nobody compares with: perf.baseline_drop(name); perf.baselines lists them."
                .to_owned(),
        });
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(Error::InvalidArgument {
            argument: "name",
            value: format!("\"{}\"", name.chars().take(NAME_CHARS_MAX).collect::<String>()),
            accepted: format!("A name of 1 to {NAME_CHARS_MAX} characters."),
        });
    }
    Ok(())
}

/// Removes one; whether it was there.
pub fn remove(name: &str) -> Result<bool, Error> {
    let owner = privilege::as_owner(TABLE, || {
        let found = run_with(c"SELECT owner FROM perf.baseline WHERE name = $1", &[text(name)], |row| {
            row.get::<pg_sys::Oid>(1)
        });
        Ok(found.1.into_iter().flatten().next())
    })?;
    let Some(owner) = owner else { return Ok(false) };
    if !privilege::has_rights_of(owner) {
        return Err(Error::Denied {
            message: format!("baseline \"{name}\" is another role's"),
            hint: "Its owner can remove it, and members of that role.".to_owned(),
        });
    }
    privilege::as_owner(TABLE, || {
        Ok(run_with(c"DELETE FROM perf.baseline WHERE name = $1", &[text(name)], |_| ()).0 > 0)
    })
}

/// What has changed, what matters most first. `after` NULL: since the first was captured.
pub fn compare(before: &str, after: Option<&str>) -> Result<Vec<Change>, Error> {
    let history_at = find("before", before)?;
    let later = match after {
        Some(after) => {
            find("after", after)?;
            kept(after, Part::All)
        }
        None => {
            memory::require()?;
            done_since(history_at, &kept(before, Part::Pending))
        }
    };
    Ok(changes(kept(before, Part::All), later))
}

/// An error unless there is a baseline of that name.
pub fn require(name: &str) -> Result<(), Error> {
    find("compare_to", name).map(|_| ())
}

/// How far the history went when a baseline was captured.
fn find(argument: &str, name: &str) -> Result<TimestampWithTimeZone, Error> {
    let found = select_with(c"SELECT history_at FROM perf.baselines WHERE name = $1", &[text(name)], |row| {
        row.get::<TimestampWithTimeZone>(1)
    });
    found.into_iter().next().ok_or_else(|| Error::UndefinedObject {
        message: format!("argument \"{argument}\": there is no baseline \"{name}\""),
        hint: "perf.baselines lists them; perf.baseline_capture(name) makes one.".to_owned(),
    })
}

/// By queryid: text, and what was done.
type Statements = HashMap<i64, (String, Side)>;

fn add(statements: &mut Statements, row: &Row) -> Option<()> {
    let histogram = Histogram::decode(&row.get::<Vec<u8>>(5)?).unwrap_or_default();
    let (query, side) = statements.entry(row.get::<i64>(1)?).or_default();
    *query = row.string(2);
    side.calls += u64::try_from(row.get::<i64>(3)?).unwrap_or(0);
    side.total_ms += row.get::<f64>(4)?;
    side.latency.merge(&histogram);
    Some(())
}

/// What of a baseline is wanted.
enum Part {
    All,
    /// What was not in the history when it was captured.
    Pending,
}

fn kept(name: &str, part: Part) -> Statements {
    let mut statements = Statements::new();
    let query = match part {
        Part::All => {
            c"SELECT queryid, query, calls, total_ms, histogram FROM perf.baseline_statement_visible
               WHERE name = $1 AND calls > 0"
        }
        Part::Pending => {
            c"SELECT queryid, query, pending_calls, pending_ms, pending_histogram
                FROM perf.baseline_statement_visible WHERE name = $1 AND pending_calls > 0"
        }
    };
    select_with(query, &[text(name)], |row| add(&mut statements, row));
    statements
}

/// What was done since the history went so far, but for what was pending then.
fn done_since(history_at: TimestampWithTimeZone, pending: &Statements) -> Statements {
    let mut statements = Statements::new();
    select_with(
        c"SELECT queryid, query, calls, total_ms, histogram FROM perf._statement_activity($1, false)
           WHERE queryid IS NOT NULL AND calls > 0 AND collected_at > $1",
        &[history_at.into()],
        |row| add(&mut statements, row),
    );
    for (queryid, (_, earlier)) in pending {
        let Some((_, side)) = statements.get_mut(queryid) else { continue };
        // A crash, or perf.reset(), may have thrown away what was pending.
        if side.calls >= earlier.calls && side.total_ms >= earlier.total_ms && side.latency.includes(&earlier.latency) {
            side.calls -= earlier.calls;
            side.total_ms -= earlier.total_ms;
            side.latency.subtract(&earlier.latency);
        }
    }
    statements.retain(|_, (_, side)| side.calls > 0);
    statements
}

fn changes(mut before: Statements, after: Statements) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (queryid, (query, after)) in after {
        let before = before.remove(&queryid).map(|(_, side)| side).unwrap_or_default();
        changes.push(change(queryid, query, before, after));
    }
    for (queryid, (query, before)) in before {
        changes.push(change(queryid, query, before, Side::default()));
    }
    changes.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.queryid.cmp(&b.queryid)));
    changes
}

fn change(queryid: i64, query: String, before: Side, after: Side) -> Change {
    let (change_pct, verdict) = (change_pct(&before, &after), verdict(&before, &after));
    Change { queryid, query, before, after, change_pct, verdict }
}

/// Time won or lost by all executions together, in ms; of one that came or went, all of its time.
fn weight(change: &Change) -> f64 {
    match (change.before.mean_ms(), change.after.mean_ms()) {
        (Some(was), Some(is)) => (is - was).abs() * change.after.calls as f64,
        _ => change.before.total_ms + change.after.total_ms,
    }
}

fn time_text(at: i64) -> String {
    match at {
        i64::MIN => "-infinity".to_owned(),
        i64::MAX => "infinity".to_owned(),
        _ => perf_core::forecast::iso_date_2000(at as f64 / 86_400e6),
    }
}

fn keep_text(keep: Interval) -> String {
    format!("{} s", keep.as_micros() / 1_000_000)
}

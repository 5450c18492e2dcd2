//! The statements that a change concerns: what they did before it, kept in perf.change_statement, and what they have done
//! since, from the history and from memory. Called inside a transaction; reads all roles' statements with the rights of the
//! tables' owner, and hands on numbers alone.

use std::collections::{BTreeMap, HashMap};

use perf_core::baseline::Side;
use perf_core::change::{Observed, Part};
use perf_core::histogram::Histogram;
use serde_json::Value;

use super::store::TABLE;
use crate::act::runs::{rows, run};
use crate::error::Error;
use crate::pg::privilege;
use crate::pg::query::{text, Row};
use crate::pg::text::Document;

/// A statement to watch.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The server's query id.
    pub queryid: i64,
    /// What it has to do with the change.
    pub part: Part,
    /// What it is said to take, in relation to before.
    pub promised_ratio: Option<f64>,
    /// Its time in the workload that the promise is about, in ms.
    pub weight_ms: f64,
}

/// Keeps what statements did before a change, as the baseline that was just captured has it.
pub fn keep(change_id: i64, baseline: &str, watched: &[Watched]) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        for one in watched {
            run(
                c"INSERT INTO perf.change_statement
                        (change_id, queryid, part, promised_ratio, weight_ms, calls, total_ms, blocks, histogram)
                  SELECT $1, $2, $3, $4, $5, COALESCE(pg_catalog.sum(s.calls), 0), COALESCE(pg_catalog.sum(s.total_ms), 0),
                         COALESCE(pg_catalog.sum(s.shared_blks), 0), COALESCE(perf._histogram_merge(s.histogram), '')
                    FROM perf.baseline b JOIN perf.baseline_statement s USING (baseline_id)
                   WHERE b.name = $6 AND s.queryid = $2
                  ON CONFLICT DO NOTHING",
                &[
                    change_id.into(),
                    one.queryid.into(),
                    text(one.part.name()),
                    one.promised_ratio.into(),
                    one.weight_ms.into(),
                    text(baseline),
                ],
            );
        }
        Ok(())
    })
}

/// How statements read their relations, a line for each scan, by queryid.
pub type Plans = BTreeMap<i64, Vec<String>>;

/// Keeps how statements are planned before a change.
pub fn keep_plans(change_id: i64, plans: &Plans) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        for (queryid, lines) in plans {
            run(
                c"UPDATE perf.change_statement SET plan = $3 WHERE change_id = $1 AND queryid = $2",
                &[change_id.into(), (*queryid).into(), Document(serde_json::json!(lines)).into()],
            );
        }
        Ok(())
    })
}

/// What was kept.
pub fn plans(change_id: i64) -> Result<Plans, Error> {
    privilege::as_owner(TABLE, || {
        let kept = c"SELECT queryid, plan FROM perf.change_statement WHERE change_id = $1 AND plan IS NOT NULL";
        let lines = |row: &Row| {
            let plan = row.get::<Document>(2).map_or(Value::Null, |document| document.0);
            serde_json::from_value::<Vec<String>>(plan).unwrap_or_default()
        };
        let found = rows(kept, &[change_id.into()], |row| (row.get::<i64>(1).unwrap_or_default(), lines(row)));
        Ok(found.into_iter().collect())
    })
}

/// Notes the moment from which on executions are after the change: what was done up to now is written to the history
/// already, or is pending.
pub fn mark(change_id: i64) -> Result<(), Error> {
    privilege::as_owner(TABLE, || {
        privilege::writable(|| {
            run(
                c"WITH history AS (
                     UPDATE perf.change SET marked_at = (SELECT COALESCE(pg_catalog.max(collected_at), '-infinity')
                                                           FROM perf.statement_history)
                      WHERE change_id = $1),
                  pending AS (
                     SELECT queryid, pg_catalog.sum(calls) AS calls, pg_catalog.sum(total_ms) AS ms,
                            pg_catalog.sum(shared_blks_hit + shared_blks_read) AS blocks,
                            perf._histogram_merge(histogram) AS histogram
                       FROM perf._pending_statements(false) WHERE queryid IS NOT NULL AND calls > 0 GROUP BY queryid)
                  -- Those of an earlier mark that have nothing pending now are among them.
                  UPDATE perf.change_statement s
                     SET pending_calls = COALESCE(p.calls, 0), pending_ms = COALESCE(p.ms, 0),
                         pending_blocks = COALESCE(p.blocks, 0), pending_histogram = COALESCE(p.histogram, '')
                    FROM perf.change_statement w LEFT JOIN pending p ON p.queryid = w.queryid
                   WHERE s.change_id = $1 AND w.change_id = s.change_id AND w.queryid = s.queryid",
                &[change_id.into()],
            );
        });
        Ok(())
    })
}

/// What was done: executions with their blocks.
#[derive(Clone, Debug, Default)]
struct Done {
    side: Side,
    blocks: f64,
}

fn done(row: &Row, first: i32) -> Done {
    let histogram = row.get::<Vec<u8>>(first + 3).and_then(|bytes| Histogram::decode(&bytes)).unwrap_or_default();
    Done {
        side: Side {
            calls: row.get::<i64>(first).and_then(|calls| u64::try_from(calls).ok()).unwrap_or(0),
            total_ms: row.get::<f64>(first + 1).unwrap_or(0.0),
            latency: histogram,
        },
        blocks: row.get::<i64>(first + 2).map_or(0.0, |blocks| blocks as f64),
    }
}

fn per_call(done: &Done) -> f64 {
    done.blocks / (done.side.calls as f64).max(1.0)
}

/// Before and after, statement by statement.
pub fn observed(change_id: i64) -> Result<Vec<Observed>, Error> {
    privilege::as_owner(TABLE, || {
        let mut since: HashMap<i64, Done> = HashMap::new();
        // One statement, so one look at the history: whatever is not in it is pending.
        let found = rows(
            // Where a table takes another's place, the same text has another number before version 18.
            c"WITH watched AS (
                 SELECT s.queryid,
                        CASE c.kind WHEN 'partitioning'
                             -- In one of them before the collector has come, in the other when the baseline is gone.
                             THEN COALESCE((SELECT t.query FROM perf.statement_text t WHERE t.queryid = s.queryid),
                                           (SELECT pg_catalog.min(k.query) FROM perf.baseline b JOIN perf.baseline_statement k USING (baseline_id)
                                             WHERE b.name = c.baseline AND k.queryid = s.queryid)) END AS query
                   FROM perf.change c JOIN perf.change_statement s USING (change_id)
                  WHERE c.change_id = $1),
              named AS (
                 SELECT w.queryid, w.queryid AS alias FROM watched w
                  UNION
                 SELECT w.queryid, t.queryid FROM watched w JOIN perf.statement_text t ON t.query = w.query),
              activity AS (
                 SELECT n.queryid, h.calls, h.total_ms, h.shared_blks_hit + h.shared_blks_read AS blocks, h.histogram
                   FROM perf.statement_history h JOIN named n ON n.alias = h.queryid
                  WHERE h.collected_at > (SELECT c.marked_at FROM perf.change c WHERE c.change_id = $1)
                    AND h.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
                  UNION ALL
                 SELECT w.queryid, p.calls, p.total_ms, p.shared_blks_hit + p.shared_blks_read, p.histogram
                   FROM perf._pending_statements(false) p JOIN watched w ON w.queryid = p.queryid OR w.query = p.query
                  WHERE p.calls > 0)
              SELECT queryid, pg_catalog.sum(calls)::bigint, pg_catalog.sum(total_ms), pg_catalog.sum(blocks)::bigint,
                     perf._histogram_merge(histogram)
                FROM activity GROUP BY queryid",
            &[change_id.into()],
            |row| (row.get::<i64>(1).unwrap_or_default(), done(row, 2)),
        );
        since.extend(found);
        Ok(rows(
            c"SELECT queryid, part, promised_ratio, weight_ms, calls, total_ms, blocks, histogram,
                     pending_calls, pending_ms, pending_blocks, pending_histogram
                FROM perf.change_statement WHERE change_id = $1 ORDER BY weight_ms DESC, queryid",
            &[change_id.into()],
            |row| {
                let queryid = row.get::<i64>(1).unwrap_or_default();
                let (before, pending) = (done(row, 5), done(row, 9));
                let mut after = since.remove(&queryid).unwrap_or_default();
                // A crash, or perf.reset(), may have thrown away what was pending.
                if after.side.calls >= pending.side.calls
                    && after.side.total_ms >= pending.side.total_ms
                    && after.side.latency.includes(&pending.side.latency)
                {
                    after.side.calls -= pending.side.calls;
                    after.side.total_ms -= pending.side.total_ms;
                    after.side.latency.subtract(&pending.side.latency);
                    after.blocks = (after.blocks - pending.blocks).max(0.0);
                }
                Observed {
                    queryid,
                    part: Part::from_name(&row.string(2)).unwrap_or(Part::Control),
                    promised_ratio: row.get(3),
                    weight_ms: row.get(4).unwrap_or_default(),
                    blocks_before: per_call(&before),
                    blocks_after: per_call(&after),
                    before: before.side,
                    after: after.side,
                }
            },
        ))
    })
}

//! Standbys and slots: how far behind they are, what they keep from being removed, and whether the nodes of perf.fleet_nodes
//! are what they should be. Locks nothing.
//!
//! To members of pg_read_all_stats, to whom alone pg_stat_replication says how standbys are doing, standbys and slots have
//! names; others see numbers: of the process that sends, or of the slot among all.

use pgrx::datum::TimestampWithTimeZone;

use super::{Sheet, REPLICA};
use crate::pg::background;
use crate::pg::query::select_under_snapshot;

/// Begins the object of what a node of perf.fleet_nodes says.
pub const NODE_PREFIX: &str = "node ";
const NOT_REPORTED: &str = "not reported yet, or not visible to the current role";

pub(super) fn measure(sheet: &mut Sheet) {
    standbys(sheet);
    if background::in_recovery() {
        own_lag(sheet);
    } else {
        // What standbys say of themselves; on a standby, its primary has stored it.
        nodes(sheet);
    }
    slots(sheet);
}

fn standbys(sheet: &mut Sheet) {
    let replicas = select_under_snapshot(
        c"SELECT r.object, coalesce(r.lag_s, CASE WHEN r.behind <= 0 THEN 0 END), greatest(r.behind, 0)
            FROM (SELECT CASE WHEN pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                              THEN coalesce(nullif(application_name, ''), pid::text) ELSE pid::text END AS object,
                         extract(epoch FROM replay_lag)::float8 AS lag_s,
                         pg_catalog.pg_wal_lsn_diff(
                             CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                                  ELSE pg_catalog.pg_current_wal_lsn() END, replay_lsn)::float8 AS behind
                    FROM pg_catalog.pg_stat_replication WHERE state IS DISTINCT FROM 'backup') AS r
           ORDER BY 1",
        |row| Some((row.string(1), row.get::<f64>(2), row.get::<f64>(3))),
    );
    for (replica, lag_s, behind) in replicas {
        sheet.put("replication_lag", REPLICA, &replica, lag_s.ok_or(NOT_REPORTED));
        sheet.put("replication_lag_bytes", REPLICA, &replica, behind.ok_or(NOT_REPORTED));
    }
}

/// On a standby, how far this server is behind.
fn own_lag(sheet: &mut Sheet) {
    let own = select_under_snapshot(
        c"SELECT CASE WHEN pg_catalog.pg_last_wal_receive_lsn() <= pg_catalog.pg_last_wal_replay_lsn()
                           AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver) THEN 0
                      ELSE extract(epoch FROM pg_catalog.clock_timestamp()
                                              - pg_catalog.pg_last_xact_replay_timestamp()) END::float8,
                 pg_catalog.pg_last_wal_receive_lsn() IS NULL
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver)",
        |row| Some((row.get::<f64>(1), row.get::<bool>(2).unwrap_or(false))),
    );
    let own = match own.first() {
        // The time of the last transaction grows old on an idle primary, too.
        Some((_, true)) => Err("nothing is streamed to this standby: a delay and an idle primary look the same"),
        Some((Some(lag_s), false)) => Ok(*lag_s),
        _ => Err("nothing has been replayed since the start"),
    };
    sheet.put("replication_lag", REPLICA, "(this server)", own);
}

/// A node as perf.fleet_nodes shows it.
struct Node {
    name: String,
    status: String,
    lag_s: Option<f64>,
    qps: Option<f64>,
    checked_at: Option<TimestampWithTimeZone>,
    /// When it was found as it is, as text.
    since: String,
    /// Since it was last seen as a standby of this server, or added.
    unseen_s: Option<f64>,
}

fn nodes(sheet: &mut Sheet) {
    let nodes = select_under_snapshot(
        c"SELECT name, status, lag_s, qps, checked_at,
                 pg_catalog.to_char(since_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC'),
                 extract(epoch FROM pg_catalog.clock_timestamp() - coalesce(last_seen_at, since_at))::float8
            FROM perf.fleet_nodes ORDER BY 1",
        |row| {
            Some(Node {
                name: row.string(1),
                status: row.string(2),
                lag_s: row.get::<f64>(3),
                qps: row.get::<f64>(4),
                checked_at: row.get::<TimestampWithTimeZone>(5),
                since: row.string(6),
                unseen_s: row.get::<f64>(7),
            })
        },
    );
    for node in nodes {
        let object = format!("{NODE_PREFIX}{}", node.name);
        let is_well = node.status == "ok";
        let said = format!("perf.fleet_nodes says: {}", node.status);
        for (metric, value) in [("replication_lag", node.lag_s), ("replica_qps", node.qps)] {
            let value = value.filter(|_| is_well).ok_or(said.as_str());
            let row = sheet.put(metric, REPLICA, &object, value);
            row.measured_at = node.checked_at.map_or(row.measured_at, i64::from);
        }
        let unwell_s = match node.status.as_str() {
            "ok" => Ok(0.0),
            "new" => Err("it was not asked yet"),
            // A clock that was set back is no promise.
            _ => node.unseen_s.map(|seconds| seconds.max(0.0)).ok_or("it was never seen"),
        };
        let row = sheet.put("replica_unwell", REPLICA, &object, unwell_s);
        if !is_well && row.value.is_some() {
            row.note = Some(format!("{said} since {}", node.since));
        }
    }
}

fn slots(sheet: &mut Sheet) {
    let slots = select_under_snapshot(
        c"SELECT CASE WHEN pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN slot_name::text
                      ELSE '#' || pg_catalog.row_number() OVER (ORDER BY slot_name) END,
                 pg_catalog.pg_wal_lsn_diff(
                     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                          ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::float8
            FROM pg_catalog.pg_replication_slots ORDER BY slot_name",
        |row| Some((row.string(1), row.get::<f64>(2))),
    );
    for (slot, bytes) in slots {
        let bytes = bytes.map(|bytes| bytes.max(0.0)).ok_or("the slot reserves no WAL");
        sheet.put("slot_retained_bytes", REPLICA, &slot, bytes);
    }
}

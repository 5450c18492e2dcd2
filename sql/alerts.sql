-- The states of alerts, kept so that a restart does not forget since when one fires. Written by the collector, which tells a
-- change once it is stored. The view hides names that are not everybody's.
CREATE TABLE perf.alert_state (
    alert_name     text PRIMARY KEY,
    datid          oid              NOT NULL,
    metric         text             NOT NULL,
    comparison     text             NOT NULL,
    threshold      double precision NOT NULL,
    status         text             NOT NULL CHECK (status IN ('firing', 'ok', 'no_data')),
    since_at       timestamptz,
    value          double precision,
    value_at       timestamptz,
    in_a_row       int              NOT NULL,
    row_since_at   timestamptz,
    fired_since_at timestamptz,
    scope          text             NOT NULL,
    object         text             NOT NULL,
    note           text             NOT NULL,
    evaluated_at   timestamptz      NOT NULL
) WITH (fillfactor = 50);

CREATE VIEW perf.alert_state_visible WITH (security_barrier) AS
SELECT s.alert_name, s.datid, s.metric, s.comparison, s.threshold, s.status, s.since_at, s.value, s.value_at, s.in_a_row,
       s.row_since_at, s.fired_since_at, s.scope,
       CASE WHEN s.scope NOT IN ('application', 'replica')
                 OR pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN s.object END AS object,
       s.note, s.evaluated_at
  FROM perf.alert_state AS s;

GRANT SELECT ON perf.alert_state_visible TO PUBLIC;

ALTER FUNCTION perf.alerts(boolean) SET search_path = pg_catalog, pg_temp;

COMMENT ON TABLE perf.alert_state IS 'State of each alert of this database as of the last run of the collector. Read it with perf.alerts()';
COMMENT ON COLUMN perf.alert_state.alert_name IS 'Row of perf.alert_threshold';
COMMENT ON COLUMN perf.alert_state.datid IS 'Database: a copy of a database begins anew';
COMMENT ON COLUMN perf.alert_state.metric IS 'Metric of the threshold then';
COMMENT ON COLUMN perf.alert_state.comparison IS 'Comparison of the threshold then';
COMMENT ON COLUMN perf.alert_state.threshold IS 'The threshold then';
COMMENT ON COLUMN perf.alert_state.status IS 'firing | ok | no_data';
COMMENT ON COLUMN perf.alert_state.since_at IS 'Since when it is so: for firing and ok, the first of the samples that made it so';
COMMENT ON COLUMN perf.alert_state.value IS 'Latest value, of the worst object';
COMMENT ON COLUMN perf.alert_state.value_at IS 'When it was taken';
COMMENT ON COLUMN perf.alert_state.in_a_row IS 'Samples in a row that speak for a change';
COMMENT ON COLUMN perf.alert_state.row_since_at IS 'When the first of them was taken';
COMMENT ON COLUMN perf.alert_state.fired_since_at IS 'While there is no data: since when it had been firing';
COMMENT ON COLUMN perf.alert_state.scope IS 'Scope of the worst object';
COMMENT ON COLUMN perf.alert_state.object IS 'The worst object; empty for the whole server';
COMMENT ON COLUMN perf.alert_state.note IS 'Why there is no value, or what to know of it; else empty';
COMMENT ON COLUMN perf.alert_state.evaluated_at IS 'Last run of the collector that evaluated it';
COMMENT ON VIEW perf.alert_state_visible IS 'perf.alert_state; names of applications and standbys only for members of pg_read_all_stats.';
COMMENT ON FUNCTION perf.alerts(boolean) IS
'Alerts of this database that are firing, or of which nothing is known; with include_ok also those in order. Columns: name text, severity text (critical, warning), status text (firing, ok, no_data), value double precision (the latest, of the worst object), threshold double precision, unit text, since_at timestamptz (since when the status is so; NULL: not known), action text (what to do, where, and what to know of the value; for no_data, why).
Thresholds are rows of perf.alert_threshold, whose column metric names a metric of perf.metrics(); rows added, changed or deleted count from the next run on. The collector takes a sample at each of its runs (perf_opt.collect_interval, a minute by default); what is measured less often (cpu_used, memory_available_bytes and wal_size_bytes every five minutes, relation_size_bytes every hour) is one sample each time it is measured. An alert fires after fire_after samples in a row beyond the threshold, since the first of them, and is over after clear_after samples in a row that are better by clear_margin_ratio. Without a value for five minutes (or five runs) the status is no_data; one that was firing goes on when values come back. Since-when survives a restart.
A change that begins, ends or interrupts firing is told once: NOTIFY perf_alerts in this database, with a JSON object (name, status, severity, value, threshold, unit, since_at, object, action, database; any role may listen, so names of applications and standbys are left out), and one line in the server''s log. Alerts about the whole server whose threshold is as shipped are logged by the first database that has the extension (lowest OID) alone.
On a standby, without preloading, or before the first run, the alert is judged by one look: since_at is NULL and action says so. Error 22004 when include_ok is NULL.';

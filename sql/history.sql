-- History: what the collector of this database has written. Tables are partitioned by the time of writing and belong to
-- the extension, partitions included. Nobody but the owner reads them; the views below show others' texts to members of
-- pg_read_all_stats only.

CREATE TABLE perf.statement_text (
    queryid       bigint      PRIMARY KEY,
    query         text        NOT NULL,
    first_seen_at timestamptz NOT NULL,
    seen_at       timestamptz NOT NULL
);

CREATE TABLE perf.statement_history (
    collected_at        timestamptz      NOT NULL,
    bucket_at           timestamptz      NOT NULL,
    datid               oid              NOT NULL,
    userid              oid              NOT NULL,
    queryid             bigint,
    toplevel            boolean          NOT NULL,
    calls               bigint           NOT NULL,
    failures            bigint           NOT NULL,
    slow                bigint           NOT NULL,
    critical            bigint           NOT NULL,
    emergency           bigint           NOT NULL,
    rows                bigint           NOT NULL,
    total_ms            double precision NOT NULL,
    min_ms              double precision NOT NULL,
    max_ms              double precision NOT NULL,
    sum_sq_ms2          double precision NOT NULL,
    plans               bigint           NOT NULL,
    planning_ms         double precision NOT NULL,
    shared_blks_hit     bigint           NOT NULL,
    shared_blks_read    bigint           NOT NULL,
    shared_blks_dirtied bigint           NOT NULL,
    shared_blks_written bigint           NOT NULL,
    temp_blks_read      bigint           NOT NULL,
    temp_blks_written   bigint           NOT NULL,
    blk_read_ms         double precision NOT NULL,
    blk_write_ms        double precision NOT NULL,
    wal_records         bigint           NOT NULL,
    wal_bytes           bigint           NOT NULL,
    jit_ms              double precision NOT NULL,
    lock_wait_ms        double precision NOT NULL,
    first_seen_at       timestamptz      NOT NULL,
    last_seen_at        timestamptz      NOT NULL,
    histogram           bytea            NOT NULL
) PARTITION BY RANGE (collected_at);

CREATE TABLE perf.slow_statement (
    collected_at      timestamptz      NOT NULL,
    boot_id           bigint           NOT NULL,
    severity          smallint         NOT NULL,
    seq               bigint           NOT NULL,
    captured_at       timestamptz      NOT NULL,
    datid             oid              NOT NULL,
    userid            oid              NOT NULL,
    queryid           bigint,
    query             text,
    toplevel          boolean          NOT NULL,
    duration_ms       double precision NOT NULL,
    rows              bigint           NOT NULL,
    estimated_rows    double precision,
    outcome           text             NOT NULL,
    sqlstate          text,
    application_name  text,
    client_addr       text,
    planning_ms       double precision NOT NULL,
    shared_blks_hit   bigint           NOT NULL,
    shared_blks_read  bigint           NOT NULL,
    temp_blks_written bigint           NOT NULL,
    wal_bytes         bigint           NOT NULL,
    relations         text[],
    plan              text
) PARTITION BY RANGE (collected_at);

-- How far the history goes, for readers to add what memory has beyond it. These live exactly as long as shared memory
-- does: a crash empties unlogged tables, a restart changes the boot id.
CREATE UNLOGGED TABLE perf.collector_position (
    datid         oid         PRIMARY KEY,
    boot_id       bigint      NOT NULL,
    collected_at  timestamptz NOT NULL,
    resets        bigint      NOT NULL,
    slow_seq      bigint      NOT NULL,
    critical_seq  bigint      NOT NULL,
    emergency_seq bigint      NOT NULL
);

CREATE UNLOGGED TABLE perf.statement_written (
    entry   bigint PRIMARY KEY,
    datid   oid    NOT NULL,
    boot_id bigint NOT NULL,
    state   bytea  NOT NULL
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.5);

-- Neither names a statement: entry is a keyed hash.
GRANT SELECT ON perf.collector_position, perf.statement_written TO PUBLIC;

CREATE VIEW perf.statement_history_visible WITH (security_barrier) AS
SELECT h.collected_at, h.bucket_at, h.datid, h.userid,
       CASE WHEN v.visible THEN h.queryid END AS queryid,
       CASE WHEN h.queryid IS NULL THEN '(other)' WHEN v.visible THEN t.query ELSE '<insufficient privilege>' END AS query,
       h.toplevel, h.calls, h.failures, h.slow, h.critical, h.emergency, h.rows, h.total_ms, h.min_ms, h.max_ms,
       h.sum_sq_ms2, h.plans, h.planning_ms, h.shared_blks_hit, h.shared_blks_read, h.shared_blks_dirtied,
       h.shared_blks_written, h.temp_blks_read, h.temp_blks_written, h.blk_read_ms, h.blk_write_ms, h.wal_records,
       h.wal_bytes, h.jit_ms, h.lock_wait_ms, h.first_seen_at, h.last_seen_at, h.histogram
  FROM perf.statement_history AS h
 CROSS JOIN LATERAL (SELECT (SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'))
                            OR h.userid = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user)
                            AS visible) AS v
  LEFT JOIN perf.statement_text AS t ON t.queryid = h.queryid AND v.visible
 WHERE h.datid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database());

CREATE VIEW perf.slow_statement_visible WITH (security_barrier) AS
SELECT s.captured_at, s.collected_at, s.severity, s.datid, s.userid, s.toplevel, s.duration_ms, s.rows, s.estimated_rows,
       s.outcome, s.sqlstate, s.planning_ms, s.shared_blks_hit, s.shared_blks_read, s.temp_blks_written, s.wal_bytes,
       CASE WHEN v.visible THEN s.queryid END AS queryid,
       CASE WHEN v.visible THEN coalesce(s.query, t.query) ELSE '<insufficient privilege>' END AS query,
       CASE WHEN v.visible THEN s.application_name END AS application_name,
       CASE WHEN v.visible THEN s.client_addr END AS client_addr,
       CASE WHEN v.visible THEN s.relations END AS relations,
       CASE WHEN v.visible THEN s.plan END AS plan
  FROM perf.slow_statement AS s
 CROSS JOIN LATERAL (SELECT (SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'))
                            OR s.userid = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user)
                            AS visible) AS v
  LEFT JOIN perf.statement_text AS t ON t.queryid = s.queryid AND v.visible
 WHERE s.datid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database());

GRANT SELECT ON perf.statement_history_visible, perf.slow_statement_visible TO PUBLIC;

COMMENT ON TABLE perf.statement_text IS 'Normalised text of each statement in the history, stored once. first_seen_at: when it was first written; seen_at: when it was last in use, to within half a day.';
COMMENT ON TABLE perf.statement_history IS 'What each statement added between bucket_at and collected_at. queryid NULL: statements gathered under (other). Times in ms; histogram: latencies, encoded. Written by the collector, partitioned by collected_at.';
COMMENT ON TABLE perf.slow_statement IS 'Single executions above perf_opt.slow_ms. severity: 0 slow, 1 critical, 2 emergency. Written by the collector, partitioned by collected_at.';
COMMENT ON TABLE perf.collector_position IS 'How far the history of this database goes: time and ring positions of the last run of the collector since the server started.';
COMMENT ON TABLE perf.statement_written IS 'What of each entry in shared memory is in the history already.';
COMMENT ON VIEW perf.statement_history_visible IS 'perf.statement_history of this database with texts; queryid and text of other roles only for members of pg_read_all_stats.';
COMMENT ON VIEW perf.slow_statement_visible IS 'perf.slow_statement of this database; queryid, text, plan, relations and client of other roles only for members of pg_read_all_stats.';

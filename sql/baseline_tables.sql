
-- What the statements did in some time, kept to be compared with. Written by perf.baseline_capture() with the owner's rights.
CREATE TABLE perf.baseline (
    baseline_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text        NOT NULL UNIQUE CHECK (name <> ''),
    note        text,
    owner       oid         NOT NULL,
    from_at     timestamptz NOT NULL,
    captured_at timestamptz NOT NULL,
    history_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    change_id   bigint
);

CREATE TABLE perf.baseline_statement (
    baseline_id bigint           NOT NULL REFERENCES perf.baseline ON DELETE CASCADE,
    userid      oid              NOT NULL,
    queryid     bigint           NOT NULL,
    query       text             NOT NULL,
    calls       bigint           NOT NULL,
    failures    bigint           NOT NULL,
    total_ms    double precision NOT NULL,
    rows        bigint           NOT NULL,
    shared_blks bigint           NOT NULL,
    histogram   bytea            NOT NULL,
    pending_calls     bigint           NOT NULL,
    pending_ms        double precision NOT NULL,
    pending_histogram bytea            NOT NULL,
    PRIMARY KEY (baseline_id, queryid, userid)
);

REVOKE ALL ON perf.baseline, perf.baseline_statement FROM PUBLIC;

CREATE VIEW perf.baseline_statement_visible WITH (security_barrier) AS
SELECT b.name, s.userid, s.queryid, s.query, s.calls, s.failures, s.total_ms, s.rows, s.shared_blks, s.histogram,
       s.pending_calls, s.pending_ms, s.pending_histogram
  FROM perf.baseline_statement AS s
  JOIN perf.baseline AS b ON b.baseline_id = s.baseline_id
 WHERE (SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'))
    OR s.userid = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user);

CREATE VIEW perf.baselines AS
SELECT b.name, b.note, pg_catalog.pg_get_userbyid(b.owner)::text AS owner, b.from_at, b.captured_at, b.expires_at,
       t.statements, t.calls, t.total_ms, b.history_at, b.change_id
  FROM perf.baseline AS b
 CROSS JOIN LATERAL (SELECT count(*) AS statements, coalesce(sum(s.calls), 0)::bigint AS calls,
                            coalesce(sum(s.total_ms), 0)::float8 AS total_ms
                       FROM perf.baseline_statement AS s WHERE s.baseline_id = b.baseline_id) AS t
 WHERE b.expires_at > pg_catalog.clock_timestamp();

GRANT SELECT ON perf.baseline_statement_visible, perf.baselines TO PUBLIC;

COMMENT ON TABLE perf.baseline IS 'Baselines: what statements did between from_at and captured_at. Made by perf.baseline_capture(), read through perf.baselines';
COMMENT ON COLUMN perf.baseline.owner IS 'Role that captured it, and that may drop it';
COMMENT ON COLUMN perf.baseline.history_at IS 'How far the history went when it was captured: what is written to it later is later, but for what was pending';
COMMENT ON COLUMN perf.baseline.expires_at IS 'When it is removed';
COMMENT ON COLUMN perf.baseline.change_id IS 'The change that it was captured for by perf.apply(); NULL of one that somebody asked for';
COMMENT ON TABLE perf.baseline_statement IS 'Statements of baselines, those with most time; of all nesting levels. total_ms in ms; shared_blks: blocks found in the buffer cache or read; histogram: latencies, encoded. pending_*: of these, what was not in the history yet.';
COMMENT ON VIEW perf.baseline_statement_visible IS 'Statements of baselines: one''s own; those of others for members of pg_read_all_stats.';
COMMENT ON VIEW perf.baselines IS 'Baselines that have not expired. Columns: name text, note text, owner text, from_at and captured_at timestamptz (the time they are of), expires_at timestamptz, statements bigint, calls bigint, total_ms double precision, history_at timestamptz (how far the history went), change_id bigint (the change that perf.apply() captured it for; NULL of one that somebody asked for).';

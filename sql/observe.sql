-- Functions that join what is in memory with the history. They run with the rights of the caller: tables are read through
-- the masking views, and the functions that read memory mask by themselves.

CREATE FUNCTION perf._relation_names(relations oid[]) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY o.position)
      FROM unnest(relations) WITH ORDINALITY AS o (relation, position)
      JOIN pg_class AS c ON c.oid = o.relation
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
$$;

CREATE AGGREGATE perf._histogram_merge(bytea) (
    SFUNC = perf._histogram_add, STYPE = bytea, COMBINEFUNC = perf._histogram_add, PARALLEL = SAFE
);

CREATE FUNCTION perf.slow_queries(
    since timestamptz DEFAULT now() - interval '24 hours', min_severity text DEFAULT 'slow', max_rows integer DEFAULT 100,
    all_databases boolean DEFAULT false
) RETURNS TABLE (
    captured_at timestamptz, severity text, duration_ms double precision, rows bigint, outcome text, sqlstate text,
    queryid bigint, query text, database text, username text, application_name text, client_addr text,
    planning_ms double precision, shared_blks_hit bigint, shared_blks_read bigint, temp_blks_written bigint,
    wal_bytes bigint, relations text[], toplevel boolean, plan text
)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 100 SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.captured_at, perf._severity_name(s.severity), s.duration_ms, s.rows, s.outcome, s.sqlstate, s.queryid, s.query,
           d.datname::text, pg_get_userbyid(s.userid)::text, s.application_name, s.client_addr, s.planning_ms,
           s.shared_blks_hit, s.shared_blks_read, s.temp_blks_written, s.wal_bytes, s.relations, s.toplevel, s.plan
      FROM (SELECT h.captured_at, h.severity, h.datid, h.userid, h.toplevel, h.duration_ms, h.rows, h.outcome, h.sqlstate,
                   h.queryid, h.query, h.application_name, h.client_addr, h.planning_ms, h.shared_blks_hit,
                   h.shared_blks_read, h.temp_blks_written, h.wal_bytes, h.relations, h.plan
              FROM perf.slow_statement_visible AS h
             WHERE h.collected_at >= CASE WHEN slow_queries.since IS NULL THEN '-infinity' ELSE slow_queries.since END
             UNION ALL
            SELECT m.captured_at, m.severity, m.datid, m.userid, m.toplevel, m.duration_ms, m.rows, m.outcome, m.sqlstate,
                   m.queryid, m.query, m.application_name, m.client_addr, m.planning_ms, m.shared_blks_hit,
                   m.shared_blks_read, m.temp_blks_written, m.wal_bytes, perf._relation_names(m.relations), m.plan
              FROM perf._pending_slow(slow_queries.all_databases) AS m) AS s
      LEFT JOIN pg_database AS d ON d.oid = s.datid
     WHERE s.captured_at >= CASE WHEN slow_queries.since IS NULL THEN '-infinity' ELSE slow_queries.since END
       AND s.severity >= perf._severity_number(slow_queries.min_severity)
     ORDER BY s.captured_at DESC, s.duration_ms DESC
     -- A LIMIT is evaluated before the first row is asked for: wrong arguments raise even when there is no row.
     LIMIT perf._checked_limit(slow_queries.max_rows, slow_queries.min_severity)
$$;

-- The rows of both sources, in one shape, for the functions below. Its names are bound when it is made, so that it needs no
-- search_path of its own and the planner can put it in its caller's place: else all rows were stored before the first is used.
CREATE FUNCTION perf._statement_activity(since timestamptz, all_databases boolean) RETURNS TABLE (
    datid oid, bucket_at timestamptz, collected_at timestamptz, userid oid, queryid bigint, query text, calls bigint,
    failures bigint, slow bigint, critical bigint, emergency bigint, rows bigint, total_ms double precision,
    max_ms double precision, planning_ms double precision, temp_blks_written bigint, shared_blks_hit bigint,
    shared_blks_read bigint, block_io_ms double precision, lock_wait_ms double precision, first_seen_at timestamptz,
    last_seen_at timestamptz, histogram bytea, toplevel boolean
)
LANGUAGE sql STABLE PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT h.datid, h.bucket_at, h.collected_at, h.userid, h.queryid, h.query, h.calls, h.failures, h.slow, h.critical,
           h.emergency, h.rows, h.total_ms, h.max_ms, h.planning_ms, h.temp_blks_written, h.shared_blks_hit,
           h.shared_blks_read, h.blk_read_ms + h.blk_write_ms, h.lock_wait_ms, h.first_seen_at, h.last_seen_at, h.histogram,
           h.toplevel
      FROM perf.statement_history_visible AS h
     WHERE h.collected_at >= CASE WHEN _statement_activity.since IS NULL THEN '-infinity' ELSE _statement_activity.since END
       AND h.last_seen_at >= CASE WHEN _statement_activity.since IS NULL THEN '-infinity' ELSE _statement_activity.since END
     UNION ALL
    SELECT m.datid, m.bucket_at, m.collected_at, m.userid, m.queryid, m.query, m.calls, m.failures, m.slow, m.critical,
           m.emergency, m.rows, m.total_ms, m.max_ms, m.planning_ms, m.temp_blks_written, m.shared_blks_hit,
           m.shared_blks_read, m.block_io_ms, m.lock_wait_ms, m.first_seen_at, m.last_seen_at, m.histogram,
           m.toplevel
      FROM perf._pending_statements(_statement_activity.all_databases) AS m
     WHERE m.last_seen_at >= CASE WHEN _statement_activity.since IS NULL THEN '-infinity' ELSE _statement_activity.since END;
END;

-- The latest plan that was kept of each statement, with the rows that were expected and that came. In its caller's place too.
CREATE FUNCTION perf._latest_plans(since timestamptz, all_databases boolean) RETURNS TABLE (
    datid oid, queryid bigint, plan text, estimated_rows double precision, rows bigint
)
LANGUAGE sql STABLE PARALLEL RESTRICTED
BEGIN ATOMIC
    SELECT DISTINCT ON (x.datid, x.queryid) x.datid, x.queryid, x.plan, x.estimated_rows, x.rows
      FROM (SELECT h.datid, h.queryid, h.captured_at, h.plan, h.estimated_rows, h.rows
              FROM perf.slow_statement_visible AS h
             WHERE h.collected_at >= CASE WHEN _latest_plans.since IS NULL THEN '-infinity' ELSE _latest_plans.since END
             UNION ALL
            SELECT m.datid, m.queryid, m.captured_at, m.plan, m.estimated_rows, m.rows
              FROM perf._pending_slow(_latest_plans.all_databases) AS m) AS x
     WHERE x.plan IS NOT NULL
     ORDER BY x.datid, x.queryid, x.captured_at DESC;
END;

CREATE FUNCTION perf.slow_query_patterns(
    since timestamptz DEFAULT now() - interval '24 hours', max_rows integer DEFAULT 50, all_databases boolean DEFAULT false
) RETURNS TABLE (
    queryid bigint, query text, executions bigint, slow bigint, critical bigint, emergency bigint, failures bigint,
    first_seen_at timestamptz, last_seen_at timestamptz, total_ms double precision, mean_ms double precision,
    p50_ms double precision, p95_ms double precision, p99_ms double precision, max_ms double precision,
    share_pct double precision, cause text, trend text, trend_pct double precision, database text
)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 50 SET search_path = pg_catalog, pg_temp
AS $$
    WITH span AS MATERIALIZED (
        -- The time that was observed, and its middle.
        SELECT o.started_at, o.started_at + (clock_timestamp() - o.started_at) / 2 AS middle_at,
               extract(epoch FROM clock_timestamp() - o.started_at)::float8 / 120 AS half_minutes
          FROM (SELECT least(greatest(nullif(slow_query_patterns.since, '-infinity'),
                                      least(perf._history_start(slow_query_patterns.since), min(m.bucket_at))),
                             clock_timestamp()) AS started_at
                  FROM perf._pending_statements(slow_query_patterns.all_databases) AS m
                 WHERE m.last_seen_at >= CASE WHEN slow_query_patterns.since IS NULL THEN '-infinity' ELSE slow_query_patterns.since END) AS o
    ), pattern AS (
        SELECT a.datid, a.queryid, min(a.query) AS query, sum(a.calls)::bigint AS calls, sum(a.slow)::bigint AS slow,
               sum(a.critical)::bigint AS critical, sum(a.emergency)::bigint AS emergency, sum(a.failures)::bigint AS failures,
               min(greatest(a.bucket_at, slow_query_patterns.since)) AS first_seen_at, min(a.first_seen_at) AS ever_seen_at,
               max(a.last_seen_at) AS last_seen_at,
               sum(a.total_ms) AS total_ms, max(a.max_ms) AS max_ms, sum(a.planning_ms) AS planning_ms,
               sum(a.block_io_ms) AS block_io_ms, sum(a.lock_wait_ms) AS lock_wait_ms, sum(a.rows)::float8 AS rows,
               sum(a.temp_blks_written)::float8 AS temp_blks_written, sum(a.shared_blks_hit)::float8 AS shared_blks_hit,
               sum(a.shared_blks_read)::float8 AS shared_blks_read, perf._histogram_merge(a.histogram) AS histogram,
               sum(a.total_ms) FILTER (WHERE a.bucket_at + (a.collected_at - a.bucket_at) / 2 < s.middle_at) AS earlier_ms,
               sum(a.total_ms) FILTER (WHERE a.bucket_at + (a.collected_at - a.bucket_at) / 2 >= s.middle_at) AS recent_ms,
               -- What runs within a function is part of its caller's time already.
               100 * sum(a.total_ms) / nullif(sum(sum(a.total_ms) FILTER (WHERE a.toplevel)) OVER (), 0) AS share_pct
          FROM perf._statement_activity(slow_query_patterns.since, slow_query_patterns.all_databases) AS a
         CROSS JOIN span AS s
         GROUP BY a.datid, a.queryid, CASE WHEN a.queryid IS NULL THEN a.query END
    )
    SELECT p.queryid, p.query, p.calls, p.slow, p.critical, p.emergency, p.failures, p.first_seen_at, p.last_seen_at,
           p.total_ms, p.total_ms / nullif(p.calls, 0), perf._histogram_quantile(p.histogram, 0.5),
           perf._histogram_quantile(p.histogram, 0.95), perf._histogram_quantile(p.histogram, 0.99), p.max_ms,
           coalesce(p.share_pct, 0),
           perf._slow_cause(l.plan, p.calls::float8, p.total_ms, p.planning_ms, p.block_io_ms, p.lock_wait_ms,
                            p.temp_blks_written, p.shared_blks_hit, p.shared_blks_read, p.rows,
                            l.estimated_rows, l.rows::float8),
           t.trend, t.trend_pct, d.datname::text
      FROM pattern AS p
     CROSS JOIN span AS s
     CROSS JOIN LATERAL perf._slow_trend(p.earlier_ms, p.recent_ms, s.half_minutes, p.ever_seen_at < s.middle_at) AS t
      LEFT JOIN perf._latest_plans(slow_query_patterns.since, slow_query_patterns.all_databases) AS l
             ON l.datid = p.datid AND l.queryid = p.queryid
      LEFT JOIN pg_database AS d ON d.oid = p.datid
     WHERE p.slow + p.critical + p.emergency > 0
     ORDER BY p.total_ms DESC, p.queryid
     LIMIT perf._checked_limit(slow_query_patterns.max_rows, NULL)
$$;

CREATE FUNCTION perf.slow_query_trend(
    bucket interval DEFAULT interval '1 hour', since timestamptz DEFAULT now() - interval '7 days',
    queryid bigint DEFAULT NULL
) RETURNS TABLE (
    bucket_at timestamptz, executions bigint, slow bigint, critical bigint, emergency bigint, failures bigint,
    mean_ms double precision, p50_ms double precision, p95_ms double precision, p99_ms double precision,
    slow_per_min double precision
)
LANGUAGE sql VOLATILE PARALLEL RESTRICTED ROWS 200 SET search_path = pg_catalog, pg_temp
AS $$
    WITH start AS MATERIALIZED (
        SELECT CASE WHEN extract(month FROM slow_query_trend.bucket) + extract(year FROM slow_query_trend.bucket) > 0
                    THEN date_trunc('month', b.start_at)
                    WHEN extract(day FROM slow_query_trend.bucket) > 0 THEN date_trunc('day', b.start_at)
                    ELSE date_bin(slow_query_trend.bucket, b.start_at, date_trunc('day', b.start_at)) END AS start_at
          FROM perf._trend_start(slow_query_trend.bucket, slow_query_trend.since,
                                 CASE WHEN slow_query_trend.since IS NULL OR slow_query_trend.since = '-infinity'
                                      THEN least(perf._history_start(NULL), now()) END
                                ) AS b (start_at)
    ), series AS MATERIALIZED (
        SELECT g.bucket_at, g.bucket_at + slow_query_trend.bucket AS end_at
          FROM start AS s CROSS JOIN LATERAL generate_series(s.start_at, clock_timestamp(), slow_query_trend.bucket) AS g (bucket_at)
         WHERE slow_query_trend.since IS NULL OR slow_query_trend.since <= clock_timestamp()
    ), bound AS MATERIALIZED (
        SELECT array_agg(s.bucket_at ORDER BY s.bucket_at) AS starts, max(s.bucket_at) AS last_at,
               extract(year FROM slow_query_trend.bucket) + extract(month FROM slow_query_trend.bucket)
               + extract(day FROM slow_query_trend.bucket) = 0 AS is_even
          FROM series AS s
    ), activity AS (
        -- Buckets of hours and less are all of one length: arithmetic is cheaper than a search.
        SELECT CASE WHEN b.is_even THEN least(greatest(date_bin(slow_query_trend.bucket, a.bucket_at, s.start_at), s.start_at), b.last_at)
                    ELSE b.starts[greatest(width_bucket(a.bucket_at, b.starts), 1)] END AS bucket_at, a.calls, a.slow, a.critical,
               a.emergency, a.failures, a.total_ms, a.histogram
          FROM bound AS b CROSS JOIN start AS s CROSS JOIN LATERAL perf._statement_activity(s.start_at, false) AS a
         WHERE slow_query_trend.queryid IS NULL OR a.queryid = slow_query_trend.queryid
    ), summed AS (
        SELECT a.bucket_at, sum(a.calls)::bigint AS calls, sum(a.slow)::bigint AS slow, sum(a.critical)::bigint AS critical,
               sum(a.emergency)::bigint AS emergency, sum(a.failures)::bigint AS failures, sum(a.total_ms) AS total_ms,
               perf._histogram_merge(a.histogram) AS histogram
          FROM activity AS a GROUP BY a.bucket_at
    )
    SELECT s.bucket_at, coalesce(x.calls, 0), coalesce(x.slow, 0), coalesce(x.critical, 0), coalesce(x.emergency, 0),
           coalesce(x.failures, 0), coalesce(x.total_ms / nullif(x.calls, 0), 0),
           coalesce(perf._histogram_quantile(x.histogram, 0.5), 0), coalesce(perf._histogram_quantile(x.histogram, 0.95), 0),
           coalesce(perf._histogram_quantile(x.histogram, 0.99), 0),
           coalesce((x.slow + x.critical + x.emergency) * 60
                    / greatest(extract(epoch FROM least(s.end_at, clock_timestamp()) - s.bucket_at)::float8, 1), 0)
      FROM series AS s LEFT JOIN summed AS x ON x.bucket_at = s.bucket_at
     ORDER BY s.bucket_at
     -- Evaluated first, so that wrong arguments raise even where the planner sees that there can be no row.
     LIMIT (SELECT CASE WHEN s.start_at IS NULL THEN 0 END FROM start AS s)
$$;

COMMENT ON FUNCTION perf.slow_queries(timestamptz, text, integer, boolean) IS
'Executions that took longer than perf_opt.slow_ms, one row each, newest first: from the history of this database and, not yet written, from memory; with all_databases also what memory has of other databases. since NULL: all that is kept. min_severity: slow (above perf_opt.slow_ms), critical or emergency. outcome: ok, error, cancelled, timeout, deadlock or terminated. Times in ms, wal in bytes, blocks of 8 kB. query is normalised; it, plan, relations and client of other roles are shown to members of pg_read_all_stats only. Errors: 22023 for an unknown min_severity or max_rows below 1; 55000 when perf_opt is not preloaded.';
COMMENT ON FUNCTION perf.slow_query_patterns(timestamptz, integer, boolean) IS
'Statements with at least one execution above perf_opt.slow_ms since the given time, by total time. executions counts all of them; slow, critical and emergency are exclusive. Times in ms; percentiles right within 3.2 %. share_pct: of the execution time of all top-level statements in the same time. cause: lock_wait (half the time), planning (longer than execution), hash_spill, sort_spill (temporary blocks), bad_estimate (rows off by a factor of 10, of at least 1000), many_rows (100,000 a call), seq_scan (in the latest kept plan), io (half the time, or more blocks read than found), unknown. trend compares ms per minute of the recent half of the observed time with the earlier half: new (not seen in the earlier half), rising or falling (by more than 20 %), steady (also where less than ten minutes were observed). Other databases (all_databases): from memory, since the server started. Errors as slow_queries().';
COMMENT ON FUNCTION perf.slow_query_trend(interval, timestamptz, bigint) IS
'Executions per bucket of time in this database, all statements or one queryid, oldest first; empty buckets are present with zeros. Buckets start at whole months, days or multiples of bucket since midnight, in the time zone of the session. Executions are counted to the bucket in which their collection interval began. Times in ms. slow, critical and emergency are exclusive; slow_per_min is the sum of the three per minute. since NULL: all that is kept. Errors: 22023 when bucket is not positive, is above 100 years or makes more than 100,000 buckets; 55000 when perf_opt is not preloaded.';
COMMENT ON FUNCTION perf.health() IS
'State of perf_opt itself, one row for each component: capture and its memory, launcher, the collector of each database (value: seconds since it last wrote), history (value: bytes), pending detaches. status: ok, warning or error. Works without preloading.';
COMMENT ON FUNCTION perf._relation_names(oid[]) IS 'Internal: schema-qualified, quoted names of relations that exist.';
COMMENT ON FUNCTION perf._statement_activity(timestamptz, boolean) IS 'Internal: rows of the history and of memory in one shape.';
COMMENT ON FUNCTION perf._history_start(timestamptz) IS 'Internal: when what the history of this database has from some time on began.';
COMMENT ON FUNCTION perf._latest_plans(timestamptz, boolean) IS 'Internal: the latest plan that was kept of each statement.';
COMMENT ON AGGREGATE perf._histogram_merge(bytea) IS 'Internal: sum of encoded histograms.';
COMMENT ON FUNCTION perf._histogram_add(bytea, bytea) IS 'Internal: sum of two encoded histograms.';
COMMENT ON FUNCTION perf._histogram_quantile(bytea, double precision) IS 'Internal: latency in ms at a quantile of an encoded histogram.';
COMMENT ON FUNCTION perf._severity_number(text) IS 'Internal: 0 slow, 1 critical, 2 emergency.';
COMMENT ON FUNCTION perf._severity_name(smallint) IS 'Internal: the word of a severity.';
COMMENT ON FUNCTION perf._checked_limit(integer, text) IS 'Internal: checks arguments; gives the LIMIT.';
COMMENT ON FUNCTION perf._trend_start(interval, timestamptz, timestamptz) IS 'Internal: checks arguments; gives the start of a trend.';
COMMENT ON FUNCTION perf._pending_statements(boolean) IS 'Internal: what memory has of statements beyond the history.';
COMMENT ON FUNCTION perf._pending_slow(boolean) IS 'Internal: slow statements in memory beyond the history.';
COMMENT ON FUNCTION perf._slow_trend(double precision, double precision, double precision, boolean) IS 'Internal: the word and the percentage of a trend.';
COMMENT ON FUNCTION perf._slow_cause(text, double precision, double precision, double precision, double precision, double precision, double precision, double precision, double precision, double precision, double precision, double precision) IS 'Internal: why a statement is slow.';


-- What is told to people and programs: their COMMENTs, and the part of a report that reads the history.
ALTER FUNCTION perf.report(text, timestamptz, text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.report(text, timestamptz, text) SET quote_all_identifiers = off;
-- What the advisors left out is theirs to say.
ALTER FUNCTION perf.report(text, timestamptz, text) SET client_min_messages = warning;
ALTER FUNCTION perf.prometheus_metrics() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.prometheus_rules() SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION perf.prometheus_metrics() IS
'What perf.metrics(), perf.alerts() and perf.health() say now, as text for Prometheus (exposition format 0.0.4). Families: perf_opt_server_*, perf_opt_database_*, perf_opt_relation_*, perf_opt_replica_*, perf_opt_application_* (gauges in base units: seconds, bytes, ratios of 0 to 1, per second); perf_opt_database_statement_duration_seconds (histogram of the statements of clients since the server started) and perf_opt_database_statement_failures_total; perf_opt_database_alert_firing (1 while firing; absent while nothing is known); perf_opt_database_health_status (0 ok, 1 warning, 2 error).
What cannot be measured now is absent. Labels: database, volume, relation, replica, application, alert, severity, component, object; never the text of a query. Applications of other roles are one, (insufficient privilege), but for members of pg_read_all_stats. Works without preloading and on a standby. No errors.';
COMMENT ON FUNCTION perf.prometheus_rules() IS
'The rows of perf.alert_threshold as alerting rules for Prometheus: a file for rule_files (JSON, which is YAML), one group perf_opt with a rule PerfOpt... for each alert whose metric perf.prometheus_metrics() tells, in its base unit; for: fire_after runs of the collector; labels severity and perf_opt_alert. No errors.';
COMMENT ON FUNCTION perf.report(text, timestamptz, text) IS
'Everything that perf_opt knows of this database and server: alerts, load and latency over time, the statements that take most time, recommendations with their SQL, capacity with forecasts and triggers, jobs, partitions, caches, cost, the health of perf_opt; with compare_to, a baseline, what has changed since. format text: text (at most 100 columns) | markdown | html (one page that needs no network: psql -XAtc "SELECT perf.report(''html'')" > report.html) | json (the whole document). since: NULL for as long as history reaches.
Shows the caller what the single functions would show. A part that cannot be made is a warning on top. Takes seconds: recommendations are computed. Errors: 22004 for NULL as format, 22023 for an unknown format or since in the future, 42704 for an unknown baseline.';

-- Load, latency and statements of a report, as its document has them. width: of a point in time, in minutes; first_at: when
-- activity begins. What perf.slow_query_trend() and perf.slow_query_patterns() say, of one look at the history.
CREATE FUNCTION perf._report_activity(since timestamptz, width interval, first_at timestamptz) RETURNS text
LANGUAGE sql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
-- The planner takes each moment of the history for a group of its own, and would sort all of it on disk; it is
-- two hundred moments of each statement at most.
SET enable_sort = off SET work_mem = '64MB'
AS $$
    WITH middle AS MATERIALIZED (
        SELECT first_at + (clock_timestamp() - first_at) / 2 AS at,
               date_bin(width, first_at, date_trunc('day', first_at)) AS start_at,
               extract(epoch FROM clock_timestamp() - first_at)::float8 / 120 AS half_minutes),
    raw AS MATERIALIZED (
        -- Read once, and kept small: there may be hundreds of thousands of rows. Sums of bigint would be numeric,
        -- which takes longer.
        SELECT queryid, userid, toplevel, date_bin(width, bucket_at, (SELECT m.start_at FROM middle AS m)) AS at, min(query) AS query,
               sum(calls::float8) AS calls, sum(failures::float8) AS failures, sum(rows::float8) AS rows,
               sum(total_ms) AS total_ms, sum((slow + critical + emergency)::float8) AS slow, sum(planning_ms) AS planning_ms,
               sum(block_io_ms) AS block_io_ms, sum(lock_wait_ms) AS lock_wait_ms,
               sum(temp_blks_written::float8) AS temp_blks_written, sum(shared_blks_hit::float8) AS shared_blks_hit,
               sum(shared_blks_read::float8) AS shared_blks_read, min(first_seen_at) AS first_seen_at,
               sum(total_ms) FILTER (WHERE bucket_at + (collected_at - bucket_at) / 2 < (SELECT m.at FROM middle AS m))
                   AS earlier_ms,
               perf._histogram_merge(histogram) AS histogram
          FROM perf._statement_activity(since, false)
         GROUP BY 1, 2, 3, 4, CASE WHEN queryid IS NULL THEN query END),
    activity AS MATERIALIZED (
        SELECT * FROM raw
         -- But for what perf_opt's own functions do.
         WHERE toplevel OR query !~ '\m(perf|pg_catalog)\.' OR query IS NULL),
    summed AS (
        SELECT queryid, min(query) AS query, string_agg(DISTINCT pg_get_userbyid(userid)::text, ', ') AS username,
               sum(calls) AS calls, sum(failures) AS failures, sum(rows) AS rows, sum(total_ms) AS total_ms,
               sum(total_ms) / nullif(sum(calls), 0) AS mean_ms,
               perf._histogram_quantile(perf._histogram_merge(histogram), 0.95) AS p95_ms,
               100 * sum(total_ms) / nullif(sum(sum(total_ms) FILTER (WHERE toplevel)) OVER (), 0) AS share_pct
          FROM activity GROUP BY queryid, CASE WHEN queryid IS NULL THEN query END
         ORDER BY sum(total_ms) DESC LIMIT 25),
    history AS (
        SELECT queryid, jsonb_agg(jsonb_build_object('at', at, 'value', mean_ms) ORDER BY at) AS samples
          FROM (SELECT queryid, date_bin(5 * width, at, '2000-01-01') AS at, sum(total_ms) / nullif(sum(calls), 0) AS mean_ms
                  FROM activity WHERE queryid IN (SELECT queryid FROM summed) GROUP BY 1, 2) AS b
         GROUP BY queryid),
    -- As perf.slow_query_patterns() says it.
    slow AS (
        SELECT a.queryid, t.trend, t.trend_pct,
               perf._slow_cause(l.plan, a.calls, a.total_ms, a.planning_ms, a.block_io_ms, a.lock_wait_ms,
                                a.temp_blks_written, a.shared_blks_hit, a.shared_blks_read, a.rows,
                                l.estimated_rows, l.rows::float8) AS cause
          FROM (SELECT queryid, sum(calls) AS calls, sum(total_ms) AS total_ms, sum(planning_ms) AS planning_ms,
                       sum(block_io_ms) AS block_io_ms, sum(lock_wait_ms) AS lock_wait_ms,
                       sum(temp_blks_written) AS temp_blks_written,
                       sum(shared_blks_hit) AS shared_blks_hit,
                       sum(shared_blks_read) AS shared_blks_read, sum(rows) AS rows,
                       sum(earlier_ms) AS earlier_ms, min(first_seen_at) AS first_seen_at
                  FROM raw WHERE queryid IN (SELECT queryid FROM summed)
                 GROUP BY queryid HAVING sum(slow) > 0) AS a
         CROSS JOIN middle AS m
         CROSS JOIN LATERAL perf._slow_trend(a.earlier_ms, a.total_ms - coalesce(a.earlier_ms, 0), m.half_minutes,
                                             a.first_seen_at < m.at) AS t
          LEFT JOIN perf._latest_plans(since, false) AS l USING (queryid)),
    trend AS (
        -- The last one is not over.
        SELECT s.at, greatest(extract(epoch FROM least(width, clock_timestamp() - s.at)), 1)::float8 AS width_s,
               coalesce(x.calls, 0) AS calls, coalesce(x.slow, 0) AS slow, coalesce(x.failures, 0) AS failures, x.histogram
          FROM middle AS m CROSS JOIN LATERAL generate_series(m.start_at, clock_timestamp(), width) AS s (at)
          LEFT JOIN (SELECT greatest(r.at, m.start_at) AS at, sum(r.calls) AS calls, sum(r.slow) AS slow,
                            sum(r.failures) AS failures, perf._histogram_merge(r.histogram) AS histogram
                       FROM raw AS r CROSS JOIN middle AS m GROUP BY 1) AS x ON x.at = s.at),
    point (at, part, position, name, unit, value) AS (
        SELECT t.at, v.*
          FROM trend AS t
         CROSS JOIN LATERAL (VALUES
               ('load', 1, 'statements', '1/s', t.calls / t.width_s),
               ('load', 2, 'slow statements', '1/min', 60 * t.slow / t.width_s),
               ('load', 3, 'failures', '1/min', 60 * t.failures / t.width_s),
               ('latency', 1, 'p50', 'ms', perf._histogram_quantile(t.histogram, 0.5)),
               ('latency', 2, 'p95', 'ms', perf._histogram_quantile(t.histogram, 0.95)),
               ('latency', 3, 'p99', 'ms', perf._histogram_quantile(t.histogram, 0.99))) AS v
        UNION ALL
        SELECT sampled_at, 'load', 4, 'connections', 'connections', value_max
          FROM perf.capacity_samples('connections_total', since)),
    series AS (
        SELECT part, position, jsonb_build_object('name', name, 'unit', unit, 'samples',
                   jsonb_agg(jsonb_build_object('at', at, 'value', value) ORDER BY at)) AS body
          FROM point GROUP BY part, position, name, unit)
    SELECT jsonb_build_array(
               (SELECT coalesce(jsonb_agg(body ORDER BY position), '[]') FROM series WHERE part = 'load'),
               (SELECT coalesce(jsonb_agg(body ORDER BY position), '[]') FROM series WHERE part = 'latency'),
               (
            SELECT coalesce(jsonb_agg(jsonb_strip_nulls(
                           to_jsonb(s) || jsonb_build_object('queryid', coalesce(s.queryid::text, ''), 'history',
                               coalesce(h.samples, '[]'), 'cause', p.cause, 'trend', p.trend, 'trend_pct', p.trend_pct))
                           ORDER BY s.total_ms DESC), '[]')
                  FROM summed AS s LEFT JOIN history AS h USING (queryid) LEFT JOIN slow AS p USING (queryid)))::text
$$;

COMMENT ON FUNCTION perf._report_activity(timestamptz, interval, timestamptz) IS 'Internal: load, latency and statements of a report.';

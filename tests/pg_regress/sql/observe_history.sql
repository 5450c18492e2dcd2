-- Arguments and shapes of the functions over history and memory.
\set SHOW_CONTEXT never
-- Columns, in order, with their types.
SELECT p.proname, pg_get_function_arguments(p.oid) AS arguments FROM pg_proc p
 WHERE p.pronamespace = 'perf'::regnamespace
   AND p.proname IN ('slow_queries', 'slow_query_patterns', 'slow_query_trend', 'health') ORDER BY 1;
SELECT p.proname, pg_get_function_result(p.oid) AS result FROM pg_proc p
 WHERE p.pronamespace = 'perf'::regnamespace
   AND p.proname IN ('slow_queries', 'slow_query_patterns', 'slow_query_trend', 'health') ORDER BY 1;

-- Wrong arguments are named, with a hint.
SELECT count(*) FROM perf.slow_queries(min_severity => 'terrible');
SELECT count(*) FROM perf.slow_queries(max_rows => 0);
SELECT count(*) FROM perf.slow_queries(since => 'infinity', max_rows => -1);
SELECT count(*) FROM perf.slow_query_patterns(max_rows => -5);
SELECT count(*) FROM perf.slow_query_trend('0 seconds');
SELECT count(*) FROM perf.slow_query_trend('-1 day');
SELECT count(*) FROM perf.slow_query_trend('1 month -1 day');
SELECT count(*) FROM perf.slow_query_trend('101 years');
SELECT count(*) FROM perf.slow_query_trend('178000000 years');
SELECT count(*) FROM perf.slow_query_trend(NULL);
\set VERBOSITY sqlstate
SELECT count(*) FROM perf.slow_query_trend('1 second', '2001-01-01');
\set VERBOSITY default

-- The future is empty; NULLs mean everything.
SELECT count(*) FROM perf.slow_queries(now() + interval '1 hour');
SELECT count(*) FROM perf.slow_query_patterns(now() + interval '1 hour');
SELECT count(*) FROM perf.slow_query_trend('1 hour', now() + interval '1 hour');
SELECT count(*) FROM perf.slow_queries('infinity');
SELECT count(*) FROM perf.slow_query_patterns('infinity');
SELECT count(*) FROM perf.slow_query_trend('1 hour', 'infinity');
SELECT count(*) >= 0 AS fine FROM perf.slow_queries(NULL, NULL, NULL, NULL);
SELECT count(*) >= 0 AS fine FROM perf.slow_query_patterns(NULL, NULL, NULL);
SELECT count(*) > 0 AS fine FROM perf.slow_query_trend('1 day', NULL, NULL);
SELECT count(*) > 0 AS fine FROM perf.slow_query_trend('1 day', '-infinity');

-- Empty buckets are there, with zeros; months are months.
SELECT count(*) AS buckets, sum(executions) AS executions, min(mean_ms) AS mean_ms, max(p99_ms) AS p99_ms
  FROM perf.slow_query_trend('1 hour', now() - interval '5 hours', 42);
SELECT count(*) AS buckets, bool_and(extract(day FROM bucket_at) = 1) AS on_the_first
  FROM perf.slow_query_trend('1 month', now() - interval '1 year', 42);
SELECT bool_and(extract(minute FROM bucket_at)::int % 15 = 0) AS aligned
  FROM perf.slow_query_trend('15 minutes', now() - interval '3 hours', 42);

-- A slow statement is there at once, without its literal.
SET perf_opt.slow_ms = 20;
SELECT pg_sleep(0.05), 'secret' AS marker_of_this_test;
RESET perf_opt.slow_ms;
SELECT severity, duration_ms BETWEEN 50 AND 5000 AS duration, rows, outcome, sqlstate, query, toplevel, queryid IS NOT NULL AS has_id,
       database = current_database() AS here, username = current_user AS mine, plan LIKE 'Result%' AS has_plan
  FROM perf.slow_queries() WHERE query LIKE '%marker_of_this_test%';
SELECT count(*) FROM perf.slow_queries(min_severity => 'critical') WHERE query LIKE '%marker_of_this_test%';
SELECT executions, slow, critical, emergency, failures, mean_ms BETWEEN 50 AND 5000 AS mean, abs(p99_ms / max_ms - 1) < 0.04 AS percentile,
       share_pct BETWEEN 0 AND 100 AS share, trend, trend_pct
  FROM perf.slow_query_patterns() WHERE query LIKE '%marker_of_this_test%';
SELECT count(*) FROM perf.slow_queries(max_rows => 1);

-- In a read-only transaction.
BEGIN READ ONLY;
SELECT count(*) FROM perf.slow_queries() WHERE query LIKE '%marker_of_this_test%';
SELECT count(*) FROM perf.slow_query_patterns() WHERE query LIKE '%marker_of_this_test%';
SELECT bool_and(status IN ('ok', 'warning', 'error')) AS known FROM perf.health();
COMMIT;

-- Histograms add up.
SELECT perf._histogram_quantile(''::bytea, 0.5) IS NULL AS empty;
SELECT perf._histogram_quantile('\xff'::bytea, 0.5);
SELECT perf._histogram_quantile(''::bytea, 2);
SELECT perf._histogram_merge(h) = ''::bytea AS sum_of_nothing FROM (VALUES (''::bytea), (NULL)) AS v (h);

-- Cause and trend.
SELECT perf._slow_cause(NULL, 1, 2000, 0, 0, 1500, 0, 1, 0, 1, NULL, NULL) AS waited,
       perf._slow_cause('Seq Scan on t', 1, 2000, 0, 0, 0, 0, 1, 0, 1, 1, 1) AS scanned,
       perf._slow_cause(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) AS nothing;
SELECT * FROM perf._slow_trend(100, 300, 60, true);
SELECT * FROM perf._slow_trend(NULL, 300, 60, false);

-- Tables are not for everybody, views are.
CREATE ROLE regress_observer;
GRANT USAGE ON SCHEMA perf TO regress_observer;
SET ROLE regress_observer;
SELECT count(*) FROM perf.statement_history;
SELECT count(*) FROM perf.slow_statement;
SELECT count(*) FROM perf.statement_text;
SELECT count(*) >= 0 AS fine FROM perf.statement_history_visible;
SELECT count(*) FROM perf.slow_queries() WHERE query LIKE '%marker_of_this_test%';
SELECT bool_and(query = '<insufficient privilege>' AND queryid IS NULL AND plan IS NULL) AS hidden FROM perf.slow_queries();
RESET ROLE;
REVOKE USAGE ON SCHEMA perf FROM regress_observer;
DROP ROLE regress_observer;

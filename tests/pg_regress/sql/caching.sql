-- Caching strategies: the wishes, what is refused, who may. Measured ones are in tests/e2e. Everything is undone at the end.
\set SHOW_CONTEXT never
\set ON_ERROR_ROLLBACK on
BEGIN;
CREATE SCHEMA caching_case;
SET LOCAL search_path = caching_case;
-- None of the sample platform's tables is here.
SELECT count(*) FROM perf.caching_strategies() WHERE source = 'policy';
SELECT name, key_template, ttl, invalidated_by, source, status, basis, reason
  FROM perf.caching_strategies(true) WHERE source = 'policy';
CREATE TABLE alerts (id int);
CREATE VIEW metrics_history AS SELECT 1 AS id;
SELECT name, status, expected_hit_pct, measured_hit_pct, evidence->'policy' AS policy
  FROM perf.caching_strategies() WHERE source = 'policy';
-- Policies are bound to statements by their owner's words.
SELECT cache_name, queryid, max_stale, query_pattern IS NOT NULL AS has_pattern, compute_sql LIKE 'SELECT %' AS has_sql
  FROM perf.cache_policy ORDER BY policy_no;
UPDATE perf.cache_policy SET queryid = 42, max_stale = '1 min' WHERE cache_name = 'alert_statistics';
SELECT origin, queryid, max_stale FROM perf.cache_policy WHERE cache_name = 'alert_statistics';
SELECT status, queryid, reason FROM perf.caching_strategies() WHERE name = 'alert_statistics';
UPDATE perf.cache_policy SET query_pattern = '' WHERE cache_name = 'alert_statistics';
UPDATE perf.cache_policy SET max_stale = '-1 s' WHERE cache_name = 'alert_statistics';
INSERT INTO perf.cache_policy (cache_name, key_template, ttl) VALUES ('mine', 'mine:{id}', '1 min');
SELECT name, status, reason FROM perf.caching_strategies() WHERE name = 'mine';
SELECT perf.load_policy() > 0;
SELECT origin, queryid FROM perf.cache_policy WHERE cache_name = 'alert_statistics';
-- Bad arguments.
SELECT perf.caching_strategies(NULL);
SELECT perf.cache_shadow(NULL);
SELECT perf.cache_shadow('x', NULL);
SELECT perf.cache_shadow('no such strategy');
SELECT perf.cache_shadow('x', sizes => '{}');
SELECT perf.cache_shadow('x', sizes => '{0}');
SELECT perf.cache_shadow('x', sizes => '{NULL}');
SELECT perf.cache_shadow('mine', ttls => '{-1 s}');
SELECT perf.cache_shadow('mine', ttls => '{}');
SELECT perf.cache_shadow('mine');
SELECT perf.cache_shadow('mine', false), perf.cache_shadow('no such strategy', false);
SELECT * FROM perf.cache_shadow_results('mine');
SELECT * FROM perf.cache_shadow_results(NULL) WHERE false;
-- Who may.
CREATE ROLE regress_caching_nobody;
GRANT USAGE ON SCHEMA caching_case TO regress_caching_nobody;
SET LOCAL ROLE regress_caching_nobody;
SELECT count(*) FROM perf.caching_strategies(true) WHERE source <> 'workload';
SELECT perf.cache_shadow('mine');
INSERT INTO perf.cache_shadow_switch (strategy, queryids, sizes, ttls_s) VALUES ('x', '{}', '{}', '{}');
SELECT count(*) >= 0 FROM perf.cache_shadow_results();
SELECT count(*) FROM perf.cache_candidate;
ROLLBACK;

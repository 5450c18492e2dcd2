-- sql_optimization_examples: the contract, and the examples of the policy measured. Captured statements are tested end to end.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SELECT perf.reset() >= 0 AS reset;
SELECT pg_get_function_result('perf.sql_optimization_examples(boolean)'::regprocedure);
-- Nothing here: no table of an example, no statement.
SELECT count(*) FROM perf.sql_optimization_examples();
SELECT example_no, source, queryid, after_sql IS NOT NULL AS after, changes_result, cost_before, cost_after, improvement_pct, basis,
       policy_gain, note
  FROM perf.sql_optimization_examples(include_inapplicable => true) ORDER BY example_no;
SELECT * FROM perf.sql_optimization_examples(NULL);

CREATE SCHEMA rewrites;
SET search_path = rewrites;
CREATE TABLE transactions (id int PRIMARY KEY, user_id int NOT NULL, created_at timestamptz NOT NULL, amount int);
CREATE TABLE alerts (id int PRIMARY KEY, status text, severity text, triggered_at timestamptz);
CREATE TABLE game_results (id int PRIMARY KEY, user_id int);
INSERT INTO transactions SELECT g, g % 1000, now() - g * interval '1 second', 1 FROM generate_series(1, 30000) g;
INSERT INTO alerts SELECT g, CASE WHEN g % 100 = 0 THEN 'triggered' ELSE 'closed' END, 'low', now() - g * interval '1 minute'
  FROM generate_series(1, 20000) g;
INSERT INTO game_results SELECT g, g % 100 FROM generate_series(1, 20000) g;
VACUUM ANALYZE transactions, alerts, game_results;

-- What the policy has, and a better index; a view that does not exist yet.
SELECT example_no, left(note, 50) AS note, supporting_ddl, changes_result, improvement_pct > 50 AS gains, basis, policy_gain
  FROM perf.sql_optimization_examples() WHERE source = 'policy' ORDER BY example_no, note COLLATE "C";
-- The better index is better.
SELECT max(cost_after) FILTER (WHERE supporting_ddl LIKE '%(created_at, user_id)') >
       max(cost_after) FILTER (WHERE supporting_ddl LIKE '%(user_id, created_at)') AS better
  FROM perf.sql_optimization_examples() WHERE source = 'policy' AND example_no = 1;
-- With the index built, before is still without it, and the cost after is that of the real one.
CREATE TEMP TABLE first AS SELECT example_no, supporting_ddl, cost_before, cost_after FROM perf.sql_optimization_examples()
 WHERE source = 'policy';
CREATE INDEX ON transactions (user_id, created_at);
SELECT e.example_no, e.note LIKE '%The index exists%' AS said, e.cost_before = f.cost_before AS same_before,
       abs(e.cost_after - f.cost_after) < 0.05 * f.cost_after AS same_after
  FROM perf.sql_optimization_examples() e JOIN first f USING (example_no, supporting_ddl)
 WHERE e.source = 'policy' AND e.example_no = 1 ORDER BY e.supporting_ddl COLLATE "C";
-- The view makes the third one measurable.
CREATE MATERIALIZED VIEW mv_cohort_summary AS SELECT user_id, count(*) AS session_count FROM game_results GROUP BY user_id;
ANALYZE mv_cohort_summary;
SELECT example_no, changes_result, improvement_pct > 50 AS gains, basis, note LIKE '%The result changes%' AS said
  FROM perf.sql_optimization_examples() WHERE source = 'policy' AND example_no = 3;

-- Examples of one's own, which need not be any good.
BEGIN;
INSERT INTO perf.sql_example (example_no, title, source_tables, problem, before_sql, after_sql, supporting_ddl, changes_result) VALUES
    (11, 'no SQL', '{alerts}', 'p', 'SELEC 1', 'SELECT 1', NULL, false),
    (12, 'two statements', '{alerts}', 'p', 'SELECT 1; SELECT 2', 'SELECT 1', NULL, false),
    (13, 'worse', '{transactions}', 'p', 'SELECT id FROM transactions WHERE id = 1', 'SELECT id FROM transactions WHERE id + 0 = 1', NULL, false),
    (14, 'no index', '{alerts}', 'p', 'SELECT id FROM alerts WHERE id = 1', 'SELECT id FROM alerts', 'CREATE INDEX ON nowhere (id)', true),
    (15, 'broken after', '{alerts}', 'p', 'SELECT id FROM alerts WHERE id = 1', 'SELECT nothing FROM alerts', 'DROP TABLE alerts', false),
    (16, 'no tables', '{}', 'p', 'SELECT id FROM alerts WHERE id = 1', 'SELECT id FROM alerts', NULL, false);
SELECT example_no, cost_before > 0 AS before, cost_after > 0 AS after, improvement_pct < 0 AS worse, basis, note
  FROM perf.sql_optimization_examples(true) WHERE example_no > 10 AND source = 'policy' ORDER BY example_no;
SELECT count(*) FROM alerts;
-- Without a policy.
SELECT perf.clear_policy() > 0 AS cleared;
SELECT count(*) FROM perf.sql_optimization_examples(true) WHERE source = 'policy';
ROLLBACK;

-- A role without rights on the tables is told why, and nothing of others' statements.
CREATE ROLE regress_rewrites;
GRANT USAGE ON SCHEMA rewrites TO regress_rewrites;
SET ROLE regress_rewrites;
SELECT count(*) FROM perf.sql_optimization_examples();
SELECT example_no, note FROM perf.sql_optimization_examples(true) ORDER BY example_no;
RESET ROLE;
-- It reads only.
BEGIN READ ONLY;
SELECT count(*) > 0 AS reads FROM perf.sql_optimization_examples(true);
COMMIT;
DROP SCHEMA rewrites CASCADE;
DROP ROLE regress_rewrites;

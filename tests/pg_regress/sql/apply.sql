-- What perf.apply and its kin refuse, and what their tables give away. What they do takes workers: see tests/e2e/test_apply.py.
\pset null (null)
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS perf_opt;
SELECT perf.apply(NULL);
SELECT perf.apply('no such id');
SELECT perf.undo(NULL);
SELECT perf.undo('no such id');
SELECT * FROM perf.verify(NULL);
SELECT * FROM perf.verify('no such id');
BEGIN READ ONLY;
SELECT perf.apply('no such id');
ROLLBACK;

-- The view's columns are the contract.
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
 WHERE attrelid = 'perf.applied_changes'::regclass AND attnum > 0 ORDER BY attnum;
SELECT proname, pg_get_function_result(oid) FROM pg_proc
 WHERE pronamespace = 'perf'::regnamespace AND proname IN ('apply', 'verify', 'undo') ORDER BY 1;

-- The audit is only added to, whoever asks.
INSERT INTO perf.audit (actor, by_autopilot, change_id, recommendation_id, kind, relation, action, outcome)
VALUES ('somebody', false, 1, 'x', 'index_create', 'public.t', 'apply', 'queued');
UPDATE perf.audit SET outcome = 'another';
DELETE FROM perf.audit;
TRUNCATE perf.audit;
MERGE INTO perf.audit a USING (VALUES (1)) AS v (change_id) ON a.change_id = v.change_id WHEN MATCHED THEN DELETE;
SELECT actor, action, outcome FROM perf.audit WHERE recommendation_id = 'x';

-- Each sees his own.
CREATE ROLE regress_apply_one;
CREATE ROLE regress_apply_monitor;
GRANT pg_monitor TO regress_apply_monitor;
INSERT INTO perf.change (recommendation_id, kind, relation, target, ddl, owner, status, total_ms, run_id, recommendation)
VALUES ('mine', 'index_reindex', 'public.t', 1, 'CREATE INDEX', 'regress_apply_one', 'verified', 1, 0, '{}'),
       ('lost', 'index_create', 'public.t', 1, 'CREATE INDEX', 'pg_monitor', 'queued', 1, 0, '{}');
SET ROLE regress_apply_one;
SELECT recommendation_id, status, message FROM perf.applied_changes;
SELECT * FROM perf.audit;
SELECT * FROM perf.change;
SELECT perf.undo('lost');
RESET ROLE;
SET ROLE regress_apply_monitor;
SELECT recommendation_id, status, message FROM perf.applied_changes ORDER BY 1;
SELECT actor FROM perf.audit WHERE recommendation_id = 'x';
DELETE FROM perf.audit;
RESET ROLE;
-- Of one advice one change is open.
INSERT INTO perf.change (recommendation_id, kind, relation, target, ddl, owner, status, total_ms, run_id, recommendation)
VALUES ('mine', 'index_reindex', 'public.t', 1, 'CREATE INDEX', 'regress_apply_one', 'queued', 1, 0, '{}');
SELECT perf.apply('mine');
SELECT perf.undo('mine');
DELETE FROM perf.change;
DROP ROLE regress_apply_one;
DROP ROLE regress_apply_monitor;

-- optimization_roadmap: the contract, the policy edited and cleared, ticks, rights.
CREATE TEMP TABLE others AS SELECT g AS id FROM generate_series(1, 1000) AS g;
SELECT perf.reset() >= 0 AS reset;
SELECT count(*) FROM others;
DROP TABLE others;
SELECT phase, phase_name, priority, weeks, task_no, status, expected_gain_pct, gain_basis, measured_gain_pct,
       round(effort_hours_low::numeric, 2) AS hours_low, round(effort_hours_high::numeric, 2) AS hours_high
FROM perf.optimization_roadmap() WHERE (phase, task_no) <> (1, 3);
SELECT phase, task_no, ddl, reason FROM perf.optimization_roadmap()
WHERE (phase, task_no) IN ((1, 1), (1, 2), (2, 2), (2, 4), (3, 2), (3, 4), (4, 3));
SELECT phase, task_no, ddl FROM perf.optimization_roadmap() WHERE (phase, task_no) IN ((3, 3), (4, 2));

-- Wrong arguments.
SELECT perf.optimization_roadmap(0);
SELECT perf.optimization_roadmap(NULL);
SELECT count(*) FROM perf.optimization_roadmap(1);

-- Tables of the platform, which nobody reads.
CREATE SCHEMA platform;
CREATE TABLE platform.alerts (id bigint PRIMARY KEY, status text, severity text, alert_type text, source text, user_id bigint,
    message text, triggered_at timestamptz NOT NULL, acknowledged_at timestamptz);
CREATE TABLE platform.users (id bigint PRIMARY KEY, last_login timestamptz);
CREATE TABLE platform.metrics_history (metric_type text, source text, value float8, timestamp timestamptz NOT NULL)
    PARTITION BY RANGE (timestamp);
SET search_path = platform;
CREATE TABLE others AS SELECT g AS id FROM generate_series(1, 1000) AS g;
SELECT perf.reset() >= 0 AS reset;
SELECT count(*) FROM others;
SELECT phase, task_no, status, expected_gain_pct, gain_basis, ddl FROM perf.optimization_roadmap()
WHERE (phase, task_no) IN ((1, 1), (2, 2), (2, 4), (3, 2), (3, 3), (3, 4));
-- One of three is there, then a view without its job, then nothing is wanted any more.
CREATE INDEX ON users (last_login);
CREATE MATERIALIZED VIEW mv_active_alerts AS SELECT id, status FROM alerts;
SELECT phase, task_no, status, ddl, split_part(reason, ';', 1) AS reason FROM perf.optimization_roadmap()
WHERE (phase, task_no) IN ((1, 1), (2, 2));
BEGIN;
CREATE INDEX ON alerts (status, severity, triggered_at);
SELECT perf.matview_schedule('mv_active_alerts', '5 min') > 0 AS scheduled;
SELECT perf.partition_manage('metrics_history', 'month', retention => '1 year') > 0 AS managed;
SELECT perf.index_maintenance_schedule() > 0 AS scheduled;
SELECT perf.prewarm_schedule() > 0 AS scheduled;
SELECT phase, task_no, status, ddl, reason FROM perf.optimization_roadmap()
WHERE (phase, task_no) IN ((1, 1), (2, 2), (3, 3), (3, 4), (4, 2));
SELECT perf.job_pause(job_id, 'infinity') FROM perf.jobs WHERE kind = 'prewarm';
SELECT status FROM perf.optimization_roadmap() WHERE (phase, task_no) = (4, 2);
ROLLBACK;

-- The owner's own: tasks without numbers, of a kind of one's own, about nothing and about something else.
BEGIN;
UPDATE perf.roadmap_task SET phase_gain_low_pct = NULL, phase_gain_high_pct = NULL, phase_effort_low_hours = NULL,
    phase_effort_high_hours = NULL, weeks = NULL, objects = '{}' WHERE phase = 1;
INSERT INTO perf.roadmap_task (phase, task_no, phase_name, priority, kind, task, objects)
VALUES (7, 1, 'own', 'low', 'tea', 'make tea', '{}'), (7, 2, 'own', 'low', 'index', 'no table', '{"odd name","a.b.c",NULL,""}'),
       (7, 3, 'own', 'low', 'cache', 'no cache', '{"it''s"}'), (7, 4, 'own', 'low', 'matview', 'a table', '{alerts}'),
       (7, 5, 'own', 'low', 'partitioning', 'a view', '{mv_active_alerts}'), (7, 6, 'own', 'low', 'rewrite', 'nothing', '{}'),
       (7, 7, 'own', 'low', 'matview', 'all', '{}'), (7, 8, 'own', 'low', 'archival', 'all', '{}');
SELECT phase, task_no, status, gain_basis, effort_hours_low FROM perf.optimization_roadmap()
WHERE phase = 1 AND task_no <> 3;
SELECT task_no, status, ddl IS NOT NULL AS ddl, split_part(reason, ';', 1) AS reason FROM perf.optimization_roadmap()
WHERE phase = 7;
SELECT perf.roadmap_tick(7, 6), perf.roadmap_tick(7, 1);
SELECT task_no, status FROM perf.optimization_roadmap() WHERE phase = 7 AND task_no IN (1, 6);
SELECT perf.clear_policy() > 0 AS cleared;
SELECT * FROM perf.optimization_roadmap();
SELECT perf.load_policy() > 0 AS loaded;
-- Tasks, and nothing else of the policy.
DELETE FROM perf.index_policy; DELETE FROM perf.cache_policy; DELETE FROM perf.matview_policy; DELETE FROM perf.partition_policy;
DELETE FROM perf.scaling_trigger; DELETE FROM perf.alert_threshold; DELETE FROM perf.price;
SELECT phase, task_no, status FROM perf.optimization_roadmap() WHERE (phase, task_no) <> (1, 3);
ROLLBACK;

-- Ticks.
SELECT perf.roadmap_tick(4, 4, 'the wiki has them');
SELECT status, expected_gain_pct, regexp_replace(reason, '\d{4}-\d\d-\d\d \d\d:\d\d \S+:', '(then):') AS reason
FROM perf.optimization_roadmap() WHERE (phase, task_no) = (4, 4);
\set VERBOSITY sqlstate
SELECT perf.roadmap_tick(4, 4);
SELECT perf.roadmap_tick(4, 1);
SELECT perf.roadmap_tick(4, 99);
SELECT perf.roadmap_tick(NULL, 1);
SELECT perf.roadmap_tick(4, 3, repeat('x', 2001));
\set VERBOSITY default
-- A tick is for what the task said.
BEGIN;
UPDATE perf.roadmap_task SET task = 'another' WHERE (phase, task_no) = (4, 4);
SELECT status FROM perf.optimization_roadmap() WHERE (phase, task_no) = (4, 4);
SELECT perf.roadmap_tick(4, 4);
SELECT status FROM perf.optimization_roadmap() WHERE (phase, task_no) = (4, 4);
ROLLBACK;
SELECT perf.roadmap_untick(4, 4), perf.roadmap_untick(4, 4), perf.roadmap_untick(NULL, 4);
SELECT perf.roadmap_untick(4, 4);
SELECT perf.roadmap_untick(4, 4);

-- Everybody may look; it reads only.
CREATE ROLE roadmap_nobody;
SET ROLE roadmap_nobody;
BEGIN READ ONLY;
SELECT count(*), bool_and(reason LIKE '%_.') AS sentences FROM perf.optimization_roadmap();
COMMIT;
SELECT perf.roadmap_tick(4, 4);
RESET ROLE;
DROP ROLE roadmap_nobody;

-- Changes that were applied: what they have gained together, and what is under way.
DO $$ BEGIN
    IF to_regclass('perf.applied_changes') IS NOT NULL THEN
        ALTER VIEW perf.applied_changes RENAME TO applied_changes_set_aside;
    END IF;
END $$;
CREATE VIEW perf.applied_changes AS
SELECT n::bigint AS change_id, kind, relation, status, achieved, achieved AS achieved_pct, now() AS applied_at FROM (VALUES
    (1, 'index_create', 'platform.alerts', 'verified', 50::float8), (2, 'index_create', 'platform.users', 'verified', 20),
    (3, 'index_create', 'platform.users', 'undone', 90), (4, 'index_create', 'platform.alerts', 'applying', NULL),
    (5, 'index_create', 'platform.other', 'verified', 9), (6, 'matview', 'platform.mv_active_alerts', 'applied', NULL),
    (7, 'partitioning', 'platform.metrics_history', 'regressed', -25)) AS v (n, kind, relation, status, achieved);
SELECT phase, task_no, status, measured_gain_pct FROM perf.optimization_roadmap()
WHERE (phase, task_no) IN ((1, 1), (2, 1), (2, 2), (3, 2));
-- A view of another shape: a warning, and nothing is known of what was gained.
DROP VIEW perf.applied_changes;
CREATE VIEW perf.applied_changes AS SELECT 1 AS change_id;
SELECT phase, task_no, status, measured_gain_pct FROM perf.optimization_roadmap() WHERE (phase, task_no) = (1, 1);
DROP VIEW perf.applied_changes;
DO $$ BEGIN
    IF to_regclass('perf.applied_changes_set_aside') IS NOT NULL THEN
        ALTER VIEW perf.applied_changes_set_aside RENAME TO applied_changes;
    END IF;
END $$;
RESET search_path;
DROP SCHEMA platform CASCADE;

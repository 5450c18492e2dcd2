-- deployment_checklist: the contract, checks, ticks, rights.
SELECT perf.reset() >= 0 AS reset;
SELECT phase, item_no, item, status FROM perf.deployment_checklist()
WHERE (phase, item_no) NOT IN (('phase_1', 2), ('phase_1', 6), ('after', 2), ('after', 3));
SELECT phase, item_no, detail FROM perf.deployment_checklist()
WHERE (phase, item_no) IN (('before', 1), ('before', 3), ('phase_2_plus', 1), ('phase_2_plus', 3), ('after', 1));
SELECT DISTINCT phase FROM perf.deployment_checklist('phase_2_plus');
SELECT perf.deployment_checklist('phase_9');
SELECT perf.deployment_checklist('');

-- A baseline: it is there, with percentiles.
SELECT perf.baseline_capture('checklist') > 0 AS captured;
SELECT item_no, status, regexp_replace(detail, '\d+(\.\d+)?', 'N', 'g') AS detail FROM perf.deployment_checklist('before')
WHERE item_no = 2;
SELECT perf.baseline_drop('checklist');

-- The slow log.
SET perf_opt.slow_ms = 5000;
SELECT status, detail FROM perf.deployment_checklist('phase_1') WHERE item_no = 3;
RESET perf_opt.slow_ms;

-- Indexes of phase 1: missing, a wreck, there.
CREATE SCHEMA platform;
SET search_path = platform;
CREATE TABLE users (id bigint PRIMARY KEY, last_login timestamptz);
CREATE TABLE alerts (id bigint, status text, severity text, triggered_at timestamptz);
SELECT perf.reset() >= 0 AS reset;
SELECT status FROM perf.deployment_checklist('phase_1') WHERE item_no = 5;
CREATE INDEX ON users (last_login);
CREATE INDEX ON alerts (status, severity, triggered_at);
SELECT status, detail FROM perf.deployment_checklist('phase_1') WHERE item_no = 5;
INSERT INTO users VALUES (1, now()), (2, now());
CREATE UNIQUE INDEX CONCURRENTLY wreck ON users ((id - id));
SELECT status, detail FROM perf.deployment_checklist('phase_1') WHERE item_no = 5;
DROP INDEX wreck;
-- Views and their jobs.
CREATE MATERIALIZED VIEW mv_active_alerts AS SELECT id, status FROM alerts;
CREATE UNIQUE INDEX ON mv_active_alerts (id);
SELECT item_no, status, detail FROM perf.deployment_checklist('phase_2_plus') WHERE item_no <= 2;
BEGIN;
SELECT perf.matview_schedule('mv_active_alerts', '5 min') > 0 AS scheduled;
SELECT item_no, status, detail FROM perf.deployment_checklist('phase_2_plus') WHERE item_no <= 2;
ROLLBACK;
RESET search_path;
DROP SCHEMA platform CASCADE;

-- Ticks: once; next to a check; of what the item said.
SELECT perf.checklist_tick('before', 5, 'told on Monday');
SELECT perf.checklist_tick('before', 1);
SELECT item_no, status, regexp_replace(detail, '\d{4}-\d\d-\d\d \d\d:\d\d [^; :]+', '(then)') AS detail
FROM perf.deployment_checklist('before') WHERE item_no IN (1, 5);
SELECT list, phase, item_no, item, note, ticked_by = current_user AS mine, ticked_at <= now() AS past FROM perf.manual_tick;
\set VERBOSITY sqlstate
SELECT perf.checklist_tick('before', 5);
SELECT perf.checklist_tick('before', 99);
SELECT perf.checklist_tick('never', 1);
SELECT perf.checklist_tick(NULL, 1);
SELECT perf.checklist_tick('before', NULL);
\set VERBOSITY default
BEGIN;
UPDATE perf.checklist_item SET item = 'all teams told', note = 'by mail' WHERE (phase, item_no) = ('before', 5);
SELECT status, detail FROM perf.deployment_checklist('before') WHERE item_no = 5;
ROLLBACK;

-- Rights: everybody looks, members of pg_monitor tick, and nobody takes another's tick away.
CREATE ROLE checklist_nobody;
CREATE ROLE checklist_monitor IN ROLE pg_monitor;
SET ROLE checklist_nobody;
SELECT count(*) FROM perf.deployment_checklist();
SELECT count(*) FROM perf.manual_tick;
SELECT perf.checklist_tick('before', 3);
SELECT perf.checklist_untick('before', 5);
INSERT INTO perf.manual_tick VALUES ('checklist', 'before', 3, 'rollback plan', NULL, 'me');
SET ROLE checklist_monitor;
SELECT perf.checklist_untick('before', 5);
SELECT perf.checklist_tick('before', 3);
RESET ROLE;
GRANT pg_monitor TO checklist_nobody;
SET ROLE checklist_nobody;
SELECT perf.checklist_untick('before', 3);
RESET ROLE;
DROP ROLE checklist_monitor;
SET ROLE checklist_nobody;
-- Whoever ticked is gone.
SELECT perf.checklist_untick('before', 3), perf.checklist_untick('before', 4);
RESET ROLE;
DROP ROLE checklist_nobody;
SELECT perf.checklist_untick('before', 5), perf.checklist_untick('before', 1);
SELECT perf.checklist_untick(NULL, 1);

-- The owner's own phase and check, and nothing at all.
BEGIN;
INSERT INTO perf.checklist_item (phase, item_no, item, check_name)
VALUES ('ours', 1, 'odd', 'no such check'), ('ours', 2, 'same', 'capture_on');
SELECT phase, item_no, status, detail FROM perf.deployment_checklist('ours');
SELECT array_agg(DISTINCT phase) @> '{ours,before}' AS both_there FROM perf.deployment_checklist();
DELETE FROM perf.checklist_item;
SELECT * FROM perf.deployment_checklist();
SELECT perf.deployment_checklist('before');
ROLLBACK;

-- Who may tick: whoever may keep baselines. Looking is everybody's.
REVOKE EXECUTE ON FUNCTION perf.roadmap_tick(int, int, text), perf.roadmap_untick(int, int),
    perf.checklist_tick(text, int, text), perf.checklist_untick(text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION perf.roadmap_tick(int, int, text), perf.roadmap_untick(int, int),
    perf.checklist_tick(text, int, text), perf.checklist_untick(text, int) TO pg_monitor;
ALTER FUNCTION perf.roadmap_tick(int, int, text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.roadmap_untick(int, int) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.checklist_tick(text, int, text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.checklist_untick(text, int) SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION perf.optimization_roadmap(int) IS
'The tasks of perf.roadmap_task with what this database says of each. time_budget_ms: for all planning together; what was not judged by then is blocked, and says so.
Columns: phase int, phase_name, priority, weeks text (policy), task_no int, task text (policy), status text, expected_gain_pct double precision (what is left of the task would save this share of the captured workload''s time, 0-100; NULL: nothing is left, or nothing was measured, and reason says why), gain_basis text (measured | what_if: planned against the captured workload | none; then what the policy hopes for of the whole phase, which is no measurement), measured_gain_pct double precision (what the verified changes of perf.apply() that belong to the task have saved together; less than 0 is a loss; NULL: none was verified), effort_hours_low, effort_hours_high double precision (policy: an even share of the phase''s hours), ddl text (SQL, or configuration, for what is left), reason text.
Status: done | in_progress (begun, or done in part) | ready | blocked (something is in the way: see reason) | not_needed (the workload would not gain) | not_applicable (what it is about is not in the search path).
By kind of task: index: perf.index_recommendations() on the task''s tables; cache: perf.caching_strategies(); monitoring: settings, history, thresholds of alerts; matview: the views and their refresh jobs; rewrite: captured statements that read the view; pooling, replicas, partitioning, sharding: perf.scaling_recommendations(), connected standbys, jobs; maintenance, archival, prewarm: jobs. Any other kind is ready until perf.roadmap_tick() says it is done, and so is pooling, which a server does not see.
An advisor that fails is a WARNING, and its tasks are blocked. Errors: 22004 for NULL, 22023 for a time_budget_ms below 1';
COMMENT ON FUNCTION perf.roadmap_tick(int, int, text) IS
'Marks a task of the roadmap as done that no server can look at (documents, cold-path queries, pooling, kinds of your own); with who, when and a note. For members of pg_monitor. Errors: 22004 for NULL as phase or task_no; 42704 for an unknown task; 55000 for a task that the server looks at; 42710 when it is ticked already; 22023 for a note of more than 2000 characters; 42501';
COMMENT ON FUNCTION perf.roadmap_untick(int, int) IS
'Takes the tick of a task away; returns whether there was one. For whoever ticked, members of that role, and anybody with the right to tick once that role is gone. Errors: 22004, 42501';
COMMENT ON FUNCTION perf.deployment_checklist(text) IS
'The items of perf.checklist_item, each checked now where the server can. only_phase: one phase; NULL: all.
Columns: phase text, item_no int, item text, status text (passed | failed: by the check; manual: a person has to look; ticked: a person has), detail text (what was found; who ticked, when and why). A check has the last word: a tick next to one that failed is only told.
Checks (perf.checklist_item.check_name): baseline_exists; baseline_captured (p95 and p99 of the latest baseline); low_traffic (the last 10 minutes against the quietest quarter of the hours of the day); cache_connected; capture_on (the slow log, from 1000 ms or less); indexes_valid (those of the roadmap''s phase are there or not needed, and no index is a wreck); latency_watched, replication_monitored (an alert, with something measured); matviews_exist; refresh_jobs_exist; pooling_in_use (nobody can tell but you); replicas_streaming (as many as perf.scaling_trigger wants); gains_verified (all changes of perf.apply()); plans_checked (nothing slower than in the latest baseline); cache_hit_rates (against the alert on result_cache_hit).
Errors: 22023 for a phase without items';
COMMENT ON FUNCTION perf.checklist_tick(text, int, text) IS
'Ticks an item of the checklist off, with who, when and a note. For members of pg_monitor. Errors: 22004 for NULL as phase or item_no; 22023 for an unknown phase or a note of more than 2000 characters; 42704 for an unknown item; 42710 when it is ticked already; 42501';
COMMENT ON FUNCTION perf.checklist_untick(text, int) IS
'Takes the tick of an item away; returns whether there was one. For whoever ticked, members of that role, and anybody with the right to tick once that role is gone. Errors: 22004, 42501';

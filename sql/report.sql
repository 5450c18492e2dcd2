
-- The COMMENTs of what is told to people and programs.
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

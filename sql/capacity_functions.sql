-- Rights and COMMENTs of the functions of capacity.
REVOKE ALL ON FUNCTION perf.capacity_sample_now() FROM PUBLIC;
ALTER FUNCTION perf.capacity_sample_now() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.capacity_estimate(interval[]) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.capacity_samples(text, timestamptz) SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION perf.capacity_estimate(interval[]) IS
'Projects database_size and disk_used (bytes), peak_connections (highest of a day) and qps (95th percentile of a day''s minutes) to each horizon.
current_value: measured now (connections and qps: over the last 24 hours). projected, projected_low, projected_high: expectation and interval; NULL where quality is insufficient_data. growth_per_quarter: in unit.
trigger_name, trigger_value: the lowest trigger of perf.scaling_trigger that is not reached yet (disk: percent of what can be used; connections: never above 90 % of max_connections). crosses_at, crosses_earliest_at, crosses_latest_at: when projection, upper and lower end reach it, within the horizon.
model: linear | log | last_half | last_third | drift, of each part of a sum. backtest_error_pct: median error on the history. backtest_coverage_pct: share of the history inside the intervals, as achieved.
crossings: every trigger of the metric as a JSON object, the lowest first: trigger_name, trigger_value, reached, crosses_on, crosses_earliest_on, crosses_latest_on (dates in UTC), recommendation.
quality: insufficient_data (less than 14 days of history, or less than 30 for more than 30 days ahead) | reconstructed (samples are too few; the sizes of earlier days come from the statistics of the columns that say when rows were made, deleted rows unseen) | supported (horizon up to the history) | low (up to twice the history) | extrapolated (beyond: no dates).
basis: samples (projection from samples) | reconstructed | measured (only current_value is known) | none.
Errors: 22023 when horizons is NULL, empty, has a NULL, or an interval that is not above zero or is above 100 years';
COMMENT ON FUNCTION perf.capacity_samples(text, timestamptz) IS
'Samples of one metric since a time (NULL: all that is kept), oldest first, at the finest resolution kept for so long (1 min: 2 days, 5 min: 14 days, 1 h: 90 days, 1 day: 3 years), the latest ones finer until they are summed up. The unit is the end of the metric''s name.
object: database, relation, replica, slot, or filesystem (data, wal, tablespace:NAME) measured; empty for the whole server; NULL for the name of a standby or slot, but for members of pg_read_all_stats. value_min, value_mean, value_p95, value_max: over the span of the sample.
Errors: 22023 for an unknown metric; the HINT lists them';
COMMENT ON FUNCTION perf.capacity_sample_now() IS
'Takes a sample of what is due now, as the collector worker does every minute; for servers that cannot preload the library, from pg_cron. Rates need two calls in one session; there is no qps. Returns the number of rows stored. Superuser, or EXECUTE granted by one. Errors: 55000 on a standby or in a read-only transaction';

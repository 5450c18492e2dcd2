-- COMMENTs of sql/policy.sql: tables, columns with their units, functions.

COMMENT ON TABLE perf.policy_deletion IS
    'Marks of deleted shipped policy rows, so that a deletion survives pg_dump and restore. Kept by triggers';
COMMENT ON COLUMN perf.policy_deletion.table_name IS 'Policy table, without schema';
COMMENT ON COLUMN perf.policy_deletion.row_key IS 'Key of the deleted row: a JSON array of its key columns';

COMMENT ON TABLE perf.index_policy IS
    'Indexes the owner of the application wants. Read by perf.index_recommendations; edit it, it is dumped with the database';
COMMENT ON COLUMN perf.index_policy.policy_no IS 'Number of the wish';
COMMENT ON COLUMN perf.index_policy.table_name IS 'Table, unqualified: resolved through the search_path of the caller';
COMMENT ON COLUMN perf.index_policy.columns IS 'Key columns in order';
COMMENT ON COLUMN perf.index_policy.priority IS 'high | medium | low';
COMMENT ON COLUMN perf.index_policy.used_by IS 'What of the application uses it';
COMMENT ON COLUMN perf.index_policy.expected_gain IS 'The owner''s expectation, not a measurement';
COMMENT ON COLUMN perf.index_policy.expected_size_bytes IS 'Size the owner assumes, bytes; NULL when none was stated';
COMMENT ON COLUMN perf.index_policy.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.index_policy.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.cache_policy IS
    'Result caches the owner wants. Read by perf.caching_strategies';
COMMENT ON COLUMN perf.cache_policy.policy_no IS 'Number of the wish';
COMMENT ON COLUMN perf.cache_policy.cache_name IS 'Name of the cache';
COMMENT ON COLUMN perf.cache_policy.key_template IS 'Key; {name} is replaced by a value';
COMMENT ON COLUMN perf.cache_policy.ttl IS 'Time to live';
COMMENT ON COLUMN perf.cache_policy.size_low_bytes IS 'Smallest expected size, bytes, of one cache, user or series (size_per)';
COMMENT ON COLUMN perf.cache_policy.size_high_bytes IS 'Largest expected size, bytes, of one cache, user or series (size_per)';
COMMENT ON COLUMN perf.cache_policy.size_per IS 'What the sizes are of: cache | user | series';
COMMENT ON COLUMN perf.cache_policy.invalidated_by IS 'Events that make an entry invalid';
COMMENT ON COLUMN perf.cache_policy.used_for IS 'What the cache is for';
COMMENT ON COLUMN perf.cache_policy.source_tables IS 'Tables the cached result is computed from, unqualified; the row does not apply where one is missing';
COMMENT ON COLUMN perf.cache_policy.queryid IS 'The captured statement that the cache would answer; NULL: those that query_pattern names';
COMMENT ON COLUMN perf.cache_policy.query_pattern IS 'LIKE pattern of normalised texts of captured statements that the cache would answer (white space counts as one space); read where queryid is NULL';
COMMENT ON COLUMN perf.cache_policy.compute_sql IS 'SELECT that gives the value, one column of one row; {name} is replaced by the value of the key''s placeholder. Run by perf.cached as its caller';
COMMENT ON COLUMN perf.cache_policy.max_stale IS 'How long perf.cached may give an old value while a new one is computed; NULL: not at all';
COMMENT ON COLUMN perf.cache_policy.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.cache_policy.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.matview_policy IS
    'Materialized views the owner wants and how often they are refreshed. Read by perf.scaling_recommendations and perf.optimization_roadmap';
COMMENT ON COLUMN perf.matview_policy.view_name IS 'Materialized view, unqualified';
COMMENT ON COLUMN perf.matview_policy.schedule IS 'Schedule as perf.matview_schedule takes it';
COMMENT ON COLUMN perf.matview_policy.refresh_every IS 'The same as an interval';
COMMENT ON COLUMN perf.matview_policy.source_tables IS 'Tables the view is computed from, unqualified';
COMMENT ON COLUMN perf.matview_policy.definition IS 'Query that perf.matview_policy_apply() creates the view with; %s, %1$s, %2$s ... stand for the source tables. NULL: it creates none';
COMMENT ON COLUMN perf.matview_policy.unique_columns IS 'Columns that are unique in the view, for the index that a concurrent refresh needs';
COMMENT ON COLUMN perf.matview_policy.expected_gain IS 'The owner''s expectation, not a measurement';
COMMENT ON COLUMN perf.matview_policy.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.matview_policy.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.partition_policy IS
    'Tables the owner wants partitioned by time. The columns are arguments of perf.partition_manage';
COMMENT ON COLUMN perf.partition_policy.table_name IS 'Table, unqualified';
COMMENT ON COLUMN perf.partition_policy.control_column IS 'Column to partition by; NULL when none was stated';
COMMENT ON COLUMN perf.partition_policy.every IS 'Width of a partition: day | week | month | quarter | year';
COMMENT ON COLUMN perf.partition_policy.retention IS 'Age at which a partition expires; NULL keeps all';
COMMENT ON COLUMN perf.partition_policy.on_expire IS 'detach | drop | archive';
COMMENT ON COLUMN perf.partition_policy.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.partition_policy.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.roadmap_task IS
    'The owner''s optimization roadmap, a row a task. Read by perf.optimization_roadmap';
COMMENT ON COLUMN perf.roadmap_task.phase IS 'Phase, from 1';
COMMENT ON COLUMN perf.roadmap_task.task_no IS 'Task within the phase, from 1';
COMMENT ON COLUMN perf.roadmap_task.phase_name IS 'Name of the phase';
COMMENT ON COLUMN perf.roadmap_task.weeks IS 'Weeks of the phase, from-to';
COMMENT ON COLUMN perf.roadmap_task.priority IS 'Of the phase: critical | high | medium | low';
COMMENT ON COLUMN perf.roadmap_task.kind IS 'What sort of task: index, cache, monitoring, matview, pooling, rewrite, replicas, partitioning, maintenance, archival, sharding, prewarm, cold_path, document; the last two, and any of your own, are ticked by hand';
COMMENT ON COLUMN perf.roadmap_task.task IS 'The task';
COMMENT ON COLUMN perf.roadmap_task.objects IS 'Tables, views or caches the task is about, unqualified; none: all that its advisor, or the policy, names';
COMMENT ON COLUMN perf.roadmap_task.phase_gain_low_pct IS 'Latency gain expected once the phase is done, cumulative, percent, lower end';
COMMENT ON COLUMN perf.roadmap_task.phase_gain_high_pct IS 'Latency gain expected once the phase is done, cumulative, percent, upper end';
COMMENT ON COLUMN perf.roadmap_task.phase_effort_low_hours IS 'Effort of the whole phase, hours, lower end';
COMMENT ON COLUMN perf.roadmap_task.phase_effort_high_hours IS 'Effort of the whole phase, hours, upper end';
COMMENT ON COLUMN perf.roadmap_task.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.roadmap_task.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.sql_example IS
    'Statements the owner wants rewritten. Read by perf.sql_optimization_examples';
COMMENT ON COLUMN perf.sql_example.example_no IS 'Number of the example';
COMMENT ON COLUMN perf.sql_example.title IS 'Title';
COMMENT ON COLUMN perf.sql_example.source_tables IS 'Relations the example needs, unqualified; it does not apply where one is missing. Its statements are planned as their owner';
COMMENT ON COLUMN perf.sql_example.problem IS 'What is slow about it';
COMMENT ON COLUMN perf.sql_example.before_sql IS 'The statement as it is';
COMMENT ON COLUMN perf.sql_example.after_sql IS 'The statement as the owner would have it';
COMMENT ON COLUMN perf.sql_example.supporting_ddl IS 'DDL that makes it fast';
COMMENT ON COLUMN perf.sql_example.owner_ddl IS 'The DDL the owner named, where another is better';
COMMENT ON COLUMN perf.sql_example.changes_result IS 'Whether after_sql can return other rows than before_sql';
COMMENT ON COLUMN perf.sql_example.expected_gain IS 'The owner''s expectation, not a measurement';
COMMENT ON COLUMN perf.sql_example.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.sql_example.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.alert_threshold IS
    'Thresholds of perf.alerts';
COMMENT ON COLUMN perf.alert_threshold.alert_name IS 'Name of the alert';
COMMENT ON COLUMN perf.alert_threshold.metric IS 'Metric it watches, by its name in perf.metrics(); of several objects the worst counts';
COMMENT ON COLUMN perf.alert_threshold.comparison IS 'Fires when the value is > or < the threshold';
COMMENT ON COLUMN perf.alert_threshold.threshold IS 'Threshold in unit';
COMMENT ON COLUMN perf.alert_threshold.unit IS 'Unit of the threshold, that of the metric: ms, s, %, 1/s, 1/min, bytes, bytes/s, connections';
COMMENT ON COLUMN perf.alert_threshold.severity IS 'critical | warning';
COMMENT ON COLUMN perf.alert_threshold.action IS 'What to do when it fires';
COMMENT ON COLUMN perf.alert_threshold.fire_after IS 'Samples in a row beyond the threshold before it fires; one is taken at each run of the collector';
COMMENT ON COLUMN perf.alert_threshold.clear_after IS 'Samples in a row that are in order before it is over';
COMMENT ON COLUMN perf.alert_threshold.clear_margin_ratio IS 'How much better than the threshold such a sample must be, as a part of the threshold (0 to 1), but of % never more than half of the way to the best value: 0.1 ends an alert on 80 % at 72 %, one on less than 98 % at 99 %';
COMMENT ON COLUMN perf.alert_threshold.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.alert_threshold.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.scaling_trigger IS
    'When to scale, and how. Rows of kind capacity are read by perf.capacity_estimate, the others by perf.scaling_recommendations';
COMMENT ON COLUMN perf.scaling_trigger.trigger_name IS 'Name of the trigger';
COMMENT ON COLUMN perf.scaling_trigger.kind IS 'capacity | read_replicas | connection_pooling | materialized_view | partitioning | vertical | horizontal';
COMMENT ON COLUMN perf.scaling_trigger.metric IS 'Metric it watches; NULL: a wish without a trigger';
COMMENT ON COLUMN perf.scaling_trigger.threshold IS 'Fires above this value, in unit';
COMMENT ON COLUMN perf.scaling_trigger.unit IS 'Unit of the threshold: %, connections, 1/s, ms';
COMMENT ON COLUMN perf.scaling_trigger.priority IS 'high | medium | low';
COMMENT ON COLUMN perf.scaling_trigger.recommendation IS 'What to do';
COMMENT ON COLUMN perf.scaling_trigger.expected_gain IS 'The owner''s expectation, not a measurement';
COMMENT ON COLUMN perf.scaling_trigger.settings IS 'Figures of the recommendation, by name';
COMMENT ON COLUMN perf.scaling_trigger.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.scaling_trigger.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.capacity_policy IS
    'What the owner expects of growth; printed next to a projection, never as one';
COMMENT ON COLUMN perf.capacity_policy.metric IS 'database_size | database_size_growth_per_quarter | peak_connections | qps';
COMMENT ON COLUMN perf.capacity_policy.horizon IS 'How far ahead; 0 is now';
COMMENT ON COLUMN perf.capacity_policy.expected_low IS 'Lower end, in unit';
COMMENT ON COLUMN perf.capacity_policy.expected_high IS 'Upper end, in unit';
COMMENT ON COLUMN perf.capacity_policy.unit IS 'bytes | connections | 1/s';
COMMENT ON COLUMN perf.capacity_policy.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.capacity_policy.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.price IS
    'Prices, a table to edit: money in perf.cost_impact comes from here only';
COMMENT ON COLUMN perf.price.item IS 'What is paid for';
COMMENT ON COLUMN perf.price.kind IS 'current: the bill now | expected: the bill the owner expects | addition: a part that is added | instance: a machine size';
COMMENT ON COLUMN perf.price.resource_unit IS 'Unit of quantity and price';
COMMENT ON COLUMN perf.price.quantity IS 'Units a month; NULL: measured or not used';
COMMENT ON COLUMN perf.price.unit_price_low IS 'Price of a unit, in currency, lower end; NULL: not known';
COMMENT ON COLUMN perf.price.unit_price_high IS 'Price of a unit, in currency, upper end; NULL: not known';
COMMENT ON COLUMN perf.price.currency IS 'ISO 4217 code';
COMMENT ON COLUMN perf.price.vcpus IS 'Virtual CPUs of an instance';
COMMENT ON COLUMN perf.price.memory_bytes IS 'Memory of an instance, bytes';
COMMENT ON COLUMN perf.price.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.price.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON TABLE perf.checklist_item IS
    'The deployment checklist. Read by perf.deployment_checklist';
COMMENT ON COLUMN perf.checklist_item.phase IS 'before | phase_1 | phase_2_plus | after, or a phase of your own';
COMMENT ON COLUMN perf.checklist_item.item_no IS 'Item within the phase, from 1';
COMMENT ON COLUMN perf.checklist_item.item IS 'What is to be done';
COMMENT ON COLUMN perf.checklist_item.check_name IS 'Check the server can do itself; NULL: a person ticks it';
COMMENT ON COLUMN perf.checklist_item.note IS 'Free text: assumptions and reservations';
COMMENT ON COLUMN perf.checklist_item.origin IS 'shipped: as the extension ships it (not dumped) | edited: a shipped row that was changed | added: a row of your own. Kept by triggers; leave it out when you insert';

COMMENT ON FUNCTION perf.load_policy(text) IS
    'Loads a shipped policy catalogue again: shipped rows that were edited or deleted are as shipped afterwards, rows of your own with other keys stay. Returns the number of rows loaded. Errors: 22023 unknown catalogue. EXECUTE and rights on the policy tables are needed';
COMMENT ON FUNCTION perf.clear_policy() IS
    'Empties all policy tables; the emptiness survives pg_dump and restore. Returns the number of rows removed. EXECUTE and rights on the policy tables are needed. perf.load_policy() brings the shipped rows back';
COMMENT ON FUNCTION perf.policy_row_key(jsonb, text[]) IS
    'Key of a policy row as perf.policy_deletion stores it: a JSON array of the key columns';
COMMENT ON FUNCTION perf.policy_keep_origin() IS
    'Trigger of the policy tables: keeps the column origin and perf.policy_deletion';
COMMENT ON FUNCTION perf.policy_restore_deletion() IS
    'Trigger of perf.policy_deletion: a restored mark deletes the shipped row';

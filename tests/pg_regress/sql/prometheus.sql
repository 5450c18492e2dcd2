-- What Prometheus is told: families with their types, whatever their values are.
SELECT substr(line, 8) AS family FROM regexp_split_to_table(perf.prometheus_metrics(), '\n') AS line
WHERE line LIKE '# TYPE %' AND line !~ '_(application|relation|replica)_' AND line !~ '(cpu|memory|wal|buffer_cache|index|transactions|result_cache)_'
ORDER BY 1;
SELECT count(*) FROM regexp_split_to_table(perf.prometheus_metrics(), '\n') AS line
WHERE line !~ '^(# (HELP|TYPE) perf_opt_[a-z0-9_]+ .+|perf_opt_[a-z0-9_]+(\{([a-z]+="([^"\\]|\\.)*",?)+\})? [0-9.e+-]+|)$';

-- Thresholds as rules: in base units, with patience of as many runs of the collector.
SELECT rule ->> 'alert' AS alert, rule ->> 'expr' AS expr, rule -> 'labels' ->> 'severity' AS severity,
       (rule ->> 'for')::interval = t.fire_after * current_setting('perf_opt.collect_interval')::interval AS patient,
       rule -> 'annotations' ->> 'summary' AS summary
FROM jsonb_array_elements(perf.prometheus_rules()::jsonb #> '{groups,0,rules}') AS rule
JOIN perf.alert_threshold AS t ON t.alert_name = rule -> 'labels' ->> 'perf_opt_alert' ORDER BY 1;

-- An edited threshold is told as it is now; one of a metric that nobody measures is none.
UPDATE perf.alert_threshold SET threshold = 1500, severity = 'critical' WHERE alert_name = 'p99_latency';
INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action)
VALUES ('regress_unknown', 'no_such_metric', '>', 1, '%', 'warning', 'None.');
SELECT rule ->> 'expr' AS expr, rule -> 'labels' ->> 'severity' AS severity
FROM jsonb_array_elements(perf.prometheus_rules()::jsonb #> '{groups,0,rules}') AS rule
WHERE rule ->> 'alert' ~ 'P99|Regress';
DELETE FROM perf.alert_threshold WHERE alert_name = 'regress_unknown';
SELECT perf.load_policy() > 0 AS loaded;

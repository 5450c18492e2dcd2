-- The report: that it holds together in every format. What the parts say is tested where they come from.
SELECT perf.report() LIKE 'Performance of %' AS as_text, max(length(line)) <= 100 AS fits FROM regexp_split_to_table(perf.report(), '\n') AS line;
SELECT perf.report('markdown') LIKE '# Performance of %' AS as_markdown;
SELECT perf.report('HTML') LIKE '<!doctype html>%' AS as_page, perf.report('html') ~ '</html>\s*$' AS whole,
       perf.report('html') !~* '(src|href)="?(https?:)?//' AS alone;
SELECT jsonb_object_keys(perf.report('json')::jsonb) AS part ORDER BY 1;
SELECT document #>> '{server,database}' = current_database() AS here,
       jsonb_array_length(document -> 'statements') > 0 AS has_statements,
       (document #>> '{period,to}')::timestamptz <= clock_timestamp() AS ended, document -> 'warnings' AS warnings
FROM (SELECT perf.report('json', now() - interval '1 hour')::jsonb AS document) AS r;
SELECT length(perf.report('text', NULL)) > 0 AS without_beginning, length(perf.report('text', '-infinity')) > 0 AS infinite;

-- Compared with a baseline.
SELECT perf.baseline_capture('regress report') > 0 AS captured;
SELECT document #>> '{comparison,before}' AS before, jsonb_array_length(document #> '{comparison,statements}') > 0 AS has_statements
FROM (SELECT perf.report('json', compare_to => 'regress report')::jsonb AS document) AS r;
SELECT perf.baseline_drop('regress report');

-- Wrong arguments.
SELECT perf.report(NULL);
SELECT perf.report('pdf');
SELECT perf.report('text', 'infinity');
SELECT perf.report('text', '2100-01-01');
SELECT perf.report('text', compare_to => 'nonesuch');

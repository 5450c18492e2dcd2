
-- Who may capture: it reads and stores what everybody does.
REVOKE EXECUTE ON FUNCTION perf.baseline_capture(text, text, timestamptz, interval) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION perf.baseline_capture(text, text, timestamptz, interval) TO pg_monitor;
ALTER FUNCTION perf.baseline_capture(text, text, timestamptz, interval) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.baseline_compare(text, text) SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION perf.baseline_drop(text) SET search_path = pg_catalog, pg_temp;

COMMENT ON FUNCTION perf.baseline_capture(text, text, timestamptz, interval) IS
'Keeps what the statements of the current database did since a time, under a name, to be compared with later; returns its baseline_id bigint. The history goes by perf_opt.collect_interval: what was done together with something later counts. The 5000 statements with most time are kept, for as long as keep says; at most 200 baselines. note: free text.
Members of pg_monitor. Errors: 22004 for NULL as name, since or keep; 22023 for an empty name or one of more than 200 characters, since in the future or infinite, keep not positive or of more than ten years; 42710 for a name that is taken; 55000 without preloading, or when there are 200 baselines.';
COMMENT ON FUNCTION perf.baseline_compare(text, text) IS
'Statement by statement, what has changed between two baselines; after NULL: since the baseline before was captured. Columns: queryid bigint, query text, calls_before bigint, calls_after bigint, mean_ms_before, mean_ms_after, p95_ms_before, p95_ms_after, p99_ms_before, p99_ms_after double precision (ms; percentiles within 3.2 %), change_pct double precision (of the mean, in per cent of what it was), verdict text (faster | same | slower | new | gone). What matters most comes first: change of the mean times executions.
Verdict: faster or slower when the means differ by 5 % and by three standard errors (Welch), or an execution of one side takes longer than one of the other with a probability of 60 % (Mann and Whitney, at three standard deviations) and the medians differ by 5 %; same otherwise, and with fewer than 10 executions on one side.
Own statements; those of others for members of pg_read_all_stats. Errors: 22004 for NULL as before; 42704 for a name that is not there; 55000 without preloading where after is NULL.';
COMMENT ON FUNCTION perf.baseline_drop(text) IS
'Removes a baseline of one''s own, or of a role whose rights one has; returns whether there was one. Error 22004 for NULL, 42501 for somebody else''s.';

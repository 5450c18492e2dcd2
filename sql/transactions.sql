-- Whose transactions did what is for those who may read all statistics.
REVOKE EXECUTE ON FUNCTION perf._applications() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION perf._applications() TO pg_read_all_stats;

COMMENT ON FUNCTION perf._applications() IS $$Internal: what each application_name did in each database as each role since the server started or perf.reset().
statements, failures, statement_ms, p50_ms, p95_ms, p99_ms: of statements that clients sent, failed ones included; transactions: those with statements, rolled_back of them; writing: those that were given a transaction id, because they wrote or locked rows; writing_ms: time in statements of those. Row (other): applications there was no room for, without a role.
55000 when perf_opt is not preloaded.$$;

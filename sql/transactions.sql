-- Whose applications did what is for those who may read all statistics. Hashes of values are for superusers: whoever sees
-- them could compare those of others with his own guesses.
REVOKE EXECUTE ON FUNCTION perf._applications() FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION perf._transaction_traces() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION perf._applications() TO pg_read_all_stats;

COMMENT ON FUNCTION perf._applications() IS $$Internal: what each application_name did in each database as each role since the server started or perf.reset().
statements, failures, statement_ms, p50_ms, p95_ms, p99_ms: of statements that clients sent, failed ones included; transactions: those with statements, rolled_back of them; writing: those that were given a transaction id, because they wrote or locked rows; writing_ms: time in statements of those. Row (other): applications there was no room for, without a role.
55000 when perf_opt is not preloaded.$$;
COMMENT ON FUNCTION perf._transaction_traces() IS $$Internal, for superusers: transactions of this database that are kept as they were (perf_opt.transaction_samples), oldest first.
statement_ms: time in statements that the client sent; writes: was given a transaction id, because it wrote or locked rows; temporary: used a temporary table; fresh: wrote nothing, and read what the same role had written within a second before; truncated: had more statements or values than there was room for; steps: an array of its statements in the order in which they ended, each with queryid, toplevel and values: hashes of the values of $1, $2, ... of its text in perf.statements(), null where not known. Values with the same text have the same hash until the server restarts. A prepared transaction counts as committed, and what it wrote as written, when it is prepared, whatever becomes of it then.
55000 when perf_opt is not preloaded.$$;

"""Benchmarks: what perf_opt costs and what it holds, beside a server with nothing and one with pg_stat_statements."""

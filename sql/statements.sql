-- Who may forget statistics is for a superuser to say.
REVOKE EXECUTE ON FUNCTION perf.reset(bigint, text) FROM PUBLIC;

-- What runs now, with the literals taken out. pg_stat_activity already hides from the caller what is not his to see.
CREATE FUNCTION perf.active_statements() RETURNS TABLE (
    pid int, queryid bigint, query text, started_at timestamptz, elapsed_ms double precision, severity text,
    wait_event_type text, wait_event text, database text, username text, application_name text
) LANGUAGE sql VOLATILE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.pid, a.query_id, perf._normalize(a.query), a.query_start, e.elapsed_ms, perf._severity(e.elapsed_ms),
           a.wait_event_type, a.wait_event, a.datname::text, a.usename::text, a.application_name
    FROM pg_catalog.pg_stat_activity a,
         LATERAL (SELECT extract(epoch FROM clock_timestamp() - a.query_start)::double precision * 1000 AS elapsed_ms) e
    WHERE a.state IN ('active', 'fastpath function call')
      AND a.backend_type IN ('client backend', 'background worker')
      AND a.pid <> pg_catalog.pg_backend_pid()
    ORDER BY a.query_start
$$;

-- Materialized views: what is known of their last refresh, and the view that shows them all. perf.matview_state is written
-- only by the workers that refresh views, as the owner of the tables; it is not dumped, since what it says holds only for
-- the life of one server.
CREATE TABLE perf.matview_state (
    view oid PRIMARY KEY,
    refreshed_at timestamptz NOT NULL,
    mode text NOT NULL CHECK (mode IN ('concurrent', 'plain')),
    duration_ms float8 NOT NULL,
    rows bigint NOT NULL,
    sources oid[] NOT NULL,
    writes bigint NOT NULL,
    obstacle text,
    facts jsonb NOT NULL
);

CREATE FUNCTION perf._why_not_concurrent(view oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT CASE
               WHEN NOT c.relispopulated THEN 'it is not populated'
               WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique)
               THEN 'it has no unique index'
               WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                                WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL)
               THEN 'its unique indexes are partial: they have a WHERE clause'
               WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                                WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL)
               THEN 'its unique indexes are on expressions'
               WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                                WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
                                  AND i.indisvalid AND i.indimmediate)
               THEN 'its unique indexes are not valid, or are checked only at the end of a transaction'
           END
    FROM pg_catalog.pg_class c WHERE c.oid = view AND c.relkind = 'm'
);

CREATE FUNCTION perf._writes_to(relations oid[]) RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_stat_get_tuples_inserted(r) + pg_catalog.pg_stat_get_tuples_updated(r)
                                   + pg_catalog.pg_stat_get_tuples_deleted(r)), 0)::pg_catalog.int8
    FROM pg_catalog.unnest(relations) AS r
);

CREATE VIEW perf.matviews WITH (security_barrier) AS
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS view_name,
       c.relispopulated AS populated,
       s.refreshed_at AS last_refresh_at,
       pg_catalog.clock_timestamp() - s.refreshed_at AS age,
       CASE WHEN w.writes < s.writes THEN w.writes ELSE w.writes - s.writes END AS writes_since,
       j.schedule,
       j.time_zone,
       j.mode,
       j.next_run_at,
       perf._why_not_concurrent(c.oid) AS why_not_concurrent,
       s.obstacle AS why_not_skipped,
       j.job_id,
       r.status AS last_status,
       r.message AS last_message,
       r.started_at AS last_run_at,
       s.mode AS last_mode,
       s.duration_ms AS last_duration_ms,
       s.rows,
       pg_catalog.pg_total_relation_size(c.oid) AS size_bytes,
       pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text AS owner
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN perf.matview_state s ON s.view = c.oid
LEFT JOIN LATERAL (SELECT perf._writes_to(s.sources) AS writes) w ON s.view IS NOT NULL
LEFT JOIN LATERAL (
    SELECT job_id, schedule, time_zone, options ->> 'mode' AS mode, CASE WHEN enabled THEN next_run_at END AS next_run_at
    FROM perf.job
    WHERE target = c.oid AND kind = 'matview'
      AND (job.owner::pg_catalog.oid = pg_catalog.to_regrole(pg_catalog.quote_ident(current_user))::pg_catalog.oid
           OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user))
    ORDER BY job_id LIMIT 1) j ON true
LEFT JOIN LATERAL (
    SELECT status, message, started_at FROM perf.job_run
    WHERE job_id = j.job_id AND status <> 'queued' ORDER BY run_id DESC LIMIT 1) r ON true
WHERE c.relkind = 'm';

GRANT SELECT ON perf.matviews TO PUBLIC;

-- Creates and schedules the views of perf.matview_policy. What is made belongs to the caller, and lies beside its first
-- source table, which is looked for in the caller's search path: a default is evaluated before the function sets its own.
CREATE FUNCTION perf.matview_policy_apply(schemas name[] DEFAULT pg_catalog.current_schemas(false))
RETURNS TABLE (view_name text, action text, ddl text, reason text, job_id bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy record;
    source text;
    sources text[];
    missing text[];
    home name;
    full_name text;
    existing oid;
    statements text[];
    statement text;
    job record;
BEGIN
    FOR policy IN SELECT * FROM perf.matview_policy AS p ORDER BY p.refresh_every, p.view_name LOOP
        view_name := policy.view_name; ddl := NULL; reason := NULL; job_id := NULL;
        sources := '{}'; missing := '{}'; home := NULL;
        FOREACH source IN ARRAY policy.source_tables LOOP
            SELECT sources || format('%I.%I', n.nspname, c.relname), coalesce(home, n.nspname)
              INTO sources, home
              FROM unnest(schemas) WITH ORDINALITY AS s (name, place)
              JOIN pg_namespace AS n ON n.nspname = s.name
              JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = source AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
             ORDER BY s.place LIMIT 1;
            IF NOT FOUND THEN
                missing := missing || source;
            END IF;
        END LOOP;
        IF cardinality(missing) > 0 THEN
            action := 'not_applicable';
            reason := format('no table %s in the search path', array_to_string(missing, ', '));
            RETURN NEXT;
            CONTINUE;
        END IF;
        -- The schema of its first source, or the first one that the caller may create in.
        IF home IS NULL OR NOT has_schema_privilege(home, 'CREATE') THEN
            SELECT s.name INTO home FROM unnest(schemas) WITH ORDINALITY AS s (name, place)
             WHERE has_schema_privilege(s.name, 'CREATE') ORDER BY s.place LIMIT 1;
        END IF;
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) INTO existing, full_name
          FROM unnest(schemas) WITH ORDINALITY AS s (name, place)
          JOIN pg_namespace AS n ON n.nspname = s.name
          JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = policy.view_name
         ORDER BY c.relkind = 'm' DESC, s.place LIMIT 1;
        IF existing IS NULL THEN
            IF home IS NULL OR policy.definition IS NULL THEN
                action := 'not_applicable';
                reason := CASE WHEN home IS NULL THEN 'no schema in the search path that you may create in'
                               ELSE 'its row in perf.matview_policy has no definition' END;
                RETURN NEXT;
                CONTINUE;
            END IF;
            full_name := format('%I.%I', home, policy.view_name);
            statements := ARRAY[format('CREATE MATERIALIZED VIEW %s AS %s', full_name,
                                       format(policy.definition, VARIADIC sources))];
            IF cardinality(policy.unique_columns) > 0 THEN
                statements := statements || format('CREATE UNIQUE INDEX ON %s (%s)', full_name,
                    (SELECT string_agg(quote_ident(u.name), ', ' ORDER BY u.place)
                       FROM unnest(policy.unique_columns) WITH ORDINALITY AS u (name, place)));
            END IF;
            FOREACH statement IN ARRAY statements LOOP
                EXECUTE statement;
            END LOOP;
            action := 'created';
            ddl := array_to_string(statements, E';\n') || ';';
            RETURN NEXT;
            existing := to_regclass(full_name);
        ELSIF (SELECT c.relkind <> 'm' FROM pg_class AS c WHERE c.oid = existing) THEN
            action := 'not_applicable';
            reason := format('%s is not a materialized view', full_name);
            RETURN NEXT;
            CONTINUE;
        ELSE
            action := 'exists';
            RETURN NEXT;
        END IF;
        ddl := format('SELECT perf.matview_schedule(%L, %L)', full_name, policy.schedule);
        SELECT m.job_id, m.schedule INTO job FROM perf.matviews AS m WHERE m.view_name = full_name;
        -- Stored in one form whatever way it was written; storing the same again changes nothing.
        job_id := perf.matview_schedule(existing::regclass, policy.schedule);
        SELECT CASE WHEN job.job_id IS NULL THEN NULL
                    WHEN m.schedule = job.schedule THEN 'scheduled before'
                    ELSE format('was %s', job.schedule) END
          INTO reason FROM perf.matviews AS m WHERE m.view_name = full_name;
        action := 'scheduled';
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON TABLE perf.matview_state IS
    'The last refresh of each materialized view by a job, and what its content depended on then; read perf.matviews';
COMMENT ON VIEW perf.matviews IS
    'All materialized views: view_name text, populated boolean, last_refresh_at timestamptz and age interval (of the last refresh by a job that did something; NULL: none on record), writes_since bigint (rows inserted, updated and deleted in what it reads since then, as far as statistics have it), schedule, time_zone, mode text and next_run_at timestamptz (of your job, a superuser''s: anybody''s), why_not_concurrent text (NULL: it can be refreshed without blocking readers), why_not_skipped text (why it is refreshed although nothing may have changed; NULL: it is left alone then), job_id bigint, last_status, last_message text, last_run_at timestamptz, last_mode text, last_duration_ms double precision, rows bigint (of the last refresh), size_bytes bigint (indexes included), owner text';
COMMENT ON FUNCTION perf._why_not_concurrent(oid) IS
'Why a materialized view cannot be refreshed concurrently; NULL when it can';
COMMENT ON FUNCTION perf._writes_to(oid[]) IS
'Rows inserted, updated and deleted in relations since their statistics were reset';
COMMENT ON FUNCTION perf.matview_schedule(regclass, text, text, text, boolean, interval, interval, int) IS
'Refreshes a materialized view by schedule, as the current role, which must own it (or, from 17 on, have MAINTAIN on it); returns job_id bigint. One job a view: called again, it changes that job, and makes it yours.
schedule, time_zone, timeout, lock_timeout, max_retries: as for perf.job_schedule; timeout and lock_timeout NULL for none.
mode: auto (concurrent where that is possible, else plain, with the reason in the run''s detail) | concurrent (fails where it is not possible) | plain. Concurrent needs a populated view with a valid unique index on plain columns of all rows; readers are never blocked by it.
skip_unchanged: a run does nothing (status skipped) when no table that the view reads has had a change committed since its last refresh. A view is always refreshed after a restart of the server, and always when it reads a foreign table, a system catalog, a table with row security, system columns or more than 512 tables, or uses a text search configuration or a function that is not immutable or not written in C (perf.matviews.why_not_skipped says which).
A view that reads other materialized views is refreshed after those that are due at the same time.
A run''s detail: mode, why_not_concurrent, duration_ms, rows, refreshed_because, decision_ms, upstream_wait_ms.
Errors: 42P01 for an unknown view, 22023 for another kind of relation or an argument that is not accepted, 22004 for NULL, 42501 when you may not refresh the view, 55000 when perf_opt is not preloaded';
COMMENT ON FUNCTION perf.matview_unschedule(regclass) IS
'Refreshes a materialized view no more; its history stays. Errors: 42704 when you have no such job, 42P01 for an unknown view';
COMMENT ON FUNCTION perf.matview_policy_apply(name[]) IS
'Creates the views of perf.matview_policy whose source tables are in the given schemas (your search path, unless you say otherwise), with the unique indexes that concurrent refreshes need, and schedules all of them; as the current role. May be repeated.
Rows: view_name text, action text (created | exists | scheduled | not_applicable), ddl text (what was run), reason text, job_id bigint (scheduled).
Errors: whatever creating and scheduling raise; nothing is left behind then';

-- The tables that perf.partition_policy wants partitioned by time, in the caller's search path: a default is evaluated before
-- the function sets its own.
CREATE FUNCTION perf.partition_policy_apply(schemas name[] DEFAULT pg_catalog.current_schemas(false))
RETURNS TABLE (table_name text, action text, ddl text, reason text, job_id bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    policy record;
    found_table record;
    control record;
    candidates text[];
    before record;
    age interval;
BEGIN
    IF schemas IS NULL OR array_position(schemas, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'argument "schemas" must not be NULL or contain NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Give names of schemas, or leave the argument out.';
    END IF;
    FOR policy IN SELECT * FROM perf.partition_policy AS p ORDER BY p.table_name LOOP
        table_name := policy.table_name; action := 'not_applicable'; ddl := NULL; reason := NULL; job_id := NULL;
        SELECT c.oid, c.relkind, c.relpersistence, c.relispartition, format('%I.%I', n.nspname, c.relname) AS full_name,
               pg_has_role(c.relowner, 'USAGE') AS is_ours
          INTO found_table
          FROM unnest(schemas) WITH ORDINALITY AS s (name, place)
          JOIN pg_namespace AS n ON n.nspname = s.name
          JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = policy.table_name
         ORDER BY c.relkind IN ('r', 'p') DESC, s.place LIMIT 1;
        reason := CASE
            WHEN found_table.oid IS NULL THEN 'no such table in the search path'
            WHEN found_table.relkind NOT IN ('r', 'p') THEN format('%s is not a table', found_table.full_name)
            WHEN found_table.relpersistence = 't' THEN format('%s is temporary', found_table.full_name)
            WHEN found_table.relispartition AND found_table.relkind = 'r' THEN format('%s is itself a partition', found_table.full_name)
            WHEN NOT found_table.is_ours THEN format('%s is not yours', found_table.full_name) END;
        IF reason IS NOT NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        IF found_table.relkind = 'r' THEN
            -- Where the policy names no column, the only one that tells the time is meant.
            SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum) INTO candidates FROM pg_attribute AS a
             WHERE a.attrelid = found_table.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype);
            SELECT a.attname, a.attnotnull, a.attgenerated <> '' AS is_generated, format_type(a.atttypid, a.atttypmod) AS type_name,
                   a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'uuid'::regtype, 'int8'::regtype)
                       AS tells_time
              INTO control FROM pg_attribute AS a
             WHERE a.attrelid = found_table.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND (a.attname = policy.control_column
                    OR policy.control_column IS NULL AND cardinality(candidates) = 1 AND quote_ident(a.attname) = candidates[1]);
            reason := CASE
                WHEN control.attname IS NULL AND policy.control_column IS NOT NULL
                THEN format('%s has no column %I', found_table.full_name, policy.control_column)
                WHEN control.attname IS NULL AND candidates IS NULL
                THEN 'its row in perf.partition_policy names no control_column, and no column tells the time'
                WHEN control.attname IS NULL
                THEN format('its row in perf.partition_policy names no control_column, and several tell the time: %s',
                            array_to_string(candidates, ', '))
                WHEN NOT control.tells_time
                THEN format('column %I is of type %s, which does not tell the time', control.attname, control.type_name)
                WHEN control.is_generated
                THEN format('column %I is generated', control.attname) END;
            IF reason IS NULL THEN
                action := 'convert_first';
                ddl := format('CALL perf.partition_convert(%L, %L, %L)', found_table.full_name, control.attname, policy.every);
                reason := 'it is a plain table; a conversion commits on its way, and so cannot run in here'
                          || CASE WHEN policy.control_column IS NULL THEN format('; %I is its only column that tells the time',
                                                                                 control.attname) ELSE '' END
                          || CASE WHEN control.attnotnull THEN '' ELSE format('; it makes %I NOT NULL', control.attname) END;
            END IF;
            RETURN NEXT;
            CONTINUE;
        END IF;

        SELECT a.attname INTO control
          FROM pg_partitioned_table AS p JOIN pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
         WHERE p.partrelid = found_table.oid AND p.partstrat = 'r' AND p.partnatts = 1;
        IF control.attname IS NULL THEN
            reason := format('%s is not partitioned by RANGE of one column', found_table.full_name);
            RETURN NEXT;
            CONTINUE;
        END IF;
        -- What the policy says nothing of stays as it is.
        SELECT j.job_id, j.options INTO before FROM perf.jobs AS j
         WHERE j.kind = 'partition' AND j.target = found_table.full_name ORDER BY j.job_id LIMIT 1;
        age := make_interval(months => (before.options #>> '{compress_after,months}')::int,
                             days => (before.options #>> '{compress_after,days}')::int,
                             secs => (before.options #>> '{compress_after,micros}')::float8 / 1000000);
        job_id := perf.partition_manage(
            found_table.oid::regclass, policy.every, coalesce((before.options ->> 'premake')::int, 4),
            retention => policy.retention, on_expire => policy.on_expire,
            archive_schema => coalesce(before.options ->> 'archive_schema', 'archive'), compress_after => age,
            time_zone => coalesce(before.options ->> 'time_zone', 'UTC'),
            archive_to => coalesce(before.options ->> 'archive_to', 'schema'),
            epoch => before.options ->> 'epoch', max_move_rows => coalesce((before.options ->> 'max_move_rows')::bigint, 100000));
        action := 'managed';
        ddl := format('SELECT perf.partition_manage(%L, %L%s, on_expire => %L)', found_table.full_name, policy.every,
                      ', retention => ' || quote_literal(policy.retention::text), policy.on_expire);
        SELECT CASE WHEN before.job_id IS NULL THEN NULL
                    WHEN j.options = before.options THEN 'managed before'
                    ELSE 'managed before, in another way' END
               INTO reason FROM perf.jobs AS j WHERE j.job_id = partition_policy_apply.job_id;
        IF policy.control_column <> control.attname THEN
            reason := concat_ws('; ', reason, format('it is partitioned by %I, the policy says %I', control.attname, policy.control_column));
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

COMMENT ON FUNCTION perf.partition_policy_apply(name[]) IS
'Manages the tables of perf.partition_policy that are in the given schemas (your search path, unless you say otherwise) and partitioned, as the current role, by the every, retention and on_expire of their rows; a job that there is keeps its other settings. May be repeated.
Rows: table_name text, action text (managed | convert_first: a plain table, ddl converts it; call this again afterwards | not_applicable), ddl text, reason text, job_id bigint (managed). A row without control_column means the only date or timestamp column of its table.
Errors: whatever perf.partition_manage raises; nothing is left behind then. 22004 for NULL';

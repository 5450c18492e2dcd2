-- Conversions of plain tables into partitioned ones: what is needed to go on after a crash and to go back. Written only by
-- the job that converts, as the owner of the tables; OIDs are those of this server, so nothing of it is dumped.
CREATE TABLE perf.partition_conversion (
    relation oid PRIMARY KEY,
    parent oid UNIQUE,
    owner regrole NOT NULL,
    state text NOT NULL CHECK (state IN ('converting', 'converted', 'undoing')),
    step text NOT NULL,
    options jsonb NOT NULL,
    undo jsonb NOT NULL DEFAULT '{}',
    boundary_at bigint,
    boundary text,
    exclusive_lock_ms float8,
    started_at timestamptz NOT NULL DEFAULT now(),
    converted_at timestamptz
);

CREATE VIEW perf.partition_conversions WITH (security_barrier) AS
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS relation,
       v.state,
       v.step,
       v.options ->> 'control' AS control,
       v.options ->> 'every' AS every,
       v.options ->> 'time_zone' AS time_zone,
       v.boundary,
       CASE WHEN v.parent IS NOT NULL THEN
           (SELECT pg_catalog.format('%I.%I', ln.nspname, l.relname)
            FROM pg_catalog.pg_class l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.relnamespace WHERE l.oid = v.relation)
       END AS first_partition,
       v.exclusive_lock_ms,
       v.started_at,
       v.converted_at,
       pg_catalog.pg_get_userbyid(v.owner)::pg_catalog.text AS owner
FROM perf.partition_conversion v
JOIN pg_catalog.pg_class c ON c.oid = COALESCE(v.parent, v.relation)
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE v.owner::pg_catalog.oid = pg_catalog.to_regrole(pg_catalog.quote_ident(current_user))::pg_catalog.oid
   OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user);

GRANT SELECT ON perf.partition_conversions TO PUBLIC;

-- Waits for a run in short transactions: a concurrent index build waits for every transaction that is older than itself.
-- A procedure that commits may have no search_path of its own, so nothing here is looked up in the caller's: no operator is
-- used, and every name is qualified.
CREATE PROCEDURE perf._partition_convert_follow(run_id bigint)
LANGUAGE plpgsql AS $$
DECLARE
    progress record;
    seen pg_catalog.int4 := 0;
    quiet pg_catalog.int4 := 0;
    line pg_catalog.text;
    cancelled pg_catalog.bool := false;
BEGIN
    LOOP
        BEGIN
            SELECT * INTO progress FROM perf._partition_convert_progress(run_id, seen, quiet);
        EXCEPTION WHEN query_canceled THEN
            PERFORM perf.job_cancel(run_id);
            cancelled := true;
        END;
        -- The snapshot ends here.
        COMMIT;
        IF cancelled THEN
            RAISE EXCEPTION USING ERRCODE = 'query_canceled', MESSAGE = 'the conversion was cancelled with this statement',
                HINT = 'Call it again to go on where it stopped, or CALL perf.partition_convert_undo() to go back.';
        END IF;
        FOREACH line IN ARRAY progress.lines LOOP
            RAISE NOTICE '%', line;
        END LOOP;
        seen := progress.seen;
        quiet := progress.quiet;
        EXIT WHEN progress.ended;
    END LOOP;
    IF progress.sqlstate IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = progress.sqlstate, MESSAGE = progress.message, HINT = progress.hint;
    END IF;
END $$;

CREATE PROCEDURE perf.partition_convert(relation regclass, control text, every text, max_lock interval DEFAULT '50 ms',
                                        give_up_after interval DEFAULT '5 min', time_zone text DEFAULT 'UTC',
                                        epoch text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    started record;
BEGIN
    SELECT * INTO started
    FROM perf._partition_convert_start(relation, control, every, max_lock, give_up_after, time_zone, epoch, false);
    IF started.sqlstate IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = started.sqlstate, MESSAGE = started.message, HINT = started.hint;
    END IF;
    COMMIT;
    CALL perf._partition_convert_follow(started.run_id);
END $$;

CREATE PROCEDURE perf.partition_convert_undo(relation regclass, max_lock interval DEFAULT '50 ms',
                                             give_up_after interval DEFAULT '5 min')
LANGUAGE plpgsql AS $$
DECLARE
    started record;
BEGIN
    SELECT * INTO started
    FROM perf._partition_convert_start(relation, '', 'day', max_lock, give_up_after, 'UTC', NULL, true);
    IF started.sqlstate IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = started.sqlstate, MESSAGE = started.message, HINT = started.hint;
    END IF;
    COMMIT;
    CALL perf._partition_convert_follow(started.run_id);
END $$;

COMMENT ON TABLE perf.partition_conversion IS
    'Conversions of tables, under way and done, with what it takes to undo them; read perf.partition_conversions. relation: OID of the table, afterwards of the first partition; parent: of the partitioned table';
COMMENT ON VIEW perf.partition_conversions IS
    'Your conversions of plain tables into partitioned ones; all of them for a superuser: relation text, state text (converting | converted | undoing), step text (the last one that is done), control, every, time_zone text, boundary text (where the first partition ends), first_partition text (the old table), exclusive_lock_ms double precision (how long the swap held ACCESS EXCLUSIVE), started_at, converted_at timestamptz, owner text';
COMMENT ON PROCEDURE perf._partition_convert_follow(bigint) IS 'Internal: shows the progress of a conversion until it ends';

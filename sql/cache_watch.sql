-- What keeps caches exact: which relations are watched for which events, and what changed on them. Written by functions and
-- triggers of perf_opt only.

-- Names go with the numbers: what is restored finds its relation and role by them, and one whose relation or role is not there
-- (yet) keeps none of the others out. 0: not there.
CREATE TABLE perf.cache_watch_table (
    watch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event text NOT NULL CHECK (event <> ''),
    relation oid NOT NULL,
    relation_name text NOT NULL,
    operations text[] NOT NULL,
    keys text[],
    tags text[],
    owner oid NOT NULL,
    owner_name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
CREATE UNIQUE INDEX cache_watch_table_event_relation_idx ON perf.cache_watch_table (event, relation) WHERE relation <> 0;

CREATE FUNCTION perf._cache_watch_resolve() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.relation := COALESCE(pg_catalog.to_regclass(NEW.relation_name)::oid, 0);
    NEW.owner := COALESCE((SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = NEW.owner_name), 0);
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION perf._cache_watch_resolve() IS 'Internal: trigger of perf.cache_watch_table, finds relation and role by their names.';
CREATE TRIGGER cache_watch_resolve BEFORE INSERT ON perf.cache_watch_table
    FOR EACH ROW EXECUTE FUNCTION perf._cache_watch_resolve();
ALTER TABLE perf.cache_watch_table ENABLE ALWAYS TRIGGER cache_watch_resolve;

-- Forgets watches of relations that are gone, follows new names, and finds what was not there before. Rows that changed what
-- is watched.
CREATE FUNCTION perf._cache_watch_tend() RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed bigint;
    more bigint;
BEGIN
    DELETE FROM perf.cache_watch_table AS w
     WHERE w.relation <> 0 AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = w.relation);
    GET DIAGNOSTICS changed = ROW_COUNT;
    UPDATE perf.cache_watch_table AS w SET relation_name = w.relation::regclass::text
     WHERE w.relation <> 0 AND w.relation_name <> w.relation::regclass::text;
    UPDATE perf.cache_watch_table AS w SET owner_name = r.rolname
      FROM pg_catalog.pg_roles AS r WHERE r.oid = w.owner AND w.owner_name <> r.rolname;
    UPDATE perf.cache_watch_table AS w SET owner = r.oid
      FROM pg_catalog.pg_roles AS r WHERE w.owner = 0 AND r.rolname = w.owner_name;
    UPDATE perf.cache_watch_table AS w SET relation = pg_catalog.to_regclass(w.relation_name)
     WHERE w.relation = 0 AND pg_catalog.to_regclass(w.relation_name) IS NOT NULL
       AND NOT EXISTS (SELECT FROM perf.cache_watch_table AS o
                        WHERE o.event = w.event AND o.relation = pg_catalog.to_regclass(w.relation_name));
    GET DIAGNOSTICS more = ROW_COUNT;
    RETURN changed + more;
END
$$;
REVOKE ALL ON FUNCTION perf._cache_watch_tend() FROM PUBLIC;
COMMENT ON FUNCTION perf._cache_watch_tend() IS 'Internal: keeps perf.cache_watch_table with the names and numbers that relations and roles have now.';

-- What changed, had no room in shared memory, and is not worked off; and what perf.cache_invalidate() asked for. Logged, so
-- that it goes with its transaction. A row of a watched relation has
-- `watches` and the distinct values of the columns that their templates name, one after another; without `vals`, all rows
-- may have changed. A row of perf.cache_invalidate() says itself what is invalid. The trigger function knows the order of
-- the columns.
CREATE TABLE perf.cache_outbox (
    xid xid8 NOT NULL,
    at timestamptz NOT NULL,
    watches bigint[],
    columns text[],
    vals text[],
    event text,
    keys text[],
    prefixes text[],
    tags text[],
    tag_prefixes text[]
);
-- The one who reads it goes by the transactions that it has not seen, so that dead rows of others are never met again.
CREATE INDEX cache_outbox_xid_idx ON perf.cache_outbox (xid);
-- A publication of all tables publishes this one too, and the server removes no row that it cannot name there.
ALTER TABLE perf.cache_outbox REPLICA IDENTITY FULL;

-- What Redis has still to be told, in order: one batch a row.
CREATE TABLE perf.cache_redis_queue (
    batch_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- [{"event", "keys", "prefixes", "tags"}]
    events jsonb NOT NULL,
    -- Listeners have been told although Redis has not.
    told boolean NOT NULL,
    -- Everything that any template can name goes.
    flush boolean NOT NULL DEFAULT false,
    at timestamptz NOT NULL
);

REVOKE ALL ON perf.cache_watch_table, perf.cache_outbox, perf.cache_redis_queue FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('perf.cache_watch_table', '');
SELECT pg_catalog.pg_extension_config_dump('perf.cache_watch_table_watch_id_seq', '');

-- The trigger function of watched relations. It reads the rows that a statement has changed and notes them for the commit;
-- whoever writes to the relation needs no right of perf_opt's.
CREATE FUNCTION perf._cache_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'perf_opt_cache_changed';
-- The same for the table of policies, whose templates writers go by.
CREATE FUNCTION perf._cache_policy_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'perf_opt_cache_policy_changed';

CREATE TRIGGER cache_policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON perf.cache_policy
    FOR EACH STATEMENT EXECUTE FUNCTION perf._cache_policy_changed();

-- Whether what a watch invalidates depends on the rows that have changed: a template has a placeholder.
CREATE FUNCTION perf._cache_watch_fills(event text, keys text[], tags text[]) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM pg_catalog.unnest(tags) AS t WHERE t LIKE '%{%')
        OR CASE WHEN keys IS NULL
                THEN EXISTS (SELECT FROM perf.cache_policy AS p
                              WHERE event = ANY (p.invalidated_by) AND p.key_template LIKE '%{%')
                ELSE EXISTS (SELECT FROM pg_catalog.unnest(keys) AS k WHERE k LIKE '%{%') END;
END;
REVOKE ALL ON FUNCTION perf._cache_watch_fills(text, text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION perf._cache_watch_fills(text, text[], text[]) IS 'Internal: whether a template of a watch has a placeholder.';

-- Whether a relation has a foreign table below it: the server refuses to change rows there where a trigger collects them.
CREATE FUNCTION perf._cache_watch_has_foreign(relation oid) RETURNS boolean
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH RECURSIVE down (relation) AS (
        SELECT _cache_watch_has_foreign.relation
        UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i JOIN down ON i.inhparent = down.relation)
    SELECT EXISTS (SELECT FROM down JOIN pg_catalog.pg_class AS c ON c.oid = down.relation WHERE c.relkind = 'f');
END;
COMMENT ON FUNCTION perf._cache_watch_has_foreign(oid) IS 'Internal: whether a relation has a foreign partition or child.';

-- Relations with a trigger of a watch, which one, for what, and whether it collects rows.
CREATE FUNCTION perf._cache_watch_triggers(relation oid, OUT operation text, OUT is_on boolean, OUT has_rows boolean)
    RETURNS SETOF record
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT pg_catalog.substr(t.tgname::text, 18), t.tgenabled = 'A',
           t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL
      FROM pg_catalog.pg_trigger AS t
     WHERE t.tgrelid = relation AND t.tgname LIKE 'perf\_cache\_watch\_%'
       AND t.tgfoid = 'perf._cache_changed()'::pg_catalog.regprocedure;
END;

CREATE VIEW perf.cache_watches WITH (security_barrier) AS
    SELECT w.watch_id, w.event, w.relation::regclass AS relation, w.operations, w.keys, w.tags, w.owner::regrole AS owner,
           w.created_at,
           (SELECT pg_catalog.count(*) = pg_catalog.cardinality(w.operations) + 1
              FROM perf._cache_watch_triggers(w.relation) AS t
             WHERE t.is_on AND (t.operation = ANY (w.operations) OR t.operation = 'truncate')) AS is_active,
           (SELECT pg_catalog.array_agg(DISTINCT found.name[1] ORDER BY found.name[1])
              FROM pg_catalog.unnest(w.keys || w.tags) AS template,
                   pg_catalog.regexp_matches(template, '\{([^{}]+)\}', 'g') AS found (name)
             WHERE w.relation <> 0
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                                WHERE a.attrelid = w.relation AND a.attname = found.name[1] AND a.attnum > 0
                                  AND NOT a.attisdropped)) AS missing_columns,
           CASE w.relation WHEN 0 THEN w.relation_name END AS missing_relation
      FROM perf.cache_watch_table AS w
      LEFT JOIN pg_catalog.pg_class AS c ON c.oid = w.relation
     WHERE (c.oid IS NOT NULL OR w.relation = 0)
       AND (pg_catalog.pg_has_role(c.relowner, 'USAGE') OR w.owner <> 0 AND pg_catalog.pg_has_role(w.owner, 'USAGE')
            OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'));
GRANT SELECT ON perf.cache_watches TO PUBLIC;

-- What perf.health() says of watches, to whoever asks: numbers of all roles' watches.
CREATE FUNCTION perf._cache_counts(OUT watches bigint, OUT inactive bigint, OUT widened bigint, OUT waiting bigint,
                                   OUT oldest_s float8, OUT queued bigint, OUT orphans bigint)
STABLE LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT w.watches, w.inactive, w.widened, o.waiting, o.oldest_s, (SELECT count(*) FROM perf.cache_redis_queue),
           -- Tables with triggers that no watch wants, of their own or of what they are a part of.
           (WITH RECURSIVE up (relation, above) AS (
                SELECT t.tgrelid, t.tgrelid FROM pg_trigger AS t
                 WHERE t.tgfoid = 'perf._cache_changed()'::regprocedure AND NOT t.tgisinternal
                UNION SELECT up.relation, i.inhparent FROM pg_inherits AS i JOIN up ON i.inhrelid = up.above)
            SELECT count(*)
              FROM (SELECT FROM up LEFT JOIN perf.cache_watch_table AS v ON v.relation = up.above
                     GROUP BY up.relation HAVING count(v.watch_id) = 0) AS unwanted)
      FROM (SELECT count(*) AS watches, count(*) FILTER (WHERE NOT v.is_active) AS inactive,
                   count(*) FILTER (WHERE v.missing_columns IS NOT NULL) AS widened FROM perf.cache_watches AS v) AS w,
           (SELECT count(*) AS waiting, EXTRACT(epoch FROM clock_timestamp() - min(b.at))::float8 AS oldest_s
              FROM perf.cache_outbox AS b) AS o;
END;

COMMENT ON FUNCTION perf._cache_counts() IS 'Internal: numbers of watches for perf.health()';
COMMENT ON VIEW perf.cache_watches IS
'Watches of relations that invalidate caches: those the current role has made, those on relations of a role whose rights it
has, all of them for members of pg_read_all_stats. watch_id: returned by perf.cache_watch(); event; relation; operations:
insert, update, delete (TRUNCATE counts always); keys, tags: templates, NULL: those of the policies with the event, and the
event''s name; owner: who made it; created_at; is_active: the triggers are all there and switched on; missing_columns:
placeholders that no column of the relation has any more, so that more is invalidated than necessary; missing_relation: the
name of one that was not there when the watch was restored: the watch begins within a minute of its coming, if there is another
watch, else with the next call of perf.cache_watch().';
COMMENT ON TABLE perf.cache_watch_table IS 'Watches of relations. Read perf.cache_watches instead.';
COMMENT ON TABLE perf.cache_outbox IS 'Changes of watched relations that have not been worked off. For perf_opt alone.';
COMMENT ON TABLE perf.cache_redis_queue IS 'Invalidations that Redis has still to carry out. For perf_opt alone.';
COMMENT ON FUNCTION perf._cache_changed() IS 'Trigger function of watched relations; see perf.cache_watch().';
COMMENT ON FUNCTION perf._cache_policy_changed() IS 'Trigger function of perf.cache_policy.';
COMMENT ON FUNCTION perf._cache_watch_triggers(oid) IS 'Triggers of perf.cache_watch() on a relation, for perf.cache_watches.';
COMMENT ON FUNCTION perf.cache_watch(text, regclass, text[], text[], text[]) IS
'Watches a relation: from the commit of this on, a statement that changes it invalidates what caches hold of it, in the
database and in Redis, and tells listeners of the channel perf_cache. Returns the number of the watch; called again for the
same event and relation, it changes that watch.
event: a name such as transaction_created. relation: a table, partitioned or not, logged or not; not a view, foreign or
temporary table, and without foreign partitions: where one comes later, the server refuses changes of its rows until that is
noticed, within a minute, and from then on a statement invalidates all that the templates can name. operations: any of insert, update, delete; TRUNCATE invalidates always. keys: templates of the keys to
invalidate, such as cache:risk:user:{user_id}, whose placeholders are columns of the relation, filled from the rows before and
after the change; NULL: the templates of the policies in perf.cache_policy that name the event, as they are when the change is
worked off. tags: templates of tags; NULL: the name of the event.
A placeholder that is not filled (NULL, no such column, more than 1,000 different values in one statement) invalidates all keys
that begin like the template up to the last colon before it.
Values are filled in as PostgreSQL prints them: true is t, a uuid is in lower case, an int without zeros before it, numeric
with as many digits as the column has, dates and times in ISO style and in UTC, intervals in style postgres, bytea in hex, and
char(n) without the blanks at its end. perf.cached() makes its keys of the same texts where compute_sql casts a parameter to the
column''s type; who puts keys together otherwise has to write them like that.
Where no template has a placeholder, the rows are not looked at, and a statement that changes none counts as well.
The caller needs the right to create triggers on the relation; who changes rows needs none of perf_opt''s. Triggers are made as
perf_cache_watch_insert, _update, _delete and _truncate, on the relation and on its partitions, and fire whatever
session_replication_role says; the server fires no statement triggers where logical replication applies changes. Partitions
that come later are watched within a minute; until then, rows that are written to them directly, not through the parent, are
not seen.
Whoever may create triggers on a table may thereby have any keys removed from Redis, and every role can listen to perf_cache,
where the values that placeholders are filled with are shown: use none that is not for everybody, such as a mail address.
Errors: 22023 for bad arguments, 42704 when the relation is gone, 0A000 for relations that cannot be watched, 42703 for a
placeholder without a column, 42501 without the right, 55000 when perf_opt is not preloaded.';
COMMENT ON FUNCTION perf.cache_unwatch(text, regclass) IS
'Ends the watch of a relation for an event; true when there was one. The triggers go with the last watch of the relation.
The caller must have made the watch, or have the rights of the relation''s owner, for whom triggers that no watch wants go in any
case. Errors: 22004 for NULL, 42501.';

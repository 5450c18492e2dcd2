-- The embedded cache and what keeps it exact. All of it is read and written through functions only: an entry belongs to a
-- role, and a mark without its entry, or the other way round, would make a stale value look fresh.

-- Unlogged: a crash empties it, and so no invalidation can be lost that an entry survives. Partitions are told apart by the
-- low bits of the entry's hash, which is found before a statement is planned: no plan has more than one of them.
CREATE TABLE perf.cache_entry (
    id bigint NOT NULL, -- hash of owner and key; of two entries with one hash the later replaces the earlier
    owner oid NOT NULL,
    key text COLLATE "C" NOT NULL,
    value jsonb NOT NULL,
    tags text[] NOT NULL,
    depends bigint[] NOT NULL,
    seen_below bigint NOT NULL, -- the snapshot of the value: transactions below this number ...
    not_seen bigint[] NOT NULL, -- ... but for these
    policy text NOT NULL,
    value_bytes int NOT NULL,
    put_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    keep_for interval NOT NULL, -- how long it may still be served when it has expired or is invalid
    part smallint NOT NULL,
    meaning bigint NOT NULL, -- what computed it: hash of the statement with all that its names stood for; 0: a client has put it
    surroundings bigint NOT NULL -- hash of the search_path and settings of whoever computed it; 0: as above
) PARTITION BY LIST (part);

DO $$
BEGIN
    FOR part IN 0..7 LOOP
        -- Half-full pages: a value that is put again, and a new one, finds room where an old one was, and vacuum makes more
        -- of it as soon as a twentieth is dead.
        EXECUTE pg_catalog.format(
            'CREATE UNLOGGED TABLE perf.cache_entry_%s PARTITION OF perf.cache_entry
                (CONSTRAINT cache_entry_%1$s_pkey PRIMARY KEY (id)) FOR VALUES IN (%1$s)
                WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200,
                      autovacuum_vacuum_insert_threshold = -1, autovacuum_vacuum_cost_delay = 0,
                      autovacuum_analyze_threshold = 2000000000,
                      toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_threshold = 200,
                      toast.autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_insert_threshold = -1)',
            part);
        -- Values above 2 kB are compressed, by what is fast to read again where the server has it.
        BEGIN
            EXECUTE pg_catalog.format('ALTER TABLE perf.cache_entry_%s ALTER COLUMN value SET COMPRESSION lz4', part);
        EXCEPTION WHEN feature_not_supported THEN
            NULL;
        END;
    END LOOP;
END
$$;

-- What was invalidated last, and by which transaction: an entry that depends on a mark is valid if its snapshot sees that
-- transaction. Source 0: the worker's, one row a mark; else a transaction of cache_invalidate(), which waits for nobody.
CREATE UNLOGGED TABLE perf.cache_mark (
    mark bigint NOT NULL,
    source bigint NOT NULL,
    xid bigint NOT NULL,
    marked_at timestamptz NOT NULL,
    settled bigint, -- a transaction that began when this row was old; once all before it are over, it can go
    settled_at timestamptz,
    PRIMARY KEY (mark, source)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200,
        autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_threshold = -1);

-- What entries depend on that was marked since they were computed, or that their snapshot does not see: such an entry is
-- invalid, and here once for each mark that makes it so.
CREATE VIEW perf.cache_missed AS
SELECT d.part, d.id, d.keep_for, m.mark, m.source, m.marked_at
  FROM (SELECT e.part, e.id, e.seen_below, e.not_seen, e.keep_for, pg_catalog.unnest(e.depends) AS mark
          FROM perf.cache_entry AS e) AS d
  JOIN perf.cache_mark AS m ON m.mark = d.mark
 WHERE m.xid >= d.seen_below OR m.xid = ANY (d.not_seen);

-- Entries with what they take, in bytes: compressed, with the server's own share of a row.
CREATE VIEW perf.cache_entry_sized AS
SELECT e.part, e.id, e.policy, e.put_at, e.expires_at, e.keep_for,
       (pg_catalog.pg_column_size(e.value) + pg_catalog.pg_column_size(e.key) + pg_catalog.pg_column_size(e.tags)
        + pg_catalog.pg_column_size(e.depends) + pg_catalog.pg_column_size(e.not_seen)
        + pg_catalog.pg_column_size(e.policy) + 120)::bigint AS bytes
  FROM perf.cache_entry AS e;

-- The floor: what marks were forgotten is not known, so a snapshot from before that is refused. Without this row, after a
-- crash, the first put with a snapshot of its own makes it.
INSERT INTO perf.cache_mark (mark, source, xid, marked_at)
VALUES (-9223372036854775808, 0, pg_catalog.pg_current_xact_id()::text::bigint, pg_catalog.now());

-- Entries and bytes by partition and policy, as last counted.
CREATE UNLOGGED TABLE perf.cache_usage (
    part smallint NOT NULL,
    policy text NOT NULL,
    entries bigint NOT NULL,
    bytes bigint NOT NULL,
    counted_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

REVOKE ALL ON perf.cache_entry, perf.cache_entry_sized, perf.cache_mark, perf.cache_missed, perf.cache_usage FROM PUBLIC;

-- The embedded cache and what keeps it exact. All of it is read and written through functions only: an entry belongs to a
-- role, and a mark without its entry, or the other way round, would make a stale value look fresh.

-- Unlogged: a crash empties it, and so no invalidation can be lost that an entry survives.
CREATE TABLE perf.cache_entry (
    owner oid NOT NULL,
    key text COLLATE "C" NOT NULL,
    value jsonb,
    tags text[] NOT NULL,
    depends bigint[] NOT NULL,
    snapshot pg_snapshot NOT NULL,
    policy text NOT NULL,
    value_bytes int NOT NULL,
    put_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (owner, key)
) PARTITION BY HASH (key);

DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE pg_catalog.format(
            'CREATE UNLOGGED TABLE perf.cache_entry_%s PARTITION OF perf.cache_entry FOR VALUES WITH (MODULUS 8, REMAINDER %s)',
            part, part);
    END LOOP;
END
$$;

CREATE UNLOGGED TABLE perf.cache_mark (
    mark bigint PRIMARY KEY,
    below xid8 NOT NULL,
    xids xid8[] NOT NULL,
    marked_at timestamptz NOT NULL
);

REVOKE ALL ON perf.cache_entry, perf.cache_mark FROM PUBLIC;

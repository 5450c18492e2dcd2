-- what_if: plans with indexes that do not exist and without some that do. Costs are compared, never printed.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
CREATE SCHEMA index_what_if;
SET search_path = index_what_if;
CREATE TABLE orders (
    id int PRIMARY KEY, user_id int NOT NULL, created_at timestamp NOT NULL, status text NOT NULL, note text, amount numeric(10, 2)
) WITH (autovacuum_enabled = off);
INSERT INTO orders
SELECT g, (g * 7919) % 1000, timestamp '2026-01-01' + g * interval '1 minute', CASE g % 50 WHEN 0 THEN 'open' ELSE 'closed' END,
       'Note ' || (g * 31) % 5000, g % 97
  FROM generate_series(1, 30000) AS g;
VACUUM ANALYZE orders;
CREATE VIEW recent AS SELECT * FROM orders WHERE created_at >= '2026-01-20';

CREATE FUNCTION pg_temp.compare(query text, indexes text[] = '{}', without text[] = '{}',
                                OUT cheaper bool, OUT before text[], OUT after text[]) LANGUAGE sql AS $$
    SELECT max(total_cost) FILTER (WHERE variant = 'hypothetical') < 0.5 * max(total_cost) FILTER (WHERE variant = 'current'),
           array_agg(indexes_used::text) FILTER (WHERE variant = 'current'),
           array_agg(indexes_used::text) FILTER (WHERE variant = 'hypothetical')
      FROM perf.what_if(query, indexes, without);
$$;

-- Columns, order, both rows.
SELECT variant, indexes_used FROM perf.what_if('SELECT * FROM orders WHERE id = 7');
-- Equality and range, order without a sort, joins, views, subqueries, CTEs.
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE user_id = 5 AND created_at > ''2026-01-15''', ARRAY['CREATE INDEX ON orders (user_id, created_at)']);
SELECT * FROM pg_temp.compare('SELECT * FROM orders ORDER BY created_at DESC LIMIT 10', ARRAY['CREATE INDEX ON orders (created_at)']);
SELECT * FROM pg_temp.compare('SELECT * FROM orders ORDER BY status, created_at DESC LIMIT 10', ARRAY['CREATE INDEX mixed ON orders (status, created_at DESC)']);
SELECT * FROM pg_temp.compare('SELECT * FROM recent r WHERE user_id = 5', ARRAY['CREATE INDEX ON orders (user_id)']);
SELECT * FROM pg_temp.compare('SELECT (SELECT count(*) FROM orders o WHERE o.user_id = g) FROM generate_series(1, 5) g', ARRAY['CREATE INDEX ON orders (user_id)']);
SELECT * FROM pg_temp.compare('WITH x AS MATERIALIZED (SELECT * FROM orders WHERE user_id = 5) SELECT count(*) FROM x', ARRAY['CREATE INDEX ON orders (user_id)']);
-- Index-only, INCLUDE, expression and predicate, in any place of the range table.
SELECT * FROM pg_temp.compare('SELECT user_id, amount FROM orders WHERE user_id < 20', ARRAY['CREATE INDEX covering ON orders (user_id) INCLUDE (amount)']);
-- Whatever VACUUM could mark as visible to all beside other sessions.
SET enable_bitmapscan = off;
SET enable_seqscan = off;
SELECT plan LIKE '%Index Only Scan using covering%' AS index_only FROM perf.what_if('SELECT user_id, amount FROM orders WHERE user_id < 20', ARRAY['CREATE INDEX covering ON orders (user_id) INCLUDE (amount)']) WHERE variant = 'hypothetical';
RESET enable_bitmapscan;
RESET enable_seqscan;
SELECT * FROM pg_temp.compare('SELECT * FROM (VALUES (1)) v, orders o WHERE lower(o.note) = ''note 31''', ARRAY['CREATE INDEX lowered ON orders (lower(note))']);
SELECT * FROM pg_temp.compare('SELECT * FROM (VALUES (1)) v, orders o WHERE o.status = ''open'' AND o.user_id = 3', ARRAY['CREATE INDEX partial ON orders (user_id) WHERE status = ''open''']);
-- A predicate that the query does not imply is of no use.
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE user_id = 3', ARRAY['CREATE INDEX partial ON orders (user_id) WHERE status = ''open''']);
-- Other access methods, operator classes, storage parameters; sizes are told for the variant with the indexes alone.
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE note = ''Note 31''', ARRAY['CREATE INDEX hashed ON orders USING hash (note)']);
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE created_at < ''2026-01-02''', ARRAY['CREATE INDEX ranges ON orders USING brin (created_at) WITH (pages_per_range = 8)']);
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE to_tsvector(''simple'', note) @@ ''31''', ARRAY['CREATE INDEX words ON orders USING gin (to_tsvector(''simple'', note))']);
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE note LIKE ''Note 310%''', ARRAY['CREATE INDEX patterns ON orders (note text_pattern_ops) WITH (fillfactor = 70, deduplicate_items = off)']);
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE user_id = 3', ARRAY['CREATE UNIQUE INDEX one ON orders (user_id, id) NULLS NOT DISTINCT']);
-- What executing it would do, and how long that takes.
SELECT variant, estimated_ms > 0 AS has_time, work ? 'sequential_tuples' AS reads_all, work ? 'descents' AS descends, (work ->> 'rows')::bigint > 0 AS has_rows FROM perf.what_if('SELECT * FROM orders WHERE user_id = 5', ARRAY['CREATE INDEX ON orders (user_id)']);
SELECT variant, size_bytes BETWEEN 100000 AND 5000000 AS plausible FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders (user_id)', 'CREATE INDEX ON orders USING hash (note)']);
-- Parameters are planned generically; writes are planned, not run.
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE user_id = $1', ARRAY['CREATE INDEX ON orders (user_id)']);
SELECT * FROM pg_temp.compare('DELETE FROM orders WHERE user_id = 5', ARRAY['CREATE INDEX ON orders (user_id)']);
SELECT count(*) FROM orders;
-- Hidden indexes; a hidden unique one still proves uniqueness.
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE id = 7', '{}', '{orders_pkey}');
SELECT plan NOT LIKE '%Join%' AS join_removed FROM perf.what_if('SELECT a.id FROM orders a LEFT JOIN orders b USING (id)', '{}', '{orders_pkey}') WHERE variant = 'hypothetical';
-- Odd names.
CREATE TABLE "Odd ""T" ("Ünï ""c" int, plain int);
INSERT INTO "Odd ""T" SELECT g, g FROM generate_series(1, 20000) g;
ANALYZE "Odd ""T";
SELECT * FROM pg_temp.compare('SELECT * FROM "Odd ""T" WHERE "Ünï ""c" = 4', ARRAY['CREATE INDEX "My ""x" ON "Odd ""T" ("Ünï ""c")']);
-- Partitions and inheritance.
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 (junk int, at date, id int);
ALTER TABLE parts_2 DROP COLUMN junk;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO parts SELECT g, date '2026-01-01' + g % 59 FROM generate_series(1, 30000) g;
ANALYZE parts;
SELECT * FROM pg_temp.compare('SELECT * FROM parts WHERE id = 17', ARRAY['CREATE INDEX all_parts ON parts (id)']);
-- Same cost as with the index really built.
SELECT total_cost AS promised FROM perf.what_if('SELECT * FROM orders WHERE user_id = 5 AND created_at > ''2026-01-15''', ARRAY['CREATE INDEX ON orders (user_id, created_at)']) WHERE variant = 'hypothetical' \gset
CREATE INDEX built ON orders (user_id, created_at);
SELECT abs(total_cost / :promised - 1) < 0.01 AS as_promised, indexes_used FROM perf.what_if('SELECT * FROM orders WHERE user_id = 5 AND created_at > ''2026-01-15''') WHERE variant = 'current';
DROP INDEX built;

-- Bad input. Each leaves the session as it was.
SELECT * FROM perf.what_if(NULL);
SELECT * FROM perf.what_if('SELECT 1', NULL);
SELECT * FROM perf.what_if('SELECT 1', ARRAY[NULL]);
SELECT * FROM perf.what_if('');
SELECT * FROM perf.what_if('SELECT 1; SELECT 2');
SELECT * FROM perf.what_if('VACUUM orders');
SELECT * FROM perf.what_if('CREATE TABLE x AS SELECT 1');
SELECT * FROM perf.what_if('SELECT * FROM nowhere');
SELECT * FROM perf.what_if('SELECT 1', ARRAY['SELECT 1']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING gin (note)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING gist (note)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING gin (to_tsvector(''simple'', note)) WITH (fastupdate = off)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders (user_id) WITH (fillfactor = 5)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING brin (user_id) WITH (fillfactor = 50)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING hash (user_id, status)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE UNIQUE INDEX ON orders USING hash (user_id)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING gin (to_tsvector(''simple'', note)) INCLUDE (id)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders USING brin (user_id DESC)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders (user_id jsonb_path_ops)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders (nothing)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON orders (clock_timestamp())']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON nowhere (a)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON recent (user_id)']);
SELECT * FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON pg_class (relname)']);
SELECT * FROM perf.what_if('SELECT 1', '{}', '{no_such_index}');
SELECT * FROM perf.what_if('SELECT 1', '{}', '{orders}');
-- A function that fails while the statement is planned: its own error, and the hypothetical index is gone.
CREATE FUNCTION broken() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'planned to fail'; END $$;
\set VERBOSITY terse
SELECT * FROM perf.what_if('SELECT * FROM orders WHERE user_id = broken()', ARRAY['CREATE INDEX ON orders (user_id)']);
\set VERBOSITY default
EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE user_id = 5;
-- A function that runs queries of its own while the statement is planned does not see the hypothetical index.
CREATE FUNCTION looks() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT min(user_id) FROM orders WHERE user_id = 5); END $$;
SELECT * FROM pg_temp.compare('SELECT * FROM orders WHERE user_id = looks()', ARRAY['CREATE INDEX ON orders (user_id)']);
-- In a transaction, in an exception block, read only.
BEGIN;
SELECT count(*) FROM perf.what_if('SELECT * FROM orders WHERE user_id = 5', ARRAY['CREATE INDEX ON orders (user_id)']);
DO $$ BEGIN PERFORM perf.what_if('SELECT * FROM nowhere'); EXCEPTION WHEN undefined_table THEN RAISE WARNING 'caught'; END $$;
SELECT count(*) FROM perf.what_if('SELECT * FROM orders WHERE user_id = 5', ARRAY['CREATE INDEX ON orders (user_id)']);
-- Only what the call itself needs is locked.
SELECT relation::regclass FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'orders'::regclass;
COMMIT;
START TRANSACTION READ ONLY;
SELECT count(*) FROM perf.what_if('DELETE FROM orders WHERE user_id = 5', ARRAY['CREATE INDEX ON orders (user_id)']);
COMMIT;
-- Privileges are those of EXPLAIN.
CREATE ROLE index_what_if_nobody;
GRANT USAGE ON SCHEMA perf, index_what_if TO index_what_if_nobody;
SET ROLE index_what_if_nobody;
SELECT * FROM perf.what_if('SELECT * FROM orders');
RESET ROLE;
DROP OWNED BY index_what_if_nobody;
DROP ROLE index_what_if_nobody;
DROP SCHEMA index_what_if CASCADE;

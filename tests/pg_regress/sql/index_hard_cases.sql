-- What makes an index advisor stumble: names, kinds of relation, kinds of column, shapes of statement, rights.
-- Every recommended DDL is executed, and the planner then asked whether it uses the index.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
CREATE SCHEMA index_hard;
SET search_path = index_hard;

CREATE FUNCTION pg_temp.advice(VARIADIC queries text[]) RETURNS TABLE (relation text, columns text[]) LANGUAGE sql AS $$
    SELECT r.relation, r.columns FROM perf.index_recommendations(queries => advice.queries) r
     WHERE r.status = 'recommended' AND r.source = 'workload' ORDER BY r.relation COLLATE "C", r.columns;
$$;
CREATE FUNCTION pg_temp.steps(VARIADIC queries text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s.step FROM perf.index_recommendations(queries => steps.queries) r, regexp_split_to_table(r.ddl, E';\n') WITH ORDINALITY s (step, at)
     WHERE r.status = 'recommended' AND r.source = 'workload' ORDER BY r.relation COLLATE "C", r.columns, s.at;
$$;
CREATE FUNCTION pg_temp.used(query text) RETURNS text[] LANGUAGE sql AS $$
    SELECT indexes_used FROM perf.what_if(query) WHERE variant = 'current'
$$;
CREATE FUNCTION pg_temp.fill(name text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %s SELECT g, g FROM generate_series(1, 20000) g', name);
    EXECUTE format('ANALYZE %s', name);
END $$;

-- Names: quotes, upper case, Unicode, spaces, keywords, schema too.
CREATE SCHEMA "index ""Hard""";
CREATE TABLE "index ""Hard"""."Ta""ble" ("Co""l Ünï" int, "select" int);
SELECT pg_temp.fill('"index ""Hard"""."Ta""ble"');
\set query 'SELECT * FROM "index ""Hard"""."Ta""ble" WHERE "Co""l Ünï" = 4'
SELECT * FROM pg_temp.advice(:'query');
SELECT pg_temp.steps(:'query') \gexec
SELECT pg_temp.used(:'query');
\set query 'SELECT * FROM "index ""Hard"""."Ta""ble" WHERE "select" = 4'
SELECT * FROM pg_temp.advice(:'query');
SELECT pg_temp.steps(:'query') \gexec
SELECT pg_temp.used(:'query');
DROP SCHEMA "index ""Hard""" CASCADE;
-- Names of 63 bytes, of one byte and of several: the index name is cut at a character, is unused, and stays under 63 bytes.
SELECT repeat('t', 63) AS t63, repeat('c', 63) AS c63, repeat('ü', 31) AS u62, repeat('日', 21) AS j63 \gset
CREATE TABLE :t63 (:c63 int, b int);
CREATE TABLE :j63 (:j63 int, b int);
CREATE TABLE :u62 (:u62 int, b int);
SELECT pg_temp.fill(n) FROM unnest(ARRAY[:'t63', :'j63', :'u62']) n;
SELECT 'SELECT * FROM ' || :'t63' || ' WHERE ' || :'c63' || ' = 4' AS q1, 'SELECT * FROM ' || :'j63' || ' WHERE ' || :'j63' || ' = 4' AS q2,
       'SELECT * FROM ' || :'u62' || ' WHERE ' || :'u62' || ' = 4' AS q3 \gset
SELECT pg_temp.steps(:'q1', :'q2', :'q3') \gexec
SELECT pg_temp.used(q), octet_length((pg_temp.used(q))[1]) < 63 AS short FROM unnest(ARRAY[:'q1', :'q2', :'q3']) q;
-- The name it would take is taken, by a table too.
CREATE TABLE taken (a int, b int);
CREATE TABLE taken_a_idx (a int);
CREATE VIEW taken_a_idx2 AS SELECT 1;
SELECT pg_temp.fill('taken');
SELECT pg_temp.steps('SELECT * FROM taken WHERE a = 4') \gexec
SELECT pg_temp.used('SELECT * FROM taken WHERE a = 4');

-- Kinds of relation. Never: temporary tables, system catalogs, views themselves, foreign tables (not here: needs an extension).
CREATE TEMP TABLE temporary (a int, b int);
SELECT pg_temp.fill('temporary');
SELECT * FROM pg_temp.advice('SELECT * FROM temporary WHERE a = 4', 'SELECT * FROM pg_attribute WHERE attname = ''a'' AND atttypid = 23',
    'SELECT * FROM information_schema.columns WHERE column_name = ''a''', 'SELECT * FROM pg_stats WHERE attname = ''a''');
\set VERBOSITY sqlstate
SELECT * FROM perf.what_if('SELECT 1', '{CREATE INDEX ON temporary (a)}');
\set VERBOSITY default
SELECT * FROM perf.what_if('SELECT 1', '{CREATE INDEX ON pg_attribute (attname)}');
-- A temporary table beside a permanent one.
CREATE TABLE base (a int, b int);
SELECT pg_temp.fill('base');
SELECT * FROM pg_temp.advice('SELECT * FROM temporary t JOIN base USING (a) WHERE t.b = 7');
-- Unlogged, views, views of views, security-barrier views, updatable views, materialized views.
CREATE UNLOGGED TABLE unlogged (a int, b int);
SELECT pg_temp.fill('unlogged');
SELECT * FROM pg_temp.advice('SELECT * FROM unlogged WHERE a = 4');
CREATE VIEW plain AS SELECT b AS x, a AS y FROM base;
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM plain WHERE x <> 3;
SELECT * FROM pg_temp.advice('SELECT * FROM plain WHERE y = 4');
SELECT * FROM pg_temp.advice('SELECT * FROM barrier WHERE y = 4');
SELECT * FROM pg_temp.advice('UPDATE plain SET x = 0 WHERE y = 4');
SELECT * FROM pg_temp.advice('DELETE FROM barrier WHERE y = 4');
CREATE MATERIALIZED VIEW stored AS SELECT * FROM base;
ANALYZE stored;
SELECT * FROM pg_temp.advice('SELECT * FROM stored WHERE a = 4');
SELECT pg_temp.steps('SELECT * FROM stored WHERE a = 4') \gexec
SELECT pg_temp.used('SELECT * FROM stored WHERE a = 4');
-- Inheritance: each table of the tree its own index, on its own numbers.
CREATE TABLE child (own int, b int, a int);
ALTER TABLE child DROP COLUMN own, INHERIT base;
INSERT INTO child (a, b) SELECT g, g FROM generate_series(1, 20000) g;
CREATE TABLE few (a int, b int);
INSERT INTO few SELECT g, g FROM generate_series(1, 5) g;
ANALYZE base, child, few;
SELECT * FROM pg_temp.advice('SELECT * FROM base WHERE a = 4');
SELECT * FROM pg_temp.advice('SELECT * FROM ONLY base WHERE a = 4');
SELECT * FROM pg_temp.advice('SELECT * FROM few JOIN base ON base.a = few.a');
SELECT * FROM pg_temp.advice('SELECT * FROM base ORDER BY b, a LIMIT 5');
SELECT * FROM pg_temp.steps('SELECT * FROM base WHERE a = 4') \gexec
SELECT pg_temp.used('SELECT * FROM base WHERE a = 4');
DROP INDEX base_a_idx;
DROP TABLE child;

-- Partitions whose columns are numbered differently; each partition its own index, built without blocking, then attached.
CREATE TABLE parts (id int, at date, note text) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 (note text, junk int, at date, more int, id int);
ALTER TABLE parts_2 DROP COLUMN junk;
ALTER TABLE parts_2 DROP COLUMN more;
ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE SCHEMA index_hard_2;
CREATE TABLE index_hard_2.parts_3 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT g, date '2026-01-01' + g % 65, 'n' FROM generate_series(1, 60000) g;
ANALYZE parts;
SELECT * FROM pg_temp.advice('SELECT * FROM parts WHERE id = 17');
SELECT * FROM pg_temp.steps('SELECT * FROM parts WHERE id = 17');
SELECT * FROM pg_temp.steps('SELECT * FROM parts WHERE id = 17') \gexec
SELECT indisvalid FROM pg_index WHERE indexrelid = 'parts_id_idx'::regclass;
SELECT pg_temp.used('SELECT * FROM parts WHERE id = 17');
SELECT * FROM pg_temp.advice('SELECT * FROM parts WHERE id = 17');
-- Asked of one partition alone.
SELECT * FROM pg_temp.advice('SELECT * FROM parts_2 WHERE at = ''2026-02-03''');
DROP SCHEMA index_hard_2 CASCADE;

-- Kinds of column: after dropped ones, generated, of a domain, with a collation, without an order, whole rows, system columns.
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE DOMAIN shorter AS positive;
CREATE DOMAIN label AS text COLLATE "C";
CREATE TABLE kinds (
    gone int, a int, gone_2 text, twice int GENERATED ALWAYS AS (a * 2) STORED, d shorter, l label, tags int[], words text[],
    at point, doc json, docb jsonb, u uuid, flag bool, n numeric, t timestamptz, r int4range, c text COLLATE "C");
ALTER TABLE kinds DROP COLUMN gone;
ALTER TABLE kinds DROP COLUMN gone_2;
INSERT INTO kinds (a, d, l, tags, words, at, doc, docb, u, flag, n, t, r, c)
SELECT g, g, 'l' || g, ARRAY[g, g + 1], ARRAY['w' || g], point(g, g), '{}', jsonb_build_object('k', g), md5(g::text)::uuid, g % 1000 = 0, g,
       '2026-01-01'::timestamptz + g * interval '1 minute', int4range(g, g + 5), 'c' || g FROM generate_series(1, 20000) g;
ANALYZE kinds;
SELECT condition, columns FROM unnest(ARRAY['a = 4', 'twice = 8', 'd = 7', 'l = ''l7''', 'tags = ARRAY[7, 8]', 'words = ''{w9}''', 'docb = ''{"k": 4}''',
    'u = md5(''4'')::uuid', 'flag', 'n = 12', 't = ''2026-01-03''', 'r = int4range(4, 9)', 'c = ''c12''', 'd::int::bigint = 7', 'c::varchar = ''c12''']) WITH ORDINALITY w (condition, at),
    pg_temp.advice('SELECT * FROM kinds WHERE ' || condition) ORDER BY w.at;
-- Without an order, of another collation, of the whole row, of the system: no B-tree on a column serves it.
SELECT columns FROM unnest(ARRAY['at ~= point(4, 4)', 'doc::text = ''{}''', 'c COLLATE "POSIX" = ''c12'' COLLATE "POSIX"', 'kinds IS NULL', 'ctid = ''(0,1)''', 'tableoid = 4']) condition, pg_temp.advice('SELECT * FROM kinds WHERE ' || condition);
\set query 'SELECT * FROM kinds WHERE d = 7 AND l > ''l19'' ORDER BY l'
SELECT pg_temp.steps(:'query') \gexec
SELECT pg_temp.used(:'query');

-- Comparison of rows: the next page after a key.
CREATE TABLE pages AS SELECT g / 2000 AS day, g AS id FROM generate_series(1, 20000) g;
ANALYZE pages;
SELECT * FROM pg_temp.advice('SELECT * FROM pages WHERE (day, id) > (9, 19950)');
SELECT * FROM pg_temp.advice('SELECT * FROM pages WHERE ROW(0, 7) > ROW(day, id)');
SELECT * FROM pg_temp.advice('SELECT * FROM pages WHERE (day, id) >= ($1, $2) ORDER BY day, id LIMIT 5');
SELECT pg_temp.steps('SELECT * FROM pages WHERE (day, id) > (9, 19950)') \gexec
SELECT pg_temp.used('SELECT * FROM pages WHERE (day, id) > (9, 19950)');
-- A name is stored in an index without its padding.
CREATE TABLE named (n name, b int);
INSERT INTO named SELECT 'name ' || g % 15000, g FROM generate_series(1, 20000) g;
ANALYZE named;
SELECT size_bytes AS estimated, ddl FROM perf.index_recommendations(queries => ARRAY['SELECT * FROM named WHERE n = ''name 7''']) WHERE source = 'workload' \gset
:ddl;
SELECT :estimated / pg_relation_size('named_n_idx')::float8 BETWEEN 0.9 AND 1.1 AS about_right;

-- Shapes: CTEs, recursion, subqueries, set operations, LATERAL, window functions, grouping, MERGE, writing CTEs, EXISTS, IN.
CREATE TABLE tree (id int PRIMARY KEY, parent int, name int);
INSERT INTO tree SELECT g, g / 10, g FROM generate_series(1, 20000) g;
ANALYZE tree;
SELECT * FROM pg_temp.advice('WITH x AS MATERIALIZED (SELECT * FROM base WHERE a = 4) SELECT * FROM x');
SELECT * FROM pg_temp.advice('WITH x AS NOT MATERIALIZED (SELECT * FROM base) SELECT * FROM x WHERE a = 4 UNION ALL SELECT * FROM x WHERE a = 5');
SELECT * FROM pg_temp.advice('WITH RECURSIVE r AS (SELECT * FROM tree WHERE id = 1 UNION ALL SELECT t.* FROM r JOIN tree t ON t.parent = r.id) SELECT * FROM r');
SELECT * FROM pg_temp.advice('SELECT *, (SELECT max(b) FROM base WHERE base.a = tree.name) FROM tree WHERE id < 5');
SELECT * FROM pg_temp.advice('SELECT * FROM tree t, LATERAL (SELECT * FROM base WHERE base.a = t.name LIMIT 1) l WHERE t.id < 5');
SELECT * FROM pg_temp.advice('SELECT a, row_number() OVER (ORDER BY b) FROM base WHERE a = 4');
SELECT * FROM pg_temp.advice('SELECT * FROM tree WHERE id < 5 AND EXISTS (SELECT FROM base WHERE base.a = tree.name)');
SELECT * FROM pg_temp.advice('MERGE INTO base USING (VALUES (4)) v (a) ON base.a = v.a WHEN MATCHED THEN UPDATE SET b = 0');
SELECT * FROM pg_temp.advice('WITH gone AS (DELETE FROM base WHERE a = 4 RETURNING *) SELECT * FROM gone');
SELECT * FROM pg_temp.advice('INSERT INTO tree SELECT a, b FROM base WHERE a = 4 ON CONFLICT DO NOTHING');
SELECT * FROM pg_temp.advice('SELECT * FROM base WHERE a = 4 FOR UPDATE SKIP LOCKED');
-- 30 tables joined.
SELECT 'SELECT count(*) FROM tree t0' || string_agg(format(' JOIN tree t%s ON t%1$s.parent = t%s.name', g, g - 1), '' ORDER BY g) || ' WHERE t0.name = 7' AS query
  FROM generate_series(1, 29) g \gset
SELECT * FROM pg_temp.advice(:'query') WHERE columns[1] = 'parent';

-- Never analysed: said so.
CREATE TABLE unknown (a int, b int) WITH (autovacuum_enabled = off);
INSERT INTO unknown SELECT g, g FROM generate_series(1, 20000) g;
SELECT columns, confidence, reason LIKE '%was never analysed, so run ANALYZE%' AS said FROM perf.index_recommendations(queries => '{SELECT * FROM unknown WHERE a = 4}') WHERE source = 'workload';

-- Rights: those of the statement. Policies count; who may not read gets the error that EXPLAIN would give.
CREATE TABLE secret (a int, owner name, b int);
INSERT INTO secret SELECT g, CASE g % 200 WHEN 0 THEN 'index_hard_user' ELSE 'other' END, g FROM generate_series(1, 20000) g;
ANALYZE secret;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret USING (owner = current_user);
CREATE ROLE index_hard_user;
GRANT USAGE ON SCHEMA perf, index_hard TO index_hard_user;
GRANT SELECT ON secret TO index_hard_user;
SET ROLE index_hard_user;
SELECT * FROM pg_temp.advice('SELECT * FROM secret');
SELECT indexes_used, plan LIKE '%CURRENT\_USER%' AS policy FROM perf.what_if('SELECT * FROM secret WHERE a = 4', '{CREATE INDEX sa ON secret (a)}');
SELECT * FROM pg_temp.advice('SELECT * FROM base WHERE a = 4');
SELECT * FROM pg_temp.advice('DELETE FROM secret WHERE a = 4');
SELECT * FROM perf.what_if('SELECT * FROM base WHERE a = 4');
SELECT variant, total_cost, indexes_used, plan FROM perf.what_if('SELECT 1', '{CREATE INDEX ON base (a)}');
RESET ROLE;
DROP OWNED BY index_hard_user;
DROP ROLE index_hard_user;
DROP SCHEMA index_hard CASCADE;

-- Every kind of index that index_recommendations gives: what it recommends for a query is built, and the planner uses it.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
CREATE SCHEMA index_kinds;
SET search_path = index_kinds;
CREATE EXTENSION pg_trgm SCHEMA index_kinds;
CREATE COLLATION linguistic (PROVIDER = libc, LOCALE = 'C.UTF-8');

CREATE TABLE users (
    id int PRIMARY KEY, email varchar(80) NOT NULL, name text COLLATE linguistic NOT NULL, code text NOT NULL, token text NOT NULL,
    signed_up timestamp NOT NULL, deleted_at timestamp, is_blocked bool NOT NULL, status text NOT NULL, payload jsonb NOT NULL,
    tags int[] NOT NULL, note text NOT NULL
) WITH (autovacuum_enabled = off);
INSERT INTO users
SELECT g, 'User' || g || '@Example.org', 'name ' || (g * 7919) % 30000, 'c' || (g * 31) % 30000, md5(g::text) || md5((-g)::text),
       timestamp '2026-01-01' + g * interval '10 minutes', CASE WHEN g % 40 = 0 THEN timestamp '2026-06-01' END, g % 50 = 7,
       CASE g % 60 WHEN 0 THEN 'failed' WHEN 1 THEN 'waiting' ELSE 'done' END,
       jsonb_build_object('kind', 'k' || g % 3000, 'on', g % 2 = 0), ARRAY[g % 1000, 1000 + (g * 7) % 1001],
       'word' || (g * 3) % 20011 || ' term' || (g * 5) % 20011
  FROM generate_series(1, 30000) AS g;
CREATE TABLE events (at timestamp NOT NULL, user_id int NOT NULL, amount int NOT NULL, kind int NOT NULL, text text NOT NULL)
    WITH (autovacuum_enabled = off);
INSERT INTO events
SELECT timestamp '2026-01-01' + ((g * 7919) % 60000) * interval '1 minute', (g * 7907) % 30000, g % 97, g % 5, repeat('text ', 30)
  FROM generate_series(1, 60000) AS g;
VACUUM ANALYZE users, events;

CREATE TEMP TABLE advice (columns text[], access_method text, ddl text, undo_ddl text);
CREATE FUNCTION pg_temp.advise(query text, budget bigint) RETURNS SETOF advice LANGUAGE sql AS $$
    SELECT r.columns, r.access_method, r.ddl, r.undo_ddl FROM perf.index_recommendations(queries => ARRAY[query], storage_budget_bytes => budget) r
     WHERE r.status = 'recommended' AND r.source = 'workload' ORDER BY r.ddl;
$$;
-- :advise recommends for :query and builds that; :again shows that nothing more is recommended then; :plan shows what the
-- planner does with it, and drops it. The statements of one recommendation run one by one, as CONCURRENTLY wants it.
\set budget NULL
\set advise 'TRUNCATE advice; INSERT INTO advice SELECT * FROM pg_temp.advise(:''query'', :budget); SELECT columns, access_method, ddl FROM advice; SELECT unnest(string_to_array(ddl, E'';\\n'')) FROM advice \\gexec'
\set again 'SELECT count(*) AS more FROM pg_temp.advise(:''query'', :budget);'
\set plan 'EXPLAIN (COSTS OFF) :query; SELECT undo_ddl FROM advice \\gexec'

-- Expressions: equality, order, part of a time, a key of a document, two columns as one, and a join with one.
\set query 'SELECT * FROM users WHERE lower(email) = ''user77@example.org'''
:advise
:again
:plan
\set query 'SELECT * FROM users ORDER BY lower(email) DESC LIMIT 3'
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE date_trunc(''day'', signed_up) = ''2026-02-03'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE payload ->> ''kind'' = ''k7'' ORDER BY signed_up LIMIT 5'
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE email || code = ''User7@Example.orgc217'''
:advise
:again
:plan
\set query 'SELECT u.* FROM users u JOIN events e ON upper(u.code) = ''C'' || e.amount WHERE e.at = ''2026-01-05'''
:advise
:again
:plan
-- Through a view with a join, on the side that may be missing.
CREATE VIEW named AS SELECT lower(u.email) AS mail, e.* FROM events e LEFT JOIN users u ON u.id = e.user_id;
\set query 'SELECT * FROM named WHERE mail = ''user77@example.org'''
:advise
:again
:plan
-- Not immutable, so no index: depends on the time zone.
\set query 'SELECT * FROM users WHERE date_trunc(''day'', signed_up::timestamptz) = ''2026-02-03'''
:advise
:again
:plan

-- Prefixes: an operator class where the collation does not order by bytes, the default one where it does.
\set query 'SELECT * FROM users WHERE name LIKE ''name 123%'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE name ~ ''^name 123'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE starts_with(name, ''name 123'')'
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE code LIKE ''c123%'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE lower(email) LIKE ''user123%'''
:advise
:again
:plan

-- GIN: documents, arrays, full text, trigrams.
\set query 'SELECT * FROM users WHERE payload @> ''{"kind": "k7"}'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE tags && ''{7, 8}'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE to_tsvector(''simple'', note) @@ to_tsquery(''simple'', ''word77 & term88'')'
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE note ILIKE ''%word77 %'''
:advise
:again
:plan
-- An OR needs both.
\set query 'SELECT * FROM users WHERE payload @> ''{"kind": "k7"}'' OR tags @> ''{7}'''
:advise
:again
:plan
-- Two letters make no trigram.
\set query 'SELECT * FROM users WHERE note LIKE ''%77%'''
:advise
:again
:plan

-- INCLUDE: what else is read, so that the table is not visited.
\set query 'SELECT sum(amount) FROM events WHERE at BETWEEN ''2026-01-05'' AND ''2026-01-07'' AND kind < 3'
:advise
:again
:plan
-- But not where the table is not all-visible.
UPDATE events SET kind = kind;
ANALYZE events;
\set query 'SELECT sum(amount) FROM events WHERE at BETWEEN ''2026-01-05'' AND ''2026-01-07'''
:advise
:again
:plan
VACUUM (FULL, ANALYZE) events;
VACUUM events;

-- Partial: rows that are few by a condition the statement is written with.
\set query 'SELECT id, email FROM users WHERE status = ''failed'' ORDER BY signed_up DESC LIMIT 5'
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE is_blocked AND signed_up > ''2026-07-20'''
:advise
:again
:plan
\set query 'SELECT * FROM users WHERE deleted_at IS NOT NULL ORDER BY signed_up LIMIT 10'
:advise
:again
:plan
-- A parameter may be another value in the next call.
\set query 'SELECT id FROM users WHERE status = $1 AND note = $2 ORDER BY signed_up'
SELECT bool_and(ddl NOT LIKE '%WHERE%') AS for_all_rows FROM pg_temp.advise(:'query', NULL);
-- A value of a column with many is not a kind of rows.
\set query 'SELECT * FROM events WHERE user_id = 77 AND amount > 90'
:advise
:again
:plan

-- Hash: a wide value that is only ever compared for equality, when bytes count.
\set query 'SELECT * FROM users WHERE token = md5(''77'') || md5(''-77'')'
\set budget 2000000
:advise
:again
:plan

-- BRIN: a big table in the order of a column, when bytes count.
CREATE UNLOGGED TABLE readings (at timestamp NOT NULL, value int NOT NULL) WITH (fillfactor = 10, autovacuum_enabled = off);
INSERT INTO readings SELECT timestamp '2026-01-01' + g * interval '1 second', g % 1000 FROM generate_series(1, 220000) g;
VACUUM ANALYZE readings;
\set query 'SELECT * FROM readings WHERE at BETWEEN ''2026-01-02'' AND ''2026-01-02 00:10'''
\set budget 100000
:advise
:again
:plan
\set budget NULL

-- A join on two columns of one other relation, with what is read.
CREATE TABLE pairs (user_id int NOT NULL, kind int NOT NULL, weight int NOT NULL, text text NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO pairs SELECT g % 30000, g % 5, g, repeat('text ', 20) FROM generate_series(1, 60000) g;
VACUUM ANALYZE pairs;
\set query 'SELECT p.weight FROM events e JOIN pairs p ON p.user_id = e.user_id AND p.kind = e.kind WHERE e.user_id IN (17, 18) AND e.amount = 5'
:advise
:again
:plan

-- Conditions of every other shape: advice or none, never an error; what is recommended can be read back and would be used.
CREATE DOMAIN short AS varchar(20);
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE odd (id int, "Na me" short, m mood, a int[], p point, r int4range, j jsonb, b bytea, n numeric, c "char", ch char(8) COLLATE linguistic, arr text[])
    WITH (autovacuum_enabled = off);
INSERT INTO odd SELECT g, 'n' || g, CASE WHEN g % 30 = 0 THEN 'bad'::mood ELSE 'good' END, ARRAY[g], point(g, g), int4range(g, g + 9), jsonb_build_object('a', ARRAY[g]),
                       decode(md5(g::text), 'hex'), g, 'c', 'x' || g, ARRAY['t' || g] FROM generate_series(1, 20000) g;
VACUUM ANALYZE odd;
SELECT count(ddl) > 20 AS advised, count(*) FILTER (WHERE cardinality(ddl) > cardinality(indexes_used)) AS unused FROM unnest(ARRAY[
    'o = ROW(1, ''a'', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::odd', 'ROW(id, m) = ROW(1, ''good''::mood)', '(id, n) > (1, 2)', 'o IS NOT NULL', 'o.ctid = ''(0,1)''',
    '"Na me" LIKE ''n12%''', 'lower("Na me") ~ ''^n12''', 'upper("Na me") LIKE ''%12%''', 'ch LIKE ''x12%''', 'ch ~ ''^x12''', 'm = ''bad'' AND id < 50', 'm IN (''bad'')', 'm::text = ''bad''',
    'a[1] = 7', 'a @> ''{7}''', 'arr && ''{t7}''', 'a || 1 = ''{1,1}''', '7 = ANY (a)', 'arr = ''{t7}''', 'p <@ box ''(1,1,2,2)''', 'r @> 7', 'lower(r) = 7', 'r && ''[1,2]''', 'j @? ''$.a[*] ? (@ == 7)''',
    'j @@ ''$.a[0] == 7''', 'j ? ''a''', 'j ?| ''{a,b}''', 'j -> ''a'' = ''[7]''', 'j[''a''] = ''[7]''', '(j #>> ''{a,0}'')::int = 7', 'j #>> ''{a,0}'' LIKE ''7%''', 'substr(b, 1, 2) = ''\x0102''', 'n * 2 = 8', 'abs(n - 7) < 3',
    'n::text LIKE ''12%''', 'c = ''d''', 'CASE WHEN id > 5 THEN n ELSE 0 END = 3', 'coalesce("Na me", ''x'') = ''y''', 'id IS NOT DISTINCT FROM 7', 'NOT (id = 7)', '(id = 7) IS TRUE', 'id = 7 OR n = 8 OR lower("Na me") = ''n9''',
    'random() < id', 'id = (SELECT max(id) FROM odd)', 'EXISTS (SELECT FROM odd i WHERE i.id + 1 = o.id AND i.n = 8)', 'id % 100 = (SELECT 3)', 'id + $1 = 7', '"Na me" LIKE $1', 'j @> $1', 'generate_series = 7']) AS condition,
    LATERAL (SELECT format('SELECT id FROM odd o, generate_series(1, 2) WHERE %s ORDER BY n + id, lower("Na me") LIMIT 5', condition)) AS statement (query),
    LATERAL (SELECT array_agg(split_part(r.ddl, E';\n', 1)) FROM perf.index_recommendations(queries => ARRAY[query]) r
              WHERE status = 'recommended' AND source = 'workload') AS advice (ddl),
    LATERAL perf.what_if(query, coalesce(ddl, '{}')) AS w WHERE w.variant = 'hypothetical';
-- What exists already is known in every form, though a fresh index would be smaller; what does less is not taken for it.
CREATE TABLE held (n int NOT NULL, email varchar(80) NOT NULL, doc jsonb NOT NULL, at timestamp, pad text NOT NULL)
    WITH (autovacuum_enabled = off);
INSERT INTO held SELECT g, 'User' || g, jsonb_build_object('k', g % 500), CASE WHEN g % 40 = 0 THEN timestamp '2026-01-01' + g * interval '1 hour' END, repeat('pad ', 20)
  FROM generate_series(1, 30000) g;
ANALYZE held;
CREATE FUNCTION pg_temp.more(existing text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
    IF existing <> 'nothing' THEN EXECUTE 'CREATE INDEX bloated ON held ' || existing; ANALYZE held; END IF;
    SELECT string_agg(substring(a.ddl FROM 'USING [^;]*'), ', ') INTO found FROM pg_temp.advise(query, NULL) a;
    DROP INDEX IF EXISTS bloated;
    RETURN found;
END $$;
SELECT condition, existing, pg_temp.more(existing, 'SELECT pad FROM held WHERE ' || condition) AS more FROM (VALUES
    ('lower(email) LIKE ''user12%''', ARRAY['nothing', '((lower(email))) WITH (fillfactor = 10)', '(lower(email) text_pattern_ops) WITH (fillfactor = 10)']),
    ('upper(email) BETWEEN ''USER1'' AND ''USER12''', ARRAY['nothing', '(upper(email), n) WITH (fillfactor = 10)', '(upper(email) DESC) WITH (fillfactor = 10)', '(upper(email)) WHERE n > 5']),
    ('email BETWEEN ''User1'' AND ''User12''', ARRAY['nothing', '(email varchar_ops) WITH (fillfactor = 10)', '((email::text)) WITH (fillfactor = 10)', '(email COLLATE linguistic)']),
    ('n BETWEEN 7 AND 3000', ARRAY['nothing', '(n) INCLUDE (email) WITH (fillfactor = 10)', '(n DESC) WITH (fillfactor = 10)', 'USING brin (n)']),
    ('at IS NOT NULL ORDER BY at LIMIT 700', ARRAY['nothing', '(at) WHERE at IS NOT NULL', '(at) WITH (fillfactor = 10)', '(at) WHERE n > 5']),
    ('doc @> ''{"k": 7}''', ARRAY['nothing', 'USING gin (doc)', 'USING gin (doc jsonb_path_ops)'])) AS cases (condition, forms), unnest(forms) AS existing;
-- Rows are sampled for sizes and statistics only if the caller may read them all.
CREATE ROLE index_kinds_reader;
GRANT USAGE ON SCHEMA index_kinds, perf TO index_kinds_reader;
CREATE FUNCTION pg_temp.samples(role name, index text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_stat_get_xact_tuples_returned('held'::regclass);
    bytes bigint;
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    SELECT max(size_bytes) INTO bytes FROM perf.what_if('SELECT 1', ARRAY['CREATE INDEX ON index_kinds.held ' || index]);
    RESET ROLE;
    ASSERT bytes > 0;
    RETURN pg_stat_get_xact_tuples_returned('held'::regclass) > before;
END $$;
\set samples 'SELECT pg_temp.samples(current_user, ''(lower(email || pad))'') AS own, pg_temp.samples(''index_kinds_reader'', ''(lower(email || pad))'') AS expression, pg_temp.samples(''index_kinds_reader'', ''USING gin (doc)'') AS elements;'
:samples
GRANT SELECT (email, doc) ON held TO index_kinds_reader;
:samples
GRANT SELECT ON held TO index_kinds_reader;
:samples
ALTER TABLE held ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON held TO index_kinds_reader USING (n < 10);
:samples
DROP OWNED BY index_kinds_reader;
DROP ROLE index_kinds_reader;
-- Partitions of partitions: an index on every level, each leaf without holding off its writes; all of it is valid.
CREATE TABLE parts (id int NOT NULL, at date NOT NULL, area int NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (area);
CREATE TABLE parts_1_a PARTITION OF parts_1 FOR VALUES IN (0);
CREATE TABLE parts_1_b PARTITION OF parts_1 FOR VALUES IN (1);
CREATE TABLE "Parts 2" PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO parts SELECT g, date '2026-01-01' + g % 59, g % 2 FROM generate_series(1, 30000) g;
ANALYZE parts;
\set query 'SELECT * FROM parts WHERE id = 17'
:advise
SELECT c.relname, c.relkind, i.indisvalid, c.relispartition FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE c.relnamespace = 'index_kinds'::regnamespace AND i.indrelid::regclass::text ~* 'parts' ORDER BY c.relname COLLATE "C";
:plan
DROP SCHEMA index_kinds CASCADE;

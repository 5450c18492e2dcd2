-- index_recommendations on partitioned tables: parts that are there already, partitions that are foreign tables, and drops that plans speak against.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET enable_bitmapscan = off;
CREATE SCHEMA index_partitions;
CREATE SCHEMA "index Partitions 2";
SET search_path = index_partitions;
-- The advice for one query, and its statements one by one.
CREATE FUNCTION advice(query text) RETURNS TABLE (relation text, columns text[], ddl text, undo_ddl text, reason text) LANGUAGE sql AS $$
    SELECT r.relation, r.columns, r.ddl, r.undo_ddl, regexp_replace(r.reason, '^.*each partition', '... each partition')
      FROM perf.index_recommendations(queries => ARRAY[query]) r WHERE r.source = 'workload' AND r.status = 'recommended' ORDER BY r.ddl
$$;
CREATE FUNCTION steps(query text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s FROM advice(query) a, regexp_split_to_table(a.ddl, E';\n') WITH ORDINALITY AS t (s, n) ORDER BY a.ddl, n
$$;
-- Every index of the tables in these schemas, the one that it is a part of, and whether it can be used.
CREATE VIEW tree AS
    SELECT c.relname AS index, t.relname AS "on", h.inhparent::regclass AS part_of, i.indisvalid AS valid
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid LEFT JOIN pg_inherits h ON h.inhrelid = c.oid
     WHERE t.relnamespace::regnamespace::text ILIKE '%index%partitions%' ORDER BY c.relname COLLATE "C";

-- An index that a partition has already becomes its part: the same definition, whatever numbers its columns have.
CREATE TABLE parts (id int, at date, note text, kind int) PARTITION BY RANGE (at);
CREATE TABLE "index Partitions 2"."Part 1" (note text, gone int, kind int, at date, id int);
ALTER TABLE "index Partitions 2"."Part 1" DROP COLUMN gone;
ALTER TABLE parts ATTACH PARTITION "index Partitions 2"."Part 1" FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM ('2026-03-01') TO ('2026-04-01') PARTITION BY LIST (kind);
CREATE TABLE parts_3_even PARTITION OF parts_3 FOR VALUES IN (0);
CREATE TABLE parts_3_odd PARTITION OF parts_3 FOR VALUES IN (1);
CREATE TABLE parts_4 PARTITION OF parts DEFAULT PARTITION BY LIST (kind);
CREATE TABLE parts_4_even PARTITION OF parts_4 FOR VALUES IN (0);
CREATE TABLE parts_4_odd PARTITION OF parts_4 FOR VALUES IN (1);
INSERT INTO parts SELECT g, date '2026-01-01' + g % 119, 'Note ' || g, g % 2 FROM generate_series(1, 120000) g;
CREATE INDEX "Ready 1" ON "index Partitions 2"."Part 1" (id) WITH (fillfactor = 80);
CREATE INDEX ready_3 ON parts_3 (id);
-- None of these is the same.
CREATE INDEX other_2 ON parts_2 (id DESC);
CREATE UNIQUE INDEX other_2_unique ON parts_2 (id);
CREATE INDEX other_2_some ON parts_2 (id) WHERE kind = 1;
CREATE INDEX other_4_more ON parts_4_odd (id, at);
ANALYZE parts;
SELECT * FROM advice('SELECT * FROM parts WHERE id = 17');
-- What is there is not built again: it takes no room and serves as it did.
SELECT size_bytes FROM perf.index_recommendations(queries => '{SELECT * FROM parts WHERE id = 17}') WHERE source = 'workload' \gset
SELECT undo_ddl FROM advice('SELECT * FROM parts WHERE id = 17') \gset
SELECT * FROM steps('SELECT * FROM parts WHERE id = 17') \gexec
SELECT :size_bytes BETWEEN 0.8 * sum(pg_relation_size(i)) AND 1.2 * sum(pg_relation_size(i)) AS size
  FROM unnest('{parts_2_id_idx,parts_4_even_id_idx,parts_4_odd_id_idx}'::regclass[]) i;
SELECT * FROM tree;
SELECT * FROM advice('SELECT * FROM parts WHERE id = 17');
SELECT string_agg(s, E';\n' ORDER BY n) || ';' AS undo FROM regexp_split_to_table(:'undo_ddl', E';\n') WITH ORDINALITY AS t (s, n);
SELECT s FROM regexp_split_to_table(:'undo_ddl', E';\n') WITH ORDINALITY AS t (s, n) ORDER BY n \gexec
SELECT * FROM tree;
-- Expressions and predicates are compared too.
CREATE INDEX ready_lower ON "index Partitions 2"."Part 1" (lower(note));
CREATE INDEX ready_upper ON parts_2 (upper(note));
ANALYZE parts;
SELECT * FROM steps('SELECT * FROM parts WHERE lower(note) = ''note 17''');
DROP TABLE parts;

-- A foreign table has no index here: attaching would leave the whole without a part for ever.
CREATE FOREIGN DATA WRAPPER regress_nothing;
CREATE SERVER regress_nowhere FOREIGN DATA WRAPPER regress_nothing;
CREATE TABLE mixed (id int, at date, kind int) PARTITION BY RANGE (at);
CREATE TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE mixed_2 PARTITION OF mixed FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (kind);
CREATE TABLE mixed_2_even PARTITION OF mixed_2 FOR VALUES IN (0);
CREATE TABLE mixed_2_odd PARTITION OF mixed_2 FOR VALUES IN (1);
INSERT INTO mixed SELECT g, date '2026-01-01' + g % 59, g % 2 FROM generate_series(1, 60000) g;
CREATE INDEX ready_odd ON mixed_2_odd (id);
CREATE FOREIGN TABLE mixed_far PARTITION OF mixed FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') SERVER regress_nowhere;
CREATE FOREIGN TABLE mixed_2_far PARTITION OF mixed_2 DEFAULT SERVER regress_nowhere;
ANALYZE mixed_1, mixed_2_even, mixed_2_odd;
\set mixed 'SELECT * FROM mixed WHERE id = 17 AND at BETWEEN ''2026-01-01'' AND ''2026-02-20'' AND kind IN (0, 1)'
SELECT * FROM advice(:'mixed');
SELECT * FROM steps(:'mixed') \gexec
SELECT * FROM tree;
SELECT indexes_used FROM perf.what_if(:'mixed') WHERE variant = 'current';
SELECT * FROM advice(:'mixed');
-- A partition that comes later has its part.
CREATE TABLE mixed_3 PARTITION OF mixed FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');
SELECT index, part_of FROM tree WHERE "on" = 'mixed_3';
DROP TABLE mixed;
DROP SERVER regress_nowhere;
DROP FOREIGN DATA WRAPPER regress_nothing;

-- Plans use the parts of a partitioned index: one that a recommended index brings into use is not called unused.
CREATE TABLE events (id int, at date, kind int) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') WITH (autovacuum_enabled = off);
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') WITH (autovacuum_enabled = off);
INSERT INTO events SELECT g, date '2026-01-01' + g % 59, g % 7 FROM generate_series(1, 80000) g;
CREATE TABLE users (event int, rank int) WITH (autovacuum_enabled = off);
INSERT INTO users SELECT g, (g * 7919) % 80000 FROM generate_series(1, 80000) g;
CREATE INDEX events_id ON events (id);
CREATE INDEX events_kind ON events (kind, at, id);
VACUUM ANALYZE events, users;
SELECT perf.reset() > 0 AS reset;
SELECT count(*) FROM (SELECT e.kind FROM users u JOIN events e ON e.id = u.event ORDER BY u.rank LIMIT 5) top;
SELECT action, relation, columns FROM perf.index_recommendations(time_budget_ms => 60000)
 WHERE relation LIKE 'index\_partitions.%' AND source = 'workload' ORDER BY action, relation, columns;

DROP SCHEMA index_partitions, "index Partitions 2" CASCADE;

-- index_recommendations on the indexes that exist: what should go or be rebuilt, and what must stay.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
SET synchronize_seqscans = off;
CREATE SCHEMA index_upkeep;
SET search_path = index_upkeep;
SELECT perf.reset() > 0 AS reset;
CREATE VIEW upkeep AS
    SELECT * FROM perf.index_recommendations(time_budget_ms => 60000)
     WHERE action IN ('drop', 'reindex') AND relation LIKE 'index\_upkeep.%';
-- What is reported of a table: findings by the index that they are about.
CREATE FUNCTION findings(of text) RETURNS TABLE (action text, index text, reason text) LANGUAGE sql AS $$
    SELECT u.action, split_part(u.ddl, '.', 2), u.reason FROM upkeep u WHERE u.relation = 'index_upkeep.' || findings.of ORDER BY 2
$$;
CREATE FUNCTION flush() RETURNS void LANGUAGE sql AS $$
    SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()
$$;

-- Unused: never scanned, large enough to matter. Constraints, uniqueness, replica identity, CLUSTER and the last index of a foreign key stay.
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE plain (
    id int PRIMARY KEY, code int NOT NULL, parent int REFERENCES parents, second int REFERENCES parents, note text, at timestamp, rank int UNIQUE
) WITH (autovacuum_enabled = off);
INSERT INTO plain SELECT g, (g * 31) % 60000, NULL, NULL, 'note ' || g, timestamp '2026-01-01' + g * interval '1 minute', g FROM generate_series(1, 60000) g;
CREATE INDEX plain_at ON plain (at);
CREATE INDEX plain_note ON plain (lower(note));
CREATE INDEX plain_scanned ON plain (note);
CREATE INDEX plain_small ON plain (parent) WHERE parent = 1;
CREATE UNIQUE INDEX plain_unique ON plain (code);
CREATE UNIQUE INDEX plain_identity ON plain (code, id);
ALTER TABLE plain REPLICA IDENTITY USING INDEX plain_identity;
CREATE INDEX plain_cluster ON plain (code DESC, at);
ALTER TABLE plain CLUSTER ON plain_cluster;
CREATE INDEX plain_fk ON plain (parent, id);
CREATE INDEX plain_fk_1 ON plain (second, id);
CREATE INDEX plain_fk_2 ON plain (second, at);
ALTER TABLE plain ADD EXCLUDE USING btree (at WITH =, id WITH =);
VACUUM ANALYZE plain;
SET enable_seqscan = off;
SELECT id FROM plain WHERE note = 'note 5';
RESET enable_seqscan;
SELECT flush();
SELECT * FROM findings('plain');
-- Every column of a row.
SELECT id ~ '^idx-[0-9a-f]{16}$' AS id, priority IN ('high', 'medium', 'low') AS priority, action, source, status, relation, columns, access_method, ddl, undo_ddl,
       size_bytes = pg_relation_size(split_part(ddl, ' ', 4)) AS size, benefit_pct BETWEEN 0 AND 100 AS benefit, benefit_ms_per_hour >= 0 AS per_hour,
       statements_improved, best_speedup, write_cost_pct, confidence, basis, policy_gain, evidence
  FROM upkeep WHERE ddl LIKE '%.plain_at' OR ddl LIKE '%.plain_fk_1' ORDER BY columns;
-- Following a row and taking it back.
SELECT id, ddl, undo_ddl FROM upkeep WHERE ddl LIKE '%.plain_note' \gset
SELECT :'undo_ddl' AS undo;
:ddl;
SELECT count(*) FROM upkeep WHERE id = :'id';
:undo_ddl;
SELECT count(*) FROM upkeep WHERE id = :'id';
DROP TABLE plain, parents;

-- What the writes pay for an index is what its drop saves.
SELECT perf.reset() > 0 AS reset;
CREATE TABLE written (id int, a int) WITH (autovacuum_enabled = off);
CREATE INDEX written_a ON written (a);
INSERT INTO written SELECT g, g FROM generate_series(1, 200000) g;
VACUUM ANALYZE written;
SELECT action, priority, benefit_pct > 0 AS benefit, write_cost_pct FROM upkeep WHERE relation = 'index_upkeep.written';
DROP TABLE written;

-- Duplicates: one stays. Method, operator class, collation, predicate, expression, order, INCLUDE and uniqueness tell indexes apart.
CREATE TABLE twins (id int PRIMARY KEY, a int, b text, c int) WITH (autovacuum_enabled = off);
CREATE INDEX twins_older ON twins (a);
CREATE INDEX twins_younger ON twins (a);
CREATE INDEX twins_reversed ON twins (a DESC);
CREATE INDEX twins_nulls ON twins (a NULLS FIRST);
CREATE INDEX twins_hash ON twins USING hash (a);
CREATE INDEX twins_id ON twins (id);
CREATE INDEX twins_b ON twins (b);
CREATE INDEX twins_b_class ON twins (b text_pattern_ops);
CREATE INDEX twins_b_collation ON twins (b COLLATE "POSIX");
CREATE INDEX twins_partial ON twins (c) WHERE a > 5;
CREATE INDEX twins_partial_other ON twins (c) WHERE a > 6;
CREATE INDEX twins_partial_same ON twins (c)   WHERE  (a > 5);
CREATE INDEX twins_expression ON twins (lower(b));
CREATE INDEX twins_expression_other ON twins (upper(b));
CREATE INDEX twins_expression_same ON twins ( (lower(b)) );
CREATE INDEX twins_include ON twins (c) INCLUDE (b);
CREATE INDEX twins_include_same ON twins (c) INCLUDE (b);
CREATE UNIQUE INDEX twins_unique ON twins (c, a);
CREATE UNIQUE INDEX twins_unique_same ON twins (c, a);
CREATE UNIQUE INDEX twins_unique_nulls ON twins (c, a) NULLS NOT DISTINCT;
CREATE INDEX twins_not_unique ON twins (c, a);
SELECT * FROM findings('twins');
-- Taking a drop back makes the same index again.
SELECT undo_ddl FROM upkeep WHERE ddl LIKE '%.twins_unique_same' OR ddl LIKE '%.twins_partial_same' OR ddl LIKE '%.twins_include_same' ORDER BY ddl;
-- Of two that are equal the one that is used stays.
INSERT INTO twins SELECT g, g, g, g FROM generate_series(1, 5000) g;
VACUUM ANALYZE twins;
SELECT id FROM twins WHERE a BETWEEN 77 AND 78;
SELECT flush();
SELECT count(*) AS dropped, count(*) FILTER (WHERE index LIKE 'twins\_%' AND reason LIKE '%which is used more%') AS for_a_used_one
  FROM findings('twins') WHERE index IN ('twins_older', 'twins_younger', 'twins_reversed');
-- Advice that is followed leaves nothing more to follow.
SELECT ddl FROM upkeep WHERE relation = 'index_upkeep.twins' AND split_part(ddl, '.', 2) NOT IN ('twins_older', 'twins_younger', 'twins_reversed') ORDER BY ddl \gexec
SELECT count(*) FROM findings('twins');
DROP TABLE twins;

-- Covered: the keys are the first of another's. What is costlier to read through the other stays.
CREATE TABLE wide (id int PRIMARY KEY, a int, b int, c text) WITH (autovacuum_enabled = off);
INSERT INTO wide SELECT g, (g * 7919) % 10000, g % 100, repeat('x', 200) || g FROM generate_series(1, 30000) g;
CREATE INDEX wide_a ON wide (a);
CREATE INDEX wide_a_b ON wide (a, b);
CREATE INDEX wide_a_desc_b ON wide (a DESC, b);
CREATE INDEX wide_a_b_c ON wide (a, b, c);
CREATE INDEX wide_b_a ON wide (b, a);
CREATE INDEX wide_b ON wide (b) INCLUDE (a);
CREATE INDEX wide_b_c ON wide (b) INCLUDE (c);
CREATE INDEX wide_partial ON wide (a) WHERE b = 1;
CREATE INDEX wide_partial_more ON wide (a, c) WHERE b = 1;
CREATE UNIQUE INDEX wide_id ON wide (id, a);
VACUUM ANALYZE wide;
SELECT * FROM findings('wide');
DROP TABLE wide;
CREATE TABLE paid (id int PRIMARY KEY, a int, c text, r int) WITH (autovacuum_enabled = off);
INSERT INTO paid SELECT g, (g * 7919) % 10000, repeat('x', 200) || g, g FROM generate_series(1, 30000) g;
CREATE INDEX paid_a ON paid (a);
CREATE INDEX paid_a_c ON paid (a, c);
VACUUM ANALYZE paid;
SELECT perf.reset() > 0 AS reset;
SELECT count(a) FROM paid WHERE a > 7;
SELECT * FROM findings('paid');
-- What is as cheap to read through the other goes, and says what was planned.
DROP INDEX paid_a_c, paid_a;
CREATE INDEX paid_a_r ON paid (a, r);
CREATE INDEX paid_a ON paid (a);
SELECT perf.reset() > 0 AS reset;
SELECT id FROM paid WHERE a = 7;
SELECT count(id) FROM paid WHERE a = 8;
SELECT u.columns, u.basis, u.confidence, u.reason, e ->> 'calls' AS calls, (e ->> 'cost_after')::float8 <= 1.01 * (e ->> 'cost_before')::float8 AS no_dearer
  FROM upkeep u LEFT JOIN LATERAL jsonb_array_elements(u.evidence) e ON true WHERE u.relation = 'index_upkeep.paid';
-- Scans that no statement of the workload explains make it less sure.
SELECT flush();
SELECT perf.reset() > 0 AS reset;
SELECT columns, confidence FROM upkeep WHERE relation = 'index_upkeep.paid';
DROP TABLE paid;

-- Invalid: dropped when another does the same, built again when not.
CREATE TABLE broken (a int, b int) WITH (autovacuum_enabled = off);
INSERT INTO broken VALUES (1, 1), (1, 2);
\set VERBOSITY sqlstate
CREATE UNIQUE INDEX CONCURRENTLY broken_unique ON broken (a);
\set VERBOSITY default
CREATE INDEX broken_b ON broken (b);
CREATE INDEX broken_b_ccnew ON broken (b);
CREATE INDEX broken_alone ON broken (b, a);
UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('broken_b_ccnew'::regclass, 'broken_alone'::regclass);
SELECT * FROM findings('broken');
SELECT action, priority, undo_ddl, size_bytes, benefit_pct IS NOT NULL AS benefit, confidence FROM upkeep WHERE relation = 'index_upkeep.broken' ORDER BY ddl;
-- One that somebody may be building is left alone.
BEGIN;
LOCK TABLE broken IN SHARE UPDATE EXCLUSIVE MODE;
SELECT * FROM findings('broken');
ROLLBACK;
DROP TABLE broken;

-- Bloated: a fresh build would be much smaller, by the statistics.
CREATE TABLE bloated (id int PRIMARY KEY, a text, b int) WITH (autovacuum_enabled = off);
INSERT INTO bloated SELECT g, repeat(md5(g::text), 7), g FROM generate_series(1, 60000) g;
CREATE UNIQUE INDEX bloated_a ON bloated (a);
CREATE UNIQUE INDEX bloated_partial ON bloated (a) WHERE b > 0;
CREATE UNIQUE INDEX bloated_filled ON bloated (a, b) WITH (fillfactor = 20);
CREATE UNIQUE INDEX bloated_expression ON bloated (upper(a));
VACUUM bloated;
SELECT count(*) AS without_statistics FROM findings('bloated');
VACUUM ANALYZE bloated;
SELECT count(*) AS fresh FROM findings('bloated');
DELETE FROM bloated WHERE id % 10 <> 0;
VACUUM ANALYZE bloated;
SELECT split_part(ddl, '.', 2) AS index, action, ddl, undo_ddl, benefit_pct, confidence, basis,
       regexp_replace(reason, '\d+ %', 'N %') AS reason, size_bytes / pg_relation_size(split_part(ddl, ' ', 4))::float8 BETWEEN 0.85 AND 0.95 AS freed
  FROM upkeep WHERE relation = 'index_upkeep.bloated' ORDER BY ddl;
SELECT ddl FROM upkeep WHERE relation = 'index_upkeep.bloated' ORDER BY ddl \gexec
SELECT count(*) AS rebuilt FROM findings('bloated');
DROP TABLE bloated;

-- Partitioned tables: the whole index or nothing.
CREATE TABLE parts (id int, at date, code int) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') WITH (autovacuum_enabled = off);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') WITH (autovacuum_enabled = off);
INSERT INTO parts SELECT g, date '2026-01-01' + g % 59, g % 1000 FROM generate_series(1, 60000) g;
CREATE INDEX parts_unused ON parts (id);
CREATE INDEX parts_used ON parts (code);
CREATE INDEX parts_used_again ON parts (code);
CREATE INDEX parts_1_own ON parts_1 (code);
INSERT INTO parts SELECT g, date '2026-01-01' + g % 59, g % 1000 FROM generate_series(1, 1000) g;
VACUUM ANALYZE parts;
SELECT count(id) FROM parts WHERE code = 5;
SELECT flush();
SELECT action, regexp_replace(index, '_again', '') AS index, regexp_replace(reason, '(_again)|(of parts_1_code_idx1?)', '', 'g') AS reason FROM findings('parts');
SELECT action, index, regexp_replace(reason, 'code_idx1?', 'code_idx') AS reason FROM findings('parts_1');
SELECT ddl, undo_ddl, columns, benefit_pct > 0 AS benefit FROM upkeep WHERE ddl LIKE '%.parts_unused' OR ddl LIKE '%.parts_1_own' ORDER BY ddl;
-- Who may read the whole but not its parts is told what the parts count.
CREATE ROLE regress_upkeep;
GRANT USAGE ON SCHEMA index_upkeep TO regress_upkeep;
GRANT SELECT ON parts TO regress_upkeep;
SET ROLE regress_upkeep;
SELECT relation, columns, size_bytes > 100000 AS size FROM perf.index_recommendations() WHERE action = 'drop' ORDER BY columns;
RESET ROLE;
-- A part that goes with its index takes nobody's place.
CREATE INDEX parts_1_id ON parts_1 (id);
SELECT ddl FROM upkeep WHERE relation = 'index_upkeep.parts_1' AND columns = '{id}';
\o /dev/null
SELECT ddl FROM upkeep WHERE relation = 'index_upkeep.parts' \gexec
\o
SELECT count(*) FROM findings('parts');
-- An index of the whole that lacks a part is being made, not broken.
CREATE INDEX parts_only ON ONLY parts (at);
SELECT count(*) FROM findings('parts');
DROP TABLE parts;

-- Names are quoted; materialized views have indexes too; temporary tables and the extension's own are not judged.
CREATE TABLE "Odd ""Table" ("Ünï ""c" int);
CREATE INDEX "Odd ""Index" ON "Odd ""Table" ("Ünï ""c");
CREATE INDEX "Odd ""Index 2" ON "Odd ""Table" ("Ünï ""c");
CREATE MATERIALIZED VIEW totals AS SELECT 1 AS a;
CREATE INDEX totals_1 ON totals (a);
CREATE INDEX totals_2 ON totals (a);
CREATE TEMP TABLE passing (a int);
CREATE INDEX ON passing (a);
CREATE INDEX ON passing (a);
CREATE INDEX policy_again ON perf.index_policy (table_name);
CREATE INDEX policy_twice ON perf.index_policy (table_name);
SELECT relation, columns, ddl, undo_ddl FROM perf.index_recommendations() WHERE action = 'drop' ORDER BY relation COLLATE "C";
DROP INDEX perf.policy_again, perf.policy_twice;
-- Nothing is said of tables that the caller may not read.
GRANT SELECT ON totals TO regress_upkeep;
SET ROLE regress_upkeep;
SELECT relation FROM perf.index_recommendations() WHERE action = 'drop';
RESET ROLE;
-- Nothing stays locked.
BEGIN;
SELECT count(*) FROM upkeep WHERE relation = 'index_upkeep.totals';
SELECT count(*) FROM pg_locks WHERE relation = 'totals'::regclass;
COMMIT;
-- Nothing either when advice is asked for given queries.
SELECT count(*) FROM perf.index_recommendations(queries => '{SELECT * FROM totals}') WHERE action <> 'create';

-- What the policy asks for is not unused.
CREATE TABLE transactions (id int PRIMARY KEY, user_id int, created_at timestamp);
INSERT INTO transactions SELECT g, g, timestamp '2026-01-01' FROM generate_series(1, 60000) g;
CREATE INDEX transactions_policy ON transactions (user_id, created_at);
CREATE INDEX transactions_other ON transactions (created_at, user_id);
SELECT status, reason FROM perf.index_recommendations() WHERE source = 'policy' AND relation = 'index_upkeep.transactions';
SELECT index FROM findings('transactions');

REVOKE ALL ON SCHEMA index_upkeep FROM regress_upkeep;
DROP SCHEMA index_upkeep CASCADE;
DROP ROLE regress_upkeep;

-- partition_convert_plan: every step and every blocker, and what partition_convert says without running. What runs as a job
-- is tested end to end. Rows lie in 2090, so that bounds do not depend on the clock.
SET client_min_messages = error;
\set SHOW_CONTEXT never
SET timezone = 'Europe/Berlin';
CREATE SCHEMA converted;
SET search_path = converted;

CREATE TABLE customers (id int PRIMARY KEY);
CREATE TABLE "Order s" (
    id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT now(), customer int CONSTRAINT whose REFERENCES customers,
    code text, number serial, CONSTRAINT "Key" PRIMARY KEY (id), UNIQUE (code) INCLUDE (number) DEFERRABLE);
INSERT INTO "Order s" (at, code) VALUES ('2090-05-10 23:30+00', 'a'), ('2026-01-01', 'b');
CREATE UNIQUE INDEX by_code ON "Order s" (lower(code) DESC) WHERE code <> ')';
CREATE INDEX by_time ON "Order s" (at);
COMMENT ON TABLE "Order s" IS 'it''s';
\a \t
SELECT step_no, lock, blocker, E'\n' || sql FROM perf.partition_convert_plan('"Order s"', 'at', 'month');
\a \t
-- Views are pointed to the new table, with their options.
CREATE VIEW seen WITH (security_barrier) AS SELECT id, at FROM "Order s";
SELECT sql ~ 'CREATE OR REPLACE VIEW converted.seen WITH \(security_barrier=''true''\) AS  SELECT' AS view
    FROM perf.partition_convert_plan('"Order s"', 'at', 'month') WHERE sql ~ 'ATTACH PARTITION';
-- Bounds lie on the wall clock of the zone, and as the type writes them.
CREATE TABLE typed (d date NOT NULL, t timestamp NOT NULL, z timestamptz NOT NULL, u uuid NOT NULL, s bigint NOT NULL, ms bigint NOT NULL,
                    us bigint NOT NULL, ns bigint NOT NULL, "Odd ""name" date NOT NULL, i int NOT NULL, x text NOT NULL,
                    g int GENERATED ALWAYS AS (1) STORED, zero bigint NOT NULL DEFAULT 0, n date);
INSERT INTO typed SELECT at, at, at, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')::text || '70008000000000000000')::uuid,
    extract(epoch FROM at), extract(epoch FROM at) * 1000, extract(epoch FROM at) * 1000000, extract(epoch FROM at) * 1000000000, at, 1, 'x'
    FROM (VALUES (timestamptz '2090-05-10 10:00+00'), ('2026-05-10 10:00+00')) v (at);
CREATE FUNCTION bound(control text, every text, time_zone text DEFAULT 'UTC', epoch text DEFAULT NULL) RETURNS SETOF text
    LANGUAGE sql AS $$
    SELECT COALESCE(blocker, substring(sql FROM 'CHECK [^\n]*')) FROM perf.partition_convert_plan('typed', control, every, time_zone, epoch)
    WHERE sql ~ 'perf_convert_bound CHECK' OR blocker IS NOT NULL ORDER BY step_no $$;
SELECT bound('d', 'month');
SELECT bound('d', 'week');
SELECT bound('t', 'day');
SELECT bound('z', 'quarter', 'Europe/Berlin');
SELECT bound('z', '6 hours');
SELECT bound('u', 'month');
SELECT bound('s', 'year');
SELECT bound('ms', 'month');
SELECT bound('us', 'month');
SELECT bound('ns', 'month');
SELECT bound('ms', 'month', epoch => 'milliseconds');
SELECT bound('Odd "name', 'day');

-- Arguments.
SELECT bound('none', 'month');
SELECT bound('i', 'month');
SELECT bound('x', 'month');
SELECT bound('g', 'month');
SELECT bound('zero', 'month');
SELECT bound('zero', 'month', epoch => 'fortnights');
SELECT bound('d', 'month', epoch => 'seconds');
SELECT bound('d', 'fortnight');
SELECT bound('d', '');
SELECT bound('d', '6 hours');
SELECT bound('d', 'month', 'Mars/Olympus');
SELECT bound('ctid', 'month');
SELECT * FROM perf.partition_convert_plan(NULL, 'd', 'month');
SELECT * FROM perf.partition_convert_plan('typed', NULL, 'month');
SELECT * FROM perf.partition_convert_plan('typed', 'd', NULL);
SELECT * FROM perf.partition_convert_plan('typed', 'd', 'month', NULL);
SELECT * FROM perf.partition_convert_plan(1, 'd', 'month');

-- Rows.
UPDATE typed SET n = d WHERE d > '2090-01-01';
INSERT INTO typed (d, t, z, u, s, ms, us, ns, "Odd ""name", i, x)
    VALUES ('infinity', 'infinity', 'infinity', 'f0000000-0000-4000-8000-000000000000', 9e18, 9e18, 9e18, 9e18, '9999-12-31', 1, 'x');
SELECT bound('n', 'month');
SELECT bound('d', 'month');
SELECT bound('t', 'month');
SELECT bound('z', 'month');
SELECT bound('u', 'month');
SELECT bound('s', 'month', epoch => 's');
SELECT bound('Odd "name', 'month');
DELETE FROM typed WHERE d = 'infinity';
UPDATE typed SET d = '-infinity' WHERE d < '2090-01-01';
SELECT bound('d', 'month');
DELETE FROM typed;
SELECT bound('s', 'month');
SELECT count(*) FROM perf.partition_convert_plan('typed', 'd', 'month') WHERE blocker IS NULL;

-- What is no plain table.
CREATE FUNCTION blockers(relation regclass) RETURNS TABLE (step_no int, blocker text) LANGUAGE sql AS
    $$ SELECT step_no, blocker FROM perf.partition_convert_plan(relation, 'at', 'month') WHERE blocker IS NOT NULL $$;
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS at;
CREATE SEQUENCE numbers;
CREATE TYPE pair AS (at date);
CREATE TABLE of_type OF pair;
CREATE TABLE parent (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE child PARTITION OF parent DEFAULT;
CREATE TABLE heir (at date) ;
CREATE TABLE heiress () INHERITS (heir);
CREATE TEMPORARY TABLE passing (at date);
CREATE UNLOGGED TABLE unlogged (at date);
SELECT * FROM blockers('seen');
SELECT * FROM blockers('kept');
SELECT * FROM blockers('numbers');
SELECT * FROM blockers('by_time');
SELECT * FROM blockers('pair');
SELECT * FROM blockers('of_type');
SELECT * FROM blockers('parent');
SELECT * FROM blockers('child');
SELECT * FROM blockers('heir');
SELECT * FROM blockers('heiress');
SELECT replace(blocker, passing.name, 'passing') FROM blockers('passing'), LATERAL (SELECT 'passing'::regclass::text AS name) passing
    WHERE blocker LIKE '%temporary%';
SELECT * FROM blockers('unlogged');
SELECT * FROM blockers('pg_class');
SELECT * FROM blockers('perf.job');

-- What a table may not have.
CREATE TABLE t (id int PRIMARY KEY, at timestamptz NOT NULL, r int4range, v int);
SELECT * FROM blockers('t');
CREATE TABLE incoming (id int CONSTRAINT to_t REFERENCES t);
CREATE TABLE self (id int PRIMARY KEY, at date, up int CONSTRAINT to_self REFERENCES self);
SELECT * FROM blockers('t') UNION ALL SELECT * FROM blockers('self');
DROP TABLE incoming, self;
ALTER TABLE t ADD CONSTRAINT apart EXCLUDE USING gist (r WITH &&);
SELECT * FROM blockers('t');
ALTER TABLE t DROP CONSTRAINT apart;
CREATE VIEW grouped AS SELECT id, v FROM t GROUP BY id;
SELECT * FROM blockers('t');
DROP VIEW grouped;
ALTER TABLE t ADD CONSTRAINT late CHECK (v > 0) NOT VALID;
SELECT * FROM blockers('t');
ALTER TABLE t DROP CONSTRAINT late, ADD CONSTRAINT own CHECK (v > 0) NO INHERIT;
SELECT * FROM blockers('t');
ALTER TABLE t DROP CONSTRAINT own;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER fresh AFTER INSERT ON t REFERENCING NEW TABLE AS n FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE RULE also AS ON INSERT TO t DO ALSO NOTIFY x;
SELECT * FROM blockers('t');
DROP TRIGGER fresh ON t;
DROP RULE also ON t;
CREATE MATERIALIZED VIEW frozen AS SELECT id FROM t;
CREATE FUNCTION counted() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM t; END;
CREATE FUNCTION shown(line t) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TABLE holder (rows t[]);
CREATE TABLE other (id int);
CREATE RULE onto AS ON INSERT TO other DO ALSO DELETE FROM t;
ALTER TABLE other ENABLE ROW LEVEL SECURITY;
CREATE POLICY peek ON other USING (EXISTS (SELECT FROM t));
SELECT * FROM blockers('t');
DROP TABLE other, holder;
DROP FUNCTION counted, shown;
DROP MATERIALIZED VIEW frozen;
CREATE PUBLICATION regress_perf_leaves FOR TABLE t;
SELECT * FROM blockers('t');
DROP PUBLICATION regress_perf_leaves;
CREATE PUBLICATION regress_perf_narrow FOR TABLE t (id, v) WITH (publish_via_partition_root);
SELECT * FROM blockers('t');
ALTER PUBLICATION regress_perf_narrow SET TABLE t (id, at);
SELECT * FROM blockers('t');
DROP PUBLICATION regress_perf_narrow;
SELECT * FROM blockers('t');

-- Privileges.
CREATE ROLE regress_perf_owner;
CREATE ROLE regress_perf_other;
GRANT USAGE ON SCHEMA converted TO regress_perf_owner, regress_perf_other;
GRANT SELECT ON t TO regress_perf_other;
ALTER TABLE t OWNER TO regress_perf_owner;
CREATE VIEW of_others AS SELECT id FROM t;
SET ROLE regress_perf_other;
SELECT * FROM blockers('converted.t');
SET ROLE regress_perf_owner;
SELECT * FROM blockers('converted.t');
RESET ROLE;
GRANT CREATE ON SCHEMA converted TO regress_perf_owner;
ALTER VIEW of_others OWNER TO regress_perf_owner;
ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SET ROLE regress_perf_owner;
SELECT * FROM blockers('converted.t');
RESET ROLE;
ALTER TABLE t NO FORCE ROW LEVEL SECURITY;
SET ROLE regress_perf_owner;
SELECT * FROM blockers('converted.t');
RESET ROLE;

-- Names that are taken, or too long.
CREATE TABLE t_legacy ();
CREATE TABLE t_partitioned ();
CREATE TABLE t_pkey_legacy ();
SELECT substring(sql FROM 'RENAME TO \S+;\nALTER TABLE \S+ RENAME TO'), substring(sql FROM 'CREATE TABLE \S+'), substring(sql FROM 'RENAME TO \S+')
    FROM perf.partition_convert_plan('t', 'at', 'month') WHERE sql ~ 'ATTACH PARTITION';
CREATE TABLE long_long_long_long_long_long_long_long_long_long_long_long_nam (at date PRIMARY KEY);
SELECT length(substring(sql FROM 'ATTACH PARTITION converted.(\S+)')), substring(sql FROM 'ATTACH PARTITION converted.(\S+)') ~ '_legacy$'
    FROM perf.partition_convert_plan('long_long_long_long_long_long_long_long_long_long_long_long_nam', 'at', 'month') WHERE sql ~ 'ATTACH';

-- The procedures say it before they do anything.
BEGIN;
CALL perf.partition_convert('t', 'at', 'month');
\echo :SQLSTATE
ROLLBACK;
DO $$ BEGIN CALL perf.partition_convert_undo('t'); END $$;
\echo :SQLSTATE
CALL perf.partition_convert('t', 'none', 'month');
\echo :SQLSTATE
CALL perf.partition_convert('t', 'v', 'month');
\echo :SQLSTATE
CALL perf.partition_convert('t', 'at', 'blue moon');
\echo :SQLSTATE
CALL perf.partition_convert('t', 'at', 'month', time_zone => 'Mars/Olympus');
\echo :SQLSTATE
CALL perf.partition_convert('t', 'at', 'month', max_lock => '0');
\echo :SQLSTATE
CALL perf.partition_convert('t', 'at', 'month', max_lock => NULL);
\echo :SQLSTATE
CALL perf.partition_convert('t', 'at', 'month', give_up_after => '-1 s');
\echo :SQLSTATE
CALL perf.partition_convert(NULL, 'at', 'month');
\echo :SQLSTATE
CALL perf.partition_convert('t', NULL, 'month');
\echo :SQLSTATE
CALL perf.partition_convert('t', 'at', NULL);
\echo :SQLSTATE
CALL perf.partition_convert('parent', 'at', 'month');
\echo :SQLSTATE
CALL perf.partition_convert('seen', 'at', 'month');
\echo :SQLSTATE
CALL perf.partition_convert('unlogged', 'at', 'month');
\echo :SQLSTATE
CALL perf.partition_convert_undo('t');
\echo :SQLSTATE
CALL perf.partition_convert_undo(NULL);
\echo :SQLSTATE
SET ROLE regress_perf_other;
CALL perf.partition_convert('converted.t', 'at', 'month');
\echo :SQLSTATE
CALL perf.partition_convert_undo('converted.t');
\echo :SQLSTATE
RESET ROLE;
-- Nothing was left behind.
SELECT count(*) FROM perf.jobs WHERE kind = 'partition_convert';
SELECT * FROM perf.partition_conversions;
DROP SCHEMA converted CASCADE;
DROP ROLE regress_perf_owner, regress_perf_other;

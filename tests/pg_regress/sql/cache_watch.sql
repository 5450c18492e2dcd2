-- Watches of relations: what they take, what they refuse, whom they are shown. What they do is tested end to end: the
-- process that works changes off sees only what is committed.
CREATE EXTENSION IF NOT EXISTS perf_opt;
CREATE TABLE watched (id int PRIMARY KEY, user_id int, "Odd name" text);
CREATE TABLE parted (id int, user_id int) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);

-- Watches and their triggers.
SELECT perf.cache_watch('paid', 'watched') > 0 AS is_watched;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'watched'::regclass ORDER BY 1;
SELECT event, relation, operations, keys, tags, is_active, missing_columns FROM perf.cache_watches;
-- Again: the same watch, changed.
SELECT perf.cache_watch('paid', 'watched', '{insert}', ARRAY['cache:risk:user:{user_id}'], ARRAY['user-{user_id}'])
       = (SELECT watch_id FROM perf.cache_watches) AS is_same;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'watched'::regclass ORDER BY 1;
SELECT event, relation, operations, keys, tags, is_active FROM perf.cache_watches;
-- Another event on the same relation shares its triggers.
SELECT perf.cache_watch('changed', 'watched', '{update}') > 0 AS is_watched;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'watched'::regclass ORDER BY 1;
SELECT perf.cache_unwatch('paid', 'watched'), perf.cache_unwatch('paid', 'watched');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'watched'::regclass ORDER BY 1;
SELECT perf.cache_unwatch('changed', 'watched');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'watched'::regclass;
-- Partitions are watched with their table.
SELECT perf.cache_watch('logged', 'parted', '{delete}') > 0 AS is_watched;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'perf_cache%' AND tgrelid::regclass::text LIKE 'parted%' ORDER BY 1, 2;
SELECT perf.cache_unwatch('logged', 'parted');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'parted_1'::regclass;

-- What cannot be watched.
CREATE VIEW a_view AS SELECT * FROM watched;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM watched;
CREATE TEMP TABLE a_temp (id int);
CREATE SEQUENCE a_sequence;
CREATE FOREIGN DATA WRAPPER no_wrapper;
CREATE SERVER nowhere FOREIGN DATA WRAPPER no_wrapper;
CREATE FOREIGN TABLE a_foreign (id int) SERVER nowhere;
SELECT perf.cache_watch('paid', 'a_view');
SELECT perf.cache_watch('paid', 'a_matview');
SELECT perf.cache_watch('paid', 'a_sequence');
SELECT perf.cache_watch('paid', 'a_foreign');
SELECT perf.cache_watch('paid', 'pg_catalog.pg_class');
SELECT perf.cache_watch('paid', 'perf.cache_policy');
SELECT perf.cache_watch('paid', 0::oid::regclass);
DO $$BEGIN
    PERFORM perf.cache_watch('paid', 'a_temp');
EXCEPTION WHEN feature_not_supported THEN
    RAISE NOTICE 'a temporary table cannot be watched';
END$$;

-- Bad arguments.
SELECT perf.cache_watch(NULL, 'watched');
SELECT perf.cache_watch('', 'watched');
SELECT perf.cache_watch('paid', NULL);
SELECT perf.cache_watch('paid', 'watched', '{}');
SELECT perf.cache_watch('paid', 'watched', '{insert,select}');
SELECT perf.cache_watch('paid', 'watched', '{insert,NULL}');
SELECT perf.cache_watch('paid', 'watched', keys => ARRAY['a:{nothing}']);
SELECT perf.cache_watch('paid', 'watched', keys => '{"a:{user_id"}');
SELECT perf.cache_watch('paid', 'watched', keys => '{"a:}"}');
SELECT perf.cache_watch('paid', 'watched', keys => '{"a:{Odd name}"}');
SELECT perf.cache_watch('paid', 'watched', keys => '{""}');
SELECT perf.cache_watch('paid', 'watched', keys => '{"{user_id}:a"}');
SELECT perf.cache_watch('paid', 'watched', keys => ARRAY[NULL]);
SELECT perf.cache_watch('paid', 'watched', keys => '{}', tags => '{}');
SELECT perf.cache_watch('paid', 'watched', tags => '{"{user_id}"}');
SELECT perf.cache_watch('paid', 'watched', keys => ARRAY[repeat('x', 1001)]);
SELECT perf.cache_unwatch(NULL, 'watched');
SELECT perf._cache_changed();
CREATE TRIGGER of_rows AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION perf._cache_changed();
INSERT INTO watched VALUES (1);
DROP TRIGGER of_rows ON watched;
BEGIN;
SELECT perf.cache_watch('paid', 'watched') > 0 AS is_watched;
PREPARE TRANSACTION 'watch';

-- Rights.
CREATE ROLE regress_watch_owner;
CREATE ROLE regress_watch_other;
CREATE TABLE theirs (id int, user_id int);
ALTER TABLE theirs OWNER TO regress_watch_owner;
SET ROLE regress_watch_other;
SELECT perf.cache_watch('paid', 'theirs');
RESET ROLE;
GRANT TRIGGER ON theirs TO regress_watch_other;
SET ROLE regress_watch_other;
SELECT perf.cache_watch('paid', 'theirs', keys => ARRAY['a:{user_id}']) > 0 AS is_watched;
SELECT event, relation, owner, is_active FROM perf.cache_watches;
RESET ROLE;
SELECT perf.cache_watch('secret', 'watched') > 0 AS is_watched;
SET ROLE regress_watch_owner;
SELECT event, relation, owner, is_active FROM perf.cache_watches;
SELECT perf.cache_unwatch('paid', 'theirs');
SELECT perf.cache_unwatch('secret', 'watched');
SELECT count(*) FROM perf.cache_watch_table;
SELECT count(*) FROM perf.cache_outbox;
RESET ROLE;
DROP TABLE theirs;
DROP ROLE regress_watch_owner, regress_watch_other;

-- The triggers go with the extension, without CASCADE.
DROP EXTENSION perf_opt;
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'perf_cache%';
DROP TABLE watched CASCADE;
DROP TABLE parted;
DROP SEQUENCE a_sequence;
DROP FOREIGN DATA WRAPPER no_wrapper CASCADE;
CREATE EXTENSION perf_opt;

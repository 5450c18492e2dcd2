-- The embedded cache: what it takes, what it gives, what it refuses.
CREATE EXTENSION IF NOT EXISTS perf_opt;
SELECT perf.cache_get('a');
SELECT perf.cache_put('a', '{"x": 1}');
SELECT perf.cache_get('a');
SELECT perf.cache_put('a', '[2]', '1 hour', '{red}');
SELECT perf.cache_get('a');
SELECT perf.cache_put('json null', 'null');
SELECT perf.cache_get('json null'), perf.cache_get('json null') IS NULL AS is_missing;

-- Large values come back as they were.
SELECT perf.cache_put('large', to_jsonb(repeat('0123456789', 50000)));
SELECT perf.cache_get('large') = to_jsonb(repeat('0123456789', 50000)) AS same;

-- Expiry.
SELECT perf.cache_put('short', '1', '1 microsecond');
SELECT perf.cache_get('short');

-- Rolled back.
BEGIN;
SELECT perf.cache_put('rolled back', '1');
SELECT perf.cache_get('rolled back');
ROLLBACK;
SELECT perf.cache_get('rolled back');
BEGIN;
SELECT perf.cache_put('kept', '1');
SAVEPOINT s;
SELECT perf.cache_put('kept', '2'), perf.cache_put('lost', '2');
ROLLBACK TO s;
SELECT perf.cache_get('kept');
COMMIT;
SELECT perf.cache_get('kept'), perf.cache_get('lost');

-- Invalidation by key, tag and event.
SELECT perf.cache_invalidate(key => 'a');
SELECT perf.cache_get('a');
SELECT perf.cache_invalidate(key => 'a');
SELECT perf.cache_put('a', '3', tags => '{red,blue}'), perf.cache_put('b', '4', tags => '{blue}');
SELECT perf.cache_invalidate(tag => 'red');
SELECT perf.cache_get('a'), perf.cache_get('b');
SELECT perf.cache_put('cache:risk:user:7', '0.5'), perf.cache_put('cache:risk:user', '1'), perf.cache_put('t', '1', tags => '{transaction_created}');
SELECT perf.cache_invalidate('transaction_created');
SELECT perf.cache_get('cache:risk:user:7'), perf.cache_get('cache:risk:user'), perf.cache_get('t');
BEGIN;
SELECT perf.cache_invalidate(key => 'b');
SELECT perf.cache_get('b');
ROLLBACK;
SELECT perf.cache_get('b');

-- A value computed before an invalidation.
CREATE TEMP TABLE before AS SELECT perf.cache_snapshot() AS seen;
SELECT perf.cache_put('c', '1', snapshot => seen) FROM before;
SELECT perf.cache_get('c');
SELECT perf.cache_invalidate(key => 'c');
SELECT perf.cache_put('c', '2', snapshot => seen) FROM before;
SELECT perf.cache_put('d', '2', snapshot => seen) FROM before;
SELECT perf.cache_get('c'), perf.cache_get('d');
SELECT perf.cache_invalidate(key => 'c');
-- The session missed it before the invalidation.
SELECT perf.cache_put('c', '3');
SELECT perf.cache_get('c');
SELECT perf.cache_put('c', '3');
SELECT perf.cache_get('c');
-- What the transaction itself has changed is seen by nobody else.
BEGIN;
SELECT perf.cache_invalidate(key => 'c');
SELECT perf.cache_get('c');
SELECT perf.cache_put('c', '4');
COMMIT;
SELECT perf.cache_get('c');

-- The policy's time to live.
SELECT key, policy, date_trunc('second', expires_at - put_at) AS ttl FROM perf.cache_entry ORDER BY key;
SET perf_opt.cache_default_ttl = '2 min';
SELECT perf.cache_put('b', '4'), perf.cache_put('cache:risk:user:8', '0.5'), perf.cache_put('cache:risk:user:9', '0.5', '5 s');
SELECT key, policy, expires_at - put_at AS ttl FROM perf.cache_entry WHERE key ~ '^(b|cache:risk.*)$' ORDER BY key;

SELECT name, entries, bytes > 0 AS has_bytes FROM perf.cache_stats() WHERE entries > 0 ORDER BY name;

-- Bad input.
\set SHOW_CONTEXT never
SELECT perf.cache_get(NULL);
SELECT perf.cache_get('');
SELECT perf.cache_get(repeat('x', 1025));
SELECT perf.cache_get('cache:risk:user:{user_id}');
SELECT perf.cache_put(NULL, '1');
SELECT perf.cache_put('a}', '1');
SELECT perf.cache_put(repeat('x', 10240), '1');
SELECT perf.cache_put('a', NULL);
SELECT perf.cache_put('a', to_jsonb(repeat('x', 1048576)));
SELECT perf.cache_put('a', '1', '0 s');
SELECT perf.cache_put('a', '1', '-1 s');
SELECT perf.cache_put('a', '1', '100 years');
SELECT perf.cache_put('a', '1', tags => NULL);
SELECT perf.cache_put('a', '1', tags => '{a,NULL}');
SELECT perf.cache_put('a', '1', tags => '{""}');
SELECT perf.cache_put('a', '1', tags => array_fill('t'::text, '{33}'));
\set VERBOSITY sqlstate
SELECT perf.cache_put('a', '1', snapshot => '9000000000000:9000000000000:');
SELECT perf.cache_put('b', NULL);
SELECT perf.cache_invalidate('no_such_event');
SELECT perf.cached('no such policy');
SELECT perf.cached('system_health', '{"x": 1}');
\set VERBOSITY default
SELECT perf.cache_invalidate();
SELECT perf.cache_invalidate('a', 'b');
SELECT perf.cache_invalidate('no_such_event');
SELECT perf.cache_invalidate(key => '');
SELECT perf.cache_invalidate(tag => '{x}');
BEGIN READ ONLY;
SELECT perf.cache_get('b');
SAVEPOINT s;
SELECT perf.cache_put('b', '5');
ROLLBACK TO s;
SELECT perf.cache_invalidate(key => 'b');
ROLLBACK;
SET perf_opt.cache_role = 'no such role';
SELECT perf.cache_get('a');
RESET perf_opt.cache_role;

-- Computed by policy.
CREATE TABLE score (user_id bigint, score int);
INSERT INTO score VALUES (1, 10), (1, 20), (2, 30);
UPDATE perf.cache_policy SET compute_sql = NULL WHERE cache_name = 'system_health';
UPDATE perf.cache_policy SET compute_sql = 'SELECT sum(score) FROM score WHERE user_id = {user_id}::bigint; -- {brace}'
WHERE cache_name = 'user_risk_score';
INSERT INTO perf.cache_policy (cache_name, key_template, ttl, compute_sql) VALUES
    ('all', 'all', '1 h', 'SELECT * FROM score ORDER BY score'),
    ('column', 'column', '1 h', 'SELECT score AS "Big" FROM score ORDER BY 1'),
    ('none', 'none', '1 h', 'SELECT 1 AS one WHERE false'),
    ('null', 'null', '1 h', 'SELECT NULL::int'),
    ('pair', 'pair:{a}:{b}', '1 h', 'SELECT {a} AS a, {b}::int AS b'),
    ('shared', 'shared:{a}', '1 h', 'SELECT {a}, {b}'),
    ('volatile', 'volatile', '1 h', 'SELECT random() < 2'),
    ('writes', 'writes', '1 h', 'DELETE FROM score RETURNING 1'),
    ('two', 'two', '1 h', 'SELECT 1; SELECT 2'),
    ('fails', 'fails', '1 h', 'SELECT 1 / 0'),
    ('locks', 'locks', '1 h', 'SELECT * FROM score FOR UPDATE');
SELECT perf.cached('user_risk_score', '{"user_id": 1}');
TRUNCATE score;
SELECT perf.cached('user_risk_score', '{"user_id": "1"}'), perf.cache_get('cache:risk:user:1');
INSERT INTO score VALUES (1, 10), (2, 30);
SELECT perf.cached('all'), perf.cached('column'), perf.cached('none'), perf.cached('null');
SELECT perf.cached('pair', '{"a": true, "b": 1}'), perf.cached('pair', '{"a": true, "b": 2}');
SELECT perf.cached('shared', '{"a": 1, "b": 2}');
SELECT perf.cached('volatile'), perf.cache_get('volatile') IS NULL AS is_not_stored;
BEGIN READ ONLY;
SELECT perf.cached('user_risk_score', '{"user_id": 2}'), perf.cache_get('cache:risk:user:2');
COMMIT;
SELECT perf.cached('no such policy');
SELECT perf.cached(NULL);
SELECT perf.cached('all', NULL);
SELECT perf.cached('all', '[]');
SELECT perf.cached('all', '{"x": 1}');
SELECT perf.cached('pair', '{"a": 1}');
SELECT perf.cached('pair', '{"a": 1, "b": null}');
SELECT perf.cached('pair', '{"a": "x:y", "b": 2}');
SELECT perf.cached('system_health');
SELECT perf.cached('writes');
SELECT perf.cached('two');
SELECT perf.cached('locks');
SELECT perf.cached('fails');
SELECT count(*) FROM score;

-- Row-level security: given, not stored.
ALTER TABLE score ENABLE ROW LEVEL SECURITY;
SELECT perf.cache_invalidate(key => 'all');
SELECT perf.cached('all'), perf.cache_get('all') IS NULL AS is_not_stored;
ALTER TABLE score DISABLE ROW LEVEL SECURITY;

-- Namespaces.
CREATE ROLE regress_cache_a;
CREATE ROLE regress_cache_b IN ROLE regress_cache_a;
GRANT USAGE ON SCHEMA perf TO PUBLIC;
SET ROLE regress_cache_a;
SELECT perf.cache_put('mine', '"of a"'), perf.cache_get('b');
SELECT count(*) FROM perf.cache_entry;
SET ROLE regress_cache_b;
SELECT perf.cache_get('mine');
SET perf_opt.cache_role = 'regress_cache_a';
SELECT perf.cache_get('mine');
SELECT perf.cached('all');
RESET perf_opt.cache_role;
SELECT perf.cache_put('mine', '"of b"');
SET ROLE regress_cache_a;
SET perf_opt.cache_role = 'regress_cache_b';
SELECT perf.cache_get('mine');
RESET perf_opt.cache_role;
SELECT perf.cache_invalidate(key => 'mine');
SELECT perf.cache_get('mine');
SET ROLE regress_cache_b;
SELECT perf.cache_get('mine');
-- Names of the caller's change nothing.
CREATE TEMP TABLE cache_entry_0 (id bigint);
SET search_path = pg_temp, perf, pg_catalog;
SELECT perf.cache_put('mine', '"again"'), perf.cache_get('mine');
RESET search_path;
RESET ROLE;
SELECT perf.cache_invalidate(key => 'mine');
DROP OWNED BY regress_cache_a, regress_cache_b;
DROP ROLE regress_cache_a, regress_cache_b;

DROP EXTENSION perf_opt;
CREATE EXTENSION perf_opt;
SELECT perf.cache_get('b'), perf.cache_put('b', '1');
SELECT perf.cache_get('b');
DROP TABLE score;

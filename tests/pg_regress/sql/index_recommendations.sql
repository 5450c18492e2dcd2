-- index_recommendations over given queries: what is found, what is not, and how. Costs are compared, never printed.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
CREATE SCHEMA index_advice;
SET search_path = index_advice;
CREATE TABLE orders (
    id int PRIMARY KEY, user_id int NOT NULL, created_at timestamp NOT NULL, status text NOT NULL, code int, amount numeric(10, 2)
) WITH (autovacuum_enabled = off);
INSERT INTO orders
SELECT g, (g * 7919) % 1000, timestamp '2026-01-01' + g * interval '1 minute', CASE g % 50 WHEN 0 THEN 'open' ELSE 'closed' END,
       (g * 31) % 5000, g % 97
  FROM generate_series(1, 30000) AS g;
CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO users SELECT g, 'user' || g || '@example.org' FROM generate_series(0, 5000) g;
VACUUM ANALYZE orders, users;

CREATE FUNCTION pg_temp.advice(VARIADIC queries text[]) RETURNS TABLE (relation text, columns text[], ddl text, improved int) LANGUAGE sql AS $$
    SELECT r.relation, r.columns, r.ddl, r.statements_improved FROM perf.index_recommendations(queries => advice.queries) r
     WHERE r.status = 'recommended' AND r.source = 'workload' ORDER BY r.relation, r.columns;
$$;
-- Equality then range; the order of conditions does not matter.
SELECT * FROM pg_temp.advice('SELECT * FROM orders WHERE created_at > ''2026-01-15'' AND user_id = 5');
-- Equality then order.
SELECT * FROM pg_temp.advice('SELECT * FROM orders WHERE user_id = 5 ORDER BY created_at DESC LIMIT 5');
-- Mixed directions.
SELECT * FROM pg_temp.advice('SELECT * FROM orders ORDER BY status, created_at DESC LIMIT 5');
-- A join, through a view and a subquery.
CREATE VIEW user_orders AS SELECT u.email, o.* FROM users u JOIN (SELECT * FROM orders) o ON o.user_id = u.id;
SELECT * FROM pg_temp.advice('SELECT * FROM user_orders WHERE email = ''user77@example.org''');
-- One index for two statements.
SELECT * FROM pg_temp.advice('SELECT * FROM orders WHERE user_id = 5 AND created_at > ''2026-01-15''', 'SELECT * FROM orders WHERE user_id = 6');
-- Writes that search.
SELECT * FROM pg_temp.advice('UPDATE orders SET status = ''closed'' WHERE code = 7');
-- OR needs both.
SELECT * FROM pg_temp.advice('SELECT * FROM orders WHERE code = 7 OR user_id = 9');
-- What exists is not recommended, nor what helps nothing.
SELECT * FROM pg_temp.advice('SELECT * FROM orders WHERE id = 7', 'SELECT count(*) FROM orders', 'SELECT * FROM pg_class WHERE relpages = 4');
CREATE INDEX known ON orders (user_id, created_at);
SELECT * FROM pg_temp.advice('SELECT * FROM orders WHERE user_id = 5', 'SELECT * FROM orders WHERE user_id = 5 AND created_at > ''2026-01-15''');
DROP INDEX known;
-- An index that every insert pays for and one query a day asks for is not worth it.
SELECT count(*) FROM perf.index_recommendations(queries => ARRAY['SELECT * FROM orders WHERE code = 7', 'INSERT INTO orders VALUES (0, 0, now(), '''', 0, 0)'],
    weights => ARRAY[1, 1000000]) WHERE status = 'recommended' AND source = 'workload';
-- Under a budget the bytes fit; the best set is a subset of what no budget allows.
SELECT sum(size_bytes) <= 500000 AS fits, count(*) > 0 AS some FROM perf.index_recommendations(storage_budget_bytes => 500000, queries => ARRAY[
    'SELECT * FROM orders WHERE user_id = 5', 'SELECT * FROM orders WHERE created_at > ''2026-01-21''', 'SELECT * FROM orders WHERE code = 7']) WHERE status = 'recommended';
-- Every column of a row.
SELECT id ~ '^idx-[0-9a-f]{16}$' AS id, priority, action, source, status, relation, columns, access_method, ddl, undo_ddl,
       size_bytes BETWEEN 100000 AND 2000000 AS size, benefit_pct BETWEEN 50 AND 100 AS benefit, benefit_ms_per_hour, statements_improved,
       best_speedup > 2 AS speedup, write_cost_pct, confidence, basis, policy_gain,
       reason LIKE '1 statement with 100.0 \% of the estimated time reads orders by user_id; %' AS reason,
       jsonb_path_exists(evidence, '$[0] ? (@.query_no == 1 && @.calls == 3 && @.cost_after < @.cost_before)') AS evidence,
       evidence -> 0 ->> 'plan_change' LIKE 'Seq Scan on orders -> %using orders_user_id_idx on orders' AS change
  FROM perf.index_recommendations(queries => '{SELECT * FROM orders WHERE user_id = 5}', weights => '{3}') WHERE source = 'workload';
-- The same advice has the same id, and its DDL runs; afterwards it is not repeated.
SELECT id, ddl, size_bytes FROM perf.index_recommendations(queries => '{SELECT * FROM orders WHERE user_id = 5}') WHERE status = 'recommended' AND source = 'workload' \gset
SELECT count(*) FROM perf.index_recommendations(queries => '{SELECT * FROM orders WHERE user_id = 6}') WHERE id = :'id';
:ddl;
SELECT abs(pg_relation_size('orders_user_id_idx') / :size_bytes::float8 - 1) < 0.05 AS size_as_built;
SELECT count(*) FROM perf.index_recommendations(queries => '{SELECT * FROM orders WHERE user_id = 5}') WHERE status = 'recommended';
-- Names: quoted, unused, under 63 bytes.
CREATE TABLE "Large ""Table" ("Ünï ""c" int, "a column with a name that is as long as a name may be, to the byte" int);
INSERT INTO "Large ""Table" SELECT g, g FROM generate_series(1, 20000) g;
ANALYZE "Large ""Table";
CREATE VIEW "Large ""Table_Ünï ""c_idx" AS SELECT 1;
SELECT ddl FROM perf.index_recommendations(queries => ARRAY['SELECT * FROM "Large ""Table" WHERE "Ünï ""c" = 4']) WHERE source = 'workload' \gset
SELECT :'ddl' AS ddl;
:ddl;
SELECT ddl, octet_length(replace(substring(ddl FROM 'CONCURRENTLY "(.*)" ON'), '""', '"')) < 63 AS short FROM perf.index_recommendations(queries => ARRAY['SELECT * FROM "Large ""Table" WHERE "a column with a name that is as long as a name may be, to the byte" = 4']) WHERE source = 'workload';
-- Partitioned tables get an index for each partition; materialized views are tables; temporary ones are not advised on.
CREATE TABLE parts (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
INSERT INTO parts SELECT g, date '2026-01-01' + g % 59 FROM generate_series(1, 30000) g;
CREATE MATERIALIZED VIEW totals AS SELECT user_id, created_at FROM orders;
CREATE TEMP TABLE passing AS SELECT * FROM orders;
ANALYZE parts, totals, passing;
SELECT ddl, undo_ddl FROM perf.index_recommendations(queries => '{SELECT * FROM parts WHERE id = 17}') WHERE source = 'workload';
SELECT * FROM pg_temp.advice('SELECT * FROM totals WHERE user_id = 17', 'SELECT * FROM passing WHERE user_id = 17');
-- Without statistics it says so.
CREATE TABLE fresh (a int) WITH (autovacuum_enabled = off);
INSERT INTO fresh SELECT g FROM generate_series(1, 20000) g;
SELECT confidence, reason LIKE '%run ANALYZE%' AS says_so FROM perf.index_recommendations(queries => '{SELECT * FROM fresh WHERE a = 17}') WHERE source = 'workload';
-- Out of time: fewer rows, never an error.
SET client_min_messages = error;
SELECT count(*) >= 0 AS answered FROM perf.index_recommendations(time_budget_ms => 1, queries => (SELECT array_agg('SELECT * FROM user_orders WHERE code = ' || g) FROM generate_series(1, 200) g));
SET client_min_messages = warning;
-- Nothing was created.
SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'index_advice'::regnamespace;

-- Bad input.
SELECT * FROM perf.index_recommendations(time_budget_ms => 0, queries => '{SELECT 1}');
SELECT * FROM perf.index_recommendations(time_budget_ms => NULL, queries => '{SELECT 1}');
SELECT * FROM perf.index_recommendations(storage_budget_bytes => -1, queries => '{SELECT 1}');
SELECT * FROM perf.index_recommendations(workload => 'everything');
SELECT * FROM perf.index_recommendations(workload => NULL);
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1,NULL}');
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1}', weights => '{1,2}');
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1}', weights => '{-1}');
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1}', weights => '{NaN}');
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1}', weights => '{NULL}');
SELECT * FROM perf.index_recommendations(weights => '{1}');
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1,SELECT nonsense FROM orders}');
SELECT * FROM perf.index_recommendations(queries => '{SELECT 1; SELECT 2}');
SELECT * FROM perf.index_recommendations(queries => '{VACUUM}');
SELECT count(*) FROM perf.index_recommendations(queries => '{}') WHERE source <> 'policy';
DROP SCHEMA index_advice CASCADE;

-- index_recommendations and the shipped index policy: every row comes back with what the workload says of it.
SET client_min_messages = warning;
SET max_parallel_workers_per_gather = 0;
CREATE SCHEMA index_policy_rows;
SET search_path = index_policy_rows;
CREATE TABLE users (id int PRIMARY KEY, last_login timestamp, segment int);
CREATE TABLE transactions (id int PRIMARY KEY, user_id int NOT NULL, created_at timestamp NOT NULL, amount int);
CREATE TABLE alerts (id int PRIMARY KEY, status text, severity text, triggered_at timestamp);
CREATE TABLE game_results (id int PRIMARY KEY, user_id int, played_at timestamp);
CREATE TABLE audit_events (id int PRIMARY KEY, created_at timestamp, admin_id int);
INSERT INTO users SELECT g, timestamp '2026-01-01' + g * interval '1 minute', g % 7 FROM generate_series(1, 20000) g;
INSERT INTO transactions SELECT g, (g * 7919) % 1000, timestamp '2026-01-01' + g * interval '1 minute', g % 97 FROM generate_series(1, 30000) g;
INSERT INTO alerts SELECT g, 'closed', 'low', timestamp '2026-01-01' + g * interval '1 minute' FROM generate_series(1, 20000) g;
INSERT INTO audit_events SELECT g, timestamp '2026-01-01' + g * interval '1 minute', g % 40 FROM generate_series(1, 20000) g;
CREATE INDEX alerts_by_status ON alerts (status, severity, triggered_at, id);
VACUUM ANALYZE users, transactions, alerts, audit_events;

-- Wanted by both, there already, of no use to any statement, read by none, table or column missing.
SELECT source, status, relation, columns, priority, basis, policy_gain, ddl IS NOT NULL AS ddl, benefit_pct > 1 AS benefit,
       CASE WHEN status <> 'recommended' THEN reason END AS reason
  FROM perf.index_recommendations(include_inapplicable => true, queries => ARRAY[
       'SELECT * FROM transactions WHERE user_id = 5 AND created_at > ''2026-01-15''',
       'SELECT segment, count(*) FROM users GROUP BY segment',
       'SELECT * FROM audit_events WHERE admin_id = 3'])
 ORDER BY source COLLATE "C", relation COLLATE "C";
-- Hidden unless asked for.
SELECT count(*) FROM perf.index_recommendations(queries => '{SELECT 1}') WHERE status = 'not_applicable';
-- Nothing measured: the policy's word, and it says so.
SELECT source, status, basis, confidence, benefit_pct, reason FROM perf.index_recommendations(queries => '{}')
 WHERE relation = 'index_policy_rows.transactions';
-- An index that serves the same statements and more makes the policy's own superfluous.
SELECT source, status, columns, reason LIKE '%transactions_user_id_amount%' AS names_rival
  FROM perf.index_recommendations(queries => ARRAY['SELECT * FROM transactions WHERE user_id = 5 AND amount = 7'])
 WHERE relation = 'index_policy_rows.transactions' ORDER BY source DESC;
-- A name that can be no table's is a missing table.
BEGIN;
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES (99, 'a.b.c.d', '{x}', 'low');
SELECT status, reason FROM perf.index_recommendations(include_inapplicable => true, queries => '{SELECT 1}') WHERE relation = 'a.b.c.d';
ROLLBACK;
SELECT * FROM perf.what_if('SELECT 1', without => '{a.b.c.d}');
-- Rows that ask for the same index are one: the first counts. It is the same however its table is written and whatever becomes of it.
BEGIN;
INSERT INTO perf.index_policy (policy_no, table_name, columns, priority) VALUES
    (91, 'transactions', '{amount}', 'low'), (92, 'index_policy_rows.transactions', '{amount}', 'high'), (93, 'transactions', '{amount,id}', 'low'),
    (94, 'gone', '{a}', 'medium'), (95, 'gone', '{a}', 'high'), (96, 'users', '{missing}', 'low');
CREATE VIEW rows AS SELECT id, source, relation, columns, priority, status FROM perf.index_recommendations(include_inapplicable => true, queries => ARRAY[
    'SELECT * FROM transactions WHERE amount = 5']) WHERE columns[1] IN ('amount', 'a', 'missing');
SELECT source, relation, columns, status, count(*) OVER (PARTITION BY id) AS of_this_id FROM rows ORDER BY relation, columns;
SELECT id FROM rows WHERE columns = '{amount}' \gset
CREATE INDEX ON transactions (amount);
SELECT relation, columns, priority, status FROM rows WHERE id = :'id';
ROLLBACK;
DROP SCHEMA index_policy_rows CASCADE;

-- What perf.statements(), perf.latency_histogram(), perf.reset() and perf.active_statements() show.
SET log_min_messages = warning; -- what parsing refuses is heard of where errors are logged
SELECT perf.reset() > 0 AS forgot_something;
CREATE VIEW captured AS
    SELECT toplevel, query, calls, failures, rows, last_sqlstate
    FROM perf.statements()
    WHERE query !~ '(FROM|VIEW) captured|perf\.' AND query <> '(other)'
      AND (toplevel OR query !~ '^DECLARE') -- from 18 on, what FETCH runs is counted as well
    ORDER BY query COLLATE "C", toplevel;

-- Literals are parameters; rows are those returned or affected.
CREATE TABLE captured_rows (id int PRIMARY KEY, name text);
SELECT perf.reset() > 0 AS forgot_something;
SELECT abs(1), 'a secret';
SELECT abs(2), 'another secret';
SELECT id FROM generate_series(1, 5) id WHERE id > 2 /* kept */;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM generate_series(1, 10) id WHERE id <> 3;
FETCH 4 FROM c;
COMMIT;
SELECT * FROM captured;

-- Failures have a queryid and an SQLSTATE, whenever they happen.
SELECT perf.reset() > 0 AS forgot_something;
SELECT 1 / 0;
SELECT id / 0 FROM generate_series(1, 3) id;
SELECT nothing FROM nowhere;
SELEC 1;
DO $$ BEGIN RAISE EXCEPTION 'a secret' USING ERRCODE = 'PO123'; END $$;
DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
SELECT * FROM captured;

-- Secrets: where one may stand outside of a literal, the command tag is all that is kept.
SELECT perf.reset() > 0 AS forgot_something;
CREATE ROLE regress_captured PASSWORD 'a secret';
ALTER ROLE regress_captured SET application_name TO a_secret;
SET application_name = a_secret;
RESET application_name;
COMMENT ON ROLE regress_captured IS 'a secret';
SELECT * FROM captured;
SELECT count(*) AS leaks FROM perf.statements(true) s WHERE s::text ~ 'a.secret';

-- Every number is there and agrees with the others.
SELECT perf.reset() > 0 AS forgot_something;
SELECT count(*) FROM generate_series(1, 1000);
SELECT count(*) FROM generate_series(1, 2000);
SELECT calls, mean_ms * calls - total_ms < 1e-6 AS mean_agrees, min_ms <= mean_ms AND mean_ms <= max_ms AS mean_between,
       min_ms <= p50_ms AND p50_ms <= p95_ms AND p95_ms <= p99_ms AND p99_ms <= max_ms AS percentiles_rise,
       abs(stddev_ms - (max_ms - min_ms) / 2) < 1e-6 AS stddev_of_two, plans, planning_total_ms > 0 AS planned,
       jit_ms, first_seen_at <= last_seen_at AS seen, username = current_user AS own, database = current_database() AS here
FROM perf.statements() WHERE query = 'SELECT count(*) FROM generate_series($1, $2)';
SELECT sum(h.calls) AS calls, bool_and(h.lower_ms < h.upper_ms) AS bounds_rise, min(h.lower_ms) <= s.min_ms AS covers_min,
       max(h.upper_ms) >= s.max_ms AS covers_max
FROM perf.statements() s, perf.latency_histogram(s.queryid) h
WHERE s.query = 'SELECT count(*) FROM generate_series($1, $2)' GROUP BY s.min_ms, s.max_ms;

-- Arguments that make no sense.
SELECT count(*) FROM perf.latency_histogram(0);
SELECT count(*) FROM perf.latency_histogram(NULL);
SELECT count(*) FROM perf.statements(NULL);
SELECT perf.reset(queryid => 0);
SELECT perf.reset(database => 'no such database');

-- reset() of one statement, and of one database.
SELECT perf.reset(queryid => queryid) FROM perf.statements() WHERE query = 'SELECT count(*) FROM generate_series($1, $2)';
SELECT count(*) FROM perf.statements() WHERE query = 'SELECT count(*) FROM generate_series($1, $2)';
SELECT perf.reset(database => current_database()) > 0 AS forgot_something;
SELECT count(*) FROM perf.active_statements() WHERE query IS NULL;

-- What others run is not shown, and is not to be forgotten.
GRANT USAGE ON SCHEMA perf TO regress_captured;
SELECT abs(7);
SET ROLE regress_captured;
SELECT DISTINCT query, queryid FROM perf.statements() WHERE username <> current_user;
SELECT perf.reset();
RESET ROLE;
GRANT pg_read_all_stats TO regress_captured;
SET ROLE regress_captured;
SELECT query, queryid IS NOT NULL AS has_id FROM perf.statements() WHERE query = 'SELECT abs($1)';
RESET ROLE;

RESET log_min_messages;
DROP VIEW captured;
DROP TABLE captured_rows;
REVOKE USAGE ON SCHEMA perf FROM regress_captured;
DROP ROLE regress_captured;

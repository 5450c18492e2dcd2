-- capacity_estimate and capacity_samples, on samples made up here: what the server itself has sampled is set aside first.
-- One snapshot for all of it, so that a sampler at work is not seen. Figures are rounded
-- so that the time of day does not show. Everything is undone at the end.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL TimeZone = 'UTC';
LOCK TABLE perf.capacity_sample IN ACCESS EXCLUSIVE MODE;
DELETE FROM perf.capacity_sample;
DO $$
DECLARE
    parent text;
    first timestamptz;
BEGIN
    -- Room for the past, up to the first partition there is.
    FOREACH parent IN ARRAY ARRAY['capacity_sample_1min', 'capacity_sample_1d'] LOOP
        SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$FROM \('([^']+)'\)$re$))[1]::timestamptz) INTO first
          FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = ('perf.' || parent)::regclass;
        EXECUTE format('CREATE TABLE perf.past_%1$s PARTITION OF perf.%1$I FOR VALUES FROM (%2$L) TO (%3$L)',
                       parent, '2001-01-01', coalesce(first, '2101-01-01'));
    END LOOP;
END
$$;
CREATE FUNCTION pg_temp.fake(metric text, object text, days int, value text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM perf.capacity_sample AS s WHERE s.metric = fake.metric;
    EXECUTE format('INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean, value_min, value_p95, value_max)
                    SELECT $1, $2, date_trunc(''day'', now()) - make_interval(days => $3 - d), 86400, v, v * 0.5, v * 1.5, v * 2
                      FROM generate_series(0, $3 - 1) AS d, LATERAL (SELECT (%s)::float8 AS v) AS w', value)
    USING metric, object, days;
END
$$;

-- Nothing sampled: what is now is measured, nothing is invented.
SELECT metric, unit, horizon, horizon_at = now() + horizon AS horizon_at_ok, current_value > 0 AS measured, projected,
       growth_per_quarter, model, history_days, quality, basis
FROM perf.capacity_estimate();
-- (How full the disk is depends on the machine.)
SELECT metric, trigger_name, crosses_at, action FROM perf.capacity_estimate('{1 week}') WHERE metric <> 'disk_used';

-- Ten days: a slope and a date, no projection.
SELECT pg_temp.fake('database_size_bytes', current_database(), 10, '1e9 + 1e7 * d');
SELECT projected, round(growth_per_quarter::numeric) AS growth, floor(history_days) AS days, quality, basis,
       replace(replace(action, to_char(now() - interval '10 days', 'YYYY-MM-DD'), 'FIRST'),
               to_char(now() + interval '5 days', 'YYYY-MM-DD'), 'READY') AS action
FROM perf.capacity_estimate('{1 week}') WHERE metric = 'database_size';

-- Twenty days: thirty days ahead and no further.
SELECT pg_temp.fake('database_size_bytes', current_database(), 20, '1.02e9 + 1e7 * d');
SELECT horizon, floor(projected / 1e8) AS projected, quality
FROM perf.capacity_estimate('{10 days,28 days,35 days,6 months}') WHERE metric = 'database_size';

-- Two hundred days: supported, low, extrapolated. Peaks are the highest of a day, qps the 95th percentile.
SELECT pg_temp.fake('database_size_bytes', current_database(), 200, '1.03e9 + 1e7 * d');
SELECT pg_temp.fake('connections_total', '', 200, '(10 + 0.1 * d) / 2');
SELECT pg_temp.fake('qps', current_database(), 200, '(1030 + 10 * d) / 1.5');
INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean)
SELECT 'qps', current_database(), now() - interval '1 hour', 60, 2990;
SELECT metric, horizon, floor(projected / CASE metric WHEN 'qps' THEN 1e2 ELSE 1e8 END) AS projected, projected_low <= projected AND projected <= projected_high AS ordered,
       round(growth_per_quarter::numeric) AS growth, trigger_name, trigger_value, round(extract(epoch FROM crosses_at - now()) / 86400) AS crosses_in_days,
       crosses_earliest_at <= crosses_at AND crosses_at <= crosses_latest_at AS dates_ordered,
       model, floor(history_days) AS days, round(backtest_error_pct::numeric, 1) AS error_pct, quality, basis
FROM perf.capacity_estimate('{100 days,190 days,1 year,2 years}') WHERE metric IN ('database_size', 'qps');
SELECT horizon, round(projected::numeric) AS projected, trigger_name, quality
FROM perf.capacity_estimate('{100 days}') WHERE metric = 'peak_connections';
SELECT regexp_replace(action, '\d{4}-\d\d-\d\d', 'DATE') AS action
FROM perf.capacity_estimate('{100 days,300 days,3 years}') WHERE metric = 'qps';

-- Used disk is the sum of databases, WAL and the rest.
SELECT pg_temp.fake('disk_used_bytes', 'data', 100, '5.05e9 + 3e7 * d');
SELECT pg_temp.fake('databases_size_bytes', '', 100, '1e9 + 2e7 * d');
SELECT pg_temp.fake('wal_dir_bytes', '', 100, '1e8');
SELECT floor(projected / 1e8) AS projected, model, quality FROM perf.capacity_estimate('{50 days}') WHERE metric = 'disk_used';

-- Days without samples, a month of them and two of every three before: the line is the same.
SELECT pg_temp.fake('database_size_bytes', current_database(), 200, '1.03e9 + 1e7 * d');
DELETE FROM perf.capacity_sample
 WHERE metric = 'database_size_bytes' AND (sampled_at BETWEEN now() - interval '90 days' AND now() - interval '60 days'
       OR sampled_at < now() - interval '90 days' AND extract(epoch FROM sampled_at)::bigint / 86400 % 3 > 0);
SELECT horizon, floor(projected / 1e8) AS projected, round(growth_per_quarter::numeric, -6) AS growth, quality
FROM perf.capacity_estimate('{100 days,190 days}') WHERE metric = 'database_size';
-- Restored at a tenth of its size forty days ago: it grows from there, and is never below nothing.
SELECT pg_temp.fake('database_size_bytes', current_database(), 200, 'CASE WHEN d < 160 THEN 1e10 + 1e7 * d ELSE 1e9 + 1e7 * (d - 160) END');
SELECT projected BETWEEN 1.3e9 AND 2.5e9 AS from_there, projected_low >= 0 AS sound, quality
FROM perf.capacity_estimate('{30 days}') WHERE metric = 'database_size';
-- Emptied, again and again: sawteeth.
SELECT pg_temp.fake('database_size_bytes', current_database(), 200, '1e9 + 1e8 * (d % 30)');
SELECT projected > 0 AS positive, projected_low >= 0 AND projected_low <= projected AND projected <= projected_high AS ordered
FROM perf.capacity_estimate('{30 days}') WHERE metric = 'database_size';
SELECT pg_temp.fake('database_size_bytes', current_database(), 200, '1.03e9 + 1e7 * d');

-- A trigger on connections that could never fire comes down to 90 % of max_connections; a reached one says so.
UPDATE perf.scaling_trigger SET threshold = 1e6 WHERE metric = 'peak_connections';
SELECT DISTINCT trigger_value = floor(0.9 * current_setting('max_connections')::int) AS lowered
FROM perf.capacity_estimate() WHERE metric = 'peak_connections';
UPDATE perf.scaling_trigger SET threshold = 2000 WHERE trigger_name = 'qps_replicas';
UPDATE perf.scaling_trigger SET threshold = 2500 WHERE trigger_name = 'qps_horizontal';
SELECT trigger_name, trigger_value, crosses_at = now() AS now, action FROM perf.capacity_estimate('{1 month}') WHERE metric = 'qps';
-- Without any trigger there is none.
DELETE FROM perf.scaling_trigger;
SELECT metric, trigger_name, trigger_value, crosses_at FROM perf.capacity_estimate('{1 month}');

-- Samples: one measured value is its own minimum and maximum.
SELECT pg_temp.fake('relation_size_bytes', 'public.t', 100, '1e6');
SELECT count(*), min(sampled_at) = date_trunc('day', now()) - interval '100 days' AS first_is_kept, min(object), min(value_min), min(value_p95), max(value_max)
FROM perf.capacity_samples('relation_size_bytes', NULL);
SELECT object = current_database() AS here, value_min, value_mean, value_p95, value_max
FROM perf.capacity_samples('qps', now() - interval '2 hours');
SELECT count(*) FROM perf.capacity_samples('qps', since => now() + interval '1 day');
SELECT count(*) FROM perf.capacity_samples('cpu_used_pct');

-- Every trigger has its dates, the lowest first.
SAVEPOINT s;
INSERT INTO perf.scaling_trigger (trigger_name, kind, metric, threshold, unit, priority, recommendation)
VALUES ('far', 'capacity', 'database_size', 3.25e9, 'bytes', 'low', 'Far.'),
       ('near', 'capacity', 'database_size', 3.13e9, 'bytes', 'low', 'Near.'),
       ('past', 'capacity', 'database_size', 1, 'bytes', 'low', 'Past.');
SELECT c ->> 'trigger_name' AS trigger, (c ->> 'trigger_value')::float8 AS value, c -> 'reached' AS reached,
       round(((c ->> 'crosses_on')::date - current_date) / 2.0) AS crosses_in_double_days,
       (c ->> 'crosses_earliest_on') <= (c ->> 'crosses_on') AS ordered, c ->> 'recommendation' AS recommendation
FROM perf.capacity_estimate('{15 days}'), LATERAL jsonb_array_elements(crossings) AS c WHERE metric = 'database_size';
ROLLBACK TO s;

-- Without samples the past is rebuilt from when rows were made: here ten a day for 100 days, in most of what there is.
DELETE FROM perf.capacity_sample;
CREATE TABLE regress_capacity_rows (id int, changed_at timestamptz, created_at timestamptz DEFAULT now(), body text);
ALTER TABLE regress_capacity_rows ALTER body SET STORAGE EXTERNAL;
INSERT INTO regress_capacity_rows
SELECT g, now() - interval '1 hour' * (random() + 0.1), now() - interval '2.4 hours' * (1000 - g), repeat('x', 100000) FROM generate_series(1, 1000) AS g;
ANALYZE regress_capacity_rows;
CREATE FUNCTION pg_temp.grown(OUT horizon interval, OUT growth numeric, OUT days_ok bool, OUT quality text, OUT basis text, OUT says_so bool)
RETURNS SETOF record LANGUAGE sql AS $$
SELECT horizon, round((growth_per_quarter / pg_total_relation_size('regress_capacity_rows') * 100 / 91.3125)::numeric, 1), floor(history_days) BETWEEN 99 AND 100,
       quality, basis, action LIKE 'Rebuilt from when the rows of 1 tables (%'
FROM perf.capacity_estimate('{28 days,190 days,300 days}') WHERE metric = 'database_size'
$$;
SELECT * FROM pg_temp.grown();
SELECT projected - current_value > 0 AS grows, quality,
       action LIKE '%All else on the disk is taken to have been as large as it is now.%' AS says_so
FROM perf.capacity_estimate('{30 days}') WHERE metric = 'disk_used';
-- However the session writes times; and with a date that no other type of time can hold, which is ahead of now.
SAVEPOINT s;
SET LOCAL DateStyle = 'SQL, DMY';
SET LOCAL TimeZone = 'Asia/Jakarta';
SELECT * FROM pg_temp.grown();
ROLLBACK TO s;
ALTER TABLE regress_capacity_rows ADD due_on date DEFAULT current_date;
UPDATE regress_capacity_rows SET due_on = '5874897-12-31' WHERE id <= 100;
ANALYZE regress_capacity_rows;
SELECT * FROM pg_temp.grown();
ALTER TABLE regress_capacity_rows DROP due_on;
-- A size that one may not ask for is none.
ROLLBACK TO s;
REVOKE CONNECT ON DATABASE :"DBNAME" FROM PUBLIC;
CREATE ROLE regress_capacity_reader;
GRANT USAGE ON SCHEMA perf TO regress_capacity_reader;
SET LOCAL ROLE regress_capacity_reader;
SELECT metric, current_value IS NULL AS unknown FROM perf.capacity_estimate('{30 days}') WHERE metric = 'database_size';
SELECT name, value FROM perf.metrics() WHERE name = 'database_size_bytes';
ROLLBACK TO s;
-- Samples are believed as soon as they are enough.
SELECT pg_temp.fake('database_size_bytes', current_database(), 20, '1e9');
SELECT horizon, quality FROM pg_temp.grown();
-- A time ahead of now says nothing of the past; nor does a column that is mostly NULL.
DELETE FROM perf.capacity_sample;
UPDATE regress_capacity_rows SET created_at = now() + interval '10 days' WHERE id > 900;
ALTER TABLE regress_capacity_rows DROP changed_at;
ANALYZE regress_capacity_rows;
SELECT * FROM pg_temp.grown();
UPDATE regress_capacity_rows SET created_at = CASE WHEN id < 500 THEN now() - interval '2.4 hours' * (1000 - id) END;
ANALYZE regress_capacity_rows;
SELECT horizon, quality FROM pg_temp.grown();

-- Wrong arguments.
SAVEPOINT s;
SELECT * FROM perf.capacity_samples('no_such_metric');
ROLLBACK TO s;
SELECT * FROM perf.capacity_samples(NULL);
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate(NULL);
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{1 year,NULL}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{-1 day}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{0}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{100 years 1 day}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{1000 years}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate('{178000000 years}');
ROLLBACK TO s;
SELECT * FROM perf.capacity_estimate(array_fill(interval '1 day', ARRAY[65]));
ROLLBACK TO s;

-- Everybody may ask; only a superuser takes samples.
CREATE ROLE regress_capacity_reader;
SET LOCAL ROLE regress_capacity_reader;
SELECT count(*) FROM perf.capacity_estimate();
SELECT count(*) >= 0 AS allowed FROM perf.capacity_samples('qps');
SELECT perf.capacity_sample_now();
ROLLBACK;

-- A read-only transaction may ask too.
BEGIN READ ONLY;
SELECT count(*) FROM perf.capacity_estimate('{1 month}');
SELECT perf.capacity_sample_now();
ROLLBACK;

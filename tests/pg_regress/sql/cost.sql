-- Costs: units first, money from perf.price alone.
SELECT item, quantity, resource_unit, unit_price, monthly_cost_low, monthly_cost_high, currency, basis,
       regexp_replace(note, '[0-9.]+ GiB(\.|$)', 'N GiB\1') AS note
FROM perf.cost_impact() WHERE basis IN ('policy', 'sum') AND item NOT LIKE 'r6i%';
SELECT item, quantity > 0 AS measured, resource_unit, unit_price, monthly_cost_low, currency, basis,
       note LIKE 'no price in perf.price%' AS no_price
FROM perf.cost_impact() WHERE basis = 'measured' AND item !~ '^(r6i|wal_size|disk:wal|disk:tablespace)' ORDER BY item;
SELECT abs(quantity - pg_database_size(current_database()) / 2 ^ 30) < 0.01 AS same FROM perf.cost_impact() WHERE item = 'database_size';
-- No history, no forecast. (What the server has sampled is set aside, and seen by nobody while it is.)
BEGIN ISOLATION LEVEL REPEATABLE READ;
LOCK TABLE perf.capacity_sample IN ACCESS EXCLUSIVE MODE;
DELETE FROM perf.capacity_sample;
SELECT item, quantity, resource_unit, monthly_cost_low, basis, note LIKE 'not measured; No samples yet%' AS says_why
FROM perf.cost_impact() WHERE item LIKE 'database_growth%';
-- 250 days of it: 10 MiB a day.
DO $$
DECLARE
    first timestamptz;
BEGIN
    SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$FROM \('([^']+)'\)$re$))[1]::timestamptz) INTO first
      FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'perf.capacity_sample_1d'::regclass;
    EXECUTE format('CREATE TABLE perf.past PARTITION OF perf.capacity_sample_1d FOR VALUES FROM (%L) TO (%L)',
                   '2001-01-01', coalesce(first, '2101-01-01'));
END
$$;
CREATE FUNCTION pg_temp.fake(days int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean)
    SELECT 'database_size_bytes', current_database(), date_trunc('day', now()) - make_interval(days => days - d), 86400,
           pg_database_size(current_database()) + (d - days) * 10 * 2 ^ 20
    FROM generate_series(0, days - 1) AS d
$$;
SELECT pg_temp.fake(250);
SELECT item, round(quantity::numeric, 1) AS gib, basis FROM perf.cost_impact() WHERE item LIKE 'database_growth%';

-- A measured item with a price, a unit that does not fit, a quantity nobody knows, one that is missing.
INSERT INTO perf.price (item, kind, resource_unit, quantity, unit_price_low, unit_price_high) VALUES
    ('replicas_connected', 'current', 'replica', NULL, 100, 200),
    ('database_growth_1_year', 'addition', 'month', NULL, 1, 1),
    ('support', 'addition', 'month', NULL, 10, 10),
    ('audit', 'addition', 'month', 1, NULL, NULL);
SELECT item, quantity, unit_price, monthly_cost_low, monthly_cost_high, basis, note FROM perf.cost_impact()
WHERE item IN ('replicas_connected', 'database_growth_1_year', 'support', 'audit', 'total_additions', 'total_afterwards') ORDER BY 1;
SELECT count(*) FROM perf.cost_impact() WHERE item = 'replicas_connected';
DELETE FROM perf.price WHERE item IN ('database_growth_1_year', 'support', 'audit');

-- Amounts of different currencies are not added.
UPDATE perf.price SET currency = 'EUR' WHERE item = 'redis';
SELECT item, monthly_cost_low, monthly_cost_high, currency, note FROM perf.cost_impact() WHERE basis = 'sum';

-- Not a number is no price and no quantity.
UPDATE perf.price SET unit_price_low = 'NaN', unit_price_high = 'NaN' WHERE item = 'redis';
UPDATE perf.price SET quantity = 'NaN' WHERE item = 'index_storage';
UPDATE perf.price SET unit_price_high = NULL WHERE item = 'platform_now';
SELECT item, quantity, monthly_cost_low, monthly_cost_high, currency, basis FROM perf.cost_impact()
WHERE item IN ('redis', 'index_storage', 'platform_now') OR basis = 'sum' ORDER BY 1;

-- Machines are for comparison. A price by the hour is of 730 hours.
UPDATE perf.price SET unit_price_low = 0.5, unit_price_high = 0.5 WHERE item = 'r6i.2xlarge';
SELECT item, quantity, resource_unit, unit_price, monthly_cost_low, currency, note FROM perf.cost_impact() WHERE item LIKE 'r6i%';

-- Without prices there are units only.
DELETE FROM perf.price;
SELECT count(*) > 5 AS units, count(monthly_cost_low) AS costs, count(currency) AS currencies, count(*) FILTER (WHERE basis IN ('sum', 'policy')) AS sums
FROM perf.cost_impact();

-- Everybody may ask.
CREATE ROLE regress_cost_reader;
SET LOCAL ROLE regress_cost_reader;
SELECT count(*) > 5 AS units FROM perf.cost_impact();
ROLLBACK;
BEGIN READ ONLY;
SELECT count(*) > 5 AS units FROM perf.cost_impact();
ROLLBACK;

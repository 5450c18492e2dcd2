-- scaling_recommendations: the contract, without a workload, with and without the policy. What the machine is does not show.
SELECT perf.reset() >= 0 AS reset;
SELECT id, kind, priority, triggered, metric, threshold, unit, basis, expected_benefit_pct
FROM perf.scaling_recommendations() WHERE kind NOT IN ('connection_pooling', 'vertical', 'horizontal');
SELECT id, metric, threshold, unit, expected_benefit_pct
FROM perf.scaling_recommendations() WHERE kind IN ('connection_pooling', 'vertical', 'horizontal');
SELECT kind, recommendation FROM perf.scaling_recommendations() WHERE kind IN ('materialized_view', 'partitioning');

BEGIN;
-- A trigger of one's own; one that is not there any more.
UPDATE perf.scaling_trigger SET threshold = 20 WHERE trigger_name = 'connections_pool';
DELETE FROM perf.scaling_trigger WHERE trigger_name IN ('qps_replicas', 'vertical_rw', 'horizontal_cpu');
SELECT kind, triggered, threshold FROM perf.scaling_recommendations()
WHERE kind NOT IN ('materialized_view', 'partitioning');
-- Nothing of the policy.
SELECT perf.clear_policy() > 0 AS cleared;
SELECT kind, count(*), bool_or(triggered) AS triggered, count(config) AS configs
FROM perf.scaling_recommendations() GROUP BY kind ORDER BY kind COLLATE "C";
ROLLBACK;

-- Views and tables of the policy, in the search path alone.
CREATE SCHEMA platform;
CREATE TABLE platform.alerts (id bigint, triggered_at timestamptz NOT NULL);
SELECT id FROM perf.scaling_recommendations() WHERE kind IN ('materialized_view', 'partitioning');
SET search_path = platform;
SELECT id, triggered, basis, config FROM perf.scaling_recommendations() WHERE kind IN ('materialized_view', 'partitioning');
RESET search_path;
DROP SCHEMA platform CASCADE;

-- It reads only.
BEGIN READ ONLY;
SELECT count(*) FROM perf.scaling_recommendations();
COMMIT;

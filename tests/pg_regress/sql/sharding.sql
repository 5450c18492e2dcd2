-- sharding_advice: arguments, an answer without any workload, and verdicts of a small one. Times do not show.
SELECT perf.reset() >= 0 AS reset;
SELECT * FROM perf.sharding_advice(NULL);
SELECT * FROM perf.sharding_advice(1);
SELECT * FROM perf.sharding_advice(nodes => 1001);

CREATE SCHEMA shards;
CREATE TABLE shards.plans (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE shards.tenants (id bigint PRIMARY KEY, plan_id int NOT NULL REFERENCES shards.plans);
CREATE TABLE shards.tasks (id bigint NOT NULL, tenant_id bigint NOT NULL REFERENCES shards.tenants, at date NOT NULL,
                           PRIMARY KEY (tenant_id, id));
INSERT INTO shards.plans SELECT g, 'plan' FROM generate_series(1, 5) AS g;
INSERT INTO shards.tenants SELECT g, g % 5 + 1 FROM generate_series(1, 500) AS g;
INSERT INTO shards.tasks SELECT g, g % 500 + 1, '2026-01-01' FROM generate_series(1, 5000) AS g;
ANALYZE shards.plans, shards.tenants, shards.tasks;

-- Nothing captured of any table.
SELECT perf.reset() >= 0 AS reset;
SELECT candidate_key, verdict, single_shard_pct, blockers, ddl, reason FROM perf.sharding_advice();

-- One tenant a transaction.
SELECT count(*) FROM shards.tasks WHERE tenant_id = 7;
SELECT count(*) FROM shards.tasks AS t JOIN shards.tenants AS n ON n.id = t.tenant_id WHERE n.id = 8;
SELECT p.name FROM shards.tenants AS n JOIN shards.plans AS p ON p.id = n.plan_id WHERE n.id = 9;
BEGIN;
UPDATE shards.tasks SET at = '2026-01-02' WHERE tenant_id = 3 AND id = 2;
SELECT count(*) FROM shards.tasks WHERE tenant_id = 3 AND at < '2026-05-01';
COMMIT;
SELECT single_shard_pct, cross_shard_pct, reference_tables, colocated_tables, blockers
FROM perf.sharding_advice() WHERE 'shards.tenants' = ANY (colocated_tables) AND 'shards.tasks' = ANY (colocated_tables);

-- Every tenant.
SELECT count(*) FROM shards.tasks WHERE at = '2026-01-01';
SELECT single_shard_pct, cross_shard_pct
FROM perf.sharding_advice() WHERE 'shards.tenants' = ANY (colocated_tables) AND 'shards.tasks' = ANY (colocated_tables);

-- Whoever asks changes nothing, and the search path is that of the caller afterwards.
BEGIN READ ONLY;
SET LOCAL search_path = shards;
SELECT count(*) > 0 AS answered FROM perf.sharding_advice(2);
SHOW search_path;
COMMIT;

DROP SCHEMA shards CASCADE;
SELECT perf.reset() >= 0 AS reset;

"""perf.sharding_advice(): the shape of captured statements, verdicts, blockers, and what it says when it cannot tell."""

from __future__ import annotations

from typing import Any, Optional

from .case import ClusterTest

SCHEMA = [
    "CREATE TABLE plans (id int PRIMARY KEY, name text NOT NULL)",
    "CREATE TABLE tenants (id bigserial PRIMARY KEY, plan_id int NOT NULL REFERENCES plans, name text NOT NULL)",
    "CREATE TABLE projects (id bigint NOT NULL, tenant_id bigint NOT NULL REFERENCES tenants, title text NOT NULL, "
    "PRIMARY KEY (tenant_id, id))",
    "CREATE TABLE tasks (id bigint NOT NULL, tenant_id bigint NOT NULL REFERENCES tenants, project_id bigint NOT NULL, "
    "done_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant_id, id), "
    "FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id))",
    "INSERT INTO plans SELECT g, 'plan ' || g FROM generate_series(1, 5) g",
    "INSERT INTO tenants SELECT g, g % 5 + 1, 'tenant ' || g FROM generate_series(1, 500) g",
    "INSERT INTO projects SELECT g, g % 500 + 1, 'project ' || g FROM generate_series(1, 5000) g",
    "INSERT INTO tasks SELECT g, p.tenant_id, p.id, NULL, now() - g * interval '1 minute' "
    "FROM generate_series(1, 20000) g JOIN projects p ON p.id = g % 5000 + 1",
    "ANALYZE",
]


class Advice(ClusterTest):
    """A workload of tenants."""

    settings = {"perf_opt.slow_ms": 10000}

    def setUp(self) -> None:
        super().setUp()
        self.db = self.fresh_database()
        for statement in SCHEMA:
            self.cluster.sql(statement, dbname=self.db)
        self.reset()

    def reset(self) -> None:
        self.cluster.sql("SELECT perf.reset()", dbname=self.db)

    def run_all(self, *statements: str, times: int = 5) -> None:
        """Runs statements, `%s` being a tenant, so many times with tenants of their own."""
        with self.cluster.connect(self.db) as session:
            for number in range(times):
                for statement in statements:
                    session.query(statement.replace("%s", str(number * 7 % 500 + 1)))

    def advice(self, nodes: int = 4) -> list[dict[str, Any]]:
        return self.cluster.result("SELECT * FROM perf.sharding_advice($1)", (nodes,), dbname=self.db).dicts()

    def best(self) -> dict[str, Any]:
        return self.advice()[0]

    def single(self, *statements: str, key: str = "tenant_id") -> Optional[float]:
        """Share of calls that touch one tenant, of this workload alone; None without such a key."""
        self.reset()
        self.run_all(*statements)
        rows = [row for row in self.advice() if row["candidate_key"] and (
            row["candidate_key"].endswith("." + key) or "public.tasks" in row["colocated_tables"] and
            "public.projects" in row["colocated_tables"])]
        return rows[0]["single_shard_pct"] if rows else None

    ONE = [
        # A value in a condition reaches whatever is held equal to it.
        "SELECT * FROM tasks WHERE tenant_id = %s",
        "SELECT * FROM tasks WHERE %s = tenant_id AND id > 5",
        "SELECT * FROM tasks WHERE tenant_id = %s::int AND created_at > now() - interval '1 day' LIMIT 5",
        "SELECT * FROM tasks t JOIN projects p USING (tenant_id) WHERE p.tenant_id = %s",
        "SELECT * FROM tasks t JOIN projects p USING (tenant_id) WHERE tenant_id = %s",
        "SELECT * FROM tasks t NATURAL JOIN (SELECT id AS project_id, tenant_id FROM projects) p WHERE tenant_id = %s",
        "SELECT * FROM tenants n LEFT JOIN tasks t ON t.tenant_id = n.id WHERE n.id = %s",
        "SELECT * FROM tasks t RIGHT JOIN tenants n ON t.tenant_id = n.id WHERE n.id = %s",
        "SELECT * FROM tenants n LEFT JOIN LATERAL (SELECT id FROM tasks t WHERE t.tenant_id = n.id LIMIT 3) x ON true "
        "WHERE n.id = %s",
        "SELECT *, (SELECT count(*) FROM tasks t WHERE t.tenant_id = n.id) FROM tenants n WHERE n.id = %s",
        "SELECT * FROM tenants n WHERE n.id = %s AND NOT EXISTS (SELECT FROM tasks t WHERE t.tenant_id = n.id)",
        "SELECT * FROM tenants n WHERE EXISTS (SELECT FROM tasks t WHERE t.tenant_id = n.id AND t.tenant_id = %s)",
        "SELECT * FROM projects WHERE tenant_id IN (SELECT id FROM tenants WHERE id = %s)",
        "SELECT * FROM projects WHERE (tenant_id, id) IN (SELECT tenant_id, project_id FROM tasks WHERE tenant_id = %s)",
        "SELECT * FROM projects WHERE tenant_id = (SELECT id FROM tenants WHERE id = %s)",
        "SELECT tenant_id, count(*) FROM tasks GROUP BY tenant_id HAVING tenant_id = %s",
        "SELECT * FROM (SELECT tenant_id, count(*) AS n FROM tasks GROUP BY tenant_id) x WHERE tenant_id = %s",
        "WITH x AS (SELECT * FROM tasks) SELECT * FROM x JOIN projects p ON p.tenant_id = x.tenant_id WHERE x.tenant_id = %s",
        "WITH x AS (SELECT * FROM tasks), y AS (SELECT * FROM x) SELECT * FROM y WHERE tenant_id = %s",
        "SELECT * FROM (SELECT tenant_id FROM tasks UNION ALL SELECT tenant_id FROM projects) x WHERE tenant_id = %s",
        "SELECT * FROM (SELECT * FROM tasks WHERE tenant_id = %s ORDER BY id LIMIT 3) t JOIN projects p USING (tenant_id)",
        "SELECT * FROM (SELECT DISTINCT ON (tenant_id) * FROM tasks ORDER BY tenant_id, id) x WHERE tenant_id = %s",
        "SELECT * FROM tasks_seen WHERE tenant_id = %s",
        "SELECT * FROM tasks_seen s JOIN projects p ON p.tenant_id = s.tenant_id WHERE p.tenant_id = %s",
        "SELECT * FROM tasks WHERE tenant_id = ANY (ARRAY[%s])",
        "SELECT * FROM tasks WHERE tenant_id IN (%s)",
        "SELECT * FROM tasks WHERE tenant_id = current_setting('app.tenant')::bigint",
        "SELECT * FROM tasks t JOIN projects p ON p.tenant_id = current_setting('app.tenant')::bigint "
        "WHERE t.tenant_id = current_setting('app.tenant')::bigint",
        "SELECT * FROM tasks WHERE tenant_id = %s FOR UPDATE",
        "TABLE plans",
        "UPDATE tasks SET done_at = now() WHERE tenant_id = %s AND id = 3",
        "UPDATE tasks t SET done_at = now() FROM projects p WHERE p.tenant_id = t.tenant_id AND p.tenant_id = %s",
        "DELETE FROM tasks WHERE tenant_id = %s AND id = 99999999",
        "DELETE FROM tasks t USING projects p WHERE t.tenant_id = p.tenant_id AND p.tenant_id = %s AND t.id = 99999999",
        "INSERT INTO projects (id, tenant_id, title) VALUES (nextval('numbers'), %s, 'x')",
        "INSERT INTO projects SELECT nextval('numbers'), id, 'x' FROM tenants WHERE id = %s",
        "INSERT INTO tenants (plan_id, name) VALUES (1, 'x')",
        "INSERT INTO projects VALUES (5, %s, 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET title = EXCLUDED.title",
        "WITH gone AS (DELETE FROM tasks WHERE tenant_id = %s AND id = 99999999 RETURNING tenant_id) "
        "UPDATE projects p SET title = 'y' FROM gone WHERE gone.tenant_id = p.tenant_id",
        "MERGE INTO projects p USING (SELECT %s::bigint AS tenant_id) s ON p.tenant_id = s.tenant_id AND p.id = 3 "
        "WHEN MATCHED THEN UPDATE SET title = 'z'",
    ]

    SEVERAL = [
        # A condition that leaves no row of the other table out says nothing of it.
        "SELECT * FROM tasks",
        "SELECT * FROM tasks WHERE tenant_id > %s",
        "SELECT * FROM tasks WHERE tenant_id <> %s",
        "SELECT * FROM tasks WHERE tenant_id = %s OR id = 5",
        "SELECT * FROM tasks WHERE NOT (tenant_id = %s)",
        "SELECT * FROM tasks WHERE tenant_id + 1 = %s",
        "SELECT * FROM tasks WHERE tenant_id NOT IN (SELECT id FROM tenants WHERE id = %s)",
        "SELECT * FROM tenants n LEFT JOIN tasks t ON t.tenant_id = n.id AND t.tenant_id = %s",
        "SELECT * FROM tenants n LEFT JOIN tasks t ON t.tenant_id = n.id AND n.id = %s",
        "SELECT * FROM tenants n LEFT JOIN (SELECT * FROM tasks WHERE tenant_id = %s) t ON t.tenant_id = n.id",
        "SELECT * FROM tenants n FULL JOIN (SELECT * FROM tasks WHERE tenant_id = %s) t ON t.tenant_id = n.id",
        "SELECT *, (SELECT count(*) FROM tasks t WHERE t.tenant_id = n.id AND t.tenant_id = %s) FROM tenants n",
        "SELECT * FROM tenants n WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.tenant_id = n.id AND t.tenant_id = %s)",
        "SELECT * FROM (SELECT * FROM tasks ORDER BY id LIMIT 5) x WHERE tenant_id = %s",
        "SELECT * FROM (SELECT tenant_id, row_number() OVER (ORDER BY id) FROM tasks) x WHERE tenant_id = %s",
        "SELECT * FROM tasks t JOIN projects p ON p.id = t.project_id WHERE t.tenant_id = %s",
        "SELECT * FROM tasks WHERE tenant_id = (random() * %s)::bigint",
        "SELECT * FROM (SELECT tenant_id FROM tasks UNION ALL SELECT 1::bigint FROM projects) x WHERE tenant_id = %s",
        "UPDATE tasks SET done_at = now()",
        "DELETE FROM tasks WHERE created_at < now() - interval '100 years'",
        "COPY tasks TO STDOUT",
    ]

    def test_statements_of_one_tenant(self) -> None:
        for statement in (
            "CREATE VIEW tasks_seen AS SELECT t.*, n.name FROM tasks t JOIN tenants n ON n.id = t.tenant_id",
            "CREATE SEQUENCE numbers START 100000",
            f"ALTER DATABASE {self.db} SET app.tenant = '7'",
        ):
            self.cluster.sql(statement, dbname=self.db)
        for statement in self.ONE:
            with self.subTest(statement):
                self.assertEqual(self.single(KEYED, statement), 100)
        for statement in self.SEVERAL:
            with self.subTest(statement):
                self.assertEqual(self.single(KEYED, statement), 50)


KEYED = "SELECT t.id FROM tasks t JOIN projects p USING (tenant_id) JOIN tenants n ON n.id = t.tenant_id WHERE n.id = %s"

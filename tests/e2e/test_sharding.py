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
            "SELECT setval('tenants_id_seq', 1000)",
            f"ALTER DATABASE {self.db} SET app.tenant = '7'",
        ):
            self.cluster.sql(statement, dbname=self.db)
        for statement in self.ONE:
            with self.subTest(statement):
                self.assertEqual(self.single(KEYED, statement), 100)
        for statement in self.SEVERAL:
            with self.subTest(statement):
                self.assertEqual(self.single(KEYED, statement), 50)

    def test_values_of_statements_in_functions(self) -> None:
        for statement in (
            "CREATE FUNCTION finish(tenant bigint, task bigint) RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE tasks t SET done_at = now() FROM projects p WHERE p.tenant_id = finish.tenant AND t.tenant_id = p.tenant_id "
            "AND t.id = task; END $$",
        ):
            self.cluster.sql(statement, dbname=self.db)
        self.assertEqual(self.single(KEYED, "SELECT finish(%s, 5)"), 100)
        self.assertNotIn("understood", self.best()["reason"])

    def test_transactions_of_several_tenants(self) -> None:
        with self.cluster.connect(self.db) as session:
            for number in range(200):
                one = number % 400 + 1
                other = one if number % 4 else one + 1
                session.query("BEGIN")
                session.query(f"SELECT * FROM tasks WHERE tenant_id = {one} AND id = 1")
                session.query(f"UPDATE tasks SET done_at = now() WHERE tenant_id = {other} AND id = {number}")
                session.query("COMMIT")
                session.execute("SELECT count(*) FROM tasks WHERE tenant_id IN ($1, 7)", (one,))
        best = self.best()
        self.assertEqual(best["candidate_key"], "public.tasks.tenant_id")
        self.assertIn("400 transactions were looked at", best["reason"])
        # A quarter of 200 touches two, and all but one of the other 200.
        self.assertAlmostEqual(best["cross_shard_pct"], 100 * (50 + 199) / 400, 3)
        self.assertAlmostEqual(best["single_shard_pct"], 100 * (150 + 1) / 400, 3)

    def test_functions_without_their_statements(self) -> None:
        self.cluster.sql("CREATE FUNCTION anything() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN 5; END'", dbname=self.db)
        self.cluster.sql(f"ALTER DATABASE {self.db} SET perf_opt.track = 'top'")
        self.reset()
        self.run_all(KEYED, "SELECT anything()")
        self.assertIn("what functions do was not captured", self.best()["reason"])

    def test_policies_of_row_security(self) -> None:
        for statement in (
            "CREATE ROLE tenant_app LOGIN",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO tenant_app",
            "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE projects ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON tasks USING (tenant_id = current_setting('app.tenant')::bigint)",
            "CREATE POLICY own ON projects USING (tenant_id = current_setting('app.tenant')::bigint)",
        ):
            self.cluster.sql(statement, dbname=self.db)
        self.addCleanup(self.cluster.sql, "DROP ROLE tenant_app")
        self.addCleanup(self.cluster.sql, "DROP OWNED BY tenant_app", dbname=self.db)
        self.reset()
        with self.cluster.connect(self.db, "tenant_app") as session:
            session.query("SET app.tenant = '7'")
            session.query("SELECT * FROM tasks t JOIN projects p ON p.id = t.project_id AND p.tenant_id = t.tenant_id")
            session.query("SELECT * FROM tasks, projects WHERE tasks.id = projects.id")
        best = self.best()
        self.assertEqual((best["candidate_key"], best["single_shard_pct"]), ("public.tasks.tenant_id", 100))

    def test_partitions_count_as_their_table(self) -> None:
        for statement in (
            "CREATE TABLE events (at date NOT NULL, tenant_id bigint NOT NULL, kind int) PARTITION BY RANGE (at)",
            # Its columns are in another order.
            "CREATE TABLE events_1 (kind int, tenant_id bigint NOT NULL, at date NOT NULL)",
            "ALTER TABLE events ATTACH PARTITION events_1 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
            "INSERT INTO events SELECT '2026-03-01', g % 400, 1 FROM generate_series(1, 4000) g",
            "ANALYZE events_1",
        ):
            self.cluster.sql(statement, dbname=self.db)
        self.reset()
        self.run_all("SELECT * FROM events_1 WHERE tenant_id = %s", "SELECT * FROM events WHERE tenant_id = %s")
        best = self.best()
        self.assertEqual((best["candidate_key"], best["single_shard_pct"]), ("public.events.tenant_id", 100))
        self.assertEqual(best["blockers"], [])

    def test_verdicts_follow_how_long_a_machine_lasts(self) -> None:
        # A statement for everybody is less than a tenth, and the others are long enough to be worth a node.
        self.run_all("SELECT count(*) FROM tasks t, projects p, generate_series(1, 2000) WHERE t.tenant_id = %s "
                     "AND p.tenant_id = t.tenant_id", times=10)
        best = self.best()
        self.assertEqual((best["verdict"], best["single_shard_pct"]), ("not_yet", 100), best)
        self.assertIn("not known yet", best["reason"])
        # One and a half percent more each month, on the largest machine there is.
        self.cluster.sql("DELETE FROM perf.price WHERE kind = 'instance'", dbname=self.db)
        self.sampled("40 + 1.5 * (d - 730) / 30.44")
        best = self.best()
        self.assertEqual(best["verdict"], "not_yet", best)
        self.assertRegex(best["reason"], r"a larger machine lasts (19|20|21) months, and is cheaper")
        self.sampled("60 + 1.5 * (d - 730) / 30.44")
        best = self.best()
        self.assertEqual(best["verdict"], "shard", best)
        self.assertIn("SELECT create_distributed_table('public.tenants', 'id');", best["ddl"])
        self.assertIn("SELECT create_distributed_table('public.tasks', 'tenant_id', colocate_with => 'public.tenants');", best["ddl"])
        self.assertIn("SELECT create_reference_table('public.plans');", self.after("SELECT l.name FROM tenants n JOIN plans l ON "
                                                                                  "l.id = n.plan_id WHERE n.id = %s")["ddl"])
        self.cluster.sql("DELETE FROM perf.scaling_trigger WHERE trigger_name IN ('horizontal_cpu', 'qps_horizontal')", dbname=self.db)
        self.assertEqual(self.best()["verdict"], "not_yet")

    def after(self, *statements: str) -> dict[str, Any]:
        self.run_all(*statements)
        return self.best()

    def sampled(self, value: str) -> None:
        """Two years of daily samples of processor time, `d` the number of the day; statements a second stay few."""
        with self.cluster.connect(self.db) as session:
            session.query("DELETE FROM perf.capacity_sample")
            session.query("DROP TABLE IF EXISTS perf.past_1d")
            first = session.query(
                "SELECT min((regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''([^'']+)''\\)'))[1]) FROM pg_inherits i "
                "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'perf.capacity_sample_1d'::regclass").rows[0][0]
            session.query("CREATE TABLE perf.past_1d PARTITION OF perf.capacity_sample_1d "
                          f"FOR VALUES FROM ('2001-01-01') TO ('{first or '2101-01-01'}')")
            session.query(
                "INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean, value_p95) "
                "SELECT m, o, date_trunc('day', now()) - make_interval(days => 730 - d), 86400, v, v FROM generate_series(0, 729) d, "
                f"LATERAL (VALUES ('cpu_used_pct', '', ({value})::float8), ('qps', current_database()::text, 50)) AS s (m, o, v)")

    def test_what_is_in_the_way(self) -> None:
        for statement in (
            "CREATE UNIQUE INDEX one_title ON projects (title, id)",
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER watch BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION keep()",
            "CREATE TABLE fresh (tenant_id bigint NOT NULL, note text)",
            "INSERT INTO fresh SELECT g, 'x' FROM generate_series(1, 300) g",
        ):
            self.cluster.sql(statement, dbname=self.db)
        self.reset()
        self.run_all("SELECT count(*) FROM tasks t, projects p, generate_series(1, 2000) WHERE t.tenant_id = %s "
                     "AND p.tenant_id = t.tenant_id", "SELECT * FROM fresh WHERE tenant_id = %s")
        blockers = "\n".join(self.best()["blockers"])
        for expected in ("one_title of public.projects: must contain the key tenant_id", "trigger watch of public.tasks",
                         "public.fresh: has no statistics"):
            self.assertIn(expected, blockers)

    def test_updated_and_nullable_keys_are_none(self) -> None:
        self.run_all(KEYED, "UPDATE tasks SET tenant_id = tenant_id + 0 WHERE id = -%s")
        self.assertIn("public.tasks.tenant_id is updated", "".join(row["reason"] for row in self.advice()))

    def test_what_is_gone_or_of_a_session_is_said_or_left_out(self) -> None:
        self.cluster.sql("CREATE TABLE gone (tenant_id bigint)", dbname=self.db)
        self.reset()
        with self.cluster.connect(self.db) as session:
            session.query("CREATE TEMP TABLE mine (tenant_id bigint)")
            session.query("INSERT INTO mine VALUES (1)")
            session.query("SELECT * FROM gone WHERE tenant_id = 5")
            session.query("SELECT * FROM pg_class WHERE oid = 5")
            session.query("DROP TABLE gone")
        row = self.best()
        self.assertEqual((row["candidate_key"], row["verdict"]), (None, "not_yet"))
        self.assertRegex(row["reason"], r'2 statements .* are not understood \(relation "(gone|mine)" does not exist\)')
        self.run_all(KEYED)
        best = self.best()
        self.assertIn("not understood", best["reason"])
        # Of the transactions that named them nobody knows.
        self.assertAlmostEqual(best["single_shard_pct"], 100 * 5 / 7, 3)
        self.assertEqual((best["cross_shard_pct"], best["verdict"]), (0, "not_yet"))
        self.assertIn("did more than is known", best["reason"])

    def test_long_transactions_are_not_left_out(self) -> None:
        with self.cluster.connect(self.db) as session:
            for number in range(20):
                session.query("BEGIN")
                for tenant in range(100 if number % 2 else 1):
                    session.query(f"SELECT * FROM tasks WHERE tenant_id = {tenant + 1} AND id = {tenant + 1}")
                session.query("COMMIT")
        best = self.best()
        self.assertEqual((best["single_shard_pct"], best["cross_shard_pct"]), (50, 50), best)

    def test_literals_that_must_stay(self) -> None:
        """Texts that are no SQL once normalised are looked at as they were sent."""
        self.assertEqual(self.single(KEYED, "SELECT tenant_id::numeric(20,0), count(*) FROM tasks WHERE tenant_id = %s GROUP BY 1"), 100)
        self.assertNotIn("understood", self.best()["reason"])

    def test_names_that_need_quotes(self) -> None:
        with self.cluster.connect(self.db) as session:
            session.query('CREATE SCHEMA "Odd s"')
            session.query('CREATE TABLE "Odd s"."it\'s" ("tenant key" bigint NOT NULL, b int)')
            session.query('INSERT INTO "Odd s"."it\'s" SELECT g, g FROM generate_series(1, 1000) g')
            session.query("ANALYZE")
            self.reset()
            for n in range(5):
                session.query(f'SELECT count(*) FROM "Odd s"."it\'s", generate_series(1, 100000) WHERE "tenant key" = {n}')
        best = self.best()
        self.assertEqual(best["candidate_key"], '"Odd s"."it\'s".tenant key')
        self.assertEqual(best["ddl"], "SELECT create_distributed_table('\"Odd s\".\"it''s\"', 'tenant key');")

    def test_the_ddl_runs(self) -> None:
        """By functions of the names, arguments and rules that the documentation of Citus gives."""
        for statement in CITUS:
            self.cluster.sql(statement, dbname=self.db)
        self.run_all(KEYED, "SELECT l.name FROM tenants n JOIN plans l ON l.id = n.plan_id WHERE n.id = %s")
        best = self.best()
        self.assertEqual(best["blockers"], [])
        with self.cluster.connect(self.db) as session:
            session.query(best["ddl"])
            self.assertEqual(session.query("SELECT relation::text, key FROM laid ORDER BY relation::text").rows,
                             [("plans", None), ("projects", "tenant_id"), ("tasks", "tenant_id"), ("tenants", "id")])

    def test_what_the_ddl_would_fail_on_is_said(self) -> None:
        for statement in CITUS:
            self.cluster.sql(statement, dbname=self.db)
        for what, change, back, blocker in (
            ("a key of another type", "ALTER TABLE projects DROP CONSTRAINT projects_tenant_id_fkey, ALTER tenant_id TYPE int",
             "ALTER TABLE projects ALTER tenant_id TYPE bigint, ADD FOREIGN KEY (tenant_id) REFERENCES tenants",
             "public.projects.tenant_id is of type integer, public."),
            ("a circle", "ALTER TABLE tenants ADD FOREIGN KEY (id) REFERENCES roots; ALTER TABLE roots ADD FOREIGN KEY (tenant_id) REFERENCES tenants",
             "ALTER TABLE tenants DROP CONSTRAINT tenants_id_fkey", "refer to each other in a circle"),
            ("a key that is cleared", "ALTER TABLE projects ADD CONSTRAINT clears FOREIGN KEY (tenant_id) REFERENCES tenants ON DELETE SET NULL",
             "ALTER TABLE projects DROP CONSTRAINT clears", "foreign key clears of public.projects to public.tenants: must not change the key"),
            ("a key that is not unique", "CREATE UNIQUE INDEX one_title ON projects (title)", "DROP INDEX one_title",
             "one_title of public.projects: must contain the key tenant_id"),
        ):
            with self.subTest(what):
                self.cluster.sql("CREATE TABLE IF NOT EXISTS roots (tenant_id bigint PRIMARY KEY)", dbname=self.db)
                self.cluster.sql("INSERT INTO roots SELECT id FROM tenants ON CONFLICT DO NOTHING; ANALYZE roots", dbname=self.db)
                self.cluster.sql(change, dbname=self.db)
                self.cluster.sql("ANALYZE", dbname=self.db)
                self.reset()
                self.run_all(KEYED, "SELECT * FROM roots r JOIN tenants n ON n.id = r.tenant_id WHERE n.id = %s")
                best = self.best()
                self.assertIn(blocker, "\n".join(best["blockers"]))
                self.assert_sql_error("0A000", self.cluster, best["ddl"], dbname=self.db)
                self.cluster.sql(back, dbname=self.db)

    def test_what_others_run_is_theirs(self) -> None:
        self.run_all(KEYED)
        self.cluster.sql("CREATE ROLE nobody LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE nobody")
        asked = "SELECT candidate_key, reason FROM perf.sharding_advice()"
        (key, reason), = self.cluster.sql(asked, dbname=self.db, user="nobody")
        self.assertIsNone(key)
        self.assertIn("are of other roles", reason)
        self.cluster.sql("GRANT pg_read_all_stats TO nobody")
        (key, reason), = self.cluster.sql(asked, dbname=self.db, user="nobody")
        self.assertIsNone(key)
        self.assertIn("are of other roles", reason)
        self.cluster.sql("GRANT postgres TO nobody")
        rows = self.cluster.sql(asked, dbname=self.db, user="nobody")
        self.assertEqual(rows[0][0], "public.tasks.tenant_id")

    def test_code_in_literals_never_runs_as_the_caller(self) -> None:
        with self.cluster.connect(self.db) as session:
            for statement in (
                "CREATE ROLE mallory LOGIN",
                "CREATE SCHEMA m AUTHORIZATION mallory",
                "CREATE ROLE reader LOGIN",
                "GRANT pg_read_all_stats TO reader",
                "SET ROLE mallory",
                "GRANT USAGE ON SCHEMA m TO PUBLIC",
                # No rollback takes back what a sequence was set to.
                "CREATE SEQUENCE m.ran_as",
                "GRANT ALL ON SEQUENCE m.ran_as TO PUBLIC",
                "CREATE FUNCTION m.f(text) RETURNS boolean LANGUAGE sql AS "
                "$$ SELECT setval('m.ran_as', current_user::regrole::oid::bigint) > 0 $$",
                "CREATE DOMAIN m.d AS text",
                "CREATE TYPE m.c AS (a m.d)",
            ):
                session.query(statement)
        self.addCleanup(self.cluster.sql, "DROP ROLE mallory")
        self.addCleanup(self.cluster.sql, "DROP OWNED BY mallory", dbname=self.db)
        self.addCleanup(self.cluster.sql, "DROP ROLE reader")
        self.reset()
        with self.cluster.connect(self.db, "mallory") as session:
            for _ in range(5):
                session.query("SELECT m.c '(1)'")
            # From here on reading the literal runs the function.
            session.query("ALTER DOMAIN m.d ADD CHECK (m.f(VALUE)) NOT VALID")
        self.advice()
        ran_as = "SELECT pg_get_userbyid(last_value::oid) FROM m.ran_as"
        self.assertEqual(self.cluster.scalar(ran_as, dbname=self.db), "mallory")
        self.cluster.sql("SELECT setval('m.ran_as', 1)", dbname=self.db)
        self.cluster.sql("SELECT perf.sharding_advice()", dbname=self.db, user="reader")
        self.assertEqual(self.cluster.scalar("SELECT last_value FROM m.ran_as", dbname=self.db), 1)
        with self.cluster.connect(self.db) as session:
            session.query("REASSIGN OWNED BY mallory TO postgres")
            session.query("DROP ROLE mallory")
            session.query("CREATE ROLE mallory")
        self.advice()
        self.assertEqual(self.cluster.scalar("SELECT last_value FROM m.ran_as", dbname=self.db), 1)

    def test_a_lock_is_not_waited_for(self) -> None:
        self.run_all(KEYED)
        with self.cluster.connect(self.db) as session:
            session.query("BEGIN; LOCK TABLE tasks")
            self.assertIn("lock timeout", self.best()["reason"])
        self.assertEqual(self.cluster.scalar("SHOW lock_timeout", dbname=self.db), "0")

    def test_nothing_is_left_behind(self) -> None:
        self.run_all(KEYED)
        with self.cluster.connect(self.db) as session:
            session.query("SET search_path = pg_temp")
            session.query("BEGIN")
            session.query("SELECT * FROM perf.sharding_advice()")
            self.assertEqual(session.query("SHOW search_path").rows, [("pg_temp",)])
            locks = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'public.tasks'::regclass"
            self.assertEqual(session.query(locks).rows, [(0,)])
            self.assertEqual(session.query("SELECT pg_current_xact_id_if_assigned()").rows, [(None,)])

    def test_arguments(self) -> None:
        for nodes in ("NULL", "1", "0", "-4", "1001"):
            self.assert_sql_error("22023", self.cluster, f"SELECT * FROM perf.sharding_advice({nodes})", dbname=self.db)
        self.cluster.sql("SELECT * FROM perf.sharding_advice(1000)", dbname=self.db)


class Servers(ClusterTest):
    """Other servers than a primary with the library preloaded."""

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": "", "perf_opt.collector": None})
        name = self.fresh_database(cluster)
        problem = self.assert_sql_error("55000", cluster, "SELECT * FROM perf.sharding_advice()", dbname=name)
        self.assertIn("shared_preload_libraries", problem.message)
        kinds = cluster.sql("SELECT kind, count(*) FROM perf.scaling_recommendations() GROUP BY 1 ORDER BY 1", dbname=name)
        self.assertEqual([kind for kind, _ in kinds], sorted(KINDS))

    def test_standby(self) -> None:
        primary = self.private_cluster({})
        name = self.fresh_database(primary)
        for statement in SCHEMA:
            primary.sql(statement, dbname=name)
        standby = primary.standby()
        primary.wait_for_replay(standby)
        with standby.connect(name) as session:
            for number in range(5):
                session.query(KEYED.replace("%s", str(number)))
            rows = session.query("SELECT candidate_key, single_shard_pct FROM perf.sharding_advice()").rows
            self.assertEqual(rows[0], ("public.tasks.tenant_id", 100))
            kinds = session.query("SELECT DISTINCT kind FROM perf.scaling_recommendations()").rows
            self.assertEqual(sorted(kind for kind, in kinds), sorted(KINDS))


KINDS = ("read_replicas", "connection_pooling", "materialized_view", "partitioning", "vertical", "horizontal")


KEYED = "SELECT t.id FROM tasks t JOIN projects p USING (tenant_id) JOIN tenants n ON n.id = t.tenant_id WHERE n.id = %s"


# Signatures and rules are those of Citus 10.2 and later, as far as emitted statements meet them: arguments by name, the column
# by its very name, foreign keys only to what is distributed already and with the key in them, unique constraints with the key,
# keys of one type in a group, no action of a foreign key that changes the key.
CITUS = [
    "CREATE SCHEMA citus",
    "CREATE TYPE citus.distribution_type AS ENUM ('hash', 'range', 'append')",
    # What is distributed already, in the session that asks for it.
    "CREATE FUNCTION ready() RETURNS void LANGUAGE sql AS "
    "'CREATE TEMP TABLE IF NOT EXISTS laid (relation regclass PRIMARY KEY, key name)'",
    """
CREATE FUNCTION refuse(why text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION '%', why USING ERRCODE = 'feature_not_supported';
END $$""",
    """
CREATE FUNCTION create_reference_table(table_name regclass) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    PERFORM ready();
    PERFORM refuse('refers to ' || confrelid::regclass) FROM pg_constraint
      WHERE contype = 'f' AND conrelid = table_name AND confrelid <> table_name
        AND confrelid NOT IN (SELECT relation FROM laid WHERE key IS NULL);
    INSERT INTO laid VALUES (table_name, NULL);
END $$""",
    """
CREATE FUNCTION create_distributed_table(table_name regclass, distribution_column text,
                                         distribution_type citus.distribution_type DEFAULT 'hash',
                                         colocate_with text DEFAULT 'default', shard_count int DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    own pg_attribute;
    other pg_attribute;
BEGIN
    PERFORM ready();
    SELECT * INTO STRICT own FROM pg_attribute WHERE attrelid = table_name AND attname = distribution_column;
    IF colocate_with <> 'default' THEN
        SELECT a.* INTO STRICT other FROM laid l JOIN pg_attribute a ON a.attrelid = l.relation AND a.attname = l.key
         WHERE l.relation = colocate_with::regclass;
        IF (own.atttypid, own.attcollation) IS DISTINCT FROM (other.atttypid, other.attcollation) THEN
            PERFORM refuse('keys of ' || table_name || ' and ' || colocate_with || ' are of different types');
        END IF;
    END IF;
    PERFORM refuse(indexrelid::regclass || ' lacks the key') FROM pg_index
      WHERE indrelid = table_name AND indisunique AND own.attnum <> ALL (indkey);
    PERFORM refuse('foreign key ' || k.conname) FROM pg_constraint k
      LEFT JOIN laid l ON l.relation = CASE k.confrelid WHEN table_name THEN NULL ELSE k.confrelid END
      WHERE k.contype = 'f' AND k.conrelid = table_name
        AND (l.relation IS NULL AND k.confrelid <> table_name
             OR coalesce(l.key, CASE k.confrelid WHEN table_name THEN distribution_column::name END) IS NOT NULL AND NOT EXISTS (
                    SELECT FROM unnest(k.conkey, k.confkey) AS u (ours, theirs) JOIN pg_attribute a
                        ON a.attrelid = k.confrelid AND a.attnum = u.theirs
                     WHERE u.ours = own.attnum AND a.attname = coalesce(l.key, distribution_column::name))
             OR own.attnum = ANY (k.conkey) AND (k.confdeltype IN ('n', 'd') OR k.confupdtype IN ('c', 'n', 'd')));
    INSERT INTO laid VALUES (table_name, distribution_column);
END $$""",
]

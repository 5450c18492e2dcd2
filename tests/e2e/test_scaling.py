"""perf.scaling_recommendations(): what is measured, what is only the policy's, and configuration that works."""

from __future__ import annotations

import json
from typing import Any

from .case import ClusterTest
from .cluster import Cluster

KINDS = ["read_replicas", "connection_pooling", "materialized_view", "partitioning", "vertical", "horizontal"]


class ScalingTest(ClusterTest):
    """Looks rows up by kind."""

    def setUp(self) -> None:
        super().setUp()
        self.db = self.fresh_database()
        # Makes the partitions that samples go to; what it has measured is set aside.
        self.cluster.sql("SELECT perf.capacity_sample_now()", dbname=self.db)
        self.cluster.sql("DELETE FROM perf.capacity_sample", dbname=self.db)
        self.cluster.sql("DELETE FROM perf.pool_hour", dbname=self.db)
        self.reset()

    def reset(self) -> None:
        self.cluster.sql("SELECT perf.reset()", dbname=self.db)

    def rows(self, kind: str, user: str = "postgres") -> list[dict[str, Any]]:
        """The rows of a kind, evidence read."""
        rows = self.cluster.result("SELECT * FROM perf.scaling_recommendations() WHERE kind = $1", (kind,), dbname=self.db,
                                   user=user).dicts()
        for row in rows:
            if isinstance(row["evidence"], str):
                row["evidence"] = json.loads(row["evidence"])
        return rows

    def row(self, kind: str, **options: Any) -> dict[str, Any]:
        """The only row of a kind."""
        rows = self.rows(kind, **options)
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def sample(self, metric: str, value: float, resolution_s: int = 60, object_name: str = "") -> None:
        """An hour of samples of one value."""
        self.cluster.sql(
            "INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean, value_p95, value_max) "
            "SELECT $1, $2, now() - make_interval(secs => g), $3, $4, $4, $4 FROM generate_series(1, 5) g",
            (metric, object_name, resolution_s, value), dbname=self.db)


class Kinds(ScalingTest):
    """Each kind on a small database."""

    settings = {"perf_opt.slow_ms": 10000, "perf_opt.collector": "off", "max_connections": 100}

    def test_every_kind_answers(self) -> None:
        asked = "SELECT id, kind, priority, basis, recommendation, reason FROM perf.scaling_recommendations()"
        rows = self.cluster.sql(asked, dbname=self.db)
        self.assertEqual([row[1] for row in rows], KINDS)
        self.assertEqual([row[0] for row in rows], [f"scaling:{kind}" for kind in KINDS])
        for _, kind, priority, basis, recommendation, reason in rows:
            self.assertEqual(priority, "low", kind)
            self.assertRegex(recommendation, r"^(Don't|Not yet)", kind)
            self.assertTrue(reason.endswith("."), reason)
            self.assertNotIn("..", reason)
        again = self.cluster.sql(asked, dbname=self.db)
        self.assertEqual([row[:2] for row in again], [row[:2] for row in rows])

    def test_without_any_policy(self) -> None:
        self.cluster.sql("SELECT perf.clear_policy()", dbname=self.db)
        rows = self.cluster.sql("SELECT kind, triggered, threshold, config FROM perf.scaling_recommendations()", dbname=self.db)
        self.assertEqual([row[0] for row in rows], KINDS)
        for kind, triggered, threshold, config in rows:
            self.assertFalse(triggered, kind)
            if kind != "partitioning":
                self.assertIsNone(threshold, kind)
            self.assertIsNone(config, kind)
        self.cluster.sql("SELECT perf.load_policy()", dbname=self.db)
        self.cluster.sql("UPDATE perf.scaling_trigger SET settings = '{\"pool_size\": \"many\"}'", dbname=self.db)
        self.assertEqual(len(self.cluster.sql("SELECT * FROM perf.scaling_recommendations()", dbname=self.db)), 6)

    def workload(self) -> None:
        """Reports that only read, a shop that does both."""
        with self.cluster.connect(self.db, application_name="setup") as session:
            session.query("CREATE TABLE orders (id bigserial PRIMARY KEY, customer bigint NOT NULL, amount numeric NOT NULL)")
            session.query("INSERT INTO orders (customer, amount) SELECT g % 1000, g FROM generate_series(1, 100000) g")
            session.query("ANALYZE")
        # A role of its own: what a role has just written it must read where it wrote it.
        self.cluster.sql("CREATE ROLE reporter LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE reporter")
        self.cluster.sql("GRANT SELECT ON orders TO reporter", dbname=self.db)
        self.addCleanup(self.cluster.sql, "DROP OWNED BY reporter", dbname=self.db)
        self.reset()
        with self.cluster.connect(self.db, "reporter", application_name="report") as session:
            for _ in range(10):
                session.query("SELECT customer, sum(amount) FROM orders GROUP BY customer ORDER BY 2 DESC LIMIT 10")
        with self.cluster.connect(self.db, application_name="shop") as session:
            for number in range(1, 21):  # each of them is there to be written
                session.query(f"BEGIN; SELECT count(*) FROM orders WHERE customer = {number}; "
                              f"UPDATE orders SET amount = 1 WHERE id = {number}; COMMIT")
                session.query(f"SELECT * FROM orders WHERE id = {number} FOR UPDATE")

    def test_replicas_take_what_only_reads(self) -> None:
        self.workload()
        self.sample("qps", 6000, object_name=self.db)
        row = self.row("read_replicas")
        parts = {part["application"]: part for part in row["evidence"]["parts"]}
        self.assertEqual(parts["report"]["target"], "replica", parts)
        self.assertEqual(parts["shop"]["target"], "primary", parts)
        self.assertAlmostEqual(row["expected_benefit_pct"], parts["report"]["offloadable_pct"], 3)
        self.assertGreater(row["expected_benefit_pct"], 20)
        self.assertEqual((row["triggered"], row["basis"], row["threshold"], row["measured_value"]), (True, "measured", 5000, 6000))
        self.assertRegex(row["recommendation"], r"^Add \d read replicas")
        report = row["config"].index("application report")
        self.assertIn("target_session_attrs=prefer-standby", row["config"][report:])
        shop = row["config"].index("application shop")
        self.assertIn("target_session_attrs=read-write", row["config"][shop:])
        self.assertEqual(row["evidence"]["by"], "transactions")

    def test_names_of_others_are_not_told(self) -> None:
        self.workload()
        self.cluster.sql("CREATE ROLE stranger LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE stranger")
        for kind in KINDS:
            told = json.dumps(self.rows(kind, user="stranger"))
            for secret in ("shop", "report", "customer"):
                self.assertNotIn(secret, told, kind)

    def test_a_summary_becomes_a_view(self) -> None:
        with self.cluster.connect(self.db) as session:
            session.query("CREATE TABLE sales AS SELECT g % 20 AS shop, g AS amount, repeat('x', 50) AS note FROM generate_series(1, 200000) g")
            session.query("ANALYZE")
            self.reset()
            for _ in range(30):
                session.query("SELECT shop, sum(amount) AS total FROM sales GROUP BY shop")
                session.query("SELECT count(*) FROM sales WHERE shop = 5")
        rows = {row["evidence"]["queryid"]: row for row in self.rows("materialized_view")}
        whole, = [row for row in rows.values() if row["config"]]
        # Some seconds say nothing of an hour.
        self.assertEqual((whole["triggered"], whole["basis"], whole["priority"]), (False, "none", "low"))
        self.assertEqual((whole["expected_benefit_pct"], whole["measured_value"]), (None, None))
        self.assertIn("Not yet, but then answer statement", whole["recommendation"])
        self.assertIn("CREATE MATERIALIZED VIEW", whole["config"])
        for statement in whole["config"].strip().split(";\n"):
            self.cluster.sql(statement.rstrip(";"), dbname=self.db)
        self.assertEqual(self.cluster.scalar("SELECT count(*) FROM perf.matviews WHERE schedule IS NOT NULL", dbname=self.db), 1)
        with_values, = [row for row in rows.values() if not row["config"]]
        self.assertIn("columns of the view", with_values["reason"])

    def test_what_depends_on_who_asks_becomes_no_view(self) -> None:
        with self.cluster.connect(self.db) as session:
            session.query("CREATE TABLE sales AS SELECT g % 20 AS shop, 'postgres' AS seller, g AS amount, repeat('x', 50) AS note "
                          "FROM generate_series(1, 200000) g")
            session.query("CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT 2 * $1'")
            session.query("ANALYZE")
            self.reset()
            for _ in range(30):
                session.query("SELECT shop, sum(amount) AS total FROM sales WHERE seller = current_user GROUP BY shop")
                session.query("SELECT shop, sum(twice(amount)) AS twice FROM sales GROUP BY shop")
                session.query("SELECT shop, min(amount) AS least FROM sales GROUP BY shop -- all of them")
        rows = self.rows("materialized_view")
        self.assertEqual(len(rows), 2, rows)
        for row in rows:
            self.assertEqual(row["config"] is None, "functions that are not the server's own" in row["reason"], row)
            for statement in (row["config"] or "").strip().split(";\n"):
                if statement:
                    self.cluster.sql(statement.rstrip(";"), dbname=self.db)
        self.assertEqual(self.cluster.scalar("SELECT count(*) FROM perf.matviews WHERE schedule IS NOT NULL", dbname=self.db), 1)

    def test_views_of_the_policy(self) -> None:
        self.cluster.sql("CREATE TABLE game_results (user_id bigint, stake numeric, payout numeric, created_at timestamptz)", dbname=self.db)
        row = self.row("materialized_view")
        self.assertEqual((row["id"], row["triggered"], row["basis"]), ("scaling:materialized_view:mv_cohort_summary", False, "policy"))
        self.assertIsNone(row["expected_benefit_pct"])
        self.assertEqual(row["evidence"]["status"], "missing")
        for statement in row["config"].strip().split(";\n"):
            self.cluster.sql(statement.rstrip(";"), dbname=self.db)
        self.assertEqual(self.row("materialized_view")["evidence"]["status"], "exists")

    def test_tables_of_the_policy(self) -> None:
        self.cluster.sql("CREATE TABLE error_logs (id bigint, at timestamptz NOT NULL) WITH (autovacuum_enabled = off)", dbname=self.db)
        self.cluster.sql("INSERT INTO error_logs SELECT g, now() FROM generate_series(1, 100000) g", dbname=self.db)
        row = self.row("partitioning")
        # Nothing has analysed it yet.
        self.assertGreater(row["measured_value"], 2 ** 20)
        self.assertEqual((row["id"], row["triggered"], row["basis"]), ("scaling:partitioning:public.error_logs", False, "policy"))
        self.assertEqual(row["config"], "CALL perf.partition_convert('public.error_logs', 'at', 'month');\n")
        self.cluster.sql("DROP TABLE error_logs", dbname=self.db)
        self.cluster.sql("CREATE TABLE error_logs (id bigint, at timestamptz NOT NULL) PARTITION BY RANGE (at)", dbname=self.db)
        self.assertEqual(self.row("partitioning")["id"], "scaling:partitioning")

    def test_pools_by_what_was_busy(self) -> None:
        self.assertEqual(self.row("connection_pooling")["basis"], "policy")
        self.assertIn("pool_size=20, max_overflow=10", self.row("connection_pooling")["config"])
        self.cluster.sql("INSERT INTO perf.pool_hour VALUES (date_trunc('hour', now()), '', '{0,3600}', 60, 3600, 0), "
                         "(date_trunc('hour', now()), 'postgres', '{0,3500,0,100}', 60, 3600, 0)", dbname=self.db)
        self.sample("connections_total", 85)
        self.sample("connections_total", 40, object_name=self.db)
        row = self.row("connection_pooling")
        self.assertEqual((row["triggered"], row["basis"], row["threshold"], row["measured_value"]), (True, "measured", 80, 85))
        # 3 busy, and a fifth more.
        self.assertEqual(row["evidence"]["pools"][0]["size"], 4)
        self.assertAlmostEqual(row["expected_benefit_pct"], 100 * (1 - 4 / 40), 3)
        self.assertIn("[pgbouncer]", row["config"])
        self.assertIn("create_engine(url, pool_size=", row["config"])
        for line in row["config"].splitlines():
            self.assertRegex(line, r"^(;|\[|\S+ = |$)")

    def test_a_larger_machine_only_where_it_helps(self) -> None:
        self.sample("qps", 6000, object_name=self.db)
        row = self.row("vertical")
        self.assertTrue(row["triggered"])
        # Nobody knows whether this machine carries it.
        self.assertRegex(row["recommendation"], "^Not yet known: the trigger is reached, and")
        self.sample("cpu_used_pct", 20, 300)
        row = self.row("vertical")
        self.assertTrue(row["triggered"])
        self.assertRegex(row["recommendation"], "^Don't: the trigger is reached, but")
        self.assertIsNone(row["config"])
        self.sample("cpu_used_pct", 90, 300)
        self.sample("memory_total_bytes", 2 ** 33, 300)
        cores = self.row("vertical")["evidence"]["cores"]
        self.cluster.sql("UPDATE perf.price SET vcpus = $1 WHERE item = 'r6i.2xlarge'", (int(cores * 2),), dbname=self.db)
        self.cluster.sql("UPDATE perf.price SET vcpus = $1 WHERE item = 'r6i.4xlarge'", (int(cores * 4),), dbname=self.db)
        row = self.row("vertical")
        self.assertEqual((row["triggered"], row["recommendation"], row["priority"]), (True, "Move to r6i.2xlarge.", "high"))
        self.assertAlmostEqual(row["expected_benefit_pct"], 50, 3)
        # More of one and less of the other is no larger machine; nor is one that stays as busy.
        self.cluster.sql("UPDATE perf.price SET memory_bytes = 2 ^ 31 WHERE item = 'r6i.2xlarge'", dbname=self.db)
        self.assertEqual(self.row("vertical")["recommendation"], "Move to r6i.4xlarge.")
        self.cluster.sql("UPDATE perf.price SET vcpus = $1 WHERE kind = 'instance'", (int(cores + 1),), dbname=self.db)
        if 90 * cores / (cores + 1) >= 70:
            self.assertIn("no larger instance that would be enough", self.row("vertical")["recommendation"])
        self.cluster.sql("DELETE FROM perf.price", dbname=self.db)
        self.assertIn("perf.price has no larger instance", self.row("vertical")["recommendation"])
        row = self.row("horizontal")
        self.assertEqual((row["triggered"], row["measured_value"], row["threshold"]), (True, 90, 70))
        self.assertRegex(row["recommendation"], "^Don't shard")
        self.assertIsNone(row["expected_benefit_pct"])
        self.assertIsNone(row["config"])


class Few(ScalingTest):
    """Fewer connections than the policy's trigger."""

    settings = {"max_connections": 40, "perf_opt.collector": "off"}

    def test_the_trigger_can_fire(self) -> None:
        row = self.row("connection_pooling")
        self.assertEqual(row["threshold"], 36)
        self.sample("connections_total", 37)
        self.assertTrue(self.row("connection_pooling")["triggered"])

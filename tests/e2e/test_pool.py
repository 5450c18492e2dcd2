"""Sizes of connection pools from hours of samples, and a real PgBouncer with the configuration made of them."""

from __future__ import annotations

import unittest

from .case import ClusterTest
from .pooler import Pooler, program

# Of the hour that is over: the database was looked at in every second, `web` had 6 busy in two of a hundred.
HOURS = """
INSERT INTO perf.pool_hour (hour_at, role, seconds_busy, connected_max, busy_s, waiting_s)
SELECT date_trunc('hour', now()) - interval '1 hour', h.*
FROM (VALUES ('', '{1800,1700,28,0,0,0,72}'::int[], 9, 2188, {waiting}),
             ('web', '{0,1700,28,0,0,0,72}', 6, 2188, 0),
             ('listener', '{100}', 3, 0, 0)) AS h
"""


class PoolTest(ClusterTest):
    """A server that can be reached over TCP, with two roles that use it."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.private_cluster({"log_min_messages": "warning", "perf_opt.collector": "off"}, tcp=True)
        self.database = self.fresh_database(self.server)
        self.server.sql("CREATE ROLE web LOGIN; CREATE ROLE listener LOGIN; GRANT CREATE ON SCHEMA public TO web",
                        dbname=self.database)

    def sample(self, waiting: int = 0) -> None:
        self.server.sql("DELETE FROM perf.pool_hour", dbname=self.database)
        self.server.sql(HOURS.replace("{waiting}", str(waiting)), dbname=self.database)

    def advice(self) -> dict[str, dict]:
        rows = self.server.result("SELECT * FROM perf._pool_advice()", dbname=self.database, user="web").dicts()
        return {row["role"]: row for row in rows}

    def test_sizes_come_from_the_busiest_hour(self) -> None:
        self.assertEqual(self.advice(), {}, "nothing is known before anything was sampled")
        self.sample()
        advice = self.advice()
        self.assertEqual(sorted(advice), ["listener", "web"])
        web = advice["web"]
        # The seconds in which it was not connected count: 98 % had one or two.
        self.assertEqual((web["busy_p99"], web["basis"], web["seconds"], web["connected_max"]), (6, "measured", 3600, 6))
        self.assertEqual((advice["listener"]["busy_p99"], advice["listener"]["size"]), (0, 1))
        self.assertLessEqual(web["size"], 8)
        calm = web["cap"]
        self.sample(waiting=1700)
        self.assertGreater(self.advice()["web"]["cap"], calm, "what waits leaves the core to others")

    def test_what_needs_a_session_is_seen_in_statements(self) -> None:
        self.sample()
        for user, statement in (("web", "SET work_mem = '5MB'"), ("web", "SELECT 1"), ("listener", "LISTEN jobs"),
                                ("listener", "CREATE TEMP TABLE scratch (a int)")):
            self.server.sql(statement, dbname=self.database, user=user)
        advice = self.advice()
        self.assertEqual(advice["web"]["session_features"], ["SET for the session"])
        self.assertEqual(advice["listener"]["session_features"], ["temporary table", "LISTEN"])

    def test_what_a_pooler_follows_needs_no_session(self) -> None:
        self.sample()
        with self.server.connect(self.database, user="web") as session:
            for statement in ("SET client_encoding = 'UTF8'", "SET DateStyle = 'ISO'", "SET TIME ZONE 'UTC'", "SET NAMES 'UTF8'",
                              "SET application_name = 'x'", "SET standard_conforming_strings = on", "RESET work_mem",
                              "BEGIN", "SET LOCAL work_mem = '5MB'", "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "COMMIT"):
                session.query(statement)
        self.assertEqual(self.advice()["web"]["session_features"], [])
        kept = {row[0] for row in self.server.sql("SELECT query FROM perf.statements() WHERE username = 'web'", dbname=self.database)}
        self.assertLessEqual({"SET LOCAL", "SET client_encoding", "SET datestyle", "SET timezone", "SET application_name"}, kept)
        self.server.sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", dbname=self.database, user="web")
        self.assertEqual(self.advice()["web"]["session_features"], ["SET for the session"])

    @unittest.skipIf(program() is None, "pgbouncer is not on PATH")
    def test_pgbouncer_serves_with_what_is_emitted(self) -> None:
        self.sample()
        self.server.sql("SELECT pg_advisory_lock(1)", dbname=self.database, user="listener")
        size = self.advice()["web"]["size"]
        with Pooler(self.server, self.database, ("web", "listener")) as pooler:
            pooler.run("pgbench", "web", "-i", "-q", "-s", "1", self.database)
            said = pooler.run("pgbench", "web", "-n", "-c", "20", "-j", "2", "-t", "50", self.database)
            self.assertIn("number of transactions actually processed: 1000/1000", said)
            backends = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'web' AND client_addr = '127.0.0.1'"
            self.assertLessEqual(self.server.scalar(backends), size, "20 clients share the pool")
            # The role that holds a lock for its session keeps its connection from one transaction to the next.
            script = ("SELECT pg_advisory_lock(2);\nBEGIN; COMMIT;\n"
                      "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();\n")
            many = [pooler.run("psql", "listener", "-X", "-A", "-t", "-d", self.database, stdin=script) for _ in range(2)]
            for one in many:
                self.assertEqual(one.split()[-1], "1", one)
            self.assertIn("listener = pool_mode=session", pooler.ini)
            self.assertNotIn("WARNING", pooler.log())

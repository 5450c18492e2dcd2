"""Standbys that the primary asks: real ones, caught up, behind, stopped, frozen, promoted, of another cluster."""

from __future__ import annotations

import os
import signal
import time
import unittest
from typing import Any

from .cluster import Cluster, free_port
from .jobs_case import SETTINGS, JobTest
from .pgclient import Connection
from .pooler import program
from .system import children_of, give_to_server, make_private_dir, popen_as_server, remove_dir

SECONDS = 40

# A frozen standby is found out in this time: its limits, and some for the job.
HANGING_LIMIT_S = 20


class FleetTest(JobTest):
    """A primary with two streaming standbys, and the extension in a database of it."""

    uses_shared_cluster = False

    def setUp(self) -> None:
        super().setUp()
        self.primary = self.private_cluster(SETTINGS)
        self.database = self.fresh_database(self.primary)
        self.primary.sql("CREATE EXTENSION dblink", dbname=self.database)
        self.primary.sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g",
                         dbname=self.database)

    @property
    def cluster(self) -> Cluster:
        return self.primary

    def conninfo(self, server: Cluster, more: str = "") -> str:
        return f"host={server.socket_dir} port={server.port} user=postgres {more}"

    def add(self, name: str, conninfo: str) -> int:
        """Adds a node whose job runs only when asked to, so that no run of its own comes in between."""
        job_id = self.value("SELECT perf.fleet_node_add($1, $2)", (name, conninfo))
        self.sql("SELECT perf.job_pause($1::bigint)", (job_id,))
        return job_id

    def ask(self, job_id: int) -> dict[str, Any]:
        """Runs the job; the node's row then. Asking is never a failure."""
        run = self.run_now(job_id)
        node = self.primary.result("SELECT * FROM perf.fleet_nodes WHERE job_id = $1::bigint", (job_id,),
                                   dbname=self.database).dicts()[0]
        self.assertEqual(run["status"], "succeeded" if node["status"] == "ok" else "skipped", run)
        return node

    def health(self) -> tuple:
        return self.sql("SELECT status, detail FROM perf.health() WHERE component = 'fleet'")[0]

    def test_two_standbys_and_their_lag(self) -> None:
        standbys = [self.primary.standby(f"replica{n}") for n in (1, 2)]
        one, two = (self.add(f"replica{n}", self.conninfo(standby)) for n, standby in enumerate(standbys, 1))
        self.assertEqual(self.sql("SELECT status FROM perf.fleet_nodes"), [("new",), ("new",)])
        for standby in standbys:
            self.primary.wait_for_replay(standby)
        for job_id in (one, two):
            node = self.ask(job_id)
            self.assertEqual((node["status"], node["message"], node["qps_basis"]), ("ok", None, "statements"), node)
            self.assertIsNone(node["qps"], "two readings make a rate")
        standbys[1].sql("SELECT pg_wal_replay_pause()")
        self.wait_until(lambda: standbys[1].scalar("SELECT pg_get_wal_replay_pause_state()") == "paused", 10, "a pause")
        self.sql("UPDATE t SET v = v + 1")
        self.primary.wait_for_replay(standbys[0])
        with standbys[0].connect(self.database) as session:
            for _ in range(200):
                session.query("SET enable_seqscan = off; SELECT v FROM t WHERE id = 7")
        # Nothing else asks the second one.
        lagging = self.ask(two)
        self.assertEqual((lagging["status"], lagging["message"]), ("ok", "its replay is paused"))
        self.assertGreater(lagging["lag_bytes"], 10_000)
        self.assertGreater(lagging["lag_s"], 0)
        self.assertLess(lagging["lag_s"], 60)
        well = self.ask(one)
        self.assertGreater(well["qps"], 1)
        self.assertLess(well["lag_bytes"], lagging["lag_bytes"])
        # The primary has never used that index itself.
        used = "SELECT scans FROM perf.fleet_index_use WHERE job_id = $1::bigint AND indexrelid = 't_pkey'::regclass"
        self.wait_until(lambda: self.ask(one) and self.sql(used, (one,)) == [(200,)], 20, "the standby's statistics")
        # What it forgets is kept, and counting goes on.
        standbys[0].sql("SELECT pg_stat_reset()", dbname=self.database)
        standbys[0].sql("SET enable_seqscan = off; SELECT v FROM t WHERE id = 7", dbname=self.database)
        self.wait_until(lambda: self.ask(one) and self.sql(used, (one,)) == [(201,)], 20, "the count to go on")
        self.assertEqual(self.health(), ("ok", "2 nodes: all are well"))
        sampled = self.sql("SELECT DISTINCT metric FROM perf.capacity_sample WHERE metric LIKE 'fleet%' AND object = 'replica1' ORDER BY 1")
        self.assertEqual(sampled, [("fleet_lag_s",), ("fleet_qps",)])
        standbys[1].sql("SELECT pg_wal_replay_resume()")
        self.primary.wait_for_replay(standbys[1])
        self.wait_until(lambda: self.ask(two)["lag_bytes"] == 0, 20, "the second one to catch up")
        self.assertEqual(self.value("SELECT lag_s FROM perf.fleet_nodes WHERE name = 'replica2'"), 0)
        # A session of ours is left on neither.
        for standby in standbys:
            self.wait_until(lambda: standby.scalar("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perf_opt fleet'") == 0,
                            10, "the connection to end")
        self.sql("SELECT perf.fleet_node_remove('replica2')")
        self.assertEqual(self.sql("SELECT name FROM perf.fleet_nodes"), [("replica1",)])
        self.assertEqual(self.value("SELECT count(*) FROM perf.jobs WHERE kind = 'fleet'"), 1)
        self.assertEqual(self.value("SELECT count(*) FROM perf.fleet_index_use WHERE job_id = $1::bigint", (two,)), 0)

    def test_an_index_that_a_standby_uses_stays(self) -> None:
        self.sql("CREATE TABLE big AS SELECT g AS id, md5(g::text) AS v, md5((g + 1)::text) AS w FROM generate_series(1, 60000) AS g")
        self.sql("CREATE INDEX big_v ON big (v); CREATE INDEX big_w ON big (w); ANALYZE big")
        standby = self.primary.standby("replica")
        self.primary.wait_for_replay(standby)
        job_id = self.add("replica", self.conninfo(standby))
        for _ in range(3):
            self.sql("SELECT count(*) FROM big")

        def dropped() -> set:
            drops = self.sql("SELECT ddl FROM perf.index_recommendations() WHERE action = 'drop'")
            return {name for name in ("big_v", "big_w") if any(name in ddl for (ddl,) in drops)}

        self.assertEqual(dropped(), {"big_v", "big_w"})
        standby.sql("SELECT id FROM big WHERE v = 'x'", dbname=self.database)
        used = "SELECT scans FROM perf.fleet_index_use WHERE indexrelid = 'big_v'::regclass"
        self.wait_until(lambda: self.ask(job_id) and self.sql(used) == [(1,)], 20, "the standby's statistics")
        self.assertEqual(dropped(), {"big_w"})

    def test_stopped_frozen_and_promoted(self) -> None:
        standby = self.primary.standby("replica")
        job_id = self.add("replica", self.conninfo(standby))
        self.assertEqual(self.ask(job_id)["status"], "ok")
        seen_at = self.value("SELECT last_seen_at FROM perf.fleet_nodes")

        processes = [standby.pid, *children_of(standby.pid)]
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            frozen = self.ask(job_id)
            self.assertLess(time.monotonic() - began, HANGING_LIMIT_S)
            self.assertEqual((frozen["status"], frozen["message"]), ("hanging", "no connection within 4 s"))
            self.assertEqual((frozen["lag_bytes"], frozen["last_seen_at"]), (None, seen_at))
            self.assertEqual(self.health(), ("warning", "1 node: replica is hanging; see perf.fleet_nodes"))
            # The collector goes on, whatever standbys do.
            self.assertEqual(self.sql("SELECT status FROM perf.health() WHERE component = $1", (f"collector {self.database}",)), [("ok",)])
        finally:
            for pid in processes:
                os.kill(pid, signal.SIGCONT)
        self.wait_until(lambda: self.ask(job_id)["status"] == "ok", 20, "the standby to come back")

        standby.stop("immediate")
        gone = self.ask(job_id)
        self.assertEqual(gone["status"], "unreachable")
        since = gone["since_at"]
        self.assertEqual(self.ask(job_id)["since_at"], since)
        self.primary.sql("CREATE ROLE somebody LOGIN")
        self.assertEqual(self.sql("SELECT status, message FROM perf.fleet_nodes", user="somebody"), [("unreachable", None)])
        standby.start()
        self.wait_until(lambda: self.ask(job_id)["status"] == "ok", 20, "the standby to come back")

        standby.promote()
        promoted = self.ask(job_id)
        self.assertEqual((promoted["status"], promoted["message"]),
                         ("promoted", "it is no standby any more: it takes writes itself"))
        # No storm: runs that found a standby unwell are no errors, and say nothing in the log.
        self.assertNotIn("fleet", self.primary.log_text())
        self.assertEqual(self.value("SELECT count(*) FROM perf.job_runs WHERE status = 'failed'"), 0)

    def test_an_alert_says_which_node_is_unwell(self) -> None:
        self.primary.configure({"perf_opt.collect_interval": "1s"}, reload=True)
        self.primary.sql("CREATE ROLE somebody LOGIN")
        self.sql("UPDATE perf.alert_threshold SET threshold = 1, fire_after = 2, clear_after = 2 WHERE alert_name = 'replica_unwell'")
        standby = self.primary.standby("replica")
        job_id = self.add("replica", self.conninfo(standby))

        def alert(user: str = "postgres") -> dict[str, Any]:
            return self.primary.result("SELECT * FROM perf.alerts(true) WHERE name = 'replica_unwell'", dbname=self.database,
                                       user=user).dicts()[0]

        def becomes(status: str) -> dict[str, Any]:
            return self.wait_until(lambda: (found := alert())["status"] == status and found["since_at"] and found, 30, f"{status}: {alert()}")

        self.assertEqual(self.ask(job_id)["status"], "ok")
        self.assertEqual(becomes("ok")["value"], 0)
        standby.stop("immediate")
        self.assertEqual(self.ask(job_id)["status"], "unreachable")
        fired = becomes("firing")
        self.assertRegex(fired["action"], r"^See perf\.fleet_nodes; check the network and the replica\. Worst: replica node replica\. "
                                          r"\(perf\.fleet_nodes says: unreachable since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)$")
        self.assertGreater(fired["value"], 1)
        self.assertIn("Worst: replica (insufficient privilege).", alert("somebody")["action"])
        standby.start()
        self.wait_until(lambda: self.ask(job_id)["status"] == "ok", 20, "the standby to come back")
        becomes("ok")
        standby.promote()
        self.assertEqual(self.ask(job_id)["status"], "promoted")
        self.assertIn("promoted since", becomes("firing")["action"])
        # Since when is kept, whatever the node is meanwhile.
        since = alert()["since_at"]
        standby.stop("immediate")
        self.assertEqual(self.ask(job_id)["status"], "unreachable")
        self.wait_until(lambda: "unreachable since" in alert()["action"], 20, "the alert to tell")
        self.assertEqual(alert()["since_at"], since)
        self.sql("SELECT perf.fleet_node_remove('replica')")
        self.wait_until(lambda: self.sql("SELECT note FROM perf.alert_state WHERE alert_name = 'replica_unwell'")[0][0]
                        == "Not measured: there is nothing here that has it.", 20, "the node to be forgotten")

    def test_what_is_no_standby_of_ours(self) -> None:
        # Servers made of the same template are of the same cluster.
        other = self.private_cluster({"shared_preload_libraries": ""}, name="other", initdb_args=["--data-checksums"])
        stranger = self.ask(self.add("stranger", self.conninfo(other, "dbname=postgres")))
        self.assertEqual(stranger["status"], "other_cluster")
        self.assertIn("system identifier", stranger["message"])
        itself = self.ask(self.add("itself", self.conninfo(self.primary)))
        self.assertEqual(itself["status"], "itself")
        nobody = self.ask(self.add("nobody", self.conninfo(self.primary, "dbname=no_such_database")))
        self.assertEqual(nobody["status"], "unreachable")
        self.assertIn("no_such_database", nobody["message"])

    def test_a_standby_of_a_promoted_clone(self) -> None:
        clone = self.primary.standby("clone")
        self.primary.wait_for_replay(clone)
        clone.promote()
        clone.sql("CREATE TABLE of_the_clone AS SELECT repeat('x', 100) FROM generate_series(1, 100000)")
        follower = clone.standby("follower")
        clone.wait_for_replay(follower)
        node = self.ask(self.add("follower", self.conninfo(follower)))
        self.assertEqual((node["status"], node["message"]),
                         ("other_cluster", "it is ahead of this server: it is of the same origin, and follows another one"))

    def test_a_foreign_server_named_like_the_connection_string(self) -> None:
        standby = self.primary.standby("replica")
        job_id = self.add("replica", self.conninfo(standby))
        stored = self.value("SELECT options->>'conninfo' FROM perf.jobs WHERE job_id = $1::bigint", (job_id,))
        # To dblink, a text that is a server's name as far as names go is that server.
        name = stored[:63].replace('"', '""')
        self.sql(f"CREATE SERVER \"{name}\" FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '/nowhere')")
        self.sql(f"CREATE USER MAPPING FOR PUBLIC SERVER \"{name}\" OPTIONS (user 'postgres')")
        node = self.ask(job_id)
        self.assertEqual((node["status"], node["message"]), ("ok", None))

    def test_another_database_without_the_library(self) -> None:
        standby = self.primary.standby("replica", {"shared_preload_libraries": ""})
        self.primary.wait_for_replay(standby)
        job_id = self.add("replica", self.conninfo(standby, "dbname=postgres"))
        self.ask(job_id)
        for _ in range(50):
            standby.sql("SELECT 1")
        node = self.wait_until(lambda: (node := self.ask(job_id)) and (node["qps"] or 0) > 1 and node, 20, "transactions to be seen")
        self.assertEqual((node["status"], node["qps_basis"]), ("ok", "transactions"))
        self.assertEqual(node["message"], "index use is not read: the connection leads to another database")
        self.assertEqual(self.value("SELECT count(*) FROM perf.fleet_index_use"), 0)

    def test_owner_of_a_foreign_server_with_a_password(self) -> None:
        standby = self.primary.standby("replica")
        self.primary.sql("CREATE ROLE watcher LOGIN; CREATE ROLE monitor LOGIN PASSWORD 'hunter2'; GRANT pg_monitor TO monitor")
        self.sql(f"GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO watcher")
        self.primary.wait_for_replay(standby)
        hba = standby.data_dir / "pg_hba.conf"
        hba.write_text("local all monitor scram-sha-256\n" + hba.read_text())
        standby.reload()
        self.sql(f"CREATE SERVER replica FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '{standby.socket_dir}', "
                 f"dbname '{self.database}', connect_timeout '3')", user="watcher")
        self.sql("CREATE USER MAPPING FOR watcher SERVER replica OPTIONS (user 'monitor', password 'hunter2')", user="watcher")
        job_id = self.value("SELECT perf.fleet_node_add('replica', 'replica')", user="watcher")
        node = self.ask(job_id)
        self.assertEqual((node["status"], node["message"]), ("ok", None))
        self.assertNotIn("hunter2", str(self.sql("SELECT * FROM perf.job")) + str(self.sql("SELECT * FROM perf.job_run")))
        self.assertNotIn("hunter2", self.primary.log_text())
        # Who may not any more does not.
        self.sql("ALTER SERVER replica OWNER TO postgres")
        node = self.ask(job_id)
        self.assertEqual((node["status"], node["message"]),
                         ("failed", 'permission denied to connect through foreign server "replica"'))

    @unittest.skipIf(program() is None, "pgbouncer is not on PATH")
    def test_a_pooled_session_is_left_as_it_was(self) -> None:
        directory, port = make_private_dir(), free_port()
        self.addCleanup(remove_dir, directory)
        ini = directory / "pgbouncer.ini"
        ini.write_text(f"[databases]\n{self.database} = host={self.primary.socket_dir} port={self.primary.port} user=postgres\n"
                       f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
                       "pool_mode = transaction\ndefault_pool_size = 1\n")
        give_to_server(ini)
        pooler = popen_as_server([program(), ini])
        self.addCleanup(pooler.wait)
        self.addCleanup(pooler.kill)
        job_id = self.add("pooled", f"host=127.0.0.1 port={port} user=postgres")
        node = self.wait_until(lambda: (node := self.ask(job_id)) and node["status"] != "unreachable" and node, 20, "the pooler")
        self.assertEqual((node["status"], node["message"]), ("itself", "the connection leads to this server itself"))
        state = ("SELECT pg_backend_pid(), current_setting('default_transaction_read_only'), "
                 "current_setting('transaction_read_only'), current_setting('statement_timeout'), "
                 "current_setting('lock_timeout'), current_setting('search_path'), current_setting('jit')")
        with Connection("127.0.0.1", port, "postgres", self.database) as session:
            pooled = session.query(state).rows[0]
            self.assertEqual(pooled[1:], self.sql(state)[0][1:])
            self.ask(job_id)
            self.assertEqual(session.query(state).rows[0], pooled, "the same session, and as it was")

    def test_asked_by_the_clock(self) -> None:
        standby = self.primary.standby("replica")
        self.sql("SELECT perf.fleet_node_add($1, $2)", ("replica", self.conninfo(standby)))
        # Clocks are tested with jobs: that this one has one is enough here.
        self.assertEqual(self.sql("SELECT enabled, next_run_at BETWEEN now() - interval '5 s' AND now() + interval '1 min' FROM perf.jobs"
                                  " WHERE kind = 'fleet'"), [(True, True)])
        self.sql("SELECT perf.job_run_now(job_id) FROM perf.jobs WHERE kind = 'fleet'")
        self.wait_until(lambda: self.sql("SELECT status FROM perf.fleet_nodes") == [("ok",)], 30, "the first run")
        self.assert_sql_error("25006", standby, "SELECT perf.fleet_node_remove('replica')", dbname=self.database)

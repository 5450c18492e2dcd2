"""Crashes under load, again and again: the server recovers, collectors return, nothing is counted twice."""

from __future__ import annotations

import random
import threading

from .case import expects_crash
from .cluster import Cluster
from .test_collector import EXECUTIONS, Collecting, queryid_of, workers

ROUNDS = 12
CLIENTS = 4
MARKER = "SELECT 4711 AS soak_marker"
VICTIMS = ["client backend", "perf_opt collector", "perf_opt launcher"]


class CrashUnderLoad(Collecting):
    """kill -9 of a client's backend, a collector or the launcher while clients work."""

    time_limit = 900.0

    def answers(self, cluster: Cluster) -> bool:
        """Whether the server answers and has its collector."""
        try:
            return "postgres" in workers(cluster)
        except Exception:  # noqa: BLE001  (any failure to connect means: not yet)
            return False

    def work(self, cluster: Cluster, stop: threading.Event, executed: list[int]) -> None:
        """Runs the marker until told to stop or thrown out; counts what was answered."""
        try:
            with cluster.connect() as session:
                while not stop.is_set():
                    session.query(MARKER)
                    executed[0] += 1
                    session.query("SELECT count(*) FROM generate_series(1, 1000)")
        except Exception:  # noqa: BLE001  (the server crashed, as it should)
            return

    @expects_crash
    def test_again_and_again(self) -> None:
        cluster = self.private_cluster(self.settings)
        cluster.sql("CREATE EXTENSION perf_opt")
        self.wait_for_worker(cluster, "postgres")
        cluster.sql(MARKER)
        queryid = queryid_of(cluster, "postgres", "%soak_marker%")
        chance = random.Random(20)
        executed, kept = 1, 0
        for number in range(ROUNDS):
            stop = threading.Event()
            counts = [[0] for _ in range(CLIENTS)]
            threads = [threading.Thread(target=self.work, args=(cluster, stop, count)) for count in counts]
            for thread in threads:
                thread.start()
            self.wait_until(lambda: all(count[0] > 200 for count in counts), 30, "the clients to be at work")
            self.wait_for_run(cluster, "postgres")
            kept = cluster.scalar("SELECT coalesce(sum(calls), 0)::bigint FROM perf.statement_history WHERE queryid = $1",
                                  (queryid,))
            victim = chance.choice(VICTIMS)
            pids = [row[0] for row in cluster.sql(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = $1 AND pid <> pg_backend_pid()", (victim,))]
            self.assertTrue(pids, f"a {victim} to kill")
            cluster.kill9(chance.choice(pids))
            for thread in threads:
                thread.join(30)
            stop.set()
            self.wait_until(lambda: self.answers(cluster), 30, f"recovery from the death of a {victim}")
            # Each client may have had one execution under way whose answer it never got.
            executed += sum(count[0] + 1 for count in counts)
            seen = cluster.scalar(EXECUTIONS, (queryid,))
            self.assertGreaterEqual(seen, kept, f"round {number}: history written before the crash")
            self.assertLessEqual(seen, executed, f"round {number}: executions counted twice")
            self.assertEqual(cluster.scalar("SELECT count(*) FROM perf.health() WHERE component = 'capture' AND status = 'ok'"), 1)

"""Metrics and alerts as the collector keeps them: when they fire, who is told, and what a restart leaves of it."""

from __future__ import annotations

import json
from typing import Any

from .case import ClusterTest
from .cluster import Cluster, Connection, SqlError

SECONDS = 90

FAST = {"perf_opt.collect_interval": "1s", "perf_opt.slow_ms": "50ms"}
# Catalogue section 8.
CATALOGUE = ("latency_mean", "latency_p95", "latency_p99", "slow_queries_per_min", "index_utilisation", "disk_used",
             "connections_active", "buffer_cache_hit", "result_cache_hit", "replication_lag",
             "application_latency_mean", "application_latency_p95", "application_latency_p99", "application_throughput",
             "application_error_rate", "application_cache_hit")
THRESHOLD = """
INSERT INTO perf.alert_threshold (alert_name, metric, comparison, threshold, unit, severity, action, fire_after,
                                  clear_after, clear_margin_ratio)
VALUES ($1, $2, '>', $3::float8, $4, 'warning', 'Do it.', $5::int, $6::int, $7::float8)
"""


class Alerting(ClusterTest):
    """Tests with a server whose collectors look every second."""

    settings = FAST

    def evaluations(self, database: str, count: int, cluster: Any = None) -> None:
        """Waits for so many further runs that evaluate alerts."""
        server = cluster or self.cluster
        for _ in range(count):
            at = server.scalar("SELECT coalesce(max(evaluated_at), '-infinity')::text FROM perf.alert_state", dbname=database)
            self.wait_until(lambda: server.scalar("SELECT count(*) FROM perf.alert_state WHERE evaluated_at > $1::timestamptz",
                                                  (at,), dbname=database), 20, "an evaluation of alerts")

    def status(self, database: str, name: str, cluster: Any = None) -> Any:
        """Status of an alert as users see it; None when there is none."""
        rows = (cluster or self.cluster).sql("SELECT status FROM perf.alerts(true) WHERE name = $1", (name,), dbname=database)
        return rows[0][0] if rows else None

    def wait_for_status(self, database: str, name: str, status: str, cluster: Any = None) -> None:
        """Waits until the collector has stored a status, and told it: that is done before the next run stores anything."""
        server = cluster or self.cluster
        stored = "SELECT max(evaluated_at)::text FROM perf.alert_state WHERE alert_name = $1 AND status = $2"
        self.wait_until(lambda: server.scalar(stored, (name, status), dbname=database), 20, f"{name} to be {status}")
        at = server.scalar(stored, (name, status), dbname=database) or "-infinity"
        self.wait_until(lambda: server.scalar("SELECT max(evaluated_at) > $1::timestamptz FROM perf.alert_state", (at,), dbname=database),
                        20, f"the run after {name} was {status}")

    def listen(self, database: str, cluster: Any = None) -> Connection:
        """A session that is told of alerts."""
        session = (cluster or self.cluster).connect(database)
        self.addCleanup(session.close)
        session.query("LISTEN perf_alerts")
        return session

    @staticmethod
    def told(session: Connection, name: str) -> list[dict[str, Any]]:
        """What a listener has been told of one alert so far."""
        session.query("SELECT 1")
        payloads = [json.loads(payload) for _, channel, payload in session.notifications if channel == "perf_alerts"]
        return [payload for payload in payloads if payload["name"] == name]

    @staticmethod
    def logged(cluster: Cluster, name: str) -> list[str]:
        """Lines of the log about one alert."""
        return [line for line in cluster.log_text().splitlines() if f'perf_opt alert "{name}"' in line]


class Firing(Alerting):
    """The life of an alert."""

    def test_fires_after_enough_samples_and_is_told_once(self) -> None:
        database = self.fresh_database()
        listener = self.listen(database)
        self.cluster.sql(THRESHOLD, ("crowd", "connections_idle_in_transaction", 2.5, "connections", 3, 2, 0.4),
                         dbname=database)
        self.wait_for_status(database, "crowd", "ok")
        crowd = [self.cluster.connect() for _ in range(3)]
        for session in crowd:
            self.addCleanup(session.close)
            session.query("BEGIN")
        row = "SELECT in_a_row FROM perf.alert_state WHERE alert_name = 'crowd'"
        self.wait_until(lambda: self.cluster.scalar(row, dbname=database) >= 1, 10, "the first bad sample")
        self.assertRegex(self.cluster.scalar("SELECT action FROM perf.alerts(true) WHERE name = 'crowd'", dbname=database),
                         r"[12] of 3 samples in a row are beyond the threshold|Do it")
        self.wait_for_status(database, "crowd", "firing")
        # Since the first of three samples, a second apart.
        alert = self.cluster.result("SELECT value, threshold, unit, severity, since_at < clock_timestamp() - interval '1.5 s'"
                                    " AS past, since_at::text AS since, action FROM perf.alerts() WHERE name = 'crowd'",
                                    dbname=database).dicts()[0]
        self.assertEqual({**alert, "since": ""}, {"value": 3.0, "threshold": 2.5, "unit": "connections", "past": True,
                                                  "severity": "warning", "since": "", "action": "Do it."})
        # Neither bad nor good: it goes on, and nobody hears of it again.
        crowd[0].close()
        self.evaluations(database, 4)
        self.assertEqual(self.status(database, "crowd"), "firing")
        self.assertEqual(self.cluster.scalar("SELECT since_at::text FROM perf.alerts() WHERE name = 'crowd'", dbname=database),
                         alert["since"])
        told = self.told(listener, "crowd")
        self.assertEqual([payload["status"] for payload in told], ["firing"])
        expected = {"name": "crowd", "severity": "warning", "value": 3, "threshold": 2.5, "unit": "connections",
                    "object": "", "action": "Do it.", "database": database}
        self.assertEqual({key: told[0][key] for key in expected}, expected)
        self.assertEqual(len(self.logged(self.cluster, "crowd")), 1)
        # Good enough, twice.
        crowd[1].close()
        crowd[2].close()
        self.wait_for_status(database, "crowd", "ok")
        self.evaluations(database, 2)
        self.assertEqual([payload["status"] for payload in self.told(listener, "crowd")], ["firing", "ok"])
        log = self.logged(self.cluster, "crowd")
        self.assertEqual(len(log), 2)
        self.assertIn("is ok", log[1])
        self.assertEqual(self.cluster.sql("SELECT name FROM perf.alerts() WHERE name = 'crowd'", dbname=database), [])

    def test_one_bad_sample_is_not_enough(self) -> None:
        database = self.fresh_database()
        self.cluster.sql(THRESHOLD, ("patient", "disk_used", 0, "%", 1000, 1, 0), dbname=database)
        self.evaluations(database, 4)
        self.assertEqual(self.status(database, "patient"), "ok")
        self.assertEqual(self.logged(self.cluster, "patient"), [])

    def test_edited_thresholds_count_from_the_next_run(self) -> None:
        database = self.fresh_database()
        listener = self.listen(database)
        self.wait_for_status(database, "result_cache_hit_rate", "no_data")
        self.cluster.sql("UPDATE perf.alert_threshold SET threshold = 0, fire_after = 1 WHERE alert_name = 'disk_used'",
                         dbname=database)
        self.wait_for_status(database, "disk_used", "firing")
        self.assertRegex(self.cluster.scalar("SELECT action FROM perf.alerts() WHERE name = 'disk_used'", dbname=database),
                         r"^Partition, archive or add storage\. Worst: cluster (data|wal)\.$")
        # Lower still: it goes on. Higher: over at once, whatever clear_after says.
        self.cluster.sql("UPDATE perf.alert_threshold SET threshold = 0.001, clear_after = 1000 WHERE alert_name = 'disk_used'",
                         dbname=database)
        self.evaluations(database, 2)
        self.assertEqual(self.status(database, "disk_used"), "firing")
        self.cluster.sql("UPDATE perf.alert_threshold SET threshold = 101 WHERE alert_name = 'disk_used'", dbname=database)
        self.wait_for_status(database, "disk_used", "ok")
        self.cluster.sql("UPDATE perf.alert_threshold SET threshold = 0 WHERE alert_name = 'disk_used'", dbname=database)
        self.wait_for_status(database, "disk_used", "firing")
        self.cluster.sql("DELETE FROM perf.alert_threshold WHERE alert_name = 'disk_used'", dbname=database)
        self.assertIsNone(self.status(database, "disk_used"))
        self.wait_until(lambda: not self.cluster.scalar("SELECT count(*) FROM perf.alert_state WHERE alert_name = 'disk_used'",
                                                        dbname=database), 10, "the state to go")
        self.assertEqual([payload["status"] for payload in self.told(listener, "disk_used")],
                         ["firing", "ok", "firing", "no_data"])
        # A metric that does not exist is not in order.
        self.cluster.sql(THRESHOLD, ("nonsense", "no_such_metric", 1, "ms", 1, 1, 0), dbname=database)
        self.wait_for_status(database, "nonsense", "no_data")
        self.assertIn('Metric "no_such_metric" does not exist', self.cluster.scalar(
            "SELECT action FROM perf.alerts() WHERE name = 'nonsense'", dbname=database))
        self.assertEqual(self.told(listener, "nonsense"), [])

    def test_since_when_survives_restarts(self) -> None:
        cluster = self.private_cluster(FAST)
        database = self.fresh_database(cluster)
        cluster.sql(THRESHOLD, ("full", "disk_used", 0, "%", 1, 1, 0), dbname=database)
        self.wait_for_status(database, "full", "firing", cluster)
        query = "SELECT since_at::text FROM perf.alerts() WHERE name = 'full' AND status = 'firing'"
        since = cluster.scalar(query, dbname=database)
        for mode in ("fast", "immediate"):
            cluster.restart(mode)
            listener = self.listen(database, cluster)
            self.evaluations(database, 2, cluster)
            self.assertEqual(cluster.scalar(query, dbname=database), since, mode)
            self.assertEqual(self.told(listener, "full"), [], mode)
            listener.close()
        self.assertEqual(len(self.logged(cluster, "full")), 1)

    def test_what_is_stored_is_told_and_the_other_way_round(self) -> None:
        """Killed again and again while an alert comes and goes, nothing is told twice in a row."""
        database = self.fresh_database()
        listener = self.listen(database)
        self.cluster.sql(THRESHOLD, ("flip", "disk_used", 0, "%", 1, 1, 0), dbname=database)
        rounds = [("firing", 0), ("ok", 101), ("firing", 0)]  # each restart of a killed worker comes later than the one before
        for status, threshold in rounds:
            self.cluster.sql("UPDATE perf.alert_threshold SET threshold = $1::float8 WHERE alert_name = 'flip'", (threshold,),
                             dbname=database)
            self.cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                             "WHERE backend_type = 'perf_opt collector' AND datname = $1", (database,))
            self.wait_for_status(database, "flip", status)
        told = [payload["status"] for payload in self.told(listener, "flip")]
        self.assertEqual(told, [status for status, _ in rounds])

    def test_of_the_whole_server_is_logged_once(self) -> None:
        cluster = self.private_cluster(FAST)
        databases = [self.fresh_database(cluster) for _ in range(2)]
        listeners = [self.listen(database, cluster) for database in databases]
        for database in databases:
            self.wait_for_status(database, "result_cache_hit_rate", "no_data", cluster)
        for database in databases:  # as if shipped so: the row keeps its origin
            cluster.sql("SET session_replication_role = replica;"
                        "UPDATE perf.alert_threshold SET threshold = 0 WHERE alert_name = 'disk_used'", dbname=database)
        for database, listener in zip(databases, listeners):
            self.wait_for_status(database, "disk_used", "firing", cluster)
            self.assertEqual(len(self.told(listener, "disk_used")), 1, database)
        lines = self.logged(cluster, "disk_used")
        self.assertEqual(len(lines), 1, lines)
        first = cluster.scalar("SELECT datname FROM pg_database WHERE datname LIKE 'test%' ORDER BY oid LIMIT 1")
        self.assertIn(f'in database "{first}"', lines[0])
        # An edited threshold is its database's own.
        cluster.sql("UPDATE perf.alert_threshold SET threshold = 101 WHERE alert_name = 'disk_used'", dbname=databases[1])
        self.wait_for_status(databases[1], "disk_used", "ok", cluster)
        self.assertEqual(len(self.logged(cluster, "disk_used")), 2)

    def test_a_copied_database_begins_anew(self) -> None:
        database = self.fresh_database()
        self.cluster.sql(THRESHOLD, ("copied", "disk_used", 0, "%", 1, 1, 0), dbname=database)
        self.wait_for_status(database, "copied", "firing")
        self.cluster.sql(f"CREATE DATABASE {database}_copy TEMPLATE {database}")
        self.addCleanup(self._drop_database, self.cluster, f"{database}_copy")
        began = self.cluster.scalar("SELECT clock_timestamp()::text")
        self.wait_until(lambda: self.cluster.scalar(
            "SELECT count(*) FROM perf.alert_state WHERE alert_name = 'copied' AND status = 'firing' AND since_at >= "
            "$1::timestamptz - interval '5 s' AND datid = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (began,), dbname=f"{database}_copy"), 10, "the copy's own state")

    def test_names_of_any_length_and_encoding(self) -> None:
        self.cluster.sql("CREATE DATABASE alerts_latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        self.addCleanup(self._drop_database, self.cluster, "alerts_latin1")
        self.cluster.sql("CREATE EXTENSION perf_opt", dbname="alerts_latin1")
        listener = self.listen("alerts_latin1")
        name = "é\"\\" + "ü\n" * 800
        self.cluster.sql(THRESHOLD, (name, "disk_used", 0, "%", 1, 1, 0), dbname="alerts_latin1")
        self.wait_for_status("alerts_latin1", name, "firing")
        self.assertEqual(self.status("alerts_latin1", name), "firing")
        told = self.told(listener, name[:200])
        self.assertEqual([payload["status"] for payload in told], ["firing"])
        line = self.cluster.wait_for_log(r'perf_opt alert .*in database "alerts_latin1" is firing').group(0)
        self.assertLess(len(line), 1200)


class Elsewhere(Alerting):
    """Where nobody keeps a state."""

    def test_a_standby_and_its_lag(self) -> None:
        primary = self.private_cluster(FAST)
        database = self.fresh_database(primary)
        standby = primary.standby(settings=FAST)
        self.wait_until(lambda: primary.scalar("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"), 20,
                        "the standby to stream")
        primary.wait_for_replay(standby)
        names = {row[0] for row in primary.sql("SELECT DISTINCT name FROM perf.metrics()", dbname=database)}
        self.assertEqual(set(CATALOGUE) - names, set())
        self.wait_until(lambda: primary.scalar("SELECT value FROM perf.metrics() WHERE name = 'replication_lag'", dbname=database)
                        is not None, 20, "a lag")
        # Replay is paused: the lag grows, the alert on it fires and names the replica.
        standby.sql("SELECT pg_wal_replay_pause()")
        primary.sql(THRESHOLD, ("behind", "replication_lag_bytes", 100000, "bytes", 2, 1, 0), dbname=database)
        primary.sql("CREATE TABLE ballast AS SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n", dbname=database)
        self.wait_for_status(database, "behind", "firing", primary)
        self.assertEqual(primary.scalar("SELECT action FROM perf.alerts() WHERE name = 'behind'", dbname=database),
                         "Do it. Worst: replica walreceiver.")
        # Standbys and slots have names for members of pg_read_all_stats; for others, numbers or none.
        primary.sql("CREATE ROLE plain LOGIN; CREATE ROLE watcher LOGIN; GRANT pg_read_all_stats TO watcher; "
                    "SELECT pg_create_physical_replication_slot('of_replica', true)")
        primary.sql("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 day'", dbname=database)
        sampled = "SELECT DISTINCT object FROM perf.capacity_samples($1)"
        self.wait_until(lambda: ("of_replica",) in primary.sql(sampled, ("slot_retained_bytes",), dbname=database), 20, "a sample of the slot")
        for user, replica, slot, worst in (("watcher", "walreceiver", "of_replica", "walreceiver"),
                                           ("plain", None, None, "(insufficient privilege)")):
            self.assertEqual(primary.sql(sampled, ("replication_lag_bytes",), dbname=database, user=user), [(replica,)])
            # That of the base backup may have been sampled as well.
            slots = {name for name, in primary.sql(sampled, ("slot_retained_bytes",), dbname=database, user=user)}
            self.assertTrue(slots == {None} if slot is None else slot in slots, slots)
            self.assertEqual(primary.scalar("SELECT action FROM perf.alerts() WHERE name = 'behind'", dbname=database, user=user),
                             f"Do it. Worst: replica {worst}.")
            self.assertEqual(primary.sql("SELECT object, value >= 0 FROM perf.metrics() WHERE name = 'slot_retained_bytes'",
                                         dbname=database, user=user), [(slot or "#1", True)])
            self.assertRegex(primary.scalar("SELECT object FROM perf.metrics() WHERE name = 'replication_lag_bytes'",
                                            dbname=database, user=user), replica or r"^\d+$")
            self.assertEqual("walreceiver" in primary.scalar("SELECT perf.prometheus_metrics()", dbname=database, user=user),
                             replica is not None)
        self.assert_sql_error("42501", primary, "SELECT object FROM perf.capacity_sample", dbname=database, user="watcher")
        primary.sql("SELECT pg_drop_replication_slot('of_replica')")
        # The standby answers for itself, without a state.
        own = standby.sql("SELECT name, object FROM perf.metrics() WHERE name IN ('replication_lag', 'latency_p99', 'cpu_used')"
                          " ORDER BY 1", dbname=database)
        self.assertEqual(own, [("cpu_used", None), ("latency_p99", database), ("replication_lag", "(this server)")])
        since, action = standby.sql("SELECT since_at, action FROM perf.alerts(true) WHERE name = 'disk_used'", dbname=database)[0]
        self.assertIsNone(since)
        self.assertIn("a standby keeps no state of alerts", action)
        self.assertGreater(standby.scalar("SELECT count(*) FROM perf.cost_impact()", dbname=database), 5)
        standby.sql("SELECT pg_wal_replay_resume()")
        self.wait_for_status(database, "behind", "ok", primary)
        self.assertEqual(primary.scalar("SELECT quantity FROM perf.cost_impact() WHERE item = 'read_replica'", dbname=database), 1)
        # Who may not see replication sees that there is something.
        self.assertEqual(primary.sql("SELECT count(*), count(value) FROM perf.metrics() WHERE name = 'replication_lag'",
                                     dbname=database, user="plain"), [(1, 0)])

    def test_without_preloading(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": None})
        cluster.sql("CREATE EXTENSION perf_opt")
        self.assertEqual(cluster.sql("SELECT value, note FROM perf.metrics() WHERE name = 'latency_p99'"),
                         [(None, "perf_opt is not in shared_preload_libraries")])
        self.assertGreater(cluster.scalar("SELECT count(value) FROM perf.metrics()"), 10)
        status, action = cluster.sql("SELECT status, action FROM perf.alerts(true) WHERE name = 'disk_used'")[0]
        self.assertIn(status, ("ok", "firing"))
        self.assertIn("perf_opt is not in shared_preload_libraries", action)
        self.assertGreater(cluster.scalar("SELECT count(*) FROM perf.cost_impact()"), 5)


class Windows(Alerting):
    """Rates are of the last minutes."""

    def test_rates_are_differences(self) -> None:
        database = self.fresh_database()
        self.cluster.sql("CREATE TABLE written (n int PRIMARY KEY)", dbname=database)
        with self.cluster.connect(database) as session:
            session.query("INSERT INTO written SELECT generate_series(1, 20000)")
            session.query("SELECT pg_sleep(0.1)")
            for number in range(50):
                session.execute("SELECT n FROM written WHERE n = $1::int", (number,))
        rate = "SELECT value > 0, span >= interval '10 s', span < interval '6 min' FROM perf.metrics() WHERE name = $1"
        self.wait_until(lambda: self.cluster.scalar("SELECT value IS NOT NULL FROM perf.metrics() WHERE name = 'wal_bytes_per_s'",
                                                    dbname=database), 30, "a reading to count from")
        # What was there before the reading does not count; what comes now does.
        with self.cluster.connect(database) as session:
            session.query("INSERT INTO written SELECT generate_series(20001, 40000)")
            for number in range(200):
                session.execute("SELECT n FROM written WHERE n = $1::int", (number,))
            session.query("SELECT pg_stat_force_next_flush()")
        for name in ("wal_bytes_per_s", "transactions_per_s", "index_utilisation", "buffer_cache_hit"):
            with self.subTest(metric=name):
                self.assertEqual(self.cluster.sql(rate, (name,), dbname=database), [(True, True, True)])
        # Statements: from history and memory, whoever has them.
        for name, least in (("latency_p99", 0.001), ("slow_queries_per_min", 0.1), ("qps", 0.1)):
            with self.subTest(metric=name):
                self.assertGreater(self.cluster.scalar("SELECT value FROM perf.metrics() WHERE name = $1", (name,),
                                                       dbname=database), least)
        self.assertLessEqual(self.cluster.scalar("SELECT count(DISTINCT read_at) FROM perf.metric_reading", dbname=database), 3)

    def test_applications_and_who_may_know_them(self) -> None:
        database = self.fresh_database()
        for role in ("clerk", "guard"):
            self.cluster.sql(f"DROP ROLE IF EXISTS {role}")
            self.cluster.sql(f"CREATE ROLE {role} LOGIN")
            self.addCleanup(self.cluster.sql, f"DROP ROLE {role}")
        self.wait_until(lambda: self.cluster.scalar("SELECT count(*) FROM perf.metric_reading WHERE read_at < clock_timestamp()"
                                                    " - interval '10 s'", dbname=database), 30, "a reading to count from")
        for user, name in (("clerk", "shop"), ("postgres", "shop"), ("guard", "vault")):
            with self.cluster.connect(database, user, application_name=name) as session:
                for _ in range(40):
                    session.query("SELECT 1")
                for _ in range(10):
                    with self.assertRaises(SqlError):
                        session.query("SELECT 1 / 0")
                session.query("SELECT pg_sleep(0.2)")
        query = ("SELECT object, round(value::numeric, 2)::float8, span FROM perf.metrics() "
                 "WHERE name = $1 AND object IN ('shop', 'vault', '(insufficient privilege)') ORDER BY 1")

        def seen(name: str, user: str = "postgres") -> dict[str, Any]:
            return {row[0]: row[1] for row in self.cluster.sql(query, (name,), dbname=database, user=user)}

        # 20 of 102, and 10 of 51.
        self.wait_until(lambda: seen("application_error_rate") == {"shop": 19.61, "vault": 19.61}, 10, "both applications")
        self.assertEqual(set(seen("application_error_rate", "clerk")), {"shop", "(insufficient privilege)"})
        throughput = seen("application_throughput")
        self.assertAlmostEqual(throughput["shop"], 2 * throughput["vault"], delta=0.2 * throughput["shop"])
        mean, p95, p99 = (seen(f"application_latency_{name}")["vault"] for name in ("mean", "p95", "p99"))
        self.assertTrue(3.9 < mean < 50 and p95 < 100 and 190 < p99 < 300, (mean, p95, p99))
        self.assertEqual(self.cluster.sql(query, ("application_cache_hit",), dbname=database)[0][1], None)
        # An alert says which application; to those who may know, and not to whoever listens.
        listener = self.listen(database)
        self.cluster.sql(THRESHOLD, ("errors", "application_error_rate", 10, "%", 1, 1, 0), dbname=database)
        self.wait_for_status(database, "errors", "firing")
        action = "SELECT action FROM perf.alerts() WHERE name = 'errors'"
        self.assertRegex(self.cluster.scalar(action, dbname=database), r"^Do it\. Worst: application (shop|vault)\.$")
        self.assertEqual(self.cluster.scalar(action, dbname=database, user="clerk"),
                         "Do it. Worst: application (insufficient privilege).")
        told = self.told(listener, "errors")
        self.assertEqual([(payload["object"], payload["action"]) for payload in told],
                         [("(insufficient privilege)", "Do it. Worst: application (insufficient privilege).")])
        self.assertRegex(self.logged(self.cluster, "errors")[0], r'on "(shop|vault)"')

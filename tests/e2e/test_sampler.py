"""The sampler on other machines' files, full and missing volumes, moved clocks, reset statistics; and what it costs."""

from __future__ import annotations

import os
import subprocess
import unittest
from pathlib import Path
from typing import Any, Optional

from .case import ClusterTest
from .cluster import Connection
from .system import give_to_server, make_private_dir, remove_dir

MINUTE_AGO = "UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '1 day'"
V2 = {
    "proc/stat": "cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1\ncpu1 1\ncpu2 1\ncpu3 1\n",
    "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
    "proc/meminfo": "MemTotal:  2048 kB\nMemAvailable: 1024 kB\n",
    "proc/pressure/cpu": "some avg10=0.00 avg60=9.00 avg300=0.00 total=1\n",
    "proc/pressure/io": "some avg10=0.00 avg60=1.25 avg300=0.00 total=1\n",
    "proc/self/cgroup": "0::/system.slice/db.service\n",
    "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/system.slice/db.service/cpu.max": "max 100000\n",
    "sys/fs/cgroup/system.slice/db.service/cpu.stat": "usage_usec 1000000\nthrottled_usec 0\n",
    "sys/fs/cgroup/system.slice/db.service/cpu.pressure": "some avg10=0.00 avg60=3.50 avg300=0.00 total=1\n",
    "sys/fs/cgroup/system.slice/db.service/memory.current": "4096\n",
    "sys/fs/cgroup/system.slice/db.service/memory.max": "max\n",
    "sys/fs/cgroup/system.slice/memory.max": "8192\n",
}
# Nothing limits the server: the host's processors are what it has.
UNLIMITED = {**V2, "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n"}
V1 = {
    "proc/self/cgroup": "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
    # A container sees its own directory as the root.
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
}
OF_THE_HOST = ("cpu_used_pct", "load_1min", "memory_total_bytes", "memory_available_bytes", "pressure_cpu_pct",
               "pressure_memory_pct", "pressure_io_pct", "cgroup_cpu_cores", "cgroup_cpu_limit_cores",
               "cgroup_throttled_pct", "cgroup_memory_bytes", "cgroup_memory_limit_bytes")


class SamplerTest(ClusterTest):
    """Samples taken by hand, one after the other, in a session that keeps its counters."""

    settings = {"shared_preload_libraries": "", "session_preload_libraries": "perf_opt"}

    def setUp(self) -> None:
        super().setUp()
        self.database = self.fresh_database()

    def session(self) -> Connection:
        session = self.cluster.connect(self.database)
        self.addCleanup(session.close)
        return session

    def sample(self, session: Connection) -> None:
        """Takes a sample of everything, whenever the last one was."""
        session.query("SELECT pg_stat_clear_snapshot()")
        session.query(MINUTE_AGO)
        session.query("SELECT perf.capacity_sample_now()")

    def latest(self, metrics: tuple[str, ...], where: str = "true") -> dict[str, Any]:
        """Mean values of the latest sample, of metrics as they were measured."""
        rows = self.cluster.sql(
            "SELECT metric, value_mean FROM perf.capacity_sample s WHERE metric = ANY ($1) AND " + where +
            " AND sampled_at = (SELECT max(sampled_at) FROM perf.capacity_sample WHERE resolution_s = 60)",
            (list(metrics),), dbname=self.database)
        return dict(rows)


class Machine(SamplerTest):
    """What is read of the machine, below a root of the test's own."""

    def root(self, files: dict[str, str], **values: int) -> Path:
        root = make_private_dir()
        self.addCleanup(remove_dir, root)
        self.fill(root, files, **values)
        self.cluster.configure({"perf_opt.host_root": str(root)}, reload=True)
        self.addCleanup(self.cluster.configure, {"perf_opt.host_root": None}, True)
        return root

    @staticmethod
    def fill(root: Path, files: dict[str, str], **values: int) -> None:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(**values) if "{" in text else text)
            for one in (path, *path.parents):
                if one != root and root in one.parents:
                    give_to_server(one)

    def test_cgroup_v2(self) -> None:
        root = self.root(V2, busy=1000, idle=1000)
        session = self.session()
        self.sample(session)
        self.fill(root, V2, busy=1300, idle=1100)
        self.sample(session)
        found = self.latest(OF_THE_HOST)
        self.assertEqual({name: found.get(name) for name in ("cpu_used_pct", "load_1min", "memory_total_bytes", "pressure_cpu_pct",
                                                             "pressure_io_pct", "cgroup_cpu_limit_cores", "cgroup_memory_bytes",
                                                             "cgroup_memory_limit_bytes", "cgroup_cpu_cores")},
                         # The host was busy for 75 %, the server with none of the one and a half processors it may use.
                         {"cpu_used_pct": 0.0, "load_1min": 0.52, "memory_total_bytes": 2097152.0, "pressure_cpu_pct": 3.5,
                          "pressure_io_pct": 1.25, "cgroup_cpu_limit_cores": 1.5, "cgroup_memory_bytes": 4096.0,
                          "cgroup_memory_limit_bytes": 8192.0, "cgroup_cpu_cores": 0.0})
        self.fill(root, UNLIMITED, busy=1600, idle=1200)
        self.sample(session)
        self.assertEqual(self.latest(OF_THE_HOST)["cpu_used_pct"], 75.0)
        # A host that was started again: its counters begin anew, and no rate is made of that.
        self.fill(root, UNLIMITED, busy=5, idle=5)
        self.sample(session)
        self.assertNotIn("cpu_used_pct", self.latest(OF_THE_HOST))
        self.assertEqual(self.latest(OF_THE_HOST)["load_1min"], 0.52)
        self.fill(root, V2, busy=5, idle=5)
        # Two processors' worth, of the four there are: the limit counts.
        self.cluster.sql("INSERT INTO perf.pool_hour VALUES (date_trunc('hour', now()), 'web', '{3600}', 1, 0, 0)", dbname=self.database)
        self.assertEqual(session.query("SELECT DISTINCT cap, cap_reason FROM perf._pool_advice()").rows, [(4, "2 x 2 cores")])

    def test_cgroup_v1(self) -> None:
        self.root(V1)
        self.sample(self.session())
        self.assertEqual(self.latest(OF_THE_HOST), {"cgroup_cpu_limit_cores": 2.5, "cgroup_memory_bytes": 5000.0})

    def test_nothing_to_read(self) -> None:
        self.root({})
        session = self.session()
        self.sample(session)
        self.sample(session)
        self.assertEqual(self.latest(OF_THE_HOST), {})
        self.assertIn("connections_total", self.latest(("connections_total",), "object = ''"))
        self.assertEqual(session.query("SELECT status FROM perf.health() WHERE component = 'sampler'").rows, [("ok",)])

    def test_only_superusers_see_the_root(self) -> None:
        self.cluster.sql("CREATE ROLE somebody LOGIN")
        self.assert_sql_error("42501", self.cluster, "SHOW perf_opt.host_root", dbname=self.database, user="somebody")


class Volumes(SamplerTest):
    """A tablespace on a volume of its own."""

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("only root may mount a volume")
        self.directory = make_private_dir()
        self.addCleanup(remove_dir, self.directory)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(self.directory)], capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest(f"mount: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.directory)], capture_output=True)
        give_to_server(self.directory)
        self.directory.chmod(0o700)

    def disk(self) -> tuple[Optional[float], Optional[float]]:
        found = self.latest(("disk_used_bytes", "disk_available_bytes"), "object = 'tablespace:small'")
        return found.get("disk_used_bytes"), found.get("disk_available_bytes")

    def test_full_and_gone(self) -> None:
        session = self.session()
        session.query(f"CREATE TABLESPACE small LOCATION '{self.directory}'")
        self.sample(session)
        used, available = self.disk()
        self.assertLess(used, 4 << 20)
        self.assertGreater(available, 8 << 20)
        session.query("CREATE TABLE filler (a text) TABLESPACE small")
        error = self.assert_sql_error("53100", self.cluster, "INSERT INTO filler SELECT repeat(md5(g::text), 30) FROM generate_series(1, 100000) g",
                                      dbname=self.database)
        self.assertIn("No space left", error.message)
        self.sample(session)
        used, available = self.disk()
        self.assertGreater(used, 14 << 20)
        self.assertLess(available, 2 << 20)
        # The volume goes away under the server.
        session.query("CHECKPOINT")
        subprocess.run(["umount", "-l", str(self.directory)], check=True, capture_output=True)
        self.sample(self.session())
        self.assertEqual(self.latest(("database_size_bytes",)).keys(), {"database_size_bytes"})
        self.assertIn("disk_used_bytes", self.latest(("disk_used_bytes",), "object = 'data'"))
        self.assertEqual(self.cluster.sql("SELECT status FROM perf.health() WHERE component = 'sampler'", dbname=self.database), [("ok",)])


class Connections(SamplerTest):
    """Who is busy, by role and wait."""

    def test_roles_waits_and_hours(self) -> None:
        self.cluster.sql('CREATE ROLE web LOGIN; CREATE ROLE "odd/role" LOGIN; CREATE TABLE t (a int); GRANT ALL ON t TO web', dbname=self.database)
        idle, waiting, holder = (self.cluster.connect(self.database, user=user) for user in ("odd/role", "web", "web"))
        with idle, waiting, holder:
            idle.query("SELECT 1")
            holder.query("BEGIN; LOCK TABLE t")
            waiting.send_async("SELECT count(*) FROM t")
            self.wait_until(lambda: self.cluster.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), 10, "a lock wait")
            session = self.session()
            for _ in range(3):
                self.sample(session)
            holder.query("COMMIT")
            waiting.wait(10)
        rows = self.cluster.result("SELECT * FROM perf.pool_hour ORDER BY role", dbname=self.database).dicts()
        seconds: dict[str, list[int]] = {}
        for row in rows:  # an hour may have ended meanwhile
            total = seconds.setdefault(row["role"], [0] * 5)
            for busy, count in enumerate(row["seconds_busy"]):
                total[busy] += count
        # The sampling session itself is the third busy one of the database.
        self.assertEqual(seconds, {"": [0, 0, 0, 3, 0], "odd/role": [3, 0, 0, 0, 0], "postgres": [0, 3, 0, 0, 0],
                                   "web": [0, 0, 3, 0, 0]})
        web = [row for row in rows if row["role"] == "web"]
        self.assertEqual((sum(row["busy_s"] for row in web), sum(row["waiting_s"] for row in web)), (6, 6))
        objects = dict(self.cluster.sql("SELECT object, value_max FROM perf.capacity_sample WHERE metric = 'connections_busy' "
                                        "AND sampled_at = (SELECT max(sampled_at) FROM perf.capacity_sample WHERE resolution_s = 60)",
                                        dbname=self.database))
        self.assertEqual(objects, {f'{self.database}/"odd/role"': 0, f"{self.database}/postgres": 1, f"{self.database}/web": 2})
        waits = dict(self.cluster.sql("SELECT object, value_mean FROM perf.capacity_sample WHERE metric = 'waiting_pct' "
                                      "AND sampled_at = (SELECT max(sampled_at) FROM perf.capacity_sample WHERE resolution_s = 60)",
                                      dbname=self.database))
        self.assertAlmostEqual(waits["Lock"], 50)
        self.assertAlmostEqual(sum(waits.values()), 100)

    def with_roles(self, numbers: range, session: Connection) -> None:
        """A sample while so many roles have a transaction open."""
        sessions = [self.cluster.connect(self.database, user=f"many_{n}") for n in numbers]
        try:
            for one in sessions:
                one.query("BEGIN")
            self.sample(session)
        finally:
            for one in sessions:
                one.close()
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename LIKE 'many%'"
        self.wait_until(lambda: self.cluster.scalar(gone), 10, "the roles to be gone")

    def test_many_roles_are_bounded(self) -> None:
        self.cluster.sql("DO $$ BEGIN FOR n IN 1..60 LOOP EXECUTE format('CREATE ROLE many_%s LOGIN', n); END LOOP; END $$")
        self.addCleanup(self.cluster.sql, "DO $$ BEGIN FOR n IN 1..60 LOOP EXECUTE format('DROP ROLE many_%s', n); END LOOP; END $$")
        hours = "SELECT count(DISTINCT hour_at) FROM perf.pool_hour"
        self.with_roles(range(1, 41), self.session())
        rows = "SELECT count(*) FROM perf.pool_hour WHERE role NOT IN ('', '(other)')"
        if self.cluster.scalar(hours, dbname=self.database) == 1:
            self.assertEqual(self.cluster.scalar(rows, dbname=self.database), 32)
        # Others in the same hour, and a process that has not seen the first ones: the rows of the hour are what counts.
        session = self.session()
        self.with_roles(range(21, 41), session)
        self.with_roles(range(41, 61), session)
        self.assertLessEqual(self.cluster.scalar(rows, dbname=self.database), 32 * self.cluster.scalar(hours, dbname=self.database))
        # Nothing is lost: 40, 20 and 20 roles, and the one that samples, three times.
        sums = "SELECT sum(busy_s), sum(waiting_s) FROM perf.pool_hour WHERE role {} ''"
        self.assertEqual(self.cluster.sql(sums.format("="), dbname=self.database), [(83, 80)])
        self.assertEqual(self.cluster.sql(sums.format("<>"), dbname=self.database), [(83, 80)])

    def test_hours_have_their_share_of_the_room(self) -> None:
        session = self.session()
        self.sample(session)
        # More busy backends than anybody has: 24 MB of them.
        session.query("INSERT INTO perf.pool_hour SELECT date_trunc('hour', now()) - make_interval(hours => h), 'role_' || r, "
                      "(SELECT array_agg((random() * 1e7)::int) FROM generate_series(1, 1001) WHERE h > 0 AND r > 0), r, h, r "
                      "FROM generate_series(1, 300) AS h, generate_series(1, 20) AS r")
        totals = ("SELECT hour_at, sum(busy_s), sum(waiting_s), max(connected_max), (SELECT sum(s) FROM perf.pool_hour x, "
                  "unnest(x.seconds_busy) s WHERE x.hour_at = h.hour_at) FROM perf.pool_hour h "
                  "WHERE hour_at < date_trunc('hour', now()) GROUP BY 1 ORDER BY 1")
        before = session.query(totals).rows
        self.sample(session)
        self.assertEqual(session.query(totals).rows, before)
        apart = dict(session.query("SELECT hour_at, count(*) FROM perf.pool_hour WHERE hour_at < date_trunc('hour', now()) GROUP BY 1").rows)
        self.assertEqual((apart[before[-1][0]], apart[before[0][0]]), (20, 1))
        self.assertEqual(session.query("SELECT role FROM perf.pool_hour ORDER BY hour_at LIMIT 1").rows, [("(other)",)])
        self.assertLess(session.query("SELECT sum(pg_column_size(seconds_busy)) FROM perf.pool_hour").scalar(), 10 << 20)


class Trouble(SamplerTest):
    """Clocks, resets, gaps, parts that cannot be measured."""

    def test_statistics_reset_gives_no_negative_rate(self) -> None:
        session = self.session()
        self.sample(session)
        self.sample(session)
        session.query("SELECT pg_stat_reset()")
        self.sample(session)
        self.sample(session)
        self.assertEqual(self.cluster.sql("SELECT DISTINCT metric FROM perf.capacity_sample WHERE value_mean < 0", dbname=self.database), [])
        self.assertIn("xacts_per_s", self.latest(("xacts_per_s",)))

    def test_a_clock_that_was_ahead(self) -> None:
        session = self.session()
        self.sample(session)
        # As it looks after a day two years ahead.
        session.query("SELECT perf.capacity_sample_now()")
        session.query("CREATE TABLE perf.ahead PARTITION OF perf.capacity_sample_1d FOR VALUES FROM ('2101-01-01') TO ('2102-01-01')")
        session.query("INSERT INTO perf.capacity_sample (metric, object, sampled_at, resolution_s, value_mean) "
                      "VALUES ('database_size_bytes', current_database(), '2101-05-05', 86400, 1e15)")
        session.query("INSERT INTO perf.pool_hour VALUES ('2101-05-05', 'web', '{1}', 1, 0, 0)")
        session.query("UPDATE perf.capacity_clock SET sampled_at = '2101-05-05', rolled_until = '2101-05-05'")
        session.query("SELECT perf.capacity_sample_now()")
        self.assertEqual(session.query("SELECT count(*) FROM perf.capacity_sample WHERE sampled_at > now() + interval '1 day'").rows, [(0,)])
        self.assertEqual(session.query("SELECT count(*) FROM perf.pool_hour WHERE hour_at > now()").rows, [(0,)])
        self.assertEqual(session.query("SELECT bool_and(rolled_until <= now()), bool_and(sampled_at <= now()) FROM perf.capacity_clock").rows,
                         [(True, True)])

    def test_databases_that_shrink_and_go(self) -> None:
        session = self.session()
        other = self.fresh_database(extension=False)
        self.cluster.sql("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)", dbname=other)
        session.query("CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)")
        self.sample(session)
        metrics = ("database_size_bytes", "databases_size_bytes")
        before = self.latest(metrics)
        self.cluster.sql(f"DROP DATABASE {other}")
        self.sample(session)
        without = self.latest(metrics)
        self.assertLess(without["databases_size_bytes"], before["databases_size_bytes"] - (20 << 20))
        # As after a restore of less than there was.
        session.query("DROP TABLE big")
        self.sample(session)
        smaller = self.latest(metrics)
        self.assertLess(smaller["database_size_bytes"], without["database_size_bytes"] - (20 << 20))
        self.assertGreater(smaller["database_size_bytes"], 0)
        self.assertEqual(session.query("SELECT DISTINCT metric FROM perf.capacity_sample WHERE value_mean < 0").rows, [])
        self.assertEqual(session.query("SELECT count(*) FROM perf.capacity_estimate() WHERE current_value <= 0").rows, [(0,)])

    def test_a_tablespace_that_is_gone(self) -> None:
        directory = make_private_dir()
        self.addCleanup(remove_dir, directory)
        place, away = directory / "place", directory / "away"
        place.mkdir(mode=0o700)
        for path in (directory, place):
            give_to_server(path)
        self.cluster.sql(f"CREATE TABLESPACE lost LOCATION '{place}'")
        self.addCleanup(self.cluster.sql, "DROP TABLESPACE lost")
        disk = ("disk_used_bytes",)
        there = "object = 'tablespace:lost'"
        self.sample(self.session())
        self.assertIn("disk_used_bytes", self.latest(disk, there))
        place.rename(away)
        self.addCleanup(away.rename, place)
        self.sample(self.session())
        self.assertEqual(self.latest(disk, there), {})
        self.assertIn("disk_used_bytes", self.latest(disk, "object = 'data'"))
        self.assertEqual(self.cluster.sql("SELECT status FROM perf.health() WHERE component = 'sampler'", dbname=self.database), [("ok",)])
        self.assertEqual(self.cluster.sql("SELECT value, note FROM perf.metrics() WHERE name = 'disk_used' AND object = 'tablespace:lost'",
                                          dbname=self.database), [(None, "its filesystem does not answer")])
        self.assertEqual(self.cluster.sql("SELECT quantity, monthly_cost_low FROM perf.cost_impact() WHERE item = 'disk:tablespace:lost'",
                                          dbname=self.database), [(None, None)])
        self.assertEqual(self.cluster.scalar("SELECT count(*) FROM perf.capacity_estimate()", dbname=self.database), 8)

    def test_gaps_of_days(self) -> None:
        session = self.session()
        self.sample(session)
        # As after five days in which nobody sampled: what was summed up before is all there is.
        session.query("UPDATE perf.capacity_clock SET sampled_at = sampled_at - interval '5 days', rolled_until = "
                      "date_bin(make_interval(secs => resolution_s), now() - interval '5 days', 'epoch')")
        self.sample(session)
        self.assertEqual(session.query("SELECT count(*) FROM perf.capacity_clock WHERE resolution_s > 60 AND (rolled_until > now() OR "
                                       "rolled_until < now() - make_interval(secs => 2 * resolution_s))").rows, [(0,)])
        self.assertEqual(session.query("SELECT count(*) FROM (SELECT 1 FROM perf.capacity_sample GROUP BY metric, object, "
                                       "sampled_at, resolution_s HAVING count(*) > 1) AS d").rows, [(0,)])

    def test_a_part_that_fails_leaves_the_rest(self) -> None:
        session = self.session()
        session.query("ALTER TABLE perf.pool_hour RENAME COLUMN busy_s TO gone")
        mark = self.cluster.log_mark()
        self.sample(session)
        self.assertIn("connections_total", self.latest(("connections_total",)))
        self.assertIn("database_size_bytes", self.latest(("database_size_bytes",)))
        status, detail = session.query("SELECT status, detail FROM perf.health() WHERE component = 'sampler'").rows[0]
        self.assertEqual(status, "warning")
        self.assertIn("could not measure hours of connections", detail)
        self.cluster.wait_for_log("could not sample everything", since=mark)
        session.query("ALTER TABLE perf.pool_hour RENAME COLUMN gone TO busy_s")
        self.sample(session)
        self.assertEqual(session.query("SELECT status FROM perf.health() WHERE component = 'sampler'").rows, [("ok",)])

    def test_a_cancel_ends_the_sample(self) -> None:
        session = self.session()
        self.sample(session)
        blocker = self.session()
        blocker.query("BEGIN; LOCK TABLE perf.pool_hour IN ACCESS EXCLUSIVE MODE")
        session.query(MINUTE_AGO)
        before = session.query("SELECT count(*) FROM perf.capacity_sample").scalar()
        session.query("SET statement_timeout = '300ms'")
        with self.assertRaises(Exception):
            session.query("SELECT perf.capacity_sample_now()")
        blocker.query("ROLLBACK")
        session.query("SET statement_timeout = 0")
        self.assertEqual(session.query("SELECT count(*) FROM perf.capacity_sample").scalar(), before)
        self.sample(session)


class Collector(ClusterTest):
    """The same by the collector, each second."""

    def test_hours_and_cost(self) -> None:
        cluster = self.private_cluster({"perf_opt.collect_interval": "1s"})
        database = self.fresh_database(cluster)
        cluster.sql("CREATE ROLE web LOGIN")
        with cluster.connect(database, user="web") as session:
            session.query("BEGIN")
            self.wait_until(lambda: cluster.sql("SELECT 1 FROM perf.capacity_clock WHERE isfinite(sampled_at) AND resolution_s = 60", dbname=database), 20, "a first sample")

            def seconds() -> int:
                cluster.sql(MINUTE_AGO, dbname=database)
                return cluster.scalar("SELECT coalesce(sum(seconds_busy[2]), 0) FROM perf.pool_hour WHERE role = 'web'", dbname=database)
            self.wait_until(lambda: seconds() >= 4, 30, "four busy seconds")
        row = cluster.sql("SELECT status, detail FROM perf.health() WHERE component = 'sampler'", dbname=database)
        self.assertEqual(row[0][0], "ok", row)
        self.assertRegex(row[0][1], r"^\d+ ms a sample.*, \d+\.\d MB of 64 MB$")

    def test_statements_are_those_of_the_database(self) -> None:
        cluster = self.private_cluster({"perf_opt.collect_interval": "1s"})
        busy, idle = self.fresh_database(cluster), self.fresh_database(cluster)

        def qps(database: str) -> float:
            """Of the samples that a moved clock provokes, a second apart: statements of the test in `busy`."""
            cluster.sql(MINUTE_AGO, dbname=database)
            return cluster.scalar("SELECT coalesce(max(value_mean), 0) FROM perf.capacity_sample WHERE metric = 'qps' "
                                  "AND object = current_database()", dbname=database)
        self.wait_until(lambda: qps(idle) > 0, 30, "a rate of the quiet database")
        with cluster.connect(busy) as session:
            def work() -> bool:
                for _ in range(500):
                    session.query("SELECT 1")
                return qps(busy) > 200
            self.wait_until(work, 30, "a rate of the busy database")
            cluster.sql("DELETE FROM perf.capacity_sample", dbname=idle)
            work()
            self.wait_until(lambda: work() and qps(idle) > 0, 30, "another rate of the quiet database")
        self.assertLess(qps(idle), 100)

    def test_samples_that_fail_hold_up_nothing_else(self) -> None:
        cluster = self.private_cluster({"perf_opt.collect_interval": "1s"})
        cluster.sql("CREATE EXTENSION perf_opt")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.alert_state") > 0, 30, "a first evaluation of alerts")
        cluster.sql("ALTER TABLE perf.capacity_clock RENAME TO capacity_clock_gone")
        broken = cluster.scalar("SELECT clock_timestamp()::text")
        later = f"SELECT max(evaluated_at) > '{broken}'::timestamptz + interval '3 s' FROM perf.alert_state"
        self.wait_until(lambda: cluster.scalar(later), 30, "alerts that are evaluated without samples")

    def test_names_in_another_encoding(self) -> None:
        cluster = self.private_cluster({"perf_opt.collect_interval": "1s"})
        cluster.sql("CREATE DATABASE \"b\u00e4r\" ENCODING 'LATIN1' TEMPLATE template0")
        cluster.sql("CREATE ROLE \"r\u00f6le\" SUPERUSER LOGIN")
        cluster.sql("CREATE EXTENSION perf_opt", dbname="b\u00e4r")
        with cluster.connect("b\u00e4r", user="r\u00f6le") as session:
            session.query("CREATE TABLE t_caf\u00e9 AS SELECT 1 AS a")

            def sampled() -> bool:
                session.query(MINUTE_AGO)
                return session.query("SELECT count(DISTINCT metric) FROM perf.capacity_sample WHERE metric IN "
                                     "('database_size_bytes', 'connections_busy', 'relation_size_bytes')").scalar() == 3
            self.wait_until(sampled, 30, "samples")
            health = "SELECT status FROM perf.health() WHERE component = 'sampler'"
            self.wait_until(lambda: session.query(health).rows == [("ok",)], 10, "a rotation without a problem")
            self.assertGreater(session.query("SELECT count(*) FROM perf._pool_advice()").scalar(), 0)

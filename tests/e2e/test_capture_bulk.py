"""Capture under load: nothing is counted twice, nothing is lost, and memory does not grow."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from .capture_case import CaptureTest, ends_badly, in_threads
from .case import ClusterTest
from .cluster import Cluster, Connection

WARNINGS = {"log_min_messages": "warning"}
SUMS = ("SELECT coalesce(sum(calls), 0)::bigint, coalesce(sum(failures), 0)::bigint, coalesce(sum(rows), 0)::bigint "
        "FROM perf.statements(true) WHERE username = 'load'")


class ThousandFailures(CaptureTest):
    """Planted failures of five kinds at once: each is recorded exactly once."""

    time_limit = 110.0
    settings = {**CaptureTest.settings, "deadlock_timeout": "10ms"}
    EACH = {"cancelled": 250, "timeout": 250, "terminated": 250, "error": 250, "deadlock": 60}

    @staticmethod
    def until_asleep(session: Connection, killer: Connection) -> None:
        """Waits until a session executes its statement."""
        while not killer.execute("SELECT 1 FROM pg_stat_get_activity($1) WHERE wait_event = 'PgSleep'", (session.pid,)).rows:
            time.sleep(0.001)

    def cancelled(self, count: int) -> None:
        """Statements that somebody else's session cancels."""
        with self.cluster.connect(self.db) as session, self.cluster.connect(self.db) as killer:
            for _ in range(count):
                session.send_async("SELECT pg_sleep(30), 'cancelled', 1")
                self.until_asleep(session, killer)
                killer.execute("SELECT pg_cancel_backend($1)", (session.pid,))
                self.assertEqual(ends_badly(session.wait), "57014")

    def timed_out(self, count: int) -> None:
        """Statements that reach statement_timeout."""
        with self.cluster.connect(self.db) as session:
            session.query("SET statement_timeout = 10")
            for _ in range(count):
                self.assertEqual(ends_badly(session.query, "SELECT pg_sleep(30), 'timeout', 1, 2"), "57014")

    def terminated(self, count: int) -> None:
        """Statements whose backend is terminated while they run."""
        with self.cluster.connect(self.db) as killer:
            for _ in range(count):
                session = self.cluster.connect(self.db)
                session.send_async("SELECT pg_sleep(30), 'terminated', 1, 2, 3")
                self.until_asleep(session, killer)
                killer.execute("SELECT pg_terminate_backend($1)", (session.pid,))
                self.assertEqual(ends_badly(session.wait), "57P01")
                session.close()

    def errors(self, count: int) -> None:
        """Statements that raise."""
        with self.cluster.connect(self.db) as session:
            for number in range(count):
                self.assertEqual(ends_badly(session.query, f"SELECT {number} / (SELECT 0 OFFSET 0)"), "22012")

    def deadlocks(self, count: int) -> None:
        """Pairs of statements that wait for each other."""
        first, second = self.cluster.connect(self.db), self.cluster.connect(self.db)
        with first, second:
            for _ in range(count):
                for session, row in ((first, 1), (second, 2)):
                    session.query("BEGIN")
                    session.query(f"UPDATE bulk_locks SET b = 0 WHERE a = {row}")
                first.send_async("UPDATE bulk_locks SET b = 1 WHERE a = 2")
                second.send_async("UPDATE bulk_locks SET b = 1 WHERE a = 1")
                states = [self.outcome(session) for session in (first, second)]
                self.assertEqual(sorted(states), ["", "40P01"])
                for session in (first, second):
                    session.query("ROLLBACK")

    @staticmethod
    def outcome(session: Connection) -> str:
        """The SQLSTATE of what a session ends with, or '' when it succeeds."""
        try:
            session.wait(20)
            return ""
        except TimeoutError:
            raise
        except Exception as problem:  # noqa: B902  (its SQLSTATE is what is asked)
            return problem.sqlstate  # type: ignore[attr-defined]

    def test_each_is_recorded_once(self) -> None:
        self.run_sql("DROP TABLE IF EXISTS bulk_locks", "CREATE TABLE bulk_locks AS SELECT g AS a, 0 AS b FROM generate_series(1, 2) g")
        self.reset()
        works = [(self.cancelled, "cancelled"), (self.timed_out, "timeout"), (self.terminated, "terminated"),
                 (self.errors, "error"), (self.deadlocks, "deadlock")]
        in_threads(len(works), lambda number: works[number][0](self.EACH[works[number][1]]))
        self.wait_until(lambda: self.cluster.scalar("SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'", (self.db,)) == 0,
                        20, "the terminated backends to leave")
        for text, kind, sqlstate in (("SELECT pg_sleep($1), $2, $3", "cancelled", "57014"),
                                     ("SELECT pg_sleep($1), $2, $3, $4", "timeout", "57014"),
                                     ("SELECT pg_sleep($1), $2, $3, $4, $5", "terminated", "57P01"),
                                     ("SELECT $1 / (SELECT $2 OFFSET $3)", "error", "22012")):
            row = self.assert_row(text, self.EACH[kind], 0, failures=self.EACH[kind], sqlstate=sqlstate)
            if kind == "timeout":
                self.assertGreaterEqual(row["min_ms"], 5)  # of the 10, what parsing and planning left
        locks = self.row("UPDATE bulk_locks SET b = $1 WHERE a = $2")
        self.assertEqual((locks["calls"], locks["failures"], locks["last_sqlstate"]),
                         (4 * self.EACH["deadlock"], self.EACH["deadlock"], "40P01"))
        self.nothing_evicted()
        self.assertEqual(sum(row["failures"] for row in self.statements()), sum(self.EACH.values()))


class RandomCancels(CaptureTest):
    """Cancels that hit a statement anywhere between its parsing and its commit, or miss it."""

    STATEMENTS = ["SELECT pg_sleep(0.001)", "DO $$ BEGIN PERFORM pg_sleep(0.001); COMMIT; PERFORM abs(1); END $$",
                  "SELECT sleeps()", "INSERT INTO cancelled SELECT pg_sleep(0.0005)::text FROM generate_series(1, 2)",
                  "BEGIN; SELECT count(*) FROM pg_class a JOIN pg_class b USING (relkind); COMMIT",
                  "CREATE TEMP TABLE z AS SELECT pg_sleep(0.001)::text; DROP TABLE z"]

    def test_every_one_is_counted_once(self) -> None:
        session, killer = self.session(), self.cluster.connect()
        self.addCleanup(killer.close)
        session.query("CREATE TABLE IF NOT EXISTS cancelled (a text); CREATE OR REPLACE FUNCTION sleeps() RETURNS void "
                      "LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); PERFORM pg_sleep(0.0005); END $$")
        self.reset()
        done = threading.Event()

        def cancel() -> None:
            pause = random.Random(7)
            while not done.is_set():
                killer.execute("SELECT pg_cancel_backend($1)", (session.pid,))
                time.sleep(pause.random() * 0.004)
        canceller = threading.Thread(target=cancel)
        canceller.start()
        failures = 0
        try:
            for number in range(1200):
                try:
                    session.query(self.STATEMENTS[number % len(self.STATEMENTS)])
                except Exception as problem:  # noqa: B902  (only a cancel is expected)
                    self.assertEqual(problem.sqlstate, "57014")  # type: ignore[attr-defined]
                    failures += 1
                if session.transaction_status != "I":
                    try:
                        session.query("ROLLBACK")
                    except Exception:  # noqa: B902  (a cancel that hits here counts as well)
                        failures += 1
                        session.query("ROLLBACK")
        finally:
            done.set()
            canceller.join()
        self.assertGreater(failures, 50)
        rows = [row for row in self.statements() if row["toplevel"]]
        self.assertEqual(sum(row["failures"] for row in rows), failures)
        slept = [row for row in rows if row["query"] == "SELECT pg_sleep($1)"]
        self.assertLessEqual(slept[0]["calls"], 200)
        session.query("SELECT abs(1)")
        self.assert_row("SELECT abs($1)", 1, 1)


class Conservation(ClusterTest):
    """Sums over all rows are exact, however small the table is."""

    time_limit = 110.0
    CLIENTS = 8
    TEXTS = 3000

    def server(self, **settings: object) -> Cluster:
        """A server with a small table and a role whose statements are counted."""
        cluster = self.private_cluster({"perf_opt.max_statements": 100, **WARNINGS, **settings})
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("CREATE ROLE load LOGIN; CREATE TABLE kept AS SELECT generate_series(1, 20000) AS a; GRANT SELECT ON kept TO load")
        return cluster

    @staticmethod
    def distinct(number: int) -> str:
        """One of many thousand statements that differ in more than literals, each of two rows."""
        bits = [f"a{bit}" for bit in range(16) if number >> bit & 1]
        return "SELECT " + ", ".join([*(f"x AS {bit}, -x" if bit.endswith(("1", "3", "5")) else f"x + {bit[1:]}" for bit in bits), "x"]) + \
            f" FROM (VALUES (1), (2)) v{number} (x) WHERE x IS NOT NULL" + "".join(f" AND x < {bit[1:]}99::int{8 if number >> 15 & 1 else 4}"
                                                                                      for bit in bits)

    def test_many_clients_and_readers(self) -> None:
        cluster = self.server()
        done = threading.Event()
        sums: list[tuple] = []

        def read() -> None:
            with cluster.connect() as session:
                while not done.is_set():
                    sums.append(session.query(SUMS).rows[0])

        def load(number: int) -> None:
            order = list(range(self.TEXTS))
            random.Random(number).shuffle(order)
            with cluster.connect(user="load") as session:
                for text in order:
                    session.query(self.distinct(text))
                    if text % 10 == 0:
                        session.query("SELECT sum(a) FROM kept WHERE a > 5")
                    if text % 100 == 0:
                        self.assertEqual(ends_badly(session.query, f"SELECT 1 / (SELECT 0 OFFSET 0), {text}"), "22012")
                    if text % 1000 == 999:
                        session.close()
                        session.__init__(session.host, session.port, "load", "postgres")  # type: ignore[misc]
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            in_threads(self.CLIENTS, load)
        finally:
            done.set()
            for reader in readers:
                reader.join()
        calls = self.CLIENTS * (self.TEXTS + self.TEXTS // 10 + self.TEXTS // 100)
        failures = self.CLIENTS * self.TEXTS // 100
        rows = self.CLIENTS * (2 * self.TEXTS + self.TEXTS // 10)
        self.assertEqual(cluster.sql(SUMS), [(calls, failures, rows)])
        for earlier, later in zip(sums, sums[1:]):
            if all(a <= b for a, b in zip(earlier, later)):
                continue
            # Two readers append: only what one of them saw is in order. A step back of both is a loss.
            self.assertTrue(any(all(a <= b for a, b in zip(before, later)) for before in sums[max(0, sums.index(later) - 3):]), (earlier, later))
        heavy = cluster.sql("SELECT query, toplevel FROM perf.statements() WHERE query = 'SELECT sum(a) FROM kept WHERE a > $1'")
        self.assertEqual(len(heavy), 1, "the statement with the most time did not survive the flood")
        other = cluster.sql("SELECT sum(calls) FROM perf.statements(true) WHERE query = '(other)' AND username = 'load'")
        self.assertGreater(other[0][0], calls // 4)
        self.assertLessEqual(cluster.scalar("SELECT count(*) FROM perf.statements(true) WHERE queryid IS NOT NULL"), 100)

    def test_time_is_conserved(self) -> None:
        cluster = self.server()
        with cluster.connect(user="load") as session:
            for number in range(2000):
                session.query(self.distinct(number))
        total = "SELECT sum(total_ms), sum(planning_total_ms), sum(plans), sum(calls) FROM perf.statements(true) WHERE username = 'load'"
        before = cluster.sql(total)[0]
        with cluster.connect() as session:
            for number in range(2000, 4000):
                session.query(self.distinct(number))
        after = cluster.sql(total)[0]
        self.assertEqual(before[2:], (2000, 2000))
        for one, two in zip(before, after):
            self.assertAlmostEqual(float(one), float(two), places=6)

    def test_with_resets(self) -> None:
        cluster = self.server(**{"perf_opt.max_statements": 5000})
        done = threading.Event()

        def forget() -> None:
            with cluster.connect() as session:
                while not done.is_set():
                    session.query("SELECT perf.reset()")
                    session.query("SELECT count(*) FROM perf.statements(true)")
        forgetter = threading.Thread(target=forget)
        forgetter.start()

        def load(number: int) -> None:
            with cluster.connect(user="load") as session:
                for text in range(1500):
                    session.query(self.distinct(text % 40))
        try:
            in_threads(6, load)
        finally:
            done.set()
            forgetter.join()
        cluster.sql("SELECT perf.reset()")
        self.assertEqual(cluster.sql(SUMS), [(0, 0, 0)])
        with cluster.connect(user="load") as session:
            for text in range(400):
                session.query(self.distinct(text % 40))
        self.assertEqual(cluster.sql(SUMS), [(400, 0, 800)])

    def test_a_leaving_backend_takes_nothing_along(self) -> None:
        cluster = self.server(**{"perf_opt.max_statements": 5000})
        with cluster.connect() as reader:
            for number in range(1, 301):
                with cluster.connect(user="load") as session:
                    for _ in range(4):
                        session.query("SELECT abs(1)")
                self.assertEqual(reader.query(SUMS).rows, [(4 * number, 0, 4 * number)])


class Memory(ClusterTest):
    """Backends do not grow with the number of statements they have seen."""

    @staticmethod
    def resident_kb(pid: int) -> int:
        """Private memory of a process in kB; shared buffers that it touched do not count."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        return int(fields["RssAnon"].split()[0])

    def test_a_hundred_thousand_statements(self) -> None:
        cluster = self.private_cluster({"perf_opt.max_statements": 1000, **WARNINGS})
        cluster.sql("CREATE EXTENSION perf_opt")
        with cluster.connect() as session:
            def flood(first: int, count: int) -> None:
                session.query("DO $$ BEGIN FOR i IN %d .. %d LOOP EXECUTE format('SELECT 1 AS x FROM (VALUES (1)) v%%s (x)', i); "
                              "IF i %% 100 = 0 THEN BEGIN EXECUTE 'SELECT 1 / (SELECT 0 OFFSET 0)'; EXCEPTION WHEN division_by_zero "
                              "THEN NULL; END; END IF; END LOOP; END $$" % (first, first + count - 1))
            flood(1, 10000)
            before = self.resident_kb(session.pid)
            for part in range(9):
                flood(10001 + part * 10000, 10000)
            after = self.resident_kb(session.pid)
            self.assertLess(after - before, 1024, f"{before} kB became {after} kB")
            self.assertEqual(session.query("SELECT sum(calls), sum(failures) FROM perf.statements(true) WHERE NOT toplevel "
                                           "OR query = '(other)'").rows[0][1], 1000)


class Percentiles(CaptureTest):
    """What is told of a statement's latencies agrees with their histogram."""

    def test_percentiles_and_bounds(self) -> None:
        session = self.session()
        durations = []
        for size in (1, 10, 100, 1000, 10000, 100000):
            for _ in range(20):
                started = time.perf_counter()
                session.query(f"SELECT count(*) FROM generate_series(1, {size})")
                durations.append((time.perf_counter() - started) * 1000)
        row = self.row("SELECT count(*) FROM generate_series($1, $2)")
        buckets = self.cluster.result("SELECT * FROM perf.latency_histogram($1)", (row["queryid"],), dbname=self.db).dicts()
        self.assertEqual(sum(bucket["calls"] for bucket in buckets), 120)
        self.assertEqual(row["calls"], 120)
        self.assertEqual(sorted(bucket["lower_ms"] for bucket in buckets), [bucket["lower_ms"] for bucket in buckets])
        for bucket in buckets:
            self.assertTrue(bucket["lower_ms"] < bucket["upper_ms"])
            if bucket["lower_ms"] > 0.0011:
                self.assertLess(bucket["upper_ms"] / bucket["lower_ms"], 1.0626)
        self.assertTrue(buckets[0]["lower_ms"] <= row["min_ms"] < buckets[0]["upper_ms"])
        self.assertTrue(buckets[-1]["lower_ms"] <= row["max_ms"] < buckets[-1]["upper_ms"])
        self.assertTrue(row["min_ms"] <= row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"])
        for share, name in ((0.5, "p50_ms"), (0.95, "p95_ms"), (0.99, "p99_ms")):
            seen = 0
            for bucket in buckets:
                seen += bucket["calls"]
                if seen >= share * 120:
                    self.assertTrue(bucket["lower_ms"] * 0.9999 <= row[name] <= bucket["upper_ms"] * 1.0001, (name, bucket, row[name]))
                    break
        # Each was measured from outside as well, which takes longer.
        durations.sort()
        self.assertLessEqual(row["p50_ms"], durations[60] * 1.032)
        self.assertLessEqual(row["total_ms"], sum(durations))

    def test_one_execution_is_exact(self) -> None:
        session = self.session()
        for columns, size in enumerate((1, 300, 3000, 30000, 300000), 1):
            session.query("SELECT " + ", ".join(["count(*)"] * columns) + f" FROM generate_series(1, {size})")
            row = self.row("SELECT " + ", ".join(["count(*)"] * columns) + " FROM generate_series($1, $2)")
            for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms", "mean_ms", "total_ms"):
                self.assertAlmostEqual(row[name], row["min_ms"], places=9)

"""kill -9 of the worker in the middle of each step that lets go of a partition or compresses it: what was begun is ended by the
next try of the run, and no row is lost or doubled."""

from __future__ import annotations

import subprocess
from typing import Any, Callable

from .cluster import Cluster, Connection, ConnectionLost, SqlError
from .jobs_case import SETTINGS
from .system import make_private_dir, remove_dir
from .test_partition_compression import CompressionTest
from .test_partition_expiry import EVENTS, JANUARY, NOW, ExpiryTest

REST = "(SELECT * FROM events WHERE at >= '2026-02-01')"
CONTENT = "SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM {} t"


class KillTest(ExpiryTest):
    """A server of its own, whose worker is killed."""

    expects_crash = True
    uses_shared_cluster = False

    def setUp(self) -> None:
        super().setUp()
        self.own = self.private_cluster({**SETTINGS, "autovacuum": "off"})
        self.database = "postgres"
        self.sql("CREATE EXTENSION perf_opt")
        self.directory = make_private_dir()
        self.addCleanup(remove_dir, self.directory)
        self.sql(f"ALTER DATABASE postgres SET perf_opt.archive_directory = '{self.directory}'")

    @property
    def cluster(self) -> Cluster:
        return self.own

    def content(self, relation: str) -> str:
        """Number and checksum of the rows of a table."""
        return self.value(CONTENT.format(relation))

    def answers(self) -> bool:
        """Whether the server takes connections, and its scheduler runs."""
        try:
            return self.value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'perf_opt scheduler'") == 1
        except (SqlError, ConnectionLost, OSError):
            return False

    def killed(self, hold: str, at: Callable[[int], Any]) -> dict[str, Any]:
        """Has a look begun while `hold` is open in another session, kills its worker when `at` says so of its process, and
        waits for the end of the run."""
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as ticker:
            if hold:
                holder.query(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {hold}")
            ticker.send_execute("SELECT perf.partition_tick('events', $1)", (NOW,))
            victim = self.worker()
            self.wait_until(lambda: at(victim), 30, "the moment")
            self.cluster.kill9(victim)
            with self.assertRaises((ConnectionLost, SqlError)):
                ticker.wait(30)
        self.wait_until(self.answers, 30, "the server")
        self.wait_until(lambda: self.value("SELECT count(*) FROM perf.job_runs WHERE finished_at IS NULL") == 0, 60, "the end of the run")
        run, = self.cluster.result("SELECT * FROM perf.job_runs ORDER BY run_id", dbname=self.database).dicts()
        self.assertEqual((run["status"], run["attempt"]), ("succeeded", 2), run)
        self.assertEqual(self.noted(), [])
        return run

    def waits(self, relation: str) -> Callable[[int], Any]:
        """Says whether a process waits for a lock on a relation."""
        oid = self.value("SELECT $1::regclass::oid", (relation,))
        return lambda pid: self.sql("SELECT mode FROM pg_locks WHERE pid = $1 AND relation = $2::oid AND NOT granted", (pid, oid))

    def toast(self) -> str:
        """The TOAST table of January: who reads it stops a drop, and nothing before that."""
        return self.value(f"SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = '{JANUARY}'::regclass")

    def steps_of(self, run: dict[str, Any]) -> list[str]:
        """What the last try has done."""
        return [step["step"] for step in run["detail"]["steps"]]


class Detaching(KillTest):
    """Killed before, in and after the detach."""

    def test_before_the_detach(self) -> None:
        self.events(on_expire="drop")
        rest = self.content(REST)
        run = self.killed(f"LOCK TABLE {JANUARY} IN ACCESS EXCLUSIVE MODE", self.waits(JANUARY))
        self.assertEqual((self.steps_of(run), self.exists(JANUARY)), (["detach", "drop"], False))
        self.assertEqual(self.content("events"), rest)

    def test_in_the_detach(self) -> None:
        self.events(on_expire="archive")
        january, rest = self.content(JANUARY), self.content(REST)
        run = self.killed("SELECT count(*) FROM events",
                          lambda _: self.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1)
        self.assertEqual(self.steps_of(run), ["finalize", "archive"])
        self.assertEqual((self.content("archive.events_p2026_01"), self.content("events")), (january, rest))

    def test_in_the_detach_beside_a_default_partition(self) -> None:
        self.events(default=True, on_expire="archive")
        january, rest = self.content(JANUARY), self.content(REST)
        run = self.killed(f"SELECT count(*) FROM {JANUARY}", self.waits(JANUARY))
        self.assertEqual(self.steps_of(run), ["detach", "archive"])
        self.assertEqual((self.content("archive.events_p2026_01"), self.content("events")), (january, rest))

    def test_between_detach_and_drop(self) -> None:
        self.events(on_expire="drop")
        rest = self.content(REST)
        toast = self.toast()
        run = self.killed(f"SELECT count(*) FROM {toast}", self.waits(toast))
        self.assertEqual((self.steps_of(run), self.exists(JANUARY), self.content("events")), (["drop"], False, rest))

    def test_between_detach_and_move(self) -> None:
        self.events(on_expire="archive")
        january, rest = self.content(JANUARY), self.content(REST)
        run = self.killed("CREATE SCHEMA archive",
                          lambda pid: self.sql("SELECT FROM pg_locks WHERE pid = $1 AND NOT granted AND locktype = 'transactionid'", (pid,)))
        self.assertEqual(self.steps_of(run), ["archive"])
        self.assertEqual((self.content("archive.events_p2026_01"), self.content("events")), (january, rest))


class Writing(KillTest):
    """Killed before, in and after the writing of a file."""

    def events(self, default: bool = False, **options: Any) -> int:
        """January is large enough to be caught while it is written."""
        self.sql(EVENTS + "DROP INDEX events_note;"
                 "INSERT INTO events SELECT 100000 + g, '2026-01-02 00:00+00', encode(pg_read_binary_file('/dev/urandom', 0, 1000000), 'base64')"
                 " FROM generate_series(1, 60) g")
        return self.manage("events", premake=1, retention="1 month", on_expire="archive", archive_to="file")

    def loaded(self) -> str:
        """The content of the one file that there is."""
        path, = self.directory.iterdir()
        content = subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout
        self.sql("CREATE TABLE loaded (LIKE events)")
        with self.cluster.connect(self.database) as session:
            session.copy_in("COPY loaded FROM STDIN WITH (FORMAT csv, HEADER)", content)
        archive, = self.sql("SELECT rows, file FROM perf.partition_archives")
        self.assertEqual(archive, (744 + 60, str(path)))
        return self.content("loaded")

    def after(self, january: str, rest: str) -> None:
        """Every row is in one place."""
        self.assertEqual((self.loaded(), self.content("events"), self.exists(JANUARY)), (january, rest, False))

    def test_before_the_file(self) -> None:
        self.events()
        january, rest, toast = self.content(JANUARY), self.content(REST), self.toast()
        self.assertEqual(self.steps_of(self.killed(f"SELECT count(*) FROM {toast}", self.waits(toast))), ["archive"])
        self.after(january, rest)

    def test_in_the_file(self) -> None:
        self.events()
        january, rest = self.content(JANUARY), self.content(REST)
        self.killed("", lambda _: [path for path in self.directory.glob("*.partial") if path.stat().st_size > 1_000_000])
        self.after(january, rest)

    def test_between_file_and_drop(self) -> None:
        self.events()
        january, rest, toast = self.content(JANUARY), self.content(REST), self.toast()
        readers: list[Connection] = []

        def is_written(_: int) -> Any:
            if not readers and list(self.directory.glob("*.partial")):
                # From now on it can be written, but not dropped.
                readers.append(self.cluster.connect(self.database))
                readers[0].query(f"BEGIN; SELECT count(*) FROM {toast}")
            return list(self.directory.glob("*.zst")) and self.waits(toast)(0) is not None and self.sql(
                "SELECT FROM pg_locks WHERE relation = $1::regclass AND NOT granted", (toast,))

        self.killed("", is_written)
        self.after(january, rest)


class Compressing(KillTest, CompressionTest):
    """Killed while it copies, and before it exchanges."""

    def events(self, **options: Any) -> int:
        return CompressionTest.events(self, **options)

    def after(self, run: dict[str, Any], rows: str) -> None:
        """It is compressed, and nothing else is there."""
        self.assertEqual((self.steps_of(run), self.content("events")), (["compress"], rows))
        self.assertEqual(self.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp%' OR relrewrite <> 0"), 0)
        self.check()

    def test_in_the_copy(self) -> None:
        self.events()
        rows = self.content("events")
        # The table that nobody else knows of.
        run = self.killed("", lambda pid: self.sql(
            "SELECT FROM pg_locks l WHERE pid = $1 AND locktype = 'relation' AND mode = 'AccessExclusiveLock' AND granted"
            " AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = l.relation)", (pid,)))
        self.after(run, rows)

    def test_before_the_exchange(self) -> None:
        self.events()
        rows = self.content("events")
        self.after(self.killed(f"SELECT count(*) FROM {JANUARY}", self.waits(JANUARY)), rows)

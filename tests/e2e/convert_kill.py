"""Interrupts a conversion at each of its steps: the worker is held just before a step by a lock of the test's, and killed
there. What holds it is a trigger on the table of runs, which belongs to the test alone.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, Optional

from .cluster import Cluster, ConnectionLost, SqlError
from .system import wait_until

KEY = 4711
# Called for each note that a run writes about what it does next.
HOLD = f"""
CREATE TABLE hold (pattern text);
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.hold WHERE NEW.detail ->> 'doing' LIKE pattern
               AND NEW.detail ->> 'doing' IS DISTINCT FROM OLD.detail ->> 'doing') THEN
        PERFORM pg_catalog.pg_advisory_xact_lock({KEY});
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE UPDATE ON perf.job_run FOR EACH ROW EXECUTE FUNCTION hold();
"""
TABLE = """
DROP TABLE IF EXISTS events, events_legacy;
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT the_key PRIMARY KEY, at timestamptz DEFAULT now(),
                     code int CONSTRAINT code_once UNIQUE, v text);
CREATE UNIQUE INDEX events_once ON events (code, v);
COMMENT ON CONSTRAINT the_key ON events IS 'key';
INSERT INTO events (at, code, v) SELECT timestamptz '2026-01-01 00:00+00' + g * interval '1 min', g, 'v' || g
    FROM generate_series(1, 3000) g;
"""
# What is noted before each step, in order: the step before it is done by then.
STEPS = ("CREATE UNIQUE INDEX%the_key%", "CREATE UNIQUE INDEX%code_once%", "CREATE UNIQUE INDEX%events_once%",
         "%ADD CONSTRAINT perf_convert_not_null%", "%VALIDATE CONSTRAINT perf_convert_not_null", "%SET NOT NULL%",
         "%DROP CONSTRAINT the_key%", "%DROP CONSTRAINT code_once%", "%ADD CONSTRAINT perf_convert_bound%",
         "%VALIDATE CONSTRAINT perf_convert_bound", "the swap", "ANALYZE%", "making partitions ahead")
UNDO_STEPS = ("the swap back", "CREATE UNIQUE INDEX%the_key_unpartitioned%", "%DROP CONSTRAINT the_key%",
              "CREATE UNIQUE INDEX%code_once_unpartitioned%", "%DROP CONSTRAINT code_once%", "DROP INDEX%events_once%",
              "%DROP NOT NULL%")
CONVERT = "CALL perf.partition_convert('events', 'at', 'month')"
UNDO = "CALL perf.partition_convert_undo('events')"
SUMS = "SELECT count(*), count(DISTINCT id), md5(string_agg(e::text, '|' ORDER BY id)) FROM events e"


class Caller(threading.Thread):
    """A client that calls a procedure; `error` is what came of it."""

    def __init__(self, cluster: Cluster, sql: str, database: str = "postgres") -> None:
        super().__init__(daemon=True)
        self.cluster, self.sql, self.database = cluster, sql, database
        self.error: Optional[Exception] = None
        self.notices: list[dict[str, str]] = []
        self.pid = 0
        self.start()

    def run(self) -> None:
        try:
            with self.cluster.connect(self.database) as session:
                self.pid = session.query("SELECT pg_backend_pid()").scalar()
                self.notices = session.notices
                session.query(self.sql)
        except (SqlError, ConnectionLost, OSError) as problem:
            self.error = problem

    @property
    def messages(self) -> list[str]:
        """The notices so far."""
        return [notice["message"] for notice in self.notices]

    def ended(self, timeout: float = 60.0) -> "Caller":
        """Waits for the end."""
        self.join(timeout)
        if self.is_alive():
            raise AssertionError(f"{self.sql} has not ended")
        return self


class Interruption:
    """A server on which conversions are held and killed. The cluster is started, with the extension."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.sql(HOLD)

    def worker(self) -> Optional[int]:
        """The worker that waits where it is held."""
        rows = self.cluster.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'perf_opt job' "
                                "AND wait_event_type = 'Lock' AND wait_event = 'advisory'")
        return rows[0][0] if rows else None

    def kill_before(self, call: str, step: str) -> None:
        """Calls, and kills the worker just before a step. The server recovers, as after every such kill."""
        cluster = self.cluster
        cluster.sql("DELETE FROM hold")
        cluster.sql("INSERT INTO hold VALUES ($1)", (step,))
        holder = cluster.connect()
        holder.query(f"SELECT pg_advisory_lock({KEY})")
        caller = Caller(cluster, call)
        pid = wait_until(self.worker, 60, f"the conversion to come to {step!r}; it ended with {caller.error}")
        cluster.sql("DELETE FROM hold")
        self.kill(pid)
        caller.ended()

    def kill(self, pid: int) -> None:
        """Kills a worker, and waits until the server has recovered."""
        mark = self.cluster.log_mark()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "database system is ready" in self.log_since(mark), 60, "recovery")
        wait_until(self.answers, 30, "the server to answer")

    def log_since(self, mark: int) -> str:
        """The server's log from a place on."""
        with self.cluster.log_path.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")

    def answers(self) -> bool:
        """Whether the server does."""
        try:
            return self.cluster.scalar("SELECT true")
        except (SqlError, ConnectionLost, OSError):
            return False

    def settle(self) -> str:
        """Waits until no run is open; how the last one ended."""
        def ended() -> Any:
            return self.cluster.sql("SELECT status FROM perf.job_run WHERE NOT EXISTS (SELECT FROM perf.job_run WHERE "
                                    "status IN ('queued', 'running')) ORDER BY run_id DESC LIMIT 1")
        return wait_until(ended, 90, "the end of all runs", interval=0.1)[0][0]

"""Kills processes of a server whose jobs run every second, again and again, and looks whether anything was lost or done
twice. Used by a short test, the soak and the benchmark; asserts nothing itself.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Mapping, Optional

from .cluster import Cluster, ConnectionLost, SqlError
from .system import wait_until

SETTINGS: Mapping[str, Any] = {"max_worker_processes": 48, "perf_opt.max_running_jobs": 16, "autovacuum_naptime": "5s"}
VICTIMS = ("perf_opt job", "perf_opt scheduler", "perf_opt launcher", "postmaster")
ENDS = "('succeeded', 'failed', 'skipped', 'crashed', 'cancelled')"
READY = re.compile(r"^(\S+ \S+) UTC .*database system is ready to accept connections$", re.MULTILINE)
# Each of these runs once a second. The work is keyed by run: done twice, it breaks the key, and the job says so.
DEFINE = """
CREATE TABLE work (run_id bigint PRIMARY KEY, job_id bigint NOT NULL, attempt int NOT NULL);
CREATE TABLE steps (run_id bigint, step int, attempt int, PRIMARY KEY (run_id, step, attempt));
CREATE FUNCTION this_run(job text, OUT run_id bigint, OUT job_id bigint, OUT attempt int) LANGUAGE sql STABLE AS
    'SELECT run_id, job_id, attempt FROM perf.job_runs WHERE job_name = job AND status = ''running''';
CREATE PROCEDURE in_steps(job text) LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
    SELECT * INTO r FROM this_run(job);
    INSERT INTO steps VALUES (r.run_id, 1, r.attempt);
    COMMIT;
    PERFORM pg_sleep(random() * 0.3);
    INSERT INTO steps VALUES (r.run_id, 2, r.attempt);
    COMMIT;
END $$;
SELECT perf.job_schedule(name, '1 s', format('INSERT INTO work SELECT * FROM this_run(%L); SELECT pg_sleep(random() * 0.6)', name),
                         overlap => overlap, catch_up => catch_up)
FROM (SELECT format('work %s', g) AS name, CASE g % 3 WHEN 0 THEN 'queue' ELSE 'skip' END AS overlap,
             CASE g % 2 WHEN 0 THEN 'all' ELSE 'run_once' END AS catch_up FROM generate_series(1, 6) g) x;
SELECT perf.job_schedule(name, '1 s', format('CALL in_steps(%L)', name)) FROM unnest('{steps 1,steps 2}'::text[]) name;
SELECT perf.job_schedule('fails at once', '1 s', 'SELECT 1 / 0', max_retries => 0);
SELECT perf.job_schedule('fails twice', '1 s', 'SELECT pg_sleep(0.1); SELECT 1 / 0', max_retries => 1);
"""
# The ticks that a row stands for: its own, or several that were skipped together.
TICKS = """
SELECT job_id, run_id, scheduled_at, coalesce((detail ->> 'last_tick_at')::timestamptz, scheduled_at) AS last_at,
       coalesce((detail ->> 'ticks')::bigint, 1) AS ticks, status, finished_at
FROM perf.job_runs WHERE NOT requested"""
CHECKS = {
    "rows that have not ended": f"SELECT count(*) FROM ({TICKS}) t WHERE status NOT IN {ENDS} OR finished_at IS NULL",
    "ticks without a row, or with two": f"""
        SELECT count(*) FROM (SELECT scheduled_at - lag(last_at) OVER (PARTITION BY job_id ORDER BY scheduled_at) AS gap,
                                     last_at - scheduled_at = (ticks - 1) * interval '1 s' AS is_whole
                              FROM ({TICKS}) t) x WHERE gap <> '1 s' OR NOT is_whole""",
    "jobs whose last tick is too old": f"""
        SELECT count(*) FROM perf.jobs j WHERE kept_until - interval '2 s' >
               (SELECT max(last_at) FROM ({TICKS}) t WHERE t.job_id = j.job_id)""",
    "jobs that are gone or switched off": "SELECT 10 - count(*) FROM perf.jobs WHERE enabled",
    "successes without their work": """
        SELECT count(*) FROM perf.job_runs r WHERE status = 'succeeded' AND job_name LIKE 'work %'
        AND NOT EXISTS (SELECT FROM work w WHERE w.run_id = r.run_id AND w.attempt = r.attempt)""",
    "work without a success": """
        SELECT count(*) FROM work w
        WHERE NOT EXISTS (SELECT FROM perf.job_runs r WHERE r.run_id = w.run_id AND r.status = 'succeeded')""",
    "successes in steps without their last step": """
        SELECT count(*) FROM perf.job_runs r WHERE status = 'succeeded' AND job_name LIKE 'steps %'
        AND NOT EXISTS (SELECT FROM steps s WHERE s.run_id = r.run_id AND s.step = 2 AND s.attempt = r.attempt)""",
    "failures that are not the commands' own or a crash": """
        SELECT count(*) FROM perf.job_runs WHERE status IN ('failed', 'crashed') AND job_name NOT LIKE 'fails %'
        AND sqlstate <> '57P01'""",
    "locks of nobody": """
        SELECT count(*) FROM pg_locks WHERE pid IS NULL OR pid NOT IN (SELECT pid FROM pg_stat_activity)""",
    "locks on tables of the jobs": """
        SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND relation IN
        ('perf.job'::regclass, 'perf.job_run'::regclass, 'work'::regclass, 'steps'::regclass)
        AND pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'perf_opt %' AND state <> 'active')""",
}


@dataclass
class Outcome:
    """What became of it."""

    kills: dict[str, int] = field(default_factory=dict)
    catch_up_s: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    ticks: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Killing:
    """A server with jobs, and the kills. `expects` the server to be made with `SETTINGS`, started, with the extension."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.chance = random.Random(seed)
        self.outcome = Outcome()

    def run(self, kills: int) -> Outcome:
        """Kills so often, waits until everything has ended, and checks."""
        started = time.monotonic()
        self.cluster.sql(DEFINE)
        self.first_start_after(datetime.fromtimestamp(0, timezone.utc))
        while sum(self.outcome.kills.values()) < kills:
            time.sleep(self.chance.uniform(0.0, 1.5))
            self.kill(VICTIMS[sum(self.outcome.kills.values()) % len(VICTIMS)])
        time.sleep(1.5)
        self.settle()
        self.check()
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def kill(self, victim: str) -> None:
        """Kills one process of a kind, and notes how long after recovery the first run began. One that ended by itself
        before the signal came does not count."""
        mark = self.cluster.log_mark()
        if victim == "postmaster":
            self.cluster.kill9()
            self.cluster.start()
        else:
            pid = wait_until(lambda: self.pid_of(victim), 20, f"a {victim} to kill", interval=0.02)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it was faster, so nothing has happened
                return
        ready = self.ready_since(mark)
        if ready is None:  # it had ended already when the signal came
            return
        self.outcome.kills[victim] = self.outcome.kills.get(victim, 0) + 1
        self.outcome.catch_up_s.append((self.first_start_after(ready) - ready).total_seconds())

    def pid_of(self, victim: str) -> Optional[int]:
        """A process of a kind, one of them by chance."""
        pids = self.answer("SELECT pid FROM pg_stat_activity WHERE backend_type = $1", (victim,)) or []
        return self.chance.choice(pids)[0] if pids else None

    def answer(self, sql: str, params: tuple = ()) -> Optional[list[tuple]]:
        """Rows; None while the server does not answer."""
        try:
            return self.cluster.sql(sql, params)
        except (SqlError, ConnectionLost, OSError):
            return None

    def ready_since(self, mark: int) -> Optional[datetime]:
        """When the server accepted connections again, by its log; None when it never stopped."""
        def look() -> Any:
            with self.cluster.log_path.open("rb") as log:
                log.seek(mark)
                text = log.read().decode(errors="replace")
            if READY.search(text):
                return READY.findall(text)[-1]
            return "none" if time.monotonic() > deadline and "terminated by signal" not in text else None
        deadline = time.monotonic() + 2
        found = wait_until(look, 60, "recovery", interval=0.01)
        return None if found == "none" else datetime.fromisoformat(found + "+00:00")

    def first_start_after(self, at: datetime) -> datetime:
        """When the first run began after a time."""
        rows = wait_until(lambda: self.answer("SELECT extract(epoch FROM min(started_at))::float8 FROM perf.job_run "
                                              "WHERE started_at > $1::timestamptz HAVING count(*) > 0", (at.isoformat(),)),
                          60, "a run after recovery", interval=0.02)
        return datetime.fromtimestamp(float(rows[0][0]), timezone.utc)

    def settle(self) -> None:
        """No new ticks; waits for the runs under way. Retries and queues may take a while."""
        cluster = self.cluster
        cluster.sql("CREATE TABLE IF NOT EXISTS paused (at timestamptz)")
        cluster.sql("WITH p AS (SELECT perf.job_pause(job_id) FROM perf.jobs) INSERT INTO paused SELECT clock_timestamp() "
                    "FROM (SELECT count(*) FROM p) x")
        wait_until(lambda: cluster.scalar(f"SELECT count(*) FROM perf.job_run WHERE status NOT IN {ENDS}") == 0, 600,
                   "the end of all runs", interval=0.2)

    def check(self) -> None:
        """Every fault that the tables can show."""
        cluster, outcome = self.cluster, self.outcome
        for name, query in CHECKS.items():
            found = cluster.scalar(query.replace("kept_until", "(SELECT at FROM paused)"))
            if found:
                outcome.faults[name] = int(found)
        outcome.statuses = dict(cluster.sql("SELECT status, count(*) FROM perf.job_runs GROUP BY 1 ORDER BY 1"))
        outcome.ticks = int(cluster.scalar(f"SELECT sum(ticks)::bigint FROM ({TICKS}) t"))

"""Random histories of tables under materialized views, run against the server's refresh jobs.

A world is a set of tables with four views over them, each with a job. A round does random things to each world, by several
clients at once and with jobs running meanwhile, then lets every job run once more and compares the content of each view
with its query. One view in one round is one history: it is missed when the job left or made the view different.
"""

from __future__ import annotations

import random
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Callable, Optional

from .cluster import Cluster, Connection, SqlError

CLIENTS = 3
# Some of the worlds are left alone in a round, so that there is something to skip.
IDLE_SHARE = 0.3
# Decisions that are timed, at the end.
DECISIONS = 200
SETTINGS = {"max_worker_processes": 24, "perf_opt.max_running_jobs": 8, "max_prepared_transactions": 60,
            "perf_opt.job_history_max": 1_000_000, "max_connections": 60}

SCHEMA = """
CREATE TABLE a{w} (id serial PRIMARY KEY, n int NOT NULL, label text);
CREATE TABLE child{w} (id serial PRIMARY KEY, a_id int REFERENCES a{w} ON DELETE CASCADE, n int);
CREATE TABLE log{w} (n int, at timestamptz DEFAULT now());
CREATE FUNCTION note{w}() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO log{w} (n) SELECT coalesce(NEW.n, OLD.n); RETURN NULL; END';
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON child{w} FOR EACH ROW EXECUTE FUNCTION note{w}();
CREATE TABLE p{w} (id int NOT NULL, n int) PARTITION BY RANGE (id);
CREATE TABLE p{w}_1 PARTITION OF p{w} FOR VALUES FROM (0) TO (1000);
CREATE TABLE p{w}_2 (id int NOT NULL, n int);
CREATE TABLE h{w} (id int, n int);
CREATE TABLE h{w}_1 () INHERITS (h{w});
CREATE VIEW v{w} AS SELECT n, label FROM a{w} WHERE n < 50;
INSERT INTO a{w} (n, label) SELECT g % 20, 'x' || g FROM generate_series(1, 40) g;
INSERT INTO child{w} (a_id, n) SELECT g, g % 5 FROM generate_series(1, 20) g;
INSERT INTO p{w} SELECT g, g % 7 FROM generate_series(1, 20) g;
INSERT INTO p{w}_2 SELECT g, g % 7 FROM generate_series(1001, 1010) g;
INSERT INTO h{w} SELECT g, g FROM generate_series(1, 5) g;
CREATE MATERIALIZED VIEW m{w}_0 AS SELECT n, count(*) AS c, sum(length(label)) AS l FROM a{w} GROUP BY n;
CREATE UNIQUE INDEX ON m{w}_0 (n);
CREATE MATERIALIZED VIEW m{w}_1 AS SELECT n, count(*) AS c FROM (SELECT n FROM v{w} UNION ALL SELECT n FROM log{w}) u GROUP BY n;
CREATE UNIQUE INDEX ON m{w}_1 (n);
CREATE MATERIALIZED VIEW m{w}_2 AS SELECT n, count(*) AS c, max(id) AS last FROM p{w} GROUP BY n;
CREATE MATERIALIZED VIEW m{w}_3 AS SELECT count(*) AS c, sum(n) AS n FROM (SELECT n FROM m{w}_0 UNION ALL SELECT n FROM h{w}
    UNION ALL SELECT n FROM child{w}) u;
"""
# What may stay open over the end of a round: it holds no lock that a refresh has to wait for.
WRITES = [
    "INSERT INTO a{w} (n, label) SELECT {x} % 60, 'new' FROM generate_series(1, 1 + {x} % 3)",
    "UPDATE a{w} SET label = label || '+' WHERE id % 7 = {x} % 7",
    "UPDATE a{w} SET n = {x} % 55 WHERE id = (SELECT min(id) FROM a{w})",
    "DELETE FROM a{w} WHERE id = (SELECT max(id) FROM a{w})",
    "INSERT INTO child{w} (a_id, n) SELECT max(id), {x} % 5 FROM a{w}",
    "INSERT INTO p{w} VALUES ({x} % 1000, {x} % 7)",
    "INSERT INTO p{w}_1 VALUES ({x} % 1000, {x} % 7)",
    "INSERT INTO p{w}_2 VALUES (1000 + {x} % 1000, {x} % 7)",
    "UPDATE p{w} SET n = n + 1 WHERE id % 5 = {x} % 5",
    "INSERT INTO h{w}_1 VALUES ({x}, {x})",
    "DELETE FROM h{w} WHERE id = {x} % 10",
    "COPY a{w} (n, label) FROM PROGRAM 'echo {x},copied' WITH (FORMAT csv)",
    "COPY h{w} FROM PROGRAM 'printf \"{x},1\\n{x},2\\n\"' WITH (FORMAT csv)",
    "WITH gone AS (DELETE FROM h{w}_1 RETURNING n) INSERT INTO log{w} (n) SELECT n FROM gone",
    "MERGE INTO h{w} t USING (SELECT {x} % 10 AS id) s ON t.id = s.id WHEN MATCHED THEN UPDATE SET n = t.n + 1 "
    "WHEN NOT MATCHED THEN INSERT VALUES (s.id, 0)",
]
STATEMENTS = WRITES + [
    "TRUNCATE h{w}",
    "TRUNCATE ONLY h{w}_1",
    "TRUNCATE p{w}",
    "TRUNCATE a{w} CASCADE",
    "ALTER TABLE p{w} ATTACH PARTITION p{w}_2 FOR VALUES FROM (1000) TO (2000)",
    "ALTER TABLE p{w} DETACH PARTITION p{w}_2",
    "ALTER TABLE h{w}_1 NO INHERIT h{w}",
    "ALTER TABLE h{w}_1 INHERIT h{w}",
    "CREATE OR REPLACE VIEW v{w} AS SELECT n, label FROM a{w} WHERE n < 20 + {x} % 40",
    "ALTER TABLE a{w} ALTER label TYPE text USING label || '!'",
    "ALTER TABLE h{w} ADD COLUMN IF NOT EXISTS extra int DEFAULT 3",
    "ANALYZE a{w}",
    "CREATE INDEX ON h{w} (n)",
    "REFRESH MATERIALIZED VIEW m{w}_0",
    "REFRESH MATERIALIZED VIEW CONCURRENTLY m{w}_1",
    "REFRESH MATERIALIZED VIEW m{w}_2 WITH NO DATA",
    "SELECT pg_stat_reset()",
    "SELECT pg_stat_reset_single_table_counters('a{w}'::regclass)",
]
# Outside of a transaction block.
ALONE = [
    "VACUUM a{w}", "VACUUM FULL h{w}", "CLUSTER a{w} USING a{w}_pkey",
    "ALTER TABLE p{w} DETACH PARTITION p{w}_2 CONCURRENTLY",
    "REINDEX TABLE CONCURRENTLY a{w}",
]


@dataclass
class Tally:
    """What came of it."""

    histories: int = 0
    missed: list[str] = field(default_factory=list)
    skipped: int = 0
    refreshed: int = 0
    failed: int = 0
    decision_ms: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """A quantile of the time that decisions took, in ms."""
        times = sorted(self.decision_ms)
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


class Histories:
    """Worlds in one database of a server that runs jobs."""

    def __init__(self, cluster: Cluster, database: str, seed: int, worlds: int) -> None:
        """Makes the worlds."""
        self.cluster, self.database, self.worlds = cluster, database, worlds
        self.chance = random.Random(seed)
        self.tally = Tally()
        self.names = 0
        self.jobs: dict[str, int] = {}
        with self.connect() as session:
            for world in range(worlds):
                session.query(SCHEMA.format(w=world))
                for number in range(4):
                    mode = "plain" if number == 2 and world % 2 else "auto"
                    self.jobs[f"m{world}_{number}"] = session.query(
                        f"SELECT perf.matview_schedule('m{world}_{number}', '30 days', mode => '{mode}',"
                        " max_retries => 20, lock_timeout => '5 s')").scalar()

    def connect(self) -> Connection:
        """A session in the worlds' database."""
        return self.cluster.connect(self.database)

    def round(self) -> None:
        """One history of each view."""
        plans = [(world, self._plan(world)) for world in range(self.worlds) if self.chance.random() > IDLE_SHARE]
        self.chance.shuffle(plans)
        early = [name for name in self.jobs if self.chance.random() < 0.15]
        clients = [threading.Thread(target=self._work, args=(plans[number::CLIENTS],)) for number in range(CLIENTS)]
        open_sessions: list[Connection] = []
        self._open = open_sessions
        for client in clients:
            client.start()
        with self.connect() as session:
            since = session.query("SELECT coalesce(max(run_id), 0) FROM perf.job_run").scalar()
            self._run(session, early, wait=False)
            for client in clients:
                client.join()
            self._wait(session)
            self._run(session, [name for name in self.jobs if not name.endswith("_3")])
            self._run(session, [name for name in self.jobs if name.endswith("_3")])
            self._compare(session)
            self._count(session, since)
        for other in open_sessions:
            try:
                other.query(self.chance.choice(["COMMIT", "ROLLBACK"]))
            except SqlError:
                pass
            other.close()

    def _plan(self, world: int) -> list[Callable[[Connection], None]]:
        """What a client does in one world."""
        return [self._step(world) for _ in range(self.chance.choice((1, 1, 1, 2, 3)))]

    def _sql(self, world: int, texts: list[str]) -> str:
        return self.chance.choice(texts).format(w=world, x=self.chance.randrange(10_000))

    def _step(self, world: int) -> Callable[[Connection], None]:
        one, two = self._sql(world, STATEMENTS), self._sql(world, STATEMENTS)
        write = self._sql(world, WRITES)
        self.names += 1
        name = f"prepared_{self.names}"
        kind = self.chance.randrange(12)
        if kind == 0:
            return lambda session: session.query(f"BEGIN; {one}; {two}; ROLLBACK")
        if kind == 1:
            return lambda session: session.query(f"BEGIN; {one}; SAVEPOINT s; {two}; ROLLBACK TO s; COMMIT")
        if kind == 2:
            return lambda session: session.query(f"BEGIN; SAVEPOINT s; {one}; RELEASE s; SAVEPOINT r; {write}; "
                                                 "ROLLBACK TO r; COMMIT")
        if kind == 3:
            end = self.chance.choice(["COMMIT PREPARED", "ROLLBACK PREPARED"])
            return lambda session: session.query_all(f"BEGIN; {write}; PREPARE TRANSACTION '{name}'") and \
                session.query(f"{end} '{name}'")
        if kind == 4:
            return lambda session: session.query(f"BEGIN; {write}; PREPARE TRANSACTION '{name}'")
        if kind == 5:
            return lambda session: self._finish_prepared(session)
        if kind == 6:
            return lambda session: self._leave_open(write)
        if kind == 7:
            return lambda session: session.query(f"SET track_counts = off; {write}; RESET track_counts")
        if kind == 8:
            alone = self._sql(world, ALONE)
            return lambda session: session.query(alone)
        if kind == 9:
            return lambda session: session.query(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {one}; {write}; COMMIT")
        return lambda session: session.query(one)

    def _finish_prepared(self, session: Connection) -> None:
        names = [row[0] for row in session.query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").rows]
        for name in names:
            session.query(f"{'COMMIT' if zlib.crc32(name.encode()) % 2 else 'ROLLBACK'} PREPARED '{name}'")

    def _leave_open(self, write: str) -> None:
        session = self.connect()
        try:
            # Its row may be in the hands of another one that is left open, until the round waits for this one's answer.
            session.query("SET lock_timeout = '200ms'")
            session.query(f"BEGIN; {write}")
        finally:
            self._open.append(session)

    def _work(self, plans: list) -> None:
        with self.connect() as session:
            session.query("SET lock_timeout = '200ms'; SET deadlock_timeout = '50ms'")
            for _, steps in plans:
                for step in steps:
                    try:
                        step(session)
                    except SqlError:  # what cannot be done just now is no part of the history
                        try:
                            session.query("ROLLBACK")
                        except SqlError:
                            pass

    def _run(self, session: Connection, names: list[str], wait: bool = True) -> None:
        if names:
            ids = ",".join(str(self.jobs[name]) for name in names)
            session.query(f"SELECT perf.job_run_now(j) FROM unnest(ARRAY[{ids}]::bigint[]) AS j")
        if wait:
            self._wait(session)

    def _wait(self, session: Connection, limit: float = 300.0) -> None:
        deadline = time.monotonic() + limit
        while session.query("SELECT count(*) FROM perf.job_run WHERE status IN ('queued', 'running')").scalar():
            if time.monotonic() > deadline:
                raise TimeoutError("jobs did not end")
            time.sleep(0.01)

    def decide_alone(self, runs: int) -> None:
        """Runs jobs that have nothing to do one at a time: what a decision takes when nothing else goes on."""
        self.tally.decision_ms.clear()
        names = list(self.jobs)
        with self.connect() as session:
            self._run(session, names)
            since = session.query("SELECT max(run_id) FROM perf.job_run").scalar()
            for number in range(runs):
                self._run(session, [names[number % len(names)]])
            self._count(session, since)

    def close(self) -> None:
        """Ends what is prepared."""
        with self.connect() as session:
            for (name,) in session.query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").rows:
                session.query(f"ROLLBACK PREPARED '{name}'")

    def _compare(self, session: Connection) -> None:
        """Counts the views whose content is not what their query gives."""
        parts = []
        for name in self.jobs:
            query = session.query(f"SELECT pg_get_viewdef('{name}'::regclass)").scalar().strip().rstrip(";")
            parts.append(f"SELECT '{name}' WHERE EXISTS ((TABLE {name} EXCEPT ALL ({query})) UNION ALL "
                         f"(({query}) EXCEPT ALL TABLE {name}))")
        for at in range(0, len(parts), 20):
            for (name,) in session.query(" UNION ALL ".join(parts[at:at + 20])).rows:
                self.tally.missed.append(f"{name} after {self.tally.histories} histories")
        self.tally.histories += len(self.jobs)

    def _count(self, session: Connection, since: int) -> None:
        rows = session.query("SELECT status, (detail ->> 'decision_ms')::float8 FROM perf.job_run "
                             f"WHERE run_id > {since}").rows
        for status, decision_ms in rows:
            self.tally.skipped += status == "skipped"
            self.tally.refreshed += status == "succeeded"
            self.tally.failed += status not in ("skipped", "succeeded")
            if decision_ms is not None:
                self.tally.decision_ms.append(decision_ms)


def run(cluster: Cluster, database: str, seed: int, histories: int, worlds: int = 25,
        progress: Optional[Callable[[Tally], None]] = None) -> Tally:
    """Runs at least so many histories; the tally."""
    made = Histories(cluster, database, seed, worlds)
    while made.tally.histories < histories:
        made.round()
        if progress:
            progress(made.tally)
    made.decide_alone(DECISIONS)
    made.close()
    return made.tally

"""`JobTest`: what tests of jobs share."""

from __future__ import annotations

from typing import Any, Optional

from .case import ClusterTest
from .cluster import Cluster

ENDED = ("succeeded", "failed", "skipped", "crashed", "cancelled")
SETTINGS = {"max_worker_processes": 24, "perf_opt.max_running_jobs": 8, "autovacuum_naptime": "60s"}


class JobTest(ClusterTest):
    """A test with a server that runs jobs; `self.database` is one of its own, with the extension."""

    settings = SETTINGS

    def setUp(self) -> None:
        super().setUp()
        self.database = self.fresh_database() if self.uses_shared_cluster else ""

    uses_shared_cluster = True

    def sql(self, sql: str, params: tuple = (), user: str = "postgres") -> list[tuple]:
        """Runs SQL in the test's database."""
        return self.cluster.sql(sql, params, dbname=self.database, user=user)

    def value(self, sql: str, params: tuple = (), user: str = "postgres") -> Any:
        """The one value of a query in the test's database."""
        return self.cluster.scalar(sql, params, dbname=self.database, user=user)

    def schedule(self, name: str, schedule: str, command: str, user: str = "postgres", **options: Any) -> int:
        """Defines a job; its number."""
        named = "".join(f", {key} => ${index + 4}" for index, key in enumerate(options))
        return self.value(f"SELECT perf.job_schedule($1, $2, $3{named})", (name, schedule, command, *options.values()),
                          user=user)

    def run_now(self, job_id: int, user: str = "postgres", timeout: float = 30.0) -> dict[str, Any]:
        """Runs a job and waits for its end; its row of perf.job_runs. Looks now and then, with no snapshot in between:
        concurrent index builds wait for whoever has one."""
        run_id = self.value("SELECT perf.job_run_now($1::bigint)", (job_id,), user=user)
        self.wait_until(lambda: self.job_run(run_id)["status"] in ENDED, timeout, f"the end of run {run_id}")
        return self.job_run(run_id)

    def job_run(self, run_id: int) -> dict[str, Any]:
        """A row of perf.job_runs."""
        return self.cluster.result("SELECT * FROM perf.job_runs WHERE run_id = $1::bigint", (run_id,),
                                   dbname=self.database).dicts()[0]

    def runs(self, job_id: int, database: Optional[str] = None, cluster: Optional[Cluster] = None) -> list[dict[str, Any]]:
        """The runs of a job, oldest first."""
        return (cluster or self.cluster).result(
            "SELECT * FROM perf.job_runs WHERE job_id = $1::bigint ORDER BY run_id", (job_id,),
            dbname=database or self.database).dicts()

    def wait_for_runs(self, job_id: int, count: int, timeout: float = 20.0) -> list[dict[str, Any]]:
        """Waits until so many runs of a job have ended; all of them."""
        self.wait_until(lambda: len([run for run in self.runs(job_id) if run["status"] in ENDED]) >= count, timeout,
                        f"{count} ended runs of job {job_id}")
        return self.runs(job_id)

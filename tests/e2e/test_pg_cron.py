"""pg_cron as a neighbour: it starts our jobs, and may call every function of schema perf."""

from __future__ import annotations

import json
import time

from .cluster import Cluster, SqlError
from .jobs_case import SETTINGS, JobTest
from .neighbours import with_pg_cron

SECONDS = 60

# Calls that need a job or a run, whose numbers are filled in.
CALLS = {
    "job_schedule": "SELECT perf.job_schedule('by pg_cron', 'manual', 'SELECT 1')",
    "job_pause": "SELECT perf.job_pause({paused})",
    "job_resume": "SELECT perf.job_resume({resumed})",
    "job_run_now": "SELECT perf.job_run_now({job})",
    "job_unschedule": "SELECT perf.job_unschedule({removed})",
    "job_cancel": "SELECT perf.job_cancel({run})",
    "job_wait": "SELECT perf.job_wait({run})",
}
# What a function needs that no default gives, by type.
VALUES = {"text": "'SELECT 1'", "text[]": "ARRAY['CREATE INDEX ON public.cron_t (a)']", "bigint": "1", "integer": "1",
          "interval": "interval '1 min'", "timestamp with time zone": "now()", "double precision": "1", "boolean": "true",
          "jsonb": "'{}'", "regclass": "'public.cron_t'"}
FUNCTIONS = """
SELECT p.proname, pronargs - pronargdefaults, prokind::text,
       to_json(ARRAY(SELECT format_type(t, NULL) FROM unnest(proargtypes) WITH ORDINALITY a (t, n) ORDER BY n))::text
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'perf_opt'
WHERE pronamespace = 'perf'::regnamespace AND proname NOT LIKE E'\\\\_%' AND prorettype <> 'trigger'::regtype
ORDER BY proname, p.oid"""
# pg_cron waits for the next full minute.
MINUTE_S = 85


class PgCron(JobTest):
    """The real one, from the distribution's package."""

    uses_shared_cluster = False
    time_limit = 180.0

    def test_starts_jobs_and_calls_every_function(self) -> None:
        cluster = with_pg_cron(self, SETTINGS)
        cluster.sql("CREATE TABLE cron_t AS SELECT g AS a FROM generate_series(1, 100) g; CREATE TABLE ran (a int)")
        jobs = {name: cluster.scalar(f"SELECT perf.job_schedule('{name}', 'manual', 'INSERT INTO ran VALUES (1)')")
                for name in ("job", "paused", "resumed", "removed")}
        jobs["run"] = cluster.scalar("SELECT perf.job_run_now($1::bigint)", (jobs["job"],))
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM ran") == 1, 20, "the job to run by itself")
        # All are called at about the same time, in any order: one that needs what another one makes has it before.
        cluster.sql("SELECT perf.prewarm_schedule()")
        calls = {}
        for name, needed, kind, types in cluster.sql(FUNCTIONS):
            call = CALLS.get(name)
            if call is None:
                arguments = [VALUES.get(type_name, f"NULL::{type_name}") for type_name in json.loads(types)[:needed]]
                call = f"{'CALL' if kind == 'p' else 'SELECT * FROM'} perf.{name}({', '.join(arguments)})"
            else:
                call = call.format(**jobs)
            calls[f"{name} {len(calls)}"] = call
        self.assertLessEqual(set(CALLS), {name.partition(" ")[0] for name in calls})
        # Where a call fails for a client, because made-up arguments mean nothing to it, it fails for pg_cron alike.
        expected = {name: self.outcome_for_a_client(cluster, call) for name, call in calls.items()}
        time.sleep(0 if 60 - time.time() % 60 > 5 else 6)  # all of them in the same minute
        for name, call in calls.items():
            cluster.sql("SELECT cron.schedule($1, '* * * * *', $2)", (name, call))
        details = ("SELECT DISTINCT ON (jobname) jobname, status, return_message FROM cron.job JOIN cron.job_run_details "
                   "USING (jobid) WHERE status IN ('succeeded', 'failed') ORDER BY jobname, runid")
        self.wait_until(lambda: len(cluster.sql(details)) == len(calls), MINUTE_S, "pg_cron to call them all")
        outcomes = {name: (status, message) for name, status, message in cluster.sql(details)}
        cluster.sql("SELECT cron.unschedule(jobid) FROM cron.job")
        for name, call in calls.items():
            with self.subTest(call):
                status, message = outcomes[name]
                self.assertEqual(status, expected[name], message)
        for name in CALLS:
            with self.subTest(name):
                self.assertEqual({status for key, (status, _) in outcomes.items() if key.partition(" ")[0] == name},
                                 {"succeeded"})
        # What pg_cron started ran as a job.
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM perf.job_runs WHERE requested AND status = 'succeeded' "
                                               "AND job_id = $1::bigint", (jobs["job"],)) >= 2, 20, "the job by pg_cron")
        self.assertGreaterEqual(cluster.scalar("SELECT count(*) FROM ran"), 2)

    @staticmethod
    def outcome_for_a_client(cluster: Cluster, call: str) -> str:
        """What pg_cron is to say of a call, by what a client gets; nothing that it writes stays."""
        with cluster.connect() as session:
            try:
                session.query("BEGIN")
                session.query(call)
            except SqlError:
                return "failed"
            finally:
                session.query("ROLLBACK")
        return "succeeded"

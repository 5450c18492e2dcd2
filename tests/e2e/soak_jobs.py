"""Kills under load, again and again: no tick is lost or run twice, and the jobs go on at once."""

from __future__ import annotations

from .case import ClusterTest, expects_crash
from .jobs_kill import SETTINGS, Killing

KILLS = 300


class JobsSurviveKills(ClusterTest):
    """kill -9 of the launcher, the scheduler, a job's worker and the postmaster in turn, at random moments."""

    time_limit = 3600.0
    kills = KILLS
    catch_up_s = 2.0

    @expects_crash
    def test_every_tick_ends_once(self) -> None:
        cluster = self.private_cluster(SETTINGS)
        cluster.sql("CREATE EXTENSION perf_opt")
        outcome = Killing(cluster, seed=4).run(self.kills)
        print(outcome)
        self.assertEqual(outcome.faults, {})
        self.assertEqual(sum(outcome.kills.values()), self.kills)
        self.assertLessEqual(max(outcome.catch_up_s), self.catch_up_s)

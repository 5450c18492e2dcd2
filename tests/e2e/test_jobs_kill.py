"""A few of the soak's kills: one of each kind of process, and some to spare."""

from __future__ import annotations

from . import soak_jobs


class JobsSurviveAFewKills(soak_jobs.JobsSurviveKills):
    """As the soak, shorter."""

    kills = 6

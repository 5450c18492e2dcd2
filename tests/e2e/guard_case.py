"""`GuardTest`: a server under load whose autopilot has an eye on what others change."""

from __future__ import annotations

from typing import Any

from .guard_load import ANALYZE, TABLES, Load
from .jobs_case import SETTINGS, JobTest

GUARDED = {**SETTINGS, "autovacuum": "off", "work_mem": "16MB", "perf_opt.collect_interval": "1s", "perf_opt.verify_min_calls": 100,
           "perf_opt.autopilot": "advise", "perf_opt.autopilot_guard": "undo"}
# Statements executed before something is changed.
WARM_TURNS = 1_200


class GuardTest(JobTest):
    """A server of the test's own, with a shop under load."""

    time_limit = 240.0

    def setUp(self) -> None:
        # Not the shared server.
        super(JobTest, self).setUp()

    @property
    def cluster(self) -> Any:
        return self.server

    def guarded(self, *before: str, **settings: Any) -> None:
        """Starts the server, and runs what comes before the guard's first look."""
        self.server = self.private_cluster({**GUARDED, **settings})
        for sql in before:
            self.server.sql(sql)
        self.server.reload()
        self.database = self.fresh_database(self.server)
        self.sql(TABLES)
        self.sql(ANALYZE)
        self.sql("SELECT perf.reset()")

    def load(self, **options: Any) -> Load:
        """Load until the end of the test, once it has warmed up and the guard has looked."""
        load = Load(self.server, self.database, **options)
        load.start()
        self.addCleanup(load.stop)
        return self.warm(load)

    def warm(self, load: Load) -> Load:
        """So many turns more, all of which are in the history, and a look of the guard after them."""
        turns = load.turns + WARM_TURNS
        self.wait_until(lambda: load.problem or load.turns >= turns, 60, "the load")
        if self.guard() != "off":
            self.looked()
            self.looked()
        return load

    def guard(self) -> str:
        """The setting."""
        return self.value("SHOW perf_opt.autopilot_guard")

    def looked(self) -> None:
        """Waits for another look."""
        before = self.value("SELECT max(looked_at) FROM perf.guard_look")
        self.wait_until(lambda: self.value("SELECT max(looked_at) FROM perf.guard_look") != before, 30, "a look of the guard")

    def alter_system(self, *settings: str) -> None:
        """ALTER SYSTEM, and the configuration is read."""
        for setting in settings:
            self.server.sql(f"ALTER SYSTEM {setting}")
        self.server.reload()

    def changes(self) -> list[dict[str, Any]]:
        """All of them, the oldest first."""
        return self.server.result("SELECT * FROM perf.applied_changes ORDER BY change_id", dbname=self.database).dicts()

    def change(self) -> dict[str, Any]:
        """The only one there is to be."""
        self.wait_until(self.changes, 30, "a change")
        rows = self.changes()
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def reaches(self, *statuses: str, timeout: float = 90) -> dict[str, Any]:
        """Waits until the only change has a status."""
        self.wait_until(lambda: self.change()["status"] in statuses, timeout, f"status {statuses}, not {self.changes()}")
        return self.change()

    def refused(self, sqlstate: str, sql: str, params: tuple = (), user: str = "postgres") -> Exception:
        """Runs SQL that must fail with one SQLSTATE."""
        return self.assert_sql_error(sqlstate, self.server, sql, params, dbname=self.database, user=user)

    def seen(self) -> str:
        """What the guard said of the only change when it saw it."""
        return self.value("SELECT outcome FROM perf.audit WHERE action = 'observed'")

    def audit(self) -> list[str]:
        """The steps on record, but for what autopilot has advised meanwhile: the load may come to need an index."""
        return [action for action, in self.sql("SELECT action FROM perf.audit WHERE action <> 'advise' ORDER BY audit_id")]

"""perf_opt.autopilot_guard: what others have changed is seen, judged, and put back when it does harm; and perf.apply() of
settings."""

from __future__ import annotations

from typing import Any

from .guard_load import ANALYZE, TABLES, Load
from .jobs_case import ENDED, SETTINGS, JobTest

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
        """The steps on record."""
        return [action for action, in self.sql("SELECT action FROM perf.audit ORDER BY audit_id")]


class Indexes(GuardTest):
    """Made by hand."""

    def test_wrong_index_is_found_and_dropped(self) -> None:
        self.guarded()
        self.load()
        self.sql("CREATE INDEX wrong ON accounts (balance)")
        change = self.change()
        self.assertEqual((change["kind"], change["relation"], change["by_autopilot"], change["applied_by"]),
                         ("index_create", "public.accounts", True, "postgres"))
        self.assertRegex(change["recommendation_id"], r"^observed:index:public\.wrong:\d+$")
        change = self.reaches("undone")
        self.assertEqual(self.sql("SELECT to_regclass('wrong')"), [(None,)])
        self.assertEqual(self.audit(), ["observed", "verify", "verify", "undo", "undone"])
        # Whoever makes it again means it; one that takes its place at once is the same rebuilt.
        self.looked()
        self.looked()
        self.sql("CREATE INDEX again ON accounts (balance)")
        self.wait_until(lambda: len(self.changes()) == 2, 30, "the second one")
        self.wait_until(lambda: self.changes()[1]["status"] == "regressed", 60, "the verdict")
        # It may have something to advise.
        self.assertNotIn("undo", str(self.run_look()["detail"]))
        self.assertEqual(self.sql("SELECT to_regclass('again')::text"), [("again",)])

    def run_look(self) -> dict[str, Any]:
        """One look of autopilot, once harm is confirmed."""
        confirmed = "SELECT count(*) FROM perf.change WHERE state ? 'confirmed' AND status = 'regressed'"
        self.wait_until(lambda: self.value(confirmed) == 1, 60, "the second round")
        job_id = self.value("SELECT job_id FROM perf.jobs WHERE kind = 'autopilot'")
        return self.run_now(job_id)

    def test_useful_and_useless_ones_are_kept(self) -> None:
        self.guarded()
        self.load()
        # One that nobody reads by and no writer pays for, and one that replaces a scan.
        self.sql("CREATE INDEX useless ON accounts (branch)")
        self.sql("CREATE INDEX useful ON orders (amount)")
        judged = ("no_gain", "verified")
        self.wait_until(lambda: len(self.changes()) == 2 and all(one["status"] in judged for one in self.changes()), 90,
                        "two verdicts")
        self.assertEqual(self.sql("SELECT to_regclass('useless')::text, to_regclass('useful')::text"), [("useless", "useful")])
        self.assertNotIn("undo", self.audit())

    def test_what_is_no_single_index_for_queries_is_left_alone(self) -> None:
        self.guarded()
        self.load()
        many = "; ".join(f"CREATE INDEX many_{at} ON accounts ((balance + {at}))" for at in range(6))
        self.sql(f"BEGIN; {many}; COMMIT")
        self.sql("BEGIN; CREATE TABLE restored (a int PRIMARY KEY, b int); CREATE INDEX ON restored (b); COMMIT")
        self.sql("CREATE UNIQUE INDEX unique_one ON accounts (id, balance)")
        self.sql("REINDEX INDEX CONCURRENTLY orders_customer")
        self.sql("ALTER INDEX items_order RENAME TO items_by_order")
        self.sql("CREATE TEMP TABLE passing (a int); CREATE INDEX ON passing (a)")
        self.looked()
        self.looked()
        self.assertEqual(self.changes(), [])
        self.assertEqual(self.value("SELECT count(*) FROM perf.guard_index WHERE NOT is_known"), 0)
        self.assertIn("6 indexes are new at once", self.server.log_path.read_text())
        # The library goes on looking.
        self.sql("CREATE INDEX one_more ON orders (note)")
        self.assertIn("one_more", self.change()["recommendation_id"])
        self.sql("DROP INDEX one_more")
        change = self.reaches("undone")
        self.assertEqual(change["message"], "put back by others")

    def test_owner_takes_it_back_and_nobody_else(self) -> None:
        self.guarded(**{"perf_opt.autopilot_guard": "notice"})
        for role in ("guard_owner", "guard_other"):
            self.server.sql(f"CREATE ROLE {role} LOGIN")
        self.sql("ALTER TABLE accounts OWNER TO guard_owner; GRANT CREATE ON SCHEMA public TO guard_owner;"
                 "GRANT USAGE ON SCHEMA perf TO PUBLIC")
        self.load()
        self.sql("CREATE INDEX wrong ON accounts (balance)", user="guard_owner")
        change = self.reaches("regressed")
        self.assertEqual(change["applied_by"], "guard_owner")
        self.refused("42501", "SELECT perf.undo($1)", (change["recommendation_id"],), user="guard_other")
        run_id = self.value("SELECT perf.undo($1)", (change["recommendation_id"],), user="guard_owner")
        self.wait_until(lambda: self.job_run(run_id)["status"] in ENDED, 30, "the undo")
        self.assertEqual(self.change()["status"], "undone", self.job_run(run_id))
        self.assertEqual(self.sql("SELECT to_regclass('wrong')"), [(None,)])


class Settings(GuardTest):
    """Changed by hand."""

    def setting(self, name: str) -> str:
        """As a new session has it."""
        return self.value("SELECT setting FROM pg_settings WHERE name = $1", (name,))

    def written(self, name: str) -> list[tuple[str]]:
        """What ALTER SYSTEM has written."""
        return self.server.sql("SELECT setting FROM pg_file_settings WHERE name = $1 AND sourcefile LIKE '%auto.conf'", (name,))

    def test_off_by_default(self) -> None:
        self.guarded(**{"perf_opt.autopilot_guard": None})
        self.assertEqual(self.guard(), "off")
        self.load()
        self.alter_system("SET random_page_cost = 1000")
        self.sql("CREATE INDEX wrong ON accounts (balance)")
        runs = "SELECT max(collected_at) FROM perf.statement_history"
        for _ in range(3):
            before = self.value(runs)
            self.wait_until(lambda: self.value(runs) != before, 20, "a run of the collector")
        self.assertEqual(self.changes(), [])
        self.assertEqual([self.value(f"SELECT count(*) FROM perf.guard_{table}") for table in ("look", "setting", "index")],
                         [0, 0, 0])
        # What was changed before it is on is not its business.
        self.alter_system("SET perf_opt.autopilot_guard = 'undo'")
        self.looked()
        self.looked()
        self.assertEqual(self.changes(), [])

    def test_bad_setting_is_put_back_exactly(self) -> None:
        self.guarded("ALTER SYSTEM SET random_page_cost = '1.50'")
        self.load()
        self.alter_system("SET random_page_cost = 1000")
        change = self.change()
        self.assertEqual((change["kind"], change["relation"], change["recommendation_id"]),
                         ("setting", "random_page_cost", "observed:setting:random_page_cost:1"))
        self.assertEqual(change["ddl"], "ALTER SYSTEM SET random_page_cost TO '1000'")
        self.assertEqual(change["undo_ddl"], "ALTER SYSTEM SET random_page_cost TO '1.50'")
        self.reaches("undone")
        self.assertEqual(self.written("random_page_cost"), [("1.50",)])
        self.wait_until(lambda: self.setting("random_page_cost") == "1.5", what="the reload")
        self.assertEqual(self.audit(), ["observed", "verify", "verify", "undo", "undone"])
        self.looked()
        self.assertEqual(len(self.changes()), 1)

    def test_one_that_was_not_set_is_reset(self) -> None:
        self.guarded()
        self.load()
        self.alter_system("SET random_page_cost = 1000")
        change = self.change()
        self.assertEqual(change["undo_ddl"], "ALTER SYSTEM RESET random_page_cost")
        self.reaches("undone")
        self.assertEqual(self.written("random_page_cost"), [])
        self.wait_until(lambda: self.setting("random_page_cost") == "4", what="the reload")

    def test_a_file_is_overridden(self) -> None:
        self.guarded()
        self.load()
        self.server.configure({"random_page_cost": 1000}, reload=True)
        change = self.change()
        self.assertEqual(change["ddl"], "-- configuration file: random_page_cost = 1000")
        self.assertEqual(change["undo_ddl"], "ALTER SYSTEM SET random_page_cost TO '4'")
        self.assertIn("ALTER SYSTEM overrides it", self.seen())
        self.reaches("undone")
        self.wait_until(lambda: self.setting("random_page_cost") == "4", what="the reload")

    def test_harmless_ones_are_kept(self) -> None:
        self.guarded()
        self.load()
        self.alter_system("SET cursor_tuple_fraction = 0.2", "SET seq_page_cost = 1.01")
        change = self.reaches("no_gain", "verified")
        self.assertEqual(change["relation"], "cursor_tuple_fraction, seq_page_cost")
        # The same in other words is no change.
        self.alter_system("SET work_mem = '16384kB'", "SET enable_seqscan = 'true'")
        self.looked()
        self.looked()
        self.assertEqual(len(self.changes()), 1)
        self.assertEqual(self.setting("cursor_tuple_fraction"), "0.2")

    def test_notice_leaves_it_and_undo_refuses_another_value(self) -> None:
        self.guarded(**{"perf_opt.autopilot_guard": "notice"})
        self.load()
        self.alter_system("SET random_page_cost = 1000")
        first = self.reaches("regressed")
        self.wait_until(lambda: "does harm" in self.server.log_path.read_text(), 60, "the line in the log")
        self.assertIn("it is left as it is", self.server.log_path.read_text())
        self.assertEqual(self.change()["status"], "regressed")
        self.alter_system("SET random_page_cost = 500")
        error = self.refused("55000", "SELECT perf.undo($1)", (first["recommendation_id"],))
        self.assertIn('random_page_cost was "4" and is "500", not "1000"', str(error))
        self.wait_until(lambda: len(self.changes()) == 2, 30, "the second change")
        self.assertEqual(self.changes()[1]["recommendation_id"], "observed:setting:random_page_cost:2")
        # By hand, both.
        self.alter_system("SET random_page_cost = 1000")
        self.wait_until(lambda: self.changes()[1]["status"] == "undone", 30, "the way back")
        run_id = self.value("SELECT perf.undo($1)", (first["recommendation_id"],))
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 30, "the undo")
        self.assertEqual(self.written("random_page_cost"), [])
        self.assertEqual({one["status"] for one in self.changes()}, {"undone"})

    def test_of_a_role(self) -> None:
        self.guarded("CREATE ROLE guard_app LOGIN", "ALTER ROLE guard_app SET random_page_cost = 2")
        self.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO guard_app")
        self.load(user="guard_app")
        self.server.sql("ALTER ROLE guard_app SET random_page_cost = 1000")
        change = self.change()
        self.assertEqual(change["undo_ddl"], "ALTER ROLE guard_app SET random_page_cost TO '2'")
        self.assertIn("of role guard_app", self.seen())
        self.reaches("undone")
        self.assertEqual(self.server.sql("SELECT setconfig::text FROM pg_db_role_setting WHERE setrole = 'guard_app'::regrole"),
                         [("{random_page_cost=2}",)])

    def test_of_the_database(self) -> None:
        self.guarded()
        self.load()
        self.server.sql(f"ALTER DATABASE {self.database} SET random_page_cost = 1000")
        self.assertEqual(self.change()["undo_ddl"], f"ALTER DATABASE {self.database} RESET random_page_cost")
        self.reaches("undone")
        self.assertEqual(self.server.sql("SELECT * FROM pg_db_role_setting"), [])

    def test_the_command_line_is_only_noted(self) -> None:
        self.guarded()
        load = self.load()
        load.stop()
        self.looked()
        self.server.stop()
        program = self.server.program
        script = self.server.base_dir / "server"
        script.write_text(f'#!/bin/sh\nexec {program("postgres")} "$@" -c random_page_cost=1000\n')
        script.chmod(0o755)
        self.server.program = lambda name: str(script) if name == "postgres" else program(name)
        self.server.start()
        change = self.change()
        self.assertIsNone(change["undo_ddl"])
        self.assertIn("on the command line", self.seen())
        load = Load(self.server, self.database)
        load.start()
        self.addCleanup(load.stop)
        self.reaches("regressed")
        self.refused("0A000", "SELECT perf.undo($1)", (change["recommendation_id"],))


class WorkMem(GuardTest):
    """perf.apply() of the work memory of a role."""

    QUERY = "SELECT count(*) FROM (SELECT id FROM items ORDER BY quantity, id OFFSET 0) AS sorted"

    def advised(self, user: str = "postgres") -> list[dict[str, Any]]:
        """The rows on work memory."""
        return self.server.result("SELECT * FROM perf.scaling_recommendations() WHERE id LIKE 'scaling:work\\_mem:%'",
                                  dbname=self.database, user=user).dicts()

    def execute(self, count: int = 40) -> None:
        """The statement that spills, in a session of the role's."""
        with self.server.connect(self.database, user="mem_app") as session:
            for _ in range(count):
                session.execute(self.QUERY)

    def ended(self, run_id: int) -> dict[str, Any]:
        """The row of a run, ended."""
        self.wait_until(lambda: self.job_run(run_id)["status"] in ENDED, 30, "the run")
        return self.job_run(run_id)

    def test_applied_verified_and_undone(self) -> None:
        self.guarded(work_mem="256kB", **{"perf_opt.autopilot": "off", "perf_opt.verify_min_calls": 30})
        self.server.sql("CREATE ROLE mem_app LOGIN; CREATE ROLE mem_other LOGIN")
        self.sql("GRANT SELECT ON items TO mem_app; GRANT USAGE ON SCHEMA perf TO PUBLIC")
        self.assertEqual(self.advised(), [])
        self.execute()
        row, = self.advised()
        self.assertEqual((row["id"], row["kind"], row["triggered"]), ("scaling:work_mem:mem_app", "vertical", True))
        self.assertRegex(row["config"], rf"^ALTER ROLE mem_app IN DATABASE {self.database} SET work_mem TO '\d+MB'$")
        self.assertGreater(row["measured_value"], 0.1)
        # Of others' statements nobody hears.
        self.assertEqual(self.advised(user="mem_other"), [])
        self.refused("22023", "SELECT perf.apply($1)", (row["id"],), user="mem_other")
        spilled = "SELECT count(*) FROM perf.statement_history WHERE temp_blks_written > 0"
        self.wait_until(lambda: self.value(spilled) > 0, 20, "the history")
        run = self.ended(self.value("SELECT perf.apply($1)", (row["id"],), user="mem_app"))
        self.assertEqual((run["status"], run["owner"]), ("succeeded", "mem_app"), run)
        entries = "SELECT setconfig::text FROM pg_db_role_setting"
        value = row["evidence"]["value"]
        self.assertEqual(self.server.sql(entries), [(f"{{work_mem={value}}}",)])
        change = self.change()
        self.assertEqual((change["kind"], change["status"], change["relation"]), ("setting", "applied", "work_mem"))
        self.refused("55000", "SELECT perf.apply($1)", (row["id"],))
        self.execute(80)
        # A sort that spills to memory may be as fast as one that does not.
        self.reaches("verified", "no_gain")
        self.refused("42501", "SELECT perf.undo($1)", (row["id"],), user="mem_other")
        self.server.sql(f"ALTER ROLE mem_app IN DATABASE {self.database} SET work_mem = '3MB'")
        self.refused("55000", "SELECT perf.undo($1)", (row["id"],), user="mem_app")
        self.server.sql(f"ALTER ROLE mem_app IN DATABASE {self.database} SET work_mem = '{value}'")
        run = self.ended(self.value("SELECT perf.undo($1)", (row["id"],), user="mem_app"))
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.server.sql(entries), [])
        self.assertEqual(self.audit(), ["apply", "applied", "verify", "undo", "undone"])

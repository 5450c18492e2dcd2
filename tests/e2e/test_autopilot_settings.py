"""perf_opt.autopilot_guard: settings that others have changed are seen, judged, and put back when they do harm."""

from __future__ import annotations

from .guard_case import GuardTest
from .guard_load import Load


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

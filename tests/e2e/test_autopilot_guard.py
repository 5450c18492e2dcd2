"""perf_opt.autopilot_guard: indexes that others have made are seen, judged, and dropped when they do harm; and perf.apply() of
settings."""

from __future__ import annotations

from typing import Any

from .guard_case import GuardTest
from .jobs_case import ENDED


class Indexes(GuardTest):
    """Made by hand."""

    def test_wrong_index_is_found_and_dropped(self) -> None:
        self.guarded()
        load = self.load()
        self.sql("CREATE INDEX wrong ON accounts (balance)")
        change = self.change()
        self.assertEqual((change["kind"], change["relation"], change["by_autopilot"], change["applied_by"]),
                         ("index_create", "public.accounts", True, "postgres"))
        self.assertRegex(change["recommendation_id"], r"^observed:index:public\.wrong:\d+$")
        change = self.reaches("undone")
        self.assertEqual(self.sql("SELECT to_regclass('wrong')"), [(None,)])
        self.assertEqual(self.audit(), ["observed", "verify", "verify", "undo", "undone"])
        # Whoever makes it again means it; one that takes its place at once is the same rebuilt.
        self.warm(load)
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
        # Under another name it is the same.
        self.sql("ALTER INDEX useless RENAME TO idle")
        self.looked()
        self.looked()
        self.assertTrue(all(one["status"] in judged for one in self.changes()), self.changes())

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

    def executed_and_judged(self) -> bool:
        """Whether there is a verdict, after more executions: those that began with the change under way do not count."""
        self.execute()
        return self.change()["status"] in ("verified", "no_gain")

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
        # A sort that spills to memory may be as fast as one that does not.
        self.wait_until(self.executed_and_judged, 60, "a verdict")
        self.refused("42501", "SELECT perf.undo($1)", (row["id"],), user="mem_other")
        self.server.sql(f"ALTER ROLE mem_app IN DATABASE {self.database} SET work_mem = '3MB'")
        self.refused("55000", "SELECT perf.undo($1)", (row["id"],), user="mem_app")
        self.server.sql(f"ALTER ROLE mem_app IN DATABASE {self.database} SET work_mem = '{value}'")
        run = self.ended(self.value("SELECT perf.undo($1)", (row["id"],), user="mem_app"))
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.server.sql(entries), [])
        self.assertEqual(self.audit(), ["apply", "applied", "verify", "undo", "undone"])

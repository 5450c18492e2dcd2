"""Prewarm: what is learned, loaded and measured, and when it stops."""

from __future__ import annotations

from typing import Any

from .cluster import Cluster
from .jobs_case import ENDED, SETTINGS, JobTest

TABLE = """
CREATE TABLE {name} (id int PRIMARY KEY, filler text) WITH (autovacuum_enabled = off);
INSERT INTO {name} SELECT g, repeat('x', 200) FROM generate_series(1, 40000) g;
"""
# The hour of the week after this one, as UTC counts, and the one after that: a test may run across the end of an hour.
NEXT = "((extract(isodow FROM t.at) - 1) * 24 + extract(hour FROM t.at))::smallint FROM " \
       "(SELECT (now() + g * interval '1 hour') AT TIME ZONE 'UTC' AS at FROM generate_series(1, 2) g) t"
READS = "SELECT sum(heap_blks_read) FROM pg_statio_user_tables WHERE relname = $1"


class PrewarmTest(JobTest):
    """With a job that nothing but a test runs."""

    settings = {**SETTINGS, "shared_buffers": "64MB", "autovacuum": "off"}
    server: Cluster

    def setUp(self) -> None:
        super().setUp()
        self.sql("CREATE EXTENSION IF NOT EXISTS pg_buffercache")
        self.job = self.value("SELECT perf.prewarm_schedule('manual')")

    def expect(self, name: str, touched: float = 10_000, reads: float = 1_000) -> None:
        """Has the profile say that the next hours use a relation."""
        self.sql(f"INSERT INTO perf.prewarm_profile (job_id, relid, touched, reads, hour) "
                 f"SELECT $1::bigint, $2::text::regclass, $3::float8, $4::float8, {NEXT}", (self.job, name, touched, reads))

    def hours(self, count: int, warmed: bool, touched: float, reads: float) -> None:
        """Has so many hours measured, long ago."""
        self.sql("INSERT INTO perf.prewarm_hour (job_id, hour_at, warmed, relids, touched, reads) "
                 "SELECT $1::bigint, date_trunc('hour', now()) - g * interval '1 hour' - "
                 "CASE WHEN $3::bool THEN interval '2 days' ELSE interval '4 days' END, $3::bool, '{}', $4::float8, $5::float8 "
                 "FROM generate_series(1, $2::int) g", (self.job, count, warmed, touched, reads))

    def now(self, user: str = "postgres") -> dict[str, Any]:
        """Prewarms on request."""
        run_id = self.value("SELECT max(run_id) FROM perf.prewarm(dry_run => false)", user=user)
        self.wait_until(lambda: self.job_run(run_id)["status"] in ENDED, 30, "the run")
        return self.job_run(run_id)

    def cached(self, name: str) -> int:
        """Blocks of a relation in the buffer cache."""
        return self.value("SELECT count(*) FROM pg_buffercache WHERE relfilenode = pg_relation_filenode($1::text::regclass) "
                          "AND relforknumber = 0 AND reldatabase = (SELECT oid FROM pg_database "
                          "WHERE datname = current_database())", (name,))

    def blocks(self, name: str) -> int:
        """Blocks of a relation."""
        return self.value("SELECT pg_relation_size($1::text::regclass) / 8192", (name,))

    def rows(self, arguments: str = "", user: str = "postgres") -> list[dict[str, Any]]:
        """What a dry run says."""
        return self.cluster.result(f"SELECT * FROM perf.prewarm({arguments})", dbname=self.database, user=user).dicts()


class Loading(PrewarmTest):
    """What is loaded."""

    def test_after_a_restart_the_next_query_reads_nothing(self) -> None:
        self.sql(TABLE.format(name="t"))
        self.expect("t")
        self.expect("t_pkey", touched=1_000)
        self.cluster.restart()
        self.assertLess(self.cached("t"), 10)
        rows = self.rows()
        self.assertEqual([(row["relation"], row["blocks"], row["action"], row["expected_reads"]) for row in rows],
                         [("public.t_pkey", self.blocks("t_pkey"), "load", 1_000),
                          ("public.t", self.blocks("t"), "load", 1_000)])
        self.assertEqual([row["cached_blocks"] for row in rows], [self.cached("t_pkey"), self.cached("t")])
        self.assertLess(self.cached("t"), 10)  # a dry run loads nothing
        run = self.now()
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual((self.cached("t"), self.cached("t_pkey")), (self.blocks("t"), self.blocks("t_pkey")))
        self.assertEqual(run["detail"]["loaded_blocks"], self.blocks("t") + self.blocks("t_pkey"))
        self.assertGreater(run["detail"]["read_blocks"], self.blocks("t"))
        self.assertEqual({row["relation"]: row["cached_blocks"] for row in self.rows()},
                         {"public.t": self.blocks("t"), "public.t_pkey": self.blocks("t_pkey")})
        reads = self.value(READS, ("t",))
        self.value("SELECT count(filler) FROM t")
        self.sql("SELECT pg_stat_force_next_flush()")
        self.assertEqual(self.value(READS, ("t",)), reads)

    def test_the_end_of_what_does_not_fit(self) -> None:
        self.sql(TABLE.format(name="t"))
        self.expect("t")
        self.expect("t_pkey", touched=20)
        row_of_table, = [row for row in self.rows("max_bytes => 819200") if row["relation"] == "public.t"]
        self.assertEqual(row_of_table["blocks"], 80)
        self.cluster.restart()
        self.value("SELECT max(run_id) FROM perf.prewarm(max_bytes => 819200, dry_run => false)")
        self.wait_until(lambda: self.cached("t") >= 80, 10, "the load")
        self.assertEqual(self.value("SELECT max(relblocknumber) FROM pg_buffercache WHERE relforknumber = 0 AND "
                                    "relfilenode = pg_relation_filenode('t') AND reldatabase = (SELECT oid FROM pg_database "
                                    "WHERE datname = current_database())"), self.blocks("t") - 1)
        self.assertLess(self.cached("t"), 90)

    def test_what_cannot_be_loaded_is_skipped(self) -> None:
        for name in ("t", "gone", "held"):
            self.sql(TABLE.format(name=name))
            self.expect(name)
        self.sql("DROP TABLE gone")
        with self.cluster.connect(self.database) as other:
            other.query("BEGIN; LOCK held")
            run = self.now()
            other.query("ROLLBACK")
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual({row["relation"]: row.get("skipped") for row in run["detail"]["relations"]},
                         {"public.t": None, "public.held": "it is locked by another session"})

    def test_as_its_owner(self) -> None:
        self.sql("CREATE ROLE visitor LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE visitor")
        self.addCleanup(self.sql, "DROP OWNED BY visitor")
        self.assert_sql_error("55000", self.cluster, "SELECT * FROM perf.prewarm()", dbname=self.database, user="visitor")
        self.job = self.value("SELECT perf.prewarm_schedule('manual')", user="visitor")
        for name in ("t", "hidden"):
            self.sql(TABLE.format(name=name))
            self.expect(name)
        self.expect("hidden_pkey")
        self.sql("GRANT SELECT ON t TO visitor")
        self.assertEqual({row["relation"]: (row["action"], row["blocks"]) for row in self.rows(user="visitor")},
                         {"public.t": ("load", self.blocks("t")), "public.hidden": ("skip", None),
                          "public.hidden_pkey": ("skip", None)})
        self.cluster.restart()
        run = self.now(user="visitor")
        self.assertEqual({row["relation"]: row.get("skipped") for row in run["detail"]["relations"]},
                         {"public.t": None, "public.hidden": "you may not read it",
                          "public.hidden_pkey": "you may not read it"})
        self.assertEqual(self.cached("t"), self.blocks("t"))
        self.assertLess(self.cached("hidden"), 10)


class Learning(PrewarmTest):
    """What is learned and measured."""

    def hour_passes(self) -> None:
        """Has the last reading been an hour ago."""
        self.sql("UPDATE perf.prewarm_state SET read_at = now() - interval '1 hour'")

    def scan(self) -> None:
        """Reads table t and its index, in a session that ends."""
        self.value("SELECT count(filler) FROM t")
        self.value("SELECT filler FROM t WHERE id = 5")
        self.sql("SELECT pg_stat_force_next_flush()")

    def test_profile_of_the_hour(self) -> None:
        self.sql(TABLE.format(name="t"))
        run = self.run_now(self.job)
        self.assertEqual((run["status"], run["message"]),
                         ("skipped", "nothing that could be loaded is known of the next hour"))
        self.scan()
        self.hour_passes()
        self.run_now(self.job)
        known = self.sql("SELECT relid::regclass::text, touched, reads, hour FROM perf.prewarm_profile")
        names = {row[0] for row in known}
        self.assertTrue(names >= {"t"}, known)
        touched = {row[0]: row[1] for row in known}["t"]
        self.assertTrue(self.blocks("t") <= touched <= self.blocks("t") + 10, known)
        hour = self.value("SELECT (extract(isodow FROM t.at) - 1) * 24 + extract(hour FROM t.at) FROM "
                          "(SELECT (read_at - interval '30 min') AT TIME ZONE 'UTC' AS at FROM perf.prewarm_state) t")
        self.assertEqual({row[3] for row in known}, {int(hour)})
        # A week without use weighs 3 in 10.
        self.hour_passes()
        self.run_now(self.job)
        later = dict(self.sql("SELECT relid::regclass::text, touched FROM perf.prewarm_profile"))["t"]
        self.assertAlmostEqual(later, 0.7 * touched, delta=1)

    def test_what_the_job_loads_is_not_learned(self) -> None:
        self.sql(TABLE.format(name="t"))
        self.expect("t")
        self.hours(1, False, 1_000, 1_000)
        self.sql("DELETE FROM perf.prewarm_profile WHERE relid <> 't'::regclass")
        self.run_now(self.job)
        self.assertEqual(self.now()["status"], "succeeded")
        self.hour_passes()
        self.sql("DELETE FROM perf.prewarm_profile")
        self.run_now(self.job)
        self.assertEqual(self.sql("SELECT * FROM perf.prewarm_profile"), [])

    def test_hours_are_held_out_and_measured(self) -> None:
        self.sql(TABLE.format(name="t"))
        self.expect("t")
        run = self.run_now(self.job)
        self.assertEqual((run["status"], run["message"]), ("skipped", "held out: to compare warmed hours with"))
        self.assertEqual(self.sql("SELECT warmed, loaded_blocks, touched FROM perf.prewarm_hours"), [(False, 0, None)])
        self.scan()
        self.hour_passes()
        self.sql("UPDATE perf.prewarm_hour SET hour_at = date_trunc('hour', now() - interval '30 min')")
        self.run_now(self.job)
        touched = self.value("SELECT touched FROM perf.prewarm_hours ORDER BY hour_at LIMIT 1")
        self.assertTrue(self.blocks("t") <= touched <= self.blocks("t") + 10, touched)

    def test_stops_when_it_wins_nothing_and_tries_again(self) -> None:
        self.sql(TABLE.format(name="t"))
        self.expect("t")
        self.hours(3, False, 1_000, 500)
        self.hours(6, True, 1_000, 480)
        run = self.run_now(self.job)
        self.assertEqual(run["status"], "skipped", run)
        self.assertRegex(run["message"], "the last 6 warmed hours won 4 % of the reads, and 10 % are wanted")
        self.assertAlmostEqual(run["detail"]["won_pct"], 4, delta=0.01)
        self.sql("UPDATE perf.prewarm_state SET runs = 23")
        run = self.run_now(self.job)
        self.assertEqual((run["status"], run["detail"]["loaded_blocks"]), ("succeeded", self.blocks("t")), run)
        self.assertEqual(self.sql("SELECT loaded_blocks FROM perf.prewarm_hours WHERE warmed AND touched IS NULL"),
                         [(self.blocks("t"),)])
        # On request it loads whatever was won.
        self.assertEqual(self.now()["status"], "succeeded")

    def test_removed_job_leaves_nothing(self) -> None:
        self.sql(TABLE.format(name="t"))
        self.expect("t")
        self.run_now(self.job)
        self.sql("SELECT perf.job_unschedule($1::bigint)", (self.job,))
        self.assertEqual(self.sql("SELECT job_id FROM perf.prewarm_profile UNION ALL SELECT job_id FROM perf.prewarm_hour "
                                  "UNION ALL SELECT job_id FROM perf.prewarm_state"), [])


class Statements(PrewarmTest):
    """Marked statements."""

    def test_marked_statement_runs(self) -> None:
        self.sql(TABLE.format(name="t"))
        mark = self.value("SELECT perf.prewarm_mark('SELECT count(filler) FROM t -- all of it')")
        self.assertEqual(self.value("SELECT perf.prewarm_mark('SELECT count(filler) FROM t -- all of it')"), mark)
        self.assertEqual([(row["statement_id"], row["action"]) for row in self.rows()], [(mark, "run")])
        self.cluster.restart()
        run = self.now()
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual([(row["statement_id"], row["error"]) for row in run["detail"]["statements"]], [(mark, None)])
        self.assertEqual(self.sql("SELECT last_ms > 0, last_error FROM perf.prewarm_statements"), [(True, None)])
        self.assertEqual(self.cached("t"), self.blocks("t"))
        self.assertTrue(self.value("SELECT perf.prewarm_unmark($1::bigint)", (mark,)))
        self.assertFalse(self.value("SELECT perf.prewarm_unmark($1::bigint)", (mark,)))

    def test_one_that_writes_fails_alone(self) -> None:
        self.sql("CREATE TABLE t (a int); CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS "
                 "'INSERT INTO t VALUES (1) RETURNING a'; CREATE SEQUENCE s")
        for statement in ("SELECT writes()", "SELECT nextval('s')",
                          "SELECT set_config('transaction_read_only', 'off', false), writes()", "SELECT count(*) FROM t"):
            self.sql("SELECT perf.prewarm_mark($1)", (statement,))
        self.assertEqual(self.now()["status"], "succeeded")
        errors = [row[0] for row in self.sql("SELECT last_error FROM perf.prewarm_statements ORDER BY statement_id")]
        self.assertEqual([error is None for error in errors], [False, False, False, True], errors)
        self.assertEqual(self.value("SELECT count(*) FROM t"), 0)

    def test_of_others_is_neither_seen_nor_run(self) -> None:
        self.sql("CREATE ROLE visitor LOGIN")
        self.addCleanup(self.cluster.sql, "DROP ROLE visitor")
        self.addCleanup(self.sql, "DELETE FROM perf.prewarm_statement")
        mark = self.value("SELECT perf.prewarm_mark('SELECT 1')", user="visitor")
        other = self.value("SELECT perf.prewarm_mark('SELECT 2')")
        self.assertEqual(self.sql("SELECT statement_id FROM perf.prewarm_statements", user="visitor"), [(mark,)])
        self.assertFalse(self.value("SELECT perf.prewarm_unmark($1::bigint)", (other,), user="visitor"))
        run = self.now()
        self.assertEqual([row["statement_id"] for row in run["detail"]["statements"]], [other])

    def test_only_ahead_of_its_peak(self) -> None:
        self.value("SELECT perf.prewarm_mark('SELECT 12345')")
        # The collector makes the partition of today when it starts.
        self.wait_until(lambda: self.value("SELECT count(*) FROM pg_inherits WHERE inhparent = "
                                           "'perf.statement_history'::regclass") > 0, 15, "a partition of the history")
        # Called a hundred times in another hour of the week, never in the next one.
        self.sql("INSERT INTO perf.statement_history SELECT now(), now() - interval '5 hours', d.oid, 10, "
                 "(SELECT queryid FROM perf.prewarm_statement), true, 100, " + "0, " * 23 + "now(), now(), '' "
                 "FROM pg_database d WHERE datname = current_database()")
        self.assertEqual([row["action"] for row in self.rows()], ["skip"])
        busy = self.rows("for_hour => now() - interval '5 hours'")
        self.assertEqual([(row["action"], row["reason"]) for row in busy],
                         [("run", "marked; 100 calls in this hour of the week, 100 in its busiest")])

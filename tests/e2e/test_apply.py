"""perf.apply, perf.verify, perf.undo: a recommendation is carried out, measured, and taken back."""

from __future__ import annotations

import subprocess
from typing import Any

from .case import expects_crash
from .cluster import SqlError
from .jobs_case import ENDED, SETTINGS, JobTest

ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL, note text);
INSERT INTO orders SELECT g, (g * 7919) % 5000, repeat('x', 80) FROM generate_series(1, 50000) g;
CREATE TABLE other (id int PRIMARY KEY, note text);
INSERT INTO other SELECT g, repeat('x', 80) FROM generate_series(1, 2000) g;
ANALYZE orders;
ANALYZE other;
"""
QUERY = "SELECT note FROM orders WHERE customer = $1::int"
OPEN_SETTINGS = {**SETTINGS, "autovacuum": "off", "perf_opt.collect_interval": "1s", "perf_opt.verify_min_calls": 30,
                 "perf_opt.apply_min_free_mb": 1}


class ApplyTest(JobTest):
    """A table with a slow query."""

    settings = OPEN_SETTINGS

    def setUp(self) -> None:
        super().setUp()
        self.sql(ORDERS)
        self.sql("SELECT perf.reset()")

    def load(self, calls: int = 40, query: str = QUERY, user: str = "postgres") -> None:
        """Executes a query with many values."""
        with self.cluster.connect(self.database, user=user) as session:
            for at in range(calls):
                session.execute(query, (at * 37 % 5000,))

    def advice(self, user: str = "postgres") -> list[dict[str, Any]]:
        """What is recommended of indexes."""
        return self.cluster.result("SELECT * FROM perf.index_recommendations()", dbname=self.database, user=user).dicts()

    def advised(self, action: str = "create", user: str = "postgres") -> dict[str, Any]:
        """The one row with an action that is to be done."""
        rows = [row for row in self.advice(user) if row["action"] == action and row["status"] == "recommended"]
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def apply(self, recommendation_id: str, user: str = "postgres", wait: bool = True) -> dict[str, Any]:
        """Applies; the row of its run, ended unless told not to wait."""
        return self.ended(self.value("SELECT perf.apply($1)", (recommendation_id,), user=user), wait)

    def undo(self, recommendation_id: str, user: str = "postgres") -> dict[str, Any]:
        """Takes back; the row of its run."""
        return self.ended(self.value("SELECT perf.undo($1)", (recommendation_id,), user=user))

    def ended(self, run_id: int, wait: bool = True) -> dict[str, Any]:
        """The row of a run."""
        if wait:
            self.wait_until(lambda: self.job_run(run_id)["status"] in ENDED, 30, f"the end of run {run_id}")
        return self.job_run(run_id)

    def change(self, recommendation_id: str) -> dict[str, Any]:
        """The latest change of an advice."""
        return self.cluster.result("SELECT * FROM perf.applied_changes WHERE recommendation_id = $1 ORDER BY change_id DESC "
                                   "LIMIT 1", (recommendation_id,), dbname=self.database).dicts()[0]

    def verify(self, recommendation_id: str, user: str = "postgres") -> dict[str, Any]:
        """What perf.verify says."""
        return self.cluster.result("SELECT * FROM perf.verify($1)", (recommendation_id,), dbname=self.database,
                                   user=user).dicts()[0]

    def indexes(self, table: str = "orders", schema: str = "public") -> list[tuple[str, bool]]:
        """Names of the indexes of a table, and whether they can be used."""
        return self.sql("SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = $1::regclass ORDER BY 1",
                        (f"{schema}.{table}",))

    def audit(self, recommendation_id: str) -> list[tuple[str, str]]:
        """The steps on record."""
        return self.sql("SELECT action, outcome FROM perf.audit WHERE recommendation_id = $1 ORDER BY audit_id",
                        (recommendation_id,))

    def refused(self, sqlstate: str, sql: str, params: tuple = (), user: str = "postgres") -> SqlError:
        """The error of a statement."""
        return self.assert_sql_error(sqlstate, self.cluster, sql, params, dbname=self.database, user=user)


class Creating(ApplyTest):
    """CREATE INDEX."""

    def test_applied_verified_and_undone(self) -> None:
        self.load()
        row = self.advised()
        self.assertGreater(row["benefit_pct"], 30)
        run = self.apply(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.indexes(), [("orders_customer_idx", True), ("orders_pkey", True)])
        change = self.change(row["id"])
        self.assertEqual((change["kind"], change["relation"], change["status"], change["ddl"], change["applied_by"]),
                         ("index_create", "public.orders", "applied", row["ddl"], "postgres"))
        self.assertIsNotNone(change["applied_at"])
        told = next(one for one in self.advice() if one["id"] == row["id"])
        self.assertEqual((told["status"], told["ddl"], told["benefit_pct"]), ("applied", None, change["predicted_pct"]))
        found = self.verify(row["id"])
        self.assertEqual((found["verdict"], found["achieved_pct"]), ("waiting", None))
        self.assertIn("0 executions", found["reason"])
        self.load()
        found = self.verify(row["id"])
        self.assertEqual(found["verdict"], "verified", found)
        self.assertLess(abs(found["achieved_pct"] - found["predicted_pct"]), 10, found)
        statement = found["statements"][0]
        self.assertEqual((statement["part"], statement["change"], statement["calls_before"], statement["calls_after"]),
                         ("promised", "faster", 40, 40))
        self.assertLess(statement["blocks_after"], statement["blocks_before"] / 5)
        self.assertEqual(statement["plan_before"], ["Seq Scan on public.orders"])
        self.assertIn("orders_customer_idx", " ".join(statement["plan_after"]))
        change = self.change(row["id"])
        self.assertEqual((change["status"], change["achieved_pct"]), ("verified", found["achieved_pct"]))
        told = next(one for one in self.advice() if one["id"] == row["id"])
        self.assertEqual((told["status"], told["achieved_pct"]), ("verified", found["achieved_pct"]))
        # The baseline says the same.
        compared = self.sql("SELECT verdict FROM perf.baseline_compare($1) WHERE query LIKE '%customer%' AND calls_before > 0 "
                            "AND query NOT LIKE 'CREATE%'", (change["baseline"],))
        self.assertIn(("faster",), compared)
        run = self.undo(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.indexes(), [("orders_pkey", True)])
        self.assertEqual(self.change(row["id"])["status"], "undone")
        self.assertEqual(self.audit(row["id"]), [("apply", "queued"), ("applied", "ok"), ("verify", "verified"),
                                                 ("undo", "queued"), ("undone", "ok")])
        self.refused("55000", "SELECT perf.undo($1)", (row["id"],))
        # And once more.
        self.load()
        self.assertEqual(self.apply(row["id"])["status"], "succeeded")
        self.assertEqual(self.change(row["id"])["status"], "applied")

    def test_verified_by_itself(self) -> None:
        self.load()
        row = self.advised()
        self.apply(row["id"])
        self.load()
        self.wait_until(lambda: self.change(row["id"])["status"] != "applied", 30, "the verdict")
        self.assertEqual(self.change(row["id"])["status"], "verified")
        self.assertEqual(self.audit(row["id"])[-1], ("verify", "verified"))

    def test_useless_index_gains_nothing(self) -> None:
        self.sql("DELETE FROM perf.index_policy")
        self.sql("INSERT INTO perf.index_policy (policy_no, table_name, columns, priority, origin) "
                 "VALUES (1, 'other', '{note}', 'low', 'added')")
        by_id = "SELECT note FROM other WHERE id = $1::int"
        self.load(query=by_id)
        row = next(row for row in self.advice() if row["relation"] == "public.other")
        self.assertEqual((row["status"], row["action"]), ("not_needed", "create"))
        run = self.apply(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        self.load(calls=10, query=by_id)
        self.assertEqual(self.verify(row["id"])["verdict"], "waiting")
        self.load(query=by_id)
        found = self.verify(row["id"])
        self.assertEqual(found["verdict"], "no_gain", found)
        self.assertIn("none of 1 statements has become faster", found["reason"])
        self.assertRegex(found["reason"], "no scan of the index is counted|the index was scanned [0-9]+ times")
        self.assertEqual(next(one for one in self.advice() if one["id"] == row["id"])["status"], "no_gain")
        self.assertEqual(self.undo(row["id"])["status"], "succeeded")
        self.assertEqual(self.indexes("other"), [("other_pkey", True)])

    def parted(self) -> str:
        """A partitioned table with one index on one partition; the id of the advice for the whole."""
        self.sql("CREATE TABLE parted (id int, customer int, note text) PARTITION BY RANGE (id)")
        self.sql("CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (20000)")
        self.sql("CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (20000) TO (99999)")
        self.sql("INSERT INTO parted SELECT * FROM orders WHERE id < 40000; ANALYZE parted")
        self.sql("CREATE INDEX mine ON parted_1 (customer)")
        self.sql("SELECT perf.reset()")
        self.load(query="SELECT note FROM parted WHERE customer = $1::int")
        row = next(row for row in self.advice() if row["relation"] == "public.parted" and row["status"] == "recommended")
        self.assertIn(";\n", row["ddl"])
        return row["id"]

    def test_partitioned_table(self) -> None:
        applied = self.parted()
        run = self.apply(applied)
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.indexes("parted"), [("parted_customer_idx", True)])
        self.assertEqual([index for index, _ in self.indexes("parted_1")], ["mine"])
        self.assertEqual(len(self.indexes("parted_2")), 1)
        self.load(query="SELECT note FROM parted WHERE customer = $1::int")
        self.assertEqual(self.verify(applied)["verdict"], "verified")
        run = self.undo(applied)
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual((self.indexes("parted"), self.indexes("parted_1"), self.indexes("parted_2")),
                         ([], [("mine", True)], []))

    def test_partitions_that_come_and_go(self) -> None:
        applied = self.parted()
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN")
            run_id = session.execute("SELECT perf.apply($1)", (applied,)).scalar()
            # Not among the statements of the advice.
            session.query("CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (100000) TO (110000) PARTITION BY RANGE (id)")
            session.query("CREATE TABLE parted_3a PARTITION OF parted_3 FOR VALUES FROM (100000) TO (105000)")
            session.query("COMMIT")
        run = self.ended(run_id)
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.indexes("parted"), [("parted_customer_idx", True)])
        self.assertEqual([valid for table in ("parted_3", "parted_3a") for _, valid in self.indexes(table)], [True, True])
        # One that is adopted, one that comes along, one that goes, and one that is let go.
        self.sql("CREATE TABLE parted_4 (LIKE parted); CREATE INDEX theirs ON parted_4 (customer); COMMENT ON INDEX theirs IS 'o''clock'")
        self.sql("ALTER TABLE parted ATTACH PARTITION parted_4 FOR VALUES FROM (110000) TO (120000)")
        self.sql("CREATE TABLE parted_5 PARTITION OF parted FOR VALUES FROM (120000) TO (130000)")
        self.sql("CREATE TABLE parted_6 (id int, customer int, note text) PARTITION BY RANGE (id)")
        self.sql("CREATE TABLE parted_6a PARTITION OF parted_6 FOR VALUES FROM (130000) TO (135000)")
        self.sql('CREATE INDEX "Six" ON parted_6 (customer)')
        self.sql("ALTER TABLE parted ATTACH PARTITION parted_6 FOR VALUES FROM (130000) TO (140000)")
        self.sql("DROP TABLE parted_3")
        self.sql("ALTER TABLE parted DETACH PARTITION parted_2")
        self.assertEqual(self.indexes("parted_4"), [("theirs", True)])
        six = self.indexes("parted_6a")
        definitions = "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index " \
                      "WHERE indrelid::regclass::text LIKE 'parted%' ORDER BY 1"
        before = dict(self.sql(definitions))
        run = self.undo(applied)
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.change(applied)["status"], "undone")
        self.assertEqual([self.indexes(f"parted{table}") for table in ("", "_1", "_2", "_4", "_5", "_6", "_6a")],
                         [[], [("mine", True)], [], [("theirs", True)], [], [('"Six"', True)], six])
        after = dict(self.sql(definitions))
        self.assertEqual(after, {name: before[name] for name in after})
        self.assertEqual(self.value("SELECT obj_description('theirs'::regclass)"), "o'clock")
        self.assertEqual(self.value("SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = $1::regclass", (six[0][0],)), '"Six"')

    def test_partitioned_index_that_somebody_drops_by_hand(self) -> None:
        applied = self.parted()
        self.assertEqual(self.apply(applied)["status"], "succeeded")
        self.sql("ALTER TABLE parted DETACH PARTITION parted_2; DROP INDEX parted_customer_idx")
        self.assertEqual(len(self.indexes("parted_2")), 1)
        self.wait_until(lambda: self.change(applied)["status"] == "undone", what="the collector to see it")

    @expects_crash
    def test_undo_of_a_partitioned_index_is_interrupted(self) -> None:
        applied = self.parted()
        self.assertEqual(self.apply(applied)["status"], "succeeded")
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            run_id = self.value("SELECT perf.undo($1)", (applied,))
            ready = "SELECT count(*) FROM pg_index WHERE indisready AND NOT indisvalid"
            self.wait_until(lambda: self.value(ready) == 1, what="the build to wait")
            # Nothing is lacking meanwhile.
            self.assertEqual(self.indexes("parted"), [("parted_customer_idx", True)])
            self.cluster.crash(self.job_run(run_id)["pid"])
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 60, "the next try")
        self.assertEqual(self.job_run(run_id)["attempt"], 2)
        self.assertEqual([self.indexes(f"parted{table}") for table in ("", "_1", "_2")], [[], [("mine", True)], []])


    def test_odd_names_and_an_expression(self) -> None:
        self.sql('CREATE SCHEMA "Ünï; x"')
        self.sql("""CREATE FUNCTION "Ünï; x".fold(text) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT pg_catalog.lower($1)$$""")
        table = '"Ünï; x"."Ta""ble\'s"'
        self.sql(f'CREATE TABLE {table} AS SELECT id, customer, (customer || \'-X\')::text AS "Co;l" FROM orders')
        self.sql(f"ANALYZE {table}")
        self.sql("SELECT perf.reset()")
        with self.cluster.connect(self.database) as session:
            session.query('SET search_path = "Ünï; x", public')
            for at in range(40):
                session.execute("""SELECT id FROM "Ta""ble's" WHERE fold("Co;l") = $1::text""", (f"{at}-x",))
            found = session.query("SELECT id, ddl FROM perf.index_recommendations() WHERE status = 'recommended'").rows
            self.assertEqual(len(found), 1, found)
            run_id = session.execute("SELECT perf.apply($1)", (found[0][0],)).scalar()
        run = self.ended(run_id)
        self.assertEqual(run["status"], "succeeded", (run, found))
        self.assertEqual(len(self.sql("SELECT FROM pg_index WHERE indrelid = $1::regclass AND indisvalid", (table,))), 1)
        self.assertEqual(self.undo(found[0][0])["status"], "succeeded")
        self.assertEqual(self.sql("SELECT FROM pg_index WHERE indrelid = $1::regclass", (table,)), [])

    @expects_crash
    def test_killed_in_the_middle(self) -> None:
        self.load()
        row = self.advised()
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            run_id = self.value("SELECT perf.apply($1)", (row["id"],))
            ready = "SELECT count(*) FROM pg_index WHERE indisready AND NOT indisvalid"
            self.wait_until(lambda: self.value(ready) == 1, what="the build to wait")
            self.cluster.crash(self.job_run(run_id)["pid"])
        self.wait_until(lambda: self.job_run(run_id)["status"] == "succeeded", 60, "the next try")
        self.assertEqual(self.job_run(run_id)["attempt"], 2)
        self.assertEqual(self.indexes(), [("orders_customer_idx", True), ("orders_pkey", True)])
        self.assertEqual(self.change(row["id"])["status"], "applied")

    def test_an_index_that_somebody_makes_meanwhile_stays(self) -> None:
        self.load()
        row = self.advised()
        with self.cluster.connect(self.database) as person:
            person.query("BEGIN; CREATE INDEX orders_customer_idx ON orders (customer, id)")
            run_id = self.value("SELECT perf.apply($1)", (row["id"],))
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, what="the build to wait")
            person.query("COMMIT")
        run = self.ended(run_id)
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "42P07"), run)
        self.assertEqual(self.indexes(), [("orders_customer_idx", True), ("orders_pkey", True)])
        self.assertIn("(customer, id)", self.value("SELECT pg_get_indexdef('orders_customer_idx'::regclass)"))

    def test_two_sessions_at_once(self) -> None:
        self.load()
        row = self.advised()
        with self.cluster.connect(self.database) as first, self.cluster.connect(self.database) as second:
            first.query("BEGIN")
            run_id = first.execute("SELECT perf.apply($1)", (row["id"],)).scalar()
            second.send_async(f"SELECT perf.apply('{row['id']}')")
            self.wait_until(lambda: self.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == 1, what="the wait")
            first.query("COMMIT")
            with self.assertRaises(SqlError) as caught:
                second.wait()
            self.assertEqual(caught.exception.sqlstate, "55000")
        self.assertEqual(self.ended(run_id)["status"], "succeeded")
        self.assertEqual(self.value("SELECT count(*) FROM perf.applied_changes"), 1)

    def test_audit_is_dumped(self) -> None:
        self.load()
        row = self.advised()
        self.apply(row["id"])
        dump = subprocess.run([self.cluster.program("pg_dump"), *self.cluster.psql_args(self.database)[1:]], check=True,
                              capture_output=True, text=True).stdout
        self.assertIn("COPY perf.audit ", dump)
        self.assertIn(f"\t{row['id']}\tindex_create\t", dump)


class Views(ApplyTest):
    """Materialized views of the policy."""

    def test_made_refreshed_and_undone(self) -> None:
        self.sql("CREATE SCHEMA app")
        self.sql("CREATE TABLE app.game_results (user_id int, stake numeric, payout numeric, created_at timestamptz)")
        self.sql("INSERT INTO app.game_results SELECT g % 10, 1, 2, now() FROM generate_series(1, 1000) g")
        applied = "scaling:materialized_view:mv_cohort_summary"
        self.refused("22023", "SELECT perf.apply($1)", (applied,))
        with self.cluster.connect(self.database) as session:
            session.query("SET search_path = app")
            run_id = session.execute("SELECT perf.apply($1)", (applied,)).scalar()
        run = self.ended(run_id)
        self.assertEqual(run["status"], "succeeded", run)
        change = self.change(applied)
        self.assertEqual((change["kind"], change["relation"], change["status"]),
                         ("matview", "app.mv_cohort_summary", "applied"))
        self.assertEqual(self.value("SELECT count(*) FROM app.mv_cohort_summary"), 10)
        jobs = "SELECT schedule FROM perf.jobs WHERE kind = 'matview' AND target = 'app.mv_cohort_summary'"
        self.assertEqual(self.sql(jobs), [("1 hour",)])
        self.refused("55000", "SELECT perf.apply($1)", (applied,))
        self.assertEqual(self.verify(applied)["verdict"], "waiting")
        self.sql("CREATE VIEW app.on_top AS SELECT * FROM app.mv_cohort_summary")
        run = self.undo(applied)
        self.assertEqual((run["status"], run["sqlstate"]), ("failed", "2BP01"), run)
        self.assertEqual(self.change(applied)["status"], "applied")
        self.assertEqual(self.sql(jobs), [("1 hour",)])
        self.sql("DROP VIEW app.on_top")
        self.wait_until(lambda: self.audit(applied)[-1][0] == "failed", what="the failure on record")
        run = self.undo(applied)
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.sql(jobs), [])
        self.assertIsNone(self.value("SELECT to_regclass('app.mv_cohort_summary')"))

    def test_partitioned_and_plain_again(self) -> None:
        self.sql("CREATE TABLE visits (id int NOT NULL, at timestamptz NOT NULL, note text)")
        self.sql("INSERT INTO visits SELECT g, now() - g * interval '1 minute', 'x' FROM generate_series(1, 20000) g")
        self.sql("ANALYZE visits")
        self.sql("INSERT INTO perf.partition_policy (table_name, control_column, every, origin) VALUES ('visits', 'at', 'month', 'added')")
        self.sql("SELECT perf.reset()")
        query = "SELECT count(*) FROM visits WHERE id > $1::int"
        self.load(query=query)
        applied = "scaling:partitioning:public.visits"
        self.sql("CREATE ROLE apply_bob LOGIN")
        self.refused("42501", "SELECT perf.apply($1)", (applied,), user="apply_bob")
        run = self.apply(applied)
        self.assertEqual(run["status"], "succeeded", run)
        change = self.change(applied)
        self.assertEqual((change["kind"], change["status"], change["relation"]), ("partitioning", "applied", "public.visits"))
        kind = "SELECT relkind::text FROM pg_class WHERE oid = 'visits'::regclass"
        self.assertEqual(self.value(kind), "p")
        self.refused("55000", "SELECT perf.apply($1)", (applied,))
        self.load(query=query)
        # Before version 18 the statement has another number now; it is the same.
        found = self.verify(applied)
        self.assertEqual(found["verdict"], "verified", found)
        self.assertGreaterEqual(found["statements"][0]["calls_after"], 40)
        run = self.undo(applied)
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual((self.value(kind), self.value("SELECT count(*) FROM visits")), ("r", 20000))
        self.assertEqual(self.change(applied)["status"], "undone")

    def test_partitioning_that_has_something_in_its_way(self) -> None:
        self.sql("CREATE TABLE visits (id int PRIMARY KEY, at timestamptz NOT NULL)")
        self.sql("CREATE TABLE notes (visit int REFERENCES visits)")
        self.sql("INSERT INTO perf.partition_policy (table_name, control_column, every, origin) VALUES ('visits', 'at', 'month', 'added')")
        error = self.refused("55000", "SELECT perf.apply('scaling:partitioning:public.visits')")
        self.assertIn("cannot be carried out", str(error))

    def test_other_advice_is_not_carried_out(self) -> None:
        rows = self.sql("SELECT id FROM perf.scaling_recommendations() WHERE kind = 'vertical'")
        self.refused("0A000", "SELECT perf.apply($1)", rows[0])
        self.refused("22023", "SELECT perf.apply('scaling:nonsense')")


class Refusing(ApplyTest):
    """What is not begun, or not ended."""

    def test_unknown_and_outdated(self) -> None:
        self.refused("22004", "SELECT perf.apply(NULL)")
        error = self.refused("22023", "SELECT perf.apply('nonsense')")
        self.assertIn("nonsense", str(error))
        self.refused("22023", "SELECT perf.undo('nonsense')")
        self.refused("22023", "SELECT * FROM perf.verify('nonsense')")
        self.load()
        row = self.advised()
        self.sql("CREATE INDEX by_hand ON orders (customer)")
        self.refused("22023", "SELECT perf.apply($1)", (row["id"],))
        self.assertEqual(self.sql("SELECT * FROM perf.applied_changes"), [])
        self.assertEqual(self.sql("SELECT * FROM perf.jobs"), [])

    def test_policy_of_a_table_that_is_not_there(self) -> None:
        row = next(row for row in self.cluster.result(
            "SELECT * FROM perf.index_recommendations(include_inapplicable => true)", dbname=self.database).dicts()
            if row["status"] == "not_applicable")
        error = self.refused("55000", "SELECT perf.apply($1)", (row["id"],))
        self.assertIn("cannot be applied here", str(error))

    def test_twice_while_building_and_cancelled(self) -> None:
        self.load()
        row = self.advised()
        with self.cluster.connect(self.database) as writer:
            writer.query("BEGIN; INSERT INTO orders VALUES (0, 0, '')")
            run_id = self.value("SELECT perf.apply($1)", (row["id"],))
            invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
            self.wait_until(lambda: self.value(invalid) == 1, what="the build to begin")
            self.assertEqual(self.change(row["id"])["status"], "applying")
            error = self.refused("55000", "SELECT perf.apply($1)", (row["id"],))
            self.assertIn("is being applied already", str(error))
            self.refused("55000", "SELECT perf.undo($1)", (row["id"],))
            self.refused("55000", "SELECT * FROM perf.verify($1)", (row["id"],))
            told = next(one for one in self.advice() if one["id"] == row["id"])
            self.assertEqual((told["status"], told["ddl"]), ("building", None))
            self.assertTrue(self.value("SELECT perf.job_cancel($1)", (run_id,)))
            run = self.ended(run_id)
            self.assertEqual((run["status"], run["sqlstate"]), ("cancelled", "57014"))
            change = self.change(row["id"])
            self.assertEqual(change["status"], "failed")
            self.assertIn("is dropped when no transaction is in the way", change["message"])
            writer.query("ROLLBACK")
        self.wait_until(lambda: self.indexes() == [("orders_pkey", True)], 30, "the rest of the build to be dropped")
        self.wait_until(lambda: self.audit(row["id"])[-1][0] == "failed", what="the failure on record")
        # Nothing is left in the way of another try.
        self.load()
        run = self.apply(self.advised()["id"])
        self.assertEqual(run["status"], "succeeded", run)
        error = self.refused("55000", "SELECT perf.apply($1)", (row["id"],))
        self.assertIn("is applied already", str(error))

    def test_cancelled_with_nobody_in_the_way(self) -> None:
        # A statement that was there before the build holds it up at its end, and no drop.
        self.load()
        row = self.advised()
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            run_id = self.value("SELECT perf.apply($1)", (row["id"],))
            ready = "SELECT count(*) FROM pg_index WHERE indisready AND NOT indisvalid"
            self.wait_until(lambda: self.value(ready) == 1, what="the build to wait")
            self.assertTrue(self.value("SELECT perf.job_cancel($1)", (run_id,)))
            self.assertEqual(self.ended(run_id)["status"], "cancelled")
            self.assertEqual(self.indexes(), [("orders_pkey", True)])
            reader.query("ROLLBACK")
        self.assertEqual(self.change(row["id"])["status"], "failed")

    def test_rights(self) -> None:
        for role in ("apply_alice", "apply_bob"):
            self.sql(f"DROP ROLE IF EXISTS {role}")
            self.sql(f"CREATE ROLE {role} LOGIN")
            self.addCleanup(self.cluster.sql, f"DROP ROLE {role}")
            self.addCleanup(self.cluster.sql, f"DROP OWNED BY {role} CASCADE", dbname=self.database)
        self.sql("GRANT USAGE ON SCHEMA perf TO PUBLIC; ALTER TABLE orders OWNER TO apply_bob; "
                 "GRANT SELECT ON orders TO apply_alice; GRANT CREATE ON SCHEMA public TO apply_bob")
        self.sql("SELECT perf.reset()")
        self.load(user="apply_alice")
        row = self.advised(user="apply_alice")
        error = self.refused("42501", "SELECT perf.apply($1)", (row["id"],), user="apply_alice")
        self.assertIn("must be owner of table public.orders", str(error))
        # Of statements of others he may not plan, an owner hears nothing.
        self.refused("22023", "SELECT perf.apply($1)", (row["id"],), user="apply_bob")
        self.load(user="apply_bob")
        run = self.apply(row["id"], user="apply_bob")
        self.assertEqual((run["status"], run["owner"]), ("succeeded", "apply_bob"), run)
        self.assertEqual(self.change(row["id"])["applied_by"], "apply_bob")
        seen = "SELECT count(*) FROM perf.applied_changes"
        self.assertEqual([self.value(seen, user=user) for user in ("apply_bob", "apply_alice")], [1, 0])
        self.refused("42501", "SELECT * FROM perf.verify($1)", (row["id"],), user="apply_alice")
        self.refused("42501", "SELECT perf.undo($1)", (row["id"],), user="apply_alice")
        for table in ("change", "change_statement", "audit"):
            self.refused("42501", f"SELECT * FROM perf.{table}", user="apply_bob")
        self.refused("42501", "INSERT INTO perf.audit DEFAULT VALUES", user="apply_bob")
        self.assertEqual(self.undo(row["id"], user="apply_bob")["status"], "succeeded")

    def test_audit_cannot_be_edited(self) -> None:
        self.load()
        row = self.advised()
        self.apply(row["id"])
        before = self.audit(row["id"])
        for sql in ("UPDATE perf.audit SET outcome = 'ok'", "DELETE FROM perf.audit", "TRUNCATE perf.audit",
                    "SET session_replication_role = replica; DELETE FROM perf.audit"):
            error = self.refused("55000", sql)
            self.assertIn("never changed or removed", str(error))
        self.assertEqual(self.audit(row["id"]), before)

    def test_no_room(self) -> None:
        cluster = self.private_cluster({**OPEN_SETTINGS, "perf_opt.apply_min_free_mb": 1 << 29})
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql(ORDERS)
        with cluster.connect("postgres") as session:
            for at in range(40):
                session.execute(QUERY, (at,))
        (row_id,), = cluster.sql("SELECT id FROM perf.index_recommendations() WHERE status = 'recommended' AND action = 'create'")
        error = self.assert_sql_error("53100", cluster, "SELECT perf.apply($1)", (row_id,))
        self.assertRegex(str(error), r"estimated at \d+\.\d MB.* \d+\.\d MB are free")
        self.assertEqual(cluster.scalar("SELECT count(*) FROM perf.applied_changes"), 0)
        self.assertEqual(cluster.scalar("SELECT count(*) FROM perf.job_runs"), 0)

    def test_standby(self) -> None:
        primary = self.private_cluster(OPEN_SETTINGS)
        primary.sql("CREATE EXTENSION perf_opt")
        standby = primary.standby()
        primary.wait_for_replay(standby)
        for call in ("perf.apply('x')", "perf.undo('x')", "perf.verify('x')"):
            self.assert_sql_error("25006", standby, f"SELECT {call}")


class Undoing(ApplyTest):
    """What was made is taken back, if it is still that."""

    def made(self) -> str:
        """The id of an applied index."""
        self.load()
        row = self.advised()
        run = self.apply(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        return row["id"]

    def test_undo_of_what_changed_since(self) -> None:
        applied = self.made()
        self.sql("ALTER INDEX orders_customer_idx SET (fillfactor = 50)")
        error = self.refused("55000", "SELECT perf.undo($1)", (applied,))
        self.assertIn("fillfactor", str(error))
        self.sql("ALTER INDEX orders_customer_idx RESET (fillfactor)")
        self.assertEqual(self.change(applied)["status"], "applied")

    def test_what_somebody_drops_by_hand_can_be_applied_again(self) -> None:
        applied = self.made()
        self.sql("DROP INDEX orders_customer_idx")
        self.wait_until(lambda: self.change(applied)["status"] == "undone", what="the collector to see it")
        self.assertEqual(self.change(applied)["message"], "somebody has dropped what it made")
        error = self.refused("55000", "SELECT perf.undo($1)", (applied,))
        self.assertIn("somebody has dropped what it made", str(error))
        self.assertEqual(self.advised()["id"], applied)
        self.assertEqual(self.apply(applied)["status"], "succeeded")
        # By another name it is still there.
        self.sql("ALTER INDEX orders_customer_idx RENAME TO better_name")
        self.verify(applied)
        self.assertEqual(self.change(applied)["status"], "applied")

    def test_harmful_drop_is_found_and_undone_exactly(self) -> None:
        twins = ("twin_1", "twin_2")
        for twin in twins:
            self.sql(f"CREATE INDEX {twin} ON orders (customer) WITH (fillfactor = 80)")
            self.sql(f"COMMENT ON INDEX {twin} IS 'it''s {twin}'")
        self.sql("ANALYZE orders; SELECT perf.reset()")
        self.load()
        row = self.advised("drop")
        dropped = row["ddl"].rpartition(".")[2]
        definition = self.value("SELECT pg_get_indexdef($1::regclass)", (dropped,))
        run = self.apply(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        change = self.change(row["id"])
        self.assertEqual((change["kind"], change["status"]), ("index_drop", "applied"))
        # What made it dispensable goes too.
        self.sql(f"DROP INDEX {next(twin for twin in twins if twin != dropped)}")
        self.load()
        found = self.verify(row["id"])
        self.assertEqual(found["verdict"], "regressed", found)
        self.assertLess(found["achieved_pct"], 0)
        self.assertIn("times as long", found["reason"])
        self.assertEqual(next(one for one in self.advice() if one["id"] == row["id"])["status"], "regressed")
        run = self.undo(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        self.assertEqual(self.value("SELECT pg_get_indexdef($1::regclass)", (dropped,)), definition)
        self.assertEqual(self.value("SELECT obj_description($1::regclass)", (dropped,)), f"it's {dropped}")
        self.assertEqual(self.change(row["id"])["status"], "undone")

    def test_harmless_drop_is_verified(self) -> None:
        self.sql("CREATE INDEX twin_1 ON orders (customer); CREATE INDEX twin_2 ON orders (customer)")
        self.sql("ANALYZE orders; SELECT perf.reset()")
        self.load()
        row = self.advised("drop")
        self.assertEqual(self.apply(row["id"])["status"], "succeeded")
        self.load()
        found = self.verify(row["id"])
        self.assertEqual(found["verdict"], "verified", found)
        self.sql(f"CREATE INDEX {row['ddl'].rpartition('.')[2]} ON orders (customer)")
        error = self.refused("55000", "SELECT perf.undo($1)", (row["id"],))
        self.assertIn("again", str(error))
        self.wait_until(lambda: self.change(row["id"])["status"] == "undone", what="the collector to see it")

    def test_rebuild_has_nothing_to_undo(self) -> None:
        self.sql("CREATE TABLE big (a int, b text) WITH (autovacuum_enabled = off)")
        self.sql("INSERT INTO big SELECT g, 'text' FROM generate_series(1, 700000) g; CREATE INDEX big_a ON big (a)")
        self.sql("DELETE FROM big WHERE a % 10 <> 0")
        self.sql("VACUUM big")
        self.sql("ANALYZE big")
        self.sql("SELECT perf.reset()")
        self.load(query="SELECT b FROM big WHERE a = 10 * $1::int")
        row = self.advised("reindex")
        before = self.value("SELECT pg_relation_size('big_a')")
        run = self.apply(row["id"])
        self.assertEqual(run["status"], "succeeded", run)
        self.assertLess(self.value("SELECT pg_relation_size('big_a')"), before / 5)
        self.refused("0A000", "SELECT perf.undo($1)", (row["id"],))
        self.load(query="SELECT b FROM big WHERE a = 10 * $1::int")
        self.assertEqual(self.verify(row["id"])["verdict"], "verified")


class Autopilot(ApplyTest):
    """What is done unasked, on servers of the tests' own."""

    def pilot(self, mode: str, **settings: Any) -> None:
        """A server with autopilot, and the tables as those of a role."""
        self.server = self.private_cluster({**OPEN_SETTINGS, "perf_opt.autopilot": mode, **settings})
        self.database = self.fresh_database(self.server)
        self.sql(ORDERS)
        self.sql("CREATE ROLE pilot_owner LOGIN; ALTER TABLE orders OWNER TO pilot_owner; GRANT CREATE ON SCHEMA public TO pilot_owner")
        self.sql("SELECT perf.reset()")

    def setUp(self) -> None:
        # Not the shared server.
        super(JobTest, self).setUp()

    @property
    def cluster(self) -> Any:
        return self.server

    def look(self) -> dict[str, Any]:
        """One look of autopilot."""
        jobs = "SELECT job_id FROM perf.jobs WHERE kind = 'autopilot'"
        self.wait_until(lambda: self.sql(jobs), 30, "autopilot's job")
        return self.run_now(self.value(jobs))

    def made(self) -> dict[str, Any]:
        """What autopilot has begun, when it is there."""
        self.wait_until(lambda: self.look()["status"] and self.sql(
            "SELECT FROM perf.applied_changes WHERE by_autopilot AND applied_at IS NOT NULL"), 30, "a change")
        return self.cluster.result("SELECT * FROM perf.applied_changes", dbname=self.database).dicts()[0]

    def test_off_and_advise(self) -> None:
        self.pilot("advise")
        self.load()
        self.wait_until(lambda: self.look()["status"] and self.sql("SELECT FROM perf.audit"), 30, "the advice")
        (action, actor, sql, autopilot), = self.sql("SELECT action, actor, sql, by_autopilot FROM perf.audit")
        self.assertEqual((action, actor, autopilot), ("advise", "postgres", True))
        self.assertTrue(sql.startswith("CREATE INDEX CONCURRENTLY"))
        run = self.look()
        self.assertEqual(run["status"], "skipped")
        self.assertIn("in perf.audit already", run["message"])
        self.server.sql("ALTER SYSTEM SET perf_opt.autopilot = off")
        self.server.sql("SELECT pg_reload_conf()")
        self.wait_until(lambda: self.look()["message"] == "perf_opt.autopilot is off", what="the reload")
        self.assertEqual(self.sql("SELECT * FROM perf.applied_changes"), [])
        self.assertEqual(self.indexes(), [("orders_pkey", True)])

    def test_creates_verifies_and_keeps(self) -> None:
        self.pilot("apply")
        self.load()
        change = self.made()
        self.assertEqual((change["kind"], change["applied_by"], change["by_autopilot"]),
                         ("index_create", "pilot_owner", True))
        self.assertIn("one at a time", self.look()["message"])
        self.load()
        self.wait_until(lambda: self.change(change["recommendation_id"])["status"] == "verified", 30, "the verdict")
        self.assertIn("sure to pay", self.look()["message"])
        self.assertEqual(self.value("SELECT count(*) FROM perf.applied_changes"), 1)

    def test_harm_is_undone_by_itself(self) -> None:
        self.pilot("apply")
        twins = {"twin_1", "twin_2"}
        for twin in twins:
            self.sql(f"CREATE INDEX {twin} ON orders (customer)")
        self.sql("ANALYZE orders; SELECT perf.reset()")
        self.load()
        change = self.made()
        self.assertEqual(change["kind"], "index_drop")
        left = twins & {name for name, _ in self.indexes()}
        self.sql(f"DROP INDEX {left.pop()}")
        self.load()
        self.wait_until(lambda: self.change(change["recommendation_id"])["status"] == "regressed", 30, "the verdict")
        # One round is not enough.
        self.assertIn("one at a time", self.look()["message"])
        self.load()
        self.wait_until(lambda: self.look()["status"] and self.change(change["recommendation_id"])["status"] == "undone", 30,
                        "the undo")
        self.assertEqual(len(twins & {name for name, _ in self.indexes()}), 1)
        self.assertEqual([action for action, _ in self.audit(change["recommendation_id"])],
                         ["apply", "applied", "verify", "verify", "undo", "undone"])
        # It is not tried again.
        self.look()
        self.assertEqual(self.value("SELECT count(*) FROM perf.applied_changes WHERE recommendation_id = $1",
                                    (change["recommendation_id"],)), 1)

    def test_budget_and_window(self) -> None:
        self.pilot("apply", **{"perf_opt.autopilot_max_mb": 0})
        self.load()
        self.assertIn("perf_opt.autopilot_max_mb", self.look()["message"])
        hour = self.value("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::int")
        closed = f"{(hour + 2) % 24:02}:00-{(hour + 3) % 24:02}:00"
        for value, message in ((closed, "not within perf_opt.autopilot_window"), ("soon", 'window is "soon"')):
            self.server.sql(f"ALTER SYSTEM SET perf_opt.autopilot_window = '{value}'")
            self.server.sql("SELECT pg_reload_conf()")
            self.wait_until(lambda: message in self.look()["message"], what=message)
        self.assertEqual(self.sql("SELECT * FROM perf.applied_changes"), [])

"""What perf.partition_check finds, that its SQL mends it, and that it waits for nobody."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Optional

from .cluster import SqlError
from .jobs_case import SETTINGS
from .test_partitions import PartitionTest

MONTHS = """
CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, tenant int, note text, PRIMARY KEY (id, at))
PARTITION BY RANGE (at)
"""
# Bounds around now, whenever that is.
MONTH = "date_trunc('month', now() AT TIME ZONE 'UTC')"


class CheckTest(PartitionTest):
    """What tests of the check share."""

    def check(self, relation: Optional[str] = None, user: str = "postgres", database: str = "") -> list[dict[str, Any]]:
        """All problems."""
        return self.cluster.result("SELECT * FROM perf.partition_check($1::regclass)", (relation,),
                                   dbname=database or self.database, user=user).dicts()

    def problems(self, relation: Optional[str] = None, user: str = "postgres") -> list[str]:
        """Their names."""
        return sorted(row["problem"] for row in self.check(relation, user))

    def run_fix(self, fix: str, user: str = "postgres") -> None:
        """Statement by statement, as psql would."""
        with self.cluster.connect(self.database, user=user) as session:
            for statement in fix.split(";\n"):
                session.query(statement)

    def mends(self, problem: str, relation: str = "events", rounds: int = 3) -> list[str]:
        """Runs what is said to mend a problem, again where something deeper comes to light; what was run."""
        ran = []
        for _ in range(rounds):
            rows = [row for row in self.check(relation) if row["problem"] == problem]
            if not rows:
                break
            for row in rows:
                self.assertIsNotNone(row["fix_sql"], row)
                ran.append(row["fix_sql"])
                self.run_fix(row["fix_sql"])
        self.assertTrue(ran, f"{problem} was not found: {self.check(relation)}")
        self.assertNotIn(problem, self.problems(relation))
        return ran

    def month(self, offset: int) -> str:
        """The first day of a month from now."""
        return self.value(f"SELECT to_char({MONTH} + $1 * interval '1 month', 'YYYY-MM-DD')", (offset,))

    def months(self, parent: str, first: int, last: int) -> None:
        """Partitions by hand, m0 for this month, m_1 for the one before."""
        for offset in range(first, last):
            name = f"{parent}_m{offset}".replace("-", "_")
            self.sql(f"CREATE TABLE {name} PARTITION OF {parent} FOR VALUES FROM ('{self.month(offset)} 00:00+00')"
                     f" TO ('{self.month(offset + 1)} 00:00+00')")

    def managed(self, **options: Any) -> int:
        """A table in order."""
        self.sql(MONTHS)
        job_id = self.manage("events", **options)
        self.sql("SELECT * FROM perf.partition_tick('events')")
        self.assertEqual(self.check(), [])
        return job_id


class Ranges(CheckTest):
    """Partitions that are missing, odd or too old."""

    def test_nothing_at_all(self) -> None:
        self.assertEqual(self.check(), [])

    def test_no_partition_for_now(self) -> None:
        self.sql(MONTHS)
        self.manage("events")
        rows = self.check("events")
        self.assertEqual([row["problem"] for row in rows], ["no_partition_for_now", "too_few_ahead"])
        self.assertIn("rows of now are refused", rows[0]["detail"])
        self.assertIn("4 of 4 partitions", rows[1]["detail"])
        self.mends("no_partition_for_now")
        self.assertEqual(self.check(), [])

    def test_gaps_of_a_managed_table(self) -> None:
        self.managed()
        self.sql(f"CREATE TABLE old PARTITION OF events FOR VALUES FROM ('{self.month(-4)} 00:00+00')"
                 f" TO ('{self.month(-3)} 00:00+00')")
        self.assertEqual(self.problems("events"), ["gap"])
        self.mends("gap")
        self.assertEqual(self.check(), [])

    def test_gaps_of_a_table_without_a_job(self) -> None:
        self.sql(MONTHS)
        self.months("events", -4, -2)
        self.months("events", 0, 2)
        self.assertEqual(self.problems(), ["gap"])
        self.mends("gap")
        self.assertEqual(self.check(), [])

    def test_no_partition_for_now_without_a_job(self) -> None:
        self.sql(MONTHS)
        self.months("events", -4, -1)
        self.assertEqual(self.problems(), ["no_partition_for_now"])
        self.mends("no_partition_for_now")
        self.assertEqual(self.check(), [])

    def test_what_has_expired(self) -> None:
        self.sql(MONTHS)
        self.months("events", -6, -3)
        self.manage("events", premake=1, retention="3 months", on_expire="drop")
        self.sql("UPDATE perf.job SET options = options || '{\"retention\": null}' WHERE kind = 'partition'")
        self.sql("SELECT * FROM perf.partition_tick('events')")
        self.assertEqual(self.check(), [])
        self.manage("events", premake=1, retention="3 months", on_expire="drop")
        rows = [row for row in self.check() if row["problem"] == "expired"]
        self.assertIn("public.events_m_6", rows[0]["detail"])
        self.mends("expired")
        self.assertEqual(self.check(), [])

    def test_rows_in_default(self) -> None:
        self.managed(premake=1)
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql(f"INSERT INTO events SELECT g, {MONTH} + interval '3 month 2 days' + g * interval '1 min', 1"
                 " FROM generate_series(1, 30) g")
        self.sql(f"INSERT INTO events SELECT g, {MONTH} - interval '40 days', 1 FROM generate_series(1, 5) g")
        self.sql("INSERT INTO events VALUES (7, 'infinity')")
        rows = [row for row in self.check("events") if row["problem"] == "rows_in_default"]
        self.assertEqual([row["detail"].split(" rows")[0] for row in rows], ["5", "30", "1"])
        self.assertIsNone(rows[2]["fix_sql"])
        for row in rows[:2]:
            self.run_fix(row["fix_sql"])
        rows = [row for row in self.check("events") if row["problem"] == "rows_in_default"]
        self.assertEqual([row["detail"].split(" rows")[0] for row in rows], ["1"])
        self.assertEqual(self.value("SELECT count(*) FROM events"), 36)
        self.assertEqual(self.value("SELECT count(*) FROM rest"), 1)

    def test_rows_in_default_that_are_too_many(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql("INSERT INTO events SELECT g, now() FROM generate_series(1, 50) g")
        self.manage("events", premake=1, max_move_rows=10)
        self.sql("SELECT * FROM perf.partition_tick('events')")
        self.assertEqual(self.problems("events"), ["no_partition_for_now", "rows_in_default"])
        self.mends("rows_in_default")
        self.assertEqual(self.check(), [])
        self.assertEqual(self.value("SELECT count(*) FROM rest"), 0)

    def test_rows_in_default_without_a_job(self) -> None:
        self.sql(MONTHS)
        self.months("events", -1, 1)
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql(f"INSERT INTO events SELECT g, {MONTH} - interval '100 days' FROM generate_series(1, 9) g")
        self.mends("rows_in_default")
        self.assertEqual(self.value("SELECT count(*) FROM rest"), 0)
        self.assertEqual(self.value("SELECT count(*) FROM events"), 9)
        self.mends("gap")
        self.assertEqual(self.check(), [])

    def test_keys_of_all_types(self) -> None:
        tables = {
            "date": ("date", "d", f"({MONTH} - interval '70 days')::date"),
            "timestamp": ("timestamp", "t", f"{MONTH} - interval '70 days'"),
            "bigint": ("bigint", "b", f"extract(epoch FROM {MONTH} - interval '70 days')::bigint * 1000"),
        }
        for type_name, table, value in tables.values():
            self.sql(f"CREATE TABLE {table} (at {type_name} NOT NULL) PARTITION BY RANGE (at)")
            self.sql(f"CREATE TABLE {table}_rest PARTITION OF {table} DEFAULT")
            self.sql(f"INSERT INTO {table} SELECT {value}")
            self.manage(table, **({"epoch": "milliseconds"} if table == "b" else {}))
            self.sql("SELECT * FROM perf.partition_tick($1)", (table,))
            self.mends("rows_in_default", table)
            self.assertEqual(self.value(f"SELECT count(*) FROM {table}_rest"), 0, type_name)
        self.sql("CREATE TABLE u (at uuid NOT NULL) PARTITION BY RANGE (at)")
        self.sql("CREATE TABLE u_rest PARTITION OF u DEFAULT")
        self.sql("INSERT INTO u VALUES ('017f22e2-79b0-7cc3-98c4-dc0c0c07398f')")
        self.manage("u")
        self.mends("rows_in_default", "u")
        self.assertEqual(self.value("SELECT count(*) FROM u_rest"), 0)

    def test_partitions_that_follow_no_rule(self) -> None:
        self.sql(MONTHS)
        for name, lower, upper in (("a", "2020-01-01", "2020-01-08"), ("b", "2020-02-01", "2020-03-01"), ("c", "2020-03-01", "2020-03-02")):
            self.sql(f"CREATE TABLE {name} PARTITION OF events FOR VALUES FROM ('{lower}') TO ('{upper}')")
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql("INSERT INTO events SELECT g, now() FROM generate_series(1, 3) g")
        rows = {row["problem"]: row for row in self.check()}
        self.assertEqual(set(rows), {"no_partition_for_now", "gap", "rows_in_default"})
        self.assertIn("3 rows in public.rest", rows["rows_in_default"]["detail"])
        self.mends("gap")

    def test_gaps_that_are_too_wide(self) -> None:
        self.sql("CREATE TABLE ticks (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
        self.sql("CREATE TABLE old PARTITION OF ticks FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')")
        self.manage("ticks", every="1 hour", premake=1)
        self.sql("SELECT * FROM perf.partition_tick('ticks')")
        rows = self.check("ticks")
        self.assertEqual([row["problem"] for row in rows], ["gap"])
        self.assertIn("more than are made at once", rows[0]["detail"])
        self.mends("gap", "ticks")
        self.assertEqual(self.check(), [])

    def test_too_many_partitions(self) -> None:
        self.sql("CREATE TABLE many (at date NOT NULL) PARTITION BY RANGE (at)")
        self.sql("DO $$ BEGIN FOR n IN 0..2000 LOOP EXECUTE format('CREATE TABLE many_%s PARTITION OF many FOR VALUES"
                 " FROM (%L) TO (%L)', n, current_date - 1990 + n, current_date - 1989 + n); END LOOP; END $$")
        self.assertEqual(self.problems(), ["too_many_partitions"])

    def test_odd_bounds_and_taken_names_are_told(self) -> None:
        self.sql(MONTHS)
        first = self.value(f"SELECT to_char({MONTH} + interval '3 days', 'YYYY-MM-DD')")
        self.sql(f"CREATE TABLE odd PARTITION OF events FOR VALUES FROM ('{first}') TO ('{self.month(1)} 00:00+00')")
        self.manage("events", premake=1)
        taken = self.value(f"SELECT to_char({MONTH} + interval '1 month', '\"events_p\"YYYY_MM')")
        self.sql(f"CREATE TABLE {taken} ()")
        rows = {row["problem"]: row for row in self.check("events")}
        self.assertIsNone(rows["odd_bounds"]["fix_sql"])
        self.assertIn("public.odd", rows["odd_bounds"]["detail"])
        self.assertIn(taken, rows["name_taken"]["detail"])


class Likeness(CheckTest):
    """Partitions that are not like their parent."""

    def setUp(self) -> None:
        super().setUp()
        self.managed(premake=1)
        self.partition = list(self.partitions("events"))[0]
        for role in ("check_reader", "check_owner"):
            self.sql(f"DROP ROLE IF EXISTS {role}")
            self.sql(f"CREATE ROLE {role}")
            self.addCleanup(lambda role=role: self.sql(f"DROP OWNED BY {role}; DROP ROLE {role}"))

    def test_privileges(self) -> None:
        self.sql("GRANT SELECT, INSERT ON events TO check_reader WITH GRANT OPTION")
        self.sql("GRANT UPDATE (note) ON events TO PUBLIC")
        self.sql(f"GRANT DELETE ON {self.partition} TO check_owner")
        self.sql(f"GRANT SELECT (tenant) ON {self.partition} TO check_owner")
        self.mends("privileges_differ")
        self.assertEqual(self.value("SELECT count(DISTINCT relacl::text) FROM pg_class WHERE oid = 'events'::regclass"
                                    " OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)"), 1)
        self.sql("REVOKE GRANT OPTION FOR INSERT ON events FROM check_reader")
        self.mends("privileges_differ")
        self.sql("REVOKE ALL ON events FROM check_reader")
        self.mends("privileges_differ")
        self.assertEqual(self.check(), [])

    def test_owner(self) -> None:
        self.sql("GRANT CREATE ON SCHEMA public TO check_owner")
        self.sql(f"ALTER TABLE {self.partition} OWNER TO check_owner")
        self.mends("owner_differs")
        self.assertEqual(self.check(), [])

    def test_row_security(self) -> None:
        self.sql("ALTER TABLE events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
        self.sql("CREATE POLICY mine ON events FOR SELECT TO check_reader USING (tenant = 1)")
        self.sql("CREATE POLICY all_of_it ON events AS RESTRICTIVE USING (EXISTS (SELECT FROM pg_class c WHERE c.oid::int = events.tenant))"
                 " WITH CHECK (tenant > 0)")
        self.sql(f"CREATE POLICY mine ON {self.partition} FOR SELECT TO check_reader USING (tenant = 2)")
        self.sql(f"CREATE POLICY another ON {self.partition} USING (true)")
        self.mends("row_security_differs")
        self.sql("ALTER TABLE events DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
        self.sql("DROP POLICY mine ON events")
        self.mends("row_security_differs")
        self.assertEqual(self.check(), [])

    def test_replica_identity(self) -> None:
        for identity in ("FULL", "NOTHING", "USING INDEX events_pkey", "DEFAULT"):
            self.sql(f"ALTER TABLE events REPLICA IDENTITY {identity}")
            self.mends("replica_identity_differs")
        self.assertEqual(self.check(), [])

    def test_statistics_targets(self) -> None:
        self.sql("ALTER TABLE events ALTER note SET STATISTICS 500")
        self.sql("ALTER TABLE ONLY events ALTER note SET STATISTICS 400")
        self.sql(f"ALTER TABLE {self.partition} ALTER tenant SET STATISTICS 7")
        self.mends("statistics_differ")
        self.assertEqual(self.check(), [])

    def test_missing_indexes(self) -> None:
        self.sql("CREATE INDEX events_note ON ONLY events (lower(note)) INCLUDE (id) WHERE tenant > 0")
        self.sql(f"CREATE INDEX ready ON {self.partition} (lower(note)) INCLUDE (id) WHERE tenant > 0")
        ran = self.mends("missing_index")
        self.assertIn(f"ALTER INDEX public.events_note ATTACH PARTITION public.ready", ran)
        self.assertTrue(self.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'events_note'::regclass"))
        self.sql("ALTER TABLE ONLY events ADD CONSTRAINT once UNIQUE (tenant, at) DEFERRABLE")
        self.mends("missing_index")
        self.assertTrue(self.value("SELECT bool_and(indisvalid) FROM pg_index"))
        self.assertEqual(self.check(), [])

    def test_missing_indexes_of_partitions_of_partitions(self) -> None:
        lower, upper = self.month(6), self.month(7)
        self.sql(f"CREATE TABLE \"Odd Name\" PARTITION OF events FOR VALUES FROM ('{lower} 00:00+00') TO ('{upper} 00:00+00')"
                 " PARTITION BY LIST (id)")
        self.sql("CREATE TABLE \"Odd Name's part\" PARTITION OF \"Odd Name\" DEFAULT")
        self.mends("gap")
        self.sql("CREATE INDEX \"Odd index\" ON ONLY events (tenant)")
        self.mends("missing_index")
        self.assertTrue(self.value("SELECT bool_and(indisvalid) FROM pg_index"))
        self.assertEqual(self.check(), [])

    def test_invalid_indexes(self) -> None:
        self.sql("CREATE INDEX events_tenant ON events (tenant)")
        self.sql(f"CREATE INDEX own ON {self.partition} (note)")
        self.sql(f"CREATE INDEX own_ccnew ON {self.partition} (note)")
        self.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('own'::regclass, 'own_ccnew'::regclass,"
                 " 'events_tenant'::regclass) OR indexrelid = (SELECT inhrelid FROM pg_inherits"
                 " WHERE inhparent = 'events_tenant'::regclass ORDER BY 1 LIMIT 1)")
        ran = self.mends("invalid_index")
        self.assertIn("DROP INDEX CONCURRENTLY public.own_ccnew", ran)
        self.assertTrue(self.value("SELECT bool_and(indisvalid) FROM pg_index"))
        self.assertEqual(self.check(), [])

    def test_constraints_never_validated(self) -> None:
        self.sql("ALTER TABLE events ADD CONSTRAINT positive CHECK (tenant > 0) NOT VALID")
        self.sql(f"ALTER TABLE {self.partition} ADD CONSTRAINT own CHECK (tenant < 9) NOT VALID")
        self.mends("constraint_not_valid")
        self.assertEqual(self.check(), [])

    def test_an_interrupted_detach(self) -> None:
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as other:
            reader.query("BEGIN")
            reader.query("SELECT count(*) FROM events")
            other.query("SET statement_timeout = '300ms'")
            with self.assertRaises(SqlError):
                other.query(f"ALTER TABLE events DETACH PARTITION {self.partition} CONCURRENTLY")
            reader.query("COMMIT")
        self.assertIn("detach_interrupted", self.problems("events"))
        self.mends("detach_interrupted")
        self.mends("no_partition_for_now")


class Jobs(CheckTest):
    """What keeps a table from being managed."""

    def test_paused_and_failing(self) -> None:
        job_id = self.managed()
        self.sql("SELECT perf.job_pause($1::bigint)", (job_id,))
        self.assertIn("until it is resumed", self.check()[0]["detail"])
        self.mends("job_paused")
        self.sql("INSERT INTO perf.job_state VALUES ($1::bigint, 3) ON CONFLICT (job_id) DO UPDATE SET consecutive_failures = 3", (job_id,))
        self.mends("job_failing")
        self.sql("UPDATE perf.job SET enabled = false WHERE job_id = $1::bigint", (job_id,))
        self.mends("job_switched_off")
        self.assertEqual(self.check(), [])

    def test_owners(self) -> None:
        self.sql("DROP ROLE IF EXISTS check_manager")
        self.sql("CREATE ROLE check_manager LOGIN")
        self.sql(MONTHS)
        self.sql("GRANT ALL ON SCHEMA public TO check_manager")
        self.sql("ALTER TABLE events OWNER TO check_manager")
        self.manage("events", user="check_manager", premake=2, retention="3 months 2 days", on_expire="archive", time_zone="Europe/Berlin")
        self.sql("SELECT * FROM perf.partition_tick('events')", user="check_manager")
        self.assertEqual(self.check(user="check_manager"), [])
        before = self.value("SELECT options FROM perf.jobs WHERE kind = 'partition'")
        self.sql("ALTER TABLE events OWNER TO postgres")
        self.assertEqual(self.check(user="check_manager"), [])
        rows = [row for row in self.check() if row["problem"] == "job_owner_denied"]
        self.assertEqual(len(rows), 1)
        self.mends("owner_differs")
        self.mends("job_owner_denied")
        self.sql("UPDATE perf.job SET owner = '99999' WHERE kind = 'partition'")
        self.mends("job_owner_gone")
        self.assertEqual(self.value("SELECT options FROM perf.jobs WHERE kind = 'partition'"), before)
        self.assertEqual(self.check(), [])
        self.assert_sql_error("42501", self.cluster, "SELECT perf.partition_check('events')", dbname=self.database, user="check_manager")
        self.sql("DROP OWNED BY check_manager; DROP ROLE check_manager")

    def test_a_table_that_is_gone(self) -> None:
        self.managed()
        self.sql("DROP TABLE events")
        row = self.check()[0]
        self.assertEqual(row["problem"], "table_gone")
        self.run_fix(row["fix_sql"])
        self.assertEqual(self.check(), [])

    def test_a_table_of_the_policy(self) -> None:
        self.sql("CREATE TABLE alerts (triggered_at timestamptz NOT NULL) PARTITION BY RANGE (triggered_at)")
        self.mends("not_managed", "alerts")
        self.assertEqual(self.value("SELECT options ->> 'every' FROM perf.jobs WHERE kind = 'partition'"), "quarter")


class Everything(CheckTest):
    """All at once, under names that need quotes."""

    NAME = '"Sp ace"."Ev\'en""ts né, a name as long as a name may be; with what not"'

    def test_all_of_it_is_mended(self) -> None:
        name = self.NAME
        self.sql("DROP ROLE IF EXISTS \"check Röle\"")
        self.sql("CREATE ROLE \"check Röle\"")
        self.addCleanup(lambda: self.sql("DROP OWNED BY \"check Röle\"; DROP ROLE \"check Röle\""))
        self.sql("CREATE SCHEMA \"Sp ace\"")
        self.sql(f"CREATE TABLE {name} (\"I d\" bigint GENERATED ALWAYS AS IDENTITY, \"a;t\" timestamptz NOT NULL, \"te\'nant\" int,"
                 " twice bigint GENERATED ALWAYS AS (\"te\'nant\" * 2) STORED, PRIMARY KEY (\"I d\", \"a;t\")) PARTITION BY RANGE (\"a;t\")")
        self.manage(name, premake=1)
        for part, first, last in (("o'ld", -6, -5), ('n"ow', 0, 1)):
            self.sql(f"CREATE TABLE \"Sp ace\".\"{part.replace(chr(34), chr(34) * 2)}\" PARTITION OF {name}"
                     f" FOR VALUES FROM ('{self.month(first)} 00:00+00') TO ('{self.month(last)} 00:00+00')")
        self.sql(f"CREATE TABLE \"Sp ace\".\"re;st\" PARTITION OF {name} DEFAULT")
        self.sql(f"INSERT INTO {name} (\"a;t\", \"te\'nant\") SELECT {MONTH} + n * interval '20 days', 1 FROM generate_series(-20, 20) n")
        rows = self.sql(f"SELECT \"I d\", \"a;t\", \"te\'nant\", twice FROM {name} ORDER BY 1")
        self.sql(f"GRANT SELECT ON {name} TO \"check Röle\"")
        self.sql(f"GRANT UPDATE (\"te\'nant\") ON {name} TO \"check Röle\"")
        self.sql("GRANT DELETE ON \"Sp ace\".\"o'ld\" TO PUBLIC")
        self.sql("GRANT CREATE ON SCHEMA \"Sp ace\" TO \"check Röle\"")
        self.sql("ALTER TABLE \"Sp ace\".\"o'ld\" OWNER TO \"check Röle\"")
        self.sql(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, REPLICA IDENTITY FULL")
        self.sql(f"CREATE POLICY \"mi ne\" ON {name} TO \"check Röle\" USING (\"te\'nant\" = 1)")
        self.sql(f"ALTER TABLE ONLY {name} ALTER \"te\'nant\" SET STATISTICS 77")
        self.sql(f"ALTER TABLE {name} ADD CONSTRAINT \"posi tive\" CHECK (\"te\'nant\" > 0) NOT VALID")
        self.sql(f"CREATE INDEX \"in dex\" ON ONLY {name} (\"te\'nant\", twice)")
        self.sql(f"CREATE UNIQUE INDEX \"uni que\" ON ONLY {name} (\"a;t\", \"I d\")")
        self.sql("SELECT perf.job_pause(job_id) FROM perf.jobs WHERE kind = 'partition'")
        found = set(self.problems())
        self.assertLessEqual({"job_paused", "gap", "too_few_ahead", "rows_in_default", "privileges_differ", "owner_differs",
                              "row_security_differs", "replica_identity_differs", "statistics_differ", "constraint_not_valid",
                              "missing_index"}, found)
        for _ in range(5):
            fixes = [row["fix_sql"] for row in self.check() if row["fix_sql"]]
            if not fixes:
                break
            for fix in dict.fromkeys(fixes):
                try:
                    self.run_fix(fix)
                except SqlError as problem:
                    # What one fix has made, another need not make.
                    self.assertIn(problem.sqlstate, ("42P07", "42P17"), fix)
        self.assertEqual(self.check(), [])
        self.assertEqual(self.sql(f"SELECT \"I d\", \"a;t\", \"te\'nant\", twice FROM {name} ORDER BY 1"), rows)
        self.assertEqual(self.value("SELECT count(*) FROM \"Sp ace\".\"re;st\""), 0)


class Manners(CheckTest):
    """It waits for nobody, and is quick."""

    def test_locked_tables_are_not_waited_for(self) -> None:
        self.managed()
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql("ALTER TABLE events ENABLE ROW LEVEL SECURITY")
        self.sql("CREATE POLICY mine ON events USING (tenant = 1)")
        self.sql("CREATE TABLE other (at date) PARTITION BY RANGE (at)")
        self.sql("CREATE TABLE other_1 PARTITION OF other FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')")
        with self.cluster.connect(self.database) as holder:
            holder.query("BEGIN")
            holder.query("LOCK TABLE events, rest IN ACCESS EXCLUSIVE MODE")
            started = time.monotonic()
            rows = self.check()
            self.assertLess(time.monotonic() - started, 2)
            found = [row["problem"] for row in rows if row["parent"] == "public.events"]
            self.assertIn("default_not_checked", found)
            self.assertIn("no_partition_for_now", [row["problem"] for row in rows if row["parent"] == "public.other"])
            holder.query("ROLLBACK")
        self.assertNotIn("default_not_checked", self.problems())

    def test_a_cancel_is_obeyed(self) -> None:
        self.managed()
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as session:
            holder.query("BEGIN")
            holder.query("LOCK TABLE rest IN ACCESS EXCLUSIVE MODE")
            # Shorter than the wait for the lock.
            session.query("SET statement_timeout = '15ms'")
            with self.assertRaises(SqlError) as caught:
                session.query("SELECT * FROM perf.partition_check()")
            self.assertEqual(caught.exception.sqlstate, "57014")
            holder.query("ROLLBACK")

    def test_it_changes_nothing(self) -> None:
        self.managed()
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN READ ONLY")
            session.query("SELECT * FROM perf.partition_check()")
            self.assertIsNone(session.execute("SELECT txid_current_if_assigned()").scalar())
            session.query("COMMIT")
            self.assertEqual(session.execute("SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"
                                             " AND relation >= 16384").scalar(), 0)

    def test_a_search_path_of_anybodys_is_harmless(self) -> None:
        self.managed()
        self.sql("GRANT SELECT ON events TO PUBLIC")
        expected = self.check()
        self.sql("CREATE SCHEMA trap; CREATE TABLE trap.pg_inherits (a int); CREATE TABLE trap.pg_class (a int);"
                 "CREATE FUNCTION trap.format(text, VARIADIC text[]) RETURNS text LANGUAGE sql AS 'SELECT 1/0::text'"
                 .replace("1/0::text", "''trapped''"))
        with self.cluster.connect(self.database) as session:
            session.query("SET search_path = trap, pg_catalog, public")
            self.assertEqual(session.execute("SELECT * FROM perf.partition_check()").dicts(), expected)

    def test_a_thousand_partitions_take_less_than_a_second(self) -> None:
        self.sql("CREATE TABLE many (id bigint, at date NOT NULL, note text) PARTITION BY RANGE (at)")
        self.sql("CREATE INDEX ON many (id)")
        self.sql("CREATE ROLE check_many")
        self.addCleanup(lambda: self.sql("DROP OWNED BY check_many; DROP ROLE check_many"))
        for batch in range(10):
            self.sql("DO $$ BEGIN FOR n IN %d..%d LOOP EXECUTE format('CREATE TABLE many_%%s PARTITION OF many FOR VALUES FROM (%%L)"
                     " TO (%%L)', n, current_date - 990 + n, current_date - 989 + n); END LOOP; END $$"
                     % (batch * 100, batch * 100 + 99))
        self.manage("many", every="day")
        self.sql("SELECT perf.partition_check()")
        started = time.monotonic()
        self.assertEqual(self.check(), [])
        clean = time.monotonic() - started
        self.sql("GRANT SELECT ON many TO check_many")
        started = time.monotonic()
        self.assertEqual(self.problems(), ["privileges_differ"] * 1000)
        self.assertLess(clean, 1)
        self.assertLess(time.monotonic() - started, 1)

    def test_tables_that_come_and_go(self) -> None:
        self.managed(premake=1)
        self.sql("ALTER TABLE events ENABLE ROW LEVEL SECURITY")
        self.sql("CREATE POLICY mine ON events USING (tenant = 1)")
        self.sql("CREATE INDEX events_tenant ON ONLY events (tenant)")
        stop = threading.Event()
        lower, upper = self.month(8), self.month(9)

        def change() -> None:
            with self.cluster.connect(self.database) as session:
                while not stop.is_set():
                    session.query(f"CREATE TABLE passing PARTITION OF events FOR VALUES FROM ('{lower} 00:00+00') TO ('{upper} 00:00+00')")
                    session.query("CREATE POLICY own ON passing USING (tenant = 2)")
                    session.query("CREATE INDEX ON passing (note)")
                    session.query("DROP TABLE passing")

        changer = threading.Thread(target=change)
        changer.start()
        try:
            looks = 0
            ends = time.monotonic() + 3
            while time.monotonic() < ends:
                for row in self.check():
                    self.assertNotIn("XX000", row["detail"])
                    self.assertNotRegex(row["fix_sql"] or "", r"INDEX CONCURRENTLY \S+ ON \S+(;|$)")
                looks += 1
        finally:
            stop.set()
            changer.join()
        self.assertGreater(looks, 20)

    def test_only_owners_are_told(self) -> None:
        self.sql("DROP ROLE IF EXISTS check_one, check_two")
        self.sql("CREATE ROLE check_one LOGIN; CREATE ROLE check_two LOGIN")
        self.sql("GRANT ALL ON SCHEMA public TO check_one, check_two")
        for user in ("check_one", "check_two"):
            self.sql(f"CREATE TABLE of_{user} (at date) PARTITION BY RANGE (at)", user=user)
            self.manage(f"of_{user}", user=user)
        self.assertEqual({row["parent"] for row in self.check(user="check_one")}, {"public.of_check_one"})
        self.assertEqual({row["parent"] for row in self.check()}, {"public.of_check_one", "public.of_check_two"})
        self.sql("GRANT check_two TO check_one")
        self.assertEqual({row["parent"] for row in self.check(user="check_one")}, {"public.of_check_one", "public.of_check_two"})
        for row in self.check(user="check_one"):
            if row["problem"] == "no_partition_for_now" and row["parent"] == "public.of_check_one":
                self.run_fix(row["fix_sql"], user="check_one")
        self.assertEqual({row["parent"] for row in self.check()}, {"public.of_check_two"})
        self.sql("DROP OWNED BY check_one, check_two; DROP ROLE check_one, check_two")

    def test_a_standby(self) -> None:
        primary = self.private_cluster({**SETTINGS, "wal_level": "replica"})
        name = self.fresh_database(primary)
        primary.sql("CREATE TABLE events (at date) PARTITION BY RANGE (at); CREATE TABLE rest PARTITION OF events DEFAULT;"
                    "INSERT INTO events VALUES ('2026-01-01'); SELECT perf.partition_manage('events', 'month')", dbname=name)
        standby = primary.standby()
        primary.wait_for_replay(standby)
        look = "SELECT problem FROM perf.partition_check() ORDER BY 1"
        self.assertEqual(standby.sql(look, dbname=name), primary.sql(look, dbname=name))
        self.assertEqual(len(standby.sql(look, dbname=name)), 3)
        standby.sql("SELECT perf.partition_advice()", dbname=name)
        self.assertEqual(standby.scalar("SELECT status FROM perf.health() WHERE component = 'partitions'", dbname=name), "warning")
        for call in ("perf.partition_tick()", "perf.partition_manage('events', 'month')", "perf.partition_unmanage('events')"):
            self.assert_sql_error("25006", standby, f"SELECT {call}", dbname=name)

    def test_not_preloaded(self) -> None:
        cluster = self.private_cluster({"shared_preload_libraries": "", "perf_opt.max_running_jobs": None})
        name = self.fresh_database(cluster)
        cluster.sql("CREATE TABLE events (at date) PARTITION BY RANGE (at); CREATE TABLE a PARTITION OF events FOR VALUES"
                    " FROM ('2020-01-01') TO ('2020-01-02')", dbname=name)
        self.assertEqual(cluster.sql("SELECT problem FROM perf.partition_check()", dbname=name), [("no_partition_for_now",)])
        self.assertEqual(cluster.scalar("SELECT count(*) FROM perf.health()", dbname=name),
                         cluster.scalar("SELECT count(*) FROM perf.health() WHERE component <> 'partitions'", dbname=name))
        for call in ("perf.partition_advice()", "perf.partition_manage('events', 'day')"):
            self.assert_sql_error("55000", cluster, f"SELECT {call}", dbname=name)

    def test_health(self) -> None:
        health = "SELECT status, detail FROM perf.health() WHERE component = 'partitions'"
        self.assertEqual(self.sql(health), [])
        self.sql(MONTHS)
        job_id = self.manage("events")
        self.assertEqual(self.sql(health), [("warning", "1 tables managed: public.events has no partition for now;"
                                             " see perf.partition_check()")])
        self.sql("SELECT * FROM perf.partition_tick('events')")
        self.assertEqual(self.sql(health), [("ok", "1 tables managed: none needs anybody")])
        self.sql("SELECT perf.job_pause($1::bigint)", (job_id,))
        self.assertIn("does not run", self.sql(health)[0][1])


class Advice(PartitionTest):
    """Tables that would gain, by what was captured."""

    def advice(self, min_size_bytes: Optional[int] = 0, user: str = "postgres") -> dict[str, dict[str, Any]]:
        """Rows by relation."""
        rows = self.cluster.result("SELECT * FROM perf.partition_advice($1::bigint)", (min_size_bytes,),
                                   dbname=self.database, user=user).dicts()
        return {row["relation"]: row for row in rows}

    def table(self, name: str, more: str = "") -> None:
        """A year of rows."""
        self.sql(f"CREATE TABLE {name} (id bigint, at timestamptz NOT NULL, due date, note text{more})")
        self.sql(f"INSERT INTO {name} SELECT g, now() - g * interval '6 minutes', '2020-01-01', repeat('x', 60)"
                 " FROM generate_series(1, 87600) g")
        self.sql(f"ANALYZE {name}")

    def ask(self, query: str, times: int = 5) -> None:
        """Runs it as a client does."""
        with self.cluster.connect(self.database) as session:
            session.query("SET max_parallel_workers_per_gather = 0")
            for _ in range(times):
                session.query(query)

    def test_ranges_of_time(self) -> None:
        for name in ("logs", "by_id", "indexed", "referred"):
            self.table(name, ", UNIQUE (id)" if name == "referred" else "")
        self.sql("CREATE INDEX ON indexed (at)")
        self.sql("CREATE TABLE refers (id bigint REFERENCES referred (id))")
        self.sql("SELECT perf.reset()")
        for name in ("logs", "indexed", "referred"):
            self.ask(f"SELECT count(*) FROM {name} WHERE at >= now() - interval '7 days'")
            self.ask(f"SELECT count(*) FROM {name} WHERE at >= now() - interval '20 days' AND at < now() - interval '9 days'")
        self.ask("SELECT count(*) FROM by_id WHERE note LIKE '%y%'")
        found = self.advice()
        self.assertEqual(set(found), {"public.logs", "public.referred"})
        logs = found["public.logs"]
        self.assertEqual((logs["control_column"], logs["every"], logs["basis"]), ("at", "month", "what_if"))
        self.assertIn(logs["priority"], ("high", "medium"))
        self.assertEqual(logs["ddl"], "CALL perf.partition_convert('public.logs', 'at', 'month')")
        statements = logs["evidence"]["statements"]
        self.assertEqual([(one["calls"], one["kind"]) for one in statements], [(5, "range"), (5, "range")])
        for one in statements:
            self.assertLess(one["pages_then"], one["pages_now"] / 5)
        asked = sorted(one["rows_asked_pct"] for one in statements)
        self.assertAlmostEqual(asked[0], 100 * 7 / 365, delta=1.5)
        self.assertAlmostEqual(asked[1], 100 * 11 / 365, delta=1.5)
        # What the two statements take together, and no more.
        total = self.value("SELECT sum(total_ms + planning_total_ms) FROM perf.statements()")
        self.assertLessEqual(logs["expected_benefit_pct"], 100 * sum(one["ms"] for one in statements) / total + 5)
        referred = found["public.referred"]
        self.assertEqual((referred["priority"], referred["ddl"]), ("low", None))
        self.assertIn("foreign key refers_id_fkey of public.refers refers to it", referred["reason"])
        # What is updated would move from partition to partition.
        self.ask("UPDATE logs SET at = now() WHERE id = 7", 1)
        self.assertIn("statements change at, which would move rows", self.advice()["public.logs"]["reason"])
        # Smaller than the server's memory for pages.
        self.assertEqual(self.advice(None), {})
        self.sql("UPDATE perf.partition_policy SET every = 'week' WHERE table_name = 'alerts'")
        self.sql("UPDATE perf.partition_policy SET control_column = 'at' WHERE table_name = 'alerts'")
        self.sql("DROP TABLE logs")
        self.table("alerts")
        self.ask("SELECT count(*) FROM alerts WHERE at >= now() - interval '7 days'", 10)
        self.assertEqual(self.advice()["public.alerts"]["every"], "week")

    def test_what_is_said_comes_true(self) -> None:
        self.table("logs")
        self.sql("SELECT perf.reset()")
        # The number of calls tells them apart.
        asked = {2: "max(note)", 30: "min(note)", 100: "count(note)"}
        for days, what in asked.items():
            self.ask(f"SELECT {what} FROM logs WHERE at >= now() - interval '{days} days'", days)
        logs = self.advice()["public.logs"]
        length = {"week": 7, "month": 30.4, "quarter": 91.3}[logs["every"]]
        self.sql("CREATE TABLE parted (LIKE logs) PARTITION BY RANGE (at)")
        self.sql("DO $$ DECLARE start timestamptz := date_trunc('%s', now() - interval '1 year', 'UTC'); step interval := '%s'; BEGIN"
                 " FOR n IN 0..60 LOOP EXECUTE format('CREATE TABLE parted_%%s PARTITION OF parted FOR VALUES FROM (%%L) TO (%%L)', n,"
                 " start + n * step, start + (n + 1) * step); END LOOP; END $$"
                 % (logs["every"], {"week": "7 days", "month": "1 month", "quarter": "3 months"}[logs["every"]]))
        self.sql("INSERT INTO parted SELECT * FROM logs")
        self.sql("ANALYZE parted")
        for one in logs["evidence"]["statements"]:
            days = int(one["calls"])
            query = f"SELECT {asked[days]} FROM parted WHERE at >= now() - interval '{days} days'"
            with self.cluster.connect(self.database) as session:
                session.query("SET max_parallel_workers_per_gather = 0")
                plan = session.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON, TIMING OFF) {query}").scalar()
            plan = plan if isinstance(plan, list) else json.loads(plan)
            pages = plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
            self.assertAlmostEqual(one["pages_then"] / one["pages_now"], pages / one["pages_now"], delta=length / 2 / 365 + 0.02, msg=query)

    def test_deletes_by_age(self) -> None:
        for name in ("logs", "picky"):
            self.table(name)
        self.sql("SELECT perf.reset()")
        self.ask("DELETE FROM logs WHERE at < now() - interval '300 days'", 1)
        self.ask("DELETE FROM picky WHERE at < now() - interval '10 days' AND note = 'y'", 1)
        logs = self.advice()["public.logs"]
        self.assertEqual(logs["basis"], "measured")
        self.assertIn("1 delete by its age", logs["reason"])
        kinds = [one["kind"] for one in logs["evidence"]["statements"]]
        self.assertEqual(kinds, ["delete_by_age"])
        for row in self.advice().values():
            if row["relation"] != "public.logs":
                self.assertNotIn("delete_by_age", [one["kind"] for one in row["evidence"]["statements"]])

    def test_bad_input(self) -> None:
        self.assert_sql_error("22023", self.cluster, "SELECT perf.partition_advice(-1)", dbname=self.database)

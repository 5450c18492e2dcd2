"""A table's owner gets no more rights by what somebody else does for the table: a superuser's jobs and questions run the code
of its indexes, constraints and operators as the owner, if at all."""

from __future__ import annotations

import itertools
from typing import Any

from .cluster import SqlError
from .system import make_private_dir, remove_dir
from .test_partitions import PartitionTest

# What the functions of the owner see of whoever runs them. IMMUTABLE, so that it is run when an expression is simplified.
OWNER = """
CREATE ROLE {role} LOGIN;
GRANT CREATE ON DATABASE "{database}" TO {role};
CREATE SCHEMA AUTHORIZATION {role};
SET ROLE {role};
SET search_path = {role};
CREATE TABLE seen (who text, what text);
CREATE FUNCTION note(what text) RETURNS int LANGUAGE plpgsql
    AS $$ BEGIN INSERT INTO {role}.seen VALUES (current_user, what); RETURN 1; END $$;
CREATE FUNCTION code(what text) RETURNS int LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN RETURN {role}.note(what); END $$;
CREATE TABLE e (id bigint, at timestamptz NOT NULL, note text) PARTITION BY RANGE (at);
CREATE TABLE e_1 PARTITION OF e FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
CREATE TABLE e_2 PARTITION OF e FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
CREATE TABLE e_3 PARTITION OF e FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-06-01 00:00+00');
INSERT INTO e SELECT g, timestamptz '2026-01-01 00:00+00' + g * interval '1 hour', 'n ' || g FROM generate_series(0, 1000) g;
"""
NUMBERS = itertools.count(1)


class RightsTest(PartitionTest):
    """What these tests share: a role that owns a parent `e`, and code that notes who runs it."""

    def setUp(self) -> None:
        super().setUp()
        self.role = f"alice_{self.database}_{next(NUMBERS)}"
        self.script(OWNER.format(role=self.role, database=self.database))
        self.e = f"{self.role}.e"

    def script(self, text: str) -> None:
        """Statements of a superuser's."""
        with self.cluster.connect(self.database) as session:
            session.query(text)

    def owner(self, text: str) -> None:
        """Statements of the owner's, after which nothing has been seen yet."""
        with self.cluster.connect(self.database) as session:
            session.query(f"SET ROLE {self.role}; SET search_path = {self.role}; {text.replace('ALICE', self.role)}")
            session.query(f"TRUNCATE {self.role}.seen")

    def call(self, statement: str) -> None:
        """A procedure that has transactions of its own, called by a superuser."""
        with self.cluster.connect(self.database) as session:
            session.query(statement.replace("ALICE", self.role))

    def who(self) -> set[str]:
        """Who has run the owner's code."""
        return {row[0] for row in self.sql(f"SELECT DISTINCT who FROM {self.role}.seen")}

    def assert_only_the_owner(self, ran: bool = True) -> None:
        """Nobody but the owner has run the owner's code. `ran`: and the owner has."""
        seen = self.sql(f"SELECT who, what, count(*) FROM {self.role}.seen GROUP BY 1, 2 ORDER BY 1, 2")
        self.assertEqual([row for row in seen if row[0] != self.role], [])
        self.assertTrue(seen or not ran, "the code has not run at all")

    def done(self, steps: list[dict[str, Any]]) -> list[tuple]:
        """Step and status of each step."""
        return [(step["step"], step["status"]) for step in steps]


class Settings(RightsTest):
    """Settings that the owner's code leaves."""

    def test_search_path_ends_with_the_owners_code(self) -> None:
        # In the swap back, catalogs are read after the rows have moved.
        self.owner("CREATE TABLE p (id bigint, at timestamptz NOT NULL); INSERT INTO p SELECT g, now() FROM generate_series(1, 10) g")
        self.call("CALL perf.partition_convert('ALICE.p', 'at', 'day')")
        self.owner("""
            INSERT INTO p SELECT g, now() + interval '3 days' FROM generate_series(1, 5) g;
            CREATE FUNCTION leave(bigint) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                IF current_setting('application_name') LIKE 'perf_opt job%' THEN
                    PERFORM pg_catalog.set_config('search_path', 'ALICE, pg_catalog', false), ALICE.note('constraint');
                END IF;
                RETURN true;
            END $$;
            ALTER TABLE p ADD CHECK (ALICE.leave(id));
            CREATE FUNCTION same(oid, oid) RETURNS bool LANGUAGE plpgsql
                AS $$ BEGIN PERFORM ALICE.note('operator'); RETURN pg_catalog.oideq($1, $2); END $$;
            CREATE OPERATOR ALICE.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = ALICE.same)""")
        self.call("CALL perf.partition_convert_undo('ALICE.p')")
        self.assert_only_the_owner()
        self.assertEqual(self.value(f"SELECT count(*) FROM {self.role}.p"), 15)


class TakenOver(RightsTest):
    """A job that changes hands."""

    def test_runs_of_the_former_owner_do_not_take_new_options(self) -> None:
        self.sql("CREATE SCHEMA app")
        job_id = self.manage(self.e, premake=1, retention="1 month", on_expire="detach")
        with self.cluster.connect(self.database) as session:
            session.query(f"BEGIN; LOCK TABLE {self.e} IN SHARE UPDATE EXCLUSIVE MODE")
            self.assertIn("failed", {step["status"] for step in self.tick(self.e)})
            # The superuser's run waits to be tried again.
            self.assertEqual([(run["status"], run["owner"]) for run in self.runs(job_id)], [("queued", "postgres")])
            session.query("ROLLBACK")
        self.owner("ALTER TABLE e_1 RENAME TO users")
        self.assertEqual(self.manage(self.e, premake=1, retention="1 month", on_expire="archive", archive_schema="app",
                                     user=self.role), job_id)
        run = self.runs(job_id)[0]
        self.assertEqual((run["status"], run["message"]), ("cancelled", "the job has another owner now"))
        # What is queued from now on has the new owner's rights.
        self.assertEqual([step for step in self.done(self.tick(self.e, user=self.role)) if step[0] == "archive"],
                         [("archive", "failed")])
        self.assertEqual(self.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace"), 0)

    def test_a_run_that_is_under_way_when_its_job_changes_hands_is_not_tried_again(self) -> None:
        job_id = self.manage(self.e, premake=1)
        with self.cluster.connect(self.database) as session, self.cluster.connect(self.database) as waiting:
            session.query(f"BEGIN; LOCK TABLE {self.e} IN SHARE UPDATE EXCLUSIVE MODE")
            waiting.send_async(f"SELECT * FROM perf.partition_tick('{self.e}', '2026-06-10 12:00+00')")
            self.wait_until(lambda: [run["status"] for run in self.runs(job_id)] == ["running"], 10, "the run")
            self.manage(self.e, premake=2, user=self.role)
            waiting.wait(30)
            session.query("ROLLBACK")
        run = self.runs(job_id)[0]
        self.assertEqual((run["status"], run["owner"], run["attempt"]), ("failed", "postgres", 1))

    def test_schemas_of_the_server_are_refused(self) -> None:
        for schema in ("pg_catalog", "information_schema", "perf", "pg_toast", "pg_temp_1"):
            with self.subTest(schema=schema), self.assertRaisesRegex(SqlError, "archive_schema"):
                self.manage(self.e, premake=1, retention="1 month", on_expire="archive", archive_schema=schema)


class Questions(RightsTest):
    """What a superuser only asks."""

    def test_partition_check(self) -> None:
        self.owner("""CREATE TABLE e_d PARTITION OF e DEFAULT; INSERT INTO e VALUES (1, '2030-01-01', 'x');
                      CREATE INDEX ON e_d ((ALICE.code('index')))""")
        problems = {row[0] for row in self.sql("SELECT problem FROM perf.partition_check() WHERE parent LIKE '%.e'")}
        self.assertIn("rows_in_default", problems)
        self.assert_only_the_owner()

    def test_partition_check_under_forced_policies(self) -> None:
        self.owner("""CREATE TABLE e_d PARTITION OF e DEFAULT; INSERT INTO e VALUES (1, '2030-01-01', 'x');
                      ALTER TABLE e_d ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;""")
        for user in ("postgres", self.role):
            with self.subTest(user=user):
                problems = {row[0] for row in self.sql("SELECT problem FROM perf.partition_check() WHERE parent LIKE '%.e'",
                                                       user=user)}
                self.assertIn("rows_in_default", problems)
                self.assertNotIn("default_not_checked", problems)

    def test_partition_convert_plan(self) -> None:
        self.owner(PLAIN)
        rows = self.sql(f"SELECT blocker FROM perf.partition_convert_plan('{self.role}.p', 'at', 'month')")
        self.assertEqual({row[0] for row in rows}, {None})
        self.assert_only_the_owner()


PLAIN = """CREATE TABLE p (id bigint, at timestamptz, CHECK (ALICE.code('check') = 1));
           INSERT INTO p SELECT g, now() - interval '1 day' FROM generate_series(1, 10) g;
           CREATE INDEX ON p ((ALICE.code('index')))"""


class Conversion(RightsTest):
    """A table of somebody else's, converted by a superuser."""

    def test_there_and_back(self) -> None:
        self.owner(PLAIN)
        self.call("CALL perf.partition_convert('ALICE.p', 'at', 'day')")
        self.assert_only_the_owner()
        self.owner("INSERT INTO p SELECT g, now() + interval '3 days' FROM generate_series(1, 5) g;")
        self.call("CALL perf.partition_convert_undo('ALICE.p')")
        self.assert_only_the_owner()
        self.assertEqual(self.value(f"SELECT count(*) FROM {self.role}.p"), 15)

    def test_rows_under_forced_policies_come_back(self) -> None:
        self.owner("CREATE TABLE p (id bigint, at timestamptz NOT NULL)")
        self.call("CALL perf.partition_convert('ALICE.p', 'at', 'day')")
        self.owner("""INSERT INTO p SELECT g, now() + interval '3 days' FROM generate_series(1, 5) g;
                      DO $$ DECLARE one text; BEGIN
                          FOR one IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'p'::regclass LOOP
                              EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', one);
                          END LOOP; END $$""")
        self.call("CALL perf.partition_convert_undo('ALICE.p')")
        self.assertEqual(self.value(f"SELECT count(*) FROM {self.role}.p"), 5)


class Expiring(RightsTest):
    """Partitions that a superuser's job lets go of."""

    def expire(self, **options: Any) -> list[tuple]:
        """Step and status of what became of the first partition."""
        self.manage(self.e, premake=1, retention="1 month", **options)
        self.last = self.tick(self.e)
        return self.done([step for step in self.last if step["relation"].endswith(".e_1")])

    def bounds_left(self) -> int:
        """CHECKs with the former bounds, which CONCURRENTLY leaves."""
        return self.value(f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{self.role}.e_1'::regclass AND contype = 'c'"
                          " AND pg_get_constraintdef(oid) LIKE '%at >=%'")

    def test_constraint(self) -> None:
        self.owner("ALTER TABLE e_1 ADD CHECK (ALICE.code('check') = 1)")
        self.assertEqual(self.expire(on_expire="detach"), [("detach", "done")])
        self.assert_only_the_owner(ran=False)
        self.assertEqual(self.bounds_left(), 0)

    def test_foreign_key(self) -> None:
        self.owner("""ALTER TABLE e ADD PRIMARY KEY (id, at);
                      CREATE TABLE f (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES e);
                      CREATE INDEX ON f ((ALICE.code('index')))""")
        self.assertEqual(self.expire(on_expire="detach"), [("detach", "done")])
        self.assert_only_the_owner()

    def test_foreign_key_beside_a_default_partition(self) -> None:
        self.owner("""ALTER TABLE e ADD PRIMARY KEY (id, at); CREATE TABLE e_d PARTITION OF e DEFAULT;
                      CREATE TABLE f (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES e);
                      CREATE INDEX ON f ((ALICE.code('index')))""")
        self.assertEqual(self.expire(on_expire="drop"), [("detach", "done"), ("drop", "done")])
        self.assert_only_the_owner()

    def test_what_runs_no_code_goes_beside_readers(self) -> None:
        self.owner("""ALTER TABLE e ADD CHECK (id >= 0), ADD CHECK (length(note) < 100);
                      CREATE INDEX ON e (lower(note)) WHERE id > 5; CREATE INDEX ON e (note)""")
        self.assertEqual(self.expire(on_expire="detach"), [("detach", "done")])
        self.assertEqual(self.bounds_left(), 1)
        self.assertEqual(self.sql("SELECT count(*) FROM pg_locks WHERE relation = $1::regclass", (f"{self.role}.e_1",)), [(0,)])

    def test_to_a_file(self) -> None:
        directory = make_private_dir()
        try:
            self.cluster.sql(f"ALTER SYSTEM SET perf_opt.archive_directory = '{directory}'")
            self.cluster.reload()
            rows = self.value(f"SELECT count(*) FROM {self.role}.e_1")
            self.owner("CREATE INDEX ON e_1 ((ALICE.code('index')))")
            steps = self.expire(on_expire="archive", archive_to="file")
            self.assertEqual(steps, [("detach", "done"), ("archive", "done")], self.last)
            self.assert_only_the_owner(ran=False)
            self.assertEqual(self.value("SELECT rows FROM perf.partition_archive"), rows)
        finally:
            self.cluster.sql("ALTER SYSTEM RESET perf_opt.archive_directory")
            self.cluster.reload()
            remove_dir(directory)

    def test_partitions_of_a_partition_to_one_file(self) -> None:
        directory = make_private_dir()
        try:
            self.cluster.sql(f"ALTER SYSTEM SET perf_opt.archive_directory = '{directory}'")
            self.cluster.reload()
            self.owner("""DROP TABLE e_1;
                CREATE TABLE e_1 PARTITION OF e FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00')
                    PARTITION BY HASH (id);
                CREATE TABLE e_1a PARTITION OF e_1 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                CREATE TABLE e_1b (note text, extra int, at timestamptz NOT NULL, id bigint); ALTER TABLE e_1b DROP extra;
                ALTER TABLE e_1 ATTACH PARTITION e_1b FOR VALUES WITH (MODULUS 2, REMAINDER 1);
                INSERT INTO e SELECT g, '2026-01-03', 'n ' || g FROM generate_series(1, 100) g;
                CREATE INDEX ON e_1b ((ALICE.code('index')))""")
            steps = self.expire(on_expire="archive", archive_to="file")
            self.assertEqual(steps, [("detach", "done"), ("archive", "done")], self.last)
            self.assert_only_the_owner(ran=False)
            file = self.value("SELECT file FROM perf.partition_archive WHERE rows = 100")
            self.script(f"CREATE TABLE public.again (id bigint, at timestamptz, note text);"
                        f"COPY public.again (id, at, note) FROM PROGRAM 'zstd -dc {file}' WITH (FORMAT csv, HEADER match)")
            self.assertEqual(self.sql("SELECT count(*), count(DISTINCT id), bool_and(note = 'n ' || id) FROM public.again"),
                             [(100, 100, True)])
        finally:
            self.cluster.sql("ALTER SYSTEM RESET perf_opt.archive_directory")
            self.cluster.reload()
            remove_dir(directory)


LARGE = "INSERT INTO {0} SELECT 1, '2025-03-05', repeat('x', 7000) FROM generate_series(1, 5000); ANALYZE {0}"


class Rotation(RightsTest):
    """Partitions that a superuser's job makes."""

    def test_operator_of_a_domain(self) -> None:
        # In a schema of the superuser's path, as everybody could make it before PostgreSQL 15.
        self.script(f"GRANT CREATE, USAGE ON SCHEMA public TO {self.role}")
        self.owner("""
            CREATE DOMAIN public.moment AS timestamptz;
            CREATE TABLE d (id int, at public.moment NOT NULL, pad text) PARTITION BY RANGE (at);
            CREATE TABLE d_d PARTITION OF d DEFAULT;
            ALTER TABLE d_d ALTER pad SET STORAGE PLAIN;
            """ + LARGE.format("d") + """;
            CREATE FUNCTION lt(public.moment, public.moment) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                IF NOT EXISTS (SELECT FROM ALICE.seen) THEN PERFORM ALICE.note('operator'); END IF;
                RETURN pg_catalog.timestamptz_lt($1, $2);
            END $$;
            CREATE OPERATOR public.< (LEFTARG = public.moment, RIGHTARG = public.moment, FUNCTION = ALICE.lt)""")
        self.manage(f"{self.role}.d", premake=2)
        self.assertEqual(set(self.done(self.tick(f"{self.role}.d"))), {("create", "done")})
        self.assert_only_the_owner(ran=False)

    def test_forced_policies(self) -> None:
        for number, forced in enumerate(("f", "f_d", "f, f_d")):
            for user in (self.role, "postgres"):
                table = f"f{number}{user[0]}"
                with self.subTest(forced=forced, user=user):
                    force = "".join(
                        f"ALTER TABLE {one.strip().replace('f', table, 1)} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
                        for one in forced.split(","))
                    self.owner(f"""CREATE TABLE {table} (id int, at timestamptz NOT NULL) PARTITION BY RANGE (at);
                                   CREATE TABLE {table}_d PARTITION OF {table} DEFAULT;
                                   INSERT INTO {table} VALUES (1, '2026-03-05'); {force}""")
                    self.manage(f"{self.role}.{table}", premake=1, user=user)
                    steps = self.tick(f"{self.role}.{table}", user=user)
                    self.assertEqual(self.done(steps), [("create", "done")] * 2, steps)
                    self.assertIn("1 rows moved", steps[0]["detail"])
                    self.assertEqual(self.value(f"SELECT count(*) FROM {self.role}.{table}_d"), 0)

    def test_deferred_keys_in_a_transaction_of_the_owner(self) -> None:
        self.owner(DEFERRED)
        self.manage(f"{self.role}.k", premake=1, user=self.role)
        with self.cluster.connect(self.database, user=self.role) as session:
            session.query("BEGIN; CREATE TEMP TABLE written ()")
            steps = session.query(f"SELECT step, status FROM perf.partition_tick('{self.role}.k', '2026-03-10 12:00+00')").rows
            session.query("COMMIT")
        self.assertEqual(steps, [("create", "done")] * 2)

    def test_deferred_keys_in_a_transaction_of_a_superuser(self) -> None:
        self.owner(DEFERRED)
        self.manage(f"{self.role}.k", premake=1)
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN; CREATE TEMP TABLE written ()")
            steps = session.query(f"SELECT step, status FROM perf.partition_tick('{self.role}.k', '2026-03-10 12:00+00')").rows
            self.assertEqual(steps, [("create", "done")] * 2)
            # They are checked at the end of the transaction as before.
            session.query(f"INSERT INTO {self.role}.k VALUES (2, '2026-03-06'); INSERT INTO {self.role}.r VALUES (2); COMMIT")
        self.assertEqual(self.sql(f"SELECT tableoid::regclass::text, count(*) FROM {self.role}.k GROUP BY 1"),
                         [(f"{self.role}.k_p2026_03", 2)])


class Statements(RightsTest):
    """Statements of a role that somebody else looks at."""

    def test_values_in_a_statement_are_its_roles_to_read(self) -> None:
        self.script(f"CREATE ROLE {self.role}_watcher LOGIN; GRANT pg_read_all_stats TO {self.role}_watcher;"
                    f"GRANT USAGE ON SCHEMA {self.role} TO {self.role}_watcher")
        # A sequence tells of what is rolled back.
        self.owner("""CREATE SEQUENCE strangers; GRANT ALL ON SEQUENCE strangers TO PUBLIC;
                      CREATE FUNCTION told() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                          IF current_user <> 'ALICE' THEN PERFORM nextval('ALICE.strangers'); END IF;
                          RETURN true;
                      END $$;
                      CREATE DOMAIN odd AS int CHECK (ALICE.told())""")
        with self.cluster.connect(self.database, user=self.role) as session:
            # The normalised text of the first does not parse, and samples of it are looked at; that of the second is what was
            # sent.
            for _ in range(5):
                session.query(f"SELECT numeric(3, 2) '1.5', '{{1}}'::{self.role}.odd[], count(*) FROM {self.e}")
                session.query(f"EXPLAIN SELECT '{{1}}'::{self.role}.odd[] FROM {self.e}")
        self.sql("SELECT * FROM perf.sharding_advice()", user=f"{self.role}_watcher")
        self.sql("SELECT * FROM perf.sharding_advice()")
        self.assertFalse(self.value(f"SELECT is_called FROM {self.role}.strangers"))


DEFERRED = """CREATE TABLE r (id int PRIMARY KEY); INSERT INTO r VALUES (1);
    CREATE TABLE k (id int REFERENCES r DEFERRABLE INITIALLY DEFERRED, at timestamptz NOT NULL) PARTITION BY RANGE (at);
    CREATE TABLE k_d PARTITION OF k DEFAULT; INSERT INTO k VALUES (1, '2026-03-05')"""

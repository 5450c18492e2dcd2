"""Partitions made ahead, gaps and default partitions, and what a new partition is like."""

from __future__ import annotations

import time
from typing import Any

from .case import expects_crash
from .cluster import Cluster, SqlError
from .jobs_case import JobTest

MONTHS = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL, note text,
                     PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
"""


class PartitionTest(JobTest):
    """What tests of partitions share."""

    def manage(self, parent: str, every: str = "month", user: str = "postgres", **options: Any) -> int:
        """Manages a parent; the number of its job."""
        named = "".join(f", {key} => ${index + 3}" for index, key in enumerate(options))
        return self.value(f"SELECT perf.partition_manage($1::regclass, $2{named})", (parent, every, *options.values()), user=user)

    def tick(self, parent: str, as_of: str = "2026-03-10 12:00+00", user: str = "postgres") -> list[dict[str, Any]]:
        """A look at a parent as if it were then."""
        return self.cluster.result("SELECT * FROM perf.partition_tick($1::regclass, $2::timestamptz)", (parent, as_of),
                                   dbname=self.database, user=user).dicts()

    def partitions(self, parent: str) -> dict[str, str]:
        """Names and bounds."""
        return dict(self.sql(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = $1::regclass ORDER BY 1", (parent,)))


class Rotation(PartitionTest):
    """New partitions."""

    def created(self, steps: list[dict[str, Any]]) -> list[str]:
        """Names without schema of what was made; nothing else may have happened."""
        self.assertEqual({(step["step"], step["status"]) for step in steps} - {("create", "done")}, set(), steps)
        return [step["relation"].split(".")[-1] for step in steps]

    def test_months_ahead(self) -> None:
        self.sql(MONTHS)
        self.manage("events", premake=2)
        self.assertEqual(self.created(self.tick("events")), ["events_p2026_03", "events_p2026_04", "events_p2026_05"])
        self.assertEqual(self.partitions("events")["events_p2026_04"],
                         "FOR VALUES FROM ('2026-04-01 00:00:00+00') TO ('2026-05-01 00:00:00+00')")
        self.assertEqual(self.tick("events"), [])
        # By the clock, not by the data.
        self.sql("INSERT INTO events (at) VALUES ('2026-05-31')")
        self.assertEqual(self.tick("events"), [])
        self.assertEqual(self.created(self.tick("events", "2026-04-01 00:00+00")), ["events_p2026_06"])

    def test_the_schedule_makes_them_without_a_tick(self) -> None:
        self.sql(MONTHS)
        job_id = self.manage("events", premake=1)
        run = self.run_now(job_id)
        self.assertEqual((run["status"], run["detail"]["done"]), ("succeeded", 2))
        self.assertEqual(self.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass"), 2)
        self.assertEqual(self.run_now(job_id)["status"], "skipped")
        self.sql("INSERT INTO events (at) VALUES (now())")

    def test_every_key_and_width(self) -> None:
        for number, (key, every, names, bound) in enumerate([
            ("date", "quarter", ["p2026_q1", "p2026_q2"], "FROM ('2026-01-01') TO ('2026-04-01')"),
            ("timestamp", "day", ["p2026_03_10", "p2026_03_11"], "FROM ('2026-03-10 00:00:00') TO ('2026-03-11 00:00:00')"),
            ("timestamptz", "6 hours", ["p2026_03_10_1200", "p2026_03_10_1800"],
             "FROM ('2026-03-10 12:00:00+00') TO ('2026-03-10 18:00:00+00')"),
            ("timestamptz", "week", ["p2026_w11", "p2026_w12"],
             "FROM ('2026-03-09 00:00:00+00') TO ('2026-03-16 00:00:00+00')"),
            ("uuid", "year", ["p2026", "p2027"],
             "FROM ('019b76da-a800-0000-0000-000000000000') TO ('019ec99e-7000-0000-0000-000000000000')"),
        ]):
            table = f"t{number}"
            with self.subTest(key=key, every=every):
                self.sql(f"CREATE TABLE {table} (k {key} NOT NULL) PARTITION BY RANGE (k)")
                self.manage(table, every, premake=1)
                self.assertEqual(self.created(self.tick(table)), [f"{table}_{name}" for name in names])
                if key != "uuid":
                    self.assertEqual(self.partitions(table)[f"{table}_{names[0]}"], f"FOR VALUES {bound}")

    def test_epochs(self) -> None:
        self.sql("CREATE TABLE beats (ms bigint NOT NULL) PARTITION BY RANGE (ms)")
        with self.assertRaises(SqlError) as refused:
            self.manage("beats")
        self.assertEqual(refused.exception.sqlstate, "22023")
        self.assertIn("epoch", str(refused.exception))
        self.manage("beats", epoch="milliseconds", premake=1)
        self.created(self.tick("beats"))
        self.assertEqual(self.partitions("beats")["beats_p2026_03"],
                         "FOR VALUES FROM ('1772323200000') TO ('1775001600000')")
        # From now on the partitions tell.
        self.manage("beats", premake=2)
        self.assertEqual(self.created(self.tick("beats")), ["beats_p2026_05"])

    def test_numbers_and_uuids_that_tell_no_time_never_expire(self) -> None:
        self.sql("CREATE TABLE orders (id bigint) PARTITION BY RANGE (id)")
        self.sql("CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (1000000000)")
        with self.assertRaises(SqlError) as refused:
            self.manage("orders", retention="1 month", on_expire="drop")
        self.assertEqual(refused.exception.sqlstate, "22023")
        self.assertIn('"epoch"', str(refused.exception))
        self.sql("CREATE TABLE docs (id uuid) PARTITION BY RANGE (id)")
        self.sql("CREATE TABLE docs_1 PARTITION OF docs FOR VALUES FROM (MINVALUE) TO ('01000000-0000-0000-0000-000000000000')")
        self.sql("INSERT INTO docs VALUES ('00a0cea4-9d5c-4b3a-8f1e-1c2d3e4f5a6b')")
        self.manage("docs", premake=1, retention="1 month", on_expire="drop")
        self.tick("docs")
        self.assertEqual(self.value("SELECT count(*) FROM docs_1"), 1)

    def test_bounds_are_cut_in_the_stored_zone(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE TABLE days (on_day date NOT NULL) PARTITION BY RANGE (on_day)")
        self.manage("events", premake=1, time_zone="Europe/Berlin")
        self.manage("days", "day", premake=1, time_zone="Pacific/Auckland")
        with self.cluster.connect(self.database) as session:
            session.query("SET TimeZone = 'America/New_York'")
            session.query("SELECT * FROM perf.partition_tick('events', '2026-03-10 12:00+00')")
            session.query("SELECT * FROM perf.partition_tick('days', '2026-03-10 12:00+00')")
        # March begins in winter time, April in summer time.
        self.assertEqual(self.partitions("events")["events_p2026_03"],
                         "FOR VALUES FROM ('2026-02-28 23:00:00+00') TO ('2026-03-31 22:00:00+00')")
        self.assertEqual(list(self.partitions("days")), ["days_p2026_03_11", "days_p2026_03_12"])

    def test_what_was_made_by_hand_is_respected(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE TABLE by_hand PARTITION OF events FOR VALUES FROM ('2026-03-15') TO ('2026-04-10')")
        self.sql("CREATE TABLE ancient PARTITION OF events FOR VALUES FROM ('-infinity') TO ('0044-03-15 BC')")
        self.sql("CREATE TABLE far PARTITION OF events FOR VALUES FROM ('9999-01-01') TO (MAXVALUE)")
        self.sql("CREATE VIEW events_p2026_05 AS SELECT 1 AS taken")
        self.manage("events", premake=2)
        self.created(self.tick("events"))
        bounds = {name: bound for name, bound in self.partitions("events").items() if name.startswith("events_")}
        self.assertEqual(bounds, {
            "events_p2026_03_01_0000": "FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-03-15 00:00:00+00')",
            "events_p2026_04_10_0000": "FOR VALUES FROM ('2026-04-10 00:00:00+00') TO ('2026-05-01 00:00:00+00')",
            "events_p2026_05_2": "FOR VALUES FROM ('2026-05-01 00:00:00+00') TO ('2026-06-01 00:00:00+00')"})

    def test_gaps_are_filled(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE TABLE old PARTITION OF events FOR VALUES FROM ('2025-11-01') TO ('2025-12-01')")
        self.manage("events", premake=1)
        self.assertEqual(self.created(self.tick("events")),
                         ["events_p2026_03", "events_p2026_04", "events_p2026_02", "events_p2026_01", "events_p2025_12"])

    def test_long_names_stay_apart(self) -> None:
        stem = "ä" * 31
        for name in (stem, stem[:-1] + "b"):
            self.sql(f'CREATE TABLE "{name}" (at timestamptz NOT NULL) PARTITION BY RANGE (at)')
            self.manage(f'"{name}"', premake=1)
            self.assertEqual(len(self.created(self.tick(f'"{name}"'))), 2)
        names = [row[0] for row in self.sql("SELECT relname FROM pg_class WHERE relispartition AND relnamespace = 'public'::regnamespace")]
        self.assertEqual(len(set(names)), 4)
        self.assertTrue(all(len(name.encode()) <= 63 and name.endswith(("_p2026_03", "_p2026_04")) for name in names), names)

    def test_partitions_of_partitions(self) -> None:
        self.sql("CREATE TABLE sales (at date NOT NULL, region text NOT NULL) PARTITION BY RANGE (at)")
        self.sql("CREATE TABLE sales_p2026_02 PARTITION OF sales FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')"
                 " PARTITION BY LIST (region)")
        self.sql("CREATE TABLE sales_p2026_02_eu PARTITION OF sales_p2026_02 FOR VALUES IN ('de', 'fr') WITH (fillfactor = 80)")
        self.sql("CREATE TABLE sales_p2026_02_rest PARTITION OF sales_p2026_02 DEFAULT")
        self.manage("sales", premake=1)
        self.assertEqual(self.created(self.tick("sales")), ["sales_p2026_03", "sales_p2026_04"])
        self.assertEqual(self.partitions("sales_p2026_04"),
                         {"sales_p2026_04_eu": "FOR VALUES IN ('de', 'fr')", "sales_p2026_04_rest": "DEFAULT"})
        self.sql("INSERT INTO sales VALUES ('2026-04-02', 'fr'), ('2026-04-02', 'us')")
        self.assertEqual(self.value("SELECT count(*) FROM sales_p2026_04_eu"), 1)
        self.assertEqual(self.value("SELECT reloptions::text FROM pg_class WHERE relname = 'sales_p2026_04_eu'"),
                         "{fillfactor=80}")


class Likeness(PartitionTest):
    """A new partition is like its parent and its newest sibling."""

    RICH = """
    CREATE ROLE {d}_owner; CREATE ROLE {d}_reader; CREATE ROLE {d}_writer; CREATE ROLE {d}_default;
    GRANT CREATE ON SCHEMA public TO {d}_owner;
    CREATE TABLE kinds (id int PRIMARY KEY);
    INSERT INTO kinds VALUES (1);
    GRANT REFERENCES ON kinds TO {d}_owner;
    CREATE TABLE log (n int);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO log VALUES (1); RETURN NULL; END';
    CREATE TABLE rich (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz NOT NULL DEFAULT now(), kind int REFERENCES kinds,
        body text COLLATE "C" DEFAULT 'x', doubled int GENERATED ALWAYS AS (kind * 2) STORED, dropped int,
        PRIMARY KEY (id, at), CONSTRAINT sane CHECK (kind > 0)) PARTITION BY RANGE (at);
    ALTER TABLE rich DROP COLUMN dropped;
    CREATE TABLE rich_p2026_02 PARTITION OF rich FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')
        WITH (fillfactor = 70, autovacuum_enabled = false, toast.autovacuum_enabled = false);
    CREATE INDEX rich_body ON rich (body) WHERE kind > 1;
    CREATE UNIQUE INDEX rich_full ON rich (at, id);
    CREATE STATISTICS rich_stats ON kind, body FROM rich;
    ALTER TABLE rich ALTER body SET STATISTICS 500, ALTER body SET STORAGE EXTERNAL;
    ALTER TABLE ONLY rich ALTER kind SET (n_distinct_inherited = 7);
    ALTER TABLE rich REPLICA IDENTITY USING INDEX rich_full;
    ALTER TABLE rich_p2026_02 REPLICA IDENTITY USING INDEX rich_p2026_02_at_id_idx;
    ALTER TABLE rich ENABLE ROW LEVEL SECURITY; ALTER TABLE rich FORCE ROW LEVEL SECURITY;
    CREATE POLICY mine ON rich AS RESTRICTIVE FOR UPDATE TO {d}_reader, {d}_writer USING (kind > 1) WITH CHECK (kind > 2);
    CREATE POLICY all_rows ON rich USING (true);
    CREATE TRIGGER note AFTER INSERT ON rich FOR EACH ROW EXECUTE FUNCTION note();
    CREATE TRIGGER off AFTER DELETE ON rich FOR EACH ROW EXECUTE FUNCTION note();
    ALTER TABLE rich DISABLE TRIGGER off;
    COMMENT ON TABLE rich IS 'it''s rich'; COMMENT ON COLUMN rich.body IS 'text';
    GRANT SELECT, INSERT ON rich TO {d}_reader; GRANT INSERT ON rich TO {d}_writer WITH GRANT OPTION;
    GRANT UPDATE (body) ON rich TO {d}_reader;
    ALTER DEFAULT PRIVILEGES GRANT SELECT, DELETE ON TABLES TO {d}_default;
    CREATE PUBLICATION {d}_one FOR TABLE rich_p2026_02 (id, at) WHERE (id > 0);
    ALTER TABLE rich OWNER TO {d}_owner;
    """

    def test_everything_is_carried_over(self) -> None:
        self.sql(self.RICH.format(d=self.database))
        self.addCleanup(self.drop_roles)
        self.manage("rich", premake=1)
        steps = self.tick("rich")
        self.assertEqual({step["status"] for step in steps}, {"done"}, steps)
        mine = self.look("rich_p2026_03")
        owner, d = f"{self.database}_owner", self.database
        self.assertEqual(mine["owner"], owner)
        self.assertEqual(mine["options"], "{fillfactor=70,autovacuum_enabled=false}")
        self.assertEqual(mine["toast"], "{autovacuum_enabled=false}")
        self.assertEqual(mine["grants"], [f"{d}_reader INSERT f", f"{d}_reader SELECT f", f"{d}_writer INSERT t"])
        self.assertEqual(mine["column_grants"], [f"body {d}_reader UPDATE"])
        self.assertEqual(mine["row_security"], "t t")
        self.assertEqual(mine["policies"], self.look("rich")["policies"])
        self.assertEqual(len(mine["policies"]), 2)
        self.assertEqual(mine["comment"], "it's rich")
        self.assertEqual(mine["body"], "500 e text")
        self.assertEqual(mine["identity_index"], "at, id")
        self.assertEqual(mine["triggers"], ["note O", "off D"])
        self.assertEqual(mine["constraints"], self.look("rich")["constraints"])
        self.assertEqual(mine["statistics"], 1)
        self.assertEqual(mine["publications"], [f"{d}_one {{1,2}} (id > 0)"])
        # All indexes belong to the parent's, none is made twice.
        self.assertEqual(self.value("SELECT count(*) FROM pg_index WHERE indrelid = 'rich_p2026_03'::regclass"), 3)
        self.assertEqual(self.value("SELECT count(*) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indexrelid"
                                    " WHERE i.indrelid = 'rich_p2026_03'::regclass AND i.indisvalid"), 3)
        self.sql("INSERT INTO rich (at, kind) VALUES ('2026-03-05', 1)")
        self.assertEqual(self.sql("SELECT count(*), min(doubled) FROM rich_p2026_03"), [(1, 2)])
        self.assertEqual(self.value("SELECT count(*) FROM log"), 1)
        self.assert_sql_error("23503", self.cluster, "INSERT INTO rich (at, kind) VALUES ('2026-03-05', 5)",
                              dbname=self.database)

    def look(self, table: str) -> dict[str, Any]:
        """What there is to see of a table."""
        return self.cluster.result("""
            SELECT pg_get_userbyid(c.relowner)::text AS owner, c.reloptions::text AS options,
                (SELECT t.reloptions::text FROM pg_class t WHERE t.oid = c.reltoastrelid) AS toast,
                ARRAY(SELECT a.grantee::regrole || ' ' || a.privilege_type || ' ' || left(a.is_grantable::text, 1)
                      FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner ORDER BY 1) AS grants,
                ARRAY(SELECT x.attname || ' ' || a.grantee::regrole || ' ' || a.privilege_type FROM pg_attribute x, aclexplode(x.attacl) a
                      WHERE x.attrelid = c.oid ORDER BY 1) AS column_grants,
                left(c.relrowsecurity::text, 1) || ' ' || left(c.relforcerowsecurity::text, 1) AS row_security,
                ARRAY(SELECT concat_ws(' ', p.policyname, p.permissive, p.roles, p.cmd, p.qual, p.with_check)
                      FROM pg_policies p WHERE p.tablename = c.relname ORDER BY 1) AS policies,
                obj_description(c.oid, 'pg_class') AS comment,
                (SELECT concat_ws(' ', x.attstattarget, x.attstorage, col_description(c.oid, x.attnum)) FROM pg_attribute x
                 WHERE x.attrelid = c.oid AND x.attname = 'body') AS body,
                (SELECT string_agg(a.attname, ', ' ORDER BY u.place) FROM pg_index i,
                        unnest(i.indkey::int2[]) WITH ORDINALITY u (attnum, place), pg_attribute a
                 WHERE i.indrelid = c.oid AND i.indisreplident AND a.attrelid = c.oid AND a.attnum = u.attnum) AS identity_index,
                ARRAY(SELECT t.tgname || ' ' || t.tgenabled::text FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
                      ORDER BY 1) AS triggers,
                ARRAY(SELECT k.contype::text || ' ' || pg_get_constraintdef(k.oid) FROM pg_constraint k WHERE k.conrelid = c.oid
                      AND k.contype <> 'n' ORDER BY 1) AS constraints,
                (SELECT count(*) FROM pg_statistic_ext s WHERE s.stxrelid = c.oid) AS statistics,
                ARRAY(SELECT u.pubname || ' {' || array_to_string(m.prattrs::int2[], ',') || '} ' || pg_get_expr(m.prqual, m.prrelid)
                      FROM pg_publication_rel m JOIN pg_publication u ON u.oid = m.prpubid WHERE m.prrelid = c.oid) AS publications
            FROM pg_class c WHERE c.oid = $1::regclass""", (table,), dbname=self.database).dicts()[0]

    def drop_roles(self) -> None:
        """Roles outlive the database."""
        self.sql(f"DROP PUBLICATION {self.database}_one")
        for role in ("owner", "reader", "writer", "default"):
            self.sql(f"DROP OWNED BY {self.database}_{role} CASCADE; DROP ROLE {self.database}_{role}")

    def test_unlogged_partitions_stay_so(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE UNLOGGED TABLE u PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')")
        self.manage("events", premake=1)
        self.tick("events")
        self.assertEqual(self.value("SELECT relpersistence FROM pg_class WHERE relname = 'events_p2026_03'"), "u")


class DefaultPartitions(PartitionTest):
    """Rows that went to the default partition."""

    def make(self, rows: str) -> None:
        """A table with rows in its default partition."""
        self.sql("CREATE TABLE log (what text)")
        self.sql("CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
                 " $$BEGIN INSERT INTO log VALUES (TG_OP || ' ' || TG_TABLE_NAME); RETURN NULL; END$$")
        self.sql("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY, at timestamptz, note text,"
                 " size int GENERATED ALWAYS AS (length(note)) STORED) PARTITION BY RANGE (at)")
        self.sql("CREATE INDEX ON events (at)")
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql(f"INSERT INTO events (at, note) {rows}")
        self.sql("CREATE TRIGGER note AFTER INSERT OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION note()")
        self.sql("CREATE TRIGGER own AFTER DELETE ON rest FOR EACH ROW EXECUTE FUNCTION note()")
        self.sql("ALTER TABLE rest ENABLE ALWAYS TRIGGER own")

    CHECKSUM = "SELECT md5(string_agg(concat_ws('|', id, at, note, size), ',' ORDER BY id)) FROM events"

    def test_rows_move_to_where_they_belong(self) -> None:
        self.make("SELECT timestamptz '2026-01-20 00:00+00' + n * interval '1 day', 'n' || n FROM generate_series(1, 100) n"
                  " UNION ALL SELECT NULL, 'unknown' UNION ALL SELECT '-infinity', 'ever'")
        before = self.value(self.CHECKSUM)
        self.manage("events", premake=1)
        steps = self.tick("events")
        self.assertEqual([(step["relation"], step["status"]) for step in steps],
                         [("public.events_p2026_03", "done"), ("public.events_p2026_04", "done")])
        self.assertIn("31 rows moved", steps[0]["detail"])
        self.assertEqual(self.value(self.CHECKSUM), before)
        self.assertEqual(self.sql("SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1 ORDER BY 1"),
                         [("events_p2026_03", 31), ("events_p2026_04", 30), ("rest", 41)])
        # Nothing has happened to the rows.
        self.assertEqual(self.sql("SELECT * FROM log"), [])
        self.assertEqual(self.sql("SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal"
                                  " AND tgrelid::regclass::text IN ('rest', 'events_p2026_03') ORDER BY 1, 2"),
                         [("events_p2026_03", "note", "O"), ("rest", "note", "O"), ("rest", "own", "A")])

    def test_too_many_rows_are_left_and_told(self) -> None:
        self.make("SELECT timestamptz '2026-03-01 00:00+00' + n * interval '1 minute', '' FROM generate_series(1, 50) n")
        self.manage("events", premake=1, max_move_rows=49)
        steps = self.tick("events")
        self.assertEqual([(step["relation"], step["step"], step["status"]) for step in steps],
                         [("public.rest", "move_rows", "skipped"), ("public.events_p2026_04", "create", "done")])
        self.assertIn("max_move_rows", steps[0]["detail"])
        self.assertEqual(self.value("SELECT count(*) FROM rest"), 50)
        self.manage("events", premake=1, max_move_rows=50)
        self.assertIn("50 rows moved", self.tick("events")[0]["detail"])

    def test_a_foreign_key_to_the_rows_keeps_them_in_place(self) -> None:
        self.sql("CREATE TABLE events (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at)")
        self.sql("CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql("CREATE TABLE refers (at timestamptz REFERENCES events ON DELETE CASCADE)")
        self.sql("INSERT INTO events VALUES ('2026-03-03'); INSERT INTO refers VALUES ('2026-03-03')")
        self.manage("events", premake=1)
        steps = self.tick("events")
        self.assertEqual([step["status"] for step in steps], ["failed", "done"])
        self.assertIn("refers_at_fkey of public.refers", steps[0]["detail"])
        self.assertEqual(self.value("SELECT count(*) FROM refers"), 1)

    def test_a_large_default_partition_is_not_read_under_its_lock(self) -> None:
        self.make("SELECT timestamptz '2020-01-01', repeat('x', 800) FROM generate_series(1, 40000)")
        self.sql("VACUUM ANALYZE rest")
        self.sql("ALTER DATABASE " + self.database + " SET log_min_messages = debug1")
        self.manage("events", premake=2)
        mark = self.cluster.log_mark()
        steps = self.tick("events")
        self.assertEqual([step["status"] for step in steps], ["done"] * 3)
        told = self.cluster.log_text()[mark:]
        # The one of now is checked row by row: such a row may come at any moment.
        self.assertEqual(told.count('partition constraint for default partition "rest" is implied by existing constraints'), 2)
        self.assertEqual(self.value("SELECT count(*) FROM pg_constraint WHERE conname LIKE 'perf_opt%'"), 0)
        # One that a killed run has left behind is dropped before anything else.
        self.sql("ALTER TABLE rest ADD CONSTRAINT perf_opt_no_row_ahead CHECK (at < '2026-06-01') NOT VALID")
        self.tick("events")
        self.sql("INSERT INTO events (at) VALUES ('2026-07-01')")
        self.assertEqual(self.tick("events", "2026-04-01")[0]["status"], "done")

    def test_keys_to_the_default_partition_alone_or_to_a_table_above(self) -> None:
        self.make("SELECT '2026-03-05'::timestamptz, 'n'")
        self.sql("ALTER TABLE rest ADD CONSTRAINT one UNIQUE (id); CREATE TABLE child (id bigint REFERENCES rest (id) ON DELETE CASCADE);"
                 "INSERT INTO child SELECT id FROM rest")
        self.manage("events", premake=1)
        self.assertIn("child_id_fkey", self.tick("events")[0]["detail"])
        self.assertEqual(self.value("SELECT count(*) FROM child"), 1)
        self.sql("CREATE TABLE top (place text, at timestamptz, PRIMARY KEY (place, at)) PARTITION BY LIST (place);"
                 "CREATE TABLE eu PARTITION OF top FOR VALUES IN ('eu') PARTITION BY RANGE (at);"
                 "CREATE TABLE eu_rest PARTITION OF eu DEFAULT; INSERT INTO top VALUES ('eu', '2026-03-05');"
                 "CREATE TABLE kid (place text, at timestamptz, FOREIGN KEY (place, at) REFERENCES top ON DELETE CASCADE);"
                 "INSERT INTO kid SELECT * FROM top")
        self.manage("eu", premake=1)
        self.assertIn("foreign key", self.tick("eu")[0]["detail"])
        self.assertEqual(self.value("SELECT count(*) FROM kid"), 1)

    def test_a_snapshot_that_would_miss_the_rows_is_waited_for(self) -> None:
        self.make("SELECT '2026-03-05'::timestamptz, 'n'")
        self.manage("events", premake=1)
        month = "SELECT count(*) FROM events WHERE at >= '2026-03-02' AND at < '2026-03-20'"
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
            pid = reader.query("SELECT pg_backend_pid()").scalar()
            steps = self.tick("events")
            self.assertEqual([step["status"] for step in steps], ["failed", "done"] if len(steps) == 2 else ["failed"])
            self.assertIn(f"process {pid}", steps[0]["detail"])
            self.assertEqual(reader.query(month).scalar(), 1)
            reader.query("COMMIT")
        self.assertEqual(self.tick("events")[0]["status"], "done")
        self.assertEqual(self.value(month), 1)

    def test_nothing_is_missed_while_rows_move(self) -> None:
        """Readers and writers at the same time see every row, whatever moment they look at."""
        self.make("SELECT timestamptz '2026-03-01 00:00+00' + n * interval '1 s', '' FROM generate_series(1, 20000) n")
        self.manage("events", premake=1)
        counts: list[int] = []
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as ticker:
            ticker.send_async("SELECT * FROM perf.partition_tick('events', '2026-03-10')")
            moved = False
            while not moved:
                counts.append(reader.query("SELECT count(*) FROM events").scalar())
                moved = reader.query("SELECT to_regclass('events_p2026_03') IS NOT NULL").scalar()
            counts.append(reader.query("SELECT count(*) FROM events").scalar())
            ticker.wait()
        self.assertEqual(set(counts), {20000})


class InTheWay(PartitionTest):
    """Locks, failures, transactions."""

    def test_nobody_waits_for_a_new_partition(self) -> None:
        """A reader that stays for hours and writers are no obstacle, and are not hindered."""
        self.sql(MONTHS)
        self.sql("CREATE TABLE old PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')")
        self.manage("events", premake=3)
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as writer:
            reader.query("BEGIN; SELECT * FROM events")
            writer.query("BEGIN; INSERT INTO events (at) VALUES ('2026-02-02')")
            self.assertEqual([step["status"] for step in self.tick("events")], ["done"] * 4)
            writer.query("INSERT INTO events (at) VALUES ('2026-02-03'); COMMIT")

    def test_a_lock_that_cannot_be_had_is_given_up_and_stops_no_other(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE TABLE others (at date NOT NULL) PARTITION BY RANGE (at)")
        self.manage("events", premake=1)
        self.manage("others", premake=1)
        with self.cluster.connect(self.database) as holder:
            holder.query("BEGIN; LOCK TABLE events IN SHARE MODE")
            pid = holder.query("SELECT pg_backend_pid()").scalar()
            # Who writes meanwhile is behind the holder only, not behind us.
            steps = self.cluster.result("SELECT * FROM perf.partition_tick(NULL, '2026-03-10')", dbname=self.database).dicts()
        failed = [step for step in steps if step["status"] == "failed"]
        self.assertEqual({step["relation"] for step in failed}, {"public.events"})
        self.assertIn(f"process {pid}", failed[0]["detail"])
        self.assertEqual(len([step for step in steps if step["relation"].startswith("public.others_p2026")]), 2)

    def test_a_tick_does_not_wait_for_a_run_that_is_tried_again_later(self) -> None:
        self.sql("CREATE TABLE events (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at); CREATE TABLE rest PARTITION OF events DEFAULT")
        self.sql("CREATE TABLE refers (at timestamptz REFERENCES events); INSERT INTO events VALUES (now())")
        job_id = self.manage("events", premake=1)
        self.sql(f"SELECT perf.job_run_now({job_id})")
        self.wait_until(lambda: [run for run in self.runs(job_id) if run["status"] == "queued" and run["attempt"] > 1], 15,
                        "a run that waits for its third try")
        self.sql("DROP TABLE refers")
        started = time.monotonic()
        steps = self.tick("events", str(self.value("SELECT now()")))
        self.assertEqual([step["status"] for step in steps], ["done"] * len(steps))
        self.assertLess(time.monotonic() - started, 1.9)
        self.assertIn("took its place", self.runs(job_id)[0]["message"])

    def test_a_tick_that_is_cancelled_leaves_its_run_alone(self) -> None:
        self.sql(MONTHS)
        job_id = self.manage("events", premake=1)
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as ticker:
            holder.query("BEGIN; LOCK TABLE events IN SHARE MODE")
            ticker.send_async("SELECT * FROM perf.partition_tick('events')")
            self.wait_until(lambda: [run for run in self.runs(job_id) if run["status"] == "running"], what="the run")
            ticker.cancel()
            with self.assertRaises(SqlError) as cancelled:
                ticker.wait()
            self.assertEqual(cancelled.exception.sqlstate, "57014")
            holder.query("COMMIT")
        self.assertEqual(self.wait_for_runs(job_id, 1)[0]["status"], "succeeded")

    @expects_crash
    def test_killed_while_it_makes_partitions(self) -> None:
        """What had been made stays, what was being made is undone, and the next try makes it."""
        cluster = self.private_cluster()
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("CREATE TABLE kinds (id int PRIMARY KEY); CREATE TABLE events (at timestamptz NOT NULL, kind int REFERENCES kinds)"
                    " PARTITION BY RANGE (at)")
        cluster.sql("SELECT perf.job_pause(perf.partition_manage('events', 'month', premake => 4))")
        with cluster.connect() as holder:
            # A new partition gets the foreign key, for which the other table is locked.
            holder.query("BEGIN; INSERT INTO kinds VALUES (1)")
            cluster.sql("SELECT perf.job_run_now(job_id) FROM perf.jobs")
            waiting = "SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'perf_opt job' AND wait_event_type = 'Lock'"
            worker = self.wait_until(lambda: cluster.scalar(waiting), what="a worker that waits")
            cluster.kill9(worker)
            cluster.wait_for_log("all server processes terminated; reinitializing")
        self.wait_until(lambda: self.ready(cluster), 20, "the server")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass") == 5, 20,
                        "the partitions")
        self.assertEqual(cluster.scalar("SELECT count(*) FROM pg_class WHERE relname LIKE 'events%' AND relkind = 'r'"
                                        " AND NOT relispartition"), 0)

    @staticmethod
    def ready(cluster: Cluster) -> bool:
        """Whether a session can be had."""
        try:
            return cluster.scalar("SELECT true")
        except (SqlError, OSError, ConnectionError):
            return False

    def test_a_standby_makes_none_until_it_is_promoted(self) -> None:
        cluster = self.private_cluster()
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql(MONTHS)
        cluster.sql("SELECT perf.job_pause(perf.partition_manage('events', 'month', premake => 1))")
        standby = cluster.standby()
        cluster.wait_for_replay(standby)
        for call in ("perf.partition_tick()", "perf.partition_manage('events', 'month')"):
            self.assert_sql_error("25006", standby, f"SELECT {call}")
        cluster.stop()
        standby.promote()
        self.assertEqual([row[2] for row in standby.sql("SELECT * FROM perf.partition_tick('events')")], ["done", "done"])

    def test_in_a_transaction_that_has_written(self) -> None:
        with self.cluster.connect(self.database) as session:
            session.query(f"BEGIN; {MONTHS}")
            session.query("SELECT perf.partition_manage('events', 'month', premake => 1)")
            steps = session.query("SELECT * FROM perf.partition_tick('events', '2026-03-10')").dicts()
            self.assertEqual([step["status"] for step in steps], ["done", "done"])
            session.query("INSERT INTO events (at) VALUES ('2026-03-10')")
            session.query("ROLLBACK")
        self.assertEqual(self.sql("SELECT relname FROM pg_class WHERE relname LIKE 'events%'"), [])

    def test_one_that_fails_inside_a_transaction_stops_no_other(self) -> None:
        self.sql("CREATE TABLE bad (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at)")
        self.sql("CREATE TABLE rest PARTITION OF bad DEFAULT; CREATE TABLE refers (at timestamptz REFERENCES bad)")
        self.sql("INSERT INTO bad VALUES ('2026-03-03')")
        self.sql(MONTHS)
        self.manage("bad", premake=1)
        self.manage("events", premake=1)
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN; CREATE TABLE something (n int)")
            steps = session.query("SELECT * FROM perf.partition_tick(NULL, '2026-03-10')").dicts()
            session.query("COMMIT")
        self.assertEqual([(step["relation"], step["status"]) for step in steps],
                         [("public.bad", "failed"), ("public.bad_p2026_04", "done"), ("public.events_p2026_03", "done"),
                          ("public.events_p2026_04", "done")])

    def test_dropped_and_recreated_parents(self) -> None:
        self.sql(MONTHS)
        job_id = self.manage("events", premake=1)
        self.sql("DROP TABLE events")
        self.sql(f"SELECT perf.job_run_now({job_id})")
        runs = self.wait_until(lambda: [run for run in self.runs(job_id) if run["message"]], what="a failed try")
        self.assertIn("no relation has OID", runs[0]["message"])
        self.sql(f"SELECT perf.job_unschedule({job_id})")

    def test_interrupted_detach_is_finalized_at_start_up(self) -> None:
        cluster = self.private_cluster()
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql("CREATE TABLE events (at timestamptz NOT NULL) PARTITION BY RANGE (at)")
        for month in (1, 2):
            cluster.sql(f"CREATE TABLE old_{month} PARTITION OF events FOR VALUES FROM ('2026-0{month}-01') TO ('2026-0{month + 1}-01')")
        cluster.sql("INSERT INTO events VALUES ('2026-01-15')")
        cluster.sql("SELECT perf.partition_manage('events', 'month', premake => 1)")
        self.wait_until(lambda: cluster.scalar("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass") == 2)
        with cluster.connect() as reader, cluster.connect() as detacher:
            reader.query("BEGIN; SELECT * FROM events")
            detacher.send_async("ALTER TABLE events DETACH PARTITION old_1 CONCURRENTLY")
            self.wait_until(lambda: cluster.scalar("SELECT bool_or(inhdetachpending) FROM pg_inherits"), what="the pending detach")
            cluster.stop("immediate")
        cluster.start()
        self.wait_until(lambda: cluster.scalar("SELECT NOT bool_or(inhdetachpending) FROM pg_inherits"), 20,
                        "the detach to be finalized")
        self.assertEqual(cluster.scalar("SELECT count(*) FROM old_1"), 1)
        self.assertNotIn("old_1", [row[0] for row in cluster.sql("SELECT inhrelid::regclass::text FROM pg_inherits")])


class Rights(PartitionTest):
    """Who may do what."""

    def test_only_the_owner_manages(self) -> None:
        self.sql(MONTHS)
        role = f"{self.database}_stranger"
        self.sql(f"CREATE ROLE {role} LOGIN; GRANT ALL ON events TO {role}")
        self.addCleanup(lambda: self.sql(f"DROP OWNED BY {role}; DROP ROLE {role}"))
        with self.assertRaises(SqlError) as refused:
            self.manage("events", user=role)
        self.assertEqual(refused.exception.sqlstate, "42501")
        self.manage("events", premake=1)
        with self.assertRaises(SqlError) as refused:
            self.tick("events", user=role)
        self.assertEqual(refused.exception.sqlstate, "42704")
        # A stranger's tick of everything is a tick of nothing.
        self.assertEqual(self.cluster.sql("SELECT * FROM perf.partition_tick()", dbname=self.database, user=role), [])

    def test_an_owner_without_superuser_rights_manages(self) -> None:
        role = f"{self.database}_owner"
        self.sql(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")
        self.sql(MONTHS)
        self.sql(f"ALTER TABLE events OWNER TO {role}")
        self.addCleanup(lambda: self.sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        job_id = self.manage("events", premake=1, user=role)
        self.assertEqual([step["status"] for step in self.tick("events", user=role)], ["done", "done"])
        self.assertEqual(self.value("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'events_p2026_03'"), role)
        # What the owner loses, the job loses.
        self.sql("ALTER TABLE events OWNER TO postgres")
        self.sql(f"REVOKE CREATE ON SCHEMA public FROM {role}")
        self.sql(f"SELECT perf.job_pause({job_id})")
        steps = self.tick("events", "2026-04-02")
        self.assertEqual([step["status"] for step in steps], ["failed"])
        self.assertEqual(self.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass"), 2)

    def test_a_superuser_lends_nobody_a_superusers_rights(self) -> None:
        """What moved rows are checked by runs as the table's owner, and so does a superuser's tick of another's tables."""
        role = f"{self.database}_owner"
        self.sql(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")
        self.addCleanup(lambda: self.sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        self.cluster.sql("CREATE TABLE seen (who text); GRANT ALL ON seen TO PUBLIC", dbname=self.database, user=role)
        self.cluster.sql("CREATE FUNCTION look(timestamptz) RETURNS bool LANGUAGE plpgsql AS"
                         " $$BEGIN INSERT INTO public.seen VALUES (current_user); RETURN true; END$$", dbname=self.database, user=role)
        self.cluster.sql("CREATE TABLE events (at timestamptz, CHECK (public.look(at))) PARTITION BY RANGE (at);"
                         "CREATE TABLE rest PARTITION OF events DEFAULT; INSERT INTO events VALUES ('2026-03-03'), ('2026-04-04');"
                         "TRUNCATE seen", dbname=self.database, user=role)
        self.manage("events", premake=1)
        steps = self.tick("events", "2026-03-03")
        self.assertEqual([step["status"] for step in steps], ["done", "done"], steps)
        self.assertEqual(self.sql("SELECT DISTINCT who FROM seen"), [(role,)])
        self.manage("events", premake=1, user=role)
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN; CREATE TABLE something (n int)")
            session.query("SELECT * FROM perf.partition_tick('events', '2026-04-04')")
            session.query("COMMIT")
        self.assertEqual(self.value("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'events_p2026_05'"), role)

    def test_indexes_of_a_new_partition_are_built_as_the_owner(self) -> None:
        role = f"{self.database}_owner"
        self.sql(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role}")
        self.addCleanup(lambda: self.sql(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        self.cluster.sql("CREATE FUNCTION promote() RETURNS text LANGUAGE plpgsql AS $$BEGIN IF current_user = 'postgres' THEN"
                         f" EXECUTE 'ALTER ROLE {role} SUPERUSER'; END IF; RETURN ''; END$$;"
                         "CREATE FUNCTION f(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN public.promote() || $1; END$$;"
                         "CREATE TABLE events (id int, at timestamptz, t text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
                         "CREATE TABLE rest PARTITION OF events DEFAULT;"
                         "CREATE INDEX named ON events ((t || public.f('const')));"
                         "ALTER TABLE events REPLICA IDENTITY USING INDEX events_pkey", dbname=self.database, user=role)
        self.manage("events", premake=1)
        self.assertEqual([step["status"] for step in self.tick("events")], ["done", "done"])
        self.assertEqual(self.value("SELECT rolsuper FROM pg_roles WHERE rolname = $1", (role,)), False)
        self.assertEqual(self.sql("SELECT count(*), bool_and(i.indisvalid AND h.inhparent IS NOT NULL), bool_or(i.indisreplident)"
                                  " FROM pg_index i LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid"
                                  " WHERE i.indrelid = 'events_p2026_03'::regclass"), [(2, True, True)])

    def test_a_search_path_changes_nothing(self) -> None:
        self.sql(MONTHS)
        self.sql("CREATE SCHEMA evil; CREATE FUNCTION evil.format(text, VARIADIC \"any\") RETURNS text LANGUAGE internal"
                 " IMMUTABLE AS 'text_format'; CREATE TABLE evil.pg_inherits (inhrelid oid, inhparent oid, inhdetachpending bool)")
        self.manage("events", premake=1)
        with self.cluster.connect(self.database) as session:
            session.query("SET search_path = evil, pg_catalog, public; BEGIN; CREATE TABLE evil.now (n int)")
            steps = session.query("SELECT * FROM perf.partition_tick('events', '2026-03-10')").dicts()
            session.query("COMMIT")
        self.assertEqual([step["relation"] for step in steps], ["public.events_p2026_03", "public.events_p2026_04"])

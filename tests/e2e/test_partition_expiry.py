"""Partitions whose retention is over: kept, dropped, moved to a schema or to a file; what is never touched, what stands in the
way, and what a kill in the middle leaves."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any, Optional

from .case import expects_crash
from .cluster import Connection, ConnectionLost, SqlError
from .jobs_case import ENDED, SETTINGS
from .system import make_private_dir, remove_dir, run_as_server
from .test_partitions import PartitionTest

NOW = "2026-03-10 12:00+00"
EVENTS = """
CREATE TABLE events (id bigint, at timestamptz NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE INDEX events_note ON events (note);
CREATE TABLE events_p2026_01 PARTITION OF events FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
CREATE TABLE events_p2026_02 PARTITION OF events FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
CREATE TABLE events_p2026_03 PARTITION OF events FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00');
CREATE TABLE events_p2026_04 PARTITION OF events FOR VALUES FROM ('2026-04-01 00:00+00') TO ('2026-05-01 00:00+00');
INSERT INTO events SELECT g, timestamptz '2026-01-01 00:00+00' + g * interval '1 hour', 'note ' || g
FROM generate_series(0, 2000) g;
"""
JANUARY = "public.events_p2026_01"
ALL = "SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {} t"


class ExpiryTest(PartitionTest):
    """What the tests of expiry share."""

    def events(self, default: bool = False, **options: Any) -> int:
        """A parent of four months, of which the first is older than the retention; its job."""
        self.sql(EVENTS)
        if default:
            self.sql("CREATE TABLE events_default PARTITION OF events DEFAULT")
        return self.manage("events", premake=1, retention="1 month", **options)

    def steps(self, as_of: str = NOW, parent: str = "events") -> list[tuple]:
        """Relation, step and status of each step of a look. What failed is not tried again by itself."""
        self.last = self.tick(parent, as_of)
        self.sql("SELECT perf.job_cancel(run_id) FROM perf.job_runs WHERE status = 'queued'")
        return [(step["relation"], step["step"], step["status"]) for step in self.last]

    def checksum(self, relation: str) -> str:
        """Of all rows of a table."""
        return self.value(ALL.format(relation))

    def exists(self, relation: str) -> bool:
        """Whether there is a table of a name."""
        return self.value("SELECT to_regclass($1) IS NOT NULL", (relation,))

    def worker(self) -> int:
        """The process of the run that is under way."""
        return self.wait_until(lambda: self.sql("SELECT pid FROM perf.job_runs WHERE status = 'running' AND pid IS NOT NULL"),
                               20, "the worker")[0][0]

    def all_types(self) -> str:
        """A parent e with a column of each type; without a value of one that this server was built without."""
        try:
            self.sql("SELECT '<a/>'::xml")
        except SqlError:
            return ALL_TYPES.replace("""'<a b="c">é &amp; </a>'""", "NULL")
        return ALL_TYPES

    def noted(self) -> list[tuple]:
        """What expiry has still to do."""
        return self.sql("SELECT table_name FROM perf.partition_expiry")


class Expiring(ExpiryTest):
    """What becomes of expired partitions."""

    def test_detached(self) -> None:
        self.events()
        rows, before = self.checksum(JANUARY), self.value("SELECT count(*) FROM events")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done")])
        self.assertIn("FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00')", self.last[0]["detail"])
        self.assertEqual(self.checksum(JANUARY), rows)
        self.assertEqual(self.value("SELECT count(*) FROM events"), before - 31 * 24)
        self.assertEqual(list(self.partitions("events")), ["events_p2026_02", "events_p2026_03", "events_p2026_04"])
        # CONCURRENTLY, which leaves its constraint: with it the table can come back unread.
        self.assertEqual(self.value(f"SELECT count(*) FROM pg_constraint WHERE conrelid = '{JANUARY}'::regclass AND contype = 'c'"), 1)
        self.assertEqual((self.steps(), self.noted()), ([], []))

    def test_dropped(self) -> None:
        self.events(on_expire="drop")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "drop", "done")])
        self.assertFalse(self.exists(JANUARY))
        self.assertEqual((self.steps(), self.noted()), ([], []))

    def test_caches_of_a_watched_table(self) -> None:
        for default in (False, True):
            with self.subTest(default=default):
                self.events(default=default)
                self.value("SELECT perf.cache_watch('event', 'events', keys => ARRAY['event:{id}'])")
                self.value("SELECT perf.cache_put('event:1', '1')")
                self.assertEqual(self.steps(), [(JANUARY, "detach", "done")])
                self.wait_until(lambda: self.value("SELECT perf.cache_get('event:1')") is None, 20, "the entry to be invalid")
                # A look at once: what is detached needs no triggers.
                self.sql("CREATE TABLE other (n int); SELECT perf.cache_watch('other', 'other')")
                self.wait_until(lambda: self.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = $1::regclass", (JANUARY,)) == 0,
                                20, "the triggers to go")
                self.sql("DROP TABLE events, other, " + JANUARY)

    def test_beside_a_default_partition(self) -> None:
        self.events(default=True, on_expire="drop")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "drop", "done")])
        self.assertEqual(list(self.partitions("events")),
                         ["events_default", "events_p2026_02", "events_p2026_03", "events_p2026_04"])

    def test_to_the_microsecond(self) -> None:
        self.events()
        self.assertEqual(self.steps("2026-02-28 23:59:59.999999+00"), [])
        self.assertEqual(self.steps("2026-03-01 00:00:00+00"), [(JANUARY, "detach", "done")])

    def test_several_and_never_the_current_one(self) -> None:
        self.events(on_expire="drop")
        steps = self.steps("2027-06-15 00:00+00")
        self.assertEqual({step for step in steps if step[1] in ("detach", "drop")},
                         {(f"public.events_p2026_0{n}", step, "done") for n in (1, 2, 3, 4) for step in ("detach", "drop")})
        # Months that would expire at once are not made, and the one of now is not let go of.
        self.assertEqual([name for name in self.partitions("events")],
                         ["events_p2027_05", "events_p2027_06", "events_p2027_07"])

    def test_without_retention_nothing_expires(self) -> None:
        self.sql(EVENTS)
        self.manage("events", premake=1, on_expire="drop")
        self.assertEqual([step for step in self.steps("2030-01-01 00:00+00") if step[1] != "create" and step[1] != "gap"], [])

    def test_a_partition_without_an_end_stays(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2026-01-01 00:00+00')")
        self.sql("DROP TABLE events_p2026_04; ALTER TABLE events DETACH PARTITION events_p2026_03")
        self.sql("ALTER TABLE events ATTACH PARTITION events_p2026_03 FOR VALUES FROM ('2026-03-01 00:00+00') TO (MAXVALUE)")
        self.steps("2030-01-01 00:00+00")
        self.assertEqual(list(self.partitions("events")), ["events_p2026_03"])

    def test_inside_a_transaction(self) -> None:
        self.events(on_expire="drop")
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN")
            session.query("INSERT INTO events VALUES (-1, '2026-02-01 00:00+00', 'x')")
            steps = session.execute("SELECT relation, step, status FROM perf.partition_tick('events', $1)", (NOW,)).rows
            self.assertEqual(steps, [(JANUARY, "detach", "done"), (JANUARY, "drop", "done")])
            session.query("ROLLBACK")
            self.assertTrue(self.exists(JANUARY))
            self.assertEqual((len(self.partitions("events")), self.noted()), (4, []))

    def test_foreign_key_that_refers_to_it(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE TABLE marks (id bigint, at timestamptz, CONSTRAINT mark_of FOREIGN KEY (id, at) REFERENCES events);"
                 "INSERT INTO marks SELECT id, at FROM events WHERE id = 5")
        self.assertEqual(self.steps("2026-04-10 12:00+00")[-3:],
                         [(JANUARY, "detach", "failed"), ("public.events_p2026_02", "detach", "done"),
                          ("public.events_p2026_02", "drop", "done")], self.last)
        failed = [step for step in self.last if step["status"] == "failed"][0]["detail"]
        self.assertIn("mark_of of public.marks", failed)
        self.assertIn("still referenced", failed)
        self.assertTrue(self.exists(JANUARY))
        # Else whoever detaches it by hand would lose it.
        self.assertEqual(self.noted(), [])
        self.sql("TRUNCATE marks")
        self.assertEqual(self.steps("2026-04-10 12:00+00"), [(JANUARY, "detach", "done"), (JANUARY, "drop", "done")])

    def test_what_depends_on_it_stops_the_drop_until_it_is_gone(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "drop", "failed")])
        self.assertIn("view of_january", self.last[1]["detail"])
        self.sql("DROP VIEW of_january")
        self.assertEqual(self.steps(), [(JANUARY, "drop", "done")])

    def test_what_somebody_did_with_it_meanwhile_is_respected(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.steps()
        self.sql("ALTER TABLE events_p2026_01 RENAME TO keep_this")
        self.assertEqual(self.steps(), [(JANUARY, "drop", "skipped")])
        self.assertEqual((self.steps(), self.exists("keep_this")), ([], True))

    def test_attached_again_with_other_bounds(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.steps()
        self.sql("DROP VIEW of_january; DELETE FROM events_p2026_01;"
                 "ALTER TABLE events_p2026_01 DROP CONSTRAINT events_p2026_01_at_check;"
                 "ALTER TABLE events ATTACH PARTITION events_p2026_01 FOR VALUES FROM ('2026-05-01 00:00+00') TO ('2026-06-01 00:00+00')")
        self.assertEqual(self.steps(), [])
        self.assertEqual((self.exists(JANUARY), self.noted()), (True, []))

    def test_settings_changed_in_between(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.steps()
        self.sql("DROP VIEW of_january")
        self.manage("events", premake=1, retention="1 month", on_expire="detach")
        self.assertEqual(self.steps(), [])
        self.assertEqual((self.exists(JANUARY), self.noted()), (True, []))

    def kept(self, **options: Any) -> None:
        """What was detached by other settings is left."""
        self.events(on_expire="drop")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.steps()
        self.sql("DROP VIEW of_january")
        self.manage("events", premake=1, on_expire="drop", **options)
        self.assertEqual(self.steps(), [(JANUARY, "drop", "skipped")], self.last)
        self.assertIn("within the retention now", self.last[0]["detail"])
        self.assertEqual((self.steps(), self.exists(JANUARY), self.noted()), ([], True, []))

    def test_retention_that_is_longer_by_then(self) -> None:
        self.kept(retention="1 year")

    def test_retention_that_is_none_by_then(self) -> None:
        self.kept()

    def test_detached_by_hand_after_a_failed_detach(self) -> None:
        self.events(on_expire="drop")
        self.sql("CREATE TABLE marks (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES events);"
                 "INSERT INTO marks SELECT id, at FROM events WHERE id = 5")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "failed")])
        self.sql("TRUNCATE marks; ALTER TABLE events DETACH PARTITION events_p2026_01")
        self.assertEqual((self.steps(), self.exists(JANUARY)), ([], True))

    def test_a_reader_of_the_parent_only_delays_it(self) -> None:
        self.events(on_expire="drop")
        with self.cluster.connect(self.database) as reader:
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            before = reader.query("SELECT count(*) FROM events").scalar()
            with self.cluster.connect(self.database) as ticker:
                ticker.send_execute("SELECT relation, step, status FROM perf.partition_tick('events', $1)", (NOW,))
                self.wait_until(lambda: self.value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1, 20, "the detach")
                # Gone for everybody who comes now; the reader sees what it saw, and nobody waits.
                self.assertEqual(self.value("SELECT count(*) FROM events"), before - 31 * 24)
                self.sql("INSERT INTO events VALUES (-1, '2026-03-02 00:00+00', 'new')")
                self.assertEqual(reader.query("SELECT count(*) FROM events").scalar(), before)
                reader.query("COMMIT")
                self.assertEqual(ticker.wait(30).rows, [(JANUARY, "detach", "done"), (JANUARY, "drop", "done")])

    def test_foreign_table_is_only_detached(self) -> None:
        self.sql("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
        self.sql("CREATE TABLE e (at date NOT NULL) PARTITION BY RANGE (at);"
                 "CREATE TABLE e_03 PARTITION OF e FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 "CREATE FOREIGN TABLE e_01 PARTITION OF e FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')"
                 " SERVER files OPTIONS (filename '/dev/null')")
        self.manage("e", premake=1, retention="1 month", on_expire="drop")
        self.assertIn(("public.e_01", "detach", "done"), self.steps(parent="e"))
        self.assertTrue(self.exists("e_01"))
        self.assertNotIn("e_01", self.partitions("e"))
        self.assertEqual((self.steps(parent="e"), self.noted()), ([], []))

    def test_partitions_of_partitions_go_with_it(self) -> None:
        self.sql("CREATE TABLE m (at date NOT NULL, kind int) PARTITION BY RANGE (at);"
                 "CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (kind);"
                 "CREATE TABLE m_1_a PARTITION OF m_1 FOR VALUES IN (1); CREATE TABLE m_1_b PARTITION OF m_1 DEFAULT;"
                 "CREATE TABLE m_3 PARTITION OF m FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 # Beside it m_1 is not detached CONCURRENTLY, after whose CHECK the server would not finalize m_1_a on 18.
                 "CREATE TABLE m_rest PARTITION OF m DEFAULT;"
                 "INSERT INTO m SELECT '2026-01-15', g % 3 FROM generate_series(1, 30) g")
        self.manage("m", premake=1, retention="1 month", on_expire="archive")
        self.assertIn(("public.m_1", "archive", "done"), self.steps(parent="m"))
        self.assertEqual(self.sql("SELECT relid::text FROM pg_partition_tree('archive.m_1') ORDER BY 1"),
                         [("archive.m_1",), ("archive.m_1_a",), ("archive.m_1_b",)])
        self.assertEqual(self.value("SELECT count(*) FROM archive.m_1"), 30)


class Schemas(ExpiryTest):
    """Archived to a schema."""

    def test_moved_with_its_indexes(self) -> None:
        self.events(on_expire="archive", archive_schema="Old Data")
        rows = self.checksum(JANUARY)
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "archive", "done")])
        self.assertIn('"Old Data".events_p2026_01', self.last[1]["detail"])
        self.assertEqual(self.checksum('"Old Data".events_p2026_01'), rows)
        self.assertEqual(self.sql("SELECT indexname FROM pg_indexes WHERE schemaname = 'Old Data' ORDER BY 1"),
                         [("events_p2026_01_note_idx",), ("events_p2026_01_pkey",)])
        self.assertEqual((self.steps(), self.noted()), ([], []))

    def test_names_that_are_taken(self) -> None:
        self.events(on_expire="archive")
        self.sql("CREATE SCHEMA archive; CREATE VIEW archive.events_p2026_01 AS SELECT 1 AS x;"
                 "CREATE TABLE archive.t (a int); CREATE INDEX events_p2026_01_pkey ON archive.t (a)")
        rows = self.checksum(JANUARY)
        self.assertEqual(self.steps()[-1], (JANUARY, "archive", "done"), self.last)
        self.assertEqual(self.checksum("archive.events_p2026_01_2"), rows)
        self.assertTrue(self.exists("archive.events_p2026_01_pkey_2"))
        self.assertEqual(self.value("SELECT x FROM archive.events_p2026_01"), 1)

    def test_names_of_63_bytes_that_are_taken(self) -> None:
        name = "ä" * 31 + "x"
        self.sql(f"CREATE TABLE e (at date NOT NULL) PARTITION BY RANGE (at);"
                 f"CREATE TABLE {name} PARTITION OF e FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
                 f"CREATE TABLE e_3 PARTITION OF e FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 f"CREATE SCHEMA archive; CREATE TABLE archive.{name} (a int)")
        self.manage("e", premake=1, retention="1 month", on_expire="archive")
        self.assertIn((f'public."{name}"', "archive", "done"), self.steps(parent="e"))
        self.assertEqual(self.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'archive' AND tablename LIKE '%_2'"
                                    " AND octet_length(tablename) <= 63"), 1)

    def test_schema_of_somebody_else(self) -> None:
        self.events(on_expire="archive")
        self.sql("DROP ROLE IF EXISTS squatter; CREATE ROLE squatter")
        self.addCleanup(self.sql, "DROP OWNED BY squatter CASCADE; DROP ROLE squatter")
        self.sql("CREATE SCHEMA archive AUTHORIZATION squatter")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "archive", "failed")])
        self.assertIn("schema archive belongs to squatter", self.last[1]["detail"])
        self.sql("ALTER SCHEMA archive OWNER TO postgres")
        self.assertEqual(self.steps(), [(JANUARY, "archive", "done")])

    def test_without_privilege(self) -> None:
        self.sql("DROP ROLE IF EXISTS keeper; CREATE ROLE keeper LOGIN")
        self.addCleanup(self.sql, "DROP OWNED BY keeper CASCADE; DROP ROLE keeper")
        self.sql("GRANT CREATE ON SCHEMA public TO keeper; GRANT USAGE ON SCHEMA perf TO keeper")
        self.sql("SET ROLE keeper;" + EVENTS)
        self.manage("events", user="keeper", premake=1, retention="1 month", on_expire="archive")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "archive", "failed")])
        self.assertIn("there is no schema archive, and the job's owner may not create schemas", self.last[1]["detail"])
        self.sql("CREATE SCHEMA archive")
        self.assertEqual(self.steps(), [(JANUARY, "archive", "failed")])
        self.assertIn("permission denied for schema archive", self.last[0]["detail"])
        self.sql("GRANT CREATE, USAGE ON SCHEMA archive TO keeper")
        self.assertEqual(self.steps(), [(JANUARY, "archive", "done")])
        self.assertEqual(self.value("SELECT tableowner FROM pg_tables WHERE schemaname = 'archive'"), "keeper")
        self.assertEqual(self.noted(), [])


ALL_TYPES = r"""
CREATE TYPE mood AS ENUM ('sad', 'it''s "fine"');
CREATE TYPE pair AS (a int, "b c" text);
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CREATE TABLE e (id bigint GENERATED BY DEFAULT AS IDENTITY, at timestamptz NOT NULL, t text, v varchar(20), c char(5), "n ""q" name,
    b bytea, bo bool, i2 smallint, i4 int, f4 real, f8 double precision, nu numeric, nu2 numeric(10, 3), d date, ts timestamp,
    tm time, tz timetz, iv interval, u uuid, j json, jb jsonb, x xml, ar int[], at2 text[], m mood, p pair, pa pair[], sm small,
    r int4range, mr tstzmultirange, ip inet, mac macaddr, pt point, bx box, bits bit(5), vb varbit, tv tsvector, tq tsquery,
    o oid, rc regclass, lsn pg_lsn, gone int, twice int GENERATED ALWAYS AS (i4 * 2) STORED) PARTITION BY RANGE (at);
CREATE TABLE e_01 PARTITION OF e FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00');
CREATE TABLE e_03 PARTITION OF e FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00');
ALTER TABLE e DROP COLUMN gone;
INSERT INTO e (at) VALUES ('2026-01-01 00:00+00');
INSERT INTO e (at, t, v, c, "n ""q", b, bo, i2, i4, f4, f8, nu, nu2, d, ts, tm, tz, iv, u, j, jb, x, ar, at2, m, p, pa, sm, r, mr,
    ip, mac, pt, bx, bits, vb, tv, tq, o, rc, lsn)
SELECT timestamptz '2026-01-15 00:00+00' + g * interval '1.000001 s',
    (ARRAY['', NULL, '\.', '\N', 'NULL', '"', '""', ',', E'two\nlines', E'cr\r\nlf', E'tab\t', ' lead', 'trail ', '\', 'ä€😀', '''',
           E'\x01'])[1 + g % 17],
    '', 'a', 'name', decode(md5(g::text), 'hex'), g % 2 = 0, -g, g, (1.1 * g)::real,
    CASE g % 4 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity'::float8 ELSE 0.1 + g END,
    CASE g % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN 1e100 + g ELSE g / 7.0 END, g,
    CASE g % 2 WHEN 0 THEN '0044-03-15 BC'::date ELSE 'infinity' END, '2026-01-01 12:34:56.789012', '24:00', '12:00:00.5-08:30',
    '-1 year 2 mons -3 days 04:05:06.7', md5(g::text)::uuid, '{"a" :  "x\\n"}', '{"b": [1, null, "\"" ]}', '<a b="c">é &amp; </a>',
    ARRAY[[1, NULL], [3, g]], ARRAY['', NULL, 'a,b', '"', E'\n'], 'it''s "fine"', ROW(g, E'q"u,o\nte')::pair,
    ARRAY[ROW(NULL, ''), NULL]::pair[], 999, '[1,5)', '{["2026-01-01 00:00+00","2026-02-01 00:00+00")}', '::1/64',
    '08:00:2b:01:02:03', '(1.5,-2)', '((0,0),(1,1))', '10101', '1', 'a:1 b''c:2', 'a & !b', 4294967295, 'pg_class', '16/B374D848'
FROM generate_series(1, 340) g
"""
ODD_SETTINGS = {"datestyle": "German, DMY", "intervalstyle": "sql_standard", "extra_float_digits": "-5", "bytea_output": "escape",
                "timezone": "Asia/Kathmandu", "xmloption": "document"}


class Files(ExpiryTest):
    """Archived to a file."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = make_private_dir()
        self.addCleanup(remove_dir, self.directory)
        self.set_directory(self.directory)

    def set_directory(self, path: Any) -> None:
        """Where files go, in the test's database."""
        self.sql(f"ALTER DATABASE {self.database} SET perf_opt.archive_directory = '{path}'")

    def files(self) -> list[str]:
        """What is in the directory."""
        return sorted(path.name for path in self.directory.iterdir())

    def stem(self, table: str) -> str:
        """The name of the file for a partition of January: no other table has the same, of this server or another."""
        identity = self.value("SELECT format('%s-%s-%s', to_hex(system_identifier), d.oid, $1::regclass::oid)"
                              " FROM pg_control_system(), pg_database d WHERE datname = current_database()", (table,))
        return f"{self.database}.public.{table}.2026-01-01_2026-02-01.{identity}"

    def interrupted(self, content: bytes) -> Path:
        """A file that is there, under both names, and noted, as when a run ended before its commit."""
        self.events(on_expire="archive", archive_to="file")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "archive", "failed")])
        path = self.directory / f"{self.stem('events_p2026_01')}.csv.zst"
        subprocess.run(["zstd", "-q", "-o", str(path)], input=content, check=True)
        os.link(path, f"{path}.partial")
        os.chmod(path, 0o644)
        self.sql("UPDATE perf.partition_expiry SET file = $1", (str(path),))
        self.sql("DROP VIEW of_january")
        return path

    def archives(self) -> list[dict[str, Any]]:
        """What perf_opt says of files."""
        return self.cluster.result("SELECT * FROM perf.partition_archives ORDER BY archived_at", dbname=self.database).dicts()

    def test_round_trip_of_all_types(self) -> None:
        self.sql(self.all_types())
        rows, count = self.checksum("e_01"), self.value("SELECT count(*) FROM e_01")
        file = self.stem("e_01") + ".csv.zst"
        # Whatever the owner's session says about how values look.
        for name, value in ODD_SETTINGS.items():
            self.sql(f"ALTER DATABASE {self.database} SET {name} = {value if ',' in value else repr(value)}")
        self.manage("e", premake=1, retention="1 month", on_expire="archive", archive_to="file")
        self.assertIn(("public.e_01", "archive", "done"), self.steps(parent="e"), self.last)
        self.assertFalse(self.exists("e_01"))
        for name in ODD_SETTINGS:
            self.sql(f"ALTER DATABASE {self.database} RESET {name}")
        self.assertEqual(self.files(), [file])
        archive, = self.archives()
        path = self.directory / file
        self.assertEqual((archive["relation"], archive["rows"], archive["file"], archive["file_bytes"]),
                         ("public.e_01", count, str(path), path.stat().st_size))
        content = subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout
        self.assertEqual((archive["sha256"], archive["content_bytes"]), (hashlib.sha256(content).hexdigest(), len(content)))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.sql("CREATE TABLE public.e_01 (LIKE e INCLUDING GENERATED)")
        with self.cluster.connect(self.database) as session:
            columns = content.decode().split("\n", 1)[0]
            session.copy_in(f"COPY e_01 ({columns}) FROM STDIN WITH (FORMAT csv, HEADER)", content)
        self.assertEqual(self.checksum("e_01"), rows)
        self.sql("TRUNCATE e_01")
        self.sql(archive["load_sql"])
        self.assertEqual(self.checksum("e_01"), rows)

    def test_empty_and_sub_partitioned(self) -> None:
        self.sql("CREATE TABLE m (at date NOT NULL, kind int) PARTITION BY RANGE (at);"
                 "CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (kind);"
                 "CREATE TABLE m_1_a PARTITION OF m_1 FOR VALUES IN (1); CREATE TABLE m_1_b PARTITION OF m_1 DEFAULT;"
                 "CREATE TABLE m_0 PARTITION OF m FOR VALUES FROM ('2025-12-01') TO ('2026-01-01');"
                 "CREATE TABLE m_3 PARTITION OF m FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 # Beside it m_1 is not detached CONCURRENTLY, after whose CHECK the server would not finalize m_1_a on 18.
                 "CREATE TABLE m_rest PARTITION OF m DEFAULT;"
                 "INSERT INTO m SELECT '2026-01-15', g % 3 FROM generate_series(1, 30) g")
        self.manage("m", premake=1, retention="1 month", on_expire="archive", archive_to="file")
        steps = self.steps(parent="m")
        self.assertTrue({("public.m_0", "archive", "done"), ("public.m_1", "archive", "done")} <= set(steps), self.last)
        self.assertEqual([archive["rows"] for archive in self.archives()], [0, 30])
        self.assertFalse(self.exists("m_1_a"))

    def test_a_file_of_that_name_is_left(self) -> None:
        self.events(on_expire="archive", archive_to="file")
        name = self.stem("events_p2026_01")
        (self.directory / f"{name}.csv.zst").write_text("somebody's")
        self.assertEqual(self.steps()[-1], (JANUARY, "archive", "done"), self.last)
        self.assertEqual(self.files(), [f"{name}.csv.zst", f"{name}_2.csv.zst"])
        self.assertEqual((self.directory / f"{name}.csv.zst").read_text(), "somebody's")

    def test_what_has_come_to_a_noted_name_is_left(self) -> None:
        path = self.interrupted(b"somebody's")
        before = path.read_bytes()
        self.assertEqual(self.steps(), [(JANUARY, "archive", "done")], self.last)
        self.assertEqual(path.read_bytes(), before)
        self.assertEqual(self.files(), [path.name, path.name.replace(".csv", "_2.csv")])
        self.assertEqual([Path(archive["file"]).name for archive in self.archives()], self.files()[1:])

    def test_what_an_interrupted_run_has_left_is_taken(self) -> None:
        rows = "\n".join(f"{g},2026-01-{1 + g // 24:02} {g % 24:02}:00:00+00,note {g}" for g in range(31 * 24))
        path = self.interrupted(f"id,at,note\n{rows}\n".encode())
        self.assertEqual(self.steps(), [(JANUARY, "archive", "done")], self.last)
        self.assertEqual(self.files(), [path.name])
        self.assertEqual((self.archives()[0]["file"], self.archives()[0]["rows"]), (str(path), 744))
        self.assertEqual(subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout[:11], b"id,at,note\n")

    def test_a_half_detached_leaf_is_not_lost(self) -> None:
        self.sql("CREATE TABLE m (at date, kind int) PARTITION BY RANGE (at);"
                 "CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (kind);"
                 "CREATE TABLE m_1_a PARTITION OF m_1 FOR VALUES IN (1); CREATE TABLE m_1_b PARTITION OF m_1 FOR VALUES IN (2);"
                 "CREATE TABLE m_3 PARTITION OF m FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 # Beside it m_1 is not detached CONCURRENTLY, after whose CHECK the server would not finalize m_1_a on 18.
                 "CREATE TABLE m_rest PARTITION OF m DEFAULT;"
                 "INSERT INTO m SELECT '2026-01-15', 1 + g % 2 FROM generate_series(1, 30) g")
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as other:
            reader.query("BEGIN; SELECT count(*) FROM m_1")
            other.query("SET statement_timeout = '300ms'")
            with self.assertRaises(SqlError):
                other.query("ALTER TABLE m_1 DETACH PARTITION m_1_a CONCURRENTLY")
            reader.query("COMMIT")
        for options in ({"on_expire": "drop"}, {"on_expire": "archive"}, {"on_expire": "archive", "archive_to": "file"}):
            with self.subTest(**options):
                self.manage("m", premake=1, retention="1 month", **options)
                self.assertEqual(self.steps(parent="m")[-1], ("public.m_1", options["on_expire"], "failed"), self.last)
                self.assertIn("FINALIZE", self.last[-1]["detail"])
                self.assertIn("public.m_1_a", self.last[-1]["detail"])
        self.sql("ALTER TABLE m_1 DETACH PARTITION m_1_a FINALIZE")
        self.assertEqual(self.steps(parent="m"), [("public.m_1", "archive", "done")], self.last)
        self.assertEqual((self.archives()[0]["rows"], self.value("SELECT count(*) FROM m_1_a")), (15, 15))

    def failing(self, expected: str, detached: bool = False) -> None:
        """A look that fails, with nothing lost."""
        rows = self.checksum(JANUARY)
        self.assertEqual(self.steps()[-1], (JANUARY, "archive", "failed"), self.last)
        self.assertIn(expected, self.last[-1]["detail"])
        self.assertEqual(("events_p2026_01" not in self.partitions("events"), self.checksum(JANUARY)), (detached, rows))

    def test_directories_that_are_none(self) -> None:
        self.events(on_expire="archive", archive_to="file")
        self.set_directory("/nowhere/at/all")
        self.failing("/nowhere/at/all: No such file or directory")
        self.set_directory("relative/path")
        self.failing("not an absolute path")
        self.set_directory("")
        self.failing("perf_opt.archive_directory is not set")
        (self.directory / "file").write_text("x")
        self.set_directory(f"{self.directory}/file")
        self.failing("not a directory")
        (self.directory / "file").unlink()
        os.chmod(self.directory, 0o500)
        self.set_directory(self.directory)
        self.failing("Permission denied")
        os.chmod(self.directory, 0o700)
        self.assertEqual(self.steps(), [(JANUARY, "detach", "done"), (JANUARY, "archive", "done")])

    def test_what_is_refused_when_it_is_said(self) -> None:
        self.sql(EVENTS)
        manage = ("SELECT perf.partition_manage('events', 'month', retention => '1 month', on_expire => 'archive',"
                  " archive_to => 'file', premake => 1)")
        for path in ("", "here"):
            self.set_directory(path)
            self.assert_sql_error("55000", self.cluster, manage, dbname=self.database)
        self.set_directory(self.directory)
        self.sql("DROP ROLE IF EXISTS filer; CREATE ROLE filer LOGIN")
        self.addCleanup(self.sql, "DROP OWNED BY filer CASCADE; DROP ROLE filer")
        self.sql("GRANT CREATE ON SCHEMA public TO filer; GRANT USAGE ON SCHEMA perf TO filer; ALTER TABLE events OWNER TO filer;"
                 "DO $$DECLARE r regclass; BEGIN FOR r IN SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass"
                 " LOOP EXECUTE format('ALTER TABLE %s OWNER TO filer', r); END LOOP; END$$")
        self.assert_sql_error("42501", self.cluster, manage, dbname=self.database, user="filer")
        self.sql("GRANT pg_write_server_files TO filer")
        self.sql(manage, user="filer")
        # And again when it is done.
        self.sql("REVOKE pg_write_server_files FROM filer")
        self.failing("permission denied to archive partitions to files")
        self.sql("GRANT pg_write_server_files TO filer")
        self.assertEqual(self.steps()[-1], (JANUARY, "archive", "done"), self.last)
        self.assertEqual(self.value("SELECT rows FROM perf.partition_archives", user="filer"), 744)

    def test_not_in_a_transaction(self) -> None:
        self.events(on_expire="archive", archive_to="file")
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN")
            session.query("UPDATE events SET note = 'x' WHERE id = 1000")
            steps = session.execute("SELECT relation, step, status FROM perf.partition_tick('events', $1)", (NOW,)).rows
            self.assertEqual(steps, [(JANUARY, "archive", "skipped")])
            session.query("COMMIT")
        self.assertEqual((len(self.partitions("events")), self.files()), (4, []))

    def test_what_depends_on_it_is_noticed_before_it_is_written(self) -> None:
        self.events(on_expire="archive", archive_to="file")
        self.sql("CREATE VIEW of_january AS SELECT * FROM events_p2026_01")
        self.failing("view of_january depends on", detached=True)
        self.assertEqual(self.files(), [])
        self.sql("DROP VIEW of_january")
        self.assertEqual(self.steps(), [(JANUARY, "archive", "done")])

    def test_row_security_hides_nothing_from_an_archive(self) -> None:
        self.events(on_expire="archive", archive_to="file")
        self.sql("DROP ROLE IF EXISTS kept; CREATE ROLE kept LOGIN IN ROLE pg_write_server_files")
        self.addCleanup(self.sql, "DROP OWNED BY kept CASCADE; DROP ROLE kept")
        self.sql("GRANT CREATE, USAGE ON SCHEMA public TO kept; GRANT USAGE ON SCHEMA perf TO kept; ALTER TABLE events OWNER TO kept;"
                 "ALTER TABLE events_p2026_01 OWNER TO kept; ALTER TABLE events_p2026_01 ENABLE ROW LEVEL SECURITY;"
                 "ALTER TABLE events_p2026_01 FORCE ROW LEVEL SECURITY; CREATE POLICY none ON events_p2026_01 USING (false)")
        self.manage("events", user="kept", premake=1, retention="1 month", on_expire="archive", archive_to="file")
        self.failing("row-level security", detached=True)
        self.assertEqual(self.files(), [])

    def test_another_encoding(self) -> None:
        self.database = "latin"
        self.cluster.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
        self.addCleanup(self.cluster.sql, "DROP DATABASE latin WITH (FORCE)")
        self.sql("CREATE EXTENSION perf_opt")
        self.set_directory(self.directory)
        self.sql("CREATE TABLE \"größe\" (at date NOT NULL, \"länge\" text) PARTITION BY RANGE (at);"
                 "CREATE TABLE \"größe_1\" PARTITION OF \"größe\" FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
                 "CREATE TABLE \"größe_3\" PARTITION OF \"größe\" FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 "INSERT INTO \"größe\" VALUES ('2026-01-05', 'äöü')")
        self.manage('"größe"', premake=1, retention="1 month", on_expire="archive", archive_to="file")
        self.assertIn(('public."größe_1"', "archive", "done"), self.steps(parent='"größe"'), self.last)
        content = subprocess.run(["zstd", "-dc", str(self.directory / self.files()[0])], check=True, capture_output=True).stdout
        self.assertEqual(content.decode(), "at,länge\n2026-01-05,äöü\n")
        self.sql('CREATE TABLE "größe_1" (LIKE "größe")')
        self.sql(self.archives()[0]["load_sql"])
        self.assertEqual(self.sql('SELECT "länge" FROM "größe_1"'), [("äöü",)])

    def test_no_room(self) -> None:
        self.events(on_expire="archive", archive_to="file")
        self.sql("DROP INDEX events_note; INSERT INTO events SELECT 100000 + g, '2026-01-02 00:00+00',"
                 " encode(pg_read_binary_file('/dev/urandom', 0, 2000000), 'base64') FROM generate_series(1, 15) g")
        self.sql("CHECKPOINT")
        rows = self.checksum(JANUARY)
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as ticker:
            holder.query(f"BEGIN; LOCK TABLE {JANUARY} IN ACCESS EXCLUSIVE MODE")
            ticker.send_execute("SELECT step, status, detail FROM perf.partition_tick('events', $1)", (NOW,))
            # No file of this process may be larger, as if the disk were full.
            run_as_server(["prlimit", "--fsize=20000000", "--pid", self.worker()])
            holder.query("COMMIT")
            steps = ticker.wait(60).rows
        self.sql("SELECT perf.job_cancel(run_id) FROM perf.job_runs WHERE status = 'queued'")
        self.assertEqual(steps[-1][:2], ("archive", "failed"), steps)
        self.assertIn("File too large", steps[-1][2])
        self.assertEqual((self.checksum(JANUARY), self.files()), (rows, []))
        self.assertEqual(self.steps(), [(JANUARY, "archive", "done")], self.last)
        self.assertEqual((self.archives()[0]["rows"], len(self.files())), (744 + 15, 1))

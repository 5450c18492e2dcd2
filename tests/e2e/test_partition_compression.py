"""Partitions that are old enough to be compressed: what they are like afterwards, who waits, and what is left alone."""

from __future__ import annotations

import re
from typing import Any

from .cluster import Cluster
from .jobs_case import SETTINGS
from .system import run_as_server
from .test_partition_expiry import ALL, NOW, ExpiryTest

# January is full of holes and in no order; its texts are long enough for TOAST.
EVENTS = """
CREATE TABLE events (id bigint, at timestamptz NOT NULL, note text, big text, gone int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
"""
MONTHS = """
CREATE TABLE events_p2026_01 PARTITION OF events FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-02-01 00:00+00')
    WITH (fillfactor = 60, autovacuum_enabled = off, toast.autovacuum_enabled = off);
CREATE TABLE events_p2026_02 PARTITION OF events FOR VALUES FROM ('2026-02-01 00:00+00') TO ('2026-03-01 00:00+00');
CREATE TABLE events_p2026_03 PARTITION OF events FOR VALUES FROM ('2026-03-01 00:00+00') TO ('2026-04-01 00:00+00');
CREATE TABLE events_p2026_04 PARTITION OF events FOR VALUES FROM ('2026-04-01 00:00+00') TO ('2026-05-01 00:00+00');
CREATE INDEX events_note ON events (lower(note)) INCLUDE (id) WHERE id > 10;
CREATE INDEX events_hash ON events USING hash (id);
CREATE INDEX january_brin ON events_p2026_01 USING brin (at);
CREATE UNIQUE INDEX january_odd ON events_p2026_01 (note COLLATE "C" DESC NULLS LAST, id) NULLS NOT DISTINCT WITH (deduplicate_items = off);
ALTER TABLE events DROP COLUMN gone;
INSERT INTO events SELECT (g * 7919) % 20011, timestamptz '2026-01-01 00:00+00' + g * interval '1 minute', 'note ' || g,
    CASE WHEN g % 50 = 0 THEN (SELECT string_agg(md5(i::text), ' ') || repeat('text', 3000) FROM generate_series(1, 100 + g % 7) i) END
FROM generate_series(1, 20000) g;
DELETE FROM events WHERE id % 2 = 0;
CREATE VIEW of_january AS SELECT * FROM events_p2026_01;
CREATE STATISTICS january_stats ON id, note FROM events_p2026_01;
CREATE TABLE marks (id bigint, at timestamptz, FOREIGN KEY (id, at) REFERENCES events_p2026_01);
INSERT INTO marks SELECT id, at FROM events_p2026_01 LIMIT 3;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER january_trigger BEFORE UPDATE ON events_p2026_01 FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE PUBLICATION january_only FOR TABLE events_p2026_01;
ALTER TABLE events_p2026_01 REPLICA IDENTITY USING INDEX events_p2026_01_pkey;
GRANT SELECT ON events_p2026_01 TO pg_monitor;
COMMENT ON TABLE events_p2026_01 IS 'of January'; COMMENT ON INDEX january_brin IS 'by time';
"""
JANUARY = "public.events_p2026_01"
# What may differ afterwards.
STORAGE = re.compile(r"fillfactor='?\d+'?, |(, )?fillfactor='?\d+'?|^.*SET COMPRESSION lz4.*$|\\(un)?restrict \S+", re.MULTILINE)


class CompressionTest(ExpiryTest):
    """A parent whose January is to be compressed."""

    def events(self, **options: Any) -> int:
        self.sql(EVENTS + ";" + MONTHS)
        self.settle()
        return self.manage("events", premake=1, compress_after="1 month", **options)

    def settle(self, relation: str = JANUARY) -> None:
        """Waits until nobody has a snapshot of before the rows of a table were written."""
        self.sql("CREATE EXTENSION IF NOT EXISTS pg_visibility")

        def is_settled() -> bool:
            self.sql(f"VACUUM (INDEX_CLEANUP on) {relation}")
            return self.value("SELECT count(*) FROM pg_visibility_map($1::regclass) WHERE NOT all_visible", (relation,)) == 0

        self.wait_until(is_settled, 30, "old snapshots to go")

    def schema(self) -> str:
        """pg_dump of the schema, without what compression sets."""
        dump = run_as_server([self.cluster.program("pg_dump"), "-s", "-n", "public", "-h", str(self.cluster.socket_dir), "-p",
                              str(self.cluster.port), "-U", "postgres", self.database])
        lines = STORAGE.sub("", dump).replace(" WITH ()", "").replace("\nWITH ()", "").split("\n")
        return "\n".join(line for line in lines if line.strip(" -"))

    def size(self, relation: str = JANUARY) -> int:
        """With indexes and TOAST."""
        return self.value("SELECT pg_total_relation_size($1)", (relation,))

    def check(self, relation: str = JANUARY) -> None:
        """Every index has every row, and the table is whole."""
        self.sql("CREATE EXTENSION IF NOT EXISTS amcheck")
        self.assertEqual(self.sql("SELECT * FROM verify_heapam($1::regclass)", (relation,)), [])
        self.sql("SELECT bt_index_check(indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid"
                 " JOIN pg_am a ON a.oid = c.relam WHERE indrelid = $1::regclass AND amname = 'btree'", (relation,))


class Compressing(CompressionTest):
    """What it is like afterwards."""

    def test_smaller_and_otherwise_the_same(self) -> None:
        self.events()
        before, size, schema = self.checksum(JANUARY), self.size(), self.schema()
        oid = self.value(f"SELECT '{JANUARY}'::regclass::oid")
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
        self.assertLess(self.size(), 0.8 * size)
        self.assertIn(f"{size} bytes became {self.size()}", self.last[0]["detail"])
        self.assertEqual((self.checksum(JANUARY), self.value(f"SELECT '{JANUARY}'::regclass::oid")), (before, oid))
        self.assertEqual(self.schema(), schema)
        self.check()
        # In the order of the key, on full pages, each visible to all, compressed by lz4.
        self.assertEqual(self.value(f"SELECT array_agg(id) = array_agg(id ORDER BY id) FROM (SELECT id FROM {JANUARY} ORDER BY ctid) t"), True)
        has_lz4 = self.value("SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'")
        self.assertEqual(self.sql(f"SELECT DISTINCT pg_column_compression(big) FROM {JANUARY} WHERE big IS NOT NULL"),
                         [("lz4" if has_lz4 else "pglz",)])
        self.assertIn("; lz4;" if has_lz4 else "pglz, since the server has no lz4", self.last[0]["detail"])
        # From 16 on the last pages may have been made ahead, and hold nothing.
        self.assertEqual(self.value(f"SELECT count(*) FROM {JANUARY} WHERE (ctid::text::point)[0] IN"
                                    f" (SELECT blkno FROM pg_visibility_map('{JANUARY}') WHERE NOT (all_visible AND all_frozen))"), 0)
        self.assertEqual(self.sql("SELECT t.relname::text FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = $1", (oid,)),
                         [(f"pg_toast_{oid}",)])
        row, = self.cluster.result("SELECT * FROM perf.partition_compressions", dbname=self.database).dicts()
        self.assertEqual((row["relation"], row["outcome"], row["bytes_before"], row["bytes_after"], row["is_current"], row["rows"]),
                         (JANUARY, "compressed", size, self.size(), True, self.value(f"SELECT count(*) FROM {JANUARY}")))
        # Nothing of it is left, it is not done again, and it goes on living.
        self.assertEqual(self.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'pg_temp%' OR relrewrite <> 0"), 0)
        self.assertEqual(self.steps(), [])
        self.sql("INSERT INTO events VALUES (50000, '2026-01-31 12:00+00', 'late', repeat('x', 100000)); DELETE FROM marks;"
                 f"UPDATE {JANUARY} SET note = 'changed' WHERE id = 1")
        self.check()
        self.sql(f"VACUUM FULL {JANUARY}")
        self.check()
        self.assertEqual(self.value("SELECT count(*) FROM events WHERE id = 50000 AND length(big) = 100000"), 1)

    def test_after_a_crash(self) -> None:
        self.events()
        self.steps()
        before = self.checksum(JANUARY)
        self.cluster.restart("immediate")
        self.assertEqual(self.checksum(JANUARY), before)
        self.check()

    def test_all_types(self) -> None:
        self.sql(self.all_types())
        self.sql("UPDATE e SET t = repeat(md5(id::text), 100 + id::int % 100) WHERE id % 3 = 0; UPDATE e SET i4 = i4 + 1")
        self.settle("e_01")
        before = self.checksum("e_01")
        self.manage("e", premake=1, compress_after="1 month")
        self.assertIn(("public.e_01", "compress", "done"), self.steps(parent="e"), self.last)
        self.assertEqual(self.checksum("e_01"), before)
        self.check("e_01")

    def test_expressions_run_as_the_owner(self) -> None:
        self.sql("DROP ROLE IF EXISTS shrunk; CREATE ROLE shrunk")
        self.addCleanup(self.sql, "DROP OWNED BY shrunk CASCADE; DROP ROLE shrunk")
        self.sql("CREATE TABLE e (at date NOT NULL, note text) PARTITION BY RANGE (at);"
                 "CREATE TABLE e_01 PARTITION OF e FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
                 "INSERT INTO e SELECT '2026-01-15', repeat('x', 100) || g FROM generate_series(1, 20000) g;"
                 "DELETE FROM e WHERE note LIKE '%1'; ALTER TABLE e_01 OWNER TO shrunk;"
                 "CREATE FUNCTION of_owner(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS"
                 " $$BEGIN IF current_user <> 'shrunk' THEN RAISE 'called by %', current_user; END IF; RETURN md5(t); END$$;"
                 "CREATE INDEX e_odd ON e_01 (of_owner(note)); ALTER TABLE e_01 CLUSTER ON e_odd;"
                 "ALTER TABLE e_01 ENABLE ROW LEVEL SECURITY; ALTER TABLE e_01 FORCE ROW LEVEL SECURITY")
        self.settle("e_01")
        self.manage("e", premake=1, compress_after="1 month")
        rows = self.checksum("e_01")
        self.assertIn(("public.e_01", "compress", "done"), self.steps(parent="e"), self.last)
        # Policies hide nothing from it, or it would be lost.
        self.assertEqual(self.checksum("e_01"), rows)
        self.assertTrue(any("rows ordered by public.of_owner(note)" in step["detail"] for step in self.last), self.last)

    def test_index_in_a_tablespace_with_an_odd_name(self) -> None:
        with self.cluster.connect(self.database) as session:
            session.query("SET allow_in_place_tablespaces = on")
            session.query("""CREATE TABLESPACE "Fast ""Disk" LOCATION ''""")
        self.addCleanup(self.sql, """DROP TABLESPACE "Fast ""Disk" """)
        self.addCleanup(self.sql, "DROP TABLE events CASCADE")
        self.events()
        self.sql("""ALTER INDEX events_p2026_01_pkey SET TABLESPACE "Fast ""Disk" """)
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
        self.assertEqual(self.sql("SELECT indexname FROM pg_indexes WHERE tablespace = 'Fast \"Disk'"), [("events_p2026_01_pkey",)])
        self.check()

    def test_what_serializable_transactions_have_read_is_remembered(self) -> None:
        self.events()
        read = (f"SELECT DISTINCT locktype, relation::regclass::text FROM pg_locks WHERE mode = 'SIReadLock' AND relation IN"
                f" (SELECT '{JANUARY}'::regclass UNION SELECT indexrelid FROM pg_index WHERE indrelid = '{JANUARY}'::regclass)")
        with self.cluster.connect(self.database) as beside, self.cluster.connect(self.database) as reader:
            beside.query("BEGIN ISOLATION LEVEL SERIALIZABLE")
            beside.query("SELECT count(*) FROM marks")
            reader.query("SET enable_seqscan = off; SET enable_bitmapscan = off")
            reader.query("BEGIN ISOLATION LEVEL SERIALIZABLE")
            reader.query(f"SELECT * FROM {JANUARY} WHERE id = 1 AND at > '2026-01-01'")
            reader.query("INSERT INTO events VALUES (1, '2026-02-15 00:00+00', 'x')")
            reader.query("COMMIT")
            self.assertIn(("page", "events_p2026_01_pkey"), self.sql(read))
            self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
            # Its place in the files says nothing any more, and so it has read all.
            self.assertEqual(self.sql(read), [("relation", "events_p2026_01")])
            beside.query("COMMIT")

    def test_by_the_index_that_is_used(self) -> None:
        self.events()
        with self.cluster.connect(self.database) as session:
            session.query("SET enable_seqscan = off; SET enable_bitmapscan = off")
            for _ in range(30):
                session.query(f"SELECT id FROM {JANUARY} WHERE note COLLATE \"C\" = 'note 17'")
        self.wait_until(lambda: self.value("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'january_odd'") == 30, 20, "statistics")
        self.steps()
        self.assertIn("ordered by note DESC NULLS LAST, id", self.last[0]["detail"])

    def test_what_would_not_gain_is_kept(self) -> None:
        self.sql(EVENTS + ";" + MONTHS.split("CREATE INDEX events_note")[0])
        self.sql("INSERT INTO events SELECT g, timestamptz '2026-01-01 00:00+00' + g * interval '1 minute', 'x' FROM generate_series(1, 20000) g;"
                 "ALTER TABLE events_p2026_01 SET (fillfactor = 100)")
        self.sql("VACUUM FULL events_p2026_01")
        self.settle()
        self.sql("ALTER INDEX events_p2026_01_pkey SET (fillfactor = 100); REINDEX TABLE events_p2026_01")
        self.manage("events", premake=1, compress_after="1 month")
        files = self.value(f"SELECT pg_relation_filenode('{JANUARY}')")
        self.assertEqual(self.steps(), [(JANUARY, "compress", "skipped")])
        self.assertIn("kept as it is", self.last[0]["detail"])
        self.assertEqual(self.value(f"SELECT pg_relation_filenode('{JANUARY}')"), files)
        self.assertEqual(self.steps(), [])
        # Until somebody writes it anew.
        self.sql("ALTER TABLE events_p2026_01 SET (fillfactor = 30)")
        self.sql("VACUUM FULL events_p2026_01")
        self.settle()
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")])

    def test_partitions_of_partitions(self) -> None:
        self.sql("CREATE TABLE m (at date NOT NULL, kind int, t text) PARTITION BY RANGE (at);"
                 "CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM ('2026-01-01') TO ('2026-02-01') PARTITION BY LIST (kind);"
                 "CREATE TABLE m_1_a PARTITION OF m_1 FOR VALUES IN (1) WITH (fillfactor = 20); CREATE TABLE m_1_b PARTITION OF m_1 DEFAULT;"
                 "CREATE TABLE m_3 PARTITION OF m FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
                 "INSERT INTO m SELECT '2026-01-15', 1, 'text ' || g FROM generate_series(1, 5000) g")
        self.sql("CREATE TABLE m_d PARTITION OF m DEFAULT; INSERT INTO m SELECT '2020-01-15', 1, 'text ' || g FROM generate_series(1, 50) g")
        self.settle("m_1_a")
        self.manage("m", premake=1, compress_after="1 month")
        before = self.checksum("m")
        self.assertIn(("public.m_1_a", "compress", "done"), self.steps(parent="m"), self.last)
        self.assertEqual(self.checksum("m"), before)

    def test_as_its_owner(self) -> None:
        self.sql("DROP ROLE IF EXISTS packer; CREATE ROLE packer LOGIN")
        self.addCleanup(self.sql, "DROP OWNED BY packer CASCADE; DROP ROLE packer")
        self.sql("GRANT CREATE, USAGE ON SCHEMA public TO packer; GRANT USAGE ON SCHEMA perf TO packer")
        self.sql(f"SET ROLE packer; {EVENTS}; {MONTHS.split('CREATE PUBLICATION')[0]}")
        self.manage("events", user="packer", premake=1, compress_after="1 month")
        before = self.checksum(JANUARY)
        self.settle()
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
        self.assertEqual(self.checksum(JANUARY), before)
        self.assertEqual(self.value("SELECT outcome FROM perf.partition_compressions", user="packer"), "compressed")
        self.assertEqual(self.sql("SELECT DISTINCT tableowner::text FROM pg_tables WHERE tablename = 'events_p2026_01'"), [("packer",)])
        self.check()

    def test_not_in_a_transaction(self) -> None:
        self.events()
        with self.cluster.connect(self.database) as session:
            session.query("BEGIN")
            session.query("UPDATE events SET note = note WHERE id = 1")
            steps = session.execute("SELECT relation, step, status FROM perf.partition_tick('events', $1)", (NOW,)).rows
            self.assertEqual(steps, [(JANUARY, "compress", "skipped")])
            session.query("ROLLBACK")

    def test_an_index_that_is_not_valid(self) -> None:
        self.events()
        self.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'january_brin'::regclass")
        self.assertEqual(self.steps(), [(JANUARY, "compress", "skipped")])
        self.assertIn("january_brin is not valid", self.last[0]["detail"])


class Neighbours(CompressionTest):
    """Who waits, and whose rows are seen."""

    def test_nobody_waits_for_the_copy(self) -> None:
        self.events()
        before = self.checksum(JANUARY)
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as ticker:
            # Whoever reads it holds up the exchange, and so the copy is under way until the end of this.
            reader.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self.assertEqual(reader.query("SELECT count(*) > 0 FROM of_january").scalar(), True)
            ticker.send_execute("SELECT relation, step, status FROM perf.partition_tick('events', $1)", (NOW,))
            worker = self.worker()
            self.wait_until(lambda: self.sql("SELECT FROM pg_locks WHERE pid = $1 AND mode = 'AccessExclusiveLock' AND NOT granted", (worker,)),
                            30, "the exchange")
            self.assertEqual(self.checksum(JANUARY), before)
            self.sql("INSERT INTO events VALUES (1, '2026-02-02 00:00+00', 'x'); UPDATE events SET note = 'y' WHERE at >= '2026-02-01'")
            reader.query("COMMIT")
            self.assertEqual(ticker.wait(40).rows, [(JANUARY, "compress", "done")])
        self.assertEqual(self.checksum(JANUARY), before)

    def test_the_parent_is_free_while_it_is_copied(self) -> None:
        self.events()
        # An index that cannot be built while somebody has the lock.
        self.sql("CREATE FUNCTION held(timestamptz) RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE AS"
                 " 'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(7); RETURN $1; END'")
        self.sql(f"CREATE INDEX ON {JANUARY} (held(at))")
        self.settle()
        with self.cluster.connect(self.database) as holder, self.cluster.connect(self.database) as ticker:
            holder.query("BEGIN; SELECT pg_advisory_xact_lock(7)")
            ticker.send_execute("SELECT relation, step, status FROM perf.partition_tick('events', $1)", (NOW,))
            worker = self.worker()
            self.wait_until(lambda: self.sql("SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted", (worker,)),
                            30, "the copy")
            self.sql("SET lock_timeout = '5s'; ALTER TABLE events DETACH PARTITION events_p2026_02")
            holder.query("COMMIT")
            self.assertEqual(ticker.wait(40).rows, [(JANUARY, "compress", "done")])

    def test_what_is_written_meanwhile_is_not_lost(self) -> None:
        self.events()
        with self.cluster.connect(self.database) as reader, self.cluster.connect(self.database) as ticker:
            reader.query("BEGIN")
            reader.query("SELECT count(*) FROM of_january")
            ticker.send_execute("SELECT relation, step, status, detail FROM perf.partition_tick('events', $1)", (NOW,))
            worker = self.worker()
            self.wait_until(lambda: self.sql("SELECT FROM pg_locks WHERE pid = $1 AND mode = 'AccessExclusiveLock' AND NOT granted", (worker,)),
                            30, "the exchange")
            # The writer goes on, and the copy gives way.
            self.sql("DELETE FROM marks; UPDATE events SET note = 'changed' WHERE id = 1; INSERT INTO events VALUES (60000, '2026-01-05 00:00+00', 'new')")
            after = self.checksum(JANUARY)
            reader.query("COMMIT")
            step, = ticker.wait(40).rows
        self.settle()
        self.assertEqual(step[:3], (JANUARY, "compress", "skipped"))
        self.assertIn("written to while it was copied", step[3])
        self.assertEqual(self.checksum(JANUARY), after)
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")])
        self.assertEqual(self.checksum(JANUARY), after)

    def test_a_snapshot_from_before_sees_the_same(self) -> None:
        self.events()
        with self.cluster.connect(self.database) as old:
            old.query("BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TEMPORARY TABLE mine (a int)")
            before = old.query("SELECT count(*) FROM marks").scalar()
            self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
            self.assertEqual(old.query(f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {JANUARY} t").scalar(), self.checksum(JANUARY))
            self.assertEqual(before, 3)

    def test_an_old_snapshot_that_sees_other_rows_puts_it_off(self) -> None:
        self.events()
        with self.cluster.connect(self.database) as old:
            old.query("BEGIN ISOLATION LEVEL REPEATABLE READ")
            old.query("SELECT count(*) FROM marks")
            self.sql("UPDATE events SET note = 'changed' WHERE id = 3")
            self.assertEqual(self.steps(), [(JANUARY, "compress", "skipped")], self.last)
            self.assertIn("a transaction is open that may see its former rows", self.last[0]["detail"])
            old.query("COMMIT")
        self.settle()
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")])


class Logs(CompressionTest):
    """What the write-ahead log has of it."""

    uses_shared_cluster = False

    def start(self, settings: dict[str, Any]) -> None:
        """A server of its own."""
        self.own = self.private_cluster({**SETTINGS, **settings})
        self.database = "postgres"
        self.sql("CREATE EXTENSION perf_opt")

    @property
    def cluster(self) -> Cluster:
        return self.own

    def test_subscribers_hear_nothing_of_it(self) -> None:
        self.start({"wal_level": "logical"})
        self.events()
        self.sql("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
        self.sql("UPDATE events SET note = 'heard' WHERE id = 1")
        changes = self.sql("SELECT chr(get_byte(data, 0)) FROM pg_logical_slot_get_binary_changes('slot', NULL, NULL, 'proto_version', '1',"
                           " 'publication_names', 'january_only')")
        self.assertEqual([kind for (kind,) in changes if kind in "IUDT"], ["U"])

    def test_crash_with_the_least_of_it(self) -> None:
        self.start({"wal_level": "minimal", "max_wal_senders": 0, "wal_skip_threshold": 0})
        self.events()
        before = self.checksum("events")
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
        self.sql("INSERT INTO events VALUES (70000, '2026-01-31 12:00+00', 'late', repeat('x', 100000))")
        self.cluster.restart("immediate")
        self.assertEqual(self.value(ALL.format("(SELECT * FROM events WHERE id <> 70000)")), before)
        self.assertEqual(self.value("SELECT length(big) FROM events WHERE id = 70000"), 100000)
        self.check()

    def test_standby(self) -> None:
        self.start({})
        self.events()
        standby = self.cluster.standby()
        before = self.checksum("events")
        self.assertEqual(self.steps(), [(JANUARY, "compress", "done")], self.last)
        self.cluster.wait_for_replay(standby)
        self.assertEqual(standby.scalar(ALL.format("events")), before)

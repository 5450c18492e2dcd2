"""Marks of the invalidator: written over where they are, and otherwise where somebody is at them; what they refuse stays refused."""

from __future__ import annotations

from typing import Any

from .cache_case import CacheTest

OF_CHANGES = "FROM perf.cache_mark WHERE source = 0 AND mark <> -9223372036854775808"


class Marks(CacheTest):
    """A watched table with one key."""

    uses_shared_cluster = False

    def setUp(self) -> None:
        super().setUp()
        self.server = self.private_cluster(self.settings)
        self.server.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (id int, user_id int)")
        self.server.sql("SELECT perf.cache_watch('paid', 't', keys => ARRAY['k:{user_id}'], tags => '{}')")
        self.told = self.listener("postgres", self.server)
        self.change()

    def change(self) -> None:
        """Changes what the key is about, and waits until it is told."""
        self.server.sql("INSERT INTO t VALUES (1, 1)")
        self.assertEqual(self.told.wait_for(1)["keys"], {"k:1"})

    def mark(self) -> tuple[Any, ...]:
        """Where its mark is, and of which transaction; there is one."""
        rows = self.server.sql(f"SELECT ctid::text, xid, settled {OF_CHANGES}")
        self.assertEqual(len(rows), 1)
        return rows[0]

    def assert_a_change_counts(self) -> None:
        """What was there is gone, what was computed before is refused, what is computed afterwards is kept."""
        before = self.server.scalar("SELECT perf.cache_snapshot()::text")
        self.assertTrue(self.server.scalar("SELECT perf.cache_put('k:1', '1')"))
        self.change()
        self.assertIsNone(self.server.scalar("SELECT perf.cache_get('k:1')"))
        self.assertFalse(self.server.scalar("SELECT perf.cache_put('k:1', '1', snapshot => $1::pg_snapshot)", (before,)))
        self.assertTrue(self.server.scalar("SELECT perf.cache_put('k:1', '2')"))
        self.assertEqual(self.server.scalar("SELECT perf.cache_get('k:1')::text"), "2")

    def test_written_over_where_it_is(self) -> None:
        place, first, _ = self.mark()
        for _ in range(5):
            self.assert_a_change_counts()
        found, last, _ = self.mark()
        self.assertEqual(found, place)
        self.assertGreater(last, first)

    def test_one_that_was_locked(self) -> None:
        place, _, _ = self.mark()
        self.server.sql(f"BEGIN; SELECT {OF_CHANGES} FOR UPDATE; COMMIT")
        self.assert_a_change_counts()
        self.assertNotEqual(self.mark()[0], place)
        self.assert_a_change_counts()

    def test_one_whose_change_was_rolled_back(self) -> None:
        self.server.sql(f"BEGIN; DELETE {OF_CHANGES}; ROLLBACK")
        self.assert_a_change_counts()

    def test_one_that_is_gone(self) -> None:
        self.server.sql(f"DELETE {OF_CHANGES}")
        self.assert_a_change_counts()

    def test_one_that_is_about_to_be_forgotten(self) -> None:
        self.server.sql("UPDATE perf.cache_mark SET settled = 10, settled_at = now() WHERE source = 0 AND mark <> -9223372036854775808")
        self.assert_a_change_counts()
        self.assertIsNone(self.mark()[2])

    def test_one_that_is_held_is_waited_for(self) -> None:
        with self.server.connect() as holder:
            self.assertTrue(self.server.scalar("SELECT perf.cache_put('k:1', '1')"))
            holder.query(f"BEGIN; SELECT {OF_CHANGES} FOR UPDATE")
            self.server.sql("INSERT INTO t VALUES (1, 1)")
            self.wait_until(lambda: self.server.scalar("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'perf_opt invalidator'"
                                                       " AND wait_event_type = 'Lock'"), 20, "the invalidator to wait")
            self.assertEqual(self.told.heard(), [])
            holder.query("ROLLBACK")
        self.assertEqual(self.told.wait_for(1)["keys"], {"k:1"})
        self.assertIsNone(self.server.scalar("SELECT perf.cache_get('k:1')"))

    def test_in_a_table_that_is_logged(self) -> None:
        self.server.sql("ALTER TABLE perf.cache_mark SET LOGGED")
        self.assert_a_change_counts()

    def test_kept_over_a_shutdown(self) -> None:
        before = self.server.scalar("SELECT perf.cache_snapshot()::text")
        self.change()
        self.told.session.close()
        self.server.restart()
        self.assertFalse(self.server.scalar("SELECT perf.cache_put('k:1', '1', snapshot => $1::pg_snapshot)", (before,)))
        self.assertTrue(self.server.scalar("SELECT perf.cache_put('k:1', '1')"))

"""Where changes wait between a commit and their invalidation: in memory, in the table when there is no room, in a file while
the server is down; and what is done when nobody knows what was lost."""

from __future__ import annotations

import os
import signal
import unittest
from typing import Any

from .cache_case import CacheTest, Redis, program

KEYS = "keys => ARRAY['k:{user_id}']"


class Changes(CacheTest):
    """Servers of their own."""

    uses_shared_cluster = False

    def begin(self, **settings: Any) -> Any:
        """A server with a watched table."""
        server = self.private_cluster({**self.settings, **settings})
        server.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (id int, user_id int)")
        server.sql(f"SELECT perf.cache_watch('paid', 't', {KEYS})")
        return server

    def invalidator(self, server: Any) -> Any:
        return server.scalar("SELECT max(pid) FROM pg_stat_activity WHERE backend_type = 'perf_opt invalidator'")

    def tabled(self, server: Any) -> int:
        """Changes that went to the table so far."""
        return server.scalar("SELECT n_tup_ins FROM pg_stat_all_tables WHERE relid = 'perf.cache_outbox'::regclass")

    def assert_nothing_was_tabled(self, server: Any) -> None:
        """No change went to the table."""
        # One that does makes the numbers of statistics come, all of them.
        server.sql("SELECT perf.cache_invalidate(key => 'x')")
        self.wait_until(lambda: self.tabled(server) > 0, 20, "statistics")
        self.assertEqual(self.tabled(server), 1)

    def test_nothing_is_written(self) -> None:
        server = self.begin()
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (1, 1)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:1"})
        self.assert_nothing_was_tabled(server)

    def test_same_changes_are_told_once(self) -> None:
        server = self.begin()
        listener = self.listener("postgres", server)
        server.sql("DO $$BEGIN FOR i IN 1..5000 LOOP INSERT INTO t VALUES (i, 7); END LOOP; END$$")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:7"})
        self.assert_nothing_was_tabled(server)

    def test_more_than_a_transaction_may_have_waiting(self) -> None:
        server = self.begin()
        listener = self.listener("postgres", server)
        server.sql("DO $$BEGIN FOR i IN 1..3000 LOOP INSERT INTO t VALUES (i, i); END LOOP; END$$")
        self.assertEqual(listener.wait_for(3000)["keys"], {f"k:{user}" for user in range(1, 3001)})
        self.wait_until(lambda: self.tabled(server) > 2000, 20, "statistics")

    def test_more_than_there_is_room_for(self) -> None:
        server = self.begin()
        listener = self.listener("postgres", server)
        self.wait_until(lambda: self.invalidator(server), 20, "the invalidator")
        pid = self.invalidator(server)
        os.kill(pid, signal.SIGSTOP)
        try:
            with server.connect() as session:
                for user in range(4000):
                    session.query(f"INSERT INTO t VALUES (1, {user})")
        finally:
            os.kill(pid, signal.SIGCONT)
        self.assertEqual(listener.wait_for(4000)["keys"], {f"k:{user}" for user in range(4000)})
        self.wait_until(lambda: self.tabled(server) > 100, 20, "statistics")
        self.assertLess(self.tabled(server), 3900)

    def test_kept_over_a_shutdown(self) -> None:
        server = self.begin()
        for key in ("k:1", "k:2"):
            self.assertTrue(server.scalar("SELECT perf.cache_put($1, '1')", (key,)))
        # Nobody works off what changes.
        server.configure({"perf_opt.collector": "off"})
        server.restart()
        server.sql("INSERT INTO t VALUES (1, 1)")
        self.assertEqual(server.scalar("SELECT count(*) FROM perf.cache_outbox"), 0)
        server.restart()
        self.assertEqual(server.scalar("SELECT perf.cache_get('k:1')::text"), "1")
        server.configure({"perf_opt.collector": "on"})
        server.restart()
        self.wait_until(lambda: server.scalar("SELECT perf.cache_get('k:1')") is None, 30, "the change to count")
        self.assertEqual(server.scalar("SELECT perf.cache_get('k:2')::text"), "1")
        self.assertNotIn("may have been lost", server.log_text())

    def test_rolled_back_commits_leave_no_room_taken(self) -> None:
        """A transaction that fails at its commit, when it has its room already, gives it back."""
        server = self.begin()
        server.sql("CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int REFERENCES parent "
                   "DEFERRABLE INITIALLY DEFERRED)")
        listener = self.listener("postgres", server)
        for user in range(50):
            self.assert_sql_error("23503", server, f"BEGIN; INSERT INTO t VALUES (1, {user}); INSERT INTO child VALUES (1); COMMIT")
        server.sql("INSERT INTO t VALUES (1, 99)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:99"})

    def test_without_its_file(self) -> None:
        """As a standby of a server that began to load the library later than it."""
        server = self.begin()
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (1, 1)")
        listener.wait_for(1)
        server.stop()
        (server.data_dir / "pg_stat" / "perf_opt_changes").unlink()
        server.start()
        server.wait_for_log("changes of watched relations may have been lost", 60)

    @unittest.skipIf(program() is None, "there is no redis-server, and no apt to fetch it with")
    def test_lost_in_a_crash(self) -> None:
        redis = Redis()
        self.addCleanup(redis.destroy)
        server = self.begin(**{"perf_opt.redis_url": redis.url})
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (1, 1)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:1"})
        listener.session.close()
        for key in ("k:1", "other"):
            redis.call("SET", key, "x")
        server.stop("immediate")
        server.start()
        self.wait_until(lambda: redis.keys() == {"other"}, 60, "what templates can name to be removed")
        server.wait_for_log("changes of watched relations may have been lost")
        # Once: it is known from then on, and after a shutdown, too.
        redis.call("SET", "k:2", "x")
        server.restart()
        self.wait_until(lambda: self.invalidator(server), 60, "the invalidator")
        listener = self.listener("postgres", server)
        server.sql("INSERT INTO t VALUES (1, 3)")
        self.assertEqual(listener.wait_for(1)["keys"], {"k:3"})
        self.assertEqual(redis.keys(), {"other", "k:2"})
        self.assertEqual(server.log_text().count("changes of watched relations may have been lost"), 1)

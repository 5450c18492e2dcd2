"""Invalidation in Redis: exact, safe while it cannot be reached, and never in the way of anybody else."""

from __future__ import annotations

import os
import signal
import time
import unittest
from typing import Any

from .cache_case import CacheTest, Redis, certificates, program
from .system import make_private_dir, remove_dir, wait_until


@unittest.skipIf(program() is None, "there is no redis-server, and no apt to fetch it with")
class Invalidation(CacheTest):
    """A server with a Redis of its own."""

    uses_shared_cluster = False
    database = "postgres"

    def begin(self, *options: str, url: str = "", tls: Any = None, **settings: Any) -> None:
        """Starts both, and watches a table."""
        self.redis = Redis(*options, tls=tls)
        self.addCleanup(self.redis.destroy)
        self.server = self.private_cluster({**self.settings, "perf_opt.redis_url": url or self.redis.url, **settings})
        self.server.sql("CREATE EXTENSION perf_opt; CREATE TABLE t (id int, user_id int)")
        self.server.sql("SELECT perf.cache_watch('paid', 't', keys => ARRAY['risk:user:{user_id}', 'deep:{id}:{user_id}'])")
        self.wait_until(lambda: self.redis_health() is not None, 20, "the invalidator to know of Redis")
        self.hear = self.listener("postgres", self.server)

    def redis_health(self) -> Any:
        rows = self.server.sql("SELECT status, detail FROM perf.health() WHERE component = 'redis'")
        return rows[0] if rows else None

    def write(self, user: int) -> None:
        self.server.sql("INSERT INTO t VALUES (1, $1::int)", (user,))

    def put(self, *keys: str) -> None:
        self.redis.call("MSET", *(word for key in keys for word in (key, "value")))

    def test_keys_leases_beginnings_and_tags(self) -> None:
        self.begin()
        self.put("risk:user:1", "risk:user:1:lease", "risk:user:10", "deep:1:1", "deep:2:1", "tagged", "tagged:lease", "free")
        self.redis.call("SADD", "tag:paid", "tagged", "long gone")
        self.write(1)
        self.hear.wait_for(3)
        self.assertEqual(self.redis.keys(), {"risk:user:10", "deep:2:1", "free"})
        # Without its value, a template takes all keys that begin like it; what looks like a pattern is none.
        self.put("risk:user:11:lease", "risk:user", "deep:1:1", "deep:1*", "deep:x")
        self.server.sql("INSERT INTO t VALUES (NULL, NULL)")
        self.hear.wait_for(3)
        self.assertEqual(self.redis.keys(), {"free", "risk:user"})
        self.assertEqual(self.redis_health()[0], "ok")

    def test_killed_and_restarted(self) -> None:
        self.begin()
        self.put("risk:user:1")
        self.write(1)
        self.hear.wait_for(1)
        self.redis.signal(signal.SIGKILL)
        self.write(2)
        # Others hear of it all the same, and that Redis does not know.
        self.assertEqual(self.hear.wait_for(1)["keys"] & {"risk:user:2"}, {"risk:user:2"})
        self.write(3)
        self.hear.wait_for(1)
        status, detail = self.wait_until(lambda: (row := self.redis_health())[0] == "error" and row, 10, "health() to say so")
        self.assertRegex(detail, "not reached for .* batches wait")
        self.redis.start()
        self.put("risk:user:2", "risk:user:3", "risk:user:4")
        self.wait_until(lambda: self.redis.keys() == {"risk:user:4"}, 40, "Redis to be told")
        self.wait_until(lambda: self.redis_health()[0] == "ok", 10, "health() to say so")
        self.assertLessEqual({"risk:user:2", "risk:user:3"}, self.hear.wait_for(2)["keys"])
        self.assertEqual(self.server.scalar("SELECT count(*) FROM perf.cache_redis_queue"), 0)
        self.assertEqual(self.server.log_text().count("cannot invalidate in Redis"), 1)

    def test_one_that_hangs_holds_nobody_up(self) -> None:
        self.begin()
        self.write(1)
        self.hear.wait_for(1)
        self.redis.signal(signal.SIGSTOP)
        self.write(2)
        self.wait_until(lambda: self.redis_health()[0] == "error", 10, "health() to say so")
        lags = []
        for user in range(100, 140):
            self.hear.heard()
            began = time.monotonic()
            self.write(user)
            wait_until(lambda: any(f"risk:user:{user}" in notice["keys"] for notice in self.hear.heard()), 10,
                            "the notice", 0.002)
            lags.append(time.monotonic() - began)
        lags.sort()
        self.assertLess(lags[35], 0.3, lags)
        self.assertLess(lags[-1], 0.9, lags)
        self.redis.signal(signal.SIGCONT)
        self.put("risk:user:130")
        self.wait_until(lambda: not self.redis.keys(), 60, "Redis to be told")

    def test_what_redis_refuses_stops_nothing_else(self) -> None:
        self.begin()
        # Of another type than a tag has.
        self.redis.call("SET", "tag:paid", "free")
        self.put("risk:user:1", "risk:user:2")
        for user in (1, 2):
            self.write(user)
            self.hear.wait_for(3)
        self.assertEqual(self.redis.keys(), {"tag:paid"})
        self.wait_until(lambda: self.server.scalar("SELECT count(*) FROM perf.cache_redis_queue") == 0, 10, "an empty queue")
        status, detail = self.redis_health()
        self.assertEqual(status, "warning")
        self.assertRegex(detail, "refused to remove 2 keys or tags, the latest: .*WRONGTYPE")
        self.assertNotIn("cannot invalidate in Redis", self.server.log_text())

    def test_out_of_memory(self) -> None:
        self.begin("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
        with self.assertRaisesRegex(Exception, "OOM"):
            for number in range(100_000):
                self.redis.call("SET", f"risk:user:{number}", "x" * 10_000)
        self.redis.call("CONFIG", "SET", "maxmemory", "1mb")
        self.write(5)
        self.hear.wait_for(1)
        self.assertNotIn("risk:user:5", self.redis.keys())
        self.assertIn("risk:user:6", self.redis.keys())

    def test_password(self) -> None:
        self.begin("--requirepass", "right", url="redis://:wrong@127.0.0.1:1")
        self.server.configure({"perf_opt.redis_url": f"redis://:wrong@127.0.0.1:{self.redis.port}"}, reload=True)
        self.write(1)
        detail = self.wait_until(lambda: (row := self.redis_health()) and row[0] == "error" and "uthent" in row[1] and row[1],
                                 40, "the reason")
        self.assertNotIn("wrong", detail.replace("WRONGPASS", ""))
        self.redis.call("SET", "risk:user:1", "x", password="right")
        self.server.configure({"perf_opt.redis_url": f"redis://:right@127.0.0.1:{self.redis.port}"}, reload=True)
        self.wait_until(lambda: self.redis.call("EXISTS", "risk:user:1", password="right") == 0, 20, "Redis to be told")
        # The server itself logs a setting that a reload has changed.
        ours = [line for line in self.server.log_text().splitlines() if "perf_opt invalidator" in line]
        self.assertTrue(ours)
        self.assertNotIn(":right@", str(ours))
        self.server.sql("CREATE ROLE nosy")
        self.assert_sql_error("42501", self.server, "SET ROLE nosy; SHOW perf_opt.redis_url")

    def test_what_is_no_url(self) -> None:
        self.begin(url="http://example.org/")
        self.write(1)
        self.wait_until(lambda: self.redis_health()[0] == "error", 20, "the reason")
        self.assertEqual(self.hear.wait_for(1)["keys"] & {"risk:user:1"}, {"risk:user:1"})

    def test_tls(self) -> None:
        directory = make_private_dir()
        self.addCleanup(remove_dir, directory)
        certificates(directory)
        self.begin(tls=directory)
        self.write(1)
        detail = self.wait_until(lambda: (row := self.redis_health()) and row[0] == "error" and row[1], 20, "the reason")
        self.assertRegex(detail, "(?i)certificate")
        self.server.configure({"perf_opt.redis_ca_file": str(directory / "ca.crt")}, reload=True)
        self.wait_until(lambda: self.redis_health()[0] == "ok", 40, "a connection")
        self.wait_until(lambda: self.server.scalar("SELECT count(*) FROM perf.cache_redis_queue") == 0, 20, "Redis to be told")

    def test_the_queue_is_bounded(self) -> None:
        self.begin(**{"perf_opt.cache_outbox_max_mb": 1})
        self.write(1)
        self.hear.wait_for(1)
        self.redis.signal(signal.SIGKILL)
        for start in range(0, 60_000, 900):
            self.server.sql("INSERT INTO t SELECT g, g FROM generate_series($1::int, $1::int + 899) g", (start,))
        self.wait_until(lambda: self.server.scalar("SELECT count(*) FROM perf.cache_outbox") == 0, 40, "the outbox to be empty")
        self.assertIn("too much was waiting for Redis", self.server.log_text())
        self.assertLess(self.server.scalar("SELECT sum(length(events::text)) FROM perf.cache_redis_queue"), 1_200_000)
        # It must not be back in touch before there is something to remove.
        worker = self.server.scalar("SELECT pid FROM pg_stat_activity WHERE backend_type = 'perf_opt invalidator'")
        os.kill(worker, signal.SIGSTOP)
        try:
            self.redis.start()
            self.put("risk:user:1", "risk:user:59999", "deep:3:4", "free")
            self.redis.call("SADD", "tag:paid", "free too")
            self.put("free too")
        finally:
            os.kill(worker, signal.SIGCONT)
        self.wait_until(lambda: self.redis.keys() == {"free"}, 40, "Redis to be told")

"""perf.apply, perf.verify and perf.undo of caching strategies: the policy and the watches are made, asked, judged and taken back."""

from __future__ import annotations

import json
import time
from typing import Any

from .test_apply import OPEN_SETTINGS, ApplyTest

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO users SELECT g, 'user ' || g FROM generate_series(1, 200) g;
CREATE TABLE visits (id bigserial PRIMARY KEY, user_id int NOT NULL, pages int NOT NULL);
INSERT INTO visits (user_id, pages) SELECT g % 200 + 1, g % 100 FROM generate_series(1, 300000) g;
ANALYZE
"""
ONE = "SELECT user_id, count(*) AS visits, sum(pages) AS pages FROM visits WHERE user_id = $1 AND pages >= 0 GROUP BY user_id"
JOINED = ("SELECT u.name, max(v.pages) FROM users u JOIN visits v ON v.user_id = u.id WHERE u.id = $1 AND v.pages BETWEEN 1 AND 90 "
          "GROUP BY u.name")


class Caches(ApplyTest):
    """Strategies of the workload, and of policies."""

    settings = {**OPEN_SETTINGS, "perf_opt.cache_survey_min_ms": 0.5}

    def setUp(self) -> None:
        super().setUp()
        for statement in SCHEMA.strip().split(";\n"):
            self.sql(statement)
        self.sql("SELECT perf.reset()")

    def reads(self, query: str, times: int = 60) -> None:
        """Asks for a few users, again and again."""
        with self.cluster.connect(self.database) as session:
            for at in range(times):
                session.execute(query, (at % 3 + 1,))

    def strategy(self, part: str, source: str = "workload") -> dict[str, Any]:
        """The recommended strategy of a statement."""
        def found() -> list[dict[str, Any]]:
            rows = self.cluster.result("SELECT *, evidence::text AS told FROM perf.caching_strategies() WHERE status = 'recommended'",
                                       dbname=self.database).dicts()
            return [row for row in rows if part in row["told"] and row["source"] == source]
        deadline = time.monotonic() + 30
        while not found():
            self.assertLess(time.monotonic(), deadline, self.sql("SELECT name, status, reason FROM perf.caching_strategies()"))
            self.reads(ONE if part in ONE else JOINED, 20)
        return found()[0]

    def cached(self, name: str, **values: Any) -> Any:
        """What the cache gives."""
        return self.value("SELECT perf.cached($1, $2::text::jsonb)::text", (name, json.dumps(values)))

    def hits(self, name: str) -> int:
        return self.value("SELECT hits FROM perf.cache_stats() WHERE name = $1", (name,))

    def test_set_up_asked_verified_and_undone(self) -> None:
        row = self.strategy("sum(pages)")
        change_id = f"cache:{row['name']}"
        run = self.apply(change_id)
        self.assertEqual(run["status"], "succeeded", run)
        change = self.change(change_id)
        self.assertEqual((change["kind"], change["relation"], change["status"]), ("cache_policy", row["name"], "applied"))
        self.assertGreater(change["predicted_pct"], 1)
        call = f"""SELECT perf.cached('{row["name"]}', '{{"user_id":"...","value_2":"..."}}')"""
        self.assertIn(call, change["message"])
        policy = self.cluster.result("SELECT * FROM perf.cache_policy WHERE cache_name = $1", (row["name"],),
                                     dbname=self.database).dicts()[0]
        self.assertEqual((policy["key_template"], policy["invalidated_by"], policy["origin"]),
                         ("app:visits:{user_id}:{value_2}", ["visits_changed"], "added"))
        self.assertEqual(self.sql("SELECT event, relation::text, is_active FROM perf.cache_watches"),
                         [("visits_changed", "visits", True)])
        self.refused("55000", "SELECT perf.apply($1)", (change_id,))
        waiting = self.verify(change_id)
        self.assertEqual(waiting["verdict"], "waiting")
        self.assertIn(call, waiting["reason"])

        # The same rows as the statement, from the store, until somebody writes them.
        with self.cluster.connect(self.database) as session:
            found = session.execute(ONE, (2,)).dicts()
        asked = [json.loads(self.cached(row["name"], user_id=2, value_2=0)) for _ in range(40)]
        self.assertEqual(asked, [[{"user_id": 2, "visits": found[0]["visits"], "pages": int(found[0]["pages"])}]] * 40)
        self.assertGreaterEqual(self.hits(row["name"]), 38)
        self.sql("UPDATE visits SET pages = pages + 1 WHERE id = (SELECT min(id) FROM visits WHERE user_id = 2)")
        more = json.loads(self.cached(row["name"], user_id=2, value_2=0))
        self.assertEqual(more[0]["pages"], asked[0][0]["pages"] + 1)

        told = self.verify(change_id)
        self.assertEqual(told["verdict"], "verified", told)
        self.assertGreater(told["achieved_pct"], 0)
        self.assertIn("gets were hits", told["reason"])

        key = "app:visits:2:0"
        self.assertIsNotNone(self.value("SELECT perf.cache_get($1)::text", (key,)))
        self.assertEqual(self.undo(change_id)["status"], "succeeded")
        self.assertEqual(self.sql("SELECT FROM perf.cache_policy WHERE cache_name = $1", (row["name"],)), [])
        self.assertEqual(self.sql("SELECT FROM perf.cache_watches"), [])
        self.assertEqual(self.sql("SELECT FROM pg_trigger WHERE tgrelid = 'visits'::regclass"), [])
        self.assertIsNone(self.value("SELECT perf.cache_get($1)::text", (key,)), "nobody would keep it exact")
        self.assertEqual(self.change(change_id)["status"], "undone")
        self.assertEqual([outcome for _, outcome in self.audit(change_id)], ["queued", "ok", "verified", "queued", "ok"])

    def test_all_tables_of_a_join_are_exact(self) -> None:
        self.reads(JOINED)
        row = self.strategy("max(v.pages)")
        change_id = f"cache:{row['name']}"
        self.assertEqual(self.apply(change_id)["status"], "succeeded")
        # Rows of visits have an id as well, which is no user's.
        values = {f"value_{n}": value for n, value in ((1, 3), (2, 1), (3, 90))}
        self.assertEqual(row["key_template"], "app:users:{value_1}:{value_2}:{value_3}")
        name = json.loads(self.cached(row["name"], **values))
        self.assertEqual(name, [{"name": "user 3", "max": name[0]["max"]}])
        self.sql("UPDATE visits SET pages = 90 WHERE id = (SELECT max(id) FROM visits WHERE user_id = 3)")
        self.assertEqual(json.loads(self.cached(row["name"], **values))[0]["max"], 90)
        self.sql("UPDATE users SET name = 'other' WHERE id = 3")
        self.assertEqual(json.loads(self.cached(row["name"], **values))[0]["name"], "other")
        # What somebody has edited since is his.
        self.sql("UPDATE perf.cache_policy SET compute_sql = 'SELECT 1' WHERE cache_name = $1", (row["name"],))
        error = self.refused("55000", "SELECT perf.undo($1)", (change_id,))
        self.assertIn("is another one now", str(error))

    def test_a_watch_stays_as_long_as_one_goes_by_it(self) -> None:
        self.reads(JOINED)
        first = self.strategy("sum(pages)")["name"]
        second = self.strategy("max(v.pages)")["name"]
        for name in (first, second):
            self.assertEqual(self.apply(f"cache:{name}")["status"], "succeeded")
        values = {f"value_{n}": value for n, value in ((1, 3), (2, 1), (3, 90))}
        json.loads(self.cached(second, **values))
        self.assertEqual(self.undo(f"cache:{first}")["status"], "succeeded")
        self.sql("UPDATE visits SET pages = 90 WHERE id = (SELECT max(id) FROM visits WHERE user_id = 3)")
        self.assertEqual(json.loads(self.cached(second, **values))[0]["max"], 90)
        # The other way round, and with a table that is gone.
        self.assertEqual(self.apply(f"cache:{first}")["status"], "succeeded")
        self.sql("DROP TABLE users")
        for name in (second, first):
            self.assertEqual(self.undo(f"cache:{name}")["status"], "succeeded")
        self.assertEqual(self.sql("SELECT FROM perf.cache_watches"), [])
        self.assertEqual(self.sql("SELECT FROM pg_trigger WHERE tgrelid = 'visits'::regclass"), [])

    def test_of_a_policy_only_watches(self) -> None:
        self.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, invalidated_by, query_pattern, origin) "
                 "VALUES ('mine', 'app:mine:{user_id}', '5 min', '{seen}', '%sum(pages)%', 'added')")
        self.strategy("sum(pages)", "both")
        self.assertEqual(self.apply("cache:mine")["status"], "succeeded")
        self.assertEqual(self.sql("SELECT event, relation::text FROM perf.cache_watches"), [("seen", "visits")])
        self.assertEqual(self.undo("cache:mine")["status"], "succeeded")
        self.assertEqual(self.sql("SELECT FROM perf.cache_watches"), [])
        self.assertEqual(len(self.sql("SELECT FROM perf.cache_policy WHERE cache_name = 'mine'")), 1)
        # Watched by hand, nothing is left to be done.
        self.sql("SELECT perf.cache_watch('seen', 'visits')")
        error = self.refused("55000", "SELECT perf.apply('cache:mine')")
        self.assertIn("needs nothing to be done", str(error))

    def test_refused(self) -> None:
        self.refused("22023", "SELECT perf.apply('cache:nothing')")
        self.refused("22023", "SELECT perf.apply('cache:')")
        row = self.strategy("sum(pages)")
        change_id = f"cache:{row['name']}"
        self.sql("DROP ROLE IF EXISTS cache_reader")
        self.sql("CREATE ROLE cache_reader LOGIN IN ROLE pg_read_all_stats, pg_monitor")
        self.addCleanup(self.sql, "DROP OWNED BY cache_reader; DROP ROLE cache_reader")
        self.sql("GRANT SELECT ON visits TO cache_reader")
        # The statement is another role's: he is not told of it.
        self.refused("22023", "SELECT perf.apply($1)", (change_id,), user="cache_reader")
        self.sql("SELECT perf.reset()")
        with self.cluster.connect(self.database, user="cache_reader") as session:
            for at in range(100):
                session.execute(ONE, (at % 3 + 1,))

        def is_told() -> bool:
            return bool(self.sql("SELECT FROM perf.caching_strategies() WHERE name = $1 AND status = 'recommended'", (row["name"],)))
        self.wait_until(is_told, 20, "the reads of the role to be counted")
        error = self.refused("42501", "SELECT perf.apply($1)", (change_id,), user="cache_reader")
        self.assertIn("cache_policy", str(error))
        self.sql("GRANT INSERT ON perf.cache_policy TO cache_reader")
        error = self.refused("42501", "SELECT perf.apply($1)", (change_id,), user="cache_reader")
        self.assertIn("visits", str(error))
        # Names that mean something else in the caller's path.
        self.sql("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.visits (LIKE visits)")
        with self.cluster.connect(self.database) as session:
            session.query("SET search_path = elsewhere, public")
            with self.assertRaises(Exception) as caught:
                session.execute("SELECT perf.apply($1)", (change_id,))
        self.assertIn("other tables", str(caught.exception))
        self.assertEqual(self.sql("SELECT FROM perf.applied_changes"), [])

"""The client recipe of the README, run as it stands there, with SQLAlchemy, psycopg and redis-py from PyPI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

from .cache_case import CacheTest, Redis, program
from .system import clean_environment

ROOT = Path(__file__).resolve().parents[2]
WHEELS = {"sqlalchemy": "sqlalchemy>=2,<3", "redis": "redis>=5", "psycopg": "psycopg>=3.2,<4",
          "psycopg-binary": "psycopg-binary>=3.2,<4", "typing-extensions": "typing-extensions"}

# Appended to the recipe: reads, writes and checks, then says what it saw.
CHECKS = '''
import queue, threading, time
notices = queue.Queue()
threading.Thread(target=listen, args=(notices.put,), daemon=True).start()
assert notices.get(timeout=20)["event"] == "connected"

def write(user_id):
    with engine.begin() as session:
        session.execute(text("INSERT INTO transactions (user_id) VALUES (:u)"), {"u": user_id})
    while f"cache:risk:user:{user_id}" not in notices.get(timeout=20)["keys"]:
        pass

assert [risk(1), risk(1)] == [0, 0]
assert cache.get("cache:risk:user:1") == b"0"
for count in range(1, 51):
    write(1)
    assert risk(1) == count, (risk(1), count)
    assert cache.get("cache:risk:user:1") is not None

# What was computed before a change is not put after it.
def slow(session):
    value = session.scalar(text("SELECT count(*) FROM transactions WHERE user_id = 2"))
    write(2)
    return value
assert read_through("cache:risk:user:2", slow) == 0
assert cache.get("cache:risk:user:2") is None
assert risk(2) == 1

# By tag.
assert read_through("list:all", lambda session: session.scalar(text("SELECT count(*) FROM transactions")), tags=["transaction_created"]) == 51
assert cache.exists("list:all")
write(3)
assert not cache.exists("list:all"), "the tag's members"
print("all is well")
'''


def recipe() -> str:
    """The code block of the README."""
    found = re.search(r"<!-- recipe.*?-->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None
    return found[1]


@unittest.skipIf(program() is None, "there is no redis-server, and no apt to fetch it with")
class Recipe(CacheTest):
    """A client as the README has it."""

    uses_shared_cluster = False

    def test_recipe(self) -> None:
        sys.path.insert(0, str(ROOT / "tools"))
        self.addCleanup(sys.path.remove, str(ROOT / "tools"))
        from bootstrap.packages import wheel

        packages = [wheel(name, requirement, "about 4 MB") for name, requirement in WHEELS.items()]
        redis = Redis()
        self.addCleanup(redis.destroy)
        server = self.private_cluster({**self.settings, "perf_opt.redis_url": redis.url}, tcp=True)
        server.sql("CREATE EXTENSION perf_opt; CREATE TABLE transactions (id bigserial, user_id int)")
        server.sql("SELECT perf.cache_watch('transaction_created', 'transactions', '{insert}', ARRAY['cache:risk:user:{user_id}'], "
                   "'{transaction_created}')")
        at = f"postgres@127.0.0.1:{server.port}/postgres"
        environment = {**clean_environment(), "PYTHONPATH": os.pathsep.join(map(str, packages)), "REDIS_URL": redis.url,
                       "DATABASE_URL": f"postgresql+psycopg://{at}", "LISTEN_URL": f"postgresql://{at}"}
        done = subprocess.run([sys.executable, "-c", recipe() + CHECKS], capture_output=True, text=True, env=environment, timeout=90)
        self.assertEqual((done.stdout, done.returncode), ("all is well\n", 0), done.stderr)

"""Suite `shadow`: the hit rates of perf.cache_shadow beside those of real caches, LRU with a time to live and exact
invalidation, that replay the same executed statements."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, wait_until
from e2e.system import clean_environment

from . import report

POINTS_MAX = 3.0
EXPONENTS = (0.6, 0.8, 1.0, 1.2)
STATEMENTS = 60_000
WRITE_SHARE = 0.05
SIZES = (100_000, 400_000, 1_600_000, 16_000_000)
TTLS_S = (0.5, 2.0, None)
# Each row has the time of its statement with it.
TIME_BYTES = 8
# More keys than a shadow keeps: some of them are sampled.
KEYS = {0.6: 20_000, 0.8: 4_000, 1.0: 20_000, 1.2: 20_000}


def statements(exponent: float, keys: int) -> list[tuple[bool, int]]:
    """Whether each writes, and of which key."""
    chance = random.Random(int(exponent * 10))
    ranks = list(range(keys))
    chance.shuffle(ranks)
    sums = list(accumulate((rank + 1) ** -exponent for rank in range(keys)))
    drawn = chance.choices(ranks, cum_weights=sums, k=STATEMENTS)
    return [(chance.random() < WRITE_SHARE, key) for key in drawn]


class RealCache:
    """Values by key, the least recently used first."""

    def __init__(self, size: int, ttl_s: float | None) -> None:
        self.size, self.ttl_s, self.used, self.hits = size, ttl_s, 0, 0
        # Bytes of each.
        self.values: OrderedDict[int, int] = OrderedDict()
        self.ages: OrderedDict[int, float] = OrderedDict()

    def drop(self, key: int) -> None:
        """Takes a value out, if it is there."""
        if key in self.values:
            self.used -= self.values.pop(key)
            del self.ages[key]

    def read(self, at: float, key: int, size: int) -> None:
        """Looks a key up, and puts the value that was computed where it was not there."""
        while self.ttl_s is not None and self.ages:
            oldest = next(iter(self.ages))
            if self.ages[oldest] + self.ttl_s > at:
                break
            self.drop(oldest)
        if key in self.values:
            self.hits += 1
            self.values.move_to_end(key)
            return
        while self.values and self.used + size > self.size:
            self.drop(next(iter(self.values)))
        self.values[key] = size
        self.ages[key] = at
        self.used += size


def run_case(pg_root: Path, exponent: float) -> list[dict[str, Any]]:
    """One server, one trace; what shadow and real caches say."""
    keys = KEYS[exponent]
    trace = statements(exponent, keys)
    settings = {"perf_opt.collect_interval": "1s", "synchronous_commit": "off"}
    with Cluster(pg_root, settings, name=f"shadow {exponent}") as cluster:
        cluster.sql("CREATE EXTENSION perf_opt")
        cluster.sql(f"CREATE TABLE kv AS SELECT g AS k, repeat('x', 80 + g % 40) AS v FROM generate_series(0, {keys - 1}) g")
        cluster.sql("ALTER TABLE kv ADD PRIMARY KEY (k)")
        cluster.sql("ANALYZE kv")
        # The clock is in the rows, so that the real caches know when each statement ran.
        read = "SELECT v, extract(epoch FROM statement_timestamp())::float8 AS at FROM kv WHERE k = {}"
        write = "UPDATE kv SET v = v WHERE k = {} RETURNING 'w', extract(epoch FROM statement_timestamp())::float8"
        cluster.sql("INSERT INTO perf.cache_policy (cache_name, key_template, ttl, source_tables, query_pattern)"
                    " VALUES ('kv', 'kv:{k}', '1 h', '{kv}', 'SELECT v, extract(%')")
        cluster.sql(read.format(-1))
        ttls = ",".join("NULL" if ttl is None else f"{ttl} s" for ttl in TTLS_S)
        cluster.sql(f"SELECT perf.cache_shadow('kv', sizes => '{{{','.join(map(str, SIZES))}}}', ttls => '{{{ttls}}}')")
        wait_until(lambda: cluster.sql("SELECT FROM perf.cache_shadow_results('kv')"), 20, "the shadow to be there")
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.writelines((write if writes else read).format(key) + ";\n" for writes, key in trace)
            script.flush()
            began = time.monotonic()
            done = subprocess.run([cluster.program("psql"), "-h", str(cluster.socket_dir), "-p", str(cluster.port), "-U", "postgres",
                                   "-X", "-q", "-A", "-t", "-F", "|", "-f", script.name, "postgres"],
                                  capture_output=True, text=True, check=True, env=clean_environment())
            took = time.monotonic() - began
        lines = [line.split("|") for line in done.stdout.splitlines() if line.count("|") == 1]
        assert len(lines) == len(trace), f"{len(lines)} of {len(trace)} statements answered"
        reads = sum(not writes for writes, _ in trace)
        shadow = lambda: cluster.result("SELECT *, extract(epoch FROM ttl)::float8 AS ttl_s"
                                        " FROM perf.cache_shadow_results('kv')").dicts()
        before: list[int] = []

        def settled() -> bool:
            before.append(shadow()[0]["gets"])
            time.sleep(1.2)
            return before[-1] > 0.8 * reads and shadow()[0]["gets"] == before[-1]

        wait_until(settled, 40, "the shadow to have read everything")
        found = []
        for row in shadow():
            assert row["note"] is None, row["note"]
            real = RealCache(row["size_bytes"], row["ttl_s"])
            for (writes, key), (value, at) in zip(trace, lines):
                if writes:
                    real.drop(key)
                else:
                    real.read(float(at), key, len(value) + TIME_BYTES)
            found.append({"exponent": exponent, "keys": keys, "size_bytes": row["size_bytes"], "ttl_s": row["ttl_s"],
                          "shadow_pct": row["hit_pct"], "real_pct": 100 * real.hits / reads, "sampled_pct": row["sampled_pct"],
                          "statements_per_s": STATEMENTS / took})
        return found


def run(pg_root: Path, options: Any) -> bool:
    """All cases; whether the target is met."""
    report.say(f"shadow: {STATEMENTS:,} statements each, {100 * WRITE_SHARE:g} % writes, {len(SIZES)} sizes, {len(TTLS_S)} times to live")
    found = [row for exponent in EXPONENTS for row in run_case(pg_root, exponent)]
    for row in found:
        row["off"] = abs(row["shadow_pct"] - row["real_pct"])
    met = all(row["off"] <= POINTS_MAX for row in found)
    report.save("shadow", {"rows": found})
    written = [[f"{row['exponent']}, {row['keys']:,} keys", f"{row['size_bytes']:,}", row["ttl_s"] or "none",
                f"{row['sampled_pct']:g}", f"{row['real_pct']:.1f}", f"{row['shadow_pct']:.1f}", f"{row['off']:.2f}"] for row in found]
    report.table("Hit rates, %", ["Zipf", "bytes", "ttl, s", "keys looked at, %", "real cache", "shadow", "points off"], written,
                 [f"target, within {POINTS_MAX:g} points: {report.verdict(met)}, worst {max(row['off'] for row in found):.2f}"])
    return met

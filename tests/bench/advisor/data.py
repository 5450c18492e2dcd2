"""The TPC-H server: data at scale 1, primary keys only, in a cluster that is loaded once and kept.

Owns the directory of the cluster in the cache, and a lock on it for as long as a `TpchServer` is open. The generator
is a PyPI wheel; what it makes is kept beside the clusters.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from e2e.cluster import DEFAULT_SETTINGS, Connection, HarnessError, SqlError, initdb_template
from e2e.system import cache_dir, give_to_server, make_private_dir, remove_dir, run_as_server

from .. import report
from ..servers import QUIET, BenchServer
from .queries import QUERIES

SCALE = 1
TOO_LONG_MS = 60_000
# Everything stays in memory and nothing but the measured statement runs.
SETTINGS: Mapping[str, Any] = {
    **QUIET,
    "shared_preload_libraries": "perf_opt",
    "shared_buffers": "7GB",
    "effective_cache_size": "5GB",
    "work_mem": "64MB",
    "maintenance_work_mem": "1GB",
    "random_page_cost": 1.1,
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "max_connections": 20,
}
TABLES: Mapping[str, tuple[str, str]] = {
    "region": ("r_regionkey int NOT NULL, r_name char(25) NOT NULL, r_comment varchar(152)", "r_regionkey"),
    "nation": ("n_nationkey int NOT NULL, n_name char(25) NOT NULL, n_regionkey int NOT NULL, n_comment varchar(152)",
               "n_nationkey"),
    "supplier": ("s_suppkey int NOT NULL, s_name char(25) NOT NULL, s_address varchar(40) NOT NULL, s_nationkey int "
                 "NOT NULL, s_phone char(15) NOT NULL, s_acctbal numeric(15,2) NOT NULL, s_comment varchar(101) "
                 "NOT NULL", "s_suppkey"),
    "customer": ("c_custkey int NOT NULL, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL, c_nationkey int "
                 "NOT NULL, c_phone char(15) NOT NULL, c_acctbal numeric(15,2) NOT NULL, c_mktsegment char(10) "
                 "NOT NULL, c_comment varchar(117) NOT NULL", "c_custkey"),
    "part": ("p_partkey int NOT NULL, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL, p_brand char(10) "
             "NOT NULL, p_type varchar(25) NOT NULL, p_size int NOT NULL, p_container char(10) NOT NULL, "
             "p_retailprice numeric(15,2) NOT NULL, p_comment varchar(23) NOT NULL", "p_partkey"),
    "partsupp": ("ps_partkey int NOT NULL, ps_suppkey int NOT NULL, ps_availqty int NOT NULL, ps_supplycost "
                 "numeric(15,2) NOT NULL, ps_comment varchar(199) NOT NULL", "ps_partkey, ps_suppkey"),
    "orders": ("o_orderkey int NOT NULL, o_custkey int NOT NULL, o_orderstatus char(1) NOT NULL, o_totalprice "
               "numeric(15,2) NOT NULL, o_orderdate date NOT NULL, o_orderpriority char(15) NOT NULL, o_clerk char(15) "
               "NOT NULL, o_shippriority int NOT NULL, o_comment varchar(79) NOT NULL", "o_orderkey"),
    "lineitem": ("l_orderkey int NOT NULL, l_partkey int NOT NULL, l_suppkey int NOT NULL, l_linenumber int NOT NULL, "
                 "l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) "
                 "NOT NULL, l_tax numeric(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) "
                 "NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL, l_receiptdate date NOT NULL, "
                 "l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, l_comment varchar(44) NOT NULL",
                 "l_orderkey, l_linenumber"),
}


def default_home(major: int) -> Path:
    """Where the loaded cluster of a major version is kept."""
    return cache_dir() / "tpch" / f"pg{major}"


def major_of(pg_root: Path) -> int:
    """The major version of an installation."""
    words = run_as_server([pg_root / "bin" / "postgres", "--version"]).split()
    return int(next(word for word in words if word[0].isdigit()).split(".")[0])


def generated(scale: int = SCALE) -> Path:
    """The directory with one CSV file a table, made when missing."""
    home = cache_dir() / "tpch" / f"scale-{scale}"
    if (home / ".complete").exists():
        return home
    program = next(_wheel().glob("*.data/scripts/tpchgen-cli"))
    program.chmod(0o755)
    report.say(f"advisor: generating TPC-H at scale {scale}")
    remove_dir(home)
    home.mkdir(parents=True)
    subprocess.run([program, "csv", "-s", str(scale), "--output-dir", home], check=True, stdout=subprocess.DEVNULL)
    for path in home.glob("*.csv"):
        path.chmod(0o644)
    (home / ".complete").touch()
    return home


def _wheel() -> Path:
    """The generator's wheel, unpacked in the cache."""
    tools = Path(__file__).resolve().parents[3] / "tools"
    if str(tools) not in sys.path:
        sys.path.append(str(tools))
    from bootstrap.packages import wheel
    return wheel("tpchgen-cli", "tpchgen-cli", "4 MB")


class TpchServer(BenchServer):
    """A kept cluster with TPC-H in the database `postgres`. Leaving it stops it; its directory stays.

    One started by `serve` goes on running: whoever opens it then uses it as it runs and leaves it running.
    """

    def __init__(self, pg_root: Path, home: Optional[Path] = None) -> None:
        self.pg_root = pg_root
        if not (pg_root / "bin" / "postgres").exists():
            raise HarnessError(f"{pg_root}/bin has no postgres program")
        self.name = "bench tpch"
        self.base_dir = home or default_home(major_of(pg_root))
        self.port, self.host = 5432, None
        self.settings = {**DEFAULT_SETTINGS, **SETTINGS}
        self.standbys = []
        self.detached = True
        self._process = None
        self.base_dir.mkdir(parents=True, exist_ok=True)
        give_to_server(self.base_dir)
        self.socket_dir = self.base_dir if len(str(self.base_dir)) < 80 else make_private_dir()
        self._lock = (self.base_dir / "lock").open("w")
        self._serving = self.base_dir / "serving.json"

    def open(self, preload: str = "perf_opt") -> "TpchServer":
        """The server running with data, loaded first when there are none."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HarnessError(f"another program uses the cluster in {self.base_dir}") from None
        if self.running:
            if self.served:
                self.socket_dir = Path(json.loads(self._serving.read_text())["socket_dir"])
                return self
            self.stop()  # left behind by a program that was killed
        self.forget_serving()
        if not (self.base_dir / "loaded.json").exists():
            self._load()
        self.start_with(preload)
        return self

    @property
    def served(self) -> bool:
        """Whether the server was started to stay."""
        return self._serving.exists()

    def serve(self) -> None:
        """From now on the server stays when this program ends."""
        self._serving.write_text(json.dumps({"socket_dir": str(self.socket_dir), "pg_root": str(self.pg_root)}))

    def forget_serving(self) -> None:
        """The server no longer stays."""
        self._serving.unlink(missing_ok=True)

    def start_with(self, preload: str) -> None:
        """Starts, or restarts, with these libraries and fills the buffers."""
        if self.running:
            self.stop()
        self.configure({"shared_preload_libraries": preload})
        self.start(timeout=120)
        wanted = [name for name in preload.split(",") if name and name != "perf_opt"]
        with self.connect() as session:
            for name in ["pg_prewarm", *wanted]:
                session.query(f"CREATE EXTENSION IF NOT EXISTS {name}")
            if "perf_opt" in preload.split(","):  # another build may have other functions under the same version
                session.query("DROP EXTENSION IF EXISTS perf_opt CASCADE")
                session.query("CREATE EXTENSION perf_opt")
            for (name,) in session.query("SELECT indexrelid::regclass FROM pg_index WHERE"
                                         " starts_with(indexrelid::regclass::text, 'bench_')").rows:
                session.query(f"DROP INDEX {name}")  # of a program that was killed
            self.warm(session)

    def connect(self, dbname: str = "postgres", user: str = "postgres", **options: Any) -> Connection:
        """A session that waits as long as the longest query and the biggest index take."""
        return super().connect(dbname, user, **{"timeout": 900.0, **options})

    def warm(self, session: Any, relations: Sequence[str] = ()) -> None:
        """Reads relations, or else all tables and their indexes, into the buffers."""
        if relations:
            session.execute("SELECT sum(pg_prewarm(name::regclass)) FROM unnest($1::text[]) name", (list(relations),))
        else:
            session.query("SELECT sum(pg_prewarm(oid)) FROM pg_class"
                          " WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace")

    def close(self) -> None:
        """Stops the server unless it is to stay."""
        if not self.served:
            if self.running:
                self.stop()
            if self.socket_dir != self.base_dir:
                remove_dir(self.socket_dir)
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def __enter__(self) -> "TpchServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def excluded(self) -> list[str]:
        """The queries that took too long without indexes when the data were loaded."""
        return json.loads((self.base_dir / "loaded.json").read_text())["excluded"]

    @property
    def queries(self) -> dict[str, str]:
        """The queries measured, by name."""
        return {name: text.strip() for name, text in QUERIES.items() if name not in self.excluded}

    def _load(self) -> None:
        """Makes the cluster and fills it: visible, frozen, analysed, nothing left to clean up."""
        files = generated()
        report.say(f"advisor: loading TPC-H into {self.base_dir}")
        remove_dir(self.data_dir)
        run_as_server(["cp", "-Rp", initdb_template(self.pg_root), self.data_dir])
        self.configure({"shared_preload_libraries": ""})
        self.start(timeout=120)
        started = time.monotonic()
        try:
            with self.connect() as session:
                for table, (columns, key) in TABLES.items():
                    session.query("BEGIN")
                    session.query(f"CREATE TABLE {table} ({columns})")
                    session.query(f"COPY {table} FROM '{files / table}.csv' (FORMAT csv, HEADER, FREEZE)")
                    session.query("COMMIT")
                    session.query(f"ALTER TABLE {table} ADD PRIMARY KEY ({key})")
                session.query("VACUUM (ANALYZE, FREEZE)")
                session.query("CREATE EXTENSION pg_prewarm")
                self.warm(session)
                report.say(f"advisor: loaded in {time.monotonic() - started:.0f} s; looking for queries over "
                           f"{TOO_LONG_MS // 1000} s")
                excluded = self._too_long(session)
                session.query("CHECKPOINT")
        finally:
            self.stop()
        (self.base_dir / "loaded.json").write_text(json.dumps({"scale": SCALE, "excluded": excluded}) + "\n")

    def _too_long(self, session: Any) -> list[str]:
        """The queries that a statement timeout stops."""
        excluded = []
        session.query(f"SET statement_timeout = {TOO_LONG_MS}")
        for name, text in QUERIES.items():
            try:
                session.query(text)
            except SqlError as problem:
                if problem.sqlstate != "57014":
                    raise
                excluded.append(name)
        session.query("RESET statement_timeout")
        return excluded

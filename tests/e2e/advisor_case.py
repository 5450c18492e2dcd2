"""`AdvisorTest`: the base class of the index advisor's e2e tests."""

from __future__ import annotations

from typing import Any, Optional

from .case import ClusterTest
from .cluster import Cluster, Connection

# What a call must leave as it was, whatever became of it: one row.
TRACES = """
SELECT current_user, session_user, current_setting('search_path'), current_setting('lock_timeout'),
       current_setting('statement_timeout'), current_setting('role'),
       (SELECT count(*) FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation >= 16384)
"""
# Every row of the catalogs that indexes live in, with its version.
CATALOGS = " UNION ALL ".join(
    f"SELECT '{name}', count(*), coalesce(md5(string_agg(x.xmin || '/' || x.ctid, ',' ORDER BY x.ctid)), '') FROM {name} x"
    for name in ("pg_class", "pg_index", "pg_statistic", "pg_depend", "pg_attribute", "pg_constraint", "pg_inherits",
                 "pg_namespace", "pg_proc", "pg_statistic_ext_data"))


class AdvisorTest(ClusterTest):
    """Tables to advise on, and what is said of them."""

    settings = {"log_min_messages": "warning", "autovacuum": "off", "perf_opt.collector": "off",
                "max_parallel_workers_per_gather": 0}

    def database(self, cluster: Optional[Cluster] = None) -> str:
        """A database with two tables of 20,000 rows, `t` and `u`, of columns a, b and c."""
        name = self.fresh_database(cluster)
        server = cluster or self.cluster
        for table in ("t", "u"):
            server.sql(f"CREATE TABLE {table} AS SELECT g AS a, g AS b, g % 10 AS c FROM generate_series(1, 20000) g", dbname=name)
            server.sql(f"ANALYZE {table}", dbname=name)
        return name

    @staticmethod
    def advice(session: Connection, *queries: str, **arguments: Any) -> list[tuple[str, list[str]]]:
        """Relation and columns of what is recommended for these queries."""
        session.notices.clear()
        given = "".join(f", {name} => {value}" for name, value in arguments.items())
        rows = session.execute(f"SELECT relation, columns FROM perf.index_recommendations(queries => $1::text[]{given}) "
                               "WHERE source <> 'policy' ORDER BY 1, 2", (list(queries),)).rows
        return [(relation, columns) for relation, columns in rows]

    @staticmethod
    def said(session: Connection) -> str:
        """All NOTICEs since the last call."""
        return "\n".join(notice["message"] for notice in session.notices)

    def build(self, session: Connection, *queries: str) -> list[str]:
        """Executes what is recommended, statement by statement as psql would; the statements."""
        ddls = session.execute("SELECT ddl FROM perf.index_recommendations(queries => $1::text[]) "
                               "WHERE source <> 'policy' AND status = 'recommended'", (list(queries),)).rows
        steps = [step for (ddl,) in ddls for step in ddl.split(";\n")]
        for step in steps:
            session.query(step)
        self.assertEqual(session.query("SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid").rows, [])
        return steps

    @staticmethod
    def used(session: Connection, query: str) -> list[str]:
        """The indexes of a query's plan."""
        return session.execute("SELECT indexes_used FROM perf.what_if($1) WHERE variant = 'current'", (query,)).scalar()

"""docs/clients against the catalogue of a real server: a public function, view or policy table that is added or changed is in every
client with its columns, types, argument names and defaults. With PERF_OPT_ACCEPT=1 the modules are written instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

from . import clients_python, clients_rust
from .case import ClusterTest
from .clients_case import CLIENTS
from .clients_catalog import Function, Relation, functions, relations

Writer = Callable[[str, list[Function], list[Relation]], str]


class Modules(ClusterTest):
    """The written part of each module is what would be written now."""

    def check(self, path: Path, write: Writer) -> None:
        database = self.fresh_database()
        now = path.read_text()
        wanted = write(now, functions(self.cluster, database), relations(self.cluster, database))
        if os.environ.get("PERF_OPT_ACCEPT"):
            path.write_text(wanted)
            return
        hint = (f"{path.relative_to(CLIENTS.parents[1])} is not what the server has: look at the change that "
                "`PERF_OPT_ACCEPT=1 make test-e2e TEST=test_clients_catalog` makes, and add what is new to the examples")
        self.assertMultiLineEqual(now, wanted, hint)

    def test_python(self) -> None:
        self.check(CLIENTS / "python" / "perf_opt_models.py", clients_python.module)

    def test_rust(self) -> None:
        self.check(CLIENTS / "rust" / "src" / "perf_opt.rs", clients_rust.module)

    def test_a_change_is_noticed(self) -> None:
        path = CLIENTS / "python" / "perf_opt_models.py"
        database = self.fresh_database()
        for change in ("ALTER VIEW perf.baselines RENAME COLUMN note TO remark",
                       "CREATE FUNCTION perf.added(one int) RETURNS int LANGUAGE sql RETURN one; "
                       "ALTER EXTENSION perf_opt ADD FUNCTION perf.added",
                       "CREATE OR REPLACE FUNCTION perf.latency_histogram(queryid bigint DEFAULT 1, OUT lower_ms float8, "
                       "OUT upper_ms float8, OUT calls bigint) RETURNS SETOF record LANGUAGE sql AS 'SELECT 1.0, 2.0, 3'"):
            before = clients_python.module(path.read_text(), functions(self.cluster, database), relations(self.cluster, database))
            self.cluster.sql(change, dbname=database)
            after = clients_python.module(path.read_text(), functions(self.cluster, database), relations(self.cluster, database))
            self.assertNotEqual(before, after, change)

"""What the catalogue of a server says of the public functions, views and policy tables of the extension: what the client modules in
docs/clients are written from (clients_python, clients_rust) and compared with (test_clients_catalog). Reads only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

from .cluster import Cluster
from .system import HarnessError

# A row of a view is found by these. A view that is neither here nor internal makes the tests fail: say which it is.
VIEW_KEYS = {
    "applied_changes": ("change_id",),
    "baselines": ("name",),
    "cache_watches": ("watch_id",),
    "fleet_nodes": ("job_id",),
    "job_runs": ("run_id",),
    "jobs": ("job_id",),
    "matviews": ("view_name",),
    "partition_archives": ("relation", "archived_at"),
    "partition_compressions": ("relation", "compressed_at"),
    "partition_conversions": ("relation",),
    "prewarm_hours": ("job_id", "hour_at"),
    "prewarm_statements": ("statement_id",),
}
# Views that functions of the extension read, and functions that are parts of its triggers.
INTERNAL = {"alert_state_visible", "capacity_sample_visible", "baseline_statement_visible", "cache_entry_sized", "cache_missed", "slow_statement_visible",
            "statement_history_visible", "policy_row_key"}
# Times that may be infinite, which clients' types of time are not.
ENDLESS = {("jobs", "paused_until")}

FUNCTIONS = """
SELECT jsonb_agg(to_jsonb(f) ORDER BY f.name, f.arguments) FROM (
    SELECT p.proname AS name, p.prokind::text AS kind, p.proretset AS is_set, format_type(p.prorettype, NULL) AS result,
           coalesce(obj_description(p.oid, 'pg_proc'), '') AS comment,
           coalesce(jsonb_agg(jsonb_build_array(a.name, format_type(a.type, NULL), pg_get_function_arg_default(p.oid, a.n::int))
                              ORDER BY a.n) FILTER (WHERE a.mode = 'i'), '[]') AS arguments,
           coalesce(jsonb_agg(jsonb_build_array(a.name, format_type(a.type, NULL)) ORDER BY a.n)
                    FILTER (WHERE a.mode IN ('t', 'o')), '[]') AS columns
      FROM pg_proc AS p
      JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'perf_opt'
      LEFT JOIN unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes::text[])
                WITH ORDINALITY AS u (type, name, mode, n) ON true
      LEFT JOIN LATERAL (SELECT u.type, u.name, coalesce(u.mode, 'i') AS mode, u.n WHERE u.type IS NOT NULL) AS a ON true
     WHERE p.proname NOT LIKE '\\_%' AND p.prorettype <> 'trigger'::regtype
     GROUP BY p.oid) AS f"""

RELATIONS = """
SELECT jsonb_agg(to_jsonb(r) ORDER BY r.name) FROM (
    SELECT c.relname AS name, c.relkind = 'v' AS is_view, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment,
           (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, NULL), a.attnotnull,
                                               a.atthasdef OR a.attidentity <> '') ORDER BY a.attnum)
              FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
           (SELECT jsonb_agg(a.attname ORDER BY k.n)
              FROM pg_index AS i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
              JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary) AS keys
      FROM pg_class AS c
      JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
      JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'perf_opt'
     WHERE c.relkind = 'v' OR EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = 'policy_keep_origin')) AS r"""


@dataclass(frozen=True)
class Value:
    """An argument or a column: name, type, and what its place in a function or table says of it."""

    name: str
    type: str
    default: Optional[str] = None
    required: bool = False
    is_key: bool = False
    has_default: bool = False


@dataclass(frozen=True)
class Function:
    """A function or procedure."""

    name: str
    kind: str  # rows | value | nothing | procedure
    result: str
    comment: str
    arguments: tuple[Value, ...]
    columns: tuple[Value, ...]


@dataclass(frozen=True)
class Relation:
    """A view or a policy table."""

    name: str
    is_view: bool
    comment: str
    columns: tuple[Value, ...]

    @property
    def class_name(self) -> str:
        """The name of one row: jobs -> Job, cache_watches -> CacheWatch, price -> Price."""
        name = re.sub(r"(?<=ch)es$|(?<=[^s])s$", "", self.name) if self.is_view else self.name
        return camel(name)


def camel(name: str) -> str:
    """job_run -> JobRun."""
    return "".join(part.capitalize() for part in name.split("_"))


def first_sentence(comment: str) -> str:
    """What a comment says first: up to a full stop, colon or semicolon that is in no parentheses, or a new line."""
    depth = 0
    for at, character in enumerate(comment):
        depth += (character == "(") - (character == ")")
        if depth == 0 and (character in ".;:" and comment[at + 1:at + 2] in ("", " ", "\n")
                           or character == "\n" and comment[at + 1:at + 2].isupper()):
            comment = comment[:at]
            break
    return comment.replace("\n", " ").strip() + "."


def functions(cluster: Cluster, dbname: str) -> list[Function]:
    """The public functions, by name."""
    found = []
    for row in cluster.scalar(FUNCTIONS, dbname=dbname):
        if row["name"] in INTERNAL:
            continue
        if found and found[-1].name == row["name"]:
            raise HarnessError(f"perf.{row['name']} has two signatures: clients call a function by its name and argument names")
        arguments = tuple(Value(name, type_, default, required=default is None) for name, type_, default in row["arguments"])
        columns = tuple(Value(name, type_) for name, type_ in row["columns"])
        kind = ("procedure" if row["kind"] == "p" else "rows" if row["is_set"] else "nothing" if row["result"] == "void" else "value")
        if (kind == "rows") != bool(columns):
            raise HarnessError(f"perf.{row['name']} returns {row['result']}: neither one value nor TABLE (...)")
        found.append(Function(row["name"], kind, row["result"], row["comment"], arguments, columns))
    return found


def relations(cluster: Cluster, dbname: str) -> list[Relation]:
    """The public views and the policy tables, by name."""
    found = []
    for row in cluster.scalar(RELATIONS, dbname=dbname):
        name = row["name"]
        if name in INTERNAL:
            continue
        keys = VIEW_KEYS.get(name) if row["is_view"] else row["keys"]
        if not keys:
            raise HarnessError(f"perf.{name}: clients_catalog.VIEW_KEYS must say which columns find a row of it, or INTERNAL name it")
        columns = tuple(Value(column, type_, required=not_null or column in keys, is_key=column in keys, has_default=has_default)
                        for column, type_, not_null, has_default in row["columns"])
        found.append(Relation(name, row["is_view"], row["comment"], columns))
    return found

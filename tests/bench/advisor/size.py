"""Part `size`: bytes that perf_opt expects of an index against a fresh build, for every kind of index.

Asks `perf.what_if` for the size of each index. HypoPG's sizes of the same indexes where it is to be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from bench import report
from bench.servers import PERF_OPT, start
from e2e.cluster import SqlError

from .peers import provide

MEDIAN, P95 = 0.05, 0.15
ROWS = 300_000
SETUP = f"""
CREATE EXTENSION pg_trgm;
CREATE TABLE facts (
    id int NOT NULL, kind smallint NOT NULL, customer int NOT NULL, few int, big bigint NOT NULL, price numeric(10,2),
    made timestamptz NOT NULL, day date NOT NULL, flag bool NOT NULL, code text NOT NULL, email varchar(80),
    note text, ref uuid NOT NULL, tags int[] NOT NULL, words text[] NOT NULL, doc jsonb NOT NULL,
    body tsvector NOT NULL);
INSERT INTO facts
SELECT g, g % 7, (g::bigint * 7919) % 20000, CASE WHEN g % 10 < 6 THEN NULL ELSE g % 50 END,
       (g::bigint * 48271) % 2147483647, ((g::bigint * 31) % 500000) / 100.0,
       timestamptz '2026-01-01' + g * interval '1 minute', date '2026-01-01' + g / 1440, g % 40 = 0,
       'C' || lpad(((g::bigint * 733) % 5000)::text, 6, '0'),
       CASE WHEN g % 4 > 0 THEN 'user' || (g::bigint * 104729) % {ROWS} || '@mail' || g % 9 || '.example.org' END,
       repeat(md5((g % 90000)::text), 1 + g % 3), md5(g::text)::uuid, ARRAY[g % 100, g % 333, 500 + g % 17],
       ARRAY['w' || g % 1000, 'v' || g % 77],
       jsonb_build_object('type', 't' || g % 12, 'n', g % 5000, 'tag', md5((g % 3000)::text)),
       to_tsvector('simple', concat_ws(' ', 'w' || g % 2000, 'x' || g % 311, 'y' || g % 47,
                                       md5((g % 9000)::text)))
  FROM generate_series(1, {ROWS}) g;
VACUUM (ANALYZE, FREEZE) facts;
"""


@dataclass(frozen=True)
class Case:
    """An index and its kind."""

    kind: str
    body: str


def _case(kind: str, body: str) -> Case:
    return Case(kind, f"facts {body}")


CASES: Sequence[Case] = [
    _case("btree unique values", "(id)"), _case("btree unique values", "(big)"),
    _case("btree unique values", "(ref)"), _case("btree duplicates", "(kind)"),
    _case("btree duplicates", "(customer)"), _case("btree duplicates", "(day)"), _case("btree duplicates", "(price)"),
    _case("btree time", "(made)"), _case("btree time", "(made DESC)"), _case("btree text", "(code)"),
    _case("btree text", "(email)"), _case("btree text", "(note)"), _case("btree text", "(code text_pattern_ops)"),
    _case("btree NULLs", "(few)"), _case("btree NULLs", "(few, customer)"),
    _case("btree multi-column", "(kind, customer)"), _case("btree multi-column", "(customer, made)"),
    _case("btree multi-column", "(code, day)"), _case("btree multi-column", "(kind, flag)"),
    _case("btree multi-column", "(customer, kind, price)"), _case("btree multi-column", "(day, code, email)"),
    _case("btree INCLUDE", "(customer) INCLUDE (price)"), _case("btree INCLUDE", "(made) INCLUDE (customer, price)"),
    _case("btree partial", "(customer) WHERE flag"), _case("btree partial", "(made) WHERE kind = 3"),
    _case("btree partial", "(email) WHERE few IS NOT NULL"), _case("btree expression", "(lower(email))"),
    _case("btree expression", "((doc ->> 'tag'))"),
    _case("btree expression", "(date_trunc('hour', made AT TIME ZONE 'UTC'))"),
    _case("btree expression", "(((doc ->> 'n')::int))"), _case("GIN jsonb", "USING gin (doc)"),
    _case("GIN jsonb", "USING gin (doc jsonb_path_ops)"), _case("GIN array", "USING gin (tags)"),
    _case("GIN array", "USING gin (words)"), _case("GIN text search", "USING gin (body)"),
    _case("GIN trigram", "USING gin (email gin_trgm_ops)"), _case("GIN trigram", "USING gin (code gin_trgm_ops)"),
    _case("BRIN", "USING brin (made)"), _case("BRIN", "USING brin (id, day)"), _case("hash", "USING hash (ref)"),
    _case("hash", "USING hash (note)"), _case("hash", "USING hash (customer)"),
]


def run(pg_root: Path, options: Any) -> tuple[bool, dict[str, Any]]:
    """The part; whether its targets are met, and its figures."""
    report.say("advisor: sizes of indexes")
    server = start(pg_root, PERF_OPT, {"maintenance_work_mem": "256MB", "random_page_cost": 1.1}, pgbench=False)
    try:
        absent = provide(pg_root, server.major, "hypopg")
        with server.connect(timeout=600.0) as session:
            for statement in (part for part in SETUP.split(";\n") if part.strip()):
                session.query(statement)
            if absent is None:
                session.query("CREATE EXTENSION hypopg")
            rows = [measure(session, case, absent is None) for case in CASES]
    finally:
        server.destroy()
    return judge(rows)


def measure(session: Any, case: Case, hypopg: bool) -> dict[str, Any]:
    """Expected and real bytes of a case."""
    ddl = f"CREATE INDEX ON {case.body}"
    expected = int(session.execute("SELECT size_bytes FROM perf.what_if('SELECT FROM facts', ARRAY[$1])"
                                   " WHERE variant = 'hypothetical'", (ddl,)).scalar())
    session.query(f"CREATE INDEX fresh ON {case.body}")
    real = int(session.query("SELECT pg_relation_size('fresh')").scalar())
    session.query("DROP INDEX fresh")
    return {"kind": case.kind, "body": case.body, "expected": expected, "real": real,
            "hypopg": hypopg_size(session, case.body) if hypopg else None}


def hypopg_size(session: Any, body: str) -> Optional[int]:
    """HypoPG's size, None where it does not know the kind."""
    try:
        oid = session.execute("SELECT indexrelid FROM hypopg_create_index($1)", (f"CREATE INDEX ON {body}",)).scalar()
        return int(session.query(f"SELECT hypopg_relation_size({oid})").scalar())
    except (SqlError, ValueError):
        return None
    finally:
        session.query("SELECT hypopg_reset()")


def error(row: dict[str, Any], by: str) -> float:
    """How far an expectation is off, as a share of the real size."""
    return abs(row[by] - row["real"]) / row["real"]


def judge(rows: Sequence[dict[str, Any]]) -> tuple[bool, dict[str, Any]]:
    """Prints every index, and the errors of all."""
    def percent(row: dict[str, Any], by: str) -> str:
        return "" if row[by] is None else f"{(row[by] - row['real']) / row['real']:+.1%}"

    report.table("Size expected against a fresh build", ["kind", "real kB", "perf_opt", "HypoPG", "index"],
                 [[row["kind"], f"{row['real'] / 1024:,.0f}", percent(row, "expected"), percent(row, "hypopg"),
                   row["body"]] for row in rows])
    errors = sorted(error(row, "expected") for row in rows)
    hypo = sorted(error(row, "hypopg") for row in rows if row["hypopg"] is not None)
    p95 = errors[min(len(errors) - 1, int(len(errors) * 0.95))]
    verdicts = {"median error <= 5 %": report.middle(errors) <= MEDIAN, "95 % within 15 %": p95 <= P95}
    lines = [["perf_opt", len(errors), f"{report.middle(errors):.1%}", f"{p95:.1%}", f"{errors[-1]:.1%}"]]
    if hypo:
        lines.append(["HypoPG", len(hypo), f"{report.middle(hypo):.1%}",
                      f"{hypo[min(len(hypo) - 1, int(len(hypo) * 0.95))]:.1%}", f"{hypo[-1]:.1%}"])
    report.table("Error of the size", ["by", "indexes", "median", "95 %", "worst"], lines,
                 [f"{name}: {report.verdict(met)}" for name, met in verdicts.items()])
    return all(verdicts.values()), {"rows": list(rows), "verdicts": verdicts}

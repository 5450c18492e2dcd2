"""Part `size`: bytes that perf_opt expects of an index against a fresh build, for every kind of index.

Asks `perf.what_if_size(ddl)` where the extension has it. Without it, each index has a query that wants it, and what
`perf.index_recommendations` says of the indexes that it does recommend is compared; kinds it does not are listed.
HypoPG's sizes of the same indexes where it is to be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from bench import report
from bench.servers import PERF_OPT, start
from e2e.cluster import SqlError

from .measure import body_of
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
    """An index, its kind, and a condition that wants it."""

    kind: str
    body: str
    query: str


def _case(kind: str, body: str, condition: str, columns: str = "*") -> Case:
    return Case(kind, f"facts {body}", f"SELECT {columns} FROM facts WHERE {condition}")


CASES: Sequence[Case] = [
    _case("btree unique values", "(id)", "id = 77"), _case("btree unique values", "(big)", "big = 77"),
    _case("btree unique values", "(ref)", "ref = md5('77')::uuid"),
    _case("btree duplicates", "(kind)", "kind = 3", "kind"), _case("btree duplicates", "(customer)", "customer = 3"),
    _case("btree duplicates", "(day)", "day = '2026-02-01'"), _case("btree duplicates", "(price)", "price = 12.31"),
    _case("btree time", "(made)", "made > '2026-07-01'"), 
    _case("btree time", "(made DESC)", "true ORDER BY made DESC LIMIT 5"),
    _case("btree text", "(code)", "code = 'C000733'"), 
    _case("btree text", "(email)", "email = 'user7@mail1.example.org'"),
    _case("btree text", "(note)", "note = 'x'"), _case("btree text", "(code text_pattern_ops)", "code LIKE 'C0007%'"),
    _case("btree NULLs", "(few)", "few = 7"), _case("btree NULLs", "(few, customer)", "few = 7 AND customer = 17"),
    _case("btree multi-column", "(kind, customer)", "kind = 3 AND customer = 7"),
    _case("btree multi-column", "(customer, made)", "customer = 7 AND made > '2026-03-01'"),
    _case("btree multi-column", "(code, day)", "code = 'C000733' AND day > '2026-02-01'"),
    _case("btree multi-column", "(kind, flag)", "kind = 3 AND flag", "kind, flag"),
    _case("btree multi-column", "(customer, kind, price)", "customer = 7 AND kind = 3 AND price > 5"),
    _case("btree multi-column", "(day, code, email)", "day = '2026-02-01' AND code = 'C000733' AND email = 'x'"),
    _case("btree INCLUDE", "(customer) INCLUDE (price)", "customer < 900", "customer, price"),
    _case("btree INCLUDE", "(made) INCLUDE (customer, price)", "made > '2026-06-01'", "made, customer, price"),
    _case("btree partial", "(customer) WHERE flag", "customer = 7 AND flag"),
    _case("btree partial", "(made) WHERE kind = 3", "made > '2026-06-01' AND kind = 3"),
    _case("btree partial", "(email) WHERE few IS NOT NULL", "email = 'x' AND few IS NOT NULL"),
    _case("btree expression", "(lower(email))", "lower(email) = 'x'"),
    _case("btree expression", "((doc ->> 'tag'))", "doc ->> 'tag' = 'x'"),
    _case("btree expression", "(date_trunc('hour', made AT TIME ZONE 'UTC'))",
          "date_trunc('hour', made AT TIME ZONE 'UTC') = '2026-02-01'"),
    _case("btree expression", "(((doc ->> 'n')::int))", "(doc ->> 'n')::int = 5"),
    _case("GIN jsonb", "USING gin (doc)", "doc @> '{\"n\": 7}'"),
    _case("GIN jsonb", "USING gin (doc jsonb_path_ops)", "doc @> '{\"n\": 7}'"),
    _case("GIN array", "USING gin (tags)", "tags @> ARRAY[7, 8]"), 
    _case("GIN array", "USING gin (words)", "words @> ARRAY['w7']"),
    _case("GIN text search", "USING gin (body)", "body @@ to_tsquery('simple', 'w7 & x8')"),
    _case("GIN trigram", "USING gin (email gin_trgm_ops)", "email LIKE '%r777@%'"),
    _case("GIN trigram", "USING gin (code gin_trgm_ops)", "code LIKE '%733%'"),
    _case("BRIN", "USING brin (made)", "made BETWEEN '2026-03-01' AND '2026-03-09'"), 
    _case("BRIN", "USING brin (id, day)", "id < 99"),
    _case("hash", "USING hash (ref)", "ref = md5('77')::uuid"), _case("hash", "USING hash (note)", "note = 'x'"),
    _case("hash", "USING hash (customer)", "customer = 3"),
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
            direct = bool(session.query("SELECT to_regprocedure('perf.what_if_size(text)') IS NOT NULL").scalar())
            found = [row for case in CASES for row in measure(session, case, direct, absent is None)]
            rows = list({row["body"]: row for row in found}.values())
    finally:
        server.destroy()
    return judge(rows, direct)


def measure(session: Any, case: Case, direct: bool, hypopg: bool) -> list[dict[str, Any]]:
    """Expected and real bytes of a case; of all indexes recommended for its query when sizes cannot be asked for."""
    if direct:
        ddl = f"CREATE INDEX ON {case.body}"
        found = {case.body: int(session.execute("SELECT perf.what_if_size($1)", (ddl,)).scalar())}
    else:
        found = {body_of(row[0]): int(row[1]) for row in session.execute(
            "SELECT ddl, size_bytes FROM perf.index_recommendations(queries => ARRAY[$1])"
            " WHERE status = 'recommended' AND action = 'create'", (case.query,)).rows}
    rows = []
    for body, expected in (found or {case.body: None}).items():
        session.query(f"CREATE INDEX fresh ON {body}")
        real = int(session.query("SELECT pg_relation_size('fresh')").scalar())
        session.query("DROP INDEX fresh")
        rows.append({"kind": case.kind, "body": body, "expected": expected, "real": real,
                     "hypopg": hypopg_size(session, body) if hypopg else None})
    return rows


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


def judge(rows: Sequence[dict[str, Any]], direct: bool) -> tuple[bool, dict[str, Any]]:
    """Prints every index, and the errors of all."""
    def percent(row: dict[str, Any], by: str) -> str:
        return "" if row[by] is None else f"{(row[by] - row['real']) / row['real']:+.1%}"

    report.table("Size expected against a fresh build", ["kind", "real kB", "perf_opt", "HypoPG", "index"],
                 [[row["kind"], f"{row['real'] / 1024:,.0f}", percent(row, "expected"), percent(row, "hypopg"),
                   row["body"]] for row in rows])
    errors = sorted(error(row, "expected") for row in rows if row["expected"] is not None)
    if not errors:
        return False, {"rows": list(rows), "direct": direct}
    hypo = sorted(error(row, "hypopg") for row in rows if row["hypopg"] is not None)
    p95 = errors[min(len(errors) - 1, int(len(errors) * 0.95))]
    unknown = [row["body"] for row in rows if row["expected"] is None]
    verdicts = {"median error <= 5 %": report.middle(errors) <= MEDIAN, "95 % within 15 %": p95 <= P95,
                "every kind has a size": not unknown}
    lines = [["perf_opt", len(errors), f"{report.middle(errors):.1%}", f"{p95:.1%}", f"{errors[-1]:.1%}"]]
    if hypo:
        lines.append(["HypoPG", len(hypo), f"{report.middle(hypo):.1%}",
                      f"{hypo[min(len(hypo) - 1, int(len(hypo) * 0.95))]:.1%}", f"{hypo[-1]:.1%}"])
    report.table("Error of the size", ["by", "indexes", "median", "95 %", "worst"], lines,
                 ["asked by perf.what_if_size" if direct else "of what is recommended for a query that wants the index",
                  *(f"not recommended, so no size: {body}" for body in unknown if not direct),
                  *(f"{name}: {report.verdict(met)}" for name, met in verdicts.items())])
    return all(verdicts.values()), {"rows": list(rows), "direct": direct, "verdicts": verdicts}

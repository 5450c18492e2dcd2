#!/usr/bin/env python3
"""Measures sets of indexes on the TPC-H server: real bytes, planned cost, and executed time of every query.

Each distinct index is built once and hidden from the planner (`indisvalid`) while it belongs to no set that is being
measured. A query is executed once per distinct plan, `PASSES` times, and its least time counts: sets that lead to the
same plan share the figure. As a program it serves the cluster and measures files of CREATE INDEX statements.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence

if __name__ == "__main__":
    here = Path(__file__).resolve()
    sys.path = [str(here.parents[2]), *(entry for entry in sys.path if Path(entry or ".").resolve() != here.parent)]
    __package__ = "bench.advisor"

from e2e.cluster import HarnessError, SqlError, handle_signals  # noqa: E402  (the path must be set first)

from bench import report  # noqa: E402
from bench.advisor.data import TpchServer  # noqa: E402
from bench.servers import cpu_ns  # noqa: E402

PASSES = 3
SLOWER = 1.05
COST = re.compile(r"  \(cost=[\d.]+\.\.([\d.]+) rows=\d+ width=\d+\)")
NAME = r'(?:"(?:[^"]|"")+"|[^\s"(]+)'
CREATE_INDEX = re.compile(rf"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+(?:CONCURRENTLY\s+)?(?:IF\s+NOT\s+EXISTS\s+)?"
                          rf"(?:(?!ON\s){NAME}\s+)?ON\s+(?P<rest>.*?)\s*;?\s*$", re.IGNORECASE | re.DOTALL)


def body_of(ddl: str) -> str:
    """What comes after ON in a CREATE INDEX, written in one way: without schema, default method and spare blanks."""
    match = CREATE_INDEX.match(ddl)
    if match is None:
        raise HarnessError(f"not a CREATE INDEX statement: {ddl}")
    body = re.sub(r"\s+", " ", match["rest"].strip())
    body = re.sub(r"^(ONLY )?public\.", "", body, flags=re.IGNORECASE)
    body = re.sub(r"\s*USING btree\s*", " ", body, flags=re.IGNORECASE)
    body = re.sub(r"\s*([(),])\s*", r"\1", body)
    body = re.sub(r"\)(?=[A-Za-z])", ") ", body)
    return re.sub(r"(INCLUDE|WITH)\(", r"\1 (", body.replace("(", " (", 1), flags=re.IGNORECASE).replace(",", ", ")


@dataclass(frozen=True)
class Plan:
    """What the planner makes of a query: its total cost, and its text without costs."""

    cost: float
    text: str


@dataclass(frozen=True)
class Taken:
    """The least time of the passes of one plan, in milliseconds: of the processor, and of the clock."""

    cpu_ms: float
    wall_ms: float


@dataclass
class Measured:
    """A set of real indexes."""

    indexes: list[str]
    real_bytes: int
    plans: dict[str, Plan] = field(default_factory=dict)
    times: dict[str, Taken] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """Planned cost of all queries."""
        return sum(plan.cost for plan in self.plans.values())

    @property
    def cpu_ms(self) -> float:
        """CPU time of all queries."""
        return sum(taken.cpu_ms for taken in self.times.values())

    @property
    def wall_ms(self) -> float:
        """Clock time of all queries."""
        return sum(taken.wall_ms for taken in self.times.values())


class Bench:
    """The built indexes, and the plans executed so far, of one server."""

    def __init__(self, server: TpchServer, queries: Mapping[str, str], passes: int = PASSES) -> None:
        self.server = server
        self.queries = queries
        self.passes = passes
        self.session = server.connect(application_name="perf_opt bench")
        self.names: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.executed: dict[tuple[str, str], Taken] = {}
        self.executions = 0
        self._sizes_file = server.base_dir / "sizes.json"
        self._known_sizes: dict[str, int] = {}
        if self._sizes_file.exists():
            self._known_sizes = json.loads(self._sizes_file.read_text())

    def close(self) -> None:
        """Drops every index built here and ends the session."""
        self.session.close()
        with self.server.connect() as session:  # the other one may have been interrupted in the middle of a query
            for name in self.names.values():
                session.query(f"DROP INDEX IF EXISTS {name}")
        self.names.clear()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- indexes -----------------------------------------------------------------------------------------------

    def build(self, body: str) -> str:
        """The name of the built index, made and hidden when it is not there yet."""
        if body not in self.names:
            name = "bench_" + hashlib.sha256(body.encode()).hexdigest()[:12]
            table = body.split()[0]
            self.session.query(f"DROP INDEX IF EXISTS {name}")
            self.session.query(f"CREATE INDEX {name} ON {body}")
            self.names[body] = name
            self._analyse_expressions(table, name)
            self._show(())
            self.sizes[body] = int(self.session.query(f"SELECT pg_relation_size('{name}')").scalar())
            self._known_sizes[body] = self.sizes[body]
            self._sizes_file.write_text(json.dumps(self._known_sizes, indent=1, sort_keys=True) + "\n")
        return self.names[body]

    def _analyse_expressions(self, table: str, name: str) -> None:
        """Statistics of an index's expressions, leaving those of the table as they are for all sets alike."""
        if not self.session.query(f"SELECT indexprs IS NOT NULL FROM pg_index"
                                  f" WHERE indexrelid = '{name}'::regclass").scalar():
            return
        columns = [row[0] for row in self.session.query(
            f"SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
            " AND NOT attisdropped").rows]
        def aim(target: int) -> None:
            changes = ", ".join(f"ALTER {column} SET STATISTICS {target}" for column in columns)
            self.session.query(f"ALTER TABLE {table} {changes}")

        aim(0)
        try:
            self.session.query(f"ANALYZE {table}")
        finally:
            aim(-1)

    def real_bytes(self, bodies: Iterable[str]) -> int:
        """Bytes of the built indexes. One measured by an earlier run on the same data is not built for its size."""
        total = 0
        for body in dict.fromkeys(bodies):
            if body not in self.sizes and body in self._known_sizes:
                total += self._known_sizes[body]
                continue
            self.build(body)
            total += self.sizes[body]
        return total

    def _show(self, names: Sequence[str]) -> None:
        """Makes the planner see these of the built indexes and no others."""
        shown = ", ".join(f"'{name}'::regclass" for name in names)
        every = ", ".join(f"'{name}'::regclass" for name in self.names.values())
        if every:
            valid = f"indexrelid IN ({shown})" if shown else "false"
            self.session.query(f"UPDATE pg_index SET indisvalid = {valid} WHERE indexrelid IN ({every})"
                               f" AND indisvalid <> ({valid})")

    def use(self, bodies: Iterable[str]) -> list[str]:
        """Builds what is missing and makes exactly these indexes usable; their names."""
        names = [self.build(body) for body in dict.fromkeys(bodies)]
        self._show(names)
        return names

    # -- queries -----------------------------------------------------------------------------------------------

    def explain(self, text: str) -> Plan:
        """The plan of a query as things are."""
        lines = [row[0] for row in self.session.query(f"EXPLAIN {text}").rows]
        match = COST.search(lines[0])
        if match is None:
            raise HarnessError(f"EXPLAIN printed no cost: {lines[0]}")
        return Plan(float(match[1]), "\n".join(COST.sub("", line) for line in lines))

    def planned(self, bodies: Iterable[str]) -> Measured:
        """Planned costs with real indexes; nothing is executed."""
        chosen = list(dict.fromkeys(bodies))
        self.use(chosen)
        plans = {name: self.explain(text) for name, text in self.queries.items()}
        return Measured(chosen, self.real_bytes(chosen), plans)

    def execute(self, sets: Sequence[Measured]) -> None:
        """Executes every distinct plan of these sets that has no time yet, and gives all sets their times.

        The passes go through all plans in turn, so that what else happens on the machine meets all of them alike.
        """
        todo: dict[tuple[str, str], Measured] = {}
        for measured in sets:
            for name, plan in measured.plans.items():
                if (name, plan.text) not in self.executed:
                    todo.setdefault((name, plan.text), measured)
        for _ in range(self.passes):
            shown: Optional[Measured] = None
            for (name, text), measured in todo.items():
                if measured is not shown:
                    shown = measured
                    self._ready(measured)
                self._pass(name, text)
        for measured in sets:
            self.refresh(measured)

    def refresh(self, measured: Measured) -> None:
        """Gives a set the times of its plans."""
        measured.times = {name: self.executed[name, plan.text] for name, plan in measured.plans.items()}

    def _ready(self, measured: Measured) -> None:
        self.use(measured.indexes)
        if measured.indexes:
            self.server.warm(self.session, [self.names[body] for body in measured.indexes])

    def _pass(self, name: str, plan: str) -> None:
        taken = self.once(name)
        before = self.executed.get((name, plan), taken)
        self.executed[name, plan] = Taken(min(taken.cpu_ms, before.cpu_ms), min(taken.wall_ms, before.wall_ms))

    def once(self, name: str) -> Taken:
        """The times of one execution as things are."""
        self.executions += 1
        cpu, wall = cpu_ns(self.session.pid), time.monotonic()
        self.session.query(self.queries[name])
        return Taken((cpu_ns(self.session.pid) - cpu) / 1e6, (time.monotonic() - wall) * 1e3)

    def ratio_again(self, name: str, measured: Measured, base: Measured) -> float:
        """CPU time of a query relative to that without indexes, in as many further passes, the two plans in turn.

        The times of the sets stay as they are: their passes are the same for all.
        """
        least = [measured.times[name].cpu_ms, base.times[name].cpu_ms]
        for _ in range(self.passes):
            for place, each in enumerate((measured, base)):
                self._ready(each)
                least[place] = min(least[place], self.once(name).cpu_ms)
        return least[0] / least[1]


def slower(measured: Measured, base: Measured, limit: float = SLOWER) -> list[str]:
    """The queries that take more than `limit` times the CPU time that they take without indexes."""
    return [name for name, taken in measured.times.items() if taken.cpu_ms > limit * base.times[name].cpu_ms]


def surely_slower(bench: Bench, measured: Measured, base: Measured) -> list[str]:
    """Like `slower`, but only what is so in further passes too."""
    return [name for name in slower(measured, base) if bench.ratio_again(name, measured, base) > SLOWER]


# -- the program -----------------------------------------------------------------------------------------------------


def print_measured(measured: Measured, base: Measured) -> None:
    """A table of the queries, against those without indexes."""
    rows = []
    for name in base.plans:
        cost = measured.plans[name].cost / base.plans[name].cost
        row = [name, f"{base.plans[name].cost:,.0f}", f"{measured.plans[name].cost:,.0f}", f"{cost:.3f}"]
        if measured.times:
            row += [f"{base.times[name].cpu_ms:,.0f}", f"{measured.times[name].cpu_ms:,.0f}",
                    f"{measured.times[name].cpu_ms / base.times[name].cpu_ms:.3f}",
                    f"{measured.times[name].wall_ms:,.0f}",
                    "same" if measured.plans[name].text == base.plans[name].text else "changed"]
        rows.append(row)
    total = ["total", f"{base.cost:,.0f}", f"{measured.cost:,.0f}", f"{measured.cost / base.cost:.3f}"]
    if measured.times:
        total += [f"{base.cpu_ms:,.0f}", f"{measured.cpu_ms:,.0f}", f"{measured.cpu_ms / base.cpu_ms:.3f}",
                  f"{measured.wall_ms:,.0f}", ""]
    head = ["query", "cost before", "cost", "ratio"]
    head += ["CPU ms before", "CPU ms", "ratio", "wall ms", "plan"] if measured.times else []
    report.table(f"{len(measured.indexes)} indexes of {measured.real_bytes / 1e6:.1f} MB", head, [*rows, total])


def read_ddl(path: str) -> list[str]:
    """The CREATE INDEX statements of a file, one a line or ended by semicolons; - is standard input."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("--")]
    parts = "\n".join(lines).split(";") if ";" in text else lines
    return [part.strip() for part in parts if part.strip()]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["serve", "stop", "base", "ddl"],
                        help="serve: start the server and leave it; stop: end it; base: costs and times without "
                             "indexes; ddl: costs and times with the indexes of each FILE")
    parser.add_argument("file", nargs="*", help="files of CREATE INDEX statements (- for standard input)")
    parser.add_argument("--pg-root", type=Path, required=True, help="the directory whose bin/ holds the server")
    parser.add_argument("--home", type=Path, help="the directory of the loaded cluster")
    parser.add_argument("--preload", default="perf_opt", help="shared_preload_libraries (perf_opt)")
    parser.add_argument("--passes", type=int, default=PASSES, help=f"executions of each plan ({PASSES})")
    parser.add_argument("--query", action="append", help="only this query (q1 ... q22)")
    parser.add_argument("--no-execute", action="store_true", help="planned costs only")
    parser.add_argument("--plans", action="store_true", help="print the plans that changed too")
    options = parser.parse_intermixed_args()
    handle_signals()
    try:
        with TpchServer(options.pg_root.resolve(), options.home) as server:
            return COMMANDS[options.command](server.open(options.preload), options)
    except (HarnessError, SqlError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1


def serve(server: TpchServer, options: argparse.Namespace) -> int:
    """Leaves the server running on this installation."""
    if server.served:
        server.forget_serving()
        server.start_with(options.preload)
    server.serve()
    print(server.psql_command())
    return 0


def stop(server: TpchServer, _options: argparse.Namespace) -> int:
    """The end of `serve`: the server stops with this program."""
    server.forget_serving()
    return 0


def measure_files(server: TpchServer, options: argparse.Namespace) -> int:
    """The figures without indexes, or with those of each file."""
    queries = {name: text for name, text in server.queries.items() if not options.query or name in options.query}
    with Bench(server, queries, options.passes) as bench:
        base = bench.planned([])
        sets = [bench.planned([body_of(ddl) for ddl in read_ddl(path)]) for path in options.file]
        if not options.no_execute:
            bench.execute([base, *sets])
        if options.command == "base":
            print_measured(base, base)
        for path, measured in zip(options.file, sets):
            print_indexes(path, bench, measured)
            print_measured(measured, base)
            for name in queries if options.plans else ():
                if measured.plans[name].text != base.plans[name].text:
                    print(f"-- {name}\n{measured.plans[name].text}\n")
    return 0


def print_indexes(path: str, bench: Bench, measured: Measured) -> None:
    """The indexes of a set with the real size of each."""
    report.table(path, ["index", "MB"], [[body, f"{bench.sizes[body] / 1e6:.1f}"] for body in measured.indexes])


COMMANDS: Mapping[str, Any] = {"serve": serve, "stop": stop, "base": measure_files, "ddl": measure_files}

if __name__ == "__main__":
    sys.exit(main())

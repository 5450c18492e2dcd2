#!/usr/bin/env python3
"""Runs the golden SQL files with the installation's own pg_regress, on a private server that has perf_opt preloaded.

Every file in sql/ has one in expected/, the same for all server versions. Files run one at a time in the order of their
names, in one database that has the extension; each leaves that database as it found it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from e2e.cluster import Cluster, handle_signals  # noqa: E402  (the path must be set first)
from e2e.system import clean_environment  # noqa: E402

DATABASE = "perf_regress"
# The collector must not add rows or statements between two lines of a golden file.
SETTINGS = {"max_parallel_workers_per_gather": 0, "jit": "off", "autovacuum": "off"}


def unpaired() -> list[str]:
    """What is wrong with the two listings, one line per file."""
    sources = {path.stem for path in (HERE / "sql").glob("*.sql")}
    answers = {path.stem for path in (HERE / "expected").glob("*.out")}
    problems = [f"tests/pg_regress/sql/{name}.sql has no expected/{name}.out (make regress-accept TEST={name})"
                for name in sorted(sources - answers)]
    return problems + [f"tests/pg_regress/expected/{name}.out has no sql/{name}.sql" for name in sorted(answers - sources)]


def names(pattern: Optional[str]) -> list[str]:
    """The tests to run, in order."""
    return sorted(path.stem for path in (HERE / "sql").glob("*.sql") if not pattern or pattern in path.stem)


def regress(pg_root: Path, pg_regress: Path, out_dir: Path, tests: list[str]) -> int:
    """Runs pg_regress; its exit code. Results and differences are in `out_dir`."""
    shutil.rmtree(out_dir, ignore_errors=True)
    out_dir.mkdir(parents=True)
    with Cluster(pg_root, SETTINGS, name="regress") as cluster:
        cluster.sql(f"CREATE DATABASE {DATABASE}")
        cluster.sql("CREATE EXTENSION perf_opt", dbname=DATABASE)
        command = [pg_regress, "--use-existing", f"--dbname={DATABASE}", f"--host={cluster.socket_dir}",
                   f"--port={cluster.port}", "--user=postgres", f"--bindir={pg_root / 'bin'}", f"--inputdir={HERE}",
                   f"--outputdir={out_dir}"]
        if cluster.major >= 16:
            command.append(f"--expecteddir={HERE}")
        code = subprocess.run([str(word) for word in command + tests], env=clean_environment(), cwd=out_dir).returncode
        differences = out_dir / "regression.diffs"
        if code != 0 and differences.exists():
            print(differences.read_text(errors="replace")[:20000], flush=True)
        if code != 0:
            print(f"--- end of the server log:\n{cluster.log_tail(25)}", flush=True)
        if "was terminated by signal" in cluster.log_text():
            print("the server crashed during the regression tests", flush=True)
            return 1
    return code


def accept(pg_root: Path, pg_regress: Path, out_dir: Path, tests: list[str]) -> int:
    """Runs the tests and takes what they print as what is expected."""
    for name in tests:
        (HERE / "expected" / f"{name}.out").touch()
    regress(pg_root, pg_regress, out_dir, tests)
    for name in tests:
        result = out_dir / "results" / f"{name}.out"
        if not result.exists():
            print(f"{name} gave no result", file=sys.stderr)
            return 1
        shutil.copyfile(result, HERE / "expected" / f"{name}.out")
        print(f"accepted tests/pg_regress/expected/{name}.out: read it before you commit it")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", help="run only files whose name contains this; with --accept, exactly it")
    parser.add_argument("--pg-root", type=Path, required=True, help="the directory whose bin/ holds the server")
    parser.add_argument("--pg-regress", type=Path, required=True, help="the installation's pg_regress")
    parser.add_argument("--out", type=Path, required=True, help="where results go")
    parser.add_argument("--accept", action="store_true", help="make the results of one file the expected ones")
    options = parser.parse_args()
    os.umask(0o022)
    handle_signals()
    paths = (options.pg_root.resolve(), options.pg_regress.resolve(), options.out.resolve())
    if options.accept:
        if options.pattern not in names(None):
            print(f"TEST must name a file of tests/pg_regress/sql without .sql, not {options.pattern!r}", file=sys.stderr)
            return 1
        return accept(*paths, [options.pattern])
    problems = unpaired()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr, flush=True)
    tests = names(options.pattern)
    if not tests:
        print(f"no regress test matches {options.pattern!r}", file=sys.stderr)
        return 1
    paired = [name for name in tests if (HERE / "expected" / f"{name}.out").exists()]
    code = regress(*paths, paired) if paired else 1
    return 1 if problems else code


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Runs the end-to-end tests on one PostgreSQL installation that has perf_opt in it (`make test-e2e` prepares one)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from e2e.case import use_installation  # noqa: E402  (the path must be set first)
from e2e.parallel import RUN, end_without, run_in_children  # noqa: E402
from e2e.runner import collect, load, run_here  # noqa: E402
from e2e.system import memory_dir  # noqa: E402

JOBS = "PERF_OPT_E2E_JOBS"
# Several times what the servers of four modules have been seen to take at once.
MEMORY = 4 << 30


def default_jobs() -> str:
    """How many modules at once: they wait more than they compute, so more than there are CPUs."""
    return os.environ.get(JOBS) or str(min((os.cpu_count() or 1) + 1, 4))


def positive(text: str) -> int:
    """A number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more")
    return int(text)


def end_at_once(number: int, _frame: object) -> None:
    """Ends the run: unittest takes any other exception, SystemExit too, for the failure of one test, and goes on. What tells us to
    end may do so more than once; a second Ctrl-C is a person's, and ends the cleaning up."""
    for ignored in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", help="run only tests whose module.Class.test contains this")
    parser.add_argument("--pg-root", type=Path, required=True, help="the directory whose bin/ holds the server")
    parser.add_argument("--jobs", type=positive, default=default_jobs(), help="how many modules to run at once; 1 prints each "
                        f"test as it runs (default: {JOBS}, else one more than CPUs, at most 4)")
    parser.add_argument("--soak", action="store_true", help="run the long soak_*.py instead of test_*.py, one at a time")
    parser.add_argument("--module", help=argparse.SUPPRESS)  # of a child: the one module it runs
    parser.add_argument("--lifeline", type=int, help=argparse.SUPPRESS)  # of a child: closed when its parent has gone
    options = parser.parse_args()
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end_at_once)
    if options.lifeline is not None:
        end_without(options.lifeline)
    try:
        return run(options)
    except KeyboardInterrupt as ended:
        print("\ninterrupted", file=sys.stderr)
        return 128 + ended.args[0]


def run(options: argparse.Namespace) -> int:
    """Runs what the options ask for; the exit code."""
    pg_root = options.pg_root.resolve()
    use_installation(pg_root)
    # Making and removing hundreds of data directories is most of what tests do on a disk. A soak writes for long.
    in_memory = None if options.soak or "PERF_OPT_TMP" in os.environ else memory_dir(MEMORY)
    if in_memory is not None:
        os.environ["PERF_OPT_TMP"] = str(in_memory)
    started = time.monotonic()
    if options.module:
        tally = run_here([load(options.module, options.pattern)])
        print(f"{options.module}: {tally.closing_line()} in {time.monotonic() - started:.0f} s", flush=True)
        return 1 if tally.failed else 0
    modules = collect(options.pattern, options.soak)
    jobs = 1 if options.soak else options.jobs
    if jobs == 1 or len(modules) == 1:
        tally = run_here(modules)
    else:
        pattern = [options.pattern] if options.pattern else []
        tally = run_in_children(modules, jobs, [sys.executable, str(RUN), "--pg-root", str(pg_root), *pattern])
    print(f"in {time.monotonic() - started:.0f} s on {pg_root}")
    if not modules:
        print(f"no test matches {options.pattern!r}" if options.pattern else "there are no tests", file=sys.stderr)
    print(tally.closing_line(), flush=True)
    return 0 if modules and tally.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

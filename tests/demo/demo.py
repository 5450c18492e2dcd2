#!/usr/bin/env python3
"""The demonstration: a private server, the sample platform under load, and what perf_opt has to say about it.

`run` leaves the server up, so that its answers can be explored with psql; `stop` ends it and removes all of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.demo import hopes, loader, runner  # noqa: E402
from tests.demo.printing import heading, paragraph, width_of_terminal  # noqa: E402
from tests.demo.sections import FIRST, THEN, Section  # noqa: E402
from tests.demo.server import DemoError, Server  # noqa: E402
from tests.e2e.cluster import Cluster, HarnessError, handle_signals  # noqa: E402

STATE = REPOSITORY / "target" / "demo" / "state.json"
REPORT = STATE.parent / "report.html"
DATABASE = "platform"
# A small dedicated server. JIT is off because not every installation has it, and results should compare.
SETTINGS = {
    "shared_preload_libraries": "perf_opt",
    "fsync": "on",
    "shared_buffers": "512MB",
    "effective_cache_size": "2GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "max_parallel_workers": "2",
    "max_parallel_workers_per_gather": "1",
    "jit": "off",
    "track_io_timing": "on",
    "max_connections": 100,
}


def say(line: str = "") -> None:
    """Prints at once, also into a pipe."""
    print(line, flush=True)


def run(pg_root: Path, scale: float, seconds: float, clients: int) -> int:
    """Everything from an empty directory to the answers; 1 when a section could not be printed."""
    loader.rows_at(scale)  # complain about bad arguments before anything is started
    if seconds < 1 or clients < 2:
        raise DemoError("--seconds must be 1 or more, --clients 2 or more")
    began = time.monotonic()
    if STATE.exists():
        say("Stopping the demo server that is still there ...")
        stop()
    say(f"Starting a private server from {pg_root} ...")
    cluster = Cluster(pg_root, SETTINGS, name="demo")
    try:
        STATE.parent.mkdir(parents=True, exist_ok=True)
        cluster.save_state(STATE)
        cluster.start(detached=True)
        server = Server.of(cluster)
        server.psql(script=f"CREATE DATABASE {DATABASE}")
        server = server.database(DATABASE)
        server.psql(script="CREATE EXTENSION perf_opt")

        say(f"Loading the sample platform, scale {scale:g} ...")
        loaded = loader.load(server, scale, progress=lambda line: say(f"  {line}"))
        say(f"  {loaded.total:,} rows, {loaded.seconds:.1f} s")
        # Loading is not what the platform does all day: forget it.
        server.psql(script="SELECT perf.reset()")
        since = f"timestamptz '{server.scalar('SELECT clock_timestamp()')}'"

        say(f"Running {len(runner.manifest())} scripts with {clients} clients for {seconds:.0f} s ...")
        result = runner.run_workload(server, seconds, clients, progress=lambda line: say(f"  {line}"))
        say(f"  {result.executions:,} scripts run, {result.per_second:.0f} a second; {result.failed} planted failures")
        failed = answers(server, since, FIRST)
        failed |= improve(result, lambda: runner.run_workload(
            server, seconds, clients, scripts=hopes.carry_out(server, say), progress=lambda line: say(f"  {line}")))
        failed |= answers(server, since, THEN) | report(server)
    except BaseException:
        cluster.destroy()
        STATE.unlink(missing_ok=True)
        raise
    say("")
    say(f"All in {time.monotonic() - began:.0f} s. The server stays up. To connect:")
    say(f"  {server.psql_command()}")
    say("To end it and remove its data:")
    say("  make demo-stop")
    return failed


def improve(before: runner.Run, again: Callable[[], runner.Run]) -> int:
    """Carries the first two phases of the roadmap out, and prints what they have brought."""
    width = width_of_terminal()
    for line in heading("Phases 1 and 2 carried out: hoped and achieved", width):
        say(line)
    try:
        lines = hopes.lines(before, again(), width)
    except DemoError as problem:
        say(f"FAILED: {problem}")
        return 1
    for line in ["", *lines]:
        say(line)
    return 0


def answers(server: Server, since: str, sections: Sequence[tuple[str, Section]]) -> int:
    """Prints sections. One that fails says why, and does not keep the others from being printed."""
    width, failed = width_of_terminal(), 0
    for title, section in sections:
        for line in heading(title, width):
            say(line)
        try:
            lines = section(server, since, width)
        except DemoError as problem:
            failed = 1
            lines = paragraph(f"FAILED: {problem}", width)
        for line in lines:
            say(line)
    return failed


def report(server: Server) -> int:
    """Writes the page that says all of it."""
    try:
        REPORT.write_text(server.scalar("SELECT perf.report('html')"), encoding="utf-8")
    except DemoError as problem:
        say(f"FAILED: the report: {problem}")
        return 1
    say("")
    say(f"All of it as a page: {REPORT}")
    return 0


def stop() -> None:
    """Ends the server of the last run and removes its directories."""
    if not STATE.exists():
        say("No demo server to stop.")
        return
    Cluster.attach(STATE).destroy()
    STATE.unlink()
    say("The demo server is stopped and its data removed.")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="start, load, run the workload, print the answers")
    running.add_argument("--pg-root", type=Path, required=True, help="PostgreSQL with perf_opt installed: the directory above bin/")
    running.add_argument("--scale", type=float, default=1.0, help="1 is about 2 million rows (default: 1)")
    running.add_argument("--seconds", type=float, default=60.0, help="how long the workload runs (default: 60)")
    running.add_argument("--clients", type=int, default=8, help="connections of the workload (default: 8)")
    commands.add_parser("stop", help="end the server and remove its data")
    options = parser.parse_args(arguments)
    handle_signals()
    try:
        if options.command == "stop":
            stop()
            return 0
        return run(options.pg_root, options.scale, options.seconds, options.clients)
    except (DemoError, HarnessError) as problem:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""`run_workload`: plays the platform's workload for a while and measures it from the clients' side.

Two pgbench processes share the clients: the application (prepared statements) and the dashboards (simple protocol).
pgbench gives up a client at its first error, so the statements that are meant to fail run in one psql beside them.
workload/manifest.tsv holds weight, protocol and area of every script, and the table whose policy index should help it.
"""

from __future__ import annotations

import csv
import math
import re
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

from .server import DemoError, Server

HERE = Path(__file__).resolve().parent
WORKLOAD = HERE / "workload"
PROTOCOLS = ("prepared", "simple")
APPLICATIONS = {"prepared": "platform app", "simple": "platform dashboards"}
FAILING_EVERY_S = 2.0
# What may pass after the end of the run before pgbench counts as stuck: the last statements are waited for.
GRACE_S = 120.0
PROGRESS = re.compile(r"^progress: [\d.]+ s, (?P<tps>[\d.]+) tps, lat (?P<lat>[\d.]+|NaN) ms")


@dataclass(frozen=True)
class Script:
    """One line of the manifest."""

    name: str
    weight: int
    protocol: str
    area: str
    indexed_table: Optional[str]
    variant: str = ""

    @property
    def path(self) -> Path:
        """The pgbench script."""
        return WORKLOAD / self.variant / f"{self.name}.sql"


@dataclass(frozen=True)
class Measured:
    """How one script did, in milliseconds, transaction by transaction."""

    script: Script
    executions: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Run:
    """How the whole workload did. `failed` counts the scripts that were meant to fail, and did."""

    scripts: Sequence[Measured]
    seconds: float
    failed: int

    @property
    def executions(self) -> int:
        """Scripts run in all."""
        return sum(measured.executions for measured in self.scripts)

    @property
    def per_second(self) -> float:
        """Scripts run a second."""
        return self.executions / self.seconds


def manifest() -> list[Script]:
    """The workload, in the order of the manifest."""
    with (WORKLOAD / "manifest.tsv").open(newline="") as source:
        return [Script(row["script"], int(row["weight"]), row["protocol"], row["area"],
                       None if row["indexed_table"] == "-" else row["indexed_table"])
                for row in csv.DictReader(source, delimiter="\t")]


def run_workload(server: Server, seconds: float = 60.0, clients: int = 8, *, seed: int = 42, failing: bool = True,
                 scripts: Optional[Sequence[Script]] = None, every_s: int = 5,
                 progress: Callable[[str], None] = lambda line: None) -> Run:
    """Runs `scripts` (all of the manifest by default) with `clients` connections for `seconds`."""
    chosen = list(scripts if scripts is not None else manifest())
    if seconds < 1:
        raise DemoError(f"--seconds {seconds:g} is out of range: 1 or more")
    groups = {protocol: [script for script in chosen if script.protocol == protocol] for protocol in PROTOCOLS}
    groups = {protocol: group for protocol, group in groups.items() if group}
    if clients < len(groups):
        raise DemoError(f"--clients {clients} is out of range: {len(groups)} or more")
    shares = split(clients, list(groups))
    variables = {name: server.scalar(f"SELECT max(id) FROM {name}") for name in ("users", "payments")}

    with tempfile.TemporaryDirectory(prefix="perf-demo-") as directory:
        started = time.monotonic()
        players = [Player(server, protocol, group, shares[protocol], seconds, seed + position, variables,
                          Path(directory), every_s)
                   for position, (protocol, group) in enumerate(groups.items())]
        try:
            failures = watch(server, players, seconds, started, every_s, failing, progress)
            elapsed = time.monotonic() - started
            for player in players:
                player.check()
        finally:
            for player in players:
                player.stop()
        return Run([measured for player in players for measured in player.measured()], elapsed, failures)


def split(clients: int, protocols: Sequence[str]) -> dict[str, int]:
    """Clients for each protocol: halves, the first one getting the odd client."""
    share, rest = divmod(clients, len(protocols))
    return {protocol: share + (position < rest) for position, protocol in enumerate(protocols)}


def watch(server: Server, players: Sequence["Player"], seconds: float, started: float, every_s: int, failing: bool,
          progress: Callable[[str], None]) -> int:
    """Waits for the players, reports on them, and runs what is meant to fail meanwhile; how often it did fail."""
    runs, failures, next_failure, next_report = 0, 0, started + FAILING_EVERY_S, started + every_s + 0.5
    deadline = started + seconds + GRACE_S
    mishaps = [path.read_text() for path in sorted((WORKLOAD / "failing").glob("*.sql"))]
    while any(player.running for player in players):
        now = time.monotonic()
        if now > deadline:
            raise DemoError(f"the workload did not end {GRACE_S:.0f} s after its time")
        if failing and now >= next_failure and now < started + seconds:
            failures += provoke(server, mishaps[runs % len(mishaps)])
            runs += 1
            next_failure += FAILING_EVERY_S
        if now >= next_report:
            progress(f"{now - started:4.0f} s of {seconds:.0f}:  " + "   ".join(player.pulse() for player in players))
            next_report += every_s
        time.sleep(0.1)
    return failures


def provoke(server: Server, script: str) -> bool:
    """Runs a script that is meant to fail; whether it did."""
    command = [server.program("psql"), *server.arguments(), "-d", server.dbname, "-XAtq"]
    done = subprocess.run(command, input=script, text=True, capture_output=True,
                          env={**server.environment("platform mishaps"), "LC_ALL": "C"})
    return "ERROR:" in done.stderr


class Player:
    """One pgbench process and what it tells."""

    def __init__(self, server: Server, protocol: str, scripts: Sequence[Script], clients: int, seconds: float, seed: int,
                 variables: Mapping[str, str], directory: Path, every_s: int) -> None:
        self.protocol, self.scripts = protocol, scripts
        self.log_prefix = directory / protocol
        self.rate, self.latency = 0.0, 0.0
        self.errors: list[str] = []
        command = [server.program("pgbench"), *server.arguments(), "-n", "-M", protocol, "-c", str(clients), "-j", "1",
                   "-T", str(math.ceil(seconds)), "-P", str(every_s), "--max-tries", "5", "--random-seed", str(seed),
                   "-l", "--log-prefix", str(self.log_prefix)]
        for name, value in variables.items():
            command += ["-D", f"{name}={value}"]
        for script in scripts:
            command += ["-f", f"{script.path}@{script.weight}"]
        self.process = subprocess.Popen([*command, server.dbname], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True, env=server.environment(APPLICATIONS[protocol]))
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            seen = PROGRESS.match(line)
            if seen:
                self.rate = float(seen["tps"])
                self.latency = float(seen["lat"]) if seen["lat"] != "NaN" else 0.0
            elif "error" in line.lower():
                self.errors.append(line.strip())

    @property
    def running(self) -> bool:
        """Whether pgbench still runs."""
        return self.process.poll() is None

    def pulse(self) -> str:
        """The latest progress in a few words."""
        return f"{self.protocol} {self.rate:7.1f}/s, mean {self.latency:7.1f} ms"

    def check(self) -> None:
        """Raises when pgbench failed or lost a client."""
        self.reader.join()
        if self.process.returncode != 0 or self.errors:
            raise DemoError(f"pgbench ({self.protocol}) exited with {self.process.returncode}: " + "\n".join(self.errors[:5]))

    def stop(self) -> None:
        """Ends pgbench if it still runs."""
        if self.running:
            self.process.terminate()
            self.process.wait()
        self.reader.join()

    def measured(self) -> list[Measured]:
        """What pgbench logged, by script. Log lines: client, transaction, time in µs or `failed`, script, ..."""
        times: list[list[float]] = [[] for _ in self.scripts]
        for path in self.log_prefix.parent.glob(f"{self.protocol}.*"):
            with path.open() as log:
                for line in log:
                    fields = line.split()
                    if fields[2].isdigit():
                        times[int(fields[3])].append(int(fields[2]) / 1000.0)
        return [summarise(script, sorted(values)) for script, values in zip(self.scripts, times)]


def summarise(script: Script, values: Sequence[float]) -> Measured:
    """Counts and percentiles of sorted latencies."""
    if not values:
        return Measured(script, 0, math.nan, math.nan, math.nan, math.nan, math.nan)

    def percentile(share: float) -> float:
        return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)]

    return Measured(script, len(values), sum(values) / len(values), percentile(0.50), percentile(0.95), percentile(0.99),
                    values[-1])

"""Runs test modules in several processes at once. The parent hands out modules, each to a process of its own (`run.py --module`),
and prints what each has said when it is done; called by run.py. Modules share no server, and what they do share of the machine
is locked (`system.exclusive`, `cluster.free_port`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Sequence

from .runner import Module, Tally

RUN = Path(__file__).resolve().parent / "run.py"
TALLY = re.compile(r"^\w+: (\d+) passed, (\d+) failed(?:, (\d+) skipped)? in \d+ s$")
# A module that was told to end stops its servers first.
PATIENCE = 60.0


class Child:
    """A process that runs one module. It holds the reading end of a pipe, and ends itself when the parent has gone."""

    def __init__(self, command: Sequence[str], name: str) -> None:
        self.name = name
        self.output: IO[bytes] = tempfile.TemporaryFile()
        reading, self._lifeline = os.pipe()
        try:
            # Of a session of its own: Ctrl-C reaches the parent alone, which passes it on once.
            self._process = subprocess.Popen([*command, "--module", name, "--lifeline", str(reading)],
                                             stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT,
                                             pass_fds=[reading], start_new_session=True)
        finally:
            os.close(reading)

    def is_done(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def tell_to_end(self) -> None:
        """Asks it to clean up and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Waits until it has; one that does not is killed (its reaper stops its servers then)."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> Tally:
        """What its tests came to, after it has ended, with all that it has said printed. Without a last line that says so, or
        with an exit code that says otherwise, something failed that no test could tell of."""
        os.close(self._lifeline)
        self.output.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(self.output, sys.stdout.buffer)
        self.output.seek(max(0, self.output.seek(0, os.SEEK_END) - 1000))
        lines = self.output.read().decode(errors="replace").splitlines()
        self.output.close()
        found = TALLY.match(lines[-1]) if lines else None
        tally = Tally(*(int(count or 0) for count in found.groups())) if found else Tally()
        code = self._process.returncode
        if found is None or code != (1 if tally.failed else 0):
            tally.failed += 1
            print(f"\n{self.name} ... ERROR: its process ended with {code}")
        sys.stdout.flush()
        return tally


def by_length(modules: Sequence[Module]) -> list[Module]:
    """The longest first, so that none is begun when the others are done."""
    return sorted(modules, key=lambda module: -module.seconds)


def run_in_children(modules: Sequence[Module], jobs: int, command: Sequence[str]) -> Tally:
    """Runs modules in so many processes at a time, then those that need the machine alone one by one. `command` starts run.py on
    one module when `--module NAME` is added."""
    total = Tally()
    waiting = by_length([module for module in modules if not module.alone])
    last = by_length([module for module in modules if module.alone])
    running: list[Child] = []
    try:
        while waiting or last or running:
            while waiting and len(running) < jobs:
                running.append(Child(command, waiting.pop(0).name))
            if last and not waiting and not running:
                running.append(Child(command, last.pop(0).name))
            for child in [child for child in running if child.is_done()]:
                running.remove(child)
                total.add(child.close())
            time.sleep(0.05)
    finally:
        for child in running:
            child.tell_to_end()
        for child in running:
            child.end()
            child.close()
    return total


def end_without(lifeline: int) -> None:
    """In a child: ends this process, in the orderly way, when the parent's end of the pipe closes, however that came."""
    def watch() -> None:
        os.read(lifeline, 1)
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=watch, daemon=True).start()

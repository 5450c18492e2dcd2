"""A process that outlives the harness just long enough to clean up after it, however the harness ended.

The harness tells it on a pipe which directories exist. When the pipe closes (also by kill -9 of the harness), every
server still running in one of them is stopped and the directory removed. Run by `Reaper`, never by hand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

if __package__:
    from .system import children_of, command_line, process_alive, remove_dir
else:
    from system import children_of, command_line, process_alive, remove_dir


class Reaper:
    """The harness's end of the pipe. Started with the first directory that is registered."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen] = None

    def add(self, base_dir: Path) -> None:
        """From now on `base_dir` is removed, and a server in it stopped, when this process ends."""
        self._tell("add", base_dir)

    def remove(self, base_dir: Path) -> None:
        """`base_dir` is gone, or is meant to stay."""
        if self._process is not None:
            self._tell("remove", base_dir)

    def _tell(self, action: str, base_dir: Path) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([action, str(base_dir)]).encode() + b"\n")
        self._process.stdin.flush()


def postmaster_pid(data_dir: Path) -> Optional[int]:
    """The postmaster that owns a data directory, if one is alive.

    A pid file may be left from before a reboot, and its number belong to anybody now: only a process that was started
    with this data directory counts.
    """
    try:
        pid = int((data_dir / "postmaster.pid").read_text().split("\n")[0])
    except (OSError, ValueError):
        return None
    return pid if pid > 0 and process_alive(pid) and str(data_dir) in command_line(pid) else None


def stop_hard(pid: int, patience: float = 10.0) -> None:
    """Stops a postmaster whatever state it is in, and waits until none of its children is left."""
    family = [pid, *children_of(pid)]
    for number in (signal.SIGQUIT, signal.SIGKILL):
        for member in [pid] if number == signal.SIGQUIT else family:
            try:
                os.kill(member, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not any(process_alive(member) for member in family):
                return
            time.sleep(0.05)


def main() -> None:
    """Collects what the harness says until the pipe closes, then cleans up what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: dict[str, None] = {}
    for line in sys.stdin:
        action, base_dir = json.loads(line)
        if action == "add":
            left[base_dir] = None
        else:
            left.pop(base_dir, None)
    for base_dir in left:
        pid = postmaster_pid(Path(base_dir) / "data")
        if pid is not None:
            stop_hard(pid)
        remove_dir(base_dir)


if __name__ == "__main__":
    main()

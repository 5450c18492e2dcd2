"""What a person sees: steps, the output of the programs they take, and one clear message when one cannot be done."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Mapping, Optional, Sequence, Union

Argument = Union[str, Path]


class SetupError(Exception):
    """Something the machine lacks and that cannot be had. The message names it and says how to get it."""


class StepFailed(Exception):
    """A program ended with an error after it had said why itself."""


def step(text: str) -> None:
    """Announces what happens next."""
    print(f"==> {text}", flush=True)


def run(command: Sequence[Argument], env: Optional[Mapping[str, str]] = None, cwd: Optional[Path] = None) -> None:
    """Runs a program whose own output is worth seeing (cargo, test runners)."""
    words = [str(word) for word in command]
    code = subprocess.run(words, env=dict(env) if env is not None else None, cwd=cwd).returncode
    if code != 0:
        raise StepFailed(f"{shlex.join(words)} exited with {code}")


def run_quietly(command: Sequence[Argument], what: str, env: Optional[Mapping[str, str]] = None) -> bool:
    """Runs a program whose output matters only when it fails; a line now and then shows that it is alive.

    Returns whether it succeeded. When it did not, the end of its output has been printed.
    """
    words = [str(word) for word in command]
    step(what)
    started = time.monotonic()
    last_lines: deque = deque(maxlen=25)
    done = threading.Event()

    def report() -> None:
        while not done.wait(20.0):
            latest = last_lines[-1].strip() if last_lines else ""
            print(f"    {time.monotonic() - started:4.0f} s  {latest[:100]}", flush=True)

    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                   text=True, errors="replace", env=dict(env) if env is not None else None)
    except OSError as problem:
        print(f"    {words[0]}: {problem.strerror}", flush=True)
        return False
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    assert process.stdout is not None
    for line in process.stdout:
        last_lines.append(line.rstrip())
    code = process.wait()
    done.set()
    reporter.join()
    if code != 0:
        print("\n".join(f"    | {line}" for line in last_lines), flush=True)
    return code == 0


def capture(command: Sequence[Argument], env: Optional[Mapping[str, str]] = None) -> Optional[str]:
    """The output of a short program, or None when it is missing or fails."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env=dict(env) if env is not None else None)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def in_ci() -> bool:
    """Whether nothing may be skipped."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def give_up(problem: Exception) -> int:
    """Prints the one message and returns the exit code."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    return 1

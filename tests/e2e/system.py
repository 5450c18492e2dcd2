"""What the harness needs from the operating system: the server's user, processes, directories and waiting."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence, TypeVar, Union

T = TypeVar("T")
PathLike = Union[str, Path]


class HarnessError(Exception):
    """The harness could not do what a test asked for; the message says what and why."""


@dataclass(frozen=True)
class ServerUser:
    """The user that servers run as when it is not the user of this process (that is: when this process is root)."""

    name: str
    uid: int
    gid: int


@functools.lru_cache(maxsize=None)
def server_user() -> Optional[ServerUser]:
    """None for a plain user. PostgreSQL refuses to run as root, so root gets `postgres`, or else `nobody`."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(name, entry.pw_uid, entry.pw_gid)
    raise HarnessError("running as root, and neither user postgres nor user nobody exists to run the server as")


def popen_as_server(args: Sequence[PathLike], **options: Any) -> subprocess.Popen:
    """Starts a program as the server's user with an environment free of the caller's PG* variables."""
    user = server_user()
    if user is not None:
        options.update(user=user.uid, group=user.gid, extra_groups=[])
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("cwd", "/")
    options.setdefault("env", clean_environment())
    return subprocess.Popen([str(arg) for arg in args], **options)


def run_as_server(args: Sequence[PathLike], timeout: float = 300.0) -> str:
    """Runs a program as the server's user to its end; its output, or HarnessError with that output."""
    process = popen_as_server(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = process.communicate(timeout=timeout)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise HarnessError(f"{args[0]} did not finish in {timeout:.0f} s") from None
    if process.returncode != 0:
        raise HarnessError(f"{' '.join(str(arg) for arg in args)} exited with {process.returncode}:\n{output}")
    return output


def clean_environment() -> dict[str, str]:
    """This process's environment without what would make results depend on the machine: PG* and locale settings, and
    RUST_* (a backtrace becomes the DETAIL of an error)."""
    dropped = ("PG", "LC_", "LANG", "RUST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def give_to_server(path: PathLike) -> None:
    """Makes the server's user the owner of one path."""
    user = server_user()
    if user is not None:
        os.chown(path, user.uid, user.gid)


def make_private_dir(prefix: str = "pfo-") -> Path:
    """A new directory that only the server's user (and root) can enter.

    Its path is short, because a socket path may have at most 107 bytes; for that reason TMPDIR is not used.
    """
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("PERF_OPT_TMP", "/tmp")))
    give_to_server(path)
    return path


def memory_dir(needed: int) -> Optional[Path]:
    """A directory of a file system in memory, where so many bytes are free in it and for this process; None where there is none."""
    shared = Path("/dev/shm")
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        known = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        if not any(line.split()[1:3] == [str(shared), "tmpfs"] for line in mounts) or not os.access(shared, os.W_OK | os.X_OK):
            return None
        room = os.statvfs(shared)
        free = [room.f_bavail * room.f_frsize, int(known["MemAvailable"].split()[0]) * 1024]
        for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
            limited = Path("/sys/fs/cgroup") / limit
            if limited.exists() and limited.read_text().strip() != "max":
                free.append(int(limited.read_text()) - int((Path("/sys/fs/cgroup") / used).read_text()))
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return shared if min(free) >= needed else None


def remove_dir(path: PathLike) -> None:
    """Removes a directory tree; one that is gone already is fine, one that cannot be removed is an error."""
    for _ in range(5):  # a process that is just exiting may still write a last file
        shutil.rmtree(path, ignore_errors=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.1)
    shutil.rmtree(path)


def cache_dir() -> Path:
    """The one directory where everything that can be fetched or made again is kept."""
    chosen = os.environ.get("PERF_OPT_CACHE")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/cache/perf_opt")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perf_opt"


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Held by one process at a time, whatever run it belongs to: for what is shared by all tests of this machine."""
    path = cache_dir() / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def process_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie that nobody has collected yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):
        return not os.path.isdir("/proc/self") or os.path.isdir(f"/proc/{pid}")


def command_line(pid: int) -> str:
    """The arguments a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return subprocess.run(["ps", "-p", str(pid), "-o", "args="], capture_output=True, text=True).stdout


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = (line.split() for line in listing.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str = "the condition",
               interval: float = 0.05) -> T:
    """Polls until `predicate` returns something true, and returns that. Fails naming `what` and the last value. What has not come
    after a second is asked for half as often: most predicates are sessions of their own, which other tests pay for."""
    began = time.monotonic()
    while True:
        value = predicate()
        if value:
            return value
        waited = time.monotonic() - began
        if waited >= timeout:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}; last value: {value!r}")
        time.sleep(interval if waited < 1 else 2 * interval)

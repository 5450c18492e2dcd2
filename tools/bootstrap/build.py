"""Builds the extension for one PostgreSQL and puts it where a server finds it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .console import SetupError, run, step
from .postgres import Installation, PrivateTree, private_tree
from .toolchain import ROOT, build_environment

# A debug build with some optimisation: overflow and debug assertions are on, and a rebuild takes seconds.
TEST_PROFILE = "test-server"
RELEASE_PROFILE = "release"


def target_dir() -> Path:
    """Cargo's target directory."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()


def cargo_environment(source: Installation) -> dict[str, str]:
    """The environment that builds against one installation; pgrx's own settings stay out of the user's home."""
    env = build_environment()
    # One home per version: pgrx rebuilds its bindings whenever this file is touched.
    home = target_dir() / "pgrx" / f"pg{source.major}"
    home.mkdir(parents=True, exist_ok=True)
    config = home / "config.toml"
    contents = f'[configs]\npg{source.major} = "{source.pg_config}"\n'
    if not config.exists() or config.read_text() != contents:
        config.write_text(contents)
    return {**env, "PGRX_HOME": str(home), "CARGO_TARGET_DIR": str(target_dir())}


def features(source: Installation) -> list[str]:
    """The cargo arguments that select the server version."""
    return ["--no-default-features", "--features", f"pg{source.major}"]


def package(source: Installation, profile: str) -> Path:
    """Compiles and returns a directory with the library, the control file and the SQL files."""
    step(f"Building perf_opt for PostgreSQL {source.version} ({profile})")
    out = target_dir() / "package" / f"pg{source.major}-{profile}"
    shutil.rmtree(out, ignore_errors=True)
    run(["cargo", "pgrx", "package", "--profile", profile, "--pg-config", source.pg_config, "--out-dir", out,
         *features(source)], cargo_environment(source), cwd=ROOT)
    return out


def copy_into(out: Path, lib_dir: Path, extension_dir: Path) -> list[Path]:
    """Copies a package into an installation; files a running server has open keep their old contents for it."""
    for old in extension_dir.glob("perf_opt*"):
        if old.suffix in (".sql", ".control"):
            old.unlink()
    copied = []
    for path in sorted(out.rglob("perf_opt*")):
        if path.is_dir():
            continue
        target = (extension_dir if path.suffix in (".sql", ".control") else lib_dir) / path.name
        partial = target.with_name(target.name + ".new")
        shutil.copyfile(path, partial)
        partial.chmod(0o644 if target.parent == extension_dir else 0o755)
        os.replace(partial, target)
        copied.append(target)
    return copied


def private_server(source: Installation, profile: str) -> PrivateTree:
    """A private copy of the installation with the extension of this clone in it."""
    out = package(source, profile)
    tree = private_tree(source, "test" if profile == TEST_PROFILE else profile)
    copy_into(out, tree.lib_dir, tree.extension_dir)
    return tree


def install(source: Installation) -> None:
    """Installs a release build into the real installation."""
    out = package(source, RELEASE_PROFILE)
    extension_dir = source.share_dir / "extension"
    for directory in (source.lib_dir, extension_dir):
        if not os.access(directory, os.W_OK):
            raise SetupError(f"{directory} is not writable by this user. The build is ready; finish with: "
                             f"sudo cp -R {out}/. /")
    for path in copy_into(out, source.lib_dir, extension_dir):
        print(f"    {path}")
    print("Now add  shared_preload_libraries = 'perf_opt'  to postgresql.conf, restart the server, and run\n"
          "CREATE EXTENSION perf_opt;  in each database.")

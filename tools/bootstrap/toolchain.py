"""The programs that build: Rust, a C compiler, libclang, and cargo-pgrx of the version that Cargo.toml names."""

from __future__ import annotations

import glob
import os
import re
import shutil
from pathlib import Path
from typing import Optional

from e2e.system import cache_dir

from .console import SetupError, capture, run, step
from .packages import apt_install, can_use_apt, wheel

ROOT = Path(__file__).resolve().parents[2]
LIBCLANG_PLACES = (
    "/usr/lib/llvm-*/lib/libclang*.so*", "/usr/lib/*-linux-gnu/libclang*.so*", "/usr/lib64/libclang*.so*",
    "/usr/lib64/llvm*/lib*/libclang*.so*", "/usr/lib/libclang*.so*", "/usr/local/lib/libclang*.so*",
    "/opt/homebrew/opt/llvm/lib/libclang.dylib", "/Library/Developer/CommandLineTools/usr/lib/libclang.dylib",
)


def build_environment() -> dict[str, str]:
    """The environment cargo builds in, with everything found or fetched that a build needs."""
    env = dict(os.environ)
    if shutil.which("cargo") is None:
        raise SetupError("Rust is needed (cargo is not on the PATH): https://rustup.rs")
    if shutil.which(os.environ.get("CC", "cc")) is None and shutil.which("gcc") is None:
        if not (can_use_apt() and apt_install(["gcc", "libc6-dev"])):
            raise SetupError("a C compiler is needed (cc is not on the PATH): install the package gcc or clang")
    env.update(_libclang_variables())
    tools = _cargo_pgrx_dir(env)
    if tools is not None:
        env["PATH"] = f"{tools}{os.pathsep}{env['PATH']}"
    return env


def pgrx_version() -> str:
    """The exact pgrx version that Cargo.toml pins; cargo-pgrx must be of the same."""
    match = re.search(r'^pgrx\s*=\s*(?:\{.*version\s*=\s*)?"=([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    if match is None:
        raise SetupError('Cargo.toml has no line of the form pgrx = "=X.Y.Z"')
    return match.group(1)


def _cargo_pgrx_dir(env: dict[str, str]) -> Optional[Path]:
    """Where cargo-pgrx of the right version is; None when the one on the PATH is right."""
    version = pgrx_version()
    wanted = f"cargo-pgrx {version}"
    if capture(["cargo", "pgrx", "--version"], env) == wanted:
        return None
    root = cache_dir() / f"cargo-pgrx-{version}"
    program = root / "bin" / "cargo-pgrx"
    if capture([program, "pgrx", "--version"]) == wanted:
        return program.parent
    step(f"Building {wanted} (a few minutes, once)")
    root.mkdir(parents=True, exist_ok=True)
    # Without its default features it needs no OpenSSL; nothing it is used for here talks to the network. A debug build
    # is enough, and takes half the time.
    run(["cargo", "install", "cargo-pgrx", "--version", version, "--locked", "--debug", "--no-default-features",
         "--root", root], {**env, "CARGO_TARGET_DIR": str(root / "target")}, cwd=root)
    shutil.rmtree(root / "target", ignore_errors=True)
    if capture([program, "pgrx", "--version"]) != wanted:
        raise SetupError(f"{program} was built but is not {wanted}")
    return program.parent


def _libclang_variables() -> dict[str, str]:
    """What bindgen must be told about libclang; nothing when it finds everything by itself."""
    if "LIBCLANG_PATH" in os.environ:
        return {}
    if _system_libclang() is None and can_use_apt():
        apt_install(["libclang-dev", "clang"])
    if _system_libclang() is not None:
        return {} if shutil.which("clang") else _compiler_headers()
    try:
        home = wheel("libclang", "libclang", "24 MB")
    except SetupError as problem:
        raise SetupError(f"libclang is needed: install the package libclang-dev (Debian) or clang-libs (Fedora); "
                         f"or {problem}") from None
    library = next(home.rglob("libclang.*"), None)
    if library is None:
        raise SetupError(f"the PyPI package libclang in {home} has no library: install the package libclang-dev")
    return {"LIBCLANG_PATH": str(library.parent), **_compiler_headers()}


def _system_libclang() -> Optional[str]:
    for pattern in LIBCLANG_PLACES:
        for path in sorted(glob.glob(pattern)):
            if re.search(r"/libclang(-[\d.]+)?\.(so|dylib)[\d.]*$", path):
                return path
    return None


def _compiler_headers() -> dict[str, str]:
    """libclang without clang does not know where stddef.h is: the C compiler does."""
    if "BINDGEN_EXTRA_CLANG_ARGS" in os.environ:
        return {}
    include = capture(["gcc", "-print-file-name=include"]) or capture(["cc", "-print-file-name=include"])
    return {"BINDGEN_EXTRA_CLANG_ARGS": f"-I{include}"} if include and os.path.isdir(include) else {}

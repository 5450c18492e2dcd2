#!/usr/bin/env python3
"""What the Makefile calls: fetches what a clean clone lacks, builds, installs, tests and starts the demo."""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):
    sys.exit("error: Python 3.9 or newer is needed: install the package python3")

import argparse  # noqa: E402
import os  # noqa: E402
import py_compile  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Optional  # noqa: E402

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests"), str(Path(__file__).resolve().parent)]

from bootstrap import build, postgres  # noqa: E402
from bootstrap.console import SetupError, StepFailed, capture, give_up, in_ci, step  # noqa: E402
from bootstrap.toolchain import ROOT  # noqa: E402

TESTED_VERSIONS = (15, 18)
PARTS = ("unit", "regress", "e2e")


def wanted_versions() -> list[int]:
    """PG=NN asks for one version, PG_CONFIG for its own; otherwise both ends of the supported range."""
    if os.environ.get("PG"):
        try:
            return [int(os.environ["PG"])]
        except ValueError:
            raise SetupError(f"PG={os.environ['PG']} is not a major version such as 15") from None
    named = postgres.chosen()
    return [named.major] if named is not None else list(TESTED_VERSIONS)


def installations() -> list[postgres.Installation]:
    """The installations to test on. Only a version that nobody asked for by name may be missing, and not in CI."""
    found = []
    for major in wanted_versions():
        try:
            found.append(postgres.of_version(major))
        except SetupError as problem:
            if in_ci() or os.environ.get("PG"):
                raise
            step(f"SKIPPING PostgreSQL {major}: {problem}")
    if not found:
        raise SetupError("there is no PostgreSQL to test on: see above")
    return found


def one_installation() -> postgres.Installation:
    """The installation for what runs on one: PG=NN, else PG_CONFIG, else what there is."""
    return postgres.of_version(wanted_versions()[0]) if os.environ.get("PG") else postgres.any_version()


def python(script: str, *arguments: object) -> bool:
    """Runs a Python program of this repository; whether it succeeded."""
    sys.stdout.flush()
    process = subprocess.Popen([sys.executable, str(ROOT / script), *(str(argument) for argument in arguments)])
    try:
        return process.wait() == 0
    except BaseException:  # Ctrl-C reaches the child as well; let it clean up before we go
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
        raise


def unit_tests() -> bool:
    """Unit and property tests of the pure crate."""
    step("Unit and property tests")
    return subprocess.run(["cargo", "test", "-p", "perf_core", "-p", "perf_report"], cwd=ROOT).returncode == 0


def regress_arguments(source: postgres.Installation, tree: postgres.PrivateTree) -> list[object]:
    """What tests/pg_regress/run.py wants to know."""
    out = build.target_dir() / "pg_regress" / f"pg{source.major}"
    return ["--pg-root", tree.pg_root, "--pg-regress", tree.pg_regress, "--out", out]


def test(parts: list[str]) -> int:
    """Runs the chosen parts on every version; all of them, even when an early one fails."""
    pattern = [os.environ["TEST"]] if os.environ.get("TEST") else []
    failed = []
    if "unit" in parts:
        if shutil.which("cargo") is None:
            raise SetupError("Rust is needed (cargo is not on the PATH): https://rustup.rs")
        if not unit_tests():
            failed.append("unit")
    if set(parts) & {"regress", "e2e"}:
        for source in installations():
            tree = build.private_server(source, build.TEST_PROFILE)
            if "regress" in parts:
                step(f"Regression tests on PostgreSQL {source.version}")
                if not python("tests/pg_regress/run.py", *regress_arguments(source, tree), *pattern):
                    failed.append(f"regress on {source.major}")
            if "e2e" in parts:
                step(f"End-to-end tests on PostgreSQL {source.version}")
                if not python("tests/e2e/run.py", "--pg-root", tree.pg_root, *pattern):
                    failed.append(f"e2e on {source.major}")
    if failed:
        raise StepFailed(f"failed: {', '.join(failed)}")
    return 0


def regress_accept() -> int:
    """Makes what one regress file prints now the expected output."""
    source = postgres.of_version(int(os.environ.get("PG") or TESTED_VERSIONS[-1]))
    tree = build.private_server(source, build.TEST_PROFILE)
    arguments = regress_arguments(source, tree)
    return 0 if python("tests/pg_regress/run.py", *arguments, "--accept", os.environ.get("TEST", "")) else 1


def lint() -> int:
    """Formatting, clippy for both ends of the version range, and Python that at least compiles; all of it, then fails."""
    for component in ("fmt", "clippy"):
        if capture(["cargo", component, "--version"]) is None:
            raise SetupError(f"cargo {component} is needed: rustup component add rustfmt clippy")
    failed = []

    def check(what: str, command: list[str], env: Optional[dict[str, str]] = None) -> None:
        step(what)
        if subprocess.run(command, cwd=ROOT, env=env).returncode != 0:
            failed.append(what)

    clippy = ["cargo", "clippy", "--all-targets"]
    deny = ["--", "-D", "warnings"]
    check("rustfmt", ["cargo", "fmt", "--all", "--check"])
    check("clippy: what needs no server", [*clippy, "-p", "perf_core", "-p", "perf_report", *deny])
    for source in installations():
        check(f"clippy: perf_opt for PostgreSQL {source.major}",
              [*clippy, "-p", "perf_opt", *build.features(source), *deny], build.cargo_environment(source))
    step("Python")
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted([*ROOT.glob("tools/**/*.py"), *ROOT.glob("tests/**/*.py")]):
            try:
                py_compile.compile(str(path), cfile=f"{scratch}/compiled.pyc", doraise=True)
            except py_compile.PyCompileError as problem:
                print(problem, flush=True)
                failed.append(f"Python: {path.relative_to(ROOT)}")
    if failed:
        raise StepFailed(f"failed: {', '.join(failed)}")
    return 0


def on_release(script: str, *arguments: str) -> int:
    """Runs a program on a private server that has a release build."""
    if not (ROOT / script).exists():
        raise SetupError(f"{script} does not exist in this version")
    tree = build.private_server(one_installation(), build.RELEASE_PROFILE)
    return 0 if python(script, *arguments, "--pg-root", tree.pg_root) else 1


def demo_stop() -> int:
    """Stops the demo's server, if it runs."""
    return 0 if python("tests/demo/demo.py", "stop") else 1


def clean() -> int:
    """Removes what was built here; what was fetched stays in the cache."""
    if (ROOT / "tests/demo/demo.py").exists():
        demo_stop()
    for path in (build.target_dir(), postgres.trees_dir()):
        step(f"Removing {path}")
        shutil.rmtree(path, ignore_errors=True)
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["build", "install", "test", "regress-accept", "lint", "demo", "demo-stop",
                                            "bench", "soak", "clean"])
    parser.add_argument("parts", nargs="*", help="for test: unit, regress, e2e (all of them by default)")
    options = parser.parse_args()
    os.umask(0o022)  # the server's user must be able to read what is made here
    commands = {
        "build": lambda: print(f"built: {build.package(one_installation(), build.RELEASE_PROFILE)}"),
        "install": lambda: build.install(postgres.real()),
        "test": lambda: test(options.parts or list(PARTS)),
        "regress-accept": regress_accept,
        "lint": lint,
        "demo": lambda: on_release("tests/demo/demo.py", "run"),
        "demo-stop": demo_stop,
        "bench": lambda: on_release("tests/bench/run.py"),
        "soak": lambda: on_release("tests/e2e/run.py", "--soak"),
        "clean": clean,
    }
    try:
        result: Optional[int] = commands[options.command]()  # type: ignore[assignment]
        return result or 0
    except (SetupError, StepFailed) as problem:
        return give_up(problem)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

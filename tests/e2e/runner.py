"""Collects and runs e2e tests on one installation: a line per test, the server's log where one failed, a closing line."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
import traceback
import unittest
from pathlib import Path
from typing import Any, Iterator, Optional

from .case import ClusterTest, forget_shared_clusters, use_installation

HERE = Path(__file__).resolve().parent
DEFAULT_TIME_LIMIT = 120.0


class Report(unittest.TestResult):
    """Prints as it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0
        self.failed = 0
        self._started = 0.0
        self._bad = False

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._started = time.monotonic()
        self._bad = False
        print(f"{short_name(test)} ... ", end="", flush=True)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        if self._bad:
            self.failed += 1

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed += 1
        self._say("ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._say(f"skipped: {reason}")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._broken(test, err, "FAILED")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._broken(test, err, "ERROR")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._broken(test, err, f"FAILED {subtest._subDescription()}")  # type: ignore[attr-defined]

    def _say(self, verdict: str) -> None:
        print(f"{verdict} ({time.monotonic() - self._started:.2f} s)", flush=True)

    def _broken(self, test: unittest.TestCase, err: Any, verdict: str) -> None:
        self._bad = True
        if not hasattr(test, "_testMethodName"):  # setUpClass or an import: no startTest came before
            self.failed += 1
            print(f"{test} ... ", end="")
        self._say(verdict)
        print("".join(traceback.format_exception(*err)), end="")
        if isinstance(test, ClusterTest):
            with contextlib.suppress(Exception):
                print(test.log_tails())
        sys.stdout.flush()

    def closing_line(self) -> str:
        """What the run came to."""
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def short_name(test: unittest.TestCase) -> str:
    """module.Class.test, without the package."""
    return test.id().replace("e2e.", "", 1)


def each_test(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The single tests of nested suites."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each_test(item)
        else:
            yield item


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in a test that takes longer."""
    def expired(_number: int, _frame: object) -> None:
        raise TimeoutError(f"the test took longer than its time limit of {seconds:.0f} s")
    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def give_time_limit(test: unittest.TestCase) -> None:
    """Puts the time limit around the test's method, so that its cleanups run when it expires."""
    name = test._testMethodName
    method = getattr(test, name)
    seconds = getattr(test, "time_limit", DEFAULT_TIME_LIMIT)

    def bounded() -> None:
        with limited(seconds):
            method()
    bounded.__dict__.update(method.__dict__)
    setattr(test, name, bounded)


def run_all(pg_root: Path, pattern: Optional[str] = None, soak: bool = False) -> int:
    """Runs the tests whose name contains `pattern`; the exit code. Modules are test_*.py, for a soak soak_*.py."""
    use_installation(pg_root)
    report = Report()
    selected = 0
    started = time.monotonic()
    for path in sorted(HERE.glob("soak_*.py" if soak else "test_*.py")):
        try:
            module = importlib.import_module(f"e2e.{path.stem}")
        except Exception:  # a module that cannot be read is a failed test, and the others still run
            traceback.print_exc(file=sys.stdout)
            print(f"{path.stem} ... ERROR: it cannot be imported", flush=True)
            report.failed += 1
            selected += 1
            continue
        suite = unittest.defaultTestLoader.loadTestsFromModule(module)
        tests = [test for test in each_test(suite) if not pattern or pattern in short_name(test)]
        selected += len(tests)
        for test in tests:
            give_time_limit(test)
        try:
            unittest.TestSuite(tests).run(report)
        finally:
            forget_shared_clusters()
    print(f"in {time.monotonic() - started:.0f} s on {pg_root}")
    if selected == 0:
        print(f"no test matches {pattern!r}" if pattern else "there are no tests", file=sys.stderr)
    print(report.closing_line(), flush=True)
    return 0 if selected and report.failed == 0 else 1

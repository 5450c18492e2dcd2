"""Collects e2e tests and runs them in this process: a line per test, the server's log where one failed."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import time
import traceback
import unittest
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional

from .case import ClusterTest, forget_shared_clusters

HERE = Path(__file__).resolve().parent
DEFAULT_TIME_LIMIT = 120.0


@dataclass
class Tally:
    """What tests came to."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Tally) -> None:
        """Adds another one's to this one's."""
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def closing_line(self) -> str:
        """In words."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


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


@dataclass
class Module:
    """One test module as a run sees it: its tests of this run, or why it has none."""

    name: str
    tests: list[unittest.TestCase]
    broken: str = ""
    seconds: float = 0.0
    alone: bool = False


def load(name: str, pattern: Optional[str] = None) -> Module:
    """A module with its tests whose name contains `pattern`.

    A module may say `SECONDS = 90`, about how long it takes when that is more than its number of tests, so that it is
    started early, and `ALONE = True` when it needs the machine to itself.
    """
    try:
        module = importlib.import_module(f"e2e.{name}")
    except Exception:  # a module that cannot be read is a failed test, and the others still run
        return Module(name, [], traceback.format_exc())
    suite = unittest.defaultTestLoader.loadTestsFromModule(module)
    tests = [test for test in each_test(suite) if not pattern or pattern in short_name(test)]
    for test in tests:
        give_time_limit(test)
    return Module(name, tests, seconds=max(getattr(module, "SECONDS", 0.0), float(len(tests))),
                  alone=getattr(module, "ALONE", False))


def collect(pattern: Optional[str] = None, soak: bool = False) -> list[Module]:
    """The modules that have something to run, by name: test_*.py, for a soak soak_*.py."""
    loaded = [load(path.stem, pattern) for path in sorted(HERE.glob("soak_*.py" if soak else "test_*.py"))]
    return [module for module in loaded if module.tests or module.broken]


def run_here(modules: Iterable[Module]) -> Tally:
    """Runs modules in this process, one after the other, printing as it goes."""
    report = Report()
    for module in modules:
        if module.broken:
            print(f"{module.broken}{module.name} ... ERROR: it cannot be imported", flush=True)
            report.failed += 1
        try:
            unittest.TestSuite(module.tests).run(report)
        except KeyboardInterrupt:  # the one that unittest lets through, without the cleanups
            for test in module.tests:
                test.doCleanups()
            raise
        finally:
            forget_shared_clusters()
    return Tally(report.passed, report.failed, len(report.skipped))

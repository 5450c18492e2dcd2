#!/usr/bin/env python3
"""Runs the end-to-end tests on one PostgreSQL installation that has perf_opt in it (`make test-e2e` prepares one)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from e2e.cluster import handle_signals  # noqa: E402  (the path must be set first)
from e2e.runner import run_all  # noqa: E402


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", help="run only tests whose module.Class.test contains this")
    parser.add_argument("--pg-root", type=Path, required=True, help="the directory whose bin/ holds the server")
    parser.add_argument("--soak", action="store_true", help="run the long soak_*.py instead of test_*.py")
    options = parser.parse_args()
    os.umask(0o022)
    handle_signals()
    return run_all(options.pg_root.resolve(), options.pattern, options.soak)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.conformance`: all of Autobahn's cases, and a table of the verdicts."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance.cases import compare


def main() -> int:
    """Run the cases and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--cases", nargs="*", default=["*"], help="ids or globs such as 5.*")
    parser.add_argument("--without", nargs="*", default=[], help="the same, to be left out")
    parser.add_argument("--at-once", type=int, default=1, help="cases that run side by side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        comparison = compare(
            Path(directory), options.cases, leave_out=options.without, at_once=options.at_once
        )
    print(comparison.table)
    for line in comparison.trouble:
        print(f"LOGGED: {line}")
    return 1 if comparison.worse or comparison.trouble else 0


if __name__ == "__main__":
    sys.exit(main())

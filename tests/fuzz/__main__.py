"""`python -m tests.fuzz`: random sockets for some time, and a table of the outcomes."""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.fuzz.sockets import APP, play
from tests.servers import DIRECT, serving

PATHS = {"direct": DIRECT, "portable": ()}


def main() -> int:
    """Fuzz both paths and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60, help="for each path")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--path", choices=PATHS, help="only this one")
    options = parser.parse_args()
    paths = [options.path] if options.path else list(PATHS)
    results = [_fuzz(path, options.seed, options.seconds) for path in paths]
    return 0 if all(results) else 1


def _fuzz(path: str, seed: int, seconds: float) -> bool:
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(APP, Path(directory), *PATHS[path], topic_linger=0) as server,
    ):
        report = asyncio.run(play(server, seed, seconds=seconds))
        print(f"{path}: {report}\n")
        for problem in report.problems:
            print(f"WRONG: {problem}")
        if report.problems:
            print(server.log[-4000:])
    return not report.problems


if __name__ == "__main__":
    sys.exit(main())

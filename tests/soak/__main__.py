"""`python -m tests.soak`: a thousand connections that come and go, and what they left."""

import argparse
import asyncio
import random
import resource
import sys
import tempfile
from pathlib import Path

from tests.soak.run import Plan, soak


def main() -> int:
    """Run and return the exit code."""
    plan = _plan()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logs = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"{plan}, logs in {logs}", flush=True)
    report = asyncio.run(soak(plan, logs, progress=lambda line: print(line, flush=True)))
    print(f"\n{report}\n")
    for problem in report.problems[:50]:
        print(f"WRONG: {problem}")
    print("Nothing is left over, nothing was lost" if report.good else "It did not pass")
    return 0 if report.good else 1


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--events", type=float, default=50, help="published a second")
    parser.add_argument("--portable", action="store_true", help="through ASGI, no direct frames")
    parser.add_argument("--redis", action="store_true", help="on a Redis of its own")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    return Plan(
        options.minutes,
        options.connections,
        options.events,
        direct=not options.portable,
        redis=options.redis,
        seed=options.seed,
    )


if __name__ == "__main__":
    sys.exit(main())

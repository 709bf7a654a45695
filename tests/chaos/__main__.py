"""`python -m tests.chaos`: faults for some time, and a table of their effects."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.faults import FAULTS, FLUSH, Fault
from tests.chaos.run import run
from tests.chaos.stage import Scale


def main() -> int:
    """Run the rounds and return the exit code."""
    options = _options()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    scale = Scale(options.servers, options.clients, options.redis, options.database_url)
    chosen = [fault for fault in FAULTS if options.only in fault.name]
    plan = [fault for _ in range(options.rounds) for fault in rng.sample(chosen, len(chosen))]
    good = _act("Nothing may be lost", plan, seed, scale)
    if options.flushes:
        good &= _act("Redis forgets, and says so", [FLUSH] * options.flushes, seed, scale)
    return 0 if good else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=1, help="each has every fault once")
    parser.add_argument("--flushes", type=int, default=3, help="FLUSHALL, in a run of their own")
    parser.add_argument("--seed", type=int, help="repeats the faults of an earlier run")
    parser.add_argument("--only", default="", help="faults with this in their name")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--redis", choices=["redis", "valkey"], help="which program to run")
    parser.add_argument("--database-url", help="an empty PostgreSQL database instead of SQLite")
    return parser.parse_args()


def _act(title: str, plan: Sequence[Fault], seed: int, scale: Scale) -> bool:
    logs = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"{title}: seed {seed}, {len(plan)} faults, logs in {logs}", flush=True)
    began = time.monotonic()
    report = run(
        plan, seed=seed, logs=logs, scale=scale, progress=lambda line: print(line, flush=True)
    )
    print(f"\n{report}\n\n{report.faults} faults in {time.monotonic() - began:.0f} s")
    for problem in report.problems:
        print(f"WRONG: {problem}")
    if report.good:
        shutil.rmtree(logs)
    else:
        print(f"seed {seed}, logs in {logs}")
    print(flush=True)
    return report.good


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.simulation`: runs seeds, and shows what the first one that fails did."""

# Before all other imports: see `determinism`.
from tests.simulation import determinism

REAL_SECONDS = determinism.replace_clocks()

import argparse  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from hashlib import sha256  # noqa: E402
from itertools import count  # noqa: E402

from tests.simulation.pool import outcomes, shrunk  # noqa: E402
from tests.simulation.run import Case, Outcome  # noqa: E402
from tests.simulation.sometimes import RARE, observe  # noqa: E402


def main() -> int:
    options = _options()
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The order of sets of strings follows from it.
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    logging.disable()
    determinism.replace_hashes()
    observe()
    if options.replay is not None:
        [outcome] = outcomes([Case.parse(options.replay)])
        _show(outcome)
        return bool(outcome.violations)
    return _run(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for how long at most")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    parser.add_argument("--no-trace", action="store_true", help="show only what was broken")
    parser.add_argument("--replay", help="a seed, or a seed and its faults: 7 or 7:0,2")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    began = REAL_SECONDS()
    reached: set[str] = set()
    total = failures = 0
    traces: dict[int, str] = {}
    for outcome in outcomes(_cases(options, began), options.processes):
        total += 1
        traces[outcome.case.seed] = outcome.hash
        reached |= outcome.reached
        if outcome.violations:
            failures += 1
            print(f"seed {outcome.case}: {outcome.violations[0]}", flush=True)
            if not (options.keep_going or options.no_trace):
                _show(shrunk(outcome))
            if not options.keep_going:
                break
    seconds = REAL_SECONDS() - began
    print(f"{total} seeds in {seconds:.1f} s ({total / seconds:.1f}/s), {failures} failed")
    # The order in which seeds end depends on the machine.
    hashes = " ".join(traces[seed] for seed in sorted(traces))
    print(f"traces {sha256(hashes.encode()).hexdigest()[:16]}")
    for state in RARE:
        print(f"  {'reached' if state in reached else 'NOT REACHED'}: {state}")
    return bool(failures)


def _cases(options: argparse.Namespace, began: float) -> Iterator[Case]:
    for seed in count(options.first):
        if seed >= options.first + options.seeds or REAL_SECONDS() - began > options.seconds:
            return
        yield Case(seed)


def _show(outcome: Outcome) -> None:
    print(*outcome.trace, sep="\n")
    for violation in outcome.violations:
        print(f"BROKEN  {violation}")
    print(f"trace {outcome.hash}; again with: python -m tests.simulation --replay {outcome.case}")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Without tearing down what was simulated: its tasks would be closed without their loops.
    os._exit(code)

"""Compare servers of GraphQL subscriptions: `python -m benchmarks`, or `make bench`.

`python -m benchmarks --quick --subjects tasks,strawberry --loads open_loop` takes a few seconds for
each of the two, and prints what it found.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import Cores, Failed, raise_limits
from benchmarks.loads import LOADS
from benchmarks.loads.scale import FULL, QUICK, Figures, Scale
from benchmarks.machine import describe
from benchmarks.report import write
from benchmarks.subjects import BUILD, HERE, SUBJECTS, NotRun, Subject, compiled


@dataclass
class Results:
    """All that a comparison found."""

    machine: dict[str, str]
    scale: dict[str, Any]
    runs: list[dict[str, Figures]] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Measure, write the report, and return 1 if a subject failed."""
    options = _options()
    out = options.out or (BUILD / "QUICK.md" if options.quick else HERE / "RESULTS.md")
    if options.render:
        write(out, json.loads(out.with_suffix(".json").read_text()))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_limits()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    failed = False
    for results in _measure(options, cores):
        # After each run: what was measured so far is kept if this is stopped.
        write(out, asdict(results))
        say(f"written: {out}")
        failed = bool(results.failed)
    return 1 if failed else 0


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subjects, loads = [subject.name for subject in SUBJECTS], list(LOADS)
    parser.add_argument(
        "--subjects", type=_names, default=subjects, help=f"of: {', '.join(subjects)}"
    )
    parser.add_argument("--loads", type=_names, default=loads, help=f"of: {', '.join(loads)}")
    parser.add_argument("--quick", action="store_true", help="one run, a few seconds for each cell")
    parser.add_argument("--runs", type=int, help="how often each subject has its turn; default 5")
    parser.add_argument("--many", type=int, help="how many subscribers")
    parser.add_argument("--rates", type=_numbers, help="events a second of the open loop")
    parser.add_argument("--out", type=Path, help="the report")
    parser.add_argument(
        "--render", action="store_true", help="write the report again from its .json"
    )
    options = parser.parse_args()
    unknown = ({*options.subjects} - {*subjects}) | ({*options.loads} - {*loads})
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    if options.many:
        sizes = (1, options.many)
        scale = replace(scale, sizes=sizes, many=options.many, members=options.many)
        scale = replace(scale, storm=options.many)
    return replace(scale, rates=options.rates) if options.rates else scale


def _measure(options: argparse.Namespace, cores: Cores) -> Iterator[Results]:
    scale = _scale(options)
    compiled("load")
    subjects = [each for each in SUBJECTS if each.name in options.subjects]
    not_run = _install(subjects)
    results = Results(describe(cores), asdict(scale), not_run=not_run)
    present = [subject for subject in subjects if subject.name not in not_run]
    runs = options.runs or (1 if options.quick else 5)
    for number in range(runs):
        run: dict[str, Figures] = {subject.name: {} for subject in present}
        # For each load the subjects in turn: a ratio is made of neighbours in time.
        for load in options.loads:
            for subject in present:
                say(f"run {number + 1} of {runs}, {load}: {subject.name}")
                run[subject.name] |= _cell(load, subject, cores, scale, results.failed)
        results.runs.append(run)
        yield results


def _install(subjects: Iterable[Subject]) -> dict[str, str]:
    not_run = {}
    for subject in subjects:
        try:
            subject.install()
        except NotRun as error:
            not_run[subject.name] = str(error)
            say(f"not run: {subject.title}: {error}")
    return not_run


def _cell(
    load: str, subject: Subject, cores: Cores, scale: Scale, failed: dict[str, str]
) -> Figures:
    try:
        found = LOADS[load](subject, cores, scale)
    except Failed as error:
        failed[f"{subject.name}, {load}"] = str(error)
        say(f"FAILED: {error}")
        return {}
    for name, value in found.items():
        print(f"{subject.name:20} {name:24} {value:12.2f}", flush=True)
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)

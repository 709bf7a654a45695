"""Compare servers of GraphQL subscriptions: `python -m benchmarks`, or `make bench`."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Cores, Failed, raise_limits
from benchmarks.machine import describe
from benchmarks.report import write
from benchmarks.scenarios import QUICK, SCENARIOS, Figures, Scale
from benchmarks.servers import HERE, SERVERS, NotRun, Server, compiled


@dataclass
class Results:
    """All that a comparison found."""

    machine: dict[str, str]
    scale: dict[str, Any]
    runs: list[dict[str, Figures]] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Measure, write the report, and return 1 if a server failed."""
    options = _options()
    if options.render:
        write(options.out, json.loads(options.out.with_suffix(".json").read_text()))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise_limits()
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, {cores.load})
    failed = False
    for results in _measure(options, cores):
        # After each run: who stops here has what was measured so far.
        write(options.out, asdict(results))
        say(f"written: {options.out}")
        failed = bool(results.failed)
    return 1 if failed else 0


def say(text: str) -> None:
    """Tell whoever waits."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(server.name for server in SERVERS)
    parser.add_argument("--runs", type=int, default=5, help="how often all servers have their turn")
    parser.add_argument("--only", type=_names, default=[], help=f"servers, of: {names}")
    parser.add_argument(
        "--scenarios", type=_names, default=list(SCENARIOS), help=f"of: {', '.join(SCENARIOS)}"
    )
    parser.add_argument("--quick", action="store_true", help="few clients, a short time: a check")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="the report")
    parser.add_argument(
        "--render", action="store_true", help="write the report again from its .json"
    )
    options = parser.parse_args()
    unknown = {*options.only} - {server.name for server in SERVERS}
    if unknown := unknown | {*options.scenarios} - {*SCENARIOS}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    return options


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _measure(options: argparse.Namespace, cores: Cores) -> Iterator[Results]:
    scale = QUICK if options.quick else Scale()
    compiled("load")
    servers = [each for each in SERVERS if not options.only or each.name in options.only]
    not_run = _install(servers)
    results = Results(describe(cores), asdict(scale), not_run=not_run)
    present = [server for server in servers if server.name not in not_run]
    for number in range(options.runs):
        run: dict[str, Figures] = {}
        for server in present:
            turn = f"run {number + 1} of {options.runs}, {server.name}"
            run[server.name] = _one(server, turn, options.scenarios, cores, scale, results.failed)
        results.runs.append(run)
        yield results


def _install(servers: Iterable[Server]) -> dict[str, str]:
    not_run = {}
    for server in servers:
        try:
            server.install()
        except NotRun as error:
            not_run[server.name] = str(error)
            say(f"not run: {server.title}: {error}")
    return not_run


def _one(
    server: Server,
    turn: str,
    scenarios: Sequence[str],
    cores: Cores,
    scale: Scale,
    failed: dict[str, str],
) -> Figures:
    found: Figures = {}
    for name in scenarios:
        say(f"{turn}: {name}")
        try:
            found |= SCENARIOS[name](server, cores, scale)
        except Failed as error:
            failed[f"{server.name}, {name}"] = str(error)
            say(f"FAILED: {error}")
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)

"""Runs Autobahn's cases against an echo endpoint, and compares two protocol classes."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kosoku import FailureError, run_fuzzingclient

from tests.servers import DIRECT, serving

ECHO = "tests.conformance.echo:app"
STOCK = ("--ws", "websockets-sansio")
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}
VERDICTS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "FAILED", "ERROR")

Verdicts = Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """The verdict on each case, for our protocol class and for uvicorn's."""

    ours: Verdicts
    stock: Verdicts
    trouble: Sequence[str]

    @property
    def worse(self) -> list[str]:
        """The cases that fail only with our class."""
        return [
            case
            for case, verdict in self.ours.items()
            if verdict not in PASSED and self.stock[case] in PASSED
        ]

    @property
    def table(self) -> str:
        """The number of cases by verdict, and the cases that differ or fail."""
        lines = [_row("", "cases", *(verdict.lower() for verdict in VERDICTS))]
        for name, verdicts in (("gqlnotify", self.ours), ("uvicorn", self.stock)):
            counts = Counter(verdicts.values())
            lines.append(_row(name, len(verdicts), *(counts[verdict] for verdict in VERDICTS)))
        lines += [
            f"{case}: {ours} with us, {self.stock[case]} with uvicorn's own"
            for case, ours in self.ours.items()
            if ours != self.stock[case] or ours not in PASSED
        ]
        return "\n".join(lines)


def compare(
    directory: Path, cases: Sequence[str], *, leave_out: Sequence[str] = (), at_once: int = 4
) -> Comparison:
    """Run `cases` (ids or globs such as `5.*`) against both; the logs are in `directory`."""
    ours, trouble = _run(directory / "ours", DIRECT, cases, leave_out, at_once)
    stock, _ = _run(directory / "stock", STOCK, cases, leave_out, at_once)
    return Comparison(ours, stock, trouble)


def _run(
    directory: Path,
    arguments: Sequence[str],
    cases: Sequence[str],
    leave_out: Sequence[str],
    at_once: int,
) -> tuple[Verdicts, Sequence[str]]:
    directory.mkdir(parents=True)
    with serving(ECHO, directory, *arguments, "--lifespan", "off") as server:
        results = asyncio.run(_results(server.ws, cases, leave_out, at_once))
        return {result.case_id: _verdict(result) for result in results}, server.trouble


async def _results(
    url: str, cases: Sequence[str], leave_out: Sequence[str], at_once: int
) -> Sequence[Any]:
    try:
        return await run_fuzzingclient(url, cases, leave_out, concurrency=at_once)
    except FailureError as failure:
        results: Sequence[Any] = failure.results
        return results


def _verdict(result: Any) -> str:
    # A case with the right messages can fail by its close.
    behaviour, close = result.behavior.value, result.behavior_close.value
    return behaviour if close in PASSED else "FAILED"


def _row(*cells: object) -> str:
    return "".join(f"{cell!s:>14}" for cell in cells)

"""Runs the checks, and tells what came of them."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Literal

from tests.conformance.resume import (  # noqa: F401 - their checks add themselves to the list
    cursor_checks,
    resume_checks,
    stream_checks,
)
from tests.conformance.resume.checks import CHECKS, Check
from tests.conformance.resume.contract import Contract
from tests.conformance.resume.kit import Kit
from tests.conformance.resume.results import Failure, Skip

Verdict = Literal["pass", "fail", "warn", "skip"]


@dataclass(frozen=True)
class Outcome:
    """What came of one check."""

    id: str
    title: str
    verdict: Verdict
    expected: str = ""
    seen: str = ""

    @property
    def text(self) -> str:
        """The lines for people."""
        lines = [f"{self.verdict}  {self.id:<24} {self.title}"]
        lines += [f"      {self.seen}"] if self.verdict == "skip" else []
        if self.verdict in {"fail", "warn"}:
            lines += [f"      expected: {self.expected}", f"      seen:     {self.seen}"]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """The outcomes of a run."""

    outcomes: Sequence[Outcome]

    @property
    def failed(self) -> bool:
        """Whether the server breaks a rule that it must keep."""
        return any(each.verdict == "fail" for each in self.outcomes)

    @property
    def text(self) -> str:
        """The outcomes for people."""
        counts = Counter(each.verdict for each in self.outcomes)
        verdicts: Sequence[Verdict] = ("pass", "fail", "warn", "skip")
        total = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts)
        return "\n".join([*(each.text for each in self.outcomes), total])

    @property
    def data(self) -> dict[str, object]:
        """The outcomes for programs."""
        return {"failed": self.failed, "checks": [asdict(each) for each in self.outcomes]}


def chosen(patterns: Iterable[str] = ("*",)) -> list[Check]:
    """Return the checks whose ids match one of the patterns, such as `SSE-*` or `*/websocket`."""
    wanted = list(patterns)
    return [each for each in CHECKS if any(fnmatch(each.id, pattern) for pattern in wanted)]


async def run(kit: Kit, checks: Sequence[Check], *, at_once: int = 1) -> Report:
    """Run `checks`, `at_once` side by side, and return the outcomes in the order of the list."""
    room = asyncio.Semaphore(at_once if kit.contract.has_topics else 1)

    async def one(check: Check) -> Outcome:
        async with room:
            return await _outcome(kit, check)

    last = [each for each in checks if each.stops]
    outcomes = await asyncio.gather(*(one(each) for each in checks if not each.stops))
    kit.share_stop(sum(not _why_not(kit.contract, each) for each in last))
    return Report([*outcomes, *await asyncio.gather(*(_outcome(kit, each) for each in last))])


async def _outcome(kit: Kit, check: Check) -> Outcome:
    reason = _why_not(kit.contract, check)
    if reason:
        return Outcome(check.id, check.title, "skip", seen=reason)
    try:
        await check.run(kit)
    except Skip as skip:
        return Outcome(check.id, check.title, "skip", seen=str(skip))
    except Failure as failure:
        verdict: Verdict = "fail" if check.required else "warn"
        return Outcome(check.id, check.title, verdict, failure.expected, failure.seen)
    except Exception as error:
        # A server may refuse connections, or send what no protocol allows.
        return Outcome(check.id, check.title, "fail", "messages of the protocol", repr(error))
    return Outcome(check.id, check.title, "pass")


def _why_not(contract: Contract, check: Check) -> str:
    if check.transport not in contract.transports:
        return f"the contract does not name the transport {check.transport}"
    if check.needs_resuming and not contract.resumes_without_cursor:
        return "the contract says that the server does not resume without a cursor"
    return ""

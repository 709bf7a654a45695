"""A run: faults one after the other, then the audit of every event."""

import random
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.audit import Counts, Published, audit
from tests.chaos.faults import Fault
from tests.chaos.stage import Scale, Stage, staged
from tests.redis_servers import wait_for

CALM = Fault("(no fault)", lambda stage, rng: stage.go_on(20))

Progress = Callable[[str], None]


@dataclass
class Row:
    """The effects of one kind of fault, summed over its occurrences."""

    times: int = 0
    published: int = 0
    slowest: float = 0
    counts: Counts = field(default_factory=Counts)


@dataclass
class Report:
    """The rows of a run, by fault, and other problems."""

    rows: dict[str, Row]
    problems: list[str]

    @property
    def faults(self) -> int:
        """How many faults there were."""
        return sum(row.times for name, row in self.rows.items() if name != CALM.name)

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not self.problems

    def __str__(self) -> str:
        head = ["fault", "times", "events", "delivered", "lost", "repeated", "reordered"]
        head += ["invented", "gaps", "slowest s"]
        total = Row()
        for row in self.rows.values():
            total.times += row.times
            total.published += row.published
            total.slowest = max(total.slowest, row.slowest)
            total.counts += row.counts
        rows = {**self.rows, "total": total}
        return _table([head, *(_cells(name, row) for name, row in rows.items())])


def _cells(name: str, row: Row) -> list[str]:
    counts = row.counts
    numbers = [row.times, row.published, counts.delivered, counts.lost, counts.repeated]
    numbers += [counts.reordered, counts.invented, counts.gaps]
    return [name, *map(str, numbers), f"{row.slowest:.1f}"]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0])]
        cells += [n.rjust(width) for n, width in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def run(
    faults: Sequence[Fault],
    *,
    seed: int,
    logs: Path,
    scale: Scale | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Run these faults, and report."""
    plan = [CALM, *faults]
    took: list[float] = []
    problems: list[str] = []
    with staged(scale or Scale(), seed, logs) as stage:
        try:
            _perform(stage, plan, random.Random(seed), took, progress)
            _finish(stage)
        except Exception:
            what = f"{stage.phase.number} {plan[stage.phase.number].name}"
            problems.append(f"{what}: {traceback.format_exc()}")
            progress(problems[-1])
        problems += _complaints(stage)
        return _report(stage, plan, took, problems)


def _perform(
    stage: Stage, plan: Sequence[Fault], rng: random.Random, took: list[float], progress: Progress
) -> None:
    for phase, fault in enumerate(plan):
        stage.phase.number = phase
        stage.spread()
        began = time.monotonic()
        with _company(stage, rng):
            fault.happen(stage, rng)
        happened = time.monotonic() - began
        # A client that starts again after a gap waits for a new event.
        with stage.held() if rng.random() < 0.5 and not fault.forgets else nullcontext():
            took.append(stage.settle())
        progress(f"{phase:4}  {fault.name}: {happened:.1f} s, all caught up {took[-1]:.1f} s later")


@contextmanager
def _company(stage: Stage, rng: random.Random) -> Iterator[None]:
    """What happens besides a fault: sometimes more tasks, and clients that reconnect."""
    with ExitStack() as company:
        if rng.random() < 0.5:
            company.enter_context(stage.tasks.hurry())
        if rng.random() < 0.5:
            company.enter_context(stage.clients.restless())
        yield


def _finish(stage: Stage) -> None:
    stage.tasks.stop()
    stage.notices.stop()
    stage.settle()
    stage.wait_for(stage.all_are_present, "exactly the clients are shown as present")
    wait_for(stage.outbox_is_empty, "the outbox is empty")


def _complaints(stage: Stage) -> list[str]:
    with suppress(subprocess.TimeoutExpired):
        stage.tasks.stop()
        stage.notices.stop()
    logged = [line for replica in stage.replicas for line in replica.server.trouble]
    return [*stage.clients.broken, *stage.tasks.refusals, *stage.watcher.broken, *logged]


def _report(
    stage: Stage, plan: Sequence[Fault], took: Sequence[float], problems: list[str]
) -> Report:
    published = {"tasks": stage.tasks.published(stage.titles()), "notices": stage.notices.published}
    counts = _count(stage, published, len(plan))
    rows: dict[str, Row] = {}
    for phase, fault in enumerate(plan[: stage.phase.number + 1]):
        row = rows.setdefault(fault.name, Row())
        row.times += 1
        row.published += sum(event.phase == phase for all_ in published.values() for event in all_)
        row.slowest = max([row.slowest, *took[phase : phase + 1]])
        row.counts += counts[phase]
        problems += _judge(f"{phase} {fault.name}", fault, counts[phase], stage)
    return Report(rows, problems)


def _count(stage: Stage, published: dict[str, list[Published]], phases: int) -> list[Counts]:
    counts = [Counts() for _ in range(phases)]
    for (_, stream), arrivals in stage.clients.arrivals.items():
        for phase, found in audit(published[stream], arrivals).items():
            counts[phase] += found
    return counts


def _judge(what: str, fault: Fault, counts: Counts, stage: Stage) -> list[str]:
    if not counts.whole:
        return [f"{what}: {counts}"]
    if not fault.forgets and counts.gaps:
        return [f"{what}: {counts.gaps} gaps announced where none can be"]
    if fault.forgets and counts.gaps < len(stage.clients.arrivals):
        return [f"{what}: only {counts.gaps} of {len(stage.clients.arrivals)} gaps announced"]
    return []

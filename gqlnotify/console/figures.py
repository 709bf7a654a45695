"""Adds up the figures of several processes, and compares them with earlier ones. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from gqlnotify.topics.survey import Answer, Process

Figures = Mapping[str, Any]
ByProcess = dict[tuple[str, int], Figures]
"""The figures of each process, by its host and process id."""


def by_process(answers: Iterable[Answer]) -> ByProcess:
    """Return the figures once for each process. Two topic managers of one count the same."""
    return {_key(each.process): each.value for each in answers}


def total(figures: ByProcess, name: str) -> float:
    """Return the sum of one figure over all processes."""
    return float(sum(each[name] for each in figures.values()))


def refusals(figures: ByProcess) -> list[tuple[str, float]]:
    """Return how many refusals there were for each reason, most frequent first."""
    sums = Counter[str]()
    for each in figures.values():
        sums.update(each["refusals"])
    return [(reason, float(count)) for reason, count in sums.most_common()]


def growth(before: ByProcess, now: ByProcess, name: str) -> float:
    """Return how much a counter has grown in the processes that answered both times."""
    return float(sum(max(now[key][name] - before[key][name], 0) for key in now.keys() & before))


def lag(before: ByProcess, now: ByProcess) -> float | None:
    """Return the mean seconds from a publish to its write in the meantime; None without one."""
    count = growth(before, now, "lagCount")
    return growth(before, now, "lagSeconds") / count if count else None


def _key(process: Process) -> tuple[str, int]:
    return process.host, process.pid

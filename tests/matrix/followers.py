"""A program of the table, on a connection of its own that can be cut."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.chaos.audit import Arrival, Counts, Published, audit
from tests.chaos.participants import Lines, Phase, token
from tests.matrix.clients import command
from tests.ports import HOST
from tests.redis_servers import Link, wait_for


@dataclass
class Tally:
    """What happened to the events, summed over the runs of one program."""

    events: int = 0
    cuts: int = 0
    phases: dict[int, Counts] = field(default_factory=dict)
    unmarked: int = 0
    """Repeated events without `extensions.redelivered`."""
    refused: int = 0
    """Results with errors."""
    stopped: int = 0
    """Runs that received nothing any more."""

    def __iadd__(self, other: Self) -> Self:
        for name in ("events", "cuts", "unmarked", "refused", "stopped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for phase, counts in other.phases.items():
            self.phases.setdefault(phase, Counts())
            self.phases[phase] += counts
        return self

    @property
    def total(self) -> Counts:
        """The counts of all phases."""
        total = Counts()
        for counts in self.phases.values():
            total += counts
        return total

    @property
    def lost_nothing(self) -> bool:
        """Whether every event arrived, in order, and what was sent again is marked."""
        total = self.total
        wrong = (total.lost, total.reordered, total.invented, self.unmarked, self.stopped)
        return self.events > 0 and not any(wrong)


class Follower(Lines):
    """Runs a program, and remembers what it printed."""

    def __init__(self, program: Path, *, name: str, link: Link, phase: Phase, logs: Path) -> None:
        environment = {"SERVER": f"{HOST}:{link.port}", "TOKEN": token(name)}
        super().__init__(command(program), logs / f"{name}.log", environment)
        self.name = name
        self.link = link
        self.newest = 0
        self.cuts = 0
        self.stopped = False
        self._phase = phase
        self._arrivals: list[Arrival] = []
        self._seen: set[int] = set()
        self._unmarked = 0
        self._refused = 0

    def stop(self) -> None:
        """See `Lines.stop`: these programs read no input."""
        self._process.terminate()
        super().stop()

    def cut(self) -> None:
        """Cut the connection, whatever happens on it."""
        self.cuts += 1
        self.link.cut()

    def take(self, line: dict[str, Any]) -> None:
        """See `Lines.take`."""
        if line.get("errors") or not line.get("data"):
            self._refused += 1
            return
        number = line["data"]["notifications"]["payload"]
        # Some clients don't show the extensions to the application.
        marked = line.get("extensions", {"redelivered": True}).get("redelivered")
        self._unmarked += number in self._seen and not marked
        self._seen.add(number)
        self._arrivals.append(Arrival(self._phase.number, number))
        self.newest = max(self.newest, number)

    def wait_for(self, number: int, *, seconds: float) -> None:
        """Return once this or a newer event has arrived. Without one the program has stopped."""
        try:
            wait_for(lambda: self.newest >= number, f"{self.name} receives", seconds=seconds)
        except AssertionError:
            self.stopped = True

    def tally(self, published: list[Published]) -> Tally:
        """Count what happened to the events since the first one that arrived."""
        first = min(self._seen, default=len(published) + 1)
        due = [event for event in published if event.number >= first]
        return Tally(
            events=len(due),
            cuts=self.cuts,
            phases=audit(due, self._arrivals),
            unmarked=self._unmarked,
            refused=self._refused,
            stopped=int(self.stopped or not due),
        )

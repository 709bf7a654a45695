"""What happened to every event. Pure: no I/O, no clock.

A phase is the time of one fault, from when it happens until every client has caught up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Self

from gqlnotify import Cursor


@dataclass(frozen=True)
class Published:
    """An event, by its number, and the phase in which it was published."""

    number: int
    phase: int


@dataclass(frozen=True)
class Arrival:
    """What a client got, and in which phase: an event, or a gap if it has no number.

    `cursor` is that of the event, or the one from which the client continues after the gap. A
    client that `begins` without a cursor does not get what was published before.
    """

    phase: int
    number: int | None
    cursor: str | None = None
    begins: bool = False


@dataclass
class Counts:
    """The effect of a phase on the events, summed over the clients."""

    delivered: int = 0
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    invented: int = 0
    gaps: int = 0

    def __iadd__(self, other: Self) -> Self:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    @property
    def whole(self) -> bool:
        """Whether every event arrived once and in order, except in the announced gaps."""
        return not (self.lost or self.repeated or self.reordered or self.invented)


def audit(published: Sequence[Published], arrivals: Iterable[Arrival]) -> dict[int, Counts]:
    """Compare what one client got of one stream with what was published, phase by phase.

    What was delivered and what is lost counts where it was published, everything else where it
    arrived. What lies in a gap that was announced is neither.
    """
    ledger = _Ledger(published)
    for arrival in arrivals:
        if arrival.number is None:
            ledger.gap(arrival)
        else:
            ledger.event(arrival, arrival.number)
    return ledger.close()


class _Ledger:
    def __init__(self, published: Sequence[Published]) -> None:
        self._published = published
        self._places = {event.number: place for place, event in enumerate(published)}
        self._missing = set(range(len(published)))
        self._seen: set[int] = set()
        self._next = 0
        self._gap: Arrival | None = None
        self._counts: dict[int, Counts] = {}

    def gap(self, arrival: Arrival) -> None:
        self._in(arrival.phase).gaps += not arrival.begins
        self._gap = arrival

    def event(self, arrival: Arrival, number: int) -> None:
        counts = self._in(arrival.phase)
        place = self._places.get(number)
        if place is None:
            counts.invented += 1
        elif place in self._seen:
            counts.repeated += 1
        else:
            self._in(self._published[place].phase).delivered += 1
            counts.reordered += place < self._next
            counts.lost += self._after_gap(arrival)
            self._take(place)

    def close(self) -> dict[int, Counts]:
        for place in self._missing:
            self._in(self._published[place].phase).lost += 1
        return self._counts

    def _take(self, place: int) -> None:
        if self._gap is not None:
            self._missing.difference_update(range(self._next, place))
            self._gap = None
        self._seen.add(place)
        self._missing.discard(place)
        self._next = max(self._next, place + 1)

    def _after_gap(self, arrival: Arrival) -> int:
        # A gap ends at the cursor from which the client continues, not at the next event.
        if self._gap is None or self._gap.cursor is None or arrival.cursor is None:
            return 0
        return Cursor.parse(arrival.cursor).seq - Cursor.parse(self._gap.cursor).seq - 1

    def _in(self, phase: int) -> Counts:
        return self._counts.setdefault(phase, Counts())

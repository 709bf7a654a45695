"""What was published, what each client got, and whether that keeps our promises. Pure.

Redis is the truth: the order in which it appended the events is the order of all subscribers.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from math import inf

ROOM_PREFIX = "rooms."
CHANNEL_PREFIX = f"gqlnotify:{{{ROOM_PREFIX}"
"""What the names of the streams and channels begin with that are looked at."""


def room_of(channel: str) -> str:
    """Return the room of a channel, or "" if it has another topic."""
    return (
        channel.removeprefix(CHANNEL_PREFIX).removesuffix("}")
        if (channel.startswith(CHANNEL_PREFIX))
        else ""
    )


@dataclass
class Appended:
    """An event in the history of a topic.

    If it is `lost`, a server came back without it. Clients that did not get it can't learn of it
    (docs/guarantees.md). If it is `forgotten`, Redis was flushed, which they must be told. If the
    server comes back without that flush, nothing is forgotten.
    """

    cursor: str
    payload: bytes
    at: float
    lost: bool = False
    forgotten_at: float | None = None

    @property
    def forgotten(self) -> bool:
        return self.forgotten_at is not None


@dataclass
class Truth:
    """The events of every topic, in the order of Redis."""

    topics: dict[str, list[Appended]] = field(default_factory=dict)

    def of_room(self, name: str) -> list[Appended]:
        """Return the events of a room."""
        return self.topics.get(f"{CHANNEL_PREFIX}{name}}}", [])

    def appended(self, topic: str, cursor: str, payload: bytes, at: float) -> bool:
        """Note an event. Return whether it is new."""
        events = self.topics.setdefault(topic, [])
        if any(event.cursor == cursor for event in reversed(events)):
            return False
        events.append(Appended(cursor, payload, at))
        return True

    def forgotten(self, at: float) -> None:
        """Note that Redis was told to forget everything."""
        for event in chain.from_iterable(self.topics.values()):
            if event.forgotten_at is None:
                event.forgotten_at = at

    def lost_all_but(self, cursors: AbstractSet[tuple[str, str]], *, since: float) -> None:
        """Note which events a server lacks when it comes back without all commands `since` then."""
        for topic, events in self.topics.items():
            for event in events:
                if event.forgotten_at is not None and event.forgotten_at >= since:
                    event.forgotten_at = None
            kept = [at for at, event in enumerate(events) if (topic, event.cursor) in cursors]
            last = kept[-1] if kept else -1
            for event in events[last + 1 :]:
                event.lost = event.lost or not event.forgotten


@dataclass(frozen=True)
class Began:
    """The client's operation begins after this cursor."""

    cursor: str
    at: float


@dataclass(frozen=True)
class Got:
    """The client got an event."""

    cursor: str
    payload: bytes
    redelivered: bool
    at: float


@dataclass(frozen=True)
class Told:
    """The client was told that it has missed events, and whether that ended its operation."""

    at: float
    ends: bool


Entry = Began | Got | Told


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, and how."""

    promise: str
    what: str


class Checker:
    """Follows what one client got of one topic."""

    def __init__(self, events: Sequence[Appended]) -> None:
        self._events = events
        self._places = {event.cursor: place for place, event in enumerate(events)}
        self._next: int | None = None
        self._known_since = inf
        self._high = -1

    def check(self, log: Sequence[Entry]) -> Iterator[Violation]:
        """Yield the promises that the log breaks. The client must have caught up by its end."""
        for entry in log:
            match entry:
                case Began():
                    self._begin(entry)
                case Told(at, ends):
                    # After an end, nothing is promised until the next operation begins. Its process
                    # may know fewer events than the one before.
                    self._next, self._known_since = None, inf if ends else at
                    self._high = -1 if ends else self._high
                case Got():
                    yield from self._take(entry)
        yield from self._missing(len(self._events))

    def _begin(self, began: Began) -> None:
        place = self._places.get(began.cursor)
        if place is not None:
            self._next = place + 1
        else:
            # The cursor of a topic without an event, or of an event that was lost.
            self._next, self._known_since = None, began.at
        self._high = max(self._high, (self._next or 0) - 1)

    def _take(self, got: Got) -> Iterator[Violation]:
        place = self._places.get(got.cursor)
        if place is None or self._events[place].payload != got.payload:
            yield Violation("values", f"{got.cursor} was never published as {got.payload!r}")
            return
        if place <= self._high and not got.redelivered:
            yield Violation("order", f"{got.cursor} came again or late, and was not marked")
        yield from self._missing(place)
        self._next, self._high = place + 1, max(self._high, place)

    def _missing(self, end: int) -> Iterator[Violation]:
        start = self._next if self._next is not None else self._first_after(self._known_since)
        for place in range(max(start, self._high + 1), end):
            event = self._events[place]
            if not event.lost:
                yield Violation(
                    "silent gap" if event.forgotten else "loss",
                    f"{event.cursor} {event.payload.decode()} did not arrive",
                )

    def _first_after(self, time: float) -> int:
        later = (place for place, event in enumerate(self._events) if event.at > time)
        return next(later, len(self._events))

"""The in-process broker. The history of a topic is a bounded queue, lost when the process ends."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from typing_extensions import override

from gqlnotify import clock
from gqlnotify.brokers.base import Broker, Deliver, OnPossibleGap
from gqlnotify.brokers.memory_positions import MemoryPositions
from gqlnotify.brokers.memory_presence import MemoryPresence
from gqlnotify.errors import CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.settings import MAX_LIFETIME, Bounds, Retention

_SWEEP_EVERY = 256


@dataclass(slots=True)
class _History:
    bounds: Bounds
    head: Cursor
    touched: float
    events: deque[tuple[float, Event]] = field(default_factory=deque)
    by_id: dict[str, Cursor] = field(default_factory=dict)

    @property
    def before_first(self) -> int:
        """The lowest `seq` after which `read` can return every event."""
        return self.head.seq - len(self.events)

    def append(self, event: Event, now: float) -> None:
        self.events.append((now, event))
        self.head, self.touched = event.cursor, now
        if event.id is not None:
            self.by_id[event.id] = event.cursor

    def drop_oldest(self) -> None:
        _, event = self.events.popleft()
        if event.id is not None:
            del self.by_id[event.id]


class MemoryBroker(Broker):
    """Keeps the histories of topics in this process.

    A topic without subscribers that was not used for its `seconds` is deleted.

    Args:
        length: How many events a topic keeps.
        seconds: How long a topic keeps an event.
        per_topic: Other bounds, for topics that match a pattern.
        longest_life: How long a token may be valid, in seconds. Revocations are kept for as long.
    """

    durable = False
    shared = False

    def __init__(
        self,
        *,
        length: int = 1000,
        seconds: float = 3600,
        per_topic: Mapping[str, Bounds] | None = None,
        longest_life: float = MAX_LIFETIME,
    ) -> None:
        self._retention = Retention(length, seconds, per_topic or {}, longest_life=longest_life)
        self._histories: dict[str, _History] = {}
        self._subscribed: set[str] = set()
        self._deliver: Deliver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_epoch = 0
        self._until_sweep = _SWEEP_EVERY

    @override
    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        """Forget the histories of an earlier event loop."""
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            # If each test of an application has its own event loop, a test must not see the events
            # or event ids of the test before.
            self._histories.clear()
            self._subscribed.clear()
            self.positions = MemoryPositions()
            self.presence = MemoryPresence(self.publish, self.head)
        self._loop = loop
        self._deliver = deliver

    @override
    async def check(self) -> None:
        pass

    @override
    async def close(self) -> None:
        """Stop deliveries. The histories stay for as long as the broker object."""
        self._deliver = None
        self._subscribed.clear()

    @override
    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        now = clock.monotonic()
        history = self._history(topic, now)
        if event_id is not None and event_id in history.by_id:
            return history.by_id[event_id]
        event = Event(topic, history.head.next(), payload, event_id, clock.now())
        history.append(event, now)
        if len(history.events) > history.bounds.length:
            history.drop_oldest()
        if self._deliver is not None and topic in self._subscribed:
            self._deliver(event)
        return event.cursor

    @override
    async def subscribe(self, topic: str) -> None:
        self._subscribed.add(topic)

    @override
    async def unsubscribe(self, topic: str) -> None:
        self._subscribed.discard(topic)
        if topic in self._histories:
            self._histories[topic].touched = clock.monotonic()

    @override
    async def head(self, topic: str) -> Cursor:
        return self._history(topic, clock.monotonic()).head

    @override
    async def oldest(self, topic: str) -> Cursor:
        history = self._history(topic, clock.monotonic())
        return Cursor(history.head.epoch, history.before_first)

    @override
    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        if topic not in self._histories:
            raise CursorExpired(f"{topic!r} has no history")
        history = self._history(topic, clock.monotonic())
        if after.epoch != history.head.epoch:
            raise CursorExpired(f"This cursor is from an earlier history of {topic!r}")
        if not history.before_first <= after.seq <= history.head.seq:
            raise CursorExpired(f"The history of {topic!r} no longer reaches back to this cursor")
        start = after.seq - history.before_first
        return [event for _, event in islice(history.events, start, start + limit)]

    def _history(self, topic: str, now: float) -> _History:
        self._sweep_sometimes(now)
        history = self._histories.get(topic)
        if history is not None and self._forgotten(topic, history, now):
            history = None
        if history is None:
            history = self._histories[topic] = self._begin(topic, now)
        while history.events and history.events[0][0] + history.bounds.seconds < now:
            history.drop_oldest()
        history.touched = now
        return history

    def _begin(self, topic: str, now: float) -> _History:
        return _History(self._retention.of(topic), Cursor(self._new_epoch(), 0), now)

    def _forgotten(self, topic: str, history: _History, now: float) -> bool:
        return topic not in self._subscribed and history.touched + history.bounds.seconds < now

    def _sweep_sometimes(self, now: float) -> None:
        # A client that may use any number of topics could otherwise fill the memory. A sweep after
        # as many calls as there are topics costs each call a constant time.
        self._until_sweep -= 1
        if self._until_sweep > 0:
            return
        self._until_sweep = max(_SWEEP_EVERY, len(self._histories))
        for topic, history in list(self._histories.items()):
            if self._forgotten(topic, history, now):
                del self._histories[topic]

    def _new_epoch(self) -> int:
        # Never the same number twice: a cursor of one topic must not be valid for another.
        self._last_epoch = max(int(clock.now() * 1000), self._last_epoch + 1)
        return self._last_epoch

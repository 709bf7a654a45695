"""The broker of a test: in memory, and under the test's control."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TypeVar
from uuid import uuid4

from typing_extensions import override

from gqlnotify.brokers.base import Deliver, OnPossibleGap
from gqlnotify.brokers.memory import MemoryBroker
from gqlnotify.brokers.memory_positions import MemoryPositions
from gqlnotify.brokers.positions import Answer, Change, Claim, Saved
from gqlnotify.errors import BrokerUnavailable
from gqlnotify.event import Cursor, Event, Topic
from gqlnotify.settings import Settings
from gqlnotify.testing.clock import settle

T = TypeVar("T")


class ControlledBroker:
    """What a test does to the brokers of its application's topic managers, all at once."""

    def __init__(self) -> None:
        self._brokers: list[RecordingBroker] = []
        self._state = _State()

    def make(self, settings: Settings) -> "RecordingBroker":
        """Return a new broker under this control, with the limits of `settings`."""
        broker = RecordingBroker(settings, self._state)
        self._brokers.append(broker)
        return broker

    @property
    def events(self) -> list[Event]:
        """Everything that was published, in order."""
        return self._state.published

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Make the broker unreachable within the block: publishing fails, subscriptions wait."""
        self._state.reachable.clear()
        await settle()
        try:
            yield
        finally:
            self._state.reachable.set()
            self._tell_of_gaps()
            await settle()

    async def restart(self) -> None:
        """Let the broker go away and come back, with everything that it knew."""
        async with self.away():
            pass

    async def forget(self) -> None:
        """Let the broker lose its histories, and the positions of clients, as an emptied Redis."""
        for broker in self._brokers:
            broker.forget()
        self._tell_of_gaps()
        await settle()

    @asynccontextmanager
    async def losing_live_events(self) -> AsyncIterator[None]:
        """Deliver no event live within the block, as if the line to the broker was cut."""
        self._state.delivers = False
        try:
            yield
        finally:
            self._state.delivers = True
            self._tell_of_gaps()
            await settle()

    def _tell_of_gaps(self) -> None:
        for broker in self._brokers:
            broker.tell_of_gaps()


class Published:
    """What the application has published in this test."""

    def __init__(self, broker: ControlledBroker) -> None:
        self._broker = broker

    def __call__(self, topic: Topic[T]) -> list[T]:
        """Return the values that were published to `topic`, or to any member of this family."""
        return [topic.decode(event.payload) for event in self.events(topic)]

    def events(self, topic: Topic[T]) -> list[Event]:
        """Return the events of `topic`, with their cursors and ids."""
        return [event for event in self._broker.events if topic.member(event.topic) is not None]


class _State:
    """What the brokers of one test share."""

    def __init__(self) -> None:
        self.published: list[Event] = []
        self.delivers = True
        self.reachable = asyncio.Event()
        self.reachable.set()

    def require(self) -> None:
        if not self.reachable.is_set():
            raise BrokerUnavailable("The test has made the broker unreachable")


class RecordingBroker(MemoryBroker):
    """A broker in memory that can be unreachable, and notes what is published."""

    durable = True

    def __init__(self, settings: Settings, state: _State) -> None:
        super().__init__(
            length=settings.history_length,
            seconds=settings.history_seconds,
            per_topic=settings.history_per_topic,
            longest_life=settings.longest_life,
        )
        self._state = state
        self._on_possible_gap: OnPossibleGap | None = None
        self.positions = _Positions(state)

    @override
    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        self._state.require()
        self._on_possible_gap = on_possible_gap

        def deliver_if_possible(event: Event) -> None:
            if self._state.delivers and self._state.reachable.is_set():
                deliver(event)

        await super().start(deliver_if_possible, on_possible_gap)

    @override
    async def check(self) -> None:
        self._state.require()

    @override
    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        self._state.require()
        before = await super().head(topic)
        cursor = await super().publish(topic, payload, event_id=event_id)
        if cursor > before:
            self._state.published.extend(await super().read(topic, before, 1))
        return cursor

    @override
    async def subscribe(self, topic: str) -> None:
        await self._state.reachable.wait()
        await super().subscribe(topic)

    @override
    async def head(self, topic: str) -> Cursor:
        self._state.require()
        return await super().head(topic)

    @override
    async def oldest(self, topic: str) -> Cursor:
        self._state.require()
        return await super().oldest(topic)

    @override
    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        self._state.require()
        return await super().read(topic, after, limit)

    def forget(self) -> None:
        """Lose every history and position."""
        self._histories.clear()
        self.positions = _Positions(self._state)

    def tell_of_gaps(self) -> None:
        """Tell the manager that it may have missed events, as after each reconnect."""
        for topic in list(self._subscribed):
            if self._on_possible_gap is not None:
                self._on_possible_gap(topic)


class _Positions(MemoryPositions):
    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state
        # A new server tells the manager that the positions may be lost.
        self._memories = {str(uuid4()): ""}

    @override
    async def save(self, changes: Sequence[Change], seconds: float) -> Saved:
        self._state.require()
        return replace(await super().save(changes, seconds), memories=self._memories)

    @override
    async def claim(self, claims: Sequence[Claim], seconds: float) -> Answer:
        self._state.require()
        return replace(await super().claim(claims, seconds), memories=self._memories)

    @override
    async def memories(self) -> Mapping[str, str]:
        self._state.require()
        return self._memories

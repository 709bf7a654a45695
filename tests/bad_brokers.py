"""Brokers that misbehave within their contract."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from gqlnotify.brokers import Deliver, MemoryBroker, OnPossibleGap
from gqlnotify.brokers.memory import _History
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event


async def pause(turns: int) -> None:
    """Wait for this number of ticks of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


class UnreliableBroker(MemoryBroker):
    """The live path treats the n-th event as `fates[n]` says; the history is correct.

    A fate lists the numbers of ticks after which the event is delivered: an empty list drops it,
    two numbers repeat it, and different numbers of two events reorder them. Events beyond the last
    fate arrive at once. Every call takes `answer_turns` ticks.
    """

    def __init__(
        self, fates: Sequence[Sequence[int]], *, length: int = 1000, answer_turns: int = 0
    ):
        super().__init__(length=length)
        self._fates = fates
        self._answer_turns = answer_turns

    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        loop = asyncio.get_running_loop()

        def after_ticks(turns: int, event: Event) -> None:
            if turns == 0:
                deliver(event)
            else:
                loop.call_soon(after_ticks, turns - 1, event)

        def deliver_by_fate(event: Event) -> None:
            number = event.cursor.seq - 1
            for turns in self._fates[number] if number < len(self._fates) else [0]:
                after_ticks(turns, event)

        await super().start(deliver_by_fate, on_possible_gap)

    async def head(self, topic: str) -> Cursor:
        head = await super().head(topic)
        await pause(self._answer_turns)
        return head

    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        events = await super().read(topic, after, limit)
        await pause(self._answer_turns)
        return events


class OutOfReach(MemoryBroker):
    """The methods in `down` raise; the live path drops events while `deaf`.

    `calls` counts the calls of each method, and `failed` those that raised.
    """

    def __init__(self, *down: str) -> None:
        super().__init__()
        self.down = set(down)
        self.deaf = False
        self.failed = 0
        self.calls = Counter[str]()

    async def start(self, deliver: Deliver, on_possible_gap: OnPossibleGap) -> None:
        await self._call("start")
        self.on_possible_gap = on_possible_gap
        await super().start(lambda event: None if self.deaf else deliver(event), on_possible_gap)

    async def check(self) -> None:
        await self._call("check")

    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        await self._call("publish")
        return await super().publish(topic, payload, event_id=event_id)

    async def subscribe(self, topic: str) -> None:
        await self._call("subscribe")
        await super().subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._call("unsubscribe")
        await super().unsubscribe(topic)

    async def head(self, topic: str) -> Cursor:
        await self._call("head")
        return await super().head(topic)

    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        await self._call("read")
        return await super().read(topic, after, limit)

    async def _call(self, method: str) -> None:
        self.calls[method] += 1
        if method in self.down:
            self.failed += 1
            raise BrokerUnavailable(f"No {method}")


class AnsweringLate(OutOfReach):
    """Calls of the named methods wait until the test sets `answer`; `held` counts them."""

    def __init__(self, *methods: str) -> None:
        super().__init__()
        self.answer = asyncio.Event()
        self.held = 0
        self._methods = methods

    async def _call(self, method: str) -> None:
        if method in self._methods:
            self.held += 1
            await self.answer.wait()
        await super()._call(method)


class LosingItsData(OutOfReach):
    """Can lose data, and can answer one `head` or `read` late, with the state at its call."""

    def __init__(self) -> None:
        super().__init__()
        self.hold_one_answer = False
        self.answer = asyncio.Event()

    async def head(self, topic: str) -> Cursor:
        head = await super().head(topic)
        await self._hold()
        return head

    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        events = await super().read(topic, after, limit)
        await self._hold()
        return events

    async def _hold(self) -> None:
        if self.hold_one_answer:
            self.hold_one_answer = False
            await self.answer.wait()

    def lose_everything(self) -> None:
        """Start every history again."""
        self._histories.clear()

    def lose_the_newest(self, topic: str) -> None:
        """Forget the newest event, and continue as if it had never existed."""
        history = self._histories[topic]
        history.events.pop()
        history.head = Cursor(history.head.epoch, history.head.seq - 1)


class Restarting(LosingItsData):
    """Starts a new epoch after each restart, which may have lost the newest events.

    So one history has cursors of several epochs, and each is valid as long as it is remembered.
    """

    def __init__(self) -> None:
        super().__init__()
        self._beginnings: dict[str, Cursor] = {}
        self._renewed: set[str] = set()

    def restart(self, *, forgetting: int = 0) -> None:
        """Restart without the newest `forgetting` events of each topic."""
        for topic, history in self._histories.items():
            for _ in range(min(forgetting, len(history.events))):
                history.events.pop()
            history.head = self._places(topic)[-1]
            self._renewed.add(topic)

    async def publish(self, topic: str, payload: bytes, *, event_id: str | None = None) -> Cursor:
        if topic in self._renewed:
            self._renewed.discard(topic)
            history = self._histories[topic]
            history.head = Cursor(self._new_epoch(), history.head.seq)
        return await super().publish(topic, payload, event_id=event_id)

    async def read(self, topic: str, after: Cursor, limit: int) -> Sequence[Event]:
        await self._call("read")
        await MemoryBroker.head(self, topic)
        places = self._places(topic)
        if after not in places:
            raise CursorExpired(f"The history of {topic!r} has no such place")
        start = places.index(after)
        events = [event for _, event in self._histories[topic].events][start : start + limit]
        await self._hold()
        return events

    def _begin(self, topic: str, now: float) -> _History:
        history = super()._begin(topic, now)
        self._beginnings[topic] = history.head
        return history

    def _places(self, topic: str) -> list[Cursor]:
        events = self._histories[topic].events
        return [self._beginnings[topic], *(event.cursor for _, event in events)]

"""One topic that this process listens to: kept whole from a live path that may fail."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar
from weakref import WeakSet

from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.observability import metrics
from gqlnotify.topics.replay_buffer import ReplayBuffer

BUFFER_SIZE = 256
PAGE_SIZE = 128
RETRY_SECONDS = (0.1, 5.0)

logger = logging.getLogger("gqlnotify.topics")

T = TypeVar("T")


class Member(Protocol):
    """Who takes events from a feed's window."""

    @property
    def always_listens(self) -> bool:
        """Whether it wants to be woken even while nothing waits for it."""

    def wake(self) -> None:
        """Look again: something has changed."""

    def close(self) -> None:
        """Leave."""


class LiveTopic:
    """One topic that this process listens to: its window, and who takes events from it."""

    def __init__(self, topic: str, broker: Broker) -> None:
        self.topic = topic
        # Weak, so that an iterator that was dropped is no member any more.
        self.members: WeakSet[Member] = WeakSet()
        # Strong: asyncio holds tasks weakly, so only this may keep a task that waits here alive.
        self._listeners: set[Member] = set()
        self.buffer = ReplayBuffer(Cursor(0, 0), size=BUFFER_SIZE)
        self._broker = broker
        self._changing = asyncio.Lock()
        self._subscribed = False
        self._ready = False
        self._catching_up: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()
        self._leave_timer: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._leave_at = 0.0
        self._ended = False

    def add(self, member: Member) -> None:
        """Count `member` in until it is removed, or nothing but the feed knows it."""
        self.members.add(member)
        if member.always_listens:
            self._listeners.add(member)

    def remove(self, member: Member) -> None:
        """Undo `add`."""
        self.members.discard(member)
        self._listeners.discard(member)

    @contextmanager
    def waking(self, member: Member) -> Iterator[None]:
        """Wake `member` when something happens, and keep it alive meanwhile."""
        self._listeners.add(member)
        try:
            yield
        finally:
            if not member.always_listens:
                self._listeners.discard(member)

    async def open(self) -> None:
        """Return once events arrive and the window knows where it stands.

        A broker that can't be reached is waited for: to fail here would end a subscription that
        its client means to keep.
        """
        async with self._changing:
            if self._ready:
                return
            # Whoever gives up before the broker has confirmed has subscribed all the same.
            self._subscribed = True
            await self._broker.subscribe(self.topic)
            self.buffer.stale = False
            # Events between the two lines are either in the head or make the window stale.
            self.buffer.restart(await self._patiently(self._broker.head))
            self._ready = True
            if self.buffer.stale:
                self._catch_up_soon()

    def linger(self, seconds: float, forget: Callable[["LiveTopic"], None]) -> None:
        """Stop listening after `seconds` and call `forget`, unless a member comes before that."""
        if self._ended:
            return
        loop = asyncio.get_running_loop()
        self._leave_at = loop.time() + seconds
        # A timer, and no task: what leaves while the loop shuts down would never see a task end.
        if self._leave_timer is None:
            self._leave_timer = loop.call_later(seconds, self._leave, forget)

    def _leave(self, forget: Callable[["LiveTopic"], None]) -> None:
        self._leave_timer = None
        if self.members:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._leave_at:
            self._leave_timer = loop.call_at(self._leave_at, self._leave, forget)
            return
        self._leaving = asyncio.create_task(self._close_and_forget(forget))

    async def _close_and_forget(self, forget: Callable[["LiveTopic"], None]) -> None:
        await self._close_if_idle()
        # A member that came while it closed has joined, and opens it again.
        if not self.members:
            forget(self)

    async def _close_if_idle(self) -> None:
        async with self._changing:
            if self.members or not self._subscribed:
                return
            self._stop_catching_up()
            self._subscribed = self._ready = False
            await self._broker.unsubscribe(self.topic)

    async def read(self, after: Cursor) -> deque[Event]:
        """Return a page of the history, for a member that the window does not reach back to.

        Raises:
            CursorExpired: neither does the history.
            BrokerUnavailable: it can't be asked.
        """
        return deque(await self._broker.read(self.topic, after, PAGE_SIZE))

    def deliver(self, event: Event) -> None:
        """Take an event from the live path."""
        if not self._ready:
            # The head that is under way may or may not know this one.
            self.buffer.stale = True
        elif self.buffer.offer(event):
            metrics.events_received.inc()
            self._wake()
        elif self.buffer.stale:
            self._catch_up_soon()

    def refresh(self) -> None:
        """Look into the history for what the live path has not brought."""
        self.buffer.stale = True
        if self._ready:
            self._catch_up_soon()

    def cancel(self) -> None:
        """Stop whatever goes on in the background."""
        self._ended, self._ready = True, False
        self._stop_catching_up()
        if self._leave_timer is not None:
            self._leave_timer.cancel()
        if self._leaving is not None:
            self._leaving.cancel()

    def _stop_catching_up(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()

    def _catch_up_soon(self) -> None:
        self._nudged.set()
        task = self._catching_up
        if task is None or task.done() or task.cancelling():
            self._catching_up = asyncio.create_task(self._catch_up())

    async def _catch_up(self) -> None:
        while self.buffer.stale:
            await self._patiently(self._catch_up_page)

    async def _patiently(self, ask: Callable[[str], Awaitable[T]]) -> T:
        backoff = Backoff(*RETRY_SECONDS)
        while True:
            self._nudged.clear()
            try:
                return await ask(self.topic)
            except BrokerUnavailable as error:
                delay = backoff.next()
                logger.warning(
                    "%r waits for the broker, next try in %.1f s: %s",
                    self.topic,
                    delay,
                    error.reason,
                )
            # Whatever is heard of the broker in the meantime is reason enough to ask at once.
            with suppress(TimeoutError):
                # On Python 3.11 `wait_for` would drop a cancel that comes in the same tick.
                async with asyncio.timeout(delay):
                    await self._nudged.wait()

    async def _catch_up_page(self, topic: str) -> None:
        # Cleared before the history is asked: a live event that arrives while the answer is under
        # way, and that the answer may not hold, marks the window stale again.
        self.buffer.stale = False
        try:
            events = await self.read(self.buffer.last)
        except CursorExpired:
            logger.warning(
                "A gap in %r: its history no longer reaches back to %s",
                self.topic,
                self.buffer.last,
            )
            await self._restart(topic)
        else:
            before = self.buffer.last.seq
            whole = self.buffer.extend(events)
            _count_missed(self.buffer.last.seq - before)
            if not whole:
                await self._restart(topic)
            self.buffer.stale = self.buffer.stale or len(events) == PAGE_SIZE
        self._wake()

    async def _restart(self, topic: str) -> None:
        self.buffer.restart(await self._broker.head(topic))
        metrics.gaps.inc()

    def _wake(self) -> None:
        for member in self._listeners:
            member.wake()


def _count_missed(events: int) -> None:
    if events:
        metrics.catch_ups.inc()
        metrics.events_received.inc(events)

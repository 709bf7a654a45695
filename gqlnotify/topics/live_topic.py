"""One topic that this process listens to. Repairs what the broker's live path loses."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from gqlnotify.backoff import Backoff
from gqlnotify.brokers import Broker
from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.observability import metrics, trace
from gqlnotify.topics.replay_buffer import ReplayBuffer

if TYPE_CHECKING:
    from gqlnotify.topics.subscriber import Subscriber

BUFFER_SIZE = 256
PAGE_SIZE = 128
RETRY_SECONDS = (0.1, 5.0)

logger = logging.getLogger("gqlnotify.topics")

T = TypeVar("T")


class LiveTopic:
    """One topic that this process listens to: its replay buffer and its subscribers."""

    def __init__(self, topic: str, broker: Broker) -> None:
        self.topic = topic
        # Weak: an iterator that is garbage-collected stops being a subscriber.
        self.subscribers: WeakSet[Subscriber] = WeakSet()
        # Strong: asyncio holds tasks weakly, so this may be the only reference to a waiting task.
        self._listeners: set[Subscriber] = set()
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

    def add(self, subscriber: "Subscriber") -> None:
        """Add `subscriber`, until it is removed or nothing else refers to it."""
        self.subscribers.add(subscriber)
        if subscriber.always_listens:
            self._listeners.add(subscriber)

    def remove(self, subscriber: "Subscriber") -> None:
        """Undo `add`."""
        self.subscribers.discard(subscriber)
        self._listeners.discard(subscriber)

    @contextmanager
    def waking(self, subscriber: "Subscriber") -> Iterator[None]:
        """Wake `subscriber` on each change, and keep it alive within the block."""
        self._listeners.add(subscriber)
        try:
            yield
        finally:
            if not subscriber.always_listens:
                self._listeners.discard(subscriber)

    async def open(self) -> None:
        """Subscribe at the broker, and return once the buffer has its position, or after `cancel`.

        This waits for a broker that can't be reached. An error here would end a subscription that
        the client wants to keep.
        """
        async with self._changing:
            if self._ready or self._ended:
                return
            # Set before the call: a caller that is cancelled during it may still have subscribed.
            self._subscribed = True
            await self._broker.subscribe(self.topic)
            self.buffer.stale = False
            # An event that arrives between these two lines is in the head, or marks the buffer
            # stale.
            self._begin_at(await self._patiently(self._broker.head))

    def _begin_at(self, head: Cursor) -> None:
        # The head may arrive in the tick of `cancel`, which can't stop what begins after it.
        if self._ended:
            return
        self.buffer.restart(head)
        self._ready = True
        if self.buffer.stale:
            self._catch_up_soon()

    def linger(self, seconds: float, forget: Callable[["LiveTopic"], None]) -> None:
        """Leave after `seconds` and call `forget`, unless a subscriber joins before that."""
        if self._ended:
            return
        loop = asyncio.get_running_loop()
        self._leave_at = loop.time() + seconds
        # A timer, not a task: a task that is created while the loop shuts down would never end.
        if self._leave_timer is None:
            self._leave_timer = loop.call_later(seconds, self._leave, forget)

    def _leave(self, forget: Callable[["LiveTopic"], None]) -> None:
        self._leave_timer = None
        if self.subscribers:
            return
        loop = asyncio.get_running_loop()
        # A consumer joined and left in the meantime, so `linger` has set a later time.
        if loop.time() < self._leave_at:
            self._leave_timer = loop.call_at(self._leave_at, self._leave, forget)
            return
        self._leaving = asyncio.create_task(self._close_and_forget(forget))

    async def _close_and_forget(self, forget: Callable[["LiveTopic"], None]) -> None:
        await self._close_if_idle()
        # A subscriber that joined during the close opens the topic again.
        if not self.subscribers:
            forget(self)

    async def _close_if_idle(self) -> None:
        async with self._changing:
            if self.subscribers or not self._subscribed:
                return
            self._stop_catching_up()
            self._subscribed = self._ready = False
            await self._broker.unsubscribe(self.topic)

    async def read(self, after: Cursor) -> deque[Event]:
        """Return the page of the history after `after`, for a subscriber the buffer can't serve.

        The buffer keeps a page that ends where it begins. After a restart, all clients resume after
        about the same cursor, and only the first one reads the history.

        Raises:
            CursorExpired: The history does not reach back to `after` either.
            BrokerUnavailable: The broker can't be reached.
        """
        page = await self._broker.read(self.topic, after, PAGE_SIZE)
        self.buffer.prepend(after, page)
        return deque(page)

    def deliver(self, event: Event) -> None:
        """Take an event from the broker's live path."""
        if not self._ready:
            # The head that `open` is asking for may or may not include this event.
            self.buffer.stale = True
        elif self.buffer.offer(event):
            metrics.events_received.inc()
            if trace.live.on:
                trace.live.step(trace.Kind.RECEIVED, topic=self.topic, cursor=event.cursor)
            self._wake()
        elif self.buffer.stale:
            self._catch_up_soon()

    def refresh(self) -> None:
        """Read the history for events that the live path has lost."""
        self.buffer.stale = True
        if self._ready:
            self._catch_up_soon()

    def cancel(self) -> None:
        """Cancel the background tasks and timers."""
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
        # A task that is being cancelled reads no further page.
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
                    "%r waits for the broker, next attempt in %.1f s: %s",
                    self.topic,
                    delay,
                    error.reason,
                )
            # Any sign of life from the broker ends the wait.
            with suppress(TimeoutError):
                # On Python 3.11 `wait_for` would drop a cancel that comes in the same tick.
                async with asyncio.timeout(delay):
                    await self._nudged.wait()

    async def _catch_up_page(self, topic: str) -> None:
        # Cleared before the read: a live event that arrives during the read may be missing from
        # the page, and marks the buffer stale again.
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
            if trace.live.on and events:
                trace.live.step(
                    trace.Kind.RECEIVED,
                    topic=topic,
                    cursor=self.buffer.last,
                    text=f"{len(events)} from the history",
                )
            if not whole:
                await self._restart(topic)
            # After a full page there may be more.
            self.buffer.stale = self.buffer.stale or len(events) == PAGE_SIZE
        self._wake()

    async def _restart(self, topic: str) -> None:
        before, head = self.buffer.last, await self._broker.head(topic)
        self.buffer.restart(head)
        metrics.gaps.inc()
        trace.note(trace.Kind.GAP, topic=topic, cursor=before, until=head)

    def _wake(self) -> None:
        for subscriber in self._listeners:
            subscriber.wake()


def _count_missed(events: int) -> None:
    if events:
        metrics.catch_ups.inc()
        metrics.events_received.inc(events)

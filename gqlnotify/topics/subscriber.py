"""A position in a topic's history, and the way on from there.

A reader takes the next event from the window that all readers of the topic share, and from the
broker's history where it lags behind that window. So there is no queue for each reader, a slow one
costs no memory, and between replay and live there is no seam in which an event could be lost or
come twice.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from gqlnotify.errors import BrokerUnavailable, CursorExpired
from gqlnotify.event import Cursor, Event
from gqlnotify.topics.conflation import Skipped, conflate
from gqlnotify.topics.live_topic import LiveTopic
from gqlnotify.topics.replay_buffer import NotBuffered

KeyOf = Callable[[Event], Hashable | Skipped]
"""What an event is the news of: see `conflate`."""


class LiveTopics(Protocol):
    """Where readers find the topics that this process listens to."""

    async def join(self, topic: str, subscriber: "Subscriber") -> LiveTopic:
        """Return the topic's feed, open, and `subscriber` one of its members."""

    def leave(self, live_topic: LiveTopic, subscriber: "Subscriber") -> None:
        """Undo `join`."""

    def left(self, live_topic: LiveTopic) -> None:
        """Note that a reader of `live_topic` was dropped. Called from any thread."""


class Subscriber:
    """Reads one topic from a position on."""

    def __init__(
        self,
        live_topics: LiveTopics,
        topic: str,
        *,
        on_wake: Callable[[], None] | None = None,
        key_of: KeyOf | None = None,
    ) -> None:
        self.topic = topic
        self.position = Cursor(0, 0)
        self.closed = False
        self.left_out = 0
        """How many `take_latest` has left out right before the event that it returned."""
        self._live_topics = live_topics
        self._live_topic: LiveTopic | None = None
        self._on_wake = on_wake
        self._key_of = key_of
        self._backlog: deque[Event] = deque()
        self._latest: deque[tuple[Event, int]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._patience: asyncio.Timeout | None = None

    def __del__(self) -> None:
        if not self.closed and self._live_topic is not None:
            self._live_topics.left(self._live_topic)

    @property
    def always_listens(self) -> bool:
        """Whether it is woken even while nothing waits for it."""
        return self._on_wake is not None

    @property
    def waiting(self) -> bool:
        """Whether `next` waits for something to happen."""
        return self._waiter is not None

    @property
    def started(self) -> bool:
        """Whether `open` was called and has found the topic."""
        return self._live_topic is not None

    async def open(self, after: Cursor | None = None) -> None:
        """Take the position: behind `after`, or where the topic stands now.

        Raises:
            CursorExpired: the history no longer reaches back to `after`.
            BrokerUnavailable: the broker has never been reached; later on, it is waited for.
        """
        try:
            # Without an end, unless `close` sets one.
            async with asyncio.timeout(None) as self._patience:
                self._live_topic = await self._live_topics.join(self.topic, self)
        except TimeoutError:
            if self.closed:
                return
            raise
        finally:
            self._patience = None
        self.position = self._live_topic.buffer.last
        if self.closed:
            self._live_topics.leave(self._live_topic, self)
        elif after is not None:
            await self._replay_from(after)

    def fork(
        self, position: Cursor | None = None, *, on_wake: Callable[[], None] | None = None
    ) -> "Subscriber":
        """Return another reader of the same topic, at `position` or where the topic stands now.

        The fork of a closed one is closed.
        """
        fork = Subscriber(self._live_topics, self.topic, on_wake=on_wake, key_of=self._key_of)
        fork._live_topic = live_topic = self._open_topic
        fork.position = live_topic.buffer.last if position is None else position
        fork.closed = self.closed
        if not fork.closed:
            live_topic.add(fork)
        return fork

    def take(self) -> Event | None:
        """Return the next event if it has happened.

        Raises:
            NotBuffered: it has, and has to be looked for in the history first: `refill`.
        """
        if self._backlog:
            event: Event | None = self._backlog.popleft()
        else:
            event = self._open_topic.buffer.after(self.position)
        if event is not None:
            self.position = event.cursor
        return event

    def take_latest(self) -> Event | None:
        """Return the next event, as `take` does, but for what a later one makes old news.

        What waits is looked at all at once, and what is left of it is then handed out whatever
        comes meanwhile. If it were looked at for each event anew, who always lags would get one
        key for ever, and the others never.

        Raises:
            NotBuffered: see `take`.
        """
        if self._key_of is None:
            return self.take()
        if not self._latest:
            self._latest.extend(conflate(self._waiting_events(), self._key_of))
            self._backlog.clear()
        if not self._latest:
            return None
        event, self.left_out = self._latest.popleft()
        self.position = event.cursor
        return event

    def _waiting_events(self) -> Sequence[Event]:
        return self._backlog or self._open_topic.buffer.all_after(self.position)

    async def next(self) -> Event | None:
        """Wait for the next event, take the latest, and return it; None once closed.

        Raises:
            CursorExpired: the history no longer reaches back to the position.
        """
        while not self.closed:
            try:
                event = self.take_latest()
            except NotBuffered:
                await self.refill()
                continue
            if event is not None:
                return event
            await self.wait()
        return None

    async def refill(self) -> None:
        """Fetch what comes next from the history, or wait until it can be asked again.

        Raises:
            CursorExpired: it no longer reaches back to the position.
        """
        live_topic = self._open_topic
        epoch = live_topic.buffer.last.epoch
        if not await self._read():
            return await self.wait()
        if self._backlog or self.position == live_topic.buffer.last:
            return None
        if epoch == self.position.epoch:
            raise CursorExpired(f"The history of {self.topic!r} lost events that were delivered")
        # This reader knows a history that began anew before the live path told of it.
        live_topic.refresh()
        return await self.wait()

    async def wait(self) -> None:
        """Return when something has happened; at once if the reader is closed."""
        if self.closed:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            with self._open_topic.waking(self):
                await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Have whoever waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._on_wake is not None:
            self._on_wake()

    def close(self) -> None:
        """Leave the topic. A pending `next` returns None."""
        if self.closed:
            return
        self.closed = True
        self.wake()
        if self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())
        if self._live_topic is not None:
            self._live_topics.leave(self._live_topic, self)

    @property
    def _open_topic(self) -> LiveTopic:
        assert self._live_topic is not None
        return self._live_topic

    async def _replay_from(self, after: Cursor) -> None:
        self.position = after
        live_topic = self._open_topic
        if live_topic.buffer.reaches_back_to(after):
            return
        try:
            await self._read()
        except BaseException:
            self.close()
            raise
        if self._backlog:
            # The history may already know what the live path has not brought, or has dropped.
            live_topic.deliver(self._backlog[-1])

    async def _read(self) -> bool:
        try:
            self._backlog = await self._open_topic.read(self.position)
            if not self._backlog:
                await self._join_buffer()
        except BrokerUnavailable:
            # Catching up tries again until it works, and wakes everybody then.
            self._open_topic.refresh()
            return False
        return True

    async def _join_buffer(self) -> None:
        """Move to the buffer's position if both come before the topic's first event.

        A broker may give a topic without a history another cursor each time. All mean the same
        place, provided that the history is still the one in which the earlier was given.
        """
        live_topic = self._open_topic
        place = live_topic.buffer.last
        if place.seq or self.position.seq:
            return
        if self.position > place:
            try:
                await live_topic.read(place)
            except CursorExpired:
                return
        if live_topic.buffer.last == place:
            self.position = place

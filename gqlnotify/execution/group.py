"""Delivers the encoded results of a shared execution to many operations, in the topic's order.

A group reads its topic once, and pushes each encoded result to all of its members. A member needs
no task, queue or generator: it is an entry in a set. An operation that begins with an old cursor,
or whose peer reads slowly, reads the topic with its own subscriber and the same encoded results,
until it reaches the group's position.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from typing_extensions import override

from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.errors import InternalError, NotifyError
from gqlnotify.event import Event
from gqlnotify.event_loop import TickBatcher
from gqlnotify.execution.event_execution import EncodedResult
from gqlnotify.observability import metrics
from gqlnotify.protocol.frames import Batch, SharedBody
from gqlnotify.topics.replay_buffer import NotBuffered
from gqlnotify.topics.subscriber import Subscriber

# How much is pushed to the members before their connections may write.
BATCH_BYTES = 64 * 1024

logger = logging.getLogger("gqlnotify.execution")

EncodedResultOf = Callable[
    [Event, bool], EncodedResult | asyncio.Future[EncodedResult | None] | None
]
"""Returns the encoded result of an event, or a future of it. The flag says whether to cache it."""


Marked = Callable[[EncodedResult, int], EncodedResult]
"""Returns the encoded result with the number of events that were dropped before it."""

Wait = Callable[[], Awaitable[None]]

Replay = Callable[[Event], Awaitable[EncodedResult | None]]
"""Returns the encoded result of an event for an operation with its own subscriber."""


class Ended(Exception):
    """An encoded result ended the operation with these errors."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.errors = errors


class Member(Protocol):
    """An operation that gets the messages of a group."""

    __slots__ = ()

    def push(self, batch: Batch) -> bool:
        """Take all of `batch` and return True. Or take nothing and return False to leave."""

    def fell_behind(self, subscriber: Subscriber) -> None:
        """Handle the removal from the group. It may read with `subscriber`, and join again."""

    async def send(self, batch: Batch) -> None:
        """Take `batch`, and wait until there is room for more."""

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """Handle the end of the group, because of `errors` if there are any."""


class Group(metrics.Sampled):
    """The members at one position of a topic, and the one subscriber that reads for all of them.

    It begins at the current position of the topic of `subscriber`. When it ends, it calls `on_end`
    with itself.
    """

    def __init__(
        self,
        encoded_of: EncodedResultOf,
        marked: Marked,
        subscriber: Subscriber,
        on_end: Callable[["Group"], None],
    ) -> None:
        self.ended = False
        self._encoded_of = encoded_of
        self._marked = marked
        self._on_end = on_end
        self._subscriber = subscriber.fork(on_wake=self._wake)
        self._position = self._reached = self._subscriber.position
        self._members: set[Member] = set()
        self._joining: set[Subscriber] = set()
        self._bodies: list[SharedBody] = []
        self._held = 0
        self._published_at: list[float] = []
        loop = asyncio.get_running_loop()
        self._ticks, self._delivery_counter = TickBatcher.of(loop), metrics.DeliveryCounter.of(loop)
        self._moving = False
        self._task: asyncio.Task[None] | None = None
        metrics.watch(self)

    def __len__(self) -> int:
        return len(self._members)

    @override
    def load(self) -> metrics.Load:
        yield metrics.groups, 1

    async def catch_up(self, member: Member, subscriber: Subscriber, replay: Replay) -> bool:
        """Send `member` the events that `subscriber` reads until it reaches the group; then add it.

        Returns False if the group or the subscriber has ended instead. `replay` returns the
        encoded results.

        Raises:
            Ended: an encoded result ended the operation.
            CursorExpired: the history no longer reaches back to the subscriber's position.
        """
        self._joining.add(subscriber)
        messages = size = 0
        try:
            while not self.ended and not subscriber.closed:
                if subscriber.position == self._position:
                    self._members.add(member)
                    return True
                encoded = await self._next_of(subscriber, replay)
                if encoded is not None:
                    body = _body_of(encoded)
                    await member.send(encoded.batch)
                    messages, size = messages + 1, size + len(body.data)
            return False
        finally:
            metrics.delivered(messages, size)
            self._joining.discard(subscriber)
            self._end_if_idle()

    def leave(self, member: Member) -> None:
        """Remove `member`."""
        self._members.discard(member)
        self._end_if_idle()

    async def _next_of(self, subscriber: Subscriber, replay: Replay) -> EncodedResult | None:
        """Return the encoded result of the next event; None if the caller has to try again."""
        try:
            event = subscriber.take_latest()
        except NotBuffered:
            await subscriber.refill()
            return None
        if event is None:
            # The group may not have reached this position yet. It wakes the subscriber when it has.
            await subscriber.wait()
            return None
        encoded = await replay(event)
        return None if encoded is None else self._marked(encoded, subscriber.left_out)

    def _wake(self) -> None:
        if self._moving or self.ended:
            return
        self._moving = True
        # At the end of the tick, so that all events of the tick leave together, and outside the
        # publisher's context, which has the publisher as its viewer.
        self._ticks.add(self)

    def on_tick(self) -> None:
        """Deliver new events. This creates a task only if it has to wait."""
        try:
            with only_own_cancellation():
                waiting = self._advance()
        except Exception as error:
            self._fail(error)
        else:
            if waiting is not None:
                self._task = asyncio.create_task(self._wait(waiting))

    async def _wait(self, waiting: Wait | None) -> None:
        try:
            with only_own_cancellation():
                while waiting is not None:
                    await waiting()
                    waiting = self._advance()
        except Exception as error:
            self._fail(error)
        finally:
            self._task = None

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Ended):
            self._flush()
            self._end(error.errors)
        elif isinstance(error, NotifyError):
            self._end([error.formatted()])
        else:
            logger.error("A group of subscriptions failed", exc_info=error)
            self._end([InternalError("A group of subscriptions failed").formatted()])

    def _advance(self) -> Wait | None:
        """Take the new events. Return a function to await before the next call; None if done."""
        while not self._subscriber.closed:
            try:
                event = self._subscriber.take()
            except NotBuffered:
                self._flush()
                return self._subscriber.refill
            if event is None:
                break
            encoded = self._encoded_of(event, False)
            if isinstance(encoded, asyncio.Future):
                # Deliver the earlier results now: this one may take long.
                self._flush()
                return partial(self._take_later, event, encoded)
            self._take(event, encoded)
            if self._held >= BATCH_BYTES:
                self._flush()
                # Let the connections write, so that they know whether they can take more.
                return partial(asyncio.sleep, 0)
        self._flush()
        self._moving = False
        if self._subscriber.closed:
            self._end([])
        return None

    async def _take_later(
        self, event: Event, encoded: asyncio.Future[EncodedResult | None]
    ) -> None:
        self._take(event, await asyncio.shield(encoded))

    def _take(self, event: Event, encoded: EncodedResult | None) -> None:
        self._reached = event.cursor
        if encoded is not None:
            body = _body_of(encoded)
            self._bodies.append(body)
            self._held += len(body.data)
            if event.published_at is not None:
                self._published_at.append(event.published_at)

    def _flush(self) -> None:
        """Push the collected bodies. After that, all members are at the same new position."""
        before, self._position = self._position, self._reached
        bodies, self._bodies = self._bodies, []
        if bodies:
            batch = Batch(bodies)
            for member in [m for m in self._members if not m.push(batch)]:
                self._members.discard(member)
                member.fell_behind(self._subscriber.fork(before))
            self._count(len(bodies))
        for subscriber in self._joining:
            subscriber.wake()

    def _count(self, events: int) -> None:
        size, self._held = self._held, 0
        published_at, self._published_at = self._published_at, []
        if self._members:
            self._delivery_counter.add(len(self._members), events, size, published_at)

    def _end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        self.ended = True
        metrics.unwatch(self)
        members, self._members = self._members, set()
        for member in members:
            member.end(errors)
        for subscriber in self._joining:
            subscriber.wake()
        self._subscriber.close()
        self._on_end(self)

    def _end_if_idle(self) -> None:
        if self._members or self._joining or self.ended:
            return
        self._end([])
        if self._task is not None:
            self._task.cancel()


def _body_of(encoded: EncodedResult) -> SharedBody:
    if encoded.body is None:
        raise Ended([error.formatted for error in encoded.errors])
    return encoded.body

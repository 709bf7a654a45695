"""Who gets the outcomes of a shared execution, as they happen and in the topic's order.

A group reads its topic once, and hands each outcome to all of its members at once: a member is no
task, no queue and no generator, only a name in a set. Who comes with an old cursor, and who can't
take more at the moment, reads the topic for itself, with the same outcomes, until it stands where
the group does.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.errors import InternalError, NotifyError
from gqlnotify.event import Event
from gqlnotify.event_loop import TickBatcher
from gqlnotify.execution.event_execution import EncodedResult
from gqlnotify.observability import metrics
from gqlnotify.protocol.frames import Batch, SharedBody
from gqlnotify.topics.replay_buffer import NotBuffered
from gqlnotify.topics.subscriber import Subscriber

# What is handed over before the members are looked at again.
BATCH_BYTES = 64 * 1024

logger = logging.getLogger("gqlnotify.execution")

EncodedResultOf = Callable[
    [Event, bool], EncodedResult | asyncio.Future[EncodedResult | None] | None
]
"""What becomes of an event, or the future of it; and whether to keep it for others."""


Marked = Callable[[EncodedResult, int], EncodedResult]
"""The outcome that says how many were left out before it."""

Wait = Callable[[], Awaitable[None]]

Replay = Callable[[Event], Awaitable[EncodedResult | None]]
"""Returns what becomes of an event for one who reads by itself."""


class Ended(Exception):
    """An outcome ended the operation, with these errors."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.errors = errors


class Member(Protocol):
    """One operation that gets the messages of a group's outcomes."""

    def push(self, batch: Batch) -> bool:
        """Take all of `batch`; or nothing, and return False: the group goes on without it."""

    def fell_behind(self, subscriber: Subscriber) -> None:
        """Note that it is no member any more. It may read on with `subscriber`, and come back."""

    async def send(self, batch: Batch) -> None:
        """Take `batch`, and wait while no more can be taken."""

    def end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """Note that nothing will come any more; because of `errors`, where there are some."""


class Group:
    """The members that stand at one position, and the reader that moves on with all of them.

    It begins where the topic of `subscriber` stands now, and calls `on_end` with itself at its end.
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

    def load(self) -> metrics.Load:
        """See `metrics.Sampled`."""
        yield metrics.groups, 1

    async def catch_up(self, member: Member, subscriber: Subscriber, replay: Replay) -> bool:
        """Give `member` what `subscriber` reads until it has caught up with the group, and join it.

        Return False where the group or the reader has ended instead. `replay` makes the outcomes.

        Raises:
            Ended: an outcome ended the operation.
            CursorExpired: the history no longer reaches back to the reader's position.
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
        """Do without `member` from now on."""
        self._members.discard(member)
        self._end_if_idle()

    async def _next_of(self, subscriber: Subscriber, replay: Replay) -> EncodedResult | None:
        """Return the outcome of what comes next; None where there is reason to look again."""
        try:
            event = subscriber.take_latest()
        except NotBuffered:
            await subscriber.refill()
            return None
        if event is None:
            # The group may be on its way to where this reader already is, and wakes it there.
            await subscriber.wait()
            return None
        encoded = await replay(event)
        return None if encoded is None else self._marked(encoded, subscriber.left_out)

    def _wake(self) -> None:
        if self._moving or self.ended:
            return
        self._moving = True
        # Not in the publisher's turn, whose next events leave together with this one; and not in
        # its context, which has the publisher for its viewer.
        self._ticks.add(self)

    def on_tick(self) -> None:
        """Hand over what has happened; in a task only if something has to be waited for."""
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
        """Take what has happened. Return how to wait before going on; None at the end."""
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
                # What is there already does not wait for what takes its time.
                self._flush()
                return partial(self._take_later, event, encoded)
            self._take(event, encoded)
            if self._held >= BATCH_BYTES:
                self._flush()
                # Connections write in between, and tell whether they can take more.
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
        """Hand over what is there. Afterwards all of them stand at the same new position."""
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

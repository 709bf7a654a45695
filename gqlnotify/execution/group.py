"""Delivers the encoded results of a shared execution to many operations, in the topic's order.

A group reads its topic once, and pushes each encoded result to all of its members. A member needs
no task, queue or generator: it is an entry in a set. An operation that begins with an old cursor,
or whose peer reads slowly, reads the topic with its own subscriber and the same encoded results,
until it reaches the group's position.

A group has no task either. In a tick it collects the results that are finished and pushes them.
New events, a finished execution and history that was read call the next tick.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from typing_extensions import override

from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.errors import CursorExpired, InternalError, NotifyError
from gqlnotify.event import Cursor, Event
from gqlnotify.event_loop import Rounds, TickBatcher, Visited
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.execution.fan_out import FanOut, Member, Members
from gqlnotify.execution.pipeline import Ended, Execution, Pipeline, body_of
from gqlnotify.observability import metrics
from gqlnotify.topics.resumption import Progress
from gqlnotify.topics.subscriber import Subscriber

# How much is pushed to the members before their connections may write.
BATCH_BYTES = 64 * 1024
# How long the executions of a batch may take, as far as they don't wait.
COLLECT_SECONDS = 0.003

logger = logging.getLogger("gqlnotify.execution")

EncodedResultOf = Callable[[Event, bool], EncodedResult | Execution | None]
"""Begins the execution of an event. The flag says whether to cache its encoded result."""

Marked = Callable[[EncodedResult, Subscriber, Event], EncodedResult]
"""Returns the encoded result of an event with what is special about it for this subscriber."""

Replay = Callable[[Event], Awaitable[EncodedResult | None]]
"""Returns the encoded result of an event for an operation with its own subscriber."""


class Group(metrics.Sampled, Visited):
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
        *,
        concurrency: int,
    ) -> None:
        self.ended = False
        self._marked = marked
        self._on_end = on_end
        self._subscriber = subscriber.fork(on_wake=self._wake)
        self._pipeline = Pipeline(
            self._subscriber, lambda event: encoded_of(event, False), concurrency=concurrency
        )
        self._position = self._subscriber.position
        self.progress = Progress(self._position)
        """How far all members have got. A member that joined later may be further."""
        self._members = Members()
        self._joining: set[Subscriber] = set()
        loop = asyncio.get_running_loop()
        self._ticks, self._delivery_counter = TickBatcher.of(loop), metrics.DeliveryCounter.of(loop)
        self._rounds = Rounds.of(loop)
        self._scheduled = False
        self._fan_out: FanOut | None = None
        self._awaited: Execution | None = None
        self._refilling: asyncio.Task[None] | None = None
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
            while event := await subscriber.next(until=lambda: self._is_reached_by(subscriber)):
                encoded = await replay(event)
                if encoded is not None:
                    body = body_of(encoded)
                    subscriber.note_sent()
                    await member.send(self._marked(encoded, subscriber, event).batch)
                    messages, size = messages + 1, size + len(body.data)
            if self.ended or subscriber.closed:
                return False
            self._members.add(member)
            return True
        finally:
            metrics.delivered(messages, size)
            self._joining.discard(subscriber)
            self._end_if_idle()

    def reached_by(self, member: Member) -> Cursor:
        """Return the cursor of the last event that `member` got, or that was filtered out."""
        fan_out = self._fan_out
        if fan_out is None or fan_out.has_served(member):
            return self._position
        return fan_out.before

    def leave(self, member: Member) -> None:
        """Remove `member`."""
        self._members.discard(member)
        self._end_if_idle()

    def _is_reached_by(self, subscriber: Subscriber) -> bool:
        # A subscriber may also be ahead of the group, which wakes it when it gets there.
        return self.ended or (subscriber.position == self._position and subscriber.is_past_repeats)

    def _wake(self) -> None:
        # At the end of the tick, so that all events of the tick leave together, and outside the
        # publisher's context, which has the publisher as its viewer.
        if self._scheduled:
            self._ticks.extend_rest()
        elif not self.ended:
            self._scheduled = True
            self._ticks.add_fan_out(self)

    def _continue(self) -> None:
        self._scheduled = True
        self._ticks.add(self)

    def on_tick(self) -> None:
        """Push finished results to the next members. This returns at once."""
        self._scheduled = False
        if self.ended:
            return
        try:
            self._advance()
        except Exception as error:
            self._fail(error)

    def _advance(self) -> None:
        fan_out = self._fan_out = self._fan_out or self._collect()
        self._push_slice(fan_out)
        if not fan_out.is_complete:
            fan_out.is_sliced = True
            self._continue()
            return
        self._fan_out = None
        self._complete(fan_out)
        if fan_out.collected.end is not None:
            self._fail(fan_out.collected.end)
        elif fan_out.collected.is_full:
            # Let the connections write first, so that they know whether they can take more.
            self._continue()
        elif fan_out.is_sliced:
            # Events that came between two slices could not schedule this.
            self._wake()
        else:
            self._await_more()

    def _collect(self) -> FanOut:
        """Collect the finished results. From now on, members join after them."""
        collected = self._pipeline.collect(BATCH_BYTES, COLLECT_SECONDS)
        before, self._position = self._position, collected.reached
        if self._position != before:
            for subscriber in self._joining:
                subscriber.wake()
        return FanOut(collected, before, self._members)

    def _push_slice(self, fan_out: FanOut) -> None:
        for member in fan_out.next_slice():
            # It may have left since the last slice.
            if member in self._members and not member.push(fan_out.batch):
                self._leave_behind(member, fan_out.before)

    def _leave_behind(self, member: Member, position: Cursor) -> None:
        self._members.discard(member)
        member.lagged(self._subscriber.fork(position))
        # By then it is joining again, unless its connection has ended.
        asyncio.get_running_loop().call_soon(self._end_if_idle)

    def _await_more(self) -> None:
        execution = self._pipeline.unfinished
        if execution is not None:
            if execution is not self._awaited:
                self._awaited = execution
                execution.add_done_callback(lambda _execution: self._wake())
        elif self._pipeline.needs_history:
            if self._refilling is None:
                self._refilling = asyncio.create_task(self._refill())
        elif self._subscriber.closed:
            self._end([])

    async def _refill(self) -> None:
        try:
            with only_own_cancellation():
                await self._pipeline.refill()
        except Exception as error:
            self._fail(error)
        finally:
            self._refilling = None
            self._wake()

    def _complete(self, fan_out: FanOut) -> None:
        collected = fan_out.collected
        if fan_out.before == self._position:
            return
        self.progress.reached = self._position
        if fan_out.size:
            self.progress.sent = self._position
            self._delivery_counter.add(
                fan_out.size, len(collected.results), collected.size, collected.published_at
            )
        self._rounds.add(self, is_urgent=bool(fan_out.size))

    @override
    def on_round(self) -> Iterator[Visited]:
        """Visit the members, because they have got further."""
        return (member for member in self._members.listed() if member in self._members)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, CursorExpired):
            self._part(error)
        elif isinstance(error, Ended):
            self._end(error.errors)
        elif isinstance(error, NotifyError):
            self._end([error.formatted()])
        else:
            logger.error("A group of subscriptions failed", exc_info=error)
            self._end([InternalError("A group of subscriptions failed").formatted()])

    def _part(self, expired: CursorExpired) -> None:
        """End, and let the members continue at the topic's position, if their clients can."""
        members, self._members = self._members, Members()
        self._subscriber.skip_gap(expired)
        for member in members:
            subscriber = self._subscriber.fork()
            subscriber.expired = expired
            member.lagged(subscriber)
        self._end([])

    def _end(self, errors: Sequence[Mapping[str, Any]]) -> None:
        self.ended = True
        metrics.unwatch(self)
        members, self._members = self._members, Members()
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
        if self._refilling is not None:
            self._refilling.cancel()

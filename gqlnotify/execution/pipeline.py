"""Executes the events of a topic, several at a time, and gives their results in the topic's order.

    topic --take--> begun --finished, from the front--> collected

An event that waits in a resolver does not keep the later ones from beginning: a burst of events
takes as long as its slowest one, and their data loaders load together.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from gqlnotify.cancellation import only_own_cancellation
from gqlnotify.event import Cursor, Event
from gqlnotify.execution.encoded_result import EncodedResult
from gqlnotify.protocol.frames import Batch, SharedBody
from gqlnotify.topics.replay_buffer import NotBuffered
from gqlnotify.topics.subscriber import Subscriber

Execution = asyncio.Future[EncodedResult | None]

Begin = Callable[[Event], EncodedResult | Execution | None]
"""Begins the execution of an event. Returns its encoded result or a future of it.

None means that the event is filtered out.
"""


class Ended(Exception):
    """An encoded result ended the operation with these errors."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.errors = errors


def body_of(encoded: EncodedResult) -> SharedBody:
    """Return the body of the message.

    Raises:
        Ended: there is none, because the result ends the operation.
    """
    if encoded.body is None:
        raise Ended([error.formatted for error in encoded.errors])
    return encoded.body


class Collected:
    """Results that follow each other in the topic."""

    __slots__ = ("end", "is_full", "published_at", "reached", "results", "size")

    def __init__(self, reached: Cursor) -> None:
        self.reached = reached
        """The cursor of the last event."""
        self.results: list[EncodedResult] = []
        self.size = 0
        """The bytes of all messages."""
        self.published_at: list[float] = []
        self.is_full = False
        """Whether there may be more finished results."""
        self.end: Exception | None = None
        """What ends the operations after these results."""

    def add(self, event: Event, encoded: EncodedResult | None) -> None:
        """Add the next result. None means that its event is filtered out.

        Raises:
            Ended: the result ends the operations.
        """
        self.reached = event.cursor
        if encoded is None:
            return
        body = body_of(encoded)
        self.results.append(encoded)
        self.size += len(body.data)
        if event.published_at is not None:
            self.published_at.append(event.published_at)

    def batch(self) -> Batch:
        """Return the results as one batch."""
        if len(self.results) == 1:
            # Groups whose subscriptions differ can have the same result.
            return self.results[0].batch
        return Batch([body_of(encoded) for encoded in self.results])


class Pipeline:
    """Executes the events that `subscriber` reads.

    Args:
        subscriber: reads the topic. The pipeline does not close it.
        begin: begins the execution of an event.
        concurrency: how many executions may be unfinished at the same time.
    """

    def __init__(self, subscriber: Subscriber, begin: Begin, *, concurrency: int) -> None:
        self.needs_history = False
        """Whether the next events are only in the history: call `refill`."""
        self._subscriber = subscriber
        self._begin = begin
        self._concurrency = concurrency
        self._begun: deque[tuple[Event, EncodedResult | Execution | None]] = deque()
        self._reached = subscriber.position

    @property
    def unfinished(self) -> Execution | None:
        """The execution that the next result waits for; None if there is none."""
        if not self._begun:
            return None
        begun = self._begun[0][1]
        return begun if isinstance(begun, asyncio.Future) else None

    def collect(self, max_bytes: int, max_seconds: float) -> Collected:
        """Begin the executions that may begin, and return the results that are finished.

        It stops after `max_bytes` or `max_seconds`, or at an error, which ends the operations.
        """
        collected = Collected(self._reached)
        deadline = monotonic() + max_seconds
        try:
            with only_own_cancellation():
                while self._take_finished(collected) or self._begin_next():
                    if collected.size >= max_bytes or monotonic() >= deadline:
                        collected.is_full = True
                        break
        except Exception as error:
            collected.end = error
        self._reached = collected.reached
        return collected

    async def refill(self) -> None:
        """Fetch the next events from the history, or wait until the broker is back.

        Raises:
            CursorExpired: the history no longer reaches back to the position.
        """
        await self._subscriber.refill()
        self.needs_history = False

    def _take_finished(self, collected: Collected) -> bool:
        """Move the first result to `collected`. Return False if it is not finished."""
        if not self._begun:
            return False
        event, begun = self._begun[0]
        if isinstance(begun, asyncio.Future):
            if not begun.done():
                return False
            begun = begun.result()
        self._begun.popleft()
        collected.add(event, begun)
        return True

    def _begin_next(self) -> bool:
        """Begin the execution of the next event. Return False if it may not begin yet."""
        if self.needs_history or self._subscriber.closed or len(self._begun) >= self._concurrency:
            return False
        try:
            event = self._subscriber.take()
        except NotBuffered:
            self.needs_history = True
            return False
        if event is None:
            return False
        self._begun.append((event, self._begin(event)))
        return True
